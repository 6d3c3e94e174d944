"""Dense GEMM granularity: published quantisation cases, the switch points the sources state, and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from nfp_model.cost.binding import bind
from nfp_model.cost.inputs import equation_inputs
from nfp_model.errors import InvalidArgumentError, UnknownNameError
from nfp_model.kernels.cutedsl import cutedsl_tiles
from nfp_model.kernels.deepgemm import deepgemm_tiles
from nfp_model.kernels.gemm import gemm_counts, gemm_edges, gemm_row
from nfp_model.kernels.gemm_menu import menu_entries, menu_key
from nfp_model.kernels.selection import select_gemm
from nfp_model.operators import Gemm
from nfp_model.specs.gemm_kernel import GemmKernel, GemmRow
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.kernel_library import load_kernel
from nfp_model.specs.registry import load_hardware

A100, H100, B200 = (load_hardware(name) for name in ("a100", "h100", "b200"))


def kernel(key: str) -> GemmKernel:
    found = load_kernel(key)
    assert isinstance(found, GemmKernel)
    return found


def one_tile(token_tile: int, output_tile: int, cluster: tuple[int, int] = (1, 1)) -> GemmKernel:
    return GemmKernel(
        name="one",
        weight_dtypes=("bfloat16",),
        selection="dispatch",
        rows=(GemmRow(token_tile=token_tile, output_tile=output_tile, cluster=cluster),),
        source="test",
    )


def tile_rows(key: str, hardware: HardwareSpec, operator: Gemm, rows: list[int]) -> list[int]:
    return [int(tile) for tile in gemm_counts(kernel(key), hardware, operator, np.array(rows)).tile_rows[0]]


class TestPublishedQuantisation:
    """NVIDIA, Matrix Multiplication Background User's Guide (DU-09799-001), sections 3.1 and 3.2, and arithmetic on it."""

    @pytest.mark.parametrize(
        ("out", "waves"), [(1536, 1), (1537, 2), (1664, 2), (3072, 2), (3073, 3), (4608, 3), (4609, 4)]
    )
    def test_a100_wave_quantisation(self, out: int, waves: int) -> None:
        # M = 2304, 256 x 128 tiles, 108 SMs: 9 x 12 tiles are one wave.
        counts = gemm_counts(one_tile(256, 128), A100, Gemm(out, 4096), np.array([2304]))
        assert counts.waves.item() == waves

    @pytest.mark.parametrize(("size", "waves"), [(1792, 1), (1793, 2)])
    def test_a100_square(self, size: int, waves: int) -> None:
        assert gemm_counts(one_tile(256, 128), A100, Gemm(size, size), np.array([size])).waves.item() == waves

    def test_tile_quantisation(self) -> None:
        # 256 x 256 needs four 128 x 128 tiles, 257 x 256 six.
        counts = gemm_counts(one_tile(128, 128), A100, Gemm(256, 256), np.array([256, 257]))
        assert (counts.padded_rows[0] * 256 / 128**2).tolist() == [4, 6]

    def test_unaligned_blocks_fill_more_sms(self) -> None:
        # DeepGEMM README (April 2025): M = 256, N = 7168 on 132 SMs; 128 x 128 fills 112 SMs, 128 x 112 fills 128.
        rows, columns, *_ = deepgemm_tiles("deepgemm_sm90", 132, Gemm(7168, 2048, "fp8_block"), np.array([256]))
        assert (rows.item(), columns.item()) == (128, 112)


