"""``nfp fit``: constants from timings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from nfp_model.errors import InvalidArgumentError


def fit(
    records: Annotated[
        Path | None,
        typer.Argument(
            help="CSV or JSON of your own timings, or a folder of files of nfp measure; without it NVIDIA's published ones are fitted."
        ),
    ] = None,
    hardware: Annotated[str | None, typer.Option(help="Hardware key; a file of timings names its own.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="vllm, sglang, trtllm or torch; a file of timings names its own.")
    ] = None,
    operator: Annotated[
        str | None,
        typer.Option(help="gemm, moe, attention, latent_attention, csa_block, hca_block, elementwise or collective."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16, fp8, fp8_block, nvfp4, ...")] = None,
    uncalibrated: Annotated[
        bool, typer.Option("--uncalibrated", help="Fit the constants of chips nobody measured.")
    ] = False,
    leave_out: Annotated[
        str | None, typer.Option(help="With --uncalibrated: generation the constants shall not see.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File or folder to write; nothing is written without.")] = None,
    date: Annotated[str | None, typer.Option(help="Date to write down, YYYY-MM-DD; default today.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit the constants of a GPU and backend, and score them on shapes the fit never saw."""
    if uncalibrated:
        if records or hardware or backend or operator or dtype:
            raise InvalidArgumentError(
                "--uncalibrated pools every published GPU; it takes --leave-out, --out and --date alone"
            )
        from nfp_model.validation.pooling import fit_uncalibrated

        _report(fit_uncalibrated(leave_out, out=out, date=date, progress=_say), out, as_json)
        return
    if leave_out is not None:
        raise InvalidArgumentError("--leave-out goes with --uncalibrated")
    from nfp_model.validation.calibrating import fit_calibration

    if records is not None:
        own_hardware, own_backend = _named_in(records)
        hardware, backend = hardware or own_hardware, backend or own_backend
    if hardware is None or backend is None:
        raise InvalidArgumentError("name --hardware and --backend, or a file of timings")
    found = fit_calibration(
        hardware, backend, operator=cast(Any, operator), dtype=dtype, records=records, out=out, date=date, progress=_say
    )
    _report(found, out, as_json)


def _named_in(records: Path) -> tuple[str, str]:
    """GPU and backend a file of timings speaks of, where it speaks of one."""
    from nfp_model.validation.recorded import read_timings

    timings = read_timings(records)
    names = {(timing.gpu, timing.backend) for timing in timings}
    if len(names) != 1:
        listed = ", ".join(f"{gpu} {backend}" for gpu, backend in sorted(names))
        raise InvalidArgumentError(f"{records} holds timings of {listed}; name one with --hardware and --backend")
    return names.pop()


def _say(words: str) -> None:
    typer.echo(words, err=True)


def _report(calibration: Any, out: Path | None, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(calibration.model_dump(mode="json", exclude_none=True), indent=2))
        return
    for found in calibration.fits:
        if not found.fitted:
            continue
        values = ", ".join(f"{name} {found.constants[name]:.4g}" for name in found.fitted)
        typer.echo(f"{found.operator} {' '.join(found.dtypes)}: {values}")
        typer.echo(f"  {found.points} points of {found.curves} curves, scatter {found.log_scatter:.3f}")
        if found.held_out is not None and found.held_out.curves:
            typer.echo(f"  held out: {found.held_out.curves} curves, MAPE {100 * found.held_out.mape:.1f} %")
    typer.echo(f"written to {out}" if out else "nothing written; name a file or folder with --out")
