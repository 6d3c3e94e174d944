"""Block diffusion: tokens per forward needed to break even, and the best measured block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from nfp_model.acceptance import TokensPerForward
from nfp_model.errors import InvalidArgumentError, require_positive_int
from nfp_model.scheduling.ratios import LatencyRatio, ratios_at, require_tolerance


@dataclass(frozen=True)
class BlockPoint:
    """One diffusion block size.

    Attributes
    ----------
    block : int
        Positions per sequence and forward [-].
    tokens_needed : float
        TPF [tokens per forward] that equals autoregressive decoding: V(block).
    tokens_per_forward : float or None
        TPF measured at this block: the algorithm's factor.
    near_free : bool
        Whether V(block) <= 1 + tolerance.
    """

    block: int
    tokens_needed: float
    tokens_per_forward: float | None
    near_free: bool

    @property
    def latency_ratio(self) -> float:
        """V(block) [-]: the system's factor; the same number as :attr:`tokens_needed`."""
        return self.tokens_needed

    @property
    def attainable(self) -> bool:
        """Whether a block can hold the tokens it needs to break even."""
        return self.tokens_needed <= self.block

    @property
    def speedup(self) -> float | None:
        """Tokens per second over autoregressive decoding by the same forward [-], TPF / V; None without a TPF."""
        return None if self.tokens_per_forward is None else self.tokens_per_forward / self.tokens_needed


@dataclass(frozen=True)
class DiffusionDecision:
    """Break-even of every block size looked at, and the best measured one.

    Attributes
    ----------
    blocks : tuple of BlockPoint
        In increasing size.
    best : BlockPoint or None
        Largest speed-up among those with a measured TPF; None without a curve.
    largest_near_free : BlockPoint or None
        Largest block within the tolerance; None where there is none.
    """

    blocks: tuple[BlockPoint, ...]
    best: BlockPoint | None
    largest_near_free: BlockPoint | None


def diffusion_break_even(
    latency_ratio: LatencyRatio,
    blocks: Sequence[int] = (4, 8, 16, 32, 64, 128, 256),
    tokens_per_forward: TokensPerForward | None = None,
    tolerance: float = 0.1,
) -> DiffusionDecision:
    """Tokens per forward that block diffusion needs to equal autoregressive decoding, and the best block.

    A diffusion forward pays q = block whatever it commits, and gives TPF / T(block, B) tokens per second and sequence;
    one-position decoding gives 1 / T(1, B). Break-even is TPF = V(block).

    Parameters
    ----------
    latency_ratio : callable or array, shape (positions,)
        V(q) = T(q, B) / T(1, B) [-]; the block forward may be another kernel than decoding, T(1, B) is decoding.
    blocks : sequence of int
        Block sizes [positions per sequence], strictly increasing; those of the curve are added.
    tokens_per_forward : TokensPerForward, optional
        Measured TPF; the best block is looked for among its points only.
    tolerance : float
        Near-free latency increase [-], at least 0.

    Raises
    ------
    InvalidArgumentError
        For an empty or unordered list of blocks, or a ratio that is not finite and above 0.

    Examples
    --------
    >>> from nfp_model.acceptance import TokensPerForward
    >>> curve = TokensPerForward((16, 32), (2.44, 2.55))
    >>> answer = diffusion_break_even(lambda q: 1 + (q - 1) / 64, (16, 32), curve)
    >>> answer.best.block, round(answer.best.tokens_needed, 2), round(answer.best.speedup, 2)
    (16, 1.23, 1.98)
    """
    require_tolerance(tolerance)
    if not len(blocks):
        raise InvalidArgumentError("the grid of block sizes is empty")
    for block in blocks:
        require_positive_int(block=block)
    if any(after <= before for before, after in pairwise(blocks)):
        raise InvalidArgumentError(f"block sizes must strictly increase, got {list(blocks)}")
    measured = tokens_per_forward.blocks if tokens_per_forward is not None else ()
    sizes = sorted({*blocks, *measured})
    points = []
    for block, ratio in zip(sizes, ratios_at(latency_ratio, sizes), strict=True):
        tokens = tokens_per_forward.at(block) if tokens_per_forward is not None and block in measured else None
        points.append(BlockPoint(block, float(ratio), tokens, bool(ratio <= 1.0 + tolerance)))
    best = max((p for p in points if p.speedup is not None), key=lambda p: p.speedup or 0.0, default=None)
    free = max((p for p in points if p.near_free), key=lambda p: p.block, default=None)
    return DiffusionDecision(tuple(points), best, free)
