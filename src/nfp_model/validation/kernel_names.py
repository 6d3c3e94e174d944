"""Which cuBLAS kernel torch runs for every measured GEMM shape and row count: their names carry tile, depth and cluster, their
grids the CTAs, hence the splits along k.

``python -m nfp_model.validation.kernel_names h100/gemm_kernels.csv`` on a machine with a GPU. Nothing is timed.
"""

from __future__ import annotations

import csv
import json
import math
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nfp_model.validation.cases import Case, cases_of
from nfp_model.validation.store import header_text

ROWS = (
    1, 2, 4, 8, 9, 16, 17, 24, 32, 33, 48, 64, 65, 80, 96, 97, 112, 128, 129, 160, 192, 193, 224, 256, 257, 320, 384, 385,
    448, 512, 513, 576, 640, 768, 1024,
)  # fmt: skip
"""Row counts on both sides of the edges of common tiles [rows]."""
COLUMNS = ("out_features", "in_features", "weight_dtype", "tokens", "kernel", "ctas", "reduction")

THIN = (
    (128, 32768), (256, 16384), (256, 65536), (512, 51200), (512, 65536), (768, 51200), (1024, 51200), (1536, 65536), (2048, 16384),
    (51200, 512), (65536, 768),
)  # fmt: skip
"""Outputs and inputs of products with one long side, listed beside the measured ones: their tiles alone do not fill a GPU [elements]."""


def listed_cases() -> tuple[Case, ...]:
    """The measured GEMMs and the thin ones."""
    return (*cases_of("gemm"), *(Case("gemm", ("thin", n, k, "bfloat16", "linear")) for n, k in THIN))


def gemm_kernels(case: Case, torch: Any) -> list[tuple[int, str, int, str]]:
    """Rows, name and CTAs of the matrix kernel, name of the reduction after it (empty where there is none), over :data:`ROWS`."""
    from nfp_model.validation.operator_benches import GemmBench

    bench = GemmBench(case, torch, "cuda")
    runs = [bench.prepare(rows, 1) for rows in ROWS]
    for run in runs:
        run(0)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for run in runs:
            run(0)
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    found = kernels_in(events)
    if len(found) != len(ROWS):
        raise RuntimeError(f"{case}: {len(found)} matrix kernels for {len(ROWS)} products")
    return [(rows, *one) for rows, one in zip(ROWS, found, strict=True)]


def kernels_in(events: Iterable[Mapping[str, Any]]) -> list[tuple[str, int, str]]:
    """Name and CTAs of every matrix kernel of a trace in order, and the name of the reduction after it."""
    found: list[tuple[str, int, str]] = []
    for event in sorted((one for one in events if one.get("cat") == "kernel"), key=lambda one: one["ts"]):
        name = event["name"].split("(")[0].removeprefix("void ")
        if "splitKreduce" in name:
            found[-1] = (*found[-1][:2], "splitKreduce")
        else:
            found.append((name[:120], math.prod(event["args"]["grid"]), ""))
    return found


def main(out: Path) -> None:
    """Write the kernel of every measured GEMM shape and row count."""
    from nfp_model.validation.cuda_backend import CudaBackend

    backend = CudaBackend()
    header = {
        "title": "kernels torch runs for the measured GEMM shapes, as its profiler names them; nothing timed",
        "command": f"python -m nfp_model.validation.kernel_names {out.parent.name}/{out.name}",
        **backend.environment(),
        "licence": "Apache-2.0",
    }
    with open(out, "w", encoding="utf-8", newline="") as file:
        file.write(header_text(header, COLUMNS))
        table = csv.writer(file, lineterminator="\n")
        for case in listed_cases():
            named = (case["out_features"], case["in_features"], case["weight_dtype"])
            with backend.torch.inference_mode():
                try:
                    table.writerows((*named, *row) for row in gemm_kernels(case, backend.torch))
                except RuntimeError as error:
                    file.write(f"# not listed: {str(error).splitlines()[0]}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
