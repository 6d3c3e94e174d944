"""Files written by ``nfp measure`` as measurement records, so that they can be fitted and scored like any other table."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from nfp_model.errors import SpecError, UnsupportedError
from nfp_model.validation.cases import KEY_COLUMNS
from nfp_model.validation.records import Measurement
from nfp_model.validation.shapes import AttentionShape, ElementwiseShape, ForwardShape, GemmShape, MoEShape, Shape
from nfp_model.validation.store import columns_of
from nfp_model.validation.user_data import read_records

BACKEND = "torch"


def is_recorded(path: Path, kinds: Iterable[str] = KEY_COLUMNS) -> bool:
    """Whether a file was written by ``nfp measure``, and of one of these kinds: its column names say so."""
    try:
        with open(path, encoding="utf-8") as file:
            first = next((line.strip() for line in file if not line.startswith("#")), "")
    except (OSError, UnicodeDecodeError):
        return False
    return any(first == ",".join(columns_of(kind)) for kind in kinds)


def read_timings(path: Path) -> tuple[Measurement, ...]:
    """A file of one's own timings of either kind, written by ``nfp measure`` or in the plain CSV or JSON form, or a folder of
    the former: limits of the device and lists of kernels in it are passed over.

    Raises
    ------
    SpecError
        For a folder without timings.
    """
    if not path.is_dir():
        return read_recorded(path) if is_recorded(path) else read_records(path)
    files = [file for file in sorted(path.glob("*.csv")) if is_recorded(file) and not is_recorded(file, ("ceilings",))]
    if not files:
        raise SpecError(f"{path}: no file of timings written by nfp measure in it")
    return tuple(point for file in files for point in read_recorded(file))


def read_header(path: Path) -> dict[str, str]:
    """What the comment lines of a measured file say, by name; the first of two alike."""
    header: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            name, _, value = line[2:].partition(": ")
            header.setdefault(name, value)
    return header


def read_recorded(path: Path, implementation: str | None = None) -> tuple[Measurement, ...]:
    """Points of a measured file.

    Parameters
    ----------
    path : Path
        A CSV file of ``nfp measure``.
    implementation : str or None
        Only points of one implementation, such as ``grouped_mm`` or ``sdpa_flash``. Different implementations of one
        shape are different curves: ``kernel_source`` tells them apart.

    Raises
    ------
    SpecError
        When the file is none of ours, or has no whole point.
    UnsupportedError
        For ceilings, which are no operator.
    """
    if not is_recorded(path):
        raise SpecError(f"{path}: not a file written by nfp measure")
    header = read_header(path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # A last line without its end was torn by a stop.
    rows = csv.DictReader([line for line in lines if not line.startswith("#") and line.endswith("\n")])
    points = tuple(
        _measurement(row, header, path)
        for row in rows
        if implementation is None or row.get("implementation") == implementation
    )
    if not points:
        raise SpecError(f"{path}: no points" + (f" of implementation '{implementation}'" if implementation else ""))
    return points


def _measurement(row: dict[str, str], header: dict[str, str], path: Path) -> Measurement:
    operator = row["operator"]
    median, low, high = (float(row[f"seconds_{name}"]) for name in ("median", "q10", "q90"))
    weight_dtype = row.get("weight_dtype")
    return Measurement(
        operator=operator,  # type: ignore[arg-type]  # checked by the record itself
        shape=_shape(row, path),
        gpu=header.get("hardware", "auto"),
        backend=BACKEND,
        tokens=int(row["tokens"] if operator in ("gemm", "moe", "elementwise") else row["positions"]),
        seconds=median,
        spread=(high - low) / median,
        weight_dtype=weight_dtype,
        activation_dtype="bfloat16" if weight_dtype else None,
        kv_dtype=row.get("kv_dtype"),
        library_version=header.get("torch", ""),
        kernel_source=_kernel(row),
        timing=header.get("method", ""),
        source=str(path.name),
    )


def _kernel(row: dict[str, str]) -> str:
    parts = [row["implementation"]]
    if row["operator"] == "moe" and row["block_rows"] != "0":
        parts.append(f"block rows {row['block_rows']}")
    if row["operator"] == "attention":
        parts.append("causal" if row["causal"] == "1" else "bidirectional")
    if row["operator"] == "forward":
        parts.append(row["decode_mode"])
    if row["l2_state"] != "cold":
        parts.append(f"L2 {row['l2_state']}")
    return ", ".join(parts)


def _shape(row: dict[str, str], path: Path) -> Shape:
    number = {name: int(value) for name, value in row.items() if value and value.isdigit()}
    if row["operator"] == "gemm":
        return GemmShape(number["out_features"], number["in_features"])
    if row["operator"] == "moe":
        sizes = (number["hidden_size"], number["intermediate_size"], number["num_experts"], number["top_k"])
        return MoEShape(*sizes, routing=row["routing"])
    if row["operator"] == "attention":
        heads = (number["num_query_heads"], number["num_kv_heads"], number["head_dim"])
        return AttentionShape(*heads, context_length=number["context"], batch_size=number["batch"])
    if row["operator"] == "forward":
        mode = "block" if row["decode_mode"] == "block" else "verify"
        return ForwardShape(row["model"], number["batch"], number["context"], number["layers"], mode)  # type: ignore[arg-type]
    if row["operator"] == "elementwise":
        return ElementwiseShape(row["work"], number["width"])
    raise UnsupportedError(f"{path}: {row['operator']} are limits of the device, not timings of an operator")
