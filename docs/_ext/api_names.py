"""The public names with their first lines, linked to the module that defines them."""

from __future__ import annotations

import inspect

from page_markup import table, text

import nfp_model


def first_line(thing: object) -> str:
    """The summary line of a docstring."""
    return (inspect.getdoc(thing) or "").split("\n", 1)[0]


def public_names() -> str:
    """Table of ``nfp_model.__all__``."""
    rows = []
    for name in nfp_model.__all__:
        thing = getattr(nfp_model, name)
        if isinstance(thing, str):
            continue
        rows.append((f"{{py:obj}}`{name} <{thing.__module__}.{thing.__qualname__}>`", text(first_line(thing))))
    return table(("name", "what it is"), rows)
