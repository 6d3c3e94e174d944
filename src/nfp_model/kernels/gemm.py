"""Tiles and waves of a dense GEMM, exactly, from a kernel library's menu or dispatch rule."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from nfp_model.errors import InvalidArgumentError
from nfp_model.kernels.counts import FloatArray, GemmCounts, IntArray, KernelRow
from nfp_model.kernels.cutedsl import cutedsl_tiles
from nfp_model.kernels.deepgemm import deepgemm_tiles
from nfp_model.kernels.gemm_menu import menu_entries, menu_key, menu_waves, pruned_menu, pruning_limit
from nfp_model.kernels.steps import ceil_div, floor_div, round_up, whole_waves
from nfp_model.operators import Gemm
from nfp_model.quantities import element_type
from nfp_model.specs.gemm_kernel import GemmKernel, GemmRow
from nfp_model.specs.hardware import HardwareSpec

PAIR = 2
"""SMs that share a scheduler and so always hold a cluster together [-]."""


def gemm_counts(kernel: GemmKernel, hardware: HardwareSpec, operator: Gemm, rows: IntArray) -> GemmCounts:
    """Tiles, splits and waves of a GEMM over token rows.

    With n output features, tiles bm x bn, s splits along k and S SMs::

        tiles = ceil(M / bm) ceil(n / bn)          each factor rounded up to the cluster
        waves = max(1, tiles s / S)                 rounded up where the last wave is known to cost a whole one

    Tile and wave quantisation: NVIDIA, Matrix Multiplication Background User's Guide (DU-09799-001), sections 3.1 and 3.2.

    Parameters
    ----------
    kernel : GemmKernel
        Menu (the leading axis of the result holds the entries some shape prefers) or dispatch rule (leading axis 1).
    hardware : HardwareSpec
        For its SM count.
    operator : Gemm
        Shape.
    rows : ndarray of int, shape (rows,)
        Token rows M [rows].

    Raises
    ------
    InvalidArgumentError
        For rows below 1.

    Examples
    --------
    >>> from nfp_model import load_hardware
    >>> from nfp_model.operators import Gemm
    >>> from nfp_model.specs.kernel_library import load_kernel
    >>> kernel = load_kernel("vllm_scaled_mm_sm90:fp8")
    >>> gemm_counts(kernel, load_hardware("h100"), Gemm(4096, 4096, "fp8"), np.array([16, 64, 128])).tile_rows.tolist()
    [[16.0, 64.0, 64.0]]
    """
    rows = _whole_rows(rows)
    if kernel.selection == "menu":
        return _menu_counts(kernel, hardware, operator, rows)
    return _dispatch_counts(kernel, hardware.sm_count, operator, rows)


def gemm_row(kernel: GemmKernel, hardware: HardwareSpec, operator: Gemm, rows: int) -> KernelRow:
    """Which row of the kernel file decides at ``rows`` token rows, for the explanation.

    Examples
    --------
    >>> from nfp_model import load_hardware
    >>> from nfp_model.operators import Gemm
    >>> from nfp_model.specs.kernel_library import load_kernel
    >>> kernel = load_kernel("vllm_scaled_mm_sm90:fp8")
    >>> gemm_row(kernel, load_hardware("h100"), Gemm(4096, 4096, "fp8"), 100).rule
    '65 <= T <= 128: 64 x 128, cluster 2 x 1'
    """
    at = _whole_rows(np.array([rows]))
    inside = kernel.min_rows <= rows and (kernel.max_rows is None or rows <= kernel.max_rows)
    source = kernel.source
    if kernel.selection == "menu":
        count = len(menu_entries(menu_key(kernel, hardware.sm_count, operator.out_features)))
        rule = f"the cheapest of {count} tiles, {kernel.token_tiles[0]} to {kernel.token_tiles[-1]} rows"
        rule = f"T <= {kernel.few_rows}: on CUDA cores, without tiles" if rows <= kernel.few_rows else rule
    elif kernel.selection == "dispatch":
        index, found = _dispatch(kernel, hardware.sm_count, operator, at)
        row = kernel.rows[int(index[0])]
        rule, source, inside = row.label, row.source or source, inside and bool(found[0])
    else:
        block = _scored_tiles(kernel.selection, hardware.sm_count, operator, at)
        tile_rows, tile_columns, cluster_rows, cluster_columns = (int(part[0]) for part in block)
        cluster = "" if cluster_rows * cluster_columns == 1 else f", cluster {cluster_rows} x {cluster_columns}"
        slow = float(_slowdown(kernel, *block)[0])
        longer = f", {slow:g} times as slow without a cluster" if slow > 1 else ""
        rule = f"best score at T = {rows}: {tile_rows} x {tile_columns}{cluster}{longer}"
    return KernelRow(kernel.key, rule, source, inferred=kernel.inferred, in_range=inside)


def gemm_edges(kernel: GemmKernel, hardware: HardwareSpec, operator: Gemm, max_rows: int) -> IntArray:
    """Left edges: every M from 1 to ``max_rows`` at which any count differs from that at M - 1; 1 always among them.

    Between two edges every count of tiles and waves is constant, so a boundary need only be looked for there. (The idle share of
    a last tile, which some dispatched kernels pay for, shrinks between them: time then falls towards the next edge.)

    Examples
    --------
    >>> from nfp_model import load_hardware
    >>> from nfp_model.operators import Gemm
    >>> from nfp_model.specs.kernel_library import load_kernel
    >>> kernel = load_kernel("vllm_scaled_mm_sm90:fp8")
    >>> gemm_edges(kernel, load_hardware("h100"), Gemm(4096, 4096, "fp8"), 300).tolist()
    [1, 17, 65, 129, 257]
    """
    if max_rows < 1:
        raise InvalidArgumentError(f"max_rows must be at least 1, got {max_rows!r}")
    if kernel.selection == "menu":
        tiles = pruned_menu(
            menu_key(kernel, hardware.sm_count, operator.out_features), pruning_limit(max_rows)
        ).token_tiles
        return _menu_edges(tuple(tiles.tolist()), kernel.few_rows, max_rows)
    return _changes(kernel, hardware.sm_count, operator, max_rows)


def _dispatch_counts(kernel: GemmKernel, sm_count: int, operator: Gemm, rows: IntArray) -> GemmCounts:
    tile_rows, tile_columns, cluster_rows, cluster_columns = chosen = _tiles(kernel, sm_count, operator, rows)
    slow: FloatArray | float = 1.0
    if kernel.selection != "dispatch":
        slow = _slowdown(kernel, *chosen)
        if kernel.selection != "cutedsl_sm100":
            # DeepGEMM's persistent scheduler deals out single blocks, clusters or not.
            cluster_rows = cluster_columns = np.ones_like(tile_rows)
    needed = ceil_div(rows, tile_rows)
    row_tiles = round_up(needed, cluster_rows)
    column_tiles = round_up(ceil_div(operator.out_features, tile_columns), cluster_columns)
    tiles = row_tiles * column_tiles
    padded = row_tiles * tile_rows
    waves = _waves(kernel, sm_count, tiles, cluster_rows * cluster_columns)
    slows = tile_rows >= kernel.idle_tile_rows if kernel.idle_tile_rows else row_tiles > 1
    alone = np.where(needed > 1, needed - rows / tile_rows, 0.0) * kernel.idle_rows_reread
    return GemmCounts(
        tile_rows=tile_rows.astype(np.float64)[None],
        tile_columns=tile_columns.astype(np.float64)[None],
        splits=np.ones((1, rows.size)),
        waves=(waves * slow)[None],
        padded_rows=padded[None],
        rereads=(row_tiles / cluster_rows - 1.0 + alone)[None],
        idle_share=np.where(slows, 1.0 - rows / padded, 0.0)[None] * kernel.idle_rows_slow,
        stream_slowed=_stream_slowed(kernel, operator, rows)[None],
    )


@lru_cache(maxsize=512)
def _changes(kernel: GemmKernel, sm_count: int, operator: Gemm, max_rows: int) -> IntArray:
    counts = _dispatch_counts(kernel, sm_count, operator, np.arange(1, max_rows + 1))
    slowed = np.broadcast_to(counts.stream_slowed[0], counts.waves[0].shape)
    stacked = np.stack([counts.tile_rows[0], counts.tile_columns[0], counts.waves[0], counts.padded_rows[0], slowed])
    changed = np.any(stacked[:, 1:] != stacked[:, :-1], axis=0)
    edges = np.concatenate([[1], np.flatnonzero(changed) + 2]).astype(np.int64)
    edges.setflags(write=False)
    return edges


def _whole_rows(rows: npt.ArrayLike) -> IntArray:
    whole = np.atleast_1d(np.asarray(rows, dtype=np.int64))
    if whole.size and int(whole.min()) < 1:
        raise InvalidArgumentError(f"token rows must be at least 1, got {int(whole.min())}")
    return whole


@lru_cache(maxsize=256)
def _menu_edges(tiles: tuple[int, ...], few_rows: int, max_rows: int) -> IntArray:
    edges = np.unique(np.concatenate([np.arange(1, max_rows + 1, tile) for tile in tiles])).astype(np.int64)
    edges = np.union1d(edges, few_rows + 1) if 0 < few_rows < max_rows else edges
    edges.setflags(write=False)
    return edges


def _menu_counts(kernel: GemmKernel, hardware: HardwareSpec, operator: Gemm, rows: IntArray) -> GemmCounts:
    key = menu_key(kernel, hardware.sm_count, operator.out_features)
    menu = pruned_menu(key, pruning_limit(int(rows.max(initial=1))))
    # Divide once per distinct bm, not once per entry.
    row_tiles = ceil_div(rows[None], menu.token_tiles[:, None])
    padded = row_tiles * menu.token_tiles[:, None]
    return GemmCounts(
        tile_rows=menu.token_tiles[menu.token_index].astype(np.float64)[:, None],
        tile_columns=menu.output_tiles,
        splits=menu.splits,
        waves=menu_waves(menu, key, row_tiles),
        padded_rows=padded[menu.token_index],
        rereads=np.zeros((1, 1)),
        idle_share=np.zeros((1, 1)),
        stream_slowed=_stream_slowed(kernel, operator, rows)[None],
    )


def chosen_counts(
    kernel: GemmKernel,
    hardware: HardwareSpec,
    operator: Gemm,
    rows: IntArray,
    entries: npt.NDArray[np.intp],
    covered: int,
) -> GemmCounts:
    """Counts of one menu entry per row count, shape (1, rows): what :func:`gemm_counts` holds at those entries.

    Parameters
    ----------
    entries : ndarray of int, shape (rows,)
        Index into the menu that :func:`gemm_counts` uses for arrays up to ``covered`` rows.
    covered : int
        Largest row count of the array the entries were chosen over [rows].
    """
    key = menu_key(kernel, hardware.sm_count, operator.out_features)
    menu = pruned_menu(key, pruning_limit(covered))
    tile_rows = menu.token_tiles[menu.token_index[entries]]
    row_tiles = ceil_div(rows, tile_rows)
    ctas = row_tiles * menu.ctas_per_row_tile[entries, 0]
    waves = whole_waves(ctas, hardware.sm_count) if kernel.hard_waves else np.maximum(ctas / hardware.sm_count, 1.0)
    return GemmCounts(
        tile_rows=tile_rows.astype(np.float64)[None],
        tile_columns=menu.output_tiles[entries].T,
        splits=menu.splits[entries].T,
        waves=waves[None],
        padded_rows=(row_tiles * tile_rows)[None],
        rereads=np.zeros((1, 1)),
        idle_share=np.zeros((1, 1)),
        stream_slowed=_stream_slowed(kernel, operator, rows)[None],
    )


def _tiles(
    kernel: GemmKernel, sm_count: int, operator: Gemm, rows: IntArray
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Per M: token tile, output tile, cluster along tokens and along outputs."""
    if kernel.selection != "dispatch":
        return _scored_tiles(kernel.selection, sm_count, operator, rows)
    index, _ = _dispatch(kernel, sm_count, operator, rows)
    table = np.array([(row.token_tile, row.output_tile, *row.cluster) for row in kernel.rows], dtype=np.int64)
    token_tile, output_tile, cluster_rows, cluster_columns = table[index].T
    return np.where(token_tile == 0, rows, token_tile), output_tile, cluster_rows, cluster_columns


