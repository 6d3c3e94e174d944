"""Why a prediction is what it is: slacks per operator, the operator that binds, the mechanism in words, the equations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nfp_model.boundary import Boundary
from nfp_model.cost.latency import BoundOperator
from nfp_model.kernels.attention import attention_counts
from nfp_model.kernels.counts import FloatArray, KernelRow
from nfp_model.kernels.moe import moe_counts
from nfp_model.kernels.steps import ceil_div, round_up
from nfp_model.operators import Attention, Elementwise, FusedMoE, Gemm, Module, OperatorUse
from nfp_model.specs.attention_kernel import AttentionKernel
from nfp_model.specs.gemm_kernel import GemmKernel
from nfp_model.specs.moe_kernel import MoEKernel

if TYPE_CHECKING:
    import sympy

    from nfp_model.prediction.result import Prediction

_STEP_SHARE = 0.3
"""A jump from one position to the next that makes this share of the whole growth is called a step [-]."""


_MOST_OF_GROWTH = 0.6
"""Below this share of the growth the binding operator is named together with the next one [-]."""


@dataclass(frozen=True)
class Binding:
    """What ends a near-free range.

    Attributes
    ----------
    operator : str
        Operator that grew most from the baseline to the exit; empty where nothing binds.
    mechanism : str
        ``experts``, ``reread``, ``row_blocks``, ``tile``, ``wave``, ``matrix``, ``rows``, ``kv_splits``, ``chain``, ``none``.
    positions : int
        Where [positions].
    growth_s : float
        What the operator added [s].
    sentence : str
        In words.
    """

    operator: str
    mechanism: str
    positions: int
    growth_s: float
    sentence: str


@dataclass(frozen=True)
class OperatorReport:
    """One operator of the forward, all its launches together.

    Attributes
    ----------
    name, module : str
        Which.
    count : int
        Launches per forward [-].
    kernel, kernel_at_exit : KernelRow or None
        Rule that decides at the baseline and just past the boundary; None for bandwidth-bound work.
    granularity, granularity_at_exit : str
        Tile, padding, waves, splits or blocks in words, at both.
    seconds, seconds_at_exit : float
        At both [s].
    memory_slack_s : float
        max(0, memory time - matrix time of the useful rows): compute that could still hide [s].
    granularity_slack_s : float
        Matrix time of padded rows less that of useful rows: paid for, not yet used [s].
    latency_slack_s : float
        Fixed and serial time: what no row adds to [s].
    calibration : str
        File the constants stand in.
    """

    name: str
    module: Module
    count: int
    kernel: KernelRow | None
    kernel_at_exit: KernelRow | None
    granularity: str
    granularity_at_exit: str
    seconds: float
    seconds_at_exit: float
    memory_slack_s: float
    granularity_slack_s: float
    latency_slack_s: float
    calibration: str


@dataclass(frozen=True)
class Explanation:
    """The reasons behind a prediction; prints as text.

    Attributes
    ----------
    binding : Binding
        What ends the near-free range.
    operators : tuple of OperatorReport
        In running order.
    text : str
        The whole explanation.
    """

    binding: Binding
    operators: tuple[OperatorReport, ...]
    text: str

    def __str__(self) -> str:
        return self.text

    def latex(self) -> str:
        """The latency equations used, as LaTeX."""
        import sympy

        from nfp_model.cost.equations import equation

        names = {"gemm": "GEMM", "moe": "MoE", "attention": "attention", "stream": "stream", "collective": "collective"}
        lines = [rf"T_{{\mathrm{{{label}}}}} = {sympy.latex(equation(kind).latency)}" for kind, label in names.items()]
        return "\\\\\n".join(lines)


def operator_reports(prediction: Prediction) -> tuple[OperatorReport, ...]:
    """A report on every operator at the prediction's baseline and exit."""
    forward = prediction.forward
    grid = np.array([prediction.baseline, exit_position(prediction.boundary)], dtype=np.int64)
    return tuple(
        _report(use, bound, forward.tokens(use, grid)) for use, bound in zip(forward.uses, forward.bound, strict=True)
    )


def exit_position(boundary: Boundary) -> int:
    """First position past the last crossing; the last one searched where the curve never crosses [positions]."""
    return boundary.nfp if boundary.censored else boundary.nfp + 1


