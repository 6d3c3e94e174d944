"""Mistakes other tools shipped, injected here one by one: each must turn a named check of this suite red.

The checks are ordinary tests from other files. They are run as they stand, shown green, then run again with the mistake in
place and shown red: what proves here is not that the code is right but that the suite would notice.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from nfp_model import Attention, Gemm, load_hardware, quantities as quantities
from nfp_model.curve import BoundForward
from nfp_model.errors import NfpModelError, SpecError
from nfp_model.operators import Elementwise, forward
from nfp_model.quantities import element_type
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import SoftmaxAttention

TESTS = Path(__file__).parents[1]


@lru_cache
def check_module(file: str) -> ModuleType:
    """A test file as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"checks_{file.replace('/', '_')}", TESTS / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(file: str, name: str, *arguments: object) -> Callable[[], None]:
    """A named test with its parameters."""
    return partial(getattr(check_module(file), name), *arguments)


def assert_red(run: Callable[[], None]) -> None:
    """The check fails, and by its own assertion or the library's refusal, not by accident."""
    with pytest.raises((AssertionError, NfpModelError)):
        run()


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None], Any, str, Any], None]:
    """Run a check clean, put a mistake in place, run it again."""

    def injected(run: Callable[[], None], owner: Any, name: str, mistake: Any) -> None:
        run()
        monkeypatch.setattr(owner, name, mistake)
        assert_red(run)

    return injected


Inject = Callable[[Callable[[], None], Any, str, Any], None]


# LLM-Viewer, issue 12 and configs ----------------------------------------------------------------------------------------------


def test_kv_bytes_with_query_heads_in_the_operators(inject: Inject) -> None:
    def over_query_heads(self: Attention) -> float:
        elements = self.num_query_heads * (self.head_dim + (0 if self.shared_kv else self.values_dim))
        return elements * element_type(self.kv_dtype).bytes

    run = check("test_prediction", "test_a_cached_token_takes_the_published_bytes", "llama-3.1-405b", 516.096)
    inject(run, Attention, "cache_bytes_per_token", property(over_query_heads))


def test_kv_elements_with_query_heads_in_the_specs(inject: Inject) -> None:
    wrong = property(lambda self: 2 * self.num_query_heads * self.head_dim)
    run = check("test_model_specs", "test_cache_per_token_as_published", "qwen2_5_72b", 327.680)
    inject(run, SoftmaxAttention, "cache_elements_per_token", wrong)


def test_lm_head_at_one_flop_per_multiply_add(inject: Inject) -> None:
    honest = Gemm.flop_per_row.fget
    assert honest is not None

    def halved(self: Gemm) -> float:
        flop: float = honest(self)
        return flop / 2 if self.out_features == 128_256 else flop

    run = check("test_prediction", "test_operators_hold_every_weight_once_at_two_flop_each", "llama_3_1_8b")
    inject(run, Gemm, "flop_per_row", property(halved))


def test_every_gemm_at_one_flop_per_multiply_add(inject: Inject) -> None:
    wrong = property(lambda self: 1.0 * self.out_features * self.in_features)
    test = "test_bytes_are_counted_as_the_readme_counts_them"
    inject(check("published/test_deepgemm_small_m", test, 64, 2112, 7168, 206, 1688), Gemm, "flop_per_row", wrong)


def test_activations_without_the_batch(inject: Inject) -> None:
    honest = BoundForward.tokens

    def without_batch(self: BoundForward, use: Any, positions: Any) -> Any:
        return positions if isinstance(use.operator, Elementwise) else honest(self, use, positions)

    inject(
        check("test_prediction", "test_norms_move_the_bytes_of_every_row_of_the_batch"),
        BoundForward,
        "tokens",
        without_batch,
    )


def test_gemm_rows_without_the_batch(inject: Inject) -> None:
    inject(
        check("test_prediction", "test_rows_are_batch_times_positions"),
        BoundForward,
        "_rows",
        lambda self, positions: positions,
    )


