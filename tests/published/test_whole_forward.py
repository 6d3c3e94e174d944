"""Whole decode steps published by vendors, and what the source paper says of idle compute.

Band of 20 %: the published steps hold sampling, scheduling and a context that grows through the request; constants here are
those of no measurement at all.
"""

from __future__ import annotations

from typing import Any

import pytest

from nfp_model import load_hardware, load_model, predict_nfp
from nfp_model.operators import Attention
from nfp_model.prediction import bind_forward
from nfp_model.workload import Workload

# NVIDIA NIM benchmark page, H100, concurrency 1, 1000 in and 1000 out: the mean cached length is 1500. Inter-token latency [ms].
NIM = [
    ("llama-3.1-8b", {}, 6.52),
    ("llama-3.1-8b", {"weight_dtype": "fp8"}, 4.53),
    ("llama-3.1-70b", {"tensor_parallel": 8}, 10.25),
    ("llama-3.1-70b", {"tensor_parallel": 4}, 15.49),
    ("llama-3.1-70b", {"tensor_parallel": 4, "weight_dtype": "fp8"}, 13.99),
    ("llama-3.1-70b", {"tensor_parallel": 2, "weight_dtype": "fp8"}, 18.67),
]


@pytest.mark.parametrize(("model", "arguments", "milliseconds"), NIM)
def test_step_time_of_nim(model: str, arguments: dict[str, Any], milliseconds: float) -> None:
    found = predict_nfp("h100", model, context_length=1500, max_positions=8, **arguments)
    assert found.baseline_latency_s * 1e3 == pytest.approx(milliseconds, rel=0.2)


def test_step_time_of_sglang() -> None:
    # EAGLE-3 paper (arXiv 2503.01840): Llama-3.1-8B, one H100, batch 1, 158.34 tokens/s without speculation; short contexts.
    found = predict_nfp("h100", "llama-3.1-8b", context_length=500, max_positions=8)
    assert 1 / found.baseline_latency_s == pytest.approx(158.34, rel=0.2)


def test_the_share_of_bandwidth_falls_as_bandwidth_rises() -> None:
    # arXiv 2605.30571: (weights + cache) / peak bandwidth over the step, medians .260 H100, .275 A100, .516 L40S, .694 L4.
    # Its runs have no fused kernels, so only the order is compared, with the same constants on every chip as with one software.
    shares = []
    for name in ("h100", "a100", "l40s", "l4"):
        found = predict_nfp(name, "llama-3.1-8b", context_length=2048, max_positions=8, backend="uncalibrated")
        shares.append(
            found.memory_needed_bytes / load_hardware(name).memory_bandwidth_bytes_per_s / found.baseline_latency_s
        )
    assert shares == sorted(shares)
    assert 0.2 < shares[0] < shares[-1] < 1.0


def test_idle_compute_over_predicts_by_the_factors_of_the_source_paper() -> None:
    # arXiv 2605.30851, abstract: 2.4 to 23 times. Its settings are not public, so only the ends are reached, not matched.
    dense = predict_nfp("h100", "llama-3.1-8b").modules["dense_ffn"].over_prediction
    saturated = (
        predict_nfp("b200", "mixtral", backend="vllm", routing="balanced", baseline="saturated")
        .modules["moe_ffn"]
        .over_prediction
    )
    assert 1.0 < dense < 2.4
    assert saturated > 23


@pytest.mark.parametrize(
    ("gpu", "low", "high"), [("a100", 64, 128), ("h100", 100, 257), ("h200", 97, 161), ("b200", 96, 192)]
)
def test_weight_bound_layers_are_near_free_as_far_as_nvidia_timed(gpu: str, low: int, high: int) -> None:
    # aiconfigurator bf16 GEMM tables: boundaries at tolerance 0.1 to 0.2 of 4096 x 12288 to 16384 x 16384. Band: a factor 1.5.
    found = predict_nfp(gpu, "llama-3.1-70b", tolerance=0.15, max_positions=1024).modules["dense_ffn"]
    assert low / 1.5 <= found.nfp <= 1.5 * high
    assert found.nfp < found.idle_compute_nfp


def test_cache_of_latent_attention_is_576_elements_read_once() -> None:
    # FlashMLA README: head_dim_k 576, head_dim_v 512, one shared head. Its 656-byte fp8 layout mixes types and is not modelled.
    forward = bind_forward(load_hardware("h100"), load_model("deepseek-v3"), Workload())
    (attention,) = [use.operator for use in forward.uses if isinstance(use.operator, Attention)]
    assert (attention.num_kv_heads, attention.head_dim, attention.values_dim, attention.shared_kv) == (
        1,
        576,
        512,
        True,
    )
    assert attention.cache_bytes_per_token == 576 * 2
