"""How far a predicted curve is from a measured one: pure functions that fits and scores share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nfp_model.boundary import near_free_boundary
from nfp_model.curve import LatencyCurve

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def curve_mape(predicted: npt.ArrayLike, measured: npt.ArrayLike) -> float:
    """Mean absolute percentage error of one curve, as a fraction: mean |predicted / measured - 1| [-].

    Parameters
    ----------
    predicted, measured : array_like, shape (points,)
        Latencies at the same tokens [s].

    Examples
    --------
    >>> round(curve_mape([11.0, 18.0], [10.0, 20.0]), 3)
    0.1
    """
    ratio = np.asarray(predicted, dtype=np.float64) / np.asarray(measured, dtype=np.float64)
    return float(np.mean(np.abs(ratio - 1.0)))


def shape_mape(predicted: npt.ArrayLike, measured: npt.ArrayLike) -> float:
    """:func:`curve_mape` after both curves are divided by their first point: the error of the shape alone [-].

    Examples
    --------
    >>> shape_mape([11.0, 22.0], [10.0, 20.0])
    0.0
    """
    ours, theirs = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    return curve_mape(ours / ours[0], theirs / theirs[0])


def boundary_on(tokens: IntArray, seconds: FloatArray, tolerance: float, baseline: int) -> int | None:
    """Last crossing of the near-free rule on a grid; None where nothing was timed at or beyond the baseline.

    The baseline is the first measured token count at or above the one asked for.

    Examples
    --------
    >>> boundary_on(np.array([1, 16, 64, 128]), np.array([1.0, 1.0, 1.1, 1.5]), 0.2, 16)
    64
    """
    index = int(np.searchsorted(tokens, baseline))
    if index >= tokens.size:
        return None
    curve = LatencyCurve.measured(tokens, seconds)
    return near_free_boundary(curve, tolerance, int(tokens[index])).nfp


def boundary_error(
    tokens: IntArray, predicted: FloatArray, measured: FloatArray, tolerance: float = 0.2, baseline: int = 1
) -> float | None:
    """log2(NFP predicted / NFP measured), both judged on the measured token counts [-]; None without a baseline.

    Parameters
    ----------
    tokens : ndarray of int, shape (points,)
        Strictly increasing.
    predicted, measured : ndarray, shape (points,)
        Latencies [s].
    tolerance : float
        eps [-].
    baseline : int
        N0, or the next measured token count above it.

    Examples
    --------
    >>> boundary_error(np.array([1, 2, 4, 8]), np.array([1.0, 1.0, 1.1, 2.0]), np.array([1.0, 1.1, 1.3, 2.0]))
    1.0
    """
    ours = boundary_on(tokens, predicted, tolerance, baseline)
    theirs = boundary_on(tokens, measured, tolerance, baseline)
    return None if ours is None or theirs is None else float(np.log2(ours / theirs))


def median_and_p90(errors: Sequence[float]) -> tuple[float, float] | None:
    """Median and 90th percentile of absolute values; None without any.

    Examples
    --------
    >>> median_and_p90([0.0, -1.0, 0.5])
    (0.5, 0.9)
    """
    if not errors:
        return None
    size = np.abs(np.asarray(errors, dtype=np.float64))
    return float(np.median(size)), round(float(np.quantile(size, 0.9)), 12)


def coverage(measured: FloatArray, low: FloatArray, high: FloatArray) -> float:
    """Share of measured points inside an interval [-].

    Examples
    --------
    >>> coverage(np.array([1.0, 2.0]), np.array([0.9, 0.9]), np.array([1.1, 1.1]))
    0.5
    """
    return float(np.mean((measured >= low) & (measured <= high)))
