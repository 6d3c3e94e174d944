"""The advice formulas against published worked numbers and speed-up tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from nfp_model.acceptance import (
    ConditionalAcceptance,
    ConstantAcceptance,
    DraftCost,
    LengthCurve,
    TokensPerForward,
    TreeAcceptance,
)
from nfp_model.errors import InvalidArgumentError, UnknownNameError
from nfp_model.scheduling import (
    break_even_acceptance,
    choose_positions,
    critical_load,
    decompose_speedup,
    diffusion_break_even,
)


@pytest.mark.parametrize(
    ("rate", "cost", "drafts", "speedup"),
    [
        (0.7, 0.05, 6, 2.35),
        (0.7, 0.1, 4, 1.98),
        (0.7, 0.2, 3, 1.58),
        (0.85, 0.05, 10, None),
        (0.85, 0.1, 7, None),
        (0.85, 0.2, 5, None),
    ],
)
def test_best_draft_count_at_free_verification(rate: float, cost: float, drafts: int, speedup: float | None) -> None:
    """V = 1 is Leviathan et al., arXiv 2211.17192, theorem 3.8; the values are worked from it."""
    best = choose_positions(lambda q: 1.0, ConstantAcceptance(rate), DraftCost(cost), rule="throughput").chosen
    assert best.drafts == drafts
    if speedup is not None:
        assert best.speedup == pytest.approx(speedup, abs=0.005)


def test_parallel_drafter_pays_once() -> None:
    """With one drafter forward for any K the longest chain is best, S = E / (1 + c)."""
    best = choose_positions([1.0] * 9, ConstantAcceptance(0.7), DraftCost(fixed=0.2), rule="throughput").chosen
    assert (best.drafts, best.draft_cost) == (8, 0.2)


@given(st.floats(0, 1), st.floats(0, 1))
def test_one_draft_breaks_even_above_tolerance_plus_cost(tolerance: float, cost: float) -> None:
    """K = 1 at the near-free limit V = 1 + eps: a > eps + c."""
    found = break_even_acceptance(1, 1 + tolerance + cost)
    if tolerance + cost > 1:
        assert found is None
    else:
        assert found == pytest.approx(tolerance + cost, abs=1e-9)


@given(st.integers(1, 12), st.floats(1.001, 5))
def test_break_even_acceptance_balances_the_step(drafts: int, ratio: float) -> None:
    found = break_even_acceptance(drafts, ratio)
    if found is None:
        assert ratio > drafts + 1
    else:
        assert ConstantAcceptance(found).expected_tokens(drafts) == pytest.approx(ratio)


def test_no_drafts_cost_nothing() -> None:
    """Engines skip the drafter at K = 0, so a dear drafter leaves plain decoding, at exactly 1x."""
    best = choose_positions([1.0, 1.0], ConstantAcceptance(0.7), DraftCost(0.5, fixed=0.5), rule="throughput").chosen
    assert (best.drafts, best.draft_cost, best.speedup) == (0, 0.0, 1.0)


steps = st.lists(st.floats(0, 0.5), min_size=1, max_size=15).map(lambda rises: np.cumsum([1.0, *rises]))


@given(steps, st.floats(0, 1), st.floats(0, 0.3), st.floats(0, 0.5))
def test_rules_mean_what_they_say(ratio: np.ndarray, rate: float, cost: float, tolerance: float) -> None:
    """Near-free is the last position of a rising curve within the tolerance; no other K gives more tokens a second."""
    decision = choose_positions(ratio, ConstantAcceptance(rate), DraftCost(cost), tolerance)
    assert decision.near_free.positions == int(np.searchsorted(ratio, 1 + tolerance, side="right"))
    drafts = np.arange(len(ratio))
    expected = np.array([sum(rate**i for i in range(k + 1)) for k in drafts])
    assert decision.throughput.speedup == pytest.approx((expected / (ratio + cost * drafts)).max())
    assert decision.chosen is decision.near_free
    assert decision.throughput.speedup >= 1.0


def test_near_free_looks_past_a_bump() -> None:
    """NFP is the largest position within the tolerance, also where the curve comes back."""
    assert choose_positions([1, 1.05, 1.2, 1.08, 1.3], ConstantAcceptance(0.5)).near_free.positions == 4


def test_best_draft_count_sits_at_the_end_of_a_stair() -> None:
    """A stair of 8 positions: extra drafts on it are free, the next stair costs a whole unit."""
    ratio = np.repeat([1.0, 2.0, 3.0], 8)
    for rate in (0.6, 0.8, 0.9):
        assert choose_positions(ratio, ConstantAcceptance(rate), rule="throughput").chosen.positions == 8


def test_moe_reason_says_when_nothing_is_free_and_when_it_pays_anyway() -> None:
    """128 experts, top-8: the union of experts grows at once (factor 1.94 for two tokens, MoESD equation 8)."""
    touched = np.array([128 * (1 - (1 - 8 / 128) ** q) for q in range(1, 5)])
    ratio = 0.6 + 0.4 * touched / touched[0]
    good = choose_positions(ratio, ConditionalAcceptance((0.9, 0.9, 0.9)))
    assert good.near_free.drafts == 0
    assert good.throughput.drafts == 3
    assert good.reason.startswith(
        "no draft is near-free at tolerance 0.1: 1 cost 1.38x; 3 drafts pay anyway: 3.44 tokens"
    )
    bad = choose_positions(ratio, ConditionalAcceptance((0.3, 0.3, 0.3)))
    assert bad.throughput.drafts == 0
    assert bad.reason.endswith("none pays, so do not speculate")
    assert bad.near_free.break_even_acceptance == 0.0


def test_all_free_reason_and_allowed_counts() -> None:
    decision = choose_positions([1.0] * 13, ConstantAcceptance(0.8), allowed_drafts=(1, 2, 3, 4, 5, 10))
    assert decision.near_free.drafts == 10
    assert decision.reason.startswith("all 10 drafts looked at are near-free")
    assert choose_positions([1.0] * 8, ConstantAcceptance(0.8), allowed_drafts=(3, 6)).near_free.drafts == 6


def test_tree_pays_a_position_a_node_and_a_drafter_step_a_level() -> None:
    tree = TreeAcceptance(((0.5, 0.3),))
    chosen = choose_positions([1, 1, 1, 1.5], tree, DraftCost(0.1), tolerance=0.0).chosen
    # the best two nodes are both guesses for the first position: two positions, one drafter forward
    assert (chosen.positions, chosen.tokens_per_forward, chosen.draft_cost) == (3, 1.8, 0.1)


@pytest.mark.parametrize(
    ("ratio", "keywords", "message"),
    [
        ([], {}, r"list of at least one value, got shape \(0,\)"),
        ([[1.0]], {}, "got shape"),
        ([1.1, 1.2], {}, r"V\(1\) must be 1, got 1.1"),
        ([1.0, float("nan")], {}, "finite and above 0"),
        ([1.0, 0.0], {}, "finite and above 0"),
        ([1.0], {"tolerance": -0.1}, "tolerance must be .* at least 0, got -0.1"),
    ],
)
def test_refused_curves(ratio: list[float], keywords: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        choose_positions(ratio, ConstantAcceptance(0.5), **keywords)  # type: ignore[arg-type]


def test_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown rule 'troughput'; did you mean 'throughput'"):
        choose_positions([1.0], ConstantAcceptance(0.5), rule="troughput")  # type: ignore[arg-type]


# --- published speed-ups, split --------------------------------------------------------------------------------------

# MoESD, arXiv 2505.19645: per gamma 2, 3, 4 the whole-run times T_AR, T_SD, accepted fraction sigma, speed-up x.
MOESD = {
    "Qwen2-57B 2xA800 HumanEval 0": [(18.89, 11.61, 0.94, 1.63), (15.93, 8.11, 0.93, 1.96), (15.93, 7.31, 0.91, 2.18)],
    "Qwen2-57B 2xA800 HumanEval 1": [
        (19.13, 12.93, 0.83, 1.48),
        (21.20, 14.09, 0.73, 1.50),
        (19.13, 11.14, 0.67, 1.72),
    ],
    "Qwen2-57B 2xA800 MT-bench 0": [(20.92, 16.70, 0.71, 1.25), (16.00, 12.43, 0.62, 1.29), (20.92, 17.53, 0.55, 1.19)],
    "Qwen2-57B 2xA800 MT-bench 1": [(21.15, 17.33, 0.68, 1.22), (19.09, 14.83, 0.57, 1.29), (19.09, 15.93, 0.48, 1.20)],
    "Mixtral 2xA800 HumanEval 0": [(20.86, 12.47, 0.78, 1.67), (21.00, 12.46, 0.66, 1.69), (20.86, 11.69, 0.58, 1.79)],
    "Mixtral 2xA800 MT-bench 0": [(21.61, 16.10, 0.61, 1.34), (21.61, 16.43, 0.46, 1.32), (21.36, 16.89, 0.39, 1.26)],
    "Qwen2-57B 2xH800 HumanEval 0": [(15.96, 9.34, 0.95, 1.71), (15.96, 7.95, 0.93, 2.01), (15.96, 6.96, 0.90, 2.29)],
    "Qwen2-57B 2xH800 MT-bench 0": [(24.42, 16.74, 0.71, 1.46), (24.42, 16.84, 0.62, 1.45), (24.42, 17.05, 0.54, 1.43)],
    "Qwen2-57B 4xA800 HumanEval 0": [(11.20, 6.77, 0.95, 1.65), (11.20, 5.89, 0.93, 1.90), (11.20, 5.38, 0.90, 2.08)],
    "Qwen2-57B 4xA800 MT-bench 0": [(11.26, 8.92, 0.72, 1.26), (11.26, 9.10, 0.61, 1.24), (11.26, 9.82, 0.52, 1.15)],
    "Qwen2-57B 4xL40 HumanEval 0": [(17.84, 10.00, 0.95, 1.79), (17.84, 8.33, 0.93, 2.14), (17.84, 7.94, 0.90, 2.25)],
    "Qwen2-57B 4xL40 MT-bench 0": [(20.40, 15.87, 0.71, 1.29), (20.40, 16.22, 0.62, 1.26), (20.40, 16.33, 0.54, 1.25)],
}


@pytest.mark.parametrize("setting", MOESD)
def test_moesd_rows(setting: str) -> None:
    """x = T_AR / T_SD; E = sigma (gamma + 1) over it is the step cost: never free, and dearer with each draft."""
    costs = []
    for gamma, (plain, speculative, sigma, published) in zip((2, 3, 4), MOESD[setting], strict=True):
        assert plain / speculative == pytest.approx(published, abs=0.011)
        parts = decompose_speedup(plain / speculative, sigma * (gamma + 1))
        assert parts.tokens_per_forward / parts.step_ratio == pytest.approx(parts.speedup)
        assert parts.target_efficiency == pytest.approx(published / (sigma * (gamma + 1)), rel=0.01)
        costs.append(parts.step_ratio)
    assert 1.0 < costs[0] < costs[1] < costs[2] * 1.001


def test_moesd_system_factor_hardly_knows_the_text() -> None:
    """2x H800: HumanEval over MT-bench is 1.17 to 1.60 in speed-up, 1.14 to 1.04 in step cost."""
    for gamma, code, chat in zip(
        (2, 3, 4), MOESD["Qwen2-57B 2xH800 HumanEval 0"], MOESD["Qwen2-57B 2xH800 MT-bench 0"], strict=True
    ):
        costs = [decompose_speedup(row[0] / row[1], row[2] * (gamma + 1)).step_ratio for row in (code, chat)]
        speedups = [row[0] / row[1] for row in (code, chat)]
        assert 1.0 < costs[0] / costs[1] < 1.15 < speedups[0] / speedups[1]


# EAGLE-3, arXiv 2503.01840, tables 3 and 5 (read second-hand): throughput over no speculation, Llama-3.1-8B, MT-bench.
EAGLE_BATCHES = (2, 4, 8, 16, 24, 32, 48, 56)
EAGLE_VLLM_A100_CHAIN_2 = (1.30, 1.25, 1.21, 1.10, 1.03, 0.93, 0.82, 0.71)
EAGLE3_VLLM_A100_CHAIN_2 = (1.75, 1.68, 1.58, 1.49, 1.42, 1.36, 1.21, 1.01)


def published_decisions(speedups: tuple[float, ...], drafts: int, length: float) -> list:  # type: ignore[type-arg]
    acceptance = LengthCurve(tuple(min(k + 1.0, length) for k in range(1, drafts + 1)))
    curves = [[1.0] * drafts + [length / s] for s in speedups]
    return [
        (batch, choose_positions(curve, acceptance, rule="throughput", allowed_drafts=(drafts,)))
        for batch, curve in zip(EAGLE_BATCHES, curves, strict=True)
    ]


@pytest.mark.parametrize("length", [1.6, 2.0, 2.8])
def test_critical_load_of_the_eagle_batch_sweep(length: float) -> None:
    """Chain 2 in vLLM on A100: EAGLE last pays at batch 24, EAGLE-3 still at 56; whatever length split it came from."""
    eagle = critical_load(published_decisions(EAGLE_VLLM_A100_CHAIN_2, 2, length))
    assert (eagle.rows, eagle.batch_size, eagle.drafts, eagle.censored) == (72, 24, 2, False)
    assert eagle.reason == "at batch 24, 2 drafts still give 1.03x; at batch 32 no draft count gains"
    eagle3 = critical_load(published_decisions(EAGLE3_VLLM_A100_CHAIN_2, 2, length))
    assert (eagle3.rows, eagle3.censored) == (168, True)
    assert eagle3.reason == "at batch 56, 2 drafts still give 1.01x; larger batches were not looked at"


def test_eagle_system_factor_rises_with_batch() -> None:
    """One accepted length per drafter, so the falling speed-up is the system's: the step costs more at every batch."""
    for speedups, length in ((EAGLE_VLLM_A100_CHAIN_2, 1.9), (EAGLE3_VLLM_A100_CHAIN_2, 2.4)):
        costs = [decompose_speedup(s, length).step_ratio for s in speedups]
        assert costs == sorted(costs)
        assert costs[-1] / costs[0] > 1.7


