"""The closed-form principle of a prediction: one expression per operator beside the exact search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from nfp_model.boundary import Boundary, near_free_boundary
from nfp_model.cost import closed_form
from nfp_model.cost.inputs import equation_inputs
from nfp_model.cost.latency import BoundOperator
from nfp_model.kernels.attention import attention_counts
from nfp_model.kernels.counts import IntArray
from nfp_model.kernels.routing import experts_touched
from nfp_model.operators import Attention, Collective, FusedMoE, Gemm, Module, OperatorUse
from nfp_model.prediction.predicting import predict_nfp
from nfp_model.prediction.result import Prediction
from nfp_model.specs.attention_kernel import AttentionKernel
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import ModelSpec

if TYPE_CHECKING:
    import sympy

Form = Literal["dense", "experts", "row blocks", "wave", "cache", "stream"]

_WORDS: dict[Form, str] = {
    "dense": "matrix time outgrows the weight stream",
    "experts": "more experts are read",
    "row blocks": "row blocks of the experts fill the tolerance",
    "wave": "the attention waves already running are full",
    "cache": "matrix time outgrows the KV stream",
    "stream": "bytes of further rows",
}


@dataclass(frozen=True)
class OperatorPrinciple:
    """The closed form of one operator.

    Attributes
    ----------
    name, module : str
        Which operator.
    form : {"dense", "experts", "row blocks", "wave", "cache", "stream"}
        Which expression applies.
    expression : sympy.Expr
        N in the symbols of ``cost/symbols.py`` [positions]; counts are held, so it can be differentiated.
    values : dict
        Symbol name -> its value here, SI units.
    value : float
        The expression evaluated [positions].
    refined : float or None
        Dense form with activations counted, three Newton steps on [positions]; None for the other forms.
    nfp : int
        The better of the two, cut down to the end of the plateau below it and never below the baseline [positions]. A kernel of its
        own for few rows at the baseline (``few_rows`` of a GEMM rule) is taken to serve all: its end is seen by the exact search alone.
    exact : Boundary
        The exact search on the operator's own latency.
    """

    name: str
    module: Module
    form: Form
    expression: sympy.Expr
    values: dict[str, float]
    value: float
    refined: float | None
    nfp: int
    exact: Boundary

    def latex(self) -> str:
        """The expression as LaTeX."""
        import sympy

        return str(sympy.latex(self.expression))

    def __str__(self) -> str:
        exact = f"at least {self.exact.nfp}" if self.exact.censored else str(self.exact.nfp)
        raw = f"{self.value:.1f}" + (f", refined {self.refined:.1f}" if self.refined is not None else "")
        head = f"{self.name} [{self.form}: {_WORDS[self.form]}]  closed form {self.nfp} ({raw}), exact {exact}"
        return f"{head}\n    N = {self.expression}"


@dataclass(frozen=True)
class Principle:
    """The closed-form principle of a prediction; prints as text.

    Attributes
    ----------
    prediction : Prediction
        The exact prediction it stands beside.
    operators : dict of OperatorPrinciple
        By operator name, in running order.
    binding : str
        Operator that ends the model's near-free range; empty where nothing does.
    """

    prediction: Prediction
    operators: dict[str, OperatorPrinciple]
    binding: str

    @property
    def expression(self) -> sympy.Expr:
        """The binding operator's expression; of the one that takes most time where nothing binds [positions]."""
        if self.binding:
            return self.operators[self.binding].expression
        parts = self.prediction.curve.parts
        return self.operators[max(parts, key=lambda name: float(parts[name][0]))].expression

    def latex(self) -> str:
        """Every operator's expression as LaTeX, one line each."""
        lines = [rf"N_{{\mathrm{{{name.replace('_', ' ')}}}}} = {op.latex()}" for name, op in self.operators.items()]
        return "\\\\\n".join(lines)

    def __str__(self) -> str:
        p = self.prediction
        found = f"at least {p.nfp}" if p.censored else str(p.nfp)
        lines = [
            f"{p.model.title} on {p.hardware.title}: NFP {found} from {p.baseline} at tolerance {p.boundary.tolerance:g}",
            f"binding: {self.binding or 'nothing in the range searched'}",
            *(str(operator) for operator in self.operators.values()),
        ]
        return "\n".join(lines)


