"""vLLM: ``--speculative-config`` with ``num_speculative_tokens_per_batch_size``, closed ranges of batch size.

Rules of vLLM 0.33.0 (``vllm/config/speculative.py``, ``vllm/v1/spec_decode/dynamic/utils.py``), the same since 0.24.0.
"""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from nfp_model.acceptance import mtp_draft_counts
from nfp_model.errors import UnsupportedError, unknown_name
from nfp_model.exporters.writing import EngineRules, Export, ExportFacts, checked, read_json, validated
from nfp_model.scheduling import DraftSchedule, require_speculation

ENGINE = "vLLM"
VERSIONS = "0.24.0 and later (rules as of 0.33.0)"

VllmMethod = Literal["eagle", "eagle3", "mtp", "draft_model", "ngram", "suffix", "dflash", "dspark"]
_WITHOUT_DRAFT_MODEL = ("mtp", "ngram", "suffix")
_ONE_RUNNER = ("suffix", "dspark")
"""Methods for which Model Runner V1 falls back to a static K (scheduler warning)."""


class VllmSpeculativeConfig(EngineRules):
    """The fields of ``SpeculativeConfig`` a schedule needs, with the rules its scheduler applies later.

    vLLM checks the table only when the scheduler is built, and clamps a K above `num_speculative_tokens` silently;
    both are refused here at once.
    """

    method: VllmMethod
    model: str | None = None
    num_speculative_tokens: Annotated[int, Field(gt=0)]
    num_speculative_tokens_per_batch_size: list[tuple[int, int, int]] | None = None

    @model_validator(mode="after")
    def _table(self) -> Self:
        table = self.num_speculative_tokens_per_batch_size
        if table is None:
            return self
        if not table:
            raise ValueError("num_speculative_tokens_per_batch_size must not be empty")
        for start, end, drafts in table:
            if start <= 0 or end < start:
                raise ValueError(f"a batch-size range must have 0 < start <= end, got [{start}, {end}, {drafts}]")
            if drafts < 0:
                raise ValueError(f"a range's draft count must be at least 0, got [{start}, {end}, {drafts}]")
            if drafts > self.num_speculative_tokens:
                raise ValueError(
                    f"a range's draft count above num_speculative_tokens ({self.num_speculative_tokens}) would be"
                    f" clamped silently, got [{start}, {end}, {drafts}]"
                )
        ordered = sorted(table)
        if ordered[0][0] != 1:
            raise ValueError(f"the smallest batch-size range must start at 1, got {ordered[0][0]}")
        for before, after in pairwise(ordered):
            if after[0] <= before[1]:
                raise ValueError(f"batch-size ranges must not overlap, got {list(before)} and {list(after)}")
        return self

    def drafts_at(self, batch_size: int) -> int:
        """K vLLM runs [-]: gaps and batches above the last range carry the previous K forward."""
        table = self.num_speculative_tokens_per_batch_size
        if table is None:
            return self.num_speculative_tokens
        return next(drafts for start, _, drafts in sorted(table, reverse=True) if start <= batch_size)


def export_vllm(
    schedule: DraftSchedule,
    method: str = "eagle3",
    draft_model: str = "DRAFT",
    predict_layers: int | None = None,
    facts: ExportFacts | None = None,
) -> Export:
    """A schedule as the JSON value of vLLM's ``--speculative-config``.

    The last range ends at the schedule's largest batch, to be served as ``--max-num-seqs``; vLLM carries its K on.

    Parameters
    ----------
    schedule : DraftSchedule
        K(B); one K throughout gives a static configuration, which keeps full CUDA graphs.
    method : str
        vLLM's method name.
    draft_model : str
        Draft checkpoint; left out for methods without one.
    predict_layers : int, optional
        ``n_predict`` of an MTP checkpoint, to check divisibility.
    facts : ExportFacts, optional
        For the header.

    Raises
    ------
    UnsupportedError
        Where vLLM's rules cannot say the schedule.
    UnknownNameError
        For an unknown method.

    Examples
    --------
    >>> print(export_vllm(DraftSchedule.from_tiers([8, 256], [3, 1]), method="mtp").text)
    {"method": "mtp", "num_speculative_tokens": 3, "num_speculative_tokens_per_batch_size": [[1, 8, 3], [9, 256, 1]]}
    """
    if method not in get_args(VllmMethod):
        raise unknown_name("vLLM speculative method", method, get_args(VllmMethod))
    require_speculation(schedule, "vLLM: num_speculative_tokens must be above 0")
    _require_multiple(schedule.largest, method, predict_layers)
    data: dict[str, Any] = {"method": method}
    if method not in _WITHOUT_DRAFT_MODEL:
        data["model"] = draft_model
    data["num_speculative_tokens"] = schedule.largest
    if not schedule.is_single:
        data["num_speculative_tokens_per_batch_size"] = [
            [r.start, schedule.max_batch_size if r.end is None else r.end, r.drafts] for r in schedule.ranges
        ]
    text = json.dumps(data)
    arguments = f"--speculative-config {shlex.quote(text)} --max-num-seqs {schedule.max_batch_size}"
    export = Export(ENGINE, VERSIONS, "flag", text, arguments, schedule, _notes(schedule, method), facts)
    return checked(export, lambda read: parse_vllm(read, schedule.max_batch_size))


def parse_vllm(text: str, max_batch_size: int) -> DraftSchedule:
    """Read a ``--speculative-config`` value as vLLM does: sorted, gaps and tail carrying the previous K.

    Parameters
    ----------
    text : str
        The JSON object.
    max_batch_size : int
        ``--max-num-seqs`` [sequences].

    Raises
    ------
    InvalidArgumentError
        For text that is not JSON.
    UnsupportedError
        For what vLLM refuses, and for a K it would clamp silently.

    Examples
    --------
    >>> parse_vllm('{"method": "ngram", "num_speculative_tokens": 3}', 8).dense()
    [3, 3, 3, 3, 3, 3, 3, 3]
    """
    config = validated(VllmSpeculativeConfig, read_json(text, ENGINE), ENGINE)
    return DraftSchedule.from_batches([config.drafts_at(batch) for batch in range(1, max_batch_size + 1)])


def _require_multiple(drafts: int, method: str, predict_layers: int | None) -> None:
    if method != "mtp" or predict_layers is None:
        return
    if drafts not in mtp_draft_counts(predict_layers, drafts):
        raise UnsupportedError(
            f"vLLM: num_speculative_tokens above the checkpoint's n_predict ({predict_layers}) must be a multiple of"
            f" it, got {drafts}"
        )


def _notes(schedule: DraftSchedule, method: str) -> tuple[str, ...]:
    if schedule.is_single:
        return ()
    notes = [
        "batch size counts every request of the step, joining prefills included",
        "with data parallel size above 1 vLLM warns and runs the largest K throughout",
    ]
    if method in _ONE_RUNNER:
        notes.append(f"Model Runner V1 runs the largest K throughout for {method}; set VLLM_USE_V2_MODEL_RUNNER=1")
    return tuple(notes)
