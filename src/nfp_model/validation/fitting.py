"""Bounded robust least squares in log time: a few constants of one equation from measured curves.

The residual of a point is w log(T_predicted / T_measured) with weights that make every curve count alike, under the soft-L1
loss; the unknowns are the logarithms of the constants, bounded, and drawn weakly towards the uncalibrated value so that a
constant the data say nothing about stays there with its prior uncertainty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nfp_model.kernels.counts import FloatArray
from nfp_model.specs.calibration import Fit
from nfp_model.uncertainty import Z80
from nfp_model.validation.fit_points import FitPoints, weights
from nfp_model.validation.fit_refusal import POINTS_PER_CONSTANT, refuse_unfit
from nfp_model.validation.fit_unknowns import significant

SOFT = 0.05
"""Log residual beyond which the loss grows linearly instead of quadratically [-]."""

PRIOR_SPREAD = 1.0
"""Prior standard deviation of the logarithm of a constant: a factor of e either way [-]."""

NEAR_BEST = 1.6
"""Menu entries slower than this times the cheapest are left out of the search once the constants are roughly known [-]."""

_STEP = 1e-3
_LEAST_SCATTER = 0.005

PARALLEL = "parallel"
"""Name of the group whose scatter is kept apart."""

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
    band_scatter : float
        Scatter with which the 80 % band covers 80 % of shapes left out in turn [-].
    band_scatter_parallel : float or None
        The same of the group ``parallel`` alone [-].
    left_out : ndarray, shape (points,)
        log(measured / predicted) by fits that never saw the point's shape, shapes left out in turn [-].
    """

    constants: dict[str, float]
    fitted: tuple[str, ...]
    covariance: FloatArray
    log_scatter: float
    band_scatter: float
    band_scatter_parallel: float | None
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
    needed = needed_variance(near, missed, found, covariance)
    # Constants serve caches in memory first; the band is to hold for every cache alike.
    weight = weights(points, groups, 1.0)
    apart = np.array([label == PARALLEL for label in groups or [""] * len(points.curves)])[near.curve]
    own = percentile_scatter(needed[apart], weight[apart]) if apart.any() and not apart.all() else None
    # Single-rank shapes are too few to size a band alone: the others join them.
    alike = (
        weight if own is None else np.where(apart, weight / weight[apart].sum(), 2.0 * weight / weight[~apart].sum())
    )
    band = percentile_scatter(needed, alike)
    return ConstantsFit(constants, unknowns.names, covariance, significant(log_scatter), band, own, missed)


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


def _gradient(points: FitPoints, constants: Mapping[str, float], names: Sequence[str]) -> FloatArray:
    """d log T / d log constant, by central differences, shape (constants, points) [-]."""
    rows = []
    for name in names:
        moved = [{**constants, name: constants[name] * float(np.exp(sign * _STEP))} for sign in (1.0, -1.0)]
        up, down = (np.log(points.predicted(one)) for one in moved)
        rows.append((up - down) / (2 * _STEP))
    return np.array(rows).reshape(len(names), len(points))


def band_deviation(points: FitPoints, fit: Fit) -> FloatArray:
    """Standard deviation of log T behind the 80 % band, as ``uncertainty.latency_band`` has it, at every point [-]."""
    ranks = [
        getattr(curve.shape, "tensor_parallel", 1) * getattr(curve.shape, "expert_parallel", 1)
        for curve in points.curves
    ]
    width = np.array([fit.scatter(parallel=count > 1) for count in ranks])[points.curve]
    variance = width**2
    if fit.covariance:
        gradient = _gradient(points, fit.constants, fit.fitted)
        variance += np.einsum("ip,ij,jp->p", gradient, np.array(fit.covariance), gradient)
    return np.asarray(np.sqrt(variance))


def _covariance(points: FitPoints, weight: FloatArray, logs: FloatArray, residual: FloatArray) -> FloatArray:
    """Sandwich estimate, clustered by curve: H^-1 (sum over curves of g g') H^-1 with the soft-L1 loss's curvature [-]."""
    jacobian = _gradient(points, points.unknowns.exact(logs), points.unknowns.names)
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


def needed_variance(points: FitPoints, missed: FloatArray, found: FloatArray, covariance: FloatArray) -> FloatArray:
    """Residual variance from which each point lies inside the 80 % band: (missed / z)^2 less the covariance's part [-]."""
    gradient = _gradient(points, points.unknowns.exact(found), points.unknowns.names)
    return np.asarray((missed / Z80) ** 2 - np.einsum("ip,ij,jp->p", gradient, covariance, gradient))


def percentile_scatter(needed: FloatArray, weight: FloatArray) -> float:
    """Scatter that reaches 80 % of the weight of :func:`needed_variance` [-]."""
    order = np.argsort(needed)
    share = np.cumsum(weight[order]) / weight.sum()
    reached = float(needed[order][min(int(np.searchsorted(share, 0.8)), needed.size - 1)])
    return significant(float(np.sqrt(max(reached, _LEAST_SCATTER**2))))


def rounded_covariance(covariance: FloatArray) -> tuple[tuple[float, ...], ...]:
    """A covariance as calibration files print it: three significant digits, symmetric."""
    even = (covariance + covariance.T) / 2.0
    return tuple(tuple(significant(float(value)) for value in row) for row in even)


__all__ = [
    "ConstantsFit", "band_deviation", "fit_constants", "needed_variance", "percentile_scatter", "residuals_at",
    "rounded_covariance", "solve",
]  # fmt: skip
