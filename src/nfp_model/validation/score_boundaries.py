"""Boundaries of measured and predicted curves on one grid, their errors, and how far idle compute over-predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nfp_model.boundary import near_free_boundary
from nfp_model.curve import LatencyCurve
from nfp_model.validation.references import IDLE
from nfp_model.validation.score_records import (
    OURS,
    BoundaryScore,
    CurveCase,
    Evidence,
    FloatArray,
    IntArray,
    OverPrediction,
)

SWEPT = (0.05, 0.1, 0.2, 0.5)
"""eps the over-prediction is shown at [-]."""

EVIDENCE_TOLERANCE = 0.2
"""eps of the histogram of boundary errors [-]."""

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)

_SAMPLED_POINTS = 1500

Crossing = tuple[int, bool]
"""A boundary on a measured grid, and whether the curve never left the tolerance."""


def crossing(tokens: IntArray, seconds: FloatArray, tolerance: float, baseline: int) -> Crossing | None:
    """Near-free boundary on a grid and whether it is censored; None where nothing was timed at or beyond the baseline.

    Examples
    --------
    >>> crossing(np.array([1, 2, 4]), np.array([1.0, 1.1, 1.5]), 0.2, 1)
    (2, False)
    >>> crossing(np.array([1, 2, 4]), np.array([1.0, 1.1, 1.1]), 0.2, 1)
    (4, True)
    """
    index = int(np.searchsorted(tokens, baseline))
    if index >= tokens.size:
        return None
    found = near_free_boundary(LatencyCurve(tokens, seconds), tolerance, int(tokens[index]))
    return found.nfp, found.censored


def promised(tokens: IntArray, positions: float, baseline: int) -> Crossing | None:
    """A boundary given as a number, judged on a measured grid: the last measured point it promises."""
    start = int(np.searchsorted(tokens, baseline))
    if start >= tokens.size:
        return None
    last = max(start, int(np.searchsorted(tokens, positions, side="right")) - 1)
    return int(tokens[last]), last == tokens.size - 1


def boundary_score(pairs: Sequence[tuple[Crossing, Crossing]]) -> BoundaryScore | None:
    """Boundary errors of (predicted, measured) pairs; None without any.

    Both censored is agreement. Where one is, the end of the range stands for its boundary: the error is a lower bound.

    Examples
    --------
    >>> score = boundary_score([((64, False), (32, False)), ((128, True), (128, True)), ((128, True), (32, False))])
    >>> score.median, score.both_censored, score.one_censored
    (1.0, 1, 1)
    """
    if not pairs:
        return None
    signed = np.array([np.log2(ours[0] / theirs[0]) for ours, theirs in pairs])
    size = np.abs(signed)
    both = sum(ours[1] and theirs[1] for ours, theirs in pairs)
    one = sum(ours[1] != theirs[1] for ours, theirs in pairs)
    return BoundaryScore(
        curves=len(pairs),
        median=float(np.median(size)),
        p90=float(np.quantile(size, 0.9)),
        within_quarter=float(np.mean(size <= np.log2(1.25) + 1e-9)),
        within_double=float(np.mean(size <= 1 + 1e-9)),
        signed_median=float(np.median(signed)),
        both_censored=int(both),
        one_censored=int(one),
    )


def ratios_of(cases: Sequence[CurveCase], tolerance: float, baseline: str) -> tuple[FloatArray, FloatArray, int]:
    """Idle compute over measured, ours over measured, and the curves left out because they never leave the tolerance."""
    idle, own, left = [], [], 0
    for case in cases:
        if baseline not in case.stream:
            continue
        theirs = crossing(case.tokens, case.measured, tolerance, case.baselines[baseline])
        ours = crossing(case.tokens, case.predicted, tolerance, case.baselines[baseline])
        positions = case.idle_positions(baseline)
        if theirs is None or ours is None or positions is None:
            continue
        if theirs[1]:
            left += 1
        else:
            idle.append(positions / theirs[0])
            own.append(ours[0] / theirs[0])
    return np.array(idle), np.array(own), left


def ratio_summary(ratios: FloatArray, left_out: int) -> OverPrediction | None:
    if ratios.size == 0:
        return None
    quantiles = tuple(float(value) for value in np.quantile(ratios, QUANTILES))
    return OverPrediction(ratios.size, left_out, quantiles, float(np.mean(ratios >= 2.4)), float(np.mean(ratios >= 23)))


def evidence_of(
    cases: Sequence[CurveCase], order: IntArray, ratios: Mapping[str, tuple[FloatArray, FloatArray]]
) -> Evidence:
    points = np.concatenate([np.column_stack([case.tokens, case.measured, case.predicted]) for case in cases])
    kept = np.linspace(0, len(points) - 1, min(len(points), _SAMPLED_POINTS)).astype(np.intp)
    label = list(cases[0].baselines)[-1:] or [""]
    errors: dict[str, list[float]] = {OURS: [], IDLE: []}
    for case in cases if label[0] else ():
        baseline = case.baselines[label[0]]
        theirs = crossing(case.tokens, case.measured, EVIDENCE_TOLERANCE, baseline)
        ours = crossing(case.tokens, case.predicted, EVIDENCE_TOLERANCE, baseline)
        positions = case.idle_positions(label[0])
        idle = promised(case.tokens, positions, baseline) if positions is not None else None
        if theirs and ours:
            errors[OURS].append(float(np.log2(ours[0] / theirs[0])))
        if theirs and idle:
            errors[IDLE].append(float(np.log2(idle[0] / theirs[0])))
    overlays = {"best": cases[order[0]], "median": cases[order[len(order) // 2]], "worst": cases[order[-1]]}
    return Evidence(points[kept], np.array(errors[OURS]), np.array(errors[IDLE]), ratios, overlays)
