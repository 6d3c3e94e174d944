"""Speed and memory of sweeps, measured, never asserted beyond that memory stays flat: ``make bench`` keeps the numbers."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from nfp_model import Attention, FusedMoE, Gemm
from nfp_model.sweeping import sweep, sweep_operator
from nfp_model.sweeping.operator_grid import BANDWIDTH

OPERATORS = {
    "gemm": Gemm(8192, 8192),
    "moe": FusedMoE(4096, 14336, 8, 2),
    "attention": Attention(32, 8, 128, 8192),
}
BANDWIDTHS = np.linspace(1e12, 8e12, 1000)


@pytest.mark.parametrize("name", OPERATORS)
def test_million_points_over_bandwidth_and_tokens(benchmark: Any, name: str) -> None:
    tokens = np.arange(1, 1001)
    found = benchmark.pedantic(
        sweep_operator,
        args=("h100", OPERATORS[name], tokens),
        kwargs={BANDWIDTH: BANDWIDTHS},
        rounds=1,
        warmup_rounds=0,
    )
    assert found.size == 1_000_000


@pytest.mark.parametrize("name", OPERATORS)
def test_thousand_near_free_ranges(benchmark: Any, name: str) -> None:
    arguments = {"tolerance": 0.1, BANDWIDTH: BANDWIDTHS}
    benchmark.pedantic(sweep_operator, args=("h100", OPERATORS[name]), kwargs=arguments, rounds=1, warmup_rounds=0)


@pytest.mark.parametrize("name", OPERATORS)
def test_memory_is_flat_but_for_the_answer(benchmark: Any, name: str) -> None:
    def working_bytes(points: int) -> int:
        tokens = np.arange(1, points // BANDWIDTHS.size + 1)
        tracemalloc.start()
        found = sweep_operator("h100", OPERATORS[name], tokens, **{BANDWIDTH: BANDWIDTHS})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return int(peak - found.values.nbytes)

    working_bytes(10_000)  # tables and compiled equations are kept
    used = {points: working_bytes(points) for points in (100_000, 1_000_000)}
    benchmark.extra_info["working_bytes"] = used
    assert used[1_000_000] < 2 * used[100_000] + 2**20
    benchmark.pedantic(working_bytes, args=(10_000,), rounds=1)


def test_hundred_warm_predictions(benchmark: Any) -> None:
    tolerances = np.linspace(0.05, 0.5, 100)
    arguments = {"tolerance": tolerances, "backend": "vllm"}
    benchmark.pedantic(sweep, args=("h100", "llama-3.1-8b"), kwargs=arguments, rounds=3, warmup_rounds=1)