class TestDispatchTables:
    """Switch points as each source states them."""

    def test_vllm_fp8_hopper_edges(self) -> None:
        # Measured vLLM fp8 curves on H100 step at 64|65, 128|129 and 256|257.
        edges = gemm_edges(kernel("vllm_scaled_mm_sm90:fp8"), H100, Gemm(4096, 4096, "fp8"), 600)
        assert edges.tolist() == [1, 17, 65, 129, 257, 513]

    def test_vllm_fp8_hopper_tiles(self) -> None:
        tiles = tile_rows(
            "vllm_scaled_mm_sm90:fp8", H100, Gemm(4096, 8192, "fp8"), [16, 17, 64, 65, 128, 129, 8191, 8192]
        )
        assert tiles == [16, 64, 64, 64, 64, 128, 128, 256]
        assert tile_rows("vllm_scaled_mm_sm90:fp8", H100, Gemm(1280, 4096, "fp8"), [16, 17, 64]) == [16, 16, 16]

    def test_clusters_round_tiles_up(self) -> None:
        # 129 rows are two tiles of 128, a cluster of two; 257 are three, rounded to four.
        counts = gemm_counts(kernel("vllm_scaled_mm_sm90:fp8"), H100, Gemm(4096, 4096, "fp8"), np.array([129, 257]))
        assert counts.padded_rows[0].tolist() == [256, 512]

    def test_vllm_block_fp8_hopper_depends_on_rows_modulo_four(self) -> None:
        assert tile_rows("vllm_scaled_mm_sm90:fp8_block", H100, Gemm(4096, 4096, "fp8_block"), [3, 4, 5, 8]) == [
            16,
            128,
            16,
            128,
        ]

    def test_vllm_fp8_blackwell(self) -> None:
        tiles = tile_rows("vllm_scaled_mm_sm100:fp8", B200, Gemm(4096, 4096, "fp8"), [16, 17, 64, 65, 256])
        assert tiles == [32, 64, 64, 64, 64]
        narrow = gemm_counts(kernel("vllm_scaled_mm_sm100:fp8"), B200, Gemm(4096, 2048, "fp8"), np.array([63, 64]))
        assert narrow.tile_columns[0].tolist() == [128, 64]

    def test_two_sm_tile_of_128_rows_costs_no_more_at_128_rows_than_at_65(self) -> None:
        # vLLM's 128 x 128 tile in a 2 x 1 cluster: 64 rows on each of two SMs, weights fetched once for both.
        counts = gemm_counts(
            kernel("vllm_scaled_mm_sm100:fp8"), B200, Gemm(8192, 8192, "fp8"), np.array([65, 128, 129])
        )
        assert counts.padded_rows[0].tolist() == [128, 128, 256]
        assert counts.rereads[0].tolist() == [0, 0, 1]

    def test_vllm_block_fp8_blackwell_takes_the_first_tile_of_one_wave(self) -> None:
        # out 4096 is 32 column tiles; 148 SMs hold 4 row tiles: 64 rows up to M = 256, then 128 up to 512.
        tiles = tile_rows(
            "vllm_scaled_mm_sm100:fp8_block", B200, Gemm(4096, 4096, "fp8_block"), [64, 65, 256, 257, 512]
        )
        assert tiles == [16, 64, 64, 128, 128]
        padded = gemm_counts(
            kernel("vllm_scaled_mm_sm100:fp8_block"), B200, Gemm(4096, 4096, "fp8_block"), np.array([513])
        )
        assert padded.padded_rows.item() == 768  # 256-row tiles over two SMs

    def test_int8_ampere(self) -> None:
        assert tile_rows("vllm_scaled_mm_sm80:int8", A100, Gemm(4096, 4096, "int8"), [16, 17, 33, 65, 129]) == [
            16,
            32,
            64,
            64,
            128,
        ]
        assert tile_rows("vllm_scaled_mm_sm80:int8", A100, Gemm(8192, 4096, "int8"), [65]) == [128]

    def test_marlin(self) -> None:
        rows = [1, 8, 9, 16, 17, 32, 33, 48, 49, 64, 65]
        assert tile_rows("marlin_sm80:dense", A100, Gemm(4096, 4096, "int4"), rows) == [
            8,
            8,
            16,
            16,
            32,
            32,
            48,
            48,
            64,
            64,
            64,
        ]

    def test_machete(self) -> None:
        rows = [16, 17, 33, 65, 129, 257]
        assert tile_rows("machete_sm90:w4a16", H100, Gemm(8192, 8192, "int4"), rows) == [16, 32, 64, 128, 128, 256]
        assert tile_rows("machete_sm90:w4a16", H100, Gemm(4096, 4096, "int4"), [33]) == [16]

    def test_deepgemm_small_blocks_only_while_rows_fit(self) -> None:
        tiles = tile_rows("deepgemm_sm90:dense", H100, Gemm(4096, 7168, "fp8_block"), [16, 17, 32, 33])
        assert tiles == [16, 32, 32, 64]

    def test_deepgemm_blackwell_is_one_wave_where_it_can(self) -> None:
        counts = gemm_counts(kernel("deepgemm_sm100:dense"), B200, Gemm(4096, 7168, "fp8_block"), np.arange(1, 513))
        assert counts.waves.max() == 1

    def test_sglang_fp8(self) -> None:
        assert tile_rows("sgl_kernel_sm90:fp8", H100, Gemm(4096, 4096, "fp8"), [1, 64, 65, 129]) == [64, 64, 64, 128]
        assert tile_rows("sgl_kernel_sm100:fp8", B200, Gemm(4096, 4096, "fp8"), [16, 64, 65, 257]) == [64, 64, 64, 128]

    @pytest.mark.parametrize(("out", "first"), [(8192, 257), (5120, 513), (4096, 641), (3584, 769)])
    def test_rtx_leaves_one_wave_of_128_x_128_where_its_timings_double(self, out: int, first: int) -> None:
        rtx = load_hardware("rtx_pro_6000_blackwell")
        for key, dtype in (("sgl_kernel_sm120:fp8", "fp8"), ("cutlass_nvfp4_sm120:nvfp4", "nvfp4")):
            counts = gemm_counts(kernel(key), rtx, Gemm(out, 8192, dtype), np.array([first - 1, first]))
            assert counts.waves[0].tolist() == [1, 2]

    def test_exact_row_kernel_pads_nothing(self) -> None:
        counts = gemm_counts(one_tile(0, 2), H100, Gemm(4096, 4096), np.arange(1, 17))
        assert counts.padded_rows[0].tolist() == list(range(1, 17))

    def test_stream_k_pays_its_share_of_a_wave(self) -> None:
        counts = gemm_counts(kernel("marlin_sm80:dense"), A100, Gemm(28672, 4096, "int4"), np.array([32]))
        assert counts.waves.item() == pytest.approx(28672 / 256 / 108)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 3000),
    out=st.integers(1, 60),
    tile=st.sampled_from([16, 64, 128]),
    cluster=st.sampled_from([1, 2, 4]),
    slow=st.booleans(),
    anew=st.booleans(),
)
def test_rereads_and_idle_rows_by_brute_force(
    rows: int, out: int, tile: int, cluster: int, slow: bool, anew: bool
) -> None:
    one = one_tile(tile, 128, (cluster, 1)).model_copy(update={"idle_rows_slow": slow, "idle_rows_reread": anew})
    counts = gemm_counts(one, H100, Gemm(128 * out, 4096), np.array([rows]))
    clusters = math.ceil(rows / (tile * cluster))
    paid = clusters * cluster * tile
    assert counts.padded_rows.item() == paid
    missing = -rows % tile / tile if anew and rows > tile else 0.0
    assert counts.rereads.item() == pytest.approx(clusters - 1 + missing)
    assert counts.idle_share.item() == pytest.approx((paid - rows) / paid if slow and paid > tile else 0.0)


