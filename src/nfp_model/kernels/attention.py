"""Query tiles, KV splits and waves of decode attention, exactly, as each kernel decides them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from nfp_model.errors import InvalidArgumentError, UnsupportedError
from nfp_model.kernels.attention_splits import (
    SPLIT_RULES,
    SplitCase,
    mmha_resident,
    mmha_split_keys,
    width_parts,
)
from nfp_model.kernels.counts import AttentionCounts, FloatArray, IntArray, KernelRow
from nfp_model.kernels.steps import (
    ceil_div,
    ceil_ratio,
    floor_div,
    next_power_of_two,
    round_half_even,
    shared_waves,
    whole_waves,
)
from nfp_model.operators import Attention
from nfp_model.specs.attention_kernel import AttentionKernel, AttentionRow
from nfp_model.specs.hardware import HardwareSpec

KEY_STEP = 128
"""Keys of one serial step of the cost model (its section 4) [tokens]."""

FILLING_SPLIT_KEYS = 256
"""Fewest keys of a split where TRT-LLM-gen chooses between its two MLA kernels [tokens] (``useSwapsMmaAbMlaGenKernel``)."""

TRTLLM_GEN_TILES = (8, 16, 32, 64, 128)
TRTLLM_GEN_LOOP_COST = (1.0, 1.2, 1.48, 1.68, 2.2)
TRTLLM_GEN_REDUCTION_COST = (1.0, 1.03, 1.08, 1.2, 1.32)
"""Tiles of TRT-LLM-gen and their relative cost per key and per KV split [-] (flashinfer ``trtllm/fmha/fmhaKernels.cuh``)."""


def attention_counts(
    kernel: AttentionKernel, hardware: HardwareSpec, operator: Attention, positions: IntArray
) -> AttentionCounts:
    """Tiles, splits and waves of decode attention over query positions per sequence.

    With g query heads per KV head, N positions and a tile of t rows, tiles per (sequence, KV head) are::

        free      ceil(N g / t)                    heads and positions share the rows
        aligned   ceil(N / max(1, floor(t / g)))   whole positions only
        heads     N ceil(g / t)                    one position a CTA
        none      g ceil(N / t)                    one head a CTA

    and waves = ceil(tiles B n_kv s / (SM o)) with s KV splits by the kernel's rule and o CTAs per SM.

    Parameters
    ----------
    kernel : AttentionKernel
        Its rows are taken in order, first match wins at each N.
    hardware : HardwareSpec
        For its SM count.
    operator : Attention
        Shape and context.
    positions : ndarray of int, shape (positions,)
        N [positions].

    Raises
    ------
    InvalidArgumentError
        For positions below 1.
    UnsupportedError
        For MLA with a kernel that is not for it, or the reverse.

    Examples
    --------
    FlashAttention-2 serves one position with the group packed and the cache split, two positions without either.

    >>> from nfp_model import load_hardware
    >>> from nfp_model.operators import Attention
    >>> from nfp_model.specs.kernel_library import load_kernel
    >>> counts = attention_counts(load_kernel("fa2_sm80:paged_varlen"), load_hardware("a100"), Attention(32, 8, 128, 4096),
    ...     np.array([1, 2]))
    >>> counts.splits.tolist(), counts.query_tiles.tolist()
    ([17.0, 1.0], [1.0, 4.0])
    """
    whole = _whole_positions(kernel, operator, positions)
    index, _ = _rows(kernel, hardware.sm_count, operator, whole)
    return _counts(kernel, hardware.sm_count, operator, whole, index)


def attention_row(kernel: AttentionKernel, hardware: HardwareSpec, operator: Attention, positions: int) -> KernelRow:
    """Which row of the kernel file decides at ``positions`` query positions, for the explanation.

    Examples
    --------
    >>> from nfp_model import load_hardware
    >>> from nfp_model.operators import Attention
    >>> from nfp_model.specs.kernel_library import load_kernel
    >>> fa2 = load_kernel("fa2_sm80:paged_varlen")
    >>> attention_row(fa2, load_hardware("a100"), Attention(32, 8, 128, 4096), 2).rule
    '2 <= N, d <= 128: tile 64, packing none, KV split none'
    """
    whole = _whole_positions(kernel, operator, np.array([positions]))
    index, found = _rows(kernel, hardware.sm_count, operator, whole)
    row = kernel.rows[int(index[0])]
    inside = bool(found[0]) and (kernel.max_positions is None or positions <= kernel.max_positions)
    return KernelRow(kernel.key, row.label, row.source or kernel.source, inferred=kernel.inferred, in_range=inside)


def attention_edges(
    kernel: AttentionKernel, hardware: HardwareSpec, operator: Attention, max_positions: int
) -> IntArray:
    """Left edges: every N up to ``max_positions`` at which a count, or a CTA's number of 128-key steps, changes; 1 among them.

    ``keys`` itself grows by one with every position and is no step.

    Examples
    --------
    >>> from nfp_model import load_hardware
    >>> from nfp_model.operators import Attention
    >>> from nfp_model.specs.kernel_library import load_kernel
    >>> kernel = load_kernel("fa2_sm80:paged_varlen")
    >>> attention_edges(kernel, load_hardware("a100"), Attention(32, 8, 128, 4096), 64).tolist()
    [1, 2]
    """
    if max_positions < 1:
        raise InvalidArgumentError(f"max_positions must be at least 1, got {max_positions!r}")
    return _edges(kernel, hardware.sm_count, operator, max_positions)


@lru_cache(maxsize=512)
def _edges(kernel: AttentionKernel, sm_count: int, operator: Attention, max_positions: int) -> IntArray:
    positions = np.arange(1, max_positions + 1)
    whole = _whole_positions(kernel, operator, positions)
    index, _ = _rows(kernel, sm_count, operator, whole)
    counts = _counts(kernel, sm_count, operator, whole, index)
    stacked = np.stack(
        [
            counts.tile_rows,
            counts.query_tiles,
            counts.splits,
            counts.ctas_per_kv,
            counts.resident,
            counts.waves,
            counts.kv_reads,
            counts.key_steps,
        ]
    )
    changed = np.any(stacked[:, 1:] != stacked[:, :-1], axis=0)
    edges = np.concatenate([[1], np.flatnonzero(changed) + 2]).astype(np.int64)
    edges.setflags(write=False)
    return edges


def _whole_positions(kernel: AttentionKernel, operator: Attention, positions: npt.ArrayLike) -> IntArray:
    if kernel.latent != operator.latent:
        kinds = {True: "MLA in its absorbed form", False: "ordinary attention"}
        raise UnsupportedError(
            f"kernel {kernel.key} serves {kinds[kernel.latent]}, the operator is {kinds[operator.latent]}"
        )
    whole = np.atleast_1d(np.asarray(positions, dtype=np.int64))
    if whole.size and int(whole.min()) < 1:
        raise InvalidArgumentError(f"query positions must be at least 1, got {int(whole.min())}")
    return whole


def _rows(
    kernel: AttentionKernel, sm_count: int, operator: Attention, positions: IntArray
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Index of the first row that holds at each N, and whether any does; the last row stands in where none does."""
    holds = np.stack([_holds(row, kernel.drops_windows, sm_count, operator, positions) for row in kernel.rows])
    found = holds.any(axis=0)
    index: npt.NDArray[np.intp] = np.where(found, holds.argmax(axis=0), len(kernel.rows) - 1)
    return index, np.asarray(found, dtype=bool)


