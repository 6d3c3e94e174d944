"""Quantized decode: bytes with scales, the math pipe in use, the cache, and what they do to NFP against bf16."""

from __future__ import annotations

import numpy as np
import pytest

from nfp_model import FusedMoE, Gemm, load_hardware, load_model, operator_latency, predict_nfp
from nfp_model.errors import UnsupportedError
from nfp_model.kernels.selection import kernel_key
from nfp_model.operators import Attention, cache_bytes, forward_operators, weight_bytes
from nfp_model.prediction import Prediction
from nfp_model.quantities import ELEMENT_TYPES
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import LinearAttention, ModelSpec
from nfp_model.workload import Workload

H100, A100, B200 = (load_hardware(name) for name in ("h100", "a100", "b200"))


def predicted(hardware: str, weights: str | None, model: str = "llama-3.1-70b", **arguments: object) -> Prediction:
    given: dict[str, object] = {"max_positions": 1024, "backend": "vllm", "weight_dtype": weights, **arguments}
    return predict_nfp(hardware, model, **given)  # type: ignore[arg-type]


# Bytes ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "bits"),
    [
        # Weights of 128, 64, 32 (integers) or 16 (NVFP4), 32 (OCP MX) elements to a scale of 16, 8 and 8 bits.
        ("int4", 4 + 16 / 128), ("int4_g64", 4 + 16 / 64), ("int4_g32", 4 + 16 / 32), ("nvfp4", 4 + 8 / 16),
        ("nvfp4_w4a16", 4 + 8 / 16), ("mxfp4", 4 + 8 / 32), ("mxfp4_w4a8", 4 + 8 / 32), ("int8_w8a16", 8 + 16 / 128),
        ("fp8_block", 8 + 32 / 128**2),
        ("fp8", 8), ("int8", 8),
    ],
)  # fmt: skip
def test_weight_bytes_count_scales(stored: str, bits: float) -> None:
    model = load_model("llama-3.1-8b")
    linear = 32 * (4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 14336)
    ends = 2 * 128256 * 4096 * 2  # embedding and head stay in 16 bits
    assert weight_bytes(model, Workload(weight_dtype=stored)) == pytest.approx(linear * bits / 8 + ends, rel=1e-12)
    assert FusedMoE(4096, 1024, 8, 2, stored).expert_bytes == 3 * 4096 * 1024 * bits / 8


def test_a_mixed_checkpoint_keeps_its_own_formats() -> None:
    """gpt-oss stores expert matrices in mxfp4 and everything else in 16 bits; an override leaves router and head alone."""
    model = load_model("gpt-oss-120b")
    for asked, experts, rest in ((None, "mxfp4", "bfloat16"), ("fp8", "fp8", "fp8")):
        found = {
            use.name.rstrip("_12"): use.operator.weight_dtype
            for use in forward_operators(model, Workload(weight_dtype=asked))
            if isinstance(use.operator, Gemm | FusedMoE)
        }
        assert found == {
            "experts": experts, "qkv_proj": rest, "o_proj": rest, "router": "bfloat16", "lm_head": "bfloat16"
        }  # fmt: skip


def test_a_layer_may_store_its_output_projection_apart() -> None:
    model = load_model("deepseek-v3").model_copy(update={"dtypes": {"attention_output": "nvfp4", "experts": "nvfp4"}})
    formats = {
        use.name: use.operator.weight_dtype
        for use in forward_operators(model, Workload())
        if isinstance(use.operator, Gemm)
    }
    assert formats["o_proj"] == "nvfp4"
    assert {formats[name] for name in ("qkv_a_proj", "q_b_proj", "absorb_v")} == {"bfloat16"}


# Latent experts ---------------------------------------------------------------------------------------------------------------


def test_latent_experts_run_in_their_own_width() -> None:
    """Nemotron 3 Super: 512 experts of two 2688 x 1024 matrices, between projections from and to 4096."""
    base = load_model("mixtral")
    moe = base.ffn["moe"].model_copy(
        update={"num_experts": 512, "top_k": 22, "intermediate_size": 2688, "gated": False, "expert_hidden_size": 1024}
    )
    model = base.model_copy(update={"ffn": {"moe": moe}, "derived_total": None, "derived_active": None})
    uses = {use.name: use.operator for use in forward_operators(model, Workload(tensor_parallel=8, expert_parallel=8))}
    experts, down, up = uses["experts"], uses["latent_down_proj"], uses["latent_up_proj"]
    assert isinstance(experts, FusedMoE)
    assert isinstance(down, Gemm)
    assert isinstance(up, Gemm)
    assert (experts.hidden_size, experts.expert_bytes) == (1024, 2 * 2688 * 1024 * 2)
    assert ((down.out_features, down.in_features), (up.out_features, up.in_features)) == ((1024, 4096), (4096, 1024))
    assert moe.parameters(4096) == 512 * 2 * 2688 * 1024 + 2 * 4096 * 1024 + 512 * 4096
    order = list(uses)
    assert order.index("latent_down_proj") < order.index("experts") < order.index("latent_up_proj")


