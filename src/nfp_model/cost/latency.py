"""An operator bound to hardware, kernel rule and constants: its seconds, the terms behind them, the edges of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nfp_model.cost.compiled import FloatArray, evaluate
from nfp_model.cost.symbols import SYMBOLS
from nfp_model.cost.tile_choice import TileTable, tile_table
from nfp_model.kernels.attention import attention_counts, attention_edges, attention_row, serial_steps
from nfp_model.kernels.counts import AttentionCounts, GemmCounts, KernelRow, MoECounts
from nfp_model.kernels.gemm import chosen_counts, gemm_counts, gemm_edges, gemm_row
from nfp_model.kernels.gemm_menu import PRUNING_ROWS, menu_key, pruning_limit
from nfp_model.kernels.moe import moe_counts, moe_edges, moe_row
from nfp_model.operators import (
    ACTIVATION_BYTES,
    Attention,
    Collective,
    Elementwise,
    FusedMoE,
    Gemm,
    LinearScan,
    Operator,
)
from nfp_model.quantities import element_type
from nfp_model.specs.attention_kernel import AttentionKernel
from nfp_model.specs.calibration import Constants, Fit, GemmConstants, MoEConstants, StreamConstants
from nfp_model.specs.gemm_kernel import GemmKernel
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.moe_kernel import MoEKernel

IntArray = npt.NDArray[np.int64]
Kernel = GemmKernel | MoEKernel | AttentionKernel

STEP_BYTES = 65536.0
"""Bytes of such a step at d_k + d_v = 256 in 16 bits: 128 x 256 x 2 [B]."""

TILE_COST_ROWS = (8, 16, 32, 64, 128)
TILE_COST = (1.0 / 1.68, 1.2 / 1.68, 1.48 / 1.68, 1.0, 2.2 / 1.68)
"""Relative time of a key step by query-tile rows, 64 rows = 1: FlashInfer's TRT-LLM-gen cost table (fmhaKernels.cuh)."""


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
    """

    operator: Operator
    hardware: HardwareSpec
    kernel: Kernel | None
    fit: Fit
    calibration: str

    def seconds(self, tokens: npt.ArrayLike) -> FloatArray:
        """Latency of one launch over ``tokens`` rows (GEMM, MoE, streams) or query positions (attention) [s]."""
        counted = self._count(tokens)
        if isinstance(self.operator, Gemm):
            return _gemm_seconds(self, self.operator, counted)
        return np.broadcast_to(evaluate(*equation_inputs(self, counted)), counted.shape)

    def seconds_with(self, sets: Sequence[Constants], tokens: IntArray) -> list[FloatArray]:
        """Latency under other sets of constants while every GEMM keeps the tile that wins under its own [s].

        What a derivative needs: the counts are computed once, and a tile does not change under a small step.
        """
        counts = None
        if isinstance(self.operator, Gemm) and isinstance(self.kernel, GemmKernel) and self.kernel.selection == "menu":
            counts = _winning_counts(self, self.operator, self.kernel, tokens)
        kind, shape = shape_inputs(self, tokens, counts)
        results = [evaluate(kind, {**shape, **constant_inputs(constants, shape)}) for constants in sets]
        return [np.broadcast_to(np.atleast_2d(result)[0], tokens.shape) for result in results]

    def terms(self, tokens: npt.ArrayLike) -> dict[str, FloatArray]:
        """The equation's terms at the winning menu entry, with the ideal matrix time of useful rows alone [s].

        Keys ``memory``, ``matrix``, ``fixed`` always; ``chain`` and ``rows`` where the operator has them; ``useful_matrix``
        is the matrix time without padding; ``total`` the latency.
        """
        counted = self._count(tokens)
        kind, inputs = equation_inputs(self, counted)
        total = np.atleast_2d(evaluate(kind, inputs))
        winner = np.broadcast_to(total, (total.shape[0], counted.size)).argmin(axis=0)
        names = {"gemm": ("memory", "matrix", "chain", "fixed"), "moe": ("memory", "matrix", "rows", "fixed")}
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


def equation_inputs(bound: BoundOperator, tokens: IntArray) -> tuple[str, dict[str, Any]]:
    """Equation kind and the value of every symbol for an operator over token counts."""
    kind, shape = shape_inputs(bound, tokens)
    values = {**shape, **constant_inputs(bound.fit.values(), shape)}
    return kind, {name: value for name, value in values.items() if name in SYMBOLS}


def shape_inputs(
    bound: BoundOperator, tokens: IntArray, gemm_counted: GemmCounts | None = None
) -> tuple[str, dict[str, Any]]:
    """Equation kind and everything the fitted constants do not touch: datasheet, shape, exact counts.

    A fit computes these once per shape and moves only :func:`constant_inputs`. Besides symbols, the mapping holds what the
    constants are applied to: ``rereads_up`` and ``rereads_down`` (MoE), ``fair_step`` (attention), ``launches`` (streams).
    """
    operator = bound.operator
    if isinstance(operator, Gemm):
        return "gemm", gemm_inputs(bound, operator, tokens, gemm_counted)
    if isinstance(operator, FusedMoE):
        return "moe", moe_inputs(bound, operator, tokens)
    if isinstance(operator, Attention):
        return "attention", attention_inputs(bound, operator, tokens)
    return "stream", stream_inputs(bound, operator, tokens)


def constant_inputs(constants: Constants, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Symbol values the fitted constants give, for the shape inputs of the same operator kind."""
    if isinstance(constants, StreamConstants):
        return {
            "fixed_time": constants.fixed_time_s * shape["launches"],
            "memory_efficiency": constants.memory_efficiency,
        }
    common = {
        "fixed_time": constants.fixed_time_s,
        "memory_efficiency": constants.memory_efficiency,
        "matrix_efficiency": constants.matrix_efficiency,
        "overlap_exponent": constants.overlap_exponent,
    }
    if isinstance(constants, GemmConstants):
        return common | {"chain_time": constants.chain_time_s, "split_time": constants.split_time_s}
    if isinstance(constants, MoEConstants):
        return common | {
            "reread_up": np.where(shape["rereads_up"], 1.0, constants.reread_share),
            "reread_down": np.where(shape["rereads_down"], 1.0, constants.reread_share),
            "activation_efficiency": constants.activation_efficiency,
        }
    return common | {
        "sequence_time": constants.sequence_time_s,
        "cta_time": constants.cta_time_s,
        "step_time": constants.step_share * shape["fair_step"],
        "split_time": constants.split_time_s,
    }


