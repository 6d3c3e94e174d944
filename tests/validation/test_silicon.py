"""The published silicon timings, read from the installed ``aiconfigurator-core`` package: real rows, never copies.

The figures typed here were read from the same tables by other means (the repository ai-dynamo/aiconfigurator at commit
095f58a5, in microseconds rounded to three digits), so they hold the loaders to axis, unit, data type and shape.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest

from nfp_model.errors import InvalidArgumentError, MissingDependencyError, UnknownNameError, UnsupportedError
from nfp_model.kernels.routing import experts_touched
from nfp_model.operators import FusedMoE
from nfp_model.specs.registry import load_hardware
from nfp_model.validation import silicon_tables
from nfp_model.validation.datasets import CurveSet, noise_between
from nfp_model.validation.filters import touched_bytes
from nfp_model.validation.records import Curve
from nfp_model.validation.shapes import AllReduceShape, AttentionShape, GemmShape, ModuleShape, MoEShape
from nfp_model.validation.silicon import (
    load_attention,
    load_attention_module,
    load_collective,
    load_gemm,
    load_mla,
    load_moe,
)
from nfp_model.validation.silicon_tables import SYSTEM_OF, available, default_version, read_table, table_path

INSTALLED = find_spec("aiconfigurator_core") is not None
needs_package = pytest.mark.skipif(
    not INSTALLED, reason="aiconfigurator-core is not installed (Python 3.14 has no build)"
)


@pytest.fixture
def _no_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(silicon_tables, "find_spec", lambda name: None)
    silicon_tables._files.cache_clear()
    yield
    silicon_tables._files.cache_clear()


@pytest.mark.usefixtures("_no_package")
def test_without_the_package_the_message_says_how_to_get_it() -> None:
    with pytest.raises(
        MissingDependencyError, match=r'aiconfigurator-core, pandas, pyarrow, .* pip install "nfp-model\[silicon\]"'
    ):
        load_gemm("h100", "vllm")


def test_importing_the_loaders_loads_no_reader() -> None:
    import subprocess

    code = "import sys, nfp_model.validation.silicon; print({'pandas', 'pyarrow', 'aiconfigurator_core'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def one(curves: CurveSet, **shape: object) -> Curve:
    """The only curve whose shape has these fields."""
    (found,) = [c for c in curves if all(getattr(c.shape, name) == value for name, value in shape.items())]
    return found


def micro(curve: Curve, *tokens: int) -> list[float]:
    """Latencies at these points [us]."""
    at = np.searchsorted(curve.tokens, tokens)
    assert curve.tokens[at].tolist() == list(tokens)
    return (curve.seconds[at] * 1e6).tolist()


@pytest.mark.silicon
@needs_package
class TestAgainstTheReadTables:
    GRID = (16, 32, 64, 96, 128, 192, 256, 512, 1024)
    GEMM = (
        ("a100", 8192, 8192, 96.9, (1.04, 1.10, 1.04, 1.14, 1.26, 1.64, 1.68, 3.28, 5.43)),
        ("h100", 8192, 8192, 51.6, (0.90, 0.90, 0.92, 0.92, 0.94, 1.00, 0.99, 1.69, 3.18)),
        ("h100", 4096, 4096, 15.0, (1.03, 1.10, 0.98, 0.99, 1.14, 1.10, 1.30, 1.60, 2.87)),
        ("h200", 12288, 4096, 28.7, (1.08, 1.09, 1.02, 1.01, 1.02, 1.27, 1.31, 2.23, 4.45)),
        ("b200", 16384, 16384, 82.9, (1.08, 0.95, 1.00, 1.07, 1.02, 1.17, 1.21, 2.10, 4.26)),
        ("b200", 2048, 2048, 6.9, (0.66, 0.66, 0.67, 0.91, 0.71, 0.76, 0.76, 0.96, 1.25)),
        ("gb200", 8192, 8192, 22.6, (0.96, 0.96, 0.96, 1.09, 1.14, 1.19, 1.30, 1.88, 3.61)),
        ("b300", 12288, 4096, 21.0, (0.98, 0.91, 0.92, 1.03, 0.95, 1.07, 1.16, 1.78, 2.91)),
        ("l40s", 8192, 8192, 193.6, (1.13, 1.07, 1.22, 1.23, 1.16, 1.30, 1.32, 1.54, 2.85)),
        ("rtx_pro_6000_blackwell", 16384, 16384, 370.5, (0.96, 0.99, 0.97, 1.02, 1.03, 1.07, 1.08, 1.87, 3.77)),
    )

    @pytest.mark.parametrize(("gpu", "n", "k", "first", "ratios"), GEMM)
    def test_gemm_bf16_vllm(self, gpu: str, n: int, k: int, first: float, ratios: tuple[float, ...]) -> None:
        curves = load_gemm(gpu, "vllm", "bfloat16", keep=("l2_resident",))
        curve = one(curves, out_features=n, in_features=k)
        (at_one,) = micro(curve, 1)
        assert at_one == pytest.approx(first, abs=0.06)
        assert [t / at_one for t in micro(curve, *self.GRID)] == pytest.approx(ratios, abs=0.0051)

    def test_steps_of_wide_gemms(self) -> None:
        h200 = one(load_gemm("h200", "vllm", "bfloat16"), out_features=51200, in_features=8192)
        assert micro(h200, 64, 65, 128, 129, 256, 257) == pytest.approx([213, 276, 215, 250, 293, 309], abs=0.6)
        l40s = one(load_gemm("l40s", "vllm", "bfloat16"), out_features=16384, in_features=16384)
        assert micro(l40s, 512, 513) == pytest.approx([1119, 2033], abs=0.6)

    TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    QWEN, LLADA = (2048, 768, 128, 8), (2048, 512, 256, 8)
    MOE = (
        ("h200", QWEN, "bfloat16", "balanced", (40, 58, 94, 172, 305, 305, 316, 316, 339, 350, 406, 462)),
        ("h200", QWEN, "bfloat16", "power_law:1.2", (39, 56, 88, 125, 164, 267, 287, 318, 360, 363, 442, 583)),
        ("h200", QWEN, "fp8_block", "balanced", (39, 50, 67, 114, 182, 183, 186, 191, 221, 236, 271, 432)),
        ("h100", QWEN, "bfloat16", "balanced", (49, 75, 124, 228, 420, 422, 432, 450, 461, 480, 529, 600)),
        ("a100", QWEN, "bfloat16", "power_law:1.2", (62, 108, 196, 258, 350, 601, 676, 736, 1056, 1163, 1358, 1804)),
        ("b200", QWEN, "bfloat16", "balanced", (24, 38, 59, 101, 183, 185, 188, 191, 201, 211, 224, 248)),
        ("h200", (4096, 14336, 8, 2), "bfloat16", "balanced", (212, 348, 668, 657, 664, 689, 673, 688, 753, 798, 1093, 2101)),
        ("h200", LLADA, "bfloat16", "power_law:1.2", (33, 49, 76, 119, 161, 212, 309, 352, 376, 424, 532, 631)),
        ("b200", LLADA, "bfloat16", "balanced", (17, 23, 44, 74, 129, 239, 242, 244, 247, 266, 279, 294)),
        ("h200", (7168, 2048, 256, 8), "fp8_block", "balanced", (116, 174, 315, 601, 718, 1358, 1389, 1510, 1590, 1815, 2167, 3037)),
    )  # fmt: skip

    @pytest.mark.parametrize(("gpu", "sizes", "dtype", "routing", "expected"), MOE)
    def test_moe_vllm(
        self, gpu: str, sizes: tuple[int, ...], dtype: str, routing: str, expected: tuple[int, ...]
    ) -> None:
        hidden, inter, experts, top_k = sizes
        curve = one(
            load_moe(gpu, "vllm", dtype, keep=("l2_resident", "group_routed")),
            hidden_size=hidden, intermediate_size=inter, num_experts=experts, top_k=top_k,
            tensor_parallel=1, expert_parallel=1, routing=routing,
        )  # fmt: skip
        assert micro(curve, *self.TOKENS) == pytest.approx(expected, abs=0.51)

    def test_mixtral_step_on_h100(self) -> None:
        curve = one(
            load_moe("h100", "vllm", "bfloat16"),
            hidden_size=4096, intermediate_size=14336, tensor_parallel=1, expert_parallel=1, routing="balanced",
        )  # fmt: skip
        assert micro(curve, 256, 320) == pytest.approx([1065, 1844], abs=0.6)

    def test_saturated_bytes_over_time_stay_below_the_datasheet(self) -> None:
        # 128 experts x 3 x 2048 x 768 x 2 B = 1.208 GB in 305 us is 3.96 TB/s, 83 % of an H200's 4.8 TB/s.
        curve = one(
            load_moe("h200", "vllm", "bfloat16"),
            hidden_size=2048, intermediate_size=768, tensor_parallel=1, expert_parallel=1, routing="balanced",
        )  # fmt: skip
        (saturated,) = micro(curve, 16)
        rate = 128 * curve.operator_record().expert_bytes / (saturated * 1e-6)  # type: ignore[union-attr]
        assert rate / load_hardware("h200").memory_bandwidth_bytes_per_s == pytest.approx(0.83, abs=0.01)


@pytest.mark.silicon
@needs_package
class TestFilters:
    def raw_gemm(self, gpu: str, backend: str, dtype: str) -> object:
        return read_table(table_path(gpu, backend, "gemm")[0], ["m", "n", "k", "gemm_dtype"], {"gemm_dtype": [dtype]})

    @pytest.mark.parametrize(
        ("gpu", "backend", "dtype", "copies"),
        [("h100", "vllm", "bfloat16", 6), ("b200", "vllm", "nvfp4", 1), ("l40s", "sglang", "fp8", 6)],
    )
    def test_every_row_is_kept_or_counted(self, gpu: str, backend: str, dtype: str, copies: int) -> None:
        hardware = load_hardware(gpu)
        raw = self.raw_gemm(hardware.name, backend, dtype)
        table = load_gemm(gpu, backend, dtype)
        assert table.points + sum(e.rows for e in table.exclusions.values()) == len(raw)  # type: ignore[arg-type]
        element = {"bfloat16": 2, "fp8": 1, "nvfp4": 0.5625}[dtype]
        for curve in table:
            assert isinstance(curve.shape, GemmShape)
            n, k = curve.shape.out_features, curve.shape.in_features
            assert copies * n * k * element >= 2 * hardware.l2_bytes  # type: ignore[operator]
            assert min(n, k) >= 256
            assert curve.tokens[-1] <= 4096

    def test_counts_of_h100_bf16(self) -> None:
        table = load_gemm("h100", "vllm", "bfloat16")
        raw = self.raw_gemm("h100_sxm5", "vllm", "bfloat16")
        small = raw[raw.m <= 4096]  # type: ignore[attr-defined]
        narrow = small[small[["n", "k"]].min(axis=1) < 256]
        wide = small.drop(narrow.index)
        resident = wide[6 * wide.n * wide.k * 2 < 2 * load_hardware("h100").l2_bytes]
        counted = {name: e.rows for name, e in table.exclusions.items()}
        assert counted == {
            "above_max_tokens": len(raw) - len(small),  # type: ignore[arg-type]
            "narrow": len(narrow),
            "l2_resident": len(resident),
        }
        assert table.exclusions["l2_resident"].curves == len(resident[["n", "k"]].drop_duplicates())

    def test_trtllm_needs_twice_l2_in_weights(self) -> None:
        # copies = ceil(L2 / W) fills L2 once, never twice, until W alone is twice as large.
        for curve in load_gemm("h200", "trtllm", "bfloat16"):
            assert curve.operator_record().weight_bytes >= 2 * load_hardware("h200").l2_bytes  # type: ignore[union-attr,operator]

    def test_named_tables_are_left_out_and_come_back_when_asked(self) -> None:
        for gpu, dtype, name in (("b200", "fp8", "multi_modal"), ("h100", "fp8_block", "timed_without_graph")):
            assert len(load_gemm(gpu, "vllm", dtype)) == 0
            assert name in load_gemm(gpu, "vllm", dtype).exclusions
            assert len(load_gemm(gpu, "vllm", dtype, keep=(name,))) > 0
        assert "multi_modal" not in load_gemm("b300", "vllm", "fp8").exclusions

    def test_b200_fp8_is_indeed_multi_modal(self) -> None:
        curve = one(load_gemm("b200", "vllm", "fp8", keep=("multi_modal",)), out_features=8192, in_features=8192)
        at_13, at_14, at_15 = micro(curve, 13, 14, 15)
        assert at_14 > 2 * max(at_13, at_15)

    def test_fp8_block_floor_without_graph(self) -> None:
        kept = load_gemm("h100", "vllm", "fp8_block", keep=("timed_without_graph",))
        assert min(curve.seconds.min() for curve in kept) > 55e-6

    def test_experts_replayed_from_l2_are_left_out(self) -> None:
        hardware = load_hardware("l40s")

        def rates(keep: tuple[str, ...]) -> np.ndarray:
            """Touched weights over time, against the datasheet's bandwidth, of experts without re-reads."""
            found = []
            for curve in load_moe("l40s", "trtllm", "bfloat16", keep=keep):
                record = curve.operator_record()
                assert isinstance(record, FusedMoE)
                touched = experts_touched(
                    record.load_routing, record.num_experts, record.top_k, curve.tokens, record.expert_parallel
                )
                found.append(touched * record.expert_bytes / curve.seconds)
            return np.concatenate(found) / hardware.memory_bandwidth_bytes_per_s

        left, every = rates(()), rates(("l2_resident",))
        # A fifth of the 96 MB-and-less rows beat the card's memory; of the others one in a hundred (heavy ranks drawn light).
        taken = every.size - left.size
        assert (every > 1).sum() - (left > 1).sum() > 0.2 * taken
        assert (left > 1).mean() < 0.02
        assert load_moe("l40s", "trtllm", "bfloat16").exclusions["l2_resident"].rows == taken

    def test_one_token_of_qwen3_on_l40s_comes_from_l2(self) -> None:
        back = load_moe("l40s", "vllm", "bfloat16", keep=("l2_resident",))
        qwen = [c for c in back if isinstance(c.shape, MoEShape) and c.shape.split_key == "moe|2048|768|8|128|1"]
        # 35 us for 8 experts of 9.4 MB would be 2.2 TB/s on a card with 0.864.
        assert any(c.tokens[0] == 1 and c.seconds[0] < 36e-6 for c in qwen)
        shape = {
            "hidden_size": 2048,
            "intermediate_size": 768,
            "tensor_parallel": 1,
            "expert_parallel": 1,
            "routing": "balanced",
        }
        assert one(load_moe("l40s", "vllm", "bfloat16"), **shape).tokens[0] == 2

    def test_group_limited_routing_cannot_have_read_every_expert(self) -> None:
        bandwidth = load_hardware("b200").memory_bandwidth_bytes_per_s
        shape = {"hidden_size": 7168, "intermediate_size": 2048, "num_experts": 256, "tensor_parallel": 1, "expert_parallel": 1,
                 "routing": "balanced"}  # fmt: skip
        for backend, dtype in (("vllm", "fp8_block"), ("vllm", "nvfp4"), ("sglang", "fp8_block"), ("sglang", "nvfp4")):
            curve = one(load_moe("b200", backend, dtype, keep=("group_routed",)), **shape)
            moved = 256 * curve.operator_record().expert_bytes  # type: ignore[union-attr]
            assert 1.5 < moved / (micro(curve, 64)[0] * 1e-6) / bandwidth < 2.0
            assert "group_routed" in load_moe("b200", backend, dtype).exclusions
        # Engines route so whatever the kernel: 256 experts of 44 MB in 1.98 ms would be 5.7 TB/s on a card with 3.35.
        shape["tensor_parallel"], hopper = 1, load_hardware("h100").memory_bandwidth_bytes_per_s
        curve = one(load_moe("h100", "sglang", "fp8_block", keep=("group_routed",)), **shape)
        assert 256 * curve.operator_record().expert_bytes / (micro(curve, 64)[0] * 1e-6) > 1.5 * hopper  # type: ignore[union-attr]
        assert load_moe("h100", "sglang", "fp8_block").exclusions["group_routed"].curves > 0
        assert "group_routed" not in load_moe("a100", "sglang", "bfloat16").exclusions
        # A kernel that is handed its routing reads them all.
        curve = one(load_moe("b200", "trtllm", "fp8_block"), **shape)
        assert 256 * curve.operator_record().expert_bytes / (micro(curve, 64)[0] * 1e-6) < bandwidth  # type: ignore[union-attr]

    def test_widths_triton_cannot_load_in_vectors(self) -> None:
        table = load_moe("h100", "vllm", "bfloat16", keep=("narrow_loads", "l2_resident"))
        shape = {"hidden_size": 2688, "intermediate_size": 1856, "expert_parallel": 1, "routing": "power_law:1.2"}
        whole, split = (one(table, tensor_parallel=ranks, **shape) for ranks in (4, 8))
        # Half the bytes (width 232 instead of 464, no multiple of 16), and longer all the same.
        assert (np.array(micro(split, 64, 256, 1024)) > 1.05 * np.array(micro(whole, 64, 256, 1024))).all()
        assert load_moe("h100", "vllm", "bfloat16").exclusions["narrow_loads"].curves > 0
        assert "narrow_loads" not in load_moe("h100", "trtllm", "bfloat16").exclusions

    @pytest.mark.parametrize("backend", ["vllm", "trtllm"])
    def test_old_collectors_left_all_pairs_of_few_tokens_to_one_rank(self, backend: str) -> None:
        kept = load_moe("a100_sxm4_80gb", backend, "bfloat16", keep=("remainder_on_one_rank",))
        shape = {"hidden_size": 7168, "num_experts": 256, "tensor_parallel": 1, "routing": "power_law:1.01"}
        rank, whole = (one(kept, expert_parallel=ranks, **shape) for ranks in (8, 1))
        # A rank with an eighth of the experts takes as long as all of them, as long as its tokens have fewer pairs than it has experts.
        assert np.array(micro(rank, 1, 2)) == pytest.approx(np.array(micro(whole, 1, 2)), rel=0.15)
        assert micro(rank, 48)[0] < 0.3 * micro(whole, 48)[0]
        clean = load_moe("a100_sxm4_80gb", backend, "bfloat16")
        assert one(clean, expert_parallel=8, **shape).tokens.min() == 48
        assert clean.exclusions["remainder_on_one_rank"].rows > 0
        assert "remainder_on_one_rank" not in load_moe("h100", backend, "bfloat16").exclusions

    def test_fp8_moe_that_falls_with_tokens(self) -> None:
        for gpu in ("h100", "h200"):
            assert len(load_moe(gpu, "vllm", "fp8")) == 0
            assert load_moe(gpu, "vllm", "fp8").exclusions["falls_with_tokens"].rows > 4000
        mixtral = one(
            load_moe("h100", "vllm", "fp8", keep=("falls_with_tokens",)),
            hidden_size=4096, intermediate_size=14336, tensor_parallel=1, expert_parallel=1, routing="balanced",
        )  # fmt: skip
        assert mixtral.seconds[mixtral.tokens == 512] < 0.6 * mixtral.seconds[mixtral.tokens == 8]
        assert "falls_with_tokens" not in load_moe("rtx_pro_6000_blackwell", "vllm", "fp8").exclusions

    @pytest.mark.parametrize("gpu", ["a100_sxm4_80gb", "h100_sxm5"])
    def test_old_collectors_time_three_matrices_for_every_expert(self, gpu: str) -> None:
        """Time over two matrices' stream, at half a token per expert: alike for both kinds of experts only where both have three."""
        found = {}
        for curve in load_moe(gpu, "sglang", "bfloat16", "0.5.10" if gpu == "h100_sxm5" else None):
            shape = curve.shape
            key = (shape.hidden_size, shape.intermediate_size)
            alone = shape.tensor_parallel == shape.expert_parallel == 1 and shape.routing == "balanced"
            if key in ((2688, 1856), (4096, 1536)) and alone:
                stream = shape.num_experts * 4 * key[0] * key[1] / load_hardware(gpu).memory_bandwidth_bytes_per_s
                found[key] = float(curve.seconds[curve.tokens == 64][0]) / stream
                assert shape.gated
        assert found[(2688, 1856)] == pytest.approx(found[(4096, 1536)], rel=0.06)
        assert min(found.values()) > 1.5

    def test_non_gated_experts_are_those_trtllm_labels(self) -> None:
        for curve in load_moe("h100", "trtllm", "bfloat16"):
            assert isinstance(curve.shape, MoEShape)
            assert curve.shape.gated == all("nongated" not in kernel for kernel in curve.kernels)

    def test_unknown_exclusion(self) -> None:
        with pytest.raises(
            UnknownNameError, match="unknown exclusion of this table 'l2_residents'; did you mean 'l2_resident'"
        ):
            load_gemm("h100", "vllm", keep=("l2_residents",))
        with pytest.raises(InvalidArgumentError, match="max_tokens must be at least 1, got 0"):
            load_moe("h100", "vllm", max_tokens=0)

    def test_formats_without_a_name_are_counted(self) -> None:
        unread = load_gemm("a100", "trtllm").exclusions["no_storage_format"]
        assert (unread.rows, unread.curves) == (6048, 288)
        assert "int8_wo" in unread.reason


