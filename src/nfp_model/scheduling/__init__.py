"""How many positions to spend: draft counts, critical load and diffusion blocks, from predicted curves or given ones."""

from nfp_model.scheduling.blocks import BlockCosts, block_costs
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
from nfp_model.scheduling.predicted import schedule
from nfp_model.scheduling.ranges import DraftRange, DraftSchedule, align_to_captured, pad_batch, require_speculation
from nfp_model.scheduling.ratios import LatencyRatio
from nfp_model.scheduling.tables import Method, Schedule, ScheduleCell

__all__ = [
    "BlockCosts",
    "BlockPoint",
    "CriticalLoad",
    "Decision",
    "Decomposition",
    "DiffusionDecision",
    "DraftRange",
    "DraftSchedule",
    "LatencyRatio",
    "Method",
    "OperatingPoint",
    "Rule",
    "Schedule",
    "ScheduleCell",
    "align_to_captured",
    "block_costs",
    "break_even_acceptance",
    "choose_positions",
    "critical_load",
    "decompose_speedup",
    "diffusion_break_even",
    "pad_batch",
    "require_speculation",
    "schedule",
]
