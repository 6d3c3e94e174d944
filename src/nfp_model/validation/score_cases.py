"""From measured curves to curves beside their predictions: counted once, evaluated together under two sets of constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nfp_model.cost.binding import as_held, constants_for, fitted, kernel_for, operator_dtype, operator_kind
from nfp_model.errors import NfpModelError
from nfp_model.operators import Collective, FusedMoE, Gemm, Operator
from nfp_model.specs.calibration import Fit, uncalibrated
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.registry import load_hardware
from nfp_model.uncertainty import Spread, forward_spread
from nfp_model.validation.fit_bands import baseline_of, point_spread
from nfp_model.validation.fit_points import FitPoints, collect
from nfp_model.validation.fit_tables import MAX_TOKENS
from nfp_model.validation.records import Curve
from nfp_model.validation.references import TABLE, TableInterpolator, matrix_seconds, memory_seconds, stream_seconds
from nfp_model.validation.score_records import CurveCase
from nfp_model.validation.shapes import AllReduceShape, ForwardShape, ModuleShape, MoEShape
from nfp_model.validation.silicon_tables import SYSTEM_OF

FITTED, SIBLING, UNCALIBRATED = "fitted", "sibling", "uncalibrated"
"""Constants of this GPU and backend, of another GPU of its generation, and of none of its generation."""


@dataclass(frozen=True)
class CaseSet:
    """Curves of one row beside their predictions.

    Attributes
    ----------
    cases : dict
        ``fitted``, ``sibling`` and ``uncalibrated`` -> cases; missing where no calibration has these constants.
    refused : dict
        Reason -> curves without a prediction.
    described : bool
        The kernel the table names is one the constants were fitted on.
    rule : str
        Kernel rule.
    calibrations : dict
        Of the same names -> file of the constants.
    """

    cases: Mapping[str, list[CurveCase]]
    refused: Mapping[str, int]
    described: bool = True
    rule: str = ""
    calibrations: Mapping[str, str] | None = None


def row_setting(curve: Curve) -> str:
    """Heading of a curve: MoE ``balanced``, ``power law``, ``parallel``; everything else ``all``."""
    if isinstance(curve.shape, ModuleShape):
        return curve.shape.family
    if not isinstance(curve.shape, MoEShape):
        return "all"
    if curve.shape.tensor_parallel > 1 or curve.shape.expert_parallel > 1:
        return "parallel"
    return "balanced" if curve.shape.routing in ("balanced", "uniform") else "power law"


def baselines_of(curve: Curve) -> dict[str, int]:
    """Baselines a curve's boundaries are judged from, the last one first in importance."""
    if isinstance(curve.shape, AllReduceShape):
        return {}
    if isinstance(curve.shape, MoEShape):
        return {"1": 1, "saturated": baseline_of(curve)}
    return {str(baseline): baseline for baseline in (1, baseline_of(curve))}


def case_set(curves: Sequence[Curve], table: Sequence[Curve], backend: str) -> CaseSet:
    """Predictions of curves of one operator, GPU, data type and kernel.

    Parameters
    ----------
    curves : sequence of Curve
        What is scored.
    table : sequence of Curve
        Both halves, for the interpolation that leaves a shape out.
    backend : str
        Whose kernel rules and constants.
    """
    if isinstance(curves[0].shape, ForwardShape):
        return _forward_cases(curves, backend)
    able, refused = _predictable(curves, backend)
    if not able:
        return CaseSet({}, refused)
    hardware = load_hardware(able[0].gpu)
    record = _record(able[0])
    kernel = kernel_for(hardware, record, backend)
    calibration, fit = constants_for(hardware, record, backend)
    general = uncalibrated(hardware.generation)
    prior = general.fit_for(operator_kind(record), operator_dtype(record))
    points = collect(able, backend, hardware)
    bare = _bare_cases(points, table)
    fits = {FITTED: (calibration.name, None if calibration.backend == UNCALIBRATED else fit)}
    fits |= {
        SIBLING: _sibling(hardware, record, backend),
        UNCALIBRATED: (general.name, as_held(prior, kernel) if prior else None),
    }
    sets = {name: _predicted(bare, points, one) for name, (_, one) in fits.items() if one is not None}
    named = able[0].kernels[0] if able[0].kernels else ""
    described = not (fit.measured_kernels and named) or named in fit.measured_kernels
    names = {name: file for name, (file, _) in fits.items()}
    return CaseSet(sets, refused, described, kernel.key if kernel is not None else "", names)


def _sibling(hardware: HardwareSpec, record: Operator, backend: str) -> tuple[str, Fit | None]:
    """The fit of the first other GPU of the same generation that has one."""
    for name in SYSTEM_OF:
        if name == hardware.name or load_hardware(name).generation != hardware.generation:
            continue
        found = fitted(name, backend, operator_kind(record), operator_dtype(record))
        if found is not None:
            return found[0].name, found[1]
    return "", None


