"""A forward piece by piece, as transformers runs it, against the same forward fused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from nfp_model import predict_nfp
from nfp_model.kernels.steps import walked_elements
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
    one, several = UNFUSED[work].of(width), UNFUSED[work].of(width, ((128, 8),) * times)
    assert several.bytes_per_row == one.bytes_per_row == UNFUSED[work].bytes_per_element * width
    assert several.launches == times * one.launches
    assert several.searches == times * one.searches
    if UNFUSED[work].averages:
        assert one.means == ((width, 1),)
        assert several.means == ((128, 8),) * times


@given(st.integers(1, 16384), st.integers(1, 4096))
def test_threads_of_a_mean_cover_the_row_and_edges_tell_where_they_change(width: int, rows: int) -> None:
    walked = walked_elements(width, np.arange(1, rows + 1))
    assert (walked * 512 >= width).all()
    assert (walked <= width).all()
    assert (np.diff(walked) >= 0).all()
    assert walked[0] == np.ceil(width / min(512, 2 ** (width.bit_length() - 1)))


def test_latency_of_a_norm_steps_where_a_block_takes_more_rows() -> None:
    forward = predict_nfp("h100", "qwen3-8b", backend="torch").forward
    norm = next(one for use, one in zip(forward.uses, forward.bound, strict=True) if use.name == "qk_norms")
    assert norm.edges(4096).tolist() == [
        1,
        2,
    ]  # 8 KV heads: two tokens fill a block of 16 rows, 32 query heads do with one
    plain = next(
        one
        for use, one in zip(forward.uses, forward.bound, strict=True)
        if getattr(use.operator, "means", ()) == ((4096, 1),)
    )
    assert plain.edges(4096).tolist() == [1, 2, 4, 8, 16]
    rise = np.diff(plain.seconds(np.arange(1, 33)))
    steps = {int(place) + 2 for place in np.flatnonzero(rise > 1e-7)}
    assert steps == {2, 4, 8, 16}


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


def test_norms_over_all_heads_at_once_average_along_the_whole_projection() -> None:
    # OLMoE normalises 2048 query features together, Qwen3 every head of 128.
    means = {}
    for name in ("olmoe", "qwen3-8b"):
        uses = forward_operators(load_model(name), Workload(), fused=False)
        means[name] = next(use.operator.means for use in uses if use.name == "qk_norms")  # type: ignore[union-attr]
    assert means["olmoe"] == ((2048, 1), (2048, 1))
    assert means["qwen3-8b"] == ((128, 32), (128, 8))
