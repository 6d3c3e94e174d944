"""The CUDA device of this machine as a backend of the measuring driver; torch and pynvml load here only."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from nfp_model.errors import MissingDependencyError, UnsupportedError
from nfp_model.validation.cases import Case
from nfp_model.validation.timing import Bench, CannotMeasure, DeviceLost, DeviceState, Samples, rotation_copies, sample

INSTALL = "pip install 'nfp-model[measure]'"
LARGEST_ERROR = 2e-2
"""Relative error that still passes for bf16, or fp8 against its own quantised inputs [-]; a wrong mask is near 1."""
SLEEP_CYCLES = 4_000_000
"""A wait on the device of about 2 ms before replays, so that the host is ahead and no event waits for a launch."""


def require_cuda() -> Any:
    """The torch module, with a CUDA device that works.

    Raises
    ------
    MissingDependencyError, UnsupportedError
        One line each: torch is missing, or it sees no CUDA device.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise MissingDependencyError(f"no CUDA device found; torch is not installed ({INSTALL})") from None
    if not torch.cuda.is_available():
        raise UnsupportedError(
            f"no CUDA device found; torch {torch.__version__} sees none "
            "(an NVIDIA GPU, its driver and a CUDA build of torch are needed)"
        )
    return torch


class NvmlDevice:
    """Clocks, temperature and limits of the first visible device, as the driver reports them."""

    def __init__(self, torch: Any) -> None:
        try:
            self.nvml = importlib.import_module("pynvml")
        except ImportError:
            raise MissingDependencyError(f"clocks cannot be read: nvidia-ml-py is not installed ({INSTALL})") from None
        self.nvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(0).uuid)
        self.handle = self.nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")

    def state(self) -> DeviceState:
        """Clock and temperature now."""
        clock = self.nvml.nvmlDeviceGetClockInfo(self.handle, self.nvml.NVML_CLOCK_SM)
        temperature = self.nvml.nvmlDeviceGetTemperature(self.handle, self.nvml.NVML_TEMPERATURE_GPU)
        return DeviceState(int(clock), int(temperature))

    def driver(self) -> str:
        """Driver version."""
        version = self.nvml.nvmlSystemGetDriverVersion()
        return version.decode() if isinstance(version, bytes) else str(version)

    def highest_clocks_mhz(self) -> tuple[int, int]:
        """Highest SM and memory clocks [MHz]."""
        kinds = (self.nvml.NVML_CLOCK_SM, self.nvml.NVML_CLOCK_MEM)
        sm, memory = (int(self.nvml.nvmlDeviceGetMaxClockInfo(self.handle, kind)) for kind in kinds)
        return sm, memory

    def power_limit_w(self) -> float:
        """Default power limit [W]."""
        return float(self.nvml.nvmlDeviceGetPowerManagementDefaultLimit(self.handle)) / 1e3

    def memory_bus_bits(self) -> int:
        """Width of the memory interface [bit]."""
        return int(self.nvml.nvmlDeviceGetMemoryBusWidth(self.handle))


