"""Small published tables, typed in: measurements that no installed package carries, each with its public source.

Numbers are as printed there; where a table prints a rate, the latency is derived from it by the stated formula.
"""

from __future__ import annotations

from dataclasses import dataclass

from nfp_model.validation.datasets import CurveSet, Source, curves_of
from nfp_model.validation.records import Measurement, OperatorKind
from nfp_model.validation.shapes import ForwardShape, GemmShape, MoEShape, Shape

DEEPGEMM_SOURCE = "deepseek-ai/DeepGEMM README at commit 55ab91f (2025-03-25)"
MIXTRAL_SOURCE = "https://github.com/vllm-project/vllm/pull/24700, 'Benchmarks on H100', tuned config"
LLADA_SOURCE = "public measurement report of LLaDA-MoE-7B-A1B on one RTX A6000 (read second-hand)"


@dataclass(frozen=True)
class DeepGemmRow:
    """One row of DeepGEMM's table: M, N, K [elements], rate [TFLOP/s], traffic [GB/s] (None where not taken over)."""

    m: int
    n: int
    k: int
    tera_flop_per_s: float
    giga_bytes_per_s: float | None = None

    @property
    def seconds(self) -> float:
        """2 M N K / rate [s]."""
        return 2.0 * self.m * self.n * self.k / (self.tera_flop_per_s * 1e12)

    @property
    def bytes_moved(self) -> float:
        """M K + N K + 2 M N [B]: fp8 operands, bf16 result, the convention the table's GB/s follows."""
        return float(self.m * self.k + self.n * self.k + 2 * self.m * self.n)


DEEPGEMM_ROWS: tuple[DeepGemmRow, ...] = (
    DeepGemmRow(64, 2112, 7168, 206, 1688),
    DeepGemmRow(128, 2112, 7168, 352, 1509),
    DeepGemmRow(4096, 2112, 7168, 1009),
    DeepGemmRow(64, 24576, 1536, 289, 2455),
    DeepGemmRow(128, 24576, 1536, 535, 2448),
    DeepGemmRow(4096, 24576, 1536, 1125),
    DeepGemmRow(64, 32768, 512, 219, 2143),
    DeepGemmRow(128, 32768, 512, 358, 2103),
    DeepGemmRow(4096, 32768, 512, 751),
    DeepGemmRow(64, 7168, 16384, 336, 2668),
    DeepGemmRow(128, 7168, 16384, 645, 2604),
    DeepGemmRow(4096, 7168, 16384, 1426),
    DeepGemmRow(64, 4096, 7168, 287, 2320),
    DeepGemmRow(128, 4096, 7168, 533, 2221),
    DeepGemmRow(4096, 4096, 7168, 1265),
    DeepGemmRow(64, 7168, 2048, 295, 2470),
    DeepGemmRow(128, 7168, 2048, 510, 2277),
    DeepGemmRow(4096, 7168, 2048, 1168),
)
"""Dense fp8 block-scaled GEMMs on H800 SXM5, NVCC 12.8, bf16 results."""

DEEPGEMM_GROUPED_ROWS: tuple[tuple[int, DeepGemmRow], ...] = (
    (1, DeepGemmRow(1024, 4096, 7168, 1233, 924)),
    (1, DeepGemmRow(1024, 7168, 2048, 925, 968)),
    (2, DeepGemmRow(512, 4096, 7168, 1040, 1288)),
    (2, DeepGemmRow(512, 7168, 2048, 916, 1405)),
    (4, DeepGemmRow(256, 4096, 7168, 932, 2064)),
    (4, DeepGemmRow(256, 7168, 2048, 815, 2047)),
)
"""Masked grouped GEMMs (decode): groups, and M per group, N, K with the rates of all groups together."""

MIXTRAL_H100_US: dict[int, float] = {
    1: 144.03,
    2: 229.28,
    4: 351.10,
    8: 434.98,
    16: 471.49,
    24: 478.27,
    32: 487.35,
    48: 487.85,
    64: 483.14,
    96: 494.42,
    128: 491.39,
    256: 536.77,
    512: 662.33,
    1024: 833.72,
    1536: 1122.93,
}
"""Tokens -> kernel time [us] of Mixtral-8x7B's experts, bf16, one of two tensor-parallel ranks, tuned tiles."""

