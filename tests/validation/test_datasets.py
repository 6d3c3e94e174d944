"""Measured points, curves, the fixed split, repeat noise and the typed-in tables."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, strategies as st

from nfp_model.errors import InvalidArgumentError, UnknownNameError, UnsupportedError
from nfp_model.operators import Attention, FusedMoE, Gemm
from nfp_model.validation.datasets import CurveSet, Source, curves_of, noise_between
from nfp_model.validation.published import (
    DEEPGEMM_GROUPED_ROWS,
    DEEPGEMM_ROWS,
    deepgemm_h800,
    llada_moe_a6000,
    mixtral_h100_vllm,
    published_sets,
)
from nfp_model.validation.records import Curve, Measurement, split_half
from nfp_model.validation.shapes import AllReduceShape, AttentionShape, ForwardShape, GemmShape, ModuleShape, MoEShape


def gemm_curve(tokens: list[int], seconds: list[float], n: int = 4096, k: int = 4096) -> Curve:
    return Curve("gemm", GemmShape(n, k), "h100_sxm5", "vllm", np.array(tokens), np.array(seconds), "bfloat16")


def gemm_point(tokens: int, seconds: float, **changes: object) -> Measurement:
    fields: dict[str, object] = {
        "operator": "gemm",
        "shape": GemmShape(4096, 4096),
        "gpu": "h100_sxm5",
        "backend": "vllm",
    }
    return Measurement(**{**fields, "tokens": tokens, "seconds": seconds, **changes})  # type: ignore[arg-type]


class TestSplit:
    # First 8 hexadecimal digits as the sha256sum of GNU coreutils prints them, and so the half.
    KNOWN = (
        ("gemm|8192|8192", "d4ffccec", "fit"),
        ("gemm|4096|4096", "944b30e2", "fit"),
        ("gemm|12288|4096", "1604db47", "test"),
        ("gemm|16384|16384", "dc84d967", "test"),
        ("moe|4096|14336|2|8|1", "fed20799", "test"),
        ("moe|2048|768|8|128|1", "fff1f9d3", "test"),
        ("attention|32|8|128|0", "1dace7ea", "fit"),
        ("attention|16|1|576|0", "b84dff1a", "fit"),
    )

    @pytest.mark.parametrize(("key", "digits", "half"), KNOWN)
    def test_known_answers(self, key: str, digits: str, half: str) -> None:
        assert hashlib.sha256(key.encode()).hexdigest().startswith(digits)
        assert split_half(key) == half

    @given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40))
    def test_is_the_parity_of_the_fourth_byte(self, key: str) -> None:
        assert (split_half(key) == "test") == bool(hashlib.sha256(key.encode()).digest()[3] & 1)

    @pytest.mark.parametrize(
        ("shape", "key"),
        [
            (GemmShape(12288, 4096), "gemm|12288|4096"),
            (
                MoEShape(2048, 768, num_experts=128, top_k=8, expert_parallel=4, tensor_parallel=2),
                "moe|2048|768|8|128|4",
            ),
            (AttentionShape(32, 8, 128, 4095, window=128), "attention|32|8|128|128"),
            (AttentionShape(16, 1, 576, 4095), "attention|16|1|576|0"),
            (ModuleShape("dsv4_csa", "m", 8, 4096, 2), "attention_module|dsv4_csa|m|8"),
            (AllReduceShape(8), "all_reduce|8"),
            (ForwardShape("mixtral", 2, 4096), "forward|mixtral|2|4096"),
        ],
    )
    def test_keys(self, shape: GemmShape, key: str) -> None:
        assert shape.split_key == key

    def test_routing_sharding_of_the_width_and_context_stay_in_one_half(self) -> None:
        one = MoEShape(2048, 768, 128, 8, routing="balanced")
        other = MoEShape(2048, 768, 128, 8, tensor_parallel=4, routing="power_law_1.2")
        assert one.split_key == other.split_key
        assert AttentionShape(32, 8, 128, 1).split_key == AttentionShape(32, 8, 128, 131071, batch_size=4).split_key


class TestMeasurement:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"operator": "gem"}, "unknown operator 'gem'; did you mean 'gemm'"),
            ({"operator": "moe"}, "moe needs a MoEShape, got GemmShape"),
            ({"backend": "vlm"}, "unknown backend 'vlm'; did you mean 'vllm'"),
            ({"tokens": 0}, "tokens must be a whole number of at least 1, got 0"),
            ({"seconds": float("nan")}, "seconds must be a finite number above 0"),
            ({"spread": -0.1}, "spread must be a relative spread of at least 0"),
            ({"gpu": ""}, "gpu must be a hardware key"),
            ({"weight_dtype": "fp7"}, "unknown data type 'fp7'"),
        ],
    )
    def test_refuses(self, changes: dict[str, object], message: str) -> None:
        with pytest.raises((InvalidArgumentError, UnknownNameError), match=message):
            gemm_point(**{"tokens": 1, "seconds": 1e-6, **changes})  # type: ignore[arg-type]

    def test_data_types_have_one_spelling(self) -> None:
        assert gemm_point(1, 1e-6, weight_dtype="bf16").weight_dtype == "bfloat16"


class TestCurve:
    @pytest.mark.parametrize(
        ("tokens", "seconds", "message"),
        [
            ([1, 1], [1e-6, 1e-6], "strictly increasing"),
            ([2, 1], [1e-6, 1e-6], "strictly increasing"),
            ([0, 1], [1e-6, 1e-6], "at least 1"),
            ([], [], "strictly increasing"),
            ([1, 2], [1e-6], "one value per token count"),
            ([1, 2], [1e-6, 0.0], "seconds must be finite numbers above 0"),
            ([1, 2], [1e-6, np.inf], "seconds must be finite numbers above 0"),
        ],
    )
    def test_refuses(self, tokens: list[int], seconds: list[float], message: str) -> None:
        with pytest.raises(InvalidArgumentError, match=message):
            gemm_curve(tokens, seconds)

    def test_is_frozen_and_owns_its_arrays(self) -> None:
        mine = np.array([1e-6, 2e-6])
        curve = Curve("gemm", GemmShape(8, 8), "h100_sxm5", "vllm", np.array([1, 2]), mine)
        mine[0] = 1.0
        assert curve.seconds[0] == 1e-6
        with pytest.raises(ValueError, match="read-only"):
            curve.seconds[0] = 1.0

    def test_operator_records(self) -> None:
        assert gemm_curve([1], [1e-6]).operator_record() == Gemm(4096, 4096)
        moe = Curve(
            "moe",
            MoEShape(2048, 768, 128, 8, gated=False),
            "h100_sxm5",
            "vllm",
            np.array([1]),
            np.array([1e-6]),
            "mxfp4",
            "fp8",
        )
        record = moe.operator_record()
        assert isinstance(record, FusedMoE)
        assert (record.matrices, record.weight_dtype, record.activation_dtype) == (2, "mxfp4", "fp8")
        mla = Curve(
            "mla",
            AttentionShape(16, 1, 576, 4095),
            "h100_sxm5",
            "sglang",
            np.array([4]),
            np.array([1e-6]),
            kv_dtype="fp8",
        )
        attention = mla.operator_record(batch_size=4)
        assert isinstance(attention, Attention)
        # MLA caches 576 elements a token once: 576 B in fp8.
        assert (attention.cache_bytes_per_token, attention.values_dim, attention.batch_size) == (576.0, 512, 4)
        with pytest.raises(InvalidArgumentError, match="name the batch_size of the point"):
            mla.operator_record()
        ring = Curve("all_reduce", AllReduceShape(8), "h100_sxm5", "nccl", np.array([512]), np.array([1e-6]))
        with pytest.raises(UnsupportedError, match="'all_reduce' is not one operator record"):
            ring.operator_record()

    def test_where_and_measurements_keep_points_together(self) -> None:
        whole = Curve(
            "gemm", GemmShape(8, 8), "h100_sxm5", "vllm", np.array([1, 16, 17]), np.array([1e-6, 2e-6, 3e-6]),
            kernels=("small", "large"), kernel_index=np.array([0, 0, 1]), spread=np.array([np.nan, 0.1, 0.2]),
        )  # fmt: skip
        assert whole.kernel_source == "small, then large"
        points = list(whole.where(whole.tokens > 1).measurements())
        assert [(p.tokens, p.seconds, p.kernel_source, p.spread) for p in points] == [
            (16, 2e-6, "small", 0.1),
            (17, 3e-6, "large", 0.2),
        ]
        assert next(iter(whole.measurements())).spread is None


class TestSets:
    def test_curves_of_takes_the_median_of_repeats(self) -> None:
        points = [gemm_point(16, 3e-6), gemm_point(1, 1e-6, spread=0.05), gemm_point(16, 2e-6), gemm_point(16, 7e-6)]
        (curve,) = curves_of(points)
        assert curve.tokens.tolist() == [1, 16]
        assert curve.seconds.tolist() == [1e-6, 3e-6]
        assert curve.spread is not None
        np.testing.assert_allclose(curve.spread, [0.05, (7 - 2) / 3])

    def test_curves_of_separates_what_differs(self) -> None:
        points = [gemm_point(1, 1e-6), gemm_point(2, 1e-6, backend="sglang"), gemm_point(2, 1e-6, weight_dtype="fp8")]
        assert len(curves_of(points)) == 3

    @given(st.lists(st.floats(1e-6, 1e-2), min_size=2, max_size=8))
    def test_curves_survive_the_way_through_points(self, seconds: list[float]) -> None:
        curve = gemm_curve(list(range(1, len(seconds) + 1)), seconds)
        (again,) = curves_of(curve.measurements())
        assert again.tokens.tolist() == curve.tokens.tolist()
        assert again.seconds.tolist() == curve.seconds.tolist()
        assert again.split_key == curve.split_key

    def test_noise_is_the_median_over_curves_of_the_mean_over_points(self) -> None:
        first = [gemm_curve([1, 2], [1.1, 1.0]), gemm_curve([1, 2], [1.3, 1.3], n=512), gemm_curve([1], [9.0], n=256)]
        second = [gemm_curve([1, 2, 3], [1.0, 1.0, 5.0]), gemm_curve([2], [1.0], n=512), gemm_curve([2], [1.0], n=256)]
        noise = noise_between(first, second)
        assert (noise.curves, noise.points) == (2, 3)
        assert noise.median_mape == pytest.approx((0.05 + 0.3) / 2)
        assert noise.mean_deviation == pytest.approx((0.1 + 0.0 + 0.3) / 3)
        assert noise.median_deviation == pytest.approx(0.1)

    def test_noise_leaves_competing_kernels_out(self) -> None:
        twice = [gemm_curve([1], [1.0]), gemm_curve([1], [2.0])]
        assert noise_between(twice, [gemm_curve([1], [1.0])]).curves == 0
        assert np.isnan(noise_between(twice, []).median_mape)

    def test_halves_partition(self) -> None:
        curves = tuple(gemm_curve([1], [1e-6], n=n) for n in range(256, 2048, 64))
        whole = CurveSet(curves, Source("made up"))
        assert len(whole.half("fit")) + len(whole.half("test")) == len(whole) == whole.points
        assert {c.half for c in whole.half("fit")} == {"fit"}
        assert len(whole.half("fit")) > 0 < len(whole.half("test"))
        with pytest.raises(InvalidArgumentError, match="half must be 'fit' or 'test', got 'train'"):
            whole.half("train")  # type: ignore[arg-type]


class TestPublished:
    def test_deepgemm_traffic_follows_from_its_rate(self) -> None:
        # The README prints GB/s beside TFLOP/s: 12 independent checks of the typing; rates are rounded to 1 part in 200.
        checked = [row for row in DEEPGEMM_ROWS if row.giga_bytes_per_s is not None]
        assert len(checked) == 12
        for row in checked:
            assert row.bytes_moved / row.seconds / 1e9 == pytest.approx(row.giga_bytes_per_s, rel=3e-3)

    def test_deepgemm_grouped_traffic(self) -> None:
        for groups, row in DEEPGEMM_GROUPED_ROWS:
            seconds = groups * row.seconds
            assert groups * row.bytes_moved / seconds / 1e9 == pytest.approx(row.giga_bytes_per_s, rel=3e-3)

    def test_deepgemm_curves(self) -> None:
        table = deepgemm_h800()
        assert (len(table), table.points) == (6, 18)
        wide = next(c for c in table if c.shape == GemmShape(24576, 1536))
        assert (wide.gpu, wide.weight_dtype, wide.tokens.tolist()) == ("h800_sxm", "fp8_block", [64, 128, 4096])
        # 2*64*24576*1536 / 289e12 = 16.72 us, worked by hand.
        assert wide.seconds[0] == pytest.approx(16.72e-6, rel=1e-3)
        near_free = sum(c.seconds[1] <= 1.1 * c.seconds[0] for c in table)
        assert near_free == 3

    def test_mixtral_plateau(self) -> None:
        (curve,) = mixtral_h100_vllm()
        saturated = curve.tokens >= 16
        # From the saturated step the layer is near-free to 256 tokens within 20 %, and out at 512.
        within = curve.tokens[saturated & (curve.seconds <= 1.2 * 471.49e-6)]
        assert within.max() == 256
        # Every expert once: 8 x 3 x 4096 x 7168 x 2 B = 1.409 GB in 471 us is 2.99 TB/s of the 3.35 an H100 has.
        record = curve.operator_record()
        assert isinstance(record, FusedMoE)
        assert 8 * record.expert_bytes / 471.49e-6 == pytest.approx(2.99e12, rel=2e-3)

    def test_llada(self) -> None:
        table = llada_moe_a6000()
        layer, forward = table.curves
        assert (layer.operator, forward.operator) == ("moe", "forward")
        # 64 -> 128 tokens costs 1.31x, as the report remarks.
        assert layer.seconds[4] / layer.seconds[3] == pytest.approx(1.31, abs=0.005)
        assert forward.seconds.tolist() == pytest.approx([34.31e-3, 34.95e-3, 43.32e-3, 47.47e-3])

    def test_every_point_has_a_source(self) -> None:
        for table in published_sets().values():
            assert all(point.source for curve in table for point in curve.measurements())