class CudaGraphTimer:
    """Capture into one CUDA graph, replay between event pairs."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.graph: Any = None

    def capture(self, execute: Callable[[int], object], executions: int) -> None:
        """Run a few executions eagerly on a side stream (compilation, handles, workspaces), then record."""
        torch = self.torch
        self.graph = None
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for i in range(min(executions, 3)):
                execute(i)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(executions):
                execute(i)
        self.graph = graph

    def replay(self, repeats: int) -> list[float]:
        """Seconds of each replay, all queued behind a short wait on the device [s]."""
        torch = self.torch
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
        torch.cuda.synchronize()
        torch.cuda._sleep(SLEEP_CYCLES)
        for start, end in events:
            start.record()
            self.graph.replay()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in events]


def make_bench(case: Case, torch: Any, device: str, shared: dict[str, Any]) -> Bench:
    """The bench of one case; ``shared`` keeps what benches of one group have in common (a loaded model)."""
    if case.operator == "moe":
        from nfp_model.validation.moe_benches import make_moe_bench

        return make_moe_bench(case, torch, device)
    if case.operator == "forward":
        from nfp_model.validation.forward_bench import ForwardBench

        return ForwardBench(case, torch, device, shared)
    from nfp_model.validation.elementwise_bench import ElementwiseBench
    from nfp_model.validation.operator_benches import AttentionBench, CeilingBench, GemmBench

    benches: dict[str, Callable[[Case, Any, str], Bench]] = {
        "elementwise": ElementwiseBench,
        "gemm": GemmBench,
        "attention": AttentionBench,
        "ceilings": CeilingBench,
    }
    return benches[case.operator](case, torch, device)


class CudaBackend:
    """Times cases on the first visible CUDA device."""

    def __init__(self) -> None:
        self.torch = require_cuda()
        self.nvml = NvmlDevice(self.torch)
        self.properties = self.torch.cuda.get_device_properties(0)
        self.torch.manual_seed(0)
        self.benches: dict[Case, Bench] = {}
        self.shared: dict[str, Any] = {}
        self.checked: set[Case] = set()

    def environment(self) -> Mapping[str, str]:
        """Device, driver and library versions."""
        properties = self.properties
        versions = {"torch": str(self.torch.__version__), "cuda": str(self.torch.version.cuda)}
        versions["cudnn"] = str(self.torch.backends.cudnn.version())
        for package in ("triton", "transformers", "nvidia-cublas", "nvidia-cublas-cu12"):
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        sm, memory = self.nvml.highest_clocks_mhz()
        return {
            "hardware": self._hardware_key(),
            "device": str(properties.name),
            "driver": self.nvml.driver(),
            **versions,
            "clocks": f"free; highest SM {sm} MHz, memory {memory} MHz; read before and after each point",
            "l2_bytes": str(properties.L2_cache_size),
            "sm_count": str(properties.multi_processor_count),
        }

    def _hardware_key(self) -> str:
        from nfp_model.validation.probe import datasheet_of, device_facts, known_hardware

        sheet = datasheet_of(device_facts(self), known_hardware())
        return sheet.name if sheet is not None else "auto"

    def device_state(self) -> DeviceState:
        """Clock and temperature now."""
        return self.nvml.state()

    def time(self, case: Case, positions: int, l2_state: str) -> Samples:
        """Measure one point.

        Raises
        ------
        CannotMeasure
            Out of memory, an operator this library version lacks, or one whose output is wrong.
        """
        torch = self.torch
        timer = CudaGraphTimer(torch)
        try:
            with torch.inference_mode():
                bench = self._bench(case)
                copies, label = self._copies(bench, positions, l2_state)
                self._require_right(case, bench)
                execute = bench.prepare(positions, copies)
                return replace(sample(timer, execute, copies, label), note=bench.note(positions))
        except CannotMeasure:
            raise
        except torch.cuda.OutOfMemoryError:
            self._forget_benches()
            raise CannotMeasure("out of device memory") from None
        except (RuntimeError, ImportError, AttributeError, TypeError, NotImplementedError, ValueError) as error:
            # Another library version or an unsupported shape: name it and go on, unless the device itself is lost.
            reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
            self._require_alive(reason)
            self._forget_benches()
            raise CannotMeasure(reason) from error
        finally:
            timer.graph = None

    def _require_alive(self, reason: str) -> None:
        try:
            self.torch.cuda.synchronize()
        except RuntimeError:
            told = f"the CUDA context is lost after {reason}; the same command continues without this case"
            raise DeviceLost(told) from None

    def _copies(self, bench: Bench, positions: int, l2_state: str) -> tuple[int, str]:
        free, _ = self.torch.cuda.mem_get_info()
        ours = self.torch.cuda.memory_reserved()  # copies made for an earlier size are used again
        copies, label = rotation_copies(
            bench.footprint_bytes(positions), self.properties.L2_cache_size, bench.copy_bytes(positions), free + ours
        )
        return (1, "warm") if l2_state == "warm" else (copies, label)

    def _bench(self, case: Case) -> Bench:
        if case not in self.benches:
            self.benches[case] = make_bench(case, self.torch, "cuda", self.shared)
        return self.benches[case]

    def _require_right(self, case: Case, bench: Bench) -> None:
        if case in self.checked:
            return
        error = bench.relative_error()
        if not error < LARGEST_ERROR:  # NaN is not below it either
            raise CannotMeasure(f"its output is wrong: relative error {error:.2g} against a float32 reference")
        self.checked.add(case)

    def release(self) -> None:
        """Drop every bench and loaded model and give their memory back."""
        self.shared.clear()
        self._forget_benches()

    def _forget_benches(self) -> None:
        self.benches.clear()
        gc.collect()
        self.torch.cuda.empty_cache()
