"""Intervals from parameter covariance and residual scatter, for T and for NFP."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nfp_model.boundary import Boundary, near_free_boundary
from nfp_model.cost.inputs import attention_bytes
from nfp_model.cost.latency import BoundOperator
from nfp_model.curve import BoundForward, LatencyCurve
from nfp_model.kernels.counts import FloatArray, IntArray
from nfp_model.operators import Attention, FusedMoE, Operator

Z80 = 1.2815515655446004
"""Half-width of a central 80 % interval of the normal distribution, in standard deviations [-]."""

_LOG_STEP = 1e-3
_OUTSIDE_WIDENING = 2.0
"""Factor on the scatter outside the token range a fit saw [-]."""


@dataclass(frozen=True, eq=False)
class Spread:
    """How unsure log T is at some points of one axis, by cause.

    Attributes
    ----------
    moved : ndarray, shape (draws, points)
        Effect on log T of independent unit draws of the constants [-].
    scatter : ndarray, shape (shapes, points)
        Standard deviation of log T the constants do not explain, a row for every independent shape [-].
    octaves : ndarray, shape (shapes,)
        Distance along the axis over which the scatter of a shape is forgotten [octaves].

    Examples
    --------
    >>> alone = Spread.of(np.full(3, 0.1), octaves=1.0)
    >>> alone.deviation
    array([0.1, 0.1, 0.1])
    >>> alone.ratio_deviation(np.array([1, 2, 64]), 0).round(3)
    array([0.   , 0.112, 0.141])
    """

    moved: FloatArray
    scatter: FloatArray
    octaves: FloatArray

    @classmethod
    def of(cls, scatter: FloatArray, octaves: float = 1.0, moved: FloatArray | None = None) -> Spread:
        """The spread of one shape."""
        effects = np.empty((0, scatter.size)) if moved is None else moved
        return cls(effects, scatter[np.newaxis, :], np.array([octaves]))

    @classmethod
    def joined(cls, parts: Iterable[tuple[Hashable, Hashable, FloatArray, Spread]]) -> Spread:
        """The spread of a sum of latencies.

        Parameters
        ----------
        parts : iterable of (fit, shape, share, spread)
            Of every launch: whose constants it has, what misses alone, its share of the sum [-], shape (points,), and the
            spread of one shape. Constants of one fit move all its parts together; the scatter is one for all launches of a
            shape and independent between shapes.
        """
        moved: dict[Hashable, FloatArray] = {}
        scatters: dict[Hashable, FloatArray] = {}
        octaves: dict[Hashable, float] = {}
        for fit, shape, share, one in parts:
            nothing = np.zeros(share.size)
            moved[fit] = moved.get(fit, nothing) + share * one.moved
            scatters[shape] = scatters.get(shape, nothing) + share * one.scatter[0]
            octaves[shape] = one.octaves[0]
        return cls(
            np.vstack(list(moved.values())), np.vstack(list(scatters.values())), np.array(list(octaves.values()))
        )

    @property
    def deviation(self) -> FloatArray:
        """Standard deviation of log T [-]."""
        return np.asarray(np.sqrt((self.moved**2).sum(axis=0) + (self.scatter**2).sum(axis=0)))

    def ratio_deviation(self, tokens: npt.ArrayLike, start: int) -> FloatArray:
        """Standard deviation of log(T / T at the point ``start``) [-].

        Constants move both latencies together, so only the difference of their effects counts. The scatter of a shape is
        correlated along the axis, exp(-d / octaves) at a distance of d octaves.
        """
        place = np.log2(np.asarray(tokens, dtype=np.float64))
        kept = np.exp(-np.abs(place - place[start]) / self.octaves[:, np.newaxis])
        then, now = self.scatter[:, start : start + 1], self.scatter
        variance = ((self.moved - self.moved[:, start : start + 1]) ** 2).sum(axis=0)
        variance += (now**2 + then**2 - 2.0 * kept * now * then).sum(axis=0)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def where(self, mask: npt.NDArray[np.bool_] | npt.NDArray[np.intp] | slice) -> Spread:
        """The points a mask, places or a slice name."""
        return Spread(self.moved[:, mask], self.scatter[:, mask], self.octaves)


def unit_effects(gradient: FloatArray, covariance: npt.ArrayLike) -> FloatArray:
    """Effects of independent unit draws: rows whose products sum to g' C g, shape (constants, points) [-].

    Parameters
    ----------
    gradient : ndarray, shape (constants, points)
        d log T / d log constant [-].
    covariance : array_like, shape (constants, constants)
        Of the logarithms of the constants [-].
    """
    # Printed to three digits, a covariance may be a hair from positive.
    values, vectors = np.linalg.eigh(np.asarray(covariance, dtype=np.float64))
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))).T @ gradient)


def log_jacobian(bound: BoundOperator, tokens: IntArray) -> FloatArray:
    """d log T / d log theta of the fitted constants, by central differences, shape (constants, tokens) [-]."""
    fit = bound.fit
    if not fit.fitted:
        return np.empty((0, tokens.size))
    constants = fit.values()
    # Copied, not validated: a share a fit left at its bound of 1 is stepped past it.
    moved = [
        constants.model_copy(update={name: fit.constants[name] * float(np.exp(sign * _LOG_STEP))})
        for name in fit.fitted
        for sign in (1.0, -1.0)
    ]
    logs = np.log(bound.seconds_with(moved, tokens))
    return np.asarray((logs[0::2] - logs[1::2]) / (2 * _LOG_STEP))


def is_parallel(operator: Operator) -> bool:
    """Whether an operator is a MoE layer spread over several ranks, whose scatter is its own."""
    return isinstance(operator, FusedMoE) and operator.tensor_parallel * operator.expert_parallel > 1


def cache_in_l2(bound: BoundOperator) -> bool:
    """Whether an operator is attention over a cache no larger than the GPU's L2, whose scatter is its own."""
    if not isinstance(bound.operator, Attention) or bound.hardware.l2_bytes is None:
        return False
    return bool(attention_bytes(bound.operator, np.zeros(1, dtype=np.int64))[0] <= bound.hardware.l2_bytes)