def test_magicdec_context_makes_steps_cheaper() -> None:
    """MagicDec, arXiv 2408.11049 (read second-hand): speed-up grows with context and, there, with batch."""
    table = {4: (1.13, 1.30, 1.32), 8: (1.27, 1.51, 1.60), 16: (1.50, 1.72)}
    costs = {context: [decompose_speedup(s, 2.0).step_ratio for s in row] for context, row in table.items()}
    for row in costs.values():
        assert row == sorted(row, reverse=True)
    for batch in range(2):
        assert costs[4][batch] > costs[8][batch] > costs[16][batch]


def test_batch_one_overheads_of_drafters() -> None:
    """Vicuna-13B, EAGLE-3 paper: speed-up over length is 0.84 (Medusa), 0.77 (EAGLE), 0.83 (EAGLE-3)."""
    for speedup, length, efficiency in ((2.12, 2.51, 0.84), (3.05, 3.96, 0.77), (5.51, 6.62, 0.83)):
        assert decompose_speedup(speedup, length).target_efficiency == pytest.approx(efficiency, abs=0.005)


def test_critical_load_where_small_batches_lose() -> None:
    """MoESD's shape: at small batch new experts cost, in the middle it pays, at large batch compute costs."""
    grid = [
        (b, choose_positions([1, v], ConstantAcceptance(0.5))) for b, v in ((1, 1.8), (16, 1.2), (256, 1.4), (512, 1.9))
    ]
    found = critical_load(grid)
    assert (found.first_batch_size, found.batch_size, found.rows) == (16, 256, 512)
    assert critical_load(grid[:1]).reason == "speculation pays at no batch size looked at"
    assert critical_load(grid[:1]).rows == 0


