"""Model files against the real Hugging Face configurations that the aiconfigurator-core package installs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from nfp_model.specs.model import LatentAttention, LinearAttention, ModelSpec, MoEFFN, SoftmaxAttention

pytestmark = pytest.mark.silicon

FOLDER = Path(__file__).parents[1] / "model_specs"

CONFIGS = {
    "deepseek_v3": ("deepseek-ai--DeepSeek-V3", "deepseek-ai--DeepSeek-R1"),
    "gpt_oss_120b": ("openai--gpt-oss-120b",),
    "gpt_oss_20b": ("openai--gpt-oss-20b",),
    "kimi_k2": ("moonshotai--Kimi-K2-Instruct",),
    "llama_3_1_405b": ("meta-llama--Meta-Llama-3.1-405B",),
    "llama_3_1_70b": ("meta-llama--Meta-Llama-3.1-70B",),
    "llama_3_1_8b": ("meta-llama--Meta-Llama-3.1-8B",),
    "llama_4_maverick": ("meta-llama--Llama-4-Maverick-17B-128E-Instruct",),
    "llama_4_scout": ("meta-llama--Llama-4-Scout-17B-16E-Instruct",),
    "minimax_m2": ("MiniMaxAI--MiniMax-M2.5",),
    "mixtral_8x22b": ("mistralai--Mixtral-8x22B-v0.1",),
    "mixtral_8x7b": ("mistralai--Mixtral-8x7B-v0.1",),
    "qwen3_0_6b": ("Qwen--Qwen3-0.6B",),
    "qwen3_1_7b": ("Qwen--Qwen3-1.7B",),
    "qwen3_235b_a22b": ("Qwen--Qwen3-235B-A22B",),
    "qwen3_30b_a3b": ("Qwen--Qwen3-30B-A3B",),
    "qwen3_32b": ("Qwen--Qwen3-32B",),
    "qwen3_5_122b_a10b": ("Qwen--Qwen3.5-122B-A10B",),
    "qwen3_5_27b": ("Qwen--Qwen3.5-27B",),
    "qwen3_5_35b_a3b": ("Qwen--Qwen3.5-35B-A3B",),
    "qwen3_5_397b_a17b": ("Qwen--Qwen3.5-397B-A17B",),
    "qwen3_8b": ("Qwen--Qwen3-8B",),
    "qwen3_coder_480b_a35b": ("Qwen--Qwen3-Coder-480B-A35B-Instruct",),
}
PAIRS = [(name, config) for name, configs in CONFIGS.items() for config in configs]
LAYER_NAMES = {"linear_attention": "linear", "full_attention": "full", "sliding_attention": "sliding"}


def config_of(file: str) -> dict[str, Any]:
    """Outer and nested text configuration in one dict; the text part wins."""
    found = importlib.util.find_spec("aiconfigurator_core")
    if found is None or not found.submodule_search_locations:
        pytest.skip("aiconfigurator-core is not installed (pip install 'nfp-model[silicon]')")
    path = Path(found.submodule_search_locations[0]) / "model_configs" / f"{file}_config.json"
    outer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {**outer, **outer.get("text_config", {})}


def first_of(config: dict[str, Any], *keys: str) -> Any:
    return next((config[key] for key in keys if config.get(key) is not None), None)


def spec_of(name: str) -> ModelSpec:
    return ModelSpec.from_toml(FOLDER / f"{name}.toml")


def attention_layers(config: dict[str, Any]) -> dict[str, int]:
    """Layers per attention kind, counted layer by layer from the configuration."""
    kinds = [LAYER_NAMES[kind] for kind in config.get("layer_types", ())]
    if not kinds:
        layers = range(config["num_hidden_layers"])
        chunked = "attention_chunk_size" in config
        plain = "latent" if "kv_lora_rank" in config else "full"
        # Llama-4 lists no layer kinds; its configuration class attends fully in every fourth layer.
        kinds = ["chunked" if chunked and (layer + 1) % 4 else plain for layer in layers]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def moe_layers(config: dict[str, Any]) -> int:
    """Layers with routed experts, counted layer by layer from the configuration."""
    if first_of(config, "num_local_experts", "n_routed_experts", "num_experts") is None:
        return 0
    step, skipped = config.get("interleave_moe_layer_step", 1), config.get("first_k_dense_replace", 0)
    return sum((layer + 1) % step == 0 and layer >= skipped for layer in range(config["num_hidden_layers"]))


@pytest.mark.parametrize(("name", "file"), PAIRS)
def test_sizes_and_layer_patterns(name: str, file: str) -> None:
    spec, config = spec_of(name), config_of(file)
    assert spec.hidden_size == config["hidden_size"]
    assert spec.num_layers == config["num_hidden_layers"]
    assert spec.vocab_size == config["vocab_size"]
    assert spec.max_context_length == config["max_position_embeddings"]
    assert spec.tied_embeddings == config.get("tie_word_embeddings", False)
    assert first_of(config, "torch_dtype", "dtype") in (spec.dtype, None)  # gpt-oss and MiniMax-M2.5 state none
    counted = {kind: sum(g.count for g in spec.layers if g.attention == kind) for kind in spec.attention}
    assert counted == attention_layers(config)
    assert sum(g.count for g in spec.layers if "moe" in g.ffn) == moe_layers(config)


@pytest.mark.parametrize(("name", "file"), PAIRS)
def test_attention_shapes(name: str, file: str) -> None:
    spec, config = spec_of(name), config_of(file)
    for kind, part in spec.attention.items():
        if isinstance(part, LinearAttention):
            assert part.key_heads == config["linear_num_key_heads"]
            assert part.value_heads == config["linear_num_value_heads"]
            assert part.key_head_dim == config["linear_key_head_dim"]
            assert part.value_head_dim == config["linear_value_head_dim"]
            assert part.conv_kernel == config["linear_conv_kernel_dim"]
            assert part.state_dtype == config["mamba_ssm_dtype"]
            continue
        assert part.num_query_heads == config["num_attention_heads"]
        if isinstance(part, LatentAttention):
            assert part.query_rank == config["q_lora_rank"]
            assert part.latent_rank == config["kv_lora_rank"]
            assert part.nope_head_dim == config["qk_nope_head_dim"]
            assert part.rope_head_dim == config["qk_rope_head_dim"]
            assert part.value_head_dim == config["v_head_dim"]
        elif isinstance(part, SoftmaxAttention):
            assert part.num_kv_heads == config["num_key_value_heads"]
            assert part.head_dim == config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
            assert part.window == (config["sliding_window"] if kind == "sliding" else None)
            assert part.chunk == (config["attention_chunk_size"] if kind == "chunked" else None)
            assert part.qkv_bias == config.get("attention_bias", False)
            assert part.output_gate == config.get("attn_output_gate", False)


@pytest.mark.parametrize(("name", "file"), PAIRS)
def test_ffn_shapes(name: str, file: str) -> None:
    spec, config = spec_of(name), config_of(file)
    if "dense" in spec.ffn:
        width = first_of(config, "intermediate_size_mlp", "intermediate_size")
        assert spec.ffn["dense"].intermediate_size == width
    if "moe" not in spec.ffn:
        return
    moe = spec.ffn["moe"]
    assert isinstance(moe, MoEFFN)
    width = first_of(config, "moe_intermediate_size", "intermediate_size")
    shared = first_of(config, "shared_expert_intermediate_size", "shared_intermediate_size")
    if shared is None:
        shared = config.get("n_shared_experts", 1 if config["model_type"] == "llama4_text" else 0) * width
    assert moe.num_experts == first_of(config, "num_local_experts", "n_routed_experts", "num_experts")
    assert moe.top_k == config["num_experts_per_tok"]
    assert moe.intermediate_size == width
    assert moe.shared_intermediate_size == shared
    assert (moe.groups, moe.groups_kept) == (config.get("n_group", 1), config.get("topk_group", 1))
    # DeepSeek and Kimi call the router's correction bias noaux_tc, MiniMax use_routing_bias; gpt-oss biases everything.
    corrected = config.get("topk_method") == "noaux_tc" or config.get("use_routing_bias", False)
    assert moe.router_bias == (corrected or config["model_type"] == "gpt_oss")


@pytest.mark.parametrize(("name", "file"), PAIRS)
def test_storage_formats(name: str, file: str) -> None:
    spec, quantization = spec_of(name), config_of(file).get("quantization_config") or {}
    method = quantization.get("quant_method")
    if method == "mxfp4":
        excluded = " ".join(quantization["modules_to_not_convert"])
        assert all(module in excluded for module in ("self_attn", "router", "embed_tokens", "lm_head"))
        assert spec.dtypes == {"experts": "mxfp4"}
    elif method == "fp8":
        assert quantization["weight_block_size"] == [128, 128]
        parts = {"attention", "experts"} | ({"dense_ffn", "shared_experts"} if "dense" in spec.ffn else set())
        assert spec.dtypes == dict.fromkeys(parts, "fp8_block")
    else:
        assert method is None
        assert spec.dtypes == {}


def test_every_file_that_claims_the_package_is_compared() -> None:
    claimed = {p.stem for p in FOLDER.glob("*.toml") if "aiconfigurator-core" in p.read_text(encoding="utf-8")}
    assert claimed == set(CONFIGS)