@pytest.mark.parametrize(
    ("out", "rows", "idle"),
    [
        (4096, 16, 0.0),  # a tile of 16 rows
        (4096, 17, 47 / 64),
        (4096, 64, 0.0),
        (1024, 17, 0.0),  # narrow outputs: four tiles of 16 rows
        (4096, 129, 127 / 256),  # two tiles of 128
    ],
)
def test_vllm_on_hopper_pays_for_idle_rows_of_wide_tiles(out: int, rows: int, idle: float) -> None:
    counts = gemm_counts(kernel("vllm_scaled_mm_sm90:fp8"), H100, Gemm(out, 8192, "fp8"), np.array([rows]))
    assert counts.idle_share.item() == pytest.approx(idle)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(65, 2000), out=st.integers(1, 60), depth=st.integers(1, 60))
def test_deepgemm_blackwell_takes_one_wave_where_128_x_128_would(rows: int, out: int, depth: int) -> None:
    operator = Gemm(128 * out, 128 * depth, "fp8_block")
    bm, bn, *_ = (int(part[0]) for part in deepgemm_tiles("deepgemm_sm100", 148, operator, np.array([rows])))
    if math.ceil(rows / 128) * out <= 148:
        assert math.ceil(rows / bm) * math.ceil(128 * out / bn) <= 148


