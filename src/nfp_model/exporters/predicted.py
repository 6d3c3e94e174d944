"""A predicted schedule in one engine's syntax: context chosen, engine's names filled in, head written."""

from __future__ import annotations

from nfp_model.acceptance import TreeAcceptance
from nfp_model.errors import InvalidArgumentError, UnsupportedError
from nfp_model.exporters.dispatch import engine_key, export_schedule
from nfp_model.exporters.sglang import export_sglang_static
from nfp_model.exporters.writing import Export, ExportFacts
from nfp_model.kernels.capture import captured_sizes
from nfp_model.scheduling import Schedule

_MTP_METHODS = {"vllm": "mtp", "sglang": "NEXTN", "tensorrt_llm": "MTP"}
"""How engines call drafting by the model's own prediction module, where one name covers all models."""

_SPECULATING = 2
"""Positions [per sequence] from which SGLang's captured sizes are those of speculation."""


def export_table(
    schedule: Schedule,
    engine: str,
    context_length: int | None = None,
    method: str | None = None,
    draft_model: str | None = None,
    dialect: str | None = None,
) -> Export:
    """One context of a predicted schedule as an engine takes it, checked by reading it back.

    TensorRT-LLM needs the first batch size to draft the most; the table of best geometric mean speed-up among those is
    exported (:meth:`Schedule.draft_schedule`), and the head says so. SGLang's boundaries follow the graph sizes it captures
    on this GPU by default.

    Parameters
    ----------
    schedule : Schedule
        From :func:`nfp_model.schedule`.
    engine : str
        As for :func:`export_schedule`.
    context_length : int, optional
        [tokens]; may be left out where the table has one context. No engine has a context axis.
    method, draft_model, dialect : str, optional
        As for :func:`export_schedule`; an MTP schedule takes the engine's MTP method.

    Raises
    ------
    UnknownNameError
        For an unknown engine, method or dialect.
    InvalidArgumentError
        For a context that is not in the table.
    UnsupportedError
        Where the engine's rules cannot say the schedule; for a tree, anywhere but SGLang with one node count throughout.

    Examples
    --------
    >>> from nfp_model.scheduling import schedule
    >>> table = schedule("h100", "llama-3.1-8b", acceptance=0.7, max_drafts=3, batch_sizes=(1, 2), context_lengths=(4096,))
    >>> export_table(table, "llama.cpp").text
    '--spec-draft-n-max 3'
    """
    key = engine_key(engine)
    context = schedule.only_context(context_length)
    facts = _facts(schedule, context)
    if isinstance(schedule.acceptance, TreeAcceptance):
        return _tree(schedule, schedule.acceptance, key, context, method, draft_model, facts)
    named = method
    if named is None and schedule.method == "mtp":
        named = _mtp_method(key)
    wished = schedule.draft_schedule(context)
    table = schedule.draft_schedule(context, first_drafts_most=True) if key == "tensorrt_llm" else wished
    if table != wished:
        facts = _facts(schedule, context, "; held to the first batch size's drafts, as TensorRT-LLM needs")
    sizes = captured_sizes("sglang", schedule.hardware, _SPECULATING).tolist() if key == "sglang" else None
    return export_schedule(key, table, named, draft_model, dialect, sizes, facts)


def _facts(schedule: Schedule, context: int, addition: str = "") -> ExportFacts:
    return ExportFacts(
        hardware=schedule.hardware.title,
        model=schedule.model.title,
        backend=schedule.backend,
        context_length=context,
        acceptance=schedule.acceptance.description,
        tolerance=schedule.tolerance,
        rule=schedule.rule + addition,
    )


def _mtp_method(engine: str) -> str:
    if engine not in _MTP_METHODS:
        raise InvalidArgumentError(
            f"{engine} has no one name for MTP drafting, name its method; known for {', '.join(_MTP_METHODS)}"
        )
    return _MTP_METHODS[engine]


def _tree(
    schedule: Schedule,
    acceptance: TreeAcceptance,
    engine: str,
    context: int,
    method: str | None,
    draft_model: str | None,
    facts: ExportFacts,
) -> Export:
    if engine != "sglang":
        raise UnsupportedError(f"{engine}: a tree cannot be said as draft counts; SGLang's static flags can")
    rule = "SGLang takes one tree per server (--speculative-num-draft-tokens)"
    nodes = schedule.draft_schedule(context).require_single(rule)
    depth = int(acceptance.draft_steps(nodes)[-1])
    guesses = max(len(rates) for rates in acceptance.levels)
    given = {"method": method, "draft_model": draft_model}
    words = {name: value for name, value in given.items() if value is not None}
    return export_sglang_static(nodes, top_k=guesses, steps=depth, facts=facts, **words)
