"""From measured curves to curves beside their predictions: counted once, evaluated together under two sets of constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from nfp_model.boundary import saturated_baseline
from nfp_model.cost.binding import constants_for, kernel_for, operator_dtype, operator_kind
from nfp_model.curve import LatencyCurve
from nfp_model.errors import NfpModelError, UnsupportedError
from nfp_model.operators import Collective, Operator
from nfp_model.specs.calibration import Fit, uncalibrated
from nfp_model.specs.registry import load_hardware
from nfp_model.validation.fit_points import FitPoints, collect
from nfp_model.validation.fit_tables import MAX_TOKENS
from nfp_model.validation.fitting import band_deviation
from nfp_model.validation.records import Curve
from nfp_model.validation.references import TABLE, TableInterpolator, matrix_seconds, memory_seconds, stream_seconds
from nfp_model.validation.score_records import CurveCase, FloatArray
from nfp_model.validation.shapes import AllReduceShape, ForwardShape, GemmShape, ModuleShape, MoEShape

FITTED, UNCALIBRATED = "fitted", "uncalibrated"

NO_RECORD = "a whole attention block over a compressed cache is no operator the library has"


@dataclass(frozen=True)
class CaseSet:
    """Curves of one row beside their predictions.

    Attributes
    ----------
    cases : dict
        ``fitted`` and ``uncalibrated`` -> cases; the first is missing where no calibration has these constants.
    refused : dict
        Reason -> curves without a prediction.
    described : bool
        The kernel the table names is one the constants were fitted on.
    rule : str
        Kernel rule.
    calibrations : dict
        ``fitted`` and ``uncalibrated`` -> file of the constants.
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
        return {"1": 1, "saturated": saturated_baseline(curve.shape.num_experts, curve.shape.top_k, 1)}
    return {"1": 1, "16": 16} if isinstance(curve.shape, GemmShape) else {"1": 1}


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
    if isinstance(curves[0].shape, ModuleShape):
        return CaseSet({}, {NO_RECORD: len(curves)})
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
    sets: dict[str, list[CurveCase]] = {}
    if calibration.backend != UNCALIBRATED:
        sets[FITTED] = _predicted(bare, points, fit)
    if prior is not None:
        sets[UNCALIBRATED] = _predicted(bare, points, prior)
    named = able[0].kernels[0] if able[0].kernels else ""
    described = not (fit.measured_kernels and named) or named in fit.measured_kernels
    names = {FITTED: calibration.name, UNCALIBRATED: general.name}
    return CaseSet(sets, refused, described, kernel.key if kernel is not None else "", names)


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
            if hasattr(record, "weight_dtype"):
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
                deviation=np.zeros(len(curve)),
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
    deviation = band_deviation(points.near_best(fit.constants, 1.0), fit)
    stops = np.searchsorted(points.curve, np.arange(len(points.curves) + 1))
    return [
        replace(case, predicted=predicted[start:stop], deviation=deviation[start:stop])
        for case, start, stop in zip(bare, stops[:-1], stops[1:], strict=True)
    ]


def _forward_cases(curves: Sequence[Curve], backend: str) -> CaseSet:
    """Whole forwards of a user's file, by the prediction itself; bands and interpolation are left to the operators."""
    from nfp_model.prediction import latency_curve

    cases, refused, names = [], Counter[str](), set()
    for curve in curves:
        shape = curve.shape
        assert isinstance(shape, ForwardShape)
        try:
            predicted: LatencyCurve = latency_curve(
                curve.gpu,
                shape.model,
                positions=curve.tokens,
                batch_size=shape.batch_size,
                context_length=shape.context_length,
                backend=backend,
                max_positions=int(curve.tokens[-1]),
            )
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
                np.zeros(len(curve)),
                nothing,
                nothing,
                {"1": 1},
            )
        )
    return CaseSet({FITTED: cases} if cases else {}, dict(refused), calibrations={FITTED: ", ".join(sorted(names))})


def dense_layers(shapes: Sequence[tuple[int, int]]) -> list[tuple[tuple[int, int], ...]]:
    """Layers that four (n, k) of a table make up: qkv, o, gate/up, down; one KV width, the smallest, for each size.

    Hidden h, query width q between h/2 and 2h, FFN width i between h and 6h, KV heads of 128 that divide the queries.

    Examples
    --------
    >>> dense_layers([(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (512, 512)])
    [((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))]
    """
    there = set(shapes)
    into: dict[int, list[int]] = {}
    for n, k in sorted(there):
        into.setdefault(k, []).append(n)
    layers: dict[tuple[int, int, int], tuple[tuple[int, int], ...]] = {}
    for hidden in sorted(into):
        widths = [k for n, k in there if n == hidden]
        for query, inner in product(sorted(widths), sorted(widths)):
            if (
                not (hidden <= 2 * query <= 4 * hidden and hidden <= inner <= 6 * hidden)
                or (2 * inner, hidden) not in there
            ):
                continue
            for fused in into[hidden]:
                kv = fused - query
                if kv <= 0 or kv % 256 or query % 128 or query % (kv // 2):
                    continue
                four = ((fused, hidden), (hidden, query), (2 * inner, hidden), (hidden, inner))
                layers.setdefault((hidden, query, inner), four)
    return list(layers.values())


def layer_cases(curves: Sequence[Curve], cases: Sequence[CurveCase]) -> list[CurveCase]:
    """Dense layers as sums of four GEMMs of one table, at the tokens all four share.

    Parameters
    ----------
    curves : sequence of Curve
        GEMMs, one for every case.
    cases : sequence of CurveCase
        Their predictions.
    """
    by_shape = {
        (curve.shape.out_features, curve.shape.in_features): case
        for curve, case in zip(curves, cases, strict=True)
        if isinstance(curve.shape, GemmShape)
    }
    return [_summed([by_shape[shape] for shape in four], four) for four in dense_layers(list(by_shape))]


def _summed(parts: Sequence[CurveCase], shapes: Sequence[tuple[int, int]]) -> CurveCase:
    tokens = parts[0].tokens
    for part in parts[1:]:
        tokens = np.intersect1d(tokens, part.tokens, assume_unique=True)
    if tokens.size == 0:
        raise UnsupportedError("the GEMMs of a layer share no token count")
    places = [np.searchsorted(part.tokens, tokens) for part in parts]

    def total(columns: Sequence[FloatArray]) -> FloatArray:
        return np.asarray(np.sum([column[place] for column, place in zip(columns, places, strict=True)], axis=0))

    predicted = total([part.predicted for part in parts])
    spread = np.sqrt(total([(part.deviation * part.predicted) ** 2 for part in parts])) / predicted
    plain = total([np.maximum(part.memory, part.matrix) for part in parts])
    table = (
        {TABLE: total([part.others[TABLE] for part in parts])} if all(TABLE in part.others for part in parts) else {}
    )
    (fused, hidden), (_, query), (_, _), (_, inner) = shapes
    return CurveCase(
        name=f"layer h {hidden} q {query} kv {(fused - query) // 2} ffn {inner}",
        tokens=tokens,
        measured=total([part.measured for part in parts]),
        predicted=predicted,
        deviation=spread,
        memory=total([part.memory for part in parts]),
        matrix=total([part.matrix for part in parts]),
        baselines=parts[0].baselines,
        stream={name: sum(part.stream[name] for part in parts) for name in parts[0].stream},
        others={"roofline": plain, **table},
        most=parts[0].most,
    )


__all__ = [
    "FITTED",
    "UNCALIBRATED",
    "CaseSet",
    "baselines_of",
    "case_set",
    "dense_layers",
    "layer_cases",
    "row_setting",
]
