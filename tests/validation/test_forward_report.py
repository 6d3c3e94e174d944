"""The page on somebody's own timings, from folders that hold only part of what ours holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nfp_model.boundary import saturated_baseline
from nfp_model.specs.registry import load_hardware
from nfp_model.validation.forward_report import own_markdown, write_own_docs
from nfp_model.validation.forwards import agreement, forward_settings, module_settings
from nfp_model.validation.granularity import granularity_scores

DATA = Path(__file__).parents[2] / "validation" / "data" / "h100"
OURS_ALONE = (
    "LLaDA-8B runs",
    "Apache-2.0",
    "20 layers",
    "validation/data",
    "our own timings",
    "first of these forwards",
)

Row = dict[str, str]


def cut(folder: Path, name: str, keep: Callable[[Row], bool], **header: str) -> Path:
    """Some rows of one of our files, its header lines changed."""
    columns: list[str] = []
    kept = []
    for line in (DATA / f"{name}.csv").read_text(encoding="utf-8").splitlines():
        key = line[2:].partition(": ")[0]
        if line.startswith("#"):
            kept.append(f"# {key}: {header[key]}" if key in header else line)
        elif not columns:
            columns = line.split(",")
            kept.append(line)
        elif keep(dict(zip(columns, line.split(","), strict=True))):
            kept.append(line)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.csv").write_text("\n".join(kept) + "\n", encoding="utf-8")
    return folder


def page(folder: Path, out: Path) -> str:
    written = write_own_docs(folder, out, "nfp score mine --out out")
    assert all(path.stat().st_size for path in written)
    text = written[0].read_text(encoding="utf-8")
    assert "nan" not in text
    return text


def forward(model: str, *batches: str) -> Callable[[Row], bool]:
    return lambda row: row["model"] == model and row["batch"] in batches and row["context"] == "1024"


def test_only_forwards_of_experts(tmp_path: Path) -> None:
    mine = cut(tmp_path / "mine", "forward", forward("qwen3_30b_a3b", "1"))
    cut(mine, "moe", lambda row: row["shape"] == "qwen3_30b_a3b")
    text = page(mine, tmp_path)
    assert "of them MoE | 1 |" in text
    assert "of them dense" not in text
    assert "Asked for: NFP" in text
    assert "latency rises so slowly" not in text
    assert "| MoE FFN | 1 |" in text


def test_no_dense_forward_of_one_sequence(tmp_path: Path) -> None:
    mine = cut(tmp_path / "mine", "forward", forward("llama_3_1_8b", "8"))
    text = page(mine, tmp_path)
    assert "of them dense | 1 |" in text
    assert "latency rises so slowly" not in text
    assert "### Modules" not in text  # no file of operators in the folder
    assert "### Granularity" not in text


def test_no_boundary_reached(tmp_path: Path) -> None:
    small = forward("llama_3_1_8b", "1")
    mine = cut(tmp_path / "mine", "forward", lambda row: small(row) and int(row["positions"]) <= 4)
    found = agreement(forward_settings(mine / "forward.csv"))
    assert (found.settings, found.boundaries, found.covered) == (1, 0, None)
    text = page(mine, tmp_path)
    assert "| whole forwards | 1 | none |" in text
    assert "no boundary was reached" in text
    assert "| none reached |" in text


def test_a_gpu_without_calibration(tmp_path: Path) -> None:
    mine = cut(
        tmp_path / "mine", "forward", forward("llama_3_1_8b", "1"), hardware="a100_sxm_80gb", device="Another GPU"
    )
    text = page(mine, tmp_path)
    assert "Another GPU" in text
    assert f"There is no calibration `{load_hardware('a100_sxm_80gb').name}.torch`" in text
    assert "### Operators" not in text
    assert "latency rises so slowly" in text


@pytest.mark.parametrize("folder", ["mine", "h100"])
def test_what_is_true_of_our_run_alone_is_on_no_other_page(tmp_path: Path, folder: str) -> None:
    mine = cut(tmp_path / folder, "forward", forward("llama_3_1_8b", "1"))
    text = page(mine, tmp_path)
    assert not [words for words in OURS_ALONE if words in text]
    assert f"are in\n`{folder}`" in text
    assert "No whole forward was fitted" in text
    assert "in\nup to five groups, each left out in turn" in text


def test_our_page_says_it() -> None:
    # Few settings: the prose does not depend on them.
    text = own_markdown(DATA, forward_settings(DATA / "forward.csv")[:1], module_settings(DATA)[:1], "nfp score")
    assert [words for words in OURS_ALONE if words in text] == list(OURS_ALONE)
    assert "in up to five groups, each left out in turn" in text
    assert "which for plain attention no public table times" in text


def test_experts_timed_only_below_saturation(tmp_path: Path) -> None:
    last = saturated_baseline(128, 8, 1)
    mine = cut(tmp_path, "moe", lambda row: row["shape"] == "qwen3_30b_a3b" and int(row["tokens"]) < last)
    assert all(list(one.idle) == [1] for one in module_settings(mine))


def test_granularity_of_a_folder_that_cannot_tell(tmp_path: Path) -> None:
    assert granularity_scores(tmp_path / "moe.csv") == ({}, [])
    mine = cut(tmp_path, "moe", lambda row: row["block_rows"] in ("0", "16"))
    assert {one.block_rows for one in granularity_scores(mine / "moe.csv")[1]} <= {16}
