"""The table of winning tiles gives what the whole menu gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from nfp_model import Gemm, load_hardware
from nfp_model.cost.binding import bind
from nfp_model.cost.compiled import evaluate
from nfp_model.cost.inputs import equation_inputs


@settings(max_examples=40)
@given(
    gpu=st.sampled_from(["a100", "h100", "b200", "rtx_pro_6000", "mi300x"]),
    out_features=st.integers(1, 60_000),
    in_features=st.integers(16, 30_000),
    rows=st.lists(st.integers(1, 16_384), min_size=1, max_size=60),
)
def test_table_equals_the_whole_menu(gpu: str, out_features: int, in_features: int, rows: list[int]) -> None:
    bound = bind(load_hardware(gpu), Gemm(out_features, in_features), "uncalibrated")
    tokens = np.array(rows)
    whole = evaluate(*equation_inputs(bound, tokens)).min(axis=0)
    found = bound.seconds(tokens)
    assert (found >= whole * (1 - 1e-12)).all()
    np.testing.assert_allclose(found, whole, rtol=1e-9)


@pytest.mark.parametrize("backend", ["vllm", "trtllm"])
def test_an_entry_that_wins_between_two_others_is_found(backend: str) -> None:
    # Eight parts, then two, then one win from 1 to 64 rows, within one tile.
    bound = bind(load_hardware("rtx_pro_6000"), Gemm(8192, 2048), backend)
    tokens = np.arange(1, 130)
    np.testing.assert_allclose(bound.seconds(tokens), bound.terms(tokens)["total"], rtol=1e-12)


@pytest.mark.parametrize("shape", [(4096, 4096), (28672, 8192), (152064, 2048)])
def test_rows_beyond_every_table_take_the_entries_of_its_upper_half(shape: tuple[int, int]) -> None:
    bound = bind(load_hardware("h100"), Gemm(*shape), "uncalibrated")
    tokens = np.array([16_385, 20_000, 100_000, 1_000_000])
    whole = evaluate(*equation_inputs(bound, tokens)).min(axis=0)
    np.testing.assert_allclose(bound.seconds(tokens), whole, rtol=5e-3)


def test_other_constants_keep_the_tile() -> None:
    bound = bind(load_hardware("h100"), Gemm(4096, 4096), "uncalibrated")
    tokens = np.array([1, 64, 65, 300])
    (same,) = bound.seconds_with([bound.fit.values()], tokens)
    assert (same >= bound.seconds(tokens) * (1 - 1e-12)).all()
    assert same == pytest.approx(bound.seconds(tokens), rel=2e-3)
