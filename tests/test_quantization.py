"""Storage formats from every spelling of a quantised checkpoint, per weight group and layer, and the bytes they imply."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from nfp_model.errors import SpecError, UnsupportedError
from nfp_model.quantities import element_type
from nfp_model.specs.huggingface import from_hf_config
from nfp_model.specs.model import DenseFFN, ModelSpec, MoEFFN

TINY: dict[str, Any] = {
    "model_type": "deepseek_v3", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 128,
    "max_position_embeddings": 512, "intermediate_size": 96, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "n_shared_experts": 1, "first_k_dense_replace": 1, "torch_dtype": "bfloat16",
}  # fmt: skip
LINEAR = ("attention", "dense_ffn", "experts", "shared_experts")


def every(dtype: str, *groups: str) -> dict[str, str]:
    return dict.fromkeys(groups or LINEAR, dtype)


def nvfp4(**fields: Any) -> dict[str, Any]:
    return {"quant_method": "modelopt", "quant_algo": "NVFP4", **fields}


def tensors(bits: int, kind: str, activation_bits: int | None = None, **fields: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind, **fields}
    activations = {"num_bits": activation_bits, "type": kind} if activation_bits else None
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": weights, "input_activations": activations, "targets": ["Linear"]}},
    }


@pytest.mark.parametrize(
    ("quantization", "dtypes"),
    [
        ({"quant_method": "fp8"}, every("fp8")),
        ({"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3", "scale_fmt": "ue8m0"}, every("fp8_block")),
        ({"quant_method": "fp8", "modules_to_not_convert": ["gate", "lm_head"]}, every("fp8")),
        ({"quant_method": "fbgemm_fp8"}, every("fp8")),
        ({"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}, every("mxfp4", "experts")),
        (
            tensors(4, "int", group_size=128) | {"ignore": ["lm_head", "re:.*self_attn.*", r"re:.*mlp\.(gate|up|down)_proj.*"]},
            every("int4", "experts", "shared_experts"),
        ),
        (tensors(4, "float", group_size=32) | {"format": "mxfp4-pack-quantized"}, every("mxfp4")),
        (tensors(4, "float", group_size=16), every("nvfp4_w4a16")),
        (tensors(4, "float", 4, group_size=16), every("nvfp4")),
        (tensors(8, "float", strategy="channel"), every("fp8")),
        (tensors(8, "float", strategy="block"), every("fp8_block")),
        (tensors(8, "int"), every("int8_w8a16")),
        (tensors(8, "int", 8), every("int8")),
        (nvfp4(), every("nvfp4")),
        (nvfp4(ignore=["model.layers.*.self_attn*", "*.mlp.shared_experts.*"]), every("nvfp4", "dense_ffn", "experts")),
        (nvfp4(exclude_modules=["model.layers.0*", *(f"layers.{i}.self_attn*" for i in range(1, 4))]),
         every("nvfp4", "experts", "shared_experts")),
        ({"quant_algo": "FP8", "kv_cache_scheme": "FP8", "ignore": ["lm_head"]}, every("fp8")),
        (
            {"quant_algo": "MIXED_PRECISION", "quantized_layers": {
                "lm_head": {"quant_algo": "W4A16_NVFP4"},
                **{f"model.layers.{i}.mlp.experts.{e}.w1": {"quant_algo": "NVFP4"} for i in range(4) for e in range(8)},
                **{f"model.layers.{i}.self_attn.o_proj": {"quant_algo": "FP8"} for i in range(4)},
                **{f"model.layers.{i}.self_attn.q_proj": {"quant_algo": "FP8"} for i in range(4)},
            }},
            every("nvfp4", "experts") | every("nvfp4_w4a16", "head") | every("fp8", "attention_output"),
        ),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, every("int4")),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128, "lm_head": True}, every("int8_w8a16", *LINEAR, "head")),
    ],
)  # fmt: skip
def test_spellings(quantization: dict[str, Any], dtypes: dict[str, str]) -> None:
    model = from_hf_config(TINY | {"quantization_config": quantization})
    assert model.dtypes == dtypes
    assert {model.dtype_of(group, layer) for layer in model.layers for group in ("router", "embedding")} == {"bfloat16"}


def test_excluded_layers_stay_in_the_base_type() -> None:
    ignored = ["model.layers.2.self_attn", "layers.3.mlp.experts*"]
    model = from_hf_config(TINY | {"quantization_config": {"quant_method": "fp8", "ignored_layers": ignored}})
    assert model.dtypes == every("fp8")
    assert [(group.count, group.dtypes) for group in model.layers] == [
        (1, {}), (1, {}), (1, {"attention": "bfloat16"}), (1, {"experts": "bfloat16"}),
    ]  # fmt: skip


def test_a_name_is_no_prefix_of_another() -> None:
    """``mlp.gate`` is the router, not ``mlp.gate_proj``; layer 1 is not layer 11."""
    deep = TINY | {"num_hidden_layers": 12}
    names = [f"model.layers.{i}.mlp.gate" for i in range(12)] + ["model.layers.1.self_attn"]
    model = from_hf_config(deep | {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": names}})
    assert model.dtypes == every("fp8")
    assert sum(group.count for group in model.layers if group.dtypes) == 1


def test_a_group_of_several_formats_takes_the_commonest_and_says_so() -> None:
    mixed = nvfp4(ignore=["layers.*.self_attn.k_proj", "layers.*.self_attn.v_proj"])
    llama = {**TINY, "model_type": "qwen3_moe", "num_key_value_heads": 1}
    model = from_hf_config(llama | {"quantization_config": mixed})
    assert model.dtypes["attention"] == "nvfp4"
    # q has 64 x 64 weights, k and v 64 x 16 each; the output projection is a group of its own.
    assert "attention weights have several formats; all are counted as nvfp4, held by 67% (4 layers)" in model.notes


@pytest.mark.parametrize(
    ("ignored", "dtypes"),
    [
        (
            ["*.self_attn.[qkv]*"],
            every("nvfp4", "attention_output", "dense_ffn", "experts", "shared_experts"),
        ),
        (["*.self_attn.o_proj"], every("nvfp4") | {"attention_output": "bfloat16"}),
        ([], every("nvfp4")),
    ],
)
def test_an_output_projection_may_have_a_format_of_its_own(ignored: list[str], dtypes: dict[str, str]) -> None:
    """DeepSeek-V3.1-NVFP4 quantises o_proj alone of its attention; nothing is then averaged away."""
    model = from_hf_config(TINY | {"quantization_config": nvfp4(ignore=ignored)})
    assert model.dtypes == dtypes
    assert model.dtype_of("attention_output") == dtypes.get("attention_output", "nvfp4")
    assert not any("several formats" in note for note in model.notes)


@pytest.mark.parametrize(
    ("quantization", "kv_dtype"),
    [
        (nvfp4(kv_cache_scheme={"num_bits": 8, "type": "float", "dynamic": False}), "fp8"),
        (nvfp4(kv_cache_quant_algo="FP8"), "fp8"),
        (nvfp4(kv_cache_quant_algo="NVFP4"), "nvfp4"),
        (nvfp4(kv_cache_quant_algo=None), None),
        ({"quant_method": "fp8"}, None),
    ],
)
def test_kv_cache(quantization: dict[str, Any], kv_dtype: str | None) -> None:
    assert from_hf_config(TINY | {"quantization_config": quantization}).kv_dtype == kv_dtype


def test_the_file_beside_the_configuration(tmp_path: Path) -> None:
    separate = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    (tmp_path / "org--tiny_config.json").write_text(json.dumps(TINY))
    (tmp_path / "org--tiny_hf_quant_config.json").write_text(json.dumps(separate))
    beside = from_hf_config(tmp_path / "org--tiny_config.json")
    assert (beside.name, beside.dtypes, beside.kv_dtype) == ("tiny", every("nvfp4"), "fp8")
    given = from_hf_config(tmp_path / "org--tiny_config.json", hf_quant_config={"quantization": {"quant_algo": "FP8"}})
    assert (given.dtypes, given.kv_dtype) == (every("fp8"), None)
    # The configuration's own weights count; what it leaves open about the cache is read from the file.
    (tmp_path / "org--tiny_config.json").write_text(json.dumps(TINY | {"quantization_config": {"quant_algo": "FP8"}}))
    own = from_hf_config(tmp_path / "org--tiny_config.json")
    assert (own.dtypes, own.kv_dtype) == (every("fp8"), "fp8")


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            "quant_method 'bitsandbytes' is not known; known: fp8, fbgemm",
        ),
        (nvfp4(quant_algo="MXFP8"), "quant_algo MXFP8 has no storage format here; known: FP8, "),
        (nvfp4(quant_algo="MIXED_PRECISION"), "MIXED_PRECISION without quantized_layers"),
        ({"quant_method": "gptq", "bits": 3}, "3-bit int weights have no storage format here; known: 8 or 4 bits"),
        (nvfp4(kv_cache_quant_algo="INT3"), "KV-cache quantisation INT3 has no storage format here"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors without a config group that quantises weights"),
    ],
)
def test_formats_without_a_size_are_refused(quantization: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        from_hf_config(TINY | {"quantization_config": quantization})


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ("fp8", "the quantisation table is malformed"),
        (nvfp4(ignore=[3]), r"malformed \(module names must be text\)"),
        (tensors(4, "int") | {"ignore": ["re:["]}, r"pattern 're:\[' is no regular expression"),
    ],
)
def test_tables_that_make_no_sense(quantization: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        from_hf_config(TINY | {"quantization_config": quantization})


def test_denser_scales_are_told() -> None:
    model = from_hf_config(TINY | {"quantization_config": tensors(4, "int", group_size=32)})
    assert (model.dtypes, model.notes) == (every("int4_g32"), ())
    model = from_hf_config(TINY | {"quantization_config": tensors(4, "int", group_size=16)})
    assert "int4 in groups of 16 takes 5 bits a weight; the int4 format counts 4.125" in model.notes
    model = from_hf_config(TINY | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": -1}})
    assert "int4 with one scale a channel takes 4 bits a weight; the int4 format counts 4.125" in model.notes


def real(name: str) -> ModelSpec:
    found = importlib.util.find_spec("aiconfigurator_core")
    if found is None or not found.submodule_search_locations:
        pytest.skip("aiconfigurator-core is not installed (pip install 'nfp-model[silicon]')")
    return from_hf_config(Path(found.submodule_search_locations[0]) / "model_configs" / f"{name}_config.json")


def stored_bytes(model: ModelSpec) -> float:
    """Every parameter in its group's format; norms, routers and biases inside parts in the part's."""
    hidden, total = model.hidden_size, 0.0
    total += model.embedding_parameters * element_type(model.dtype_of("embedding")).bytes
    total += model.head_parameters * element_type(model.dtype_of("head")).bytes
    for group in model.layers:
        sizes = {"attention": model.attention[group.attention].parameters(hidden)}
        for name in group.ffn:
            part = model.ffn[name]
            if isinstance(part, DenseFFN):
                sizes["dense_ffn"] = sizes.get("dense_ffn", 0) + part.parameters(hidden)
            elif isinstance(part, MoEFFN):
                matrices = 3 if part.gated else 2
                width = part.expert_hidden_size or hidden
                sizes["experts"] = part.num_experts * matrices * width * part.intermediate_size
                sizes["shared_experts"] = matrices * hidden * part.shared_intermediate_size
                sizes["router"] = part.parameters(hidden) - sizes["experts"] - sizes["shared_experts"]
        total += group.count * sum(size * element_type(model.dtype_of(key, group)).bytes for key, size in sizes.items())
    return total


@pytest.mark.silicon
@pytest.mark.parametrize(
    ("name", "dtypes"),
    [
        ("openai--gpt-oss-120b", every("mxfp4", "experts")),
        ("MiniMaxAI--MiniMax-M2.5", every("fp8_block", "attention", "experts")),
        ("Qwen--Qwen3-235B-A22B-FP8", every("fp8_block", "attention", "experts")),
        ("Qwen--Qwen3-32B-FP8-Static-PerTensor", every("fp8", "attention", "dense_ffn")),
        ("moonshotai--Kimi-K2.5", every("int4_g32", "experts")),
        ("nvidia--Kimi-K2.6-NVFP4", every("nvfp4", "experts")),
        ("nvidia--Kimi-K2.5-NVFP4", every("nvfp4", "experts", "dense_ffn", "shared_experts")),
        ("nvidia--GLM-5-NVFP4", every("nvfp4", "experts", "dense_ffn", "shared_experts")),
        ("nvidia--Gemma-4-26B-A4B-NVFP4", every("nvfp4", "experts")),
        ("nvidia--Gemma-4-31B-IT-NVFP4", every("nvfp4", "dense_ffn")),
        ("nvidia--Qwen3.5-397B-A17B-NVFP4", every("nvfp4", "experts")),
        ("nvidia--Qwen3.6-27B-NVFP4", every("nvfp4_w4a16", "dense_ffn", "head") | every("fp8", "attention")),
        (
            "nvidia--Qwen3.6-35B-A3B-NVFP4",
            every("nvfp4_w4a16", "experts", "shared_experts", "head") | every("fp8", "attention"),
        ),
        (
            "nvidia--DeepSeek-V3.1-NVFP4",
            every("nvfp4", "attention_output", "dense_ffn", "experts", "shared_experts"),
        ),
        ("nvidia--Llama-3.1-70B-Instruct-FP8", every("fp8", "attention", "dense_ffn")),
    ],
)
def test_real_formats(name: str, dtypes: dict[str, str]) -> None:
    model = real(name)
    assert model.dtypes == dtypes
    assert all(not group.dtypes for group in model.layers)
    assert model.kv_dtype == ("fp8" if "NVFP4" in name or name.endswith(("Instruct-FP8", "PerTensor")) else None)


@pytest.mark.silicon
def test_real_layers_that_stay_in_bfloat16() -> None:
    """Nemotron-3-Nano NVFP4 excludes its six attention blocks and the six Mamba blocks before them, by name."""
    nano = real("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4")
    kept = {group.attention: group.count for group in nano.layers if group.dtypes.get("attention") == "bfloat16"}
    assert kept == {"attention": 6, "mamba": 6}
    lightning = real("nvidia--NVIDIA-Nemotron-3.5-Lightning-30B-A3B-NVFP4")
    assert {g.attention: lightning.dtype_of("attention", g) for g in lightning.layers} == {
        "mamba": "fp8",
        "attention": "bfloat16",
    }


@pytest.mark.silicon
@pytest.mark.parametrize(
    ("name", "quantised", "bits"),
    [
        # 36 (24) layers x 128 (32) experts x 3 matrices of 2880 x 2880, in 4 bits and an 8-bit scale per 32 (OCP MX).
        ("openai--gpt-oss-120b", 36 * 128 * 3 * 2880**2, 4.25),
        ("openai--gpt-oss-20b", 24 * 32 * 3 * 2880**2, 4.25),
        # 60 layers x 384 experts x 3 matrices of 7168 x 2048, in 4 bits and an 8-bit scale per 16 (NVFP4).
        ("nvidia--Kimi-K2.6-NVFP4", 60 * 384 * 3 * 7168 * 2048, 4.5),
        # 62 layers x 256 experts x 3 x 3072 x 1536; q, k, v, o with 48 and 8 heads of 128; a float32 scale per 128 x 128.
        ("MiniMaxAI--MiniMax-M2.5", 62 * (256 * 3 * 3072 * 1536 + 2 * 3072 * 128 * (48 + 8)), 8 + 32 / 128**2),
    ],
)
def test_bytes_follow_from_the_format(name: str, quantised: int, bits: float) -> None:
    model = real(name)
    expected = quantised * bits / 8 + (model.total_parameters - quantised) * 2
    # Norms and biases of a quantised part are counted in its format: far below a thousandth.
    assert stored_bytes(model) == pytest.approx(expected, rel=1e-3)


@pytest.mark.silicon
@pytest.mark.parametrize(("name", "gibibytes"), [("openai--gpt-oss-120b", 60.8), ("openai--gpt-oss-20b", 12.8)])
def test_checkpoint_sizes_as_published(name: str, gibibytes: float) -> None:
    """Table 1 of the gpt-oss model card (arXiv 2508.10925), printed to three digits."""
    assert stored_bytes(real(name)) / 2**30 == pytest.approx(gibibytes, abs=0.05)


@pytest.mark.silicon
def test_every_quantised_checkpoint_is_smaller_than_its_base() -> None:
    pairs = {
        "nvidia--DeepSeek-V3.1-NVFP4": "deepseek-ai--DeepSeek-V3", "Qwen--Qwen3-32B-FP8": "Qwen--Qwen3-32B",
        "nvidia--Qwen3-235B-A22B-NVFP4": "Qwen--Qwen3-235B-A22B-FP8", "zai-org--GLM-5-FP8": "zai-org--GLM-5",
        "nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-NVFP4": "nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-FP8",
    }  # fmt: skip
    for small, large in pairs.items():
        assert 0.5 < stored_bytes(real(small)) / stored_bytes(real(large)) < 0.7, small
