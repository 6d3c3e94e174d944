"""The public names with their first lines, linked to the module that defines them."""

from __future__ import annotations

import inspect
import re

from page_markup import code, table, text

import nfp_model

LITERAL = re.compile(r"(?:``|:[a-z]+:`~?(?:[a-zA-Z_.]+\.)?)([^`]+)``?")
"""Literals and roles of a docstring line."""


def first_line(thing: object) -> str:
    """The summary line of a docstring, as Markdown."""
    line = (inspect.getdoc(thing) or "").split("\n", 1)[0]
    parts = LITERAL.split(line)
    return "".join(code(part) if odd % 2 else text(part) for odd, part in enumerate(parts))


def public_names() -> str:
    """Table of ``nfp_model.__all__``."""
    rows = []
    for name in vars(nfp_model)["__all__"]:
        thing = getattr(nfp_model, name)
        if isinstance(thing, str):
            continue
        rows.append((f"{{py:obj}}`{name} <{thing.__module__}.{thing.__qualname__}>`", first_line(thing)))
    return table(("name", "what it is"), rows)
