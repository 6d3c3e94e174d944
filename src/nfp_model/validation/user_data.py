"""A user's own timings as CSV or JSON: read with one-line errors that name the place, written whole or not at all.

A CSV file may begin with comment lines (``#``); then a header and one row per timing. The columns are the fields of
:class:`~nfp_model.validation.records.Measurement` and of the shape the row's operator needs; what an operator does not
have stays empty. A JSON file is ``{"comments": [...], "measurements": [{...}, ...]}`` with the same names.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

from nfp_model.errors import InvalidArgumentError, NfpModelError, unknown_name
from nfp_model.validation.records import OPERATOR_KINDS, SHAPE_TYPES, Measurement
from nfp_model.validation.shapes import Shape

LABELS = [f.name for f in fields(Measurement) if f.name not in ("shape", "tokens", "seconds", "spread")]
SHAPE_COLUMNS = list(dict.fromkeys(f.name for shape in SHAPE_TYPES.values() for f in fields(shape)))
COLUMNS = [*LABELS, *SHAPE_COLUMNS, "tokens", "seconds", "spread"]
"""Every column a file may have."""

REQUIRED = ("operator", "gpu", "backend", "tokens", "seconds")


def read_records(path: str | Path) -> tuple[Measurement, ...]:
    """Read timings from a ``.csv`` or ``.json`` file.

    Parameters
    ----------
    path : str or Path
        The file; seconds are seconds [s], spreads relative [-].

    Raises
    ------
    InvalidArgumentError
        For anything that is not a timing; the message names file, line (CSV) or entry (JSON) and column.
    """
    path = Path(path)
    reader = {".csv": _read_csv, ".json": _read_json}.get(path.suffix.lower())
    if reader is None:
        raise InvalidArgumentError(f"{path}: timings are read from .csv or .json, not '{path.suffix}'")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidArgumentError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{path}: not UTF-8 text (byte {error.start})") from None
    found = tuple(_measurement(row, place) for place, row in reader(path, text))
    if not found:
        raise InvalidArgumentError(f"{path}: no timings in it")
    return found


def write_records(path: str | Path, measurements: Iterable[Measurement], comments: Iterable[str] = ()) -> None:
    """Write timings to a ``.csv`` or ``.json`` file that :func:`read_records` reads back equal.

    The file appears whole or, on any failure, is left as it was.

    Parameters
    ----------
    path : str or Path
        Where; an existing file is replaced.
    measurements : iterable of Measurement
        What.
    comments : iterable of str
        Header lines: how and on what it was timed.

    Raises
    ------
    InvalidArgumentError
        For another suffix, or nothing to write.

    Examples
    --------
    >>> from nfp_model.validation.published import mixtral_h100_vllm
    >>> points = list(mixtral_h100_vllm().curves[0].measurements())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_records(Path(folder) / "mine.csv", points, ["one H100, bf16"])
    ...     read_records(Path(folder) / "mine.csv") == tuple(points)
    True
    """
    path = Path(path)
    rows = [_row(point) for point in measurements]
    if path.suffix.lower() not in (".csv", ".json"):
        raise InvalidArgumentError(f"{path}: timings are written to .csv or .json, not '{path.suffix}'")
    if not rows:
        raise InvalidArgumentError(f"{path}: no timings to write")
    notes = [line for comment in comments for line in comment.splitlines()]
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", text=True)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            if path.suffix.lower() == ".json":
                json.dump({"comments": notes, "measurements": rows}, file, indent=1)
                file.write("\n")
            else:
                file.writelines(f"# {note}\n" for note in notes)
                used = [column for column in COLUMNS if any(column in row for row in rows)]
                table = csv.DictWriter(file, used, lineterminator="\n")
                table.writeheader()
                table.writerows(rows)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _row(point: Measurement) -> dict[str, Any]:
    shape = asdict(point.shape)
    labels = {name: getattr(point, name) for name in (*LABELS, "tokens", "seconds", "spread")}
    return {name: value for name, value in {**labels, **shape}.items() if value is not None and value != ""}


def _read_csv(path: Path, text: str) -> Iterable[tuple[str, dict[str, Any]]]:
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1)]
    body = [(number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not body:
        raise InvalidArgumentError(f"{path}: no header line")
    header = [name.strip() for name in next(csv.reader([body[0][1]]))]
    _check_columns(header, f"{path}, line {body[0][0]}", REQUIRED)
    for number, line in body[1:]:
        place = f"{path}, line {number}"
        cells = [cell.strip() for cell in next(csv.reader([line]))]
        if len(cells) != len(header):
            raise InvalidArgumentError(f"{place}: {len(cells)} cells, the header has {len(header)}")
        yield place, {name: cell for name, cell in zip(header, cells, strict=True) if cell}


def _read_json(path: Path, text: str) -> Iterable[tuple[str, dict[str, Any]]]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidArgumentError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
    entries = data.get("measurements") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise InvalidArgumentError(f"{path}: needs an object with a list 'measurements'")
    for number, entry in enumerate(entries, start=1):
        place = f"{path}, entry {number}"
        if not isinstance(entry, dict):
            raise InvalidArgumentError(f"{place}: must be an object, got {entry!r}")
        _check_columns(entry, place, ())
        yield place, {name: value for name, value in entry.items() if value is not None and value != ""}


def _check_columns(names: Iterable[str], place: str, required: Iterable[str]) -> None:
    names = list(names)
    for name in names:
        if name not in COLUMNS:
            raise InvalidArgumentError(f"{place}: {unknown_name('column', name, COLUMNS)}")
        if names.count(name) > 1:
            raise InvalidArgumentError(f"{place}: column '{name}' is there twice")
    for name in required:
        if name not in names:
            raise InvalidArgumentError(f"{place}: column '{name}' is missing")


def _measurement(row: Mapping[str, Any], place: str) -> Measurement:
    for name in REQUIRED:
        if name not in row:
            raise InvalidArgumentError(f"{place}, column '{name}': empty")
    operator = row["operator"]
    if operator not in OPERATOR_KINDS:
        fault = unknown_name("operator", str(operator), OPERATOR_KINDS)
        raise InvalidArgumentError(f"{place}, column 'operator': {fault}")
    shape = SHAPE_TYPES[operator]
    hints = {**get_type_hints(Measurement), **get_type_hints(shape)}
    values = {name: _converted(value, hints.get(name), f"{place}, column '{name}'") for name, value in row.items()}
    try:
        return Measurement(shape=_shape(shape, operator, values, place), **_without(values, SHAPE_COLUMNS))
    except NfpModelError as error:
        raise InvalidArgumentError(_placed(place, error)) from None


def _shape(shape: type[Shape], operator: str, values: dict[str, Any], place: str) -> Shape:
    own = {f.name: f for f in fields(shape)}
    for name in values:
        if name in SHAPE_COLUMNS and name not in own:
            raise InvalidArgumentError(f"{place}, column '{name}': {operator} has none; it has {', '.join(own)}")
    for name, field in own.items():
        if field.default is MISSING and name not in values:
            raise InvalidArgumentError(f"{place}, column '{name}': empty, {operator} needs it")
    return shape(**{name: value for name, value in values.items() if name in own})


def _without(values: dict[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _placed(place: str, error: NfpModelError) -> str:
    """An error of a deeper layer, with its place in the file in front unless it has one."""
    text = str(error)
    return text if text.startswith(place) else f"{place}: {text}"


def _converted(value: Any, hint: Any, place: str) -> Any:
    """A cell as the type its field has; 1.5 and true are no whole numbers."""
    kinds = {str(kind) for kind in getattr(hint, "__args__", (hint,))}
    text = value if isinstance(value, str) else None
    if str(bool) in kinds:
        words = {"true": True, "false": False, "1": True, "0": False}
        if isinstance(value, bool) or (text is not None and text.lower() in words):
            return value if text is None else words[text.lower()]
        raise InvalidArgumentError(f"{place}: {value!r} is not true or false")
    for kind, words_for in ((int, "a whole number"), (float, "a number")):
        if str(kind) not in kinds:
            continue
        try:
            if isinstance(value, bool) or (kind is int and isinstance(value, float)):
                raise ValueError
            return kind(value)
        except (TypeError, ValueError):
            raise InvalidArgumentError(f"{place}: {value!r} is not {words_for}") from None
    if text is None:
        raise InvalidArgumentError(f"{place}: {value!r} is not text")
    return text
