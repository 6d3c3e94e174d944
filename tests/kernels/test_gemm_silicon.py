"""GEMM tile rules against NVIDIA's published timings: the steps stand where the counts step (fit-half shapes only)."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from nfp_model import load_hardware
from nfp_model.cost.binding import kernel_for
from nfp_model.kernels.counts import GemmCounts
from nfp_model.kernels.gemm import gemm_counts
from nfp_model.specs.gemm_kernel import GemmKernel
from nfp_model.validation.fit_tables import silicon_tables
from nfp_model.validation.records import Curve

pytestmark = pytest.mark.silicon

pytest.importorskip("aiconfigurator_core")

RTX = "rtx_pro_6000_blackwell"


@cache
def fit_half(gpu: str, backend: str, dtype: str) -> dict[tuple[int, int], Curve]:
    table = silicon_tables(gpu, backend, "gemm", dtype)[0]
    return {(curve.shape.out_features, curve.shape.in_features): curve for curve in table.fit}  # type: ignore[union-attr]


def measured(gpu: str, backend: str, dtype: str, shape: tuple[int, int], rows: list[int]) -> np.ndarray:
    curve = fit_half(gpu, backend, dtype)[shape]
    return np.asarray(curve.seconds[np.searchsorted(curve.tokens, rows)])


def counted(gpu: str, backend: str, dtype: str, shape: tuple[int, int], rows: list[int]) -> GemmCounts:
    hardware, operator = load_hardware(gpu), fit_half(gpu, backend, dtype)[shape].operator_record(1)
    kernel = kernel_for(hardware, operator, backend)
    assert isinstance(kernel, GemmKernel)
    return gemm_counts(kernel, hardware, operator, np.array(rows))  # type: ignore[arg-type]


@pytest.mark.parametrize(("gpu", "backend"), [("b200_sxm", "sglang"), ("gb300", "sglang"), ("gb300", "vllm")])
def test_two_sm_tiles_are_flat_to_128_rows_and_step_at_129(gpu: str, backend: str) -> None:
    case = (gpu, backend, "fp8", (51200, 8192))
    seconds, counts = measured(*case, [65, 128, 129]), counted(*case, [65, 128, 129])
    assert seconds[1] / seconds[0] < 1.06
    assert seconds[2] / seconds[1] > 1.15
    assert counts.padded_rows[0].tolist() == [128, 128, 256]


@pytest.mark.parametrize(
    ("backend", "dtype", "shape", "rows"),
    [
        ("sglang", "fp8", (8192, 8192), (256, 257)),
        ("sglang", "fp8", (5120, 12288), (512, 513)),
        ("sglang", "fp8", (4096, 51200), (513, 768)),
        ("trtllm", "nvfp4", (10240, 51200), (225, 512)),
        ("trtllm", "nvfp4", (12288, 65536), (128, 129)),
    ],
)
def test_rtx_takes_a_second_wave_where_its_time_rises_by_half_or_more(
    backend: str, dtype: str, shape: tuple[int, int], rows: tuple[int, int]
) -> None:
    case = (RTX, backend, dtype, shape)
    before, after = measured(*case, list(rows))
    assert after / before > 1.5
    assert counted(*case, list(rows)).waves[0].tolist() == [1, 2]


def test_trtllm_nvfp4_keeps_one_wave_of_128_x_256_while_its_time_is_flat() -> None:
    case = ("b200_sxm", "trtllm", "nvfp4", (10240, 51200))
    seconds, counts = measured(*case, [17, 257, 512]), counted(*case, [17, 257, 512])
    assert seconds[1] / seconds[0] < 1.1
    assert seconds[2] / seconds[1] > 1.7
    assert counts.waves[0].tolist() == [1, 1, 2]


@pytest.mark.parametrize("gpu", ["h100_sxm5", "h200_sxm"])
def test_sglang_fp8_hopper_tiles_grow_at_65_and_129_rows(gpu: str) -> None:
    # 512 output features: fewer tiles than SMs throughout, so the time is that of one tile along k.
    case = (gpu, "sglang", "fp8", (512, 65536))
    seconds = measured(*case, [64, 96, 192])
    counts = counted(*case, [64, 96, 192])
    area = counts.tile_rows[0] * counts.tile_columns[0]
    assert counts.waves[0].tolist() == [1, 1, 1]
    assert area.tolist() == [64 * 64, 64 * 128, 128 * 128]
    assert seconds[1] / seconds[0] > 1.2
    assert seconds[2] / seconds[1] > 2.0


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_hopper_runs_faster_as_rows_fill_the_last_tile(backend: str) -> None:
    shapes = [(51200, 6144), (16384, 4096), (12288, 12288)]
    for shape in shapes:
        case = ("h100_sxm5", backend, "fp8", shape)
        half_empty, full = measured(*case, [129, 256])
        assert half_empty / full > 1.1
        idle = counted(*case, [129, 256]).idle_share[0]
        assert idle[0] == pytest.approx(127 / 256)
        assert idle[1] == 0


@pytest.mark.parametrize("gpu", ["h100_sxm5", "h200_sxm"])
@pytest.mark.parametrize(
    ("shape", "plain", "slow"), [((8192, 8192), 256, 257), ((12288, 12288), 192, 193), ((16384, 4096), 257, 256)]
)
def test_sglang_deepgemm_is_slow_in_its_largest_blocks_without_a_cluster(
    gpu: str, shape: tuple[int, int], plain: int, slow: int
) -> None:
    case = (gpu, "sglang", "fp8_block", shape)
    seconds = measured(*case, [plain]).item(), measured(*case, [slow]).item()
    waves = counted(*case, [plain, slow]).waves[0]
    assert seconds[1] / seconds[0] > 1.5
    assert waves[0] in (1, 2)
    assert waves[1] == 3


def test_deepgemm_hopper_rereads_with_the_idle_rows_of_a_last_tile() -> None:
    case = ("h100_sxm5", "sglang", "fp8_block", (4096, 51200))
    few, full = measured(*case, [65, 128])
    rereads = counted(*case, [64, 65, 128]).rereads[0]
    assert few / full > 1.5
    assert rereads.tolist() == pytest.approx([0, 1 + 63 / 64, 1])


def test_ada_fp8_of_trtllm_steps_at_129_rows_and_stays() -> None:
    case = ("l40s", "trtllm", "fp8", (10240, 51200))
    before, after, later = measured(*case, [128, 129, 256])
    assert after / before > 1.25
    assert later / after < 1.15
    padded = counted(*case, [128, 129, 256]).padded_rows
    assert (padded == [[128, 256, 256]]).all()
