"""Intervals from parameter covariance and residual scatter, for T and for NFP."""

from __future__ import annotations

import numpy as np

from nfp_model.boundary import Boundary, near_free_boundary
from nfp_model.cost.latency import BoundOperator
from nfp_model.curve import BoundForward, LatencyCurve
from nfp_model.kernels.counts import FloatArray, IntArray
from nfp_model.operators import FusedMoE, Operator

Z80 = 1.2815515655446004
"""Half-width of a central 80 % interval of the normal distribution, in standard deviations [-]."""

_LOG_STEP = 1e-3
_OUTSIDE_WIDENING = 2.0
"""Factor on the scatter outside the token range a fit saw [-]."""


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


def scatter(bound: BoundOperator, tokens: IntArray) -> FloatArray:
    """Standard deviation of log T not explained by the constants, wider outside the fitted token range [-]."""
    fit = bound.fit
    width = np.full(tokens.size, fit.scatter(parallel=is_parallel(bound.operator)))
    if fit.tokens is not None:
        outside = (tokens < fit.tokens[0]) | (tokens > fit.tokens[1])
        width = np.where(outside, _OUTSIDE_WIDENING * width, width)
    return width


def latency_band(bound: BoundOperator, tokens: IntArray) -> tuple[FloatArray, FloatArray]:
    """80 % interval of one operator's latency: log-normal, covariance of the constants plus scatter [s]."""
    seconds = bound.seconds(tokens)
    variance = scatter(bound, tokens) ** 2
    if bound.fit.covariance:
        jacobian = log_jacobian(bound, tokens)
        variance = variance + np.einsum("it,ij,jt->t", jacobian, np.array(bound.fit.covariance), jacobian)
    width = Z80 * np.sqrt(variance)
    return seconds * np.exp(-width), seconds * np.exp(width)


def ratio_deviation(forward: BoundForward, positions: IntArray, baseline: int) -> FloatArray:
    """Standard deviation of log(T(N) / T(N0)) of a forward [-].

    Constants move T(N) and T(N0) together, so only the difference of their gradients counts. The residual scatter of an
    operator is taken as a property of its shape, and grows with the logarithm of the distance from the baseline.
    """
    grid = np.concatenate([[baseline], positions]).astype(np.int64)
    seconds = [
        use.count * bound.seconds(forward.tokens(use, grid))
        for use, bound in zip(forward.uses, forward.bound, strict=True)
    ]
    total = np.sum(seconds, axis=0)
    variance = np.zeros(positions.size)
    for use, bound, part in zip(forward.uses, forward.bound, seconds, strict=True):
        tokens = forward.tokens(use, grid)
        share = part / total
        if bound.fit.covariance:
            gradient = share * log_jacobian(bound, tokens)
            moved = gradient[:, 1:] - gradient[:, :1]
            variance += np.einsum("it,ij,jt->t", moved, np.array(bound.fit.covariance), moved)
        # Correlation of a shape's residual between N0 and N: one at N0, none some two octaves away.
        apart = 1.0 - np.exp(-np.log2(np.maximum(positions / baseline, 1.0)) / 2.0)
        variance += 2.0 * apart * (share[1:] * scatter(bound, tokens[1:])) ** 2
    return np.sqrt(variance)


def nfp_band(forward: BoundForward, curve: LatencyCurve, boundary: Boundary) -> tuple[int, int]:
    """80 % interval of NFP: where the curve's ratio to its baseline, shifted by its own uncertainty, crosses [positions]."""
    positions = curve.positions[curve.positions >= boundary.baseline]
    start = np.array([boundary.baseline], dtype=np.int64)
    grid = positions if positions[0] == boundary.baseline else np.concatenate([start, positions])
    width = Z80 * ratio_deviation(forward, grid, boundary.baseline)
    assert curve.refine is not None
    seconds = curve.refine(grid, None)
    ends = []
    for sign in (1.0, -1.0):
        shifted = LatencyCurve(grid, seconds * np.exp(sign * width))
        ends.append(near_free_boundary(shifted, boundary.tolerance, boundary.baseline).nfp)
    return min(ends[0], boundary.nfp), max(ends[1], boundary.nfp)
