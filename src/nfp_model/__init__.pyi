"""Types of the lazily loaded names; ``tests/test_public_names.py`` holds this list to the shipped specs."""

from nfp_model.boundary import (
    Boundary as Boundary,
    near_free_boundary as near_free_boundary,
)
from nfp_model.codesign import (
    sensitivities as sensitivities,
    solve_for as solve_for,
)
from nfp_model.curve import (
    LatencyCurve as LatencyCurve,
)
from nfp_model.errors import (
    NfpModelError as NfpModelError,
)
from nfp_model.operators import (
    Attention as Attention,
    FusedMoE as FusedMoE,
    Gemm as Gemm,
)
from nfp_model.prediction import (
    ModulePrediction as ModulePrediction,
    Prediction as Prediction,
    idle_compute_nfp as idle_compute_nfp,
    latency_curve as latency_curve,
    operator_latency as operator_latency,
    predict_nfp as predict_nfp,
)
from nfp_model.prediction.closed import (
    principle as principle,
)
from nfp_model.scheduling import (
    block_costs as block_costs,
    schedule as schedule,
)
from nfp_model.specs.hardware import (
    HardwareSpec as HardwareSpec,
)
from nfp_model.specs.huggingface import (
    from_hf_config as from_hf_config,
)
from nfp_model.specs.model import (
    ModelSpec as ModelSpec,
)
from nfp_model.specs.registry import (
    load_hardware as load_hardware,
    load_model as load_model,
)
from nfp_model.sweeping import (
    sweep as sweep,
    sweep_operator as sweep_operator,
)

__version__: str

