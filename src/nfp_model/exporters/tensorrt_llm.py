"""TensorRT-LLM: ``draft_len_schedule`` in the ``speculative_config`` block of a YAML file, in its two meanings.

Rules of ``tensorrt_llm/llmapi/llm_args.py``. A key is an upper bound of batch size since pull request #10860 (merged
2026-03-13) and was a lower bound before (#8194), under the same field name; old tables pass the new checks silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from nfp_model.errors import UnsupportedError, unknown_name
from nfp_model.exporters.writing import EngineRules, Export, ExportFacts, checked, validated
from nfp_model.exporters.yaml import read_yaml, yaml_text
from nfp_model.scheduling import DraftSchedule, require_speculation

ENGINE = "TensorRT-LLM"

Dialect = Literal["upper", "lower"]
"""What a key of ``draft_len_schedule`` is: ``upper`` bound (new) or ``lower`` bound (old)."""

VERSIONS: dict[str, str] = {
    "upper": "keys are UPPER bounds of batch size: from pull request 10860 (2026-03-13), 1.3.0 release candidates",
    "lower": "keys are LOWER bounds of batch size: before pull request 10860 (2026-03-13); 1.2 by its date, unread",
}

DecodingType = Literal["Eagle3", "MTP", "PARD", "DFlash", "Draft_Target", "SA", "NGram", "DSpark"]
_DYNAMIC: dict[str, tuple[str, ...]] = {
    "upper": ("Eagle3", "MTP", "PARD", "DFlash", "Draft_Target", "SA"),
    "lower": ("Eagle3", "Draft_Target", "NGram"),
}
_WITHOUT_DRAFT_MODEL = ("MTP", "SA", "NGram")

PositiveInt = Annotated[int, Field(gt=0)]


class TrtllmSpeculation(EngineRules):
    """The fields of ``DecodingBaseConfig`` a schedule needs, with the rules both meanings share."""

    decoding_type: DecodingType
    speculative_model: str | None = None
    max_draft_len: Annotated[int, Field(ge=0)] | None = None
    num_nextn_predict_layers: PositiveInt | None = None
    max_concurrency: PositiveInt | None = None
    draft_len_schedule: dict[int, int] | None = None

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.max_draft_len == 0 and self.decoding_type in ("Eagle3", "MTP"):
            raise ValueError(f"max_draft_len must be above 0 for {self.decoding_type}, got 0")
        table = self.draft_len_schedule
        if table is None:
            return self
        if self.max_concurrency is not None:
            raise ValueError("draft_len_schedule and max_concurrency exclude each other")
        if not table:
            raise ValueError("draft_len_schedule must not be empty")
        for key, drafts in table.items():
            if key < 1 or drafts < 0:
                raise ValueError(f"draft_len_schedule maps batch sizes >= 1 to draft lengths >= 0, got {key}: {drafts}")
            if self.max_draft_len is not None and drafts > self.max_draft_len:
                raise ValueError(
                    f"a draft length must not exceed max_draft_len ({self.max_draft_len}), got {key}: {drafts}"
                )
        return self


class TrtllmGraphs(EngineRules):
    """``cuda_graph_config``: captured batch sizes [sequences]; schedule keys are added by TensorRT-LLM itself."""

    batch_sizes: list[PositiveInt] | None = None
    max_batch_size: PositiveInt | None = None
    enable_padding: bool = False

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.batch_sizes and self.max_batch_size not in (None, max(self.batch_sizes)):
            raise ValueError(f"max_batch_size must be the largest of batch_sizes, got {self.max_batch_size}")
        return self


class TrtllmConfig(EngineRules):
    """The blocks of a ``--config`` file that an export writes."""

    speculative_config: TrtllmSpeculation
    cuda_graph_config: TrtllmGraphs | None = None


def require_dialect(dialect: str) -> None:
    """Refuse a name that is neither meaning.

    Raises
    ------
    UnknownNameError
        Naming both.
    """
    if dialect not in get_args(Dialect):
        raise unknown_name("TensorRT-LLM dialect", dialect, get_args(Dialect))


def export_tensorrt_llm(
    schedule: DraftSchedule,
    dialect: Dialect,
    method: str = "Eagle3",
    draft_model: str = "DRAFT",
    captured_sizes: Sequence[int] | None = None,
    facts: ExportFacts | None = None,
) -> Export:
    """A schedule as the YAML of ``--config``.

    Parameters
    ----------
    schedule : DraftSchedule
        K(B); its first range must have the largest K, or the engine refuses. One K throughout needs no table.
    dialect : {"upper", "lower"}
        What the release takes a key for; there is no safe default.
    method : str
        ``decoding_type``.
    draft_model : str
        Draft checkpoint; left out for types without one.
    captured_sizes : sequence of int, optional
        ``cuda_graph_config.batch_sizes`` [sequences], with padding; left to the engine for None.
    facts : ExportFacts, optional
        For the header.

    Raises
    ------
    UnsupportedError
        Where the dialect's rules cannot say the schedule.
    UnknownNameError
        For an unknown dialect or decoding type.

    Examples
    --------
    >>> print(export_tensorrt_llm(DraftSchedule.from_tiers([4, 8, 32, 64], [4, 2, 1, 0]), "upper").text, end="")
    speculative_config:
      decoding_type: Eagle3
      speculative_model: DRAFT
      max_draft_len: 4
      draft_len_schedule: {4: 4, 8: 2, 32: 1}
    """
    require_dialect(dialect)
    kind = _decoding_type(method)
    require_speculation(schedule, "TensorRT-LLM: max_draft_len must be above 0")
    block: dict[str, Any] = {"decoding_type": kind}
    if kind not in _WITHOUT_DRAFT_MODEL:
        block["speculative_model"] = draft_model
    # before 1.3 MTP took its draft length under the checkpoint's own name
    block["num_nextn_predict_layers" if (kind, dialect) == ("MTP", "lower") else "max_draft_len"] = schedule.largest
    if not schedule.is_single:
        block["draft_len_schedule"] = _table(schedule, dialect, kind)
    data: dict[str, Any] = {"speculative_config": block}
    if captured_sizes is not None:
        data["cuda_graph_config"] = {"batch_sizes": [int(size) for size in captured_sizes], "enable_padding": True}
    notes = _notes(schedule, dialect)
    export = Export(ENGINE, VERSIONS[dialect], "yaml", yaml_text(data), "--config FILE", schedule, notes, facts)
    checked(export, lambda text: parse_tensorrt_llm(text, schedule.max_batch_size, dialect))
    parse_tensorrt_llm(export.document, schedule.max_batch_size, dialect)
    return export


def parse_tensorrt_llm(text: str, max_batch_size: int, dialect: Dialect) -> DraftSchedule:
    """Read the YAML as one generation of TensorRT-LLM does.

    upper: B <= key, 0 above the largest key. lower: B >= key, the last entry carrying on.

    Parameters
    ----------
    text : str
        The YAML this library writes (block mappings, flow lists and maps).
    max_batch_size : int
        Largest batch [sequences].
    dialect : {"upper", "lower"}
        Which generation reads it.

    Raises
    ------
    InvalidArgumentError
        For text outside that part of YAML.
    UnsupportedError
        For what that generation refuses.

    Examples
    --------
    >>> text = "speculative_config:\\n  decoding_type: Eagle3\\n  max_draft_len: 4\\n"
    >>> text += "  draft_len_schedule: {1: 4, 3: 2}\\n"
    >>> parse_tensorrt_llm(text, 4, "lower").dense()
    [4, 4, 2, 2]
    >>> parse_tensorrt_llm(text, 4, "upper").dense()  # the same text, accepted and wrong
    [4, 2, 2, 0]
    """
    require_dialect(dialect)
    config = validated(TrtllmConfig, read_yaml(text), ENGINE).speculative_config
    longest = config.max_draft_len or config.num_nextn_predict_layers
    table = config.draft_len_schedule
    if table is None:
        if longest is not None and config.max_concurrency is not None:
            return _limited(config.max_concurrency, longest, max_batch_size, dialect)
        if longest is None:
            raise UnsupportedError("TensorRT-LLM takes the draft length from the checkpoint, it is not in the text")
        return DraftSchedule.from_batches([longest] * max_batch_size)
    _require_first(table, longest, dialect)
    return DraftSchedule.from_batches([_looked_up(table, batch, dialect) for batch in range(1, max_batch_size + 1)])


def _limited(concurrency: int, longest: int, max_batch_size: int, dialect: Dialect) -> DraftSchedule:
    """``max_concurrency`` as the newer releases translate it: the table {max_concurrency: max_draft_len}."""
    if dialect == "lower":
        raise UnsupportedError("TensorRT-LLM (lower bounds): what max_concurrency does there is not established")
    speculating = min(concurrency, max_batch_size)
    return DraftSchedule.from_batches([longest] * speculating + [0] * (max_batch_size - speculating))


def _require_first(table: dict[int, int], longest: int | None, dialect: Dialect) -> None:
    if dialect == "lower" and 1 not in table:
        raise UnsupportedError(
            f"TensorRT-LLM (lower bounds): draft_len_schedule must have key 1, got keys {sorted(table)}"
        )
    first = table[min(table)]
    if longest is not None and first != longest:
        raise UnsupportedError(
            f"TensorRT-LLM ({dialect} bounds): the smallest key of draft_len_schedule must carry max_draft_len"
            f" ({longest}), got {first}"
        )


def _looked_up(table: dict[int, int], batch: int, dialect: Dialect) -> int:
    if dialect == "upper":
        return table[min(keys)] if (keys := [key for key in table if batch <= key]) else 0
    return table[max(key for key in table if key <= batch)]


def _table(schedule: DraftSchedule, dialect: Dialect, kind: str) -> dict[int, int]:
    if kind not in _DYNAMIC[dialect]:
        raise UnsupportedError(
            f"TensorRT-LLM ({dialect} bounds): draft_len_schedule reaches the graphs of"
            f" {', '.join(_DYNAMIC[dialect])} only, got {kind}"
        )
    first = schedule.ranges[0]
    if first.drafts != schedule.largest:
        raise UnsupportedError(
            f"TensorRT-LLM ({dialect} bounds): the smallest key of draft_len_schedule must carry max_draft_len, so the"
            f" first range must draft the most ({schedule.largest}), got {first.drafts}"
        )
    if dialect == "lower":
        return {r.start: r.drafts for r in schedule.ranges}
    ended = {(schedule.max_batch_size if r.end is None else r.end): r.drafts for r in schedule.ranges}
    if schedule.ranges[-1].drafts == 0:
        del ended[schedule.max_batch_size]  # above the largest key TensorRT-LLM drafts nothing anyway
    return ended


def _decoding_type(method: str) -> str:
    by_lower: dict[str, str] = {name.lower(): name for name in get_args(DecodingType)}
    if method.lower() not in by_lower:
        raise unknown_name("TensorRT-LLM decoding type", method, by_lower.values())
    return by_lower[method.lower()]


def _notes(schedule: DraftSchedule, dialect: Dialect) -> tuple[str, ...]:
    if schedule.is_single:
        return ()
    other = "lower" if dialect == "upper" else "upper"
    notes = [f"a release that takes keys for {other} bounds reads another schedule from the same file, often silently"]
    if any(r.drafts == 0 for r in schedule.ranges):
        notes.append("some builds draft one token where the schedule says 0")
    if dialect == "lower":
        notes.append("whether an older release runs the table for Eagle3 in one-model mode is not established")
    if dialect == "upper" and schedule.ranges[-1].drafts > 0:
        notes.append(f"nothing is drafted above batch {schedule.max_batch_size}")
    return tuple(notes)