def _report(use: OperatorUse, bound: BoundOperator, tokens: np.ndarray) -> OperatorReport:
    terms = bound.terms(tokens)
    start = {name: use.count * float(values[0]) for name, values in terms.items()}
    busy = max(start["memory"], start["matrix"]) + start.get("rows", 0.0)
    return OperatorReport(
        name=use.name,
        module=use.module,
        count=use.count,
        kernel=bound.kernel_row(int(tokens[0])),
        kernel_at_exit=bound.kernel_row(int(tokens[1])),
        granularity=granularity_words(bound, int(tokens[0])),
        granularity_at_exit=granularity_words(bound, int(tokens[1])),
        seconds=start["total"],
        seconds_at_exit=use.count * float(terms["total"][1]),
        memory_slack_s=max(0.0, start["memory"] - start["useful_matrix"]),
        granularity_slack_s=max(0.0, start["matrix"] - start["useful_matrix"]),
        latency_slack_s=max(0.0, start["total"] - busy),
        calibration=bound.calibration,
    )


def granularity_words(bound: BoundOperator, tokens: int) -> str:
    """Tile, waves, splits or blocks of an operator at a token count, in words."""
    operator, kernel = bound.operator, bound.kernel
    if isinstance(operator, Attention) and isinstance(kernel, AttentionKernel):
        counts = attention_counts(kernel, bound.hardware, operator, np.array([tokens]))
        tile, tiles, splits, waves = (
            int(v[0]) for v in (counts.tile_rows, counts.query_tiles, counts.splits, counts.waves)
        )
        used = tokens * operator.group_size
        return f"{tiles} query tile{'s' * (tiles > 1)} of {tile} rows ({used} used), {splits} KV splits, {waves} wave{'s' * (waves > 1)}"
    if isinstance(operator, Gemm):
        if isinstance(kernel, GemmKernel) and tokens <= kernel.few_rows:
            return f"{tokens} row{'s' * (tokens > 1)} on CUDA cores, no tile"
        values = bound.winning_inputs(tokens)[1]
        split = f", split-K {values['splits']:.0f}" if values["splits"] > 1 else ""
        padded = float(round_up(tokens, values["tile_rows"]))
        sides = f"tile {values['tile_rows']:.0f} x {values['tile_columns']:.0f}"
        return f"{sides}, {tokens} of {padded:.0f} rows used, {values['waves']:.2g} waves{split}"
    if isinstance(operator, FusedMoE) and isinstance(kernel, MoEKernel):
        values = bound.winning_inputs(tokens)[1]
        blocks = moe_counts(kernel, bound.hardware, operator, np.array([tokens]))
        routed, filled = float(blocks.routed_rows[0]), float(blocks.row_blocks[0] * blocks.block_rows[0])
        ctas = blocks.row_blocks[0] * ceil_div((operator.matrices - 1) * operator.local_width, blocks.block_columns[0])
        again = ", weights re-read per block" if max(values["reread_up"], values["reread_down"]) >= 0.5 else ""
        return (
            f"{values['experts_touched']:.1f} of {operator.local_experts} experts, {values['row_blocks']:.1f} blocks of "
            f"{values['tile_rows']:.0f} rows, {routed:.0f} of {filled:.0f} rows used, "
            f"{float(ctas) / bound.hardware.sm_count:.2g} waves{again}"
        )
    return "bandwidth-bound"


def binding_words(prediction: Prediction, boundary: Boundary, module: Module | None = None) -> Binding:
    """Which operator grew most between the baseline and the exit, and by which mechanism."""
    if boundary.censored:
        return Binding("", "none", boundary.nfp, 0.0, f"nothing binds up to the {boundary.nfp} positions searched")
    forward, past = prediction.forward, exit_position(boundary)
    grid = np.array([boundary.baseline, boundary.nfp, past], dtype=np.int64)
    pairs = [(u, b) for u, b in zip(forward.uses, forward.bound, strict=True) if module is None or u.module == module]
    growths = [use.count * bound.seconds(forward.tokens(use, grid)) for use, bound in pairs]
    added = np.array([float(seconds[2] - seconds[0]) for seconds in growths])
    order = np.argsort(-added)
    index = int(order[0])
    use, bound = pairs[index]
    mechanism, words = _mechanism(use, bound, forward.tokens(use, grid), growths[index], past)
    total = float(added.clip(min=0).sum())
    if len(pairs) > 1 and added[index] < _MOST_OF_GROWTH * total:
        runner_up = int(order[1])
        words += (
            f" ({added[index] / total:.0%} of the growth; {pairs[runner_up][0].name} {added[runner_up] / total:.0%})"
        )
    return Binding(use.name, mechanism, past, float(added[index]), words)