a10: HardwareSpec
a100: HardwareSpec
a100_40gb: HardwareSpec
a100_80gb: HardwareSpec
a100_pcie: HardwareSpec
a100_pcie_40gb: HardwareSpec
a100_pcie_80gb: HardwareSpec
a100_sxm: HardwareSpec
a100_sxm4_40gb: HardwareSpec
a100_sxm4_80gb: HardwareSpec
a100_sxm_40gb: HardwareSpec
a100_sxm_80gb: HardwareSpec
a40: HardwareSpec
b200: HardwareSpec
b200_sxm: HardwareSpec
b300: HardwareSpec
b300_sxm: HardwareSpec
gb200: HardwareSpec
gb300: HardwareSpec
gh200: HardwareSpec
gh200_144gb: HardwareSpec
gh200_96gb: HardwareSpec
h100: HardwareSpec
h100_80gb: HardwareSpec
h100_nvl: HardwareSpec
h100_pcie: HardwareSpec
h100_sxm: HardwareSpec
h100_sxm5: HardwareSpec
h20: HardwareSpec
h200: HardwareSpec
h200_141gb: HardwareSpec
h200_sxm: HardwareSpec
h800: HardwareSpec
h800_sxm: HardwareSpec
l4: HardwareSpec
l40s: HardwareSpec
mi300x: HardwareSpec
mi325x: HardwareSpec
mi355x: HardwareSpec
rtx4090: HardwareSpec
rtx5090: HardwareSpec
rtx6000_blackwell: HardwareSpec
rtx_4090: HardwareSpec
rtx_5090: HardwareSpec
rtx_pro_6000: HardwareSpec
rtx_pro_6000_blackwell: HardwareSpec
rtx_pro_6000_server: HardwareSpec
tpu_v5_lite: HardwareSpec
tpu_v5e: HardwareSpec
tpu_v5p: HardwareSpec
tpu_v6e: HardwareSpec
trillium: HardwareSpec
v5e: HardwareSpec
v5p: HardwareSpec
v6e: HardwareSpec
deepseek_r1: ModelSpec
deepseek_v2_lite: ModelSpec
deepseek_v2_lite_chat: ModelSpec
deepseek_v3: ModelSpec
diffucoder_7b: ModelSpec
dream: ModelSpec
dream_7b: ModelSpec
dream_v0_instruct_7b: ModelSpec
gemma3_12b: ModelSpec
gemma3_1b: ModelSpec
gemma3_27b: ModelSpec
gemma3_4b: ModelSpec
gemma_3_12b: ModelSpec
gemma_3_12b_it: ModelSpec
gemma_3_1b: ModelSpec
gemma_3_1b_it: ModelSpec
gemma_3_27b: ModelSpec
gemma_3_27b_it: ModelSpec
gemma_3_4b: ModelSpec
gemma_3_4b_it: ModelSpec
glm_4_5: ModelSpec
glm_4_5_air: ModelSpec
gpt_oss_120b: ModelSpec
gpt_oss_20b: ModelSpec
kimi_k2: ModelSpec
kimi_k2_instruct: ModelSpec
llada: ModelSpec
llada2_0_flash: ModelSpec
llada2_0_mini: ModelSpec
llada2_flash: ModelSpec
llada2_mini: ModelSpec
llada_8b: ModelSpec
llada_8b_instruct: ModelSpec
llada_moe: ModelSpec
llada_moe_7b_a1b: ModelSpec
llada_moe_7b_a1b_instruct: ModelSpec
llama2_7b: ModelSpec
llama3_1_405b: ModelSpec
llama3_1_70b: ModelSpec
llama3_1_8b: ModelSpec
llama4_maverick: ModelSpec
llama4_scout: ModelSpec
llama_2_7b: ModelSpec
llama_2_7b_hf: ModelSpec
llama_3_1_405b: ModelSpec
llama_3_1_70b: ModelSpec
llama_3_1_8b: ModelSpec
llama_4_maverick: ModelSpec
llama_4_maverick_17b_128e: ModelSpec
llama_4_scout: ModelSpec
llama_4_scout_17b_16e: ModelSpec
meta_llama_3_1_405b: ModelSpec
meta_llama_3_1_70b: ModelSpec
meta_llama_3_1_8b: ModelSpec
minimax_m2: ModelSpec
minimax_m2_5: ModelSpec
minimax_m2_7: ModelSpec
mistral: ModelSpec
mistral_7b: ModelSpec
mistral_7b_v0_1: ModelSpec
mixtral: ModelSpec
mixtral_8x22b: ModelSpec
mixtral_8x22b_v0_1: ModelSpec
mixtral_8x7b: ModelSpec
mixtral_8x7b_v0_1: ModelSpec
olmoe: ModelSpec
olmoe_1b_7b: ModelSpec
olmoe_1b_7b_0924: ModelSpec
phi3_5_moe: ModelSpec
phi_3_5_moe: ModelSpec
phi_3_5_moe_instruct: ModelSpec
qwen2_5_72b: ModelSpec
qwen2_5_7b: ModelSpec
qwen3_0_6b: ModelSpec
qwen3_14b: ModelSpec
qwen3_1_7b: ModelSpec
qwen3_235b: ModelSpec
qwen3_235b_a22b: ModelSpec
qwen3_30b: ModelSpec
qwen3_30b_a3b: ModelSpec
qwen3_32b: ModelSpec
qwen3_4b: ModelSpec
qwen3_5_122b_a10b: ModelSpec
qwen3_5_27b: ModelSpec
qwen3_5_35b_a3b: ModelSpec
qwen3_5_397b_a17b: ModelSpec
qwen3_8b: ModelSpec
qwen3_coder_480b: ModelSpec
qwen3_coder_480b_a35b: ModelSpec
qwen3_coder_480b_a35b_instruct: ModelSpec
qwen3_next: ModelSpec
qwen3_next_80b: ModelSpec
qwen3_next_80b_a3b: ModelSpec
qwen3_next_80b_a3b_instruct: ModelSpec
sdar_30b: ModelSpec
sdar_30b_a3b: ModelSpec
sdar_30b_a3b_chat: ModelSpec
sdar_4b: ModelSpec
sdar_4b_chat: ModelSpec
sdar_8b: ModelSpec
sdar_8b_chat: ModelSpec
