"""Every wrong argument gets one clear sentence: what was given, what is allowed, what is near."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfp_model import (
    Attention,
    FusedMoE,
    Gemm,
    LatencyCurve,
    NfpModelError,
    near_free_boundary,
    operator_latency,
    predict_nfp,
)
from nfp_model.errors import InvalidArgumentError, MemoryCapacityError, SpecError, UnknownNameError, UnsupportedError
from nfp_model.operators import forward_operators
from nfp_model.prediction.closed import principle
from nfp_model.specs.registry import load_hardware, load_model
from nfp_model.workload import Routing, Workload

Case = tuple[dict[str, Any], type[NfpModelError], str]

CASES: list[Case] = [
    ({"hardware": "h10"}, UnknownNameError, r"unknown hardware 'h10'; did you mean '.*h100'"),
    ({"hardware": "abacus"}, UnknownNameError, r"unknown hardware 'abacus'; (did you mean|known: )"),
    ({"model": "mixtrall"}, UnknownNameError, r"unknown model 'mixtrall'; did you mean 'mixtral'"),
    ({"backend": "vlm"}, UnknownNameError, r"unknown backend 'vlm'; did you mean 'vllm'"),
    ({"routing": "unifrom"}, UnknownNameError, r"unknown routing 'unifrom'; did you mean 'uniform'"),
    ({"decode_mode": "verfy"}, UnknownNameError, r"unknown decode_mode 'verfy'; did you mean 'verify'"),
    ({"weight_dtype": "bf61"}, UnknownNameError, r"unknown data type 'bf61'; did you mean 'bf16'"),
    ({"kv_dtype": "fp88"}, UnknownNameError, r"unknown data type 'fp88'; did you mean 'fp8'"),
    ({"captures": "vlm"}, UnknownNameError, r"unknown engine for captured graphs 'vlm'; did you mean 'vllm'"),
    ({"batch_size": 0}, InvalidArgumentError, r"batch_size must be a whole number of at least 1, got 0"),
    ({"batch_size": -4}, InvalidArgumentError, r"batch_size must be a whole number of at least 1, got -4"),
    ({"batch_size": 1.5}, InvalidArgumentError, r"batch_size must be a whole number of at least 1, got 1\.5"),
    ({"batch_size": True}, InvalidArgumentError, r"batch_size must be a whole number of at least 1, got True"),
    ({"tensor_parallel": 0}, InvalidArgumentError, r"tensor_parallel must be a whole number of at least 1, got 0"),
    ({"expert_parallel": -1}, InvalidArgumentError, r"expert_parallel must be a whole number of at least 1, got -1"),
    ({"max_positions": 0}, InvalidArgumentError, r"max_positions must be a whole number of at least 1, got 0"),
    ({"context_length": -1}, InvalidArgumentError, r"context_length must be at least 0, got -1"),
    ({"context_length": [1, 2, 3]}, InvalidArgumentError, r"context_length lists 3 sequences, batch_size is 1"),
    ({"context_length": []}, InvalidArgumentError, r"context_length must be a whole number, or one for each sequence, got \[\]"),
    ({"context_length": 4096.5}, InvalidArgumentError, r"context_length must be a whole number, or one for each sequence, got 4096\.5"),
    ({"context_length": "4096"}, InvalidArgumentError, r"context_length must be a whole number, or one for each sequence, got '4096'"),
    ({"routing": 3}, InvalidArgumentError, r"routing must be a name or one share per expert, got 3"),
    ({"routing": ["a"] * 8}, InvalidArgumentError, r"routing must be a name or one share per expert, got \['a'"),
    ({"weight_dtype": 3}, UnknownNameError, r"unknown data type '3'"),
    ({"context_length": 32_769}, InvalidArgumentError, r"context_length 32769 exceeds the 32768 tokens Mixtral-8x7B-v0\.1 was made for"),
    ({"tolerance": 0}, InvalidArgumentError, r"tolerance must be a finite number above 0, got 0"),
    ({"tolerance": -0.1}, InvalidArgumentError, r"tolerance must be a finite number above 0, got -0\.1"),
    ({"tolerance": float("nan")}, InvalidArgumentError, r"tolerance must be a finite number above 0, got nan"),
    ({"tolerance": float("inf")}, InvalidArgumentError, r"tolerance must be a finite number above 0, got inf"),
    ({"baseline": 0}, InvalidArgumentError, r"baseline must be a whole number of at least 1, got 0"),
    ({"baseline": 5, "max_positions": 4}, InvalidArgumentError, r"baseline 5 exceeds max_positions 4"),
    ({"baseline": "saturated", "max_positions": 15}, InvalidArgumentError, r"baseline 16 exceeds max_positions 15"),
    ({"baseline": "full"}, InvalidArgumentError, r"baseline must be a whole number or 'saturated', got 'full'"),
    ({"baseline": "saturated", "model": "llama-3.1-8b"}, InvalidArgumentError, r"baseline 'saturated' needs routed experts; .* is dense"),
    ({"routing": "power_law:0"}, InvalidArgumentError, r"power-law exponent must be between 0 and 10, got 0"),
    ({"routing": [0.0] * 8}, InvalidArgumentError, r"a routing histogram needs one non-negative share per expert, not all zero"),
    ({"routing": [1.0] * 7}, InvalidArgumentError, r"the routing histogram has 7 shares for 8 experts"),
    ({"captures": (0, 8)}, InvalidArgumentError, r"captured sizes must be at least 1, got \[0, 8\]"),
    ({"tensor_parallel": 2, "expert_parallel": 3}, InvalidArgumentError, r"tensor_parallel 2 and expert_parallel 3 one must divide"),
    ({"expert_parallel": 3}, UnsupportedError, r"Mixtral-8x7B-v0\.1: expert_parallel 3 does not divide 8 experts"),
    ({"tensor_parallel": 3}, UnsupportedError, r"Mixtral-8x7B-v0\.1: tensor_parallel 3 does not divide query heads 32"),
    ({"hardware": "tpu_v5e", "weight_dtype": "fp8"}, UnsupportedError, r"Google TPU v5e has no matrix rate for fp8; it can run .*bfloat16"),
    ({"hardware": "mi300x", "weight_dtype": "nvfp4"}, UnsupportedError, r"AMD Instinct MI300X has no matrix rate for nvfp4; it can run "),
    ({"strict_memory": True}, MemoryCapacityError, r"Mixtral-8x7B-v0\.1 needs 93\.9 GB per GPU .*, NVIDIA H100 SXM5 80GB has 85\.5 GB"),
    ({"hardware": "no_such.toml"}, SpecError, r"no_such\.toml: no such file"),
    ({"model": "no_such.toml"}, SpecError, r"no_such\.toml: no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "kind", "message"), CASES, ids=lambda value: str(value)[:40])
def test_a_wrong_argument_gets_one_sentence(arguments: dict[str, Any], kind: type[NfpModelError], message: str) -> None:
    given = {"hardware": "h100", "model": "mixtral", **arguments}
    hardware, model = given.pop("hardware"), given.pop("model")
    with pytest.raises(kind, match=message) as told:
        predict_nfp(hardware, model, **given)
    assert isinstance(told.value, ValueError)
    assert "\n" not in str(told.value)


def test_the_principle_refuses_as_the_prediction_does() -> None:
    with pytest.raises(UnknownNameError, match="unknown hardware 'h10'"):
        principle("h10", "mixtral")


def test_numpy_numbers_are_numbers() -> None:
    plain = predict_nfp("h100", "mixtral", batch_size=2, context_length=100, tolerance=0.5, max_positions=8)
    numpy = predict_nfp(
        "h100",
        "mixtral",
        batch_size=np.int64(2),
        context_length=np.int64(100),
        tolerance=np.float32(0.5),
        max_positions=np.int64(8),
    )
    assert plain.boundary == numpy.boundary


def test_a_memory_limit_that_holds_is_no_error() -> None:
    assert predict_nfp("h200", "mixtral", strict_memory=True, max_positions=8).fits_memory


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gemm(0, 4096), r"out_features must be a whole number of at least 1, got 0"),
        (lambda: Gemm(4096, -1), r"in_features must be a whole number of at least 1, got -1"),
        (lambda: Gemm(4096, 4096, "fp9"), r"unknown data type 'fp9'; did you mean 'fp8'"),
        (lambda: FusedMoE(4096, 14336, 8, 9), r"top_k 9 exceeds num_experts 8"),
        (lambda: FusedMoE(4096, 14336, 8, 2, expert_parallel=3), r"expert_parallel 3 does not divide 8 experts"),
        (
            lambda: FusedMoE(4096, 14336, 8, 2, tensor_parallel=5),
            r"tensor_parallel 5 does not divide the expert width 14336",
        ),
        (lambda: FusedMoE(4096, 14336, 8, 2, routing="blanced"), r"unknown routing 'blanced'; did you mean 'balanced'"),
        (lambda: Attention(32, 5, 128, 4096), r"num_query_heads 32 is not a multiple of num_kv_heads 5"),
        (lambda: Attention(32, 8, 128, -1), r"context_length must be at least 0, got -1"),
        (lambda: Attention(32, 8, 0, 4096), r"head_dim must be a whole number of at least 1, got 0"),
        (lambda: Routing.parse("power_law:11"), r"power-law exponent must be between 0 and 10, got 11"),
    ],
)
def test_operator_records_refuse_impossible_shapes(make: Any, message: str) -> None:
    with pytest.raises(NfpModelError, match=message):
        make()


@pytest.mark.parametrize("tokens", [[0], [-1, 2], [], [1.5]])
def test_operator_latency_needs_whole_tokens(tokens: list[float]) -> None:
    with pytest.raises(InvalidArgumentError, match="tokens must be whole numbers of at least 1"):
        operator_latency("h100", Gemm(512, 512), tokens)


@pytest.mark.parametrize(
    ("positions", "seconds", "message"),
    [
        ([1, 2], [1.0], "a curve needs as many seconds as positions, got 1 and 2"),
        ([], [], "a curve needs as many seconds as positions, got 0 and 0"),
        ([2, 1], [1.0, 1.0], "positions must be at least 1 and strictly increasing"),
        ([0, 1], [1.0, 1.0], "positions must be at least 1 and strictly increasing"),
        ([1, 2], [1.0, 0.0], "seconds must be finite and above 0"),
        ([1, 2], [1.0, float("nan")], "seconds must be finite and above 0"),
    ],
)
def test_a_measured_curve_needs_rising_positions_and_times(
    positions: list[int], seconds: list[float], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        LatencyCurve.measured(positions, seconds)


def test_a_baseline_must_be_on_the_curve() -> None:
    curve = LatencyCurve.measured([1, 4], [1.0, 1.0])
    with pytest.raises(InvalidArgumentError, match="baseline 5 lies beyond the last position 4"):
        near_free_boundary(curve, 0.1, 5)
    with pytest.raises(InvalidArgumentError, match="the measured curve has no point at 2 positions"):
        near_free_boundary(curve, 0.1, 2)


def test_kv_heads_that_neither_divide_nor_replicate() -> None:
    # 40 query heads over five ranks would do, eight KV heads do not.
    with pytest.raises(UnsupportedError, match="Qwen3-14B: 8 KV heads neither divide nor replicate over 5 ranks"):
        forward_operators(load_model("qwen3-14b"), Workload(tensor_parallel=5))


def test_a_spec_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("name = ", encoding="utf-8")
    with pytest.raises(SpecError, match=r"bad\.toml: not valid TOML"):
        predict_nfp(bad, "mixtral")
    bad.write_text('nam = "x"\n', encoding="utf-8")
    with pytest.raises(SpecError, match=r"bad\.toml: "):
        load_hardware(bad)


def test_no_message_prints_braces_or_array_reprs() -> None:
    for arguments, kind, _ in CASES:
        given = {"hardware": "h100", "model": "mixtral", **arguments}
        with pytest.raises(kind) as told:
            predict_nfp(given.pop("hardware"), given.pop("model"), **given)
        assert not set("{}") & set(str(told.value))
        assert np.__name__ not in str(told.value)
