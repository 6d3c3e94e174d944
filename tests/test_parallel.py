"""Several GPUs: shards add up, what does not divide is refused, links and load enter, fixed costs do not shrink."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from nfp_model import FusedMoE, load_hardware, load_model, operator_latency, predict_nfp
from nfp_model.cost.binding import bind
from nfp_model.cost.compiled import evaluate
from nfp_model.cost.inputs import collective_inputs, constant_inputs, link_bandwidth
from nfp_model.errors import UnsupportedError
from nfp_model.kernels.routing import routed_rows
from nfp_model.operators import Attention, Collective, Gemm, LinearScan, forward_operators, weight_bytes
from nfp_model.specs.calibration import CollectiveConstants
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import ModelSpec, SoftmaxAttention
from nfp_model.specs.registry import spec_names
from nfp_model.workload import Routing, Workload

# Shards add up ----------------------------------------------------------------------------------------------------------------

UNSERVED = {"dream_7b": (8,), "qwen2_5_7b": (8,), "gemma_3_1b": (8,), "minimax_m2": (8,)}
"""28 and 4 query heads; fp8 blocks cut at 192. Every other shipped model runs on 1, 2, 4 and 8 GPUs."""

REPLICATED = {"router", "qkv_a_proj", "index_proj", "latent_down_proj", "latent_up_proj"}
"""Kept whole on every tensor-parallel rank: the router, MLA's projections into its low ranks (one latent serves all heads),
projections around latent experts (vLLM: ReplicatedLinear)."""


def weights_and_flop(model: ModelSpec, workload: Workload) -> dict[str, tuple[float, float]]:
    """Bytes of weights and FLOP of one row on one rank, by operator."""
    found: dict[str, tuple[float, float]] = {}
    for use in forward_operators(model, workload):
        op = use.operator
        if isinstance(op, Gemm):
            found[use.name] = (use.count * op.weight_bytes, use.count * op.flop_per_row)
        elif isinstance(op, FusedMoE):
            pairs = op.top_k / op.expert_parallel  # A rank sees its share of a token's choices.
            flop = use.count * op.flop_per_routed_row * pairs
            found[use.name] = (use.count * op.expert_bytes * op.local_experts, flop)
    return found


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(spec_names("model")), ranks=st.sampled_from([2, 4, 8]), spread=st.booleans()
)  # fmt: skip
def test_ranks_add_up_to_one_gpu(name: str, ranks: int, spread: bool) -> None:
    model = load_model(name)
    assume(ranks not in UNSERVED.get(name, ()))
    shard = weights_and_flop(model, Workload(tensor_parallel=ranks, expert_parallel=ranks if spread else 1))
    whole = weights_and_flop(model, Workload())
    assert shard.keys() == whole.keys()
    for operator, (size, flop) in whole.items():
        copies = ranks if operator in REPLICATED else 1
        # The vocabulary is padded to the ranks.
        padded = -(-model.vocab_size // ranks) * ranks / model.vocab_size if operator == "lm_head" else 1.0
        expected = (size * copies * padded, flop * copies * padded)
        if operator.startswith("qkv_proj"):
            continue
        assert tuple(ranks * value for value in shard[operator]) == pytest.approx(expected, rel=1e-12), operator


@pytest.mark.parametrize(
    ("name", "ranks", "copies"), [("llama-3.1-70b", 8, 1), ("qwen3-235b-a22b", 8, 2), ("qwen3-next-80b-a3b", 8, 4)]
)
def test_kv_heads_replicate_when_there_are_fewer_than_ranks(name: str, ranks: int, copies: int) -> None:
    model = load_model(name)
    part = next(part for part in model.attention.values() if isinstance(part, SoftmaxAttention))
    uses = forward_operators(model, Workload(tensor_parallel=ranks))
    attention = next(use.operator for use in uses if isinstance(use.operator, Attention))
    projection = next(use.operator for use in uses if use.name == "qkv_proj")
    assert isinstance(projection, Gemm)
    assert ranks * attention.num_query_heads == part.num_query_heads
    assert ranks * attention.num_kv_heads == copies * part.num_kv_heads
    gate = part.num_query_heads * part.values_dim if part.output_gate else 0
    columns = (
        part.num_query_heads * part.head_dim + gate + copies * part.num_kv_heads * (part.head_dim + part.values_dim)
    )
    assert ranks * projection.out_features == columns


def test_data_parallel_attention_with_expert_parallel_ffn() -> None:
    """DeepSeek-V3 as it is served (arXiv 2412.19437, section 3.4): attention whole on each rank, experts spread."""
    model, workload = load_model("deepseek-v3"), Workload(batch_size=64, expert_parallel=8)
    shard, whole = weights_and_flop(model, workload), weights_and_flop(model, Workload())
    assert {name for name in whole if shard[name] != whole[name]} == {"experts"}
    assert 8 * shard["experts"][0] == whole["experts"][0]
    uses = {use.name: use for use in forward_operators(model, workload)}
    attention, exchange = uses["attention"].operator, uses["dispatch_and_combine"].operator
    assert isinstance(attention, Attention)
    assert isinstance(exchange, Collective)
    assert (attention.batch_size, attention.num_query_heads) == (8, 128)
    # A row goes to at most 8 ranks in 16 bits; there and back in each of 58 layers. No all-reduce is left.
    assert (exchange.kind, exchange.bytes_per_row, uses["dispatch_and_combine"].count) == (
        "all_to_all",
        8 * 7168 * 2,
        116,
    )
    assert "all_reduce" not in uses
    assert (uses["experts"].axis, uses["o_proj"].axis) == ("rows", "rank_rows")


def test_two_all_reduces_a_layer_of_the_hidden_width() -> None:
    (use,) = (
        u for u in forward_operators(load_model("llama-3.1-70b"), Workload(tensor_parallel=8)) if u.name == "all_reduce"
    )
    assert use.count == 2 * 80
    assert use.operator == Collective("all_reduce", 2 * 8192, 8)


def test_recurrent_state_is_shared_out() -> None:
    model = load_model("qwen3-next-80b-a3b")
    states = []
    for ranks in (1, 8):
        uses = forward_operators(model, Workload(tensor_parallel=ranks))
        states.append(sum(u.count * u.operator.state_bytes for u in uses if isinstance(u.operator, LinearScan)))
    assert states[0] == 8 * states[1]


# What does not divide ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("qwen2.5-7b", {"tensor_parallel": 8}, "tensor_parallel 8 does not divide query heads 28"),
        ("gemma-3-1b", {"tensor_parallel": 8}, "tensor_parallel 8 does not divide query heads 4"),
        ("deepseek-v3", {"expert_parallel": 24}, "expert_parallel 24 does not divide 256 experts"),
        ("llama-3.1-8b", {"tensor_parallel": 16}, None),
        # vLLM on MiniMax-M2.5: "The output_size of gate's and up's weight = 192 is not divisible by weight quantization
        # block_n = 128", and the way out, expert parallelism. The same of Qwen3-235B fp8 (1536 / 8), and of
        # Qwen3-Coder-480B fp8 with 320 (README of QwenLM/Qwen3-Coder). Source: vLLM, quantization/fp8.py.
        ("minimax-m2", {"tensor_parallel": 8}, "the expert width is 192 on each of 8 ranks, no multiple of the 128 of its"),
        ("minimax-m2", {"tensor_parallel": 8, "expert_parallel": 8}, None),
        ("minimax-m2", {"tensor_parallel": 4}, None),
        ("qwen3-235b-a22b", {"tensor_parallel": 8, "weight_dtype": "fp8_block"}, "the expert width is 192 on each of 8"),
        ("qwen3-235b-a22b", {"tensor_parallel": 8, "weight_dtype": "fp8"}, None),
        ("qwen3-235b-a22b", {"tensor_parallel": 4, "weight_dtype": "fp8_block"}, None),
        ("qwen3-coder-480b-a35b", {"tensor_parallel": 8, "weight_dtype": "fp8_block"}, "the expert width is 320 on each"),
        ("gpt-oss-20b", {"tensor_parallel": 8, "weight_dtype": "fp8_block"}, "the expert width is 360 on each of 8"),
        ("qwen3-0.6b", {"tensor_parallel": 16, "weight_dtype": "fp8_block"}, "the FFN width is 192 on each of 16 ranks"),
    ],
)  # fmt: skip
def test_shards_that_do_not_divide_are_refused(name: str, arguments: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert forward_operators(load_model(name), Workload(**arguments))
        return
    with pytest.raises(UnsupportedError, match=message):
        forward_operators(load_model(name), Workload(**arguments))


@pytest.mark.parametrize("name", spec_names("model"))
def test_every_usual_tensor_parallel_size_predicts_or_is_refused(name: str) -> None:
    refused: dict[int, str] = {}
    for ranks in (1, 2, 4, 8):
        try:
            p = predict_nfp("h200", name, tensor_parallel=ranks, max_positions=4, backend="uncalibrated")
        except UnsupportedError as error:
            refused[ranks] = str(error)
            continue
        assert 1 <= p.nfp <= 4
    assert all("does not divide" in reason or "no multiple of" in reason for reason in refused.values())
    assert tuple(refused) == UNSERVED.get(name, ())


# Memory -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "tolerance"),
    [
        # Sums of the hub's files, printed to three digits: bf16 throughout.
        ("sdar-4b", 8.83e9, 0.001), ("sdar-8b", 16.4e9, 0.002), ("llada-moe-7b-a1b", 14.72e9, 0.001),
        # gpt-oss model card (arXiv 2508.10925), table 1. Expert biases in 16 bits, a thousandth, are no matrix.
        ("gpt-oss-120b", 60.8 * 2**30, 0.003), ("gpt-oss-20b", 12.8 * 2**30, 0.003),
    ],
)  # fmt: skip
def test_weights_as_published(name: str, size: float, tolerance: float) -> None:
    assert weight_bytes(load_model(name), Workload()) == pytest.approx(size, rel=tolerance)


def test_expert_weights_of_a_layer_as_reported() -> None:
    """Public LLaDA-MoE report: 768 MiB of bf16 experts a layer; with four ranks a quarter of it, sliced or spread."""
    ways: list[tuple[dict[str, Any], int]] = [({}, 1), ({"tensor_parallel": 4}, 4), ({"expert_parallel": 4}, 4)]
    for arguments, share in ways:
        uses = forward_operators(load_model("llada-moe-7b-a1b"), Workload(**arguments))
        (moe,) = (use.operator for use in uses if isinstance(use.operator, FusedMoE))
        assert share * moe.expert_bytes * moe.local_experts == 768 * 2**20


@pytest.mark.parametrize(
    ("weights", "ranks", "fits"),
    [(None, 8, False), ("fp8", 8, True), (None, 16, True), ("int4", 4, True), ("fp8", 4, False)],
)
def test_405b_fits_an_8_gpu_node_in_fp8_only(weights: str | None, ranks: int, fits: bool) -> None:
    # 405.9e9 parameters: 101 GB a GPU in bf16 over eight of 80 GiB, 51 GB in fp8.
    p = predict_nfp("h100", "llama-3.1-405b", tensor_parallel=ranks, weight_dtype=weights, max_positions=4)
    assert p.fits_memory == fits
    assert any("does not fit" in warning for warning in p.warnings) != fits


# Links and load ---------------------------------------------------------------------------------------------------------------


def linked(**links: object) -> HardwareSpec:
    h100 = load_hardware("h100")
    return h100.model_copy(update={"interconnect": h100.interconnect.model_copy(update=links)})


def test_ranks_beyond_the_domain_use_the_slower_link() -> None:
    h100 = load_hardware("h100")
    assert link_bandwidth(h100, 8) == 450e9  # half of 900 GB/s
    assert link_bandwidth(h100, 16) == 64e9  # the datasheet names no link between nodes: PCIe Gen5 x16
    assert link_bandwidth(linked(scale_out_bandwidth_bytes_per_s=50e9), 16) == 50e9
    assert link_bandwidth(load_hardware("gb200"), 16) == 900e9  # 72 GPUs share NVLink
    rows = [1, 256]
    inside = operator_latency(h100, Collective("all_reduce", 2 * 8192, 8), rows)
    outside = operator_latency(
        linked(scale_out_bandwidth_bytes_per_s=50e9), Collective("all_reduce", 2 * 8192, 16), rows
    )
    # Between the row counts lie 2 (r - 1) / r times the bytes, over the bandwidth and its efficiency.
    ratio = (outside[1] - outside[0]) / (inside[1] - inside[0])
    assert ratio == pytest.approx(9 * (15 / 16) / (7 / 8), rel=1e-9)


@pytest.mark.parametrize(
    ("hardware", "ranks", "words"),
    [
        ("h100", 8, None),
        ("gb200", 16, None),
        ("h100", 16, "H100 SXM5 80GB links 8 GPUs: every collective of 16 ranks is counted over the host connection of 64 GB/s"),
        ("l40s", 2, "L40S has no link between GPUs: every collective of 2 ranks is counted over the host connection of 32 GB/s"),
    ],
)  # fmt: skip
def test_a_slow_link_is_told(hardware: str, ranks: int, words: str | None) -> None:
    warnings = predict_nfp(hardware, "llama-3.1-70b", tensor_parallel=ranks, max_positions=4).warnings
    told = [warning for warning in warnings if "every collective" in warning]
    assert len(told) == (words is not None)
    assert words is None or words in told[0]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_an_all_reduce_takes_the_faster_of_one_exchange_and_two(ranks: int) -> None:
    """One exchange sends r - 1 payloads over a link, two send 2 (r - 1) / r of one: latency decides small payloads, bytes large ones."""
    operator, tokens = Collective("all_reduce", 16384.0, ranks), np.array([1, 65536])
    shape = collective_inputs(bind(load_hardware("b200"), operator, "sglang"), operator, tokens)
    one, two = (
        shape["moved_bytes"][list(shape["exchanges"][:, 0]).index(exchanges)] / 16384.0 / tokens
        for exchanges in (0.0, 1.0)
    )
    np.testing.assert_allclose(one, ranks - 1)
    np.testing.assert_allclose(two, 2 * (ranks - 1) / ranks)
    constants = CollectiveConstants(fixed_time_s=5e-6, memory_efficiency=0.5, exchange_time_s=5e-6, rank_time_s=1e-6)
    values = {**shape, **constant_inputs(constants, shape)}
    choice = np.argmin(evaluate("collective", values), axis=0)
    assert shape["exchanges"][choice[0], 0] == 0
    assert shape["exchanges"][choice[1], 0] == (1 if ranks > 2 else 0)


def test_the_busiest_expert_rank_of_a_skewed_load_is_slower() -> None:
    rows = np.array([2048, 4096, 8192])
    even, skewed = (
        operator_latency(
            "h200", FusedMoE(7168, 2048, 256, 8, "fp8_block", routing=routing, expert_parallel=8), rows, "vllm"
        )
        for routing in ("uniform", "power_law:1.2")
    )
    assert (skewed > even).all()
    # All ranks together route M k pairs; an even rank gets an eighth, the busiest of a power law more.
    share = routed_rows(Routing.parse("power_law:1.2"), 256, 8, rows, 8) / (8 * rows)
    assert (share > 1 / 8).all()
    assert routed_rows(Routing.parse("uniform"), 256, 8, rows, 8) == pytest.approx(rows)


# What parallelism does to NFP -------------------------------------------------------------------------------------------------


def test_weights_shrink_and_fixed_costs_do_not() -> None:
    ranks = (1, 2, 4, 8)
    found = [predict_nfp("h100", "llama-3.1-70b", tensor_parallel=n, max_positions=1024, backend="vllm") for n in ranks]
    fixed = [sum(module.latency_slack_s for module in p.modules.values()) for p in found]
    times = [p.baseline_latency_s for p in found]
    # Idle compute sees bytes and FLOP fall together, and no difference.
    assert [p.idle_compute_nfp for p in found] == pytest.approx([found[0].idle_compute_nfp] * 4, rel=1e-3)
    assert [p.memory_needed_bytes * n for p, n in zip(found, ranks, strict=True)] == pytest.approx(
        [found[0].memory_needed_bytes] * 4, rel=1e-9
    )
    assert fixed == sorted(fixed)
    shares = [f / t for f, t in zip(fixed, times, strict=True)]
    assert shares == sorted(shares)
    assert shares[-1] > 4 * shares[0]
    assert times == sorted(times, reverse=True)
    assert times[0] / times[-1] < 8
    # Published: 70B in bf16, four to eight H100: 15.49 to 10.25 ms, 1.51 times instead of 2 (NVIDIA NIM benchmarks).
    assert times[2] / times[3] == pytest.approx(15.49 / 10.25, rel=0.1)


def test_links_end_the_range() -> None:
    """The bytes of an all-reduce end the near-free range before one GPU's: with links out of the way it is wide again."""
    free = linked(scale_up_bandwidth_bytes_per_s=1e15)
    one, real, fast = (
        predict_nfp(hardware, "llama-3.1-70b", tensor_parallel=n, max_positions=1024, backend="vllm")
        for hardware, n in ((load_hardware("h100"), 1), (load_hardware("h100"), 8), (free, 8))
    )
    assert real.nfp < min(one.nfp, fast.nfp)
    assert "all_reduce" in real.binding
    assert "all_reduce" not in fast.binding
