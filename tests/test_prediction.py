"""Two specs in, an explained NFP out: the structure of the answer, what a forward is made of, and every shipped pair."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfp_model import (
    Attention,
    Gemm,
    NfpModelError,
    Prediction,
    idle_compute_nfp,
    latency_curve,
    load_model,
    near_free_boundary,
    operator_latency,
    predict_nfp,
)
from nfp_model.boundary import saturated_baseline
from nfp_model.operators import FusedMoE, cache_bytes, forward_operators
from nfp_model.specs.registry import spec_names
from nfp_model.workload import Workload


@pytest.fixture(scope="module")
def mixtral_on_h100() -> Prediction:
    return predict_nfp("h100", "mixtral")


def test_mixtral_from_one_position_and_from_the_saturated_step(mixtral_on_h100: Prediction) -> None:
    p = mixtral_on_h100
    assert (p.nfp, p.first_exit, p.censored, p.baseline) == (1, 2, False, 1)
    assert p.saturated is not None
    # M k >= 4 E: 16 tokens of two experts each for eight experts.
    assert p.saturated.baseline == saturated_baseline(8, 2, 1) == 16
    assert p.saturated.nfp > 16
    assert p.saturated.baseline_latency_s > p.baseline_latency_s
    assert p.binding == "experts: 3.5 instead of 2.0 touched from the second position"
    assert predict_nfp("h100", "mixtral", baseline="saturated").nfp == p.saturated.nfp


def test_a_dense_model_has_no_saturated_row() -> None:
    p = predict_nfp("h100", "llama-3.1-8b")
    assert p.saturated is None
    assert p.to_dict()["saturated"] is None


def test_modules_add_up_and_stand_alone(mixtral_on_h100: Prediction) -> None:
    p = mixtral_on_h100
    assert list(p.modules) == ["projections", "attention", "moe_ffn", "head", "elementwise"]
    assert sum(module.share for module in p.modules.values()) == pytest.approx(1.0)
    assert sum(module.baseline_latency_s for module in p.modules.values()) == pytest.approx(p.baseline_latency_s)
    assert p.modules["moe_ffn"].nfp == 1
    for name, module in p.modules.items():
        assert module.boundary == near_free_boundary(p.curve.module(module.module))
        assert module.over_prediction == pytest.approx(module.idle_compute_nfp / module.nfp)
        assert min(module.memory_slack_s, module.granularity_slack_s, module.latency_slack_s) >= 0
        assert module.binding, name


def test_the_curve_is_the_sum_of_its_parts(mixtral_on_h100: Prediction) -> None:
    p = mixtral_on_h100
    np.testing.assert_allclose(np.sum(list(p.curve.parts.values()), axis=0), p.curve.seconds)
    np.testing.assert_allclose(p.latency_s([1, 100]), [p.curve.at(1), p.curve.at(100)])
    assert p.latency_s(p.nfp)[0] <= 1.1 * p.baseline_latency_s < p.latency_s(p.nfp + 1)[0]


def test_helpers_answer_as_the_prediction(mixtral_on_h100: Prediction) -> None:
    assert idle_compute_nfp("h100", "mixtral") == mixtral_on_h100.idle_compute_nfp
    curve = latency_curve("h100", "mixtral", positions=[1, 7])
    np.testing.assert_allclose(curve.seconds, mixtral_on_h100.latency_s([1, 7]))


def test_the_dict_is_json_and_says_what_the_object_says(mixtral_on_h100: Prediction) -> None:
    p = mixtral_on_h100
    read: dict[str, Any] = json.loads(json.dumps(p.to_dict(), allow_nan=False))
    assert p.saturated is not None
    assert (read["nfp"], read["first_exit"], read["censored"], read["saturated"]["nfp"]) == (
        1,
        2,
        False,
        p.saturated.nfp,
    )
    assert read["idle_compute_nfp"] == p.idle_compute_nfp
    assert read["over_prediction"] == p.over_prediction
    assert read["band"] == list(p.band)
    assert read["modules"]["moe_ffn"]["nfp"] == p.modules["moe_ffn"].nfp
    assert [operator["name"] for operator in read["operators"]] == [use.name for use in p.forward.uses]
    assert read["warnings"] == list(p.warnings)


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", text)


def test_a_kernel_of_its_own_for_few_rows_is_named_where_it_ends() -> None:
    # TensorRT-LLM multiplies up to eight 8-bit rows on CUDA cores of an L40S, which is 14 % faster.
    p = predict_nfp("l40s", "llama-3.1-8b", backend="trtllm", weight_dtype="fp8", max_positions=64)
    assert (p.nfp, p.first_exit) == (8, 9)
    assert "changes kernel at 9 rows: T <= 8: on CUDA cores" in p.binding
    words = next(one for one in p.operators if one.name == "qkv_proj")
    assert words.granularity == "1 row on CUDA cores, no tile"
    assert "of 128 rows used" in words.granularity_at_exit


def test_panel_and_notebook_show_the_same_numbers(mixtral_on_h100: Prediction) -> None:
    p = mixtral_on_h100
    shown, html = str(p), unescape(re.sub(r"<[^>]*>", " ", p._repr_html_()))
    assert set(numbers(html)) <= set(numbers(shown))
    for line in shown.splitlines():
        if line.startswith(("1 position", "saturated", "moe_ffn")):
            assert set(numbers(line)) <= set(numbers(html)), line
    assert "NFP 1 at tolerance 0.1" in shown
    assert f"{p.idle_compute_nfp:.0f}" in numbers(shown)
    assert p.binding in shown
    assert all(warning in shown for warning in p.warnings)


def test_the_explanation_names_rules_sources_and_equations(mixtral_on_h100: Prediction) -> None:
    explained = mixtral_on_h100.explain()
    assert mixtral_on_h100.binding in str(explained)
    assert {report.name for report in explained.operators} == {use.name for use in mixtral_on_h100.forward.uses}
    assert all(report.kernel.source for report in explained.operators if report.kernel is not None)
    assert "T_{\\mathrm{MoE}}" in explained.latex()


def test_the_expression_is_the_latency_at_the_boundary(mixtral_on_h100: Prediction) -> None:
    p = mixtral_on_h100
    held = {
        symbol: p.hardware.peak_flop_per_s["bfloat16"]
        for symbol in p.expression.free_symbols
        if symbol.name.startswith("P_")
    }
    held |= {
        symbol: p.hardware.memory_bandwidth_bytes_per_s for symbol in p.expression.free_symbols if symbol.name == "BW"
    }
    assert float(p.expression.subs(held)) == pytest.approx(float(p.latency_s(p.nfp)[0]), rel=1e-6)


def test_a_model_that_does_not_fit_is_predicted_with_a_warning(mixtral_on_h100: Prediction) -> None:
    # Mixtral has 46.7 billion parameters: 93.4 GB in 16 bits, more than the 85.5 GB of an H100.
    assert not mixtral_on_h100.fits_memory
    assert mixtral_on_h100.memory_needed_bytes > 93.4e9
    assert any(
        warning.startswith("does not fit: Mixtral-8x7B-v0.1 needs 93.9 GB") for warning in mixtral_on_h100.warnings
    )
    assert predict_nfp("h200", "mixtral").fits_memory


# What a forward is made of ----------------------------------------------------------------------------------------------------

MODEL_NAMES = spec_names("model")


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_operators_hold_every_weight_once_at_two_flop_each(name: str) -> None:
    """The files' derived counts are those of the vendors; norms, biases and rotary tables are under 0.1 % of them."""
    model = load_model(name)
    stored = flop = 0.0
    for use in forward_operators(model, Workload()):
        if isinstance(use.operator, Gemm):
            stored += use.count * use.operator.out_features * use.operator.in_features
            flop += use.count * use.operator.flop_per_row
        elif isinstance(use.operator, FusedMoE):
            op = use.operator
            stored += use.count * op.num_experts * op.matrices * op.hidden_size * op.intermediate_size
            flop += use.count * op.top_k * op.flop_per_routed_row
    looked_up = 0 if model.tied_embeddings else model.vocab_size * model.hidden_size
    assert stored == pytest.approx(model.total_parameters - looked_up, rel=1e-3)
    assert flop == pytest.approx(2 * (model.active_parameters - looked_up), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "kilobytes"), [("deepseek-v3", 70.272), ("qwen2.5-72b", 327.680), ("llama-3.1-405b", 516.096)]
)
def test_a_cached_token_takes_the_published_bytes(name: str, kilobytes: float) -> None:
    """arXiv 2505.09343, table 1 (bfloat16): KV heads, not query heads."""
    held = cache_bytes(load_model(name), Workload(3, 1000))
    assert held / 3000 == pytest.approx(kilobytes * 1e3)


