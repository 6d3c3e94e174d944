"""Acceptance models against simulation, published acceptance lists and each other."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from nfp_model.acceptance import (
    PUBLISHED_TOKENS_PER_FORWARD,
    AcceptanceModel,
    ConditionalAcceptance,
    ConstantAcceptance,
    DraftCost,
    LengthCurve,
    PrefixAcceptance,
    TokensPerForward,
    TreeAcceptance,
    acceptance_from,
    full_tree_tokens,
    medusa_heads,
    mtp_draft_counts,
    prefix_from_length,
    read_acceptance,
    tree_tokens,
)
from nfp_model.errors import InvalidArgumentError, UnknownNameError

rates = st.floats(0, 1)
rate_lists = st.lists(rates, min_size=1, max_size=10).map(tuple)

# Unconditional rates and the mean accepted length printed beside them: vLLM tests/v1/spec_decode/test_acceptance_length.py
# (Llama-3.1-8B, Qwen3-8B, gpt-oss-20b with EAGLE-3), vLLM #48892 (MTP K 8), llama.cpp #24536, vLLM #41044 (both draft
# samplings). Rates are printed with three digits and the means were averaged apart, hence 0.01.
PUBLISHED_PREFIX = [
    ((0.730, 0.521, 0.355), 2.60),
    ((0.654, 0.399, 0.202), 2.26),
    ((0.717, 0.512, 0.334), 2.56),
    ((0.762, 0.616, 0.513, 0.424, 0.364, 0.309, 0.272, 0.237), 4.50),
    ((0.805, 0.632, 0.483), 2.92),
    ((0.700, 0.287), 1.99),
    ((0.149, 0.057), 1.21),
]


def simulate_chain(conditional: list[float], rounds: int = 200_000) -> tuple[float, float]:
    """Mean tokens of a chain drawn token by token, and its standard error."""
    draws = np.random.default_rng(7).random((rounds, len(conditional))) < np.array(conditional)
    tokens = 1 + np.cumprod(draws, axis=1).sum(axis=1)
    return float(tokens.mean()), float(tokens.std() / np.sqrt(rounds))


@pytest.mark.parametrize(
    ("model", "conditional"),
    [
        (ConstantAcceptance(0.7), [0.7] * 5),
        (ConditionalAcceptance((0.73, 0.71, 0.68)), [0.73, 0.71, 0.68]),
        (PrefixAcceptance((0.8, 0.4, 0.1)), [0.8, 0.5, 0.25]),
    ],
)
def test_chains_agree_with_simulation(model: AcceptanceModel, conditional: list[float]) -> None:
    mean, error = simulate_chain(conditional)
    assert abs(model.expected_tokens(len(conditional)) - mean) < 5 * error


def test_leviathan_worked_number() -> None:
    """a 0.7, K 5 gives 2.941 (arXiv 2211.17192, equation 1)."""
    assert ConstantAcceptance(0.7).expected_tokens(5) == pytest.approx((1 - 0.7**6) / 0.3)
    assert round(ConstantAcceptance(0.7).expected_tokens(5), 3) == 2.941


@pytest.mark.parametrize(("prefix", "length"), PUBLISHED_PREFIX)
def test_published_rates_are_unconditional(prefix: tuple[float, ...], length: float) -> None:
    """Read as conditional rates the same lists miss the published mean by far."""
    assert PrefixAcceptance(prefix).expected_tokens(len(prefix)) == pytest.approx(length, abs=0.01)
    assert abs(ConditionalAcceptance(prefix).expected_tokens(len(prefix)) - length) > 0.04


@pytest.mark.parametrize(
    ("prefix", "conditional"),
    [
        ((0.730, 0.521, 0.355), (0.73, 0.71, 0.68)),
        ((0.654, 0.399, 0.202), (0.65, 0.61, 0.51)),
        ((0.717, 0.512, 0.334), (0.72, 0.71, 0.65)),
    ],
)
def test_published_conditional_rates(prefix: tuple[float, ...], conditional: tuple[float, ...]) -> None:
    assert PrefixAcceptance(prefix).conditional.rates == pytest.approx(conditional, abs=0.006)


def test_published_mtp_conditional_rates_rise() -> None:
    """The MTP list of vLLM #48892 goes from 0.76 to 0.87: one constant would be wrong at both ends."""
    found = PrefixAcceptance(PUBLISHED_PREFIX[3][0]).conditional.rates
    assert found[0] == pytest.approx(0.76, abs=0.005)
    assert found[-1] == pytest.approx(0.87, abs=0.005)


