"""What a fit moves: the constants of every equation, where the search starts, how far it may go, how they are printed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nfp_model.kernels.counts import FloatArray


@dataclass(frozen=True)
class Unknown:
    """A constant to fit, where the search starts and its bounds, in the constant's own unit."""

    name: str
    start: float
    low: float
    high: float


_MEMORY = Unknown("memory_efficiency", 0.85, 0.3, 1.05)
_OVERLAP = Unknown("overlap_exponent", 3.0, 1.05, 12.0)
_DECODE_ATTENTION = (
    Unknown("fixed_time_s", 10e-6, 0.5e-6, 60e-6),
    _MEMORY,
    _OVERLAP,
    Unknown("sequence_time_s", 0.01e-6, 1e-10, 1e-6),
    Unknown("step_share", 0.5, 0.05, 5.0),
    Unknown("cta_time_s", 2e-6, 0.05e-6, 20e-6),
    Unknown("split_time_s", 0.5e-6, 0.02e-6, 10e-6),
)

_GEMM = (
    Unknown("fixed_time_s", 3e-6, 0.3e-6, 60e-6),
    _MEMORY,
    Unknown("matrix_efficiency", 0.8, 0.1, 1.0),
    _OVERLAP,
    Unknown("chain_time_s", 1.5e-9, 0.02e-9, 30e-9),
)
_SPLIT = Unknown("split_time_s", 1.5e-6, 0.05e-6, 15e-6)

DISPATCH = "gemm of one tile"
"""GEMMs whose tile a published rule gives: nothing is split, but row tiles read weights again."""

UNKNOWNS: dict[str, tuple[Unknown, ...]] = {
    "gemm": (*_GEMM, _SPLIT),
    DISPATCH: (*_GEMM, Unknown("reread_share", 0.05, 0.001, 1.0)),
    "moe": (
        Unknown("fixed_time_s", 25e-6, 1e-6, 200e-6),
        _MEMORY,
        Unknown("matrix_efficiency", 0.5, 0.05, 1.0),
        _OVERLAP,
        Unknown("reread_share", 0.15, 0.005, 1.0),
        Unknown("activation_efficiency", 0.5, 0.02, 15.0),
    ),
    "attention": _DECODE_ATTENTION,
    "latent_attention": _DECODE_ATTENTION,
    "collective": (Unknown("fixed_time_s", 9.5e-6, 0.5e-6, 200e-6), Unknown("memory_efficiency", 0.8, 0.05, 1.5)),
}
"""What a fit moves, by operator (see ``FitPoints.searched``): at most six numbers, seven for attention."""

HELD: dict[str, dict[str, float]] = {
    DISPATCH: {_SPLIT.name: _SPLIT.start},
    "attention": {"matrix_efficiency": 0.6},
    "latent_attention": {"matrix_efficiency": 0.6},
}
"""Constants held where the data do not reach them."""


def significant(value: float, digits: int = 3) -> float:
    """A number with so many significant digits, as calibration files print it.

    Examples
    --------
    >>> significant(0.123456), significant(2.99999e-06)
    (0.123, 3e-06)
    """
    return float(f"{value:.{digits - 1}e}")


def start_of(operator: str) -> FloatArray:
    """Logarithms of the constants a search starts from."""
    return np.log([unknown.start for unknown in UNKNOWNS[operator]])


def constants_at(operator: str, logs: FloatArray) -> dict[str, float]:
    named = {unknown.name: significant(float(np.exp(x))) for unknown, x in zip(UNKNOWNS[operator], logs, strict=True)}
    return {**named, **HELD.get(operator, {})}


def exact_constants(operator: str, logs: FloatArray) -> dict[str, float]:
    named = {unknown.name: float(np.exp(x)) for unknown, x in zip(UNKNOWNS[operator], logs, strict=True)}
    return {**named, **HELD.get(operator, {})}