def principle(hardware: str | Path | HardwareSpec, model: str | Path | ModelSpec, **arguments: Any) -> Principle:
    """The near-free boundary of every operator in closed form, beside the exact search.

    Parameters
    ----------
    hardware, model, **arguments
        As for :func:`~nfp_model.predict_nfp`.

    Returns
    -------
    Principle
        ``.operators[name]`` with ``.expression``, ``.value``, ``.nfp`` and ``.exact``; ``.latex()``; prints as text.

    Raises
    ------
    NfpModelError
        As :func:`~nfp_model.predict_nfp` does.

    Examples
    --------
    >>> found = principle("h100", "llama-3.1-8b")
    >>> found.operators["down_proj"].form
    'dense'
    >>> sorted(str(symbol) for symbol in found.operators["down_proj"].expression.free_symbols)
    ['B', 'BW', 'F', 'P', 'W', 'e_b', 'e_f', 'epsilon', 'p', 't_0']
    """
    prediction = predict_nfp(hardware, model, **arguments)
    pairs = zip(prediction.forward.uses, prediction.forward.bound, strict=True)
    operators = {use.name: operator_principle(prediction, use, bound) for use, bound in pairs}
    return Principle(prediction, operators, prediction.explain().binding.operator)


def operator_principle(prediction: Prediction, use: OperatorUse, bound: BoundOperator) -> OperatorPrinciple:
    """The closed form of one operator of a prediction."""
    exact = near_free_boundary(
        prediction.curve.restricted((use.name,)), prediction.boundary.tolerance, prediction.baseline
    )
    builders = {Gemm: _dense, FusedMoE: _experts, Attention: _attention, Collective: _collective}
    found = builders.get(type(use.operator), _stream)(prediction, use, bound, exact)
    value = closed_form.evaluated(found.expression, found.values)
    best = min(value if found.refined is None else found.refined, float(prediction.curve.positions[-1]))
    if found.form in ("dense", "wave", "cache"):
        best = _plateau_end(prediction, use, bound, best)
    nfp = max(prediction.baseline, int(best + 1e-9))
    return OperatorPrinciple(
        use.name, use.module, found.form, found.expression, found.values, value, found.refined, nfp, exact
    )


class _Found(NamedTuple):
    form: Form
    expression: sympy.Expr
    values: dict[str, float]
    refined: float | None = None


def _rows_per_position(prediction: Prediction, use: OperatorUse) -> int:
    if use.axis == "positions":
        return 1
    return prediction.workload.batch_size if use.axis == "rows" else prediction.workload.rank_batch


