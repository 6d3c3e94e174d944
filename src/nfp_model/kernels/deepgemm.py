"""DeepGEMM's choice of block for a dense GEMM: its own scoring, one block per number of rows."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nfp_model.errors import UnsupportedError
from nfp_model.kernels.counts import IntArray
from nfp_model.kernels.steps import ceil_div, floor_div, round_up
from nfp_model.operators import Gemm

SM90_SHARED_MEMORY = 232448
"""Shared memory one CTA may use [B] (``sm90.hpp``)."""

WGMMA_ROWS = 64
"""Rows one Hopper matrix instruction works on whatever the block [rows]."""

ROW_STEP = 16
"""Greatest common divisor of every block's rows [rows]."""


class Layout(NamedTuple):
    """One candidate block of sm90: token rows, output columns, cluster along each."""

    block_rows: int
    block_columns: int
    cluster_rows: int
    cluster_columns: int


def deepgemm_tiles(
    rule: str, sm_count: int, operator: Gemm, rows: IntArray
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Token tile, output tile and cluster (tokens, outputs) DeepGEMM picks at each M.

    Parameters
    ----------
    rule : {"deepgemm_sm90", "deepgemm_sm100"}
        Which of its two rules.
    sm_count : int
        SMs of the GPU [-].
    operator : Gemm
        Shape; fp8 block-scaled weights, 16-bit output.
    rows : ndarray of int
        Token rows M [rows].

    Raises
    ------
    UnsupportedError
        For a rule that is neither.

    Examples
    --------
    M = 256 by n = 7168 on 132 SMs: 128 x 112 blocks fill 128 SMs where 128 x 128 fill 112, the case the project's README gave
    for unaligned block sizes.

    >>> from nfp_model.operators import Gemm
    >>> rows, columns, *_ = deepgemm_tiles("deepgemm_sm90", 132, Gemm(7168, 2048, "fp8_block"), np.array([256]))
    >>> rows.tolist(), columns.tolist()
    ([128], [112])
    """
    rules = {"deepgemm_sm90": _sm90, "deepgemm_sm100": _sm100}
    if rule not in rules:
        raise UnsupportedError(f"no DeepGEMM rule '{rule}'; known: {', '.join(rules)}")
    # Every block is a multiple of 16 rows and so is every condition on M: only M rounded up to 16 matters.
    distinct, back = np.unique(round_up(rows, ROW_STEP).astype(np.int64), return_inverse=True)
    chosen = rules[rule](sm_count, operator.out_features, operator.in_features, distinct)[back]
    return chosen[:, 0], chosen[:, 1], chosen[:, 2], chosen[:, 3]


def _sm90(sm_count: int, out_features: int, in_features: int, rows: IntArray) -> IntArray:
    """Fewest cycles: max(L1, L2) traffic over wave efficiency (``sm90.hpp``, ``get_layout_info``)."""
    layouts = np.array(_sm90_layouts(in_features, sm_count), dtype=np.int64)
    bm, bn, cluster_rows, cluster_columns = (layouts[:, i : i + 1] for i in range(4))
    blocks = ceil_div(rows[None], bm) * ceil_div(out_features, bn)
    waves = ceil_div(blocks, sm_count)
    l2_rate = min(64.0 * sm_count, float(floor_div(8_000_000, 1_300)))
    l1_rate = 128.0 * sm_count
    output = bm * bn * 2
    l2_bytes = in_features * (floor_div(bm, cluster_columns) + floor_div(bn, cluster_rows)) + output
    l1_bytes = in_features * (bm + bn + np.maximum(WGMMA_ROWS, bm) + bn) + 2 * output
    l2_cycles = floor_div(l2_bytes * blocks, int(l2_rate))
    l1_cycles = floor_div(l1_bytes * blocks, int(l1_rate))
    cycles = np.maximum(l1_cycles, l2_cycles) * waves * sm_count / blocks
    clustered = cluster_rows * cluster_columns > 1
    cycles = np.where(clustered & (waves <= 1), np.inf, cycles)
    # 16- and 32-row blocks are candidates only while M fits them.
    cycles = np.where(((bm == 16) & (rows > 16)) | ((bm == 32) & (rows > 32)), np.inf, cycles)
    best: IntArray = layouts[np.argmin(cycles, axis=0)]
    return best


@lru_cache(maxsize=512)
def _sm90_layouts(in_features: int, sm_count: int) -> tuple[Layout, ...]:
    """Legal blocks in the order they are scored (ties keep the first): ``sm90.hpp``, ``get_layout_candidates``."""
    layouts = []
    for cluster_rows, cluster_columns in ((1, 1), (1, 2), (2, 1)):
        if sm_count % (cluster_rows * cluster_columns):
            continue
        for block_rows in (64, 128, 16, 32, 256):
            for block_columns in range(16, 193, 16):
                over = block_columns - 128
                if over > 0 and block_columns % over and 128 % over:
                    continue
                if block_rows > 128 and block_columns > 128:
                    continue
                stages = _sm90_stages(block_rows, block_columns, in_features)
                if stages >= (4 if block_rows * block_columns < 128 * 192 else 3):
                    layouts.append(Layout(block_rows, block_columns, cluster_rows, cluster_columns))
    return tuple(layouts)


def _sm90_stages(block_rows: int, block_columns: int, in_features: int) -> int:
    """Pipeline stages that fit shared memory (``sm90.hpp``, ``get_pipeline_config``)."""
    output = float(round_up(block_rows * block_columns * 2, 1024))
    barriers = 16 * 8 * 2
    scales = float(round_up(ceil_div(in_features, 128) * 4 * (1 if 128 % block_columns == 0 else 2), 8))
    stage = block_rows * 128 + block_columns * 128 + float(round_up(block_rows * 4, 128))
    return min(int(floor_div(int(SM90_SHARED_MEMORY - output - barriers - scales), int(stage))), 16)


def _sm100(sm_count: int, out_features: int, in_features: int, rows: IntArray) -> IntArray:
    """One wave, then a cluster, then fewer waves, a fuller last wave, smaller blocks (``sm100.hpp``, ``compare``)."""
    layouts = np.array(_sm100_layouts(out_features, in_features, sm_count), dtype=np.int64)
    bm, bn, cluster_rows, cluster_columns, lowest, highest = (layouts[:, i : i + 1] for i in range(6))
    row_blocks = ceil_div(rows[None], bm)
    blocks = row_blocks * ceil_div(out_features, bn)
    waves = ceil_div(blocks, sm_count)
    last_wave = blocks - (waves - 1) * sm_count
    alive = (lowest <= rows) & (rows <= highest) & (row_blocks % cluster_rows == 0)
    # Each key decides only among the candidates the keys before it left.
    for key in (waves > 1, -cluster_rows * cluster_columns, waves, -last_wave, bm + bn, bm * bn):
        score = np.where(alive, key, np.inf)
        alive = alive & (score == score.min(axis=0))
    best: IntArray = layouts[np.argmax(alive, axis=0), :4]
    return best


@lru_cache(maxsize=512)
def _sm100_layouts(
    out_features: int, in_features: int, sm_count: int
) -> tuple[tuple[int, int, int, int, int, int], ...]:
    """Candidates (bm, bn, cluster along rows and columns, lowest and highest M) in order: ``sm100.hpp``, ``get_layout_candidates``.

    Without swapped operands the block's rows follow from M; with them they run from 16 to 256 against 128 output columns.
    """
    any_rows = np.iinfo(np.int64).max
    columns = (16, *range(32, (128 if in_features <= 256 else 256) + 1, 32))
    kept_order = [
        (bm, bn, cluster, 1, low, high)
        for cluster in (1, 2)
        if sm_count % cluster == 0
        for bm, low, high in ((32, 1, 32), (64, 33, 64), (128, 65, any_rows))
        for bn in columns
        if bn // cluster % 8 == 0
    ]
    swapped = [
        (bm, 128, 1, cluster, 1, any_rows)
        for cluster in (1, 2)
        if sm_count % cluster == 0 and int(ceil_div(out_features, 128)) % cluster == 0
        for bm in range(16, 257, 16)
    ]
    return (*kept_order, *swapped)
