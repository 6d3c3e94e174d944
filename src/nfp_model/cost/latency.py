"""An operator bound to hardware, kernel rule and constants: its seconds, the terms behind them, the edges of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nfp_model.cost.block_inputs import selecting_waves, sparse_prefill_rows
from nfp_model.cost.compiled import evaluate
from nfp_model.cost.inputs import (
    constant_inputs,
    equation_inputs,
    gemm_inputs,
    shape_inputs,
    useful_matrix_seconds,
)
from nfp_model.cost.tile_choice import TileTable, tile_table
from nfp_model.kernels.attention import attention_edges, attention_row
from nfp_model.kernels.counts import FloatArray, GemmCounts, IntArray, KernelRow
from nfp_model.kernels.gemm import chosen_counts, gemm_edges, gemm_row
from nfp_model.kernels.gemm_menu import PRUNING_ROWS, menu_key, pruning_limit
from nfp_model.kernels.moe import moe_edges, moe_row
from nfp_model.kernels.steps import BLOCK_ROWS, ceil_div
from nfp_model.operators import (
    Attention,
    CompressedAttention,
    Elementwise,
    FusedMoE,
    Gemm,
    Operator,
)
from nfp_model.specs.attention_kernel import AttentionKernel
from nfp_model.specs.calibration import Constants, Fit
from nfp_model.specs.gemm_kernel import GemmKernel
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.moe_kernel import MoEKernel

Kernel = GemmKernel | MoEKernel | AttentionKernel


@dataclass(frozen=True)
class BoundOperator:
    """One operator ready to be timed by the model.

    Attributes
    ----------
    operator : Operator
        Shape.
    hardware : HardwareSpec
        Datasheet facts.
    kernel : GemmKernel, MoEKernel, AttentionKernel or None
        Granularity rule; None for bandwidth-bound work.
    fit : Fit
        Constants and where they come from.
    calibration : str
        Name of the file the constants stand in.
    backend : str
        Whose rules apply to blocks, which have no kernel file; ``uncalibrated`` for none's.
    """

    operator: Operator
    hardware: HardwareSpec
    kernel: Kernel | None
    fit: Fit
    calibration: str
    backend: str = "uncalibrated"

    def seconds(self, tokens: npt.ArrayLike) -> FloatArray:
        """Latency of one launch over ``tokens`` rows (GEMM, MoE, streams) or query positions (attention) [s]."""
        counted = self._count(tokens)
        if isinstance(self.operator, Gemm):
            return _gemm_seconds(self, self.operator, counted)
        return np.broadcast_to(np.atleast_2d(evaluate(*equation_inputs(self, counted))).min(axis=0), counted.shape)

    def seconds_with(self, sets: Sequence[Constants], tokens: IntArray) -> list[FloatArray]:
        """Latency under other sets of constants while every GEMM keeps the tile that wins under its own [s].

        What a derivative needs: the counts are computed once, and a tile does not change under a small step.
        """
        counts = None
        if isinstance(self.operator, Gemm) and isinstance(self.kernel, GemmKernel) and self.kernel.selection == "menu":
            counts = _winning_counts(self, self.operator, self.kernel, tokens)
        kind, shape = shape_inputs(self, tokens, counts)
        results = [evaluate(kind, {**shape, **constant_inputs(constants, shape)}) for constants in sets]
        return [np.broadcast_to(np.atleast_2d(result).min(axis=0), tokens.shape) for result in results]

    def terms(self, tokens: npt.ArrayLike) -> dict[str, FloatArray]:
        """The equation's terms at the winning menu entry, with the ideal matrix time of useful rows alone [s].

        Keys ``memory``, ``matrix``, ``fixed`` always; ``chain`` and ``rows`` where the operator has them; ``useful_matrix``
        is the matrix time without padding; ``total`` the latency.
        """
        counted = self._count(tokens)
        kind, inputs = equation_inputs(self, counted)
        total = np.atleast_2d(evaluate(kind, inputs))
        winner = np.broadcast_to(total, (total.shape[0], counted.size)).argmin(axis=0)
        names = {
            "gemm": ("memory", "matrix", "chain", "rows", "fixed"),
            "moe": ("memory", "matrix", "chain", "rows", "fixed"),
            "block": ("memory", "matrix", "attention", "rows", "fixed"),
        }
        wanted = names.get(kind, ("memory", "chain", "matrix", "fixed") if kind == "attention" else ("memory", "fixed"))
        parts = {name: _pick(evaluate(kind, inputs, name), winner) for name in wanted}
        parts["total"] = _pick(total, winner)
        parts.setdefault("matrix", np.zeros(counted.size))
        parts["useful_matrix"] = useful_matrix_seconds(self, counted)
        return parts

    def winning_inputs(self, tokens: int) -> tuple[str, dict[str, float]]:
        """Equation kind and the scalar value of every symbol at the winning menu entry, for symbolic work."""
        counted = np.array([tokens], dtype=np.int64)
        kind, inputs = equation_inputs(self, counted)
        total = np.atleast_2d(evaluate(kind, inputs))
        winner = np.broadcast_to(total, (total.shape[0], 1)).argmin(axis=0)
        return kind, {name: float(_pick(value, winner)[0]) for name, value in inputs.items()}

    def edges(self, max_tokens: int) -> IntArray:
        """Every token count up to ``max_tokens`` at which a tile, wave, split or block count changes (left edges)."""
        if isinstance(self.operator, Gemm) and isinstance(self.kernel, GemmKernel):
            return gemm_edges(self.kernel, self.hardware, self.operator, max_tokens)
        if isinstance(self.operator, FusedMoE) and isinstance(self.kernel, MoEKernel):
            return moe_edges(self.kernel, self.hardware, self.operator, max_tokens)
        if isinstance(self.operator, Attention) and isinstance(self.kernel, AttentionKernel):
            return attention_edges(self.kernel, self.hardware, self.operator, max_tokens)
        if isinstance(self.operator, CompressedAttention):
            return _block_edges(self, self.operator, max_tokens)
        if isinstance(self.operator, Elementwise):
            return _elementwise_edges(self.operator, max_tokens)
        return np.array([1], dtype=np.int64)

    def kernel_row(self, tokens: int) -> KernelRow | None:
        """Which row of which kernel file decides at this token count; None for bandwidth-bound work."""
        if isinstance(self.operator, Gemm) and isinstance(self.kernel, GemmKernel):
            return gemm_row(self.kernel, self.hardware, self.operator, tokens)
        if isinstance(self.operator, FusedMoE) and isinstance(self.kernel, MoEKernel):
            return moe_row(self.kernel, self.hardware, self.operator, tokens)
        if isinstance(self.operator, Attention) and isinstance(self.kernel, AttentionKernel):
            return attention_row(self.kernel, self.hardware, self.operator, tokens)
        return None

    def _count(self, tokens: npt.ArrayLike) -> IntArray:
        return np.atleast_1d(np.asarray(tokens, dtype=np.int64))


def _block_edges(bound: BoundOperator, operator: CompressedAttention, max_positions: int) -> IntArray:
    """Where one more wave of rows selects, where another kernel serves, and the second position, which leaves the decode path."""
    positions = np.arange(1, max_positions + 1, dtype=np.int64)
    waves = selecting_waves(bound, operator, positions) * (1 + (positions > 1))
    large = positions * operator.batch_size > sparse_prefill_rows(bound)
    changed = np.diff(waves, prepend=waves[:1]) != 0
    changed[1:] |= large[1:] != large[:-1]
    changed[:2] = True
    return np.asarray(positions[changed], dtype=np.int64)


def _elementwise_edges(operator: Elementwise, max_tokens: int) -> IntArray:
    """Where a launch is added, and where a block of a mean takes twice as many rows."""
    rows = [1, 2] if operator.several_rows_launches else [1]
    for _, per_row in operator.means:
        rows += ceil_div(2 ** np.arange(1, BLOCK_ROWS.bit_length()), per_row).astype(np.int64).tolist()
    edges = np.unique(np.array(rows, dtype=np.int64))
    return edges[edges <= max_tokens]


def _gemm_seconds(bound: BoundOperator, operator: Gemm, rows: IntArray) -> FloatArray:
    """The minimum over the menu: two candidates a point where a table covers the rows, else the whole menu in chunks [s]."""
    kernel = bound.kernel
    assert isinstance(kernel, GemmKernel)
    if rows.size == 0:
        return np.empty(0)
    if kernel.selection != "menu":
        return np.asarray(_over_menu(bound, rows)[0])
    covered = np.minimum(rows, PRUNING_ROWS[-1])
    largest = int(covered.max())
    table = _table(bound, operator, kernel, largest)
    candidates = list(table.entries(covered))
    beyond = rows > PRUNING_ROWS[-1]
    if beyond.any():
        # Far beyond every knee: the entries that win in the table's upper half, tried one by one.
        candidates += [np.where(beyond, entry, candidates[0]) for entry in table.upper_half]
    costs = [
        _with_counts(bound, operator, rows, chosen_counts(kernel, bound.hardware, operator, rows, entries, largest))
        for entries in candidates
    ]
    return np.asarray(np.min(costs, axis=0))


def _over_menu(bound: BoundOperator, rows: IntArray) -> FloatArray:
    return np.atleast_2d(evaluate(*equation_inputs(bound, rows)))


def _with_counts(bound: BoundOperator, operator: Gemm, rows: IntArray, counts: GemmCounts) -> FloatArray:
    shape = gemm_inputs(bound, operator, rows, counts)
    return np.asarray(evaluate("gemm", shape | constant_inputs(bound.fit.values(), shape))[0])


def _table(bound: BoundOperator, operator: Gemm, kernel: GemmKernel, largest: int) -> TileTable:
    limit = pruning_limit(largest)
    assert limit is not None
    hardware = bound.hardware
    key = (
        menu_key(kernel, hardware.sm_count, operator.out_features),
        operator,
        hardware.memory_bandwidth_bytes_per_s,
        hardware.peak(operator.weight_dtype, operator.activation_dtype),
        tuple(bound.fit.constants.items()),
        limit,
    )
    return tile_table(key, limit, bound.edges, lambda rows: _over_menu(bound, np.append(rows, limit))[:, :-1])


def _winning_counts(bound: BoundOperator, operator: Gemm, kernel: GemmKernel, rows: IntArray) -> GemmCounts:
    covered = np.minimum(rows, PRUNING_ROWS[-1])
    largest = int(covered.max())
    entries, _ = _table(bound, operator, kernel, largest).entries(covered)
    return chosen_counts(kernel, bound.hardware, operator, rows, entries, largest)


def _pick(value: Any, winner: npt.NDArray[np.intp]) -> FloatArray:
    array = np.atleast_2d(np.asarray(value, dtype=np.float64))
    menu = max(array.shape[0], int(winner.max()) + 1)
    full = np.broadcast_to(array, (menu, winner.size))
    return np.asarray(full[winner, np.arange(winner.size)])
