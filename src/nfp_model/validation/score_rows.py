"""Statistics of one row: many curves, every predictor, percentage errors and boundaries judged alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nfp_model.boundary import near_free_boundary
from nfp_model.curve import LatencyCurve
from nfp_model.uncertainty import Z80
from nfp_model.validation.records import Curve
from nfp_model.validation.references import CONSTANT, IDLE, ROOFLINE, THREE, best_constant, fitted_roofline
from nfp_model.validation.score_records import (
    OURS,
    REPEAT,
    BoundaryScore,
    CurveCase,
    Evidence,
    FloatArray,
    IntArray,
    OverPrediction,
    PredictorScore,
    RowKey,
    RowScore,
)
from nfp_model.validation.statistics import coverage, curve_mape, shape_mape

TOLERANCES = (0.1, 0.2)
"""eps the boundaries are scored at [-]."""

SWEPT = (0.05, 0.1, 0.2, 0.5)
"""eps the over-prediction is shown at [-]."""

TOKEN_RANGES = ((1, 16), (17, 64), (65, 256), (257, 1024), (1025, 2**62))

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


def row_score(
    key: RowKey,
    cases: Sequence[CurveCase],
    refused: Mapping[str, int] | None = None,
    repeats: Sequence[tuple[Curve, Curve]] = (),
    *,
    described: bool = True,
    rule: str = "",
    calibration: str = "",
) -> RowScore:
    """Score one row.

    Parameters
    ----------
    key : RowKey
        What it is about.
    cases : sequence of CurveCase
        Curves with their predictions.
    refused : mapping of str to int, optional
        Reason -> curves without a prediction.
    repeats : sequence of (Curve, Curve)
        Points of the same curves recorded twice.
    described, rule, calibration
        As in :class:`~nfp_model.validation.score_records.RowScore`.
    """
    refused = dict(refused or {})
    if not cases:
        return RowScore(key, 0, 0, refused, {}, described=described, rule=rule, calibration=calibration)
    cases = with_fitted_roofline(cases)
    names = sorted({name for case in cases for name in case.others})
    predictors = {OURS: _curve_predictor(cases, None)}
    predictors |= {name: _curve_predictor([case for case in cases if name in case.others], name) for name in names}
    predictors |= _boundary_predictors(cases)
    if noise := repeat_score(repeats, cases[0].most, cases[0].baselines):
        predictors[REPEAT] = noise
    errors = np.array([curve_mape(case.predicted[case.judged], case.measured[case.judged]) for case in cases])
    order = np.argsort(errors)
    worst = order[::-1][: max(1, len(cases) // 20)]
    measured, predicted, deviation = (
        np.concatenate([getattr(case, name)[case.judged] for case in cases])
        for name in ("measured", "predicted", "deviation")
    )
    ratios = {
        f"{tolerance:g}|{baseline}": _ratios(cases, tolerance, baseline)
        for tolerance in SWEPT
        for baseline in cases[0].stream
    }
    return RowScore(
        key,
        curves=len(cases),
        points=int(measured.size),
        refused=refused,
        predictors=predictors,
        coverage=coverage(measured, predicted * np.exp(-Z80 * deviation), predicted * np.exp(Z80 * deviation)),
        described=described,
        rule=rule,
        calibration=calibration,
        by_tokens=_by_tokens(cases),
        over_prediction={
            name: summary for name, (idle, _, left) in ratios.items() if (summary := _summary(idle, left))
        },
        own_over_prediction={
            name: summary for name, (_, own, left) in ratios.items() if (summary := _summary(own, left))
        },
        worst=tuple((cases[index].name, float(errors[index])) for index in worst),
        evidence=_evidence(cases, order, {name: (idle, own) for name, (idle, own, _) in ratios.items()}),
    )


def with_fitted_roofline(cases: Sequence[CurveCase]) -> list[CurveCase]:
    """The cases with the plain and the fitted three-constant roofline among the other predictors."""
    memory, matrix, seconds = (
        np.concatenate([getattr(case, name) for case in cases]) for name in ("memory", "matrix", "measured")
    )
    t0, eb, ef = fitted_roofline(memory, matrix, seconds)
    found = []
    for case in cases:
        plain = case.others.get(ROOFLINE, np.maximum(case.memory, case.matrix))
        fitted = t0 + np.maximum(case.memory / eb, case.matrix / ef)
        found.append(replace(case, others={**case.others, ROOFLINE: plain, THREE: fitted}))
    return found


def repeat_score(
    repeats: Sequence[tuple[Curve, Curve]], most: int, baselines: Mapping[str, int]
) -> PredictorScore | None:
    """Noise of a table by the statistics of a prediction, first recording against second; None where nothing is repeated."""
    errors, shapes = [], []
    pairs: dict[str, list[tuple[Crossing, Crossing]]] = {}
    for first, second in repeats:
        tokens, i, j = np.intersect1d(first.tokens, second.tokens, assume_unique=True, return_indices=True)
        if tokens.size < 4:
            continue
        ours, theirs = first.seconds[i], second.seconds[j]
        near = tokens <= most
        if near.any():
            errors.append(curve_mape(ours[near], theirs[near]))
            shapes.append(shape_mape(ours[near], theirs[near]))
        for name, baseline in baselines.items():
            for tolerance in TOLERANCES:
                found = crossing(tokens, ours, tolerance, baseline), crossing(tokens, theirs, tolerance, baseline)
                if found[0] and found[1]:
                    pairs.setdefault(f"{tolerance:g}|{name}", []).append((found[0], found[1]))
    if not errors:
        return None
    boundaries = {name: score for name, some in pairs.items() if (score := boundary_score(some))}
    return PredictorScore(float(np.median(errors)), float(np.median(shapes)), boundaries)


def _curve_predictor(cases: Sequence[CurveCase], name: str | None) -> PredictorScore:
    errors, shapes = [], []
    pairs: dict[str, list[tuple[Crossing, Crossing]]] = {}
    for case in cases:
        seconds = case.predicted if name is None else case.others[name]
        inside = case.judged
        errors.append(curve_mape(seconds[inside], case.measured[inside]))
        shapes.append(shape_mape(seconds[inside], case.measured[inside]))
        for label, tolerance, baseline in _grid(case):
            ours, theirs = (crossing(case.tokens, one, tolerance, baseline) for one in (seconds, case.measured))
            if ours and theirs:
                pairs.setdefault(label, []).append((ours, theirs))
    boundaries = {label: score for label, some in pairs.items() if (score := boundary_score(some))}
    return PredictorScore(float(np.median(errors)), float(np.median(shapes)), boundaries)


def _boundary_predictors(cases: Sequence[CurveCase]) -> dict[str, PredictorScore]:
    """Idle compute, and the best single constant: predictors of boundaries alone."""
    idle: dict[str, list[tuple[Crossing, Crossing]]] = {}
    measured: dict[str, list[tuple[CurveCase, int, Crossing]]] = {}
    for case in cases:
        for label, tolerance, baseline in _grid(case):
            theirs = crossing(case.tokens, case.measured, tolerance, baseline)
            if theirs is None:
                continue
            measured.setdefault(label, []).append((case, baseline, theirs))
            positions = case.idle_positions(label.split("|")[1])
            ours = None if positions is None else promised(case.tokens, positions, baseline)
            if ours:
                idle.setdefault(label, []).append((ours, theirs))
    constant = {}
    for label, several in measured.items():
        best = best_constant([theirs[0] for _, _, theirs in several])
        pairs = [(promised(case.tokens, best, baseline), theirs) for case, baseline, theirs in several]
        constant[label] = boundary_score([(ours, theirs) for ours, theirs in pairs if ours])
    found = (
        {CONSTANT: PredictorScore(boundaries={label: one for label, one in constant.items() if one})}
        if constant
        else {}
    )
    if idle:
        found[IDLE] = PredictorScore(
            boundaries={label: one for label, some in idle.items() if (one := boundary_score(some))}
        )
    return found


def _grid(case: CurveCase) -> list[tuple[str, float, int]]:
    return [(f"{eps:g}|{name}", eps, baseline) for eps in TOLERANCES for name, baseline in case.baselines.items()]


def _ratios(cases: Sequence[CurveCase], tolerance: float, baseline: str) -> tuple[FloatArray, FloatArray, int]:
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


def _summary(ratios: FloatArray, left_out: int) -> OverPrediction | None:
    if ratios.size == 0:
        return None
    quantiles = tuple(float(value) for value in np.quantile(ratios, QUANTILES))
    return OverPrediction(ratios.size, left_out, quantiles, float(np.mean(ratios >= 2.4)), float(np.mean(ratios >= 23)))


def _by_tokens(cases: Sequence[CurveCase]) -> dict[str, tuple[float, float]]:
    tokens, measured, predicted = (
        np.concatenate([getattr(case, name) for case in cases]) for name in ("tokens", "measured", "predicted")
    )
    error = predicted / measured - 1.0
    found = {}
    for low, high in TOKEN_RANGES:
        here = (tokens >= low) & (tokens <= high)
        if here.any():
            name = f"{low}-{high}" if high < 2**62 else f"{low}-"
            found[name] = (float(np.median(np.abs(error[here]))), float(np.median(error[here])))
    return found


def _evidence(
    cases: Sequence[CurveCase], order: Sequence[int], ratios: Mapping[str, tuple[FloatArray, FloatArray]]
) -> Evidence:
    points = np.concatenate([np.column_stack([case.tokens, case.measured, case.predicted]) for case in cases])
    kept = np.linspace(0, len(points) - 1, min(len(points), _SAMPLED_POINTS)).astype(np.intp)
    label = list(cases[0].baselines)[-1:] or [""]
    errors: dict[str, list[float]] = {OURS: [], IDLE: []}
    for case in cases if label[0] else ():
        baseline = case.baselines[label[0]]
        theirs = crossing(case.tokens, case.measured, TOLERANCES[-1], baseline)
        ours = crossing(case.tokens, case.predicted, TOLERANCES[-1], baseline)
        positions = case.idle_positions(label[0])
        idle = promised(case.tokens, positions, baseline) if positions is not None else None
        if theirs and ours:
            errors[OURS].append(float(np.log2(ours[0] / theirs[0])))
        if theirs and idle:
            errors[IDLE].append(float(np.log2(idle[0] / theirs[0])))
    overlays = {"best": cases[order[0]], "median": cases[order[len(order) // 2]], "worst": cases[order[-1]]}
    return Evidence(points[kept], np.array(errors[OURS]), np.array(errors[IDLE]), ratios, overlays)


__all__ = ["boundary_score", "crossing", "promised", "repeat_score", "row_score", "with_fitted_roofline"]
