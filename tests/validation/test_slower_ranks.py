"""Curves of more ranks that are slower than the same experts on fewer."""

from __future__ import annotations

import numpy as np
import pytest

from nfp_model.validation.datasets import CurveSet, Source
from nfp_model.validation.records import Curve
from nfp_model.validation.shapes import MoEShape
from nfp_model.validation.slower_ranks import NAME, without_slower_ranks

TOKENS = np.array([16, 32, 64, 128])


def curve(tensor: int, expert: int, microseconds: float, kernel: str = "one") -> Curve:
    shape = MoEShape(5120, 8192, 16, 1, tensor_parallel=tensor, expert_parallel=expert, routing="balanced")
    seconds = np.full(TOKENS.size, microseconds * 1e-6)
    return Curve("moe", shape, "h200_sxm", "trtllm", TOKENS, seconds, "bfloat16", "bfloat16", kernels=(kernel,))


@pytest.mark.parametrize(
    ("others", "gone"),
    [
        ([curve(2, 1, 190.0)], 0),  # within what tiles and clocks do
        ([curve(2, 1, 210.0)], 1),
        ([curve(2, 1, 60.0), curve(4, 1, 130.0)], 1),  # slower than two ranks, not than one
        ([curve(1, 2, 300.0), curve(2, 2, 310.0), curve(4, 1, 40.0)], 2),
        ([curve(2, 1, 300.0, "another")], 0),  # another kernel says nothing
    ],
)
def test_a_rank_with_less_to_do_cannot_take_longer(others: list[Curve], gone: int) -> None:
    found = CurveSet((curve(1, 1, 100.0), *others), Source("test"), repeats=((others[0], others[0]),))
    left = without_slower_ranks(found)
    assert len(left) == len(found) - gone
    assert left.curves[0] is found.curves[0]
    assert (left.exclusions[NAME].curves, left.exclusions[NAME].rows) == (gone, 4 * gone) if gone else left is found
    assert without_slower_ranks(found, (NAME,)) is found


def test_what_was_recorded_twice_goes_with_its_curve() -> None:
    slow = curve(2, 1, 300.0)
    found = CurveSet((curve(1, 1, 100.0), slow), Source("test"), repeats=((slow, slow),))
    assert without_slower_ranks(found).repeats == ()
