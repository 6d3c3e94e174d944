"""Captured graph sizes as the engines' sources list them, and what padding to them does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from nfp_model.errors import InvalidArgumentError, UnknownNameError
from nfp_model.kernels.capture import captured_sizes, pad_to_capture
from nfp_model.specs.registry import load_hardware

A100, H100, B200 = (load_hardware(name) for name in ("a100", "h100", "b200"))


class TestLists:
    def test_vllm(self) -> None:
        # vllm/config/vllm.py, _set_cudagraph_sizes: 1, 2, 4, 8..248 step 8, 256..512 step 16.
        expected = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]
        assert captured_sizes("vllm", H100, 1).tolist() == expected
        assert len(expected) == 51

    def test_vllm_blackwell_goes_to_1024(self) -> None:
        assert captured_sizes("vllm", B200, 1)[-1] == 1024

    def test_vllm_adds_multiples_of_the_query_length(self) -> None:
        sizes = set(captured_sizes("vllm", H100, 5).tolist())
        assert {5, 10, 20, 40, 80, 160, 320} <= sizes
        assert 15 not in sizes

    def test_sglang_without_speculation(self) -> None:
        # cuda_graph_hook.py: 1, 2, 4, 8, 12, 16..256 step 8; an 80 GB GPU captures up to 256.
        assert captured_sizes("sglang", H100, 1).tolist() == [1, 2, 4, 8, 12, *range(16, 257, 8)]

    def test_sglang_with_speculation(self) -> None:
        expected = [*range(1, 9), *range(10, 33, 2), *range(40, 65, 4), *range(72, 257, 8)]
        assert captured_sizes("sglang", H100, 4).tolist() == expected

    def test_sglang_largest_by_memory(self) -> None:
        assert captured_sizes("sglang", load_hardware("l4"), 1)[-1] == 48
        assert captured_sizes("sglang", load_hardware("l40s"), 1)[-1] == 32
        assert captured_sizes("sglang", B200, 1)[-1] == 512

    def test_trtllm(self) -> None:
        assert captured_sizes("trtllm", H100, 1).tolist() == [1, 2, 4, *range(8, 129, 8)]


class TestPadding:
    def test_requests_are_padded_before_positions_multiply(self) -> None:
        # pad(B) x N in SGLang and TensorRT-LLM, pad(B x N) in vLLM.
        assert pad_to_capture("sglang", H100, 33, [4]).tolist() == [40 * 4]
        assert pad_to_capture("trtllm", H100, 9, [3]).tolist() == [16 * 3]
        assert pad_to_capture("vllm", H100, 33, [1]).tolist() == [40]

    def test_vllm_graphs_hold_whole_sequences(self) -> None:
        # Three sequences of five: 16 is captured but holds no whole number of sequences; 20 does.
        assert pad_to_capture("vllm", H100, 3, [5]).tolist() == [20]

    def test_power_of_two_batches_are_not_padded_by_vllm(self) -> None:
        assert pad_to_capture("vllm", H100, 4, np.arange(1, 65)).tolist() == (4 * np.arange(1, 65)).tolist()

    def test_above_the_largest_nothing_is_padded(self) -> None:
        assert pad_to_capture("vllm", H100, 1, [513]).tolist() == [513]
        assert pad_to_capture("sglang", H100, 300, [1]).tolist() == [300]
        assert pad_to_capture("trtllm", H100, 129, [2]).tolist() == [258]

    def test_no_captures(self) -> None:
        assert pad_to_capture(None, H100, 3, [1, 7]).tolist() == [3, 21]

    def test_given_sizes_count_tokens(self) -> None:
        assert pad_to_capture((32, 8, 16), H100, 2, [1, 4, 5, 16, 17]).tolist() == [8, 8, 16, 32, 34]

    @pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
    @settings(max_examples=50, deadline=None)
    @given(batch=st.integers(1, 300), positions=st.integers(1, 64))
    def test_padding_never_loses_rows_and_lands_on_a_captured_size(
        self, engine: str, batch: int, positions: int
    ) -> None:
        rows = int(pad_to_capture(engine, H100, batch, [positions])[0])
        sizes = captured_sizes(engine, H100, positions)
        size = rows // positions if engine != "vllm" else rows
        wanted = batch if engine != "vllm" else batch * positions
        assert rows >= batch * positions
        assert size in sizes or wanted > sizes[-1]


class TestErrors:
    def test_unknown_engine(self) -> None:
        with pytest.raises(UnknownNameError, match="unknown engine for captured graphs 'vlm'; did you mean 'vllm'"):
            pad_to_capture("vlm", H100, 1, [1])

    def test_an_engine_without_graphs(self) -> None:
        with pytest.raises(
            UnknownNameError, match="unknown engine for captured graphs 'torch'; known: sglang, trtllm, vllm"
        ):
            pad_to_capture("torch", H100, 1, [1])

    def test_sizes_below_one(self) -> None:
        with pytest.raises(InvalidArgumentError, match=r"captured sizes must be at least 1, got \[0, 8\]"):
            pad_to_capture((0, 8), H100, 1, [1])
