"""MoESD (arXiv 2505.19645), equation 8: N(t) = E (1 - (1 - K/E)^t), as tabulated in public for nine routed models.

The table prints one decimal; the tolerance is half of it.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from nfp_model.kernels.routing import experts_touched
from nfp_model.specs.model import MoEFFN
from nfp_model.specs.registry import load_model
from nfp_model.workload import Routing

TOKENS = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256])
TABLE = {
    (8, 2): [2.0, 3.5, 5.5, 7.2, 7.9, 8.0, 8.0, 8.0, 8.0],
    (64, 6): [6.0, 11.4, 20.8, 34.9, 50.8, 61.3, 63.9, 64.0, 64.0],
    (64, 8): [8.0, 15.0, 26.5, 42.0, 56.4, 63.1, 64.0, 64.0, 64.0],
    (32, 4): [4.0, 7.5, 13.2, 21.0, 28.2, 31.6, 32.0, 32.0, 32.0],
    (128, 4): [4.0, 7.9, 15.3, 28.7, 51.0, 81.7, 111.2, 125.8, 128.0],
    (128, 8): [8.0, 15.5, 29.1, 51.6, 82.4, 111.8, 125.9, 128.0, 128.0],
    (256, 8): [8.0, 15.8, 30.5, 57.4, 102.0, 163.3, 222.4, 251.6, 255.9],
    (384, 8): [8.0, 15.8, 31.0, 59.5, 109.8, 188.2, 284.2, 358.1, 382.2],
    (512, 10): [10.0, 19.8, 38.8, 74.7, 138.6, 239.6, 367.1, 471.0, 508.7],
}
MODELS = {
    "mixtral": (8, 2), "deepseek-v2-lite": (64, 6), "olmoe-1b-7b": (64, 8), "llada-moe-7b-a1b": (64, 8), "gpt-oss-20b": (32, 4),
    "gpt-oss-120b": (128, 4), "qwen3-30b-a3b": (128, 8), "deepseek-v3": (256, 8), "llada2.0-mini": (256, 8), "minimax-m2": (256, 8),
    "kimi-k2": (384, 8), "qwen3-next-80b-a3b": (512, 10),
}  # fmt: skip


@pytest.mark.parametrize(("shape", "row"), TABLE.items())
def test_expected_experts_of_the_table(shape: tuple[int, int], row: list[float]) -> None:
    found = experts_touched(Routing.parse("uniform"), *shape, TOKENS)
    np.testing.assert_allclose(found, row, atol=0.05 + 1e-9)


@pytest.mark.parametrize(("name", "shape"), MODELS.items())
def test_the_models_have_the_shapes_of_the_table(name: str, shape: tuple[int, int]) -> None:
    experts = [ffn for ffn in load_model(name).ffn.values() if isinstance(ffn, MoEFFN)]
    assert [(ffn.num_experts, ffn.top_k) for ffn in experts] == [shape]


@pytest.mark.parametrize("shape", TABLE)
@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.99])
def test_saturation_threshold(shape: tuple[int, int], fraction: float) -> None:
    # MoESD: T_thres = ceil(ln(1 - tau) / ln(1 - rho)), the first token count that activates the fraction tau.
    experts, top_k = shape
    threshold = math.ceil(math.log(1 - fraction) / math.log(1 - top_k / experts))
    before, at = experts_touched(Routing.parse("uniform"), experts, top_k, [max(1, threshold - 1), threshold]) / experts
    assert at >= fraction
    assert before < fraction or threshold == 1
