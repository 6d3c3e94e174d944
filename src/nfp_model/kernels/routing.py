"""Which experts tokens choose: experts touched and row blocks, in expectation, on the rank that is timed.

Four questions, one answer per token count M:

- :func:`routed_rows`: rows that reach this rank, sum of n_e;
- :func:`experts_touched`: experts with at least one row, A;
- :func:`row_blocks`: blocks of ``bm`` rows, NB = sum of ceil(n_e / bm);
- :func:`experts_beyond`: experts with more than ``bm`` rows, which take a second block.

Under expert parallelism each rank holds E / ranks experts; where ranks differ the heaviest is answered.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from nfp_model.errors import InvalidArgumentError, require_positive_int
from nfp_model.kernels.counts import FloatArray, IntArray
from nfp_model.kernels.power_law import DRAWS, heaviest_rank_loads, power_law_table, rounded_loads
from nfp_model.kernels.steps import blocks_below, ceil_div
from nfp_model.workload import Routing

TAIL_SIGMAS = 8.0
TAIL_ROWS = 24.0
"""A block index is evaluated within 8 sigma + 24 rows of the mean; Bernstein's bound leaves under 1e-13 outside."""

SMOOTH_SIGMAS = 1.5
"""From sigma = 1.5 bm on, n_e mod bm is uniform within 2 exp(-2 pi^2 1.5^2) = 1e-19: E[ceil] has a closed form."""


LOADS_AT_ONCE = 2_000_000
"""Loads held at a time, to bound memory over long token axes [-]."""


def routed_rows(
    routing: Routing, num_experts: int, top_k: int, tokens: npt.ArrayLike, expert_parallel: int = 1
) -> FloatArray:
    """Expected (token, expert) pairs on the timed rank, sum of n_e over its experts.

    Parameters
    ----------
    routing : Routing
        How tokens choose experts.
    num_experts, top_k : int
        E and k over all ranks [-].
    tokens : array_like of int
        Token rows M over all ranks [rows].
    expert_parallel : int
        Ranks the experts are spread over [-].

    Returns
    -------
    ndarray, shape of ``tokens``
        Rows [rows].

    Examples
    --------
    >>> routed_rows(Routing.parse("uniform"), 8, 2, [4, 8], expert_parallel=2).tolist()
    [4.0, 8.0]
    """
    return _expectation("rows", routing, num_experts, top_k, tokens, 1, expert_parallel)


def experts_touched(
    routing: Routing, num_experts: int, top_k: int, tokens: npt.ArrayLike, expert_parallel: int = 1
) -> FloatArray:
    """Expected experts with at least one row on the timed rank, A.

    Uniform: A = E (1 - (1 - k/E)^M) (MoESD, arXiv 2505.19645, equation 8). Balanced: A = min(E, M k).

    Parameters
    ----------
    routing, num_experts, top_k, tokens, expert_parallel
        As for :func:`routed_rows`.

    Returns
    -------
    ndarray, shape of ``tokens``
        Experts [-].

    Examples
    --------
    32 tokens of a 256-expert, top-8 layer leave a third of the experts idle.

    >>> experts_touched(Routing.parse("uniform"), 256, 8, [1, 32]).round(1).tolist()
    [8.0, 163.3]
    """
    return _expectation("touched", routing, num_experts, top_k, tokens, 1, expert_parallel)


def row_blocks(
    routing: Routing,
    num_experts: int,
    top_k: int,
    tokens: npt.ArrayLike,
    block_rows: npt.ArrayLike,
    expert_parallel: int = 1,
) -> FloatArray:
    """Expected row blocks on the timed rank, NB = sum over its experts of ceil(n_e / bm).

    Independent choices: E[ceil(n/bm)] = sum over j >= 0 of P(Binomial(M, p) > j bm), p = k/E when uniform.

    Parameters
    ----------
    routing, num_experts, top_k, tokens, expert_parallel
        As for :func:`routed_rows`.
    block_rows : array_like of int
        bm of each token count [rows].

    Returns
    -------
    ndarray, shape of ``tokens``
        Blocks [-].

    Examples
    --------
    Mixtral, balanced: 64 rows an expert are one block of 64 each, 80 rows are two.

    >>> row_blocks(Routing.parse("balanced"), 8, 2, [256, 320], 64).tolist()
    [8.0, 16.0]
    """
    return _expectation("blocks", routing, num_experts, top_k, tokens, block_rows, expert_parallel)


