"""Schedules from predicted latency curves: the wiring of prediction and acceptance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np

from nfp_model.acceptance import AcceptanceModel, ConstantAcceptance, DraftCost, TreeAcceptance, acceptance_from
from nfp_model.errors import InvalidArgumentError, require_positive_int, unknown_name
from nfp_model.prediction import Prediction, predict_nfp
from nfp_model.scheduling.drafts import Rule, choose_positions
from nfp_model.scheduling.tables import Method, Schedule, ScheduleCell
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import LinearAttention, ModelSpec, MoEFFN
from nfp_model.specs.registry import load_hardware, load_model

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Batch sizes looked at unless others are given [sequences]."""

CONTEXT_LENGTHS = (1024, 4096, 16384)
"""Contexts looked at unless others are given, as far as the model was made for them [tokens]."""

MAX_DRAFTS = 16
"""Drafts looked at unless told otherwise [-]."""


def schedule(
    hardware: str | Path | HardwareSpec,
    model: str | Path | ModelSpec,
    *,
    acceptance: AcceptanceModel | float | str | Path | Sequence[float],
    batch_sizes: Sequence[int] = BATCH_SIZES,
    context_lengths: Sequence[int] | None = None,
    max_drafts: int = MAX_DRAFTS,
    rule: Rule = "throughput",
    draft: DraftCost | str | Path | ModelSpec | None = None,
    method: Method | None = None,
    tolerance: float = 0.1,
    backend: str | None = None,
    **arguments: Any,
) -> Schedule:
    """How many drafts to verify per forward, for every batch size and context.

    Speed-up S = E(K) / (V(K + 1) + drafting): E(K) tokens per forward from the acceptance (algorithm), V(q) = T(q) / T(1)
    from the predicted curve at that batch and context (system). Both rules are answered: ``near_free``, the largest K with
    V(K + 1) <= 1 + tolerance (arXiv 2605.30851), and ``throughput``, the K of largest S.

    Parameters
    ----------
    hardware, model
        As for :func:`~nfp_model.predict_nfp`.
    acceptance : AcceptanceModel, float, str, Path or sequence of float
        What :func:`~nfp_model.acceptance.acceptance_from` reads: 0.7, unconditional per-position rates, a measured file.
    batch_sizes : sequence of int
        Strictly increasing [sequences].
    context_lengths : sequence of int, optional
        Strictly increasing [tokens]; 1024, 4096 and 16384 where the model was made for them.
    max_drafts : int
        Largest K looked at [-]; the acceptance may know fewer.
    rule : {"near_free", "throughput"}
        Which answer an export takes. The near-free rule does not look at the acceptance.
    draft : DraftCost, model name, path or ModelSpec, optional
        Drafting cost, fixed or predicted: one forward of the draft model at one position per draft, per batch and context,
        with the same arguments but the target's ``weight_dtype``. None is free drafting; for ``mtp`` the prediction module
        is predicted, as one layer of the model with its head (DeepSeek-V3, arXiv 2412.19437, section 2.2).
    method : {"chain", "tree", "mtp"}, optional
        None takes ``tree`` for a tree acceptance, else ``chain``. K counts nodes in a tree, a drafter forward a level.
    tolerance, backend, **arguments
        As for :func:`~nfp_model.predict_nfp`.

    Returns
    -------
    Schedule
        Prints as a table; ``.to_dict()``, ``.to_dataframe()``, ``.draft_schedule(context)``, ``.critical_load()``.

    Raises
    ------
    NfpModelError
        For rates outside [0, 1], empty or unordered grids, unknown names, and as :func:`~nfp_model.predict_nfp` does.

    Examples
    --------
    >>> table = schedule("h100", "qwen3-30b-a3b", acceptance=0.7, batch_sizes=(1, 64), context_lengths=(4096,))
    >>> cell = table.at(1, 4096)
    >>> cell.decision.near_free.drafts, cell.decision.throughput.drafts > 0  # nothing is free, yet it pays
    (0, True)
    """
    chip, target = load_hardware(hardware), load_model(model)
    accepted = acceptance_from(acceptance)
    kind = _method(method, accepted)
    _require_grid("batch sizes", batch_sizes)
    contexts = _contexts(target, context_lengths)
    require_positive_int(max_drafts=max_drafts)
    limit = max_drafts if accepted.max_drafts is None else min(max_drafts, accepted.max_drafts)
    given = {**arguments, "tolerance": tolerance, "backend": backend}
    costs, drafting = _drafting(draft, target, kind)
    grid = [(context, batch) for context in contexts for batch in batch_sizes]
    cells: list[ScheduleCell] = []
    last: Prediction | None = None
    for context, batch in grid:
        workload: dict[str, Any] = {"batch_size": batch, "context_length": context}
        last = predict_nfp(chip, target, **workload, max_positions=limit + 1, **given)
        cost = costs if isinstance(costs, DraftCost) else _predicted_cost(chip, costs, last, workload, given)
        cells.append(_cell(last, accepted, cost, limit, rule))
    assert last is not None
    notes = _warnings(last, tuple(cells), accepted)
    return Schedule(
        chip, target, last.backend, last.calibration, kind, accepted, drafting, rule, tolerance, tuple(cells), notes
    )


