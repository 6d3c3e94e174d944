"""A score in words: the table the command prints, its JSON, and the page of the documentation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from nfp_model.validation.goals import GoalResult, Verdict, judged
from nfp_model.validation.references import REFERENCES
from nfp_model.validation.report_text import EXCLUSIONS, HEAD, KNOWN_FAULTS, METHOD, PAPER
from nfp_model.validation.score_records import OURS, REPEAT, BoundaryScore, RowScore, ScoreReport

SHOWN = "0.2"
"""eps of the boundaries the tables show [-]."""

PREDICTORS = {OURS: "this model", **{name: name.replace("_", " ") for name in REFERENCES}, REPEAT: "second recording"}


def text_table(report: ScoreReport) -> str:
    """Every row on a line, then the goals: what the command prints."""
    head = f"{'operator':17}{'gpu':23}{'backend':8}{'dtype':10}{'setting':14}{'constants':13}{'curves':>7}{'MAPE':>8}{'shape':>8}"
    lines = [head + f"{'NFP error':>13}{'idle':>13}{'band':>6}  kernel"]
    for row in report.rows:
        key = row.key
        labels = f"{key.operator:17}{key.gpu:23}{key.backend:8}{key.dtype:10}{key.setting:14}{key.constants:13}"
        if not row.predictors:
            lines.append(
                f"{labels}{0:>7}  refused: {', '.join(f'{count} {why}' for why, count in row.refused.items())}"
            )
            continue
        idle = row.predictors.get("idle_compute")
        cells = (percent(row.ours.mape), percent(row.ours.shape_mape))
        errors = (spread(main_boundary(row.ours.boundaries)), spread(main_boundary(idle.boundaries)) if idle else "-")
        kernel = key.kernel + ("" if row.described else " (not the kernel of the rule)")
        lines.append(
            f"{labels}{row.curves:>7}{cells[0]:>8}{cells[1]:>8}{errors[0]:>13}{errors[1]:>13}{percent(row.coverage, 0):>6}  {kernel}"
        )
    lines += [
        "",
        "NFP error: median/p90 of |log2(predicted / measured)| at tolerance 0.2; idle: the same of idle compute",
        "",
    ]
    lines += [f"{outcome(result):40} {result.goal.title}" for result in judged(report.rows) if result.verdicts]
    return "\n".join(lines)


def write_json(report: ScoreReport, path: Path) -> None:
    """All rows, and the goals, as JSON."""
    goals = [
        {
            "goal": result.goal.title,
            "mape": result.goal.mape,
            "boundaries": result.goal.boundaries,
            "rows": len(result.verdicts),
            "met": result.met,
            "missed": [str(verdict.row.key) for verdict in result.verdicts if not verdict.met],
            "other_kernels": [str(row.key) for row in result.other_kernels],
        }
        for result in judged(report.rows)
    ]
    path.write_text(json.dumps({**report.to_dict(), "goals": goals}, indent=1) + "\n", encoding="utf-8")


def write_docs(report: ScoreReport, folder: Path) -> tuple[Path, ...]:
    """``validation.md``, ``validation/scores.json`` and the pictures of a report.

    Parameters
    ----------
    report : ScoreReport
        A whole score.
    folder : Path
        The documentation's folder.

    Returns
    -------
    tuple of Path
        What was written.
    """
    from nfp_model.validation.score_plots import write_plots

    inside = folder / "validation"
    inside.mkdir(parents=True, exist_ok=True)
    pictures = write_plots(report, inside)
    write_json(report, inside / "scores.json")
    page = folder / "validation.md"
    page.write_text(markdown(report, pictures), encoding="utf-8")
    return (page, inside / "scores.json", *pictures)


def markdown(report: ScoreReport, pictures: Sequence[Path] = ()) -> str:
    """The page: goals beside what is reached, every row, the other predictors, residuals, exclusions, the paper's claim."""
    results = judged(report.rows)
    fitted = [row for row in report.rows if row.key.constants == "fitted" and row.predictors]
    main = fitted or [row for row in report.rows if row.predictors]
    curves, points = (sum(getattr(row, name) for row in main) for name in ("curves", "points"))
    head = HEAD.format(
        command=report.command, source=report.source, date=report.date, half=report.half, curves=curves, points=points,
        seconds=report.seconds, quick=" Only a few curves of every row were scored (`--quick`)." if report.quick else "",
    )  # fmt: skip
    parts = [head, METHOD, "## Goals and what is reached\n", _goal_table(results), "\n".join(map(_goal_rows, results))]
    parts += ["## Beside other predictors\n", _predictor_table(report.rows), _reference_words()]
    parts += ["## Where the residual sits\n", _token_table(main), _worst_table(results)]
    parts += ["## The paper's claim\n", PAPER, _over_table(report.rows)]
    parts += ["## Excluded\n", EXCLUSIONS, _exclusion_table(report), KNOWN_FAULTS]
    parts += [
        "## Pictures\n",
        *[f"![{picture.stem.replace('_', ' ')}](validation/{picture.name})\n" for picture in pictures],
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts if part)


