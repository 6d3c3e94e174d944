"""Fused MoE: from a kernel's block rule to the counts the cost equations take."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nfp_model.errors import require_positive_int
from nfp_model.kernels.counts import FloatArray, IntArray, KernelRow, MoECounts
from nfp_model.kernels.routing import experts_beyond, experts_touched, routed_rows, row_blocks
from nfp_model.kernels.steps import ceil_div, floor_div, next_power_of_two, round_up
from nfp_model.operators import FusedMoE
from nfp_model.quantities import element_type
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.moe_kernel import MoEKernel, MoERow, TunedShape

BoolArray = npt.NDArray[np.bool_]

EVICTED_SHARE, EVICTED_POWER = 0.5, 1.5
"""Share of an expert's weights that left the last-level cache before its next block reads them, by the weights of that GEMM over
the cache: 0.5 x^1.5, at most 1; inferred [-]. Balanced curves of TRT-LLM-gen on B200 (aiconfigurator-core 0.12.0, vLLM 0.24.0, fit
half) rise by 11 % from one block an expert to two where gate and up take 21 MB, by 15, 19, 22 and 71 % at 34, 50, 63 and 168 MB in
bf16, by 10, 12 and 27 % at 10, 25 and 84 MB in fp8. Boundaries of balanced curves, shapes left out, 90th percentile: vLLM bf16 2.7
with all read again beyond the cache and nothing below it, 0.7 with this."""


RUN_BYTES, RUN_COST, RUN_POWER = 64.0, 0.45, 3.0
"""Weights read in runs of L bytes, the depth of a block, take 1 + 0.45 (64 B / L)^3 times as long; inferred [-]. Balanced curves
(aiconfigurator-core 0.12.0, fit half, all experts touched): from runs of 128 B to 64 B, where SGLang's 16-bit blocks pass M = E, times
rise by 33 % on H100 and by 51 to 55 % on H200, A100, L40S and RTX PRO 6000; from 256 B to 128 B, where vLLM's pass 64 rows, by 5 % on H100
and H200 and 8 % on L40S; 8-bit blocks, of 128 B throughout, show no step there. MAPE of balanced curves, shapes left out: L40S SGLang bf16
3.0 % with it, 4.1 % without, mxfp4 2.9 and 12.9 %; vLLM 2.0 and 3.2 %."""


@dataclass(frozen=True)
class MoEBlocks:
    """Block of each token count (all arrays of shape (tokens,)).

    Attributes
    ----------
    rows, columns, depth : ndarray of int
        Block height and width [rows], [columns]; elements of k in one step of its loop, 0 where that is not known.
    grouped, sparse : ndarray of bool
        Blocks of an expert share its weights in cache; each pair has a block of its own.
    choice : ndarray of int
        Index of the row, menu entry or tuned key that decided [-].
    in_range : ndarray of bool
        False where no row holds and the last one stood in.
    """

    rows: IntArray
    columns: IntArray
    depth: IntArray
    grouped: BoolArray
    sparse: BoolArray
    choice: IntArray
    in_range: BoolArray


def moe_counts(kernel: MoEKernel, hardware: HardwareSpec, operator: FusedMoE, tokens: IntArray) -> MoECounts:
    """Experts, row blocks and re-reads of a fused MoE layer under one kernel's rule.

    Of an expert's weights, each further row block reads again what left the last-level cache meanwhile where its blocks are
    not grouped; see :func:`evicted_share`.

    Parameters
    ----------
    kernel : MoEKernel
        Block rule.
    hardware : HardwareSpec
        For the cache size and the tuned shapes of this device.
    operator : FusedMoE
        Layer on one rank.
    tokens : ndarray of int
        Token rows M over all ranks [rows].

    Returns
    -------
    MoECounts
        Arrays of the shape of ``tokens``.

    Examples
    --------
    Mixtral in bf16 on an H100 under vLLM's default blocks: past 64 rows an expert takes a second block, and reads its
    weights again.

    >>> from nfp_model.specs.kernel_library import load_kernel
    >>> from nfp_model.specs.registry import load_hardware
    >>> kernel = load_kernel("triton_moe_vllm:default_16bit_int8")
    >>> mixtral = FusedMoE(4096, 14336, 8, 2, routing="balanced")
    >>> counts = moe_counts(kernel, load_hardware("h100"), mixtral, np.array([256, 320]))
    >>> counts.row_blocks.tolist(), counts.rereads_up.tolist()
    ([8.0, 16.0], [1.0, 1.0])
    """
    rows, operator = np.asarray(tokens, dtype=np.int64), as_stored(kernel, operator)
    blocks = moe_blocks(kernel, hardware, operator, rows)
    shape = (operator.load_routing, operator.num_experts, operator.top_k)
    routed = routed_rows(*shape, rows, operator.expert_parallel)
    number = row_blocks(*shape, rows, blocks.rows, operator.expert_parallel)
    number = np.where(blocks.sparse, routed, number)
    touched = experts_touched(*shape, rows, operator.expert_parallel)
    second = np.where(blocks.sparse, 0.0, experts_beyond(*shape, rows, blocks.rows, operator.expert_parallel))
    if kernel.computes_every_pair:
        number = number + np.maximum(rows * operator.top_k - routed, 0.0) / blocks.rows
    again = np.maximum(number - touched, second)
    cache = hardware.l2_bytes
    return MoECounts(
        experts_touched=touched,
        row_blocks=number,
        block_rows=blocks.rows.astype(np.float64),
        block_columns=blocks.columns.astype(np.float64),
        routed_rows=routed,
        rereads_up=np.where(blocks.grouped, 0.0, kernel.evicted_read * evicted_share(operator.up_bytes, cache)),
        rereads_down=np.where(blocks.grouped, 0.0, kernel.evicted_read * evicted_share(operator.down_bytes, cache)),
        reread_weight=1.0 - kernel.second_saves * np.divide(second, again, out=np.zeros_like(again), where=again > 0),
        fixed_share=np.where(blocks.sparse, kernel.sparse_path_fixed_share, 1.0)
        * (kernel.expert_parallel_fixed_share if operator.expert_parallel > 1 else 1.0),
        stream_slowed=kernel.expansion_cost
        * _slowed_by_partial_tiles(kernel, operator)
        * _slowed_by_short_runs(operator, blocks)
        * _slowed_by_idle_rows(kernel, blocks, number, routed),
        waves=_waves(operator, hardware.sm_count * kernel.resident_blocks, number, blocks),
    )


def evicted_share(weight_bytes: float, cache: float | None) -> float:
    """Share of a GEMM's weights that an expert's next block finds evicted, where its blocks are not grouped [-].

    Parameters
    ----------
    weight_bytes : float
        Of one expert in that GEMM: what is read between a block's use of a line and the next block's [B].
    cache : float or None
        Last-level cache [B]; 0 is returned where it is not known.

    Examples
    --------
    >>> evicted_share(25e6, 100e6), evicted_share(400e6, 100e6)
    (0.0625, 1.0)
    """
    return 0.0 if cache is None else min(1.0, EVICTED_SHARE * (weight_bytes / cache) ** EVICTED_POWER)


def as_stored(kernel: MoEKernel, operator: FusedMoE) -> FusedMoE:
    """The layer with its weights in the format and the sizes the engine keeps them in.

    Examples
    --------
    SGLang expands MXFP4 experts to 16 bits while loading where the chip has no pipe for them.

    >>> from nfp_model.specs.kernel_library import load_kernel
    >>> as_stored(load_kernel("triton_moe_sglang:expanded_mxfp4"), FusedMoE(2880, 2880, 128, 4, "mxfp4")).weight_dtype
    'bfloat16'
    """
    hidden, width = (int(round_up(size, kernel.padded_to)) for size in (operator.hidden_size, operator.local_width))
    return replace(
        operator,
        weight_dtype=kernel.stored_as or operator.weight_dtype,
        hidden_size=hidden,
        intermediate_size=width * operator.tensor_parallel,
    )


def _slowed_by_short_runs(operator: FusedMoE, blocks: MoEBlocks) -> FloatArray:
    """Time of the weight stream over that of long runs, see :data:`RUN_COST`; 1 where the depth of a block is not known [-]."""
    runs = blocks.depth * element_type(operator.weight_dtype).bytes
    return 1.0 + np.where(runs > 0, RUN_COST * (RUN_BYTES / np.maximum(runs, 1.0)) ** RUN_POWER, 0.0)


def _slowed_by_partial_tiles(kernel: MoEKernel, operator: FusedMoE) -> float:
    """Elements of the whole tiles of an expert's weights over the weights, where the kernel names the depth of a tile [-]."""
    if kernel.tile_depth is None or kernel.block_columns is None:
        return 1.0
    gates, width, hidden = operator.matrices - 1, operator.local_width, operator.hidden_size
    up = float(round_up(gates * width, kernel.block_columns) * round_up(hidden, kernel.tile_depth))
    down = float(round_up(hidden, kernel.block_columns) * round_up(width, kernel.tile_depth))
    return (up + down) / (operator.matrices * width * hidden)


