"""Curves of other weight formats that join a thin fused-MoE table: the same kernel, timed on the same GPU.

A weight-only kernel expands its weights and multiplies in 16 bits, whatever the format: its constants belong to the kernel and
the GPU, but for what one format takes longer to expand (``expansion_cost`` of the kernel file). Marlin (fit halves of
aiconfigurator-core 0.12.0, each format alone): matrix efficiency 0.30 of the peak for mxfp4 and 0.31 for int4 on H100, activation
efficiency 0.47 both; a stream of 2.9 TB/s on H100 and 3.0 on H200, whose memory differs by 43 %, so that constants of one GPU do not
serve another.
"""

from __future__ import annotations

from dataclasses import replace

from nfp_model.errors import InvalidArgumentError, UnsupportedError
from nfp_model.quantities import element_type
from nfp_model.validation.fit_tables import FitTable, curve_dtype, family, sampled
from nfp_model.validation.records import Curve
from nfp_model.validation.silicon import load_moe

FEWEST_SHAPES = 3
"""Shapes a published GEMM or MoE table must have to be fitted, those lent to it included [-]."""

FEWEST_SCORED = 1
"""Shapes of the test half it must have to be scored [-]."""

LENDER = "vllm"
"""Engine whose timings are lent: the one Marlin was written for; the others carry copies."""

MOST_LENT = 60
"""Lent curves of one setting used at most [-]."""


def shared(table: FitTable) -> FitTable:
    """A table with the curves lent to it, where its own fit half has fewer than :data:`FEWEST_SHAPES` shapes.

    Lent are the fit-half curves of every weight-only format that :data:`LENDER` timed on the same GPU with a kernel of the same
    family. Any other table is returned as it is.

    Parameters
    ----------
    table : FitTable
        Of published timings.
    """
    first = next(iter(table.fit), None)
    rule = next((one for one in map(family, table.kernels) if one), "")
    if first is None or table.operator != "moe" or not rule or not _weight_only(first):
        return table
    if shapes(table.fit) >= FEWEST_SHAPES:
        return table
    try:
        every = load_moe(first.gpu, LENDER).half("fit")
    except UnsupportedError:
        return table
    mine = (LENDER, table.dtype)
    lent = [
        curve
        for curve in every
        if _weight_only(curve)
        and any(family(name) == rule for name in curve.kernels)
        and mine != (first.backend, curve_dtype(curve))
    ]
    return replace(table, lent=tuple(sampled(lent, MOST_LENT)))


def _weight_only(curve: Curve) -> bool:
    return element_type(curve.weight_dtype or "bfloat16").matrix_rate is None


def shapes(curves: tuple[Curve, ...]) -> int:
    """Distinct shapes among some curves, settings aside [-]."""
    return len({curve.split_key for curve in curves})


def refuse_thin(table: FitTable) -> None:
    """Refuse a published table that holds too few shapes to learn from or to score on.

    Raises
    ------
    InvalidArgumentError
        With the shapes there are and those needed.
    """
    found, scored = shapes((*table.fit, *table.lent)), shapes(table.test)
    if table.operator in ("gemm", "moe") and (found < FEWEST_SHAPES or scored < FEWEST_SCORED):
        raise InvalidArgumentError(
            f"{found} shapes to fit and {scored} to score, {FEWEST_SHAPES} and {FEWEST_SCORED} are needed"
        )


__all__ = ["FEWEST_SHAPES", "refuse_thin", "shapes", "shared"]
