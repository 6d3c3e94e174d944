"""The value of every symbol of an operator's equation: datasheet and shape, exact counts, fitted constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nfp_model.cost.block_inputs import block_inputs
from nfp_model.kernels.attention import attention_counts
from nfp_model.kernels.counts import AttentionCounts, FloatArray, GemmCounts, IntArray, MoECounts
from nfp_model.kernels.gemm import gemm_counts
from nfp_model.kernels.moe import as_stored, moe_counts
from nfp_model.kernels.steps import walked_elements
from nfp_model.operators import (
    ACTIVATION_BYTES,
    Attention,
    Collective,
    CompressedAttention,
    Elementwise,
    FusedMoE,
    Gemm,
    LinearScan,
    Operator,
)
from nfp_model.quantities import element_type
from nfp_model.specs.attention_kernel import AttentionKernel
from nfp_model.specs.calibration import (
    BlockConstants,
    CollectiveConstants,
    Constants,
    GemmConstants,
    MoEConstants,
    StreamConstants,
)
from nfp_model.specs.gemm_kernel import GemmKernel
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.moe_kernel import MoEKernel

if TYPE_CHECKING:
    from nfp_model.cost.latency import BoundOperator

HELPERS = frozenset(
    {
        "rereads_up",
        "rereads_down",
        "reread_weight",
        "fixed_share",
        "stream_slowed",
        "expansion_cost",
        "fair_step",
        "own_rate",
        "combine_kernel",
        "launches",
        "walked",
        "searches",
    }
)
"""Shape inputs that are no symbols: what the constants, or a fit's replays, are applied to."""

STEP_BYTES = 65536.0
"""Bytes of such a step at d_k + d_v = 256 in 16 bits: 128 x 256 x 2 [B]."""

TILE_COST_ROWS = (8, 16, 32, 64, 128)
TILE_COST = (1.0 / 1.68, 1.2 / 1.68, 1.48 / 1.68, 1.0, 2.2 / 1.68)
"""Relative time of a key step by query-tile rows, 64 rows = 1: FlashInfer's TRT-LLM-gen cost table (fmhaKernels.cuh)."""

SCORE_BYTES = 6.0
"""Shared memory a key takes in a CTA of masked multi-head attention: a score in 32 bits and in 16 [B]."""

CROWDING = 0.5
"""How the pace of key steps follows the CTAs that fit an SM, a power [-]: inferred on H100, L40S and RTX PRO 6000, fit half, where it
takes groups above 32 from 6.7, 11.0 and 9.9 to 6.2, 10.4 and 9.2 %; 1 takes them nowhere."""

ROW_COST_ROWS = 16
"""Query rows a kernel file's ``row_cost`` is stated for [rows]."""


def equation_inputs(bound: BoundOperator, tokens: IntArray) -> tuple[str, dict[str, Any]]:
    """Equation kind and the value of every symbol for an operator over token counts."""
    kind, shape = shape_inputs(bound, tokens)
    values = {**shape, **constant_inputs(bound.fit.values(), shape)}
    return kind, {name: value for name, value in values.items() if name not in HELPERS}


def shape_inputs(
    bound: BoundOperator, tokens: IntArray, gemm_counted: GemmCounts | None = None
) -> tuple[str, dict[str, Any]]:
    """Equation kind and everything the fitted constants do not touch: datasheet, shape, exact counts.

    A fit computes these once per shape and moves only :func:`constant_inputs`. Besides symbols, the mapping holds what the
    constants are applied to: ``rereads_up``, ``rereads_down``, ``reread_weight`` and ``expansion_cost`` (MoE), ``stream_slowed`` (MoE,
    GEMM), ``fixed_share`` (MoE, attention), ``fair_step`` (attention), ``launches``, ``walked`` and ``searches`` (streams); and
    ``own_rate`` and ``combine_kernel``, which replays leave alone.
    """
    operator = bound.operator
    if isinstance(operator, Gemm):
        return "gemm", gemm_inputs(bound, operator, tokens, gemm_counted)
    if isinstance(operator, FusedMoE):
        return "moe", moe_inputs(bound, operator, tokens)
    if isinstance(operator, Attention):
        return "attention", attention_inputs(bound, operator, tokens)
    if isinstance(operator, CompressedAttention):
        return "block", block_inputs(bound, operator, tokens)
    if isinstance(operator, Collective):
        return "collective", collective_inputs(bound, operator, tokens)
    return "stream", stream_inputs(bound, operator, tokens)