def _slowed_by_idle_rows(kernel: MoEKernel, blocks: MoEBlocks, number: FloatArray, routed: FloatArray) -> FloatArray:
    """Time of the weight stream over that of full blocks, where the kernel names a block whose idle rows slow it [-]."""
    idle = 1.0 - routed / np.maximum(number * blocks.rows, 1.0)
    return 1.0 + np.where(blocks.rows == (kernel.idle_tile or 0), kernel.idle_cost * np.clip(idle, 0.0, 1.0), 0.0)


def _waves(operator: FusedMoE, places: int, row_blocks: FloatArray, blocks: MoEBlocks) -> FloatArray:
    """Waves of the two grouped GEMMs: row blocks times column tiles over the places on the SMs, at least one each.

    Where the depth of a block is known a wave counts once for each step of its loop along k.
    """
    up, down = (operator.matrices - 1) * operator.local_width, operator.hidden_size
    found = np.zeros(row_blocks.shape)
    for width, length in ((up, operator.hidden_size), (down, operator.local_width)):
        steps = np.where(blocks.depth > 0, ceil_div(length, np.maximum(blocks.depth, 1)), 1.0)
        found += np.maximum(1.0, row_blocks * ceil_div(width, blocks.columns) / places) * steps
    return found


def moe_row(kernel: MoEKernel, hardware: HardwareSpec, operator: FusedMoE, tokens: int) -> KernelRow:
    """Which row of the kernel decided the block of ``tokens`` rows, with its source.

    Parameters
    ----------
    kernel, hardware, operator
        As for :func:`moe_counts`.
    tokens : int
        Token rows M over all ranks [rows].

    Examples
    --------
    >>> from nfp_model.specs.kernel_library import load_kernel
    >>> from nfp_model.specs.registry import load_hardware
    >>> kernel = load_kernel("triton_moe_vllm:default_16bit_int8")
    >>> moe_row(kernel, load_hardware("h100"), FusedMoE(4096, 14336, 8, 2), 48).rule
    '33 <= M <= 64: 32 x 64'
    """
    blocks = moe_blocks(kernel, hardware, operator, np.array([tokens], dtype=np.int64))
    tile = f"{blocks.rows[0]} x {blocks.columns[0]}"
    tuned = tuned_shape(kernel, hardware, operator)
    choice, in_range = int(blocks.choice[0]), bool(blocks.in_range[0])
    if tuned is not None:
        key = tuned.tokens[choice]
        return KernelRow(kernel.key, f"tuned file, key {key}: {tile}{_sparse_words(blocks)}", tuned.source)
    if kernel.selection == "rows":
        row = kernel.rows[choice]
        words = f"{row.words}{_sparse_words(blocks)}"
        return KernelRow(kernel.key, words, row.source, row.inferred or kernel.inferred, in_range)
    per_expert = _pairs(operator, np.array([tokens]))[0] / _experts(kernel, operator)
    words = f"{kernel.selection.replace('_', ' ')}, {per_expert:.4g} rows per expert: {tile}{_sparse_words(blocks)}"
    return KernelRow(kernel.key, words, kernel.source, kernel.inferred, in_range)


