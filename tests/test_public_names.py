"""The public names exist, are typed, and import lightly."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nfp_model
from nfp_model.specs.registry import load_hardware, load_model, normalized, spec_files

CONTRACT = [
    "predict_nfp", "operator_latency", "latency_curve", "idle_compute_nfp", "load_hardware", "load_model",
    "Gemm", "FusedMoE", "Attention", "NfpModelError", "HardwareSpec", "ModelSpec",
    "principle", "schedule", "sweep", "sensitivities", "from_hf_config",
]  # fmt: skip


@pytest.mark.parametrize("name", CONTRACT)
def test_contract_name_loads(name: str) -> None:
    assert getattr(nfp_model, name) is not None
    assert name in dir(nfp_model)


def test_stub_declares_every_public_name_and_spec_alias_and_no_other() -> None:
    tree = ast.parse(Path(nfp_model.__file__).with_suffix(".pyi").read_text())
    imported = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    declared = {
        node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert imported == set(nfp_model._HOME_OF)
    specs = [load_hardware(path) for path in spec_files("hardware")] + [
        load_model(path) for path in spec_files("model")
    ]
    names = {normalized(name) for spec in specs for name in (spec.name, *spec.aliases)}
    assert declared - {"__version__"} == {name for name in names if name.isidentifier()}


def test_spec_names_are_attributes() -> None:
    assert nfp_model.h100.name == "h100_sxm5"
    assert nfp_model.mixtral.name == "mixtral_8x7b"


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute or spec 'no_such_gpu'"):
        _ = nfp_model.no_such_gpu


def test_names_and_specs_do_not_clash() -> None:
    hardware = {
        normalized(n)
        for path in spec_files("hardware")
        for n in (load_hardware(path).name, *load_hardware(path).aliases)
    }
    models = {normalized(n) for path in spec_files("model") for n in (load_model(path).name, *load_model(path).aliases)}
    assert not hardware & models


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, nfp_model; nfp_model.predict_nfp;"
        "heavy = {'matplotlib', 'torch', 'pandas', 'aiconfigurator_core', 'typer', 'rich', 'scipy.optimize', 'pyarrow'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
