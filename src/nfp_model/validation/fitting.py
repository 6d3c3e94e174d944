"""Bounded robust least squares in log time: a few constants of one equation from measured curves.

The residual of a point is w log(T_predicted / T_measured) with weights that make every curve count alike, under the soft-L1
loss; the unknowns are the logarithms of the constants, bounded, and drawn weakly towards the uncalibrated value so that a
constant the data say nothing about stays there with its prior uncertainty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nfp_model.kernels.counts import FloatArray
from nfp_model.uncertainty import unit_effects
from nfp_model.validation.fit_bands import Bands, gradient, sized_bands
from nfp_model.validation.fit_points import FitPoints, weights
from nfp_model.validation.fit_refusal import POINTS_PER_CONSTANT, refuse_unfit
from nfp_model.validation.fit_unknowns import significant

SOFT = 0.05
"""Log residual beyond which the loss grows linearly instead of quadratically [-]."""

PRIOR_SPREAD = 1.0
"""Prior standard deviation of the logarithm of a constant: a factor of e either way [-]."""

NEAR_BEST = 1.6
"""Menu entries slower than this times the cheapest are left out of the search once the constants are roughly known [-]."""

FOLDS = 5
"""Parts the shapes are left out in, in turn, to size the band [-]."""


@dataclass(frozen=True)
class ConstantsFit:
    """Fitted constants and how sure they are.

    Attributes
    ----------
    constants : dict
        Every constant of the equation, the held ones too, rounded as they are printed.
    fitted : tuple of str
        Order of the covariance.
    covariance : ndarray
        Of the logarithms, shapes being what varies: the sandwich estimate clustered by curve, prior included [-].
    log_scatter : float
        Weighted root mean square of log(measured / predicted) [-].
    bands : Bands
        Scatter that sizes the 80 % band.
    left_out : ndarray, shape (points,)
        log(measured / predicted) by fits that never saw the point's shape, shapes left out in turn [-].
    """

    constants: dict[str, float]
    fitted: tuple[str, ...]
    covariance: FloatArray
    log_scatter: float
    bands: Bands
    left_out: FloatArray


def fit_constants(points: FitPoints, groups: Sequence[str] | None = None) -> ConstantsFit:
    """Constants of one equation from measured points.

    Parameters
    ----------
    points : FitPoints
        Of the fit half, within the tokens that shall count.
    groups : sequence of str or None
        Group of each curve; groups count alike, and curves within each.

    Raises
    ------
    InvalidArgumentError
        For too few points, or points on one side of the knee only; the message says which tokens to measure next.
    """
    refuse_unfit(points)
    unknowns = points.unknowns
    weight = weights(points, groups)
    near = _near(points, solve(_thinned(points), None, unknowns.start))
    found = solve(near, weight, unknowns.start)
    constants = unknowns.printed(found)
    residual = np.log(points.seconds / points.predicted(constants))
    log_scatter = float(np.sqrt(np.average(residual**2, weights=weight)))
    covariance = _covariance(near, weight, found, residual)
    missed = _left_out(near, groups, found)
    moved = unit_effects(gradient(near, constants, unknowns.names), covariance)
    bands = sized_bands(points, missed, groups, moved)
    return ConstantsFit(constants, unknowns.names, covariance, significant(log_scatter), bands, missed)


def _thinned(points: FitPoints) -> FitPoints:
    """A third of the curves of a menu kernel, enough to tell which tiles matter."""
    return points.where(points.curve % 3 == 0) if np.unique(points.curve).size > 30 else points


def _near(points: FitPoints, logs: FloatArray) -> FitPoints:
    return points.near_best(points.unknowns.exact(logs), NEAR_BEST)


def solve(points: FitPoints, given: FloatArray | None, start: FloatArray, evaluations: int = 60) -> FloatArray:
    """Logarithms of the constants with the least weighted soft-L1 loss; ``given`` None weighs every curve alike."""
    from scipy.optimize import least_squares

    unknowns = points.unknowns
    weight = weights(points) if given is None else given
    centre, (low, high) = unknowns.start, unknowns.bounds
    root, measured = np.sqrt(weight), np.log(points.seconds)

    def residuals(logs: FloatArray) -> FloatArray:
        errors = root * (np.log(points.predicted(unknowns.exact(logs))) - measured)
        return np.concatenate([errors, SOFT / PRIOR_SPREAD * (logs - centre)])

    solution = least_squares(
        residuals,
        np.clip(start, low + 1e-6, high - 1e-6),
        bounds=(low, high),
        loss="soft_l1",
        f_scale=SOFT,
        x_scale=0.3,
        ftol=1e-7,
        xtol=1e-6,
        max_nfev=evaluations,
    )
    return np.asarray(solution.x)


def _covariance(points: FitPoints, weight: FloatArray, logs: FloatArray, residual: FloatArray) -> FloatArray:
    """Sandwich estimate, clustered by curve: H^-1 (sum over curves of g g') H^-1 with the soft-L1 loss's curvature [-]."""
    jacobian = gradient(points, points.unknowns.exact(logs), points.unknowns.names)
    softened = weight / np.sqrt(1.0 + weight * (residual / SOFT) ** 2)
    pull = (SOFT / PRIOR_SPREAD) ** 2
    bread = (jacobian * softened) @ jacobian.T + np.eye(logs.size) * pull
    scores = jacobian * softened * residual
    per_curve = np.array([np.bincount(points.curve, row, minlength=len(points.curves)) for row in scores])
    meat = per_curve @ per_curve.T + np.eye(logs.size) * (pull * PRIOR_SPREAD) ** 2
    inverse = np.linalg.inv(bread)
    return np.asarray(inverse @ meat @ inverse)


def _left_out(points: FitPoints, groups: Sequence[str] | None, found: FloatArray) -> FloatArray:
    """log(measured / predicted) of every point by a fit that never saw its shape, shapes left out in turn [-]."""
    keys = [curve.split_key for curve in points.curves]
    place = {key: number % FOLDS for number, key in enumerate(sorted(set(keys)))}
    fold = np.array([place[key] for key in keys])[points.curve]
    missed = np.zeros(len(points))
    for part in np.unique(fold):
        out = fold == part
        kept = points.where(~out) if (~out).sum() >= POINTS_PER_CONSTANT * found.size else points
        logs = solve(kept, weights(kept, groups), found, evaluations=8)
        missed[out] = residuals_at(points.where(out), logs)
    return missed


def residuals_at(points: FitPoints, logs: FloatArray) -> FloatArray:
    """log(measured / predicted) of every point at these logarithms of the constants [-]."""
    return np.asarray(np.log(points.seconds / points.predicted(points.unknowns.exact(logs))))


def rounded_covariance(covariance: FloatArray) -> tuple[tuple[float, ...], ...]:
    """A covariance as calibration files print it: three significant digits, symmetric."""
    even = (covariance + covariance.T) / 2.0
    return tuple(tuple(significant(float(value)) for value in row) for row in even)


__all__ = ["ConstantsFit", "fit_constants", "residuals_at", "rounded_covariance", "solve"]
