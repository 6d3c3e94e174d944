"""Measured points with the exact counts of their shapes, computed once: the constants of an equation move, the counts stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nfp_model.cost.binding import kernel_for
from nfp_model.cost.compiled import evaluate
from nfp_model.cost.inputs import constant_inputs, shape_inputs
from nfp_model.cost.latency import BoundOperator
from nfp_model.errors import InvalidArgumentError
from nfp_model.kernels.counts import FloatArray
from nfp_model.operators import Collective, Operator
from nfp_model.specs.calibration import CONSTANTS_OF, Fit, OperatorKind, uncalibrated
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.registry import load_hardware
from nfp_model.validation.fit_unknowns import DISPATCH
from nfp_model.validation.records import BoolArray, Curve, IntArray
from nfp_model.validation.shapes import AllReduceShape, AttentionShape

CALIBRATED_AS: dict[str, OperatorKind] = {
    "gemm": "gemm",
    "moe": "moe",
    "attention": "attention",
    "mla": "latent_attention",
    "all_reduce": "collective",
}
"""Kind of measured curve -> whose constants it determines."""

L2_SHARE = 0.5
"""Time of a KV cache replayed from L2 over the same bytes from memory [-]; a timing artefact, so no prediction uses it."""

RESIDENT_CTA_TIMES = 3.0
"""CTA start times by which a replay from L2 is faster than the first access to memory, read off the step of the public
timings where the cache outgrows L2 [-]; no prediction uses it."""

PARALLEL_WEIGHT = 0.2
"""Weight of all MoE layers over several ranks, most of the published curves, against those on one GPU [-]."""

BEYOND_WEIGHT = 3.0
"""Weight of a point whose cache lies in memory, as in serving, over one replayed from L2 [-]."""

MEASURED_AS = {constants: measured for measured, constants in CALIBRATED_AS.items()}
"""The reverse of :data:`CALIBRATED_AS`."""


@dataclass(frozen=True, eq=False)
class FitPoints:
    """Points of many curves, ready to be evaluated together.

    Attributes
    ----------
    operator : str
        Whose constants; see :data:`~nfp_model.specs.calibration.CONSTANTS_OF`.
    kind : str
        Equation.
    inputs : dict of ndarray, shape (entries,)
        Symbol values without the constants; a point of a menu kernel has one entry for every tile.
    starts : ndarray of int, shape (points,)
        First entry of each point.
    tokens, seconds : ndarray, shape (points,)
        Place on the curve's axis, and measured latency [s].
    curve : ndarray of int, shape (points,)
        Index into ``curves``.
    curves : tuple of Curve
        Where the points come from.
    searched : str
        Key of what a fit moves; see :data:`~nfp_model.validation.fit_unknowns.UNKNOWNS`.
    """

    operator: OperatorKind
    kind: str
    inputs: dict[str, npt.NDArray[Any]]
    starts: npt.NDArray[np.intp]
    tokens: IntArray
    seconds: FloatArray
    curve: IntArray
    curves: tuple[Curve, ...]
    searched: str

    def __len__(self) -> int:
        return int(self.seconds.size)

    def predicted(self, constants: Mapping[str, float]) -> FloatArray:
        """Latency of every point with these constants, the cheapest entry of a menu [s]."""
        total = self._evaluated(constants, None)
        return total if total.size == len(self) else np.minimum.reduceat(total, self.starts)

    def sides(self, constants: Mapping[str, float]) -> FloatArray:
        """What competes with the memory stream over the memory stream, at each point: below 1, memory leads [-]."""
        total = self._evaluated(constants, None)
        sizes = np.diff(np.append(self.starts, total.size))
        least = np.repeat(np.minimum.reduceat(total, self.starts), sizes)
        winner = np.maximum.reduceat(np.where(total == least, np.arange(total.size), 0), self.starts)
        rivals = {"gemm": ("matrix",), "moe": ("matrix",), "attention": ("chain", "matrix"), "stream": ("fixed",)}
        other = np.max([self._evaluated(constants, term)[winner] for term in rivals[self.kind]], axis=0)
        return np.asarray(other / np.maximum(self._evaluated(constants, "memory")[winner], 1e-12))

    def _evaluated(self, constants: Mapping[str, float], term: str | None) -> FloatArray:
        record: Any = CONSTANTS_OF[self.operator]
        values = {**self.inputs, **constant_inputs(record.model_construct(**constants), self.inputs)}
        if "resident" in self.inputs:
            fixed = constants["fixed_time_s"]
            saved = RESIDENT_CTA_TIMES * constants["cta_time_s"] * self.inputs["resident"]
            values["fixed_time"] = np.maximum(fixed - saved, 0.1 * fixed)
        times = evaluate(self.kind, values, term)
        return np.broadcast_to(times, next(iter(self.inputs.values())).shape)

    def near_best(self, constants: Mapping[str, float], factor: float) -> FitPoints:
        """The same points without the menu entries slower than ``factor`` times the cheapest under these constants."""
        total = self._evaluated(constants, None)
        sizes = np.diff(np.append(self.starts, total.size))
        kept = total <= factor * np.repeat(np.minimum.reduceat(total, self.starts), sizes)
        left = np.add.reduceat(kept.astype(np.intp), self.starts)
        return replace(
            self,
            inputs={name: value[kept] for name, value in self.inputs.items()},
            starts=np.concatenate([[0], np.cumsum(left)[:-1]]).astype(np.intp),
        )

    def where(self, mask: BoolArray) -> FitPoints:
        """The points a mask keeps; curves keep their index."""
        sizes = np.diff(np.append(self.starts, next(iter(self.inputs.values())).size))
        entries = np.repeat(mask, sizes)
        kept = sizes[mask]
        return replace(
            self,
            inputs={name: value[entries] for name, value in self.inputs.items()},
            starts=np.concatenate([[0], np.cumsum(kept)[:-1]]).astype(np.intp),
            tokens=self.tokens[mask],
            seconds=self.seconds[mask],
            curve=self.curve[mask],
        )


def collect(
    curves: Iterable[Curve],
    backend: str,
    hardware: HardwareSpec | None = None,
    advance: Callable[[int], None] | None = None,
) -> FitPoints:
    """Counts of every point of some curves of one kind.

    Parameters
    ----------
    curves : iterable of Curve
        Of one operator kind; GPUs may differ.
    backend : str
        Whose kernel rules apply; ``uncalibrated`` for none in particular.
    hardware : HardwareSpec or None
        The GPU; None reads it from each curve.
    advance : callable or None
        Told the number of curves done, one call a curve.

    Raises
    ------
    InvalidArgumentError
        Without curves, or with more than one kind of them.
    """
    every = tuple(curves)
    kinds = {curve.operator for curve in every}
    if len(kinds) != 1 or not kinds <= set(CALIBRATED_AS):
        named = ", ".join(sorted(kinds)) or "no curves"
        raise InvalidArgumentError(f"a fit takes curves of one kind among {', '.join(CALIBRATED_AS)}, got {named}")
    operator = CALIBRATED_AS[kinds.pop()]
    prior = uncalibrated().fit_for(operator, "bfloat16")
    assert prior is not None
    kind, parts, owners = "", [], []
    for index, curve in enumerate(every):
        gpu = hardware or load_hardware(curve.gpu)
        for bound, tokens, points in _pieces(curve, gpu, backend, prior):
            kind, shape = shape_inputs(bound, tokens)
            if curve.beyond_l2 is not None:
                share = np.where(curve.beyond_l2[points], 1.0, L2_SHARE)
                shape |= {"kv_bytes": shape["kv_bytes"] * share, "resident": share < 1.0}
            parts.append(_flat(shape, tokens.size))
            owners.append((index, points))
        if advance is not None:
            advance(1)
    inputs = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    sizes = np.concatenate([np.full(len(points), part[1]) for part, (_, points) in zip(parts, owners, strict=True)])
    return FitPoints(
        operator=operator,
        kind=kind,
        inputs=inputs,
        starts=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.intp),
        tokens=np.concatenate([every[index].tokens[points] for index, points in owners]),
        seconds=np.concatenate([every[index].seconds[points] for index, points in owners]),
        curve=np.concatenate([np.full(len(points), index) for index, points in owners]),
        curves=every,
        searched=DISPATCH if "rereads" in inputs and inputs["rereads"].any() else operator,
    )


def _pieces(
    curve: Curve, hardware: HardwareSpec, backend: str, prior: Fit
) -> list[tuple[BoundOperator, IntArray, IntArray]]:
    """Operators of a curve, the tokens each is evaluated at, and the points of the curve these are."""
    if isinstance(curve.shape, AllReduceShape):
        record: Operator = Collective("all_reduce", 1.0, curve.shape.ranks)
    elif isinstance(curve.shape, AttentionShape) and curve.shape.batch_size is None:
        one = np.array([1], dtype=np.int64)
        bound = [_bound(curve.operator_record(batch), hardware, backend, prior) for batch in curve.tokens.tolist()]
        return [(piece, one, np.array([place])) for place, piece in enumerate(bound)]
    else:
        record = curve.operator_record()
    return [(_bound(record, hardware, backend, prior), curve.tokens, np.arange(len(curve)))]


def _bound(operator: Operator, hardware: HardwareSpec, backend: str, prior: Fit) -> BoundOperator:
    return BoundOperator(operator, hardware, kernel_for(hardware, operator, backend), prior, "uncalibrated")


def _flat(shape: Mapping[str, Any], tokens: int) -> tuple[dict[str, npt.NDArray[Any]], int]:
    """Inputs as columns, all entries of a point side by side, and how many entries a point has."""
    entries = max(np.atleast_2d(value).shape[0] for value in shape.values())
    columns = {
        name: np.broadcast_to(np.atleast_2d(value), (entries, tokens)).T.ravel() for name, value in shape.items()
    }
    return columns, entries


def weights(points: FitPoints, groups: Sequence[str] | None = None) -> FloatArray:
    """Weight of every point: every curve of a group counts alike, and every group but the parallel ones; mean 1 [-].

    Parameters
    ----------
    points : FitPoints
        What is fitted.
    groups : sequence of str or None
        Group of each of ``points.curves``; None for one.
    """
    labels = np.array(groups if groups is not None else [""] * len(points.curves))[points.curve]
    weight = 1.0 / np.bincount(points.curve, minlength=len(points.curves))[points.curve]
    if "resident" in points.inputs:
        weight = np.where(points.inputs["resident"], weight, BEYOND_WEIGHT * weight)
    for label in np.unique(labels):
        here = labels == label
        weight[here] *= (PARALLEL_WEIGHT if label.endswith("parallel") else 1.0) / weight[here].sum()
    return np.asarray(weight / weight.mean())