@pytest.mark.silicon
@needs_package
class TestAttention:
    def test_l2_flag_is_the_arithmetic_of_the_cache(self) -> None:
        curve = one(load_attention("h100", "vllm", "bfloat16"), num_query_heads=32, num_kv_heads=8, head_dim=128,
                    window=0, context_length=4095)  # fmt: skip
        # 4096 tokens x 8 heads x 2 x 128 x 2 B = 16.8 MB a sequence against 50 MB: three fit, four do not.
        assert curve.beyond_l2 is not None
        assert curve.tokens[~curve.beyond_l2].tolist() == [1, 2]
        assert micro(curve, 1, 2, 4) == pytest.approx([16.9, 19.3, 40.2], abs=0.06)
        assert curve.axis == "sequences"

    def test_window_bounds_the_cache_read(self) -> None:
        curves = load_attention("h100", "vllm", "fp8")
        windowed = one(curves, num_query_heads=32, num_kv_heads=8, head_dim=128, window=128, context_length=32767)
        full = one(curves, num_query_heads=32, num_kv_heads=8, head_dim=128, window=0, context_length=32767)
        assert windowed.beyond_l2 is not None
        assert full.beyond_l2 is not None
        # 129 tokens x 8 x 2 x 128 B = 264 kB a sequence.
        assert not windowed.beyond_l2[windowed.tokens <= 128].any()
        assert full.beyond_l2.all()

    def test_mla_repeats(self) -> None:
        curves = load_mla("h100", "sglang")
        assert len(curves.repeats) == len(curves)
        assert 0.003 < curves.repeat_noise.median_mape < 0.02
        assert all(isinstance(c.shape, AttentionShape) and c.shape.head_dim == 576 for c in curves)

    def test_competing_kernels_are_curves_of_their_own(self) -> None:
        curves = load_attention("b200", "sglang", "bfloat16")
        kernels = {c.kernels for c in curves if c.shape == AttentionShape(32, 8, 128, 4095)}
        assert len(kernels) == len([c for c in curves if c.shape == AttentionShape(32, 8, 128, 4095)])
        assert any(len(k) == 1 for k in kernels)


