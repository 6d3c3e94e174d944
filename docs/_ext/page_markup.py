"""Small helpers that write Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|$~])")


def text(value: object) -> str:
    """Free text with nothing in it read as markup."""
    return _SPECIAL.sub(r"\\\1", str(value)).replace("\n", " ")


def code(value: object) -> str:
    """A code span; ``|`` would end a table cell."""
    return f"`{value}`".replace("|", "\\|")


def codes(values: Iterable[object]) -> str:
    """Code spans, separated by commas."""
    return ", ".join(code(value) for value in values)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its cells already written as Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell or " " for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def anchor(kind: str, name: str) -> str:
    """Target name of a generated heading, for links ``[...](#kind-name)``."""
    return f"{kind}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}"


def target(kind: str, name: str) -> str:
    """The line that sets a target before a heading or paragraph."""
    return f"({anchor(kind, name)})=\n"
