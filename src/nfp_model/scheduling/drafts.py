"""Draft counts from a cost curve and an acceptance, and the load beyond which speculation hurts.

Speed-up S = E(K) / (V(K + 1) + draft cost) with V(q) = T(q, B) / T(1, B); for V = 1 it is theorem 3.8 of Leviathan et
al., arXiv 2211.17192. The algorithm's factor E and the system's factor are kept apart in every answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from nfp_model.acceptance import AcceptanceModel, ConstantAcceptance, DraftCost
from nfp_model.errors import InvalidArgumentError, require_positive, require_positive_int, unknown_name
from nfp_model.scheduling.ratios import LatencyRatio, ratios_at, require_tolerance

Rule = Literal["near_free", "throughput"]
"""``near_free``: most drafts whose forward stays within the tolerance; ``throughput``: best tokens per second."""

_UNBOUNDED_SEARCH = 256


@dataclass(frozen=True)
class OperatingPoint:
    """One draft count at one batch, its two factors apart.

    Attributes
    ----------
    drafts, positions : int
        K and q = K + 1 [per sequence]; for a tree, nodes below the root and nodes.
    tokens_per_forward : float
        E(K) [tokens per forward]: the algorithm's factor.
    latency_ratio : float
        V(q) [-]: the verify forward over one forward at one position.
    draft_cost : float
        Drafting [forwards at one position].
    """

    drafts: int
    positions: int
    tokens_per_forward: float
    latency_ratio: float
    draft_cost: float

    @property
    def step_ratio(self) -> float:
        """V + drafting [-]: the system's factor, and the tokens per forward at which nothing is won or lost."""
        return self.latency_ratio + self.draft_cost

    @property
    def speedup(self) -> float:
        """Tokens per second over decoding without drafts [-], E / (V + drafting)."""
        return self.tokens_per_forward / self.step_ratio

    @property
    def break_even_acceptance(self) -> float | None:
        """Constant per-token acceptance [-] at which S = 1; None where not even accepting every draft would pay."""
        return break_even_acceptance(self.drafts, self.step_ratio) if self.drafts else 0.0


@dataclass(frozen=True)
class Decision:
    """The draft count of one batch and context, both rules' answers and why.

    Attributes
    ----------
    rule : {"near_free", "throughput"}
        Which answer :attr:`chosen` is.
    tolerance : float
        Latency increase counted as near-free [-].
    near_free, throughput : OperatingPoint
        The answer of either rule.
    reason : str
        What ends the near-free range and whether speculation pays, in words.
    options : tuple of OperatingPoint
        Every draft count looked at, in increasing order; the first is no drafts.
    """

    rule: Rule
    tolerance: float
    near_free: OperatingPoint
    throughput: OperatingPoint
    reason: str
    options: tuple[OperatingPoint, ...]

    @property
    def chosen(self) -> OperatingPoint:
        """The answer of the rule asked for."""
        return self.near_free if self.rule == "near_free" else self.throughput

    def chosen_up_to(self, drafts: int) -> OperatingPoint:
        """The rule's answer among at most so many drafts [-], for an engine that cannot say more at this batch."""
        return _chosen(self.rule, [o for o in self.options if o.drafts <= drafts], self.tolerance)


def break_even_acceptance(drafts: int, step_ratio: float) -> float | None:
    """Constant per-token acceptance at which K drafts neither gain nor lose: E(K; a) = step cost.

    For K = 1 it is a = V + c - 1, so with V at the near-free limit a > tolerance + c pays.

    Parameters
    ----------
    drafts : int
        K [-], at least 1.
    step_ratio : float
        V(K + 1) + drafting [forwards at one position].

    Returns
    -------
    float or None
        a [-] in [0, 1]; None when the step costs more than the K + 1 tokens it can give.

    Examples
    --------
    >>> round(break_even_acceptance(1, 1.1 + 0.05), 6)
    0.15
    >>> break_even_acceptance(2, 3.2) is None
    True
    """
    require_positive_int(drafts=drafts)
    require_positive(step_ratio=step_ratio)
    if step_ratio > drafts + 1:
        return None
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if ConstantAcceptance(middle).expected_tokens(drafts) < step_ratio else (low, middle)
    return high


def choose_positions(
    latency_ratio: LatencyRatio,
    acceptance: AcceptanceModel,
    draft: DraftCost = DraftCost(),  # noqa: B008  (frozen)
    tolerance: float = 0.1,
    rule: Rule = "near_free",
    allowed_drafts: Collection[int] | None = None,
) -> Decision:
    """Draft count for one batch and context from its latency curve.

    near_free: the largest K with V(K + 1) <= 1 + tolerance. throughput: the K of largest S = E(K) / (V(K + 1) + c K +
    c0), the smallest one of equals. Every K is tried: real curves are staircases, not monotone, and have no marginal
    rule to stop at.

    Parameters
    ----------
    latency_ratio : callable or array, shape (positions,)
        V(q) [-], T(q, B) / T(1, B) at this batch; its length, else the acceptance model's, bounds the search
        (256 drafts where neither does).
    acceptance : AcceptanceModel
        E(K); its `max_drafts` bounds the search.
    draft : DraftCost
        Drafting cost [forwards at one position].
    tolerance : float
        Near-free latency increase [-], at least 0.
    rule : {"near_free", "throughput"}
        Which answer is `chosen`; both are given.
    allowed_drafts : collection of int, optional
        Draft counts [-] to choose among, 0 always included (an engine's rule, such as MTP multiples).

    Raises
    ------
    InvalidArgumentError
        For an empty curve, ratios that are not finite and above 0, V(1) other than 1, or a negative tolerance.
    UnknownNameError
        For an unknown rule.

    Examples
    --------
    >>> from nfp_model.acceptance import ConstantAcceptance, DraftCost
    >>> decision = choose_positions([1, 1.02, 1.04, 1.3], ConstantAcceptance(0.7), DraftCost(0.05), rule="throughput")
    >>> decision.near_free.drafts, decision.throughput.drafts, round(decision.chosen.speedup, 2)
    (2, 2, 1.92)
    """
    if rule not in get_args(Rule):
        raise unknown_name("rule", str(rule), get_args(Rule))
    require_tolerance(tolerance)
    options = _options(latency_ratio, acceptance, draft, allowed_drafts)
    near, best = _chosen("near_free", options, tolerance), _chosen("throughput", options, tolerance)
    return Decision(rule, tolerance, near, best, _reason(near, best, options, tolerance), tuple(options))