def _mechanism(
    use: OperatorUse, bound: BoundOperator, tokens: np.ndarray, seconds: FloatArray, past: int
) -> tuple[str, str]:
    if isinstance(use.operator, FusedMoE):
        return _moe_mechanism(use, bound, tokens, past)
    if isinstance(use.operator, Gemm):
        return _gemm_mechanism(use, bound, tokens, seconds)
    if isinstance(use.operator, Attention):
        return _attention_mechanism(use, bound, use.operator, tokens, past)
    if isinstance(use.operator, Elementwise) and use.operator.several_rows_launches and tokens[0] == 1:
        return "launches", f"{use.name}: kernels that one position does not need"
    if isinstance(use.operator, Elementwise) and (use.operator.means or use.operator.searches):
        return "rows", f"{use.name}: reductions along {tokens[2]} rows"
    return "rows", f"{use.name}: the bytes of {tokens[2]} rows"


def _where(past: int) -> str:
    return "from the second position" if past == 2 else f"at {past} positions"


def _moe_mechanism(use: OperatorUse, bound: BoundOperator, tokens: np.ndarray, past: int) -> tuple[str, str]:
    terms = bound.terms(tokens)
    (_, start), (_, end) = bound.winning_inputs(int(tokens[0])), bound.winning_inputs(int(tokens[2]))
    added = {name: float(terms[name][2] - terms[name][0]) for name in ("memory", "matrix", "rows")}
    if added["rows"] >= max(added["memory"], added["matrix"]):
        return "rows", f"{use.name}: the row traffic of {tokens[2]} tokens"
    if added["matrix"] > added["memory"] and terms["matrix"][2] > 0.5 * terms["memory"][2]:
        blocks = f"{end['row_blocks']:.0f} blocks of {end['tile_rows']:.0f} rows"
        return "row_blocks", f"{use.name} become compute-bound {_where(past)}: {blocks} for {tokens[2]} tokens"
    if _first_reads(end) - _first_reads(start) >= _further_reads(end) - _further_reads(start):
        touched = f"{end['experts_touched']:.1f} instead of {start['experts_touched']:.1f} touched"
        return "experts", f"{use.name}: {touched} {_where(past)}"
    blocks = f"{end['row_blocks']:.1f} blocks of {end['tile_rows']:.0f} rows over {end['experts_touched']:.1f} experts"
    return "reread", f"{use.name}: weights are read again for further row blocks at {tokens[2]} tokens ({blocks})"


def _first_reads(values: dict[str, float]) -> float:
    """Bytes of expert weights read for the first time [B]."""
    return values["experts_touched"] * (values["up_bytes"] + values["down_bytes"])


def _further_reads(values: dict[str, float]) -> float:
    """Bytes of expert weights read again for second and later row blocks [B]."""
    again = values["row_blocks"] - values["experts_touched"]
    return again * (values["reread_up"] * values["up_bytes"] + values["reread_down"] * values["down_bytes"])


