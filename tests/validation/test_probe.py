"""The hardware file of a detected device: driver facts and rates are given here, none was read from a device."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from nfp_model.errors import UnsupportedError
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.toml_text import mapping_to_toml
from nfp_model.validation.cases import Case
from nfp_model.validation.probe import (
    DeviceFacts,
    Probes,
    datasheet_of,
    hardware_toml,
    known_hardware,
    run_probes,
)
from nfp_model.validation.timing import CannotMeasure, DeviceState, Samples

FACTS = DeviceFacts(
    title="NVIDIA H200",
    architecture="sm90",
    sm_count=132,
    clock_hz=1980e6,
    memory_bytes=150109945856.0,
    l2_bytes=62914560.0,
    shared_bytes_per_sm=233472.0,
    shared_bytes_per_cta=232448.0,
    threads_per_sm=2048,
    registers_per_sm=65536,
    memory_clock_hz=3201e6,
    memory_bus_bits=6144,
    power_w=700.0,
)
"""Sizes as in the shipped file of the H200; clocks, bus width and name are inputs of a test, not read from a device."""
PROBES = Probes(copy_bytes_per_s=1e12, matrix_flop_per_s=1e14)
"""Invented rates, far from any real one, to be found in the comments and nowhere else."""


@pytest.mark.parametrize(
    ("title", "sm_count", "gigabytes", "architecture", "name"),
    [
        ("NVIDIA H200", 132, 150.1, "sm90", "h200_sxm"),
        ("NVIDIA H100 80GB HBM3", 132, 85.0, "sm90", "h100_sxm5"),
        ("NVIDIA H100 PCIe", 114, 85.0, "sm90", "h100_pcie"),
        ("NVIDIA H100 NVL", 132, 100.0, "sm90", "h100_nvl"),
        ("NVIDIA A100-SXM4-80GB", 108, 85.0, "sm80", "a100_sxm4_80gb"),
        ("NVIDIA A100-PCIE-40GB", 108, 42.3, "sm80", "a100_pcie_40gb"),
        ("NVIDIA L40S", 142, 47.7, "sm89", "l40s"),
        ("NVIDIA L4", 58, 23.6, "sm89", "l4"),
    ],
)
def test_device_names_lead_to_their_datasheets(
    title: str, sm_count: int, gigabytes: float, architecture: str, name: str
) -> None:
    facts = replace(FACTS, title=title, sm_count=sm_count, memory_bytes=gigabytes * 1e9, architecture=architecture)
    sheet = datasheet_of(facts, known_hardware())
    assert sheet is not None
    assert sheet.name == name


def test_known_device_keeps_its_datasheet_and_shows_what_was_measured(tmp_path: Path) -> None:
    text = hardware_toml(FACTS, PROBES, known_hardware())
    path = tmp_path / "detected.toml"
    path.write_text(text)
    spec, sheet = HardwareSpec.from_toml(path), datasheet_of(FACTS, known_hardware())
    assert sheet is not None
    assert spec.peak_flop_per_s == sheet.peak_flop_per_s
    assert spec.memory_bandwidth_bytes_per_s == sheet.memory_bandwidth_bytes_per_s
    assert spec.sm_count == 132
    assert "driver" in spec.sources["l2_bytes"]
    assert "# copy bandwidth (read + written): measured 1 TB/s, 21% of the stated 4.8 TB/s" in text
    assert "# bf16 matrix rate: measured 100 TFLOP/s, 10% of the stated 989.4 TFLOP/s" in text
    assert "measured" not in str(tomllib.loads(text)["peak_flop_per_s"])


def test_unknown_device_borrows_from_its_architecture(tmp_path: Path) -> None:
    facts = replace(FACTS, title="NVIDIA H123 Test", sm_count=66, clock_hz=1000e6)
    path = tmp_path / "detected.toml"
    path.write_text(hardware_toml(facts, PROBES, known_hardware()))
    spec = HardwareSpec.from_toml(path)
    assert spec.name == "nvidia_h123_test"
    # Hopper: 2048 dense bf16 FMA a clock and SM (NVIDIA H100 whitepaper), so 4096 FLOP x 66 SM x 1 GHz.
    assert spec.peak_flop_per_s["bfloat16"] == pytest.approx(4096 * 66 * 1e9)
    # Two transfers a clock: 2 x 3201 MHz x 6144 bit / 8.
    assert spec.memory_bandwidth_bytes_per_s == pytest.approx(2 * 3201e6 * 768)
    assert spec.implied_clock_hz == pytest.approx(1000e6)
    assert "not a datasheet value" in spec.sources["peak_flop_per_s.bfloat16"]


def test_unknown_architecture_is_refused_in_one_line() -> None:
    facts = replace(FACTS, architecture="sm999")
    with pytest.raises(UnsupportedError, match=r"NVIDIA H200 has architecture sm999, which no hardware file describes"):
        hardware_toml(facts, PROBES, known_hardware())


class FakeBackend:
    """Times a copy at an invented second and cannot multiply."""

    released = 0

    def environment(self) -> dict[str, str]:
        return {}

    def device_state(self) -> DeviceState:
        return DeviceState(0, 0)

    def time(self, case: Case, positions: int, l2_state: str) -> Samples:
        if case["probe"] != "copy":
            raise CannotMeasure("out of device memory")
        return Samples((1.0,), 1, 1, "cold")

    def release(self) -> None:
        self.released += 1


def test_probes_count_bytes_read_and_written() -> None:
    backend = FakeBackend()
    assert run_probes(backend) == Probes(copy_bytes_per_s=2 * 2048 * 2**20, matrix_flop_per_s=None)
    assert backend.released == 2
    text = hardware_toml(FACTS, run_probes(backend), known_hardware())
    assert "# bf16 matrix rate: could not be measured; stated 989.4 TFLOP/s" in text


def test_toml_text_reads_back() -> None:
    values = {"text": 'a "quoted" é', "on": True, "sizes": (1, 2), "rate": 4.8e12, "table": {"a.b": "x", "c": 1.5}}
    assert tomllib.loads(mapping_to_toml(values)) == {**values, "sizes": [1, 2]}
