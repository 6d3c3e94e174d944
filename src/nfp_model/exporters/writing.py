"""What every export is made of: the engine's text, what it rests on, and a file written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nfp_model.errors import InvalidArgumentError, UnsupportedError
from nfp_model.scheduling import DraftSchedule

Rules = TypeVar("Rules", bound=BaseModel)


class EngineRules(BaseModel):
    """Base of the engines' rules, re-expressed: unknown keys are refused, as the engines do."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class ExportFacts:
    """What a schedule rests on; no engine has a place for it, so it goes into the head of the export.

    Attributes
    ----------
    hardware, model, backend : str
        Names the latencies were predicted for.
    context_length : int
        Cached tokens per sequence [tokens]: the tables have no context axis, so one holds for one context.
    acceptance : str
        Rates and their convention (``AcceptanceModel.description``).
    tolerance : float
        Near-free latency increase [-].
    rule : str
        ``near_free`` or ``throughput``.
    """

    hardware: str
    model: str
    backend: str
    context_length: int
    acceptance: str
    tolerance: float
    rule: str

    def lines(self) -> tuple[str, ...]:
        """The facts as one-line sentences.

        Examples
        --------
        >>> print(ExportFacts("h100", "qwen3-8b", "vllm", 4096, "constant 0.7", 0.1, "near_free").lines()[1])
        context 4096 tokens per sequence; the table has no context axis: another context needs another table
        """
        return tuple(
            " ".join(line.split())  # a line break in a name must not end the comment
            for line in (
                f"{self.model} on {self.hardware}, latencies of backend {self.backend}",
                f"context {self.context_length} tokens per sequence; the table has no context axis: "
                "another context needs another table",
                f"acceptance: {self.acceptance}; an input, not a prediction",
                f"rule {self.rule}, tolerance {self.tolerance:g}",
            )
        )


@dataclass(frozen=True)
class Export:
    """One schedule in one engine's syntax, checked by reading it back.

    Attributes
    ----------
    engine, versions : str
        Which engine, and the releases whose rules were followed.
    kind : {"flag", "json", "yaml"}
        A flag value; or the content of a file the engine reads.
    text : str
        Exactly what the engine parses.
    arguments : str
        Command-line words that go with it, quoted for a POSIX shell; FILE stands for the file's path.
    schedule : DraftSchedule or None
        What the engine will do with it: the schedule given, or as aligned to captured sizes. None for a setting that
        is no table.
    notes : tuple of str
        The engine's conditions and traps.
    facts : ExportFacts or None
        What the numbers rest on.
    """

    engine: str
    versions: str
    kind: Literal["flag", "json", "yaml"]
    text: str
    arguments: str
    schedule: DraftSchedule | None
    notes: tuple[str, ...] = ()
    facts: ExportFacts | None = None

    @property
    def header(self) -> tuple[str, ...]:
        """Lines to stand above the export: engine and versions, facts, notes."""
        head = f"nfp_model export for {self.engine}, {self.versions}"
        return (head, *(self.facts.lines() if self.facts else ()), *(f"note: {note}" for note in self.notes))

    @property
    def document(self) -> str:
        """The export with its header: comment lines above YAML or shell words, a ``_note`` key in JSON."""
        if self.kind == "json":
            return json.dumps({"_note": list(self.header), **json.loads(self.text)}) + "\n"
        body = self.text if self.kind == "yaml" else self.arguments + "\n"
        return "".join(f"# {line}\n" for line in self.header) + body

    def write(self, path: Path) -> None:
        """Write :attr:`document` whole or not at all; see :func:`write_whole`."""
        write_whole(path, self.document)


def checked(export: Export, read: Callable[[str], DraftSchedule]) -> Export:
    """Return the export if its text, read by the engine's rules, gives the schedule back at every batch size.

    Raises
    ------
    UnsupportedError
        Naming the first batch size where the engine would do something else.
    """
    if export.schedule is None:
        raise InvalidArgumentError("an export without a schedule cannot be checked against one")
    wanted, found = export.schedule.dense(), read(export.text).dense()
    for batch, (want, have) in enumerate(zip(wanted, found, strict=True), start=1):
        if want != have:
            raise UnsupportedError(f"{export.engine} would draft {have} instead of {want} tokens at batch {batch}")
    return export


def validated(rules: type[Rules], data: Any, engine: str) -> Rules:
    """Hold data to an engine's rules.

    Raises
    ------
    UnsupportedError
        One sentence: engine, key, rule.
    """
    try:
        return rules.model_validate(data)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            raise UnsupportedError(f"{engine} refuses the unknown key '{key}'") from None
        message = fault["msg"].removeprefix("Value error, ")
        raise UnsupportedError(f"{engine}: {key + ': ' if key else ''}{message}") from None


def read_json(text: str, engine: str) -> Any:
    """Decode JSON.

    Raises
    ------
    InvalidArgumentError
        Naming the engine and the line.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidArgumentError(f"{engine}: not valid JSON ({error.msg} at line {error.lineno})") from None


def read_flags(text: str, engine: str) -> dict[str, str]:
    """Command-line words as flag and value; a flag without value gets "".

    Raises
    ------
    InvalidArgumentError
        For unbalanced quotes, or a value without a flag.

    Examples
    --------
    >>> read_flags("--a 1 --b --c 'x y'", "engine")
    {'--a': '1', '--b': '', '--c': 'x y'}
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidArgumentError(f"{engine}: not command-line words ({error})") from None
    flags: dict[str, str] = {}
    flag = ""
    for word in words:
        if word.startswith("-"):
            flag = word
            flags[flag] = ""
        elif not flag or flags[flag]:
            raise InvalidArgumentError(f"{engine}: '{word}' is the value of no flag")
        else:
            flags[flag] = word
    return flags


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the whole new one, never a part.

    The text goes to a temporary file in the same folder, is flushed to disk and renamed over the target (rename is
    atomic within a POSIX file system).

    Parameters
    ----------
    path : Path
        Target; its folder must exist.
    text : str
        UTF-8 content.

    Raises
    ------
    InvalidArgumentError
        When the file cannot be written; the target is then as it was and nothing is left beside it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InvalidArgumentError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