def scatter(bound: BoundOperator, tokens: IntArray) -> FloatArray:
    """Standard deviation of log T not explained by the constants, wider outside the fitted token range [-]."""
    fit = bound.fit
    width = np.full(tokens.size, fit.scatter(parallel=is_parallel(bound.operator), in_l2=cache_in_l2(bound)))
    if fit.tokens is not None:
        outside = (tokens < fit.tokens[0]) | (tokens > fit.tokens[1])
        width = np.where(outside, _OUTSIDE_WIDENING * width, width)
    return width


def operator_spread(bound: BoundOperator, tokens: IntArray) -> Spread:
    """Spread of one operator's latency over rows, or query positions for attention."""
    moved = unit_effects(log_jacobian(bound, tokens), bound.fit.covariance) if bound.fit.covariance else None
    return Spread.of(scatter(bound, tokens), bound.fit.residual_octaves, moved)


def latency_band(bound: BoundOperator, tokens: IntArray) -> tuple[FloatArray, FloatArray]:
    """80 % interval of one operator's latency: log-normal, covariance of the constants plus scatter [s]."""
    return _interval(bound.seconds(tokens), operator_spread(bound, tokens).deviation)


def forward_spread(forward: BoundForward, curve: LatencyCurve) -> Spread:
    """Spread of a forward's latency on a curve of its own.

    Every operator counts by its share of T; see :meth:`Spread.joined`. Shapes miss independently as they are found to:
    left-out residuals of two shapes at the same rows correlate by 0.02 to 0.15 (GEMM, MoE and attention tables of B200, B300,
    H100 and L40S, fit half). So sized, the band of T covers 78 % of the points of our own whole forwards (30 settings of one
    H100, up to 1024 rows).
    """
    return Spread.joined(
        (
            (bound.calibration, bound.fit.operator, bound.fit.dtypes, bound.fit.kernels),
            bound.operator,
            curve.parts[use.name] / curve.seconds,
            operator_spread(bound, forward.tokens(use, curve.positions)),
        )
        for use, bound in zip(forward.uses, forward.bound, strict=True)
    )


def forward_band(forward: BoundForward, positions: IntArray) -> tuple[FloatArray, FloatArray]:
    """80 % interval of a forward's latency at some positions [s]."""
    curve = forward.curve(positions)
    return _interval(curve.seconds, forward_spread(forward, curve).deviation)


def _interval(seconds: FloatArray, deviation: FloatArray) -> tuple[FloatArray, FloatArray]:
    return seconds * np.exp(-Z80 * deviation), seconds * np.exp(Z80 * deviation)


def boundary_band(
    positions: IntArray, seconds: FloatArray, spread: Spread, tolerance: float, baseline: int
) -> tuple[Boundary, Boundary]:
    """80 % interval of a boundary: where the ratio to the baseline, shifted up and down by its own uncertainty, crosses.

    Parameters
    ----------
    positions, seconds, spread
        A curve that holds the baseline.
    tolerance : float
        eps [-].
    baseline : int
        N0 [positions].
    """
    width = Z80 * spread.ratio_deviation(positions, int(np.searchsorted(positions, baseline)))
    low, high = (
        near_free_boundary(LatencyCurve(positions, seconds * np.exp(sign * width)), tolerance, baseline)
        for sign in (1.0, -1.0)
    )
    return low, high


def nfp_band(forward: BoundForward, curve: LatencyCurve, boundary: Boundary) -> tuple[int, int]:
    """80 % interval of NFP; see :func:`boundary_band` [positions]."""
    positions = curve.positions[curve.positions >= boundary.baseline]
    start = np.array([boundary.baseline], dtype=np.int64)
    grid = positions if positions[0] == boundary.baseline else np.concatenate([start, positions])
    judged = forward.curve(grid)
    spread = forward_spread(forward, judged)
    low, high = boundary_band(grid, judged.seconds, spread, boundary.tolerance, boundary.baseline)
    return min(low.nfp, boundary.nfp), max(high.nfp, boundary.nfp)
