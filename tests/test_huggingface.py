"""Every architecture family from a minimal configuration, by its own field names.

Totals and active counts are sums of tensor shapes of each model's hub configuration, typed in, not computed here; the
rounded figure of its model card or paper stands beside.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, strategies as st

from nfp_model.errors import MissingDependencyError, SpecError, UnsupportedError
from nfp_model.specs.huggingface import from_hf_config
from nfp_model.specs.model import LinearAttention, ModelSpec, MoEFFN, SoftmaxAttention
from nfp_model.specs.toml_text import model_to_toml


def config(model_type: str, hidden: int, layers: int, heads: int, vocab: int, **fields: Any) -> dict[str, Any]:
    return {
        "model_type": model_type, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "vocab_size": vocab, "max_position_embeddings": 131072, **fields,
    }  # fmt: skip


QWEN25 = {"num_key_value_heads": 4, "intermediate_size": 18944, "tie_word_embeddings": False}
QWEN3_4B = {"num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728}
LING = {
    "num_key_value_heads": 4, "head_dim": 128, "num_experts": 256, "num_experts_per_tok": 8, "num_shared_experts": 1,
    "first_k_dense_replace": 1, "n_group": 8, "topk_group": 4, "use_qk_norm": True, "use_qkv_bias": False,
    "use_bias": False, "moe_router_enable_expert_bias": True, "sliding_window": 4096,
    "use_sliding_window": False, "score_function": "sigmoid",
}  # fmt: skip
GLM45 = {
    "num_key_value_heads": 8, "head_dim": 128, "attention_bias": True, "num_experts_per_tok": 8, "n_shared_experts": 1,
    "topk_group": 1, "n_group": 1, "num_nextn_predict_layers": 1,
}  # fmt: skip
LLADA_8B = {
    "model_type": "llada", "architectures": ["LLaDAModelLM"], "d_model": 4096, "n_layers": 32, "n_heads": 32,
    "n_kv_heads": 32, "mlp_hidden_size": 12288, "embedding_size": 126464, "vocab_size": 126464, "weight_tying": False,
    "max_sequence_length": 4096, "include_bias": False, "include_qkv_bias": False, "multi_query_attention": None,
}  # fmt: skip
GEMMA3_4B_TEXT = {
    "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
    "sliding_window": 1024,
}  # fmt: skip

FAMILIES: dict[str, tuple[dict[str, Any], int, int]] = {
    # model card 6.74B
    "llama-2-7b": (config("llama", 4096, 32, 32, 32000, intermediate_size=11008), 6_738_415_616, 6_738_415_616),
    # paper 7.3B
    "mistral-7b": (
        config("mistral", 4096, 32, 32, 32000, num_key_value_heads=8, intermediate_size=14336, sliding_window=4096),
        7_241_732_096, 7_241_732_096,
    ),
    # model card 7.61B
    "qwen2.5-7b": (config("qwen2", 3584, 28, 28, 152064, **QWEN25), 7_615_616_512, 7_615_616_512),
    # model card 72.7B
    "qwen2.5-72b": (
        config("qwen2", 8192, 80, 64, 152064, num_key_value_heads=8, intermediate_size=29568, use_sliding_window=False,
               sliding_window=131072, max_window_layers=80),
        72_706_203_648, 72_706_203_648,
    ),
    # model card 4.0B
    "qwen3-4b": (
        config("qwen3", 2560, 36, 32, 151936, tie_word_embeddings=True, **QWEN3_4B), 4_022_468_096, 4_022_468_096,
    ),
    # JetLM/SDAR-4B-Chat: the shape of Qwen3-4B with a head of its own; 8.83 GB of bfloat16 on the hub
    "sdar-4b": (
        config("sdar", 2560, 36, 32, 151936, tie_word_embeddings=False, **QWEN3_4B), 4_411_424_256, 4_411_424_256,
    ),
    # model card 80B / 3B
    "qwen3-next": (
        config("qwen3_next", 2048, 48, 16, 151936, num_key_value_heads=2, head_dim=256, intermediate_size=5120,
               full_attention_interval=4, linear_num_key_heads=16, linear_num_value_heads=32, linear_key_head_dim=128,
               linear_value_head_dim=128, linear_conv_kernel_dim=4, num_experts=512, num_experts_per_tok=10,
               moe_intermediate_size=512, shared_expert_intermediate_size=512, decoder_sparse_step=1,
               mlp_only_layers=[]),
        79_674_391_296, 3_874_929_408,
    ),
    # paper 15.7B / 2.4B
    "deepseek-v2-lite": (
        config("deepseek_v2", 2048, 27, 16, 102400, num_key_value_heads=16, kv_lora_rank=512, q_lora_rank=None,
               qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, intermediate_size=10944, n_routed_experts=64,
               num_experts_per_tok=6, n_shared_experts=2, moe_intermediate_size=1408, first_k_dense_replace=1,
               moe_layer_freq=1, topk_method="greedy", n_group=1, topk_group=1),
        15_706_484_224, 2_661_150_208,
    ),
    # paper 355B / 32B with the MTP layer that is left out here
    "glm-4.5": (
        config("glm4_moe", 5120, 92, 96, 151552, intermediate_size=12288, n_routed_experts=160,
               moe_intermediate_size=1536, first_k_dense_replace=3, use_qk_norm=True, **GLM45),
        352_797_829_024, 33_632_266_144,
    ),
    # paper 106B / 12B
    "glm-4.5-air": (
        config("glm4_moe", 4096, 46, 96, 151552, intermediate_size=10944, n_routed_experts=128,
               moe_intermediate_size=1408, first_k_dense_replace=1, use_qk_norm=False, **GLM45),
        106_852_251_264, 13_424_129_664,
    ),
    # paper 6.9B / 1.3B
    "olmoe": (
        config("olmoe", 2048, 16, 16, 50304, num_key_value_heads=16, intermediate_size=1024, num_experts=64,
               num_experts_per_tok=8),
        6_919_161_856, 1_282_017_280,
    ),
    # model card 41.9B / 6.6B
    "phi-3.5-moe": (
        config("phimoe", 4096, 32, 32, 32064, num_key_value_heads=8, intermediate_size=6400, num_local_experts=16,
               num_experts_per_tok=2, attention_bias=True, lm_head_bias=True, sliding_window=131072),
        41_873_153_344, 6_640_999_744,
    ),
    # model card 1B
    "gemma-3-1b": (
        config("gemma3_text", 1152, 26, 4, 262144, num_key_value_heads=1, head_dim=256, intermediate_size=6912,
               sliding_window=512, sliding_window_pattern=6),
        999_885_952, 999_885_952,
    ),
    # model card 4B with vision; the file leaves heads and vocabulary to its class
    "gemma-3-4b": (
        {"model_type": "gemma3", "text_config": GEMMA3_4B_TEXT, "vision_config": {"hidden_size": 1152}},
        3_880_263_168, 3_880_263_168,
    ),
    # model card 27B with vision
    "gemma-3-27b": (
        config("gemma3_text", 5376, 62, 32, 262208, num_key_value_heads=16, head_dim=128, intermediate_size=21504,
               sliding_window=1024),
        27_009_346_304, 27_009_346_304,
    ),
    # paper 8B (8.02B)
    "llada-8b": (LLADA_8B, 8_015_581_184, 8_015_581_184),
    # the shape of Qwen2.5-7B
    "dream-7b": (config("Dream", 3584, 28, 28, 152064, **QWEN25), 7_615_616_512, 7_615_616_512),
    # model card 7B / 1.4B without the input embedding; 14.72 GB of bfloat16 on the hub
    "llada-moe": (
        config("llada", 2048, 16, 16, 157184, architectures=["LLaDAMoEModelLM"], num_key_value_heads=16, num_experts=64,
               num_experts_per_tok=8, expert_intermediate_size=1024, dense_intermediate_size=8192,
               moe_layer_freq=[1] * 16, qk_layernorm=True, shared_expert_intermediate_size=None),
        7_356_880_896, 1_719_736_320,
    ),
    # paper 16B / 1.4B
    "llada2.0-mini": (
        config("llada2_moe", 2048, 20, 16, 157184, intermediate_size=5120, moe_intermediate_size=512, **LING),
        16_255_643_392, 1_432_973_056,
    ),
    # hub 103B, paper 6.1B active; the body of Ling-flash-2.0
    "ling-flash-2.0": (
        config("bailing_moe_v2", 4096, 32, 32, 157184, intermediate_size=9216, moe_intermediate_size=1024, **LING),
        102_889_705_216, 6_152_277_760,
    ),
}  # fmt: skip


def counts(model: ModelSpec) -> dict[str, int]:
    """Layers per attention kind."""
    total: Counter[str] = Counter()
    for group in model.layers:
        total[group.attention] += group.count
    return dict(total)


def softmax(model: ModelSpec, key: str) -> SoftmaxAttention:
    part = model.attention[key]
    assert isinstance(part, SoftmaxAttention)
    return part


def moe(model: ModelSpec) -> MoEFFN:
    part = model.ffn["moe"]
    assert isinstance(part, MoEFFN)
    return part


@pytest.mark.parametrize("name", FAMILIES)
def test_family_counts_are_exact(name: str) -> None:
    fields, total, active = FAMILIES[name]
    model = from_hf_config(fields, name=name)
    assert (model.total_parameters, model.active_parameters) == (total, active)
    assert not [note for note in model.notes if "not understood" in note]


@pytest.mark.parametrize("name", FAMILIES)
def test_written_toml_loads_back_equal(name: str, tmp_path: Path) -> None:
    model = from_hf_config(FAMILIES[name][0], name=name)
    path = tmp_path / "model.toml"
    path.write_text(model_to_toml(model), encoding="utf-8")
    checked = {"derived_total": model.total_parameters, "derived_active": model.active_parameters}
    assert ModelSpec.from_toml(path) == model.model_copy(update=checked)


@given(st.text(st.characters(codec="utf-8"), max_size=60), st.lists(st.text(st.characters(codec="utf-8")), max_size=3))
def test_any_text_survives_toml(title: str, notes: list[str]) -> None:
    plain = from_hf_config(FAMILIES["llama-2-7b"][0], name="x")
    model = plain.model_copy(update={"title": title, "notes": tuple(notes)})
    assert ModelSpec.from_mapping(tomllib.loads(model_to_toml(model))).model_dump(include={"title", "notes"}) == {
        "title": title,
        "notes": tuple(notes),
    }


def test_windows_layers_and_gates() -> None:
    assert softmax(from_hf_config(FAMILIES["mistral-7b"][0]), "sliding").window == 4096
    for inactive in ("qwen2.5-72b", "phi-3.5-moe", "llada2.0-mini"):
        assert softmax(from_hf_config(FAMILIES[inactive][0]), "full").window is None
    assert counts(from_hf_config(FAMILIES["gemma-3-1b"][0])) == {"sliding": 22, "full": 4}
    hybrid = from_hf_config(FAMILIES["qwen3-next"][0])
    assert counts(hybrid) == {"linear": 36, "full": 12}
    assert softmax(hybrid, "full").output_gate
    assert isinstance(hybrid.attention["linear"], LinearAttention)
    upper = config("qwen2", 64, 6, 4, 128, intermediate_size=64, sliding_window=8)
    upper |= {"use_sliding_window": True, "max_window_layers": 4}
    assert counts(from_hf_config(upper)) == {"full": 4, "sliding": 2}
    alternating = config("gpt_oss", 64, 4, 4, 128, intermediate_size=64, num_local_experts=4, sliding_window=8)
    alternating |= {"experts_per_token": 2}
    assert counts(from_hf_config(alternating)) == {"sliding": 2, "full": 2}
    listed = {"layer_types": ["full_attention"] * 3 + ["sliding_attention"]}
    assert counts(from_hf_config(alternating | listed)) == {"full": 3, "sliding": 1}


@pytest.mark.parametrize(
    ("fields", "routed"),
    [
        ({"first_k_dense_replace": 2}, 4),
        ({"moe_layer_freq": [0, 1, 0, 1, 0, 1]}, 3),
        ({"moe_layer_freq": 4}, 2),  # layers 0 and 4 (modeling_deepseek)
        ({"decoder_sparse_step": 4}, 1),  # layer 3 (modeling_qwen3_moe)
        ({"mlp_only_layers": [0, 5]}, 4),
        ({"interleave_moe_layer_step": 4}, 1),  # layer 3 (configuration_llama4)
        ({"mlp_layer_types": ["dense"] + ["sparse"] * 5}, 5),
        ({}, 6),
    ],
)
def test_which_layers_are_routed(fields: dict[str, Any], routed: int) -> None:
    base = config("qwen3_moe", 64, 6, 4, 128, intermediate_size=96, num_experts=8, num_experts_per_tok=2)
    model = from_hf_config(base | {"moe_intermediate_size": 32} | fields)
    assert sum(group.count for group in model.layers if group.ffn == ("moe",)) == routed


@pytest.mark.parametrize(
    ("model_type", "fields", "width"),
    [
        ("deepseek_v3", {"n_shared_experts": 2, "moe_intermediate_size": 32}, 64),
        ("qwen2_moe", {"shared_expert_intermediate_size": 48, "moe_intermediate_size": 32}, 48),
        ("qwen2_moe", {"shared_expert_intermediate_size": 0, "moe_intermediate_size": 32}, 0),
        ("minimax_m2", {"shared_intermediate_size": 0}, 0),
        # Engines multiply (vLLM, nemotron_h.py).
        (
            "bailing_moe_v2",
            {"moe_shared_expert_intermediate_size": 24, "num_shared_experts": 2, "moe_intermediate_size": 32},
            48,
        ),
        ("step3p7", {"share_expert_dim": 24, "n_shared_experts": 1, "moe_intermediate_size": 32}, 24),
        ("mimo_v2_flash", {"n_shared_experts": None, "moe_intermediate_size": 32}, 0),
        ("llama4_text", {}, 96),
    ],
)
def test_shared_experts(model_type: str, fields: dict[str, Any], width: int) -> None:
    base = config(model_type, 64, 2, 4, 128, intermediate_size=96, num_experts=8, num_experts_per_tok=2)
    assert moe(from_hf_config(base | fields)).shared_intermediate_size == width


def test_diffusion_models_say_how_they_denoise() -> None:
    names = ("llada-8b", "dream-7b", "sdar-4b", "llada2.0-mini")
    shapes = {name: from_hf_config(FAMILIES[name][0]).diffusion for name in names}
    assert {name: (d.block_size, d.cached) for name, d in shapes.items() if d} == {
        "llada-8b": (None, False), "dream-7b": (None, False), "sdar-4b": (4, True), "llada2.0-mini": (32, True),
    }  # fmt: skip
    wider = from_hf_config(FAMILIES["sdar-4b"][0] | {"block_size": 16}).diffusion
    assert wider is not None
    assert wider.block_size == 16
    assert from_hf_config(FAMILIES["qwen3-4b"][0]).diffusion is None


def test_a_field_not_understood_is_told() -> None:
    model = from_hf_config(FAMILIES["llama-2-7b"][0] | {"gate_every_kv": 3, "rope_theta": 1e4, "nothing": None})
    assert model.notes == ("field not understood and not used: gate_every_kv = 3",)
    vision = from_hf_config(FAMILIES["gemma-3-4b"][0])
    assert vision.notes == ("vision tower left out",)
    assert from_hf_config(FAMILIES["glm-4.5"][0]).notes == ("1 multi-token-prediction layers left out",)


def llama(**fields: Any) -> dict[str, Any]:
    return FAMILIES["llama-2-7b"][0] | fields


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (llama(model_type="lama"), UnsupportedError, r"'lama' is no known architecture \(nearest: 'llama'\)$"),
        (
            {"model_type": "rwkv7", "hidden_size": 8, "decay_low_rank_dim": 4},
            UnsupportedError,
            r"'rwkv7' is no known architecture; it states no number of layers, no number of attention heads, "
            r"no feed-forward width, no vocabulary; fields not understood: decay_low_rank_dim$",
        ),
        ({"hidden_size": 8}, UnsupportedError, "a configuration without model_type is no known architecture"),
        (llama(compress_ratios=[4]), UnsupportedError, r"needs a compressed KV cache \(compress_ratios\), which"),
        (llama(num_kv_shared_layers=2), UnsupportedError, "layers that read another layer's KV cache"),
        (llama(layer_types=["mamba"] * 32), UnsupportedError, "layer type 'mamba' is not known; known: full_att"),
        (llama(layer_types=["full_attention"]), SpecError, "layer_types has 1 entries for 32 layers"),
        (llama(layer_types=["sliding_attention"] * 32), SpecError, "sliding attention, but there is no sliding_window"),
        (llama(hidden_size=None), SpecError, r"no hidden size \(looked for hidden_size, d_model\)"),
        (llama(vocab_size=-1), SpecError, "vocab_size must be a whole number of at least 0, got -1"),
        (llama(attention_bias="yes"), SpecError, "attention_bias must be true or false, got 'yes'"),
        (llama(num_experts=8, n_routed_experts=16), SpecError, "num_experts = 8 and n_routed_experts = 16 disagree"),
        (llama(num_attention_heads=30), SpecError, "no head_dim, and hidden size 4096 is no multiple of 30 heads"),
        (llama(num_key_value_heads=5), SpecError, "num_query_heads 32 is not a multiple of num_kv_heads 5"),
    ],
)  # fmt: skip
def test_refusals_name_what_is_missing(fields: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        from_hf_config(fields)


def test_files_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "Tiny-1B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(FAMILIES["llama-2-7b"][0]))
    quantization = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    (folder / "hf_quant_config.json").write_text(json.dumps(quantization))
    for source in (folder, str(folder), folder / "config.json", str(folder / "config.json")):
        model = from_hf_config(source)
        assert (model.name, model.dtypes, model.kv_dtype) == (
            "Tiny-1B",
            {"attention": "fp8", "dense_ffn": "fp8"},
            "fp8",
        )
    with pytest.raises(SpecError, match=r"nowhere.json: cannot be read"):
        from_hf_config(tmp_path / "nowhere.json")
    broken = tmp_path / "config.json"
    broken.write_text("[1]")
    with pytest.raises(SpecError, match="a configuration is a JSON object, got list"):
        from_hf_config(broken)
    broken.write_text("{")
    with pytest.raises(SpecError, match="not valid JSON"):
        from_hf_config(broken)


def test_a_hub_id_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"'org/name' is a hub id, .* install nfp-model\[hf\]"):
        from_hf_config("org/name")


def test_a_hub_id_fetches_two_json_files_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    class EntryNotFoundError(OSError):
        pass

    def hf_hub_download(repository: str, filename: str) -> str:
        asked.append((repository, filename))
        if repository == "org/gone":
            raise OSError("offline")
        if filename != "config.json":
            raise EntryNotFoundError(filename)
        (tmp_path / filename).write_text(json.dumps(FAMILIES["olmoe"][0]))
        return str(tmp_path / filename)

    hub, utils = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.utils")
    hub.hf_hub_download = hf_hub_download  # type: ignore[attr-defined]
    utils.EntryNotFoundError = EntryNotFoundError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", utils)
    model = from_hf_config("allenai/OLMoE")
    assert (model.name, model.total_parameters) == ("OLMoE", 6_919_161_856)
    assert asked == [("allenai/OLMoE", "config.json"), ("allenai/OLMoE", "hf_quant_config.json")]
    with pytest.raises(
        SpecError, match=r"'org/gone': no such file, and its config.json cannot be had from the hub \(offline\)"
    ):
        from_hf_config("org/gone")