def gemm_inputs(
    bound: BoundOperator, operator: Gemm, rows: IntArray, counted: GemmCounts | None = None
) -> dict[str, Any]:
    """Shape inputs of the GEMM equation, shape (menu, rows) where the tile decides; of the counts given, if any."""
    kernel, hardware = bound.kernel, bound.hardware
    assert isinstance(kernel, GemmKernel)
    counts = counted or gemm_counts(kernel, hardware, operator, rows)
    return {
        "bandwidth": hardware.memory_bandwidth_bytes_per_s,
        "peak": hardware.peak(operator.weight_dtype, operator.activation_dtype),
        "sm_count": float(hardware.sm_count),
        "weight_bytes": operator.weight_bytes,
        "row_bytes": float(operator.activation_bytes_per_row),
        "rows": rows.astype(np.float64),
        "out_features": float(operator.out_features),
        "in_features": float(operator.in_features),
        "tile_rows": counts.tile_rows,
        "tile_columns": counts.tile_columns,
        "splits": counts.splits,
        "is_split": (counts.splits > 1).astype(np.float64),
        "waves": counts.waves,
    }


def moe_inputs(bound: BoundOperator, operator: FusedMoE, tokens: IntArray) -> dict[str, Any]:
    """Shape inputs of the fused-MoE equation, shape (tokens,)."""
    kernel, hardware = bound.kernel, bound.hardware
    assert isinstance(kernel, MoEKernel)
    counts = moe_counts(kernel, hardware, operator, tokens)
    return {
        "bandwidth": hardware.memory_bandwidth_bytes_per_s,
        "peak": hardware.peak(operator.weight_dtype, operator.activation_dtype),
        "experts_touched": counts.experts_touched,
        "row_blocks": counts.row_blocks,
        "tile_rows": counts.block_rows,
        "up_bytes": operator.up_bytes,
        "down_bytes": operator.down_bytes,
        "rereads_up": counts.rereads_up,
        "rereads_down": counts.rereads_down,
        "row_flop": operator.flop_per_routed_row,
        "moved_bytes": moe_row_bytes(operator, counts, tokens),
    }


def moe_row_bytes(operator: FusedMoE, counts: MoECounts, tokens: IntArray) -> FloatArray:
    """Row traffic of a fused MoE [B].

    With R rows routed to this rank's experts and M k pairs over all ranks, in 16 bits::

        4 h R              rows gathered, results of the second GEMM written
        (6 i + 2 h) M k    activation over gate and up rows, weighted sum over the choices: every pair, local or not
        4 h M              input and output
    """
    pairs = tokens * operator.top_k
    everywhere = pairs * (3 * operator.local_width + operator.hidden_size)
    local = 2 * counts.routed_rows * operator.hidden_size
    return np.asarray(ACTIVATION_BYTES * (local + everywhere + 2.0 * operator.hidden_size * tokens))


