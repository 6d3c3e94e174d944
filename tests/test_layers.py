"""Data goes one way: the imports are read and held to the ranks of the layout."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import nfp_model

PACKAGE = Path(nfp_model.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

RANKS = {
    "errors": 0, "citations": 0, "quantities": 0.5,
    "specs": 1,
    "workload": 2, "operators": 2.5,
    "kernels": 3,
    "cost": 4,
    "curve": 5, "acceptance": 5, "baselines": 5.5,
    "boundary": 6, "uncertainty": 6.5,
    "prediction": 7,
    "plotting": 7.5,
    "sweeping": 8, "codesign": 8, "scheduling": 8, "exporters": 8.5,
    "__init__": 9,
    "cli": 10, "__main__": 10.5,
}  # fmt: skip
"""Layer of every module or folder; a half step orders neighbours on one layer. A folder may import itself."""

VALIDATION_USES = 7.0
"""``validation`` stands beside the ranks: it may use 0 to 7, and only the command line imports it."""

UPWARD = {("prediction.result", "plotting")}
"""The one lazy import upward: ``Prediction.plot`` is a convenience whose figure lives with the other figures."""

HEAVY = {
    "matplotlib",
    "torch",
    "pandas",
    "pyarrow",
    "aiconfigurator_core",
    "scipy",
    "huggingface_hub",
    "pynvml",
    "rich",
}
"""Imported inside functions only."""


class Import(NamedTuple):
    """One import statement: who, what, where it stands."""

    importer: str
    imported: str
    line: int
    lazy: bool


def module_name(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def layer(module: str) -> str:
    return module.split(".")[0]


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_of(source: str, importer: str) -> Iterator[Import]:
    """Every import of a file that runs, those for type checkers left out."""
    waiting: list[tuple[ast.AST, bool]] = [(ast.parse(source), False)]
    while waiting:
        node, lazy = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (Import(importer, alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer}:{node.lineno}: relative import"
            whole = node.module == "nfp_model"
            names = [f"nfp_model.{alias.name}" for alias in node.names] if whole else [str(node.module)]
            yield from (Import(importer, name, node.lineno, lazy) for name in names)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        children = node.orelse if isinstance(node, ast.If) and _type_checking(node) else ast.iter_child_nodes(node)
        waiting += [(child, inside) for child in children]


IMPORTS = [found for path in FILES for found in imports_of(path.read_text(encoding="utf-8"), module_name(path))]
OWN = [found for found in IMPORTS if found.imported == "nfp_model" or found.imported.startswith("nfp_model.")]


def wrong(found: Import) -> str | None:
    """Why an import of our own may not stand, or None."""
    target = found.imported.removeprefix("nfp_model").removeprefix(".") or "__init__"
    here, there = layer(found.importer), layer(target)
    where = f"{found.importer}:{found.line} imports {target}"
    if here == there or (found.importer, there) in UPWARD:
        return None if here == there or found.lazy else f"{where} eagerly"
    if there == "validation":
        return None if here == "cli" else f"{where}; only the command line may"
    if there not in RANKS:
        return None if _public(there) else f"{where}, which has no layer"
    if here == "validation":
        return None if RANKS[there] <= VALIDATION_USES else f"{where}, above what validation may use"
    return None if RANKS[there] < RANKS[here] else f"{where}, which is not below it"


def _public(name: str) -> bool:
    """``from nfp_model import predict_nfp``: allowed where ``nfp_model`` itself is."""
    return name == "__version__"


def test_every_module_has_a_layer() -> None:
    layers = {layer(module_name(path)) for path in FILES}
    assert layers - {"validation", "_data"} <= set(RANKS)


def test_modules_import_only_lower_layers() -> None:
    assert [reason for found in OWN if (reason := wrong(found))] == []


def test_the_upward_import_still_exists() -> None:
    standing = {(found.importer, layer(found.imported.removeprefix("nfp_model."))) for found in OWN if found.lazy}
    assert standing >= UPWARD


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("specs.model", "from nfp_model.cost.latency import BoundOperator"),
        ("kernels.gemm", "def f():\n    import nfp_model.curve"),
        ("boundary", "from nfp_model.validation.records import Record"),
        ("validation.score", "from nfp_model.plotting import plot_prediction"),
        ("prediction.result", "from nfp_model.plotting import plot_prediction"),
        ("curve", "from nfp_model import predict_nfp"),
    ],
)
def test_an_upward_import_is_seen(importer: str, source: str) -> None:
    assert any(wrong(found) for found in imports_of(source, importer))


def test_imports_for_type_checkers_are_exempt() -> None:
    source = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nfp_model.cost.latency import BoundOperator\n"
    )
    assert [found.imported for found in imports_of(source, "specs.model")] == ["typing"]


def test_heavy_packages_are_imported_inside_functions() -> None:
    eager = [
        found
        for found in IMPORTS
        if not found.lazy and layer(found.imported) in HEAVY and layer(found.importer) != "cli"
    ]
    assert eager == []


def test_sympy_is_imported_eagerly_only_by_the_cost_layer() -> None:
    eager = {layer(found.importer) for found in IMPORTS if not found.lazy and layer(found.imported) == "sympy"}
    assert eager == {"cost"}


def test_ceilings_stand_in_one_file() -> None:
    # Exact integer steps live in kernels/steps.py; a ceiling anywhere else in kernels or cost can move an edge.
    found = []
    for path in FILES:
        module = module_name(path)
        if layer(module) in ("kernels", "cost") and module != "kernels.steps":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += [
                f"{module}:{node.lineno}"
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and node.attr == "ceil"
            ]
    assert found == []


def test_no_module_is_named_like_a_public_function() -> None:
    modules = {part for path in FILES for part in module_name(path).split(".")}
    assert modules & set(nfp_model.__all__) == set()


def test_files_stay_short() -> None:
    lines = {module_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > 500} == {}
    assert statistics.median(lines.values()) < 200
