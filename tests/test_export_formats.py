"""Cost tables, schedules, headers, YAML and files: what every export is made of."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from nfp_model.acceptance import ConstantAcceptance
from nfp_model.errors import InvalidArgumentError, UnsupportedError
from nfp_model.exporters import (
    ENGINES,
    DraftRange,
    DraftSchedule,
    Export,
    ExportFacts,
    align_to_captured,
    export_additive_costs,
    export_mlx_lm,
    export_schedule,
    export_sglang,
    export_step_costs,
    export_tensorrt_llm,
    export_vllm,
    parse_costs,
    parse_diffusion,
    parse_draft_flag,
    parse_sglang,
    parse_vllm,
    write_whole,
)
from nfp_model.exporters.sglang_costs import SpsAdditiveCostTable, SpsCostTable
from nfp_model.exporters.yaml import read_yaml, yaml_text

THREE_TIERS = DraftSchedule.from_tiers([16, 64, 512], [5, 3, 0])
FACTS = ExportFacts("h100", "qwen3-30b-a3b", "vllm", 4096, ConstantAcceptance(0.7).description, 0.1, "near_free")

batches = st.lists(st.integers(0, 8), min_size=1, max_size=90)


# --- cost tables --------------------------------------------------------------------------------------------------------

probes = st.lists(st.integers(1, 4096), min_size=2, max_size=12, unique=True).map(sorted)
seconds = st.floats(1e-5, 1.0)


@given(
    probes.flatmap(lambda p: st.tuples(st.just(p), st.lists(seconds, min_size=len(p), max_size=len(p)))),
    st.integers(1, 5000),
)
def test_step_costs_read_back_as_a_floor(case: tuple[list[int], list[float]], tokens: int) -> None:
    counts, times = case
    table = parse_costs(export_step_costs(counts, times, 5000, FACTS).document)
    assert isinstance(table, SpsCostTable)
    below = [time for count, time in zip(counts, times, strict=True) if count <= tokens]
    assert table.steps_per_second(tokens) == pytest.approx(1 / (below[-1] if below else times[0]))


@given(probes, probes, seconds, st.integers(1, 5000), st.integers(1, 5000))
def test_additive_costs_interpolate_and_clamp(
    requests: list[int], tokens: list[int], bias: float, batch: int, rows: int
) -> None:
    alpha = [1e-6 * count for count in requests]
    theta = [2e-6 * count for count in tokens]
    table = parse_costs(export_additive_costs(bias, requests, alpha, tokens, theta).text)
    assert isinstance(table, SpsAdditiveCostTable)
    inside = (np.clip(batch, requests[0], requests[-1]), np.clip(rows, tokens[0], tokens[-1]))
    assert table.seconds(batch, rows) == pytest.approx(bias + 1e-6 * inside[0] + 2e-6 * inside[1])


# --- schedules, headers, YAML, files ------------------------------------------------------------------------------------


@given(batches)
def test_schedule_keeps_every_batch(drafts: list[int]) -> None:
    schedule = DraftSchedule.from_batches(drafts)
    assert schedule.dense() == drafts
    assert [schedule.drafts_at(batch) for batch in range(1, len(drafts) + 1)] == drafts
    assert schedule.drafts_at(len(drafts) + 100) == drafts[-1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DraftSchedule((), 8), "at least one range, got none"),
        (lambda: DraftSchedule((DraftRange(2, None, 1),), 8), "must start at batch 1, got 2"),
        (
            lambda: DraftSchedule((DraftRange(1, 4, 1), DraftRange(6, None, 0)), 8),
            "without gap or overlap, got 6 after 4",
        ),
        (lambda: DraftSchedule((DraftRange(1, None, 1), DraftRange(6, None, 0)), 8), "got 6 after None"),
        (lambda: DraftSchedule((DraftRange(1, 4, 1),), 8), "the last range must be open, got an end at 4"),
        (lambda: DraftSchedule((DraftRange(1, 8, 1), DraftRange(9, None, 0)), 8), "within the largest batch 8, got 9"),
        (lambda: DraftSchedule((DraftRange(1, None, -1),), 8), "drafts must be at least 0, got -1 from batch 1"),
        (lambda: DraftSchedule((DraftRange(1, None, 1.5),), 8), "must be whole numbers, got 1.5"),  # type: ignore[arg-type]
        (
            lambda: DraftSchedule((DraftRange(1, 0, 1), DraftRange(1, None, 0)), 8),
            "not end before it starts, got 1 to 0",
        ),
        (lambda: DraftSchedule.from_batches([]), "grid of batch sizes is empty"),
        (lambda: DraftSchedule.from_tiers([], []), "grid of batch sizes is empty"),
        (lambda: DraftSchedule.from_tiers([4, 4], [1, 2]), r"strictly increase, got \[4, 4\]"),
        (lambda: DraftSchedule.from_tiers([4], [1, 2]), "equally long, got 1 and 2"),
        (lambda: align_to_captured(THREE_TIERS, [8, 4]), r"captured sizes must strictly increase, got \[8, 4\]"),
        (lambda: parse_vllm("{", 8), "vLLM: not valid JSON"),
        (lambda: parse_sglang("[]", 8), "one JSON object, got list"),
        (lambda: parse_costs("[]"), "one JSON object, got list"),
        (lambda: export_step_costs([1, 2], [0.0, 1.0], 8), "step times must be finite and above 0"),
        (lambda: parse_draft_flag("--x 0", "--x", 1), "--x must be a whole number of at least 1, got '0'"),
        (lambda: parse_draft_flag("3", "--x", 1), "--x: '3' is the value of no flag"),
        (lambda: parse_draft_flag("'", "--x", 1), "--x: not command-line words"),
        (lambda: parse_diffusion("dinfer", "--x 3"), "--block_length must be a whole number"),
        (
            lambda: export_schedule("mlx-lm", THREE_TIERS, dialect="upper"),
            "mlx_lm has no dialect to choose, got 'upper'",
        ),
    ],
)
def test_bad_input(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        call()


@pytest.mark.parametrize("engine", ENGINES)
def test_header_says_what_the_export_rests_on(engine: str) -> None:
    """(f) engine and versions, context, acceptance and convention, tolerance, hardware; comments never break the text."""
    dialect = "upper" if engine == "tensorrt_llm" else None
    sizes = (8, 16, 64) if engine == "sglang" else None
    has_table = engine in ("vllm", "sglang", "tensorrt_llm")
    schedule = THREE_TIERS if has_table else DraftSchedule.from_tiers([64], [3])
    export = export_schedule(engine, schedule, dialect=dialect, captured_sizes=sizes, facts=FACTS)
    for words in (
        "4096 tokens",
        "constant 0.7 per token, conditional",
        "tolerance 0.1",
        "h100",
        "near_free",
        export.versions,
    ):
        assert words in export.document
    if export.kind == "json":
        assert json.loads(export.text).items() <= json.loads(export.document).items()
    else:
        assert export.document.endswith("\n" + (export.text if export.kind == "yaml" else export.arguments + "\n"))
    comments = [line for line in export.document.splitlines() if line.startswith("#")]
    assert len(comments) == (0 if export.kind == "json" else len(export.header))


def test_line_break_in_a_name_stays_a_comment() -> None:
    facts = ExportFacts("h100\nrm -rf x", "m", "vllm", 1, "a", 0.1, "near_free")
    for line in export_vllm(THREE_TIERS, facts=facts).document.splitlines()[:-1]:
        assert line.startswith("# ")


def test_draft_model_is_quoted() -> None:
    name = "it's a: model"
    export = export_vllm(THREE_TIERS, draft_model=name)
    assert json.loads(shlex.split(export.arguments)[1])["model"] == name
    text = export_tensorrt_llm(THREE_TIERS, "upper", draft_model=name).text
    assert read_yaml(text)["speculative_config"]["speculative_model"] == name
    assert shlex.split(export_mlx_lm(DraftSchedule.from_tiers([1], [3]), name).text)[1] == name


values = st.one_of(
    st.integers(-(10**6), 10**6),
    st.floats(0.001, 1000).map(lambda x: round(x, 3)),
    st.booleans(),
    st.text(st.characters(exclude_categories=("Cs", "Cc"), max_codepoint=0xFFFF)),
    st.sampled_from(["yes", "no", "on", "null", "1", "1e3", "a b", "a: b", "#x", "~", "-", "org/name-1.5"]),
    st.lists(st.integers(0, 100), max_size=4),
    st.dictionaries(st.integers(1, 99), st.integers(-3, 9), min_size=1, max_size=4),
)


@given(st.dictionaries(st.sampled_from(["alpha", "beta", "gamma"]), values, min_size=1))
def test_yaml_agrees_with_a_yaml_library(block: dict[str, object]) -> None:
    """PyYAML (through the documentation tools) reads the same values as we do."""
    yaml = pytest.importorskip("yaml")
    text = yaml_text({"top": block, "last": 1})
    assert read_yaml(text) == {"top": block, "last": 1}
    assert yaml.safe_load(text) == {"top": block, "last": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "line 1 is outside the part written here: '- 1'"),
        ("a: 1\n  b: 2\n", "line 2 is indented by 2 columns, not by 0"),
        ("a: 1\na: 2\n", "line 2 gives the key 'a' a second time"),
        ("a: {4: 2, 4: 1}\n", "line 1 gives the key 4 a second time"),
        ("a: {x: 2}\n", "line 1 must map whole numbers, got 'x: 2'"),
        ("a: &x 3\n", "line 1 is outside the part written here: '&x 3'"),
        ('a: "x\n', "line 1 holds an unreadable string"),
    ],
)
def test_yaml_refuses(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        read_yaml(text)


def test_file_is_written_whole(tmp_path: Path) -> None:
    export = export_sglang(THREE_TIERS, (8, 16, 64), facts=FACTS)
    path = tmp_path / "adaptive.json"
    path.write_text("old")
    export.write(path)
    assert path.read_text() == export.document
    assert json.loads(path.read_text())["17"] == {"candidate_steps": [3]}
    assert [entry.name for entry in tmp_path.iterdir()] == ["adaptive.json"]


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_file_stays_as_it_was_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Up to and including the rename nothing touches the target, and the temporary file goes away."""
    path = tmp_path / "adaptive.json"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, full)
    with pytest.raises(InvalidArgumentError, match=r"adaptive.json: cannot be written \(No space left on device\)"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["adaptive.json"]


def test_file_in_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"cannot be written \(No such file or directory\)"):
        write_whole(tmp_path / "nowhere" / "x.json", "new")


def test_an_export_that_would_run_otherwise_is_refused() -> None:
    """The check behind every writer: a text that reads back as another schedule does not leave the library."""
    from nfp_model.exporters.writing import checked

    wrong = Export("vLLM", "x", "flag", export_vllm(THREE_TIERS).text, "", DraftSchedule.from_tiers([15, 512], [5, 3]))
    with pytest.raises(UnsupportedError, match="vLLM would draft 5 instead of 3 tokens at batch 16"):
        checked(wrong, lambda text: parse_vllm(text, 512))
