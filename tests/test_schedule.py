"""Schedules from predicted curves: wiring, published shapes, exports read back."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest

from nfp_model.acceptance import DraftCost, PrefixAcceptance, TreeAcceptance
from nfp_model.errors import InvalidArgumentError, NfpModelError, UnsupportedError
from nfp_model.exporters import export_table, parse_sglang, parse_tensorrt_llm, parse_vllm
from nfp_model.kernels.capture import captured_sizes
from nfp_model.prediction import predict_nfp
from nfp_model.scheduling import Schedule, align_to_captured, decompose_speedup, schedule
from nfp_model.scheduling.predicted import prediction_module
from nfp_model.specs.registry import load_hardware, load_model

BATCHES = (1, 8, 64)


@pytest.fixture(scope="module")
def moe() -> Schedule:
    return schedule("h100", "qwen3-30b-a3b", acceptance=0.7, backend="vllm", context_lengths=(1024, 4096))


@pytest.fixture(scope="module")
def dense() -> Schedule:
    return schedule("h100", "llama-3.1-8b", acceptance=0.7, batch_sizes=BATCHES, context_lengths=(1024, 4096))


# --- wiring -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "given"),
    [
        ("llama-3.1-8b", {"tolerance": 0.1}),
        ("qwen3-30b-a3b", {"tolerance": 0.25, "backend": "vllm", "routing": "balanced"}),
        ("mixtral", {"tolerance": 0.1, "weight_dtype": "fp8", "tensor_parallel": 2, "captures": "vllm"}),
    ],
)
def test_rows_agree_with_predict_nfp(model: str, given: dict[str, Any]) -> None:
    table = schedule("h100", model, acceptance=0.7, batch_sizes=BATCHES, context_lengths=(1024, 4096), **given)
    assert len(table.cells) == 6
    for cell in table.cells:
        p = predict_nfp(
            "h100", model, batch_size=cell.batch_size, context_length=cell.context_length, max_positions=17, **given
        )
        assert cell.decision.near_free.positions == p.nfp
        assert cell.baseline_latency_s == p.baseline_latency_s
        ratios = [option.latency_ratio for option in cell.decision.options]
        assert ratios == pytest.approx(p.latency_s(np.arange(1, 18)) / p.baseline_latency_s)
        assert cell.binding == p.binding
        assert cell.fits_memory == p.fits_memory


def test_algorithm_and_system_do_not_mix() -> None:
    """Accepted lengths are hardware-independent while speed-ups move: Spec-Bench, arXiv 2401.07851."""
    given: dict[str, Any] = {"batch_sizes": (1, 16), "context_lengths": (4096,)}
    h100, a100 = (schedule(gpu, "llama-3.1-8b", acceptance=0.7, **given) for gpu in ("h100", "a100"))
    other = schedule("h100", "llama-3.1-8b", acceptance=(0.9, 0.85, 0.8), **given)
    for ours, elsewhere, better in zip(h100.cells, a100.cells, other.cells, strict=True):
        for here, there in zip(ours.decision.options, elsewhere.decision.options, strict=True):
            assert here.tokens_per_forward == there.tokens_per_forward
        for plain, more in zip(ours.decision.options, better.decision.options, strict=False):
            assert plain.latency_ratio == more.latency_ratio
        assert len(better.decision.options) == 4  # no acceptance is invented beyond the three rates given
    assert any(
        a.decision.options[16].latency_ratio != b.decision.options[16].latency_ratio
        for a, b in zip(h100.cells, a100.cells, strict=True)
    )


def test_rule_chooses_the_answer_and_shows_both(moe: Schedule) -> None:
    near = schedule(
        "h100", "qwen3-30b-a3b", acceptance=0.7, backend="vllm", context_lengths=(1024, 4096), rule="near_free"
    )
    for best, free in zip(moe.cells, near.cells, strict=True):
        assert best.chosen == best.decision.throughput == free.decision.throughput
        assert free.chosen == free.decision.near_free == best.decision.near_free


def test_draft_model_is_priced_per_batch_and_context() -> None:
    table = schedule(
        "h100", "qwen3-32b", acceptance=0.8, draft="qwen3-0.6b", batch_sizes=(1, 64), context_lengths=(1024, 16384)
    )
    for cell in table.cells:
        one = {"batch_size": cell.batch_size, "context_length": cell.context_length}
        small, large = (predict_nfp("h100", name, **one) for name in ("qwen3-0.6b", "qwen3-32b"))
        expected = small.baseline_latency_s / large.baseline_latency_s
        assert cell.draft.per_step == pytest.approx(expected)
        assert cell.decision.options[3].draft_cost == pytest.approx(3 * expected)
    assert len({cell.draft.per_step for cell in table.cells}) == 4
    free = schedule("h100", "qwen3-32b", acceptance=0.8, batch_sizes=(1, 64), context_lengths=(1024, 16384))
    for paid, unpaid in zip(table.cells, free.cells, strict=True):
        assert paid.decision.throughput.speedup < unpaid.decision.throughput.speedup
        assert paid.decision.near_free.drafts == unpaid.decision.near_free.drafts


def test_mtp_module_has_the_published_size() -> None:
    """README_WEIGHTS.md of deepseek-ai/DeepSeek-V3: 11.5 B parameters of its own beside the shared embedding and head.

    The joining matrix (2 x 7168 x 7168, 0.1 B) is left out by design, hence 2 %.
    """
    module = prediction_module(load_model("deepseek-v3"))
    own = module.total_parameters - module.embedding_parameters - module.head_parameters
    assert own == pytest.approx(11.5e9, rel=0.02)
    hybrid = prediction_module(load_model("qwen3-next"))
    assert hybrid.attention[hybrid.layers[0].attention].kind == "softmax"


def test_mtp_is_cheaper_than_the_model_and_not_free() -> None:
    cell = schedule(
        "h200", "deepseek-v3", acceptance=0.8, method="mtp", batch_sizes=(8,), context_lengths=(4096,)
    ).cells[0]
    layers = load_model("deepseek-v3").num_layers
    assert 1 / layers < cell.draft.per_step < 0.2


def test_tree_counts_nodes_and_pays_a_drafter_forward_a_level() -> None:
    rates = ((0.6, 0.2),)
    table = schedule(
        "h100",
        "llama-3.1-8b",
        acceptance="tree:0.6,0.2",
        draft=DraftCost(0.05),
        batch_sizes=(1,),
        context_lengths=(4096,),
    )
    assert table.method == "tree"
    options = table.cells[0].decision.options
    tree = TreeAcceptance(rates)
    assert [o.positions for o in options] == [o.drafts + 1 for o in options]
    assert [o.tokens_per_forward for o in options] == pytest.approx(tree.token_curve(16))
    assert [o.draft_cost for o in options] == pytest.approx(0.05 * tree.draft_steps(16))
    chain = schedule("h100", "llama-3.1-8b", acceptance=0.6, batch_sizes=(1,), context_lengths=(4096,))
    assert options[16].tokens_per_forward > chain.cells[0].decision.options[16].tokens_per_forward


def test_contexts_default_to_what_the_model_was_made_for() -> None:
    table = schedule("h100", "llama-2-7b", acceptance=0.7, batch_sizes=(1,))
    assert table.context_lengths == (1024, 4096)


# --- MoE said plainly ---------------------------------------------------------------------------------------------------


def test_moe_note_says_where_nothing_is_free_and_that_it_pays(moe: Schedule, dense: Schedule) -> None:
    """Two tokens touch 15.5 of 128 experts at top-8 (MoESD equation 8, arXiv 2505.19645)."""
    for context, note in zip(moe.context_lengths, moe.moe_notes, strict=True):
        costly = [c.batch_size for c in moe.column(context) if c.decision.near_free.drafts == 0]
        assert costly[0] == 1
        assert note.startswith(
            f"context {context}: no K > 0 is near-free from one position at batch {', '.join(map(str, costly))} (at batch 1:"
        )
        assert "15.5 instead of 8.0" in note
        assert "it pays there anyway, at best" in note
        assert f"MoE      {note}" in str(moe)
    assert dense.moe_notes == ()
    assert "MoE" not in str(dense)


def test_moe_note_says_when_it_does_not_pay() -> None:
    table = schedule("h100", "qwen3-30b-a3b", acceptance=0.05, batch_sizes=(1, 8), context_lengths=(4096,))
    assert table.moe_notes[0].endswith("; speculation pays at none of them")
    load = table.critical_load()
    assert (load.rows, load.reason) == (0, "context 4096: speculation pays at no batch size looked at")


def test_a_wide_tolerance_makes_some_draft_free_everywhere() -> None:
    table = schedule(
        "h100", "qwen3-30b-a3b", acceptance=0.7, tolerance=2.0, batch_sizes=(1, 8), context_lengths=(4096,)
    )
    assert table.moe_notes == ("context 4096: some K > 0 is near-free at every batch looked at",)


# --- published shapes ---------------------------------------------------------------------------------------------------


def test_eagle3_gain_falls_with_batch() -> None:
    """EAGLE-3 on H100, Llama-3.1-8B, chain of 3, MT-bench: 1.81x at batch 2 to 1.38x at 64 (arXiv 2503.01840, table 3).

    Shape only: the published column also holds drafting and engine overhead. Rates: vLLM's own EAGLE-3 check of this model.
    """
    batches = (2, 4, 8, 16, 24, 32, 48, 56, 64)
    table = schedule(
        "h100",
        "llama-3.1-8b",
        acceptance=(0.730, 0.521, 0.355),
        batch_sizes=batches,
        context_lengths=(512,),
        max_drafts=3,
    )
    gains = [cell.decision.options[3].speedup for cell in table.cells]
    assert all(after <= before for before, after in itertools.pairwise(gains))
    published = {2: 1.81, 4: 1.82, 8: 1.62, 16: 1.48, 24: 1.39, 32: 1.32, 48: 1.38, 56: 1.34, 64: 1.38}
    length = PrefixAcceptance((0.730, 0.521, 0.355)).expected_tokens(3)
    for cell in table.cells:  # the published step can only cost more than the verify forward alone
        assert decompose_speedup(published[cell.batch_size], length).step_ratio > cell.decision.options[3].latency_ratio
    assert min(gains) > 1  # EAGLE-3 gains at every batch of the table


def _target_efficiency(gpu: str, model: str, batches: tuple[int, ...]) -> list[float]:
    table = schedule(gpu, model, acceptance=0.7, batch_sizes=batches, context_lengths=(512,), max_drafts=4)
    return [1 / cell.decision.options[4].latency_ratio for cell in table.cells]


@pytest.mark.parametrize(
    ("gpu", "model"),
    [
        ("a100", "mixtral"),  # the paper's devices are A800, H800 and L40; Mixtral ran on the first alone
        *itertools.product(("a100", "h100", "l40s"), ("deepseek-v2-lite", "qwen3-30b-a3b")),
    ],
)
def test_moe_target_efficiency_rises_then_falls(gpu: str, model: str) -> None:
    """T(B, 1) / T(B, gamma) of a MoE rises to an inner batch and falls after it: MoESD, arXiv 2505.19645, figure 2.

    Not monotone after the peak: a kernel whose tile rule changes with the rows makes one position dear too.
    """
    batches = (2, 4, 8, 16, 32, 64, 128, 256, 512)
    found = _target_efficiency(gpu, model, batches)
    peak = int(np.argmax(found))
    assert 8 <= batches[peak] <= 128
    assert found[peak] > 1.2 * found[0]
    assert found[peak] > 1.2 * min(found[peak:])


@pytest.mark.parametrize("gpu", ["a100", "h100", "l40s"])
def test_dense_target_efficiency_only_falls(gpu: str) -> None:
    """The same ratio of a dense model only falls (same paper); 2 % is left for tile steps and FlashAttention-2 on A100.

    From two sequences on, FlashAttention-2 copies the queries of one position into packed heads, and those of more positions not.
    """
    found = _target_efficiency(gpu, "llama-3.1-8b", (1, 2, 4, 8, 16, 32, 64, 128, 256, 512))
    assert all(after <= 1.02 * before for before, after in itertools.pairwise(found))
    assert found[-1] < 0.5 * found[0]


def test_sparser_moe_speculates_over_a_wider_batch_range() -> None:
    """MoESD: the sparser the MoE, the wider the batch range that gains; compared is how far 80 % of the peak reaches."""
    batches = (2, 4, 8, 16, 32, 64, 128, 256, 512)
    wide = []
    for model in ("mixtral", "qwen3-30b-a3b"):  # 2 of 8 and 8 of 128 experts
        found = _target_efficiency("a100", model, batches)
        beyond, least = found[int(np.argmax(found)) :], 0.8 * max(found)
        near_peak = next((i for i, value in enumerate(beyond) if value <= least), len(beyond))
        wide.append(batches[len(found) - len(beyond) + near_peak - 1])
    assert wide[0] < wide[1]


def test_long_contexts_keep_speculation_worth_it_at_large_batch() -> None:
    """MagicDec (arXiv 2408.11049), Llama-2-7B-32K on eight A100: at batch 32, 64 and 128 the gain grows from 4k to 16k."""
    model = load_model("llama-2-7b").model_copy(update={"max_context_length": 32768})
    contexts, batches = (4096, 8192, 16384), (32, 64, 128)
    table = schedule(
        "a100", model, acceptance=0.8, batch_sizes=batches, context_lengths=contexts, max_drafts=4, tensor_parallel=8
    )
    published = {32: (1.13, 1.27, 1.50), 64: (1.30, 1.51, 1.72)}
    for batch in batches:
        gains = [table.at(batch, context).decision.options[4].speedup for context in contexts]
        assert gains == sorted(gains)
        if batch in published:
            assert np.argsort(gains).tolist() == np.argsort(published[batch]).tolist()


# --- critical load ------------------------------------------------------------------------------------------------------


def test_critical_load_is_where_the_last_batch_pays() -> None:
    """A short context leaves the matrices to decide: in the compute-bound range each draft costs a whole position."""
    given: dict[str, Any] = {
        "batch_sizes": (1, 64, 256, 512, 1024),
        "context_lengths": (128, 2048),
        "draft": DraftCost(0.05),
    }
    table = schedule("h100", "llama-3.1-8b", acceptance=0.5, **given)
    short, long = table.critical_load(128), table.critical_load(2048)
    assert not short.censored
    assert short.rows == short.batch_size * (short.drafts + 1)
    beyond = [c for c in table.column(128) if c.batch_size > short.batch_size]
    assert beyond
    assert all(o.speedup <= 1 for c in beyond for o in c.decision.options)
    assert f"at batch {beyond[0].batch_size} no draft count gains" in short.reason
    assert short.rows < long.rows or long.censored
    assert table.critical_load() == min((short, long), key=lambda load: load.rows)
    assert f"critical batch x (K + 1): {short.rows} rows; {short.reason}" in str(table)


# --- exports ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["near_free", "throughput"])
def test_exports_read_back_to_the_table(rule: Any) -> None:
    for model in ("qwen3-30b-a3b", "llama-3.1-8b"):
        table = schedule("h100", model, acceptance=0.7, context_lengths=(4096,), rule=rule)
        wished = table.draft_schedule(4096)
        assert [wished.drafts_at(c.batch_size) for c in table.cells] == [c.chosen.drafts for c in table.cells]
        assert parse_vllm(export_table(table, "vllm").text, 256).dense() == wished.dense()
        sizes = captured_sizes("sglang", load_hardware("h100"), 2).tolist()
        read = parse_sglang(export_table(table, "sglang").text, 256, sizes)
        assert read.dense() == align_to_captured(wished, sizes).dense()
        held = table.draft_schedule(first_drafts_most=True)
        if held.largest == 0:
            with pytest.raises(UnsupportedError, match="got 0 drafts at every batch size"):
                export_table(table, "trtllm", dialect="upper")
            continue
        for dialect in ("upper", "lower"):
            export = export_table(table, "trtllm", dialect=dialect)
            assert parse_tensorrt_llm(export.text, 256, dialect).dense() == held.dense()
            assert ("held to the first batch size's drafts" in export.document) == (held != wished)


def test_held_schedule_is_the_best_of_all_that_start_highest(moe: Schedule) -> None:
    """Against every table of up to 16 drafts with K(B) <= K(first), batch by batch."""
    held = moe.draft_schedule(4096, first_drafts_most=True)
    column = moe.column(4096)
    speedups = [[option.speedup for option in cell.decision.options] for cell in column]

    def mean(first: int) -> float:
        rest = sum(math.log(max(row[: first + 1])) for row in speedups[1:])
        return math.exp((math.log(speedups[0][first]) + rest) / len(column))

    drafts = [held.drafts_at(cell.batch_size) for cell in column]
    assert max(drafts) == drafts[0]
    found = math.exp(sum(math.log(row[k]) for row, k in zip(speedups, drafts, strict=True)) / len(column))
    assert found == pytest.approx(max(mean(first) for first in range(17)))
    assert moe.draft_schedule(4096).drafts_at(1) < moe.draft_schedule(4096).largest  # so the rule had something to do


def test_export_names_context_acceptance_and_rule(moe: Schedule) -> None:
    document = export_table(moe, "vllm", 1024).document
    for words in ("context 1024 tokens", "constant 0.7 per token", "rule throughput", "Qwen3-30B-A3B", "backend vllm"):
        assert words in document
    with pytest.raises(InvalidArgumentError, match=r"no context axis: name one of the contexts \[1024, 4096\]"):
        export_table(moe, "vllm")
    with pytest.raises(InvalidArgumentError, match=r"the schedule holds contexts \[1024, 4096\], not 2048"):
        export_table(moe, "vllm", 2048)
    with pytest.raises(NfpModelError, match="unknown engine 'vlm'; did you mean 'vllm'"):
        export_table(moe, "vlm", 1024)


def test_mtp_and_tree_exports_take_the_engines_names() -> None:
    given: dict[str, Any] = {"batch_sizes": (8,), "context_lengths": (4096,), "max_drafts": 4}
    mtp = schedule("h200", "deepseek-v3", acceptance=0.8, method="mtp", **given)
    assert json.loads(export_table(mtp, "vllm").text)["method"] == "mtp"
    assert "decoding_type: MTP" in export_table(mtp, "trtllm", dialect="upper").text
    assert "--speculative-algorithm NEXTN" in export_table(mtp, "sglang").arguments
    with pytest.raises(InvalidArgumentError, match="lmdeploy has no one name for MTP drafting"):
        export_table(mtp, "lmdeploy")
    assert "deepseek_mtp" in export_table(mtp, "lmdeploy", method="deepseek_mtp").text
    tree = schedule("h100", "llama-3.1-8b", acceptance="tree:0.6,0.2", **given)
    assert export_table(tree, "sglang").text.endswith(
        "--speculative-num-steps 3 --speculative-eagle-topk 2 --speculative-num-draft-tokens 5"
    )
    with pytest.raises(UnsupportedError, match="vllm: a tree cannot be said as draft counts"):
        export_table(tree, "vllm")


# --- printing and data --------------------------------------------------------------------------------------------------


def test_text_shows_both_factors(dense: Schedule) -> None:
    text = str(dense)
    cell = dense.at(64, 4096)
    for point in (cell.decision.near_free, cell.decision.throughput):
        assert f"{point.tokens_per_forward:.2f}" in text
        assert f"{point.latency_ratio:.2f}" in text
    line = next(line for line in text.split("context 4096\n")[1].splitlines() if line.split()[0] == "64")
    near, best = cell.decision.near_free, cell.decision.throughput
    assert line.split()[3:] == [
        *(str(near.drafts), f"{near.tokens_per_forward:.2f}", f"{near.latency_ratio:.2f}", f"{near.speedup:.2f}x"),
        *(str(best.drafts), f"{best.tokens_per_forward:.2f}", f"{best.latency_ratio:.2f}", f"{best.speedup:.2f}x"),
    ]


def test_dict_is_json_and_the_frame_holds_its_rows(dense: Schedule) -> None:
    data = json.loads(json.dumps(dense.to_dict()))
    assert data["critical_load"]["rows"] == dense.critical_load().rows
    assert set(data["critical_loads"]) == {"1024", "4096"}
    for row in data["rows"]:
        assert row["speedup"] == pytest.approx(row["tokens_per_forward"] / (row["latency_ratio"] + row["draft_cost"]))
        assert row["positions"] == row["drafts"] + 1
    frame = dense.to_dataframe()
    assert frame.to_dict("records") == dense.to_dict()["rows"]


def test_warnings_name_what_does_not_fit(moe: Schedule) -> None:
    crowded = [c for c in moe.cells if not c.fits_memory]
    assert crowded
    assert "* weights and cache exceed one GPU's memory at batch (at context)" in str(moe)
    assert f"{crowded[0].batch_size}* " in str(moe)


# --- errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"acceptance": 1.2}, r"acceptance must lie in \[0, 1\], got 1.2"),
        ({"acceptance": (0.5, 0.7)}, "unconditional acceptance rates cannot rise"),
        ({"batch_sizes": ()}, "the grid of batch sizes is empty"),
        ({"context_lengths": ()}, "the grid of context lengths is empty"),
        ({"batch_sizes": (4, 2)}, r"batch sizes must strictly increase, got \[4, 2\]"),
        ({"context_lengths": (4096, 4096)}, r"context lengths must strictly increase, got \[4096, 4096\]"),
        ({"batch_sizes": (0, 1)}, "batch_size must be a whole number of at least 1, got 0"),
        ({"max_drafts": 0}, "max_drafts must be a whole number of at least 1, got 0"),
        ({"rule": "nearfree"}, "unknown rule 'nearfree'; did you mean 'near_free'"),
        ({"method": "chan"}, "unknown method 'chan'; did you mean 'chain'"),
        ({"method": "tree"}, r"method 'tree' needs rank rates \(tree:0.6,0.2\), got acceptance constant 0.7"),
        ({"method": "mtp", "acceptance": "tree:0.6,0.2"}, "method 'mtp' needs rates of a chain, got acceptance tree"),
        ({"backend": "vlm"}, "unknown backend 'vlm'; did you mean 'vllm'"),
        ({"draft": "qwen3-0.6"}, "unknown model 'qwen3-0.6'; did you mean"),
        ({"context_lengths": (200_000,)}, "context_length 200000 exceeds the 131072 tokens Llama-3.1-8B was made for"),
        ({"tolerance": 0.0}, "tolerance must be a finite number above 0"),
    ],
)
def test_bad_input_is_one_sentence(given: dict[str, Any], message: str) -> None:
    arguments = {"acceptance": 0.7, "batch_sizes": (1,), "context_lengths": (4096,), **given}
    with pytest.raises(NfpModelError, match=message) as caught:
        schedule("h100", "llama-3.1-8b", **arguments)
    assert "\n" not in str(caught.value)


def test_cells_outside_the_table_are_refused(dense: Schedule) -> None:
    with pytest.raises(InvalidArgumentError, match=r"the schedule holds batch sizes \[1, 8, 64\], not 2"):
        dense.at(2, 4096)