def test_a_weight_matrix_left_out_of_the_forward(inject: Inject) -> None:
    honest = forward._dense_operators

    def without_down(*arguments: Any) -> Any:
        return [use for use in honest(*arguments) if use.name != "down_proj"]

    run = check("test_prediction", "test_operators_hold_every_weight_once_at_two_flop_each", "llama_3_1_8b")
    inject(run, forward, "_dense_operators", without_down)


# Units: GenZ unit.py, kerncraft prefixedunit.py, llm-analysis config.py ---------------------------------------------------------


def test_tera_of_ten_to_the_thirteen(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [
        check("test_quantities", "test_prefixes_are_those_of_the_si_brochure"),
        check("test_quantities", "test_values_get_the_prefix_people_expect", 3.35e12, "3.35 TB/s"),
    ]
    for run in checks:
        run()
    monkeypatch.setitem(quantities.SI, "T", 1e13)
    for run in checks:
        assert_red(run)


def spoiled(name: str, **fields: Any) -> HardwareSpec:
    spec = load_hardware(name)
    return spec.model_copy(update=fields)


def turns_red_with(monkeypatch: pytest.MonkeyPatch, spec: HardwareSpec, *named: tuple[Any, ...]) -> None:
    """Checks of ``test_hardware_specs`` are green on the shipped file and red on a spoiled one."""
    checks = [check("test_hardware_specs", *name) for name in named]
    for run in checks:
        run()
    monkeypatch.setitem(check_module("test_hardware_specs").SPECS, spec.name, spec)
    for run in checks:
        assert_red(run)


def test_bandwidth_in_binary_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    binary = spoiled("h100_sxm5", memory_bandwidth_bytes_per_s=3.35 * 2**40)
    turns_red_with(
        monkeypatch,
        binary,
        ("test_no_bandwidth_is_binary_or_in_bits", "h100_sxm5"),
        ("test_bytes_are_plain_bytes", "h100_sxm5", "memory_bandwidth_bytes_per_s", 3.35e12),
        ("test_ridge_points", "h100_sxm5"),
    )


def test_gigabits_typed_as_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    links = load_hardware("h100_sxm5").interconnect
    bits = spoiled("h100_sxm5", interconnect=links.model_copy(update={"scale_up_bandwidth_bytes_per_s": 8 * 450e9}))
    turns_red_with(monkeypatch, bits, ("test_links_are_one_direction", "h100_sxm5", 450e9))


def test_memory_bandwidth_in_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = spoiled("h200_sxm", memory_bandwidth_bytes_per_s=8 * 4.8e12)
    turns_red_with(
        monkeypatch, bits, ("test_no_bandwidth_is_binary_or_in_bits", "h200_sxm"), ("test_ridge_points", "h200_sxm")
    )


# Peaks: GenZ system_configs.py, inference-sim hardware_config.json, InferSim gpu.py --------------------------------------------


def test_a_sparse_peak_among_dense_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    # The L40S datasheet prints 362 dense and 733 sparse bf16 TFLOP/s; the spec refuses the second on sight ...
    data = check_module("test_hardware_specs").mapping("l40s")
    data["peak_flop_per_s"]["bfloat16"] = 733e12
    with pytest.raises(SpecError, match="is it a sparse number"):
        HardwareSpec.from_mapping(data)
    # ... and were it not, the ridge point would.
    peaks = load_hardware("l40s").peak_flop_per_s | {"bfloat16": 733e12}
    turns_red_with(
        monkeypatch,
        spoiled("l40s", peak_flop_per_s=peaks),
        ("test_ridge_points", "l40s"),
        ("test_implied_clock", "l40s"),
    )


def test_a_derating_multiplied_into_the_datasheet(monkeypatch: pytest.MonkeyPatch) -> None:
    h100 = load_hardware("h100_sxm5")
    derated = spoiled(
        "h100_sxm5",
        memory_bandwidth_bytes_per_s=0.8 * h100.memory_bandwidth_bytes_per_s,
        peak_flop_per_s={rate: 0.8 * peak for rate, peak in h100.peak_flop_per_s.items()},
    )
    # Both derated alike leave the ridge point: the clock and the printed bandwidth give it away.
    turns_red_with(
        monkeypatch,
        derated,
        ("test_implied_clock", "h100_sxm5"),
        ("test_bytes_are_plain_bytes", "h100_sxm5", "memory_bandwidth_bytes_per_s", 3.35e12),
    )


# Prices: mlsysim serving.py, inference-sim issue 965 ---------------------------------------------------------------------------


def test_verification_priced_as_one_step(inject: Inject) -> None:
    honest = BoundForward.tokens

    def one_step(self: BoundForward, use: Any, positions: Any) -> Any:
        return honest(self, use, np.ones_like(positions))

    test = "test_weight_bound_layers_are_near_free_as_far_as_nvidia_timed"
    inject(check("published/test_whole_forward", test, "h100", 100, 257), BoundForward, "tokens", one_step)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_predictions_that_jump_by_an_order_of_magnitude(inject: Inject, factor: float) -> None:
    honest = BoundForward.curve

    def jumped(self: BoundForward, positions: Any) -> Any:
        curve = honest(self, positions)
        object.__setattr__(curve, "seconds", factor * curve.seconds)
        return curve

    inject(
        check("published/test_whole_forward", "test_step_time_of_nim", "llama-3.1-8b", {}, 6.52),
        BoundForward,
        "curve",
        jumped,
    )


def test_experts_priced_as_if_all_were_read(inject: Inject) -> None:
    # A sparse layer billed as its dense twin: one token would cost what 16 do.
    from nfp_model.kernels import moe

    def everything(routing: Any, experts: int, top_k: int, tokens: Any, ranks: int = 1) -> Any:
        return np.full(np.shape(tokens), experts / ranks)

    file, test = "published/test_fused_moe_plateau", "test_latency_follows_the_touched_experts_and_then_stays"
    run = check(file, test, "h200", check_module(file).MEASURED["h200"])
    inject(run, moe, "experts_touched", everything)


# What our own timings showed: pieces counted as one kernel, heads packed at every number of positions ---------------------------


def test_transformers_counted_as_if_every_piece_were_one_kernel(inject: Inject) -> None:
    from dataclasses import replace

    from nfp_model.operators import pieces

    fused = {name: replace(piece, launches=1) for name, piece in pieces.UNFUSED.items()}
    test = "test_kernels_of_a_dense_forward_are_those_the_profiler_counted"
    inject(check("validation/test_own_timings", test, "llama_3_1_8b"), forward, "UNFUSED", fused)


def test_a_mean_that_costs_the_same_for_every_number_of_rows(inject: Inject) -> None:
    from nfp_model.cost import inputs

    run = check("test_unfused", "test_latency_of_a_norm_steps_where_a_block_takes_more_rows")
    inject(run, inputs, "walked_elements", lambda width, rows: 8.0 + 0.0 * rows)


def test_heads_packed_on_a_tile_whatever_the_positions(inject: Inject) -> None:
    # FlashAttention-2 does so for one position only; believing it for all promises 16 free positions where there is one.
    from nfp_model.kernels import attention

    def packed(row: Any, operator: Any, positions: Any, tile_rows: Any) -> Any:
        return np.ceil(positions * operator.group_size / tile_rows)

    test = "test_flash_attention_steps_where_the_rule_says"
    inject(check("validation/test_own_timings", test), attention, "_query_tiles", packed)


def test_experts_of_one_call_tiled_without_their_cluster(inject: Inject) -> None:
    from nfp_model.cost import binding

    honest = binding.select_moe

    def tile_by_tile(hardware: Any, backend: Any, operator: Any) -> Any:
        kernel = honest(hardware, backend, operator)
        halves = [{"block_rows": row.block_rows // 2, "block_columns": 2 * row.block_columns} for row in kernel.rows]
        rows = tuple(row.model_copy(update=half) for row, half in zip(kernel.rows, halves, strict=True))
        return kernel.model_copy(update={"rows": rows})

    inject(check("validation/test_own_timings", "test_experts_are_predicted"), binding, "select_moe", tile_by_tile)
