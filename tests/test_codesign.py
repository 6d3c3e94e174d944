"""Elasticities agree with numerical derivatives, inverse answers with sampling of the whole range."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from nfp_model import Attention, FusedMoE, Gemm, load_hardware, load_model, operator_latency, predict_nfp
from nfp_model.codesign import Sensitivities, bandwidth_for, sensitivities, solve_for, tile_for
from nfp_model.codesign.elasticities import equation_elasticities
from nfp_model.codesign.inverse import BANDWIDTH, PEAK
from nfp_model.codesign.tiles import fixed_tiles, scaled_tiles
from nfp_model.cost.binding import bind
from nfp_model.cost.compiled import evaluate
from nfp_model.cost.rates import seconds_over_rates
from nfp_model.errors import InvalidArgumentError, NfpModelError, UnknownNameError, UnsupportedError
from nfp_model.specs.variants import with_fields

LLAMA: dict[str, Any] = {"backend": "vllm", "max_positions": 1024}
EVERY_LEVER = {
    "bandwidth", "peak", "sm_count", "tile_rows", "top_k", "experts", "gqa_group", "head_size", "weight_bits",
}  # fmt: skip


@pytest.fixture(scope="module")
def dense() -> Sensitivities:
    return sensitivities("h100", "llama-3.1-8b", **LLAMA)


@pytest.fixture(scope="module")
def experts() -> Sensitivities:
    return sensitivities("h100", "mixtral", baseline="saturated", **LLAMA)


# Elasticities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 24, 300])
@pytest.mark.parametrize(
    "operator",
    [Gemm(8192, 4096), FusedMoE(2048, 768, 128, 8), Attention(32, 8, 128, 8192)],
    ids=lambda operator: type(operator).__name__,
)
def test_symbolic_elasticities_are_numerical_derivatives(operator: Any, tokens: int) -> None:
    bound = bind(load_hardware("h100"), operator, "vllm")
    kind, values = bound.winning_inputs(tokens)
    step = 1e-5
    for name, exact in equation_elasticities(bound, tokens).items():
        up, down = (float(evaluate(kind, {**values, name: values[name] * math.exp(s)})) for s in (step, -step))
        assert exact == pytest.approx(math.log(up / down) / (2 * step), abs=1e-7), name


@pytest.mark.parametrize("positions", [1, 48])
def test_rates_alone_move_latency_as_their_elasticities_say(positions: int) -> None:
    found = sensitivities("h100", "llama-3.1-8b", positions=positions, **LLAMA)
    forward, step = found.prediction.forward, 1e-4
    ones, around = np.ones(2), np.exp([-step, step])
    for lever, rates in (("bandwidth", (around, ones)), ("peak", (ones, around))):
        total = np.zeros(2)
        for use, bound in zip(forward.uses, forward.bound, strict=True):
            total += use.count * seconds_over_rates(bound, forward.tokens(use, np.array([positions])), *rates)[:, 0]
        assert found[lever].latency_held == pytest.approx(math.log(total[1] / total[0]) / (2 * step), abs=1e-4)


def test_peak_elasticity_is_the_derivative_of_the_printed_expression() -> None:
    import sympy

    prediction = predict_nfp("h100", "llama-3.1-8b", **LLAMA)
    peak, bandwidth = (sympy.Symbol(name, positive=True) for name in ("P_bfloat16", "BW"))
    elasticity = sympy.diff(prediction.expression, peak) * peak / prediction.expression
    chip = prediction.hardware
    values = {peak: chip.peak_flop_per_s["bfloat16"], bandwidth: chip.memory_bandwidth_bytes_per_s}
    found = sensitivities("h100", "llama-3.1-8b", positions=prediction.nfp, **LLAMA)
    assert found["peak"].latency_held == pytest.approx(float(elasticity.subs(values)), rel=1e-6)


def test_a_dense_model_has_no_expert_levers(dense: Sensitivities) -> None:
    assert {row.lever for row in dense.rows} == EVERY_LEVER - {"top_k", "experts"}
    with pytest.raises(UnknownNameError, match="unknown lever 'top_k'"):
        dense["top_k"]


def test_a_sparse_model_has_every_lever(experts: Sensitivities) -> None:
    assert {row.lever for row in experts.rows} == EVERY_LEVER


def test_one_position_is_bandwidth_and_not_compute(dense: Sensitivities) -> None:
    # At batch 1 arithmetic intensity is about 1 FLOP/B against a ridge of 295: weights stream, compute waits.
    assert -1 <= dense["bandwidth"].latency_held < -0.6
    assert abs(dense["peak"].latency_held) < 0.01
    assert 0.6 < dense["weight_bits"].latency_held <= 1
    # 4096 cached tokens of Llama-3.1-8B are 0.54 GB beside 16 GB of weights.
    assert 0 < dense["head_size"].latency_held < 0.4


def test_held_and_true_latency_agree_where_no_count_changes(dense: Sensitivities, experts: Sensitivities) -> None:
    for found in (dense, experts):
        for lever in ("bandwidth", "peak"):
            row = found[lever]
            assert row.latency_truth == pytest.approx(row.latency_held, abs=0.02)
    # Every expert is read from the saturated step: twice the experts, twice the bytes.
    assert experts["experts"].latency_truth == pytest.approx(experts["experts"].latency_held, abs=0.05)


def test_top_k_at_one_position_is_the_experts_read() -> None:
    # One token visits exactly k experts, whatever the routing: their bytes are proportional to k.
    found = sensitivities("h100", "mixtral", backend="vllm", max_positions=64)
    assert 0.5 < found["top_k"].latency_held <= 1
    assert found["top_k"].latency_truth == pytest.approx(found["top_k"].latency_held, abs=0.05)
    assert abs(found["experts"].latency_held) < 0.01


def test_truth_is_that_of_the_neighbouring_predictions(dense: Sensitivities) -> None:
    row = dense["bandwidth"]
    base = load_hardware("h100")
    chips = [with_fields(base, {"memory_bandwidth_bytes_per_s": value}) for value in row.compared]
    found = [predict_nfp(chip, "llama-3.1-8b", **LLAMA) for chip in chips]
    assert row.nfp_compared == tuple(prediction.nfp for prediction in found)
    slope = math.log(found[1].nfp / found[0].nfp) / math.log(row.compared[1] / row.compared[0])
    assert row.nfp_truth == pytest.approx(slope)


def test_more_experts_make_more_positions_free_once_all_are_read(experts: Sensitivities) -> None:
    row = experts["experts"]
    assert row.nfp_compared[0] < experts.prediction.nfp < row.nfp_compared[1]
    assert row.nfp_held is not None
    assert row.nfp_held > 0
    assert row.nfp_truth is not None
    assert row.nfp_truth > 0


def test_a_censored_boundary_has_no_elasticity() -> None:
    found = sensitivities("h100", "llama-3.1-8b", backend="vllm", max_positions=4)
    assert found.prediction.censored
    assert {row.nfp_held for row in found.rows} == {None}
    assert {row.nfp_truth for row in found.rows} == {None}
    assert "nothing binds" in str(found)


def test_sensitivities_print_and_serialise(experts: Sensitivities) -> None:
    text = str(experts)
    for row in experts.rows:
        assert row.lever in text
    assert "finite difference" in text
    data = json.loads(json.dumps(experts.to_dict()))
    assert [row["lever"] for row in data["levers"]] == [row.lever for row in experts.rows]
    assert data["levers"][0]["latency_held"] == experts.rows[0].latency_held


def test_sensitivities_refuse_what_predictions_refuse() -> None:
    with pytest.raises(InvalidArgumentError, match="positions must be a whole number of at least 1, got 0"):
        sensitivities("h100", "llama-3.1-8b", positions=0)
    with pytest.raises(NfpModelError, match="did you mean 'h100'"):
        sensitivities("h10", "llama-3.1-8b")


# Tiles --------------------------------------------------------------------------------------------------------------


def test_a_balanced_mixtral_leaves_its_tile_at_four_rows_per_row_of_it() -> None:
    # Eight experts, two a token: each gets M/4 rows, so a tile of b rows is full at 4 b tokens. Under vLLM's ungrouped blocks
    # the next block reads the expert again, the step public H100 timings show from 256 to 320 tokens (tile 64).
    for tile in (16, 32, 64):
        arguments: dict[str, Any] = {
            "baseline": "saturated",
            "backend": "vllm",
            "routing": "balanced",
            "tolerance": 0.2,
        }
        full = tile_for("h100", "mixtral", 4 * tile, tiles=(16, 32, 64, 128), **arguments)
        over = tile_for("h100", "mixtral", 4 * tile + 4, tiles=(16, 32, 64, 128), **arguments)
        assert [trial.value for trial in full.trials if trial.free] == [t for t in (16, 32, 64, 128) if t >= tile]
        assert [trial.value for trial in over.trials if trial.free] == [t for t in (16, 32, 64, 128) if t > tile]


def test_no_tile_frees_what_further_experts_cost() -> None:
    # From one position every further token reads further experts: 1 - (1 - 1/4)^32 of them instead of a quarter.
    found = tile_for("h100", "mixtral", 32, backend="vllm")
    assert not found.exists
    assert found.proven
    assert "none in range (exhaustive)" in str(found)


def test_a_tile_can_be_judged_on_the_whole_forward() -> None:
    arguments: dict[str, Any] = {"baseline": "saturated", "backend": "vllm", "tiles": (16, 64)}
    alone = tile_for("h100", "mixtral", 128, **arguments)
    whole = tile_for("h100", "mixtral", 128, whole_model=True, **arguments)
    # Everything outside the experts grows less here, so the whole forward grows less than they do.
    assert whole.trials[0].growth is not None
    assert alone.trials[0].growth is not None
    assert 1 < whole.trials[0].growth < alone.trials[0].growth


@pytest.mark.parametrize("backend", ["vllm", "sglang", "trtllm", "uncalibrated"])
@pytest.mark.parametrize("model", ["mixtral", "llama-3.1-8b", "deepseek_v3"])
def test_every_kernel_takes_other_tiles(model: str, backend: str) -> None:
    forward = predict_nfp("h100", model, backend=backend, max_positions=8).forward
    grid = np.array([1, 8, 200])
    for changed in (scaled_tiles(forward, 2.0), scaled_tiles(forward, 0.5), fixed_tiles(forward, 64, "attention")):
        assert np.isfinite(changed.curve(grid).seconds).all()
    np.testing.assert_array_equal(scaled_tiles(forward, 1.0).curve(grid).seconds, forward.curve(grid).seconds)


def test_tiles_that_cannot_be_set_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown module 'moe'; did you mean 'moe_ffn'"):
        tile_for("h100", "mixtral", 8, module="moe")
    with pytest.raises(UnknownNameError, match=r"unknown module of Llama-3.1-8B 'moe_ffn'"):
        tile_for("h100", "llama-3.1-8b", 8)
    with pytest.raises(UnsupportedError, match="module 'elementwise' has no tile to set"):
        tile_for("h100", "mixtral", 8, module="elementwise")
    with pytest.raises(InvalidArgumentError, match="tiles is empty"):
        tile_for("h100", "mixtral", 8, tiles=())
    with pytest.raises(InvalidArgumentError, match="tile must be a whole number"):
        tile_for("h100", "mixtral", 8, tiles=(0,))


# Inverse questions --------------------------------------------------------------------------------------------------


def growth(bandwidth: float, target: int, **arguments: Any) -> float:
    chip = with_fields(load_hardware("h100"), {"memory_bandwidth_bytes_per_s": bandwidth})
    forward = predict_nfp(chip, "llama-3.1-8b", **{**LLAMA, **arguments}).forward
    seconds = forward.curve(np.array([1, target])).seconds
    return float(seconds[1] / seconds[0])


@pytest.mark.parametrize("target", [24, 64, 160])
def test_bandwidth_ranges_hold_at_every_sampled_bandwidth(target: int) -> None:
    low, high = 3e11, 1.2e13
    found = bandwidth_for("h100", "llama-3.1-8b", target, (low, high), **LLAMA)
    assert found.proven
    for bandwidth in np.geomspace(low, high, 25):
        if any(a <= bandwidth <= b for a, b in found.undecided):
            continue
        inside = any(a <= bandwidth <= b for a, b in found.ranges)
        assert inside == (growth(float(bandwidth), target) <= 1.1), bandwidth
    if found.exists:
        assert growth(found.value, target) <= 1.1


def test_edges_of_a_range_are_close() -> None:
    found = bandwidth_for("h100", "llama-3.1-8b", 64, (3e11, 3e13), **LLAMA)
    assert found.ranges
    assert all(b / a - 1 < 0.05 for a, b in found.undecided)


def test_no_bandwidth_frees_a_block_that_computes_longer_than_anything_streams() -> None:
    found = bandwidth_for("h100", "llama-3.1-8b", 4096, (3e12, 6e12), backend="vllm")
    assert not found.exists
    assert found.proven
    assert not found.undecided
    assert min(growth(float(b), 4096) for b in np.linspace(3e12, 6e12, 7)) > 1.1
    assert "none in range (interval proof)" in str(found)


def test_the_present_value_is_the_answer_when_it_is_enough() -> None:
    prediction = predict_nfp("h100", "llama-3.1-8b", **LLAMA)
    assert prediction.first_exit is not None
    # Every position before the first exit is free.
    found = solve_for("h100", "llama-3.1-8b", PEAK, prediction.first_exit - 1, (0.1, 10.0), **LLAMA)
    assert found.present == found.value == 1.0
    # More peak never hurts: what is free stays free up to the end of the range.
    assert found.ranges[-1][1] == 10.0


def test_other_fields_are_tried_one_by_one() -> None:
    found = solve_for("h100", "llama-3.1-8b", "batch_size", 8, (1, 32), **LLAMA)
    assert found.method == "exhaustive"
    assert [trial.value for trial in found.trials] == list(range(1, 33))
    for batch in (1, 8, 32):
        prediction = predict_nfp("h100", "llama-3.1-8b", batch_size=batch, **LLAMA)
        seconds = prediction.forward.curve(np.array([1, 8])).seconds
        assert found.trials[batch - 1].growth == pytest.approx(seconds[1] / seconds[0])
    assert found.value == min((t.value for t in found.trials if t.free), default=None)


def test_values_that_cannot_run_are_reported() -> None:
    found = solve_for("h100", "mixtral", "model.ffn.moe.top_k", 4, [2, 8, 9], backend="vllm")
    assert found.present == 2
    assert "top_k 9 exceeds num_experts 8" in found.trials[2].refused
    # With all eight experts read by the first token, further tokens read no more.
    assert found.value == 8
    assert json.loads(json.dumps(found.to_dict()))["trials"][2]["growth"] is None


def test_a_field_may_be_judged_on_one_module() -> None:
    model = load_model("llama-3.1-8b")
    found = solve_for("h100", model, BANDWIDTH, 64, (1e12, 4e12), module="head", backend="vllm")
    # The head is one bf16 matrix: idle compute promises 295 rows at 3.35 TB/s, and 64 fit under the stream.
    head = operator_latency("h100", Gemm(model.vocab_size, model.hidden_size), [1, 64], "vllm")
    assert head[1] <= 1.1 * head[0]
    assert found.value == 3.35e12


@pytest.mark.parametrize(
    ("field", "target", "bounds", "message"),
    [
        (BANDWIDTH, 1, (1e12, 2e12), "target_nfp 1 must be above the baseline 1"),
        (BANDWIDTH, 0, (1e12, 2e12), "target_nfp must be a whole number of at least 1"),
        (BANDWIDTH, 8, (2e12, 1e12), "bounds are inverted"),
        (BANDWIDTH, 8, (0.0, 1e12), "low must be a finite number above 0"),
        (BANDWIDTH, 8, (1e12, 2e12, 3e12), r"bounds must be \(low, high\) or a list"),
        (BANDWIDTH, 8, [], "no values given"),
        ("hardware.sm_cout", 8, (1, 2), "did you mean 'sm_count'"),
        ("batch_sise", 8, (1, 2), "unknown field 'batch_sise'; did you mean 'batch_size'"),
        ("tolerance", 8, (0.1, 0.2), "tolerance is no whole number; give a list of values"),
        ("batch_size", 8, (1, 10**6), "between 1 and 1024 can be tried"),
    ],
)
def test_questions_without_meaning_are_refused(field: str, target: int, bounds: Any, message: str) -> None:
    with pytest.raises(NfpModelError, match=message):
        solve_for("h100", "llama-3.1-8b", field, target, bounds, **LLAMA)