def test_rows_are_batch_times_positions() -> None:
    p = predict_nfp("h100", "llama-3.1-8b", batch_size=8, max_positions=32)
    (count, operator) = next((use.count, use.operator) for use in p.forward.uses if use.name == "down_proj")
    for positions in (1, 16):
        part = p.forward.curve(np.array([positions])).parts["down_proj"][0]
        assert part == pytest.approx(count * operator_latency("h100", operator, [8 * positions])[0])


def test_norms_move_the_bytes_of_every_row_of_the_batch() -> None:
    grid = np.array([1, 32])
    curves = [
        predict_nfp("h100", "llama-3.1-8b", batch_size=batch, max_positions=32).forward.curve(grid) for batch in (1, 8)
    ]
    grown = [curve.parts["norms"][1] - curve.parts["norms"][0] for curve in curves]
    assert grown[1] == pytest.approx(8 * grown[0])


@pytest.mark.parametrize(("context", "keys"), [(0, 0), (8191, 8191), (8192, 0), (8193, 1), (16_384, 0)])
def test_chunked_attention_sees_its_own_chunk_alone(context: int, keys: int) -> None:
    """Llama 4: position i attends from the start of its chunk, floor(i / 8192) x 8192 (transformers, chunked causal mask)."""
    assert Attention(40, 8, 128, context, chunk=8192).keys_before(context) == keys