def _waves(kernel: GemmKernel, sm_count: int, tiles: FloatArray, cluster: IntArray) -> FloatArray:
    """Waves of tiles; clusters of more than a pair of SMs may not find room on all of them."""
    if kernel.stream_k:
        return np.maximum(1.0, tiles / sm_count)
    shared = np.where(cluster > PAIR, cluster, 1)
    clusters = np.maximum(floor_div(int(kernel.clustered_sms * sm_count), shared), 1)
    slots = np.where(cluster > PAIR, clusters, sm_count)
    return whole_waves(tiles / shared, slots)


def _stream_slowed(kernel: GemmKernel, operator: Gemm, rows: IntArray) -> FloatArray:
    """Time of the weights' stream over that at full rate, with few rows or a quantised input smaller than the kernel's threshold [-]."""
    if not kernel.few_rows and not kernel.small_input_bytes:
        return np.ones(1)
    # Whole bits: scales lie in a tensor of their own.
    element_bytes = int(element_type(operator.weight_dtype).bits) / 8.0
    small = rows * (operator.in_features * element_bytes) < kernel.small_input_bytes
    few = rows <= kernel.few_rows
    return np.asarray(np.where(few, kernel.few_rows_stream, 1.0) + kernel.small_input_slow * small)


def _scored_tiles(
    rule: str, sm_count: int, operator: Gemm, rows: IntArray
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    if rule == "cutedsl_sm100":
        return cutedsl_tiles(sm_count, operator, rows)
    return deepgemm_tiles(rule, sm_count, operator, rows)


def _slowdown(
    kernel: GemmKernel, tile_rows: IntArray, tile_columns: IntArray, cluster_rows: IntArray, cluster_columns: IntArray
) -> FloatArray:
    """How much longer each chosen block takes because no cluster shares its loads, 1 for most [-]."""
    listed = np.zeros(tile_rows.shape, dtype=bool)
    for block_rows, block_columns in kernel.slow_blocks:
        listed |= (tile_rows == block_rows) & (tile_columns == block_columns)
    return np.where(listed & (cluster_rows * cluster_columns == 1), kernel.slow_factor, 1.0)


def _dispatch(
    kernel: GemmKernel, sm_count: int, operator: Gemm, rows: IntArray
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Index of the first row that holds at each M, and whether any does; the last row stands in where none does."""
    holds = np.stack([_holds(row, sm_count, operator, rows) for row in kernel.rows])
    found = holds.any(axis=0)
    index: npt.NDArray[np.intp] = np.where(found, holds.argmax(axis=0), len(kernel.rows) - 1)
    return index, np.asarray(found, dtype=bool)


def _holds(row: GemmRow, sm_count: int, operator: Gemm, rows: IntArray) -> npt.NDArray[np.bool_]:
    n, k = operator.out_features, operator.in_features
    if not (
        row.min_out_features <= n <= (row.max_out_features or n)
        and row.min_in_features <= k <= (row.max_in_features or k)
    ):
        return np.zeros(rows.shape, dtype=bool)
    holds = rows >= row.min_rows
    if row.max_rows is not None:
        holds &= rows <= row.max_rows
    if row.rows_multiple_of is not None:
        holds &= rows % row.rows_multiple_of == 0
    if row.rows_not_multiple_of is not None:
        holds &= rows % row.rows_not_multiple_of != 0
    if row.max_tiles_per_sm is not None or row.over_tiles_per_sm is not None:
        tiles = ceil_div(rows, row.token_tile or rows) * ceil_div(n, row.output_tile)
        if row.max_tiles_per_sm is not None:
            holds &= tiles <= row.max_tiles_per_sm * sm_count
        if row.over_tiles_per_sm is not None:
            holds &= tiles > row.over_tiles_per_sm * sm_count
    return holds


__all__ = ["chosen_counts", "gemm_counts", "gemm_edges", "gemm_row"]
