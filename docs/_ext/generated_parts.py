"""Sphinx extension: marks in a page are replaced by what the library knows, while the page is read.

``<!-- generated: NAME -->`` takes the part of that name from :data:`PARTS`; ``<!-- run: nfp ... -->`` becomes the command and
what it prints today, so that no page shows a number the code no longer gives.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import api_names
import bibliography
import equations
import granularity
import nomenclature
import spec_lists

PARTS: dict[str, Callable[[], str]] = {
    "public names": api_names.public_names,
    "bibliography": bibliography.bibliography,
    "granularity": granularity.granularity_page,
    "symbols": nomenclature.symbol_table,
    "constants": nomenclature.constants_table,
    "storage formats": nomenclature.storage_formats,
    "hardware": spec_lists.hardware_list,
    "models": spec_lists.model_list,
    "calibrations": spec_lists.calibration_list,
    "validation pages": lambda: "\n".join(sorted(path.stem for path in PAGES.glob("validation*.md"))),
    **equations.PARTS,
}
"""Part name -> Markdown."""

PAGES = Path(__file__).resolve().parents[1]
"""The documentation folder."""

MARK = re.compile(r"^<!-- generated: (?P<part>.+?) -->$|^<!-- run: (?P<command>nfp .+?) -->$", re.MULTILINE)


def run_command(command: str) -> str:
    """A console block: the command and what it prints.

    Raises
    ------
    RuntimeError
        When the command fails; the page must not be built.
    """
    from typer.testing import CliRunner

    from nfp_model.cli.app import app

    result = CliRunner().invoke(app, shlex.split(command)[1:])
    if result.exit_code:
        raise RuntimeError(f"{command} ended with {result.exit_code}: {result.output}{result.exception or ''}")
    return f"```text\n$ {command}\n{result.output.rstrip()}\n```"


def with_parts(page: str) -> str:
    """A page with every mark replaced.

    Raises
    ------
    KeyError
        For a part nobody generates.
    """
    return MARK.sub(lambda found: run_command(found["command"]) if found["command"] else PARTS[found["part"]](), page)


ABSOLUTE = re.compile(r"\|([^|`]+)\|")


def _plain_bars(app: Any, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Docstrings write absolute values as ``|x|``, which reStructuredText would take for a substitution."""
    lines[:] = [line if line.lstrip().startswith((">>>", "...")) else ABSOLUTE.sub(r"\\|\1\\|", line) for line in lines]


def _read(app: Any, name: str, content: list[str]) -> None:
    content[0] = with_parts(content[0])


def setup(app: Any) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _plain_bars)
    return {"version": "1", "parallel_read_safe": True}