# Every shipped pair -----------------------------------------------------------------------------------------------------------


def test_every_pair_predicts_or_says_why_not() -> None:
    refused: dict[str, str] = {}
    predicted = 0
    for hardware in spec_names("hardware"):
        for model in MODEL_NAMES:
            try:
                p = predict_nfp(hardware, model, max_positions=64)
            except NfpModelError as error:
                refused[f"{hardware} {model}"] = str(error)
                continue
            predicted += 1
            assert 1 <= p.nfp <= 64
            assert p.baseline_latency_s > 0
            assert np.isfinite(p.curve.seconds).all()
    assert predicted + len(refused) == len(spec_names("hardware")) * len(MODEL_NAMES)
    assert predicted > 1300
    # The only reason today: a data type the chip has no matrix rate for and no engine expands, such as float16 on TPUs.
    assert all("has no matrix rate for" in reason for reason in refused.values()), refused


def test_a_tuned_file_overrides_the_default_blocks(tmp_path: Path) -> None:
    tuned = tmp_path / "E=8,N=14336,device_name=NVIDIA_H100_80GB_HBM3.json"
    block = {
        "BLOCK_SIZE_M": 64,
        "BLOCK_SIZE_N": 128,
        "BLOCK_SIZE_K": 64,
        "GROUP_SIZE_M": 1,
        "num_warps": 4,
        "num_stages": 4,
    }
    tuned.write_text(json.dumps({"1": block, "64": block}))
    for location in (tuned, tmp_path):
        found = predict_nfp("h100", "mixtral", backend="vllm", max_positions=64, tuned_moe=location)
        experts = next(report for report in found.operators if report.name == "experts")
        assert experts.kernel is not None
        assert experts.kernel.rule.startswith("tuned file, key 1: 64 x 128")
        assert "blocks of 64 rows" in experts.granularity


def test_a_tuned_file_is_refused_where_no_triton_kernel_reads_it(tmp_path: Path) -> None:
    with pytest.raises(
        NfpModelError, match="tuned fused-MoE files apply to Triton kernels; trtllm_gen_moe:untuned runs here"
    ):
        predict_nfp("b200", "mixtral", backend="vllm", tuned_moe=tmp_path, max_positions=8)
    with pytest.raises(NfpModelError, match="no_such_folder"):
        predict_nfp("h100", "mixtral", backend="vllm", tuned_moe=tmp_path / "no_such_folder", max_positions=8)


def test_passes_that_quantise_are_named_where_they_end_the_range() -> None:
    found = predict_nfp("b200", "llama-3.1-70b", backend="trtllm", weight_dtype="fp8", tensor_parallel=4)
    assert "qkv_proj: quantising" in str(found)
    assert "quantising" not in str(predict_nfp("b200", "llama-3.1-70b", backend="trtllm", tensor_parallel=4))