def percent(value: float | None, digits: int = 1) -> str:
    """A share in per cent, ``-`` where there is none."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:.{digits}f} %"


def spread(score: BoundaryScore | None) -> str:
    """Median and 90th percentile of a boundary error."""
    return "-" if score is None else f"{score.median:.2f}/{score.p90:.2f}"


def main_boundary(boundaries: object, tolerance: str = SHOWN) -> BoundaryScore | None:
    """The boundary score the goals are about: baseline 16 or saturated where there is one, else 1."""
    assert hasattr(boundaries, "get")
    for baseline in ("16", "saturated", "1"):
        found: BoundaryScore | None = boundaries.get(f"{tolerance}|{baseline}")
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


def _goal_table(results: Sequence[GoalResult]) -> str:
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


def _goal_rows(result: GoalResult) -> str:
    if not result.verdicts and not result.other_kernels:
        return ""
    baselines = list(result.goal.boundaries)
    head = ["GPU", "backend", "data type", "setting", "curves", "MAPE", "goal", "shape MAPE"]
    for name in baselines:
        head += [f"NFP error from {name}", "goal", "within 25 % / 2x", "signed"]
    head += ["eps 0.1", "band", "repeat noise", ""]
    lines = [_verdict_line(verdict, baselines) for verdict in result.verdicts]
    text = f"### {result.goal.title}\n\n" + table(head, lines)
    if result.other_kernels:
        named = "; ".join(sorted({_short(row) for row in result.other_kernels}))
        text += f"\nNot judged, because the kernel timed is not the one the rule describes or its tiles are unknown: {named}.\n"
    return text


def _verdict_line(verdict: Verdict, baselines: Sequence[str]) -> list[str]:
    row, key = verdict.row, verdict.row.key
    labels = [key.gpu, key.backend, key.dtype, key.setting]
    if not row.predictors:
        why = "; ".join(f"{count} curves refused: {reason}" for reason, count in row.refused.items())
        return [*labels, "0", *["-"] * (6 + 4 * len(baselines)), f"missed ({why})"]
    cells = [*labels, str(row.curves), percent(row.ours.mape), percent(verdict.mape_goal), percent(row.ours.shape_mape)]
    for name in baselines:
        score = row.ours.boundaries.get(f"{SHOWN}|{name}")
        goal = "{:.2f}/{:.2f}".format(*verdict.boundary_goals[name])
        cells += [spread(score), goal, *(_shares(score))]
    noise = row.predictors.get(REPEAT)
    repeated = "-" if noise is None else f"{percent(noise.mape)}; {spread(main_boundary(noise.boundaries))}"
    cells += [spread(main_boundary(row.ours.boundaries, "0.1")), percent(row.coverage, 0), repeated]
    parts = [word for word, met in (("MAPE", verdict.mape_met), ("boundary", verdict.boundary_met)) if not met]
    refused = f" ({sum(row.refused.values())} refused)" if row.refused else ""
    return [
        *cells,
        ("met" if not parts else "missed " + " and ".join(parts)) + refused + (" (noise)" if verdict.by_noise else ""),
    ]


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


def _predictor_table(rows: Sequence[RowScore]) -> str:
    lines = []
    for constants, title in (("fitted", "this model"), ("uncalibrated", "this model, uncalibrated")):
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


def _middles(found: Sequence[tuple[float | None, object]]) -> tuple[str, str, str]:
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


def _reference_words() -> str:
    return (
        "\n".join(f"- **{PREDICTORS[name]}**: {words.split(': ', 1)[-1]}." for name, words in REFERENCES.items()) + "\n"
    )


def _token_table(rows: Sequence[RowScore]) -> str:
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


def _worst_table(results: Sequence[GoalResult]) -> str:
    lines = []
    for result in results:
        worst = sorted(
            ((error, f"{v.row.key.gpu} {v.row.key.backend} {v.row.key.dtype}", name) for v in result.verdicts for name, error in v.row.worst),
            reverse=True,
        )  # fmt: skip
        lines += [
            (result.goal.title, where, f"`{name.replace('|', ' ')}`", percent(error))
            for error, where, name in worst[:3]
        ]
    words = "The three worst curves of every goal; the worst 5 % of every row are in `validation/scores.json`.\n\n"
    return words + table(("goal", "where", "curve", "MAPE"), lines)


def _over_table(rows: Sequence[RowScore]) -> str:
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


def _exclusion_table(report: ScoreReport) -> str:
    groups: dict[tuple[str, str, str], list[tuple[int, int, str]]] = {}
    for one in report.exclusions:
        groups.setdefault((one.operator, one.name, one.reason), []).append(
            (one.rows, one.curves, f"{one.gpu} {one.backend}")
        )
    lines = []
    for (operator, name, reason), some in sorted(groups.items()):
        rows, curves = (sum(one[place] for one in some) for place in (0, 1))
        where = some[0][2] if len(some) == 1 else f"{len(some)} tables"
        lines.append((operator, f"`{name}`", reason, str(rows), str(curves), where))
    return table(("operator", "name", "reason", "rows", "curves", "where"), lines)


__all__ = ["main_boundary", "markdown", "outcome", "percent", "spread", "text_table", "write_docs", "write_json"]
