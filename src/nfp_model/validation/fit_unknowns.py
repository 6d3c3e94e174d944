"""What a fit moves: the constants of every equation, where the search starts, how far it may go, how they are printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nfp_model.kernels.counts import FloatArray
from nfp_model.specs.calibration import OperatorKind


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

_BLOCK = (
    Unknown("fixed_time_s", 60e-6, 5e-6, 400e-6),
    Unknown("memory_efficiency", 0.8, 0.2, 1.1),
    Unknown("matrix_efficiency", 0.5, 0.02, 1.2),
    Unknown("attention_efficiency", 0.4, 0.001, 3.0),
    Unknown("index_efficiency", 0.4, 0.01, 3.0),
    Unknown("activation_efficiency", 0.5, 0.02, 20.0),
    Unknown("selection_time_s", 20e-6, 0.1e-6, 1e-3),
    Unknown("ranking_time_s", 5e-6, 0.1e-6, 1e-3),
    Unknown("sequence_time_s", 0.05e-6, 1e-9, 10e-6),
)

ONE_TILE = {"split_time_s": 1.5e-6}
"""Held for GEMMs whose tile a published rule gives: nothing is split, but row tiles read weights again."""

TILE_MENU = {"reread_share": 0.0}
"""Held for GEMMs whose library chooses among tiles."""

UNKNOWNS: dict[OperatorKind, tuple[Unknown, ...]] = {
    "gemm": (
        Unknown("fixed_time_s", 3e-6, 0.3e-6, 60e-6),
        _MEMORY,
        Unknown("matrix_efficiency", 0.8, 0.1, 1.0),
        _OVERLAP,
        Unknown("chain_time_s", 1.5e-9, 0.02e-9, 30e-9),
        Unknown("split_time_s", 1.5e-6, 0.05e-6, 15e-6),
        Unknown("reread_share", 0.05, 0.001, 1.0),
    ),
    "moe": (
        Unknown("fixed_time_s", 25e-6, 1e-6, 200e-6),
        _MEMORY,
        Unknown("matrix_efficiency", 0.5, 0.05, 1.0),
        _OVERLAP,
        Unknown("reread_share", 0.15, 0.005, 1.0),
        Unknown("activation_efficiency", 0.5, 0.02, 15.0),
        Unknown("wave_time_s", 0.5e-6, 1e-9, 30e-6),
        Unknown("expert_time_s", 0.02e-6, 1e-11, 1e-6),
    ),
    "attention": _DECODE_ATTENTION,
    "latent_attention": _DECODE_ATTENTION,
    "csa_block": _BLOCK,
    "hca_block": _BLOCK,
    "elementwise": (
        Unknown("fixed_time_s", 1.5e-6, 0.2e-6, 10e-6),
        Unknown("memory_efficiency", 1.0, 0.1, 4.0),
        Unknown("walk_time_s", 5e-8, 1e-9, 1e-6),
        Unknown("search_time_s", 2e-6, 0.02e-6, 20e-6),
    ),
    "collective": (
        Unknown("fixed_time_s", 5e-6, 0.5e-6, 200e-6),
        Unknown("memory_efficiency", 0.7, 0.02, 1.5),
        Unknown("exchange_time_s", 3e-6, 0.02e-6, 200e-6),
        Unknown("rank_time_s", 0.3e-6, 0.005e-6, 50e-6),
    ),
}
"""What a fit may move, by operator: six numbers, seven for attention and blocks that select; of those of GEMM and MoE all but
six are held."""

HELD: dict[str, dict[str, float]] = {
    "attention": {"matrix_efficiency": 0.6},
    "latent_attention": {"matrix_efficiency": 0.8},
    "csa_block": {"overlap_exponent": 3.0, "matrix_efficiency": 0.75, "memory_efficiency": 0.8},
    "hca_block": {"overlap_exponent": 3.0, "index_efficiency": 0.4, "selection_time_s": 20e-6, "ranking_time_s": 0.0},
}
"""Constants held where the data do not reach them; the matrix efficiency of ``csa_block`` is the median of all fitted GEMMs."""


def significant(value: float, digits: int = 3) -> float:
    """A number with so many significant digits, as calibration files print it.

    Examples
    --------
    >>> significant(0.123456), significant(2.99999e-06)
    (0.123, 3e-06)
    """
    return float(f"{value:.{digits - 1}e}")


class Unknowns:
    """What one fit moves, in order, and what it holds.

    Parameters
    ----------
    operator : str
        Whose constants.
    held : mapping or None
        Constants the kernel holds, beside :data:`HELD`.

    Examples
    --------
    >>> Unknowns("moe", {"overlap_exponent": 2.0, "reread_share": 0.1}).names[-2:]
    ('wave_time_s', 'expert_time_s')
    """

    def __init__(self, operator: OperatorKind, held: Mapping[str, float] | None = None) -> None:
        self.held = {**HELD.get(operator, {}), **(held or {})}
        self.moved = tuple(unknown for unknown in UNKNOWNS[operator] if unknown.name not in self.held)

    def __len__(self) -> int:
        return len(self.moved)

    @property
    def names(self) -> tuple[str, ...]:
        """Order of the logarithms."""
        return tuple(unknown.name for unknown in self.moved)

    @property
    def start(self) -> FloatArray:
        """Logarithms of the constants a search starts from."""
        return np.log([unknown.start for unknown in self.moved])

    @property
    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Logarithms of the least and the greatest a constant may be."""
        return np.log([unknown.low for unknown in self.moved]), np.log([unknown.high for unknown in self.moved])

    def exact(self, logs: FloatArray) -> dict[str, float]:
        """Every constant of the equation at these logarithms."""
        return {**dict(zip(self.names, np.exp(logs).tolist(), strict=True)), **self.held}

    def printed(self, logs: FloatArray) -> dict[str, float]:
        """The same, rounded as calibration files print them."""
        return {name: significant(value) for name, value in self.exact(logs).items()}