def _holds(
    row: AttentionRow, drops_windows: bool, sm_count: int, operator: Attention, positions: IntArray
) -> npt.NDArray[np.bool_]:
    fits = (
        row.min_group <= operator.group_size <= (row.max_group or operator.group_size)
        and row.min_head_dim <= operator.head_dim <= (row.max_head_dim or operator.head_dim)
        and operator.batch_size <= (row.max_batch or operator.batch_size)
        and row.causal in (None, operator.causal)
    )
    if not fits:
        return np.zeros(positions.shape, dtype=bool)
    windowed = np.full(positions.shape, operator.window is not None)
    if drops_windows:
        windowed &= _cached(operator, positions) > _keys(operator, positions)
    longest = positions if row.packed_length == "own" else (positions - 1) * operator.batch_size + 1
    packed = longest * operator.group_size
    holds = (positions >= row.min_positions) & (packed >= row.min_packed)
    if row.windowed is not None:
        holds &= windowed == row.windowed
    if row.max_positions is not None:
        holds &= positions <= row.max_positions
    if row.max_packed is not None:
        holds &= packed <= row.max_packed
    if row.max_useful_tiles is not None or row.max_tiles_per_sm is not None:
        tiles = _query_tiles(row, operator, positions, _tile_rows(row, operator, positions))
        useful = tiles * operator.batch_size * operator.num_kv_heads
        holds &= useful <= (row.max_useful_tiles or np.inf)
        holds &= useful <= (row.max_tiles_per_sm or np.inf) * sm_count
    if row.max_split_keys is not None:
        holds &= _filling_split(row, sm_count, operator, positions) <= row.max_split_keys
    if row.min_key_blocks_per_sm is not None:
        planned = _cached(operator, positions) if row.splits_whole_cache else _keys(operator, positions)
        blocks = np.maximum(floor_div(planned, KEY_STEP), 1.0)
        holds &= operator.batch_size * operator.num_kv_heads * blocks >= row.min_key_blocks_per_sm * sm_count
    return holds


