"""The system's factor as the advice layer takes it: latency relative to one position."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nfp_model.errors import InvalidArgumentError

LatencyRatio = Callable[[int], float] | ArrayLike
"""V: a function of positions per sequence q [-], or an array with V(1), V(2), ... in order; V(1) = 1."""


def ratios_at(latency_ratio: LatencyRatio, positions: Sequence[int]) -> NDArray[np.float64]:
    """V [-] at some position counts, from either form.

    Raises
    ------
    InvalidArgumentError
        For an empty or short table, or a ratio that is not finite and above 0.

    Examples
    --------
    >>> ratios_at([1.0, 1.1, 1.3], [1, 3]).tolist()
    [1.0, 1.3]
    """
    if callable(latency_ratio):
        values = np.array([float(latency_ratio(q)) for q in positions])
    else:
        table = np.asarray(latency_ratio, dtype=np.float64)
        if table.ndim != 1 or table.size == 0:
            raise InvalidArgumentError(
                f"the latency ratio must be a list of at least one value, got shape {table.shape}"
            )
        if max(positions) > table.size:
            raise InvalidArgumentError(
                f"the latency ratio is given up to {table.size} positions, asked for {max(positions)}"
            )
        values = table[np.asarray(positions) - 1]
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise InvalidArgumentError("latency ratios must be finite and above 0")
    return values


def require_tolerance(tolerance: float) -> None:
    """Refuse a tolerance [-] that is negative or not finite.

    Raises
    ------
    InvalidArgumentError
        Naming the value.
    """
    if not 0.0 <= tolerance < float("inf"):
        raise InvalidArgumentError(f"tolerance must be a finite number of at least 0, got {tolerance!r}")
