"""A schedule: batch x context -> drafts, with the algorithm's and the system's factor in every row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from nfp_model.acceptance import AcceptanceModel, DraftCost
from nfp_model.errors import InvalidArgumentError
from nfp_model.scheduling.drafts import CriticalLoad, Decision, OperatingPoint, Rule, critical_load
from nfp_model.scheduling.ranges import DraftSchedule
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import ModelSpec

if TYPE_CHECKING:
    import pandas as pd

Method = Literal["chain", "tree", "mtp"]
"""``chain``: drafts in a row; ``tree``: nodes counted; ``mtp``: a chain drafted by the model's own prediction module."""


@dataclass(frozen=True)
class ScheduleCell:
    """One batch size at one context.

    Attributes
    ----------
    batch_size : int
        Sequences [-].
    context_length : int
        Cached tokens per sequence [tokens].
    decision : Decision
        Both rules' answers.
    draft : DraftCost
        What drafting costs here, relative to this cell's one-position forward.
    baseline_latency_s : float
        T(1) [s].
    fits_memory : bool
        Whether weights and cache fit one GPU.
    binding : str
        What ends the near-free range, in words.
    """

    batch_size: int
    context_length: int
    decision: Decision
    draft: DraftCost
    baseline_latency_s: float
    fits_memory: bool
    binding: str

    @property
    def chosen(self) -> OperatingPoint:
        """The answer of the rule asked for."""
        return self.decision.chosen

    def to_dict(self) -> dict[str, Any]:
        """The row, JSON-safe: the chosen point, then both rules' answers."""
        row: dict[str, Any] = {
            "batch_size": self.batch_size,
            "context_length": self.context_length,
            "baseline_latency_s": self.baseline_latency_s,
            "fits_memory": self.fits_memory,
            **_point(self.chosen),
        }
        for rule in ("near_free", "throughput"):
            point: OperatingPoint = getattr(self.decision, rule)
            row |= {f"{rule}_{name}": value for name, value in _point(point).items()}
        return row | {"reason": self.decision.reason, "binding": self.binding}


def _point(point: OperatingPoint) -> dict[str, Any]:
    return {
        "drafts": point.drafts,
        "positions": point.positions,
        "tokens_per_forward": point.tokens_per_forward,
        "latency_ratio": point.latency_ratio,
        "draft_cost": point.draft_cost,
        "speedup": point.speedup,
    }