@pytest.mark.parametrize(
    ("gpu", "backend", "key", "dtype", "slow"),
    [
        # 128 KB of 8-bit input at 8 rows of 16384, of 4-bit input at 16 rows; scales do not count.
        ("rtx_pro_6000_blackwell", "sglang", "sgl_kernel_sm120:fp8", "fp8", 7),
        ("rtx_pro_6000_blackwell", "sglang", "cutlass_nvfp4_sm120:nvfp4", "nvfp4", 16),
        ("b200", "trtllm", "trtllm_nvfp4_sm100:nvfp4", "nvfp4", 15),
    ],
)
def test_a_small_quantised_input_slows_the_stream(gpu: str, backend: str, key: str, dtype: str, slow: int) -> None:
    hardware, operator = load_hardware(gpu), Gemm(51200, 16384, dtype)
    rows = np.array([1, slow, slow + 1])
    assert gemm_counts(kernel(key), hardware, operator, rows).stream_slowed[0].tolist() == [1.2, 1.2, 1.0]
    assert slow + 1 in gemm_edges(kernel(key), hardware, operator, 64)
    memory = bind(hardware, operator, backend).terms(rows)["memory"]
    assert memory[1] / memory[2] == pytest.approx(1.2, rel=1e-3)


def test_a_cluster_finds_room_on_a_chip_smaller_than_it() -> None:
    small = load_hardware("b200").model_copy(update={"sm_count": 3})
    counts = gemm_counts(kernel("sgl_kernel_sm100:fp8"), small, Gemm(4096, 4096, "fp8"), np.array([1, 64]))
    assert (counts.waves >= 1).all()


def test_tensorrt_llm_on_ada_runs_up_to_eight_8_bit_rows_on_cuda_cores() -> None:
    ada, library, operator = load_hardware("l40s"), kernel("cublas_sm89:dynamic_fp8"), Gemm(16384, 8192, "fp8")
    counts = gemm_counts(library, ada, operator, np.array([1, 8, 9]))
    assert counts.stream_slowed[0].tolist() == [0.86, 0.86, 1.0]
    assert 9 in gemm_edges(library, ada, operator, 64)
    assert gemm_row(library, ada, operator, 8).rule == "T <= 8: on CUDA cores, without tiles"
    memory = bind(ada, operator, "trtllm").terms(np.array([8, 9]))["memory"]
    assert memory[0] / memory[1] == pytest.approx(0.86, rel=2e-3)


@pytest.mark.parametrize(
    ("out", "depth", "rows", "expected"),
    [
        # 80 tiles of 128 x 128 in one wave score above 54 of 128 x 192 and 160 of 128 x 64 in two; the cluster runs along the outputs.
        (10240, 51200, 1, (128, 128, 1, 4)),
        # Swapped: the tokens fill the 64 columns of a tile of 128 outputs.
        (10240, 51200, 24, (64, 128, 1, 1)),
        (10240, 51200, 32, (128, 128, 1, 4)),
        # 255 rows keep the tile of 128; at 256 two rows of 54 tiles fill 108 SMs.
        (10240, 51200, 255, (128, 128, 1, 4)),
        (10240, 51200, 256, (128, 192, 1, 1)),
        (65536, 8192, 100, (128, 256, 1, 4)),
    ],
)
def test_cutedsl_takes_the_tile_of_the_last_power_of_two(
    out: int, depth: int, rows: int, expected: tuple[int, int, int, int]
) -> None:
    found = cutedsl_tiles(148, Gemm(out, depth, "nvfp4"), np.array([rows]))
    assert tuple(int(part[0]) for part in found) == expected