def constant_inputs(constants: Constants, shape: Mapping[str, Any]) -> dict[str, Any]:
    """Symbol values the fitted constants give, for the shape inputs of the same operator kind."""
    if isinstance(constants, CollectiveConstants):
        return {
            "fixed_time": constants.fixed_time_s,
            "memory_efficiency": constants.memory_efficiency,
            "exchange_time": constants.exchange_time_s,
            "rank_time": constants.rank_time_s,
        }
    if isinstance(constants, StreamConstants):
        return {
            "fixed_time": constants.fixed_time_s * shape["launches"]
            + constants.walk_time_s * shape["walked"]
            + constants.search_time_s * shape["searches"],
            "memory_efficiency": constants.memory_efficiency,
        }
    common = {
        "fixed_time": constants.fixed_time_s,
        "memory_efficiency": constants.memory_efficiency,
        "matrix_efficiency": constants.matrix_efficiency,
        "overlap_exponent": constants.overlap_exponent,
    }
    if isinstance(constants, GemmConstants):
        return common | {
            "memory_efficiency": constants.memory_efficiency / shape["stream_slowed"],
            "chain_time": constants.chain_time_s,
            "split_time": constants.split_time_s,
            "reread_share": constants.reread_share,
        }
    if isinstance(constants, MoEConstants):
        return common | {
            "fixed_time": constants.fixed_time_s * shape["fixed_share"],
            "memory_efficiency": constants.memory_efficiency / shape["stream_slowed"],
            "matrix_efficiency": constants.matrix_efficiency / shape["expansion_cost"],
            "reread_up": _reread(shape["rereads_up"], constants.reread_share * shape["reread_weight"]),
            "reread_down": _reread(shape["rereads_down"], constants.reread_share * shape["reread_weight"]),
            "activation_efficiency": constants.activation_efficiency,
            "wave_time": constants.wave_time_s,
            "expert_time": constants.expert_time_s,
        }
    if isinstance(constants, BlockConstants):
        return common | {
            "attention_efficiency": constants.attention_efficiency,
            "index_efficiency": constants.index_efficiency,
            "selection_time": constants.selection_time_s,
            "ranking_time": constants.ranking_time_s,
            "sequence_time": constants.sequence_time_s,
            "activation_efficiency": constants.activation_efficiency,
        }
    return common | {
        "fixed_time": constants.fixed_time_s * shape["fixed_share"],
        "sequence_time": constants.sequence_time_s,
        "cta_time": constants.cta_time_s,
        "step_time": constants.step_share * shape["fair_step"],
        "split_time": constants.split_time_s,
    }


def _reread(evicted: FloatArray, share: FloatArray) -> FloatArray:
    """Share of a GEMM's weights that a further block reads again: what left the cache meanwhile, and the fitted share of the rest."""
    return evicted + (1.0 - evicted) * share


