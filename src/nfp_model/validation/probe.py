"""`nfp specs detect`: the GPU of this machine as a hardware file, two short measurements beside the datasheet.

What the driver reports (SMs, cache, memory, limits) is taken from it; peaks and bandwidth are the datasheet's, from the
shipped file of the same device, or follow from a device of the same architecture where there is none. Measured rates
stand in comments only: a hardware file holds no fitted or measured number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from nfp_model.errors import UnsupportedError
from nfp_model.quantities import format_si
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.registry import load_hardware, spec_names
from nfp_model.specs.toml_text import mapping_to_toml
from nfp_model.validation.cases import Case
from nfp_model.validation.timing import Backend, CannotMeasure

MIB = 1 << 20
COPY_MIB = 2048
MATRIX_ROWS = 8192
DRIVER = "driver of the device (torch.cuda.get_device_properties, NVML)"


@dataclass(frozen=True)
class DeviceFacts:
    """What the driver reports.

    Attributes
    ----------
    title : str
        Device name.
    architecture : str
        ``sm90`` and so on.
    sm_count : int
        Streaming multiprocessors [-].
    clock_hz : float
        Highest SM clock [Hz].
    memory_bytes, l2_bytes, shared_bytes_per_sm, shared_bytes_per_cta : float
        [B].
    threads_per_sm, registers_per_sm : int
        [-].
    memory_clock_hz : float
        Highest memory clock [Hz].
    memory_bus_bits : int
        [bit].
    power_w : float
        Default power limit [W].
    """

    title: str
    architecture: str
    sm_count: int
    clock_hz: float
    memory_bytes: float
    l2_bytes: float
    shared_bytes_per_sm: float
    shared_bytes_per_cta: float
    threads_per_sm: int
    registers_per_sm: int
    memory_clock_hz: float
    memory_bus_bits: int
    power_w: float

    @property
    def memory_bandwidth_bytes_per_s(self) -> float:
        """Two transfers a clock over the whole bus [B/s]."""
        return 2 * self.memory_clock_hz * self.memory_bus_bits / 8


@dataclass(frozen=True)
class Probes:
    """The two short measurements.

    Attributes
    ----------
    copy_bytes_per_s : float or None
        Device-to-device copy, bytes read plus bytes written [B/s].
    matrix_flop_per_s : float or None
        bf16 product of square matrices of random numbers [FLOP/s].
    """

    copy_bytes_per_s: float | None
    matrix_flop_per_s: float | None


def detect_hardware() -> str:
    """TOML text of a hardware file for the first CUDA device of this machine.

    Raises
    ------
    UnsupportedError, MissingDependencyError
        Without a CUDA device or torch, or for an architecture no shipped file describes: one line.
    """
    from nfp_model.validation.cuda_backend import CudaBackend

    backend = CudaBackend()
    return hardware_toml(device_facts(backend), run_probes(backend), known_hardware())


def known_hardware() -> tuple[HardwareSpec, ...]:
    """Every hardware file that can be found."""
    return tuple(load_hardware(name) for name in spec_names("hardware"))


def device_facts(backend: Any) -> DeviceFacts:
    """Read the driver through torch and NVML.

    Parameters
    ----------
    backend : CudaBackend
        An open device.
    """
    properties, nvml = backend.properties, backend.nvml
    sm_clock, memory_clock = nvml.highest_clocks_mhz()
    return DeviceFacts(
        title=str(properties.name),
        architecture=f"sm{properties.major}{properties.minor}",
        sm_count=int(properties.multi_processor_count),
        clock_hz=sm_clock * 1e6,
        memory_bytes=float(properties.total_memory),
        l2_bytes=float(properties.L2_cache_size),
        shared_bytes_per_sm=float(properties.shared_memory_per_multiprocessor),
        shared_bytes_per_cta=float(properties.shared_memory_per_block_optin),
        threads_per_sm=int(properties.max_threads_per_multi_processor),
        registers_per_sm=int(properties.regs_per_multiprocessor),
        memory_clock_hz=memory_clock * 1e6,
        memory_bus_bits=nvml.memory_bus_bits(),
        power_w=nvml.power_limit_w(),
    )


def run_probes(backend: Backend) -> Probes:
    """Copy bandwidth and bf16 matrix rate; None for what could not run (memory in use by others, for example)."""

    def rate(probe: str, size: int, amount: float) -> float | None:
        try:
            samples = backend.time(Case("ceilings", (probe,), sizes=(size,)), size, "cold")
        except CannotMeasure:
            return None
        finally:
            backend.release()
        return amount / samples.quantiles()[1]

    return Probes(
        rate("copy", COPY_MIB, 2.0 * COPY_MIB * MIB), rate("matmul_bfloat16", MATRIX_ROWS, 2.0 * MATRIX_ROWS**3)
    )


def datasheet_of(facts: DeviceFacts, known: tuple[HardwareSpec, ...]) -> HardwareSpec | None:
    """The shipped file of this very device: same SM count, most name parts in common, nearest memory size."""
    words = set(re.split(r"[^a-z0-9]+", facts.title.lower()))

    def likeness(spec: HardwareSpec) -> tuple[int, float]:
        return len(words & set(spec.name.split("_"))), -abs(spec.memory_bytes / facts.memory_bytes - 1)

    same = [spec for spec in known if spec.sm_count == facts.sm_count and spec.architecture == facts.architecture]
    best = max(same, key=likeness, default=None)
    return best if best is not None and likeness(best)[0] > 0 and likeness(best)[1] > -0.1 else None


def hardware_toml(facts: DeviceFacts, probes: Probes, known: tuple[HardwareSpec, ...]) -> str:
    """The hardware file, measured rates as comments.

    Parameters
    ----------
    facts : DeviceFacts
        From the driver.
    probes : Probes
        Measured here.
    known : tuple of HardwareSpec
        Shipped files, to find the datasheet or a device of the same architecture in.

    Raises
    ------
    UnsupportedError
        When no known device has this architecture.
    """
    sheet = datasheet_of(facts, known)
    values = _from_sheet(sheet) if sheet is not None else _from_sibling(facts, known)
    sources: dict[str, str] = values["sources"]
    reported = {
        "title": facts.title,
        "sm_count": facts.sm_count,
        "memory_bytes": facts.memory_bytes,
        "l2_bytes": facts.l2_bytes,
        "shared_memory_bytes_per_sm": facts.shared_bytes_per_sm,
        "shared_memory_bytes_per_cta": facts.shared_bytes_per_cta,
        "max_threads_per_sm": facts.threads_per_sm,
        "registers_per_sm": facts.registers_per_sm,
        "power_w": facts.power_w,
    }
    if sheet is None:
        reported["boost_clock_hz"] = facts.clock_hz
    sources |= {name: DRIVER for name in reported if name != "title"}
    stated_bandwidth = values["memory_bandwidth_bytes_per_s"]
    comments = [
        f"detected on {facts.title}; "
        + (f"datasheet: {sheet.name}" if sheet else "no datasheet known: check the peaks"),
        f"highest SM clock, as the driver reports it: {facts.clock_hz / 1e6:.0f} MHz",
        _beside("copy bandwidth (read + written)", probes.copy_bytes_per_s, stated_bandwidth, "B/s"),
        _beside("bf16 matrix rate", probes.matrix_flop_per_s, values["peak_flop_per_s"]["bfloat16"], "FLOP/s"),
    ]
    return "".join(f"# {comment}\n" for comment in comments) + "\n" + mapping_to_toml(values | reported)


def _beside(what: str, measured: float | None, stated: float, unit: str) -> str:
    if measured is None:
        return f"{what}: could not be measured; stated {format_si(stated, unit, 4)}"
    share = f"{measured / stated:.0%} of the stated {format_si(stated, unit, 4)}"
    return f"{what}: measured {format_si(measured, unit, 4)}, {share}"


def _from_sheet(sheet: HardwareSpec) -> dict[str, Any]:
    return dict(sheet.model_dump(exclude_none=True))


def _from_sibling(facts: DeviceFacts, known: tuple[HardwareSpec, ...]) -> dict[str, Any]:
    """A device of the same architecture lends its matrix instruction, tiles and rate per clock and SM."""
    siblings = [spec for spec in known if spec.architecture == facts.architecture and spec.flop_per_clock_per_sm]
    if not siblings:
        raise UnsupportedError(
            f"{facts.title} has architecture {facts.architecture}, which no hardware file describes; "
            f"known: {', '.join(sorted({spec.architecture for spec in known}))}"
        )
    sibling = min(siblings, key=lambda spec: abs(spec.sm_count - facts.sm_count))
    rate = sibling.flop_per_clock_per_sm or 0.0
    peak = facts.sm_count * rate * facts.clock_hz
    scale = peak / sibling.peak_flop_per_s["bfloat16"]
    derived = f"SM count x highest clock x rate per clock and SM of {sibling.name}; not a datasheet value"
    values = sibling.model_dump(exclude_none=True, exclude={"aliases", "notes", "interconnect"})
    return values | {
        "name": re.sub(r"[^a-z0-9]+", "_", facts.title.lower()).strip("_"),
        "peak_flop_per_s": {name: scale * value for name, value in sibling.peak_flop_per_s.items()},
        "memory_bandwidth_bytes_per_s": facts.memory_bandwidth_bytes_per_s,
        "sources": {
            **{path: text for path, text in sibling.sources.items() if not path.startswith("interconnect.")},
            **{f"peak_flop_per_s.{name}": derived for name in sibling.peak_flop_per_s},
            "memory_bandwidth_bytes_per_s": f"2 x memory clock x bus width; {DRIVER}",
        },
    }