@pytest.mark.parametrize(
    ("gpu", "out", "rows", "waves"),
    [
        # 267 tiles of 128 x 192 are 67 clusters of four: 33 of them fit 0.9 of 148 SMs, 34 fit 0.9 of 152.
        ("b200", 51200, 1, 3),
        ("gb200", 51200, 1, 2),
        ("b200", 65536, 1, 2),
        # At 16 rows operands are swapped and no cluster holds tiles together: 400 on 148 SMs.
        ("b200", 51200, 16, 3),
        ("b200", 51200, 256, 3),
    ],
)
def test_clusters_of_four_do_not_fill_every_sm(gpu: str, out: int, rows: int, waves: int) -> None:
    operator = Gemm(out, 51200, "nvfp4")
    counts = gemm_counts(kernel("flashinfer_cutedsl_sm100:nvfp4"), load_hardware(gpu), operator, np.array([rows]))
    assert counts.waves.item() == waves


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 2000), out=st.integers(1, 60), depth=st.integers(1, 60))
def test_deepgemm_hopper_beats_every_plain_block_on_its_own_score(rows: int, out: int, depth: int) -> None:
    """sm90.hpp: whole-number L1 and L2 cycles over the wave efficiency; the pick is no worse than any block without a cluster."""

    def cycles(bm: int, bn: int, cluster_rows: int = 1, cluster_columns: int = 1) -> float:
        blocks = math.ceil(rows / bm) * math.ceil(n / bn)
        l2 = (k * (bm // cluster_columns + bn // cluster_rows) + 2 * bm * bn) * blocks // min(64 * 132, 6153)
        l1 = (k * (bm + bn + max(64, bm) + bn) + 4 * bm * bn) * blocks // (128 * 132)
        return max(l1, l2) * math.ceil(blocks / 132) * 132 / blocks

    n, k = 128 * out, 128 * depth
    picked = (int(part[0]) for part in deepgemm_tiles("deepgemm_sm90", 132, Gemm(n, k, "fp8_block"), np.array([rows])))
    best = cycles(*picked)
    blocks_of_rows = [64, 128, *([16] if rows <= 16 else []), *([32] if rows <= 32 else [])]
    for bm in blocks_of_rows:
        for bn in (16, 32, 64, 96, 112, 128):
            assert best <= cycles(bm, bn)


def brute_force_menu(menu: GemmKernel, sm_count: int, out: int, rows: int) -> dict[tuple[int, int, int], float]:
    """(bm, bn, s) -> waves, from the definition."""
    waves = {}
    for bm in menu.token_tiles:
        for bn in menu.output_tiles:
            for s in menu.splits:
                if bm * bn <= menu.max_tile_area:
                    waves[bm, bn, s] = max(1.0, math.ceil(rows / bm) * math.ceil(out / bn) * s / sm_count)
    return waves


class TestMenu:
    @settings(max_examples=40, deadline=None)
    @given(rows=st.integers(1, 4096), out=st.integers(1, 40000))
    def test_entries_against_brute_force(self, rows: int, out: int) -> None:
        menu = kernel("cublas_sm90:tile_menu")
        counts = gemm_counts(menu, H100, Gemm(out, 4096), np.array([rows]))
        expected = brute_force_menu(menu, H100.sm_count, out, rows)
        for i in range(len(counts.tile_rows)):
            entry = (int(counts.tile_rows[i, 0]), int(counts.tile_columns[i, 0]), int(counts.splits[i, 0]))
            assert counts.waves[i, 0] == pytest.approx(expected[entry], rel=1e-12)
            assert counts.padded_rows[i, 0] == math.ceil(rows / entry[0]) * entry[0]

    @settings(max_examples=60, deadline=None)
    @given(
        rows=st.integers(1, 6000),
        out=st.integers(1, 40000),
        matrix=st.floats(0.01, 100),
        chain=st.floats(0.01, 100),
        split=st.floats(0, 100),
        power=st.floats(1, 8),
    )
    def test_pruning_keeps_the_cheapest(
        self, rows: int, out: int, matrix: float, chain: float, split: float, power: float
    ) -> None:
        # Whatever the constants: cost = [(1 + s-term)^p + mma^p]^(8/p) + chain^8, as in the cost model's section 2.
        def cost(bm: float, bn: float, s: float, waves: float) -> float:
            memory = 1 + split * s / 1000 * (s > 1)
            mma = matrix * waves * bm * bn / s / 8192
            return ((memory**power + mma**power) ** (8 / power) + (chain * waves / s) ** 8) ** (1 / 8) + split * (s > 1)

        menu = kernel("cublas_sm90:tile_menu")
        counts = gemm_counts(menu, H100, Gemm(out, 4096), np.array([rows]))
        pruned = min(
            cost(counts.tile_rows[i, 0], counts.tile_columns[i, 0], counts.splits[i, 0], counts.waves[i, 0])
            for i in range(len(counts.tile_rows))
        )
        full = min(cost(*entry, waves) for entry, waves in brute_force_menu(menu, H100.sm_count, out, rows).items())
        assert pruned == pytest.approx(full, rel=1e-9)

    def test_pruning_drops_most_of_the_menu(self) -> None:
        menu = kernel("cublas_sm90:tile_menu")
        operator = Gemm(28672, 4096)
        all_entries = len(menu_entries(menu_key(menu, H100.sm_count, operator.out_features)))
        assert len(gemm_counts(menu, H100, operator, np.array([1])).tile_rows) < all_entries / 4

    def test_rows_beyond_the_pruned_range_still_have_every_tile(self) -> None:
        menu = kernel("cublas_sm90:tile_menu")
        few = gemm_counts(menu, H100, Gemm(4096, 4096), np.array([20000]))
        assert len(few.tile_rows) == len(brute_force_menu(menu, H100.sm_count, 4096, 20000))

    def test_hard_waves_are_whole(self) -> None:
        menu = kernel("cublas_sm90:tile_menu").model_copy(update={"hard_waves": True})
        waves = gemm_counts(menu, H100, Gemm(6144, 4096), np.arange(1, 513)).waves
        assert np.array_equal(waves, np.floor(waves))

    def test_result_does_not_depend_on_the_other_rows(self) -> None:
        menu = kernel("cublas_sm80:tile_menu")
        few = gemm_counts(menu, A100, Gemm(4096, 4096), np.array([100]))
        many = gemm_counts(menu, A100, Gemm(4096, 4096), np.arange(1, 200))
        assert np.array_equal(few.waves[:, 0], many.waves[:, 99])


KEYS = [
    "cublas_sm90:tile_menu",
    "vllm_scaled_mm_sm90:fp8",
    "vllm_scaled_mm_sm90:fp8_block",
    "vllm_scaled_mm_sm100:fp8_block",
    "deepgemm_sm90:dense",
    "deepgemm_sm90:sglang",
    "deepgemm_sm100:dense",
    "flashinfer_cutedsl_sm100:nvfp4",
    "marlin_sm80:dense",
    "machete_sm90:w4a16",
]


@pytest.mark.parametrize("key", KEYS)
@settings(max_examples=15, deadline=None)
@given(out=st.integers(1, 200), depth=st.integers(1, 100))
def test_counts_are_constant_between_edges(key: str, out: int, depth: int) -> None:
    found, operator = kernel(key), Gemm(128 * out, 128 * depth)
    rows = np.arange(1, 401)
    counts = gemm_counts(found, H100, operator, rows)
    edges = gemm_edges(found, H100, operator, 400)
    start = edges[np.searchsorted(edges, rows, side="right") - 1]
    for array in (
        counts.waves,
        counts.padded_rows,
        *((counts.tile_rows, counts.tile_columns) if counts.tile_rows.shape[1] > 1 else ()),
    ):
        assert np.array_equal(array, array[:, start - 1])
    assert edges[0] == 1
    assert edges[-1] <= 400


@pytest.mark.parametrize("key", [key for key in KEYS if "cublas" not in key])
def test_every_dispatch_edge_is_a_change(key: str) -> None:
    operator = Gemm(4096, 4096)
    edges = gemm_edges(kernel(key), H100, operator, 300)[1:]
    counts = gemm_counts(kernel(key), H100, operator, np.arange(1, 301))
    table = np.stack([counts.tile_rows[0], counts.tile_columns[0], counts.waves[0], counts.padded_rows[0]])
    assert np.all((table[:, edges - 1] != table[:, edges - 2]).any(axis=0))


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 2000), out=st.integers(1, 60), depth=st.integers(1, 60))
def test_slow_blocks_take_three_waves_for_one_and_nothing_else_changes(rows: int, out: int, depth: int) -> None:
    operator, at = Gemm(128 * out, 128 * depth, "fp8_block"), np.array([rows])
    plain = gemm_counts(kernel("deepgemm_sm90:dense"), H100, operator, at)
    slow = gemm_counts(kernel("deepgemm_sm90:sglang"), H100, operator, at)
    bm, bn, *cluster = (int(part[0]) for part in deepgemm_tiles("deepgemm_sm90", 132, operator, at))
    expected = 3 if cluster == [1, 1] and (bm, bn) in {(128, 192), (256, 128)} else 1
    assert slow.waves.item() == expected * plain.waves.item()
    assert slow.padded_rows.item() == plain.padded_rows.item()
    rule = gemm_row(kernel("deepgemm_sm90:sglang"), H100, operator, rows).rule
    assert rule.endswith(", 3 times as slow without a cluster") == (expected == 3)