def attention_inputs(bound: BoundOperator, operator: Attention, positions: IntArray) -> dict[str, Any]:
    """Shape inputs of the attention equation, shape (positions,)."""
    kernel, hardware = bound.kernel, bound.hardware
    assert isinstance(kernel, AttentionKernel)
    counts = attention_counts(kernel, hardware, operator, positions)
    width = (operator.head_dim + operator.values_dim) / 256.0 * element_type(operator.kv_dtype).bytes / 2.0
    return {
        "bandwidth": hardware.memory_bandwidth_bytes_per_s,
        "peak": hardware.peak_flop_per_s["bfloat16"],
        "batch": float(operator.batch_size),
        "kv_bytes": attention_bytes(operator, positions),
        "waves": counts.waves,
        "key_steps": serial_steps(counts.keys, counts.splits),
        "step_width": width,
        "tile_cost": np.interp(counts.tile_rows, TILE_COST_ROWS, TILE_COST),
        "padded_flop": _padded_attention_flop(operator, counts),
        "is_split": (counts.splits > 1).astype(np.float64),
        "fair_step": STEP_BYTES * hardware.sm_count / hardware.memory_bandwidth_bytes_per_s,
    }


def _padded_attention_flop(operator: Attention, counts: AttentionCounts) -> FloatArray:
    """FLOP over whole query tiles: tiles x B n_kv x tile rows x 2 x keys x (d_k + d_v) [FLOP]."""
    tiles = counts.query_tiles * operator.batch_size * operator.num_kv_heads
    return np.asarray(tiles * counts.tile_rows * 2.0 * counts.keys * (operator.head_dim + operator.values_dim))


def attention_bytes(operator: Attention, positions: IntArray) -> FloatArray:
    """KV bytes one attention reads: every sequence's visible cache and the new positions, once [B]."""
    lengths = operator.context_lengths
    cached = sum(operator.keys_before(length) for length in lengths) / len(lengths)
    return np.asarray((cached + positions) * operator.batch_size * operator.cache_bytes_per_token)


def stream_inputs(bound: BoundOperator, operator: Operator, rows: IntArray) -> dict[str, Any]:
    """Shape inputs of the streaming equation, shape (rows,)."""
    hardware = bound.hardware
    launches, bandwidth = 1, hardware.memory_bandwidth_bytes_per_s
    if isinstance(operator, Elementwise):
        launches, moved = operator.launches, operator.fixed_bytes + operator.bytes_per_row * rows
    elif isinstance(operator, LinearScan):
        moved = operator.state_bytes + operator.bytes_per_row * rows
    else:
        assert isinstance(operator, Collective)
        moved, bandwidth = collective_bytes(operator) * rows, link_bandwidth(hardware, operator.ranks)
    return {"bandwidth": bandwidth, "moved_bytes": np.asarray(moved, dtype=np.float64), "launches": launches}


def collective_bytes(operator: Collective) -> float:
    """Bytes of one row that cross a rank's link in one direction [B]: 2(r-1)/r for all-reduce, (r-1)/r for the others."""
    passes = 2.0 if operator.kind == "all_reduce" else 1.0
    return passes * (operator.ranks - 1) / operator.ranks * operator.bytes_per_row


def link_bandwidth(hardware: HardwareSpec, ranks: int) -> float:
    """One-direction bandwidth between ``ranks`` GPUs: scale-up links inside their domain, else the slower link out [B/s]."""
    links = hardware.interconnect
    if links.scale_up_bandwidth_bytes_per_s is not None and ranks <= links.scale_up_domain:
        return links.scale_up_bandwidth_bytes_per_s
    outside = links.scale_out_bandwidth_bytes_per_s or links.host_bandwidth_bytes_per_s
    # 64 GB/s: PCIe Gen5 x16, one direction, where a chip's spec names no link at all.
    return outside or 64e9


def useful_matrix_seconds(bound: BoundOperator, tokens: IntArray) -> FloatArray:
    """Matrix time of the useful rows alone, without tile, wave or block padding, at the fitted efficiency [s]."""
    operator, constants = bound.operator, bound.fit.values()
    if isinstance(constants, StreamConstants):
        return np.zeros(tokens.size)
    if isinstance(operator, Gemm):
        flop, peak = (
            operator.flop_per_row * tokens,
            bound.hardware.peak(operator.weight_dtype, operator.activation_dtype),
        )
    elif isinstance(operator, FusedMoE):
        share = operator.top_k / operator.expert_parallel
        flop, peak = operator.flop_per_routed_row * share * tokens, bound.hardware.peak(operator.weight_dtype)
    else:
        assert isinstance(operator, Attention)
        keys = sum(operator.keys_before(c) for c in operator.context_lengths) / len(operator.context_lengths)
        flop = operator.flop_per_position_and_key * operator.batch_size * tokens * (keys + tokens)
        peak = bound.hardware.peak_flop_per_s["bfloat16"]
    return np.asarray(flop / (peak * constants.matrix_efficiency))
