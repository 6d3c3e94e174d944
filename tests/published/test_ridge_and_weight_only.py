"""Where bytes give way to FLOP: NVIDIA's guide (V100), the Marlin README (A10, int4), a LLaDA-MoE report (RTX A6000)."""

from __future__ import annotations

import pytest

from nfp_model import Gemm, idle_compute_nfp, load_hardware
from nfp_model.baselines import idle_compute_positions
from nfp_model.operators import OperatorUse
from nfp_model.quantities import element_type
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.workload import Workload


def intensity(rows: int, columns: int, depth: int) -> float:
    """FLOP per byte of a 16-bit GEMM whose operands each move once."""
    operator = Gemm(columns, depth)
    return operator.flop_per_row * rows / (operator.weight_bytes + operator.activation_bytes_per_row * rows)


@pytest.mark.parametrize(
    ("shape", "published", "math_bound"), [((8192, 128, 8192), 124, False), ((8192, 8192, 8192), 2731, True)]
)
def test_arithmetic_intensities_of_the_guide(shape: tuple[int, int, int], published: int, math_bound: bool) -> None:
    # NVIDIA, Matrix Multiplication Background User's Guide: V100 with 125 TFLOP/s and 900 GB/s has a ridge of 138.9.
    assert round(intensity(*shape)) == published
    assert (intensity(*shape) > 125e12 / 900e9) == math_bound


def chip(peak: float, bandwidth: float) -> HardwareSpec:
    """A chip with these two numbers; nothing else of it enters idle compute."""
    rates = {"bfloat16": peak, "float16": peak, "fp8": 2 * peak, "int8": 2 * peak}
    return load_hardware("l40s").model_copy(
        update={"peak_flop_per_s": rates, "memory_bandwidth_bytes_per_s": bandwidth}
    )


@pytest.mark.parametrize(
    ("weights", "published", "tolerance"),
    # W8A8 doubles peak and halves bytes; the report's 4 bits carry no scales, ours 4.125 bits: 3.1 % more.
    [("bfloat16", 202, 0.003), ("int4", 50, 0.04), ("int8", 202, 0.003)],
)
def test_rows_per_expert_of_an_a6000(weights: str, published: int, tolerance: float) -> None:
    # Public LLaDA-MoE measurement report: 154.8 TFLOP/s over 0.768 TB/s.
    use = OperatorUse("experts", "moe_ffn", Gemm(2048, 1024, weights), 1)
    assert idle_compute_positions([use], chip(154.8e12, 0.768e12), Workload()) == pytest.approx(
        published, rel=tolerance
    )


def test_marlin_moves_a_quarter_of_the_bytes_and_its_scales() -> None:
    # Marlin README: ideal speedup 3.87 at group 128; 16 bits over 4.125 is 3.88.
    assert element_type("int4").bits == 4 + 16 / 128
    assert Gemm(18432, 73728).weight_bytes / Gemm(18432, 73728, "int4").weight_bytes == pytest.approx(3.87, rel=0.003)


def test_marlin_argument_of_free_multiply_adds() -> None:
    # README: GPUs have 100 to 200 FLOP per byte, so 25 to 50 multiply-adds (rows) per 4-bit weight are free; A10 at 208 has 54.
    use = OperatorUse("w", "dense_ffn", Gemm(18432, 73728, "int4"), 1)
    for balance, rows in ((100, 25), (200, 50)):
        assert idle_compute_positions([use], chip(balance * 1e12, 1e12), Workload()) == pytest.approx(rows, rel=0.04)
    assert 25 < idle_compute_positions([use], load_hardware("a10"), Workload()) < 60


def test_idle_compute_of_a_7b_model_in_16_bits_on_h100() -> None:
    # A public estimate says about 321 positions per step for a 7B fp16 model on H100; the ridge itself is 295. Band 10 %:
    # ours counts the cache's bytes and FLOP too, here of an empty context.
    assert idle_compute_nfp("h100", "llama-2-7b", context_length=0, max_positions=8) == pytest.approx(321, rel=0.1)
