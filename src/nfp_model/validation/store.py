"""Measured points in a CSV file that survives being stopped: whole lines only, a torn last one dropped on resume."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nfp_model.errors import NfpModelError, SpecError
from nfp_model.validation.cases import KEY_COLUMNS, Case
from nfp_model.validation.timing import DeviceState, Samples

SIZE_COLUMNS = ("tokens", "positions", "batch", "context")
RESULT_COLUMNS = (
    "seconds_median", "seconds_q10", "seconds_q90", "repeats", "executions", "copies", "l2_state",
    "sm_clock_mhz_before", "sm_clock_mhz_after", "temperature_c_before", "temperature_c_after", "note",
)  # fmt: skip

PointKey = tuple[str, ...]

SAME_DEVICE = ("device", "torch", "driver")
"""Header entries that must not change between the parts of one file."""


def columns_of(kind: str) -> tuple[str, ...]:
    """The columns of one kind's file, in order.

    Examples
    --------
    >>> columns_of("ceilings")[:3]
    ('operator', 'probe', 'tokens')
    """
    return ("operator", *KEY_COLUMNS[kind], *SIZE_COLUMNS, *RESULT_COLUMNS)


def point_key(case: Case, positions: int, l2_asked: str) -> PointKey:
    """What makes a measured point the same point: operator, key columns, sizes and whether L2 was to be warm."""
    sizes = (case.batch * positions, positions, case.batch, case.context)
    return (case.operator, *map(str, case.key), *map(str, sizes), "warm" if l2_asked == "warm" else "cold")


@dataclass
class RecordStore:
    """One kind's file, opened for appending.

    Attributes
    ----------
    path : Path
        The CSV file; made with its header when missing.
    kind : str
        One of the kinds of measurement.
    header : mapping
        Written as ``# name: value`` lines above the column names of a new file.
    points : dict
        Finished points -> median seconds [s].
    remarks : list of str
        Comment lines of the file so far.
    dropped : int
        Torn lines removed on opening [-].

    Raises
    ------
    SpecError
        When the file is no such table, or was measured on another device or other versions.
    """

    path: Path
    kind: str
    header: Mapping[str, str]
    points: dict[PointKey, float] = field(default_factory=dict, init=False)
    remarks: list[str] = field(default_factory=list, init=False)
    dropped: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        try:
            text = self.path.read_bytes().decode("utf-8", errors="replace") if self.path.exists() else ""
        except OSError as error:
            raise SpecError(f"{self.path}: cannot be read ({error.strerror})") from None
        if not self._read(text):
            self._create()

    def _create(self) -> None:
        text = header_text(self.header, columns_of(self.kind))
        staged = self.path.with_name(self.path.name + ".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # The header appears whole or not at all.
            _write_through(staged, "w", text)
            os.replace(staged, self.path)
        except OSError as error:
            raise SpecError(f"{self.path}: cannot be written ({error.strerror})") from None

    def _read(self, text: str) -> bool:
        """Take over what is in the file; False when there is nothing to take over."""
        if not text.strip():
            return False
        whole = text[: text.rfind("\n") + 1]
        torn = text[len(whole) :]
        rows = [line for line in whole.splitlines() if line and not line.startswith("#")]
        columns = columns_of(self.kind)
        if not rows or next(csv.reader(rows[:1])) != list(columns):
            raise SpecError(f"{self.path}: not a file of {self.kind} measurements; choose another --out")
        self.remarks = [line[2:] for line in whole.splitlines() if line.startswith("# ")]
        self._refuse_another_device()
        for number, row in enumerate(csv.DictReader(rows), start=1):
            self._take(row, columns, number)
        if torn:
            self.dropped = 1
            self.path.write_bytes(whole.encode("utf-8"))
        return True

    def _take(self, row: Mapping[str | None, str | None], columns: Sequence[str], number: int) -> None:
        try:
            cells = [row[column] or "" for column in columns]
            seconds = float(row["seconds_median"] or "")
            if None in row or not seconds > 0:
                raise ValueError
        except (KeyError, ValueError):
            raise SpecError(f"{self.path}: row {number} is not a whole record") from None
        key = cells[: 1 + len(KEY_COLUMNS[self.kind]) + len(SIZE_COLUMNS)]
        self.points[(*key, "warm" if row["l2_state"] == "warm" else "cold")] = seconds

    def _refuse_another_device(self) -> None:
        written: dict[str, str] = {}
        for remark in self.remarks:
            name, _, value = remark.partition(": ")
            written.setdefault(name, value)
        for name in SAME_DEVICE:
            before, now = written.get(name), self.header.get(name)
            if before is not None and now is not None and before != _one_line(now):
                raise SpecError(f"{self.path}: measured with {name} {before}, this is {now}; choose another --out")

    def append(
        self, case: Case, positions: int, l2_asked: str, samples: Samples, before: DeviceState, after: DeviceState
    ) -> None:
        """Add one finished point: written, flushed and synced before it counts.

        Raises
        ------
        NfpModelError
            When the disk refuses.
        """
        low, median, high = samples.quantiles()
        key = point_key(case, positions, l2_asked)
        results = (
            f"{median:.9g}", f"{low:.9g}", f"{high:.9g}", len(samples.seconds), samples.executions, samples.copies,
            samples.l2_state, before.sm_clock_mhz, after.sm_clock_mhz, before.temperature_c, after.temperature_c,
            samples.note,
        )  # fmt: skip
        self._add(_csv_line((*key[:-1], *results)))
        self.points[key] = median

    def remark(self, text: str) -> None:
        """Add a comment line: a refused case, a resumed run."""
        self._add(f"# {_one_line(text)}\n")

    def _add(self, line: str) -> None:
        try:
            _write_through(self.path, "a", line)
        except OSError as error:
            raise NfpModelError(f"{self.path}: cannot be written ({error.strerror})") from None

    def measured(self, case: Case, l2_asked: str) -> dict[int, float]:
        """Finished points of one case: positions -> median seconds."""
        sizes = 2 + len(case.key)  # the column after operator, key and tokens
        wanted = point_key(case, 1, l2_asked)
        found = {}
        for key, seconds in self.points.items():
            if key[: sizes - 1] == wanted[: sizes - 1] and key[sizes + 1 :] == wanted[sizes + 1 :]:
                found[int(key[sizes])] = seconds
        return found


def header_text(header: Mapping[str, str], columns: Sequence[str]) -> str:
    """What stands above the first row of a measured table: its header as comments, and the names of its columns.

    Examples
    --------
    >>> print(header_text({"title": "kernels"}, ("rows", "kernel")), end="")
    # title: kernels
    rows,kernel
    """
    return "".join(f"# {name}: {_one_line(value)}\n" for name, value in header.items()) + _csv_line(columns)


def _one_line(value: str) -> str:
    return " ".join(str(value).split())


def _csv_line(cells: Sequence[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _write_through(path: Path, mode: str, text: str) -> None:
    with open(path, mode, encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
