"""Which cuBLAS kernel torch runs for every measured GEMM shape and row count: their names carry tile, depth, cluster and split.

``python -m nfp_model.validation.kernel_names h100/gemm_kernels.csv`` on a machine with a GPU. Nothing is timed.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

from nfp_model.validation.cases import Case, cases_of
from nfp_model.validation.store import header_text

ROWS = (
    1, 2, 4, 8, 9, 16, 17, 24, 32, 33, 48, 64, 65, 80, 96, 97, 112, 128, 129, 160, 192, 193, 224, 256, 257, 320, 384, 385,
    448, 512, 513, 576, 640, 768, 1024,
)  # fmt: skip
"""Row counts on both sides of the edges of common tiles [rows]."""
COLUMNS = ("out_features", "in_features", "weight_dtype", "tokens", "kernel", "reduction")


def gemm_kernels(case: Case, torch: Any) -> list[tuple[int, str, str]]:
    """Rows, name of the matrix kernel and of the reduction after it (empty where there is none), over :data:`ROWS`."""
    from nfp_model.validation.operator_benches import GemmBench

    bench = GemmBench(case, torch, "cuda")
    runs = [bench.prepare(rows, 1) for rows in ROWS]
    for run in runs:
        run(0)
    torch.cuda.synchronize()
    found: list[tuple[int, str, str]] = []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for run in runs:
            run(0)
        torch.cuda.synchronize()
    events = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    for event in sorted(events, key=lambda one: one.time_range.start):
        name = event.name.split("(")[0].removeprefix("void ")
        if name.startswith(("Memset", "Memcpy")):
            continue
        if "splitKreduce" in name:
            rows, kernel, _ = found[-1]
            found[-1] = (rows, kernel, "splitKreduce")
        else:
            found.append((ROWS[len(found)] if len(found) < len(ROWS) else 0, name[:120], ""))
    if len(found) != len(ROWS):
        raise RuntimeError(f"{case}: {len(found)} matrix kernels for {len(ROWS)} products")
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
        for case in cases_of("gemm"):
            named = (case["out_features"], case["in_features"], case["weight_dtype"])
            with backend.torch.inference_mode():
                try:
                    table.writerows((*named, *row) for row in gemm_kernels(case, backend.torch))
                except RuntimeError as error:
                    file.write(f"# not listed: {str(error).splitlines()[0]}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