@given(rate_lists)
def test_conventions_convert_back(conditional: tuple[float, ...]) -> None:
    model = ConditionalAcceptance(conditional)
    drafts = len(conditional)
    assert model.prefix.conditional.prefix.rates == pytest.approx(model.prefix.rates)
    assert model.prefix.token_curve(drafts) == pytest.approx(model.token_curve(drafts))


@given(rates, st.integers(0, 40))
def test_constant_is_a_constant_list_and_the_closed_form(rate: float, drafts: int) -> None:
    found = ConstantAcceptance(rate).expected_tokens(drafts)
    if drafts:
        assert found == pytest.approx(ConditionalAcceptance((rate,) * drafts).expected_tokens(drafts))
    if rate < 0.999:
        assert found == pytest.approx((1 - rate ** (drafts + 1)) / (1 - rate))


@given(rate_lists)
def test_tokens_never_fall_with_drafts_and_stay_within_bounds(conditional: tuple[float, ...]) -> None:
    curve = ConditionalAcceptance(conditional).token_curve(len(conditional))
    assert (np.diff(curve) >= 0).all()
    assert (curve <= np.arange(1, len(curve) + 1) + 1e-12).all()


@given(st.integers(1, 12).flatmap(lambda k: st.tuples(st.just(k), st.floats(1, k + 1))))
def test_length_becomes_the_list_of_least_variance(case: tuple[int, float]) -> None:
    """A whole-number count of mean L has variance at least f(1 - f), f the fraction of L: the list reaches it."""
    drafts, length = case
    model = prefix_from_length(length, drafts)
    assert model.expected_tokens(drafts) == pytest.approx(length)
    survival = np.array([1.0, *model.rates, 0.0])
    probability = survival[:-1] - survival[1:]  # of emitting 1, 2, ... tokens
    values = np.arange(1, drafts + 2)
    variance = float(probability @ values**2 - (probability @ values) ** 2)
    fraction = length - np.floor(length)
    assert variance == pytest.approx(fraction * (1 - fraction), abs=1e-9)


def test_measured_lengths_may_fall_but_stay_possible() -> None:
    """InferenceX dsv4_dspark_probabilistic.yaml, thinking on: E falls from K 7 to K 8."""
    model = LengthCurve((1.86, 2.55, 3.08, 3.43, 3.74, 3.82, 3.86, 3.75))
    assert model.expected_tokens(7) > model.expected_tokens(8)
    with pytest.raises(InvalidArgumentError, match=r"must lie in \[1, 2\] for 1 drafts.* got 2.1"):
        LengthCurve((2.1,))


def test_mtp_depths_refused_in_the_field() -> None:
    """InferenceX met vLLM's refusal of 6, 7 and 8 for n_predict 5."""
    assert mtp_draft_counts(5, 10) == (1, 2, 3, 4, 5, 10)
    assert mtp_draft_counts(1, 4) == (1, 2, 3, 4)


# --- trees ---------------------------------------------------------------------------------------------------------


def full_tree(width: int, depth: int) -> tuple[list[int], list[int]]:
    parents: list[int] = []
    ranks: list[int] = []
    level = [0]
    for _ in range(depth):
        following = []
        for parent, rank in itertools.product(level, range(1, width + 1)):
            parents.append(parent)
            ranks.append(rank)
            following.append(len(parents))
        level = following
    return parents, ranks