def gemm_inputs(
    bound: BoundOperator, operator: Gemm, rows: IntArray, counted: GemmCounts | None = None
) -> dict[str, Any]:
    """Shape inputs of the GEMM equation, shape (menu, rows) where the tile decides; of the counts given, if any."""
    kernel, hardware = bound.kernel, bound.hardware
    assert isinstance(kernel, GemmKernel)
    counts = counted or gemm_counts(kernel, hardware, operator, rows)
    saved = 0.0
    if kernel.quantizing_bytes:
        # The product reads what the passes wrote, in the weights' format.
        saved = ACTIVATION_BYTES - element_type(operator.weight_dtype).bytes
    return {
        "bandwidth": hardware.memory_bandwidth_bytes_per_s,
        "peak": hardware.peak(operator.weight_dtype, operator.activation_dtype),
        "sm_count": float(hardware.sm_count),
        "weight_bytes": operator.weight_bytes,
        "row_bytes": operator.activation_bytes_per_row - saved * operator.in_features,
        "quantized_bytes": kernel.quantizing_bytes * operator.in_features,
        "rows": rows.astype(np.float64),
        "out_features": float(operator.out_features),
        "in_features": float(operator.in_features),
        "tile_rows": counts.tile_rows,
        "tile_columns": counts.tile_columns,
        "splits": counts.splits,
        "is_split": (counts.splits > 1).astype(np.float64),
        "waves": counts.waves,
        "rereads": counts.rereads,
        "idle_share": counts.idle_share,
        "stream_slowed": counts.stream_slowed,
    }


def moe_inputs(bound: BoundOperator, operator: FusedMoE, tokens: IntArray) -> dict[str, Any]:
    """Shape inputs of the fused-MoE equation, shape (tokens,)."""
    kernel, hardware = bound.kernel, bound.hardware
    assert isinstance(kernel, MoEKernel)
    operator = as_stored(kernel, operator)
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
        "moved_bytes": moe_row_bytes(kernel, operator, counts, tokens),
        "reread_weight": counts.reread_weight,
        "fixed_share": counts.fixed_share,
        "stream_slowed": counts.stream_slowed,
        "expansion_cost": kernel.expansion_cost,
        "waves": counts.waves,
        "walked_experts": float(operator.local_experts if kernel.walks_experts else 0),
    }


def moe_row_bytes(kernel: MoEKernel, operator: FusedMoE, counts: MoECounts, tokens: IntArray) -> FloatArray:
    """Row traffic of a fused MoE [B].

    With R rows routed to this rank's experts and M k pairs over all ranks, in 16 bits::

        4 h R              rows gathered, results of the second GEMM written
        (6 i + 2 h) Q      activation over gate and up rows, weighted sum over the choices
        4 h M              input and output
        (4 i + 2 h) Z      zeros both GEMMs write for gated experts of other ranks

    Q is every pair, M k, local or not; R where the kernel keeps its own rank's rows alone. Z is M k - R where the kernel writes
    zeros for the others, else none.
    """
    pairs = counts.routed_rows if kernel.keeps_local_rows else tokens * operator.top_k
    everywhere = pairs * (3 * operator.local_width + operator.hidden_size)
    local = 2 * counts.routed_rows * operator.hidden_size
    others = np.maximum(pairs - counts.routed_rows, 0.0) if kernel.zeroes_other_rows else 0.0
    zeros = others * ((operator.matrices - 1) * operator.local_width + operator.hidden_size)
    return np.asarray(ACTIVATION_BYTES * (local + everywhere + zeros + 2.0 * operator.hidden_size * tokens))


