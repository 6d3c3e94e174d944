"""The documentation says what the code does: symbols, kernels, sources, paths, commands; its examples run."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sympy as sp
import typer
from typer.testing import CliRunner

import nfp_model
from nfp_model.citations import CITATIONS, citations_in, gathered_citations
from nfp_model.cli.app import app
from nfp_model.cost import symbols as y
from nfp_model.cost.equations import CHAIN_SHARPNESS, Equation, equation, overlapped
from nfp_model.cost.symbols import SYMBOLS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

generated_parts = importlib.import_module("generated_parts")
page_markup = importlib.import_module("page_markup")

PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts and "generated" not in path.parts)
KERNEL_FILES = sorted((ROOT / "hardware_specs/kernels").glob("*.toml"))
FENCE = re.compile(r"^( *)```(?:\{code-block\} )?(\w+)\n(?: *:caption: (\S+)\n)?(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def page(name: str) -> str:
    """A page as Sphinx reads it, generated parts in place."""
    return str(generated_parts.with_parts((DOCS / name).read_text(encoding="utf-8")))


def blocks(path: Path) -> list[tuple[str, str, str]]:
    """(language, caption, text) of every fenced block of a page."""
    return [(found[2], found[3] or "", found[4]) for found in FENCE.finditer(path.read_text(encoding="utf-8"))]


def shown(path: Path, prefix: str) -> list[str]:
    """Lines of a page's console blocks that begin with a prefix, redirections cut off."""
    lines = [line.strip() for language, _, text in blocks(path) if language == "console" for line in text.split("\n")]
    return [line.removeprefix("$ ").split(" > ")[0].split("  #")[0] for line in lines if line.startswith(prefix)]


def commands(path: Path) -> list[str]:
    """Every ``$ nfp`` line of a page, and every command whose output the build puts into it."""
    marks = generated_parts.MARK.finditer(path.read_text(encoding="utf-8"))
    return shown(path, "$ nfp ") + [found["command"] for found in marks if found["command"]]


def parse(command: str) -> None:
    """Hold a command line to the application without running it; raises the parser's own error."""
    node: Any = typer.main.get_command(app)
    words = shlex.split(command)[1:]
    while words and hasattr(node, "commands"):
        node = node.commands[words.pop(0)]
    node.make_context("nfp", words)


