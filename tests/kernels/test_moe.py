"""Block rules against the switch points their sources state, and counts against brute force over routings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from nfp_model.cost.binding import bind
from nfp_model.cost.inputs import equation_inputs, moe_row_bytes
from nfp_model.errors import SpecError
from nfp_model.kernels.moe import as_stored, moe_blocks, moe_counts, moe_edges, moe_row
from nfp_model.operators import FusedMoE
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.kernel_library import all_libraries, load_kernel
from nfp_model.specs.moe_kernel import MoEKernel
from nfp_model.specs.registry import load_hardware

H100, H200, A100, B200, L40S = (load_hardware(name) for name in ("h100", "h200", "a100", "b200_sxm", "l40s"))
VLLM = "triton_moe_vllm:default_16bit_int8"
VLLM_BLOCK = "triton_moe_vllm:default_fp8_block"
GEN = "trtllm_gen_moe:untuned"


def kernel(key: str) -> MoEKernel:
    found = load_kernel(key)
    assert isinstance(found, MoEKernel)
    return found


def mixtral(**changes: Any) -> FusedMoE:
    return FusedMoE(4096, 14336, 8, 2, **changes)


def qwen(**changes: Any) -> FusedMoE:
    return FusedMoE(2048, 768, 128, 8, **changes)


def block_rows(key: str, hardware: HardwareSpec, operator: FusedMoE, tokens: list[int]) -> list[int]:
    rows: list[int] = moe_blocks(kernel(key), hardware, operator, np.array(tokens)).rows.tolist()
    return rows


def block_shapes(
    key: str, operator: FusedMoE, tokens: list[int], hardware: HardwareSpec = H100
) -> list[tuple[int, int]]:
    blocks = moe_blocks(kernel(key), hardware, operator, np.array(tokens))
    return list(zip(blocks.rows.tolist(), blocks.columns.tolist(), strict=True))


def test_vllm_default_switches_where_get_default_config_says() -> None:
    # vLLM 0.33.0 fused_moe.py, get_default_config: T <= 32, 64, 96, 512, above.
    tokens = [1, 32, 33, 64, 65, 96, 97, 512, 513]
    expected = [(16, 64)] * 2 + [(32, 64)] * 2 + [(32, 128)] * 2 + [(64, 128)] * 2 + [(128, 128)]
    assert block_shapes(VLLM, mixtral(), tokens) == expected


def test_vllm_fp8_block_switches_where_get_default_config_says() -> None:
    operator = FusedMoE(7168, 2048, 256, 8, "fp8_block")
    assert block_shapes(VLLM_BLOCK, operator, [8, 9, 64, 65]) == [(16, 64), (16, 128), (16, 128), (64, 128)]
    grouped = moe_blocks(kernel(VLLM_BLOCK), H100, operator, np.array([16, 17])).grouped
    assert grouped.tolist() == [False, True]


def test_vllm_groups_blocks_above_128_tokens_per_expert() -> None:
    # GROUP_SIZE_M = 16 when floor(T / E) > 128: with 8 experts from T = 1032 on.
    grouped = moe_blocks(kernel(VLLM), H100, mixtral(), np.array([1024, 1031, 1032])).grouped
    assert grouped.tolist() == [False, False, True]


def test_vllm_wna16_switches() -> None:
    operator = FusedMoE(2048, 768, 128, 8, "int4")
    key = "triton_moe_vllm:default_wna16"
    assert block_shapes(key, operator, [1, 2, 20, 21, 40, 41]) == [
        (16, 32),
        (16, 64),
        (16, 64),
        (32, 64),
        (32, 64),
        (64, 64),
    ]


def test_sglang_switches_at_the_number_of_experts() -> None:
    # SGLang 0.5.23 get_default_config: 16 x 32 up to T = E, 64 x 64 above; E is that of the rank.
    key = "triton_moe_sglang:default_16bit"
    assert block_shapes(key, mixtral(), [8, 9]) == [(16, 32), (64, 64)]
    assert block_shapes(key, qwen(expert_parallel=4), [32, 33]) == [(16, 32), (64, 64)]
    fp8 = qwen(weight_dtype="fp8")
    assert block_shapes("triton_moe_sglang:default_fp8", fp8, [128, 129]) == [(64, 128), (128, 256)]
    assert block_shapes("triton_moe_sglang_small_smem:default_fp8", fp8, [128, 129], L40S) == [(32, 64), (64, 128)]


def test_trtllm_gen_untuned_takes_one_tile_below_the_covering_one() -> None:
    # FlashInfer selectDefaultTileN: the smallest of (one down, centre, two up); at least 8, at most 64.
    loads = {1: 8, 8: 8, 9: 8, 16: 8, 17: 16, 32: 16, 33: 32, 64: 32, 65: 64, 128: 64, 129: 64, 4000: 64}
    operator = FusedMoE(2048, 768, 128, 1)
    assert block_rows(GEN, B200, operator, [128 * load for load in loads]) == list(loads.values())
    assert block_rows(GEN, B200, qwen(), [256, 257, 512, 513]) == [8, 16, 16, 32]


def test_trtllm_gen_divides_by_local_experts() -> None:
    assert block_rows(GEN, B200, qwen(), [256]) == [8]
    assert block_rows(GEN, B200, qwen(expert_parallel=8), [256]) == [64]


def test_marlin_takes_the_first_block_filled_below_nine_tenths() -> None:
    # vLLM fused_marlin_moe: T k / (E b) < 0.9 for b in 8, 16, 32, 48, 64.
    operator = FusedMoE(2048, 768, 10, 1, "int4")
    tokens = [71, 72, 143, 144, 287, 288, 431, 432, 5000]
    assert block_rows("marlin_moe:marlin", H100, operator, tokens) == [8, 16, 16, 32, 32, 48, 48, 64, 64]


def test_marlin_counts_the_experts_of_the_rank() -> None:
    # 12 of 384 experts, k 8: 0.9 x 32 rows an expert are passed after 32 tokens, 0.9 x 48 after 64.
    operator = FusedMoE(7168, 2048, 384, 8, "int4", expert_parallel=32, routing="balanced")
    assert block_rows("marlin_moe:marlin", H100, operator, [32, 48, 64, 80]) == [32, 48, 48, 64]


def test_vllm_runs_triton_kernels_undoubled_by_local_experts() -> None:
    for ranks in (1, 4):
        operator = FusedMoE(2880, 2880, 32, 4, "mxfp4", expert_parallel=ranks, routing="balanced")
        edges = [n * 8 // ranks + extra for n in (16, 32, 64) for extra in (0, 1)]
        assert block_rows("triton_kernels_moe:vllm", H100, operator, edges) == [16, 32, 32, 64, 64, 128]


def test_expanded_weights_are_read_and_multiplied_in_16_bits() -> None:
    stored, wide = FusedMoE(2880, 2880, 128, 4, "mxfp4"), FusedMoE(2880, 2880, 128, 4, "bfloat16")
    rule, tokens = kernel("triton_moe_sglang:expanded_mxfp4"), np.array([1, 128, 160, 4096])
    assert as_stored(rule, stored) == wide
    ours, theirs = moe_counts(rule, H100, stored, tokens), moe_counts(rule, H100, wide, tokens)
    for name in ("row_blocks", "rereads_up", "rereads_down", "waves"):
        assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()
    assert as_stored(kernel("marlin_moe:marlin"), stored) == stored


def test_tensorrt_llm_takes_no_more_than_64_rows_a_block_for_16_bit_activations() -> None:
    for ranks in (1, 4):
        operator = FusedMoE(2880, 2880, 128, 4, "mxfp4", expert_parallel=ranks, routing="balanced")
        edges = [n * 32 // ranks + extra for n in (16, 32, 64) for extra in (0, 1)]
        assert block_rows("trtllm_gen_moe:w4a16", B200, operator, edges) == [16, 32, 32, 64, 64, 64]


@pytest.mark.parametrize(("ranks", "width"), [(1, 3072), (2, 2 * 1536), (4, 4 * 768), (8, 8 * 512)])
def test_padded_sizes_are_multiples_of_256_on_a_rank(ranks: int, width: int) -> None:
    padded = as_stored(
        kernel("trtllm_gen_moe:untuned_padded"), FusedMoE(2880, 2880, 128, 4, "mxfp4", tensor_parallel=ranks)
    )
    assert (padded.hidden_size, padded.intermediate_size) == (3072, width)
    whole = FusedMoE(3584, 3072, 896, 16, "mxfp4")
    assert as_stored(kernel("trtllm_gen_moe:untuned_padded"), whole) == whole


def test_triton_kernels_doubles_the_block_on_purpose() -> None:
    # opt_flags.py: t = max(1, floor(rows / E)); t <= 64: clamp(nextpow2(2t), 16, 64), else clamp(nextpow2(t), 16, 128).
    operator = FusedMoE(2880, 2880, 128, 4, "mxfp4")
    per_expert = [1, 8, 9, 16, 17, 32, 64, 65, 128, 500]
    got = block_rows("triton_kernels_moe:ragged", H100, operator, [32 * t for t in per_expert])
    assert got == [16, 16, 32, 32, 64, 64, 64, 128, 128, 128]


def test_trtllm_doubles_the_block_over_the_experts_of_its_rank() -> None:
    """Public timings on H200 (fit half), balanced: steps past 8, 16 and 64 rows an expert, of 32 experts or of a rank's 8."""
    for ranks in (1, 4):
        operator = FusedMoE(2880, 2880, 32, 4, "mxfp4", expert_parallel=ranks, routing="balanced")
        edges = [n * 8 // ranks for n in (8, 10, 16, 20, 64, 96)]
        assert block_rows("triton_kernels_moe:trtllm", H100, operator, edges) == [16, 32, 32, 64, 64, 128]


def test_deepgemm_and_cutlass_rules() -> None:
    operator = FusedMoE(7168, 2048, 256, 8, "fp8_block")
    assert set(block_rows("deepgemm_moe_sm90:contiguous", H100, operator, [1, 1000, 9000])) == {128}
    assert block_rows("deepgemm_moe_sm100:contiguous", B200, operator, [1024, 1025, 3200, 9000]) == [32, 64, 128, 128]
    mega = [int(32 * edge) + extra for edge in (8.5, 16.5, 32.5, 64.5, 96.5) for extra in (0, 1)]
    mx = FusedMoE(7168, 2048, 256, 8, "mxfp4")
    assert block_rows("deepgemm_moe_sm100:mega_moe", B200, mx, mega) == [16, 32, 32, 64, 64, 96, 96, 128, 128, 192]
    wide, deep = FusedMoE(4096, 14336, 8, 2, "fp8"), FusedMoE(8192, 1024, 8, 2, "fp8")
    assert block_shapes("cutlass_moe_sm90:grouped_fp8", wide, [64, 65]) == [(16, 128), (64, 128)]
    assert block_shapes("cutlass_moe_sm90:grouped_fp8", deep, [65]) == [(128, 128)]
    assert block_shapes("cutlass_moe_sm90:grouped_fp8", qwen(weight_dtype="fp8"), [65]) == [(64, 256)]


@pytest.mark.parametrize(("experts", "top_k", "last"), [(128, 8, 4), (256, 8, 8), (512, 10, 12), (8, 2, 1)])
def test_sparse_path_range(experts: int, top_k: int, last: int) -> None:
    # vLLM skips alignment while T k x 4 <= E: T <= 4, 8, 12; one token of Mixtral; never under expert parallelism.
    operator = FusedMoE(2048, 640, experts, top_k)
    sparse = moe_blocks(kernel(VLLM), H100, operator, np.arange(1, 40)).sparse
    assert np.count_nonzero(sparse) == last
    counts = moe_counts(kernel(VLLM), H100, operator, np.arange(1, last + 1))
    assert counts.row_blocks.tolist() == [top_k * tokens for tokens in range(1, last + 1)]
    parallel = FusedMoE(2048, 640, experts, top_k, expert_parallel=2)
    assert not moe_blocks(kernel(VLLM), H100, parallel, np.arange(1, 40)).sparse.any()


def test_mixtral_on_h100_steps_between_256_and_320_tokens() -> None:
    # Public timings (aiconfigurator, vLLM 0.24.0, bf16, balanced): 1065 -> 1844 us from 256 to 320 tokens on H100.
    counts = moe_counts(kernel(VLLM), H100, mixtral(routing="balanced"), np.array([256, 320, 512]))
    assert counts.row_blocks.tolist() == [8, 16, 16]
    assert counts.rereads_up.tolist() == counts.rereads_down.tolist() == [1, 1, 1]


def test_mixtral_on_h200_runs_the_shipped_tuned_file() -> None:
    # E=8,N=14336,device_name=NVIDIA_H200.json: 128-row blocks from the 256 key on, so no step there (753 -> 798 us).
    counts = moe_counts(kernel(VLLM), H200, mixtral(routing="balanced"), np.array([256, 320, 512]))
    assert counts.block_rows.tolist() == [128, 128, 128]
    assert counts.row_blocks.tolist() == [8, 8, 8]
    assert not counts.rereads_up.any()
    row = moe_row(kernel(VLLM), H200, mixtral(), 256)
    assert "E=8,N=14336,device_name=NVIDIA_H200.json" in row.source


def test_weights_that_fit_in_l2_are_hardly_read_again() -> None:
    # One Qwen3-30B-A3B expert is 6.3 + 3.1 MB against 50 MB of L2.
    counts = moe_counts(kernel(VLLM), H100, qwen(), np.array([256]))
    assert 0 < counts.rereads_down[0] < counts.rereads_up[0] < 0.05


@pytest.mark.parametrize(
    ("hidden", "width", "top_k", "experts", "dtype", "one", "two"),
    [
        (6144, 2560, 8, 160, "bfloat16", 2072, 2534),
        (5120, 8192, 1, 128, "bfloat16", 4388, 7508),
        (4096, 2048, 8, 256, "bfloat16", 1778, 2052),
        (5120, 8192, 1, 128, "fp8", 2261, 2871),
    ],
)
def test_second_block_reads_again_what_the_public_timings_of_b200_show(
    hidden: int, width: int, top_k: int, experts: int, dtype: str, one: int, two: int
) -> None:
    """aiconfigurator-core, vLLM 0.24.0, balanced, fit half: 8 rows an expert [us] and 10 to 16 of them, in two blocks of 8."""
    operator = FusedMoE(hidden, width, experts, top_k, dtype, routing="balanced")
    counts = moe_counts(kernel(GEN), B200, operator, np.array([16 * experts // top_k]))
    again = (counts.rereads_up[0] * operator.up_bytes + counts.rereads_down[0] * operator.down_bytes) / (
        operator.up_bytes + operator.down_bytes
    )
    # A tenth of the time is the second block's even where nothing is evicted.
    assert two / one == pytest.approx(1.1 + again, abs=0.07)


def test_mixtral_on_b200_steps_where_the_tile_is_outgrown() -> None:
    # Public timings (aiconfigurator, vLLM 0.24.0 TRT-LLM-gen): steps after 32, 512 and 1024 tokens, flat between.
    counts = moe_counts(
        kernel(GEN), B200, mixtral(routing="balanced"), np.array([32, 48, 64, 128, 256, 512, 768, 1024])
    )
    assert counts.row_blocks.tolist() == [8, 16, 16, 16, 16, 16, 24, 32]
    assert (counts.rereads_up == 1).all()


def test_waves_are_the_blocks_of_both_gemms_over_the_sms() -> None:
    """NVIDIA, Matrix Multiplication Background User's Guide, section 3.2: tiles over SMs; a GEMM below one wave takes one."""
    rule, qwen = kernel("trtllm_cutlass_moe:autotuned"), FusedMoE(2048, 768, 128, 8, routing="balanced")
    # 64 tokens touch all 128 experts, one block each: 12 column tiles of 128 of gate and up, 16 of down.
    assert moe_counts(rule, H100, qwen, np.array([64])).waves.tolist() == [128 * 12 / 132 + 128 * 16 / 132]
    # One token: 8 blocks, 96 and 128 tiles on 132 SMs.
    assert moe_counts(rule, H100, qwen, np.array([1])).waves.tolist() == [2.0]


@given(tokens=st.integers(1, 4096), ranks=st.sampled_from([1, 2, 4, 8, 16]))
@settings(max_examples=40, deadline=None)
def test_a_kernel_that_keeps_its_own_rows_moves_at_most_what_one_that_carries_all_does(tokens: int, ranks: int) -> None:
    operator = FusedMoE(2048, 768, 128, 8, routing="balanced", expert_parallel=ranks)
    rule = kernel("trtllm_cutlass_moe:autotuned")
    counts, rows = moe_counts(rule, H100, operator, np.array([tokens])), np.array([tokens])
    kept = moe_row_bytes(rule, operator, counts, rows)[0]
    carried = moe_row_bytes(rule.model_copy(update={"keeps_local_rows": False}), operator, counts, rows)[0]
    assert kept <= carried
    assert (kept == carried) == (ranks == 1)


def test_triton_writes_zeros_for_rows_of_other_ranks() -> None:
    """vLLM and SGLang, fused_moe_kernel, write_zeros_to_output: 64 of 512 pairs are here, 448 rows of 2 x 768 and of 2048 are zeroed."""
    operator = FusedMoE(2048, 768, 128, 8, routing="balanced", expert_parallel=8)
    rule, rows = kernel(VLLM), np.array([64])
    counts = moe_counts(rule, H100, operator, rows)
    spared = moe_row_bytes(rule.model_copy(update={"zeroes_other_rows": False}), operator, counts, rows)
    assert (moe_row_bytes(rule, operator, counts, rows) - spared).tolist() == [2 * 448 * (2 * 768 + 2048)]


def test_tuned_lookup_is_the_nearest_key() -> None:
    # Keys 96 and 128 of E=8,N=7168 on A100 both give 32 rows, 256 gives 64: the switch is past the midpoint 192.
    operator = mixtral(tensor_parallel=2)
    assert block_rows(VLLM, A100, operator, [191, 192, 193]) == [32, 32, 64]


def _random_loads(seed: int, experts: int, top_k: int, tokens: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    chosen = rng.random((tokens, experts)).argpartition(top_k - 1, axis=1)[:, :top_k]
    return np.bincount(chosen.ravel(), minlength=experts)


@given(st.integers(0, 10**6), st.integers(1, 300), st.sampled_from([(8, 2), (64, 6), (128, 8)]))
@settings(max_examples=60, deadline=None)
def test_padded_rows_stay_below_the_alignment_bound(seed: int, tokens: int, shape: tuple[int, int]) -> None:
    # moe_align_block_size: rows after padding <= top_k T + E (BLOCK_M - 1); brute force over a random routing.
    experts, top_k = shape
    operator = FusedMoE(2048, 640, experts, top_k)
    block = block_rows(VLLM, H100, operator, [tokens])[0]
    loads = _random_loads(seed, experts, top_k, tokens)
    padded = (-(-loads // block) * block).sum()
    expected = moe_counts(kernel(VLLM), H100, operator, np.array([tokens]))
    bound = top_k * tokens + experts * (block - 1)
    assert padded <= bound
    if not moe_blocks(kernel(VLLM), H100, operator, np.array([tokens])).sparse[0]:
        assert expected.row_blocks[0] * block <= bound + 1e-6


def test_expected_blocks_are_the_mean_over_random_routings() -> None:
    operator, tokens = FusedMoE(2048, 640, 8, 2), 250
    block = block_rows(VLLM, H100, operator, [tokens])[0]
    draws = np.array([(-(-_random_loads(seed, 8, 2, tokens) // block)).sum() for seed in range(400)])
    expected = moe_counts(kernel(VLLM), H100, operator, np.array([tokens])).row_blocks[0]
    assert abs(expected - draws.mean()) < 4 * draws.std() / np.sqrt(draws.size) + 1e-6


MOE_KERNELS = [(library.name, found.name) for library in all_libraries() for found in library.moe]


@pytest.mark.parametrize(("library", "name"), MOE_KERNELS)
@given(
    st.sampled_from([(4096, 14336, 8, 2), (2048, 768, 128, 8), (7168, 2048, 256, 8)]),
    st.sampled_from(["uniform", "balanced"]),
    st.integers(1, 3000),
)
@settings(max_examples=8, deadline=None)
def test_edges_are_complete(
    library: str, name: str, shape: tuple[int, int, int, int], routing: str, limit: int
) -> None:
    rule = kernel(f"{library}:{name}")
    operator = FusedMoE(*shape, weight_dtype=rule.weight_dtypes[0], routing=routing)
    edges = moe_edges(rule, H100, operator, limit)
    assert edges[0] == 1
    assert (np.diff(edges) > 0).all()
    rows = np.arange(1, limit + 1)
    left = edges[np.searchsorted(edges, rows, side="right") - 1]
    here, there = moe_blocks(rule, H100, operator, rows), moe_blocks(rule, H100, operator, left)
    for field in ("rows", "columns", "grouped", "sparse"):
        assert (getattr(here, field) == getattr(there, field)).all()
    if routing == "balanced":
        counts, at_left = moe_counts(rule, H100, operator, rows), moe_counts(rule, H100, operator, left)
        assert (counts.row_blocks == at_left.row_blocks).all()
        assert (counts.experts_touched == at_left.experts_touched).all()


@pytest.mark.parametrize(("library", "name"), MOE_KERNELS)
def test_every_kernel_row_names_its_source_and_covers_all_rows(library: str, name: str) -> None:
    rule = kernel(f"{library}:{name}")
    operator = FusedMoE(4096, 2048, 64, 6, weight_dtype=rule.weight_dtypes[0])
    for tokens in (1, 7, 64, 65, 1000, 100_000):
        row = moe_row(rule, H100, operator, tokens)
        assert row.in_range
        assert row.source
        assert row.kernel == f"{library}:{name}"
        assert " x " in row.rule
    assert rule.versions
    assert not rule.inferred or rule.notes


def test_rows_outside_every_condition_are_flagged() -> None:
    data = {"name": "short", "weight_dtypes": ["bfloat16"], "versions": "x", "source": "a test"}
    rule = MoEKernel.from_mapping(
        {**data, "rows": [{"max_tokens": 10, "block_rows": 16, "block_columns": 64, "source": "t"}]}
    )
    assert moe_row(rule, H100, mixtral(), 10).in_range
    assert not moe_row(rule, H100, mixtral(), 11).in_range


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "selection 'rows' needs rows and no menu"),
        (
            {"selection": "occupancy", "menu": [8, 16], "block_columns": 64},
            "fill_limit belongs to selection 'occupancy'",
        ),
        ({"selection": "smallest_covering", "menu": [16, 8], "block_columns": 64}, "menu must rise from at least 1"),
        ({"selection": "smallest_covering", "menu": [8]}, "needs a menu and block_columns, and no rows"),
        ({"weight_dtypes": ["fp7"]}, "must be among float32"),
        ({"rowz": []}, "unknown key 'rowz'; did you mean 'rows'"),
    ],
)
def test_malformed_kernels_are_refused(changes: dict[str, Any], message: str) -> None:
    data = {"name": "bad", "weight_dtypes": ["bfloat16"], "versions": "x", "source": "a test", **changes}
    with pytest.raises(SpecError, match=message):
        MoEKernel.from_mapping(data)


def test_rules_inferred_from_timings_say_so() -> None:
    # Steps of the public timings just past M = E on A100, and only past 128 rows per expert for TensorRT-LLM block fp8.
    old = "triton_moe_vllm_0_14:default_16bit"
    assert block_shapes(old, qwen(), [128, 129], A100) == [(16, 32), (64, 64)]
    block_fp8 = FusedMoE(4096, 1536, 128, 8, "fp8_block", routing="balanced")
    blocks = moe_counts(kernel("trtllm_cutlass_moe:fp8_block"), H100, block_fp8, np.array([1024, 2048, 3072]))
    assert blocks.row_blocks.tolist() == [128, 128, 256]
    for key in (old, "trtllm_cutlass_moe:fp8_block", "trtllm_cutlass_moe:autotuned", "trtllm_gen_moe:autotuned"):
        assert moe_row(kernel(key), H100, qwen(), 64).inferred


def test_general_constants_give_way_to_those_a_kernel_holds() -> None:
    # No calibration of B200 under torch: pooled constants, but a walk over experts with a softer roofline.
    bound = bind(load_hardware("b200"), FusedMoE(4096, 14336, 8, 2), "torch")
    assert bound.calibration.startswith("uncalibrated")
    assert isinstance(bound.kernel, MoEKernel)
    assert bound.kernel.held.items() <= bound.fit.constants.items()
    assert bound.kernel.key == "torch_grouped_mm_sm100:experts"


@pytest.mark.parametrize(
    ("name", "gpu", "tokens", "before", "after"),
    [
        # aiconfigurator-core, balanced, fit half, (4096, 2048, k 8, E 256) in bf16 [us]: SGLang at M = E, vLLM at 64 rows.
        ("triton_moe_sglang:default_16bit", "h200", (256, 320), 3027, 4603),
        ("triton_moe_sglang_small_smem:default_16bit", "l40s", (256, 320), 18982, 29468),
        ("triton_moe_sglang_small_smem:default_16bit", "rtx_pro_6000", (256, 320), 8541, 13406),
        ("triton_moe_vllm:default_16bit_int8", "l40s", (64, 80), 17754, 19211),
        ("triton_moe_vllm:default_16bit_int8", "h200", (64, 80), 2886, 3019),
    ],
)
def test_short_runs_slow_the_weight_stream_as_public_timings_show(
    name: str, gpu: str, tokens: tuple[int, int], before: int, after: int
) -> None:
    operator = FusedMoE(4096, 2048, 256, 8, routing="balanced")
    counts = moe_counts(kernel(name), load_hardware(gpu), operator, np.array(tokens))
    ratio = counts.stream_slowed[1] / counts.stream_slowed[0]
    assert ratio == pytest.approx(after / before, rel=0.13 if after > 1.2 * before else 0.04)
    assert ratio > 1.02


def test_runs_of_8_bit_weights_keep_their_length() -> None:
    """vLLM, get_default_config: a depth of 128 at any M for fp8, 128 and then 64 for 16 bits."""
    tokens = np.array([64, 80, 1024])
    fp8 = moe_blocks(kernel("triton_moe_vllm:default_fp8"), H100, FusedMoE(4096, 2048, 256, 8, "fp8"), tokens)
    assert fp8.depth.tolist() == [128, 128, 128]
    assert moe_blocks(kernel(VLLM), H100, FusedMoE(4096, 2048, 256, 8), tokens).depth.tolist() == [128, 64, 64]


def test_a_kernel_that_computes_every_pair_cuts_as_many_blocks_on_a_rank_as_on_one_gpu() -> None:
    rule, tokens = kernel("marlin_moe:marlin_every_pair"), np.array([4096])
    # 64 ranks of 2 experts, 256 rows each in blocks of 64: what the others' rows fill is cut as well.
    alone, rank = (
        FusedMoE(2880, 2880, 128, 8, "mxfp4", routing="balanced", expert_parallel=ranks) for ranks in (1, 64)
    )
    ours, whole = (moe_counts(rule, load_hardware("rtx_pro_6000"), operator, tokens) for operator in (rank, alone))
    assert ours.row_blocks.tolist() == whole.row_blocks.tolist() == [4096 * 8 / 64]
    assert ours.routed_rows.tolist() == [512]
    spared = moe_counts(kernel("marlin_moe:marlin"), load_hardware("rtx_pro_6000"), rank, tokens)
    assert spared.row_blocks.tolist() == [8]


def test_idle_rows_slow_only_the_block_that_is_named() -> None:
    operator = FusedMoE(4096, 2688, 512, 22, "nvfp4", gated=False, routing="balanced", expert_parallel=8)
    # Public timings of SGLang on B300 (aiconfigurator-core, fit half): 1.02 times the start at 59 rows a local expert, 1.75 at 66 to 88,
    # 1.14 from 132 on.
    counts = moe_counts(kernel("trtllm_gen_moe:untuned_fp4"), B200, operator, np.array([160, 192, 256, 384]))
    assert counts.block_rows.tolist() == [32, 64, 64, 128]
    slowed = counts.stream_slowed / counts.stream_slowed[0]
    assert slowed[[0, 3]].tolist() == [1, 1]
    assert slowed[1:3] == pytest.approx([1.7, 1.63], abs=0.05)


def test_untuned_cutlass_runs_the_first_candidate_and_reads_evicted_weights_again() -> None:
    """FlashInfer, get_candidate_tiles: 32 x 128 first; 20 rows an expert are one block, 40 are two, 128 are four."""
    operator = FusedMoE(4096, 14336, 8, 2, routing="balanced")
    counts = moe_counts(
        kernel("trtllm_cutlass_moe_sm80:untuned"), load_hardware("rtx_pro_6000"), operator, np.array([80, 160, 512])
    )
    assert counts.row_blocks.tolist() == [8, 16, 32]
    assert counts.rereads_up.tolist() == [
        0.5,
        0.5,
        0.5,
    ]  # 235 MB of gate and up weights, a cache of 128 MB: all evicted


@pytest.mark.parametrize(("slices", "slowed"), [(1, 1.0), (8, 1.0), (16, 4 / 3), (32, 2.0)])
def test_tiles_filled_in_part_take_the_time_of_whole_ones(slices: int, slowed: float) -> None:
    """get_candidate_configs_sm120: 128 x 128 x 128 B, 256 elements of k. 64 columns: gate and up fill 128, down fills a quarter."""
    operator = FusedMoE(7168, 2048, 384, 8, "nvfp4", tensor_parallel=slices)
    counts = moe_counts(
        kernel("trtllm_cutlass_moe_sm80:autotuned_fp4"), load_hardware("rtx_pro_6000"), operator, np.array([64])
    )
    assert counts.stream_slowed == pytest.approx([slowed])


def test_formats_that_take_longer_to_expand_slow_stream_and_products() -> None:
    operator = FusedMoE(7168, 2048, 384, 8, "int4")
    bound = bind(B200, operator, "sglang")
    assert bound.kernel.key == "trtllm_gen_moe:untuned_padded_int4"
    _, values = equation_inputs(bound, np.array([1]))
    constants = bound.fit.values()
    assert values["memory_efficiency"] * 1.6 == pytest.approx(constants.memory_efficiency)
    assert values["matrix_efficiency"] * 1.6 == pytest.approx(constants.matrix_efficiency)
    # Groups of 32 with a 16-bit scale: 4.5 bits a weight.
    assert values["up_bytes"] == 2 * 7168 * 2048 * 4.5 / 8
    assert moe_counts(kernel("marlin_moe:marlin_fp4"), H100, operator, np.array([1])).stream_slowed.tolist() == [1.2]


def test_experts_of_other_ranks_cost_launches_of_their_own() -> None:
    """Public timings of vLLM's mxfp4 kernel on H100 (fit half): 76 us on four tensor-parallel ranks, 90 to 106 on expert-parallel ones."""
    rule, tokens = kernel("triton_kernels_moe:vllm"), np.array([16])
    tensor, expert = (
        FusedMoE(2880, 2880, 32, 4, "mxfp4", tensor_parallel=tp, expert_parallel=ep) for tp, ep in ((4, 1), (1, 4))
    )
    assert moe_counts(rule, H100, tensor, tokens).fixed_share.tolist() == [1.0]
    assert moe_counts(rule, H100, expert, tokens).fixed_share.tolist() == [1.6]


@pytest.mark.parametrize(
    ("gpu", "name", "operator"),
    [
        ("b200", "trtllm_gen_moe:untuned_fp4", FusedMoE(7168, 2048, 256, 8, "nvfp4")),  # idle rows of a tile slow it
        ("h100", VLLM, FusedMoE(2048, 768, 128, 8, tensor_parallel=4)),  # a tuned depth changes alone
    ],
)
def test_latency_does_not_fall_between_edges(gpu: str, name: str, operator: FusedMoE) -> None:
    hardware = load_hardware(gpu)
    tokens = np.arange(1, 3001)
    seconds = bind(hardware, operator, "vllm").seconds(tokens)
    falls = {int(place) + 2 for place in np.flatnonzero(np.diff(seconds) < -1e-12)}
    assert falls
    assert falls <= set(moe_edges(kernel(name), hardware, operator, 3000).tolist())