def attention_inputs(bound: BoundOperator, operator: Attention, positions: IntArray) -> dict[str, Any]:
    """Shape inputs of the attention equation, shape (positions,)."""
    kernel, hardware = bound.kernel, bound.hardware
    assert isinstance(kernel, AttentionKernel)
    counts = attention_counts(kernel, hardware, operator, positions)
    cache = attention_bytes(operator, positions) * (1.0 + counts.masked_keys / counts.keys)
    width = (operator.head_dim + operator.values_dim) / 256.0
    tile_cost = np.interp(counts.tile_rows, TILE_COST_ROWS, TILE_COST)
    rows = positions * operator.group_size / counts.query_tiles
    # A CTA's start takes the longer, the more rows of its tile are queries.
    fetched = kernel.row_cost * rows / ROW_COST_ROWS * width / tile_cost
    # Beside one another in a persistent kernel they share the memory with those that start at the same time.
    start, exposed_start = 1.0 + fetched, 1.0 + fetched * counts.starting
    return {
        "bandwidth": hardware.memory_bandwidth_bytes_per_s * counts.filled**kernel.unfilled_exponent,
        "peak": attention_peak(kernel, hardware, operator),
        "kv_bytes": cache,
        "side_bytes": query_bytes(operator, positions)
        + (kernel.cache_traffic - 1.0 + read_again(hardware, counts, cache)) * cache,
        "waves": counts.waves,
        "hidden_starts": counts.hidden_starts * start,
        "exposed_starts": counts.exposed_starts * exposed_start,
        "passes": counts.passes,
        "planned": counts.planned,
        "key_steps": counts.key_steps,
        "own_rate": counts.own_rate,
        "combine_kernel": counts.combine_kernel,
        "fixed_share": counts.fixed_share,
        "step_width": width
        * element_type(operator.kv_dtype).bytes
        / 2.0
        * counts.step_cost
        * crowded_out(hardware, counts),
        "tile_cost": tile_cost,
        "padded_flop": _padded_attention_flop(operator, counts),
        "fair_step": STEP_BYTES * hardware.sm_count / hardware.memory_bandwidth_bytes_per_s,
    }


def crowded_out(hardware: HardwareSpec, counts: AttentionCounts) -> FloatArray:
    """Time of a key step over that with all the CTAs an SM's registers hold, where their scores do not fit beside one another [-].

    Masked multi-head attention of TensorRT-LLM keeps 6 bytes a key of every CTA in shared memory
    (``decoderMaskedMultiheadAttentionLaunch.h :: smem_size_in_bytes``).
    """
    scores = SCORE_BYTES * counts.keys / counts.splits
    fitting = np.maximum(np.floor((hardware.shared_memory_bytes_per_sm or np.inf) / scores), 1.0)
    left_out = counts.resident / np.minimum(counts.resident, fitting)
    return np.asarray(np.where(counts.own_rate > 0, left_out**CROWDING, 1.0))


def read_again(hardware: HardwareSpec, counts: AttentionCounts, cache: FloatArray) -> FloatArray:
    """Reads of the cache from memory after the first: of late query tiles, once a split of all sequences exceeds the L2 [-]."""
    return np.asarray(counts.late_tiles * (cache / counts.splits > (hardware.l2_bytes or 0.0)))


def attention_peak(kernel: AttentionKernel, hardware: HardwareSpec, operator: Attention) -> float:
    """Matrix peak of the type attention multiplies in: 8 bits where the kernel keeps an 8-bit cache so, else 16 [FLOP/s]."""
    eight = kernel.eight_bit_math and element_type(operator.kv_dtype).bytes <= 1
    return hardware.peak("fp8", "fp8") if eight else hardware.peak_flop_per_s["bfloat16"]


def _padded_attention_flop(operator: Attention, counts: AttentionCounts) -> FloatArray:
    """FLOP over whole query tiles: tiles x B n_kv x tile rows x 2 x keys x (d_k + d_v) [FLOP]."""
    tiles = counts.query_tiles * operator.batch_size * operator.num_kv_heads
    return np.asarray(tiles * counts.tile_rows * 2.0 * counts.keys * (operator.head_dim + operator.values_dim))


def attention_bytes(operator: Attention, positions: IntArray) -> FloatArray:
    """KV bytes one attention reads: every sequence's visible cache and the new positions, once [B]."""
    return np.asarray((operator.mean_keys_before + positions) * operator.batch_size * operator.cache_bytes_per_token)


def query_bytes(operator: Attention, positions: IntArray) -> FloatArray:
    """Bytes of the queries read and the outputs written in 16 bits: B N H (d_k + d_v) x 2 [B]."""
    width = operator.head_dim + operator.values_dim
    return np.asarray(
        ACTIVATION_BYTES * width * operator.num_query_heads * operator.batch_size * positions, dtype=np.float64
    )


