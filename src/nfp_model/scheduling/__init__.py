"""How many positions to spend: draft counts, critical load and diffusion blocks from a cost curve and an acceptance."""

from nfp_model.scheduling.decomposition import Decomposition, decompose_speedup
from nfp_model.scheduling.diffusion import BlockPoint, DiffusionDecision, diffusion_break_even
from nfp_model.scheduling.drafts import (
    CriticalLoad,
    Decision,
    OperatingPoint,
    Rule,
    break_even_acceptance,
    choose_positions,
    critical_load,
)
from nfp_model.scheduling.ratios import LatencyRatio

__all__ = [
    "BlockPoint",
    "CriticalLoad",
    "Decision",
    "Decomposition",
    "DiffusionDecision",
    "LatencyRatio",
    "OperatingPoint",
    "Rule",
    "break_even_acceptance",
    "choose_positions",
    "critical_load",
    "decompose_speedup",
    "diffusion_break_even",
]
