"""Exports: golden text, the engines' rules and traps, and look-ups written apart from the library's own readers."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from nfp_model.errors import InvalidArgumentError, UnknownNameError, UnsupportedError
from nfp_model.exporters import (
    DraftSchedule,
    align_to_captured,
    export_additive_costs,
    export_diffusion,
    export_llama_cpp,
    export_lmdeploy,
    export_mlx_lm,
    export_schedule,
    export_sglang,
    export_sglang_static,
    export_step_costs,
    export_tensorrt_llm,
    export_vllm,
    parse_diffusion,
    parse_sglang,
    parse_sglang_static,
    parse_tensorrt_llm,
    parse_vllm,
    setting_for_positions,
)
from nfp_model.exporters.tensorrt_llm import Dialect
from nfp_model.exporters.yaml import read_yaml

THREE_TIERS = DraftSchedule.from_tiers([16, 64, 512], [5, 3, 0])

batches = st.lists(st.integers(0, 8), min_size=1, max_size=90)
schedules = batches.map(DraftSchedule.from_batches)
speculating = schedules.filter(lambda s: s.largest > 0)
longest_first = speculating.map(lambda s: DraftSchedule.from_batches([s.largest, *s.dense()]))
SIZES = (1, 2, 4, 8, 16, 32, 64, 90)

captured = st.sets(st.integers(1, 90), max_size=20).map(sorted)


# --- golden text: the same three tiers in each dialect -----------------------------------------------------------------


def test_vllm_golden() -> None:
    export = export_vllm(THREE_TIERS)
    assert export.text == (
        '{"method": "eagle3", "model": "DRAFT", "num_speculative_tokens": 5, '
        '"num_speculative_tokens_per_batch_size": [[1, 16, 5], [17, 64, 3], [65, 512, 0]]}'
    )
    assert shlex.split(export.arguments) == ["--speculative-config", export.text, "--max-num-seqs", "512"]
    mtp = export_vllm(DraftSchedule.from_tiers([8, 256], [3, 1]), method="mtp", predict_layers=1)
    assert mtp.text == (
        '{"method": "mtp", "num_speculative_tokens": 3, "num_speculative_tokens_per_batch_size": [[1, 8, 3], [9, 256, 1]]}'
    )
    static = export_vllm(DraftSchedule.from_tiers([64], [3]))
    assert static.text == '{"method": "eagle3", "model": "DRAFT", "num_speculative_tokens": 3}'


def test_sglang_golden() -> None:
    export = export_sglang(THREE_TIERS, SIZES)
    assert export.text == (
        '{"1": {"candidate_steps": [5]}, "17": {"candidate_steps": [3]}, "65": {"candidate_steps": [0]}}'
    )
    assert export.arguments == (
        "--speculative-algorithm EAGLE3 --speculative-draft-model-path DRAFT --speculative-num-steps 5"
        " --speculative-eagle-topk 1 --speculative-num-draft-tokens 6 --speculative-adaptive"
        " --speculative-adaptive-config FILE --max-running-requests 512"
    )
    assert export_sglang_static(3).text == (
        "--speculative-algorithm EAGLE3 --speculative-draft-model-path DRAFT --speculative-num-steps 3"
        " --speculative-eagle-topk 1 --speculative-num-draft-tokens 4"
    )


def test_tensorrt_llm_golden() -> None:
    four = DraftSchedule.from_tiers([4, 8, 32, 64], [4, 2, 1, 0])
    sizes = [1, 2, 4, 8, 16, 24, 32, 64]
    assert export_tensorrt_llm(four, "upper", captured_sizes=sizes).text == (
        "speculative_config:\n  decoding_type: Eagle3\n  speculative_model: DRAFT\n  max_draft_len: 4\n"
        "  draft_len_schedule: {4: 4, 8: 2, 32: 1}\n"
        "cuda_graph_config:\n  batch_sizes: [1, 2, 4, 8, 16, 24, 32, 64]\n  enable_padding: true\n"
    )
    assert "  draft_len_schedule: {1: 4, 5: 2, 9: 1, 33: 0}\n" in export_tensorrt_llm(four, "lower").text
    upper, lower = export_tensorrt_llm(THREE_TIERS, "upper").text, export_tensorrt_llm(THREE_TIERS, "lower").text
    assert upper.endswith("  max_draft_len: 5\n  draft_len_schedule: {16: 5, 64: 3}\n")
    assert lower.endswith("  max_draft_len: 5\n  draft_len_schedule: {1: 5, 17: 3, 65: 0}\n")


def test_tensorrt_llm_mtp_field_by_release() -> None:
    static = DraftSchedule.from_tiers([16], [3])
    assert export_tensorrt_llm(static, "upper", "MTP").text == (
        "speculative_config:\n  decoding_type: MTP\n  max_draft_len: 3\n"
    )
    assert export_tensorrt_llm(static, "lower", "mtp").text == (
        "speculative_config:\n  decoding_type: MTP\n  num_nextn_predict_layers: 3\n"
    )


def test_diffusion_golden() -> None:
    assert (
        export_diffusion("vllm", 256, max_denoising_steps=48).text
        == '{"canvas_length": 256, "max_denoising_steps": 48}'
    )
    assert export_diffusion("sglang", 32, threshold=0.95).text == "block_size: 32\nthreshold: 0.95\n"
    assert (
        export_diffusion("lmdeploy", 16, threshold=0.85).text
        == "--dllm-block-length 16 --dllm-confidence-threshold 0.85"
    )
    assert export_diffusion("dinfer", 64).text == "--block_length 64"
    assert "trained with blocks of 32" in export_diffusion("sglang", 16, trained_block=32).document


def test_cost_table_golden() -> None:
    text = export_step_costs([1, 8, 64], [1 / 100, 1 / 98, 1 / 70], 512).text
    assert (
        text
        == '{"sample_batch_tokens": [1, 8, 64], "sample_steps_per_sec": [100.0, 98.0, 70.0], "max_batch_tokens": 512}'
    )
    additive = export_additive_costs(0.008, [1, 64], [0.0, 0.002], [1, 512], [0.0, 0.006]).text
    assert additive == (
        '{"bias_seconds": 0.008, "bs_probes": [1, 64], "alpha_seconds": [0.0, 0.002], "m_probes": [1, 512],'
        ' "theta_seconds": [0.0, 0.006]}'
    )


# --- (a) semantic round trip, by look-ups written here from the engines' stated rules -----------------------------------


def vllm_lookup(config: dict[str, Any], batch: int) -> int:
    """Closed ranges in any order; a gap and the tail carry the K before; K is clamped to the global one."""
    most = int(config["num_speculative_tokens"])
    drafts = most
    for start, _, count in sorted(config.get("num_speculative_tokens_per_batch_size", [])):
        if batch >= start:
            drafts = min(count, most)
    return drafts


def sglang_lookup(config: dict[str, Any], batch: int, sizes: list[int]) -> int:
    """Pad to the next captured size, then the largest key not above it, else the smallest key."""
    padded = min((size for size in sizes if size >= batch), default=batch)
    tiers = {int(key): tier["candidate_steps"] for key, tier in config.items() if key.isdigit()}
    below = [key for key in tiers if key <= padded]
    (steps,) = tiers[max(below) if below else min(tiers)]
    return int(steps)


def tensorrt_lookup(block: dict[str, Any], batch: int, upper: bool) -> int:
    """upper: the smallest key not below the batch, else 0; lower: the largest key not above it."""
    if "draft_len_schedule" not in block:
        return int(block["max_draft_len"])
    table = block["draft_len_schedule"]
    if upper:
        return int(next((table[key] for key in sorted(table) if batch <= key), 0))
    return int(table[max(key for key in table if key <= batch)])


def tensorrt_block(schedule: DraftSchedule, dialect: Dialect) -> dict[str, Any]:
    block: dict[str, Any] = read_yaml(export_tensorrt_llm(schedule, dialect).text)["speculative_config"]
    return block


DIALECTS: tuple[Dialect, Dialect] = ("upper", "lower")


@given(speculating)
def test_vllm_runs_the_schedule_and_carries_its_tail(schedule: DraftSchedule) -> None:
    text = export_vllm(schedule).text
    config = json.loads(text)
    for batch in range(1, 2 * schedule.max_batch_size):
        assert vllm_lookup(config, batch) == schedule.drafts_at(batch)
    assert parse_vllm(text, schedule.max_batch_size).dense() == schedule.dense()


@given(speculating, captured)
def test_sglang_runs_what_the_export_says_at_every_padded_batch(schedule: DraftSchedule, sizes: list[int]) -> None:
    if all(schedule.drafts_at(min((s for s in sizes if s >= b), default=b)) == 0 for b in range(1, 91)):
        with pytest.raises(UnsupportedError, match="padded to the captured sizes"):
            export_sglang(schedule, captured_sizes=sizes)
        return
    export = export_sglang(schedule, captured_sizes=sizes)
    assert export.schedule is not None
    for config in (json.loads(export.text), json.loads(export.document)):
        for batch in range(1, schedule.max_batch_size + 10):
            assert sglang_lookup(config, batch, sizes) == schedule.drafts_at(
                min((size for size in sizes if size >= batch), default=batch)
            )
    for batch in range(1, schedule.max_batch_size + 1):  # nothing moves but what padding moves
        padded = min((size for size in sizes if size >= batch), default=batch)
        assert export.schedule.drafts_at(batch) == schedule.drafts_at(padded)


@given(longest_first)
def test_tensorrt_llm_runs_the_schedule_in_both_dialects(schedule: DraftSchedule) -> None:
    for dialect in DIALECTS:
        block = tensorrt_block(schedule, dialect)
        for batch in range(1, schedule.max_batch_size + 1):
            assert tensorrt_lookup(block, batch, dialect == "upper") == schedule.drafts_at(batch)
    if not schedule.is_single:  # the tails differ: upper stops above its largest key, lower carries on
        beyond = schedule.max_batch_size + 1
        assert tensorrt_lookup(tensorrt_block(schedule, "upper"), beyond, True) == 0
        assert tensorrt_lookup(tensorrt_block(schedule, "lower"), beyond, False) == schedule.ranges[-1].drafts


@given(speculating, captured)
def test_aligned_boundaries_follow_captured_sizes(schedule: DraftSchedule, sizes: list[int]) -> None:
    aligned = align_to_captured(schedule, sizes)
    largest = max(sizes, default=0)
    for entry in aligned.ranges[1:]:
        assert entry.start - 1 in sizes or entry.start - 1 >= largest
    assert align_to_captured(aligned, sizes) == aligned


# --- (b) the global maximum field ---------------------------------------------------------------------------------------


@given(longest_first)
def test_largest_draft_count_is_the_global_field(schedule: DraftSchedule) -> None:
    assert json.loads(export_vllm(schedule).text)["num_speculative_tokens"] == schedule.largest
    for dialect in DIALECTS:
        assert tensorrt_block(schedule, dialect)["max_draft_len"] == schedule.largest
    sglang = export_sglang(schedule, SIZES)
    assert sglang.schedule is not None
    assert f"--speculative-num-steps {sglang.schedule.largest} " in sglang.arguments


# --- (c) refusals name the engine's rule; (d) MTP divisibility ----------------------------------------------------------

RISING = DraftSchedule.from_tiers([8, 32], [1, 3])
NOTHING = DraftSchedule.from_tiers([8], [0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: export_vllm(NOTHING),
            "vLLM: num_speculative_tokens must be above 0, got 0 drafts at every batch size",
        ),
        (lambda: export_sglang(NOTHING, SIZES), "SGLang: a table of 0 steps only"),
        (lambda: export_tensorrt_llm(NOTHING, "upper"), "TensorRT-LLM: max_draft_len must be above 0"),
        (
            lambda: export_mlx_lm(NOTHING),
            r"mlx-lm takes one draft length per server \(--num-draft-tokens\), got 0 drafts",
        ),
        (
            lambda: export_tensorrt_llm(RISING, "upper"),
            r"\(upper bounds\): the smallest key of draft_len_schedule must carry max_draft_len, so the first range must"
            r" draft the most \(3\), got 1",
        ),
        (lambda: export_tensorrt_llm(RISING, "lower"), r"\(lower bounds\): the smallest key"),
        (
            lambda: export_tensorrt_llm(THREE_TIERS, "upper", "NGram"),
            "reaches the graphs of Eagle3, MTP.* only, got NGram",
        ),
        (lambda: export_tensorrt_llm(THREE_TIERS, "lower", "MTP"), "Eagle3, Draft_Target, NGram only, got MTP"),
        (
            lambda: export_sglang(THREE_TIERS, SIZES, top_k=4),
            "adaptive speculation needs --speculative-eagle-topk 1, got 4",
        ),
        (lambda: export_sglang(THREE_TIERS, SIZES, "DFLASH"), "runs with EAGLE, EAGLE3 or NEXTN only, got DFLASH"),
        (
            lambda: export_sglang(DraftSchedule.from_tiers([2, 8], [3, 0]), captured_sizes=[4, 8]),
            r"padded to the captured sizes \[4, 8\] before K is looked up, got 0 drafts",
        ),
        (
            lambda: export_sglang_static(4, steps=3),
            r"with top-k 1 draft tokens are steps \+ 1, got 3 steps for 4 drafts",
        ),
        (lambda: export_sglang_static(4, "NGRAM"), "belong to EAGLE, EAGLE3, NEXTN or STANDALONE, got NGRAM"),
        (lambda: export_llama_cpp(THREE_TIERS), r"llama.cpp takes one draft length per server \(--spec-draft-n-max\)"),
        (
            lambda: export_lmdeploy(THREE_TIERS),
            "LMDeploy takes one .*, got 5 from batch 1, 3 from batch 17, 0 from batch 65",
        ),
        (
            lambda: export_vllm(DraftSchedule.from_tiers([8, 16], [7, 1]), "mtp", predict_layers=5),
            r"above the checkpoint's n_predict \(5\) must be a multiple of it, got 7",
        ),
        (lambda: export_step_costs([1], [0.01], 8), "one probe as uninitialised, got 1"),
        (
            lambda: export_step_costs([8, 1], [0.01, 0.01], 8),
            r"sample_batch_tokens must strictly increase, got \[8, 1\]",
        ),
        (
            lambda: export_step_costs([1, 8], [0.01, 0.01], 4),
            "max_batch_tokens must be at least the last probe 8, got 4",
        ),
        (lambda: export_step_costs([1, 8], [0.01], 8), "must be equally long, got 2 and 1"),
        (lambda: export_additive_costs(0.0, [1], [0.0], [1], [0.0]), "bias_seconds: Input should be greater than 0"),
        (lambda: export_additive_costs(1.0, [2, 1], [0.0, 0.0], [1], [0.0]), "bs_probes must strictly increase"),
        (lambda: export_diffusion("vllm", 32, threshold=0.9), "vLLM has no threshold for diffusion models, got 0.9"),
        (lambda: export_diffusion("sglang", 32, threshold=1.9), "SGLang: threshold: .* less than or equal to 1"),
        (lambda: export_diffusion("lmdeploy", 32, max_denoising_steps=8), "LMDeploy has no max_denoising_steps"),
        (lambda: setting_for_positions("vllm", "eagle3", 1), "needs at least one draft, and 1 position leaves none"),
    ],
)
def test_refusals_name_the_rule(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        call()


@given(st.integers(1, 8), st.integers(1, 24))
def test_mtp_divisibility(layers: int, drafts: int) -> None:
    """vLLM: any depth up to n_predict, above it multiples only; tiers below the first are not bound."""
    schedule = DraftSchedule.from_tiers([4, 8], [drafts, drafts - 1])
    if drafts <= layers or drafts % layers == 0:
        assert export_vllm(schedule, "mtp", predict_layers=layers).schedule == schedule
    else:
        with pytest.raises(UnsupportedError, match="must be a multiple"):
            export_vllm(schedule, "mtp", predict_layers=layers)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: export_schedule("vlm", THREE_TIERS), "unknown engine 'vlm'; did you mean 'vllm'"),
        (lambda: export_vllm(THREE_TIERS, "eagle4"), "unknown vLLM speculative method 'eagle4'; did you mean"),
        (lambda: export_sglang(THREE_TIERS, SIZES, "EAGLE4"), "unknown SGLang speculative algorithm 'EAGLE4'"),
        (lambda: export_tensorrt_llm(THREE_TIERS, "uper"), "unknown TensorRT-LLM dialect 'uper'; did you mean 'upper'"),
        (lambda: export_tensorrt_llm(THREE_TIERS, "upper", "Eagle4"), "unknown TensorRT-LLM decoding type 'Eagle4'"),
        (lambda: export_llama_cpp(THREE_TIERS, "old"), "unknown llama.cpp dialect 'old'; known: draft, spec_draft"),
        (lambda: export_lmdeploy(THREE_TIERS, "eagle4"), "unknown LMDeploy speculative algorithm 'eagle4'"),
        (lambda: export_diffusion("vlm", 32), "unknown diffusion engine 'vlm'; did you mean 'vllm'"),
        (lambda: parse_diffusion("vlm", ""), "unknown diffusion engine 'vlm'"),
        (lambda: setting_for_positions("vlm", "eagle", 4), "unknown engine 'vlm'"),
        (lambda: setting_for_positions("vllm", "eagel", 4), "unknown vllm method 'eagel'; did you mean 'eagle'"),
    ],
)
def test_unknown_names(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        call()


# --- the dialect trap ---------------------------------------------------------------------------------------------------


def test_old_table_passes_the_new_release_silently_and_means_something_else() -> None:
    """{1: 4, 5: 2} says K = 4 up to batch 4; a new release accepts it and keeps K = 4 at batch 1 only."""
    schedule = DraftSchedule.from_tiers([4, 8], [4, 2])
    text = export_tensorrt_llm(schedule, "lower").text
    assert "{1: 4, 5: 2}" in text
    assert parse_tensorrt_llm(text, 8, "lower").dense() == [4, 4, 4, 4, 2, 2, 2, 2]
    assert parse_tensorrt_llm(text, 8, "upper").dense() == [4, 2, 2, 2, 2, 0, 0, 0]


def test_new_table_fails_loudly_in_the_old_release_unless_it_has_key_one() -> None:
    text = export_tensorrt_llm(DraftSchedule.from_tiers([4, 8], [4, 2]), "upper").text
    with pytest.raises(
        UnsupportedError, match=r"\(lower bounds\): draft_len_schedule must have key 1, got keys \[4, 8\]"
    ):
        parse_tensorrt_llm(text, 8, "lower")
    with_one = export_tensorrt_llm(DraftSchedule.from_tiers([1, 8], [4, 2]), "upper").text
    assert parse_tensorrt_llm(with_one, 8, "lower").dense() == [4, 4, 4, 4, 4, 4, 4, 2]


def test_dialect_must_be_said_and_stands_in_the_header() -> None:
    with pytest.raises(InvalidArgumentError, match=r"needs a dialect: 'upper' .* or 'lower'"):
        export_schedule("trtllm", THREE_TIERS)
    for dialect, word in (("upper", "UPPER"), ("lower", "LOWER")):
        document = export_schedule("trtllm", THREE_TIERS, dialect=dialect).document
        assert document.startswith(f"# nfp_model export for TensorRT-LLM, keys are {word} bounds of batch size")


def test_concurrency_limit_is_a_table() -> None:
    text = "speculative_config:\n  decoding_type: MTP\n  max_draft_len: 3\n  max_concurrency: 2\n"
    assert parse_tensorrt_llm(text, 4, "upper").dense() == [3, 3, 0, 0]
    assert parse_tensorrt_llm(text, 1, "upper").dense() == [3]
    with pytest.raises(UnsupportedError, match="what max_concurrency does there is not established"):
        parse_tensorrt_llm(text, 4, "lower")


# --- the engines' own checks, on texts we did not write -----------------------------------------------------------------


def vllm_text(table: object, most: int = 5, **more: object) -> str:
    return json.dumps(
        {"method": "eagle3", "num_speculative_tokens": most, "num_speculative_tokens_per_batch_size": table, **more}
    )


def test_vllm_sorts_fills_gaps_and_coerces() -> None:
    assert parse_vllm(vllm_text([[5, 6, 1], [1, 2, "4"]]), 8).dense() == [4, 4, 4, 4, 1, 1, 1, 1]
    assert parse_vllm(vllm_text([[1, 2.0, 0], [3, 4, 5]]), 4).dense() == [0, 0, 5, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (vllm_text([]), "must not be empty"),
        (vllm_text({"1-16": 5}), "per_batch_size: Input should be a valid list"),
        (vllm_text([[1, 16]]), "per_batch_size.0.2: Field required"),
        (vllm_text([[1, 16, 2.5]]), "valid integer"),
        (vllm_text([[0, 16, 5]]), r"0 < start <= end, got \[0, 16, 5\]"),
        (vllm_text([[9, 8, 5]]), r"0 < start <= end, got \[9, 8, 5\]"),
        (vllm_text([[1, 8, -1]]), "at least 0, got"),
        (vllm_text([[1, 8, 6]]), r"above num_speculative_tokens \(5\) would be clamped silently, got \[1, 8, 6\]"),
        (vllm_text([[2, 8, 5]]), "must start at 1, got 2"),
        (vllm_text([[1, 8, 5], [8, 9, 3]]), r"must not overlap, got \[1, 8, 5\] and \[8, 9, 3\]"),
        (vllm_text([[1, 8, 5]], most=0), "num_speculative_tokens: Input should be greater than 0"),
        (vllm_text([[1, 8, 5]], _note="x"), "vLLM refuses the unknown key '_note'"),
        (vllm_text([[1, 8, 5]], enable_adaptive_k=True), "unknown key 'enable_adaptive_k'"),
    ],
)
def test_vllm_refuses(text: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        parse_vllm(text, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "needs at least one batch-size key"),
        ('{"_note": "x"}', "needs at least one batch-size key"),
        ('{"1": {"candidate_steps": []}}', "tier 1: candidate_steps: .* at least 1 item"),
        ('{"1": {}}', "tier 1: candidate_steps: Field required"),
        ('{"1": {"candidate_steps": [-1]}}', "greater than or equal to 0"),
        ('{"1": {"candidate_steps": [true]}}', "tier 1: candidate_steps.0: Input should be a valid integer"),
        ('{"1": 3}', "tier 1: Input should be a valid dictionary"),
        ('{"1": {"candidate_steps": [3], "steps": 1}}', "tier 1 refuses the unknown key 'steps'"),
        ('{"1": {"candidate_steps": [1, 3]}}', r"tier 1 adapts among \[1, 3\], it is no fixed schedule"),
    ],
)
def test_sglang_refuses(text: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        parse_sglang(text, 8)


def test_sglang_shares_defaults_and_uses_the_smallest_tier_below_it() -> None:
    text = '{"candidate_steps": [2, 2], "ema_alpha": 0.5, "_note": "x", "4": {}, "6": {"candidate_steps": [0]}}'
    assert parse_sglang(text, 7).dense() == [2, 2, 2, 2, 2, 0, 0]


TRT = "speculative_config:\n  decoding_type: Eagle3\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TRT + "  max_draft_len: 0\n", "max_draft_len must be above 0 for Eagle3, got 0"),
        (TRT, "takes the draft length from the checkpoint"),
        (TRT + "  max_draft_len: 4\n  draft_len_schedule: {4: 4, 8: 5}\n", r"not exceed max_draft_len \(4\), got 8: 5"),
        (
            TRT + "  max_draft_len: 4\n  draft_len_schedule: {0: 4}\n",
            "batch sizes >= 1 to draft lengths >= 0, got 0: 4",
        ),
        (TRT + "  max_draft_len: 4\n  draft_len_schedule: {4: -1}\n", "got 4: -1"),
        (TRT + "  max_draft_len: 4\n  draft_len_schedule: {4: 2}\n", r"must carry max_draft_len \(4\), got 2"),
        (
            TRT + "  max_draft_len: 4\n  max_concurrency: 4\n  draft_len_schedule: {4: 4}\n",
            "draft_len_schedule and max_concurrency exclude each other",
        ),
        (TRT + "  draft_length: 4\n", "TensorRT-LLM refuses the unknown key 'speculative_config.draft_length'"),
        (
            TRT + "  max_draft_len: 4\ncuda_graph_config:\n  batch_sizes: [1, 8]\n  max_batch_size: 16\n",
            "max_batch_size must be the largest of batch_sizes, got 16",
        ),
    ],
)
def test_tensorrt_llm_refuses(text: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        parse_tensorrt_llm(text, 8, "upper")


def test_positions_of_every_engine() -> None:
    """q free positions are K = q - 1 drafts in a chain, q for blocks and verify windows, q / 2 for PARD."""
    assert setting_for_positions("vllm", "diffusion", 32) == {"canvas_length": 32}
    assert setting_for_positions("sglang", "dflash", 8) == {"speculative_dflash_block_size": 8}
    assert setting_for_positions("sglang", "dspark", 8) == {
        "speculative_dspark_block_size": 7,
        "speculative_num_draft_tokens": 8,
    }
    assert setting_for_positions("tensorrt_llm", "tree", 8) == {"max_total_draft_tokens": 7}
    assert setting_for_positions("tensorrt_llm", "pard", 8) == {"max_draft_len": 4}


def test_sglang_tree_counts_the_root() -> None:
    text = export_sglang_static(7, top_k=4, steps=3).text
    assert text.endswith("--speculative-num-steps 3 --speculative-eagle-topk 4 --speculative-num-draft-tokens 8")
    assert parse_sglang_static(text) == 7
    with pytest.raises(InvalidArgumentError, match="needs its depth as steps, got none"):
        export_sglang_static(7, top_k=4)
    with pytest.raises(UnsupportedError, match="given all three"):
        parse_sglang_static("--speculative-eagle-topk 4")
