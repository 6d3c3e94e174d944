"""Which experts each token of a timed MoE layer visits: drawn on the host, before the clock starts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nfp_model.errors import InvalidArgumentError, UnsupportedError
from nfp_model.workload import Routing

IntArray = npt.NDArray[np.int64]


def draw_routing(routing: str, tokens: int, num_experts: int, top_k: int, generator: np.random.Generator) -> IntArray:
    """Distinct experts of every token.

    Parameters
    ----------
    routing : str
        ``uniform`` (independent choices) or ``power_law:a``: expected loads are the quantiles of a density ~ x^-a on
        [1, 0.8 M] if M k > E, else on [0.01, 2], scaled to M k rows, at most M an expert, as the collector of
        aiconfigurator's public MoE timings draws them.
    tokens, num_experts, top_k : int
        M, E and k [-].
    generator : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    ndarray of int64, shape (M, k)

    Examples
    --------
    >>> draw_routing("uniform", 4, 8, 2, np.random.default_rng(0)).shape
    (4, 2)
    """
    if top_k > num_experts:
        raise InvalidArgumentError(f"top_k {top_k} exceeds num_experts {num_experts}")
    parsed = Routing.parse(routing)
    if parsed.kind == "uniform":
        return np.argsort(generator.random((tokens, num_experts)), axis=1)[:, :top_k].astype(np.int64)
    if parsed.kind != "power_law":
        raise UnsupportedError(f"routing '{routing}' cannot be drawn for a timing; uniform and power_law:a can")
    loads = power_law_loads(parsed.exponent, tokens, num_experts, top_k)
    # Experts one after the other, dealt to tokens in turn: no load exceeds M, so no token meets an expert twice.
    dealt = np.repeat(generator.permutation(num_experts), loads)
    return dealt.reshape(top_k, tokens).T[generator.permutation(tokens)].astype(np.int64)


def power_law_loads(exponent: float, tokens: int, num_experts: int, top_k: int) -> IntArray:
    """Rows per expert, largest first; see :func:`draw_routing`.

    Examples
    --------
    >>> loads = power_law_loads(1.2, tokens=64, num_experts=8, top_k=2)
    >>> int(loads.sum()), int(loads.max()) <= 64
    (128, True)
    """
    rows = tokens * top_k
    low, high = (1.0, max(0.8 * tokens, 1.0)) if rows > num_experts else (0.01, 2.0)
    share = (np.arange(num_experts) + 0.5) / num_experts
    if exponent == 1.0:
        weights = low * (high / low) ** share
    else:
        power = 1.0 - exponent
        weights = (low**power + share * (high**power - low**power)) ** (1.0 / power)
    loads = np.minimum(np.rint(weights * rows / weights.sum()).astype(np.int64), tokens)
    loads = np.sort(loads)[::-1].copy()
    while (missing := rows - int(loads.sum())) != 0:
        # One row each to (or from) the fullest experts that can still take (or give) one.
        able = np.flatnonzero(loads < tokens if missing > 0 else loads > 0)[: abs(missing)]
        loads[able] += 1 if missing > 0 else -1
    return loads


def row_blocks(experts: IntArray, num_experts: int, block_rows: int) -> tuple[IntArray, IntArray, IntArray]:
    """Rows sorted by expert and cut into blocks of at most ``block_rows`` rows of one expert.

    Parameters
    ----------
    experts : ndarray of int64, shape (M, k)
        As :func:`draw_routing` returns.
    num_experts, block_rows : int
        E and rows of a block [-].

    Returns
    -------
    order : ndarray, shape (M k,)
        Flat (token, choice) index of every sorted row.
    block_expert : ndarray, shape (NB,)
        Expert of each block.
    block_start_end : ndarray, shape (NB, 2)
        Its first sorted row, and one past its last.

    Examples
    --------
    >>> order, expert, edges = row_blocks(np.array([[0], [1], [0]]), num_experts=2, block_rows=16)
    >>> order.tolist(), expert.tolist(), edges.tolist()
    ([0, 2, 1], [0, 1], [[0, 2], [2, 3]])
    """
    flat = experts.reshape(-1)
    order = np.argsort(flat, kind="stable")
    ends = np.cumsum(np.bincount(flat, minlength=num_experts))
    starts = np.concatenate(([0], ends[:-1]))
    cut = [
        (expert, first, min(first + block_rows, int(end)))
        for expert, (start, end) in enumerate(zip(starts, ends, strict=True))
        for first in range(int(start), int(end), block_rows)
    ]
    table = np.array(cut, dtype=np.int64).reshape(-1, 3)
    return order.astype(np.int64), table[:, 0], table[:, 1:]
