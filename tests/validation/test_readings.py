"""Notes on the worst curves: which curve a note speaks of, what the pages make of them, and the notes this project ships."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nfp_model.errors import SpecError
from nfp_model.uncertainty import Spread
from nfp_model.validation.goals import judged
from nfp_model.validation.readings import CAUSES, UNREAD, Reading, load_readings, reading_of
from nfp_model.validation.report_worst import COLUMNS, worst_curves, worst_page, worst_table
from nfp_model.validation.score_records import CurveCase, RowKey, RowScore
from nfp_model.validation.score_rows import row_score

DOCS = Path(__file__).resolve().parents[2] / "docs"
NOTES = DOCS / "validation" / "readings"
ROW = RowKey("gemm", "h100_sxm5", "vllm", "bfloat16")
THIN = Reading(
    title="thin products", cause="kernel switch", gpus=("h?00*",), curves=("gemm|256|*",), why="falls at 9 rows"
)
SHORT = Reading(title="short products", cause="data fault", curves=("gemm|*",), why="two speeds")


def a_row() -> RowScore:
    measured = np.array([10.0, 10.0, 20.0])
    curve = CurveCase(
        name="gemm|256|51200",
        tokens=np.array([1, 16, 64]),
        measured=measured,
        predicted=1.1 * measured,
        spread=Spread.of(np.full(3, 0.1)),
        memory=np.full(3, 8.0),
        matrix=np.ones(3),
        baselines={"1": 1, "16": 16},
        stream={"1": 8.0, "16": 8.0},
    )
    return row_score(ROW, [curve])


def test_the_first_note_that_matches_every_key_is_the_reading() -> None:
    assert reading_of((THIN, SHORT), "GEMM bf16", ROW, "gemm|256|51200") is THIN
    assert reading_of((THIN, SHORT), "GEMM bf16", ROW, "gemm|512|51200") is SHORT
    elsewhere = RowKey("gemm", "b200_sxm", "vllm", "bfloat16")
    assert reading_of((THIN,), "GEMM bf16", elsewhere, "gemm|256|51200") is None


def test_a_note_with_an_unknown_cause_or_key_is_refused_by_file_and_key(tmp_path: Path) -> None:
    note = '[[reading]]\ntitle = "a"\ncurves = ["*"]\nwhy = "b"\n'
    (tmp_path / "one.toml").write_text(note + 'cause = "bad luck"\n', encoding="utf-8")
    with pytest.raises(SpecError, match=r"one\.toml.*reading\.0\.cause"):
        load_readings(tmp_path)
    (tmp_path / "one.toml").write_text(note + 'cause = "data fault"\ncurve = ["*"]\n', encoding="utf-8")
    with pytest.raises(SpecError, match="did you mean 'curves'"):
        load_readings(tmp_path)
    assert load_readings(tmp_path / "nowhere") == ()


def test_pages_count_curves_by_what_was_read_in_them() -> None:
    (worst,) = worst_curves(judged([a_row()]), (THIN,))
    assert (worst.cause, worst.reading) == ("kernel switch", THIN)
    (unread,) = worst_curves(judged([a_row()]), ())
    assert unread.cause == UNREAD
    assert "| GEMM bf16, Hopper and Blackwell | 1 | 1 | 0 | 0 | 0 | 0 | 0 |" in worst_table([worst])
    page = worst_page([worst], (THIN, SHORT), "nfp score")
    assert "## Kernel switch (1 curve)" in page
    assert "**thin products** (1 curve, MAPE 10.0 %; h100_sxm5 vllm). falls at 9 rows" in page
    assert page.index("no longer among the worst") < page.index("- short products")


def test_the_shipped_list_is_what_the_shipped_notes_say_of_it() -> None:
    notes = load_readings(NOTES)
    with open(DOCS / "validation" / "worst.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    for row in rows:
        key = RowKey("", row["gpu"], row["backend"], row["dtype"], row["setting"])
        found = reading_of(notes, row["goal"], key, row["curve"])
        assert (row["cause"], row["reading"]) == ((found.cause, found.title) if found else (UNREAD, "")), row
    titles = Counter(note.title for note in notes)
    assert [title for title, count in titles.items() if count > 1] == []
    assert set(CAUSES) >= {note.cause for note in notes}
