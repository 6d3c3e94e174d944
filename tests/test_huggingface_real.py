"""Every real Hugging Face configuration the aiconfigurator-core package installs: imported, or refused by name.

Totals and active counts are sums of tensor shapes of the configurations, typed in, not computed here; beside them the
vendor's rounded figures.
"""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from nfp_model.errors import UnsupportedError
from nfp_model.specs.huggingface import from_hf_config
from nfp_model.specs.model import LatentAttention, LinearAttention, ModelSpec, MoEFFN, SoftmaxAttention
from nfp_model.specs.toml_text import model_to_toml

pytestmark = pytest.mark.silicon

REAL: dict[str, tuple[int, int]] = {
    "meta-llama--Meta-Llama-3.1-8B": (8_030_261_248, 8_030_261_248),
    "meta-llama--Meta-Llama-3.1-70B": (70_553_706_496, 70_553_706_496),
    "meta-llama--Meta-Llama-3.1-405B": (405_853_388_800, 405_853_388_800),
    "mistralai--Mixtral-8x7B-v0.1": (46_702_792_704, 12_879_925_248),  # model card 46.7B / 12.9B
    "mistralai--Mixtral-8x22B-v0.1": (140_620_634_112, 39_152_031_744),  # 141B / 39B
    "Qwen--Qwen3-0.6B": (596_049_920, 596_049_920),
    "Qwen--Qwen3-1.7B": (1_720_574_976, 1_720_574_976),
    "Qwen--Qwen3-8B": (8_190_735_360, 8_190_735_360),
    "Qwen--Qwen3-32B": (32_762_123_264, 32_762_123_264),
    "Qwen--Qwen3-30B-A3B": (30_532_122_624, 3_353_032_704),  # 30.5B / 3.3B
    "Qwen--Qwen3-235B-A22B": (235_093_634_560, 22_190_763_520),  # 235B / 22B
    "Qwen--Qwen3-Coder-480B-A35B-Instruct": (480_154_875_392, 35_474_765_312),  # 480B / 35B
    "Qwen--Qwen3.5-27B": (26_895_998_464, 26_895_998_464),
    "Qwen--Qwen3.5-35B-A3B": (34_660_610_688, 3_454_988_928),
    "Qwen--Qwen3.5-122B-A10B": (122_111_526_912, 9_771_288_576),
    "Qwen--Qwen3.5-397B-A17B": (396_346_350_336, 17_349_040_896),
    "deepseek-ai--DeepSeek-V3": (671_026_419_200, 37_552_297_472),  # 671B / 37B
    "deepseek-ai--DeepSeek-R1": (671_026_419_200, 37_552_297_472),
    "moonshotai--Kimi-K2-Instruct": (1_026_408_232_448, 32_861_500_928),  # 1T / 32B
    "openai--gpt-oss-20b": (20_914_757_184, 4_187_440_704),  # 20.9B / 3.6B without the input embedding
    "openai--gpt-oss-120b": (116_829_156_672, 5_711_982_912),  # 116.8B / 5.1B without the input embedding
    "meta-llama--Llama-4-Scout-17B-16E-Instruct": (107_769_861_120, 17_172_894_720),
    "meta-llama--Llama-4-Maverick-17B-128E-Instruct": (400_711_848_960, 17_184_691_200),
    "MiniMaxAI--MiniMax-M2.5": (228_689_764_864, 11_030_553_088),  # 230B / 10B
    "MiniMaxAI--MiniMax-M2.7": (228_689_764_864, 11_030_553_088),
}

DEEPSEEK_V4 = "compressed KV cache .* hyper-connections .* grouped low-rank output projection .* hash-routed layers"
REFUSED = {
    "deepseek-ai--DeepSeek-V4-Flash": DEEPSEEK_V4,
    "deepseek-ai--DeepSeek-V4-Pro": DEEPSEEK_V4,
    "nvidia--DeepSeek-V4-Flash-NVFP4": DEEPSEEK_V4,
    "nvidia--DeepSeek-V4-Pro-NVFP4": DEEPSEEK_V4,
    "sgl-project--DeepSeek-V4-Flash-FP8": DEEPSEEK_V4,
    "sgl-project--DeepSeek-V4-Pro-FP8": DEEPSEEK_V4,
    "MiniMaxAI--MiniMax-M3": "block-sparse attention chosen by an index branch",
    "nvidia--MiniMax-M3-NVFP4": "block-sparse attention chosen by an index branch",
    "moonshotai--Kimi-K3": "Kimi delta attention .* output gate on latent attention .* attention over the residuals",
}


