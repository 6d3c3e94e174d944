"""Measured points with the exact counts of their shapes, computed once: the constants of an equation move, the counts stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nfp_model.cost.binding import kernel_for
from nfp_model.cost.compiled import evaluate
from nfp_model.cost.inputs import constant_inputs, shape_inputs
from nfp_model.cost.latency import BoundOperator, Kernel
from nfp_model.errors import InvalidArgumentError
from nfp_model.kernels.counts import FloatArray
from nfp_model.operators import Collective, Operator
from nfp_model.specs.calibration import CONSTANTS_OF, Fit, OperatorKind
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.moe_kernel import MoEKernel
from nfp_model.specs.registry import load_hardware
from nfp_model.validation.fit_unknowns import ONE_TILE, TILE_MENU, Unknowns
from nfp_model.validation.records import BoolArray, Curve, IntArray
from nfp_model.validation.shapes import AllReduceShape, AttentionShape, ModuleShape

CALIBRATED_AS: dict[str, OperatorKind] = {
    "gemm": "gemm",
    "moe": "moe",
    "attention": "attention",
    "mla": "latent_attention",
    "all_reduce": "collective",
    "elementwise": "elementwise",
    "dsv4_csa": "csa_block",
    "dsv4_hca": "hca_block",
}
"""Kind of measured curve, family of an attention module -> whose constants it determines."""


@dataclass(frozen=True)
class Replay:
    """How a decode attention that finds its KV cache in L2, as replays of one timing do, differs from serving.

    Read off the public timings where the cache outgrows L2 (fit half, every backend and data type of a generation together);
    artefacts of the timing, which no prediction uses.

    Attributes
    ----------
    stream : float
        Time of the cache from L2 over the same bytes from memory [-].
    first_access_s : float
        Fixed time the first access to memory adds and a replay saves [s].
    step : float
        Time of a CTA's key steps after its first, from L2 over from memory [-].
    combination : float
        Time of combining splits whose CTAs end together over that of CTAs streaming from memory; not for a kernel of its own [-].
    """

    stream: float
    first_access_s: float
    step: float = 1.0
    combination: float = 1.0


REPLAYS: dict[str, Replay] = {
    "ampere": Replay(1.0, 5.5e-6),
    "ada": Replay(0.2, 1.5e-6),
    "hopper": Replay(1.0, 4e-6),
    "blackwell": Replay(0.5, 3e-6, step=0.5),
    "blackwell_rtx": Replay(0.35, 3e-6),
}
"""By GPU generation."""

LATENT_REPLAYS = {
    **REPLAYS,
    "blackwell": Replay(0.85, 3e-6, combination=0.5),
    "blackwell_rtx": Replay(0.35, 3e-6, step=0.85),
}
"""The same for MLA in its absorbed form."""

OTHER_REPLAY = Replay(0.5, 4e-6)
"""Of any other generation."""


PARALLEL_WEIGHT = 0.2
"""Weight of all MoE layers over several ranks, most of the published curves, against those on one GPU [-]."""

LENT = "lent"
"""First word of the group of curves of other weight formats that join a thin table."""

LENT_WEIGHT = 0.2
"""Weight of such a group against the table's own: int4 of Marlin on H100 and H200, its fit half, shapes left out, 5.7 to 7.9 % with
0.1 to 0.3, 8.3 to 9.5 % with 1 [-]."""

BEYOND_WEIGHT = 6.0
"""Weight of a point whose cache lies in memory, as in serving, over one replayed from L2 [-]. Fit half, shapes left out, 6 against 3:
MLA on Blackwell 2.9 and 3.2 % beyond L2, 6.0 and 6.0 % over every cache; GQA there better beyond L2 and unchanged over every cache."""

MEASURED_AS = {constants: measured for measured, constants in CALIBRATED_AS.items()}
"""The reverse of :data:`CALIBRATED_AS`."""


def measured_kind(curve: Curve) -> str:
    """Key of :data:`CALIBRATED_AS`: what was timed, an attention module by its family."""
    return curve.shape.family if isinstance(curve.shape, ModuleShape) else curve.operator


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
    held : dict
        Constants the kernel of most points holds.
    """

    operator: OperatorKind
    kind: str
    inputs: dict[str, npt.NDArray[Any]]
    starts: npt.NDArray[np.intp]
    tokens: IntArray
    seconds: FloatArray
    curve: IntArray
    curves: tuple[Curve, ...]
    held: Mapping[str, float] = field(default_factory=dict)

    @property
    def unknowns(self) -> Unknowns:
        """What a fit of these points moves."""
        return Unknowns(self.operator, self.held)

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
        rivals = {
            "gemm": ("matrix",),
            "moe": ("matrix",),
            "attention": ("chain", "matrix"),
            "block": ("matrix",),
            "stream": ("fixed",),
            "collective": ("fixed",),
        }
        other = np.max([self._evaluated(constants, term)[winner] for term in rivals[self.kind]], axis=0)
        return np.asarray(other / np.maximum(self._evaluated(constants, "memory")[winner], 1e-12))

    def _evaluated(self, constants: Mapping[str, float], term: str | None) -> FloatArray:
        record: Any = CONSTANTS_OF[self.operator]
        values = {**self.inputs, **constant_inputs(record.model_construct(**constants), self.inputs)}
        if "resident" in self.inputs:
            fixed = values["fixed_time"]
            values["fixed_time"] = np.maximum(fixed - self.inputs["saved"], 0.1 * fixed)
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
    kernel_of: Callable[[Curve], Kernel] | None = None,
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
    kernel_of : callable or None
        The rule of each curve, where the backend does not say it.

    Raises
    ------
    InvalidArgumentError
        Without curves, or with more than one kind of them.
    """
    every = tuple(curves)
    kinds = {measured_kind(curve) for curve in every}
    if len(kinds) != 1 or not kinds <= set(CALIBRATED_AS):
        named = ", ".join(sorted(kinds)) or "no curves"
        raise InvalidArgumentError(f"a fit takes curves of one kind among {', '.join(CALIBRATED_AS)}, got {named}")
    operator = CALIBRATED_AS[kinds.pop()]
    # Placeholder: a fit moves the constants, the counts do not depend on them.
    unknowns = Unknowns(operator)
    start = unknowns.printed(unknowns.start)
    prior = Fit(operator=operator, constants=start, log_scatter=0.0, data="none", date="", command="")
    kind, parts, owners = "", [], []
    rules: Counter[tuple[tuple[str, float], ...]] = Counter()
    for index, curve in enumerate(every):
        gpu = hardware or load_hardware(curve.gpu)
        for bound, tokens, points in _pieces(curve, gpu, backend, prior):
            if kernel_of is not None:
                bound = replace(bound, kernel=kernel_of(curve))
            kind, shape = shape_inputs(bound, tokens)
            if isinstance(bound.kernel, MoEKernel):
                rules[tuple(bound.kernel.held.items())] += tokens.size
            if curve.beyond_l2 is not None:
                replays = LATENT_REPLAYS if operator == "latent_attention" else REPLAYS
                replay = replays.get(gpu.generation or "", OTHER_REPLAY)
                shape |= _replayed(shape, ~curve.beyond_l2[points], replay)
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
        held=_held(rules, inputs),
    )


def _replayed(shape: Mapping[str, Any], resident: BoolArray, replay: Replay) -> dict[str, Any]:
    """Inputs of points whose cache may lie in L2, and what they save of the fixed time [s]."""
    first = np.minimum(shape["key_steps"], 1.0)
    step = np.where(resident & (shape["own_rate"] == 0), replay.step, 1.0)
    return {
        "resident": resident,
        "saved": replay.first_access_s * resident,
        "kv_bytes": shape["kv_bytes"] * np.where(resident, replay.stream, 1.0),
        "key_steps": first + (shape["key_steps"] - first) * step,
        "passes": shape["passes"] * np.where(resident & (shape["combine_kernel"] == 0), replay.combination, 1.0),
    }


def _held(rules: Counter[tuple[tuple[str, float], ...]], inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, float]:
    """What the kernel of most points holds: its own statement (MoE), or what one tile or a menu of them leaves out (GEMM)."""
    if rules:
        return dict(rules.most_common(1)[0][0])
    if "rereads" in inputs:
        return dict(ONE_TILE if inputs["rereads"].any() else TILE_MENU)
    return {}


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
    return BoundOperator(operator, hardware, kernel_for(hardware, operator, backend), prior, "uncalibrated", backend)


def _flat(shape: Mapping[str, Any], tokens: int) -> tuple[dict[str, npt.NDArray[Any]], int]:
    """Inputs as columns, all entries of a point side by side, and how many entries a point has."""
    entries = max(np.atleast_2d(value).shape[0] for value in shape.values())
    columns = {
        name: np.broadcast_to(np.atleast_2d(value), (entries, tokens)).T.ravel() for name, value in shape.items()
    }
    return columns, entries


def weights(points: FitPoints, groups: Sequence[str] | None = None, beyond_l2: float = BEYOND_WEIGHT) -> FloatArray:
    """Weight of every point: every curve of a group counts alike, and every group but the parallel and the lent ones; mean 1 [-].

    Parameters
    ----------
    points : FitPoints
        What is fitted.
    groups : sequence of str or None
        Group of each of ``points.curves``; None for one.
    beyond_l2 : float
        Weight of a point whose cache lies in memory over one that may lie in L2 [-].
    """
    labels = np.array(groups if groups is not None else [""] * len(points.curves))[points.curve]
    weight = 1.0 / np.bincount(points.curve, minlength=len(points.curves))[points.curve]
    if "resident" in points.inputs:
        weight = np.where(points.inputs["resident"], weight, beyond_l2 * weight)
    for label in np.unique(labels):
        here = labels == label
        share = (PARALLEL_WEIGHT if label.endswith("parallel") else 1.0) * (
            LENT_WEIGHT if label.startswith(LENT) else 1.0
        )
        weight[here] *= share / weight[here].sum()
    return np.asarray(weight / weight.mean())
