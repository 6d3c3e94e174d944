"""Diffusion blocks from predicted latency: what a block costs against one position, and what it must commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nfp_model.acceptance import PUBLISHED_TOKENS_PER_FORWARD, TokensPerForward
from nfp_model.errors import InvalidArgumentError, require_positive_int
from nfp_model.prediction import Prediction, predict_nfp
from nfp_model.scheduling.diffusion import DiffusionDecision, diffusion_break_even
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import ModelSpec
from nfp_model.specs.registry import load_hardware, load_model

BLOCKS = (4, 8, 16, 32, 64, 128, 256)
"""Block sizes looked at unless others are given [positions]."""


@dataclass(frozen=True)
class BlockCosts:
    """Cost of diffusion blocks against one-position decoding; prints as a table.

    Attributes
    ----------
    hardware, model : HardwareSpec, ModelSpec
        What the latencies were predicted for.
    backend, calibration : str
        Whose kernels, and the files the constants stand in.
    batch_size, context_length : int
        Sequences [-], cached tokens per sequence [tokens].
    full_canvas : bool
        Blocks are whole canvases without a cache; ``context_length`` is that of the one position.
    tolerance : float
        Near-free latency increase [-].
    baseline_latency_s : float
        One position, causal [s].
    decision : DiffusionDecision
        Every block with its latency ratio, which is the TPF needed, and the best measured one.
    scope : str
        Where the TPF points come from; empty without any.
    warnings : tuple of str
        What a reader must know before using the table.
    """

    hardware: HardwareSpec
    model: ModelSpec
    backend: str
    calibration: str
    batch_size: int
    context_length: int
    full_canvas: bool
    tolerance: float
    baseline_latency_s: float
    decision: DiffusionDecision
    scope: str
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything a program needs, JSON-safe; ``rows`` holds one entry per block."""
        best, free = self.decision.best, self.decision.largest_near_free
        return {
            "hardware": self.hardware.name,
            "model": self.model.name,
            "backend": self.backend,
            "calibration": self.calibration,
            "batch_size": self.batch_size,
            "context_length": self.context_length,
            "full_canvas": self.full_canvas,
            "tolerance": self.tolerance,
            "baseline_latency_s": self.baseline_latency_s,
            "rows": [
                {
                    "block": point.block,
                    "latency_ratio": point.latency_ratio,
                    "tokens_needed": point.tokens_needed,
                    "near_free": point.near_free,
                    "tokens_per_forward": point.tokens_per_forward,
                    "speedup": point.speedup,
                }
                for point in self.decision.blocks
            ],
            "best_block": best and best.block,
            "largest_near_free_block": free and free.block,
            "scope": self.scope,
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        from nfp_model.scheduling.text import block_text

        return block_text(self)


def block_costs(
    hardware: str | Path | HardwareSpec,
    model: str | Path | ModelSpec,
    blocks: Sequence[int] = BLOCKS,
    *,
    tokens_per_forward: TokensPerForward | str | None = None,
    context_length: int = 4096,
    full_canvas: bool = False,
    tolerance: float = 0.1,
    **arguments: Any,
) -> BlockCosts:
    """What a diffusion block costs against one position, the tokens it must commit to break even, and the best block.

    A block forward of q positions, bidirectional among them, takes T_block(q); decoding one token takes T(1). Block
    diffusion breaks even at TPF = T_block(q) / T(1), tokens per forward.

    Parameters
    ----------
    hardware, model, context_length, tolerance, **arguments
        As for :func:`~nfp_model.predict_nfp`, without ``decode_mode``.
    blocks : sequence of int
        Strictly increasing [positions per sequence].
    full_canvas : bool
        Every forward computes all its positions anew, as diffusion models without a cache do: a block is then the whole
        canvas, prompt included, and ``context_length`` holds for the one position it is compared with only.
    tokens_per_forward : TokensPerForward or str, optional
        Measured TPF; ``"published"`` takes the published points of this model, at the strictest threshold printed, with
        their scope. The best block is looked for among measured ones only.

    Raises
    ------
    NfpModelError
        For empty or unordered blocks, no published points, and as :func:`~nfp_model.predict_nfp` does.

    Examples
    --------
    >>> costs = block_costs("h200", "llada2.0-mini", tokens_per_forward="published")
    >>> [point.block for point in costs.decision.blocks if point.tokens_per_forward]
    [16, 32]
    """
    chip, spec = load_hardware(hardware), load_model(model)
    curve, scope = _measured(spec, tokens_per_forward)
    for block in blocks:
        require_positive_int(block=block)
    largest = max([*blocks, *(curve.blocks if curve else ())], default=1)
    given = {"context_length": context_length, "tolerance": tolerance, "max_positions": largest, **arguments}
    one = predict_nfp(chip, spec, **given)
    whole = predict_nfp(chip, spec, **(given | ({"context_length": 0} if full_canvas else {})), decode_mode="block")
    ratios = whole.latency_s(np.arange(1, largest + 1)) / one.baseline_latency_s
    decision = diffusion_break_even(ratios, blocks, curve, tolerance)
    return BlockCosts(
        chip,
        spec,
        whole.backend,
        whole.calibration,
        whole.workload.batch_size,
        context_length,
        full_canvas,
        tolerance,
        one.baseline_latency_s,
        decision,
        scope,
        _warnings(whole, full_canvas),
    )


def _warnings(whole: Prediction, full_canvas: bool) -> tuple[str, ...]:
    """A full canvas uses no cache, so the caution about an approximate one would mislead."""
    return tuple(warning for warning in whole.warnings if not (full_canvas and "keeps no exact KV cache" in warning))


def _measured(
    model: ModelSpec, tokens_per_forward: TokensPerForward | str | None
) -> tuple[TokensPerForward | None, str]:
    if tokens_per_forward is None:
        return None, ""
    if isinstance(tokens_per_forward, TokensPerForward):
        return tokens_per_forward, "as given"
    if tokens_per_forward != "published":
        raise InvalidArgumentError(f"tokens_per_forward must be a curve or 'published', got '{tokens_per_forward}'")
    points = [point for point in PUBLISHED_TOKENS_PER_FORWARD if point.model.lower() == model.title.lower()]
    if not points:
        known = ", ".join(dict.fromkeys(point.model for point in PUBLISHED_TOKENS_PER_FORWARD))
        raise InvalidArgumentError(f"no published tokens per forward for {model.title}; there are some for {known}")
    # The list holds the strictest threshold first, so the first point of a block is the one of best quality.
    by_block = {point.block: point for point in reversed(points)}
    chosen = [by_block[block] for block in sorted(by_block)]
    scope = "; ".join(f"block {p.block}: {p.setting}, {p.scope}, score {p.score:g}, {p.source}" for p in chosen)
    return TokensPerForward(tuple(p.block for p in chosen), tuple(p.tokens for p in chosen)), scope