def moe_edges(kernel: MoEKernel, hardware: HardwareSpec, operator: FusedMoE, max_tokens: int) -> IntArray:
    """Left edges of the ranges of M in which the block rule stays the same; for balanced routing, the counts too.

    Between two edges the counts are smooth in M; balanced routing keeps experts and blocks constant. Power-law loads are
    whole numbers and move by single rows at every M; those steps are no edges. Where idle rows slow a tile, the latency may fall while
    it fills: every M that runs it is an edge.

    Parameters
    ----------
    kernel, hardware, operator
        As for :func:`moe_counts`.
    max_tokens : int
        Last M looked at [rows].

    Returns
    -------
    ndarray of int
        Rising, the first is 1 [rows].

    Examples
    --------
    >>> from nfp_model.specs.kernel_library import load_kernel
    >>> from nfp_model.specs.registry import load_hardware
    >>> kernel = load_kernel("triton_moe_sglang:default_16bit")
    >>> moe_edges(kernel, load_hardware("h100"), FusedMoE(2048, 1024, 64, 8), 4096).tolist()
    [1, 65]
    """
    require_positive_int(max_tokens=max_tokens)
    rows = np.arange(1, max_tokens + 1, dtype=np.int64)
    blocks = moe_blocks(kernel, hardware, operator, rows)
    watched: list[npt.NDArray[np.generic]] = [blocks.rows, blocks.columns, blocks.depth, blocks.grouped, blocks.sparse]
    if operator.load_routing.kind == "balanced":
        counts = moe_counts(kernel, hardware, operator, rows)
        watched += [counts.experts_touched, counts.row_blocks]
    changed: BoolArray = np.asarray(blocks.rows == (kernel.idle_tile or 0), dtype=bool)
    changed[0] = True
    for values in watched:
        changed[1:] |= values[1:] != values[:-1]
    return np.asarray(rows[changed], dtype=np.int64)