@pytest.mark.silicon
@needs_package
class TestModulesAndCollectives:
    def test_positions_over_a_long_cache(self) -> None:
        curves = load_attention_module("h100", "vllm", "dsv4_hca")
        assert all(c.axis == "positions" and len(c) >= 4 for c in curves)
        assert all(isinstance(c.shape, ModuleShape) and c.shape.context_length >= 2048 for c in curves)
        curve = one(
            curves, model="sgl-project/DeepSeek-V4-Flash-FP8", num_query_heads=8, context_length=4096, batch_size=1
        )
        assert micro(curve, 1, 64, 1024) == pytest.approx([51.8, 69.5, 267.1], abs=0.06)

    def test_launch_bound_families_are_left_out(self) -> None:
        for gpu, backend, family in (("h100", "sglang", "dsa"), ("b200", "sglang", "msa")):
            table = load_attention_module(gpu, backend, family)
            assert len(table) == 0
            assert table.exclusions["timed_without_graph"].rows > 5000
        kept = load_attention_module("h100", "sglang", "dsa", keep=("timed_without_graph",))
        alone = [c for c in kept if c.shape.batch_size == 1 and c.shape.context_length == 10000]  # type: ignore[union-attr]
        # Flat at launch time: 128 times the positions at the same cost.
        steps = [c.seconds[c.tokens == 512][0] / c.seconds[c.tokens == 4][0] for c in alone]
        assert np.median(steps) < 1.05
        graph = load_attention_module("h100", "sglang", "dsa", phase="generation")
        assert min(c.seconds[0] for c in alone) > 3 * min(c.seconds[0] for c in graph)

    def test_one_position_modules_over_sequences(self) -> None:
        curves = load_attention_module("h100", "vllm", "mla", phase="generation", weight_dtype="fp8_block")
        assert {c.axis for c in curves} == {"sequences"}
        assert {c.weight_dtype for c in curves} == {"fp8_block"}

    def test_all_reduce_counts_bytes(self) -> None:
        table = load_collective("h100", "vllm")
        assert table.exclusions["eager_launch"].rows == table.points == 69
        ring = one(table, ranks=8)
        assert (ring.tokens[0], ring.axis) == (256, "bytes")
        # Above 128 MB the engines hand over to NCCL: if either table's sizes were read in other units, this would be 2x off.
        nccl = next(
            c for c in load_collective("h100", "nccl") if c.shape == ring.shape and c.activation_dtype == "float16"
        )
        large = 2**28
        assert ring.seconds[ring.tokens == large] == pytest.approx(nccl.seconds[nccl.tokens == large], rel=0.02)
        # A payload is sent at least once by every rank, at no more than NVLink 4's 450 GB/s one way.
        assert ring.tokens[-1] / ring.seconds[-1] < load_hardware("h100").interconnect.scale_up_bandwidth_bytes_per_s

    def test_nccl(self) -> None:
        table = load_collective("h100", "nccl", "all_gather")
        assert {c.shape for c in table} == {AllReduceShape(r, "all_gather") for r in (2, 4, 8)}
        with pytest.raises(InvalidArgumentError, match="vllm has only all_reduce timings, got 'all_gather'"):
            load_collective("h100", "vllm", "all_gather")