def stream_inputs(bound: BoundOperator, operator: Operator, rows: IntArray) -> dict[str, Any]:
    """Shape inputs of the streaming equation, shape (rows,).

    ``launches``, ``walked`` and ``searches`` are counts: kernels, elements a thread walks in means
    (:func:`~nfp_model.kernels.steps.walked_elements`), and searches along each of M rows, which count 1.5 - M^-1/2 times: our
    H100 timings of routers (``validation/data/h100/elementwise.csv``) rise over the first rows and then hardly more.
    """
    hardware = bound.hardware
    launches: FloatArray = np.ones(rows.shape)
    walked: FloatArray = np.zeros(rows.shape)
    searches: FloatArray = np.zeros(rows.shape)
    if isinstance(operator, Elementwise):
        launches = operator.launches + operator.several_rows_launches * np.greater(rows, 1.0)
        for width, per_row in operator.means:
            walked = walked + walked_elements(width, rows * per_row)
        searches = np.asarray(operator.searches * (1.5 - rows**-0.5))
        moved = operator.fixed_bytes + operator.bytes_per_row * rows
    else:
        assert isinstance(operator, LinearScan)
        moved = operator.state_bytes + operator.bytes_per_row * rows
    return {
        "bandwidth": hardware.memory_bandwidth_bytes_per_s,
        "moved_bytes": np.asarray(moved, dtype=np.float64),
        "launches": launches,
        "walked": walked,
        "searches": searches,
    }


def collective_inputs(bound: BoundOperator, operator: Collective, rows: IntArray) -> dict[str, Any]:
    """Shape inputs of a collective, shape (algorithms, rows): an all-reduce may also send everything to every rank at once.

    One exchange moves (r - 1) payloads over a rank's link, reduce-scatter and all-gather together 2 (r - 1) / r with one more
    exchange; vLLM (``csrc/custom_all_reduce.cuh``) and TensorRT-LLM choose between the two by size, here the faster counts.
    """
    two_exchanges = collective_bytes(operator) * rows
    moved, exchanges = [two_exchanges], [0.0]
    if operator.kind == "all_reduce":
        moved, exchanges = [two_exchanges, (operator.ranks - 1) * operator.bytes_per_row * rows], [1.0, 0.0]
    return {
        "bandwidth": link_bandwidth(bound.hardware, operator.ranks),
        "moved_bytes": np.array(moved, dtype=np.float64),
        "exchanges": np.array(exchanges)[:, None],
        "further_ranks": float(max(operator.ranks - 2, 0)),
    }


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
    if isinstance(constants, StreamConstants | CollectiveConstants):
        return np.zeros(tokens.size)
    if isinstance(operator, Gemm):
        flop, peak = (
            operator.flop_per_row * tokens,
            bound.hardware.peak(operator.weight_dtype, operator.activation_dtype),
        )
    elif isinstance(operator, FusedMoE):
        share = operator.top_k / operator.expert_parallel
        flop, peak = operator.flop_per_routed_row * share * tokens, bound.hardware.peak(operator.weight_dtype)
    elif isinstance(operator, CompressedAttention):
        flop = 2.0 * operator.weight_elements * operator.batch_size * tokens
        peak = bound.hardware.peak(operator.weight_dtype, "bfloat16")
    else:
        assert isinstance(operator, Attention)
        keys = sum(operator.keys_before(c) for c in operator.context_lengths) / len(operator.context_lengths)
        flop = operator.flop_per_position_and_key * operator.batch_size * tokens * (keys + tokens)
        assert isinstance(bound.kernel, AttentionKernel)
        peak = attention_peak(bound.kernel, bound.hardware, operator)
    return np.asarray(flop / (peak * constants.matrix_efficiency))
