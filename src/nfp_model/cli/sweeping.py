"""``nfp sweep``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nfp_model.errors import InvalidArgumentError

SET_HELP = "Any field as NAME=V1,V2: hardware.memory_bandwidth_bytes_per_s=3.35e12,4.8e12, model.ffn.moe.top_k=1,2,4; repeatable."
DEFAULT_BASELINE, DEFAULT_TOLERANCE = "1", "0.1"


def sweep(
    hardware: Annotated[str, typer.Argument(help="Hardware names or TOML paths, comma-separated.")],
    models: Annotated[str, typer.Argument(help="Model names, TOML or config.json paths, comma-separated.")],
    batch_size: Annotated[str, typer.Option("--batch-size", "-b", help="Sequences, 1,2,4.")] = "1",
    context_length: Annotated[str, typer.Option("--context-length", "-c", help="Cached tokens per sequence.")] = "4096",
    tolerance: Annotated[str, typer.Option("--tolerance", "-t", help="Near-free tolerance eps.")] = DEFAULT_TOLERANCE,
    baseline: Annotated[str, typer.Option(help="Baseline positions, or 'saturated'.")] = DEFAULT_BASELINE,
    max_positions: Annotated[str, typer.Option(help="Last position searched.")] = "4096",
    backend: Annotated[str | None, typer.Option(help="torch, vllm, sglang, trtllm, uncalibrated.")] = None,
    decode_mode: Annotated[str, typer.Option(help="verify, block.")] = "verify",
    routing: Annotated[str, typer.Option(help="uniform, balanced, power_law:A.")] = "uniform",
    weight_dtype: Annotated[str | None, typer.Option(help="bfloat16, fp8, fp8_block, int4, nvfp4, mxfp4, ...")] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="bfloat16, fp8.")] = None,
    tensor_parallel: Annotated[str, typer.Option("--tensor-parallel", "--tp", help="Tensor-parallel ranks.")] = "1",
    expert_parallel: Annotated[str, typer.Option("--expert-parallel", "--ep", help="Expert-parallel ranks.")] = "1",
    captures: Annotated[
        str | None, typer.Option(help="Engines whose captured CUDA-graph sizes pad the forward.")
    ] = None,
    strict_memory: Annotated[bool, typer.Option(help="Refuse a model that does not fit the GPU.")] = False,
    fields: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the records here, whole or not at all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
    progress: Annotated[bool, typer.Option(help="Draw a progress bar on stderr.")] = False,
) -> None:
    """Predict over every combination of comma-separated values."""
    given = {
        "hardware": hardware,
        "model": models,
        "batch_size": batch_size,
        "context_length": context_length,
        "tolerance": tolerance,
        "baseline": baseline,
        "max_positions": max_positions,
        "backend": backend,
        "decode_mode": decode_mode,
        "routing": routing,
        "weight_dtype": weight_dtype,
        "kv_dtype": kv_dtype,
        "tensor_parallel": tensor_parallel,
        "expert_parallel": expert_parallel,
        "captures": captures,
    }
    arguments: dict[str, Any] = {name: _values(name, text) for name, text in given.items() if text is not None}
    if captures is not None and any(word[:1].isdigit() for word in captures.split(",")):
        raise InvalidArgumentError(f"captures takes engines in a sweep, such as vllm,sglang, got '{captures}'")
    arguments |= {"strict_memory": strict_memory, **_fields(fields or [])}
    if not any(isinstance(value, list) for value in arguments.values()):
        arguments["batch_size"] = [arguments["batch_size"]]
    _print(arguments, csv, as_json, progress)


def _values(name: str, text: str) -> Any:
    """One value, or a list where commas separate several."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise InvalidArgumentError(f"{name} has an empty value in '{text}'; separate values by single commas")
    parsed = [_parsed(word) for word in words]
    return parsed if len(parsed) > 1 else parsed[0]


def _parsed(word: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _fields(texts: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, sign, values = text.partition("=")
        if not sign or not name.strip():
            raise InvalidArgumentError(f"--set takes NAME=V1,V2, got '{text}'")
        found[name.strip()] = _values(name.strip(), values)
    return found


def _print(arguments: dict[str, Any], csv: Path | None, as_json: bool, progress: bool) -> None:
    from nfp_model.sweeping import iter_sweep, write_csv

    chunks = iter_sweep(progress=progress, **arguments)
    if csv is not None:
        rows = write_csv(csv, chunks)
        typer.echo(f"{rows} records in {csv}")
        return
    if as_json:
        typer.echo(json.dumps([record for chunk in chunks for record in chunk], indent=2))
        return
    axes = [name for name, value in arguments.items() if isinstance(value, list)]
    count = refused = 0
    for chunk in chunks:
        for record in chunk:
            if not count:
                typer.echo(_head(axes))
            typer.echo(_row(record, axes))
            count += 1
            refused += record["refused"] is not None
    typer.echo(f"{count - refused} predicted, {refused} refused")


def _width(axis: str) -> int:
    return max(12, len(axis.rpartition(".")[2]))


def _head(axes: list[str]) -> str:
    names = "  ".join(f"{axis.rpartition('.')[2]:>{_width(axis)}s}" for axis in axes)
    return f"{names}  {'NFP':>8s} {'saturated':>9s} {'idle-compute':>12s} {'T(N0)':>9s}  binding"


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _row(record: dict[str, Any], axes: list[str]) -> str:
    names = "  ".join(f"{_cell(record[axis]):>{_width(axis)}s}" for axis in axes)
    if record["refused"] is not None:
        return f"{names}  refused: {record['refused']}"
    found = f">={record['nfp']}" if record["censored"] else str(record["nfp"])
    saturated = "-" if record["saturated_nfp"] is None else str(record["saturated_nfp"])
    milliseconds = record["baseline_latency_s"] * 1e3
    return f"{names}  {found:>8s} {saturated:>9s} {record['idle_compute_nfp']:12.0f} {milliseconds:6.2f} ms  {record['binding']}"