@given(st.lists(st.floats(0, 0.33), min_size=1, max_size=3), st.integers(1, 3))
def test_full_tree_formula_is_the_sum_over_its_nodes(ranks: list[float], depth: int) -> None:
    ordered = sorted(ranks, reverse=True)
    tokens, positions = full_tree_tokens(ordered, depth)
    parents, node_ranks = full_tree(len(ordered), depth)
    assert tokens == pytest.approx(tree_tokens(parents, node_ranks, ordered))
    assert positions == 1 + len(parents)


def test_full_tree_agrees_with_simulation() -> None:
    """At every level the token is rank 1, rank 2 or none of them."""
    shares, depth, rounds = [0.6, 0.2], 3, 200_000
    found = np.random.default_rng(3).choice(3, p=[*shares, 0.2], size=(rounds, depth)) < 2
    tokens = 1 + np.cumprod(found, axis=1).sum(axis=1)
    expected, positions = full_tree_tokens(shares, depth)
    assert abs(expected - tokens.mean()) < 5 * tokens.std() / np.sqrt(rounds)
    assert positions == 15


@pytest.mark.parametrize("shares", [(0.6, 0.2), (0.45, 0.4), (0.9, 0.05)])
@pytest.mark.parametrize("drafts", [1, 2, 3, 4, 5])
def test_best_tree_beats_every_other(shares: tuple[float, float], drafts: int) -> None:
    """Against all subtrees of the full binary tree of depth 3 with so many nodes below the root."""
    parents, ranks = full_tree(2, 3)
    best = 0.0
    for nodes in itertools.combinations(range(1, len(parents) + 1), drafts):
        kept = set(nodes) | {0}
        if all(parents[node - 1] in kept for node in nodes):
            number = {0: 0} | {node: i for i, node in enumerate(nodes, start=1)}
            chosen = tree_tokens([number[parents[n - 1]] for n in nodes], [ranks[n - 1] for n in nodes], shares)
            best = max(best, chosen)
    assert TreeAcceptance((shares,), max_depth=3).expected_tokens(drafts) == pytest.approx(best)


@given(rates, st.integers(1, 15))
def test_tree_of_width_one_is_a_chain(rate: float, drafts: int) -> None:
    tree = TreeAcceptance(((rate,),))
    assert tree.token_curve(drafts) == pytest.approx(ConstantAcceptance(rate).token_curve(drafts))
    assert tree.draft_steps(drafts).tolist() == list(range(drafts + 1))


@given(st.lists(st.floats(0.01, 0.33), min_size=2, max_size=3), st.integers(1, 14))
def test_tree_emits_no_less_than_its_best_chain(ranks: list[float], drafts: int) -> None:
    ordered = tuple(sorted(ranks, reverse=True))
    tree = TreeAcceptance((ordered,))
    chain = ConstantAcceptance(ordered[0])
    assert (tree.token_curve(drafts) >= chain.token_curve(drafts) - 1e-12).all()
    assert (tree.draft_steps(drafts) <= chain.draft_steps(drafts)).all()


