"""Tokens per forward (TPF) of diffusion language models, measured elsewhere and given to us.

TPF = tokens committed / forward passes, per sequence. vLLM reports it as ``diffusion_num_committed_tokens`` over
``diffusion_num_denoising_steps``; dInfer as generated tokens over NFE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from nfp_model.errors import InvalidArgumentError, require_positive_int


@dataclass(frozen=True)
class TokensPerForward:
    """A measured curve of tokens per forward over block size; nothing is interpolated between its points.

    Attributes
    ----------
    blocks : tuple of int
        Block or canvas sizes [positions per sequence], strictly increasing.
    tokens : tuple of float
        TPF [tokens per forward per sequence] at each, above 0 and at most the block.

    Examples
    --------
    >>> TokensPerForward((16, 32), (2.44, 2.55)).at(32)  # LLaDA2.0-mini, threshold 0.95, arXiv 2512.15745 figure 4
    2.55
    """

    blocks: tuple[int, ...]
    tokens: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.blocks:
            raise InvalidArgumentError("a tokens-per-forward curve must hold at least one block size, got none")
        if len(self.blocks) != len(self.tokens):
            raise InvalidArgumentError(
                f"blocks and tokens must be equally long, got {len(self.blocks)} and {len(self.tokens)}"
            )
        for block in self.blocks:
            require_positive_int(block=block)
        if any(after <= before for before, after in pairwise(self.blocks)):
            raise InvalidArgumentError(f"block sizes must strictly increase, got {list(self.blocks)}")
        for block, tokens in zip(self.blocks, self.tokens, strict=True):
            if not (math.isfinite(tokens) and 0 < tokens <= block):
                raise InvalidArgumentError(
                    f"tokens per forward must lie in (0, {block}] at block {block}, got {tokens!r}"
                )

    def at(self, block: int) -> float:
        """TPF [tokens per forward] measured at one block size.

        Raises
        ------
        InvalidArgumentError
            For a block size that was not measured.
        """
        if block not in self.blocks:
            raise InvalidArgumentError(
                f"tokens per forward were measured at blocks {list(self.blocks)}, not at {block}: nothing is guessed"
            )
        return self.tokens[self.blocks.index(block)]


@dataclass(frozen=True)
class PublishedTokensPerForward:
    """One published operating point, with what it holds for.

    Attributes
    ----------
    model, setting : str
        What was run and how.
    block : int
        Block size [positions per sequence].
    tokens : float
        TPF [tokens per forward].
    score : float
        The quality reported beside it [points], so that speed is not read alone.
    scope, source : str
        What the number averages; where it stands.
    """

    model: str
    setting: str
    block: int
    tokens: float
    score: float
    scope: str
    source: str


_FIGURE = "arXiv 2512.15745, figure 4 (read second-hand)"
_CARD = "LLaDA2.0-flash-CAP model card (read from a mirror)"
_UNSTATED = "threshold not stated; 32 is the family's default block"
_MEAN = "mean of 12 benchmarks"

PUBLISHED_TOKENS_PER_FORWARD: tuple[PublishedTokensPerForward, ...] = (
    PublishedTokensPerForward("LLaDA2.0-mini", "threshold 0.95", 16, 2.44, 70.26, "block-size ablation", _FIGURE),
    PublishedTokensPerForward("LLaDA2.0-mini", "threshold 0.95", 32, 2.55, 70.15, "block-size ablation", _FIGURE),
    PublishedTokensPerForward("LLaDA2.0-mini", "threshold 0.85", 32, 3.31, 67.90, "threshold ablation", _FIGURE),
    PublishedTokensPerForward("LLaDA2.0-flash", _UNSTATED, 32, 3.19, 78.57, _MEAN, _CARD),
    PublishedTokensPerForward("LLaDA2.0-flash-CAP", _UNSTATED, 32, 4.65, 76.85, _MEAN, _CARD),
)
"""Examples, not defaults: TPF depends on the text, the threshold and the checkpoint."""