class TestRow:
    def test_names_the_row_that_decided(self) -> None:
        row = gemm_row(kernel("vllm_scaled_mm_sm90:fp8"), H100, Gemm(4096, 4096, "fp8"), 64)
        assert row.kernel == "vllm_scaled_mm_sm90:fp8"
        assert row.rule == "17 <= T <= 64, n >= 1281: 64 x 64"
        assert "scaled_mm_sm90_fp8_dispatch" in row.source
        assert not row.inferred
        assert row.in_range

    def test_menu_is_marked_inferred(self) -> None:
        row = gemm_row(kernel("cublas_sm90:tile_menu"), H100, Gemm(4096, 4096), 64)
        assert row.inferred
        assert row.rule.startswith("the cheapest of ")

    def test_outside_its_range_it_says_so(self) -> None:
        limited = one_tile(16, 64).model_copy(update={"max_rows": 16})
        assert gemm_row(limited, H100, Gemm(64, 64), 16).in_range
        assert not gemm_row(limited, H100, Gemm(64, 64), 17).in_range

    def test_no_row_holds(self) -> None:
        gap = GemmKernel(
            name="gap",
            weight_dtypes=("bfloat16",),
            selection="dispatch",
            rows=(GemmRow(max_rows=8, token_tile=8, output_tile=64),),
            source="test",
        )
        assert not gemm_row(gap, H100, Gemm(64, 64), 9).in_range

    def test_deepgemm_clusters_do_not_pad(self) -> None:
        operator = Gemm(24576, 1536, "fp8_block")
        assert (
            gemm_row(kernel("deepgemm_sm90:dense"), H100, operator, 1).rule
            == "best score at T = 1: 16 x 96, cluster 2 x 1"
        )
        counts = gemm_counts(kernel("deepgemm_sm90:dense"), H100, operator, np.array([1]))
        assert counts.waves.item() == math.ceil(24576 / 96 / 132)

    def test_deepgemm_names_its_block(self) -> None:
        row = gemm_row(kernel("deepgemm_sm90:dense"), H100, Gemm(7168, 2048, "fp8_block"), 256)
        assert row.rule == "best score at T = 256: 128 x 112"