def _record(curve: Curve) -> Operator:
    if isinstance(curve.shape, AllReduceShape):
        return Collective("all_reduce", 1.0, curve.shape.ranks)
    return curve.operator_record(1)


def _predictable(curves: Sequence[Curve], backend: str) -> tuple[list[Curve], dict[str, int]]:
    """The curves one bound operator can be built for, and why not the others."""
    able, refused = [], Counter[str]()
    for curve in curves:
        try:
            record = _record(curve)
            hardware = load_hardware(curve.gpu)
            kernel_for(hardware, record, backend)
            constants_for(hardware, record, backend)
            if isinstance(record, Gemm | FusedMoE):
                hardware.peak(record.weight_dtype, record.activation_dtype)
            able.append(curve)
        except NfpModelError as error:
            refused[str(error)] += 1
    return able, dict(refused)


def _bare_cases(points: FitPoints, table: Sequence[Curve]) -> list[CurveCase]:
    """Everything of a case but its predictions, in the order of ``points.curves``."""
    memory, matrix = memory_seconds(points), matrix_seconds(points)
    interpolators: dict[tuple[str, str], TableInterpolator] = {}
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in table:
        groups.setdefault(_routing(curve), []).append(curve)
    cases = []
    stops = np.searchsorted(points.curve, np.arange(len(points.curves) + 1))
    for index, curve in enumerate(points.curves):
        here = slice(int(stops[index]), int(stops[index + 1]))
        group = _routing(curve)
        if group not in interpolators and group in groups:
            interpolators[group] = TableInterpolator(groups[group])
        other = interpolators[group].seconds(curve) if group in interpolators else None
        baselines = baselines_of(curve)
        stream = {name: stream_seconds(points, index, baseline) for name, baseline in baselines.items()}
        cases.append(
            CurveCase(
                name=_words(curve),
                tokens=points.tokens[here],
                measured=points.seconds[here],
                predicted=points.seconds[here],
                spread=Spread.of(np.zeros(len(curve))),
                memory=memory[here],
                matrix=matrix[here],
                baselines=baselines,
                stream={name: value for name, value in stream.items() if value is not None},
                others={} if other is None else {TABLE: other},
                most=MAX_TOKENS.get(points.operator, 2**62),
            )
        )
    return cases


def _routing(curve: Curve) -> tuple[str, str]:
    return (curve.shape.routing if isinstance(curve.shape, MoEShape) else "", str(curve.weight_dtype or curve.kv_dtype))


def _words(curve: Curve) -> str:
    sharding = ""
    if isinstance(curve.shape, MoEShape):
        sharding = f" {curve.shape.routing} tp{curve.shape.tensor_parallel}"
    elif hasattr(curve.shape, "context_length"):
        sharding = f" context {curve.shape.context_length}"
    return curve.split_key + sharding


def _predicted(bare: Sequence[CurveCase], points: FitPoints, fit: Fit) -> list[CurveCase]:
    predicted = points.predicted(fit.constants)
    # The winning tile alone: the others do not move the latency where the constants move a little.
    spread = point_spread(points.near_best(fit.constants, 1.0), fit)
    stops = np.searchsorted(points.curve, np.arange(len(points.curves) + 1))
    return [
        replace(case, predicted=predicted[start:stop], spread=spread.where(slice(start, stop)))
        for case, start, stop in zip(bare, stops[:-1], stops[1:], strict=True)
    ]


def _forward_cases(curves: Sequence[Curve], backend: str) -> CaseSet:
    """Whole forwards of a user's file, by the prediction itself; interpolation is left to the operators."""
    from nfp_model.validation.forwards import forward_prediction

    cases, refused, names = [], Counter[str](), set()
    for curve in curves:
        shape = curve.shape
        assert isinstance(shape, ForwardShape)
        try:
            prediction = forward_prediction(curve.gpu, shape, int(curve.tokens[-1]), backend)
            predicted = prediction.forward.curve(curve.tokens)
        except NfpModelError as error:
            refused[str(error)] += 1
            continue
        names.add(backend)
        nothing = np.full(len(curve), 1e-12)
        cases.append(
            CurveCase(
                _words(curve),
                curve.tokens,
                curve.seconds,
                predicted.seconds,
                forward_spread(prediction.forward, predicted),
                nothing,
                nothing,
                {"1": 1},
            )
        )
    return CaseSet({FITTED: cases} if cases else {}, dict(refused), calibrations={FITTED: ", ".join(sorted(names))})


__all__ = ["FITTED", "SIBLING", "UNCALIBRATED", "CaseSet", "baselines_of", "case_set", "row_setting"]
