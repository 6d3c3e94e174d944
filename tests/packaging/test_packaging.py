"""Specs are found alike from a wheel, an sdist and an editable install."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROBE = (
    "from nfp_model.specs.registry import spec_roots, spec_names;"
    "print(len(spec_names('hardware')), len(spec_names('model')), len(spec_names('kernels')), len(spec_names('calibrations')));"
    "print(spec_roots()[0])"
)

pytestmark = pytest.mark.packaging


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


def probe(python: Path | str, cwd: Path) -> list[str]:
    """Counts and root as an interpreter outside the checkout sees them."""
    done = subprocess.run([str(python), "-c", PROBE], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


def installed(package: Path, folder: Path) -> Path:
    """A virtual environment with the package alone; its dependencies come from this environment."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*/site-packages"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(package)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    here = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    # Appended after the package's own folder, so the installed copy wins over this environment's editable one.
    (site / "dependencies.pth").write_text(f"{here}\n")
    return python


@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_wheel_and_sdist_find_their_specs(built: Path, tmp_path: Path, pattern: str) -> None:
    package = next(built.glob(pattern))
    counts, root, *_ = probe(installed(package, tmp_path / "env"), tmp_path)
    expected, editable_root, *_ = probe(sys.executable, tmp_path)
    assert counts == expected
    assert root.startswith(str(tmp_path))
    assert Path(editable_root) == ROOT


def test_wheel_carries_types_and_licence(built: Path) -> None:
    names = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    assert "nfp_model/py.typed" in names
    assert "nfp_model/__init__.pyi" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_sdist_carries_sources_and_specs(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    assert {
        "pyproject.toml",
        "hardware_specs/nvidia/h100_sxm5.toml",
        "model_specs/mixtral_8x7b.toml",
        "tests/conftest.py",
    } <= names
