"""The harness on a real CUDA device: outputs are right, clocks are read, times obey the device's own limits."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nfp_model.validation import measure as measure_module
from nfp_model.validation.cases import Case, cases_of
from nfp_model.validation.measure import run_measurement
from nfp_model.validation.recorded import read_recorded


def _has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _has_cuda(), reason="no CUDA device found"),
    # torch.compile imports parts of torch that torch itself deprecates.
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning"),
]


@pytest.fixture
def backend() -> Iterator[Any]:
    from nfp_model.validation.cuda_backend import CudaBackend

    device = CudaBackend()
    yield device
    device.release()


MOE = ("test", 512, 256, 16, 2)
SMALL = [
    Case("gemm", ("test", 1024, 512, "bfloat16", "linear")),
    Case("gemm", ("test", 1024, 512, "fp8", "scaled_mm")),
    Case("moe", (*MOE, "uniform", "bfloat16", "grouped_mm", 0)),
    *(Case("moe", (*MOE, "power_law:1.2", "bfloat16", "triton", rows)) for rows in (16, 32, 64, 128)),
    *(
        Case("attention", (8, heads, 128, causal, "bfloat16", implementation), 2, 1024, largest=64)
        for implementation in ("sdpa_flash", "sdpa_cudnn", "flex")
        for heads in (1, 2, 8)
        for causal in (0, 1)
    ),
]


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_output_is_right_and_time_is_positive(backend: Any, case: Case) -> None:
    samples = backend.time(case, 5, "cold")  # refuses a wrong output itself
    low, median, high = samples.quantiles()
    assert 0 < low <= median <= high < 1


def test_weights_do_not_come_faster_than_memory_allows(backend: Any) -> None:
    copy = Case("ceilings", ("copy",))
    copied = 2 * 1024 * 2**20 / backend.time(copy, 1024, "cold").quantiles()[1]
    case = Case("gemm", ("test", 4096, 4096, "bfloat16", "linear"))
    cold = backend.time(case, 1, "cold")
    warm = backend.time(case, 1, "warm")
    assert cold.l2_state == "cold"
    # A read alone may be somewhat faster than a copy that also writes; from L2 it would be several times faster.
    assert 2 * 4096 * 4096 / cold.quantiles()[1] < 1.3 * copied
    assert warm.quantiles()[1] < 1.05 * cold.quantiles()[1]


def test_the_same_point_twice_agrees(backend: Any) -> None:
    case = Case("gemm", ("test", 8192, 4096, "bfloat16", "linear"))
    first, second = (backend.time(case, 64, "cold").quantiles()[1] for _ in range(2))
    assert second == pytest.approx(first, rel=0.1)


@pytest.mark.parametrize("model", ["llama_3_1_8b", "llada2_0_mini"])
def test_a_forward_runs_under_a_graph(backend: Any, model: str) -> None:
    pytest.importorskip("transformers")
    case = next(case for case in cases_of("forward") if case["model"] == model)
    one, many = (backend.time(case, positions, "cold").quantiles()[1] for positions in (1, 512))
    assert 0 < one < many


def test_a_run_writes_a_file_that_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Any) -> None:
    case = replace(SMALL[0], largest=16)
    monkeypatch.setattr(measure_module, "cases_of", lambda kind: (case,))
    report = run_measurement("gemm", out=tmp_path / "x.csv", minutes=1.0, backend=backend, progress=False)
    points = read_recorded(tmp_path / "x.csv")
    assert report.measured == len(points) >= 5
    text = (tmp_path / "x.csv").read_text()
    assert all(f"# {name}: " in text for name in ("device", "driver", "torch", "clocks", "command"))


def test_detected_hardware_is_a_hardware_file() -> None:
    from nfp_model.specs.hardware import HardwareSpec
    from nfp_model.validation.probe import detect_hardware

    spec = HardwareSpec.from_mapping(tomllib.loads(detect_hardware()), "detected")
    assert spec.sm_count > 0
