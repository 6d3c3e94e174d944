"""How wide the 80 % band of a fit is, read off what it misses on shapes left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nfp_model.boundary import near_free_boundary, saturated_baseline
from nfp_model.curve import LatencyCurve
from nfp_model.kernels.counts import FloatArray
from nfp_model.specs.calibration import Fit
from nfp_model.uncertainty import Z80, Spread, boundary_band, unit_effects
from nfp_model.validation.fit_points import FitPoints, weights
from nfp_model.validation.fit_unknowns import significant
from nfp_model.validation.records import Curve
from nfp_model.validation.shapes import MoEShape

GEMM_BASELINE = 16
"""N0 of the boundary error of GEMMs: past the special kernels for a few rows [rows]."""

PARALLEL = "parallel"
"""Name of the group whose scatter is kept apart."""

LEAST_POINTS = 30
"""Points from which a scatter of its own is read off [-]."""

LEAST_CURVES = 10
"""Curves from which a group's band of NFP is looked at by itself [-]."""

BAND_TOLERANCES = (0.1, 0.2, 0.5)
"""eps of the boundaries that size the band of NFP [-]."""

OTHER_OCTAVES = 2.0
"""Distance over which a scatter is forgotten where the timings do not say [octaves]."""

_STEP = 1e-3
_LEAST_SCATTER = 0.005
_OCTAVES = tuple(significant(0.1 * 10 ** (step / 8), 2) for step in range(25))


@dataclass(frozen=True)
class Bands:
    """What sizes the band of a fit; the fields of :class:`~nfp_model.specs.calibration.Fit` of the same names.

    Attributes
    ----------
    band_scatter : float
        Scatter with which the 80 % band covers 80 % of shapes left out in turn [-].
    band_scatter_parallel, band_scatter_in_l2 : float or None
        The same of the group ``parallel`` alone, and of points whose cache lies in L2; ``band_scatter`` is then of the others [-].
    residual_octaves : float
        Distance along the tokens over which the scatter is forgotten; see :func:`forgetting` [octaves].
    """

    band_scatter: float
    band_scatter_parallel: float | None
    band_scatter_in_l2: float | None
    residual_octaves: float


def sized_bands(points: FitPoints, missed: FloatArray, groups: Sequence[str] | None, moved: FloatArray) -> Bands:
    """The bands of fitted constants.

    Parameters
    ----------
    points : FitPoints
        What was fitted.
    missed : ndarray, shape (points,)
        log(measured / predicted) by fits that never saw the point's shape [-].
    groups : sequence of str or None
        Group of each curve.
    moved : ndarray, shape (draws, points)
        Effects of unit draws of the constants; see ``uncertainty.unit_effects`` [-].
    """
    needed = needed_variance(missed, moved)
    # Constants serve caches in memory first; the band is to hold for every cache alike.
    weight = weights(points, groups, 1.0)
    apart = np.array([label == PARALLEL for label in groups or [""] * len(points.curves)])[points.curve]
    inside = np.asarray(points.inputs.get("resident", np.zeros(len(points))), dtype=bool)
    parallel = in_l2 = None
    if apart.any() and not apart.all():
        parallel = percentile_scatter(needed[apart], weight[apart])
        # Single-rank shapes are too few to size a band alone: the others join them.
        weight = np.where(apart, weight / weight[apart].sum(), 2.0 * weight / weight[~apart].sum())
    own = np.ones(len(points), dtype=bool)
    if min(inside.sum(), (~inside).sum()) >= LEAST_POINTS:
        in_l2 = percentile_scatter(needed[inside], weight[inside])
        own = ~inside
    band = percentile_scatter(needed[own], weight[own])
    width = np.where(apart, parallel or band, np.where(own, band, in_l2 or band))
    octaves = forgetting(points, missed, Spread.of(width, moved=moved), groups)
    return Bands(band, parallel, in_l2, octaves)


def gradient(points: FitPoints, constants: Mapping[str, float], names: Sequence[str]) -> FloatArray:
    """d log T / d log constant, by central differences, shape (constants, points) [-]."""
    rows = []
    for name in names:
        moved = [{**constants, name: constants[name] * float(np.exp(sign * _STEP))} for sign in (1.0, -1.0)]
        up, down = (np.log(points.predicted(one)) for one in moved)
        rows.append((up - down) / (2 * _STEP))
    return np.array(rows).reshape(len(names), len(points))


