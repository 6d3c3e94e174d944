"""Inverse questions: which value of a field makes a number of positions free, or a proof that none in the range does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nfp_model.codesign.intervals import forward_seconds, free_parts, joined
from nfp_model.codesign.solutions import Solution, Trial, nearest_value
from nfp_model.codesign.tiles import fixed_tiles
from nfp_model.curve import BoundForward
from nfp_model.errors import (
    InvalidArgumentError,
    NfpModelError,
    UnknownNameError,
    require_positive,
    require_positive_int,
    unknown_name,
)
from nfp_model.kernels.counts import FloatArray
from nfp_model.operators import MODULES
from nfp_model.prediction import Prediction, predict_nfp
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import ModelSpec
from nfp_model.specs.registry import load_hardware, load_model
from nfp_model.specs.variants import field_value, with_fields

BANDWIDTH, PEAK = "hardware.memory_bandwidth_bytes_per_s", "hardware.peak_flop_per_s"
"""Fields every latency falls with, whatever the shape; they can be searched without gaps."""

MAX_VALUES = 1024
"""Whole numbers tried one by one at most [-]."""

TILES = (8, 16, 32, 64, 128, 256)
"""Token-side tiles of the matrix instructions and kernels in the kernel files [rows]."""


def solve_for(
    hardware: str | Path | HardwareSpec,
    model: str | Path | ModelSpec,
    field: str,
    target_nfp: int,
    bounds: tuple[float, float] | Iterable[Any],
    *,
    module: str | None = None,
    **arguments: Any,
) -> Solution:
    r"""Which values of a field make ``target_nfp`` positions free: T(target) <= (1 + eps) T(N0), so that NFP is at least that.

    Memory bandwidth and matrix peak are searched without gaps. Every latency falls with either of them at every N, so over
    :math:`x \in [a, b]`

    .. math::
        T_N(b) > (1 + \epsilon)\, T_{N_0}(a) \Rightarrow \text{free nowhere}, \qquad
        T_N(a) \le (1 + \epsilon)\, T_{N_0}(b) \Rightarrow \text{free everywhere},

    and what neither decides is halved until it is narrower than a thousandth. Any other field is tried at every whole number
    of the range, or at every value of a list.

    Parameters
    ----------
    hardware, model, **arguments
        As for :func:`~nfp_model.predict_nfp`.
    field : str
        ``"hardware.memory_bandwidth_bytes_per_s"`` [B/s], ``"hardware.peak_flop_per_s"`` (a factor on every peak [-]), any
        other field path (``"model.ffn.moe.top_k"``), or an argument (``"batch_size"``).
    target_nfp : int
        Positions that shall be free [positions], above the baseline.
    bounds : tuple of two numbers, or list
        Range, ends included; or the values to try.
    module : str or None
        Judge one module's latency (``"moe_ffn"``) instead of the whole forward's.

    Returns
    -------
    Solution
        ``.value``, ``.ranges``, ``.proven``; prints as a sentence.

    Raises
    ------
    InvalidArgumentError
        For a range that is empty, inverted or has no whole numbers to try; for a target not above the baseline.
    UnknownNameError
        For a field or module nobody knows, with the nearest.

    Examples
    --------
    Beyond some bandwidth the weights stream too fast for 64 positions to compute behind them:

    >>> found = solve_for("h100", "llama-3.1-8b", "hardware.memory_bandwidth_bytes_per_s", 64, (5e11, 5e13))
    >>> found.exists, found.ranges[-1][1] < 5e13
    (True, True)
    """
    spec, architecture = load_hardware(hardware), load_model(model)
    question = _Question.of(spec, architecture, target_nfp, module, arguments)
    pair = _pair(bounds)
    if field in (BANDWIDTH, PEAK) and pair is not None:
        return _by_intervals(question, field, pair)
    values, present = _values(question, field, bounds, pair)
    return _by_trial(question, field, present, values, lambda value: question.with_value(field, value))


def bandwidth_for(
    hardware: str | Path | HardwareSpec,
    model: str | Path | ModelSpec,
    target_nfp: int,
    bounds: tuple[float, float] | None = None,
    **arguments: Any,
) -> Solution:
    """What memory bandwidth makes a block of ``target_nfp`` positions free, everything else held.

    Less bandwidth makes one position slower and hides more compute behind it, so free positions are bought with latency; the
    range says what is possible.

    Parameters
    ----------
    hardware, model, target_nfp, **arguments
        As for :func:`solve_for`.
    bounds : tuple of float or None
        Range [B/s]; None takes a tenth to ten times the present bandwidth.

    Examples
    --------
    >>> found = bandwidth_for("h100", "llama-3.1-8b", 64)
    >>> found.proven and found.exists
    True
    """
    spec = load_hardware(hardware)
    present = spec.memory_bandwidth_bytes_per_s
    return solve_for(spec, model, BANDWIDTH, target_nfp, bounds or (present / 10, present * 10), **arguments)


def tile_for(
    hardware: str | Path | HardwareSpec,
    model: str | Path | ModelSpec,
    target_nfp: int,
    *,
    module: str = "moe_ffn",
    tiles: Iterable[int] = TILES,
    whole_model: bool = False,
    **arguments: Any,
) -> Solution:
    """Which token-side tile of a module's kernels makes ``target_nfp`` positions free.

    Parameters
    ----------
    hardware, model, target_nfp, **arguments
        As for :func:`solve_for`. For experts ``baseline="saturated"`` asks from the step at which every expert is read anyway.
    module : str
        Whose tile: ``"moe_ffn"``, ``"attention"``, ``"dense_ffn"``, ``"projections"``, ``"head"``.
    tiles : iterable of int
        Rows to try, all of them [rows].
    whole_model : bool
        Judge the whole forward instead of the module alone.

    Examples
    --------
    >>> found = tile_for("b200", "mixtral", 256, baseline="saturated", backend="vllm")
    >>> found.method, [trial.value for trial in found.trials]
    ('exhaustive', [8, 16, 32, 64, 128, 256])
    """
    if module not in MODULES:
        raise unknown_name("module", module, MODULES)
    sizes = list(tiles)
    if not sizes:
        raise InvalidArgumentError("tiles is empty; give the rows to try")
    for size in sizes:
        require_positive_int(tile=size)
    spec, architecture = load_hardware(hardware), load_model(model)
    question = _Question.of(spec, architecture, target_nfp, None if whole_model else module, arguments)
    forward = question.prediction.forward
    fixed_tiles(forward, sizes[0], module)  # refuses a module without tiles, once and plainly

    def changed(size: Any) -> tuple[BoundForward, int]:
        return fixed_tiles(forward, size, module), question.prediction.baseline

    return _by_trial(question, f"tile of {module}", "the kernel's own", sizes, changed)


@dataclass(frozen=True)
class _Question:
    prediction: Prediction
    target: int
    module: str | None
    arguments: dict[str, Any]

    @classmethod
    def of(
        cls, hardware: HardwareSpec, model: ModelSpec, target: int, module: str | None, arguments: dict[str, Any]
    ) -> _Question:
        require_positive_int(target_nfp=target)
        if module is not None and module not in MODULES:
            raise unknown_name("module", module, MODULES)
        reach = {"max_positions": max(target, int(arguments.get("max_positions", 0)) or 4096)}
        prediction = predict_nfp(hardware, model, **{**arguments, **reach})
        if target <= prediction.baseline:
            raise InvalidArgumentError(f"target_nfp {target} must be above the baseline {prediction.baseline}")
        held = {**arguments, "backend": prediction.backend, "max_positions": target}
        question = cls(prediction, target, module, held)
        if module is not None and not question.names(prediction.forward):
            raise unknown_name(f"module of {model.title}", module, {use.module for use in prediction.forward.uses})
        return question

    def names(self, forward: BoundForward) -> tuple[str, ...]:
        return tuple(use.name for use in forward.uses if self.module in (None, use.module))

    @property
    def words(self) -> str:
        p = self.prediction
        of = f"{self.module} of " if self.module else ""
        return f"{self.target} free positions of {of}{p.model.title} on {p.hardware.title} from {p.baseline}"

    @property
    def limit(self) -> float:
        return 1 + self.prediction.boundary.tolerance

    def growth(self, forward: BoundForward, baseline: int) -> float:
        """T(target) / T(N0) [-]."""
        grid = np.array([baseline, self.target], dtype=np.int64)
        curve = forward.curve(grid).restricted(self.names(forward))
        return float(curve.seconds[1] / curve.seconds[0])

    def with_value(self, field: str, value: Any) -> tuple[BoundForward, int]:
        kind, _, path = field.partition(".")
        specs: dict[str, Any] = {"hardware": self.prediction.hardware, "model": self.prediction.model}
        arguments = dict(self.arguments)
        if path:
            specs[kind] = with_fields(specs[kind], {path: value})
        else:
            arguments[field] = value
        other = predict_nfp(specs["hardware"], specs["model"], **arguments)
        return other.forward, other.baseline


def _pair(bounds: Any) -> tuple[float, float] | None:
    """A range, where a tuple of two numbers was given."""
    if not isinstance(bounds, tuple):
        return None
    if len(bounds) != 2:
        raise InvalidArgumentError(f"bounds must be (low, high) or a list of values, got {len(bounds)} numbers")
    low, high = bounds
    require_positive(low=low, high=high)
    if low > high:
        raise InvalidArgumentError(f"bounds are inverted: {low:g} is above {high:g}")
    return low, high


def _values(question: _Question, field: str, bounds: Any, pair: tuple[float, float] | None) -> tuple[list[Any], Any]:
    """What to try, and the present value."""
    kind, _, path = field.partition(".")
    if path and kind in ("hardware", "model"):
        present = field_value(question.prediction.hardware if kind == "hardware" else question.prediction.model, path)
    else:
        from inspect import signature

        known = [name for name in signature(predict_nfp).parameters if name not in ("hardware", "model")]
        if field not in known:
            raise unknown_name("field", field, [*known, BANDWIDTH, PEAK])
        default = signature(predict_nfp).parameters[field].default
        present = question.arguments.get(field, default) if field != "max_positions" else default
    if pair is None:
        values = list(bounds)
        if not values:
            raise InvalidArgumentError(f"no values given to try for {field}")
        return values, present
    if not isinstance(present, int):
        raise InvalidArgumentError(f"{field} is no whole number; give a list of values to try instead of a range")
    first, last = math.ceil(pair[0]), math.floor(pair[1])
    if not 1 <= last - first + 1 <= MAX_VALUES:
        raise InvalidArgumentError(
            f"{pair[0]:g} to {pair[1]:g} holds {max(0, last - first + 1)} whole numbers, between 1 and {MAX_VALUES} can be tried"
        )
    return list(range(first, last + 1)), present


def _by_trial(
    question: _Question,
    field: str,
    present: Any,
    values: list[Any],
    changed: Callable[[Any], tuple[BoundForward, int]],
) -> Solution:
    trials = []
    for value in values:
        try:
            forward, baseline = changed(value)
            growth = question.growth(forward, baseline) if baseline < question.target else 1.0
        except UnknownNameError:
            raise
        except NfpModelError as error:
            trials.append(Trial(value, None, False, str(error)))
            continue
        trials.append(Trial(value, growth, growth <= question.limit))
    free = [trial.value for trial in trials if trial.free]
    return Solution(
        question=f"{field} for {question.words}",
        field=field,
        target_nfp=question.target,
        present=present,
        value=nearest_value(free, present),
        ranges=tuple((value, value) for value in free),
        undecided=(),
        method="exhaustive",
        trials=tuple(trials),
    )


def _by_intervals(question: _Question, field: str, bounds: tuple[float, float]) -> Solution:
    forward, baseline = question.prediction.forward, question.prediction.baseline
    spec = question.prediction.hardware
    present = spec.memory_bandwidth_bytes_per_s if field == BANDWIDTH else 1.0

    def times(values: FloatArray) -> FloatArray:
        factors = np.asarray(values) / present
        held = np.ones_like(factors)
        rates = (factors, held) if field == BANDWIDTH else (held, factors)
        return forward_seconds(forward, question.names(forward), np.array([baseline, question.target]), *rates)

    free, undecided = free_parts(times, question.limit, *bounds)
    ranges = joined(free)
    ends = sorted({*bounds, *(end for pair in (*ranges, *undecided) for end in pair)})
    growths = dict(zip(ends, (pair[1] / pair[0] for pair in times(np.array(ends))), strict=True))
    # A free point inside what stayed undecided is an answer too, though no range.
    points = [x for pair in undecided for x in pair if growths[x] <= question.limit]
    ranges = ranges or [(x, x) for x in points[:1]]
    best = nearest_value(
        [present] if any(low <= present <= high for low, high in ranges) else [x for pair in ranges for x in pair],
        present,
    )
    shown = sorted({*bounds, min(ends, key=growths.__getitem__), *(x for pair in ranges for x in pair)})
    return Solution(
        question=f"{field} for {question.words}",
        field=field,
        target_nfp=question.target,
        present=present,
        value=best,
        ranges=tuple(ranges),
        undecided=tuple(joined(undecided)),
        method="interval proof",
        trials=tuple(Trial(x, float(growths[x]), bool(growths[x] <= question.limit)) for x in shown),
    )


__all__ = ["Solution", "Trial", "bandwidth_for", "solve_for", "tile_for"]