def real_files() -> dict[str, Path]:
    """Installed configuration files by model name."""
    found = importlib.util.find_spec("aiconfigurator_core")
    if found is None or not found.submodule_search_locations:
        pytest.skip("aiconfigurator-core is not installed (pip install 'nfp-model[silicon]')")
    folder = Path(found.submodule_search_locations[0]) / "model_configs"
    files = {path.name.removesuffix("_config.json"): path for path in sorted(folder.glob("*_config.json"))}
    return {name: path for name, path in files.items() if not name.endswith("_hf_quant")}


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


def test_real_configurations_import_or_are_refused_for_a_stated_reason() -> None:
    files = real_files()
    imported: dict[str, ModelSpec] = {}
    for name, path in files.items():
        if name in REFUSED:
            with pytest.raises(UnsupportedError, match=REFUSED[name]):
                from_hf_config(path)
        else:
            imported[name] = from_hf_config(path)
    assert len(imported) >= 0.85 * len(files)
    assert REFUSED.keys() <= files.keys()
    assert {name for name, model in imported.items() if any("not understood" in note for note in model.notes)} == set()
    wrong = {name: (imported[name].total_parameters, imported[name].active_parameters) for name in REAL}
    assert wrong == REAL
    for name, model in imported.items():
        checked = {"derived_total": model.total_parameters, "derived_active": model.active_parameters}
        assert ModelSpec.from_mapping(tomllib.loads(model_to_toml(model))) == model.model_copy(update=checked), name
        # The size a vendor puts into the name, within 10 % (MiMo-7B is 7.6B; Qwen3-VL-2B counts its vision tower).
        named = re.search(r"-(\d+(?:\.\d+)?)B(?!-\d+E)", name)
        if named and name != "Qwen--Qwen3-VL-2B-Instruct":
            assert model.total_parameters == pytest.approx(float(named[1]) * 1e9, rel=0.10), name


def test_irregular_real_architectures() -> None:
    files = real_files()
    nano = from_hf_config(files["nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"])
    assert counts(nano) == {"mamba": 23, "attention": 6}
    mamba = nano.attention["mamba"]
    assert isinstance(mamba, LinearAttention)
    # in_proj of 2 x 4096 + 2 x 8 x 128 + 64 columns, out_proj of 4096 rows, 64 x 64 x 128 state (modeling_nemotron_h).
    columns = mamba.convolved_width + mamba.value_heads * mamba.value_head_dim + 2 * mamba.value_heads
    assert (columns, mamba.state_elements) == (2 * 4096 + 2 * 8 * 128 + 64, 64 * 64 * 128)
    assert (moe(nano).gated, moe(nano).shared_intermediate_size) == (False, 3712)

    ultra = from_hf_config(files["nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16"])
    # Two matrices of 5120 by the latent 2048; the name says 55B active.
    assert moe(ultra).expert_parameters(8192) == 2 * 5120 * 2048
    assert ultra.active_parameters == pytest.approx(55e9, rel=0.03)

    pruned = from_hf_config(files["nvidia--Llama-3_3-Nemotron-Super-49B-v1"])
    assert counts(pruned) == {"gqa_8": 49}
    assert sum(group.count * len(group.ffn) for group in pruned.layers) == 80

    glm = from_hf_config(files["zai-org--GLM-5.2"])
    shared = glm.attention["latent_shared_index"]
    assert isinstance(shared, LatentAttention)
    assert counts(glm) == {"latent": 21, "latent_shared_index": 57}
    assert (shared.index_heads, shared.index_top_k) == (None, 2048)

    mimo = from_hf_config(files["XiaomiMiMo--MiMo-V2-Flash"])
    window, full = softmax(mimo, "sliding"), softmax(mimo, "full")
    assert (window.window, window.num_kv_heads, window.values_dim, window.sinks) == (128, 8, 128, True)
    assert (full.window, full.num_kv_heads, full.head_dim, full.sinks) == (None, 4, 192, False)
    assert counts(mimo) == {"full": 9, "sliding": 39}

    gemma = from_hf_config(files["google--gemma-4-26B-A4B"])
    assert {group.ffn for group in gemma.layers} == {("dense", "moe")}
    local, wide = softmax(gemma, "sliding"), softmax(gemma, "full")
    assert [(part.num_kv_heads, part.head_dim) for part in (local, wide)] == [(8, 256), (2, 512)]

    scout = from_hf_config(files["meta-llama--Llama-4-Scout-17B-16E-Instruct"])
    maverick = from_hf_config(files["meta-llama--Llama-4-Maverick-17B-128E-Instruct"])
    assert counts(scout) == {"chunked": 36, "full": 12}
    assert sum(group.count for group in maverick.layers if group.ffn == ("moe",)) == 24
