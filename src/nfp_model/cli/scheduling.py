"""``nfp schedule``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nfp_model.errors import InvalidArgumentError

if TYPE_CHECKING:
    from nfp_model.acceptance import DraftCost, TokensPerForward
    from nfp_model.exporters import Export
    from nfp_model.scheduling import BlockCosts, Schedule

_EXPORT_CONTEXT = 4096
_ACCEPTANCE_HELP = (
    "Rate (0.7), unconditional rates (0.73,0.52), conditional:..., length:2.6@3, lengths:..., tree:..., or a file."
)


def schedule(
    hardware: Annotated[str, typer.Argument(help="Hardware name or TOML path, for example h100.")],
    model: Annotated[str, typer.Argument(help="Model name, TOML or config.json path.")],
    acceptance: Annotated[str | None, typer.Option("--acceptance", "-a", help=_ACCEPTANCE_HELP)] = None,
    batch_sizes: Annotated[
        str | None, typer.Option("--batch-sizes", "--batch-size", "-b", help="Such as 1,2,4,8.")
    ] = None,
    context: Annotated[
        str | None, typer.Option("--context", "-c", help="Cached tokens per sequence, such as 1024,4096.")
    ] = None,
    max_drafts: Annotated[int | None, typer.Option(help="Largest K looked at.")] = None,
    rule: Annotated[
        str, typer.Option(help="near_free or throughput: which answer is exported; both are shown.")
    ] = "throughput",
    draft: Annotated[
        str | None,
        typer.Option(help="Drafting cost: forwards per draft (0.05), once per step (fixed:0.1), or a draft model."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="chain, tree or mtp.")] = None,
    tolerance: Annotated[float, typer.Option("--tolerance", "-t", help="Near-free tolerance eps.")] = 0.1,
    backend: Annotated[str | None, typer.Option(help="torch, vllm, sglang, trtllm or uncalibrated.")] = None,
    routing: Annotated[str, typer.Option(help="uniform, balanced or power_law:A.")] = "uniform",
    weight_dtype: Annotated[str | None, typer.Option(help="bfloat16, fp8, fp8_block, int4, nvfp4, mxfp4, ...")] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="bfloat16 or fp8.")] = None,
    tensor_parallel: Annotated[int, typer.Option("--tensor-parallel", "--tp", help="Tensor-parallel ranks.")] = 1,
    expert_parallel: Annotated[int, typer.Option("--expert-parallel", "--ep", help="Expert-parallel ranks.")] = 1,
    captures: Annotated[
        str | None, typer.Option(help="Engine whose captured CUDA-graph sizes pad the forward.")
    ] = None,
    diffusion: Annotated[bool, typer.Option("--diffusion", help="Diffusion blocks instead of drafts.")] = False,
    blocks: Annotated[str | None, typer.Option(help="With --diffusion: block sizes, such as 16,32.")] = None,
    full_canvas: Annotated[
        bool,
        typer.Option(
            "--full-canvas", help="With --diffusion: every forward computes all its positions anew, no cache."
        ),
    ] = False,
    tpf: Annotated[
        str | None, typer.Option(help="With --diffusion: measured tokens per forward, 16:2.44,32:2.55, or published.")
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(help="vllm, sglang, trtllm, llama.cpp, lmdeploy or mlx-lm; with --diffusion dinfer too."),
    ] = None,
    dialect: Annotated[
        str | None,
        typer.Option(help="trtllm: upper or lower, what a key of its table bounds; llama.cpp: draft or spec_draft."),
    ] = None,
    engine_method: Annotated[
        str | None, typer.Option(help="The engine's own name of the method, for example eagle3.")
    ] = None,
    draft_model: Annotated[str | None, typer.Option(help="Draft checkpoint for the export.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the export (else the table), written whole or not at all.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print what the engine parses and nothing else.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Draft counts per batch size and context, both rules, exported as an engine takes them.

    Without --context an export holds for 4096 cached tokens: engines' tables have no context axis.
    """
    arguments: dict[str, Any] = {
        "tolerance": tolerance,
        "backend": backend,
        "routing": routing,
        "weight_dtype": weight_dtype,
        "kv_dtype": kv_dtype,
        "tensor_parallel": tensor_parallel,
        "expert_parallel": expert_parallel,
        "captures": captures,
    }
    _refuse_export_words(export, {"--dialect": dialect, "--engine-method": engine_method, "--draft-model": draft_model})
    result: Schedule | BlockCosts
    if diffusion:
        drafting = {"--acceptance": acceptance, "--draft": draft, "--method": method, "--max-drafts": max_drafts}
        _refuse(drafting, "--diffusion has no drafts")
        result = _block_costs(
            hardware, model, batch_sizes, context, blocks, tpf, {**arguments, "full_canvas": full_canvas}
        )
        exported = _exported_block(result, export) if export else None
    else:
        _refuse(
            {"--blocks": blocks, "--tpf": tpf, "--full-canvas": full_canvas or None}, "blocks belong to --diffusion"
        )
        if acceptance is None:
            raise InvalidArgumentError(
                "a schedule needs --acceptance, for example 0.7 or the engine's per-position rates"
            )
        grids = {"batch_sizes": _sizes("--batch-sizes", batch_sizes), "context_lengths": _sizes("--context", context)}
        chosen = {**grids, "max_drafts": max_drafts, "draft": _draft(draft), "method": method}
        result = _schedule(hardware, model, acceptance, rule, {**arguments, **_given(chosen)})
        words = {"method": engine_method, "draft_model": draft_model, "dialect": dialect}
        exported = _exported_table(result, export, context is None, words) if export else None
    _print(result, exported, out, quiet, as_json)


