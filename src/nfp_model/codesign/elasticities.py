"""Elasticities of latency and near-free positions: the derivative with counts held, and the truth beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nfp_model.boundary import Boundary, near_free_boundary
from nfp_model.codesign.findings import Sensitivities, Sensitivity
from nfp_model.codesign.levers import Lever, Setting, levers_of
from nfp_model.cost.closed_form import evaluated
from nfp_model.cost.inputs import shape_inputs
from nfp_model.cost.latency import BoundOperator
from nfp_model.curve import BoundForward
from nfp_model.errors import NfpModelError, require_positive_int
from nfp_model.operators import Attention, FusedMoE, Gemm, OperatorUse
from nfp_model.prediction import Prediction, predict_nfp
from nfp_model.prediction.closed import operator_principle
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import ModelSpec
from nfp_model.specs.registry import load_hardware, load_model

if TYPE_CHECKING:
    import sympy


def sensitivities(
    hardware: str | Path | HardwareSpec,
    model: str | Path | ModelSpec,
    *,
    positions: int | None = None,
    **arguments: Any,
) -> Sensitivities:
    r"""Elasticities of T and NFP to the levers of chip and model.

    With tile, wave, split and row-block counts held, and the smooth inputs :math:`s` (bytes, features, experts touched,
    rates) moved as the lever :math:`x` moves them,

    .. math::
        \frac{d \log T}{d \log x} = \frac{1}{T} \sum_{op} c_{op} T_{op}
            \sum_s \frac{\partial \log T_{op}}{\partial \log s} \frac{\Delta \log s}{\Delta \log x}

    where the inner derivative is that of the symbolic equation at the winning tile. The same chain through the closed form of
    the operator that binds gives NFP's. Neither sees a tile, wave or kernel change; the finite difference beside it does.

    Parameters
    ----------
    hardware, model, **arguments
        As for :func:`~nfp_model.predict_nfp`.
    positions : int or None
        Where to take T's elasticities [positions]; None takes the baseline.

    Returns
    -------
    Sensitivities
        ``.rows``, ``["bandwidth"]``, ``.to_dict()``, ``.plot()``; prints as a table. Levers a model does not have (experts of
        a dense one, heads of a latent one) are left out.

    Raises
    ------
    NfpModelError
        As :func:`~nfp_model.predict_nfp` does.

    Examples
    --------
    One position of a dense model at batch 1 streams its weights: its time falls almost as the bandwidth rises.

    >>> found = sensitivities("h100", "llama-3.1-8b", max_positions=256)
    >>> -1 < found["bandwidth"].latency_held < -0.6
    True
    """
    spec, architecture = load_hardware(hardware), load_model(model)
    prediction = predict_nfp(spec, architecture, **arguments)
    where = prediction.baseline if positions is None else positions
    require_positive_int(positions=where)
    # The backend is held: a changed chip or data type would otherwise fall to other constants.
    setting = Setting(spec, architecture, {**arguments, "backend": prediction.backend})
    base = _Local.of(prediction, where)
    binding = prediction.explain().binding.operator
    rows = tuple(_sensitivity(lever, prediction, base, where, binding) for lever in levers_of(prediction, setting))
    return Sensitivities(prediction, where, binding, rows)


@dataclass(frozen=True)
class _Local:
    """Every operator around one position: its share of T, and its elasticities to the symbols of its equation."""

    forward: BoundForward
    positions: int
    shares: dict[str, float]
    gradients: dict[str, dict[str, float]]
    total: float

    @classmethod
    def of(cls, prediction: Prediction, positions: int) -> _Local:
        forward = prediction.forward
        grid = np.array([positions], dtype=np.int64)
        seconds, gradients = {}, {}
        for use, bound in _pairs(forward):
            tokens = forward.tokens(use, grid)
            seconds[use.name] = use.count * float(bound.seconds(tokens)[0])
            gradients[use.name] = equation_elasticities(bound, int(tokens[0]))
        total = sum(seconds.values())
        return cls(forward, positions, {name: part / total for name, part in seconds.items()}, gradients, total)

    def operator_elasticity(self, name: str, exponents: Mapping[str, float]) -> float:
        gradient = self.gradients[name]
        return sum(gradient[symbol] * exponent for symbol, exponent in exponents.items() if symbol in gradient)


def _pairs(forward: BoundForward) -> Iterable[tuple[OperatorUse, BoundOperator]]:
    return zip(forward.uses, forward.bound, strict=True)


def _sensitivity(lever: Lever, prediction: Prediction, base: _Local, positions: int, binding: str) -> Sensitivity:
    outcomes = _outcomes(lever, prediction, positions)
    exponents = _exponents(lever, base, outcomes)
    held = sum(share * base.operator_elasticity(name, exponents.get(name, {})) for name, share in base.shares.items())
    points = [(value, seconds, boundary) for value, _, seconds, boundary in outcomes]
    present = (lever.value, base.total, prediction.boundary)
    if len(points) == 1:
        points.append(present)
    return Sensitivity(
        lever=lever.name,
        unit=lever.unit,
        value=lever.value,
        compared=tuple(value for value, *_ in outcomes),
        latency_held=held,
        latency_truth=_slope([(value, seconds) for value, seconds, _ in points]),
        nfp_held=_closed_elasticity(prediction, binding, exponents.get(binding, {})),
        nfp_truth=None
        if any(boundary.censored for *_, boundary in points)
        else _slope([(value, float(boundary.nfp)) for value, _, boundary in points]),
        nfp_compared=tuple(boundary.nfp for *_, boundary in outcomes),
        note=lever.note,
    )


def _outcomes(
    lever: Lever, prediction: Prediction, positions: int
) -> list[tuple[float, BoundForward, float, Boundary]]:
    """Value, forward, T at ``positions`` and boundary of every neighbour that runs."""
    found = []
    for value, setting in lever.neighbours:
        try:
            other = setting.predict()
        except NfpModelError:
            continue
        forward, boundary = other.forward, other.boundary
        if setting.tile_factor != 1.0:
            forward = setting.tiled(forward)
            last = int(prediction.curve.positions[-1])
            curve = forward.curve(forward.edges(boundary.baseline, last))
            boundary = near_free_boundary(curve, boundary.tolerance, boundary.baseline)
        grid = np.array([positions], dtype=np.int64)
        seconds = sum(use.count * float(bound.seconds(forward.tokens(use, grid))[0]) for use, bound in _pairs(forward))
        found.append((value, forward, seconds, boundary))
    return found


def _slope(points: list[tuple[float, float]]) -> float | None:
    if len(points) < 2:
        return None
    (x0, y0), (x1, y1) = min(points), max(points)
    return math.log(y1 / y0) / math.log(x1 / x0)


def _exponents(
    lever: Lever, base: _Local, outcomes: list[tuple[float, BoundForward, float, Boundary]]
) -> dict[str, dict[str, float]]:
    """Operator -> symbol -> d log s / d log x, from the neighbours' smooth inputs."""
    if lever.name == "tile_rows":
        # The tile is the count itself: it moves as stated, and the key step's cost table is left to the truth.
        return {name: {"tile_rows": 1.0, "padded_flop": 1.0} for name in base.shares}
    sides: list[tuple[float, dict[str, dict[str, float]]]] = [
        (math.log(value), _log_inputs(forward, base.positions)) for value, forward, *_ in outcomes
    ]
    if len(sides) == 1:
        sides.append((math.log(lever.value), _log_inputs(base.forward, base.positions)))
    if len(sides) < 2:
        return {}
    (x0, low), (x1, high) = sides[0], sides[-1]
    return {
        name: {
            symbol: (high[name][symbol] - inputs[symbol]) / (x1 - x0)
            for symbol in inputs
            if symbol in high[name] and (lever.moves is None or symbol in lever.moves)
        }
        for name, inputs in low.items()
        if name in high
    }


