"""Which kernels a captured decode forward runs and how long each takes: where its time goes as positions rise.

``python -m nfp_model.validation.forward_kernels h100/forward_kernels.csv`` on a machine with a GPU.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from nfp_model.validation.cases import Case, cases_of
from nfp_model.validation.store import header_text

MODELS = ("llama_3_1_8b", "qwen3_8b", "qwen3_30b_a3b", "llada2_0_mini", "mixtral_8x7b")
POSITIONS = (1, 2, 4, 8, 16, 32, 64)
REPLAYS = 4
COLUMNS = ("model", "layers", "batch", "context", "positions", "kernel", "launches", "seconds_mean")


def kernel_times(execute: Any, torch: Any) -> list[tuple[str, float, float]]:
    """Name, launches in one execution [-] and mean duration [s] of every kernel of a captured execution, longest first."""
    from nfp_model.validation.cuda_backend import CudaGraphTimer

    timer = CudaGraphTimer(torch)
    timer.capture(execute, 1)
    timer.replay(3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(REPLAYS):
            timer.graph.replay()
        torch.cuda.synchronize()
    durations: dict[str, list[float]] = defaultdict(list)
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA and event.time_range.elapsed_us() > 0:
            durations[event.name.removeprefix("void ")].append(event.time_range.elapsed_us() * 1e-6)
    rows = [(name, len(times) / REPLAYS, sum(times) / len(times)) for name, times in durations.items()]
    return sorted(rows, key=lambda row: -row[1] * row[2])


def profiled_cases() -> list[Case]:
    """One sequence with the shortest context of each model, through FlashAttention."""
    found: dict[str, Case] = {}
    for case in cases_of("forward"):
        if case["model"] in MODELS and case.batch == 1 and case["implementation"] == "flash":
            found.setdefault(str(case["model"]), case)
    return list(found.values())


def main(out: Path) -> None:
    """Write the kernels of every profiled forward."""
    from nfp_model.validation.cuda_backend import CudaBackend
    from nfp_model.validation.forward_bench import ForwardBench

    backend = CudaBackend()
    torch = backend.torch
    header = {
        "title": "kernels of captured decode forwards with their durations, as torch's profiler lists them",
        "command": f"python -m nfp_model.validation.forward_kernels {out.parent.name}/{out.name}",
        **backend.environment(),
        "units": "launches in one forward [-]; seconds_mean over launches and replays [s]",
        "licence": "Apache-2.0",
    }
    with open(out, "w", encoding="utf-8", newline="") as file:
        file.write(header_text(header, COLUMNS))
        table = csv.writer(file, lineterminator="\n")
        for case in profiled_cases():
            shared: dict[str, Any] = {}
            bench = ForwardBench(case, torch, "cuda", shared)
            for positions in POSITIONS:
                with torch.inference_mode():
                    times = kernel_times(bench.prepare(positions, 1), torch)
                named = (case["model"], case["layers"], case.batch, case.context, positions)
                table.writerows((*named, name, f"{launches:g}", f"{seconds:.4g}") for name, launches, seconds in times)
            del bench, shared
            backend.release()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