def test_medusa_heads_multiply() -> None:
    """E = 1 + A_1(s_1) + A_1(s_1) A_2(s_2) of the full tree, whatever the heads; differences of A leave rounding."""
    heads = [[0.5, 0.7, 0.8], [0.4, 0.6]]
    tree = medusa_heads(heads)
    assert tree.max_drafts == 3 + 6
    assert tree.expected_tokens(9) == pytest.approx(1 + 0.8 + 0.8 * 0.6)
    assert medusa_heads([[0.1, 0.2, 0.3]]).expected_tokens(3) == pytest.approx(1.3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TreeAcceptance(((0.2, 0.6),)), r"must not rise with the rank, got \[0.2, 0.6\]"),
        (lambda: TreeAcceptance(((0.8, 0.4),)), "must sum to at most 1, got 1.2"),
        (lambda: TreeAcceptance(()), "at least one level, got none"),
        (lambda: TreeAcceptance(((0.5,),), max_depth=2).token_curve(3), "known up to 2 drafts, got 3"),
        (lambda: tree_tokens([1], [1], [0.5]), r"parent of node 1 must lie in \[0, 0\], got 1"),
        (lambda: tree_tokens([0], [2], [0.5]), r"rank of node 1 must lie in \[1, 1\], got 2"),
        (lambda: tree_tokens([0, 0], [1, 1], [0.5]), "once, got it twice"),
        (lambda: tree_tokens([0, 0], [1], [0.5]), "equally long, got 2 and 1"),
        (lambda: medusa_heads([[0.5, 0.4]]), r"head 1 must not fall with s, got \[0.5, 0.4\]"),
        (lambda: medusa_heads([]), "at least one head"),
        (lambda: ConstantAcceptance(1.2), r"acceptance must lie in \[0, 1\], got 1.2"),
        (lambda: ConstantAcceptance(float("nan")), r"acceptance must lie in \[0, 1\], got nan"),
        (lambda: PrefixAcceptance(()), "must hold at least one rate, got an empty list"),
        (lambda: PrefixAcceptance((0.5, 0.6)), "cannot rise, got 0.6 after 0.5 at position 2; .*'conditional:...'"),
        (lambda: ConditionalAcceptance((0.5, -0.1)), r"must lie in \[0, 1\], got -0.1 at position 2"),
        (lambda: PrefixAcceptance((0.5,)).token_curve(2), "known up to 1 drafts, got 2"),
        (lambda: ConstantAcceptance(0.5).token_curve(-1), "whole number of at least 0, got -1"),
        (lambda: LengthCurve(()), "at least one mean accepted length"),
        (lambda: prefix_from_length(4.5, 3), r"must lie in \[1, 4\] for 3 drafts.* got 4.5"),
        (lambda: mtp_draft_counts(0, 3), "predict_layers must be a whole number of at least 1, got 0"),
        (lambda: DraftCost(per_step=-0.1), "draft cost per_step must be .* at least 0, got -0.1"),
        (lambda: TokensPerForward((), ()), "at least one block size, got none"),
        (lambda: TokensPerForward((16,), (2.0, 3.0)), "equally long, got 1 and 2"),
        (lambda: TokensPerForward((32, 16), (2.0, 3.0)), r"strictly increase, got \[32, 16\]"),
        (lambda: TokensPerForward((4,), (5.0,)), r"must lie in \(0, 4\] at block 4, got 5.0"),
        (lambda: TokensPerForward((4,), (2.0,)).at(8), r"measured at blocks \[4\], not at 8"),
    ],
)
def test_refusals(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(InvalidArgumentError, match=message):
        call()


# --- forms and files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_form", "model"),
    [
        (0.7, ConstantAcceptance(0.7)),
        ("0.7", ConstantAcceptance(0.7)),
        ([0.73, 0.521], PrefixAcceptance((0.73, 0.521))),
        ("0.73, 0.521", PrefixAcceptance((0.73, 0.521))),
        ("unconditional:0.73", PrefixAcceptance((0.73,))),
        ("conditional:0.73,0.71", ConditionalAcceptance((0.73, 0.71))),
        ("length:2.5@3", PrefixAcceptance((1.0, 0.5, 0.0))),
        ("lengths:1.78,2.38", LengthCurve((1.78, 2.38))),
        ("tree:0.6,0.2", TreeAcceptance(((0.6, 0.2),))),
        (ConstantAcceptance(0.5), ConstantAcceptance(0.5)),
    ],
)
def test_forms(given_form: float | str | list[float] | AcceptanceModel, model: AcceptanceModel) -> None:
    assert acceptance_from(given_form) == model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("often", "acceptance 'often' is neither a rate"),
        ("length:2.5", "given as 'length:2.6@3' .* got 'length:2.5'"),
        ("conditional:a", "'conditional:' takes numbers"),
        ("1.7", r"must lie in \[0, 1\], got 1.7"),
        ("nowhere.json", "nowhere.json: cannot be read"),
    ],
)
def test_forms_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        acceptance_from(text)


