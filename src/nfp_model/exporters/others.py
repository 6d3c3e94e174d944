"""Engines with one draft length per server: llama.cpp, LMDeploy, mlx-lm. A table of several lengths is refused."""

from __future__ import annotations

import shlex
from typing import Literal, get_args

from nfp_model.errors import InvalidArgumentError, unknown_name
from nfp_model.exporters.writing import Export, ExportFacts, checked, read_flags
from nfp_model.scheduling import DraftSchedule

LlamaDialect = Literal["draft", "spec_draft"]
"""llama.cpp's spelling: ``--draft-max`` (older) or ``--spec-draft-n-max`` (2026 builds)."""

_LLAMA_FLAG = {"draft": "--draft-max", "spec_draft": "--spec-draft-n-max"}
_LLAMA_VERSIONS = {
    "draft": "builds with --draft-max (= --draft-n)",
    "spec_draft": "2026 builds with --spec-draft-n-max",
}
_LMDEPLOY_FLAG = "--speculative-num-draft-tokens"
_LMDEPLOY_METHODS = ("eagle", "eagle3", "deepseek_mtp", "hy3_mtp", "qwen3_5_mtp")
_MLX_FLAG = "--num-draft-tokens"


def export_llama_cpp(
    schedule: DraftSchedule, dialect: LlamaDialect = "spec_draft", facts: ExportFacts | None = None
) -> Export:
    """One draft length as llama.cpp's server flag; draft model and type stay the user's.

    Parameters
    ----------
    schedule : DraftSchedule
        The same K for every batch size.
    dialect : {"draft", "spec_draft"}
        Spelling of the flag.
    facts : ExportFacts, optional
        For the header.

    Raises
    ------
    UnsupportedError
        For several draft lengths.
    UnknownNameError
        For an unknown dialect.

    Examples
    --------
    >>> export_llama_cpp(DraftSchedule.from_tiers([8], [4]), "draft").text
    '--draft-max 4'
    """
    if dialect not in get_args(LlamaDialect):
        raise unknown_name("llama.cpp dialect", dialect, get_args(LlamaDialect))
    flag = _LLAMA_FLAG[dialect]
    drafts = schedule.require_single(f"llama.cpp takes one draft length per server ({flag})")
    return _flag_export("llama.cpp", _LLAMA_VERSIONS[dialect], schedule, f"{flag} {drafts}", flag, facts)


def export_lmdeploy(
    schedule: DraftSchedule, method: str = "eagle3", draft_model: str = "DRAFT", facts: ExportFacts | None = None
) -> Export:
    """One draft length as LMDeploy's server flags.

    Parameters
    ----------
    schedule : DraftSchedule
        The same K for every batch size.
    method : {"eagle", "eagle3", "deepseek_mtp", "hy3_mtp", "qwen3_5_mtp"}
        ``--speculative-algorithm``.
    draft_model : str
        Draft checkpoint; left out for the MTP methods.
    facts : ExportFacts, optional
        For the header.

    Raises
    ------
    UnsupportedError
        For several draft lengths.
    UnknownNameError
        For an unknown method.

    Examples
    --------
    >>> export_lmdeploy(DraftSchedule.from_tiers([8], [4]), "deepseek_mtp").text
    '--speculative-algorithm deepseek_mtp --speculative-num-draft-tokens 4'
    """
    if method not in _LMDEPLOY_METHODS:
        raise unknown_name("LMDeploy speculative algorithm", method, _LMDEPLOY_METHODS)
    drafts = schedule.require_single(f"LMDeploy takes one draft length per server ({_LMDEPLOY_FLAG})")
    model = "" if method.endswith("_mtp") else f"--speculative-draft-model {shlex.quote(draft_model)} "
    text = f"--speculative-algorithm {method} {model}{_LMDEPLOY_FLAG} {drafts}"
    return _flag_export("LMDeploy", "rules as of commit 1263d5cd", schedule, text, _LMDEPLOY_FLAG, facts)


def export_mlx_lm(schedule: DraftSchedule, draft_model: str = "DRAFT", facts: ExportFacts | None = None) -> Export:
    """One draft length as mlx-lm's flags; a request may still carry its own ``num_draft_tokens``.

    Parameters
    ----------
    schedule : DraftSchedule
        The same K for every batch size.
    draft_model : str
        Draft checkpoint.
    facts : ExportFacts, optional
        For the header.

    Raises
    ------
    UnsupportedError
        For several draft lengths.

    Examples
    --------
    >>> export_mlx_lm(DraftSchedule.from_tiers([1], [3])).text
    '--draft-model DRAFT --num-draft-tokens 3'
    """
    drafts = schedule.require_single(f"mlx-lm takes one draft length per server ({_MLX_FLAG})")
    text = f"--draft-model {shlex.quote(draft_model)} {_MLX_FLAG} {drafts}"
    return _flag_export("mlx-lm", "rules as of 0.32.2", schedule, text, _MLX_FLAG, facts)


def parse_draft_flag(text: str, flag: str, max_batch_size: int) -> DraftSchedule:
    """The schedule one flag of a draft length means: the same K at every batch size.

    Raises
    ------
    InvalidArgumentError
        When the flag is missing or has no whole number above 0.

    Examples
    --------
    >>> parse_draft_flag("--num-draft-tokens 3", "--num-draft-tokens", 2).dense()
    [3, 3]
    """
    value = read_flags(text, flag).get(flag, "")
    if not value.isdigit() or int(value) < 1:
        raise InvalidArgumentError(f"{flag} must be a whole number of at least 1, got '{value}'")
    return DraftSchedule.from_batches([int(value)] * max_batch_size)


def _flag_export(
    engine: str, versions: str, schedule: DraftSchedule, text: str, flag: str, facts: ExportFacts | None
) -> Export:
    export = Export(engine, versions, "flag", text, text, schedule, (), facts)
    return checked(export, lambda read: parse_draft_flag(read, flag, schedule.max_batch_size))
