"""The near-free rule on any curve, predicted or measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nfp_model.curve import LatencyCurve
from nfp_model.errors import InvalidArgumentError, require_positive

_WHOLE_INTERVAL = 64
"""Intervals up to this many positions are evaluated whole rather than halved [positions]."""


@dataclass(frozen=True)
class Boundary:
    """Where a curve leaves near-free latency.

    Attributes
    ----------
    nfp : int
        max {N >= N0 : T(N) <= (1 + eps) T(N0)} within the range searched [positions].
    censored : bool
        The curve was still within the tolerance at the last position searched: read ``nfp`` as "at least".
    first_exit : int or None
        Smallest N that breaks the rule [positions]; None if none does. Real curves are not monotone, so it can be below ``nfp``.
    baseline : int
        N0 [positions].
    tolerance : float
        eps [-].
    baseline_latency_s : float
        T(N0) [s].
    """

    nfp: int
    censored: bool
    first_exit: int | None
    baseline: int
    tolerance: float
    baseline_latency_s: float

    @property
    def threshold_s(self) -> float:
        """(1 + eps) T(N0) [s]."""
        return (1 + self.tolerance) * self.baseline_latency_s


def near_free_boundary(curve: LatencyCurve, tolerance: float = 0.1, baseline: int = 1) -> Boundary:
    """Near-Free Parallelism of a curve (arXiv 2605.30851): the largest N with T(N) <= (1 + eps) T(N0).

    Parameters
    ----------
    curve : LatencyCurve
        Predicted curves are refined between grid points; measured ones are judged on their points.
    tolerance : float
        eps, above 0 [-].
    baseline : int
        N0 [positions]; must be a point of a measured curve.

    Returns
    -------
    Boundary
        Last crossing, first exit, and whether the range ended first.

    Raises
    ------
    InvalidArgumentError
        For a tolerance that is not above 0 or a baseline beyond the curve.

    Examples
    --------
    >>> near_free_boundary(LatencyCurve.measured([1, 2, 4, 8, 16], [10, 10, 12, 10.5, 20])).nfp
    8
    >>> near_free_boundary(LatencyCurve.measured([1, 2, 4, 8, 16], [10, 10, 12, 10.5, 20])).first_exit
    4
    """
    require_positive(tolerance=tolerance)
    if baseline > curve.positions[-1]:
        raise InvalidArgumentError(f"baseline {baseline} lies beyond the last position {int(curve.positions[-1])}")
    base = curve.at(baseline)
    threshold = (1 + tolerance) * base
    inside = curve.positions >= baseline
    positions, seconds = curve.positions[inside], curve.seconds[inside]
    free = seconds <= threshold
    # The baseline always passes, so it stands in where a refined grid starts after it.
    last_free = int(np.flatnonzero(free)[-1]) if free.any() else -1
    lower = int(positions[last_free]) if last_free >= 0 else baseline
    censored = last_free == positions.size - 1
    nfp = lower if censored else _last_free_between(curve, lower, int(positions[last_free + 1]), threshold)
    first = _first_exit(curve, baseline, positions, free, threshold)
    return Boundary(nfp, censored, first, baseline, tolerance, base)


def _last_free_between(curve: LatencyCurve, free: int, broken: int, threshold: float) -> int:
    """Largest N in [free, broken) within the threshold; where T falls between grid points (idle rows), one of them."""
    if curve.refine is None:
        return free
    while broken - free > _WHOLE_INTERVAL:
        middle = (free + broken) // 2
        if curve.at(middle) <= threshold:
            free = middle
        else:
            broken = middle
    if broken - free <= 1:
        return free
    between = np.arange(free + 1, broken, dtype=np.int64)
    passing = between[curve.refine(between, None) <= threshold]
    return int(passing[-1]) if passing.size else free


def _first_exit(
    curve: LatencyCurve, baseline: int, positions: np.ndarray, free: np.ndarray, threshold: float
) -> int | None:
    broken = np.flatnonzero(~free)
    if broken.size == 0:
        return None
    index = int(broken[0])
    before = int(positions[index - 1]) if index else baseline
    if curve.refine is None:
        return int(positions[index])
    return _last_free_between(curve, before, int(positions[index]), threshold) + 1


def saturated_baseline(num_experts: int, top_k: int, batch_size: int) -> int:
    """Smallest N at which every routed expert is touched, by the rule M k >= 4 E (cost model, section 1) [positions].

    At four routed rows per expert, independent uniform routing leaves exp(-4), under 2 %, of the experts untouched.

    Examples
    --------
    >>> saturated_baseline(8, 2, 1), saturated_baseline(128, 8, 1)
    (16, 64)
    """
    rows = -(-4 * num_experts // top_k)
    return max(1, -(-rows // batch_size))
