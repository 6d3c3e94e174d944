"""Markdown tables of a score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nfp_model.validation.goals import GoalResult, Verdict
from nfp_model.validation.references import REFERENCES
from nfp_model.validation.score_records import OURS, REPEAT, BoundaryScore, RowScore, ScoreReport

SHOWN = "0.2"
"""eps of the boundaries the tables show [-]."""

PREDICTORS = {OURS: "this model", **{name: name.replace("_", " ") for name in REFERENCES}, REPEAT: "second recording"}


def percent(value: float | None, digits: int = 1) -> str:
    """A share in per cent, ``-`` where there is none."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:.{digits}f} %"


def spread(score: BoundaryScore | None) -> str:
    """Median and 90th percentile of a boundary error."""
    return "-" if score is None else f"{score.median:.2f}/{score.p90:.2f}"


def main_boundary(boundaries: Mapping[str, BoundaryScore], tolerance: str = SHOWN) -> BoundaryScore | None:
    """The boundary score the goals are about: baseline 16 or saturated where there is one, else 1."""
    for baseline in ("16", "saturated", "1"):
        found = boundaries.get(f"{tolerance}|{baseline}")
        if found is not None:
            return found
    return None


def outcome(result: GoalResult) -> str:
    """A goal's outcome in words."""
    if not result.verdicts:
        return "not scored"
    if result.met == len(result.verdicts):
        return f"met on all {len(result.verdicts)} rows"
    return f"missed: {result.met} of {len(result.verdicts)} rows reach it"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty without rows."""
    body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *body, ""]) if body else ""


def goal_table(results: Sequence[GoalResult]) -> str:
    rows = []
    for result in results:
        goal = result.goal
        wanted = ", ".join(f"{median:g}/{p90:g} from {name}" for name, (median, p90) in goal.boundaries.items())
        reached = [verdict.row for verdict in result.verdicts if verdict.row.predictors]
        errors = [row.ours.mape for row in reached if row.ours.mape is not None]
        middle = (
            f"{percent(float(np.median(errors)))} ({percent(min(errors))} to {percent(max(errors))})" if errors else "-"
        )
        both = "; ".join(_middle_boundary(reached, name) for name in goal.boundaries)
        rows.append((goal.title, f"{100 * goal.mape:g} %", middle, wanted, both, outcome(result)))
    head = ("", "MAPE goal", "reached: median row (best to worst)", "boundary goal", "reached: median row", "outcome")
    return table(head, rows)


def _middle_boundary(rows: Sequence[RowScore], baseline: str) -> str:
    scores = [score for row in rows if (score := row.ours.boundaries.get(f"{SHOWN}|{baseline}"))]
    if not scores:
        return "-"
    medians = [float(np.median([getattr(score, name) for score in scores])) for name in ("median", "p90")]
    return f"{medians[0]:.2f}/{medians[1]:.2f} from {baseline}"


def goal_rows(result: GoalResult) -> str:
    if not result.verdicts and not result.other_kernels:
        return ""
    baselines = list(result.goal.boundaries)
    head = ["GPU", "backend", "data type", "setting", "curves", "MAPE", "goal", "shape MAPE"]
    for name in baselines:
        head += [f"NFP error from {name}", "goal", "within 25 % / 2x", "signed"]
    head += ["eps 0.1", "band", "repeat noise", "kernel", ""]
    lines = [
        _verdict_line(verdict, baselines, result.goal.constants)
        for verdict in result.verdicts
        if verdict.row.predictors
    ]
    text = (
        f"### {result.goal.title}\n\n"
        + table(head, lines)
        + _refused([v.row for v in result.verdicts if not v.row.predictors])
    )
    if result.other_kernels:
        named = "; ".join(sorted({_short(row) for row in result.other_kernels}))
        text += f"\nNot judged, because the kernel timed is not the one the rule describes or its tiles are unknown: {named}.\n"
    return text


def _verdict_line(verdict: Verdict, baselines: Sequence[str], constants: str) -> list[str]:
    row, key = verdict.row, verdict.row.key
    labels = [key.gpu, key.backend, key.dtype, key.setting]
    cells = [*labels, str(row.curves), percent(row.ours.mape), percent(verdict.mape_goal), percent(row.ours.shape_mape)]
    for name in baselines:
        score = row.ours.boundaries.get(f"{SHOWN}|{name}")
        goal = "{:.2f}/{:.2f}".format(*verdict.boundary_goals[name])
        cells += [spread(score), goal, *(_shares(score))]
    noise = row.predictors.get(REPEAT)
    repeated = "-" if noise is None else f"{percent(noise.mape)}; {spread(main_boundary(noise.boundaries))}"
    cells += [spread(main_boundary(row.ours.boundaries, "0.1")), percent(row.coverage, 0), repeated]
    parts = [word for word, met in (("MAPE", verdict.mape_met), ("boundary", verdict.boundary_met)) if not met]
    notes = [f"{sum(row.refused.values())} refused"] if row.refused else []
    notes += ["goal set by the noise"] if verdict.by_noise else []
    notes += ["no fit: uncalibrated constants"] if key.constants != constants else []
    words = "met" if not parts else "missed " + " and ".join(parts)
    return [*cells, f"`{key.kernel}`" if key.kernel else "-", words + (f" ({', '.join(notes)})" if notes else "")]


def _refused(rows: Sequence[RowScore]) -> str:
    """Rows without any prediction, in one sentence for every reason."""
    reasons: dict[str, list[tuple[int, str]]] = {}
    for row in rows:
        for reason, count in row.refused.items():
            reasons.setdefault(reason, []).append((count, f"{row.key.gpu} {row.key.backend}"))
    lines = []
    for reason, some in reasons.items():
        where = ", ".join(sorted({place for _, place in some}))
        lines.append(
            f"Missed: {sum(count for count, _ in some)} curves of {len(some)} rows ({where}) are refused: {reason}.\n"
        )
    return "\n".join(lines)


def _shares(score: BoundaryScore | None) -> tuple[str, str]:
    if score is None:
        return "-", "-"
    return f"{100 * score.within_quarter:.0f} / {100 * score.within_double:.0f} %", f"{score.signed_median:+.2f}"


def _short(row: RowScore) -> str:
    return f"{row.key.gpu} {row.key.backend} {row.key.dtype} {row.key.setting} `{row.key.kernel}`"


def _settings(rows: Iterable[RowScore]) -> dict[tuple[str, str], list[RowScore]]:
    groups: dict[tuple[str, str], list[RowScore]] = {}
    for row in rows:
        if row.predictors and row.described:
            groups.setdefault((row.key.operator, row.key.setting), []).append(row)
    return groups


def band_table(rows: Sequence[RowScore]) -> str:
    """Coverage of the 80 % bands of T and of NFP by operator and setting, where the rule describes the kernel timed."""
    lines = []
    fitted = (row for row in rows if row.key.constants == "fitted" and row.described)
    for (operator, setting), some in _settings(fitted).items():
        shares = [row.coverage for row in some if row.coverage is not None]
        bounds = [
            bound.band for row in some if (bound := main_boundary(row.ours.boundaries)) and bound.band is not None
        ]
        lines.append((f"{operator} {setting}", str(len(shares)), *_covered(shares), *_covered(bounds)))
    head = ("median coverage of T", "p10 to p90", "rows within 75 to 85 %", "of NFP", "p10 to p90", "rows within")
    return table(("", "rows", *head), lines)


def _covered(shares: Sequence[float]) -> tuple[str, str, str]:
    if not shares:
        return ("-", "-", "-")
    inside = sum(0.75 <= share <= 0.85 for share in shares)
    low, middle, high = (percent(float(np.quantile(shares, q)), 0) for q in (0.1, 0.5, 0.9))
    return (middle, f"{low} to {high}", f"{inside} of {len(shares)}")


def predictor_table(rows: Sequence[RowScore]) -> str:
    lines = []
    titles = {
        "fitted": "this model",
        "sibling": "this model, constants of a sibling GPU",
        "uncalibrated": "this model, uncalibrated",
    }
    for constants, title in titles.items():
        names = PREDICTORS if constants == "fitted" else {OURS: title}
        for (operator, setting), some in _settings(row for row in rows if row.key.constants == constants).items():
            for name, words in names.items():
                there = [row.predictors[name] for row in some if name in row.predictors]
                if there:
                    lines.append(
                        (
                            f"{operator} {setting}",
                            words,
                            str(len(there)),
                            *_middles([(p.mape, p.boundaries) for p in there]),
                        )
                    )
    lines.sort(key=lambda line: line[0])
    head = ("", "predictor", "rows", "MAPE, median row", "NFP error, median row, eps 0.2", "eps 0.1")
    return table(head, lines)


def _middles(found: Sequence[tuple[float | None, Mapping[str, BoundaryScore]]]) -> tuple[str, str, str]:
    errors = [mape for mape, _ in found if mape is not None]
    cells = [percent(float(np.median(errors))) if errors else "-"]
    for tolerance in (SHOWN, "0.1"):
        scores = [score for _, boundaries in found if (score := main_boundary(boundaries, tolerance))]
        middle = (
            [float(np.median([getattr(score, name) for score in scores])) for name in ("median", "p90")]
            if scores
            else []
        )
        cells.append(f"{middle[0]:.2f}/{middle[1]:.2f}" if middle else "-")
    return cells[0], cells[1], cells[2]


def reference_words() -> str:
    return (
        "\n".join(f"- **{PREDICTORS[name]}**: {words.split(': ', 1)[-1]}." for name, words in REFERENCES.items()) + "\n"
    )


def token_table(rows: Sequence[RowScore]) -> str:
    ranges = list(dict.fromkeys(name for row in rows for name in row.by_tokens))
    ranges.sort(key=lambda name: int(name.split("-")[0]))
    lines = []
    for (operator, setting), some in _settings(rows).items():
        cells = []
        for name in ranges:
            there = [row.by_tokens[name] for row in some if name in row.by_tokens]
            pair = np.median(np.array(there), axis=0) if there else None
            cells.append("-" if pair is None else f"{100 * pair[0]:.1f} ({100 * pair[1]:+.1f})")
        lines.append((f"{operator} {setting}", *cells))
    words = "Median over rows of the median |predicted / measured - 1| of their points in %, in brackets signed, by tokens.\n\n"
    return words + table(("tokens", *ranges), lines)


def over_table(rows: Sequence[RowScore]) -> str:
    lines = []
    for (operator, setting), some in _settings(row for row in rows if row.over_prediction).items():
        chosen = [row for row in some if row.key.constants == "fitted"] or some
        for label in dict.fromkeys(name for row in chosen for name in row.over_prediction):
            idle = [row.over_prediction[label] for row in chosen if label in row.over_prediction]
            own = [row.own_over_prediction[label] for row in chosen if label in row.own_over_prediction]
            total = sum(one.curves for one in idle)
            shares = [sum(getattr(one, name) * one.curves for one in idle) / total for name in ("from_2_4", "from_23")]
            middle = np.median(np.array([one.quantiles for one in idle]), axis=0)
            ours = np.median(np.array([one.quantiles for one in own]), axis=0)
            tolerance, baseline = label.split("|")
            ratios = [
                f"{middle[3]:.1f} ({middle[1]:.1f} to {middle[5]:.1f})",
                f"{ours[3]:.2f} ({ours[1]:.2f} to {ours[5]:.2f})",
            ]
            left = sum(one.left_out for one in idle)
            lines.append(
                (
                    f"{operator} {setting}",
                    tolerance,
                    baseline,
                    str(total),
                    str(left),
                    *ratios,
                    percent(shares[0], 0),
                    percent(shares[1], 0),
                )
            )
    head = (
        "",
        "tolerance",
        "baseline",
        "curves",
        "left out",
        "idle / measured: median (p10 to p90)",
        "ours / measured",
        "idle from 2.4x",
        "from 23x",
    )
    return table(head, lines)


def exclusion_table(report: ScoreReport) -> str:
    groups: dict[tuple[str, str, str], list[tuple[int, int, str]]] = {}
    for one in report.exclusions:
        groups.setdefault((one.operator, one.name, one.reason), []).append(
            (one.rows, one.curves, f"{one.gpu} {one.backend}")
        )
    lines = []
    for (operator, name, reason), some in sorted(groups.items()):
        rows, curves = sum(one[0] for one in some), sum(one[1] for one in some)
        where = some[0][2] if len(some) == 1 else f"{len(some)} tables"
        lines.append((operator, f"`{name}`", reason, str(rows), str(curves), where))
    return table(("operator", "name", "reason", "rows", "curves", "where"), lines)
