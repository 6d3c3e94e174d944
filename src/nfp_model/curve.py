"""A latency curve: positions, seconds, and the operators behind them. It decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nfp_model.cost.latency import BoundOperator
from nfp_model.errors import InvalidArgumentError
from nfp_model.kernels.capture import pad_to_capture
from nfp_model.kernels.counts import FloatArray, IntArray
from nfp_model.operators import Module, OperatorUse
from nfp_model.workload import Workload

_WIDEST_TILE = 256
"""Rows one position must add for it to cross an edge of every tile [rows]."""


@dataclass(frozen=True)
class LatencyCurve:
    """T(N) on a grid, predicted or measured.

    Attributes
    ----------
    positions : ndarray of int, shape (points,)
        N, strictly increasing [positions per sequence].
    seconds : ndarray, shape (points,)
        T(N) [s].
    parts : dict of ndarray
        Operator name -> its share of every T(N), all launches together [s]; empty for a measured curve.
    modules : dict
        Operator name -> module.
    refine : callable or None
        ``refine(positions, operators) -> seconds`` evaluates between grid points; None where only the grid is known.

    Examples
    --------
    >>> curve = LatencyCurve.measured([1, 2, 4], [10e-6, 10e-6, 13e-6])
    >>> curve.at(4)
    1.3e-05
    """

    positions: IntArray
    seconds: FloatArray
    parts: dict[str, FloatArray] = field(default_factory=dict)
    modules: dict[str, Module] = field(default_factory=dict)
    refine: Callable[[IntArray, tuple[str, ...] | None], FloatArray] | None = field(
        default=None, compare=False, repr=False
    )

    @classmethod
    def measured(cls, positions: npt.ArrayLike, seconds: npt.ArrayLike) -> LatencyCurve:
        """A curve from timings.

        Parameters
        ----------
        positions : array_like of int
            Strictly increasing, at least 1 [positions].
        seconds : array_like
            Above 0 [s].

        Raises
        ------
        InvalidArgumentError
            When lengths differ, positions do not increase, or a time is not above 0.
        """
        where, times = np.asarray(positions, dtype=np.int64), np.asarray(seconds, dtype=np.float64)
        if where.ndim != 1 or where.size == 0 or where.shape != times.shape:
            raise InvalidArgumentError(f"a curve needs as many seconds as positions, got {times.size} and {where.size}")
        if where[0] < 1 or (np.diff(where) <= 0).any():
            raise InvalidArgumentError("positions must be at least 1 and strictly increasing")
        if not (np.isfinite(times) & (times > 0)).all():
            raise InvalidArgumentError("seconds must be finite and above 0")
        return cls(where, times)

    def module(self, module: Module) -> LatencyCurve:
        """The curve of one module alone."""
        return self.restricted(tuple(name for name, of in self.modules.items() if of == module))

    def restricted(self, names: tuple[str, ...]) -> LatencyCurve:
        """The curve of some operators alone.

        Raises
        ------
        InvalidArgumentError
            When no operator is named.
        """
        if not names:
            raise InvalidArgumentError("the curve has no such operators")
        refine = self.refine
        return LatencyCurve(
            self.positions,
            np.sum([self.parts[name] for name in names], axis=0),
            {name: self.parts[name] for name in names},
            {name: self.modules[name] for name in names},
            None if refine is None else lambda positions, chosen: refine(positions, chosen or names),
        )

    def at(self, position: int) -> float:
        """T at one N [s]: on the grid, or evaluated where the curve can be.

        Raises
        ------
        InvalidArgumentError
            For a position a measured curve does not hold.
        """
        index = int(np.searchsorted(self.positions, position))
        if index < self.positions.size and self.positions[index] == position:
            return float(self.seconds[index])
        if self.refine is None:
            raise InvalidArgumentError(f"the measured curve has no point at {position} positions")
        return float(self.refine(np.array([position], dtype=np.int64), None)[0])


@dataclass(frozen=True)
class BoundForward:
    """All operators of one decode forward, bound to hardware and constants.

    Attributes
    ----------
    uses : tuple of OperatorUse
        What runs, how often, over which token axis.
    bound : tuple of BoundOperator
        The same operators, ready to be timed.
    workload : Workload
        Batch and the rest.
    backend : str
        Whose kernels and constants.
    """

    uses: tuple[OperatorUse, ...]
    bound: tuple[BoundOperator, ...]
    workload: Workload
    backend: str

    def tokens(self, use: OperatorUse, positions: IntArray) -> IntArray:
        """What an operator counts: query positions, rows of this rank, or rows over all ranks, graph padding included."""
        if use.axis == "positions":
            return positions
        rows = self._rows(positions)
        if use.axis == "rank_rows" or self.workload.attention_replicas == 1:
            return rows
        return self.workload.batch_size * positions

    def _rows(self, positions: IntArray) -> IntArray:
        return pad_to_capture(self.workload.captures, self.bound[0].hardware, self.workload.rank_batch, positions)

    def edges(self, first: int, last: int) -> IntArray:
        """Positions at which some operator steps: both sides of every edge, and the ends of the range.

        Between neighbours of this grid every count is constant, so each T is smooth and does not fall.
        """
        marks = [np.array([first, last], dtype=np.int64)]
        for use, bound in zip(self.uses, self.bound, strict=True):
            most = int(self.tokens(use, np.array([last], dtype=np.int64))[0])
            per_position = max(1, most // last)
            if per_position >= _WIDEST_TILE:
                return np.arange(first, last + 1, dtype=np.int64)
            lefts = -(-bound.edges(most) // per_position)
            marks += [lefts, lefts - 1]
        if self.workload.captures is not None:
            grid = np.arange(first, last + 1, dtype=np.int64)
            rows = self._rows(grid)
            steps = grid[1:][np.diff(rows) > self.workload.rank_batch]
            marks += [steps, steps - 1]
        every = np.unique(np.concatenate(marks))
        return every[(every >= first) & (every <= last)]

    def _parts(self, positions: IntArray, names: tuple[str, ...] | None = None) -> list[tuple[str, FloatArray]]:
        return [
            (use.name, use.count * bound.seconds(self.tokens(use, positions)))
            for use, bound in zip(self.uses, self.bound, strict=True)
            if names is None or use.name in names
        ]

    def curve(self, positions: IntArray) -> LatencyCurve:
        """The latency curve on a grid, with every operator's part."""
        parts = dict(self._parts(positions))
        return LatencyCurve(
            positions,
            np.sum(list(parts.values()), axis=0),
            parts,
            {use.name: use.module for use in self.uses},
            lambda grid, names: np.sum([part for _, part in self._parts(grid, names)], axis=0),
        )
