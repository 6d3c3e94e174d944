"""Trees of drafts: several guesses for the same position, every node paid for as a verified position."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nfp_model.acceptance.chains import AcceptanceModel, Floats, Ints, require_rates
from nfp_model.errors import InvalidArgumentError, require_positive_int


def require_ranks(rates: Sequence[float]) -> None:
    """Refuse rank rates that cannot be: outside [0, 1], rising with the rank, or more than one child accepted.

    Raises
    ------
    InvalidArgumentError
        Naming the rates.
    """
    require_rates("rank acceptance rates", rates)
    if any(after > before + 1e-9 for before, after in pairwise(rates)):
        raise InvalidArgumentError(f"rank acceptance rates must not rise with the rank, got {list(rates)}")
    if sum(rates) > 1 + 1e-9:
        raise InvalidArgumentError(
            f"rank acceptance rates are of exclusive events and must sum to at most 1, got {sum(rates):g}"
        )


@dataclass(frozen=True)
class TreeAcceptance(AcceptanceModel):
    """Positional acceptance: the r-th best guess of a node is the right one with probability p(r), at every depth.

    E = sum over nodes of the product of p along the path from the root, the root counting 1: Chen et al., "Sequoia",
    arXiv 2402.12374, positional acceptance assumption. `drafts` K counts the nodes below the root, so the forward
    evaluates q = K + 1 positions. For each K the best tree is meant: as no node is worth more than its parent or its
    better-ranked sibling, it is the K nodes of largest path product.

    Attributes
    ----------
    levels : tuple of tuple of float
        p(1), p(2), ... [-] per depth; the last level repeats for deeper nodes.
    max_depth : int or None
        Deepest level that can be drafted [-]; None without end.

    Examples
    --------
    >>> tree = TreeAcceptance(((0.6, 0.2),))
    >>> tree.token_curve(4).round(3).tolist()  # 0.6, then 0.36, then 0.216, then the second guess
    [1.0, 1.6, 1.96, 2.176, 2.376]
    >>> tree.draft_steps(4).tolist()
    [0, 1, 2, 3, 3]
    """

    levels: tuple[tuple[float, ...], ...]
    max_depth: int | None = None

    def __post_init__(self) -> None:
        if not self.levels:
            raise InvalidArgumentError("a tree needs the rank acceptance rates of at least one level, got none")
        for rates in self.levels:
            require_ranks(rates)
        if self.max_depth is not None:
            require_positive_int(max_depth=self.max_depth)

    @property
    def max_drafts(self) -> int | None:
        """Nodes of the full tree [-]; None without a deepest level."""
        if self.max_depth is None:
            return None
        total, width = 0, 1
        for depth in range(self.max_depth):
            width *= len(self._rates(depth))
            total += width
        return total

    @property
    def description(self) -> str:
        """One line for the head of an export."""
        shown = "; ".join("[" + ", ".join(f"{p:g}" for p in rates) + "]" for rates in self.levels)
        return f"tree with rank acceptance {shown} per level, conditional on the parent being accepted"

    def _rates(self, depth: int) -> tuple[float, ...]:
        return self.levels[min(depth, len(self.levels) - 1)]

    def _grow(self, drafts: int) -> tuple[list[float], list[int]]:
        """Path products and depths of the best nodes, in the order they are worth adding."""
        first = self._rates(0)
        # heap entries: (-path product, depth, rank, product of the parent)
        heap: list[tuple[float, int, int, float]] = [(-first[0], 1, 0, 1.0)]
        products: list[float] = []
        depths: list[int] = []
        while len(products) < drafts:
            negative, depth, rank, parent = heapq.heappop(heap)
            product = -negative
            products.append(product)
            depths.append(depth)
            siblings = self._rates(depth - 1)
            if rank + 1 < len(siblings):
                heapq.heappush(heap, (-parent * siblings[rank + 1], depth, rank + 1, parent))
            if self.max_depth is None or depth < self.max_depth:
                heapq.heappush(heap, (-product * self._rates(depth)[0], depth + 1, 0, product))
        return products, depths

    def _token_curve(self, drafts: int) -> Floats:
        return np.cumsum(np.array([1.0, *self._grow(drafts)[0]]))

    def draft_steps(self, drafts: int) -> Ints:
        """Depth [-] of the best tree of 0..drafts nodes: a drafter runs once a level."""
        return np.maximum.accumulate(np.array([0, *self._grow(drafts)[1]], dtype=np.int64))


def medusa_heads(top_accuracy: Sequence[Sequence[float]]) -> TreeAcceptance:
    """Independent heads: level i takes the ranks of head i, p(r) = A_i(r) - A_i(r - 1).

    E = 1 + sum_i prod_(j<=i) A_j(s_j) for the s_i best guesses of head i (Cai et al., "Medusa", arXiv 2401.10774).
    Heads are treated as independent, which makes E an upper bound.

    Parameters
    ----------
    top_accuracy : sequence of sequences of float
        A_i(s) [-], probability that one of the s best guesses of head i is right, for s = 1, 2, ...

    Examples
    --------
    >>> round(medusa_heads([[0.560], [0.316]]).expected_tokens(2), 3)  # Vicuna-7B heads 1 and 2, medusa_acc.csv
    1.737
    """
    if not top_accuracy:
        raise InvalidArgumentError("top_accuracy must hold at least one head, got an empty list")
    for head, accuracies in enumerate(top_accuracy, start=1):
        require_rates(f"top-s accuracies of head {head}", accuracies)
        if any(after < before for before, after in pairwise(accuracies)):
            raise InvalidArgumentError(f"top-s accuracies of head {head} must not fall with s, got {list(accuracies)}")
    levels = tuple(
        tuple(float(after - before) for before, after in zip([0.0, *head], head, strict=False)) for head in top_accuracy
    )
    return TreeAcceptance(levels, max_depth=len(levels))


def tree_tokens(parents: Sequence[int], ranks: Sequence[int], rank_rates: Sequence[float]) -> float:
    """Expected tokens [per forward] of one explicit tree under positional acceptance (Sequoia, arXiv 2402.12374).

    Parameters
    ----------
    parents : sequence of int
        Parent of each node below the root, in an order where parents come first; 0 is the root, node i of the
        sequence is i + 1.
    ranks : sequence of int
        Rank [-] of each node among its parent's guesses, 1 = best.
    rank_rates : sequence of float
        p(1), p(2), ... [-].

    Raises
    ------
    InvalidArgumentError
        For lists of unequal length, a parent that does not come before its child, an unknown rank, or a rank twice.

    Examples
    --------
    >>> tree_tokens([0, 0, 1], [1, 2, 1], [0.5, 0.25])  # 1 + .5 + .25 + .5 * .5
    2.0
    """
    require_ranks(rank_rates)
    if len(parents) != len(ranks):
        raise InvalidArgumentError(f"parents and ranks must be equally long, got {len(parents)} and {len(ranks)}")
    if len(set(zip(parents, ranks, strict=True))) != len(parents):
        raise InvalidArgumentError("a parent's guess of one rank may stand in the tree once, got it twice")
    products = [1.0]
    for node, (parent, rank) in enumerate(zip(parents, ranks, strict=True), start=1):
        if not 0 <= parent < node:
            raise InvalidArgumentError(f"the parent of node {node} must lie in [0, {node - 1}], got {parent}")
        if not 1 <= rank <= len(rank_rates):
            raise InvalidArgumentError(f"the rank of node {node} must lie in [1, {len(rank_rates)}], got {rank}")
        products.append(products[parent] * rank_rates[rank - 1])
    return sum(products)


def full_tree_tokens(rank_rates: Sequence[float], depth: int) -> tuple[float, int]:
    """Expected tokens and nodes of a full w-ary tree: E = 1 + s + ... + s^d with s = p(1) + ... + p(w).

    Parameters
    ----------
    rank_rates : sequence of float
        p(1) ... p(w) [-].
    depth : int
        d, levels below the root [-].

    Returns
    -------
    tokens : float
        E [tokens per forward].
    positions : int
        Nodes, root included, 1 + w + ... + w^d [positions per sequence]: what the verify forward pays.

    Examples
    --------
    >>> full_tree_tokens([0.5, 0.25], 2)
    (2.3125, 7)
    """
    require_ranks(rank_rates)
    require_positive_int(depth=depth)
    total = sum(rank_rates)
    return sum(total**level for level in range(depth + 1)), sum(len(rank_rates) ** level for level in range(depth + 1))