def sources_in(value: Any) -> Iterator[str]:
    """Every ``source`` and every value of ``sources`` in a TOML file, however deep."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "source":
                yield inner
            elif key == "sources":
                yield from inner.values()
            else:
                yield from sources_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from sources_in(inner)


def test_nomenclature_lists_every_symbol_with_its_unit() -> None:
    text = page("nomenclature.md")
    for name, info in SYMBOLS.items():
        assert f"| ${sp.latex(info.symbol)}$ | `{name}` | `{info.unit}` |" in text
        assert page_markup.text(info.meaning) in text


def test_theory_uses_every_symbol() -> None:
    formulas = " ".join(a + b for a, b in re.findall(r"\$\$(.*?)\$\$|\$([^$]+)\$", page("theory.md"), re.DOTALL))
    unused = [name for name, info in SYMBOLS.items() if sp.latex(info.symbol) not in formulas]
    assert unused == []


@pytest.mark.parametrize("kind", ["gemm", "moe", "attention", "stream"])
def test_structure_told_in_theory_is_the_latency(kind: str) -> None:
    # The displayed structure: what the terms are, and how they join. The terms themselves are printed from the code.
    source: Equation = equation(kind)
    part = source.terms
    told = {
        "gemm": lambda: (
            part["fixed"]
            + (overlapped(y.p, part["memory"], part["matrix"]) ** CHAIN_SHARPNESS + part["chain"] ** 2)
            ** sp.Rational(1, 2)
            + part["rows"]
        ),
        "moe": lambda: part["fixed"] + overlapped(y.p, part["memory"], part["matrix"], part["chain"]) + part["rows"],
        "attention": lambda: part["fixed"] + overlapped(y.p, part["memory"], part["chain"], part["matrix"]),
        "stream": lambda: part["fixed"] + part["memory"],
    }[kind]()
    values = {symbol: sp.Rational(3 + index, 7) for index, symbol in enumerate(source.symbols)}
    assert float(told.subs(values).evalf()) == pytest.approx(float(source.latency.subs(values).evalf()), rel=1e-12)


@pytest.fixture(scope="module")
def granularity() -> str:
    return page("granularity.md")


@pytest.mark.parametrize("path", KERNEL_FILES, ids=lambda path: path.stem)
def test_granularity_page_has_every_kernel_row_and_source(path: Path, granularity: str) -> None:
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    assert page_markup.text(data["versions"]) in granularity
    for source in sources_in(data):
        assert page_markup.text(source) in granularity
    for kind in ("gemm", "moe", "attention"):
        for kernel in data.get(kind, []):
            heading = f"### `{data['name']}:{kernel['name']}`\n"
            assert heading in granularity
            section = granularity.split(heading)[1].split("\n### ")[0].split("\n## ")[0]
            rows = [*kernel.get("rows", []), *kernel.get("tuned", [])]
            tables = section.count("\n|---")
            assert section.count("\n|") == len(rows) + (2 * tables if rows else 0)
            assert ("**inferred**" in section) == (
                bool(kernel.get("inferred")) or any(row.get("inferred") for row in rows)
            )


def test_granularity_page_has_every_engine_default(granularity: str) -> None:
    for path in KERNEL_FILES:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        if "engine" in data:
            section = granularity.split(f"\n### {data['engine']}\n")[1].split("\n### ")[0].split("\n## ")[0]
            assert section.count("\n|") == len(data["rows"]) + 2


def test_every_kernel_and_hardware_source_is_in_the_bibliography() -> None:
    unknown = {
        source
        for folder in (
            "hardware_specs/kernels",
            "hardware_specs/nvidia",
            "hardware_specs/amd",
            "hardware_specs/google",
            "model_specs",
        )
        for path in (ROOT / folder).glob("*.toml")
        for source in sources_in(tomllib.loads(path.read_text(encoding="utf-8")))
        if not citations_in(source)
    }
    assert unknown == set()


def test_every_paper_named_anywhere_is_in_the_bibliography() -> None:
    files = [
        *(ROOT / "src").rglob("*.py"),
        *(ROOT / "hardware_specs").rglob("*.toml"),
        *(ROOT / "model_specs").glob("*.toml"),
        *PAGES,
    ]
    named = {
        number for path in files for number in re.findall(r"arXiv[: ](\d{4}\.\d{5})", path.read_text(encoding="utf-8"))
    }
    known = {citation.place.removeprefix("arXiv ") for citation in CITATIONS.values()}
    assert named - known == set()


def test_citations_of_a_prediction_are_its_equations_and_its_sources() -> None:
    found = gathered_citations(
        ["moe"], ["vLLM 0.33.0 vllm/model_executor/layers/fused_moe/fused_moe.py", "nobody's word"]
    )
    assert [citation.key for citation in found] == ["nfp", "moesd", "vllm"]
    with pytest.raises(KeyError):
        gathered_citations(["gem"], [])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_references_paths_and_modules_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\(#(cite-[^)]+)\)", text)) <= {page_markup.anchor("cite", key) for key in CITATIONS}
    outside = FENCE.sub("", text)
    for name in re.findall(r"`((?:src|hardware_specs|model_specs|tests|docs|examples|benchmarks)/[^`\s]*)`", outside):
        pattern = re.sub(r"<[^>]+>", "*", name).rstrip("/")
        assert list(ROOT.glob(pattern)), f"{name} does not exist"
    for role, name in re.findall(r"\{py:(mod|func|class|data)\}`(?:[^`<]*<)?~?([\w.]+)>?`", outside):
        module, _, attribute = (name, "", "") if role == "mod" else name.rpartition(".")
        loaded = importlib.import_module(module)
        assert role == "mod" or hasattr(loaded, attribute)


@pytest.mark.parametrize(
    "path", [path for path in PAGES if blocks(path) or commands(path)], ids=lambda path: str(path.relative_to(DOCS))
)
def test_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captioned blocks are files, Python blocks of a page share a namespace, ``$ nfp`` lines end with exit code 0."""
    monkeypatch.chdir(tmp_path)
    found = blocks(path)
    for _, caption, text in found:
        if caption:
            Path(caption).parent.mkdir(parents=True, exist_ok=True)
            Path(caption).write_text(text, encoding="utf-8")
    if Path("my_specs").is_dir():
        monkeypatch.setenv("NFP_MODEL_SPECS", str(tmp_path / "my_specs"))
    for command in commands(path):
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        assert result.exit_code == 0, f"{command}: {result.exception or result.output}"
    namespace: dict[str, Any] = {}
    for language, _, text in found:
        if language == "python" and path.name != "measure.md":  # a GPU is needed there
            exec(compile(text, str(path), "exec"), namespace)


@pytest.mark.parametrize(
    "command",
    sorted({line for path in [*PAGES, ROOT / "README.md"] for line in (*shown(path, "nfp "), *shown(path, "$ nfp "))}),
)
def test_commands_and_options_exist(command: str) -> None:
    parse(command)


@pytest.mark.parametrize(
    "command", ["nfp predict h100 mixtral --batchsize 2", "nfp fit --hardwear h100", "nfp specs new"]
)
def test_a_command_that_does_not_exist_is_seen(command: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such option|missing"):
        parse(command)


def test_a_mark_for_a_part_nobody_generates_is_refused() -> None:
    with pytest.raises(KeyError, match="symbol table"):
        generated_parts.with_parts("<!-- generated: symbol table -->")
    with pytest.raises(RuntimeError, match="nfp predict h10 mixtral ended with"):
        generated_parts.with_parts("<!-- run: nfp predict h10 mixtral -->")


def test_api_lists_every_module() -> None:
    listed = re.findall(r"^   nfp_model\.(\w+)$", (DOCS / "api/index.md").read_text(encoding="utf-8"), re.MULTILINE)
    present = {found.name for found in pkgutil.iter_modules(nfp_model.__path__)} - {"__main__"}
    assert sorted(listed) == sorted(present)


def test_decisions_are_numbered_without_a_gap() -> None:
    names = sorted(path.name for path in (DOCS / "decisions").glob("0*.md"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))


def test_configuration_imports_and_treats_its_extension_as_known() -> None:
    namespace: dict[str, Any] = {"__file__": str(DOCS / "conf.py")}
    exec(compile((DOCS / "conf.py").read_text(encoding="utf-8"), "conf.py", "exec"), namespace)
    assert "generated_parts" in namespace["extensions"]
    assert namespace["version"] == nfp_model.__version__
