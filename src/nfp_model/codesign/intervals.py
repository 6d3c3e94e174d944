"""A range of rates split into parts that are free everywhere, free nowhere, or too narrow to matter.

Every latency falls as a rate rises. So over [a, b] a block of N positions is free nowhere if T_N(b) > (1 + eps) T_N0(a), and free
everywhere if T_N(a) <= (1 + eps) T_N0(b); what neither decides is halved.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from nfp_model.cost.rates import seconds_over_rates
from nfp_model.curve import BoundForward
from nfp_model.kernels.counts import FloatArray, IntArray

RESOLUTION = 1e-3
"""Relative width below which a range is no longer split [-]."""

Pairs = list[tuple[float, float]]


def forward_seconds(
    forward: BoundForward, names: tuple[str, ...], positions: IntArray, bandwidth: FloatArray, peak: FloatArray
) -> FloatArray:
    """T at each position under scaled rates, shape (rates, positions) [s]."""
    total = np.zeros((bandwidth.size, positions.size))
    for use, bound in zip(forward.uses, forward.bound, strict=True):
        if use.name in names:
            total += use.count * seconds_over_rates(bound, forward.tokens(use, positions), bandwidth, peak)
    return total


def free_parts(times: Callable[[FloatArray], FloatArray], limit: float, low: float, high: float) -> tuple[Pairs, Pairs]:
    """Free cells and undecided ones of [low, high]; everything else is proven not free."""
    active, free, undecided = [(low, high)], [], []
    while active:
        cells = np.array(active)
        at_low, at_high = times(cells[:, 0]), times(cells[:, 1])
        everywhere = at_low[:, 1] <= limit * at_high[:, 0]
        nowhere = at_high[:, 1] > limit * at_low[:, 0]
        following: Pairs = []
        for (a, b), all_free, none_free in zip(active, everywhere, nowhere, strict=True):
            if all_free:
                free.append((a, b))
            elif not none_free:
                middle = math.sqrt(a * b)
                if b / a - 1 < RESOLUTION:
                    undecided.append((a, b))
                else:
                    following += [(a, middle), (middle, b)]
        active = following
    return free, undecided


def joined(cells: Pairs) -> Pairs:
    """Neighbouring cells as one."""
    joined: Pairs = []
    for low, high in sorted(cells):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return joined


__all__ = ["Pairs", "forward_seconds", "free_parts", "joined"]
