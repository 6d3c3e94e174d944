"""NVIDIA's measured kernel timings as the ``aiconfigurator-core`` package installs them: finding and reading tables.

The package (PyPI, Apache-2.0) keeps parquet files under ``systems/data/<system>/<family>/<framework>/<version>/``;
latencies are milliseconds. Nothing of it is imported: its files are found on disk and read with pyarrow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nfp_model.errors import InvalidArgumentError, MissingDependencyError, UnsupportedError, unknown_name

PACKAGE = "aiconfigurator-core"

SYSTEM_OF: dict[str, str] = {
    "a100_sxm4_80gb": "a100_sxm",
    "h100_sxm5": "h100_sxm",
    "h200_sxm": "h200_sxm",
    "b200_sxm": "b200_sxm",
    "b300_sxm": "b300_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "l40s": "l40s",
    "rtx_pro_6000_blackwell": "rtx_pro_6000_server",
    "a100_pcie_80gb": "a100_pcie",
    "h100_pcie": "h100_pcie",
    "l4": "l4",
}
"""Hardware key -> the package's system name. The last three are there without any measurement."""

EXCLUDED_SYSTEMS: dict[str, str] = {
    "a30": "the package has no measurements of it and there is no hardware spec",
    "b60": "Intel Arc Pro B60: measured by the package, but there is no hardware spec",
}
"""Systems of the package that are left out, and why."""

TABLES: dict[str, str] = {
    "gemm": "gemm_perf",
    "moe": "moe_perf",
    "attention": "generation_attention_perf",
    "mla": "generation_mla_perf",
    "all_reduce": "custom_allreduce_perf",
    "nccl": "nccl_perf",
    **{
        f"{family}_{phase}_module": f"{family}_{phase}_module_perf"
        for family in ("mla", "dsa", "msa", "dsv4_csa", "dsv4_hca")
        for phase in ("context", "generation")
    },
}
"""Table name -> file stem, for the tables the loaders read."""

DTYPE_COLUMN: dict[str, str] = {
    "gemm": "gemm_dtype",
    "moe": "moe_dtype",
    "attention": "kv_cache_dtype",
    "mla": "kv_cache_dtype",
    "all_reduce": "allreduce_dtype",
    "nccl": "nccl_dtype",
}
"""Column that names the data type a table is asked for by; modules have ``gemm_type``."""


@dataclass(frozen=True)
class TableRows:
    """One line of the inventory: a data type and kernel inside one table.

    Attributes
    ----------
    gpu, backend, table, version : str
        Hardware key, framework, key of :data:`TABLES`, library version.
    dtype, kernel_source : str
        As the package writes them.
    rows : int
        Measured rows [-].
    current : bool
        Whether a loader reads this version when none is asked for.
    """

    gpu: str
    backend: str
    table: str
    version: str
    dtype: str
    kernel_source: str
    rows: int
    current: bool


def package_root() -> Path:
    """Folder of the installed package's ``systems``.

    Raises
    ------
    MissingDependencyError
        When the package or a reader for its files is not installed.
    """
    found = find_spec("aiconfigurator_core")
    readers = [name for name in ("pandas", "pyarrow") if find_spec(name) is None]
    if found is None or found.origin is None or readers:
        what = ", ".join([*([PACKAGE] if found is None else []), *readers])
        raise MissingDependencyError(
            f"the published silicon timings need {what or PACKAGE}, not installed here; "
            'pip install "nfp-model[silicon]" (Python 3.11 to 3.13)'
        )
    return Path(found.origin).parent / "systems"


def package_version() -> str:
    """Version of the installed package."""
    package_root()
    return metadata.version(PACKAGE)


def version_order(version: str) -> tuple[tuple[int, ...], int, int]:
    """Sort key of a library version.

    Examples
    --------
    >>> sorted(["1.3.0", "1.3.0rc20", "1.3.0rc3", "0.5.6.post2", "0.5.14"], key=version_order)
    ['0.5.6.post2', '0.5.14', '1.3.0rc3', '1.3.0rc20', '1.3.0']
    """
    match = re.match(r"(\d+(?:\.\d+)*)(?:[._-]?(dev|a|b|rc|post)(\d+))?", version)
    if match is None:
        return ((), 0, 0)
    phase = {"dev": -4, "a": -3, "b": -2, "rc": -1, None: 0, "post": 1}[match.group(2)]
    return tuple(int(part) for part in match.group(1).split(".")), phase, int(match.group(3) or 0)


def system_of(gpu: str) -> str:
    """The package's name of a GPU.

    Raises
    ------
    UnsupportedError
        For a system that is left out on purpose.
    UnknownNameError
        For any other name without measurements.

    Examples
    --------
    >>> system_of("rtx_pro_6000_blackwell")
    'rtx_pro_6000_server'
    """
    if gpu in EXCLUDED_SYSTEMS:
        raise UnsupportedError(f"'{gpu}' is left out: {EXCLUDED_SYSTEMS[gpu]}")
    if gpu not in SYSTEM_OF:
        raise unknown_name("GPU with published timings", gpu, SYSTEM_OF)
    return SYSTEM_OF[gpu]


