"""The engines' common ground: draft counts over ordered, closed ranges of batch size."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from nfp_model.errors import InvalidArgumentError, UnsupportedError, require_positive_int


class DraftRange(NamedTuple):
    """Batch sizes `start` to `end` [sequences], both included, draft `drafts` tokens each; `end` None is open."""

    start: int
    end: int | None
    drafts: int


@dataclass(frozen=True)
class DraftSchedule:
    """K(B): drafts per sequence for every number of sequences in a step.

    Attributes
    ----------
    ranges : tuple of DraftRange
        In order, without gap or overlap, from 1; the last one open.
    max_batch_size : int
        Largest number of sequences the engine will run [sequences].

    Examples
    --------
    >>> table = DraftSchedule.from_tiers([16, 64, 512], [5, 3, 0])
    >>> [tuple(entry) for entry in table.ranges]
    [(1, 16, 5), (17, 64, 3), (65, None, 0)]
    >>> table.drafts_at(17), table.drafts_at(600), table.largest
    (3, 0, 5)
    """

    ranges: tuple[DraftRange, ...]
    max_batch_size: int

    def __post_init__(self) -> None:
        require_positive_int(max_batch_size=self.max_batch_size)
        if not self.ranges:
            raise InvalidArgumentError("a draft schedule must hold at least one range, got none")
        for entry in self.ranges:
            _require_range(entry)
        if self.ranges[0].start != 1:
            raise InvalidArgumentError(f"a draft schedule must start at batch 1, got {self.ranges[0].start}")
        for before, after in pairwise(self.ranges):
            if before.end is None or after.start != before.end + 1:
                raise InvalidArgumentError(
                    f"ranges must follow each other without gap or overlap, got {after.start} after {before.end}"
                )
        if self.ranges[-1].end is not None:
            raise InvalidArgumentError(f"the last range must be open, got an end at {self.ranges[-1].end}")
        if self.ranges[-1].start > self.max_batch_size:
            raise InvalidArgumentError(
                f"the last range must start within the largest batch {self.max_batch_size}, got {self.ranges[-1].start}"
            )

    @classmethod
    def from_batches(cls, drafts: Sequence[int]) -> DraftSchedule:
        """From K at every batch size 1, 2, ..., max; equal neighbours become one range.

        Examples
        --------
        >>> DraftSchedule.from_batches([2, 2, 1]).ranges
        (DraftRange(start=1, end=2, drafts=2), DraftRange(start=3, end=None, drafts=1))
        """
        if not len(drafts):
            raise InvalidArgumentError("the grid of batch sizes is empty")
        starts = [1] + [batch for batch in range(2, len(drafts) + 1) if drafts[batch - 1] != drafts[batch - 2]]
        ends: list[int | None] = [start - 1 for start in starts[1:]]
        ranges = (DraftRange(s, e, int(drafts[s - 1])) for s, e in zip(starts, [*ends, None], strict=True))
        return cls(tuple(ranges), len(drafts))

    @classmethod
    def from_tiers(cls, ends: Sequence[int], drafts: Sequence[int]) -> DraftSchedule:
        """From K at some batch sizes, each standing for the batches below it down to the one before.

        Parameters
        ----------
        ends : sequence of int
            Batch sizes [sequences], strictly increasing; the last is the largest batch.
        drafts : sequence of int
            K [-] at each.

        Raises
        ------
        InvalidArgumentError
            For empty, unordered or unequal lists.
        """
        if not len(ends):
            raise InvalidArgumentError("the grid of batch sizes is empty")
        if len(ends) != len(drafts):
            raise InvalidArgumentError(
                f"batch sizes and drafts must be equally long, got {len(ends)} and {len(drafts)}"
            )
        for end in ends:
            require_positive_int(batch_size=end)
        if any(after <= before for before, after in pairwise(ends)):
            raise InvalidArgumentError(f"batch sizes must strictly increase, got {list(ends)}")
        return cls.from_batches([drafts[bisect.bisect_left(ends, batch)] for batch in range(1, ends[-1] + 1)])

    def drafts_at(self, batch_size: int) -> int:
        """K [-] for a number of sequences, the last range carrying on for ever."""
        require_positive_int(batch_size=batch_size)
        return next(r.drafts for r in self.ranges if r.end is None or batch_size <= r.end)

    def dense(self) -> list[int]:
        """K [-] at every batch size 1 ... max_batch_size."""
        counts: list[int] = []
        for entry in self.ranges:
            last = self.max_batch_size if entry.end is None else entry.end
            counts += [entry.drafts] * (last - entry.start + 1)
        return counts

    @property
    def largest(self) -> int:
        """Largest K [-] anywhere."""
        return max(entry.drafts for entry in self.ranges)

    @property
    def is_single(self) -> bool:
        """Whether every batch size has the same K."""
        return len({entry.drafts for entry in self.ranges}) == 1

    def require_single(self, rule: str) -> int:
        """The one K [-] of a schedule for an engine without a table.

        Raises
        ------
        UnsupportedError
            With the engine's rule, when there are several K, or K = 0 throughout.
        """
        if not self.is_single:
            shown = ", ".join(f"{r.drafts} from batch {r.start}" for r in self.ranges)
            raise UnsupportedError(f"{rule}, got {shown}")
        require_speculation(self, rule)
        return self.largest


def _require_range(entry: DraftRange) -> None:
    for value in (entry.start, entry.drafts, *([] if entry.end is None else [entry.end])):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise InvalidArgumentError(f"batch sizes and drafts must be whole numbers, got {value!r}")
    if entry.drafts < 0:
        raise InvalidArgumentError(f"drafts must be at least 0, got {entry.drafts} from batch {entry.start}")
    if entry.end is not None and entry.end < entry.start:
        raise InvalidArgumentError(f"a range must not end before it starts, got {entry.start} to {entry.end}")


def require_speculation(schedule: DraftSchedule, rule: str) -> None:
    """Refuse a schedule of K = 0 throughout, for engines that need a draft length to start with.

    Raises
    ------
    UnsupportedError
        With the engine's rule.
    """
    if schedule.largest == 0:
        raise UnsupportedError(f"{rule}, got 0 drafts at every batch size: start the engine without speculation")


def align_to_captured(schedule: DraftSchedule, captured_sizes: Sequence[int]) -> DraftSchedule:
    """What a schedule becomes where the engine pads the batch to a captured graph before it looks K up.

    K'(B) = K(padded B); beyond the largest captured size nothing is padded. Every boundary of the result follows a
    captured size, so the engine's look-up is exact.

    Parameters
    ----------
    schedule : DraftSchedule
        As wished.
    captured_sizes : sequence of int
        Captured batch sizes [sequences], strictly increasing.

    Raises
    ------
    InvalidArgumentError
        For sizes that are not whole, positive and increasing.

    Examples
    --------
    >>> align_to_captured(DraftSchedule.from_tiers([5, 16], [3, 1]), [1, 2, 4, 8, 16]).ranges[0]
    DraftRange(start=1, end=4, drafts=3)
    """
    for size in captured_sizes:
        require_positive_int(captured_size=size)
    if any(after <= before for before, after in pairwise(captured_sizes)):
        raise InvalidArgumentError(f"captured sizes must strictly increase, got {list(captured_sizes)}")
    padded = (pad_batch(batch, captured_sizes) for batch in range(1, schedule.max_batch_size + 1))
    return DraftSchedule.from_batches([schedule.drafts_at(batch) for batch in padded])


def pad_batch(batch_size: int, captured_sizes: Sequence[int]) -> int:
    """The captured size a batch runs at [sequences]; itself beyond the largest."""
    index = bisect.bisect_left(captured_sizes, batch_size)
    return captured_sizes[index] if index < len(captured_sizes) else batch_size
