"""Statistics of one row: many curves, every predictor, percentage errors and boundaries judged alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nfp_model.uncertainty import Z80, boundary_band
from nfp_model.validation.records import Curve
from nfp_model.validation.references import CONSTANT, IDLE, ROOFLINE, THREE, best_constant, fitted_roofline
from nfp_model.validation.score_boundaries import (
    SWEPT,
    Crossing,
    boundary_score,
    crossing,
    evidence_of,
    promised,
    ratio_summary,
    ratios_of,
)
from nfp_model.validation.score_records import OURS, REPEAT, CurveCase, PredictorScore, RowKey, RowScore, WorstCurve
from nfp_model.validation.statistics import coverage, curve_mape, shape_mape

TOLERANCES = (0.1, 0.2)
"""eps the boundaries are scored at [-]."""

TOKEN_RANGES = ((1, 16), (17, 64), (65, 256), (257, 1024), (1025, 2**62))


def row_score(
    key: RowKey,
    cases: Sequence[CurveCase],
    refused: Mapping[str, int] | None = None,
    repeats: Sequence[tuple[Curve, Curve]] = (),
    *,
    references: bool = True,
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
    references : bool
        Score the other predictors too, and keep what the pictures need.
    described, rule, calibration
        As in :class:`~nfp_model.validation.score_records.RowScore`.
    """
    refused = dict(refused or {})
    if not cases:
        return RowScore(key, 0, 0, refused, {}, described=described, rule=rule, calibration=calibration)
    predictors = {OURS: _curve_predictor(cases, None)}
    if references:
        cases = with_fitted_roofline(cases)
        names = sorted({name for case in cases for name in case.others})
        predictors |= {name: _curve_predictor([case for case in cases if name in case.others], name) for name in names}
        predictors |= _boundary_predictors(cases)
    if noise := repeat_score(repeats, cases[0].most, cases[0].baselines):
        predictors[REPEAT] = noise
    errors = np.array([curve_mape(case.predicted[case.judged], case.measured[case.judged]) for case in cases])
    order = np.argsort(errors)
    worst = order[::-1][: max(1, len(cases) // 20)]
    measured, predicted = (
        np.concatenate([getattr(case, name)[case.judged] for case in cases]) for name in ("measured", "predicted")
    )
    deviation = np.concatenate([case.spread.deviation[case.judged] for case in cases])
    ratios = {
        f"{tolerance:g}|{baseline}": ratios_of(cases, tolerance, baseline)
        for tolerance in SWEPT
        for baseline in (cases[0].stream if references else ())
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
            name: summary for name, (idle, _, left) in ratios.items() if (summary := ratio_summary(idle, left))
        },
        own_over_prediction={
            name: summary for name, (_, own, left) in ratios.items() if (summary := ratio_summary(own, left))
        },
        worst=tuple(WorstCurve(cases[i].name, float(errors[i]), *kind_of_error(cases[i])) for i in worst),
        evidence=evidence_of(cases, order, {name: (idle, own) for name, (idle, own, _) in ratios.items()})
        if references
        else None,
    )


def kind_of_error(case: CurveCase) -> tuple[str, int]:
    """What kind of error dominates a curve, and at which tokens.

    ``measured falls``: a measured latency falls by a fifth or more as tokens rise, which no smooth term explains (kernel
    switch or fault of the data); ``level``: a constant factor, little is left once it is taken out; ``step``: one place where
    predicted and measured part by half their whole spread; ``slope`` otherwise. The tokens are those the latency falls or steps at, else
    those of the largest error.

    Parameters
    ----------
    case : CurveCase
        With at least one point.
    """
    tokens = case.tokens[case.judged]
    ratio = np.log(case.predicted[case.judged] / case.measured[case.judged])
    rises = np.diff(np.log(case.measured[case.judged]))
    if rises.size and float(rises.min()) < np.log(0.8):
        return "measured falls", int(tokens[rises.argmin() + 1])
    largest = int(tokens[np.abs(ratio).argmax()])
    if np.mean(np.abs(ratio - np.median(ratio))) < 0.5 * np.mean(np.abs(ratio)):
        return "level", largest
    parts = np.abs(np.diff(ratio))
    if parts.size and parts.max() > 0.5 * np.ptp(ratio):
        return "step", int(tokens[parts.argmax() + 1])
    return "slope", largest


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
    inside: dict[str, list[bool]] = {}
    for case in cases:
        seconds = case.predicted if name is None else case.others[name]
        errors.append(curve_mape(seconds[case.judged], case.measured[case.judged]))
        shapes.append(shape_mape(seconds[case.judged], case.measured[case.judged]))
        for label, tolerance, baseline in _grid(case):
            ours, theirs = (crossing(case.tokens, one, tolerance, baseline) for one in (seconds, case.measured))
            if ours and theirs:
                pairs.setdefault(label, []).append((ours, theirs))
                if name is None:
                    low, high = _boundary_band(case, tolerance, baseline)
                    inside.setdefault(label, []).append(low <= theirs[0] <= high)
    boundaries = {label: score for label, some in pairs.items() if (score := boundary_score(some))}
    for label, covered in inside.items():
        boundaries[label] = replace(boundaries[label], band=float(np.mean(covered)))
    return PredictorScore(float(np.median(errors)), float(np.median(shapes)), boundaries)


def _boundary_band(case: CurveCase, tolerance: float, baseline: int) -> tuple[int, int]:
    start = int(np.searchsorted(case.tokens, baseline))
    band = boundary_band(case.tokens, case.predicted, case.spread, tolerance, int(case.tokens[start]))
    return band[0].nfp, band[1].nfp


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


__all__ = ["TOLERANCES", "repeat_score", "row_score", "with_fitted_roofline"]