def experts_beyond(
    routing: Routing,
    num_experts: int,
    top_k: int,
    tokens: npt.ArrayLike,
    block_rows: npt.ArrayLike,
    expert_parallel: int = 1,
) -> FloatArray:
    """Expected experts on the timed rank with more rows than one block holds, E P(n_e > bm).

    Parameters
    ----------
    routing, num_experts, top_k, tokens, block_rows, expert_parallel
        As for :func:`row_blocks`.

    Returns
    -------
    ndarray, shape of ``tokens``
        Experts [-].

    Examples
    --------
    >>> experts_beyond(Routing.parse("balanced"), 8, 2, [256, 257, 260], 64).tolist()
    [0.0, 2.0, 8.0]
    """
    return _expectation("beyond", routing, num_experts, top_k, tokens, block_rows, expert_parallel)


def _expectation(
    what: str,
    routing: Routing,
    num_experts: int,
    top_k: int,
    tokens: npt.ArrayLike,
    block_rows: npt.ArrayLike,
    expert_parallel: int,
) -> FloatArray:
    require_positive_int(num_experts=num_experts, top_k=top_k, expert_parallel=expert_parallel)
    if top_k > num_experts or num_experts % expert_parallel:
        raise InvalidArgumentError(
            f"top_k {top_k} and expert_parallel {expert_parallel} must fit {num_experts} experts: "
            "k at most E, ranks dividing E"
        )
    rows = np.asarray(tokens, dtype=np.int64)
    blocks = np.broadcast_to(np.asarray(block_rows, dtype=np.int64), rows.shape)
    if rows.size and (rows.min() < 1 or blocks.min() < 1):
        raise InvalidArgumentError("tokens and block_rows must be at least 1")
    flat, block = np.ascontiguousarray(rows).ravel(), np.ascontiguousarray(blocks).ravel()
    found = _cached(what, routing, num_experts, top_k, flat.tobytes(), block.tobytes(), expert_parallel)
    return found.reshape(rows.shape).copy()


@lru_cache(maxsize=4096)
def _cached(
    what: str, routing: Routing, num_experts: int, top_k: int, tokens: bytes, block_rows: bytes, expert_parallel: int
) -> FloatArray:
    rows, block = np.frombuffer(tokens, dtype=np.int64), np.frombuffer(block_rows, dtype=np.int64)
    if routing.kind == "balanced":
        return _balanced(what, num_experts, top_k, rows, block, expert_parallel)
    if routing.kind == "power_law":
        return _of_loads(what, routing.exponent, num_experts, top_k, rows, block, expert_parallel)
    if routing.kind == "uniform":
        return num_experts // expert_parallel * _independent(what, top_k / num_experts, rows, block)
    chances = _heaviest_rank(_inclusion(routing.shares, num_experts, top_k), expert_parallel)
    distinct, repeats = np.unique(chances, return_counts=True)
    return sum(
        (count * _independent(what, float(p), rows, block) for p, count in zip(distinct, repeats, strict=True)),
        start=np.zeros(rows.shape),
    )


def _balanced(
    what: str, num_experts: int, top_k: int, rows: IntArray, block: IntArray, expert_parallel: int
) -> FloatArray:
    """Loads differing by at most one, ranks sharing the pairs evenly (the heaviest rounded up)."""
    local = num_experts // expert_parallel
    pairs = ceil_div(rows * top_k, expert_parallel).astype(np.int64)
    if what == "rows":
        return rows * top_k / expert_parallel
    if what == "touched":
        return np.minimum(local, pairs).astype(np.float64)
    load, heavier = np.divmod(pairs, local)
    if what == "beyond":
        return np.asarray(heavier * (load + 1.0 > block) + (local - heavier) * (load > block), dtype=np.float64)
    return heavier * ceil_div(load + 1, block) + (local - heavier) * ceil_div(load, block)