def _filling_split(row: AttentionRow, sm_count: int, operator: Attention, positions: IntArray) -> FloatArray:
    """Keys of a split where splits of at least 256 keys fill the SMs once with the row's tiles [tokens].

    flashinfer ``trtllm/fmha/fmhaKernels.cuh :: useSwapsMmaAbMlaGenKernel``.
    """
    tiles = _query_tiles(row, operator, positions, _tile_rows(row, operator, positions))
    keys = _keys(operator, positions)
    room = np.maximum(floor_div(sm_count, tiles * operator.batch_size * operator.num_kv_heads), 1.0)
    return np.asarray(ceil_ratio(keys, np.minimum(ceil_div(keys, FILLING_SPLIT_KEYS), room)))


def _counts(
    kernel: AttentionKernel, sm_count: int, operator: Attention, positions: IntArray, index: npt.NDArray[np.intp]
) -> AttentionCounts:
    size = positions.shape
    (
        tile_rows,
        query_tiles,
        splits,
        resident,
        exposed,
        passes,
        planned,
        step_cost,
        key_steps,
        shared,
        parts,
        launched,
        late,
        masked,
        combine_kernel,
        kv_blocks,
        beside,
        own_rate,
        at_work,
        start_cost,
        fixed_share,
    ) = (np.ones(size) for _ in range(21))
    keys = _keys(operator, positions)
    for number in np.unique(index):
        row, at = kernel.rows[number], index == number
        tiles = _tile_rows(row, operator, positions[at])
        if row.tile_rule == "trtllm_gen":
            tiles = _trtllm_gen_tiles(row, sm_count, operator, positions[at], keys[at])
        tile_rows[at] = tiles
        query_tiles[at] = _query_tiles(row, operator, positions[at], tiles)
        masked[at] = _masked_keys(row, operator, positions[at])
        walked = keys[at] + masked[at] + _masked_steps(row, operator, positions[at])
        whole = _cached(operator, positions[at])
        case = _split_case(row, sm_count, operator, query_tiles[at], whole if row.splits_whole_cache else keys[at])
        splits[at] = SPLIT_RULES[row.split_rule](case)
        resident[at], step_cost[at], shared[at] = row.resident, row.step_cost, row.resident_cost
        beside[at], start_cost[at], fixed_share[at] = row.resident_cost, row.start_cost, row.fixed_share
        parts[at] = row.width_parts
        if row.splits_width:
            parts[at] = width_parts(case, splits[at], positions[at])
            splits[at] = SPLIT_RULES[row.split_rule](replace(case, tiles=case.tiles * parts[at]))
            step_cost[at] *= _width_share(operator, parts[at])
        key_steps[at] = serial_steps(walked, splits[at], row.kv_block)
        at_work[at] = _at_work(row, splits[at], walked, key_steps[at])
        own_rate[at] = row.split_threads is not None
        if row.split_threads is not None:
            # CTAs of an SM share its rate of steps, their starts run side by side.
            resident[at] = shared[at] = mmha_resident(case, row.resident)
        exposed[at], planned[at] = row.exposed_starts, _planned(row, operator)
        passes[at], combine_kernel[at] = _passes(row, operator, splits[at]), row.combine_kernel
        kv_blocks[at] = case.kv_blocks
        late[at] = _late_tiles(row, sm_count, operator, query_tiles[at])
        launched[at] = case.launched if row.launches_all_splits else splits[at]
    sequences = operator.batch_size * operator.num_kv_heads
    ctas_per_kv = sequences * splits
    ctas = round_half_even(query_tiles * parts * sequences * at_work)
    waves = shared_waves(ctas, sm_count, resident, shared)
    slots = sm_count * resident
    # A persistent CTA that walks several sequences in turn starts each of them.
    launches = query_tiles * parts * sequences * launched
    started = shared_waves(round_half_even(launches), sm_count, resident, beside)
    starts = started * np.maximum(ceil_ratio(np.ones(size), splits), 1.0) * start_cost
    return AttentionCounts(
        tile_rows=tile_rows,
        query_tiles=query_tiles,
        splits=splits,
        ctas_per_kv=ctas_per_kv,
        resident=resident,
        waves=waves,
        keys=keys,
        masked_keys=masked,
        key_steps=key_steps,
        hidden_starts=starts * (1.0 - exposed),
        exposed_starts=starts * exposed,
        passes=passes,
        combine_kernel=combine_kernel,
        planned=planned,
        step_cost=step_cost,
        kv_reads=query_tiles,
        filled=np.asarray(ctas / (slots * np.maximum(whole_waves(ctas, slots), 1.0))),
        starting=np.minimum(query_tiles * parts * sequences * np.minimum(splits, kv_blocks) / slots, 1.0),
        late_tiles=late,
        own_rate=own_rate,
        fixed_share=fixed_share,
    )


