"""A whole attention block over a compressed cache, against sums over its positions and the model's own configuration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from nfp_model.cost.binding import bind
from nfp_model.cost.inputs import shape_inputs
from nfp_model.errors import InvalidArgumentError, UnsupportedError
from nfp_model.operators import CompressedAttention
from nfp_model.specs.registry import load_hardware
from nfp_model.validation.fit_tables import silicon_tables
from nfp_model.validation.shapes import ModuleShape
from nfp_model.validation.silicon import load_attention_module


def block(context: int = 4096, batch: int = 1, indexed: bool = True, heads: int = 128) -> CompressedAttention:
    index = {"index_heads": 64, "index_dim": 128, "index_topk": 1024} if indexed else {}
    return CompressedAttention(7168, 1536, 1024, 512, heads, 16, 4 if indexed else 128, context, batch, **index)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(context=st.integers(0, 20000), positions=st.integers(1, 3000), batch=st.integers(1, 8))
def test_keys_and_selecting_rows_are_means_over_the_positions(context: int, positions: int, batch: int) -> None:
    seen = (context + np.arange(positions) + 0.5) / 4
    operator = block(context, batch)
    assert operator.keys_seen(positions).item() == pytest.approx(np.minimum(seen, 1024).mean() + 128, rel=1e-3)
    assert operator.selecting_rows(positions).item() == pytest.approx(batch * int((seen > 1024).sum()), abs=batch)
    assert block(context, batch, indexed=False).keys_seen(positions).item() == pytest.approx(
        (context + positions / 2) / 128 + 128
    )


@settings(max_examples=60, deadline=None)
@given(
    context=st.integers(0, 20000),
    positions=st.integers(1, 9000),
    indexed=st.booleans(),
    tile=st.sampled_from([64, 128]),
)
def test_every_row_walks_whole_tiles_of_its_own_keys(context: int, positions: int, indexed: bool, tile: int) -> None:
    seen = (context + np.arange(positions) + 0.5) / (4 if indexed else 128)
    tiles = np.ceil(((np.minimum(seen, 1024) if indexed else seen) + 128) / tile)
    walked = block(context, indexed=indexed).keys_walked(positions, tile).item()
    assert walked == pytest.approx(tile * tiles.mean(), abs=2 * tile / positions)


@settings(max_examples=60, deadline=None)
@given(context=st.integers(0, 20000), positions=st.integers(2, 9000), batch=st.integers(1, 8))
def test_ranked_pairs_are_squares_of_candidates_up_to_the_most(context: int, positions: int, batch: int) -> None:
    seen = (context + np.arange(positions) + 0.5) / 4
    ranked = batch * (seen[(seen > 1024) & (seen <= 2048)] ** 2).sum()
    operator = block(context, batch)
    assert operator.ranked_pairs(positions, 2048).item() == pytest.approx(ranked, rel=1e-3, abs=batch * 2048**2)
    assert (
        operator.ranked_pairs(1, 2048).item() == block(context, batch, indexed=False).ranked_pairs(9, 2048).item() == 0
    )


@pytest.mark.silicon
def test_vllm_takes_less_time_where_rows_have_more_than_2048_candidates() -> None:
    # One sequence of 4096 cached tokens: rows 4096 to 6144 have 2048 to 2560 candidates; each takes less than those before.
    pytest.importorskip("aiconfigurator_core")
    table = silicon_tables("b200_sxm", "vllm", "csa_block", "fp8_block")[0]
    curves = [curve for curve in table.fit if isinstance(curve.shape, ModuleShape)]
    found = [curve for curve in curves if (curve.shape.batch_size, curve.shape.context_length) == (1, 4096)]  # type: ignore[union-attr]
    assert found
    for curve in found:
        seconds = dict(zip(curve.tokens.tolist(), curve.seconds.tolist(), strict=True))
        assert (seconds[6144] - seconds[4096]) / 2048 < 0.5 * (seconds[4096] - seconds[3072]) / 1024


def test_work_follows_its_definition() -> None:
    operator = block(heads=16, batch=2)
    assert operator.attention_flop(8, keys=256).item() == 2 * 8 * 16 * 256 * 2 * (512 + 512)
    assert operator.index_flop(8).item() == 2 * 2 * 8 * (4096 + 4) / 4 * 64 * 128
    assert block(indexed=False).index_flop(8).item() == 0
    assert block(indexed=False).selecting_rows(8).item() == 0


def test_the_compressor_multiplies_in_32_bits() -> None:
    # Values and gates of 512, twice where compressed tokens overlap; a TF32 product takes twice the 16-bit time, 4 times the 8-bit time.
    assert block(indexed=False).compressor_elements == 2 * 7168 * 512
    assert block().compressor_elements == 2 * 7168 * 2 * 512
    for dtype, times in (("bfloat16", 2.0), ("fp8_block", 4.0)):
        operator = replace(block(indexed=False), weight_dtype=dtype)
        _, values = shape_inputs(bind(load_hardware("b200"), operator, "sglang"), np.array([8]))
        expected = 2 * (operator.weight_elements + (times - 1) * operator.compressor_elements)
        assert values["row_flop"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("gpu", "backend", "heads", "padded"),
    [
        ("b200", "sglang", 8, 64),
        ("b200", "sglang", 128, 128),
        ("h100", "sglang", 8, 64),
        ("b200", "vllm", 8, 128),
        ("h100", "vllm", 8, 64),
    ],
)
def test_heads_are_padded_to_the_kernels_tile(gpu: str, backend: str, heads: int, padded: int) -> None:
    # 8192 cached tokens and 8 more: 64 compressed ones and a window of 128.
    operator = replace(block(8192, indexed=False, heads=heads), weight_dtype="fp8_block")
    _, values = shape_inputs(bind(load_hardware(gpu), operator, backend), np.array([8]))
    keys = 256  # four of 64, two of 128
    assert values["padded_flop"].item() == 8 * padded * keys * 4 * 512
    copied = 1.5 * 2 * 64 * 512 if (gpu, backend, heads) == ("b200", "sglang", 8) else 0.0
    assert values["moved_bytes"].item() == 8 * (operator.activation_bytes_per_row + copied)


@pytest.mark.silicon
def test_up_to_64_heads_take_the_same_time_for_a_key_and_128_twice_that() -> None:
    pytest.importorskip("aiconfigurator_core")
    slopes = {}
    for curve in load_attention_module("b200_sxm", "sglang", "dsv4_hca", weight_dtype="fp8_block").curves:
        shape = curve.shape
        assert isinstance(shape, ModuleShape)
        if curve.half == "fit" and (shape.batch_size, shape.context_length) == (1, 524288):
            rows = dict(zip(curve.tokens.tolist(), curve.seconds.tolist(), strict=True))
            slopes[shape.model.split("-V4-")[1], shape.num_query_heads] = rows[8192] - rows[4096]
    assert slopes["Flash-FP8", 64] < 1.2 * slopes["Flash-FP8", 8]
    assert slopes["Pro", 128] > 1.7 * slopes["Pro", 16]


def test_one_block_walks_the_scores_of_a_row() -> None:
    # 1 M tokens are 262144 candidates, 256 steps of 1024 threads: 8 times 32.
    bound = bind(load_hardware("h200"), replace(block(2**20), weight_dtype="fp8_block"), "sglang")
    _, values = shape_inputs(bound, np.array([1, 2, 133]))
    assert values["selection_waves"] == pytest.approx([8.0, 9.0, 18.0], rel=1e-3)
    assert bound.edges(140).tolist() == [1, 2, 133]


def test_an_indexer_starts_more_at_the_second_position() -> None:
    for backend, beside in (("vllm", 8), ("trtllm", 32), ("sglang", 0)):
        for indexed in (True, False):
            operator = replace(block(4096, 4, indexed), weight_dtype="fp8_block")
            _, values = shape_inputs(bind(load_hardware("b200"), operator, backend), np.array([1, 2]))
            assert values["planned"].tolist() == [0, 4 + beside * indexed]


def test_keys_of_the_indexer_are_read_at_least_twice_and_at_most_16_times() -> None:
    operator = block(4096, batch=2)
    _, values = shape_inputs(bind(load_hardware("h200"), operator, "sglang"), np.array([1, 2, 8, 64]))
    assert values["index_bytes"].tolist() == [2 * 1024 * 128 * reads for reads in (2, 2, 8, 16)]


def test_sglang_serves_more_than_11673_rows_by_another_kernel() -> None:
    operator = replace(block(indexed=False, batch=4), weight_dtype="fp8_block")
    bound = bind(load_hardware("b200"), operator, "sglang")
    assert bound.edges(4096).tolist() == [1, 2, 11673 // 4 + 1]
    before, after = bound.terms([2918, 2919])["attention"]
    assert after < 0.7 * before
    assert bind(load_hardware("b200"), operator, "vllm").edges(4096).tolist() == [1, 2]


@pytest.mark.silicon
def test_more_rows_than_11673_take_less_time_each_in_the_public_timings() -> None:
    pytest.importorskip("aiconfigurator_core")
    found = 0
    for curve in silicon_tables("b200_sxm", "sglang", "hca_block", "fp8_block")[0].fit:
        rows = dict(zip((curve.tokens * curve.shape.batch_size).tolist(), curve.seconds.tolist(), strict=True))  # type: ignore[union-attr]
        if 8192 in rows and 12288 in rows:
            found += 1
            assert rows[12288] / 12288 < 0.95 * rows[8192] / 8192
    assert found > 20


def test_an_indexer_needs_its_sizes() -> None:
    with pytest.raises(InvalidArgumentError, match="index_dim and index_topk above 0"):
        CompressedAttention(7168, 1536, 1024, 512, 128, 16, 4, 4096, 1, index_heads=64)


@pytest.mark.silicon
def test_dimensions_come_from_the_configuration_beside_the_timings() -> None:
    pytest.importorskip("aiconfigurator_core")
    from nfp_model.validation.module_configs import compressed_attention

    arguments = ("deepseek-ai/DeepSeek-V4-Pro", "dsv4_csa", 16, 8, 4, 4096, 1, "fp8_block")
    operator = compressed_attention(*arguments)
    assert (operator.hidden_size, operator.query_rank, operator.output_groups, operator.index_topk) == (
        7168,
        1536,
        2,
        1024,
    )
    assert compressed_attention(arguments[0], "dsv4_hca", *arguments[2:]).index_heads == 0
    with pytest.raises(UnsupportedError, match="no configuration of nobody/nothing"):
        compressed_attention("nobody/nothing", *arguments[1:])
    with pytest.raises(UnsupportedError, match="attention module 'msa' is no operator"):
        compressed_attention(arguments[0], "msa", *arguments[2:])


@pytest.mark.parametrize("indexed", [False, True])
def test_the_second_position_is_an_edge(indexed: bool) -> None:
    """It leaves the decode path: planning of every sequence begins, whether rows select or not."""
    operator = replace(block(0, indexed=indexed), weight_dtype="fp8_block")
    bound = bind(load_hardware("h100"), operator, "vllm")
    assert bound.edges(64).tolist()[:2] == [1, 2]
    assert bound.seconds(2)[0] > bound.seconds(1)[0]