@pytest.mark.silicon
@needs_package
class TestPackage:
    def test_repeats_take_the_median(self) -> None:
        table = load_moe("b300", "sglang", "fp8_block")
        raw = read_table(
            table_path("b300_sxm", "sglang", "moe")[0], ["moe_dtype", "num_tokens"], {"moe_dtype": ["fp8_block"]}
        )
        repeated = sum(int(np.isfinite(c.spread).sum()) for c in table if c.spread is not None)
        dropped = sum(e.rows for e in table.exclusions.values())
        assert table.points + repeated <= len(raw) - dropped
        noise = table.repeat_noise
        assert noise.points == repeated
        assert 0.005 < noise.median_mape < 0.05

    def test_same_kernel_in_two_engines(self) -> None:
        # Both time cuBLAS bf16; the two collections agree to some percent, never exactly.
        noise = noise_between(load_gemm("h100", "vllm", "bfloat16"), load_gemm("h100", "trtllm", "bfloat16"))
        assert noise.curves > 80
        assert 0.01 < noise.median_mape < 0.08

    def test_versions(self) -> None:
        assert default_version("h100_sxm5", "trtllm", "moe") == "1.3.0rc20"  # 1.3.0rc23 has non-gated experts only
        assert default_version("a100_sxm4_80gb", "vllm", "moe") == "0.14.0"
        assert default_version("b200_sxm", "sglang", "msa_context_module") == "0.5.16"  # the only one
        assert load_moe("b200", "vllm", "bfloat16", version="0.19.0").source.library_version == "0.19.0"
        with pytest.raises(
            InvalidArgumentError,
            match=r"no moe timings of vllm 0\.1 on b200_sxm; versions: 0\.19\.0, 0\.22\.0, 0\.24\.0",
        ):
            load_moe("b200", "vllm", version="0.1")

    def test_inventory_matches_what_the_loaders_read(self) -> None:
        lines = available()
        gemm = [x for x in lines if (x.gpu, x.backend, x.table, x.dtype) == ("h100_sxm5", "vllm", "gemm", "bfloat16")]
        assert [(x.rows, x.current, x.version) for x in gemm] == [(35742, True, "0.24.0")]
        assert {x.gpu for x in lines} == set(SYSTEM_OF) - {"a100_pcie_80gb", "h100_pcie", "l4"}
        assert all(load_hardware(gpu).name == gpu for gpu in SYSTEM_OF)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            (("b60", "vllm"), UnsupportedError, "'b60' is left out: Intel Arc Pro B60"),
            (("mi300x", "vllm"), UnknownNameError, "unknown GPU with published timings 'mi300x'"),
            (("l4", "vllm"), UnsupportedError, "no published gemm timings of vllm on l4; there are some of no backend"),
            (("h100", "torch"), UnsupportedError, "there are some of sglang, trtllm, vllm"),
            (("h100", "vllm", "int4"), UnsupportedError, "has no int4 rows; it has bfloat16, fp8, fp8_block"),
        ],
    )
    def test_what_is_not_there(self, arguments: tuple[str, ...], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            load_gemm(*arguments)


def test_experts_an_old_engine_timed_with_three_matrices_are_beyond_l2_with_three() -> None:
    # vLLM 0.14 timed every expert gated, on A100 (l2_resident leaves out what its 40 MB hold).
    import pandas as pd

    rows = pd.DataFrame(
        {
            "num_tokens": [1], "num_experts": [512], "topk": [1], "moe_ep_size": [1], "moe_tp_size": [1],
            "distribution": ["balanced"], "hidden_size": [2048], "inter_size": [5120], "weight_dtype": ["bfloat16"],
        }
    )  # fmt: skip
    expert = 2048 * 5120 * 2.0
    assert touched_bytes(rows, "vllm", "0.14.0") == pytest.approx([3 * expert])
    assert touched_bytes(rows, "vllm", "0.24.0") == pytest.approx([2 * expert])
