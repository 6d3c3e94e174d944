"""A score in words: the table the command prints, its JSON, and the page of the documentation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from nfp_model.validation.fit_tables import SAMPLE
from nfp_model.validation.goals import judged
from nfp_model.validation.readings import FOLDER, Reading, load_readings
from nfp_model.validation.report_tables import (
    band_table,
    exclusion_table,
    goal_rows,
    goal_table,
    main_boundary,
    outcome,
    over_table,
    percent,
    predictor_table,
    reference_words,
    spread,
    token_table,
)
from nfp_model.validation.report_text import EXCLUSIONS, HEAD, KNOWN_FAULTS, METHOD, OWN, PAPER
from nfp_model.validation.report_worst import worst_curves, worst_page, worst_table, write_worst
from nfp_model.validation.score_records import ScoreReport


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
    """All rows, one on a line, and the goals, as JSON."""
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
    whole = {**report.to_dict(), "goals": goals}
    lines = [f"{json.dumps(name)}: {_listed(value)}" for name, value in whole.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _listed(value: object) -> str:
    """JSON of a value, the items of a list one on a line."""
    if not isinstance(value, list) or not value:
        return json.dumps(value)
    return "[\n" + ",\n".join(json.dumps(item, separators=(",", ":")) for item in value) + "\n]"


def write_docs(report: ScoreReport, folder: Path) -> tuple[Path, ...]:
    """``validation.md``, ``validation_worst.md``, ``validation/scores.json``, ``validation/worst.csv`` and the pictures of a report.

    The notes in ``validation/readings`` of the folder, where there are some, are joined to the worst curves.

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
    readings = load_readings(inside / FOLDER)
    worst = worst_curves(judged(report.rows), readings)
    inside.mkdir(parents=True, exist_ok=True)
    pictures = write_plots(report, inside)
    write_json(report, inside / "scores.json")
    write_worst(worst, inside / "worst.csv")
    pages = {
        "validation.md": markdown(report, pictures, readings),
        "validation_worst.md": worst_page(worst, readings, report.command),
    }
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    return (*(folder / name for name in pages), inside / "scores.json", inside / "worst.csv", *pictures)


def markdown(report: ScoreReport, pictures: Sequence[Path] = (), readings: Sequence[Reading] = ()) -> str:
    """The page: goals beside what is reached, every row, the other predictors, residuals, exclusions, the paper's claim."""
    results = judged(report.rows)
    fitted = [row for row in report.rows if row.key.constants == "fitted" and row.predictors]
    main = fitted or [row for row in report.rows if row.predictors]
    curves, points = (sum(getattr(row, name) for row in main) for name in ("curves", "points"))
    head = HEAD.format(
        command=report.command, source=report.source, date=report.date, half=report.half, curves=curves, points=points,
        seconds=report.seconds, quick=" Only a few curves of every row were scored (`--quick`)." if report.quick else "",
    )  # fmt: skip
    parts = [
        head,
        METHOD.format(most=SAMPLE["test"]),
        "## Goals and what is reached\n",
        goal_table(results),
        "\n".join(text for result in results if (text := goal_rows(result))),
    ]
    parts += ["## The 80 % band\n", band_table(report.rows)]
    parts += ["## Beside other predictors\n", predictor_table(report.rows), reference_words()]
    parts += ["## Where the residual sits\n", token_table(main), worst_table(worst_curves(results, readings))]
    parts += ["## The paper's claim\n", PAPER, over_table(report.rows)]
    parts += ["## Whole forwards and attention with many positions, timed by us\n", OWN]
    parts += ["## Excluded\n", EXCLUSIONS, exclusion_table(report), KNOWN_FAULTS]
    parts += [
        "## Pictures\n",
        *[f"![{picture.stem.replace('_', ' ')}](validation/{picture.name})\n" for picture in pictures],
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts if part)


__all__ = ["markdown", "text_table", "write_docs", "write_json"]
