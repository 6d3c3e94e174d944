"""From millions of table rows to curves: repeats become medians, kernels that compete become separate curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nfp_model.validation.records import BoolArray, Curve, OperatorKind
from nfp_model.validation.shapes import Shape

DTYPE_COLUMNS = ["weight_dtype", "activation_dtype", "kv_dtype"]


@dataclass(frozen=True)
class CurveTable:
    """How one kind of table turns into curves.

    Attributes
    ----------
    operator : str
        Kind of every curve.
    tokens : str
        Column of the axis.
    columns : list of str
        Columns that tell shapes apart.
    shape : callable
        Dict of those columns -> shape.
    beyond_l2 : callable or None
        Rows -> whether each point's cache is larger than L2.
    min_points : int
        Curves with fewer points are left out, as ``few_points``.
    """

    operator: OperatorKind
    tokens: str
    columns: list[str]
    shape: Callable[[dict[str, Any]], Shape]
    beyond_l2: Callable[[Any], BoolArray] | None = None
    min_points: int = 1

    @property
    def identity(self) -> list[str]:
        """Columns that tell curves apart: shape and data types."""
        return [*self.columns, *DTYPE_COLUMNS]


def assemble(
    rows: Any, table: CurveTable, gpu: str, backend: str, library_version: str, timing: str, source: str
) -> tuple[tuple[Curve, ...], tuple[tuple[Curve, Curve], ...]]:
    """Curves of a table, and the first two recordings of whatever was recorded more than once.

    A curve keeps a change of kernel along its axis, which is what a user of the library meets; where two kernels were
    timed at the same point they are alternatives, and each gets a curve of its own.

    Parameters
    ----------
    rows : DataFrame
        Columns of ``table`` with ``kernel_source`` and ``seconds``.
    table : CurveTable
        How to read them.
    gpu, backend, library_version, timing, source : str
        Labels of every curve.
    """
    if len(rows) == 0:
        return (), ()
    rows = rows.reset_index(drop=True)
    competing = rows.groupby([*table.identity, table.tokens], sort=False)["kernel_source"].transform("nunique")
    contested = competing.groupby([rows[c] for c in table.identity], sort=False).transform("max") > 1
    rows = rows.assign(lane=rows["kernel_source"].where(contested, ""))
    keys = [*table.identity, "lane"]
    labels = {"gpu": gpu, "backend": backend, "library_version": library_version, "timing": timing, "source": source}

    points = rows.groupby([*keys, table.tokens], sort=True)
    order = points.cumcount()
    repeated = points["seconds"].transform("size") > 1
    recordings = [_curves(rows[repeated & (order == nth)], table, keys, labels) for nth in (0, 1)]
    return _curves(rows, table, keys, labels), tuple(zip(*recordings, strict=True))


def _curves(rows: Any, table: CurveTable, keys: list[str], labels: dict[str, str]) -> tuple[Curve, ...]:
    if len(rows) == 0:
        return ()
    points = rows.groupby([*keys, table.tokens], sort=True)
    stats = points["seconds"].agg(["median", "min", "max", "size"])
    frame = stats.assign(kernel=points["kernel_source"].first()).reset_index()
    spread = np.where(frame["size"] > 1, (frame["max"] - frame["min"]) / frame["median"], np.nan)
    outside = None if table.beyond_l2 is None else np.asarray(table.beyond_l2(frame), dtype=bool)
    tokens, seconds = frame[table.tokens].to_numpy(np.int64), frame["median"].to_numpy(float)
    kernel = frame["kernel"].to_numpy(str)

    starts = np.flatnonzero(~frame[keys].duplicated().to_numpy())
    curves = []
    for row, start, stop in zip(frame.iloc[starts].to_dict("records"), starts, [*starts[1:], len(frame)], strict=True):
        here = slice(start, stop)
        kernels = tuple(dict.fromkeys(kernel[here].tolist()))
        index = None if len(kernels) == 1 else np.array([kernels.index(name) for name in kernel[here].tolist()])
        curves.append(
            Curve(
                operator=table.operator,
                shape=table.shape(row),
                tokens=tokens[here],
                seconds=seconds[here],
                kernels=kernels,
                kernel_index=index,
                spread=None if np.all(np.isnan(spread[here])) else spread[here],
                beyond_l2=None if outside is None else outside[here],
                weight_dtype=row["weight_dtype"] or None,
                activation_dtype=row["activation_dtype"] or None,
                kv_dtype=row["kv_dtype"] or None,
                **labels,
            )
        )
    return tuple(curves)
