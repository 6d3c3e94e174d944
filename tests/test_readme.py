"""The front page says what the code prints and what the scores say."""

from __future__ import annotations

from pathlib import Path

import pytest

from nfp_model import predict_nfp

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_panel_is_what_the_command_prints_today() -> None:
    shown = README.split("```text\n", 1)[1].split("```", 1)[0].strip()
    assert shown == str(predict_nfp("h100", "mixtral")).strip()


def test_headline_rows_stand_in_the_validation_page() -> None:
    pages = [
        (ROOT / name).read_text(encoding="utf-8").splitlines()
        for name in ("docs/validation.md", "docs/validation/own.md")
    ]
    rows = [line for line in README.splitlines() if line.startswith("| ") and "predictor" not in line]
    assert len(rows) == 16 + 9
    for row in rows:
        assert row in pages[0] or row in pages[1]


@pytest.mark.parametrize("path", ["docs/validation.md", "docs/how-to/measure.md", "examples"])
def test_linked_files_exist(path: str) -> None:
    assert path in README
    assert (ROOT / path).exists()