def point_spread(points: FitPoints, fit: Fit) -> Spread:
    """How unsure log T is at every point, as ``uncertainty.operator_spread`` has it."""
    ranks = [
        getattr(curve.shape, "tensor_parallel", 1) * getattr(curve.shape, "expert_parallel", 1)
        for curve in points.curves
    ]
    width = np.array([fit.scatter(parallel=count > 1) for count in ranks])[points.curve]
    if "resident" in points.inputs:
        width = np.where(points.inputs["resident"], fit.scatter(in_l2=True), width)
    moved = unit_effects(gradient(points, fit.constants, fit.fitted), fit.covariance) if fit.covariance else None
    return Spread.of(width, fit.residual_octaves, moved)


def baseline_of(curve: Curve) -> int:
    """N0 a curve is judged from: 16 rows of a GEMM, every expert touched, else 1 [tokens]."""
    if isinstance(curve.shape, MoEShape):
        return saturated_baseline(curve.shape.num_experts, curve.shape.top_k, 1)
    return GEMM_BASELINE if curve.operator == "gemm" else 1


def needed_variance(missed: FloatArray, moved: FloatArray) -> FloatArray:
    """Residual variance from which each point lies inside the 80 % band: (missed / z)^2 less the constants' part [-]."""
    return np.asarray((missed / Z80) ** 2 - (moved**2).sum(axis=0))


def forgetting(points: FitPoints, missed: FloatArray, spread: Spread, groups: Sequence[str] | None = None) -> float:
    """Distance over which a shape's scatter is forgotten, so that the 80 % band of NFP covers 80 % of shapes left out [octaves].

    The longer it is, the more the errors of T(N) and T(N0) have in common and the narrower the band of NFP. Boundaries stand
    on tile edges, so where most are met exactly any band covers more; the longest distance is taken then.

    Parameters
    ----------
    points : FitPoints
        What was fitted.
    missed : ndarray, shape (points,)
        log(measured / predicted) with shapes left out [-].
    spread : Spread
        Of the points, whatever its octaves.
    groups : sequence of str or None
        Group of each curve: the band is to cover 80 % of each that has :data:`LEAST_CURVES`, of all curves where none has.
    """
    curves = []
    for index, curve in enumerate(points.curves):
        here = np.flatnonzero(points.curve == index)
        tokens, measured = points.tokens[here], points.seconds[here]
        start = int(np.searchsorted(tokens, baseline_of(curve)))
        if start + 1 >= here.size:
            continue
        baseline, theirs = int(tokens[start]), LatencyCurve(tokens, measured)
        found = [near_free_boundary(theirs, tolerance, baseline).nfp for tolerance in BAND_TOLERANCES]
        curves.append((tokens, measured / np.exp(missed[here]), spread.where(here), baseline, found, index))
    if not curves:
        return OTHER_OCTAVES
    labels = np.array([groups[one[-1]] if groups else "" for one in curves])
    several = [label for label in np.unique(labels) if (labels == label).sum() >= LEAST_CURVES]
    parts = [labels == label for label in several] or [np.ones(len(curves), dtype=bool)]

    def covered(octaves: float) -> float:
        shares = np.zeros(len(curves))
        for place, (tokens, predicted, one, baseline, found, _) in enumerate(curves):
            alone = replace(one, octaves=np.array([octaves]))
            for tolerance, nfp in zip(BAND_TOLERANCES, found, strict=True):
                low, high = boundary_band(tokens, predicted, alone, tolerance, baseline)
                shares[place] += (low.nfp <= nfp <= high.nfp) / len(BAND_TOLERANCES)
        return min(float(shares[part].mean()) for part in parts)

    short, long = 0, len(_OCTAVES) - 1
    while short < long:
        middle = (short + long + 1) // 2
        short, long = (middle, long) if covered(_OCTAVES[middle]) >= 0.8 else (short, middle - 1)
    return _OCTAVES[short]


def percentile_scatter(needed: FloatArray, weight: FloatArray) -> float:
    """Scatter that reaches 80 % of the weight of :func:`needed_variance` [-]."""
    order = np.argsort(needed)
    share = np.cumsum(weight[order]) / weight.sum()
    reached = float(needed[order][min(int(np.searchsorted(share, 0.8)), needed.size - 1)])
    return significant(float(np.sqrt(max(reached, _LEAST_SCATTER**2))))


__all__ = [
    "GEMM_BASELINE", "PARALLEL", "Bands", "baseline_of", "forgetting", "gradient", "needed_variance", "percentile_scatter",
    "point_spread", "sized_bands",
]  # fmt: skip