def _log_inputs(forward: BoundForward, positions: int) -> dict[str, dict[str, float]]:
    grid = np.array([positions], dtype=np.int64)
    return {use.name: _smooth_inputs(bound, int(forward.tokens(use, grid)[0])) for use, bound in _pairs(forward)}


_SMOOTH = {
    "bandwidth", "peak", "sm_count", "weight_bytes", "row_bytes", "quantized_bytes", "out_features", "in_features", "experts_touched",
    "up_bytes", "down_bytes", "row_flop", "moved_bytes", "kv_bytes", "side_bytes",
    "step_width",
}  # fmt: skip
"""Symbols that move with a lever while tiles, waves, splits and blocks are held."""


def _smooth_inputs(bound: BoundOperator, tokens: int) -> dict[str, float]:
    """Logarithms of an operator's smooth inputs, those the closed forms need included."""
    operator = bound.operator
    _, shape = shape_inputs(bound, np.array([tokens], dtype=np.int64))
    values = {name: float(np.ravel(shape[name])[0]) for name in _SMOOTH if name in shape}
    if isinstance(operator, Gemm):
        values["row_flop"] = operator.flop_per_row
    elif isinstance(operator, FusedMoE):
        # Blocks per touched expert are held.
        values |= {"row_blocks": values["experts_touched"], "experts": operator.num_experts, "top_k": operator.top_k}
    elif isinstance(operator, Attention):
        keys = sum(operator.keys_before(length) for length in operator.context_lengths) / len(operator.context_lengths)
        heads = operator.batch_size * operator.num_kv_heads
        values |= {
            # Query tiles per KV head and splits are held.
            "padded_flop": heads * max(keys, 1.0) * (operator.head_dim + operator.values_dim),
            "row_flop": operator.flop_per_position_and_key * max(keys, 1.0),
            "step_time": shape["fair_step"],
            "sm_count": float(bound.hardware.sm_count),
            "group_size": operator.group_size,
            "ctas_per_tile": heads,
        }
    return {name: math.log(value) for name, value in values.items() if value > 0}