def _schedule(hardware: str, model: str, acceptance: str, rule: Any, arguments: dict[str, Any]) -> Schedule:
    from nfp_model.scheduling import schedule as predicted_schedule

    return predicted_schedule(hardware, model, acceptance=acceptance, rule=rule, **arguments)


def _block_costs(
    hardware: str,
    model: str,
    batch_sizes: str | None,
    context: str | None,
    blocks: str | None,
    tpf: str | None,
    arguments: dict[str, Any],
) -> BlockCosts:
    from nfp_model.scheduling import block_costs

    one = {"batch_size": _one("--batch-size", batch_sizes), "context_length": _one("--context", context)}
    chosen = _given({**one, "blocks": _sizes("--blocks", blocks), "tokens_per_forward": _tokens_per_forward(tpf)})
    return block_costs(hardware, model, **arguments, **chosen)


def _exported_table(result: Schedule, engine: str, by_default: bool, words: dict[str, str | None]) -> Export:
    from nfp_model.exporters import export_table

    contexts = result.context_lengths
    default = _EXPORT_CONTEXT if _EXPORT_CONTEXT in contexts else contexts[-1]
    return export_table(result, engine, default if by_default else None, **words)


def _exported_block(result: BlockCosts, engine: str) -> Export:
    from nfp_model.exporters import export_diffusion

    point = result.decision.best or result.decision.largest_near_free
    if point is None:
        raise InvalidArgumentError("no block to export: none is near-free and no tokens per forward are given (--tpf)")
    trained = result.model.diffusion.block_size if result.model.diffusion else None
    return export_diffusion(engine, point.block, trained)


def _print(
    result: Schedule | BlockCosts, exported: Export | None, out: Path | None, quiet: bool, as_json: bool
) -> None:
    data = result.to_dict()
    if exported is not None:
        data["export"] = {
            "engine": exported.engine,
            "versions": exported.versions,
            "kind": exported.kind,
            "text": exported.text,
            "arguments": exported.arguments,
            "header": list(exported.header),
        }
    table = json.dumps(data, indent=2) if as_json else str(result)
    if out is not None:
        from nfp_model.exporters import write_whole

        write_whole(out, exported.document if exported else table + "\n")
    if quiet:
        if exported is not None and out is None:
            typer.echo(exported.text.rstrip("\n"))
        return
    typer.echo(table)
    if as_json:
        return
    if exported is not None and (out is not None or exported.kind != "flag"):
        typer.echo(f"\nexport   {exported.engine}: {exported.arguments.replace('FILE', str(out or 'FILE'))}")
    if out is not None:
        typer.echo(f"wrote {out}")
    elif exported is not None:
        typer.echo("\n" + exported.document.rstrip("\n"))


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _refuse(options: dict[str, Any], reason: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise InvalidArgumentError(f"{reason}, got {option} {value}")


def _refuse_export_words(export: str | None, options: dict[str, str | None]) -> None:
    if export is None:
        _refuse(options, "nothing is exported without --export")


def _sizes(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InvalidArgumentError(f"{option} takes whole numbers such as 1,2,4, got '{text}'") from None


def _one(option: str, text: str | None) -> int | None:
    sizes = _sizes(option, text)
    if sizes is not None and len(sizes) != 1:
        raise InvalidArgumentError(f"{option} takes one number with --diffusion, got '{text}'")
    return None if sizes is None else sizes[0]


def _draft(text: str | None) -> DraftCost | str | None:
    from nfp_model.acceptance import DraftCost

    if text is None:
        return None
    head, colon, rest = text.partition(":")
    fixed = bool(colon) and head == "fixed"
    try:
        cost = float(rest if fixed else text)
    except ValueError:
        if fixed:
            raise InvalidArgumentError(f"a cost per step is given as fixed:0.1, got '{text}'") from None
        return text
    return DraftCost(fixed=cost) if fixed else DraftCost(per_step=cost)


def _tokens_per_forward(text: str | None) -> TokensPerForward | str | None:
    from nfp_model.acceptance import TokensPerForward

    if text is None or text == "published":
        return text
    try:
        pairs = [(int(block), float(tokens)) for block, tokens in (part.split(":") for part in text.split(","))]
    except ValueError:
        raise InvalidArgumentError(f"--tpf takes block:tokens pairs such as 16:2.44,32:2.55, got '{text}'") from None
    return TokensPerForward(tuple(block for block, _ in pairs), tuple(tokens for _, tokens in pairs))