def test_critical_load_refusals() -> None:
    decision = choose_positions([1.0], ConstantAcceptance(0.5))
    with pytest.raises(InvalidArgumentError, match="grid of batch sizes is empty"):
        critical_load([])
    with pytest.raises(InvalidArgumentError, match=r"strictly increase, got \[4, 4\]"):
        critical_load([(4, decision), (4, decision)])
    with pytest.raises(InvalidArgumentError, match="speedup must be a finite number above 0, got 0"):
        decompose_speedup(0.0, 2.0)


# --- diffusion -----------------------------------------------------------------------------------------------------


def test_llada2_equal_block_costs_the_same() -> None:
    """LLaDA2.0-flash 383 tokens/s at TPF 3.19, CAP 535 at 4.65, both blocks of 32: 8.3 and 8.7 ms a forward.

    The TPF average 12 benchmarks and the speeds four, hence 5 %.
    """
    assert pytest.approx(8.3e-3, abs=5e-5) == 3.19 / 383
    assert pytest.approx(8.7e-3, abs=5e-5) == 4.65 / 535
    assert decompose_speedup(535 / 383, 4.65 / 3.19).step_ratio == pytest.approx(1.0, abs=0.05)


def test_break_even_tokens_are_the_latency_ratio() -> None:
    """LLaDA2.0-mini, arXiv 2512.15745 figure 4: 2.44 at block 16, 2.55 at 32; the larger block must cost < 4.5 % more."""
    curve = TokensPerForward((16, 32), (2.44, 2.55))
    dear = diffusion_break_even({16: 1.2, 32: 1.3}.__getitem__, (16, 32), curve)
    assert dear.best is not None
    assert (dear.best.block, dear.best.tokens_needed) == (16, 1.2)
    assert dear.best.speedup == pytest.approx(2.44 / 1.2)
    cheap = diffusion_break_even({16: 1.2, 32: 1.25}.__getitem__, (16, 32), curve)
    assert cheap.best is not None
    assert cheap.best.block == 32
    assert cheap.largest_near_free is None


@given(st.lists(st.floats(1, 40), min_size=7, max_size=7), st.floats(0, 1))
def test_every_block_is_judged(ratios: list[float], tolerance: float) -> None:
    blocks = (4, 8, 16, 32, 64, 128, 256)
    by_block = dict(zip(blocks, ratios, strict=True))
    answer = diffusion_break_even(by_block.__getitem__, tolerance=tolerance)
    assert answer.best is None
    for point in answer.blocks:
        assert point.speedup is None
        assert point.latency_ratio == by_block[point.block]
        assert point.attainable == (by_block[point.block] <= point.block)
    free = [block for block, ratio in by_block.items() if ratio <= 1 + tolerance]
    assert (answer.largest_near_free.block if answer.largest_near_free else None) == (max(free) if free else None)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ((), "grid of block sizes is empty"),
        ((8, 4), r"strictly increase, got \[8, 4\]"),
        ((0,), "block must be a whole"),
    ],
)
def test_diffusion_refusals(blocks: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        diffusion_break_even(lambda q: 1.0, blocks)


def test_diffusion_table_too_short() -> None:
    with pytest.raises(InvalidArgumentError, match="given up to 3 positions, asked for 4"):
        diffusion_break_even([1.0, 1.0, 1.0], (4,))