@cache
def _equation_derivative(kind: str, name: str) -> sympy.Expr:
    """d log T / d log s of an equation, symbolic."""
    import sympy

    from nfp_model.cost.equations import equation
    from nfp_model.cost.symbols import SYMBOLS

    latency, symbol = equation(kind).latency, SYMBOLS[name].symbol
    return sympy.diff(latency, symbol) * symbol / latency


def equation_elasticities(bound: BoundOperator, tokens: int) -> dict[str, float]:
    """d log T / d log s of one launch for every smooth symbol of its equation, at the winning tile [-].

    Examples
    --------
    Bandwidth, peak and the times add up to a latency: doubling both rates halves all but the fixed and serial parts.

    >>> from nfp_model import Gemm, load_hardware
    >>> from nfp_model.cost.binding import bind
    >>> found = equation_elasticities(bind(load_hardware("h100"), Gemm(8192, 8192), None), 16)
    >>> -1 < found["bandwidth"] < -0.5, found["weight_bytes"] > 0.5
    (True, True)
    """
    from nfp_model.cost.equations import equation
    from nfp_model.cost.symbols import SYMBOLS

    kind, values = bound.winning_inputs(tokens)
    free = {SYMBOLS[name].symbol: name for name in (*_SMOOTH, "row_blocks", "padded_flop", "step_time", "tile_rows")}
    names = [free[symbol] for symbol in equation(kind).symbols if symbol in free]
    return {name: evaluated(_equation_derivative(kind, name), values) for name in names}


def _closed_elasticity(prediction: Prediction, binding: str, exponents: Mapping[str, float]) -> float | None:
    """d log N / d log x of the binding operator's closed form."""
    import sympy

    from nfp_model.cost.symbols import info_of

    if not binding:
        return None
    use, bound = next((use, bound) for use, bound in _pairs(prediction.forward) if use.name == binding)
    found = operator_principle(prediction, use, bound)
    start = prediction.forward.tokens(use, np.array([prediction.baseline], dtype=np.int64))
    gradient = equation_elasticities(bound, int(start[0]))
    own = sum(gradient.get(symbol, 0.0) * exponent for symbol, exponent in exponents.items())
    names = {info_of(symbol).symbol: _symbol_name(symbol) for symbol in found.expression.free_symbols}
    total = 0.0
    for symbol, name in names.items():
        exponent = own if name == "baseline_latency" else exponents.get(name, 0.0)
        if exponent:
            derivative = sympy.diff(found.expression, symbol) * symbol / found.expression
            try:
                total += exponent * evaluated(derivative, found.values)
            except TypeError:  # a root or logarithm left its domain: the branch ends before one position
                return None
    return total if math.isfinite(total) else None


def _symbol_name(symbol: sympy.Symbol) -> str:
    from nfp_model.cost.symbols import SYMBOLS

    return next(name for name, info in SYMBOLS.items() if info.symbol == symbol)


__all__ = ["equation_elasticities", "sensitivities"]
