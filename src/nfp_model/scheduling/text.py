"""Schedules and block costs as people read them. It computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nfp_model.quantities import format_si

if TYPE_CHECKING:
    from nfp_model.scheduling.blocks import BlockCosts
    from nfp_model.scheduling.drafts import OperatingPoint
    from nfp_model.scheduling.tables import Schedule, ScheduleCell

_GROUPS = ("near-free", "throughput")
_POINT = ("K", "tokens", "latency", "drafting", "speedup")


def schedule_text(schedule: Schedule) -> str:
    """The table by context: K, tokens per forward (algorithm) and latency ratio (system) under both rules."""
    lines = [
        f"{schedule.model.title} on {schedule.hardware.title}: drafts K per sequence, {schedule.method},"
        f" rule {schedule.rule}, tolerance {schedule.tolerance:g}",
        f"acceptance {schedule.acceptance.description}; an input, not a prediction",
        f"drafting {schedule.drafting}",
        f"kernels {schedule.backend}; constants {schedule.calibration}",
        "speedup = tokens per forward (algorithm) / (latency of K + 1 positions over 1, plus drafting) (system)",
    ]
    free = all(point.draft_cost == 0 for cell in schedule.cells for point in cell.decision.options)
    columns = tuple(name for name in _POINT if not (free and name == "drafting"))
    for context in schedule.context_lengths:
        lines += ["", f"context {context}", *_schedule_table(schedule.column(context), columns)]
        load = schedule.critical_load(context)
        rows = f"at least {load.rows}" if load.censored else str(load.rows)
        lines.append(f"critical batch x (K + 1): {rows} rows; {load.reason}")
    lines += [""] if schedule.moe_notes or schedule.warnings else []
    lines += [f"MoE      {note}" for note in schedule.moe_notes]
    lines += [f"warning  {warning}" for warning in schedule.warnings]
    return "\n".join(lines)


def _schedule_table(column: Sequence[ScheduleCell], columns: tuple[str, ...]) -> list[str]:
    head = ("batch", "T(1)", *columns, *columns)
    rows = [
        (
            f"{cell.batch_size}{'' if cell.fits_memory else '*'}",
            format_si(cell.baseline_latency_s, "s"),
            *_point(cell.decision.near_free, columns),
            *_point(cell.decision.throughput, columns),
        )
        for cell in column
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lead, group = sum(widths[:2]) + 4, sum(widths[2 : 2 + len(columns)]) + 2 * (len(columns) - 1)
    titles = " " * lead + f"{_GROUPS[0]:<{group}}  {_GROUPS[1]}"
    return [titles, *aligned(head, rows)]


def _point(point: OperatingPoint, columns: tuple[str, ...]) -> tuple[str, ...]:
    cells = {
        "K": str(point.drafts),
        "tokens": f"{point.tokens_per_forward:.2f}",
        "latency": f"{point.latency_ratio:.2f}",
        "drafting": f"{point.draft_cost:.2f}",
        "speedup": f"{point.speedup:.2f}x",
    }
    return tuple(cells[name] for name in columns)


def block_text(costs: BlockCosts) -> str:
    """The blocks with what they cost, what they need and what they were measured to give."""
    decision = costs.decision
    what = "canvas without cache" if costs.full_canvas else "block"
    lines = [
        f"{costs.model.title} on {costs.hardware.title}: cost of a {what} against one position,"
        f" batch {costs.batch_size}, context {costs.context_length}, tolerance {costs.tolerance:g}",
        f"kernels {costs.backend}; constants {costs.calibration}; one position {format_si(costs.baseline_latency_s, 's')}",
        "break-even: tokens per forward (TPF) that equal decoding one token per forward, the same number as the latency ratio",
        "",
    ]
    head = ("block", "latency", "ratio = break-even TPF", "share of block", "near-free", "TPF", "speedup")
    rows = [
        (
            str(point.block),
            format_si(point.latency_ratio * costs.baseline_latency_s, "s"),
            f"{point.tokens_needed:.2f}",
            f"{100 * point.tokens_needed / point.block:.1f} %",
            "yes" if point.near_free else "no",
            "-" if point.tokens_per_forward is None else f"{point.tokens_per_forward:g}",
            "-" if point.speedup is None else f"{point.speedup:.2f}x",
        )
        for point in decision.blocks
    ]
    lines += aligned(head, rows)
    free = decision.largest_near_free
    lines.append(f"largest near-free block: {free.block if free else 'none of those looked at'}")
    if decision.best is not None:
        lines.append(f"best measured block: {decision.best.block}, {decision.best.speedup or 0:.2f}x")
    if costs.scope:
        lines.append(f"TPF: {costs.scope}")
    lines += [f"warning  {warning}" for warning in costs.warnings]
    return "\n".join(lines)


def aligned(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns set flush right, two spaces apart."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
