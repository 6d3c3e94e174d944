"""Exact counts a kernel rule yields for a shape: the integers that enter the cost equations as input symbols.

Arrays broadcast: the last axis is the token axis; a leading menu axis holds the tiles a library may choose from, over which
the cost is minimised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class KernelRow:
    """Which row of which kernel file decided, for the explanation.

    Attributes
    ----------
    kernel : str
        ``library_arch:kernel``, for example ``cublas_sm90:nvjet``.
    rule : str
        The row in words, for example ``T <= 32: 16 x 64``.
    source : str
        Public source of the row.
    inferred : bool
        The rule was inferred from measured steps, not read in source.
    in_range : bool
        False where no row covers the shape and the nearest was used.
    """

    kernel: str
    rule: str
    source: str
    inferred: bool = False
    in_range: bool = True


@dataclass(frozen=True)
class GemmCounts:
    """Tiles and waves of a dense GEMM over ``rows``.

    Attributes
    ----------
    tile_rows, tile_columns, splits : ndarray, shape (menu, 1) or (menu, rows)
        Token-side tile bm, output-side tile bn, split-K count s.
    waves : ndarray, shape (menu, rows)
        max(1, tiles x s / SM), rounded up where the kernel is known to run whole waves, times what a block known to be slow takes.
    padded_rows : ndarray, shape (menu, rows)
        Rows paid for: ceil(M / bm) x bm.
    rereads : ndarray, shape (1, rows) or (1, 1)
        Row tiles beyond the first, those of a cluster counted once: each fetches the weights anew. 0 for a menu, whose library
        chooses the tiles so that they need not. Where the kernel is known to, a partly filled last tile adds its idle share [-].
    idle_share : ndarray, shape (1, rows) or (1, 1)
        Share of the rows paid for that lie outside M, where the kernel is known to be slowed by them, else 0: where more than
        one row tile runs, or in tiles of a given size [-].
    stream_slowed : ndarray, shape (1, rows) or (1, 1)
        Time of the memory stream over what it is at full rate: more than 1 where the kernel is known to be slower with a small input [-].
    """

    tile_rows: FloatArray
    tile_columns: FloatArray
    splits: FloatArray
    waves: FloatArray
    padded_rows: FloatArray
    rereads: FloatArray
    idle_share: FloatArray
    stream_slowed: FloatArray


@dataclass(frozen=True)
class MoECounts:
    """Experts, row blocks and padding of a fused MoE layer over ``tokens`` (all arrays of shape (tokens,)).

    Attributes
    ----------
    experts_touched : ndarray
        A: expected local experts with at least one row [-].
    row_blocks : ndarray
        NB: expected sum over local experts of ceil(n_e / bm) [-].
    block_rows, block_columns : ndarray
        bm and the output-column tile of the block [rows], [columns].
    routed_rows : ndarray
        Expected (token, expert) pairs on this rank, sum of n_e [rows].
    rereads_up, rereads_down : ndarray
        Share of an expert's gate/up (down) weights that left the cache before each further row block reads them [-].
    reread_weight : ndarray
        Mean weight of a further block where weights stay in cache: an expert's second one counts half, as it runs beside the
        first [-].
    fixed_share : ndarray
        Share of the fixed time that is paid: less where no pairs are sorted, more where those of other ranks are sorted out [-].
    stream_slowed : ndarray
        Time of the weight stream over that of whole tiles whose loop reads long runs and whose format is expanded for free [-].
    waves : ndarray
        Blocks of each of the two grouped GEMMs over the SMs, at least 1 each, times the steps of a block along k where its
        depth is known; summed [-].
    """

    experts_touched: FloatArray
    row_blocks: FloatArray
    block_rows: FloatArray
    block_columns: FloatArray
    routed_rows: FloatArray
    rereads_up: FloatArray
    rereads_down: FloatArray
    reread_weight: FloatArray
    fixed_share: FloatArray
    stream_slowed: FloatArray
    waves: FloatArray


@dataclass(frozen=True)
class AttentionCounts:
    """Tiles, splits and waves of decode attention over ``positions`` (all arrays of shape (positions,)).

    Attributes
    ----------
    tile_rows : ndarray
        Rows of (query head, position) one CTA works on [rows].
    query_tiles : ndarray
        tiles(N) per (sequence, KV head) [-].
    splits : ndarray
        KV splits s(N) [-].
    ctas_per_kv : ndarray
        c(N) = B x n_kv x s(N) [-]; total CTAs are query_tiles x ctas_per_kv.
    resident : ndarray
        CTAs resident per SM, o [-].
    waves : ndarray
        ceil(tiles x c / (SM x o)) [-].
    keys : ndarray
        Cached and new keys a CTA walks through before splitting, for the longest sequence [tokens].
    masked_keys : ndarray
        Keys that lie before a window in the KV block it starts in, read with it [tokens].
    key_steps : ndarray
        Serial steps of a CTA along its keys, in units of 128 keys [-].
    hidden_starts, exposed_starts : ndarray
        CTA starts and ends an SM goes through in turn, those beside other CTAs' streams and those with nothing streaming [-].
    passes : ndarray
        Work besides the main kernel, in units of combining two splits: combination, copies that regroup heads [-].
    combine_kernel : ndarray
        1 where splits are combined by a kernel of its own, else 0 [-].
    planned : ndarray
        Sequences a kernel on the device plans first: B or 0 [-].
    step_cost : ndarray
        Time of a key step over that of the library's main kernel [-].
    kv_reads : ndarray
        Times each KV byte is fetched by separate CTAs (g where heads are not packed; the cost model decides what L2 hides) [-].
    filled : ndarray
        CTAs over the slots of the whole waves they take, the mean share of SMs at work [-].
    starting : ndarray
        CTAs with keys to walk over the SM slots, at most 1: the share of SMs that fetch queries at a time [-].
    late_tiles : ndarray
        Query tiles of a sequence over those that run at once, less one, where the grid takes every sequence in between [-].
    own_rate : ndarray
        1 where key steps go at the pace of the SM's threads, wherever the cache lies, else 0; a what-if on the bandwidth moves
        them all the same, as it does every fitted step [-].
    fixed_share : ndarray
        Fixed time over that of the library's main kernel [-].
    """

    tile_rows: FloatArray
    query_tiles: FloatArray
    splits: FloatArray
    ctas_per_kv: FloatArray
    resident: FloatArray
    waves: FloatArray
    keys: FloatArray
    masked_keys: FloatArray
    key_steps: FloatArray
    hidden_starts: FloatArray
    exposed_starts: FloatArray
    passes: FloatArray
    combine_kernel: FloatArray
    planned: FloatArray
    step_cost: FloatArray
    kv_reads: FloatArray
    filled: FloatArray
    starting: FloatArray
    late_tiles: FloatArray
    own_rate: FloatArray
    fixed_share: FloatArray
