"""Acceptance as users hold it: a number, a list, a few words on a command line, or a measured file."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nfp_model.acceptance.chains import (
    AcceptanceModel,
    ConditionalAcceptance,
    ConstantAcceptance,
    LengthCurve,
    PrefixAcceptance,
    prefix_from_length,
)
from nfp_model.acceptance.trees import TreeAcceptance
from nfp_model.errors import InvalidArgumentError, NfpModelError, unknown_name

FORMS = ("unconditional", "conditional", "length", "lengths", "tree")


def acceptance_from(value: AcceptanceModel | float | str | Path | Sequence[float]) -> AcceptanceModel:
    """The acceptance model meant by whatever form the user has.

    Parameters
    ----------
    value : AcceptanceModel, float, sequence of float, str or Path
        A number is a constant per-token rate [-]; a list holds unconditional per-position rates, as engines report
        them. Text is a number, numbers with commas (the same list), ``unconditional:...``, ``conditional:...``,
        ``length:2.6@3`` (mean accepted length measured with 3 drafts), ``lengths:1.8,2.4,...`` (for 1, 2, ... drafts),
        ``tree:0.6,0.2`` (rank rates), or the path of a file that :func:`read_acceptance` reads.

    Raises
    ------
    InvalidArgumentError
        For rates outside [0, 1], an unreadable form, or a file that is none.

    Examples
    --------
    >>> acceptance_from("0.7")
    ConstantAcceptance(rate=0.7)
    >>> acceptance_from("0.73,0.521").expected_tokens(2)
    2.251
    >>> acceptance_from("conditional:0.8,0.5").expected_tokens(2)
    2.2
    >>> acceptance_from("length:2.5@4").expected_tokens(4)
    2.5
    """
    if isinstance(value, AcceptanceModel):
        return value
    if isinstance(value, Path):
        return read_acceptance(value)
    if isinstance(value, str):
        return _from_text(value.strip())
    if isinstance(value, (int, float)):
        return ConstantAcceptance(value)
    return PrefixAcceptance(tuple(float(rate) for rate in value))


def _from_text(text: str) -> AcceptanceModel:
    form, colon, rest = text.partition(":")
    if colon and form in FORMS:
        return _from_form(form, rest, text)
    numbers = _numbers(text)
    if numbers is None:
        if Path(text).suffix.lower() in {".json", ".csv"} or Path(text).is_file():
            return read_acceptance(Path(text))
        forms = ", ".join(f"{form}:..." for form in FORMS)
        raise InvalidArgumentError(
            f"acceptance '{text}' is neither a rate, a list of rates, one of {forms}, nor a .csv or .json file"
        )
    return ConstantAcceptance(numbers[0]) if len(numbers) == 1 else PrefixAcceptance(numbers)


def _from_form(form: str, rest: str, text: str) -> AcceptanceModel:
    if form == "length":
        mean, at, drafts = rest.partition("@")
        length = _numbers(mean)
        if not at or length is None or len(length) != 1 or not drafts.strip().isdigit():
            raise InvalidArgumentError(f"a mean accepted length is given as 'length:2.6@3' (3 drafts), got '{text}'")
        return prefix_from_length(length[0], int(drafts))
    numbers = _numbers(rest)
    if numbers is None:
        raise InvalidArgumentError(f"'{form}:' takes numbers with commas between, got '{text}'")
    return _model(form, numbers)


def _model(form: str, numbers: tuple[float, ...]) -> AcceptanceModel:
    if form == "unconditional":
        return PrefixAcceptance(numbers)
    if form == "conditional":
        return ConditionalAcceptance(numbers)
    if form == "lengths":
        return LengthCurve(numbers)
    return TreeAcceptance((numbers,))


def _numbers(text: str) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        return None


def read_acceptance(path: Path) -> AcceptanceModel:
    """Read a measured acceptance file.

    JSON: one object with exactly one of ``unconditional``, ``conditional``, ``lengths``, ``tree`` (lists of numbers),
    ``constant`` (a number), ``length`` with ``drafts``, or engine counters ``drafts`` (draft rounds) with
    ``accepted_per_position`` (vLLM's ``vllm:spec_decode_num_drafts`` and ``..._num_accepted_tokens_per_pos``), whose
    quotients are unconditional rates. A ``source`` string may stand beside it.

    CSV: a header line ``position,unconditional``, ``position,conditional`` or ``position,drafts,accepted``, then one
    line a position, counted from 1 without gaps; lines starting with # are comments.

    Parameters
    ----------
    path : Path
        A file ending in ``.json`` or ``.csv``.

    Raises
    ------
    InvalidArgumentError
        Naming the file and what is wrong in it.
    UnknownNameError
        For an unknown key or column.
    """
    readers = {".json": _from_json, ".csv": _from_csv}
    if path.suffix.lower() not in readers:
        raise InvalidArgumentError(f"an acceptance file ends in .csv or .json, got '{path}'")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidArgumentError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"{path}: not UTF-8 text") from None
    try:
        return readers[path.suffix.lower()](text)
    except NfpModelError as error:
        raise type(error)(f"{path}: {error}") from None


_JSON_KEYS = (
    "constant",
    "unconditional",
    "conditional",
    "lengths",
    "tree",
    "length",
    "drafts",
    "accepted_per_position",
    "source",
)


def _from_json(text: str) -> AcceptanceModel:
    try:
        data: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidArgumentError(f"not valid JSON ({error.msg} at line {error.lineno})") from None
    if not isinstance(data, dict):
        raise InvalidArgumentError(f"must hold one JSON object, got {type(data).__name__}")
    for key in data:
        if key not in _JSON_KEYS:
            raise unknown_name("acceptance key", key, _JSON_KEYS)
    keys = frozenset(data) - {"source"}
    if keys == {"constant"}:
        return ConstantAcceptance(_number(data, "constant"))
    if keys == {"length", "drafts"}:
        return prefix_from_length(_number(data, "length"), _count(data, "drafts"))
    if keys == {"drafts", "accepted_per_position"}:
        return _from_counts(_count(data, "drafts"), _list(data, "accepted_per_position"))
    if len(keys) == 1 and keys <= set(FORMS) - {"length"}:
        form = next(iter(keys))
        return _model(form, _list(data, form))
    raise InvalidArgumentError(
        "must hold exactly one of constant, unconditional, conditional, lengths, tree, length with drafts,"
        f" or drafts with accepted_per_position, got {', '.join(sorted(keys)) or 'none'}"
    )


def _number(data: dict[str, Any], key: str) -> float:
    if isinstance(data[key], bool) or not isinstance(data[key], (int, float)):
        raise InvalidArgumentError(f"key '{key}' must be a number, got {data[key]!r}")
    return float(data[key])


def _count(data: dict[str, Any], key: str) -> int:
    if isinstance(data[key], bool) or not isinstance(data[key], int) or data[key] < 1:
        raise InvalidArgumentError(f"key '{key}' must be a whole number of at least 1, got {data[key]!r}")
    return int(data[key])


def _list(data: dict[str, Any], key: str) -> tuple[float, ...]:
    values = data[key]
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        raise InvalidArgumentError(f"key '{key}' must be a list of numbers, got {values!r}")
    return tuple(float(v) for v in values)


def _from_counts(rounds: int, accepted: Sequence[float]) -> AcceptanceModel:
    return PrefixAcceptance(tuple(count / rounds for count in accepted))


def _from_csv(text: str) -> AcceptanceModel:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    header, body = (tuple(rows[0]), rows[1:]) if rows else ((), [])
    if header not in {("position", "unconditional"), ("position", "conditional"), ("position", "drafts", "accepted")}:
        raise InvalidArgumentError(
            "the header must be position,unconditional or position,conditional or position,drafts,accepted,"
            f" got '{','.join(header)}'"
        )
    values: list[tuple[float, ...]] = []
    for expected, row in enumerate(body, start=1):
        numbers = _numbers(",".join(row)) if len(row) == len(header) else None
        if numbers is None:
            raise InvalidArgumentError(f"data line {expected} must hold {len(header)} numbers, got '{','.join(row)}'")
        if numbers[0] != expected:
            raise InvalidArgumentError(f"positions must run 1, 2, 3, ..., got {row[0]} on data line {expected}")
        values.append(numbers[1:])
    if header[-1] != "accepted":
        return _model(header[-1], tuple(value for (value,) in values))
    if any(drafts <= 0 for drafts, _ in values):
        raise InvalidArgumentError("drafts must be above 0 on every line")
    # dividing by the rounds that drafted this position undoes the bias of a schedule that drafts less at large batch
    return PrefixAcceptance(tuple(accepted / drafts for drafts, accepted in values))
