"""The tile menu of a library that does not say how it chooses, without the tiles that can never be the cheapest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nfp_model.kernels.counts import FloatArray, IntArray
from nfp_model.kernels.steps import ceil_div, whole_waves
from nfp_model.specs.gemm_kernel import GemmKernel

PRUNING_ROWS = (4096, 16384)
"""Dominance among menu tiles is decided at every step up to the first of these that covers the rows asked for [rows]; beyond
the last the whole menu is kept."""


class MenuKey(NamedTuple):
    """What a pruned menu depends on; small and quick to hash."""

    token_tiles: tuple[int, ...]
    output_tiles: tuple[int, ...]
    max_tile_area: int
    splits: tuple[int, ...]
    hard_waves: bool
    sm_count: int
    out_features: int


@dataclass(frozen=True)
class Menu:
    """Menu entries left after pruning, as columns.

    Attributes
    ----------
    token_tiles : ndarray, shape (distinct,)
        Distinct bm [rows].
    token_index : ndarray, shape (menu,)
        Entry -> its bm.
    output_tiles, splits : ndarray, shape (menu, 1)
        bn and s.
    ctas_per_row_tile : ndarray, shape (menu, 1)
        ceil(n / bn) x s [CTAs].
    """

    token_tiles: IntArray
    token_index: npt.NDArray[np.intp]
    output_tiles: FloatArray
    splits: FloatArray
    ctas_per_row_tile: FloatArray


def pruning_limit(rows: int) -> int | None:
    """Rows up to which to prune so that ``rows`` are covered, of a few values so that few menus are cached; None for not at all.

    Examples
    --------
    >>> pruning_limit(100), pruning_limit(5000), pruning_limit(10**6)
    (4096, 16384, None)
    """
    return next((limit for limit in PRUNING_ROWS if rows <= limit), None)


def menu_key(kernel: GemmKernel, sm_count: int, out_features: int) -> MenuKey:
    """What the pruned menu of a kernel depends on."""
    return MenuKey(
        kernel.token_tiles,
        kernel.output_tiles,
        kernel.max_tile_area,
        kernel.splits,
        kernel.hard_waves,
        sm_count,
        out_features,
    )


def menu_entries(key: MenuKey) -> list[tuple[int, int, int]]:
    """All (bm, bn, s) of a menu; fewer splits first, then larger tiles, so that ties keep the simpler entry."""
    entries = [
        (bm, bn, s)
        for s in sorted(key.splits)
        for bm in key.token_tiles
        for bn in key.output_tiles
        if bm * bn <= key.max_tile_area
    ]
    return sorted(entries, key=lambda entry: (entry[2], -entry[0] * entry[1]))


def _raw_menu(entries: list[tuple[int, int, int]], out_features: int) -> Menu:
    table = np.array(entries, dtype=np.int64)
    token_tiles, token_index = np.unique(table[:, 0], return_inverse=True)
    columns, splits = table[:, 1:2], table[:, 2:3].astype(np.float64)
    return Menu(token_tiles, token_index, columns.astype(np.float64), splits, ceil_div(out_features, columns) * splits)


def menu_waves(menu: Menu, key: MenuKey, row_tiles: FloatArray) -> FloatArray:
    """Waves of every entry from the row tiles of every distinct bm: max(1, tiles x s / SM), rounded up if waves are hard [-]."""
    waves: FloatArray = row_tiles[menu.token_index]
    if key.hard_waves:
        return whole_waves(waves * menu.ctas_per_row_tile, key.sm_count)
    waves *= menu.ctas_per_row_tile / key.sm_count
    return np.maximum(waves, 1.0, out=waves)


@lru_cache(maxsize=4096)
def pruned_menu(key: MenuKey, limit: int | None) -> Menu:
    """The menu without entries that are beaten or equalled at every M up to ``limit``, by one other entry or by several.

    An entry's cost rises with its splits, with its matrix work f bm bn / s and with its chain f / s (f waves), whatever the
    fitted constants; so at each M only entries on the front of these three can be the cheapest. All three change at left
    edges only.
    """
    entries = menu_entries(key)
    menu = _raw_menu(entries, key.out_features)
    if limit is None:
        return menu
    edges = np.unique(np.concatenate([np.arange(1, limit + 1, tile) for tile in menu.token_tiles]))
    chain = menu_waves(menu, key, ceil_div(edges[None], menu.token_tiles[:, None])) / menu.splits
    work = chain * menu.token_tiles[menu.token_index][:, None] * menu.output_tiles
    kept = np.arange(len(entries))
    for everywhere in (True, False):
        s, c, w = menu.splits[kept], chain[kept], work[kept]
        left = np.ones(len(kept), dtype=bool)
        for index in range(len(kept)):
            beaten = left[:, None] & (s <= s[index]) & (c <= c[index]) & (w <= w[index])
            if everywhere:
                rivals = beaten.all(axis=1)
                rivals[index] = False
                left[index] = not rivals.any()
            else:
                # Among entries equal at an M the first still standing represents them.
                beaten[index:] &= (s[index:] < s[index]) | (c[index:] < c[index]) | (w[index:] < w[index])
                left[index] = not beaten.any(axis=0).all()
        kept = kept[left]
    return _raw_menu([entries[index] for index in kept], key.out_features)


__all__ = ["Menu", "MenuKey", "menu_entries", "menu_key", "menu_waves", "pruned_menu", "pruning_limit"]