def _width_share(operator: Attention, parts: FloatArray) -> FloatArray:
    """What a CTA fetches for a key, all of its width and a share of the value's, over all of both [-]."""
    return np.asarray((operator.head_dim + operator.values_dim / parts) / (operator.head_dim + operator.values_dim))


def _at_work(row: AttentionRow, splits: FloatArray, walked: FloatArray, key_steps: FloatArray) -> FloatArray:
    """Splits that have keys: those planned for the whole cache share what a window leaves of it, the others end at once [-]."""
    if not row.splits_whole_cache:
        return splits
    steps = ceil_div(walked, row.kv_block) * row.kv_block / KEY_STEP
    return np.minimum(splits, ceil_ratio(steps, key_steps))


def _late_tiles(row: AttentionRow, sm_count: int, operator: Attention, tiles: FloatArray) -> FloatArray:
    """Query tiles of a sequence over those that run at once, less one, where the grid takes every sequence in between [-]."""
    if not row.sequences_first:
        return np.zeros(tiles.shape)
    together = np.clip(sm_count * row.resident / (operator.batch_size * operator.num_kv_heads), 1.0, tiles)
    return np.asarray(tiles / together - 1.0)


def _planned(row: AttentionRow, operator: Attention) -> float:
    return float(operator.batch_size) if operator.batch_size <= (row.max_planned or operator.batch_size) else 0.0


def _passes(row: AttentionRow, operator: Attention, splits: FloatArray) -> FloatArray:
    """Combination of s splits, log2 s, or 1 + s / s0 where another kernel takes them in turn; 1 for copies that regroup heads [-]."""
    several = operator.batch_size > 1 and operator.num_kv_heads > 1 and operator.group_size > 1
    whole = np.maximum(splits, 1.0)
    combined = (
        np.log2(whole) if row.combine_splits is None else np.where(splits > 1, 1.0 + splits / row.combine_splits, 0.0)
    )
    return np.asarray(combined + float(row.regroups and several))


def _keys(operator: Attention, positions: IntArray) -> FloatArray:
    """Keys the last new position of the longest sequence walks through, at most: cached ones in its reach and the new ones."""
    cached = max(operator.keys_before(context) for context in operator.context_lengths)
    return (cached + positions).astype(np.float64)


def _masked_keys(row: AttentionRow, operator: Attention, positions: IntArray) -> FloatArray:
    """Keys before the window in the KV block it starts in: the kernel's loop starts with that block [tokens]."""
    hidden = _cached(operator, positions) - _keys(operator, positions)
    return np.asarray(hidden - floor_div(hidden, row.kv_block) * row.kv_block)


def _masked_steps(row: AttentionRow, operator: Attention, positions: IntArray) -> FloatArray:
    """Keys' worth of the blocks that are stepped through but masked, where a window hides keys [tokens]."""
    hides = _cached(operator, positions) > _keys(operator, positions)
    return np.asarray(row.masked_blocks * row.kv_block * hides, dtype=np.float64)


