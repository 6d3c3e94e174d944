"""Granularity alone: the same grouped GEMM with 16 to 128 rows a block, timed by us, under one set of constants.

Everything but the block rows is one kernel, so what differs between the curves is what the count of row blocks explains.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nfp_model.specs.moe_kernel import MoEKernel, MoERow
from nfp_model.validation.cases import MOE_BLOCK_ROWS
from nfp_model.validation.fit_points import collect
from nfp_model.validation.fitting import solve
from nfp_model.validation.forwards import curves_timed
from nfp_model.validation.recorded import BACKEND
from nfp_model.validation.records import Curve
from nfp_model.validation.statistics import curve_mape

FEWEST_POINTS = 6
"""Points from which a curve tells of its shape [-]."""
HELD = {"overlap_exponent": 2.0, "expert_time_s": 0.0}
"""As for kernels that start one program a block: nothing walks the experts, and waves stand beside the streams."""


@dataclass(frozen=True)
class BlockRowsScore:
    """One number of block rows.

    Attributes
    ----------
    block_rows : int
        Rows of a block [rows].
    curves : int
        Of the test half [-].
    mape : float
        Median over them of the curve's mean |predicted / measured - 1| [-].
    mistaken : float
        The same when 64 block rows are counted instead: the difference is what the count explains [-].
    """

    block_rows: int
    curves: int
    mape: float
    mistaken: float


def triton_kernel(block_rows: int) -> MoEKernel:
    """The rule of our Triton kernel (``validation/moe_triton.py``): blocks of an expert side by side over 128 columns."""
    source = "validation/moe_triton.py"
    row = MoERow(block_rows=block_rows, block_columns=128, grouped=True, source=source)
    return MoEKernel(
        name=f"rows_{block_rows}", library="moe_triton", weight_dtypes=("bfloat16",), versions="Triton 3.6", rows=(row,),
        held=HELD, source=source,
    )  # fmt: skip


def block_rows_of(curve: Curve) -> int:
    """Block rows a curve was timed with, from the name of its kernel."""
    found = re.search(r"block rows (\d+)", curve.kernels[0])
    assert found is not None, curve.kernels
    return int(found[1])


def granularity_scores(path: Path) -> tuple[dict[str, float], list[BlockRowsScore]]:
    """Constants fitted on the fit half over all block rows together, and how each number of them scores on the test half.

    Parameters
    ----------
    path : Path
        ``moe.csv`` of ``nfp measure``; without curves in both halves there are no constants and no scores.
    """
    curves = [curve for curve in curves_timed(path, "triton") if len(curve) >= FEWEST_POINTS]
    if {curve.half for curve in curves} != {"fit", "test"}:
        return {}, []
    points = collect(curves, BACKEND, kernel_of=lambda curve: triton_kernel(block_rows_of(curve)))
    fit = np.array([curve.half == "fit" for curve in curves])[points.curve]
    constants = points.unknowns.printed(solve(points.where(fit), None, points.unknowns.start))
    predicted = points.predicted(constants)
    blind = collect(curves, BACKEND, kernel_of=lambda curve: triton_kernel(64)).predicted(constants)
    scores = []
    for rows in MOE_BLOCK_ROWS:
        mine = [i for i, curve in enumerate(curves) if block_rows_of(curve) == rows and curve.half == "test"]
        if not mine:
            continue
        errors = [
            [curve_mape(seconds[points.curve == i], points.seconds[points.curve == i]) for i in mine]
            for seconds in (predicted, blind)
        ]
        scores.append(BlockRowsScore(rows, len(mine), *(float(np.median(one)) for one in errors)))
    return constants, scores


__all__ = ["BlockRowsScore", "granularity_scores", "triton_kernel"]
