"""Block or canvas length of diffusion language models, in the engines' syntax: the block is q itself, not q - 1."""

from __future__ import annotations

import json
import shlex
from typing import Annotated, Literal

from pydantic import Field

from nfp_model.errors import InvalidArgumentError, UnsupportedError, require_positive_int, unknown_name
from nfp_model.exporters.writing import EngineRules, Export, ExportFacts, read_flags, read_json, validated
from nfp_model.exporters.yaml import read_yaml, yaml_text

DiffusionEngine = Literal["vllm", "sglang", "lmdeploy", "dinfer"]

PositiveInt = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class VllmDiffusionConfig(EngineRules):
    """``--diffusion-config`` of vLLM 0.33.0 (``vllm/config/diffusion.py``)."""

    canvas_length: PositiveInt
    max_denoising_steps: PositiveInt | None = None


class SglangDiffusionConfig(EngineRules):
    """The YAML of SGLang's ``--dllm-algorithm-config`` (0.5.23, ``srt/dllm/config.py``)."""

    block_size: PositiveInt
    threshold: Probability | None = None
    max_denoising_steps: PositiveInt | None = None


def export_diffusion(
    engine: str,
    block: int,
    trained_block: int | None = None,
    threshold: float | None = None,
    max_denoising_steps: int | None = None,
    facts: ExportFacts | None = None,
) -> Export:
    """A block length for one engine; none has a schedule by batch size.

    Parameters
    ----------
    engine : {"vllm", "sglang", "lmdeploy", "dinfer"}
        vLLM: canvas JSON; SGLang: YAML file; LMDeploy and dInfer: flags.
    block : int
        Positions per sequence and forward [positions].
    trained_block : int, optional
        The checkpoint's own block [positions]; another block is then noted as untested.
    threshold : float, optional
        Confidence above which a token is committed [-]; SGLang and LMDeploy.
    max_denoising_steps : int, optional
        Forwards per block at most [-]; vLLM and SGLang.
    facts : ExportFacts, optional
        For the header.

    Raises
    ------
    UnknownNameError
        For an unknown engine.
    UnsupportedError
        For a setting the engine has not, or refuses.

    Examples
    --------
    >>> export_diffusion("vllm", 256, max_denoising_steps=48).text
    '{"canvas_length": 256, "max_denoising_steps": 48}'
    >>> print(export_diffusion("sglang", 32, threshold=0.95).text, end="")
    block_size: 32
    threshold: 0.95
    """
    require_positive_int(block=block)
    writers = {"vllm": _vllm, "sglang": _sglang, "lmdeploy": _lmdeploy, "dinfer": _dinfer}
    if engine not in writers:
        raise unknown_name("diffusion engine", engine, writers)
    notes: tuple[str, ...] = ()
    if trained_block is not None and trained_block != block:
        notes = (f"the checkpoint was trained with blocks of {trained_block}; engines may refuse or degrade others",)
    export = writers[engine](block, threshold, max_denoising_steps, notes, facts)
    if parse_diffusion(engine, export.text) != block:
        raise UnsupportedError(f"{engine} would not read block {block} from the export")
    return export


def parse_diffusion(engine: str, text: str) -> int:
    """The block length [positions] an engine reads from an export's text.

    Raises
    ------
    InvalidArgumentError
        For text that is not the engine's format.
    UnsupportedError
        For what the engine refuses.

    Examples
    --------
    >>> parse_diffusion("lmdeploy", "--dllm-block-length 16")
    16
    """
    if engine == "vllm":
        return validated(VllmDiffusionConfig, read_json(text, "vLLM"), "vLLM").canvas_length
    if engine == "sglang":
        return validated(SglangDiffusionConfig, read_yaml(text), "SGLang").block_size
    flags = {"lmdeploy": "--dllm-block-length", "dinfer": "--block_length"}
    if engine not in flags:
        raise unknown_name("diffusion engine", engine, ["vllm", "sglang", *flags])
    value = read_flags(text, engine).get(flags[engine], "")
    if not value.isdigit() or int(value) < 1:
        raise InvalidArgumentError(f"{flags[engine]} must be a whole number of at least 1, got '{value}'")
    return int(value)


def _refuse(engine: str, **settings: float | None) -> None:
    for name, value in settings.items():
        if value is not None:
            raise UnsupportedError(f"{engine} has no {name} for diffusion models, got {value:g}")


def _given(**settings: float | None) -> dict[str, float]:
    return {name: value for name, value in settings.items() if value is not None}


def _vllm(
    block: int, threshold: float | None, steps: int | None, notes: tuple[str, ...], facts: ExportFacts | None
) -> Export:
    _refuse("vLLM", threshold=threshold)
    text = json.dumps({"canvas_length": block, **_given(max_denoising_steps=steps)})
    arguments = f"--diffusion-config {shlex.quote(text)}"
    return Export("vLLM", "rules as of 0.33.0", "flag", text, arguments, None, notes, facts)


def _sglang(
    block: int, threshold: float | None, steps: int | None, notes: tuple[str, ...], facts: ExportFacts | None
) -> Export:
    text = yaml_text({"block_size": block, **_given(threshold=threshold, max_denoising_steps=steps)})
    notes = (*notes, "SGLang runs one diffusion request at a time unless --max-running-requests is given")
    return Export("SGLang", "rules as of 0.5.23", "yaml", text, "--dllm-algorithm-config FILE", None, notes, facts)


def _lmdeploy(
    block: int, threshold: float | None, steps: int | None, notes: tuple[str, ...], facts: ExportFacts | None
) -> Export:
    _refuse("LMDeploy", max_denoising_steps=steps)
    text = f"--dllm-block-length {block}"
    if threshold is not None:
        text += f" --dllm-confidence-threshold {threshold:g}"
    return Export("LMDeploy", "rules as of commit 1263d5cd", "flag", text, text, None, notes, facts)


def _dinfer(
    block: int, threshold: float | None, steps: int | None, notes: tuple[str, ...], facts: ExportFacts | None
) -> Export:
    _refuse("dInfer", threshold=threshold, max_denoising_steps=steps)
    text = f"--block_length {block}"
    return Export("dInfer", "rules as of commit fce4e328", "flag", text, text, None, notes, facts)