LLADA_MOE_LAYER_MS: dict[int, float] = {
    1: 0.927,
    8: 1.560,
    32: 1.884,
    64: 1.920,
    128: 2.521,
    256: 2.714,
    512: 2.854,
    1024: 3.321,
}
"""Tokens -> fused MoE layer [ms], bf16, 64 experts, top-8, hidden 2048, expert width 1024."""

LLADA_MOE_FORWARD_MS: dict[int, float] = {32: 34.31, 64: 34.95, 128: 43.32, 256: 47.47}
"""Sequence length -> whole forward without KV cache [ms], bf16, one sequence."""


def deepgemm_h800() -> CurveSet:
    """DeepGEMM's dense table: fp8 block-scaled, H800 SXM5, M = 64, 128, 4096.

    Latency is 2 M N K / (printed rate). The February version of the table (commit a6d97a1) has the same rows at M = 64
    and 128 and other ones at 4096.

    Examples
    --------
    >>> [round(1e6 * t, 2) for t in deepgemm_h800().curves[0].seconds[:2].tolist()]
    [9.41, 11.01]
    """
    points = [
        Measurement(
            operator="gemm",
            shape=GemmShape(row.n, row.k),
            gpu="h800_sxm",
            backend="deepgemm",
            tokens=row.m,
            seconds=row.seconds,
            weight_dtype="fp8_block",
            activation_dtype="bfloat16",
            timing="as published; latency derived from the printed TFLOP/s",
            source=DEEPGEMM_SOURCE,
        )
        for row in DEEPGEMM_ROWS
    ]
    return CurveSet(curves_of(points), Source(DEEPGEMM_SOURCE, library_version="55ab91f"))


def mixtral_h100_vllm() -> CurveSet:
    """Mixtral-8x7B's fused experts on H100 with vLLM's tuned tile file, random (uniform) routing, TP = 2.

    Printed by vLLM's ``benchmark_moe.py`` in the pull request that reworked the default tiles.

    Examples
    --------
    >>> (curve,) = mixtral_h100_vllm()
    >>> curve.seconds[curve.tokens == 256] / curve.seconds[curve.tokens == 16] < 1.2
    array([ True])
    """
    shape = MoEShape(4096, 14336, num_experts=8, top_k=2, tensor_parallel=2, routing="uniform")
    points = [
        Measurement(
            operator="moe",
            shape=shape,
            gpu="h100_sxm5",
            backend="vllm",
            tokens=tokens,
            seconds=micro * 1e-6,
            weight_dtype="bfloat16",
            activation_dtype="bfloat16",
            kernel_source="triton, tuned E=8,N=7168",
            timing="benchmark_moe.py, as published",
            source=MIXTRAL_SOURCE,
        )
        for tokens, micro in MIXTRAL_H100_US.items()
    ]
    return CurveSet(curves_of(points), Source(MIXTRAL_SOURCE))


def llada_moe_a6000() -> CurveSet:
    """LLaDA-MoE-7B-A1B on one RTX A6000, bf16: the fused MoE layer, and the whole forward over one block of positions.

    The router is the model's own: its busiest expert has 2.5 to 7.1 times the mean load, so "uniform" in the shape is
    the nearest word, not the truth. The report's 8-bit weight-only rows have no storage format here and are left out.
    There is no hardware spec of this card: the GPU key only names it.
    """
    layer = MoEShape(2048, 1024, num_experts=64, top_k=8, routing="uniform")
    forward = ForwardShape("llada_moe_7b_a1b")
    tables: list[tuple[OperatorKind, Shape, dict[int, float]]] = [
        ("moe", layer, LLADA_MOE_LAYER_MS),
        ("forward", forward, LLADA_MOE_FORWARD_MS),
    ]
    points = [
        Measurement(
            operator=operator,
            shape=shape,
            gpu="rtx_a6000",
            backend="torch",
            tokens=tokens,
            seconds=milli * 1e-3,
            weight_dtype="bfloat16",
            activation_dtype="bfloat16",
            timing="as published",
            source=LLADA_SOURCE,
        )
        for operator, shape, table in tables
        for tokens, milli in table.items()
    ]
    return CurveSet(curves_of(points), Source(LLADA_SOURCE))


def published_sets() -> dict[str, CurveSet]:
    """Every typed-in table, by name."""
    return {
        "deepgemm_h800": deepgemm_h800(),
        "mixtral_h100_vllm": mixtral_h100_vllm(),
        "llada_moe_a6000": llada_moe_a6000(),
    }