def _cell(target: Prediction, acceptance: AcceptanceModel, draft: DraftCost, limit: int, rule: Rule) -> ScheduleCell:
    seconds = target.latency_s(np.arange(1, limit + 2))
    decision = choose_positions(seconds / seconds[0], acceptance, draft, target.boundary.tolerance, rule)
    workload = target.workload
    context = workload.longest_context
    return ScheduleCell(
        workload.batch_size, context, decision, draft, float(seconds[0]), target.fits_memory, target.binding
    )


def _method(method: Method | None, acceptance: AcceptanceModel) -> Method:
    is_tree = isinstance(acceptance, TreeAcceptance)
    if method is None:
        return "tree" if is_tree else "chain"
    if method not in get_args(Method):
        raise unknown_name("method", str(method), get_args(Method))
    if (method == "tree") != is_tree:
        needs = "rank rates (tree:0.6,0.2)" if method == "tree" else "rates of a chain"
        raise InvalidArgumentError(f"method '{method}' needs {needs}, got acceptance {acceptance.description}")
    return method


def _contexts(model: ModelSpec, contexts: Sequence[int] | None) -> Sequence[int]:
    if contexts is None:
        fitting = tuple(context for context in CONTEXT_LENGTHS if context <= model.max_context_length)
        return fitting or (model.max_context_length,)
    _require_grid("context lengths", contexts)
    return contexts


def _require_grid(name: str, values: Sequence[int]) -> None:
    if not len(values):
        raise InvalidArgumentError(f"the grid of {name} is empty")
    if any(after <= before for before, after in pairwise(values)):
        raise InvalidArgumentError(f"{name} must strictly increase, got {list(values)}")


def _drafting(
    draft: DraftCost | str | Path | ModelSpec | None, target: ModelSpec, method: Method
) -> tuple[DraftCost | ModelSpec, str]:
    if isinstance(draft, DraftCost):
        return (
            draft,
            f"{draft.per_step:g} per draft and {draft.fixed:g} per step, in forwards at one position, as given",
        )
    if draft is None and method != "mtp":
        return DraftCost(), "free (n-gram look-up, or not counted)"
    if draft is None:
        return prediction_module(target), "predicted: one layer of the model and its head per draft"
    spec = load_model(draft)
    return spec, f"predicted: one forward of {spec.title} at one position per draft"


def prediction_module(model: ModelSpec) -> ModelSpec:
    """What one multi-token-prediction (MTP) step runs: a layer of the model, attention and experts alike, and the head.

    The layer is of the model's last kind with softmax or latent attention, with experts where it has any; the small matrix
    that joins embedding and state is not counted (DeepSeek-V3, arXiv 2412.19437, section 2.2).

    Examples
    --------
    >>> prediction_module(load_model("deepseek-v3")).num_layers
    1
    """

    def rank(index: int) -> tuple[bool, bool, int]:
        group = model.layers[index]
        softmax = not isinstance(model.attention[group.attention], LinearAttention)
        return softmax, any(isinstance(model.ffn[name], MoEFFN) for name in group.ffn), index

    layer = model.layers[max(range(len(model.layers)), key=rank)].model_copy(update={"count": 1})
    changes = {
        "name": f"{model.name}_mtp",
        "title": f"MTP module of {model.title}",
        "layers": (layer,),
        "num_layers": 1,
        "extra_parameters": 0,
        "derived_total": None,
        "derived_active": None,
    }
    return model.model_copy(update=changes)


def _predicted_cost(
    hardware: HardwareSpec, draft: ModelSpec, target: Prediction, workload: dict[str, Any], given: dict[str, Any]
) -> DraftCost:
    """T_draft(1) over T(1) at the same batch and context: relative to the batch's own forward, so per cell."""
    own = {name: value for name, value in given.items() if name not in ("weight_dtype", "strict_memory")}
    drafter = predict_nfp(hardware, draft, **workload, max_positions=1, **own)
    return DraftCost(per_step=drafter.baseline_latency_s / target.baseline_latency_s)


def _warnings(last: Prediction, cells: tuple[ScheduleCell, ...], acceptance: AcceptanceModel) -> tuple[str, ...]:
    found = [warning for warning in last.warnings if not warning.startswith("does not fit")]
    crowded = [f"{cell.batch_size} at {cell.context_length}" for cell in cells if not cell.fits_memory]
    if crowded:
        found.append(
            f"* weights and cache exceed one GPU's memory at batch (at context) {', '.join(crowded)}; predicted all the same"
        )
    if isinstance(acceptance, ConstantAcceptance):
        found.append("a constant acceptance is a placeholder: measured rates fall or rise with the position")
    return tuple(found)