@lru_cache(maxsize=1)
def _files() -> dict[tuple[str, str, str], dict[str, Path]]:
    """(system, framework, file stem) -> version -> file."""
    found: dict[tuple[str, str, str], dict[str, Path]] = {}
    for path in sorted((package_root() / "data").glob("*/*/*/*/*.parquet")):
        version, framework, system = path.parts[-2], path.parts[-3], path.parts[-5]
        found.setdefault((system, framework, path.stem), {})[version] = path
    return found


@lru_cache(maxsize=1)
def _current_versions() -> Mapping[tuple[str, str], str]:
    """(system or ``defaults``, framework) -> the version the package itself serves; single-operator drops are newer."""
    current: dict[tuple[str, str], str] = {}
    section = system = ""
    for line in (package_root() / "query_versions.yaml").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"(\w+):\s*$", line):
            section = system = match.group(1)
        elif match := re.match(r"  (\w+):\s*$", line):
            system = match.group(1)
        elif match := re.match(r'\s+(\w+): \{current: "([^"]+)"', line):
            current[(system if section == "overrides" else section, match.group(1))] = match.group(2)
    return current


def versions(gpu: str, backend: str, table: str) -> tuple[str, ...]:
    """Library versions of one table, oldest first; empty when it was not measured."""
    if table not in TABLES:
        raise unknown_name("silicon table", table, TABLES)
    return tuple(sorted(_files().get((system_of(gpu), backend, TABLES[table]), {}), key=version_order))


def default_version(gpu: str, backend: str, table: str) -> str | None:
    """The version read when none is asked for: the one the package serves where it has the table, else the newest.

    A newer version is often a drop for one new model: TensorRT-LLM 1.3.0rc23 has fused MoE for non-gated experts only.
    """
    there = versions(gpu, backend, table)
    current = _current_versions()
    wanted = current.get((system_of(gpu), backend), current.get(("defaults", backend)))
    if wanted in there:
        return wanted
    return there[-1] if there else None


def table_path(gpu: str, backend: str, table: str, version: str | None = None) -> tuple[Path, str]:
    """File and version of one table.

    Raises
    ------
    UnsupportedError
        When the package has no such table; the message lists the backends that do.
    InvalidArgumentError
        For a version it does not have.
    """
    there = versions(gpu, backend, table)
    if not there:
        able = sorted({f for s, f, stem in _files() if s == system_of(gpu) and stem == TABLES[table]})
        raise UnsupportedError(
            f"no published {table} timings of {backend} on {gpu}; there are some of {', '.join(able) or 'no backend'}"
        )
    chosen = version or default_version(gpu, backend, table)
    if chosen is None or chosen not in there:
        raise InvalidArgumentError(f"no {table} timings of {backend} {version} on {gpu}; versions: {', '.join(there)}")
    return _files()[(system_of(gpu), backend, TABLES[table])][chosen], chosen


def read_table(path: Path, columns: Iterable[str], among: Mapping[str, list[str]] | None = None) -> Any:
    """Columns of one file as a data frame; a column the file does not have is left out.

    Parameters
    ----------
    path : Path
        From :func:`table_path`.
    columns : iterable of str
        Wanted; nothing else is read.
    among : mapping of str to list of str, optional
        Column -> values the rows may have.
    """
    import pyarrow.parquet

    there = set(pyarrow.parquet.read_schema(path).names)
    filters = [(name, "in", values) for name, values in (among or {}).items()]
    table = pyarrow.parquet.read_table(path, columns=[c for c in columns if c in there], filters=filters or None)
    return table.to_pandas()


@lru_cache(maxsize=1)
def available() -> tuple[TableRows, ...]:
    """Every table the loaders can read, by data type and kernel; takes some seconds the first time."""
    lines = []
    names = {stem: table for table, stem in TABLES.items()}
    gpus = {system: gpu for gpu, system in SYSTEM_OF.items()}
    for (system, framework, stem), files in _files().items():
        if system not in gpus or stem not in names:
            continue
        gpu, table = gpus[system], names[stem]
        dtype = DTYPE_COLUMN.get(table, "gemm_type")
        for version, path in files.items():
            counts = read_table(path, [dtype, "kernel_source"]).value_counts([dtype, "kernel_source"], sort=False)
            current = version == default_version(gpu, framework, table)
            lines += [TableRows(gpu, framework, table, version, d, k, int(n), current) for (d, k), n in counts.items()]
    return tuple(
        sorted(lines, key=lambda line: (line.gpu, line.backend, line.table, version_order(line.version), line.dtype))
    )