class TestSelection:
    @pytest.mark.parametrize(
        ("hardware", "backend", "dtype", "key"),
        [
            ("a100", "vllm", "bfloat16", "cublas_sm80:tile_menu"),
            ("h100", "vllm", "fp8", "vllm_scaled_mm_sm90:fp8"),
            ("h100", "vllm", "fp8_block", "deepgemm_sm90:dense"),
            ("h100", "vllm", "int4", "machete_sm90:w4a16"),
            ("a100", "vllm", "int4", "marlin_sm80:dense"),
            ("b200", "vllm", "nvfp4", "flashinfer_cutedsl_sm100:nvfp4"),
            ("b200", "trtllm", "nvfp4", "trtllm_nvfp4_sm100:nvfp4"),
            ("rtx_pro_6000_blackwell", "sglang", "nvfp4", "cutlass_nvfp4_sm120:nvfp4"),
            ("h200", "sglang", "fp8_block", "deepgemm_sm90:sglang"),
            ("h200", "sglang", "fp8", "sgl_kernel_sm90:fp8"),
            ("b200", "trtllm", "bfloat16", "cublas_sm100:tile_menu"),
            ("rtx_5090", "torch", "bfloat16", "cublas_sm120:tile_menu"),
        ],
    )
    def test_engine_defaults(self, hardware: str, backend: str, dtype: str, key: str) -> None:
        assert select_gemm(load_hardware(hardware), backend, Gemm(4096, 4096, dtype)).key == key

    def test_deepgemm_needs_multiples_of_128(self) -> None:
        assert select_gemm(H100, "vllm", Gemm(4160, 4096, "fp8_block")).key == "vllm_scaled_mm_sm90:fp8_block"

    def test_unknown_chip_takes_the_matrix_instruction(self) -> None:
        chip = H100.model_copy(update={"architecture": "sm999", "name": "new"})
        for backend in (None, "uncalibrated", "vllm"):
            found = select_gemm(chip, backend, Gemm(4096, 4096))
            assert found.key == "new:default_tile"
            assert found.token_tiles == H100.default_tile.token_rows

    def test_unknown_engine(self) -> None:
        with pytest.raises(UnknownNameError, match="unknown backend 'vlm'; did you mean 'vllm'"):
            select_gemm(H100, "vlm", Gemm(4096, 4096))


