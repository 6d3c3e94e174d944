"""Skewed expert loads as the public MoE timings draw them: their expected histogram, and that of the heaviest rank."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from nfp_model.kernels.counts import IntArray
from nfp_model.kernels.steps import round_half_even


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
    loads = np.minimum(loads, rows[:, None])
    exact = _spread_remainder(loads, rows, rows * top_k)
    return np.sort(exact, axis=1)[:, ::-1]


def _spread_remainder(loads: IntArray, cap: IntArray, total: IntArray) -> IntArray:
    """Missing rows go one each to the lightest experts, surplus ones come from the heaviest, until each sum is exact."""
    loads = loads.copy()
    while True:
        missing = total - loads.sum(axis=1)
        if not missing.any():
            return loads
        few = missing[:, None] > 0
        room, give = loads < cap[:, None], loads > 0
        lightest = np.cumsum(room[:, ::-1], axis=1)[:, ::-1] <= missing[:, None]
        heaviest = np.cumsum(give, axis=1) <= -missing[:, None]
        loads += np.where(few, room & lightest, -(give & heaviest).astype(np.int64))


def heaviest_rank_loads(loads: IntArray, expert_parallel: int) -> IntArray:
    """Expected histogram of the rank with most rows when experts fall on ranks at random, shape (tokens, E / ranks).

    A rank's sum has standard deviation sigma sqrt(n (1 - n/E)), n = E / ranks; the largest of ``ranks`` such sums lies
    z of them above the mean. The rank's loads are the quantiles of the histogram tilted linearly to that mean.
    """
    local = loads.shape[1] // expert_parallel
    rising = loads[:, ::-1].astype(np.float64)
    mean, variance = rising.mean(axis=1, keepdims=True), rising.var(axis=1, keepdims=True)
    excess = _largest_normal(expert_parallel) * np.sqrt(variance * (1.0 / local - 1.0 / loads.shape[1]))
    tilt = np.divide(excess, variance, out=np.zeros_like(variance), where=variance > 0)
    weight = np.maximum(1.0 + tilt * (rising - mean), 0.0)
    level = np.cumsum(weight, axis=1) / weight.sum(axis=1, keepdims=True)
    offset = 2.0 * np.arange(loads.shape[0])[:, None]
    wanted = (np.arange(local) + 0.5) / local + offset
    index = np.searchsorted((level + offset).ravel(), wanted.ravel()).reshape(wanted.shape)
    picked: IntArray = loads[:, ::-1].ravel()[index]
    return picked


@lru_cache(maxsize=64)
def _largest_normal(count: int) -> float:
    """Expected largest of ``count`` standard normal draws: 8 - integral of Phi(x)^count over [-8, 8]."""
    from scipy.special import ndtr

    x = np.linspace(-8.0, 8.0, 4001)
    power = ndtr(x) ** count
    return float(8.0 - ((power[1:] + power[:-1]) / 2 * np.diff(x)).sum())