def _gemm_mechanism(use: OperatorUse, bound: BoundOperator, tokens: np.ndarray, seconds: FloatArray) -> tuple[str, str]:
    terms = bound.terms(tokens)
    (_, before), (_, end) = bound.winning_inputs(int(tokens[1])), bound.winning_inputs(int(tokens[2]))
    jumped = float(seconds[2] - seconds[1]) > _STEP_SHARE * float(seconds[2] - seconds[0])
    same_tile = all(before[name] == end[name] for name in ("tile_rows", "tile_columns", "splits"))
    if jumped and same_tile and end["waves"] > before["waves"]:
        kind = "tile" if tokens[1] % int(before["tile_rows"]) == 0 else "wave"
        return kind, f"{use.name} leaves its {before['tile_rows']:.0f}-row block at {tokens[2]} rows"
    rules = [row.rule for row in (bound.kernel_row(int(count)) for count in tokens[1:3]) if row is not None]
    if jumped and same_tile and len(set(rules)) > 1:
        return "tile", f"{use.name} changes kernel at {tokens[2]} rows: {rules[0]}, then {rules[1]}"
    if jumped and not same_tile:
        tiles = f"{before['tile_rows']:.0f} x {before['tile_columns']:.0f} to {end['tile_rows']:.0f} x {end['tile_columns']:.0f}"
        return "tile", f"{use.name} changes tile from {tiles} at {tokens[2]} rows"
    added = {name: float(terms[name][2] - terms[name][0]) for name in ("memory", "matrix", "chain", "rows")}
    if added["rows"] > max(added["memory"], added["matrix"], added["chain"]):
        return "rows", f"{use.name}: quantising {tokens[2]} rows before the product"
    if terms["matrix"][2] > terms["memory"][2]:
        return (
            "matrix",
            f"{use.name} becomes compute-bound: matrix time overtakes the weight stream by {tokens[2]} rows",
        )
    if terms["chain"][2] > max(terms["memory"][2], terms["matrix"][2]):
        return "chain", f"{use.name}: the serial chain of {end['waves']:.1f} waves at {tokens[2]} rows"
    return "matrix", f"{use.name}: matrix time of {tokens[2]} rows no longer hides under the weight stream"


def _attention_mechanism(
    use: OperatorUse, bound: BoundOperator, operator: Attention, tokens: np.ndarray, past: int
) -> tuple[str, str]:
    assert isinstance(bound.kernel, AttentionKernel)
    counts = attention_counts(bound.kernel, bound.hardware, operator, tokens)
    terms = bound.terms(tokens)
    if terms["matrix"][2] > max(terms["memory"][2], terms["chain"][2]):
        return "matrix", f"{use.name} becomes compute-bound {_where(past)}"
    if counts.splits[2] < counts.splits[0]:
        return (
            "kv_splits",
            f"{use.name}: {counts.splits[2]:.0f} instead of {counts.splits[0]:.0f} KV splits {_where(past)}",
        )
    if counts.waves[2] > counts.waves[0]:
        return (
            "wave",
            f"{use.name}: {counts.waves[2]:.3g} waves of query tiles instead of {counts.waves[0]:.3g} {_where(past)}",
        )
    return "tile", f"{use.name}: query tiles of {counts.tile_rows[2]:.0f} rows {_where(past)}"


def forward_expression(prediction: Prediction) -> sympy.Expr:
    """T at the boundary: each operator's winning branch with counts and constants held, bandwidth and peaks symbolic [s].

    Peaks are named by data type: ``P_bfloat16``, ``P_fp8``. Derivatives are exact on the branch.
    """
    import sympy

    from nfp_model.cost.equations import equation
    from nfp_model.cost.symbols import BW, SYMBOLS, P

    forward = prediction.forward
    grid = np.array([prediction.nfp], dtype=np.int64)
    total = sympy.Integer(0)
    for use, bound in zip(forward.uses, forward.bound, strict=True):
        kind, values = bound.winning_inputs(int(forward.tokens(use, grid)[0]))
        held = {SYMBOLS[name].symbol: value for name, value in values.items() if name not in ("bandwidth", "peak")}
        term = equation(kind).latency.subs(held)
        if isinstance(use.operator, Gemm | FusedMoE):
            rate = bound.hardware.matrix_rate_key(use.operator.weight_dtype, use.operator.activation_dtype)
            term = term.subs(P, sympy.Symbol(f"P_{rate}", positive=True))
        elif isinstance(use.operator, Attention):
            term = term.subs(P, sympy.Symbol("P_bfloat16", positive=True))
        elif values["bandwidth"] != bound.hardware.memory_bandwidth_bytes_per_s:
            term = term.subs(BW, sympy.Symbol("BW_link", positive=True))
        total += use.count * term
    return total


def explain_prediction(prediction: Prediction) -> Explanation:
    """Binding, operator reports and the text of a prediction."""
    from nfp_model.prediction.panel import explanation_text

    binding = binding_words(prediction, prediction.boundary)
    return Explanation(binding, prediction.operators, explanation_text(prediction, binding))
