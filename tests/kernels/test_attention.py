"""Attention granularity: mode switches, tiles and KV splits as the sources state them, and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from nfp_model.cost.binding import bind
from nfp_model.cost.inputs import crowded_out
from nfp_model.errors import InvalidArgumentError, UnsupportedError
from nfp_model.kernels.attention import (
    TRTLLM_GEN_LOOP_COST,
    TRTLLM_GEN_REDUCTION_COST,
    TRTLLM_GEN_TILES,
    attention_counts,
    attention_edges,
    attention_row,
)
from nfp_model.kernels.attention_splits import (
    SPLIT_RULES,
    SplitCase,
    fa2_splits,
    fa3_splits,
    fa4_splits,
    flex_splits,
    sglang_triton_splits,
    xqa_splits,
)
from nfp_model.kernels.selection import select_attention
from nfp_model.operators import Attention
from nfp_model.specs.attention_kernel import AttentionKernel, AttentionRow
from nfp_model.specs.kernel_library import load_kernel
from nfp_model.specs.registry import load_hardware
from nfp_model.validation.fit_tables import silicon_tables
from nfp_model.validation.shapes import AttentionShape
from nfp_model.validation.silicon import load_attention

A100, H100, B200 = (load_hardware(name) for name in ("a100", "h100", "b200"))
GQA = Attention(32, 8, 128, 4096)


def kernel(key: str) -> AttentionKernel:
    found = load_kernel(key)
    assert isinstance(found, AttentionKernel)
    return found


def mla(heads: int, batch_size: int = 1, context: int = 4096) -> Attention:
    return Attention(heads, 1, 576, context, batch_size, value_head_dim=512, shared_kv=True, latent=True)


class TestModeSwitches:
    def test_fa2_loses_packing_and_split_at_two_positions(self) -> None:
        counts = attention_counts(kernel("fa2_sm80:paged_varlen"), A100, GQA, np.array([1, 2, 64, 65]))
        assert counts.query_tiles.tolist() == [1, 4, 4, 8]  # g = 4 heads on the rows, then one head a CTA
        assert counts.splits[0] > 1
        assert counts.splits[1:].tolist() == [1, 1, 1]
        assert counts.kv_reads.tolist() == [1, 4, 4, 8]

    def test_fa2_with_a_window_never_packs(self) -> None:
        windowed = Attention(32, 8, 128, 4096, window=1024)
        assert attention_counts(kernel("fa2_sm80:paged_varlen"), A100, windowed, np.array([1])).query_tiles.item() == 4

    def test_fa3_fork_tile_doubles_above_64_packed_rows(self) -> None:
        counts = attention_counts(kernel("fa3_sm90:decode_vllm"), H100, GQA, np.array([16, 17, 32, 33]))
        assert counts.tile_rows.tolist() == [64, 128, 128, 128]
        assert counts.query_tiles.tolist() == [1, 1, 1, 2]

    def test_fa3_fork_keeps_the_upstream_tile_under_a_window(self) -> None:
        windowed = Attention(32, 8, 128, 4096, window=1024)
        assert attention_counts(kernel("fa3_sm90:decode_vllm"), H100, windowed, np.array([1])).tile_rows.item() == 128

    def test_fa4_second_stage_above_128_packed_rows(self) -> None:
        assert attention_counts(kernel("fa4_sm100:decode"), B200, GQA, np.array([32, 33])).tile_rows.tolist() == [
            128,
            256,
        ]

    def test_vllm_triton_leaves_the_split_kernel_after_eight_positions(self) -> None:
        counts = attention_counts(kernel("vllm_triton_attention_sm80:unified"), A100, GQA, np.array([8, 9]))
        assert counts.splits.tolist() == [16, 1]

    def test_vllm_triton_leaves_the_split_kernel_on_a_large_grid(self) -> None:
        # 128 / n_kv = 16 query blocks over the batch; g = 4 gives four positions a block.
        for batch, splits in ((16, 16), (17, 1)):
            operator = Attention(32, 8, 128, 4096, batch_size=batch)
            assert (
                attention_counts(
                    kernel("vllm_triton_attention_sm80:unified"), A100, operator, np.array([4])
                ).splits.item()
                == splits
            )

    def test_vllm_triton_block_diffusion_is_never_split(self) -> None:
        block = Attention(32, 8, 128, 4096, causal=False)
        assert (
            attention_counts(kernel("vllm_triton_attention_sm80:unified"), A100, block, np.arange(1, 9)).splits.max()
            == 1
        )

    def test_sglang_flashinfer_decode_to_prefill(self) -> None:
        small_group = Attention(16, 8, 128, 4096)  # g = 2: the CUDA-core decode kernel serves one position
        counts = attention_counts(kernel("flashinfer_sm80:sglang"), A100, small_group, np.array([1, 2]))
        assert counts.tile_rows.tolist() == [2, 16]

    def test_sglang_triton_decode_to_extend(self) -> None:
        counts = attention_counts(kernel("sglang_triton_attention_sm80:decode_extend"), A100, GQA, np.array([1, 2]))
        assert counts.splits.tolist() == [8, 1]
        assert counts.tile_rows.tolist() == [16, 128]

    @pytest.mark.parametrize(("batch", "starts"), [(1, 2), (8, 15)])
    def test_sglang_triton_mla_starts_every_split_its_grid_has_room_for(self, batch: int, starts: int) -> None:
        # 142 SMs: a grid of 256 splits a sequence, of which 64 keys fill two of 32; the timings rise by these empty CTAs.
        operator = mla(16, batch, 63)
        counts = attention_counts(
            kernel("sglang_triton_attention_sm86:mla"), load_hardware("l40s"), operator, np.array([1])
        )
        assert counts.splits.tolist() == [2]
        assert counts.waves.tolist() == [1]
        assert counts.hidden_starts.tolist() == [starts]

    @pytest.mark.parametrize(("heads", "batch", "late"), [(16, 256, 0), (128, 8, 0), (128, 71, 3), (128, 256, 7)])
    def test_sglang_triton_mla_takes_every_sequence_before_the_next_head_tile(
        self, heads: int, batch: int, late: int
    ) -> None:
        # 142 SMs hold two head tiles of 71 sequences at once and less than one of 256.
        operator = mla(heads, batch, 32767)
        counts = attention_counts(
            kernel("sglang_triton_attention_sm86:mla"), load_hardware("l40s"), operator, np.array([1])
        )
        assert counts.late_tiles.tolist() == [late]

    @pytest.mark.parametrize(("batch", "tiles"), [(1, [16, 16, 64, 64, 128]), (4, [16, 64, 128, 128, 128])])
    def test_flashinfer_tile_under_captured_graphs(self, batch: int, tiles: list[int]) -> None:
        # Packed length is (B N - B + 1) g with g = 4: the worst case a graph of that many rows may hold.
        operator = Attention(32, 8, 128, 4096, batch_size=batch)
        counts = attention_counts(kernel("flashinfer_sm80:sglang"), A100, operator, np.array([1, 4, 5, 16, 17]))
        assert counts.tile_rows.tolist() == tiles

    def test_flashinfer_tile_follows_the_packed_length(self) -> None:
        counts = attention_counts(kernel("flashinfer_sm80:append"), A100, GQA, np.array([4, 5, 16, 17]))
        assert counts.tile_rows.tolist() == [16, 64, 64, 128]

    def test_xqa_tiles(self) -> None:
        counts = attention_counts(kernel("xqa_sm80:precompiled"), H100, GQA, np.array([1, 3, 4, 8, 9]))
        assert counts.tile_rows.tolist() == [4, 16, 32, 32, 32]
        assert counts.query_tiles.tolist() == [1, 1, 1, 1, 2]


class TestTiles:
    @pytest.mark.parametrize(("heads", "positions"), [(8, 16), (16, 8), (32, 4), (40, 3), (56, 2), (64, 2), (128, 1)])
    def test_positions_of_an_aligned_tile(self, heads: int, positions: int) -> None:
        # g = 1, 2, 4, 5, 7, 8, 16 heads: floor(16 / g) whole positions in a tile of 16.
        operator = Attention(heads, 8, 128, 4096, batch_size=64)
        counts = attention_counts(
            kernel("vllm_triton_attention_sm80:unified"), A100, operator, np.array([positions, positions + 1])
        )
        assert counts.query_tiles.tolist() == [1, 2]

    @settings(max_examples=100, deadline=None)
    @given(n=st.integers(1, 300), group=st.integers(1, 64), tile=st.sampled_from([8, 16, 64, 128]))
    def test_packings_against_their_definition(self, n: int, group: int, tile: int) -> None:
        expected = {
            "free": math.ceil(n * group / tile),
            "aligned": math.ceil(n / max(1, tile // group)) * math.ceil(group / tile),
            "heads": n * math.ceil(group / tile),
            "none": group * math.ceil(n / tile),
        }
        for packing, tiles in expected.items():
            one = AttentionKernel(name="one", source="test", rows=(AttentionRow(tile_rows=tile, packing=packing),))  # type: ignore[arg-type]
            counts = attention_counts(one, H100, Attention(group, 1, 128, 1024), np.array([n]))
            assert counts.query_tiles.item() == tiles
            assert counts.waves.item() == math.ceil(tiles / H100.sm_count)

    def test_mla_counts_rows_over_all_heads(self) -> None:
        # 128 heads are two tiles of 64 rows a position; 16 heads fit four positions in one.
        assert attention_counts(
            kernel("flashmla_sm90:dense"), H100, mla(128), np.array([1, 2])
        ).query_tiles.tolist() == [2, 4]
        assert attention_counts(
            kernel("flashmla_sm90:dense"), H100, mla(16), np.array([4, 5])
        ).query_tiles.tolist() == [1, 2]

    def test_cutlass_mla_pads_heads(self) -> None:
        assert attention_counts(
            kernel("cutlass_mla_sm100:decode"), B200, mla(16), np.array([1, 3])
        ).query_tiles.tolist() == [1, 3]

    def test_flex_takes_the_whole_query(self) -> None:
        counts = attention_counts(kernel("flex_sm80:decoding"), A100, GQA, np.array([1, 5, 127]))
        assert counts.tile_rows.tolist() == [16, 32, 512]
        assert counts.query_tiles.tolist() == [1, 1, 1]

    def test_waves_are_flat_to_the_sm_count_at_one_position_per_cta(self) -> None:
        # Measured MLA waves on H100 are flat to 128 positions and double after: 132 SMs.
        one = AttentionKernel(
            name="one", source="test", latent=True, rows=(AttentionRow(tile_rows=128, packing="heads"),)
        )
        waves = attention_counts(one, H100, mla(128), np.arange(1, 257)).waves
        assert waves[:132].tolist() == [1] * 132
        assert waves[132:].tolist() == [2] * 124

    def test_flashattention_2_copies_where_heads_must_be_regrouped(self) -> None:
        # Dao-AILab/flash-attention flash_api.cpp (seqlenq_ngroups_swapped): a transposed query and output, no view of the old ones.
        fa2, one = kernel("fa2_sm80:paged_varlen"), np.array([1])
        for operator, copies in (
            (Attention(32, 8, 128, 64, 2), 1), (Attention(32, 8, 128, 64, 1), 0), (Attention(8, 8, 128, 64, 2), 0),
            (Attention(4, 1, 128, 64, 2), 0),
        ):  # fmt: skip
            assert attention_counts(fa2, A100, operator, one).passes.item() == copies

    def test_flashattention_3_plans_up_to_992_sequences(self) -> None:
        # 992 = 32 x 31, the most the planning kernel serves (hopper/flash_api.cpp).
        for batch, planned in ((992, 992), (993, 0)):
            counts = attention_counts(
                kernel("fa3_sm90:decode_vllm"), H100, Attention(4, 1, 128, 64, batch), np.array([1])
            )
            assert counts.planned.item() == planned

    def test_a_persistent_cta_starts_every_sequence_it_walks(self) -> None:
        counts = attention_counts(kernel("flashmla_sm90:dense"), H100, mla(16, 1024), np.array([1]))
        assert counts.waves.item() == 1
        assert counts.exposed_starts.item() == math.ceil(1024 / 132)

    def test_flashmla_splits_the_sms_evenly(self) -> None:
        # max(132 / 2, 1) parts of two tiles for any batch: one wave.
        for batch in (1, 4, 100):
            counts = attention_counts(kernel("flashmla_sm90:dense"), H100, mla(128, batch), np.array([1]))
            assert counts.ctas_per_kv.item() == pytest.approx(66)
            assert counts.waves.item() == 1


class TestTrtllmGen:
    def test_ladder_when_the_gpu_is_full(self) -> None:
        full = Attention(64, 8, 128, 4096, batch_size=64)  # g = 8
        counts = attention_counts(
            kernel("trtllm_gen_sm100:gqa_decode"), B200, full, np.array([1, 2, 3, 4, 5, 8, 9, 16, 17])
        )
        assert counts.tile_rows.tolist() == [8, 16, 32, 32, 64, 64, 128, 128, 128]
        assert counts.query_tiles.tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 2]

    @settings(max_examples=60, deadline=None)
    @given(n=st.integers(2, 40), context=st.integers(1, 40000), group=st.sampled_from([1, 2, 4, 5, 8, 16]))
    def test_idle_gpu_takes_the_cheapest_tile(self, n: int, context: int, group: int) -> None:
        operator = Attention(group, 1, 128, context)
        counts = attention_counts(kernel("trtllm_gen_sm100:gqa_decode"), B200, operator, np.array([n]))
        sms, keys = B200.sm_count, context + n
        first = next((t for t in TRTLLM_GEN_TILES if t >= n * group), 128)
        costs = {}
        for tile, loop, reduction in zip(
            TRTLLM_GEN_TILES, TRTLLM_GEN_LOOP_COST, TRTLLM_GEN_REDUCTION_COST, strict=True
        ):
            if group <= tile <= first:
                tiles = math.ceil(n / (tile // group))
                splits = min(math.ceil(keys / 256), max(1, sms // tiles))
                costs[tile] = math.ceil(tiles * splits / sms) * (loop * keys / splits + reduction * 128 * splits)
        if 2 * math.ceil(n / max(1, first // group)) <= sms:
            assert costs[int(counts.tile_rows.item())] == pytest.approx(min(costs.values()))
        else:
            assert counts.tile_rows.item() == first

    def test_a_split_has_two_key_steps_at_least(self) -> None:
        # maxNumCtasPerSeqKv of flashinfer's fmhaKernels.cuh: ceil(keys / (2 x 128)).
        for keys, splits in ((256, 1), (257, 2), (512, 2), (513, 3), (148 * 256, 148), (150 * 256, 148)):
            counts = attention_counts(
                kernel("trtllm_gen_sm100:gqa_decode"), B200, Attention(8, 1, 128, keys - 1), np.array([1])
            )
            assert counts.splits.item() == splits, keys

    def test_wide_groups_fall_back_under_tensorrt_llm(self) -> None:
        # xqaDispatcher.cpp, shouldUse: masked multi-head attention, one CTA for every query head; FlashInfer has no such rule.
        one = np.array([1])
        for heads, ctas in ((32, 1), (64, 64), (128, 128)):
            operator = Attention(heads, 1, 64, 4095)
            counts = attention_counts(kernel("trtllm_gen_sm100:trtllm_decode"), B200, operator, one)
            assert counts.query_tiles.item() == ctas
        grouped = attention_counts(kernel("trtllm_gen_sm100:gqa_decode"), B200, Attention(128, 1, 64, 4095), one)
        assert grouped.query_tiles.item() < 128

    @pytest.mark.silicon
    def test_the_public_timings_of_wide_groups_go_by_query_heads(self) -> None:
        # B200: 128 heads take as long over one KV head as over two, of twice the cache, and many times as long as over four.
        pytest.importorskip("aiconfigurator_core")
        last = {
            (s.num_kv_heads, s.context_length): float(curve.seconds[-1] / curve.tokens[-1])
            for curve in load_attention("b200_sxm", "trtllm", "bfloat16").curves
            if isinstance(s := curve.shape, AttentionShape)
            and (s.num_query_heads, s.head_dim, s.window) == (128, 64, 0)
        }
        for context in (2047, 8191):
            assert last[1, context] == pytest.approx(last[2, context], rel=0.05)
            assert last[2, context] > 10 * last[4, context]

    @pytest.mark.silicon
    def test_the_second_split_shows_in_the_public_timings(self) -> None:
        # 256 keys are walked by one CTA, 512 by two, which combine: a step in every group of heads, flat on either side.
        pytest.importorskip("aiconfigurator_core")
        table = silicon_tables("b200_sxm", "trtllm", "latent_attention", "fp8")[0]
        first = {
            (curve.shape.num_query_heads, curve.shape.context_length): float(curve.seconds[0])
            for curve in table.fit
            if isinstance(curve.shape, AttentionShape)
        }
        for heads in (4, 8, 16):
            assert first[heads, 511] > 1.15 * first[heads, 255]
            assert first[heads, 255] == pytest.approx(first[heads, 127], rel=0.05)

    def test_mla_low_latency_then_throughput(self) -> None:
        # 128 heads: CTAs of 16 rows while splits that fill the 148 SMs have at most 1024 keys, then two CTAs of 64 rows.
        for context, last in ((1023, 16), (2047, 8), (4095, 4), (8191, 2)):
            batches = [
                attention_counts(
                    kernel("trtllm_gen_sm100:mla_decode"), B200, mla(128, batch, context), np.array([1])
                ).tile_rows.item()
                for batch in (last, 2 * last)
            ]
            assert batches == [16, 64], context

    @pytest.mark.silicon
    @pytest.mark.parametrize(("context", "last"), [(2047, 8), (4095, 4), (8191, 2)])
    def test_mla_switches_where_the_public_timings_turn(self, context: int, last: int) -> None:
        # More sequences take less time on B200 only where the other kernel takes over.
        pytest.importorskip("aiconfigurator_core")
        table = silicon_tables("b200_sxm", "trtllm", "latent_attention", "bfloat16")[0]
        curve = next(
            curve
            for curve in table.fit
            if isinstance(curve.shape, AttentionShape)
            and (curve.shape.num_query_heads, curve.shape.context_length) == (128, context)
        )
        seconds = dict(zip(curve.tokens.tolist(), curve.seconds.tolist(), strict=True))
        assert seconds[2 * last] < seconds[last]

    def test_mla_shares_the_value_width_over_idle_sms(self) -> None:
        # 148 SMs: by four up to 37 CTAs, by two up to 74; a step then fetches 576 and 128 (256) of 1088 wide.
        for batch, parts, cost in ((32, 4, 704 / 1088), (64, 2, 832 / 1088), (128, 1, 1.0)):
            counts = attention_counts(kernel("trtllm_gen_sm100:mla_decode"), B200, mla(8, batch, 127), np.array([1]))
            assert counts.step_cost.item() == pytest.approx(cost), batch
            assert counts.filled.item() == pytest.approx(batch * parts / 148)

    def test_mla_of_one_sequence_gives_up_splits_to_share_the_value_width(self) -> None:
        # 64 splits of 256 keys fill the SMs with a fourth of the width each only as 37; 128 leave room for 74 halves.
        for context, splits in ((8191, 32), (16383, 37), (32767, 74), (131071, 74)):
            one = attention_counts(kernel("trtllm_gen_sm100:mla_decode"), B200, mla(8, 1, context), np.array([1]))
            assert one.splits.item() == splits, context
        two = attention_counts(kernel("trtllm_gen_sm100:mla_decode"), B200, mla(8, 2, 16383), np.array([1]))
        assert two.splits.item() == 64

    @pytest.mark.silicon
    def test_mla_slows_where_the_value_width_is_shared_no_more(self) -> None:
        # One split, one wave: 64 sequences take longer than 32 only because a CTA fetches more for each key.
        pytest.importorskip("aiconfigurator_core")
        table = silicon_tables("b200_sxm", "trtllm", "latent_attention", "bfloat16")[0]
        turns = []
        for curve in table.fit:
            shape = curve.shape
            if isinstance(shape, AttentionShape) and shape.num_query_heads < 128 and shape.context_length < 127:
                seconds = dict(zip(curve.tokens.tolist(), curve.seconds.tolist(), strict=True))
                turns.append((seconds[32] / seconds[8], seconds[64] / seconds[32]))
        before, across = np.median(turns, axis=0)
        assert before < 1.05
        assert across > 1.1

    def test_mla_of_64_head_ctas_ends_in_a_kernel_of_its_own(self) -> None:
        counts = [
            attention_counts(kernel("trtllm_gen_sm100:mla_decode"), B200, mla(heads, 32), np.array([1]))
            for heads in (16, 128)
        ]
        assert [one.combine_kernel.item() for one in counts] == [0, 1]

    def test_mla_grouped_positions(self) -> None:
        counts = attention_counts(kernel("trtllm_gen_sm100:mla_decode"), B200, mla(16), np.array([1, 2, 4, 5]))
        assert counts.tile_rows.tolist() == [16, 64, 64, 64]
        assert counts.query_tiles.tolist() == [1, 1, 1, 2]


def case(tiles: int, keys: int, batch: int = 1, heads: int = 8, sms: int = 132, cap: int | None = None) -> SplitCase:
    return SplitCase(np.array([float(tiles)]), np.array([float(keys)]), batch, heads, sms, 128, cap)


class TestSplitRules:
    @settings(max_examples=150, deadline=None)
    @given(
        tiles=st.integers(1, 40),
        keys=st.integers(1, 60000),
        batch=st.integers(1, 16),
        heads=st.sampled_from([1, 2, 4, 8]),
    )
    def test_fa2_against_a_loop(self, tiles: int, keys: int, batch: int, heads: int) -> None:
        work, slots, blocks = tiles * batch * heads, 2 * 132, math.ceil(keys / 128)
        expected = 1
        if work < 0.8 * slots:
            eligible = [
                n
                for n in range(1, min(128, slots, blocks) + 1)
                if n == 1 or math.ceil(blocks / n) != math.ceil(blocks / (n - 1))
            ]
            efficiency = {n: (work * n / slots) / math.ceil(work * n / slots) for n in eligible}
            expected = next(n for n in eligible if efficiency[n] >= 0.85 * max(efficiency.values()))
        assert fa2_splits(case(tiles, keys, batch, heads)).item() == expected

    @settings(max_examples=100, deadline=None)
    @given(
        tiles=st.integers(1, 60),
        keys=st.integers(1, 60000),
        batch=st.integers(1, 40),
        heads=st.sampled_from([1, 2, 4, 8]),
    )
    def test_fa3_against_the_scheduler_as_published(self, tiles: int, keys: int, batch: int, heads: int) -> None:
        blocks = math.ceil(keys / 128)
        per_sm = -(-(tiles * blocks * batch * heads * 11) // (10 * 132))
        expected = max(1, min(-(-blocks // per_sm), 32))
        assert fa3_splits(case(tiles, keys, batch, heads, cap=32)).item() == expected

    def test_fa3_trades_splits_for_tiles_within_one_wave(self) -> None:
        # g = 8 at 16384 keys: one to five tiles of 128 rows take 14 to 3 splits, never a second wave.
        counts = attention_counts(kernel("fa3_sm90:decode_vllm"), H100, Attention(64, 8, 128, 16384), np.arange(1, 81))
        assert counts.waves.tolist() == [1] * 80
        assert counts.query_tiles[[0, 16, 32, 48, 64]].tolist() == [1, 2, 3, 4, 5]
        assert np.all(np.diff(counts.splits) <= 0)
        assert counts.splits[0] > 2 * counts.splits[48]

    def test_fa3_short_contexts_are_not_split(self) -> None:
        assert fa3_splits(case(1, 512)).item() == 1
        assert fa4_splits(case(1, 512)).item() == 1

    def test_fa4_fills_the_gpu_once(self) -> None:
        assert fa4_splits(case(1, 60000, sms=148)).item() == 148 // 8
        assert fa4_splits(case(40, 60000, sms=148)).item() == 1

    @settings(max_examples=60, deadline=None)
    @given(keys=st.integers(1, 60000), batch=st.integers(1, 64), heads=st.sampled_from([1, 2, 4, 8]))
    def test_sglang_triton_against_its_steps(self, keys: int, batch: int, heads: int) -> None:
        cores = int(132 * max(math.log2(keys / 64), 1.0))
        wanted = min(math.ceil(cores / (batch * heads)), 8)
        expected = math.ceil(keys / (32 * math.ceil(math.ceil(keys / wanted) / 32)))
        assert sglang_triton_splits(case(1, keys, batch, heads, cap=8)).item() == expected

    @settings(max_examples=100, deadline=None)
    @given(keys=st.integers(1, 200000), batch=st.integers(1, 3000), heads=st.sampled_from([1, 2, 4, 8]))
    def test_xqa_against_the_published_count(self, keys: int, batch: int, heads: int) -> None:
        count = (keys - 1) // 128
        count = max(min(count, round(math.sqrt(8 * count))), 1)
        waves = batch * heads * count / 132 / 8
        if waves > 1:
            count = math.floor(count / waves + 1e-9)
        expected = max(min(max(count, 1), 6000 // batch), 1)
        assert xqa_splits(case(1, keys, batch, heads)).item() == expected

    def test_xqa_serves_groups_that_may_pay(self) -> None:
        # NVIDIA/TensorRT-LLM mayHavePerfGain: 4 x B x n_kv x max(1, L / 128) at least the SMs, never one head a group.
        xqa = kernel("xqa_sm80:precompiled")
        for batch, context, tiles in ((4, 1023, 4), (8, 1023, 1)):
            counts = attention_counts(xqa, H100, Attention(4, 1, 128, context, batch), np.array([1]))
            assert counts.query_tiles.item() == tiles
        assert attention_counts(xqa, H100, Attention(8, 8, 128, 4096, 64), np.array([1])).own_rate.item() == 1

    def test_flex(self) -> None:
        assert flex_splits(case(1, 4096, batch=2, sms=108)).item() == 2 * (108 // 16)
        assert flex_splits(case(1, 4096, batch=200, sms=108)).item() == 1

    @pytest.mark.parametrize("rule", sorted(SPLIT_RULES))
    @settings(max_examples=40, deadline=None)
    @given(tiles=st.integers(1, 300), keys=st.integers(1, 100000), batch=st.integers(1, 300))
    def test_splits_are_at_least_one_but_for_shared_parts(self, rule: str, tiles: int, keys: int, batch: int) -> None:
        splits = SPLIT_RULES[rule](case(tiles, keys, batch, cap=16)).item()
        assert splits * batch >= 1 - 1e-12  # a share of the parts may round below
        assert rule == "flashmla" or (splits >= 1 and splits == int(splits))


ALL_KEYS = [
    "fa2_sm80:paged_varlen",
    "fa2_sm86:contiguous",
    "fa3_sm90:decode_vllm",
    "fa3_sm90:decode_sglang",
    "fa4_sm100:decode",
    "flashinfer_sm80:append",
    "flashinfer_sm80:sglang",
    "trtllm_gen_sm100:gqa_decode",
    "trtllm_gen_sm100:trtllm_decode",
    "vllm_triton_attention_sm80:unified",
    "sglang_triton_attention_sm80:decode_extend",
    "xqa_sm80:precompiled",
]


@pytest.mark.parametrize("key", ALL_KEYS)
@settings(max_examples=15, deadline=None)
@given(
    group=st.sampled_from([1, 4, 5, 8]),
    batch=st.sampled_from([1, 3, 16]),
    context=st.integers(0, 20000),
    causal=st.booleans(),
)
def test_counts_are_constant_between_edges(key: str, group: int, batch: int, context: int, causal: bool) -> None:
    operator = Attention(8 * group, 8, 128, context, batch, causal=causal)
    positions = np.arange(1, 301)
    counts = attention_counts(kernel(key), H100, operator, positions)
    edges = attention_edges(kernel(key), H100, operator, 300)
    start = edges[np.searchsorted(edges, positions, side="right") - 1] - 1
    for name in ("tile_rows", "query_tiles", "splits", "ctas_per_kv", "resident", "waves", "kv_reads", "key_steps"):
        values = getattr(counts, name)
        assert np.array_equal(values, values[start]), name


def test_keys_grow_with_the_new_positions_and_stop_at_the_window() -> None:
    assert attention_counts(kernel("fa3_sm90:decode_vllm"), H100, GQA, np.array([1, 5])).keys.tolist() == [4097, 4101]
    windowed = Attention(32, 8, 128, 4096, window=1024)
    assert attention_counts(kernel("fa3_sm90:decode_vllm"), H100, windowed, np.array([1])).keys.item() == 1024
    uneven = Attention(32, 8, 128, (100, 9000), batch_size=2)
    assert attention_counts(kernel("fa3_sm90:decode_vllm"), H100, uneven, np.array([1])).keys.item() == 9001


@pytest.mark.parametrize(
    ("context", "window", "masked", "steps"),
    [(4095, 128, 0, 1), (4100, 128, 5, 2), (100, 128, 0, 1), (4095, 200, 56, 2), (4095, None, 0, 32)],
)
def test_a_window_is_walked_in_whole_blocks(context: int, window: int | None, masked: int, steps: int) -> None:
    # Blocks of 128 keys: a window of W lets position L see keys L - W + 1 to L; the loop starts with the block L - W + 1 is in.
    operator = Attention(32, 8, 128, context, batch_size=64, window=window)
    counts = attention_counts(kernel("fa3_sm90:decode_sglang"), H100, operator, np.array([1]))
    assert counts.masked_keys.tolist() == [masked]
    assert (counts.key_steps * counts.splits).tolist() == [steps]


def test_masked_blocks_take_steps_only_where_a_window_hides_keys() -> None:
    operators = [Attention(32, 8, 128, context, batch_size=64, window=128, kv_dtype="fp8") for context in (127, 1023)]
    counts = [attention_counts(kernel("fa3_sm90:decode_vllm_fp8"), H100, one, np.array([1])) for one in operators]
    # 128 keys are two blocks of 64, and one more is masked.
    assert [one.key_steps.item() for one in counts] == [1, 1.5]


def test_filled_is_the_mean_share_of_slots_at_work() -> None:
    for batch, filled in ((128, 128 / 148), (256, 256 / 296), (148, 1.0)):
        counts = attention_counts(kernel("trtllm_gen_sm100:mla_decode"), B200, mla(8, batch), np.array([1]))
        assert counts.filled.item() == pytest.approx(filled)


def test_starting_ctas_are_those_with_keys() -> None:
    # 132 SMs; one key is one block, so one of the splits has work: 2 tiles a sequence of 128 heads. 512 keys are eight blocks.
    for batch, context, share in ((1, 0, 2 / 132), (64, 0, 128 / 132), (128, 0, 1.0), (1, 511, 16 / 132)):
        counts = attention_counts(kernel("flashmla_sm90:dense"), H100, mla(128, batch, context), np.array([1]))
        assert counts.starting.item() == pytest.approx(share)


class TestRow:
    def test_names_the_row_that_decided(self) -> None:
        row = attention_row(kernel("fa3_sm90:decode_vllm"), H100, GQA, 1)
        assert row.kernel == "fa3_sm90:decode_vllm"
        assert row.rule == "N g <= 64, d = 128: tile 64, packing free, KV split fa3"
        assert "heuristics.h" in row.source

    def test_outside_its_range_it_says_so(self) -> None:
        flex = kernel("flex_sm80:decoding")
        assert attention_row(flex, A100, GQA, 127).in_range
        assert not attention_row(flex, A100, GQA, 128).in_range
        assert not attention_row(kernel("fa3_sm90:decode_vllm"), H100, Attention(8, 8, 512, 4096), 1).in_range
        assert not attention_row(kernel("sglang_triton_attention_sm80:mla"), A100, mla(16), 2).in_range


class TestSelection:
    @pytest.mark.parametrize(
        ("hardware", "backend", "operator", "key"),
        [
            ("a100", "vllm", GQA, "fa2_sm80:paged_varlen"),
            ("h100", "vllm", GQA, "fa3_sm90:decode_vllm"),
            ("b200", "vllm", GQA, "trtllm_gen_sm100:gqa_decode"),
            ("b200", "vllm", Attention(32, 8, 128, 4096, causal=False), "fa4_sm100:decode"),
            ("a100", "vllm", Attention(32, 8, 128, 4096, kv_dtype="fp8"), "flashinfer_sm80:append"),
            ("h100", "vllm", mla(128), "fa3_sm90:mla"),
            ("b200", "vllm", mla(128), "trtllm_gen_sm100:mla_decode"),
            ("a100", "vllm", mla(16), "vllm_triton_attention_sm80:mla"),
            ("h100", "sglang", GQA, "fa3_sm90:decode_sglang"),
            ("h100", "sglang", Attention(32, 8, 128, 4096, causal=False), "flashinfer_sm80:sglang"),
            ("a100", "sglang", GQA, "fa3_sm80:decode"),
            ("l40s", "sglang", GQA, "flashinfer_sm80:sglang"),
            ("h100", "sglang", Attention(32, 8, 128, 4096, kv_dtype="fp8"), "fa3_sm90:decode_sglang_fp8"),
            ("l40s", "trtllm", Attention(32, 8, 128, 4096, kv_dtype="fp8"), "xqa_sm80:ada_fp8"),
            ("a100", "trtllm", mla(16), "trtllm_mla_sm80:ampere"),
            ("b200", "sglang", mla(16), "trtllm_gen_sm100:mla_decode"),
            ("b200", "sglang", GQA, "trtllm_gen_sm100:gqa_decode"),
            ("b200", "trtllm", GQA, "trtllm_gen_sm100:trtllm_decode"),
            ("b200", "trtllm", Attention(32, 8, 128, 4096, kv_dtype="fp8"), "trtllm_gen_sm100:trtllm_decode_fp8"),
            ("h100", "trtllm", GQA, "xqa_sm80:precompiled"),
            ("h100", "trtllm", Attention(32, 8, 128, 4096, kv_dtype="fp8"), "xqa_sm90:jit_fp8"),
        ],
    )
    def test_engine_defaults(self, hardware: str, backend: str, operator: Attention, key: str) -> None:
        assert select_attention(load_hardware(hardware), backend, operator).key == key

    def test_unknown_chip_takes_the_matrix_instruction(self) -> None:
        chip = H100.model_copy(update={"architecture": "sm999", "name": "new"})
        found = select_attention(chip, None, GQA)
        assert found.key == "new:default_tile"
        assert found.inferred
        assert found.rows[0].tile_rows == H100.default_tile.attention_rows
        assert select_attention(chip, None, mla(16)).latent


def test_errors() -> None:
    with pytest.raises(
        UnsupportedError, match="kernel fa3_sm90:mla serves MLA in its absorbed form, the operator is ordinary"
    ):
        attention_counts(kernel("fa3_sm90:mla"), H100, GQA, np.array([1]))
    with pytest.raises(InvalidArgumentError, match="query positions must be at least 1, got 0"):
        attention_counts(kernel("fa3_sm90:upstream"), H100, GQA, np.array([0]))
    with pytest.raises(InvalidArgumentError, match="max_positions must be at least 1, got 0"):
        attention_edges(kernel("fa3_sm90:upstream"), H100, GQA, 0)


def test_padding_counts_at_the_rate_the_kernel_multiplies_at() -> None:
    # An 8-bit cache multiplied in 8 bits: useful rows never take longer than the padded tiles they are part of.
    bound = bind(load_hardware("b200"), Attention(64, 8, 128, 8192, batch_size=64, kv_dtype="fp8"), "vllm")
    assert isinstance(bound.kernel, AttentionKernel)
    assert bound.kernel.eight_bit_math
    terms = bound.terms(np.arange(1, 200))
    assert (terms["useful_matrix"] <= terms["matrix"] * (1 + 1e-9)).all()


def test_what_sharing_an_sm_costs_needs_sharing() -> None:
    row = load_kernel("xqa_sm90:jit_fp8").rows[0]
    with pytest.raises(ValueError, match="resident is 1"):
        type(row).model_validate({**row.model_dump(), "resident": 1, "resident_cost": 1.5})


@pytest.mark.silicon
def test_wide_heads_of_flashinfer_step_with_every_sm_filled_once() -> None:
    # SGLang's fp8 decode on L40S, 4 KV heads of 256, 8 keys: flat to 128 CTAs, then a step with every 142 more.
    pytest.importorskip("aiconfigurator_core")
    l40s = load_hardware("l40s")
    table = silicon_tables("l40s", "sglang", "attention", "fp8")[0]
    curve = next(
        curve
        for curve in table.fit
        if isinstance(curve.shape, AttentionShape)
        and (curve.shape.num_kv_heads, curve.shape.head_dim, curve.shape.context_length) == (4, 256, 7)
        and not curve.shape.window
    )
    seconds = dict(zip(curve.tokens.tolist(), curve.seconds.tolist(), strict=True))
    assert seconds[32] == pytest.approx(seconds[1], rel=0.1)
    for batch in (64, 128, 256):
        counts = attention_counts(
            kernel("flashinfer_sm80:sglang_fp8"),
            l40s,
            curve.operator_record(batch),  # type: ignore[arg-type]
            np.array([1]),
        )
        waves = math.ceil(4 * batch / 142)
        assert counts.waves.item() == waves
        step = (seconds[batch] - seconds[1]) / (waves - 1)
        assert step == pytest.approx(5.2e-6, rel=0.15)


@pytest.mark.silicon
def test_flashmla_starts_take_the_longer_the_more_heads_a_tile_holds() -> None:
    # One cached key, 1024 sequences on H100: starts alone. 128 heads are two tiles of 64, 4 heads one of 4 rows.
    pytest.importorskip("aiconfigurator_core")
    table = silicon_tables("h100_sxm5", "trtllm", "latent_attention", "bfloat16")[0]
    per_start = {}
    for curve in table.fit:
        if isinstance(curve.shape, AttentionShape) and curve.shape.context_length == 1:
            heads = curve.shape.num_query_heads
            added = float(curve.seconds[curve.tokens == 1024][0] - curve.seconds[0])
            per_start[heads] = added / (1024 * math.ceil(heads / 64) / 132)
    assert 1.2 < per_start[16] / per_start[4] < 1.6
    assert 2.0 < per_start[128] / per_start[4] < 3.5


class TestMaskedMultiHeadAttention:
    """One CTA for every query head and sequence; H100 holds four of 256 threads an SM, or one that is split."""

    @pytest.mark.parametrize(
        ("batch", "resident", "starts", "waves"),
        [
            # 128 and 256 CTAs on 132 SMs: 1024 and 512 threads, one and two an SM, side by side.
            (2, 1, 1, 1),
            (4, 2, 1, 2),
            # 512: two rounds of 264. 1024: two rounds of 528, each SM walks through eight CTAs' keys.
            (8, 2, 2, 4),
            (16, 4, 2, 8),
        ],
    )
    def test_starts_run_side_by_side_and_steps_do_not(self, batch: int, resident: int, starts: int, waves: int) -> None:
        counts = attention_counts(kernel("xqa_sm80:precompiled"), H100, Attention(64, 1, 256, 63, batch), np.array([1]))
        assert counts.splits.item() == 1
        assert counts.resident.item() == resident
        assert counts.hidden_starts.item() == 1.5 * starts
        assert counts.waves.item() == waves

    @pytest.mark.parametrize(("context", "batch", "pace"), [(4095, 16, 1.0), (16383, 8, 1.0), (16383, 16, 2**0.5)])
    def test_scores_of_a_long_cache_crowd_ctas_out_of_an_sm(self, context: int, batch: int, pace: float) -> None:
        # 6 bytes a key: 98304 B for 16384 keys, of which 228 KiB hold two. 512 CTAs have 512 threads, two an SM; 1024 would be four.
        counts = attention_counts(
            kernel("xqa_sm80:precompiled"), H100, Attention(64, 1, 256, context, batch), np.array([1])
        )
        assert crowded_out(H100, counts).item() == pytest.approx(pace, rel=1e-12)

    def test_a_split_takes_a_turn_of_the_loop_at_least(self) -> None:
        # 512 threads, 32 to a head of 256, eight keys each: 128 keys; ceil(132 / 64) splits at most.
        splits = [
            attention_counts(
                kernel("xqa_sm80:precompiled"), H100, Attention(64, 1, 256, context, 1), np.array([1])
            ).splits.item()
            for context in (127, 255, 511)
        ]
        assert splits == [1, 2, 3]


def test_splits_of_the_whole_cache_share_what_the_window_leaves() -> None:
    # 32 splits planned for 131072 keys; 8192 of them, and the block the window starts in, are left: 65 blocks.
    counts = attention_counts(
        kernel("fa3_sm90:decode_vllm"), H100, Attention(10, 2, 128, 131071, window=8192), np.array([1])
    )
    assert counts.splits.item() == 32
    assert counts.key_steps.item() == 2
    assert counts.waves.item() == 1


def test_a_window_that_covers_the_cache_is_none_to_flash_attention() -> None:
    fa3 = kernel("fa3_sm90:decode_vllm")
    tiles = [
        attention_counts(fa3, H100, Attention(24, 8, 64, context, 64, window=128), np.array([1])).tile_rows.item()
        for context in (127, 128)
    ]
    assert tiles == [64, 192]
