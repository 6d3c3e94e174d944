"""``nfp score``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

PROCESSES = 2
"""Worker processes: more than two gain little, tables are of different sizes [-]."""


def score(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Your own timings instead of --dataset: a CSV or JSON file, or a folder of files of nfp measure."
        ),
    ] = None,
    dataset: Annotated[str, typer.Option(help="silicon: NVIDIA's published timings.")] = "silicon",
    gpu: Annotated[list[str] | None, typer.Option(help="Only this GPU; repeat for several.")] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="vllm, sglang, trtllm or torch; repeat for several.")
    ] = None,
    operator: Annotated[
        list[str] | None, typer.Option(help="gemm, dense_layer, moe, attention, ...; repeat for several.")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="bfloat16, fp8, fp8_block, nvfp4, ...; repeat for several.")
    ] = None,
    half: Annotated[
        str | None, typer.Option(help="test, fit or all; default test for silicon, all for a file.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="A few curves of every row.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Documentation folder: validation.md, its JSON and pictures; of a folder of own timings validation/own.md."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score predictions on measured curves no fit has seen, beside idle compute and the other reference predictors."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from nfp_model.validation.forward_report import write_own_docs
    from nfp_model.validation.report import text_table, write_docs
    from nfp_model.validation.scoring import score as run

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring", total=None)

        def advance(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        report = run(
            file or dataset, gpu, backend, operator, dtype, half=half, quick=quick, processes=1 if file else PROCESSES,
            command=" ".join(["nfp", *sys.argv[1:]]), progress=advance,
        )  # fmt: skip
    if out is not None:
        own = file is not None and file.is_dir()
        written = write_own_docs(file, out, report.command) if file is not None and own else write_docs(report, out)
        for path in written:
            typer.echo(f"wrote {path}", err=True)
    typer.echo(json.dumps(report.to_dict(), indent=1) if as_json else text_table(report))
