"""What a person read in the worst curves: notes in TOML, joined to the curves they speak of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pydantic import Field

from nfp_model.specs.base import Spec
from nfp_model.validation.score_records import RowKey

Cause = Literal["kernel switch", "data fault", "missing term", "thin fit", "not understood"]

CAUSES: dict[Cause, str] = {
    "kernel switch": "the recording shows another kernel, tile or split take over where no size crosses a known rule",
    "data fault": "the recording cannot be right: faster than the memory, the same shape at two speeds, times falling at random",
    "missing term": "a cost that physics or the kernel's source names and the model lacks",
    "thin fit": "the constants come from too few shapes, or from other ones",
    "not understood": "looked at, and no cause found",
}
"""What a reading may find."""

UNREAD = "not read"
"""Stands for the cause of a curve no reading speaks of."""

FOLDER = "readings"
"""Where the notes lie, beside ``worst.csv``."""

Patterns = tuple[str, ...]


class Reading(Spec):
    """One note on curves that err for the same reason.

    Attributes
    ----------
    title : str
        What the curves are, in a few words.
    cause : str
        One of :data:`CAUSES`.
    goals, gpus, backends, dtypes, settings, curves : tuple of str
        Patterns with ``*`` on the goal's title, the row's names and the curve's name; a curve is meant that matches one of each.
    why : str
        What was seen and what was checked.
    """

    title: str = Field(min_length=1)
    cause: Cause
    goals: Patterns = ("*",)
    gpus: Patterns = ("*",)
    backends: Patterns = ("*",)
    dtypes: Patterns = ("*",)
    settings: Patterns = ("*",)
    curves: Patterns
    why: str = Field(min_length=1)

    def speaks_of(self, goal: str, row: RowKey, curve: str) -> bool:
        """Whether the note is on this curve of this row.

        Examples
        --------
        >>> from nfp_model.validation.score_records import RowKey
        >>> note = Reading(title="thin", cause="kernel switch", gpus=("h200*",), curves=("gemm|256|*",), why="falls at 10 rows")
        >>> row = RowKey("gemm", "h200_sxm", "vllm", "bfloat16")
        >>> note.speaks_of("GEMM bf16", row, "gemm|256|51200"), note.speaks_of("GEMM bf16", row, "gemm|512|51200")
        (True, False)
        """
        named = (
            (goal, self.goals), (row.gpu, self.gpus), (row.backend, self.backends), (row.dtype, self.dtypes),
            (row.setting, self.settings), (curve, self.curves),
        )  # fmt: skip
        return all(any(fnmatchcase(name, pattern) for pattern in patterns) for name, patterns in named)


class Readings(Spec):
    """A file of notes: ``[[reading]]`` tables, the first that speaks of a curve is its reading."""

    reading: tuple[Reading, ...] = ()


def load_readings(folder: Path) -> tuple[Reading, ...]:
    """The notes of every ``*.toml`` of a folder, by file name and place; none where there is no folder.

    Raises
    ------
    SpecError
        Naming the file and the key, where a note is not one.
    """
    return tuple(note for path in sorted(folder.glob("*.toml")) for note in Readings.from_toml(path).reading)


def reading_of(readings: Iterable[Reading], goal: str, row: RowKey, curve: str) -> Reading | None:
    """The first note that speaks of a curve, ``None`` where none does."""
    return next((note for note in readings if note.speaks_of(goal, row, curve)), None)


def silent(readings: Sequence[Reading], spoken: Iterable[Reading]) -> list[str]:
    """Titles of notes that speak of no curve any more: what they describe has been mended, or is no longer among the worst."""
    used = {id(note) for note in spoken}
    return [note.title for note in readings if id(note) not in used]


__all__ = ["CAUSES", "FOLDER", "UNREAD", "Cause", "Reading", "Readings", "load_readings", "reading_of", "silent"]
