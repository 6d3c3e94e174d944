"""One door to all engines, for callers that hold the engine's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nfp_model.errors import InvalidArgumentError, unknown_name
from nfp_model.exporters.others import export_llama_cpp, export_lmdeploy, export_mlx_lm
from nfp_model.exporters.sglang import export_sglang
from nfp_model.exporters.tensorrt_llm import export_tensorrt_llm
from nfp_model.exporters.vllm import export_vllm
from nfp_model.exporters.writing import Export, ExportFacts
from nfp_model.scheduling import DraftSchedule

_WRITERS: dict[str, tuple[Callable[..., Export], tuple[str, ...]]] = {
    "vllm": (export_vllm, ("method", "draft_model")),
    "sglang": (export_sglang, ("method", "draft_model", "captured_sizes")),
    "tensorrt_llm": (export_tensorrt_llm, ("method", "draft_model", "dialect", "captured_sizes")),
    "llama_cpp": (export_llama_cpp, ("dialect",)),
    "lmdeploy": (export_lmdeploy, ("method", "draft_model")),
    "mlx_lm": (export_mlx_lm, ("draft_model",)),
}
"""Writers and the choices each engine knows."""

ENGINES: tuple[str, ...] = tuple(_WRITERS)
"""Engines a draft schedule can be exported for."""

_ALIASES = {"trtllm": "tensorrt_llm", "llamacpp": "llama_cpp"}


def engine_key(engine: str) -> str:
    """The name of an engine in :data:`ENGINES`, dashes, dots and aliases resolved.

    Raises
    ------
    UnknownNameError
        For an engine no schedule can be exported for.

    Examples
    --------
    >>> engine_key("llama.cpp"), engine_key("trtllm")
    ('llama_cpp', 'tensorrt_llm')
    """
    key = engine.lower().replace("-", "_").replace(".", "_")
    key = _ALIASES.get(key, key)
    if key not in _WRITERS:
        raise unknown_name("engine", engine, [*ENGINES, "trtllm"])
    return key


def export_schedule(
    engine: str,
    schedule: DraftSchedule,
    method: str | None = None,
    draft_model: str | None = None,
    dialect: str | None = None,
    captured_sizes: Sequence[int] | None = None,
    facts: ExportFacts | None = None,
) -> Export:
    """A draft schedule in one engine's syntax; see the engine's own function for its rules.

    Parameters
    ----------
    engine : str
        ``vllm``, ``sglang``, ``tensorrt_llm`` (``trtllm``), ``llama_cpp``, ``lmdeploy`` or ``mlx_lm``; dashes and dots
        pass for underscores.
    schedule : DraftSchedule
        K(B).
    method, draft_model : str, optional
        The engine's default for None (EAGLE-3; the placeholder DRAFT).
    dialect : str, optional
        TensorRT-LLM: ``upper`` or ``lower``, required. llama.cpp: ``draft`` or ``spec_draft``.
    captured_sizes : sequence of int, optional
        Captured graphs [sequences] of SGLang (required) and TensorRT-LLM.
    facts : ExportFacts, optional
        For the header.

    Raises
    ------
    UnknownNameError
        For an unknown engine, method or dialect.
    InvalidArgumentError
        For a choice the engine does not have, TensorRT-LLM without a dialect, SGLang without captured sizes.
    UnsupportedError
        Where the engine's rules cannot say the schedule.

    Examples
    --------
    >>> export_schedule("mlx-lm", DraftSchedule.from_tiers([1], [3]), draft_model="small").text
    '--draft-model small --num-draft-tokens 3'
    """
    key = engine_key(engine)
    writer, known = _WRITERS[key]
    choices = {"method": method, "draft_model": draft_model, "dialect": dialect, "captured_sizes": captured_sizes}
    given = {name: value for name, value in choices.items() if value is not None}
    for name in given:
        if name not in known:
            raise InvalidArgumentError(
                f"{key} has no {name} to choose, got '{given[name]}'; it knows {', '.join(known)}"
            )
    if key == "tensorrt_llm" and dialect is None:
        raise InvalidArgumentError(
            "TensorRT-LLM needs a dialect: 'upper' (1.3.0 release candidates and later) or 'lower' (before); the same"
            " keys mean different batch sizes"
        )
    if key == "sglang" and captured_sizes is None:
        raise InvalidArgumentError(
            "SGLang needs captured_sizes: it pads the batch to a captured graph before it looks K up, and its default list"
            " depends on the GPU (nfp_model.kernels.capture.captured_sizes)"
        )
    return writer(schedule, facts=facts, **given)
