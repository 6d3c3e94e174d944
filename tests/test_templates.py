"""Files for chips of one's own check themselves and load back."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from nfp_model import load_hardware, predict_nfp
from nfp_model.cli.specs import _assignment
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.registry import spec_names
from nfp_model.specs.templates import hardware_to_toml, hardware_variant


@pytest.mark.parametrize("name", spec_names("hardware"))
def test_every_shipped_chip_round_trips(name: str) -> None:
    spec = load_hardware(name)
    assert HardwareSpec.from_mapping(tomllib.loads(hardware_to_toml(spec))) == spec


def test_made_up_chip_from_five_numbers_predicts(tmp_path: Path) -> None:
    numbers = {
        "sm_count": 160,
        "peak_flop_per_s.bfloat16": 1.5e15,
        "memory_bandwidth_bytes_per_s": 6e12,
        "memory_bytes": 200e9,
        "l2_bytes": 80e6,
    }
    chip = hardware_variant(load_hardware("h100"), "my_gpu", numbers)
    path = tmp_path / "my_gpu.toml"
    path.write_text(hardware_to_toml(chip))
    prediction = predict_nfp(path, "mixtral", max_positions=64)
    assert prediction.hardware == chip
    assert chip.ridge_point() == pytest.approx(1.5e15 / 6e12)


def test_unknown_field_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown hardware field 'sm_cout'; did you mean 'sm_count'"):
        hardware_variant(load_hardware("h100"), "x", {"sm_cout": 1})


def test_sparse_peak_is_refused() -> None:
    with pytest.raises(ValueError, match="sparse"):
        hardware_variant(
            load_hardware("h100"), "x", {"peak_flop_per_s.bfloat16": 1979e12, "flop_per_clock_per_sm": 4096}
        )


def test_assignment_reads_numbers_and_words() -> None:
    assert _assignment("sm_count=8") == ("sm_count", 8)
    assert _assignment("memory_bytes=1e9") == ("memory_bytes", 1e9)
    assert _assignment("vendor=acme") == ("vendor", "acme")
    with pytest.raises(ValueError, match="--set takes FIELD=VALUE, got 'sm_count'"):
        _assignment("sm_count")