def tuned_shape(kernel: MoEKernel, hardware: HardwareSpec, operator: FusedMoE) -> TunedShape | None:
    """The tuned entry for this device, expert shape and data type, if the kernel has one."""
    for shape in kernel.tuned:
        if (
            (not shape.devices or hardware.name in shape.devices)
            and shape.num_experts == operator.local_experts
            and shape.width == operator.local_width
            and (kernel.stored_as or operator.weight_dtype) in shape.weight_dtypes
        ):
            return shape
    return None


def moe_blocks(kernel: MoEKernel, hardware: HardwareSpec, operator: FusedMoE, tokens: IntArray) -> MoEBlocks:
    """The block each token count gets; a tuned shape wins over the rule.

    Parameters
    ----------
    kernel, hardware, operator, tokens
        As for :func:`moe_counts`.
    """
    rows = np.asarray(tokens, dtype=np.int64)
    blocks = _by_rows(kernel, operator, rows) if kernel.selection == "rows" else _by_menu(kernel, operator, rows)
    tuned = tuned_shape(kernel, hardware, operator)
    return blocks if tuned is None else _by_tuning(tuned, blocks, rows)


def _by_rows(kernel: MoEKernel, operator: FusedMoE, tokens: IntArray) -> MoEBlocks:
    pairs, experts = _pairs(operator, tokens), _experts(kernel, operator)
    choice = np.full(tokens.shape, -1, dtype=np.int64)
    for index, row in enumerate(kernel.rows):
        choice[(choice < 0) & _holds(row, operator, tokens, pairs, experts)] = index
    in_range = choice >= 0
    choice[~in_range] = len(kernel.rows) - 1
    grouped = np.array([row.grouped for row in kernel.rows])[choice]
    if kernel.grouped_above_tokens_per_expert is not None:
        grouped = grouped | (floor_div(tokens, operator.local_experts) > kernel.grouped_above_tokens_per_expert)
    return MoEBlocks(
        rows=np.array([row.block_rows for row in kernel.rows], dtype=np.int64)[choice],
        columns=np.array([row.block_columns for row in kernel.rows], dtype=np.int64)[choice],
        depth=np.array([row.block_depth or 0 for row in kernel.rows], dtype=np.int64)[choice],
        grouped=grouped,
        sparse=_sparse(kernel, operator, tokens),
        choice=choice,
        in_range=in_range,
    )


