"""Rows of one silicon table in our own words: storage formats, seconds, bytes; what has no word is counted out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nfp_model.errors import UnsupportedError
from nfp_model.quantities import element_type
from nfp_model.validation.assemble import CurveTable
from nfp_model.validation.datasets import Exclusion
from nfp_model.validation.silicon_tables import DTYPE_COLUMN, read_table

DTYPES: dict[str, tuple[str, str]] = {
    "bfloat16": ("bfloat16", "bfloat16"),
    "half": ("float16", "float16"),
    "fp8": ("fp8", "bfloat16"),
    "fp8_e4m3": ("fp8", "bfloat16"),
    "fp8_block": ("fp8_block", "bfloat16"),
    "nvfp4": ("nvfp4", "bfloat16"),
    "sq": ("int8", "bfloat16"),
    "int8": ("int8", "bfloat16"),
    "int4_wo": ("int4", "bfloat16"),
    "w4a16_mxfp4": ("mxfp4", "bfloat16"),
    "w4a8_mxfp4_mxfp8": ("mxfp4_w4a8", "fp8"),
    "w4afp8": ("int4", "fp8"),
}
"""The package's data type -> our storage format and the activations' type; ``fp8`` activations mean 8-bit math."""

ABSENT = {"window_size": 0, "compress_ratio": 0}
"""What a column means in the files that do not have it."""


def prepared_rows(
    name: str, path: Path, table: CurveTable, dtype: str | None, collective: str
) -> tuple[Any, dict[str, Exclusion]]:
    """Read one table and name its data types and units as the library does.

    Parameters
    ----------
    name : str
        Key of :data:`~nfp_model.validation.silicon_tables.TABLES`.
    path : Path
        The file.
    table : CurveTable
        Which columns make a curve.
    dtype : str or None
        Keep one storage format: of the weights, or of the cache for attention.
    collective : str
        Keep one collective of an NCCL table.

    Raises
    ------
    UnsupportedError
        When the table has no row of that data type; the message lists those it has.
    """
    column = DTYPE_COLUMN.get(name, "gemm_type")
    extra = ["message_size", "op_name", "attn_dtype", "mla_dtype", "kv_cache_dtype"]
    wanted = [*table.columns, table.tokens, column, *extra, "kernel_source", "latency"]
    among = {} if dtype is None else {column: [theirs for theirs, (ours, _) in DTYPES.items() if ours == dtype]}
    if name == "nccl":
        among["op_name"] = [collective]
    rows = read_table(path, dict.fromkeys(wanted), among)
    if rows.empty:
        there = sorted({DTYPES[d][0] for d in read_table(path, [column])[column].unique() if d in DTYPES})
        raise UnsupportedError(
            f"{'/'.join(path.parts[-5:])} has no {dtype or collective} rows; it has {', '.join(there)}"
        )

    known = rows[column].isin(list(DTYPES))
    unread = {}
    if not known.all():
        names = ", ".join(sorted(rows.loc[~known, column].unique()))
        there = [c for c in table.columns if c in rows]
        reason = f"no storage format of this library describes {names}"
        unread["no_storage_format"] = Exclusion(
            reason, int((~known).sum()), len(rows.loc[~known, there].drop_duplicates())
        )
        rows = rows[known]
    rows = rows.assign(seconds=rows["latency"] / 1e3, **{c: v for c, v in ABSENT.items() if c not in rows})
    return _name_dtypes(name, rows, column), unread


def _name_dtypes(name: str, rows: Any, column: str) -> Any:
    """Add weight_dtype, activation_dtype and kv_dtype, empty where the operator has no such operand."""
    ours = rows[column].map({theirs: pair[0] for theirs, pair in DTYPES.items()})
    math = rows[column].map({theirs: pair[1] for theirs, pair in DTYPES.items()})
    if name in ("gemm", "moe"):
        return rows.assign(weight_dtype=ours, activation_dtype=math, kv_dtype="")
    if name in ("all_reduce", "nccl"):
        element = ours.map({dtype: element_type(dtype).bytes for dtype in ours.unique()})
        payload = (rows["message_size"] * element).astype("int64")
        return rows.assign(weight_dtype="", activation_dtype=ours, kv_dtype="", payload_bytes=payload)
    query = rows["attn_dtype" if "attn_dtype" in rows else "mla_dtype"].map({t: pair[0] for t, pair in DTYPES.items()})
    cache = rows["kv_cache_dtype"].map({t: pair[0] for t, pair in DTYPES.items()})
    return rows.assign(
        weight_dtype="" if name in ("attention", "mla") else ours, activation_dtype=query, kv_dtype=cache
    )