def _cached(operator: Attention, positions: IntArray) -> FloatArray:
    """Keys of the longest sequence, seen or not, at most."""
    return (max(operator.context_lengths) + positions).astype(np.float64)


def _tile_rows(row: AttentionRow, operator: Attention, positions: IntArray) -> FloatArray:
    if row.tile_rule == "group":
        return np.full(positions.shape, float(operator.group_size))
    if row.tile_rule == "group_power_of_two":
        return np.maximum(next_power_of_two(np.full(positions.shape, operator.group_size)), float(row.tile_rows))
    if row.tile_rule == "packed_power_of_two":
        return np.maximum(next_power_of_two(positions * operator.group_size), float(row.tile_rows))
    return np.full(positions.shape, float(row.tile_rows))


def _query_tiles(row: AttentionRow, operator: Attention, positions: IntArray, tile_rows: FloatArray) -> FloatArray:
    group = operator.group_size
    if row.packing == "free":
        return ceil_div(positions * group, tile_rows)
    if row.packing == "aligned":
        return ceil_div(positions, np.maximum(floor_div(tile_rows, group), 1.0)) * ceil_div(
            group, np.maximum(tile_rows, 1.0)
        )
    if row.packing == "heads":
        return positions * ceil_div(group, tile_rows)
    return group * ceil_div(positions, tile_rows)


def _split_case(
    row: AttentionRow, sm_count: int, operator: Attention, tiles: FloatArray, keys: FloatArray
) -> SplitCase:
    least = 1 if row.split_threads is None else mmha_split_keys(row.split_threads, operator.head_dim)
    return SplitCase(
        tiles, keys, operator.batch_size, operator.num_kv_heads, sm_count, row.kv_block, row.max_splits, least
    )


def _trtllm_gen_tiles(
    row: AttentionRow, sm_count: int, operator: Attention, positions: IntArray, keys: FloatArray
) -> FloatArray:
    """The smallest tile that holds N g rows; with several positions and half the SMs idle, the cheapest tile of at least g.

    Cost = waves x [c(tile) keys per CTA + r(tile) 128 splits], with the factors the library states
    (flashinfer ``trtllm/fmha/fmhaKernels.cuh``).
    """
    ladder = np.array(TRTLLM_GEN_TILES, dtype=np.int64)
    packed = positions * operator.group_size
    first = np.minimum(np.searchsorted(ladder, packed), len(ladder) - 1)
    per_tile = []
    for tile, loop, reduction in zip(TRTLLM_GEN_TILES, TRTLLM_GEN_LOOP_COST, TRTLLM_GEN_REDUCTION_COST, strict=True):
        tiles = _query_tiles(row, operator, positions, np.full(positions.shape, float(tile)))
        case = _split_case(row, sm_count, operator, tiles, keys)
        splits = SPLIT_RULES[row.split_rule](case)
        waves = whole_waves(case.ctas * splits, sm_count)
        cost = waves * (loop * keys / splits + reduction * 128.0 * splits)
        allowed = (tile >= operator.group_size) & (ladder[first] >= tile)
        per_tile.append(np.where(allowed, cost, np.inf))
    tiles_first = _query_tiles(row, operator, positions, ladder[first].astype(np.float64))
    idle = 2.0 * tiles_first * operator.batch_size * operator.num_kv_heads <= sm_count
    chosen = np.where((positions > 1) & idle, np.argmin(np.stack(per_tile), axis=0), first)
    return ladder[chosen].astype(np.float64)


def serial_steps(keys: FloatArray, splits: FloatArray, kv_block: npt.ArrayLike) -> FloatArray:
    """Steps one CTA walks, in units of 128 keys: ceil(ceil(keys / b) / s) b / 128 for KV blocks of b, s possibly below 1 [-].

    Examples
    --------
    33 blocks of 128 keys over 16 splits; 43 blocks of 96 over as many:

    >>> serial_steps(np.array([4097.0, 4097.0]), np.array([16.0, 16.0]), np.array([128.0, 96.0])).tolist()
    [3.0, 2.25]
    """
    block = np.asarray(kv_block, dtype=np.float64)
    return np.asarray(ceil_ratio(ceil_div(keys, block), splits) * block / KEY_STEP)


__all__ = ["attention_counts", "attention_edges", "attention_row", "serial_steps"]
