"""Points that cannot determine the constants are refused, and the tokens that would are named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nfp_model.errors import InvalidArgumentError
from nfp_model.specs.calibration import OperatorKind
from nfp_model.validation.fit_points import FitPoints, collect

POINTS_PER_CONSTANT = 3
"""Fewest points per fitted constant [-]."""

KNEE: dict[OperatorKind, float] = {"attention": 2.0, "latent_attention": 2.0, "elementwise": 4.0}
"""Other work over the memory stream from which a point tells about the other work; 0.5 where nothing is said [-]."""

STILL_MEMORY: dict[OperatorKind, float] = {"moe": 1.5}
"""The same up to which a point still tells about the memory stream; the knee where nothing is said [-]. An expert block of
128 rows takes 0.7 (H100) to 1.1 (H200) of its stream in matrix time at any number of tokens."""


def refuse_unfit(points: FitPoints) -> None:
    """Refuse points that cannot determine the constants; see :func:`fit_constants`."""
    unknowns = points.unknowns
    needed = POINTS_PER_CONSTANT * len(unknowns)
    prior = points.unknowns.printed(points.unknowns.start)
    knee = KNEE.get(points.operator, 0.5)
    sides = points.sides(prior) if len(points) else np.zeros(0)
    beyond, within = int((sides > knee).sum()), int((sides <= STILL_MEMORY.get(points.operator, knee)).sum())
    if len(points) < needed:
        raise InvalidArgumentError(
            f"{len(points)} points are too few to fit {len(unknowns)} constants of {points.operator}, at least {needed} are"
            f" needed; {advice(points, None)}"
        )
    if min(beyond, within) < POINTS_PER_CONSTANT:
        side = "above" if beyond > within else "below"
        raise InvalidArgumentError(
            f"all but a few of the {len(points)} points lie {side} the knee, where memory and other work take equal time;"
            f" {advice(points, side == 'below')}"
        )


def advice(points: FitPoints, above: bool | None) -> str:
    """Which tokens to measure next: nearest the predicted knee of the first shape, above it, below it, or both (None)."""
    if not points.curves:
        return "measure some shapes at 1 to 1024 tokens"
    candidates = 2 ** np.arange(15, dtype=np.int64)
    curve = points.curves[0]
    probe = replace(
        curve, tokens=candidates, seconds=np.ones(candidates.size), kernel_index=None, spread=None, beyond_l2=None
    )
    grid = collect([probe], curve.backend if curve.backend in ("vllm", "sglang", "trtllm", "torch") else "uncalibrated")
    prior = points.unknowns.printed(points.unknowns.start)
    beyond = grid.sides(prior) > KNEE.get(points.operator, 0.5)
    knee = int(np.argmax(beyond)) if beyond.any() else candidates.size
    wanted = slice(knee, knee + 3) if above else slice(max(0, knee - 3), max(3, knee))
    if above is None:
        wanted = slice(max(0, knee - 2), knee + 2)
    some = ", ".join(str(count) for count in candidates[wanted].tolist()) or "more than 16384"
    return f"measure next {some} {curve.axis} of {curve.split_key.replace('|', ' ')}"
