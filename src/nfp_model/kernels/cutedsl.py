"""FlashInfer's choice of tile for its block-scaled GEMM in CuTe DSL, where no autotuner has run: one tile per power of two of the rows."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from nfp_model.kernels.counts import IntArray
from nfp_model.kernels.steps import ceil_div
from nfp_model.operators import Gemm

CANDIDATES = ((128, 64), (256, 64), (128, 128), (256, 128), (128, 192), (256, 192), (128, 256), (256, 256))
"""Tiles along the rows and columns of the product; 256 rows are one instruction over two SMs."""

SM_ROWS = 128
"""Rows of a tile one SM works on [rows]."""

BUCKETS = tuple(2**power for power in range(13))
"""Row counts the choice is made for; others take that of the last at or below them [rows]."""

ALIGNMENT = 8
"""Elements the contiguous side of the output must divide by: operands are swapped only where M does [elements]."""

SWAPPED_ROWS = (8, 16)
"""Buckets in which aligned rows have their operands swapped [rows]."""


def cutedsl_tiles(sm_count: int, operator: Gemm, rows: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Token tile, output tile and cluster (tokens, outputs) of one SM at each M.

    ``_compute_tactic_for_m`` of flashinfer-ai/flashinfer (``gemm/kernels/utils.py``, 0.6.12) scores every candidate by how full its
    tiles and its last wave are and by the root of its area, and favours square tiles. Rows in the buckets of 8 and 16 that divide by
    8 have their operands swapped: the tile's columns then hold the tokens.

    Examples
    --------
    At 8 and 16 rows, and nowhere between, the tokens take 64 rows of a tile; 256 rows get a wider tile than 255.

    >>> tiles = cutedsl_tiles(148, Gemm(10240, 51200, "nvfp4"), np.array([8, 9, 16, 255, 256]))
    >>> tiles[0].tolist(), tiles[1].tolist()
    ([64, 128, 64, 128, 128], [128, 128, 128, 128, 192])
    """
    bucket = np.minimum(np.floor(np.log2(rows)).astype(np.int64), len(BUCKETS) - 1)
    table = _table(sm_count, operator.out_features, operator.in_features)
    chosen = table[np.where(rows % ALIGNMENT == 0, 1, 0), bucket]
    return chosen[:, 0], chosen[:, 1], chosen[:, 2], chosen[:, 3]


@lru_cache(maxsize=512)
def _table(sm_count: int, out_features: int, in_features: int) -> npt.NDArray[np.int64]:
    """The choice of every bucket, rows not divisible by 8 first."""
    table = np.array(
        [[_choice(sm_count, out_features, in_features, rows, aligned) for rows in BUCKETS] for aligned in (False, True)]
    )
    table.setflags(write=False)
    return table


def _choice(sm_count: int, out_features: int, in_features: int, rows: int, aligned: bool) -> tuple[int, int, int, int]:
    swapped = aligned and ((rows in SWAPPED_ROWS and out_features > rows) or out_features % ALIGNMENT > 0)
    height, width = (out_features, rows) if swapped else (rows, out_features)
    large = 0.5 if in_features <= 1024 else 0.8 if in_features <= 2048 else 1.0
    best = max(CANDIDATES, key=lambda tile: _score(tile, height, width, sm_count, large))
    across = int(ceil_div(width, best[1]))
    cluster = 1
    if height <= best[0]:
        cluster = 4 if across % 4 == 0 or across > 10 else 2 if across % 2 == 0 else 1
    down = best[0] // SM_ROWS
    if swapped:
        return best[1], SM_ROWS, cluster, down
    return SM_ROWS, best[1], down, cluster


def _score(tile: tuple[int, int], height: int, width: int, sm_count: int, large: float) -> float:
    """Filled share of tiles and waves, times the tile's worth; the first of equals wins."""
    down, across = int(ceil_div(height, tile[0])), int(ceil_div(width, tile[1]))
    worth = math.sqrt(tile[0] * tile[1]) / 256 * math.sqrt(math.sqrt(min(tile) / max(tile)))
    if tile[0] * tile[1] > SM_ROWS**2:
        worth *= large
    filled = width / (across * tile[1]) * worth
    waves = int(ceil_div(down * across, sm_count))
    return height * down * across * filled / (tile[0] * waves * sm_count)


__all__ = ["cutedsl_tiles"]
