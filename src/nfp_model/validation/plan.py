"""Which size to measure next, and whether there is time for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from nfp_model.errors import require_positive, require_positive_int

STEP_THRESHOLD = 0.04
"""A rise between neighbours below this is taken for slope or noise [-]; about twice the spread of one kernel recorded
twice in public timings (aiconfigurator-core 0.12.0: 1.7 % for a GEMM)."""


BOUNDARY_TOLERANCES = (0.1, 0.2, 0.5)
"""eps whose boundaries are looked for before other steps [-]."""
BOUNDARY_PRECISION = 1 / 32
"""A boundary known to a thirty-second of itself is known well enough [-]: two predictions that far apart are alike."""


def coarse_sizes(largest: int, smallest: int = 1) -> tuple[int, ...]:
    """Powers of two from ``smallest`` to ``largest``, both ends included [positions].

    Examples
    --------
    >>> coarse_sizes(24)
    (1, 2, 4, 8, 16, 24)
    """
    require_positive_int(largest=largest, smallest=smallest)
    powers = [1 << k for k in range(largest.bit_length()) if smallest < 1 << k < largest]
    return tuple(dict.fromkeys([smallest, *powers, largest]))


def step_edges(sizes: Sequence[int], seconds: Sequence[float], threshold: float = STEP_THRESHOLD) -> tuple[int, ...]:
    """Last sizes before a rise of more than ``threshold`` between neighbouring sizes of a curve [positions].

    Parameters
    ----------
    sizes : sequence of int
        Ascending [positions].
    seconds : sequence of float
        Latency at each [s].
    threshold : float
        Relative rise that counts [-].

    Examples
    --------
    >>> step_edges([63, 64, 65, 66], [1.0, 1.0, 1.5, 1.5])
    (64,)
    """
    pairs = zip(sizes, seconds, sizes[1:], seconds[1:], strict=False)
    return tuple(low for low, before, _, after in pairs if after > before * (1 + threshold))


def next_size(
    measured: Mapping[int, float],
    coarse: Sequence[int],
    predicted: Sequence[int] = (),
    threshold: float = STEP_THRESHOLD,
    stop_ratio: float = float("inf"),
) -> int | None:
    """The size that tells most: the coarse grid, both sides of each predicted step, then halving where the curve rises.

    A step keeps its whole rise as its interval is halved, a slope's shrinks: so steps are pinned to one position
    (log2 of the interval's width measurements each) and slopes are left once they rise by less than ``threshold``.

    Parameters
    ----------
    measured : mapping
        Size -> seconds so far [positions -> s].
    coarse : sequence of int
        First sizes, ascending [positions].
    predicted : sequence of int
        Last sizes before each predicted step [positions].
    threshold : float
        Relative rise worth halving [-].
    stop_ratio : float
        Sizes above the first whose seconds exceed this multiple of the smallest size's are not asked for [-].

    Returns
    -------
    int or None
        None when nothing is left to ask.

    Examples
    --------
    >>> next_size({1: 1.0, 2: 1.0, 4: 1.0, 8: 2.0}, coarse=(1, 2, 4, 8))
    6
    """
    done = sorted(measured)
    limit = max(coarse)
    if done:
        over = [size for size in done if measured[size] > stop_ratio * measured[done[0]]]
        limit = min(over, default=limit)
    wanted = [*coarse, *(size for edge in predicted for size in (edge, edge + 1))]
    for size in wanted:
        if min(coarse) <= size <= limit and size not in measured:
            return size
    rises = [
        (measured[high] / measured[low] - 1, high - low, low)
        for low, high in pairwise(done)
        if high - low > 1 and high <= limit
    ]
    rise, width, low = max(rises, default=(0.0, 0, 0))
    return low + width // 2 if rise > threshold else None


def boundary_size(
    measured: Mapping[int, float],
    baselines: Sequence[int],
    tolerances: Sequence[float] = BOUNDARY_TOLERANCES,
    precision: float = BOUNDARY_PRECISION,
) -> int | None:
    """The size that tells most about where a curve leaves a tolerance for good.

    Parameters
    ----------
    measured : mapping
        Size -> seconds so far [positions -> s].
    baselines : sequence of int
        N0s the tolerance is taken from; those not measured are passed over [positions].
    tolerances : sequence of float
        eps [-].
    precision : float
        Width of the interval that holds the crossing, over its lower end, at which it is known well enough [-].

    Returns
    -------
    int or None
        None when every crossing is known to one position or to ``precision``.

    Examples
    --------
    >>> boundary_size({1: 1.0, 64: 1.0, 128: 1.5}, baselines=(1,), tolerances=(0.1,))
    96
    """
    sizes = sorted(measured)
    for baseline in (size for size in baselines if size in measured):
        for tolerance in tolerances:
            limit = (1 + tolerance) * measured[baseline]
            low = max(size for size in sizes if size >= baseline and measured[size] <= limit)
            above = [size for size in sizes if size > low]
            if above and above[0] - low > max(1, precision * low):
                return low + (above[0] - low) // 2
    return None


@dataclass
class TimeBudget:
    """Seconds to spend, shared over groups of cases, on a clock that tests can replace.

    Attributes
    ----------
    seconds : float
        In all [s].
    clock : callable
        Returns seconds that only grow [s].

    Examples
    --------
    >>> now = [0.0]
    >>> budget = TimeBudget(60.0, lambda: now[0])
    >>> budget.share(groups_left=3)
    20.0
    >>> now[0] = 59.5
    >>> budget.allows(1.0)
    False
    """

    seconds: float
    clock: Callable[[], float]
    started: float = field(init=False)

    def __post_init__(self) -> None:
        require_positive(seconds=self.seconds)
        self.started = self.clock()

    @property
    def left(self) -> float:
        """Seconds not yet spent [s]."""
        return self.seconds - (self.clock() - self.started)

    def share(self, groups_left: int) -> float:
        """An even share of what is left [s]: what one group saves, the following ones get."""
        return max(0.0, self.left) / max(1, groups_left)

    def allows(self, estimate: float) -> bool:
        """Whether something that takes ``estimate`` [s] still ends in time."""
        return self.left > estimate