# The math pipe ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hardware", "stored", "kernel", "share"),
    [
        # Idle-compute rows of a weight matrix: peak of the pipe x bytes / 2 / bandwidth, here over bf16's balance.
        (H100, "fp8", "vllm_scaled_mm_sm90:fp8", 1.0), (H100, "int4", "machete_sm90:w4a16", 4.125 / 16),
        (H100, "nvfp4", "marlin_sm80:dense", 4.5 / 16), (H100, "mxfp4", "marlin_sm80:dense", 4.25 / 16),
        (H100, "int4_g32", "machete_sm90:w4a16", 4.5 / 16), (H100, "int8_w8a16", "marlin_sm80:dense", 8.125 / 16),
        (A100, "fp8", "marlin_sm80:dense", 8 / 16), (A100, "int8", "vllm_scaled_mm_sm80:int8", 1.0),
        (A100, "nvfp4", "marlin_sm80:dense", 4.5 / 16), (B200, "nvfp4", "flashinfer_cutedsl_sm100:nvfp4", 4 * 4.5 / 16),
        (B200, "nvfp4_w4a16", "marlin_sm80:dense", 4.5 / 16),
    ],
)  # fmt: skip
def test_pipe_and_kernel(hardware: HardwareSpec, stored: str, kernel: str, share: float) -> None:
    operator = Gemm(8192, 8192, stored)
    assert kernel_key(hardware, "vllm", operator) == kernel
    balance = (
        hardware.peak(stored) * operator.weight_bytes / (operator.flop_per_row * hardware.memory_bandwidth_bytes_per_s)
    )
    assert balance / hardware.ridge_point("bfloat16") == pytest.approx(share, rel=2e-3)


def test_weights_without_a_pipe_are_expanded_only_where_a_kernel_does_it() -> None:
    """vLLM: fp8 needs compute capability 8.9, below it Marlin expands the weights; AMD and TPU have no such kernel."""
    assert {name for name in ELEMENT_TYPES if A100.expands_weights(name)} == {"fp8", "fp8_block", "nvfp4"}
    assert {name for name in ELEMENT_TYPES if H100.expands_weights(name)} == {"nvfp4"}
    assert {name for name in ELEMENT_TYPES if B200.expands_weights(name)} == set()
    # Ampere has no float32 matrix pipe either, and nothing to expand: a wider format never runs in a narrower one.
    for chip, stored in (("mi300x", "nvfp4"), ("tpu_v5e", "fp8"), ("mi300x", "float32"), ("a100", "float32")):
        with pytest.raises(UnsupportedError, match=f"has no matrix rate for {stored}; it can run "):
            predict_nfp(chip, "llama-3.1-8b", weight_dtype=stored, max_positions=4)


def test_expansion_is_told() -> None:
    told = "weight-only: nvfp4 is expanded to bfloat16, NVIDIA H100 SXM5 80GB has no nvfp4 matrix units"
    assert told in predicted("h100", "nvfp4", max_positions=4).warnings
    for hardware, stored in (("b200", "nvfp4"), ("h100", "fp8"), ("h100", "nvfp4_w4a16"), ("h100", "int4")):
        assert not any("weight-only" in text for text in predicted(hardware, stored, max_positions=4).warnings)


# NFP against bf16 -------------------------------------------------------------------------------------------------------------


def test_marlin_is_near_ideal_to_16_to_32_rows_on_an_a10() -> None:
    """Marlin README, fp16 x int4 in groups of 128 on an A10: 3.87 times at small batch, held to 16 to 32, gone beyond."""
    rows = np.array([1, 2, 4, 8, 16, 32, 64, 128, 1024])
    half, packed = (operator_latency("a10", Gemm(18432, 73728, w, "float16"), rows) for w in ("float16", "int4"))
    speedup = dict(zip(rows.tolist(), (half / packed).tolist(), strict=True))
    assert speedup[1] == pytest.approx(3.87, rel=0.02)
    assert min(speedup[n] for n in (2, 4, 8, 16)) > 0.95 * 3.87
    assert speedup[32] > 0.85 * 3.87
    assert speedup[64] < 0.8 * 3.87
    assert speedup[128] < 0.5 * 3.87
    assert speedup[1024] < 1.3


