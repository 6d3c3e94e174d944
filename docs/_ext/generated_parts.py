"""Sphinx extension: marks in a page are replaced by what the library knows, while the page is read.

``<!-- generated: NAME -->`` takes the part of that name from :data:`PARTS`; ``<!-- run: nfp ... -->`` becomes the command and
what it prints today, so that no page shows a number the code no longer gives.
"""

from __future__ import annotations

import importlib.util
import json
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
from page_markup import code, table, text

PAGES = Path(__file__).resolve().parents[1]
"""The documentation folder."""


def validation_pages() -> str:
    """Toctree lines of the validation pages; a checkout before the first score has none."""
    found = [*PAGES.glob("validation*.md"), *PAGES.glob("validation*/index.md")]
    return "\n".join(sorted(path.relative_to(PAGES).with_suffix("").as_posix() for path in found))


def notebooks() -> str:
    """File and title of every notebook in ``examples/``."""
    rows = []
    for path in sorted((PAGES.parent / "examples").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        rows.append((code(f"examples/{path.name}"), text(first.split("\n", 1)[0].lstrip("# "))))
    return table(("notebook", "question"), rows)


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
    "validation pages": validation_pages,
    "notebooks": notebooks,
    **equations.PARTS,
}
"""Part name -> Markdown."""

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


def _forget_removed_modules(app: Any, config: Any) -> None:
    """Delete API pages of an earlier build whose module is gone."""
    for page in (PAGES / "api/generated").glob("*.rst"):
        try:
            found = importlib.util.find_spec(page.stem)
        except ModuleNotFoundError:
            found = None
        if found is None:
            page.unlink()


def setup(app: Any) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("config-inited", _forget_removed_modules)
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _plain_bars)
    return {"version": "1", "parallel_read_safe": True}
