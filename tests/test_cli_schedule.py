"""``nfp schedule``: what the library says, exports alone or with their table, files whole, errors in one line."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nfp_model.exporters import export_table, parse_diffusion, parse_sglang, parse_tensorrt_llm, parse_vllm
from nfp_model.scheduling import block_costs, schedule

QWEN = ("schedule", "h100", "qwen3-30b-a3b", "--acceptance", "0.7")
SMALL = ("--batch-sizes", "1,8,64", "--context", "4096")


def nfp(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nfp_model", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def test_done_when_vllm_reads_the_flag_value() -> None:
    """The line of the issue: without --context the export holds for 4096 tokens, and says so."""
    done = nfp(*QWEN, "--backend", "vllm", "--export", "vllm")
    assert done.returncode == 0, done.stderr
    table = schedule("h100", "qwen3-30b-a3b", acceptance=0.7, backend="vllm")
    assert done.stdout.startswith(str(table))
    assert "# context 4096 tokens per sequence" in done.stdout
    words = shlex.split(done.stdout.splitlines()[-1])
    assert (words[0], words[2:]) == ("--speculative-config", ["--max-num-seqs", "256"])
    assert parse_vllm(words[1], 256).dense() == table.draft_schedule(4096).dense()
    assert "no K > 0 is near-free from one position" in done.stdout


def test_quiet_prints_what_the_engine_parses_and_nothing_else() -> None:
    table = schedule("h100", "qwen3-30b-a3b", acceptance=0.7, batch_sizes=(1, 8, 64), context_lengths=(4096,))
    vllm = nfp(*QWEN, *SMALL, "--export", "vllm", "--quiet").stdout
    assert vllm.count("\n") == 1
    assert parse_vllm(vllm, 64).dense() == table.draft_schedule().dense()
    sglang = nfp(*QWEN, *SMALL, "--export", "sglang", "--quiet").stdout
    assert sglang.strip() == export_table(table, "sglang").text
    parse_sglang(sglang, 64)
    held = table.draft_schedule(first_drafts_most=True).dense()
    for dialect in ("upper", "lower"):
        text = nfp(*QWEN, *SMALL, "--export", "trtllm", "--dialect", dialect, "--quiet").stdout
        assert parse_tensorrt_llm(text, 64, dialect).dense() == held  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("engine", "flag"),
    [
        ("llama.cpp", "--spec-draft-n-max"),
        ("mlx-lm", "--num-draft-tokens"),
        ("lmdeploy", "--speculative-num-draft-tokens"),
    ],
)
def test_engines_of_one_draft_length(engine: str, flag: str) -> None:
    table = schedule("h100", "qwen3-30b-a3b", acceptance=0.7, batch_sizes=(1,), context_lengths=(4096,))
    words = nfp(*QWEN, "-b", "1", "-c", "4096", "--export", engine, "-q").stdout.split()
    assert words[words.index(flag) + 1] == str(table.cells[0].chosen.drafts)


def test_json_holds_the_table_and_the_export() -> None:
    done = nfp(
        *QWEN, *SMALL, "--draft", "fixed:0.1", "--rule", "near_free", "--tolerance", "0.5", "--export", "vllm", "--json"
    )
    data = json.loads(done.stdout)
    export = data.pop("export")
    from nfp_model.acceptance import DraftCost

    table = schedule(
        "h100", "qwen3-30b-a3b", acceptance=0.7, batch_sizes=(1, 8, 64), context_lengths=(4096,),
        draft=DraftCost(fixed=0.1), rule="near_free", tolerance=0.5,
    )  # fmt: skip
    assert data == json.loads(json.dumps(table.to_dict()))
    assert parse_vllm(export["text"], 64).dense() == table.draft_schedule().dense()
    assert export["engine"] == "vLLM"


def test_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "adaptive.json"
    done = nfp(*QWEN, *SMALL, "--export", "sglang", "--out", str(target))
    assert f"--speculative-adaptive-config {target}" in done.stdout
    assert f"wrote {target}" in done.stdout
    before = target.read_text()
    assert parse_sglang(before, 64).max_batch_size == 64
    refused = nfp(*QWEN, *SMALL, "--export", "sglang", "--engine-method", "DFLASH", "--out", str(target))
    assert refused.returncode == 2
    assert target.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    quiet = nfp(*QWEN, *SMALL, "--export", "sglang", "--out", str(target), "--quiet")
    assert (quiet.returncode, quiet.stdout) == (0, "")


def test_diffusion_blocks_and_their_export() -> None:
    done = nfp("schedule", "h200", "llada2.0-mini", "--diffusion", "--tpf", "published", "--export", "sglang")
    costs = block_costs("h200", "llada2.0-mini", tokens_per_forward="published")
    assert done.stdout.startswith(str(costs))
    text = nfp(
        "schedule", "h200", "llada2.0-mini", "--diffusion", "--tpf", "16:2.44,32:2.55", "--export", "sglang", "-q"
    ).stdout
    assert costs.decision.best is not None
    assert parse_diffusion("sglang", text) == costs.decision.best.block


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--acceptance", "1.2"), "acceptance must lie in [0, 1], got 1.2"),
        ((), "a schedule needs --acceptance"),
        (("-a", "0.7", "-b", ""), "the grid of batch sizes is empty"),
        (("-a", "0.7", "-b", "1,x"), "--batch-sizes takes whole numbers such as 1,2,4, got '1,x'"),
        (("-a", "0.7", "--rule", "free"), "unknown rule 'free'"),
        (("-a", "0.7", "--draft", "-1"), "draft cost per_step must be a finite number of at least 0, got -1.0"),
        (("-a", "0.7", *SMALL, "--export", "vlm"), "unknown engine 'vlm'; did you mean 'vllm'"),
        (("-a", "0.7", *SMALL, "--export", "trtllm"), "TensorRT-LLM needs a dialect: 'upper'"),
        (("-a", "0.7", "-c", "1024,4096", "--export", "vllm"), "name one of the contexts [1024, 4096]"),
        (("-a", "0.7", "--dialect", "upper"), "nothing is exported without --export, got --dialect upper"),
        (("-a", "0.7", "--diffusion"), "--diffusion has no drafts, got --acceptance 0.7"),
        (("--diffusion", "--tpf", "16"), "--tpf takes block:tokens pairs such as 16:2.44,32:2.55, got '16'"),
        (("--diffusion", "--export", "vllm"), "no block to export: none is near-free and no tokens per forward"),
        (("-a", "0.7", *SMALL, "--out", "/nowhere/table.txt"), "/nowhere/table.txt: cannot be written"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    done = nfp("schedule", "h100", "qwen3-30b-a3b", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nfp: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