def _holds(row: MoERow, operator: FusedMoE, tokens: IntArray, pairs: FloatArray, experts: int) -> BoolArray:
    held: BoolArray = tokens >= row.min_tokens
    if row.max_tokens is not None:
        held &= tokens <= row.max_tokens
    if row.tokens_against_experts is not None:
        at_most = tokens <= operator.local_experts
        held &= at_most if row.tokens_against_experts == "at_most" else ~at_most
    if row.above_rows_per_expert is not None:
        held &= pairs > row.above_rows_per_expert * experts
    if row.up_to_rows_per_expert is not None:
        held &= pairs <= row.up_to_rows_per_expert * experts
    if row.min_up_columns is not None and (operator.matrices - 1) * operator.local_width < row.min_up_columns:
        held = np.zeros_like(held)
    if row.min_hidden_size is not None and operator.hidden_size < row.min_hidden_size:
        held = np.zeros_like(held)
    return held


def _by_menu(kernel: MoEKernel, operator: FusedMoE, tokens: IntArray) -> MoEBlocks:
    menu = np.array(kernel.menu, dtype=np.int64)
    index = _menu_index(kernel, _pairs(operator, tokens), _experts(kernel, operator), menu)
    return MoEBlocks(
        rows=menu[index],
        columns=np.full(tokens.shape, kernel.block_columns, dtype=np.int64),
        depth=np.zeros(tokens.shape, dtype=np.int64),
        grouped=np.full(tokens.shape, kernel.grouped),
        sparse=_sparse(kernel, operator, tokens),
        choice=index,
        in_range=np.ones(tokens.shape, dtype=bool),
    )


def _menu_index(kernel: MoEKernel, pairs: FloatArray, experts: int, menu: IntArray) -> IntArray:
    if kernel.selection == "occupancy":
        # Division in the order the launcher writes it, so that a tie falls on the same side.
        fits = pairs[:, None] / experts / menu[None, :] < (kernel.fill_limit or 1.0)
        return np.where(fits.any(axis=1), fits.argmax(axis=1), menu.size - 1)
    if kernel.selection == "next_power_of_two":
        whole = np.maximum(floor_div(pairs, experts), 1)
        doubled = whole <= (kernel.double_up_to or 0)
        tile = next_power_of_two(np.where(doubled, 2 * whole, whole))
        limit = np.where(doubled, kernel.double_limit or menu[-1], menu[-1])
        return np.searchsorted(menu, np.minimum(tile, limit)).astype(np.int64)
    covering = np.searchsorted(menu, ceil_div(pairs, experts))
    index: IntArray = np.clip(np.minimum(covering, menu.size - 1) + kernel.menu_offset, 0, menu.size - 1)
    return index


def _by_tuning(tuned: TunedShape, rule: MoEBlocks, tokens: IntArray) -> MoEBlocks:
    """Nearest key, a tie to the first in the file. Tuned tiles count as grouped: tuning picks what re-reads least."""
    keys = np.array(tuned.tokens, dtype=np.int64)
    choice = np.abs(tokens[:, None] - keys[None, :]).argmin(axis=1)
    columns = rule.columns if tuned.block_columns is None else np.array(tuned.block_columns, dtype=np.int64)[choice]
    depth = rule.depth if tuned.block_depth is None else np.array(tuned.block_depth, dtype=np.int64)[choice]
    return MoEBlocks(
        rows=np.array(tuned.block_rows, dtype=np.int64)[choice],
        columns=columns,
        depth=depth,
        grouped=np.ones(tokens.shape, dtype=bool),
        sparse=rule.sparse,
        choice=choice,
        in_range=np.ones(tokens.shape, dtype=bool),
    )


def _sparse(kernel: MoEKernel, operator: FusedMoE, tokens: IntArray) -> BoolArray:
    if kernel.sparse_path_factor is None or operator.expert_parallel > 1:
        return np.zeros(tokens.shape, dtype=bool)
    return tokens * operator.top_k * kernel.sparse_path_factor <= operator.num_experts


def _sparse_words(blocks: MoEBlocks) -> str:
    return "; sparse path, one block a pair" if bool(blocks.sparse[0]) else ""


def _pairs(operator: FusedMoE, tokens: npt.NDArray[np.int64]) -> FloatArray:
    return (tokens * operator.top_k).astype(np.float64)


def _experts(kernel: MoEKernel, operator: FusedMoE) -> int:
    return operator.num_experts if kernel.expert_basis == "global" else operator.local_experts