@pytest.mark.parametrize(
    ("name", "content", "model"),
    [
        ("a.json", '{"constant": 0.7}', ConstantAcceptance(0.7)),
        ("a.json", '{"unconditional": [0.7, 0.5], "source": "server log"}', PrefixAcceptance((0.7, 0.5))),
        ("a.json", '{"conditional": [0.7, 0.8]}', ConditionalAcceptance((0.7, 0.8))),
        ("a.json", '{"lengths": [1.8, 2.4]}', LengthCurve((1.8, 2.4))),
        ("a.json", '{"tree": [0.6, 0.2]}', TreeAcceptance(((0.6, 0.2),))),
        ("a.json", '{"length": 1.5, "drafts": 2}', PrefixAcceptance((0.5, 0.0))),
        ("a.json", '{"drafts": 200, "accepted_per_position": [150, 100]}', PrefixAcceptance((0.75, 0.5))),
        ("a.csv", "# log\nposition,unconditional\n1,0.7\n2,0.5\n", PrefixAcceptance((0.7, 0.5))),
        ("a.csv", "position,conditional\n1,0.7\n2,0.8\n", ConditionalAcceptance((0.7, 0.8))),
        # position 2 was drafted in half of the rounds: 60 of 100, not 60 of 200
        ("a.CSV", "position, drafts, accepted\n1,200,150\n2,100,60\n", PrefixAcceptance((0.75, 0.6))),
    ],
)
def test_files(tmp_path: Path, name: str, content: str, model: AcceptanceModel) -> None:
    (tmp_path / name).write_text(content)
    assert acceptance_from(str(tmp_path / name)) == model
    assert acceptance_from(tmp_path / name) == model


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "0.7", r"ends in .csv or .json, got '.*a.txt'"),
        ("a.json", "{", "a.json: not valid JSON"),
        ("a.json", "[0.7]", "must hold one JSON object, got list"),
        ("a.json", "{}", "exactly one of .* got none"),
        ("a.json", '{"constant": 0.7, "conditional": [0.7]}', "got conditional, constant"),
        ("a.json", '{"constant": "0.7"}', "key 'constant' must be a number, got '0.7'"),
        ("a.json", '{"unconditional": [0.7, true]}', "key 'unconditional' must be a list of numbers"),
        ("a.json", '{"unconditional": []}', "at least one rate"),
        ("a.json", '{"drafts": 0, "accepted_per_position": [1]}', "key 'drafts' must be a whole number"),
        ("a.json", '{"drafts": 10, "accepted_per_position": [11]}', r"must lie in \[0, 1\], got 1.1"),
        ("a.csv", "", "the header must be .* got ''"),
        ("a.csv", "position,rate\n1,0.7\n", "got 'position,rate'"),
        ("a.csv", "position,conditional\n0,0.7\n", "must run 1, 2, 3, ..., got 0 on data line 1"),
        ("a.csv", "position,conditional\n1,0.7,0.8\n", "must hold 2 numbers"),
        ("a.csv", "position,unconditional\n1,0.5\n2,0.6\n", "cannot rise"),
        ("a.csv", "position,drafts,accepted\n1,0,0\n", "drafts must be above 0"),
    ],
)
def test_files_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidArgumentError, match=message):
        read_acceptance(tmp_path / name)


def test_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"conditonal": [0.7]}))
    with pytest.raises(
        UnknownNameError, match=r"a.json: unknown acceptance key 'conditonal'; did you mean 'conditional'"
    ):
        read_acceptance(path)


def test_published_tokens_per_forward_fit_their_blocks() -> None:
    """LLaDA2.0-flash-CAP over LLaDA2.0-flash is published as 1.46x."""
    by_name = {p.model: p for p in PUBLISHED_TOKENS_PER_FORWARD}
    ratio = by_name["LLaDA2.0-flash-CAP"].tokens / by_name["LLaDA2.0-flash"].tokens
    assert ratio == pytest.approx(1.46, abs=0.005)
    for point in PUBLISHED_TOKENS_PER_FORWARD:
        assert TokensPerForward((point.block,), (point.tokens,)).at(point.block) == point.tokens
