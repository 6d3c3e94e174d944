"""Habits that bit other libraries, looked for in our own sources; every finder is shown to find its mistake."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import nfp_model

ROOT = Path(__file__).parents[2]
SOURCES = sorted(Path(nfp_model.__file__).parent.rglob("*.py"))
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))

DECLARATIVE = {"field", "Field", "Option", "Argument", "Interconnect", "DraftCost", "frozenset", "tuple", "float"}
"""Calls that make an immutable value or a declaration: harmless as defaults."""


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def defaults_computed_at_import(source: str) -> Iterator[str]:
    """Calls in default arguments: evaluated once, when the module is imported (zigzag ``api.py``)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
                calls = [called(call) for call in ast.walk(default) if isinstance(call, ast.Call)]
                mutable = isinstance(default, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)
                if mutable or set(calls) - DECLARATIVE:
                    yield f"line {default.lineno}: {ast.unparse(default)}"


def root_logger_configured(source: str) -> Iterator[str]:
    """``logging.basicConfig`` in a library takes the user's logging over (zigzag ``api.py``)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and called(node) in (
            "basicConfig",
            "setLevel",
            "captureWarnings",
            "simplefilter",
        ):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def long_floats_compared_exactly(source: str) -> Iterator[str]:
    """``== 0.123456789``: a golden value written by the tool itself, compared to the last bit (GenZ ``tests/``)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq) for op in node.ops):
            for side in (node.left, *node.comparators):
                digits = (
                    repr(side.value).split("e")[0].replace(".", "").strip("0") if isinstance(side, ast.Constant) else ""
                )
                if isinstance(side, ast.Constant) and isinstance(side.value, float) and len(digits) > 7:
                    yield f"line {side.lineno}: {ast.unparse(node)}"


def findings(find: object, paths: list[Path]) -> list[str]:
    assert callable(find)
    return [f"{path.relative_to(ROOT)}: {what}" for path in paths for what in find(path.read_text(encoding="utf-8"))]


def test_no_default_argument_is_computed_at_import() -> None:
    assert findings(defaults_computed_at_import, SOURCES) == []
    assert list(defaults_computed_at_import("def f(now=time.time()): ...\ndef g(*, x=[]): ...")) != []
    assert len(list(defaults_computed_at_import("def f(now=time.time()): ...\ndef g(*, x=[]): ..."))) == 2


def test_the_library_leaves_logging_and_warnings_alone() -> None:
    assert findings(root_logger_configured, SOURCES) == []
    assert list(root_logger_configured("import logging\nlogging.basicConfig(level=10)")) != []


def test_no_test_compares_a_computed_float_to_its_last_bit() -> None:
    assert findings(long_floats_compared_exactly, TESTS) == []
    assert list(long_floats_compared_exactly("assert f() == 0.12345678912")) != []
    assert list(long_floats_compared_exactly("assert f() == pytest.approx(0.12345678912)")) == []


def skipped_cells(notebook: str) -> list[int]:
    """Cells marked not to run (accelforge: the notebooks that reproduce publications were the ones CI skipped)."""
    marks = {"skip-execution", "skip", "nbmake-skip"}
    cells = json.loads(notebook)["cells"]
    return [number for number, cell in enumerate(cells) if marks & set(cell.get("metadata", {}).get("tags", []))]


def test_no_notebook_is_skipped() -> None:
    notebooks = sorted((ROOT / "examples").glob("*.ipynb"))
    assert notebooks
    assert [path.name for path in notebooks if skipped_cells(path.read_text(encoding="utf-8"))] == []
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--nbmake" in recipe
    assert "--ignore" not in recipe
    assert "--deselect" not in recipe
    assert skipped_cells('{"cells": [{"metadata": {"tags": ["skip-execution"]}}]}') == [0]
