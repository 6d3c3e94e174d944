"""``nfp specs``: what is known, and files of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nfp_model.errors import InvalidArgumentError, NfpModelError, UnknownNameError, unknown_name

if TYPE_CHECKING:
    from nfp_model.specs.base import Spec

specs_app = typer.Typer(
    name="specs",
    help="List, show and write hardware, model and kernel specs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@specs_app.command("list")
def list_specs(
    kind: Annotated[str, typer.Argument(help="hardware, model or all.")] = "all",
    as_json: JsonOption = False,
) -> None:
    """List shipped and user specs with their main numbers."""
    from nfp_model.specs.registry import load_hardware, load_model, spec_names

    if kind not in ("hardware", "model", "all"):
        raise InvalidArgumentError(f"kind must be hardware, model or all, got '{kind}'")
    hardware = [load_hardware(name) for name in spec_names("hardware")] if kind != "model" else []
    models = [load_model(name) for name in spec_names("model")] if kind != "hardware" else []
    if as_json:
        data = {"hardware": [spec.name for spec in hardware], "model": [spec.name for spec in models]}
        typer.echo(json.dumps(data, indent=2))
        return
    if hardware:
        typer.echo(
            f"{'hardware':24s} {'arch':8s} {'SMs':>4s} {'bf16 TFLOP/s':>12s} {'TB/s':>6s} {'GB':>6s} {'ridge':>6s}"
        )
    for chip in hardware:
        typer.echo(
            f"{chip.name:24s} {chip.architecture:8s} {chip.sm_count:4d} {chip.peak_flop_per_s['bfloat16'] / 1e12:12.1f} "
            f"{chip.memory_bandwidth_bytes_per_s / 1e12:6.2f} {chip.memory_bytes / 1e9:6.1f} {chip.ridge_point():6.0f}"
        )
    if models:
        typer.echo(f"{'model':24s} {'layers':>6s} {'hidden':>6s} {'total':>9s} {'active':>9s}  dtype")
    for model in models:
        typer.echo(
            f"{model.name:24s} {model.num_layers:6d} {model.hidden_size:6d} {model.total_parameters / 1e9:7.2f} B "
            f"{model.active_parameters / 1e9:7.2f} B  {model.dtype}{_dtype_words(model.dtypes)}"
        )


def _dtype_words(dtypes: dict[str, str]) -> str:
    return "".join(f", {group} {dtype}" for group, dtype in dtypes.items())


@specs_app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Name, alias or path of a hardware or model spec.")],
    as_json: JsonOption = False,
) -> None:
    """Print one spec with the source of every number."""
    spec = _named_spec(name)
    if as_json:
        typer.echo(spec.model_dump_json(indent=2))
        return
    for field, value in spec.model_dump(exclude_defaults=True).items():
        if isinstance(value, dict) and value:
            typer.echo(f"{field}:")
            for key, inner in value.items():
                typer.echo(f"  {key} = {inner}")
        else:
            typer.echo(f"{field} = {value}")


def _named_spec(name: str) -> Spec:
    """The hardware or model spec a name, alias or file stands for."""
    from nfp_model.specs.base import read_toml
    from nfp_model.specs.registry import load_hardware, load_model, spec_names

    if name.endswith(".json") or (name.endswith(".toml") and "num_layers" in read_toml(Path(name))):
        return load_model(name)
    try:
        return load_hardware(name)
    except UnknownNameError:
        try:
            return load_model(name)
        except UnknownNameError:
            raise unknown_name("spec", name, [*spec_names("hardware"), *spec_names("model")]) from None


@specs_app.command("kernels")
def kernels(
    library: Annotated[
        str | None, typer.Argument(help="One kernel file, for example fa3_sm90; all are listed without.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the kernel rules known, with what each was read in."""
    from nfp_model.specs.kernel_library import all_libraries, engine_names, load_library

    libraries = [load_library(library)] if library else list(all_libraries())
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json", exclude_defaults=True) for each in libraries], indent=2))
        return
    for each in libraries:
        typer.echo(f"{each.name}: {each.library}, {', '.join(each.architectures)}, read in {each.versions}")
        for kernel in each.kernels:
            inferred = " (inferred)" if kernel.inferred else ""
            typer.echo(f"  {kernel.name}{inferred}: {kernel.source}")
    if library is None:
        typer.echo(f"engine defaults: {', '.join(engine_names())}")


@specs_app.command("detect")
def detect() -> None:
    """Print the hardware TOML of this machine's GPU, with measured bandwidth and matrix rate beside the datasheet."""
    from nfp_model.validation.probe import detect_hardware

    typer.echo(detect_hardware())


@specs_app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Key of the new chip, also its file name.")],
    base: Annotated[str, typer.Option("--from", help="Chip to start from.")] = "h100",
    values: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE, for example sm_count=160 or peak_flop_per_s.bfloat16=1.2e15."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; default NAME.toml in this folder.")] = None,
) -> None:
    """Write a commented hardware TOML that checks itself."""
    from nfp_model.specs.registry import load_hardware
    from nfp_model.specs.templates import hardware_to_toml, hardware_variant

    spec = hardware_variant(load_hardware(base), name, dict(_assignment(text) for text in values or []))
    target = out or Path(f"{name}.toml")
    _write_new(target, hardware_to_toml(spec))
    typer.echo(f"wrote {target}: ridge point {spec.ridge_point():.0f} FLOP/B; edit the numbers and their sources, then")
    typer.echo(f"  nfp predict {target} mixtral")


def _assignment(text: str) -> tuple[str, object]:
    field, equals, value = text.partition("=")
    if not equals or not field:
        raise InvalidArgumentError(f"--set takes FIELD=VALUE, got '{text}'")
    for kind in (int, float):
        try:
            return field, kind(value)
        except ValueError:
            continue
    return field, value


@specs_app.command("add")
def add(
    config: Annotated[str, typer.Argument(help="A Hugging Face config.json, or a hub id (needs the hf extra).")],
    out: Annotated[Path | None, typer.Option(help="File to write; default <name>.toml in this folder.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
) -> None:
    """Write a model TOML from a Hugging Face config."""
    from nfp_model.specs.huggingface import from_hf_config
    from nfp_model.specs.toml_text import model_to_toml

    spec = from_hf_config(config, name=name)
    target = out or Path(f"{spec.name}.toml")
    _write_new(target, model_to_toml(spec))
    typer.echo(f"wrote {target}: {spec.title}, {spec.total_parameters / 1e9:.2f} B parameters")
    for note in spec.notes:
        typer.echo(f"note: {note}")


def _write_new(path: Path, text: str) -> None:
    """Write a file whole, or not at all; never over an existing one."""
    if path.exists():
        raise InvalidArgumentError(f"{path} exists; name another file with --out")
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise NfpModelError(f"{path}: cannot be written ({error.strerror})") from None