def _plateau_end(prediction: Prediction, use: OperatorUse, bound: BoundOperator, positions: float) -> float:
    """The last position of the last whole plateau up to ``positions``: rows within a tile are paid for together."""
    step, last = _rows_per_position(prediction, use), int(prediction.curve.positions[-1])
    if positions >= last:
        return float(last)
    ends = bound.edges(step * last)[1:] - 1
    below = ends[ends <= positions * step + 1e-6]
    return float(below[-1] // step) if below.size else float(prediction.baseline)


def _values(
    prediction: Prediction, use: OperatorUse, bound: BoundOperator, positions: int | None = None
) -> dict[str, float]:
    """Symbol values with the counts at ``positions`` (the baseline's by default) and one launch's latency at the baseline."""
    start = np.array([prediction.baseline, positions or prediction.baseline], dtype=np.int64)
    rows = prediction.forward.tokens(use, start)
    _, values = bound.winning_inputs(int(rows[1]))
    per_position = (
        float(use.operator.batch_size)
        if isinstance(use.operator, Attention)
        else float(_rows_per_position(prediction, use))
    )
    return {
        **values,
        "batch": per_position,
        "tolerance": prediction.boundary.tolerance,
        "baseline": float(prediction.baseline),
        "baseline_rows": float(rows[0]),
        "baseline_latency": float(bound.seconds(rows[:1])[0]),
    }


def _dense(prediction: Prediction, use: OperatorUse, bound: BoundOperator, exact: Boundary) -> _Found:
    assert isinstance(use.operator, Gemm)
    values = {**_values(prediction, use, bound), "row_flop": use.operator.flop_per_row}
    values["row_bytes"] += values["quantized_bytes"]
    expression = closed_form.dense_positions()
    values["free_time"] = closed_form.evaluated(closed_form.free_time(), values)
    start = closed_form.evaluated(expression, values) * values["batch"]
    refined = closed_form.iterated_rows({**values, "start": start}) / values["batch"]
    return _Found("dense", expression, values, refined)


def _experts(prediction: Prediction, use: OperatorUse, bound: BoundOperator, exact: Boundary) -> _Found:
    operator = use.operator
    assert isinstance(operator, FusedMoE)
    # One rank's experts, and the visits that reach them: k/E stays the chance of a visit.
    local = {"experts": float(operator.local_experts), "top_k": operator.top_k / operator.expert_parallel}
    values = {**_values(prediction, use, bound), **local}
    allowed = closed_form.evaluated(closed_form.experts_allowed(), values)
    grid = np.arange(prediction.baseline, prediction.curve.positions[-1] + 1, dtype=np.int64)
    if allowed < operator.local_experts:
        return _touched(operator, values, prediction.forward.tokens(use, grid), grid, allowed)
    _, counted = equation_inputs(bound, prediction.forward.tokens(use, grid))
    held = {name: values[name] for name in ("batch", "tolerance", "baseline_latency", "experts", "top_k")}
    reach = closed_form.row_blocks_reach({**counted, **held})
    last = int(grid[np.flatnonzero(grid <= reach)[-1]]) if (grid <= reach).any() else prediction.baseline
    values = {**_values(prediction, use, bound, last), **local}
    return _Found("row blocks", closed_form.row_block_positions(), values, float(last))


def _touched(operator: FusedMoE, values: dict[str, float], tokens: IntArray, grid: IntArray, allowed: float) -> _Found:
    kind = operator.load_routing.kind
    if kind == "balanced":
        return _Found("experts", closed_form.balanced_expert_positions(), values)
    if kind == "uniform":
        return _Found("experts", closed_form.uniform_expert_positions(), values)
    # A skewed routing has no formula for its inverse: the uniform one stands as expression, the number is looked up.
    shape = (operator.load_routing, operator.num_experts, operator.top_k)
    inside = grid[experts_touched(*shape, tokens, operator.expert_parallel) <= allowed]
    return _Found(
        "experts", closed_form.uniform_expert_positions(), values, float(inside[-1]) if inside.size else float(grid[0])
    )


def _attention(prediction: Prediction, use: OperatorUse, bound: BoundOperator, exact: Boundary) -> _Found:
    operator, kernel = use.operator, bound.kernel
    assert isinstance(operator, Attention)
    assert isinstance(kernel, AttentionKernel)
    grid = np.arange(prediction.baseline, prediction.curve.positions[-1] + 1, dtype=np.int64)
    counts = attention_counts(kernel, bound.hardware, operator, grid)
    values = _values(prediction, use, bound)
    same = (counts.tile_rows == counts.tile_rows[0]) & (counts.splits == counts.splits[0])
    outside = np.flatnonzero(~same | (counts.waves > counts.waves[0]))
    if outside.size and same[outside[0]] and _leaves(bound, exact, use.count, grid[outside[0] - 1 : outside[0] + 1]):
        wave = {
            "sm_count": float(bound.hardware.sm_count),
            "resident": float(counts.resident[0]),
            "ctas_per_tile": float(counts.ctas_per_kv[0]),
            "tile_rows": float(counts.tile_rows[0]),
            "group_size": float(operator.group_size),
        }
        return _Found("wave", closed_form.wave_positions(), {**values, **wave})
    values["row_flop"] = operator.flop_per_position_and_key * max(operator.mean_keys_before, 1.0)
    return _Found("cache", closed_form.cache_positions(), values)


def _leaves(bound: BoundOperator, exact: Boundary, count: int, pair: IntArray) -> bool:
    """Whether the tolerance holds at the first and breaks at the second of two neighbouring positions."""
    before, after = count * bound.seconds(pair)
    return bool(before <= exact.threshold_s < after)


def _stream(prediction: Prediction, use: OperatorUse, bound: BoundOperator, exact: Boundary) -> _Found:
    values = _values(prediction, use, bound)
    _, counted = equation_inputs(bound, np.array([1, 2], dtype=np.int64))
    values["row_bytes"] = float(np.diff(np.atleast_2d(counted["moved_bytes"]))[0, 0])
    return _Found("stream", closed_form.stream_positions(), values)


def _collective(prediction: Prediction, use: OperatorUse, bound: BoundOperator, exact: Boundary) -> _Found:
    values, expression = _values(prediction, use, bound), closed_form.collective_positions()
    _, counted = equation_inputs(bound, np.array([1], dtype=np.int64))
    algorithms = [
        {**values, "row_bytes": float(moved), "exchanges": float(exchanges)}
        for moved, exchanges in zip(counted["moved_bytes"][:, 0], counted["exchanges"][:, 0], strict=True)
    ]
    return _Found("stream", expression, max(algorithms, key=lambda one: closed_form.evaluated(expression, one)))
