"""Where spec files live and how a name, alias or path becomes a spec.

Three places are looked at, first match wins: the user's folder (environment variable ``NFP_MODEL_SPECS``), the package's own
data (wheel), the checkout (editable install). Each has the folders ``hardware_specs`` and ``model_specs``.
"""

from __future__ import annotations

import os
import re
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from nfp_model.errors import InvalidArgumentError, SpecError, unknown_name
from nfp_model.specs.base import Spec
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import ModelSpec

USER_FOLDER_VARIABLE = "NFP_MODEL_SPECS"

T = TypeVar("T", bound=Spec)


def spec_roots() -> tuple[Path, ...]:
    """Existing folders that may hold spec folders, in the order they are searched.

    Raises
    ------
    SpecError
        When ``NFP_MODEL_SPECS`` names something that is no folder.
    """
    return _roots(os.environ.get(USER_FOLDER_VARIABLE) or "")


@lru_cache(maxsize=8)
def _roots(user: str) -> tuple[Path, ...]:
    package = Path(__file__).resolve().parents[1]
    shipped = next(
        (root for root in (package / "_data", package.parents[1]) if (root / "hardware_specs").is_dir()), None
    )
    if shipped is None:
        raise SpecError(f"no shipped specs found beside {package}; reinstall nfp-model")
    if not user:
        return (shipped,)
    if not Path(user).is_dir():
        raise SpecError(f"{USER_FOLDER_VARIABLE} is '{user}', which is not a folder")
    return (Path(user), shipped)


def spec_files(kind: str) -> tuple[Path, ...]:
    """Every TOML file of one kind, user's first.

    Parameters
    ----------
    kind : {"hardware", "model", "kernels", "calibrations"}
        What to list.
    """
    return _spec_files(kind, spec_roots())


@lru_cache(maxsize=32)
def _spec_files(kind: str, roots: tuple[Path, ...]) -> tuple[Path, ...]:
    below = {
        "hardware": "hardware_specs",
        "model": "model_specs",
        "kernels": "hardware_specs/kernels",
        "calibrations": "hardware_specs/calibrations",
    }[kind]
    files: list[Path] = []
    for root in roots:
        found = sorted((root / below).rglob("*.toml"))
        if kind == "hardware":
            found = [path for path in found if not {"kernels", "calibrations"} & set(path.parts[len(root.parts) :])]
        files += found
    return tuple(files)


def normalized(name: str) -> str:
    """Names compare without case and with ``-``, ``.``, space and ``_`` alike.

    Examples
    --------
    >>> normalized("Qwen3-30B-A3B")
    'qwen3_30b_a3b'
    """
    return name.lower().replace("-", "_").replace(".", "_").replace(" ", "_")


@lru_cache(maxsize=8)
def _index(kind: str, roots: tuple[Path, ...]) -> dict[str, Path]:
    """Normalized name or alias -> file. The file stem is its name, so only aliases need the file opened."""
    index: dict[str, Path] = {}
    for path in _spec_files(kind, roots):
        names = [path.stem]
        if kind in ("hardware", "model"):
            names += _aliases(path)
        for name in names:
            index.setdefault(normalized(str(name)), path)
    return index


_ALIASES = re.compile(r"^aliases\s*=\s*\[.*?\]", re.DOTALL | re.MULTILINE)


def _aliases(path: Path) -> list[str]:
    """The aliases of a spec file, read alone: parsing every file to resolve one name would cost more than the prediction."""
    try:
        found = _ALIASES.search(path.read_text(encoding="utf-8"))
        return [str(alias) for alias in tomllib.loads(found.group())["aliases"]] if found else []
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return []


def spec_names(kind: str) -> list[str]:
    """Names (file stems) of one kind, sorted."""
    return list(_names(kind, spec_roots()))


@lru_cache(maxsize=32)
def _names(kind: str, roots: tuple[Path, ...]) -> tuple[str, ...]:
    return tuple(sorted({path.stem for path in _spec_files(kind, roots)}))


@lru_cache(maxsize=256)
def _load(cls: type[Spec], path: Path, modified: float) -> Spec:
    return cls.from_toml(path)


def load_spec(cls: type[T], kind: str, name: str | Path) -> T:
    """A spec by name, alias or path of a TOML file.

    Raises
    ------
    UnknownNameError
        For a name in no folder, with the nearest.
    SpecError
        For a file that does not validate.
    """
    if not isinstance(name, str | Path):
        raise InvalidArgumentError(f"{kind} must be a name, a path or a spec, got {name!r}")
    if isinstance(name, Path) or name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise SpecError(f"{path}: no such file")
    else:
        roots = spec_roots()
        stem = _spec_path_by_stem(kind, roots).get(normalized(name))
        found = stem or _index(kind, roots).get(normalized(name))
        if found is None:
            raise unknown_name(kind, name, [*_index(kind, roots), *spec_names(kind)])
        path = found
    loaded = _load(cls, path, path.stat().st_mtime)
    assert isinstance(loaded, cls)
    return loaded


@lru_cache(maxsize=8)
def _spec_path_by_stem(kind: str, roots: tuple[Path, ...]) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for path in _spec_files(kind, roots):
        stems.setdefault(normalized(path.stem), path)
    return stems


def load_hardware(name: str | Path | HardwareSpec) -> HardwareSpec:
    """A hardware spec by name, alias or path; a spec is returned as it is.

    Parameters
    ----------
    name : str, Path or HardwareSpec
        ``"h100"``, ``"h100_sxm5"``, ``"my_gpu.toml"``.

    Raises
    ------
    UnknownNameError, SpecError
        See :func:`load_spec`.

    Examples
    --------
    >>> load_hardware("h100").sm_count
    132
    """
    return name if isinstance(name, HardwareSpec) else load_spec(HardwareSpec, "hardware", name)


def load_model(name: str | Path | ModelSpec) -> ModelSpec:
    """A model spec by name, alias or path of a TOML or of a Hugging Face ``config.json``.

    Parameters
    ----------
    name : str, Path or ModelSpec
        ``"mixtral"``, ``"my_model.toml"``, ``"config.json"``.

    Raises
    ------
    UnknownNameError, SpecError
        See :func:`load_spec`.

    Examples
    --------
    >>> load_model("Mixtral-8x7B").num_layers
    32
    """
    if isinstance(name, ModelSpec):
        return name
    if str(name).endswith(".json"):
        from nfp_model.specs.huggingface import from_hf_config

        return from_hf_config(Path(name))
    return load_spec(ModelSpec, "model", name)
