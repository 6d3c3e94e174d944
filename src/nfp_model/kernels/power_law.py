"""Skewed expert loads as the public MoE timings draw them: their expected histogram, and that of the heaviest rank."""

from __future__ import annotations

import numpy as np

from nfp_model.kernels.counts import IntArray
from nfp_model.kernels.steps import round_half_even

DRAWS = 32
"""Placements of the experts on ranks that an expectation is taken over [-]."""

SEED = 0
"""Of these placements, so that a prediction repeats."""


def power_law_loads(exponent: float, num_experts: int, top_k: int, tokens: int) -> IntArray:
    """Expected histogram of the skewed routing of NVIDIA's public MoE timings, heaviest expert first.

    One load per expert, density proportional to x^-a on [1, 0.8 M] if M k > E, else on [0.01, 2]; its quantiles at
    (j - 1/2)/E are scaled to a sum of M k, rounded, capped at M, and missing rows go to the lightest experts. The last
    step is inferred: giving them to the heaviest leaves out up to a third of the experts that the public timings
    (aiconfigurator-core 0.12.0) read between 1/8 and 2 rows per expert.

    Parameters
    ----------
    exponent : float
        a [-].
    num_experts, top_k, tokens : int
        E, k and M.

    Returns
    -------
    ndarray of int, shape (num_experts,)
        Rows of each expert, falling [rows].

    Examples
    --------
    >>> power_law_loads(1.2, 8, 2, 16).tolist()
    [10, 7, 5, 3, 3, 2, 1, 1]
    """
    loads: IntArray = power_law_table(exponent, num_experts, top_k, np.array([tokens], dtype=np.int64))[0]
    return loads


def power_law_table(exponent: float, num_experts: int, top_k: int, rows: IntArray) -> IntArray:
    """:func:`power_law_loads` of several token counts, shape (tokens, E) [rows]."""
    loads = rounded_loads(exponent, num_experts, top_k, rows)
    exact = _spread_remainder(loads[:, None, :], rows, rows * top_k)[:, 0]
    return np.sort(exact, axis=1)[:, ::-1]


def rounded_loads(exponent: float, num_experts: int, top_k: int, rows: IntArray) -> IntArray:
    """The loads before missing rows are given out, falling, shape (tokens, E) [rows]."""
    many = rows * top_k > num_experts
    low = np.where(many, 1.0, 0.01)[:, None]
    high = np.where(many, np.maximum(0.8 * rows, 1.0), 2.0)[:, None]
    level = ((np.arange(num_experts, 0, -1) - 0.5) / num_experts)[None, :]
    power = 1.0 - exponent
    if abs(power) < 1e-12:
        quantile = low * (high / low) ** level
    else:
        quantile = (low**power + level * (high**power - low**power)) ** (1.0 / power)
    loads = round_half_even(quantile * (rows * top_k / quantile.sum(axis=1))[:, None])
    return np.minimum(loads, rows[:, None])


def _spread_remainder(loads: IntArray, cap: IntArray, total: IntArray) -> IntArray:
    """Missing rows go to the ranks in turn, each to the lightest expert there; surplus ones come from the heaviest alike.

    ``loads`` of shape (tokens, ranks, E / ranks), falling within a rank before and after. One row after the other, as
    ``_round_robin_adjust_per_rank`` of aiconfigurator's collector/helper.py does it, is a level: what a rank gets by whole
    rounds, and within it the lightest raised, or the heaviest lowered, to one height.
    """
    missing = total - loads.sum(axis=(1, 2))
    few = missing[:, None, None] >= 0
    # Removing from the heaviest is adding to the lightest of the loads turned round.
    rising = np.where(few, loads[:, :, ::-1], -loads)
    room = np.where(few, cap[:, None, None] - loads, loads).sum(axis=2)
    level = _levelled(rising, _by_rounds(room, np.abs(missing)))
    return np.where(few, level[:, :, ::-1], -level)


def _by_rounds(room: IntArray, given: IntArray) -> IntArray:
    """What each rank gets of ``given`` rows dealt out one a round to every rank that has room, shape (tokens, ranks) [rows]."""
    ranks = room.shape[1]
    rising = np.sort(room, axis=1)
    before = np.cumsum(rising, axis=1) - rising
    # Rows dealt until a rank is full: all that the fuller ones took, and its own room for every other.
    full = (before + rising * np.arange(ranks, 0, -1) <= given[:, None]).sum(axis=1)
    taken = np.where(np.arange(ranks) < full[:, None], rising, 0).sum(axis=1)
    rounds, over = np.divmod(given - taken, np.maximum(ranks - full, 1))
    going_on = room > rounds[:, None]
    last = going_on & (np.cumsum(going_on, axis=1) <= over[:, None])
    return np.where(full[:, None] == ranks, room, np.minimum(room, rounds[:, None]) + last)


def _levelled(rising: IntArray, given: IntArray) -> IntArray:
    """Rising loads after ``given`` rows were added one by one to the least of each last axis, rising again [rows]."""
    places = np.arange(1, rising.shape[-1] + 1)
    sums = np.cumsum(rising, axis=-1)
    raised = 1 + (places[:-1] * rising[..., 1:] - sums[..., :-1] < given[..., None]).sum(axis=-1)
    height, over = np.divmod(np.take_along_axis(sums, raised[..., None] - 1, axis=-1)[..., 0] + given, raised)
    above = places > (raised - over)[..., None]
    return np.where(places <= raised[..., None], height[..., None] + above, rising)


def heaviest_rank_loads(rounded: IntArray, rows: IntArray, top_k: int, expert_parallel: int) -> IntArray:
    """Loads of the rank with most rows in some random placements of the experts, shape (DRAWS, tokens, E / ranks) [rows].

    The public timings draw every expert's load on its own, give each rank its next E / ranks of them, spread missing rows over the
    ranks in turn and time the rank with the largest sum (``_generate_power_law_distribution`` of aiconfigurator's
    collector/helper.py). The placements are fixed, the same for every token count; an expectation is the mean over them.

    Parameters
    ----------
    rounded : ndarray of int, shape (tokens, E)
        Histograms, as :func:`rounded_loads` returns them [rows].
    rows : ndarray of int, shape (tokens,)
        Token rows M of each [rows].
    top_k, expert_parallel : int
        k, and ranks, dividing E [-].

    Examples
    --------
    One expert on each rank: the heaviest rank is the heaviest expert, whatever the placement.

    >>> heaviest_rank_loads(np.array([[7, 3, 1, 0]]), np.array([11]), 1, 4).mean(axis=0).tolist()
    [[7.0]]

    Eight rows over four ranks when every load rounds to none: two each.

    >>> heaviest_rank_loads(np.zeros((1, 32), dtype=np.int64), np.array([1]), 8, 4).sum(axis=2)[0].tolist()
    [2]
    """
    tokens, experts = rounded.shape
    local = experts // expert_parallel
    generator = np.random.default_rng(SEED)
    found = np.empty((1 if local == 1 else DRAWS, tokens, local), dtype=np.int64)
    for draw in found:
        # Loads fall with the expert's number: sorted within a rank they fall there too.
        placed = np.sort(generator.permutation(experts).reshape(expert_parallel, local), axis=1)
        ranks = _spread_remainder(rounded[:, placed], rows, rows * top_k)
        draw[:] = ranks[np.arange(tokens), ranks.sum(axis=2).argmax(axis=1)]
    return found
