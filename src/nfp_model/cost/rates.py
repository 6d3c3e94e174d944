"""One operator under many memory bandwidths and matrix peaks at once: the compiled equations over arrays of rates.

Rates enter no tile, wave or split count, so the counts are taken once and the equations evaluated over all rates together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nfp_model.cost.compiled import evaluate
from nfp_model.cost.inputs import constant_inputs, shape_inputs
from nfp_model.cost.latency import BoundOperator
from nfp_model.kernels.counts import FloatArray, IntArray
from nfp_model.operators import Collective

CHUNK_ELEMENTS = 1 << 18
"""Rates x menu entries x token counts evaluated at once [elements]: some 20 MB of temporaries, whatever the grid."""

PROBES = 64
"""Token counts tried at once between two edges [-]."""


def seconds_over_rates(
    bound: BoundOperator, tokens: IntArray, bandwidth: npt.ArrayLike, peak: npt.ArrayLike
) -> FloatArray:
    """Latency under scaled rates.

    Parameters
    ----------
    bound : BoundOperator
        Operator, kernel and constants; they are held.
    tokens : ndarray of int, shape (tokens,)
        Rows or positions.
    bandwidth, peak : array_like, shape (rates,)
        Factors on the memory bandwidth and on the matrix peak [-]. A link between GPUs is no memory and does not follow.

    Returns
    -------
    ndarray, shape (rates, tokens)
        [s].

    Examples
    --------
    >>> from nfp_model import Gemm, load_hardware
    >>> from nfp_model.cost.binding import bind
    >>> bound = bind(load_hardware("h100"), Gemm(8192, 8192), None)
    >>> slow, own = seconds_over_rates(bound, np.array([1]), [0.5, 1.0], [1.0, 1.0])[:, 0]
    >>> bool(own == bound.seconds([1])[0]), bool(1.5 < slow / own < 2)
    (True, True)
    """
    kind, shape = shape_inputs(bound, tokens)
    if kind == "gemm":
        shape = _undominated(shape)
    memory, matrix = (np.asarray(factor, dtype=np.float64).ravel() for factor in (bandwidth, peak))
    if isinstance(bound.operator, Collective):
        memory = np.ones_like(memory)
    menu = max(np.shape(value)[0] if np.ndim(value) == 2 else 1 for value in shape.values())
    out = np.empty((memory.size, tokens.size))
    for part in _parts(memory.size, menu * tokens.size):
        moved = {"bandwidth": shape["bandwidth"] * memory[part, None, None]}
        if "peak" in shape:
            moved["peak"] = shape["peak"] * matrix[part, None, None]
        if "fair_step" in shape:
            moved["fair_step"] = shape["fair_step"] / memory[part, None, None]
        inputs = {**shape, **moved}
        seconds = evaluate(kind, {**inputs, **constant_inputs(bound.fit.values(), inputs)})
        out[part] = np.broadcast_to(seconds, (memory[part].size, menu, tokens.size)).min(axis=1)
    return out


_MENU = ("tile_rows", "tile_columns", "splits", "is_split", "waves")


def _undominated(shape: dict[str, Any]) -> dict[str, Any]:
    """A menu cut down, row count by row count, to the entries that can win at some pair of rates.

    At one M the entries differ in their splits, their matrix work and their chain only, and a latency rises with each of the
    three; so an entry that another equals or beats in all three never wins alone.
    """
    splits, waves = shape["splits"], shape["waves"]
    entries, columns = waves.shape
    if entries == 1:
        return shape
    chain = waves / splits
    work = chain * shape["tile_rows"] * shape["tile_columns"]
    kept = np.ones((entries, columns), dtype=bool)
    for index in range(entries):
        equal_or_better = kept & (splits <= splits[index]) & (chain <= chain[index]) & (work <= work[index])
        equal_or_better[index] = False
        kept[index] = ~equal_or_better.any(axis=0)
    width = int(kept.sum(axis=0).max())
    # The entries kept come first; a column with fewer is filled with entries that are beaten anyway.
    order = np.argsort(~kept, axis=0, kind="stable")[:width]
    cut = {name: np.take_along_axis(np.broadcast_to(shape[name], waves.shape), order, axis=0) for name in _MENU}
    return {**shape, **cut}


def _parts(rates: int, elements_each: int) -> Iterator[slice]:
    step = max(1, CHUNK_ELEMENTS // max(1, elements_each))
    for start in range(0, rates, step):
        yield slice(start, min(start + step, rates))


def near_free_over_rates(
    bound: BoundOperator,
    bandwidth: npt.ArrayLike,
    peak: npt.ArrayLike,
    tolerance: float,
    baseline: int,
    max_tokens: int,
) -> IntArray:
    """Last token count of one operator within the tolerance, under scaled rates.

    The search of :func:`nfp_model.boundary.near_free_boundary` over both sides of every edge, for all rates together.

    Parameters
    ----------
    bound, bandwidth, peak
        As for :func:`seconds_over_rates`.
    tolerance : float
        eps [-].
    baseline, max_tokens : int
        First and last token count [rows] or [positions].

    Returns
    -------
    ndarray of int, shape (rates,)
        ``max_tokens`` where the latency never leaves the tolerance for good.
    """
    memory, matrix = (np.asarray(factor, dtype=np.float64).ravel() for factor in (bandwidth, peak))
    left = bound.edges(max_tokens)
    grid = np.unique(np.concatenate([left, left - 1, [baseline, max_tokens]]))
    grid = grid[(grid >= baseline) & (grid <= max_tokens)]
    found = np.empty(memory.size, dtype=np.int64)
    for part in _parts(memory.size, grid.size):
        seconds = seconds_over_rates(bound, grid, memory[part], matrix[part])
        limit = (1 + tolerance) * seconds[:, 0]
        last = _last_free(seconds, limit)
        answers = grid[last]
        for index in np.unique(last[last < grid.size - 1]):
            same = np.flatnonzero(last == index)
            between = (int(grid[index]), int(grid[index + 1]))
            answers[same] = _refined(bound, memory[part][same], matrix[part][same], limit[same], *between)
        found[part] = answers
    return found


def _last_free(seconds: FloatArray, limit: FloatArray) -> npt.NDArray[np.intp]:
    """Index of the last token count within the limit; the first always is."""
    free = seconds <= limit[:, None]
    free[:, 0] = True
    return np.asarray(free.shape[1] - 1 - free[:, ::-1].argmax(axis=1))


def _refined(
    bound: BoundOperator, memory: FloatArray, matrix: FloatArray, limit: FloatArray, free: int, broken: int
) -> IntArray:
    """The last free token count in [free, broken) for each rate; latency does not fall between edges."""
    if broken - free <= 1:
        return np.full(memory.size, free, dtype=np.int64)
    probes = np.unique(np.linspace(free, broken, min(PROBES, broken - free) + 1).astype(np.int64))[:-1]
    last = _last_free(seconds_over_rates(bound, probes, memory, matrix), limit)
    ends = np.append(probes, broken)
    answers = probes[last].copy()
    for index in np.unique(last):
        if ends[index + 1] - ends[index] > 1:
            same = np.flatnonzero(last == index)
            answers[same] = _refined(
                bound, memory[same], matrix[same], limit[same], int(ends[index]), int(ends[index + 1])
            )
    return answers


__all__ = ["near_free_over_rates", "seconds_over_rates"]