def test_rows_below_one_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="token rows must be at least 1, got 0"):
        gemm_counts(kernel("cublas_sm90:tile_menu"), H100, Gemm(64, 64), np.array([4, 0]))
    with pytest.raises(InvalidArgumentError, match="max_rows must be at least 1, got 0"):
        gemm_edges(kernel("cublas_sm90:tile_menu"), H100, Gemm(64, 64), 0)


@pytest.mark.parametrize(
    ("gpu", "backend", "dtype", "passes", "read"),
    [
        ("h100", "trtllm", "fp8", 7.5, 1),
        ("b200", "sglang", "fp8_block", 3, 1),
        ("h100", "vllm", "fp8", 3, 1),
        ("b200", "sglang", "nvfp4", 2.5625, 0.5),
        ("h100", "vllm", "bfloat16", 0, 2),
    ],
)
def test_launches_that_quantise_the_input_end_before_the_product_begins(
    gpu: str, backend: str, dtype: str, passes: float, read: float
) -> None:
    bound = bind(load_hardware(gpu), Gemm(4096, 8192, dtype), backend)
    _, inputs = equation_inputs(bound, np.array([16]))
    assert inputs["quantized_bytes"] == passes * 8192
    assert inputs["row_bytes"] == pytest.approx(2 * 4096 + read * 8192, rel=0.05)  # scales come on top
    terms = bound.terms(np.array([16, 1024]))
    rate = inputs["bandwidth"] * bound.fit.constants["memory_efficiency"]
    assert terms["rows"] == pytest.approx(np.array([16, 1024]) * passes * 8192 / rate, rel=1e-9)
    overlapped = terms["total"] - terms["rows"] - terms["fixed"]
    assert (overlapped >= np.maximum(terms["memory"], terms["matrix"]) * (1 - 1e-9)).all()