@dataclass(frozen=True)
class Schedule:
    """Positions per forward for every batch size and context; prints as a table.

    Attributes
    ----------
    hardware, model : HardwareSpec, ModelSpec
        What the latencies were predicted for.
    backend, calibration : str
        Whose kernels, and the files the constants stand in.
    method : {"chain", "tree", "mtp"}
        How drafts are made.
    acceptance : AcceptanceModel
        The algorithm's half: an input, not a prediction.
    drafting : str
        What drafting was taken to cost, in words.
    rule : {"near_free", "throughput"}
        Which answer is the chosen one.
    tolerance : float
        Near-free latency increase [-].
    cells : tuple of ScheduleCell
        By context, then by batch size.
    warnings : tuple of str
        What a reader must know before using the table.

    Examples
    --------
    >>> from nfp_model.scheduling import schedule
    >>> table = schedule("h100", "llama-3.1-8b", acceptance=0.7, batch_sizes=(1, 64), context_lengths=(4096,))
    >>> [cell.batch_size for cell in table.cells]
    [1, 64]
    >>> table.at(1, 4096).decision.near_free.drafts > table.at(64, 4096).decision.near_free.drafts
    True
    """

    hardware: HardwareSpec
    model: ModelSpec
    backend: str
    calibration: str
    method: Method
    acceptance: AcceptanceModel
    drafting: str
    rule: Rule
    tolerance: float
    cells: tuple[ScheduleCell, ...]
    warnings: tuple[str, ...]

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes looked at [sequences]."""
        return tuple(dict.fromkeys(cell.batch_size for cell in self.cells))

    @property
    def context_lengths(self) -> tuple[int, ...]:
        """Contexts looked at [tokens]."""
        return tuple(dict.fromkeys(cell.context_length for cell in self.cells))

    def at(self, batch_size: int, context_length: int) -> ScheduleCell:
        """One cell of the table.

        Raises
        ------
        InvalidArgumentError
            For a batch size or context that is not in the table.
        """
        for cell in self.column(context_length):
            if cell.batch_size == batch_size:
                return cell
        raise InvalidArgumentError(f"the schedule holds batch sizes {list(self.batch_sizes)}, not {batch_size}")

    def column(self, context_length: int) -> tuple[ScheduleCell, ...]:
        """All batch sizes at one context.

        Raises
        ------
        InvalidArgumentError
            For a context that is not in the table.
        """
        if context_length not in self.context_lengths:
            raise InvalidArgumentError(
                f"the schedule holds contexts {list(self.context_lengths)}, not {context_length}"
            )
        return tuple(cell for cell in self.cells if cell.context_length == context_length)

    def only_context(self, context_length: int | None = None) -> int:
        """The context [tokens] meant where an engine's table has none: the one given, or the only one there is.

        Raises
        ------
        InvalidArgumentError
            When there are several and none is named.
        """
        if context_length is not None:
            return context_length
        if len(self.context_lengths) > 1:
            raise InvalidArgumentError(
                f"engine tables have no context axis: name one of the contexts {list(self.context_lengths)}"
            )
        return self.context_lengths[0]

    def critical_load(self, context_length: int | None = None) -> CriticalLoad:
        """Critical batch x (K + 1) [token rows per forward] beyond which speculation hurts, and why.

        Parameters
        ----------
        context_length : int, optional
            One context [tokens]; None takes the smallest over all contexts, the one that is safe for each of them.

        Raises
        ------
        InvalidArgumentError
            For a context that is not in the table.
        """
        contexts = self.context_lengths if context_length is None else (context_length,)
        found = [self._critical(context) for context in contexts]
        return min(found, key=lambda load: (load.rows, load.censored))

    def _critical(self, context_length: int) -> CriticalLoad:
        load = critical_load([(cell.batch_size, cell.decision) for cell in self.column(context_length)])
        return replace(load, reason=f"context {context_length}: {load.reason}")

    def draft_schedule(self, context_length: int | None = None, first_drafts_most: bool = False) -> DraftSchedule:
        """K(B) at one context, each batch size standing for those above the one before it.

        Parameters
        ----------
        context_length : int, optional
            [tokens]; may be left out where the table has one context.
        first_drafts_most : bool
            Hold every K to the first batch size's, as TensorRT-LLM needs. By throughput the first K is the one that gives
            the largest geometric mean speed-up over the batch sizes.

        Raises
        ------
        InvalidArgumentError
            For a context that is not in the table, or none where there are several.

        Examples
        --------
        >>> from nfp_model.scheduling import schedule
        >>> table = schedule("h100", "llama-3.1-8b", acceptance=0.7, batch_sizes=(1, 8), context_lengths=(4096,))
        >>> table.draft_schedule().max_batch_size
        8
        """
        column = self.column(self.only_context(context_length))
        points = _first_most(column) if first_drafts_most else [cell.chosen for cell in column]
        return DraftSchedule.from_tiers([cell.batch_size for cell in column], [point.drafts for point in points])

    @property
    def moe_notes(self) -> tuple[str, ...]:
        """For MoE, one sentence a context: where no draft is near-free and why, and whether it pays there anyway."""
        return tuple(self._moe_note(context) for context in self.context_lengths) if self.model.is_moe else ()

    def _moe_note(self, context_length: int) -> str:
        costly = [cell for cell in self.column(context_length) if cell.decision.near_free.drafts == 0]
        head = f"context {context_length}:"
        if not costly:
            return f"{head} some K > 0 is near-free at every batch looked at"
        first = costly[0]
        nothing = (
            f"{head} no K > 0 is near-free from one position at batch {_listed(costly)}"
            f" (at batch {first.batch_size}: {first.binding})"
        )
        paying = [cell for cell in costly if cell.decision.throughput.speedup > 1]
        if not paying:
            return f"{nothing}; speculation pays at none of them"
        best = max(paying, key=lambda cell: cell.decision.throughput.speedup)
        where = "there anyway" if paying == costly else f"anyway at batch {_listed(paying)}"
        point = best.decision.throughput
        return (
            f"{nothing}; it pays {where}, at best {point.speedup:.2f}x at batch {best.batch_size}: K = {point.drafts} gives"
            f" {point.tokens_per_forward:.2f} tokens for {point.step_ratio:.2f} forwards"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything a program needs, JSON-safe; ``rows`` holds one entry per batch size and context."""
        loads = {str(context): vars(self.critical_load(context)) for context in self.context_lengths}
        return {
            "hardware": self.hardware.name,
            "model": self.model.name,
            "backend": self.backend,
            "calibration": self.calibration,
            "method": self.method,
            "acceptance": self.acceptance.description,
            "drafting": self.drafting,
            "rule": self.rule,
            "tolerance": self.tolerance,
            "rows": [cell.to_dict() for cell in self.cells],
            "critical_load": vars(self.critical_load()),
            "critical_loads": loads,
            "moe_notes": list(self.moe_notes),
            "warnings": list(self.warnings),
        }

    def to_dataframe(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame (needs pandas)."""
        import pandas as pd

        return pd.DataFrame([cell.to_dict() for cell in self.cells])

    def __str__(self) -> str:
        from nfp_model.scheduling.text import schedule_text

        return schedule_text(self)


def _first_most(column: tuple[ScheduleCell, ...]) -> list[OperatingPoint]:
    """The rule's answers, none above the first cell's; by throughput the first cell may give way for a better mean."""
    first = column[0].decision
    options = first.options if first.rule == "throughput" else (first.chosen,)
    tables = ([option, *(cell.decision.chosen_up_to(option.drafts) for cell in column[1:])] for option in options)
    return max(tables, key=_mean_speedup)


def _mean_speedup(points: list[OperatingPoint]) -> float:
    product = 1.0
    for point in points:
        product *= point.speedup
    return float(product ** (1 / len(points)))


def _listed(cells: list[ScheduleCell]) -> str:
    return ", ".join(str(cell.batch_size) for cell in cells)
