"""Speed and memory of the library, measured, never asserted: ``make bench`` writes ``benchmarks/results.md``.

Process start-up is timed as whole fresh processes; the rest inside one process after a warm-up.
"""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest

from nfp_model import Gemm, load_hardware, predict_nfp
from nfp_model.cost.binding import bind

FRESH = {
    "import_numpy_pydantic": "import numpy, pydantic",
    "import_nfp_model": "import nfp_model",
    "import_predict_nfp": "from nfp_model import predict_nfp",
    "first_prediction": "from nfp_model import predict_nfp; predict_nfp('h100', 'mixtral')",
}


@pytest.mark.parametrize("name", FRESH)
def test_fresh_process(benchmark: Any, name: str) -> None:
    benchmark.pedantic(
        lambda: subprocess.run([sys.executable, "-c", FRESH[name]], check=True), rounds=7, warmup_rounds=1
    )


@pytest.mark.parametrize("model", ["mixtral", "llama-3.1-8b", "deepseek_v3"])
def test_warm_prediction(benchmark: Any, model: str) -> None:
    benchmark(predict_nfp, "h200", model)


@pytest.mark.parametrize("shape", [(28672, 8192), (4096, 4096)])
def test_million_gemm_points(benchmark: Any, shape: tuple[int, int]) -> None:
    bound = bind(load_hardware("h100"), Gemm(*shape), None)
    rows = np.tile(np.arange(1, 4097), 245)[:1_000_000]
    benchmark.pedantic(bound.seconds, args=(rows,), rounds=3, warmup_rounds=1)


def test_memory_of_gemm_points_is_linear(benchmark: Any) -> None:
    bound = bind(load_hardware("h100"), Gemm(4096, 4096), None)

    def peak_bytes(points: int) -> int:
        rows = np.tile(np.arange(1, 4097), points // 4096 + 1)[:points]
        tracemalloc.start()
        bound.seconds(rows)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    bound.seconds(np.arange(1, 4097))
    benchmark.extra_info["bytes_per_point"] = {
        points: peak_bytes(points) / points for points in (100_000, 400_000, 1_600_000)
    }
    benchmark.pedantic(peak_bytes, args=(100_000,), rounds=1)
