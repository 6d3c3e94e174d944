"""Diffusion blocks from predicted curves: wiring, published defaults and their scope."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nfp_model.acceptance import TokensPerForward
from nfp_model.errors import NfpModelError
from nfp_model.prediction import predict_nfp
from nfp_model.scheduling import block_costs


@pytest.mark.parametrize(("model", "batch"), [("sdar-8b", 4), ("llada2.0-mini", 1)])
def test_block_costs_agree_with_predict_nfp(model: str, batch: int) -> None:
    costs = block_costs("h100", model, (4, 32, 256), batch_size=batch, context_length=2048)
    given: dict[str, Any] = {"batch_size": batch, "context_length": 2048}
    one = predict_nfp("h100", model, **given).latency_s(1)[0]
    blocks = predict_nfp("h100", model, decode_mode="block", **given).latency_s([4, 32, 256])
    assert [point.tokens_needed for point in costs.decision.blocks] == pytest.approx(blocks / one)
    assert costs.baseline_latency_s == pytest.approx(one)
    assert costs.decision.best is None


def test_published_default_blocks_are_near_free_dense_and_not_in_a_moe_at_batch_one() -> None:
    """SDAR's block of 4 and LLaDA2's of 32: under a dense model's boundary; 32 rows already touch 163 of 256 experts."""
    dense = block_costs("h100", "sdar-8b", (4, 16, 32)).decision
    assert dense.largest_near_free is not None
    assert dense.largest_near_free.block >= 16
    sparse = block_costs("h100", "llada2.0-mini", (4, 16, 32)).decision
    assert sparse.largest_near_free is None
    assert sparse.blocks[-1].tokens_needed > 1.5


def test_published_tokens_per_forward_keep_their_scope() -> None:
    """LLaDA2.0-mini, threshold 0.95: TPF 2.44 at block 16 and 2.55 at block 32 (arXiv 2512.15745, figure 4)."""
    costs = block_costs("h200", "llada2.0-mini", tokens_per_forward="published")
    given = {p.block: p.tokens_per_forward for p in costs.decision.blocks if p.tokens_per_forward is not None}
    assert given == {16: 2.44, 32: 2.55}
    assert costs.decision.best is not None
    assert costs.decision.best.block == 16  # 5 % more tokens do not pay for the experts of 16 more rows
    assert "threshold 0.95" in costs.scope
    assert costs.scope in str(costs)
    for point in costs.decision.blocks:
        if point.speedup is not None:
            assert point.speedup == pytest.approx(given[point.block] / point.tokens_needed)


def test_full_canvas_computes_every_position_anew() -> None:
    """Without a cache the keys are the canvas itself: cheaper than a block against the same cached context, and no cache."""
    canvas = block_costs("h100", "llada-8b", (64, 1024), full_canvas=True)
    cached = block_costs("h100", "llada-8b", (64, 1024))
    assert canvas.baseline_latency_s == cached.baseline_latency_s
    for alone, against in zip(canvas.decision.blocks, cached.decision.blocks, strict=True):
        assert alone.latency_ratio < against.latency_ratio
    seconds = predict_nfp("h100", "llada-8b", context_length=0, decode_mode="block").latency_s([64, 1024])
    assert [p.latency_ratio * canvas.baseline_latency_s for p in canvas.decision.blocks] == pytest.approx(seconds)
    assert "cost of a canvas without cache against one position" in str(canvas)
    assert canvas.to_dict()["full_canvas"] is True
    assert any("keeps no exact KV cache" in warning for warning in cached.warnings)
    assert not any("keeps no exact KV cache" in warning for warning in canvas.warnings)


def test_own_curve_may_hold_blocks_beyond_the_grid() -> None:
    costs = block_costs("h100", "sdar-8b", (4, 8), tokens_per_forward=TokensPerForward((8, 64), (2.0, 6.0)))
    assert [point.block for point in costs.decision.blocks] == [4, 8, 64]
    data = json.loads(json.dumps(costs.to_dict()))
    assert data["best_block"] == 64
    assert data["rows"][0]["tokens_per_forward"] is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"blocks": ()}, "the grid of block sizes is empty"),
        ({"blocks": (8, 4)}, r"block sizes must strictly increase, got \[8, 4\]"),
        ({"blocks": (0,)}, "block must be a whole number of at least 1, got 0"),
        ({"tokens_per_forward": "measured"}, "tokens_per_forward must be a curve or 'published', got 'measured'"),
        (
            {"tokens_per_forward": "published"},
            "no published tokens per forward for SDAR-8B; there are some for LLaDA2.0",
        ),
    ],
)
def test_bad_blocks_are_one_sentence(given: dict[str, Any], message: str) -> None:
    with pytest.raises(NfpModelError, match=message):
        block_costs("h100", "sdar-8b", **given)
