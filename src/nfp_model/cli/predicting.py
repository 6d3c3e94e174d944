"""``nfp predict``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nfp_model.errors import InvalidArgumentError, NfpModelError

PREDICTION_HELP = "Model name, TOML or config.json path; several, or a folder, print one table."


def predict(
    hardware: Annotated[str, typer.Argument(help="Hardware name or TOML path, for example h100.")],
    models: Annotated[list[str], typer.Argument(help=PREDICTION_HELP)],
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Sequences in the forward.")] = 1,
    context_length: Annotated[int, typer.Option("--context-length", "-c", help="Cached tokens per sequence.")] = 4096,
    tolerance: Annotated[float, typer.Option("--tolerance", "-t", help="Near-free tolerance eps.")] = 0.1,
    baseline: Annotated[str, typer.Option(help="Baseline positions, or 'saturated'.")] = "1",
    max_positions: Annotated[int, typer.Option(help="Last position searched.")] = 4096,
    backend: Annotated[str | None, typer.Option(help="torch, vllm, sglang, trtllm or uncalibrated.")] = None,
    decode_mode: Annotated[str, typer.Option(help="verify or block.")] = "verify",
    routing: Annotated[str, typer.Option(help="uniform, balanced or power_law:A.")] = "uniform",
    weight_dtype: Annotated[str | None, typer.Option(help="bfloat16, fp8, fp8_block, int4, nvfp4, mxfp4, ...")] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="bfloat16 or fp8.")] = None,
    tensor_parallel: Annotated[int, typer.Option("--tensor-parallel", "--tp", help="Tensor-parallel ranks.")] = 1,
    expert_parallel: Annotated[int, typer.Option("--expert-parallel", "--ep", help="Expert-parallel ranks.")] = 1,
    captures: Annotated[
        str | None, typer.Option(help="Engine whose captured CUDA-graph sizes pad the forward, or sizes as 1,2,4,8.")
    ] = None,
    tuned_moe: Annotated[
        str | None,
        typer.Option(help="Tuned fused-MoE JSON of vLLM or SGLang, or a folder of them; overrides the default blocks."),
    ] = None,
    strict_memory: Annotated[bool, typer.Option(help="Refuse a model that does not fit the GPU.")] = False,
    explain: Annotated[bool, typer.Option(help="Print every operator, its kernel row, slacks and sources.")] = False,
    curve: Annotated[bool, typer.Option(help="Print T(N) at both sides of every step.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict how many positions are near-free, from one position and (MoE) from the saturated step."""
    arguments = {
        "batch_size": batch_size,
        "context_length": context_length,
        "tolerance": tolerance,
        "baseline": _whole_or_word(baseline),
        "max_positions": max_positions,
        "backend": backend,
        "decode_mode": decode_mode,
        "routing": routing,
        "weight_dtype": weight_dtype,
        "kv_dtype": kv_dtype,
        "tensor_parallel": tensor_parallel,
        "expert_parallel": expert_parallel,
        "captures": _captures(captures),
        "tuned_moe": tuned_moe,
        "strict_memory": strict_memory,
    }
    sources = _expanded(models)
    if len(sources) == 1 and not Path(models[0]).is_dir():
        _print_one(hardware, sources[0], arguments, explain, curve, as_json)
    else:
        _print_table(hardware, sources, arguments, as_json)


def _whole_or_word(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def _captures(text: str | None) -> tuple[int, ...] | str | None:
    if text is None or not text[:1].isdigit():
        return text
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise InvalidArgumentError(f"captures must be an engine or sizes such as 1,2,4,8, got '{text}'") from None


def _expanded(models: list[str]) -> list[str]:
    """Names stay; a folder becomes the TOML and model config files in it."""
    sources: list[str] = []
    for model in models:
        folder = Path(model)
        if not folder.is_dir():
            sources.append(model)
            continue
        files = sorted([*folder.rglob("*.toml"), *folder.rglob("*config.json")])
        found = [str(path) for path in files if not path.name.endswith("quant_config.json")]
        if not found:
            raise InvalidArgumentError(f"{model}: no TOML or config.json in this folder")
        sources += found
    return sources


def _print_one(hardware: str, model: str, arguments: dict[str, Any], explain: bool, curve: bool, as_json: bool) -> None:
    from nfp_model.prediction import predict_nfp

    prediction = predict_nfp(hardware, model, **arguments)
    if as_json:
        data = prediction.to_dict()
        if curve:
            where = prediction.curve
            data["curve"] = {"positions": where.positions.tolist(), "seconds": where.seconds.tolist()}
        typer.echo(json.dumps(data, indent=2))
        return
    typer.echo(str(prediction))
    if explain:
        typer.echo("\n" + str(prediction.explain()))
    if curve:
        typer.echo("\npositions  T(N) us")
        for n, seconds in zip(prediction.curve.positions, prediction.curve.seconds, strict=True):
            typer.echo(f"{n:9d}  {seconds * 1e6:.2f}")


def _print_table(hardware: str, models: list[str], arguments: dict[str, Any], as_json: bool) -> None:
    rows: list[dict[str, Any]] = []
    for model in models:
        try:
            rows.append(_row(hardware, model, arguments))
        except NfpModelError as error:
            rows.append({"model": _short(model), "refused": str(error)})
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    head = f"{'model':44s} {'NFP':>6s} {'saturated':>9s} {'idle-compute':>12s} {'T(1)':>9s}  binding"
    typer.echo(head)
    for row in rows:
        if "refused" in row:
            typer.echo(f"{row['model'][:44]:44s} refused: {row['refused']}")
            continue
        saturated = "-" if row["saturated_nfp"] is None else str(row["saturated_nfp"])
        typer.echo(
            f"{row['model'][:44]:44s} {row['nfp']:6d} {saturated:>9s} {row['idle_compute_nfp']:12.0f} "
            f"{row['baseline_latency_s'] * 1e3:6.2f} ms  {row['binding']}"
        )
    refused = sum("refused" in row for row in rows)
    typer.echo(f"{len(rows) - refused} predicted, {refused} refused")


def _row(hardware: str, model: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from nfp_model.prediction import predict_nfp

    prediction = predict_nfp(hardware, model, **arguments)
    saturated = prediction.saturated
    return {
        "model": prediction.model.title,
        "source": model,
        "nfp": prediction.nfp,
        "censored": prediction.censored,
        "saturated_nfp": None if saturated is None else saturated.nfp,
        "idle_compute_nfp": prediction.idle_compute_nfp,
        "over_prediction": prediction.over_prediction,
        "baseline_latency_s": prediction.baseline_latency_s,
        "fits_memory": prediction.fits_memory,
        "binding": prediction.binding,
    }


def _short(model: str) -> str:
    path = Path(model)
    return path.parent.name if path.name == "config.json" else path.stem
