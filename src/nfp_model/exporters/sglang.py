"""SGLang: the adaptive-speculation JSON, keys being lower bounds of batch size, and the static flags.

Rules of SGLang 0.5.23 (``srt/speculative/adaptive_spec_params.py``, ``srt/arg_groups/speculative_hook.py``).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, StrictInt

from nfp_model.errors import InvalidArgumentError, UnsupportedError, require_positive_int, unknown_name
from nfp_model.exporters.writing import EngineRules, Export, ExportFacts, checked, read_flags, read_json, validated
from nfp_model.scheduling import DraftSchedule, align_to_captured, pad_batch, require_speculation

ENGINE = "SGLang"
VERSIONS = "rules as of 0.5.23"
_ADAPTIVE = {"EAGLE": "EAGLE", "EAGLE3": "EAGLE3", "NEXTN": "NEXTN", "MTP": "NEXTN"}
_STATIC = {**_ADAPTIVE, "STANDALONE": "STANDALONE"}
_ALL = (*_STATIC, "NGRAM", "DFLASH", "DSPARK", "UNO")


class SglangTier(EngineRules):
    """One tier of the adaptive configuration; JSON ``true`` passes SGLang as a step count, and is refused here."""

    candidate_steps: Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(min_length=1)]
    up_hysteresis: float = 0.0
    down_hysteresis: float = -0.25
    ceiling_coeff: float = 0.0
    ema_alpha: float = 0.2
    update_interval: int = 5
    warmup_batches: int = 10


def export_sglang(
    schedule: DraftSchedule,
    captured_sizes: Sequence[int],
    method: str = "EAGLE3",
    draft_model: str = "DRAFT",
    top_k: int = 1,
    facts: ExportFacts | None = None,
) -> Export:
    """A schedule as the JSON file of ``--speculative-adaptive-config``.

    A tier with one candidate cannot move, so every K(B) is fixed. SGLang pads the batch to a captured graph size
    before it looks the tier up; boundaries are moved to where they take effect and :attr:`Export.schedule` says so.

    Parameters
    ----------
    schedule : DraftSchedule
        K(B).
    captured_sizes : sequence of int
        ``--cuda-graph-bs-decode`` [sequences], increasing; empty without graphs. SGLang's default list depends on the GPU:
        :func:`nfp_model.kernels.capture.captured_sizes`.
    method : str
        EAGLE, EAGLE3 or NEXTN (MTP).
    draft_model : str
        Draft checkpoint; left out for NEXTN.
    top_k : int
        ``--speculative-eagle-topk``; the adaptive policy takes 1 only.
    facts : ExportFacts, optional
        For the header.

    Raises
    ------
    UnsupportedError
        Where SGLang's rules cannot say the schedule.
    UnknownNameError
        For an unknown method.

    Examples
    --------
    >>> print(export_sglang(DraftSchedule.from_tiers([16, 64, 512], [3, 1, 0]), [8, 16, 32, 64]).text)
    {"1": {"candidate_steps": [3]}, "17": {"candidate_steps": [1]}, "65": {"candidate_steps": [0]}}
    """
    algorithm = _algorithm(method, _ADAPTIVE, "adaptive speculation runs with EAGLE, EAGLE3 or NEXTN only")
    if top_k != 1:
        raise UnsupportedError(f"SGLang: adaptive speculation needs --speculative-eagle-topk 1, got {top_k}")
    require_speculation(schedule, "SGLang: a table of 0 steps only leaves nothing to adapt")
    sizes = tuple(captured_sizes)
    aligned = align_to_captured(schedule, sizes)
    require_speculation(
        aligned, f"SGLang: the batch is padded to the captured sizes {list(sizes)} before K is looked up"
    )
    text = json.dumps({str(r.start): {"candidate_steps": [r.drafts]} for r in aligned.ranges})
    arguments = f"{_flags(algorithm, draft_model, aligned.largest, 1, aligned.largest + 1)} --speculative-adaptive"
    arguments += f" --speculative-adaptive-config FILE --max-running-requests {schedule.max_batch_size}"
    notes = ["ignored with attention data parallelism, multi-layer EAGLE, two-batch overlap or pd-mux"]
    if aligned != schedule:
        notes.append("boundaries moved to captured sizes, where they take effect")
    export = Export(ENGINE, VERSIONS, "json", text, arguments, aligned, tuple(notes), facts)
    checked(export, lambda read: parse_sglang(read, schedule.max_batch_size, sizes))
    parse_sglang(export.document, schedule.max_batch_size, sizes)  # the header's key must be harmless too
    return export


def parse_sglang(text: str, max_batch_size: int, captured_sizes: Sequence[int] = ()) -> DraftSchedule:
    """Read an adaptive configuration as SGLang routes it: pad to a captured size, then the largest key below.

    Parameters
    ----------
    text : str
        The JSON object; keys that are no digit strings are global defaults.
    max_batch_size : int
        ``--max-running-requests`` [sequences].
    captured_sizes : sequence of int
        Captured batch sizes [sequences], increasing; none for no padding.

    Raises
    ------
    InvalidArgumentError
        For text that is not a JSON object.
    UnsupportedError
        For what SGLang refuses, and for tiers of several candidates, which adapt instead of following a table.

    Examples
    --------
    >>> parse_sglang('{"1": {"candidate_steps": [3]}, "4": {"candidate_steps": [1]}}', 5, [2, 4]).dense()
    [3, 3, 1, 1, 1]
    """
    data: Any = read_json(text, ENGINE)
    if not isinstance(data, dict):
        raise InvalidArgumentError(f"SGLang: an adaptive configuration is one JSON object, got {type(data).__name__}")
    shared = {key: value for key, value in data.items() if key in SglangTier.model_fields}
    steps: dict[int, int] = {}
    for key, tier in data.items():
        if key.isascii() and key.isdigit():
            entry = {**shared, **tier} if isinstance(tier, dict) else tier
            candidates = set(validated(SglangTier, entry, f"SGLang, tier {key}").candidate_steps)
            if len(candidates) > 1:
                raise UnsupportedError(f"SGLang: tier {key} adapts among {sorted(candidates)}, it is no fixed schedule")
            steps[int(key)] = candidates.pop()
    if not steps:
        raise UnsupportedError("SGLang: an adaptive configuration needs at least one batch-size key")
    lowest = min(steps)

    def routed(batch: int) -> int:
        padded = pad_batch(batch, captured_sizes)
        return steps[max((key for key in steps if key <= padded), default=lowest)]

    return DraftSchedule.from_batches([routed(batch) for batch in range(1, max_batch_size + 1)])


def export_sglang_static(
    drafts: int,
    method: str = "EAGLE3",
    draft_model: str = "DRAFT",
    top_k: int = 1,
    steps: int | None = None,
    facts: ExportFacts | None = None,
) -> Export:
    """One draft count for every batch, as SGLang's static flags; the way to say a tree.

    Parameters
    ----------
    drafts : int
        K [-]: nodes below the root. ``--speculative-num-draft-tokens`` is K + 1, the root included.
    method : str
        EAGLE, EAGLE3, NEXTN (MTP) or STANDALONE.
    draft_model : str
        Draft checkpoint; left out for NEXTN.
    top_k : int
        Guesses per node [-]; 1 is a chain.
    steps : int, optional
        Depth of a tree [levels]; a chain has K.
    facts : ExportFacts, optional
        For the header.

    Raises
    ------
    UnsupportedError
        For a chain of other than K steps, or an algorithm without these flags.

    Examples
    --------
    >>> print(export_sglang_static(3, method="NEXTN").arguments.removeprefix("--speculative-algorithm NEXTN "))
    --speculative-num-steps 3 --speculative-eagle-topk 1 --speculative-num-draft-tokens 4
    """
    require_positive_int(drafts=drafts, top_k=top_k)
    algorithm = _algorithm(
        method, _STATIC, "steps, top-k and draft tokens belong to EAGLE, EAGLE3, NEXTN or STANDALONE"
    )
    if top_k == 1 and steps not in (None, drafts):
        raise UnsupportedError(
            f"SGLang: with top-k 1 draft tokens are steps + 1, got {steps} steps for {drafts} drafts"
        )
    if top_k > 1 and steps is None:
        raise InvalidArgumentError("a tree (top_k above 1) needs its depth as steps, got none")
    depth = drafts if steps is None else steps
    require_positive_int(steps=depth)
    arguments = _flags(algorithm, draft_model, depth, top_k, drafts + 1)
    if parse_sglang_static(arguments) != drafts:
        raise UnsupportedError(f"SGLang would not draft {drafts} tokens from '{arguments}'")
    return Export(ENGINE, VERSIONS, "flag", arguments, arguments, None, (), facts)


def parse_sglang_static(text: str) -> int:
    """K [-] that SGLang's static flags mean: draft tokens less the root, steps + 1 of them being forced at top-k 1.

    Raises
    ------
    InvalidArgumentError
        For words that are no flags with values.
    UnsupportedError
        Unless steps, top-k and draft tokens are given together.

    Examples
    --------
    >>> parse_sglang_static(
    ...     "--speculative-num-steps 3 --speculative-eagle-topk 1 --speculative-num-draft-tokens 4"
    ... )
    3
    """
    flags = read_flags(text, ENGINE)
    trio = [flags.get(f"--speculative-{name}") for name in ("num-steps", "eagle-topk", "num-draft-tokens")]
    if not all(value is not None and value.isdigit() and int(value) > 0 for value in trio):
        raise UnsupportedError(
            "SGLang: num-steps, eagle-topk and num-draft-tokens are given all three, as whole numbers"
        )
    steps, top_k, tokens = (int(value or 0) for value in trio)
    return steps if top_k == 1 else tokens - 1


def _algorithm(method: str, supported: dict[str, str], rule: str) -> str:
    name = method.upper()
    if name not in _ALL:
        raise unknown_name("SGLang speculative algorithm", method, _ALL)
    if name not in supported:
        raise UnsupportedError(f"SGLang: {rule}, got {name}")
    return supported[name]


def _flags(algorithm: str, draft_model: str, steps: int, top_k: int, draft_tokens: int) -> str:
    model = "" if algorithm == "NEXTN" else f" --speculative-draft-model-path {shlex.quote(draft_model)}"
    return (
        f"--speculative-algorithm {algorithm}{model} --speculative-num-steps {steps}"
        f" --speculative-eagle-topk {top_k} --speculative-num-draft-tokens {draft_tokens}"
    )
