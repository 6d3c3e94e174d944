"""A forward piece by piece, as transformers runs it, against the same forward fused."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from nfp_model import predict_nfp
from nfp_model.operators import Elementwise, FusedMoE, Gemm, forward_operators
from nfp_model.operators.forward import weight_bytes
from nfp_model.operators.pieces import UNFUSED
from nfp_model.specs.registry import load_model
from nfp_model.workload import Workload

MODELS = ("llama-3.1-8b", "qwen3-8b", "qwen3-30b-a3b", "mixtral", "llada2.0-mini", "gemma-3-12b", "deepseek-v3")


@pytest.mark.parametrize("name", MODELS)
def test_the_same_weights_and_flop_in_smaller_matrices(name: str) -> None:
    model = load_model(name)
    fused, apart = (forward_operators(model, Workload(), fused=fused) for fused in (True, False))
    assert weight_bytes(model, Workload(), apart) == weight_bytes(model, Workload(), fused)
    flop = [
        sum(use.count * use.operator.flop_per_row for use in uses if isinstance(use.operator, Gemm))
        for uses in (fused, apart)
    ]
    assert flop[0] == flop[1]
    experts = [[use for use in uses if isinstance(use.operator, FusedMoE)] for uses in (fused, apart)]
    assert experts[0] == experts[1]


@pytest.mark.parametrize("name", MODELS)
def test_more_kernels_and_more_bytes(name: str) -> None:
    model = load_model(name)
    launches, moved = [], []
    for fused in (True, False):
        pieces = [
            (use.count, use.operator)
            for use in forward_operators(model, Workload(), fused)
            if isinstance(use.operator, Elementwise)
        ]
        launches.append(sum(count * piece.launches for count, piece in pieces))
        moved.append(sum(count * piece.bytes_per_row for count, piece in pieces))
    assert launches[1] > 3 * launches[0]
    assert moved[1] > moved[0]


def test_only_torch_runs_unfused() -> None:
    names = {
        backend: {use.name for use in predict_nfp("h100", "llama-3.1-8b", backend=backend).forward.uses}
        for backend in ("torch", "vllm", "sglang", "trtllm")
    }
    assert {"q_proj", "k_proj", "v_proj", "gate_and_up_proj", "strided_heads"} <= names["torch"]
    for backend in ("vllm", "sglang", "trtllm"):
        assert {"qkv_proj", "gate_up_proj"} <= names[backend]
        assert "strided_heads" not in names[backend]


@given(st.sampled_from(sorted(UNFUSED)), st.integers(1, 20000), st.integers(1, 4))
def test_a_piece_scales_bytes_with_its_width_and_launches_with_its_number(work: str, width: int, times: int) -> None:
    one, several = UNFUSED[work].of(width), UNFUSED[work].of(width, times)
    assert several.bytes_per_row == one.bytes_per_row == UNFUSED[work].bytes_per_element * width
    assert several.launches == times * one.launches
    assert several.reductions == times * one.reductions


def test_latency_of_pieces_never_falls_with_rows() -> None:
    bound = predict_nfp("h100", "qwen3-30b-a3b", backend="torch").forward
    for use, one in zip(bound.uses, bound.bound, strict=True):
        if isinstance(use.operator, Elementwise):
            seconds = one.seconds(range(1, 300))
            assert (seconds[1:] >= seconds[:-1]).all(), use.name


def test_a_gpu_without_such_timings_takes_the_launches_of_the_one_that_has_them() -> None:
    there, here = (predict_nfp(gpu, "llama-3.1-8b", backend="torch") for gpu in ("h100", "h200"))
    assert not any("another GPU" in warning for warning in there.warnings)
    assert (
        "elementwise on NVIDIA H200 SXM 141GB uses constants measured on another GPU (h100_sxm5.torch)" in here.warnings
    )
    # The same launches at a like clock: only bytes and the GEMMs' constants differ.
    assert 0.7 < here.baseline_latency_s / there.baseline_latency_s < 1.1