def test_size_of_the_shift() -> None:
    """Dense FFN of Llama-3.1-70B on H100: 8-bit math on 8-bit weights keeps the balance, 16-bit math on 4 bits quarters it."""
    found = {w: predicted("h100", w).modules["dense_ffn"] for w in ("bfloat16", "fp8", "nvfp4", "int4")}
    idle = {w: module.idle_compute_nfp for w, module in found.items()}
    assert idle["fp8"] == pytest.approx(idle["bfloat16"], rel=1e-3)
    assert idle["int4"] == pytest.approx(idle["bfloat16"] * 4.125 / 16, rel=0.01)
    assert idle["nvfp4"] == pytest.approx(idle["bfloat16"] * 4.5 / 16, rel=0.01)
    # Fewer bits end sooner; every format also leaves idle compute unreached.
    assert found["int4"].nfp < found["nvfp4"].nfp < found["fp8"].nfp < found["bfloat16"].nfp
    assert all(module.nfp < module.idle_compute_nfp for module in found.values())
    assert found["bfloat16"].nfp > 3 * found["nvfp4"].nfp
    # The baseline step falls with the bytes, less the fixed time: by less than 16 / 4.125.
    times = {w: module.baseline_latency_s for w, module in found.items()}
    assert 1.6 < times["bfloat16"] / times["fp8"] < 2
    assert 3 < times["bfloat16"] / times["int4"] < 16 / 4.125


def test_weight_only_fp8_on_ampere_halves_the_balance_that_int8_keeps() -> None:
    fp8, int8, bf16 = (predicted("a100", w).modules["dense_ffn"] for w in ("fp8", "int8", "bfloat16"))
    assert fp8.idle_compute_nfp == pytest.approx(bf16.idle_compute_nfp / 2, rel=0.01)
    assert int8.idle_compute_nfp == pytest.approx(bf16.idle_compute_nfp, rel=0.01)
    assert fp8.nfp < int8.nfp


def test_mxfp4_experts_end_their_plateau_sooner() -> None:
    own, wide = (predicted("h100", w, "gpt-oss-120b", max_positions=2048).saturated for w in (None, "bfloat16"))
    assert own is not None
    assert wide is not None
    packed, plain = own.modules["moe_ffn"], wide.modules["moe_ffn"]
    assert packed.nfp < plain.nfp
    assert packed.idle_compute_nfp / plain.idle_compute_nfp == pytest.approx(4.25 / 16, rel=0.02)
    assert packed.baseline_latency_s < plain.baseline_latency_s


# The cache --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt-oss-20b", "deepseek-v3"])
def test_an_fp8_cache_is_half_as_large(name: str) -> None:
    model: ModelSpec = load_model(name)
    assert not any(isinstance(part, LinearAttention) for part in model.attention.values())
    plain, packed = (cache_bytes(model, Workload(batch_size=4, kv_dtype=kv)) for kv in ("bfloat16", "fp8"))
    assert packed == plain / 2
    for use in forward_operators(model, Workload(kv_dtype="fp8")):
        if isinstance(use.operator, Attention):
            assert use.operator.kv_dtype == "fp8"


def test_an_fp8_cache_halves_what_idle_compute_promises_attention() -> None:
    long = {"batch_size": 16, "context_length": 16384, "max_positions": 256}
    plain, packed = (predicted("h100", None, "llama-3.1-8b", kv_dtype=kv, **long) for kv in ("bfloat16", "fp8"))
    attention = plain.modules["attention"], packed.modules["attention"]
    assert attention[1].idle_compute_nfp == pytest.approx(attention[0].idle_compute_nfp / 2, rel=1e-6)
    assert attention[1].nfp <= attention[0].nfp
    assert 0.5 < attention[1].baseline_latency_s / attention[0].baseline_latency_s < 0.75
    assert packed.baseline_latency_s < plain.baseline_latency_s
    # 16 sequences x 16384 tokens x 32 layers x 8 heads x 2 x 128 x 1 byte saved.
    saved = 16 * 16384 * 32 * 8 * 256
    assert plain.memory_needed_bytes - packed.memory_needed_bytes == pytest.approx(saved, rel=1e-9)
