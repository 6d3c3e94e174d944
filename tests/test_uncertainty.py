"""Bands of a forward: constants common to its operators, scatter of every shape by itself, and how both meet in a ratio."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from nfp_model import predict_nfp
from nfp_model.cost.latency import BoundOperator
from nfp_model.curve import BoundForward
from nfp_model.operators import Attention, Gemm, OperatorUse
from nfp_model.prediction import Prediction
from nfp_model.specs.registry import load_hardware
from nfp_model.uncertainty import (
    Z80,
    Spread,
    cache_in_l2,
    forward_spread,
    operator_spread,
    scatter,
    unit_effects,
)


@pytest.fixture(scope="module")
def llama() -> Prediction:
    return predict_nfp("h100", "llama-3.1-8b", max_positions=256)


def forward_of(prediction: Prediction, *names: str) -> BoundForward:
    """A forward of some operators of a prediction alone."""
    forward = prediction.forward
    kept = [place for place, use in enumerate(forward.uses) if use.name in names]
    uses, bound = (tuple(sequence[place] for place in kept) for sequence in (forward.uses, forward.bound))
    return replace(forward, uses=uses, bound=bound)


def twice(forward: BoundForward) -> BoundForward:
    (use,), (bound,) = forward.uses, forward.bound
    again: OperatorUse = replace(use, name="again")
    return replace(forward, uses=(use, again), bound=(bound, bound))


def test_one_operator_is_as_unsure_in_a_forward_as_alone(llama: Prediction) -> None:
    rows = np.array([1, 16, 64])
    alone = forward_of(llama, "qkv_proj")
    whole, part = forward_spread(alone, alone.curve(rows)), operator_spread(alone.bound[0], rows)
    assert whole.deviation == pytest.approx(part.deviation)
    assert whole.ratio_deviation(rows, 0) == pytest.approx(part.ratio_deviation(rows, 0))


def test_launches_of_one_shape_miss_together_and_two_shapes_apart(llama: Prediction) -> None:
    rows = np.array([1, 16, 64])
    alone = forward_of(llama, "qkv_proj")
    again = twice(alone)
    assert forward_spread(again, again.curve(rows)).deviation == pytest.approx(
        forward_spread(alone, alone.curve(rows)).deviation
    )
    two = forward_of(llama, "qkv_proj", "o_proj")
    spread, (first, second) = forward_spread(two, two.curve(rows)), two.bound
    seconds = np.array([use.count * bound.seconds(rows) for use, bound in zip(two.uses, two.bound, strict=True)])
    share = seconds / seconds.sum(axis=0)
    assert (spread.scatter**2).sum(axis=0) == pytest.approx(
        (share[0] * scatter(first, rows)) ** 2 + (share[1] * scatter(second, rows)) ** 2
    )
    # One fit stands behind both: its constants move them by the sum of what they move each.
    together = share[0] * operator_spread(first, rows).moved + share[1] * operator_spread(second, rows).moved
    assert (spread.moved**2).sum(axis=0) == pytest.approx((together**2).sum(axis=0))


def test_the_band_of_a_latency_is_log_normal_around_it(llama: Prediction) -> None:
    low, high = llama.latency_band_s([1, 64])
    middle = llama.latency_s([1, 64])
    assert np.sqrt(low * high) == pytest.approx(middle)
    width = forward_spread(llama.forward, llama.forward.curve(np.array([1, 64]))).deviation
    assert np.log(high / middle) == pytest.approx(Z80 * width)
    assert [end.size for end in llama.latency_band_s([])] == [0, 0]
    assert llama.to_dict()["baseline_latency_band_s"] == pytest.approx([low[0], high[0]])


@pytest.mark.parametrize(("context", "inside"), [(512, True), (262144, False)])
def test_attention_over_a_cache_inside_l2_has_a_scatter_of_its_own(
    llama: Prediction, context: int, inside: bool
) -> None:
    place = next(n for n, use in enumerate(llama.forward.uses) if isinstance(use.operator, Attention))
    bound = llama.forward.bound[place]
    fit = bound.fit.model_copy(update={"band_scatter": 0.01, "band_scatter_in_l2": 0.3})
    # 2 x 8 KV heads of 128 in 16 bits: 4096 bytes a token against 50 MB of L2.
    asked = replace(bound, fit=fit, operator=Attention(32, 8, 128, context))
    assert cache_in_l2(asked) is inside
    assert scatter(asked, np.array([1]))[0] == (0.3 if inside else 0.01)


def test_products_have_no_cache(llama: Prediction) -> None:
    bound = llama.forward.bound[0]
    assert not cache_in_l2(BoundOperator(Gemm(64, 64), load_hardware("h100"), None, bound.fit, "made"))


@given(
    st.lists(st.floats(0.1, 3.0), min_size=9, max_size=9),
    st.lists(st.floats(-2.0, 2.0), min_size=6, max_size=6),
)
def test_unit_effects_have_the_variance_of_the_covariance(root: list[float], slopes: list[float]) -> None:
    factor, gradient = np.array(root).reshape(3, 3), np.array(slopes).reshape(3, 2)
    covariance = factor @ factor.T
    expected = np.einsum("ip,ij,jp->p", gradient, covariance, gradient)
    assert (unit_effects(gradient, covariance) ** 2).sum(axis=0) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(st.lists(st.floats(0.0, 0.5), min_size=4, max_size=4), st.floats(0.1, 100.0))
def test_a_ratio_is_sure_at_its_baseline_and_never_less_sure_than_two_latencies(
    widths: list[float], octaves: float
) -> None:
    tokens = np.array([1, 2, 16, 512])
    spread = Spread.of(np.array(widths), octaves, moved=np.array([widths[::-1]]))
    ratio = spread.ratio_deviation(tokens, 0)
    assert ratio[0] == 0.0
    assert (ratio <= spread.deviation + spread.deviation[0] + 1e-12).all()
