"""Latency equations evaluated on arrays, from the NumPy code generated once from SymPy (:mod:`nfp_model.cost.generating`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nfp_model.cost.generated import FUNCTIONS, PER_TIME, TIMES
from nfp_model.kernels.counts import FloatArray

TIME_UNIT_S = 1e-6
"""Times are evaluated in microseconds: the equations are homogeneous in time, and high powers of seconds underflow [s]."""


def evaluate(kind: str, inputs: Mapping[str, Any], term: str | None = None) -> FloatArray:
    """Seconds from named inputs in SI units.

    Parameters
    ----------
    kind : str
        Equation; see :func:`nfp_model.cost.equations.equation`.
    term : str or None
        One of the equation's terms; None for the latency.
    inputs : mapping
        Symbol name (key of :data:`~nfp_model.cost.symbols.SYMBOLS`) -> number or array that broadcasts with the others.

    Returns
    -------
    ndarray
        Latency or term [s].

    Examples
    --------
    One gigabyte at full H100 bandwidth:

    >>> round(float(evaluate("stream", dict(moved_bytes=1e9, bandwidth=3.35e12, memory_efficiency=1, fixed_time=0))) * 1e6)
    299
    """
    names, function = FUNCTIONS[kind, term]
    return np.asarray(function(*[_scaled(name, inputs[name]) for name in names]) * TIME_UNIT_S)


def _scaled(name: str, value: Any) -> Any:
    if name in PER_TIME:
        return value * TIME_UNIT_S
    return value / TIME_UNIT_S if name in TIMES else value
