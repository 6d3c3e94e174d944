"""The cheapest tile of a menu at every row count, found once per shape instead of at every evaluation.

Between two edges every entry's counts are constant and its cost rises with the rows only through the bytes of the rows: an entry that
wins at both ends of an interval wins inside it, and where the winners differ the interval is halved until they meet. A table of two
entries per interval replaces the whole menu: two evaluations a point instead of up to two hundred.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nfp_model.kernels.counts import FloatArray, IntArray

Entries = npt.NDArray[np.intp]

CHUNK_ELEMENTS = 1 << 20
"""Menu entries times row counts evaluated at once, so that memory stays flat [elements]."""

KEPT_TABLES = 1024
"""Tables kept, the least recently used dropped first [-]."""


@dataclass(frozen=True)
class TileTable:
    """Winning menu entries between edges.

    Attributes
    ----------
    edges : ndarray of int
        Left edges, starting at 1 [rows].
    at_left, at_right : ndarray of int
        Entry that wins at the left end, and at the last row count before the next edge or at that edge.
    """

    edges: IntArray
    at_left: Entries
    at_right: Entries

    def entries(self, rows: IntArray) -> tuple[Entries, Entries]:
        """The two candidates at every row count."""
        index = np.searchsorted(self.edges, rows, side="right") - 1
        return self.at_left[index], self.at_right[index]

    @property
    def upper_half(self) -> Entries:
        """Entries that win anywhere in the upper half of the rows covered."""
        above = self.edges > self.edges[-1] // 2
        return np.unique(np.concatenate([self.at_left[above], self.at_right[above]]))


_TABLES: OrderedDict[Hashable, TileTable] = OrderedDict()


def tile_table(
    key: Hashable, limit: int, edges: Callable[[int], IntArray], over_menu: Callable[[IntArray], FloatArray]
) -> TileTable:
    """The table for row counts up to ``limit``, built on first use.

    Parameters
    ----------
    key : hashable
        Everything the costs depend on.
    limit : int
        Largest row count covered [rows].
    edges : callable
        Left edges up to a row count.
    over_menu : callable
        Row counts -> cost of every entry, shape (menu, rows).
    """
    known = _TABLES.get(key)
    if known is not None:
        _TABLES.move_to_end(key)
        return known
    left = edges(limit)
    table = _envelope(left, np.append(left[1:] - 1, limit), over_menu)
    _TABLES[key] = table
    if len(_TABLES) > KEPT_TABLES:
        _TABLES.popitem(last=False)
    return table


def _envelope(left: IntArray, right: IntArray, over_menu: Callable[[IntArray], FloatArray]) -> TileTable:
    """Intervals at whose ends the same entry wins, or that hold two row counts at most, with the entries of both ends."""
    at_left, at_right = _winners(left, over_menu), _winners(right, over_menu)
    done: list[tuple[IntArray, Entries, Entries]] = []
    while True:
        open_ = (at_left != at_right) & (right - left > 1)
        done.append((left[~open_], at_left[~open_], at_right[~open_]))
        if not open_.any():
            break
        left, right, at_left, at_right = (one[open_] for one in (left, right, at_left, at_right))
        middle = (left + right) // 2
        at_middle = _winners(middle, over_menu)
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
        at_left, at_right = np.concatenate([at_left, at_middle]), np.concatenate([at_middle, at_right])
    starts, first, last = (np.concatenate(parts) for parts in zip(*done, strict=True))
    order = np.argsort(starts, kind="stable")
    return TileTable(starts[order], first[order], last[order])


def _winners(rows: IntArray, over_menu: Callable[[IntArray], FloatArray]) -> Entries:
    return np.concatenate([over_menu(part).argmin(axis=0) for part in chunks(rows)])


def chunks(rows: IntArray, entries: int = 256) -> list[IntArray]:
    """Pieces of an array of row counts small enough to meet a whole menu of ``entries`` at once."""
    size = max(1, CHUNK_ELEMENTS // entries)
    return [rows[start : start + size] for start in range(0, rows.size, size)]
