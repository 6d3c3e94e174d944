"""Families whose layers differ from one another, from small configurations, and configurations that make no sense."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from nfp_model.errors import NfpModelError, SpecError, UnsupportedError
from nfp_model.specs.huggingface import from_hf_config
from nfp_model.specs.model import LinearAttention, ModelSpec, MoEFFN, SoftmaxAttention

BASE: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 128, "max_position_embeddings": 512, "intermediate_size": 96,
}  # fmt: skip
ROUTED = BASE | {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
LATENT = {
    "kv_lora_rank": 32, "q_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "index_n_heads": 2, "index_head_dim": 16, "index_topk": 64,
}  # fmt: skip
MAMBA = {
    "mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 32, "conv_kernel": 4, "mlp_hidden_act": "relu2",
    "mlp_bias": False, "use_bias": False, "n_shared_experts": 1, "moe_shared_expert_intermediate_size": 48,
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "nemotron_h": ROUTED | MAMBA | {"hybrid_override_pattern": "MEM*E-", "n_routed_experts": 8},
    "nemotron_h_latent": ROUTED | MAMBA | {
        "layers_block_type": ["mamba", "moe", "attention", "moe"], "num_hidden_layers": None, "n_routed_experts": 8,
        "moe_latent_size": 16,
    },
    "nemotron-nas": BASE | {"num_key_value_heads": None, "intermediate_size": None, "block_configs": [
        {"attention": {"no_op": False, "n_heads_in_group": 2}, "ffn": {"no_op": False, "ffn_mult": 6.0}},
        {"attention": {"no_op": True, "n_heads_in_group": None}, "ffn": {"no_op": False, "ffn_mult": 1.0}},
        {"attention": {"no_op": False, "n_heads_in_group": 4}, "ffn": {"no_op": True, "ffn_mult": None}},
    ]},
    "gemma4": {"text_config": BASE | {
        "model_type": "gemma4_text", "layer_types": ["sliding_attention"] * 5 + ["full_attention"], "sliding_window": 32,
        "global_head_dim": 32, "num_global_key_value_heads": 1, "attention_k_eq_v": True, "enable_moe_block": True,
        "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 32, "num_kv_shared_layers": 0,
    }},
    "mimo_v2_flash": ROUTED | {
        "v_head_dim": 8, "sliding_window": 32, "attention_chunk_size": 32, "swa_num_key_value_heads": 4, "swa_v_head_dim": 8,
        "add_swa_attention_sink_bias": True, "hybrid_layer_pattern": [0, 1, 1, 0, 1, 1], "moe_layer_freq": [0, 1, 1, 1, 1, 1],
        "n_routed_experts": 8, "n_shared_experts": None, "routed_scaling_factor": None,
    },
    "glm_moe_dsa": ROUTED | LATENT | {
        "n_routed_experts": 8, "num_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1, "topk_method": "noaux_tc",
        "mlp_layer_types": ["dense"] + ["sparse"] * 5, "indexer_types": ["full", "full", "shared", "shared", "full", "shared"],
    },
    "llama4": {"text_config": BASE | {
        "attention_chunk_size": 64, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 128, "num_local_experts": 8,
        "num_experts_per_tok": 1,
    }},
    "kimi_k25": {"tie_word_embeddings": False, "vision_config": {"depth": 2}, "text_config": ROUTED | LATENT | {
        "model_type": "deepseek_v3", "n_routed_experts": 8, "n_shared_experts": 1,
    }},
    "step3p7": ROUTED | {"num_experts": 8, "share_expert_dim": 32, "first_k_dense_replace": 3, "sliding_window": 8,
                       "layer_types": ["full_attention", "sliding_attention"] * 3},
    "qwen3_5_moe": {"text_config": ROUTED | {
        "full_attention_interval": 3, "num_experts": 8, "shared_expert_intermediate_size": 32, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4,
    }},
    "gpt_oss": BASE | {"num_local_experts": 8, "experts_per_token": 2, "sliding_window": 8, "attention_bias": True},
}  # fmt: skip


def small(name: str, **fields: Any) -> dict[str, Any]:
    config = {"model_type": name.removesuffix("_latent")} | SMALL[name]
    if "text_config" in config:
        return config | {"text_config": config["text_config"] | fields}
    return config | fields


@pytest.mark.parametrize("name", SMALL)
def test_understood_to_the_last_field(name: str) -> None:
    model = from_hf_config(small(name))
    assert not [note for note in model.notes if "not understood" in note]
    assert 0 < model.active_parameters <= model.total_parameters


def test_mamba_hybrid_counts_by_hand() -> None:
    """Every tensor of modeling_nemotron_h for MEM*E-: two Mamba blocks, one attention, two routed blocks, one plain."""
    inner, conv = 8 * 16, 8 * 16 + 2 * 2 * 32
    mamba = 64 * (inner + conv + 8) + conv * (4 + 1) + 3 * 8 + inner + inner * 64
    attention = 64 * 16 * (4 + 2 + 2) + 4 * 16 * 64
    routed = 8 * 64 + 8 + 8 * 2 * 64 * 32 + 2 * 64 * 48
    plain = 2 * 64 * 96
    model = from_hf_config(small("nemotron_h"))
    assert model.total_parameters == 2 * mamba + attention + 2 * routed + plain + 6 * 64 + 64 + 2 * 128 * 64
    # The plain block joins the layer before it: mixers make layers.
    assert [(group.count, group.attention, group.ffn) for group in model.layers] == [
        (1, "mamba", ("moe",)), (1, "mamba", ()), (1, "attention", ("moe", "dense")),
    ]  # fmt: skip


@pytest.mark.parametrize(("stated", "stored"), [(None, "float32"), ("auto", "bfloat16"), ("float16", "float16")])
def test_recurrent_state_format(stated: str | None, stored: str) -> None:
    mamba = from_hf_config(small("nemotron_h", mamba_ssm_cache_dtype=stated)).attention["mamba"]
    assert isinstance(mamba, LinearAttention)
    # One sequence's state: 8 heads x 16 x 32, however the heads are stated.
    assert (mamba.state_dtype, mamba.state_elements) == (stored, 8 * 16 * 32)


def test_experts_in_a_latent_width_keep_their_weights() -> None:
    model = from_hf_config(small("nemotron_h_latent"))
    moe = model.ffn["moe"]
    assert isinstance(moe, MoEFFN)
    assert (moe.expert_hidden_size, moe.intermediate_size) == (16, 32)
    assert moe.expert_parameters(64) == 2 * 16 * 32
    # Beside the same layer with experts of the model's width: the experts shrink, two projections of 64 x 16 come.
    plain = moe.model_copy(update={"expert_hidden_size": None})
    assert plain.parameters(64) - moe.parameters(64) == 8 * 2 * (64 - 16) * 32 - 2 * 64 * 16


def test_blocks_without_attention_or_feed_forward() -> None:
    """Widths are 2/3 x ffn_mult x hidden, rounded up to 256 (modeling_decilm): 256 and 42 -> 256."""
    model = from_hf_config(small("nemotron-nas"))
    assert [(group.attention, group.ffn) for group in model.layers] == [
        ("gqa_2", ("dense_256", "dense_256")),
        ("gqa_1", ()),
    ]
    heads = [64 * 16 * (4 + 2 * kv + 4) for kv in (2, 1)]
    # One norm a part: two attentions, two feed-forwards.
    assert model.total_parameters == sum(heads) + 2 * 3 * 64 * 256 + 4 * 64 + 64 + 2 * 128 * 64


def test_shared_index_layers_have_no_indexer_of_their_own() -> None:
    model = from_hf_config(small("glm_moe_dsa"))
    own, borrowed = (model.attention[key].parameters(64) for key in ("latent", "latent_shared_index"))
    # wq_b from the query rank, wk and the head weights from the hidden size, one LayerNorm (modeling_deepseek_v32).
    assert own - borrowed == 24 * 2 * 16 + 64 * 16 + 64 * 2 + 2 * 16


def test_two_geometries_of_heads() -> None:
    model = from_hf_config(small("gemma4"))
    local, wide = model.attention["sliding"], model.attention["full"]
    assert isinstance(local, SoftmaxAttention)
    assert isinstance(wide, SoftmaxAttention)
    assert [(part.num_kv_heads, part.head_dim, part.window) for part in (local, wide)] == [(2, 16, 32), (1, 32, None)]
    # Keys and values differ after their norms, so both are cached (modeling_gemma4).
    assert wide.cache_elements_per_token == 2 * 32
    assert any("2048 copied parameters" in note for note in model.notes)


@pytest.mark.parametrize(
    ("name", "fields", "error", "message"),
    [
        ("nemotron_h", {"hybrid_override_pattern": "MX"}, UnsupportedError, "block type 'X' is not known; known: mamba, attention, "),
        ("nemotron_h", {"hybrid_override_pattern": "EM", "num_hidden_layers": 2}, UnsupportedError, "first block is a feed-forward"),
        ("nemotron_h", {"hybrid_override_pattern": None}, UnsupportedError, "no hybrid_override_pattern and no layers_block"),
        ("nemotron_h", {"num_hidden_layers": 7}, SpecError, "num_hidden_layers is 7, but 6 blocks are listed"),
        ("nemotron_h", {"mamba_num_heads": 7}, UnsupportedError, r"an odd number of Mamba heads \(7\)"),
        ("nemotron_h", {"mamba_proj_bias": True}, UnsupportedError, "biases on Mamba projections"),
        ("nemotron-nas", {"block_configs": "M"}, SpecError, "block_configs must be a list, got 'M'"),
        ("nemotron-nas", {"block_configs": [{"attention": {"no_op": True}, "ffn": {"ffn_mult": 1}}]}, UnsupportedError,
         "block 0 has no attention and none before it"),
        ("nemotron-nas", {"block_configs": [{"attention": {"replace_with_linear": True}, "ffn": {}}]}, UnsupportedError,
         "block 0 sets replace_with_linear"),
        ("nemotron-nas", {"block_configs": [{"attention": {}, "ffn": {"ffn_mult": 1}}]}, SpecError,
         r"block 0: no heads per KV head \(looked for n_heads_in_group\)"),
        ("nemotron-nas", {"block_configs": [{"attention": {}, "ffn": {"ffn_mult": "2"}}]}, SpecError,
         "block 0: ffn_mult must be a number above 0, got '2'"),
        ("nemotron-nas", {"block_configs": [{"attention": {}}]}, SpecError, "block 0: needs the tables attention and ffn"),
        ("glm_moe_dsa", {"attention_bias": True}, UnsupportedError, "attention_bias on latent attention"),
        ("glm_moe_dsa", {"indexer_types": ["none"] * 6}, UnsupportedError, "indexer_types names 'none'; known: full, shared"),
        (
            "glm_moe_dsa",
            {"indexer_types": [None, 3] * 3},
            UnsupportedError,
            "indexer_types names",
        ),
        ("glm_moe_dsa", {"first_k_dense_replace": 2}, SpecError, "mlp_layer_types and first_k_dense_replace = 2 disagree"),
        ("gemma4", {"hidden_size_per_layer_input": 8}, UnsupportedError, "per-layer input embeddings"),
    ],
)  # fmt: skip
def test_refusals(name: str, fields: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        from_hf_config(small(name, **fields))


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 9), st.floats(allow_nan=True), st.text(max_size=4),
    st.lists(st.one_of(st.integers(-1, 7), st.none(), st.text(max_size=3)), max_size=7),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@given(st.sampled_from(sorted(SMALL)), st.data())
def test_nonsense_is_refused_in_our_own_words(name: str, data: st.DataObject) -> None:
    """One field replaced by anything: a model, or an error that derives from ours; never a bare TypeError."""
    fields = SMALL[name].get("text_config", SMALL[name])
    key = data.draw(
        st.sampled_from([*sorted(fields), "quantization_config", "torch_dtype", "layer_types", "text_config"])
    )
    odd = data.draw(ODD)
    try:
        model = from_hf_config(small(name, **{key: odd}))
    except NfpModelError:
        pass
    else:
        assert isinstance(model, ModelSpec)
