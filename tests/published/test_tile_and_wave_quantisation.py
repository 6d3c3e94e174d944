"""NVIDIA, Matrix Multiplication Background User's Guide (DU-09799-001), sections 3.1 and 3.2, and the DeepGEMM README.

The counts are exact arithmetic in the sources, so no tolerance is allowed.
"""

from __future__ import annotations

import numpy as np
import pytest

from nfp_model import Gemm, load_hardware
from nfp_model.kernels.gemm import gemm_counts
from nfp_model.specs.gemm_kernel import GemmKernel


def one_tile(rows: int, columns: int) -> GemmKernel:
    """A library that knows a single tile and runs whole waves."""
    return GemmKernel(
        name="single", library="guide", weight_dtypes=("bfloat16",), selection="menu", token_tiles=(rows,),
        output_tiles=(columns,), max_tile_area=rows * columns, splits=(1,), hard_waves=True, source="DU-09799-001",
    )  # fmt: skip


def tiles_and_waves(hardware: str, tile: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    spec, kernel = load_hardware(hardware), one_tile(*tile)
    counts = gemm_counts(kernel, spec, Gemm(columns, 4096), np.array([rows]))
    across = -(-columns // tile[1])
    return int(counts.padded_rows[0, 0]) // tile[0] * across, int(counts.waves[0, 0])


@pytest.mark.parametrize(
    ("columns", "tiles", "waves"),
    # M = 2304, tile 256 x 128: 9 tiles down; 12 across fill 108 SMs exactly, 13 leave a tail of nine; next jumps past 3072, 4608.
    [(1536, 108, 1), (1537, 117, 2), (1664, 117, 2), (3072, 216, 2), (3073, 225, 3), (4608, 324, 3), (4609, 333, 4)],
)
def test_a100_wave_quantisation_of_the_guide(columns: int, tiles: int, waves: int) -> None:
    assert load_hardware("a100").sm_count == 108
    assert tiles_and_waves("a100", (256, 128), 2304, columns) == (tiles, waves)


@pytest.mark.parametrize(("size", "tiles", "waves"), [(1792, 98, 1), (1793, 120, 2)])
def test_a100_square_matrices(size: int, tiles: int, waves: int) -> None:
    assert tiles_and_waves("a100", (256, 128), size, size) == (tiles, waves)


def test_tile_quantisation_of_the_guide() -> None:
    # 256 x 256 needs four 128 x 128 tiles; one more row needs six, 1.5 times the work for 1.004 times the result.
    before, after = tiles_and_waves("a100", (128, 128), 256, 256)[0], tiles_and_waves("a100", (128, 128), 257, 256)[0]
    assert (before, after) == (4, 6)


@pytest.mark.parametrize(("tile", "blocks", "share"), [((128, 128), 112, 0.85), ((128, 112), 128, 0.97)])
def test_unaligned_blocks_of_deepgemm(tile: tuple[int, int], blocks: int, share: float) -> None:
    # DeepGEMM README (until April 2025), "unaligned block sizes": M = 256, N = 7168 on 132 SMs.
    hardware = load_hardware("h100")
    found, waves = tiles_and_waves("h100", tile, 256, 7168)
    assert (found, waves) == (blocks, 1)
    assert round(found / hardware.sm_count, 2) == share


@pytest.mark.parametrize(("name", "compute_units"), [("mi300x", 8 * 38), ("mi355x", 8 * 32)])
def test_active_compute_units_of_amd(name: str, compute_units: int) -> None:
    # AMD at ISSCC 2026 (as reported): 38 and 32 active CUs in each of 8 XCDs, the power of two chosen to ease tiling.
    assert load_hardware(name).sm_count == compute_units
