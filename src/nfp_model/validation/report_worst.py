"""The worst curves of a score: the list, what kind of error each shows, and what was read in them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nfp_model.validation.goals import GoalResult
from nfp_model.validation.readings import CAUSES, FOLDER, UNREAD, Reading, reading_of, silent
from nfp_model.validation.report_tables import percent, table
from nfp_model.validation.score_records import RowKey, WorstCurve

KINDS = {
    "measured falls": "a measured latency falls by a fifth or more as tokens rise: a kernel switch, or a fault of the data",
    "level": "a constant factor; less than half the error is left without it",
    "step": "one place where predicted and measured part by half their whole spread: a tile or kernel switch elsewhere than predicted",
    "slope": "the rest",
}
"""Kinds of error, by ``score_rows.kind_of_error``."""

COLUMNS = (
    "goal", "gpu", "backend", "dtype", "setting", "constants", "curve", "mape", "kind", "tokens", "cause", "reading",
)  # fmt: skip
"""Columns of ``worst.csv``."""


@dataclass(frozen=True)
class ReadCurve:
    """One of the worst curves: the goal and the row it stands in, and the note that speaks of it, if one does."""

    goal: str
    row: RowKey
    curve: WorstCurve
    reading: Reading | None

    @property
    def cause(self) -> str:
        """One of ``readings.CAUSES``, or ``not read``."""
        return self.reading.cause if self.reading else UNREAD


def worst_curves(results: Iterable[GoalResult], readings: Sequence[Reading]) -> tuple[ReadCurve, ...]:
    """The worst 5 % of curves of every judged row, goal by goal, the worst of each first."""
    found = []
    for result in results:
        title = result.goal.title
        pairs = [(verdict.row.key, one) for verdict in result.verdicts for one in verdict.row.worst]
        found += [
            ReadCurve(title, key, one, reading_of(readings, title, key, one.name))
            for key, one in sorted(pairs, key=lambda pair: -pair[1].mape)
        ]
    return tuple(found)


def write_worst(worst: Iterable[ReadCurve], path: Path) -> None:
    """Every one of the worst curves as CSV."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for one in worst:
            row, curve = one.row, one.curve
            place = (one.goal, row.gpu, row.backend, row.dtype, row.setting, row.constants, curve.name)
            title = one.reading.title if one.reading else ""
            rows.writerow((*place, f"{curve.mape:.4f}", curve.kind, curve.tokens, one.cause, title))


def worst_table(worst: Sequence[ReadCurve]) -> str:
    """What the worst 5 % of curves of every row show, what was read in them, and the worst three of every goal."""
    goals: dict[str, list[ReadCurve]] = {}
    for one in worst:
        goals.setdefault(one.goal, []).append(one)
    found = (*CAUSES, UNREAD)
    kinds, causes, lines = [], [], []
    for goal, some in goals.items():
        shares = Counter(one.curve.kind for one in some)
        kinds.append((goal, str(len(some)), *(f"{100 * shares[name] / len(some):.0f} %" for name in KINDS)))
        counts = Counter(one.cause for one in some)
        causes.append((goal, str(len(some)), *(str(counts[name]) for name in found)))
        lines += [
            (
                goal, f"{one.row.gpu} {one.row.backend} {one.row.dtype}", f"`{one.curve.name.replace('|', ' ')}`",
                percent(one.curve.mape), one.curve.kind, one.reading.title if one.reading else UNREAD,
            )
            for one in some[:3]
        ]  # fmt: skip
    counts = Counter(one.cause for one in worst)
    causes.append(("all", str(len(worst)), *(str(counts[name]) for name in found)))
    text = (
        "The worst 5 % of curves of every row, at least one, by the kind of error that dominates; each one is in "
        "`validation/worst.csv`:\n\n"
    )
    text += "\n".join(f"- **{name}**: {what}." for name, what in KINDS.items()) + "\n\n"
    text += table(("goal", "curves", *KINDS), kinds)
    text += "\nThe same curves by what a person read in them ([](validation_worst.md)):\n\n"
    text += table(("goal", "curves", *found), causes)
    return text + (
        "\nThe three worst of every goal:\n\n" + table(("goal", "where", "curve", "MAPE", "kind", "reading"), lines)
    )


def worst_page(worst: Sequence[ReadCurve], readings: Sequence[Reading], command: str) -> str:
    """The page of all readings by cause, each with the number of worst curves it speaks of and their MAPE."""
    spoken: dict[int, list[ReadCurve]] = {}
    for one in worst:
        if one.reading:
            spoken.setdefault(id(one.reading), []).append(one)
    unread = sum(one.reading is None for one in worst)
    parts = [
        "# The worst curves, read\n",
        f"Written by `{command}`, which joins the notes in `docs/validation/{FOLDER}` to the worst 5 % of curves of every judged\n"
        f"row ({len(worst)} curves, at least one a row, all in `docs/validation/worst.csv`). The notes are written by hand: what is\n"
        "measured beside what is predicted, and what was checked. They were read on the test half, as the list is; values in kernel\n"
        f"files are chosen on the fit half alone. {unread} of the curves have no note.\n",
    ]
    for cause, what in CAUSES.items():
        mine = [note for note in readings if note.cause == cause and id(note) in spoken]
        mine.sort(key=lambda note: -len(spoken[id(note)]))
        if mine:
            count = sum(len(spoken[id(note)]) for note in mine)
            parts.append(f"## {cause.capitalize()} ({_curves(count)})\n\n{what.capitalize()}.\n")
            parts += [_note_line(note, spoken[id(note)]) for note in mine]
            parts.append("")
    left = silent(readings, (one.reading for one in worst if one.reading))
    if left:
        parts += ["## Notes on curves that are no longer among the worst\n", *(f"- {title}" for title in left), ""]
    return "\n".join(parts)


def _note_line(note: Reading, some: Sequence[ReadCurve]) -> str:
    errors = [one.curve.mape for one in some]
    reach = percent(min(errors)) + (f" to {percent(max(errors))}" if len(errors) > 1 else "")
    places = sorted({f"{one.row.gpu} {one.row.backend}" for one in some})
    where = ", ".join(places[:6]) + (f" and {len(places) - 6} more" if len(places) > 6 else "")
    return f"- **{note.title}** ({_curves(len(some))}, MAPE {reach}; {where}). {' '.join(note.why.split())}"


def _curves(count: int) -> str:
    return f"{count} curve" if count == 1 else f"{count} curves"


__all__ = ["COLUMNS", "KINDS", "ReadCurve", "worst_curves", "worst_page", "worst_table", "write_worst"]
