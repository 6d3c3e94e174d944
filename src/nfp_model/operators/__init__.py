"""Operator records, and the records one decode forward is made of."""

from nfp_model.operators.forward import cache_bytes, forward_operators, weight_bytes
from nfp_model.operators.modules import CompressedAttention
from nfp_model.operators.records import (
    ACTIVATION_BYTES,
    MODULES,
    Attention,
    Collective,
    Elementwise,
    FusedMoE,
    Gemm,
    LinearScan,
    Module,
    Operator,
    OperatorUse,
)

__all__ = [
    "ACTIVATION_BYTES",
    "MODULES",
    "Attention",
    "Collective",
    "CompressedAttention",
    "Elementwise",
    "FusedMoE",
    "Gemm",
    "LinearScan",
    "Module",
    "Operator",
    "OperatorUse",
    "cache_bytes",
    "forward_operators",
    "weight_bytes",
]
