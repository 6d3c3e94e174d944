"""Schedules in the serving engines' own syntax, held to the engines' rules and read back before they are returned."""

from nfp_model.exporters.diffusion import export_diffusion, parse_diffusion
from nfp_model.exporters.dispatch import ENGINES, export_schedule
from nfp_model.exporters.others import export_llama_cpp, export_lmdeploy, export_mlx_lm, parse_draft_flag
from nfp_model.exporters.positions import setting_for_positions
from nfp_model.exporters.predicted import export_table
from nfp_model.exporters.sglang import (
    export_sglang,
    export_sglang_static,
    parse_sglang,
    parse_sglang_static,
)
from nfp_model.exporters.sglang_costs import export_additive_costs, export_step_costs, parse_costs
from nfp_model.exporters.tensorrt_llm import export_tensorrt_llm, parse_tensorrt_llm
from nfp_model.exporters.vllm import export_vllm, parse_vllm
from nfp_model.exporters.writing import Export, ExportFacts, write_whole
from nfp_model.scheduling import DraftRange, DraftSchedule, align_to_captured

__all__ = [
    "DraftRange",
    "DraftSchedule",
    "ENGINES",
    "Export",
    "ExportFacts",
    "align_to_captured",
    "export_additive_costs",
    "export_diffusion",
    "export_llama_cpp",
    "export_lmdeploy",
    "export_mlx_lm",
    "export_schedule",
    "export_sglang",
    "export_sglang_static",
    "export_step_costs",
    "export_table",
    "export_tensorrt_llm",
    "export_vllm",
    "parse_costs",
    "parse_diffusion",
    "parse_draft_flag",
    "parse_sglang",
    "parse_sglang_static",
    "parse_tensorrt_llm",
    "parse_vllm",
    "setting_for_positions",
    "write_whole",
]
