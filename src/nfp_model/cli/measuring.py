"""``nfp measure``: timings of one's own GPU."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nfp_model.validation.cases import Case
    from nfp_model.validation.measure import Predictor


def measure(
    kind: Annotated[str, typer.Argument(help="ceilings, gemm, moe, attention, elementwise or forward.")],
    out: Annotated[Path, typer.Option(help="CSV file; an existing one is continued.")],
    minutes: Annotated[float, typer.Option(help="Time budget.")] = 8.0,
    hardware: Annotated[str, typer.Option(help="Hardware key for the header; auto asks the device.")] = "auto",
    only: Annotated[str, typer.Option(help="Only cases whose name contains this text.")] = "",
    l2: Annotated[
        str, typer.Option(help="cold rotates over copies so that L2 does not serve them; warm replays one.")
    ] = "cold",
    around_predicted: Annotated[bool, typer.Option(help="Also measure both sides of every predicted step.")] = True,
) -> None:
    """Time operators or whole forwards on this machine's GPU, into a file that can be continued.

    A finished point is on disk before the next begins and is never measured again. Without a CUDA device it fails in one line.
    """
    from nfp_model.validation.measure import run_measurement

    predictor = _predictor(hardware) if around_predicted and hardware != "auto" else None
    command = "nfp " + " ".join(sys.argv[1:])
    report = run_measurement(
        kind, out=out, minutes=minutes, hardware=hardware, only=only, l2_state=l2, predictor=predictor, command=command
    )
    typer.echo(f"{report.path}: {report.measured} points measured, {report.already_there} were there")
    for case, reason in report.refused.items():
        typer.echo(f"  not measured: {case}: {reason}")
    if not report.complete:
        typer.echo("the minutes ran out; the same command continues")


def _predictor(hardware: str) -> Predictor:
    from nfp_model.prediction import operator_latency
    from nfp_model.specs.registry import load_hardware
    from nfp_model.validation.cases import operator_of

    spec = load_hardware(hardware)

    def predicted(case: Case, positions: Sequence[int]) -> Sequence[float] | None:
        operator = operator_of(case)
        return None if operator is None else operator_latency(spec, operator, list(positions), "torch").tolist()

    return predicted
