"""NVIDIA's public kernel timings (aiconfigurator, Apache-2.0, commit 095f58a5): fused MoE, vLLM 0.24, EP = TP = 1, balanced.

Typed in from the tables, microseconds. Band 25 % on latency: other tables of the same kernel differ by 8 % in the mean. One and
two tokens are mostly launches, which the recordings of one GPU put at 24 and at 37 us: 40 %.
"""

from __future__ import annotations

import numpy as np
import pytest

from nfp_model import FusedMoE, LatencyCurve, load_hardware, near_free_boundary, operator_latency

TOKENS = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])
QWEN3_30B = FusedMoE(2048, 768, 128, 8, routing="balanced")
MIXTRAL = FusedMoE(4096, 14336, 8, 2, routing="balanced")
MEASURED = {
    "h200": [40, 58, 94, 172, 305, 305, 316, 316, 339, 350, 406],
    "h100": [49, 75, 124, 228, 420, 422, 432, 450, 461, 480, 529],
}


def predicted(gpu: str, operator: FusedMoE, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(operator_latency(gpu, operator, tokens, backend="vllm")) * 1e6


@pytest.mark.parametrize(("gpu", "measured"), MEASURED.items())
def test_latency_follows_the_touched_experts_and_then_stays(gpu: str, measured: list[int]) -> None:
    found = predicted(gpu, QWEN3_30B, TOKENS)
    np.testing.assert_allclose(found[2:], measured[2:], rtol=0.25)
    # The plateau: 32 times the tokens, 15 % more time; band 10 % of the ratio.
    assert found[9] / found[4] == pytest.approx(measured[9] / measured[4], rel=0.1)


FLOOR = "waves of few blocks are a floor that this GPU does not show: 11 and 16 us a token from one to four tokens, 18 measured"


@pytest.mark.parametrize("gpu", [pytest.param("h200", marks=pytest.mark.xfail(strict=True, reason=FLOOR)), "h100"])
def test_a_token_costs_the_experts_it_wakes(gpu: str) -> None:
    # Proportional to touched experts above the fixed time, up to E / k = 16 tokens; a little more from 4 to 8, where the pairs
    # are sorted first.
    found = predicted(gpu, QWEN3_30B, TOKENS)
    steps, seen = (np.diff(some[:5]) / np.diff(TOKENS[:5]) for some in (found, MEASURED[gpu]))
    np.testing.assert_allclose(steps, seen, rtol=0.1)


BACK_INSIDE = "the predicted curve leaves the tolerance at 142 tokens and comes back until 1027, twice the measured end of the plateau"


LAUNCHES = (
    "57 us for one token: the fit's fixed time lies between the two recordings', and this curve is of the shorter one"
)


@pytest.mark.parametrize("gpu", [pytest.param("h200", marks=pytest.mark.xfail(strict=True, reason=LAUNCHES)), "h100"])
def test_one_and_two_tokens_are_mostly_launches(gpu: str) -> None:
    np.testing.assert_allclose(predicted(gpu, QWEN3_30B, TOKENS[:2]), MEASURED[gpu][:2], rtol=0.4)


@pytest.mark.parametrize(
    "gpu", ["h200", "h100", pytest.param("b200", marks=pytest.mark.xfail(strict=True, reason=BACK_INSIDE))]
)
def test_near_free_from_the_saturated_step_not_from_one_token(gpu: str) -> None:
    grid = np.arange(1, 2049)
    curve = LatencyCurve.measured(grid, predicted(gpu, QWEN3_30B, grid))
    assert near_free_boundary(curve, 0.15, 1).nfp == 1
    # Measured plateau: 305 to 350 us over 16 to 512 tokens (H200). Band: a factor of two.
    assert 256 <= near_free_boundary(curve, 0.15, 16).nfp <= 1024


def test_weights_of_a_saturated_layer_arrive_at_83_percent_of_the_bandwidth() -> None:
    moved = QWEN3_30B.num_experts * QWEN3_30B.expert_bytes
    assert moved == pytest.approx(1.21e9, rel=0.005)
    rate = moved / 305e-6
    assert rate == pytest.approx(3.96e12, rel=0.005)
    assert rate / load_hardware("h200").memory_bandwidth_bytes_per_s == pytest.approx(0.83, abs=0.005)


def test_mixtral_pays_for_all_experts_from_four_tokens_and_again_for_second_blocks() -> None:
    found = predicted("h200", MIXTRAL, TOKENS)
    measured = [212, 348, 668, 657, 664, 689, 673, 688, 753, 798]
    np.testing.assert_allclose(found[:10], measured, rtol=0.3)
    # H100 without a tuned file: 1065 us at 256 tokens, 1844 at 320 (1.73 times).
    before, after = predicted("h100", MIXTRAL, np.array([256, 320]))
    assert after / before == pytest.approx(1844 / 1065, rel=0.25)