def _chosen(rule: Rule, options: Sequence[OperatingPoint], tolerance: float) -> OperatingPoint:
    if rule == "near_free":
        return max((o for o in options if o.latency_ratio <= 1.0 + tolerance), key=lambda o: o.drafts)
    return max(options, key=lambda o: (o.speedup, -o.drafts))


def _options(
    latency_ratio: LatencyRatio, acceptance: AcceptanceModel, draft: DraftCost, allowed: Collection[int] | None
) -> list[OperatingPoint]:
    limit = _UNBOUNDED_SEARCH if acceptance.max_drafts is None else acceptance.max_drafts
    if not callable(latency_ratio):
        limit = min(limit, max(0, np.asarray(latency_ratio).size - 1))
    if allowed is not None:
        limit = min(limit, max(allowed, default=0))
    ratios = ratios_at(latency_ratio, range(1, limit + 2))
    if not np.isclose(ratios[0], 1.0, rtol=0, atol=1e-9):
        raise InvalidArgumentError(f"the latency ratio is relative to one position: V(1) must be 1, got {ratios[0]:g}")
    ratios[0] = 1.0  # within rounding, so that no drafts are near-free at tolerance 0 too
    tokens, costs = acceptance.token_curve(limit), draft.of(acceptance.draft_steps(limit))
    counts = [k for k in range(limit + 1) if k == 0 or allowed is None or k in allowed]
    return [OperatingPoint(k, k + 1, float(tokens[k]), float(ratios[k]), float(costs[k])) for k in counts]


def _reason(near: OperatingPoint, best: OperatingPoint, options: Sequence[OperatingPoint], tolerance: float) -> str:
    beyond = next((o for o in options if o.drafts > near.drafts), None)
    limit = f"at tolerance {tolerance:g}"
    if beyond is None:
        first = f"all {near.drafts} drafts looked at are near-free {limit}"
    elif near.drafts == 0:
        first = f"no draft is near-free {limit}: {beyond.drafts} cost {beyond.latency_ratio:.2f}x"
    else:
        first = f"{near.drafts} drafts are near-free {limit}; {beyond.drafts} cost {beyond.latency_ratio:.2f}x"
    if best.drafts == 0:
        return f"{first}; none pays, so do not speculate"
    price = f"{best.tokens_per_forward:.2f} tokens for {best.step_ratio:.2f} forwards, {best.speedup:.2f}x"
    return f"{first}; {best.drafts} drafts pay {'anyway' if near.drafts < best.drafts else 'best'}: {price}"


@dataclass(frozen=True)
class CriticalLoad:
    """The load beyond which speculation hurts.

    Attributes
    ----------
    rows : int
        Critical batch x (K + 1) [token rows per forward]; 0 where speculation never pays.
    batch_size, drafts : int
        The last batch that pays and its best draft count.
    first_batch_size : int
        The first batch that pays [sequences]: above the smallest one where small batches touch new experts.
    censored : bool
        True when the largest batch looked at still pays, so that `rows` means "at least".
    reason : str
        Why, in words.
    """

    rows: int
    batch_size: int
    drafts: int
    first_batch_size: int
    censored: bool
    reason: str


def critical_load(decisions: Sequence[tuple[int, Decision]]) -> CriticalLoad:
    """Critical batch x (K + 1) from the decisions over batch sizes, by best expected throughput.

    Parameters
    ----------
    decisions : sequence of (int, Decision)
        Batch size [sequences] and its decision, batch sizes strictly increasing.

    Raises
    ------
    InvalidArgumentError
        For an empty grid or one out of order.

    Examples
    --------
    >>> from nfp_model.acceptance import ConstantAcceptance
    >>> grid = [(b, choose_positions([1, 1 + b / 100], ConstantAcceptance(0.5))) for b in (16, 32, 64)]
    >>> critical_load(grid).rows
    64
    """
    if not decisions:
        raise InvalidArgumentError("the grid of batch sizes is empty")
    sizes = [size for size, _ in decisions]
    if any(after <= before for before, after in pairwise(sizes)):
        raise InvalidArgumentError(f"batch sizes must strictly increase, got {sizes}")
    paying = [index for index, (_, decision) in enumerate(decisions) if decision.throughput.speedup > 1.0]
    if not paying:
        return CriticalLoad(0, 0, 0, 0, False, "speculation pays at no batch size looked at")
    last = paying[-1]
    size, best = sizes[last], decisions[last][1].throughput
    rows, first = size * best.positions, sizes[paying[0]]
    gain = f"at batch {size}, {best.drafts} drafts still give {best.speedup:.2f}x"
    if last == len(decisions) - 1:
        return CriticalLoad(rows, size, best.drafts, first, True, f"{gain}; larger batches were not looked at")
    reason = f"{gain}; at batch {sizes[last + 1]} no draft count gains"
    return CriticalLoad(rows, size, best.drafts, first, False, reason)
