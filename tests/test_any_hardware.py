"""Any chip: AMD and TPU from their own granularity, a what-if chip, a file from five datasheet numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nfp_model import Gemm, load_hardware, operator_latency, predict_nfp
from nfp_model.errors import SpecError
from nfp_model.specs.gemm_kernel import GemmKernel
from nfp_model.specs.registry import spec_names

OTHERS = ("mi300x", "mi325x", "mi355x", "tpu_v5e", "tpu_v5p", "tpu_v6e")


def nfp(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nfp_model", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


# AMD and TPU ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    # CDNA ISA guides: MFMA of 16 x 16 and 32 x 32. Cloud TPU docs: 8-row sublanes, a 128 x 128 (v6e: 256 x 256) array.
    [
        ("mi300x", 16, 64),
        ("mi325x", 16, 64),
        ("mi355x", 16, 64),
        ("tpu_v5e", 8, 128),
        ("tpu_v5p", 8, 128),
        ("tpu_v6e", 8, 256),
    ],
)
def test_granularity_is_the_chips_own(name: str, rows: int, columns: int) -> None:
    hardware = load_hardware(name)
    p = predict_nfp(name, "llama-3.1-8b", max_positions=256)
    bound = dict(zip((use.name for use in p.forward.uses), p.forward.bound, strict=True))
    kernel = bound["gate_up_proj"].kernel
    assert isinstance(kernel, GemmKernel)
    assert (kernel.library, kernel.token_tiles) == (name, hardware.default_tile.token_rows)
    assert (kernel.token_tiles[0], kernel.output_tiles[0]) == (rows, columns)
    # Latency steps only where another whole row of tiles begins.
    edges = bound["gate_up_proj"].edges(256)
    assert edges[0] == 1
    assert set(np.diff(edges)) == {rows}
    row = bound["gate_up_proj"].kernel_row(8)
    assert row is not None
    assert row.inferred


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral"])
def test_uncalibrated_is_said(name: str, model: str) -> None:
    p = predict_nfp(name, model, max_positions=128)
    assert (p.backend, p.calibration) == ("uncalibrated", "uncalibrated")
    title = load_hardware(name).title
    kinds = "attention, gemm" + (", moe" if model == "mixtral" else "")
    assert f"uncalibrated: {kinds} on {title} use general constants; the band is wide" in p.warnings
    low, high = p.band
    assert low <= p.nfp <= high
    assert "uncalibrated" in str(p)


def test_a_systolic_array_pads_to_its_own_width() -> None:
    """257 output columns cost a v6e a second pass of its 256-wide array; 256 and 129 cost one (tile quantisation)."""
    one, same, two = (
        operator_latency("tpu_v6e", Gemm(columns, 65536), [128])[0] for columns in (129, 256, 257)
    )  # fmt: skip
    assert two > 1.5 * same
    assert one == pytest.approx(same, rel=0.1)  # half the weight bytes are still read


def test_fast_memory_buys_amd_less_near_free_work_per_flop() -> None:
    """MI325X is MI300X with 6.0 instead of 5.3 TB/s: the same peak, a lower balance, a faster step."""
    slow, fast = (predict_nfp(name, "llama-3.1-70b", max_positions=512) for name in ("mi300x", "mi325x"))
    assert fast.idle_compute_nfp / slow.idle_compute_nfp == pytest.approx(5.3 / 6.0, rel=0.01)
    assert fast.baseline_latency_s < slow.baseline_latency_s
    assert fast.modules["dense_ffn"].nfp <= slow.modules["dense_ffn"].nfp


# A chip that does not exist ---------------------------------------------------------------------------------------------------


def test_a_hypothetical_chip_is_a_copy_away() -> None:
    h100 = load_hardware("h100")
    doubled = {key: 2 * peak for key, peak in h100.peak_flop_per_s.items()}
    wide = h100.model_copy(update={"peak_flop_per_s": doubled})
    own, more = (predict_nfp(chip, "llama-3.1-70b", max_positions=1024) for chip in (h100, wide))
    assert more.idle_compute_nfp == pytest.approx(2 * own.idle_compute_nfp, rel=0.02)
    assert more.modules["dense_ffn"].nfp > own.modules["dense_ffn"].nfp
    assert more.baseline_latency_s == pytest.approx(own.baseline_latency_s, rel=0.02)
    fast = h100.model_copy(update={"memory_bandwidth_bytes_per_s": 2 * h100.memory_bandwidth_bytes_per_s})
    p = predict_nfp(fast, "llama-3.1-70b", max_positions=1024)
    assert p.idle_compute_nfp == pytest.approx(own.idle_compute_nfp / 2, rel=0.02)
    assert 0.5 < p.baseline_latency_s / own.baseline_latency_s < 0.6


FIVE = {
    "sm_count": 160,
    "peak_flop_per_s.bfloat16": 1.5e15,
    "memory_bandwidth_bytes_per_s": 6e12,
    "memory_bytes": 200e9,
    "l2_bytes": 80e6,
}


def test_a_file_from_five_numbers_by_the_command_line(tmp_path: Path) -> None:
    target = tmp_path / "my_gpu.toml"
    values = [part for field, value in FIVE.items() for part in ("--set", f"{field}={value}")]
    made = nfp("specs", "new", "my_gpu", "--from", "h100", *values, "--out", str(target))
    assert made.returncode == 0, made.stderr
    assert "ridge point 250 FLOP/B" in made.stdout
    text = target.read_text(encoding="utf-8")
    assert "optional" in text
    done = nfp("predict", str(target), "mixtral", "--json", "--max-positions", "256")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    p = predict_nfp(target, "mixtral", max_positions=256)
    assert (data["nfp"], data["idle_compute_nfp"]) == (p.nfp, p.idle_compute_nfp)
    assert p.hardware.ridge_point() == 250
    assert any("uncalibrated" in warning for warning in p.warnings)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sm_count = 160", "sm_count = 0", "sm_count"),
        (
            "memory_bandwidth_bytes_per_s = 6",
            "memory_bandwith_bytes_per_s = 6",
            "'memory_bandwidth_bytes_per_s' is missing",
        ),
    ],
)
def test_the_file_checks_itself(tmp_path: Path, old: str, new: str, message: str) -> None:
    from nfp_model.specs.templates import hardware_to_toml, hardware_variant

    text = hardware_to_toml(hardware_variant(load_hardware("h100"), "my_gpu", dict(FIVE)))
    assert old in text
    path = tmp_path / "my_gpu.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SpecError, match=message):
        predict_nfp(path, "mixtral", max_positions=8)


def test_every_shipped_chip_has_granularity_without_a_kernel_library() -> None:
    for name in spec_names("hardware"):
        p = predict_nfp(name, "llama-3.1-8b", max_positions=32, backend="uncalibrated")
        assert all(
            report.kernel is not None for report in p.operators if report.name in ("qkv_proj", "attention", "down_proj")
        )