def _independent(what: str, p: float, rows: IntArray, block: IntArray) -> FloatArray:
    """One expert that each token picks with probability ``p``, independently."""
    if what == "rows":
        return np.asarray(rows * p, dtype=np.float64)
    if what == "touched":
        chance: FloatArray = -np.expm1(rows * np.log1p(-p)) if p < 1 else np.ones(rows.shape)
        return chance
    if what == "beyond":
        return _more_than(p, rows, block)
    mean, sigma = rows * p, np.sqrt(rows * p * (1 - p))
    smooth = sigma >= SMOOTH_SIGMAS * block
    blocks: FloatArray = mean / block + (block - 1) / (2.0 * block)
    if not smooth.all():
        rough = ~smooth
        blocks[rough] = _tail_sum(p, rows[rough], block[rough], mean[rough], sigma[rough])
    return blocks


def _more_than(p: float, rows: IntArray, block: IntArray) -> FloatArray:
    """P(Binomial(M, p) > bm); 0 where M is at most bm."""
    from scipy.special import bdtrc

    chance = np.zeros(rows.shape)
    able = rows > block
    chance[able] = bdtrc(block[able].astype(np.float64), rows[able], p)
    return chance


def _tail_sum(p: float, rows: IntArray, block: IntArray, mean: FloatArray, sigma: FloatArray) -> FloatArray:
    """Sum over j of P(Binomial(M, p) > j bm): below the window each term is 1, above it 0."""
    from scipy.special import bdtrc

    reach = TAIL_SIGMAS * sigma
    first = blocks_below(mean - reach, block)
    last = np.maximum(blocks_below(mean + reach + TAIL_ROWS, block) + 1, first + 1)
    count = last - first
    owner = np.repeat(np.arange(rows.size), count)
    j = np.arange(owner.size) - np.repeat(np.cumsum(count) - count, count) + first[owner]
    at_least = j * block[owner]
    inside = at_least < rows[owner]
    terms = np.zeros(owner.size)
    terms[inside] = bdtrc(at_least[inside].astype(np.float64), rows[owner][inside], p)
    inner = np.bincount(owner, weights=terms, minlength=rows.size)
    return np.asarray(first + inner, dtype=np.float64)


def _inclusion(shares: tuple[float, ...], num_experts: int, top_k: int) -> FloatArray:
    """Chance that a token picks each expert: k times its share, none above 1, the excess spread over the others."""
    if len(shares) != num_experts:
        raise InvalidArgumentError(f"the routing histogram has {len(shares)} shares for {num_experts} experts")
    weight = np.array(shares, dtype=np.float64)
    if np.count_nonzero(weight) < top_k:
        raise InvalidArgumentError(
            f"the routing histogram gives rows to {np.count_nonzero(weight)} experts, top_k is {top_k}"
        )
    full = np.zeros(num_experts, dtype=bool)
    chance = np.zeros(num_experts)
    for _ in range(num_experts):
        open_weight = weight[~full].sum()
        chance = np.where(full, 1.0, weight * ((top_k - full.sum()) / open_weight if open_weight > 0 else 0.0))
        if not (chance > 1.0).any():
            break
        full |= chance >= 1.0
    return chance


def _heaviest_rank(per_expert: FloatArray, expert_parallel: int) -> FloatArray:
    ranks = per_expert.reshape(expert_parallel, -1)
    heaviest: FloatArray = ranks[int(ranks.sum(axis=1).argmax())]
    return heaviest


def _of_loads(
    what: str, exponent: float, num_experts: int, top_k: int, rows: IntArray, block: IntArray, expert_parallel: int
) -> FloatArray:
    found = np.zeros(rows.shape)
    chunk = max(1, LOADS_AT_ONCE // (num_experts * (DRAWS if expert_parallel > 1 else 1)))
    for start in range(0, rows.size, chunk):
        part = slice(start, start + chunk)
        if expert_parallel == 1:
            drawn = power_law_table(exponent, num_experts, top_k, rows[part])[None]
        else:
            rounded = rounded_loads(exponent, num_experts, top_k, rows[part])
            drawn = heaviest_rank_loads(rounded, rows[part], top_k, expert_parallel)
        if what == "rows":
            counted: FloatArray = drawn.sum(axis=2).astype(np.float64)
        elif what == "touched":
            counted = (drawn > 0).sum(axis=2).astype(np.float64)
        elif what == "beyond":
            counted = (drawn > block[part][:, None]).sum(axis=2).astype(np.float64)
        else:
            counted = ceil_div(drawn, block[part][:, None]).sum(axis=2)
        found[part] = counted.mean(axis=0)
    return found
