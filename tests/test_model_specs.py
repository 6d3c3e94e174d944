"""Model files against counts, cache sizes, checkpoint sizes and configurations that others published."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from nfp_model.errors import SpecError
from nfp_model.quantities import ELEMENT_TYPES
from nfp_model.specs.base import read_toml
from nfp_model.specs.model import LatentAttention, LinearAttention, ModelSpec, MoEFFN, SoftmaxAttention

FOLDER = Path(__file__).parents[1] / "model_specs"
PATHS = sorted(FOLDER.glob("*.toml"))
SPECS = {path.stem: ModelSpec.from_toml(path) for path in PATHS}
NAMES = sorted(SPECS)

# Exact (total, active) counts, summed from the tensor shapes of each public Hugging Face configuration apart from
# this library: embedding, head if untied, biases, q/k norms, router with its correction bias, shared experts and
# their gate, sinks, all norms; multi-token-prediction layers and vision towers left out. One number: dense.
DERIVED: dict[str, tuple[int, ...]] = {
    "llama_2_7b": (6_738_415_616,),
    "llama_3_1_8b": (8_030_261_248,),
    "llama_3_1_70b": (70_553_706_496,),
    "llama_3_1_405b": (405_853_388_800,),
    "mistral_7b": (7_241_732_096,),
    "mixtral_8x7b": (46_702_792_704, 12_879_925_248),
    "mixtral_8x22b": (140_620_634_112, 39_152_031_744),
    "qwen2_5_7b": (7_615_616_512,),
    "qwen2_5_72b": (72_706_203_648,),
    "qwen3_0_6b": (596_049_920,),
    "qwen3_1_7b": (1_720_574_976,),
    "qwen3_4b": (4_022_468_096,),
    "qwen3_8b": (8_190_735_360,),
    "qwen3_14b": (14_768_307_200,),
    "qwen3_32b": (32_762_123_264,),
    "qwen3_30b_a3b": (30_532_122_624, 3_353_032_704),
    "qwen3_235b_a22b": (235_093_634_560, 22_190_763_520),
    "qwen3_coder_480b_a35b": (480_154_875_392, 35_474_765_312),
    "qwen3_next_80b_a3b": (79_674_391_296, 3_874_929_408),
    "qwen3_5_27b": (26_895_998_464,),
    "qwen3_5_35b_a3b": (34_660_610_688, 3_454_988_928),
    "qwen3_5_122b_a10b": (122_111_526_912, 9_771_288_576),
    "qwen3_5_397b_a17b": (396_346_350_336, 17_349_040_896),
    "deepseek_v2_lite": (15_706_484_224, 2_661_150_208),
    "deepseek_v3": (671_026_419_200, 37_552_297_472),
    "kimi_k2": (1_026_408_232_448, 32_861_500_928),
    "glm_4_5": (352_797_829_024, 33_632_266_144),
    "glm_4_5_air": (106_852_251_264, 13_424_129_664),
    "gpt_oss_20b": (20_914_757_184, 4_187_440_704),
    "gpt_oss_120b": (116_829_156_672, 5_711_982_912),
    "llama_4_scout": (107_769_861_120, 17_172_894_720),
    "llama_4_maverick": (400_711_848_960, 17_184_691_200),
    "olmoe_1b_7b": (6_919_161_856, 1_282_017_280),
    "phi_3_5_moe": (41_873_153_344, 6_640_999_744),
    "gemma_3_1b": (999_885_952,),
    "gemma_3_4b": (3_880_263_168,),
    "gemma_3_12b": (11_766_034_176,),
    "gemma_3_27b": (27_009_346_304,),
    "minimax_m2": (228_689_764_864, 11_030_553_088),
    "llada_8b": (8_015_581_184,),
    "dream_7b": (7_615_616_512,),
    "llada_moe_7b_a1b": (7_356_880_896, 1_719_736_320),
    "llada2_0_mini": (16_255_643_392, 1_432_973_056),
    "llada2_0_flash": (102_889_705_216, 6_152_277_760),
    # SDAR: the Qwen3 counts above, with an untied head added for 4B.
    "sdar_4b": (4_022_468_096 + 151_936 * 2560,),
    "sdar_8b": (8_190_735_360,),
    "sdar_30b_a3b": (30_532_122_624, 3_353_032_704),
}

# Printed to a whole billion only ("3B", "10B"), so half a billion lies inside the print's own rounding.
PRINTED_IN_WHOLE_BILLIONS = {"qwen3_next_80b_a3b", "qwen3_5_35b_a3b", "minimax_m2"}


def data_of(name: str) -> dict[str, Any]:
    return copy.deepcopy(read_toml(FOLDER / f"{name}.toml"))


def normalised(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_").replace(" ", "_")


def cache_bytes_per_token(spec: ModelSpec, element_bytes: float = 2.0) -> float:
    return element_bytes * sum(g.count * spec.attention[g.attention].cache_elements_per_token for g in spec.layers)


def layers_with(spec: ModelSpec, **groups: str) -> int:
    """Layers whose attention or ffn part has this name."""
    attention, ffn = groups.get("attention"), groups.get("ffn")
    return sum(g.count for g in spec.layers if attention in (None, g.attention) and (ffn is None or ffn in g.ffn))


def test_every_file_is_in_the_table_and_the_reverse() -> None:
    assert set(NAMES) == set(DERIVED)
    assert len(NAMES) == 47


@pytest.mark.parametrize("name", NAMES)
def test_counts_equal_the_derived_table(name: str) -> None:
    spec, expected = SPECS[name], DERIVED[name]
    assert spec.total_parameters == spec.derived_total == expected[0]
    assert spec.active_parameters == spec.derived_active == expected[-1]
    assert spec.is_moe == (len(expected) == 2)


@pytest.mark.parametrize("name", NAMES)
def test_file_names_itself_its_source_and_licence(name: str) -> None:
    spec = SPECS[name]
    assert spec.name == name == normalised(spec.name)
    assert spec.source
    assert spec.licence
    assert spec.published is not None
    assert spec.published.source
    assert spec.kv_dtype is None


def test_names_and_aliases_are_lower_case_and_unique() -> None:
    spellings = [normalised(s) for spec in SPECS.values() for s in (spec.name, *spec.aliases)]
    assert len(spellings) == len(set(spellings))
    assert all(alias == alias.lower() for spec in SPECS.values() for alias in spec.aliases)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("mixtral", "mixtral_8x7b"),
        ("deepseek-r1", "deepseek_v3"),
        ("llada2.0-mini", "llada2_0_mini"),
        ("qwen3-30b-a3b", "qwen3_30b_a3b"),
    ],
)
def test_common_spellings_find_their_model(alias: str, name: str) -> None:
    assert normalised(alias) in {normalised(s) for s in (name, *SPECS[name].aliases)}


@pytest.mark.parametrize("name", NAMES)
def test_total_within_3_percent_of_published(name: str) -> None:
    published = SPECS[name].published
    assert published is not None
    assert published.total == pytest.approx(SPECS[name].total_parameters, rel=0.03)


@pytest.mark.parametrize("name", [n for n in NAMES if SPECS[n].is_moe])
def test_active_within_3_percent_of_published(name: str) -> None:
    """In the vendor's own convention; every MoE vendor prints an active count."""
    spec = SPECS[name]
    published = spec.published
    assert published is not None
    assert published.active is not None
    counted = spec.active_parameters
    counted -= spec.embedding_parameters if published.active_excludes_embedding else 0
    counted -= spec.head_parameters if published.active_excludes_head else 0
    slack = 0.5e9 if name in PRINTED_IN_WHOLE_BILLIONS else 0.03 * published.active
    assert counted == pytest.approx(published.active, abs=slack)


def test_gpt_oss_active_count_needs_the_embedding_left_out() -> None:
    """OpenAI's model card (arXiv 2508.10925, table 1) prints 3.61B and 5.13B: head counted, embedding not."""
    for name, printed in (("gpt_oss_20b", 3.61), ("gpt_oss_120b", 5.13)):
        spec = SPECS[name]
        assert round((spec.active_parameters - spec.embedding_parameters) / 1e9, 2) == printed
        assert round(spec.active_parameters / 1e9, 2) != printed


@pytest.mark.parametrize(("name", "gibibytes"), [("gpt_oss_20b", 12.8), ("gpt_oss_120b", 60.8)])
def test_gpt_oss_checkpoint_size(name: str, gibibytes: float) -> None:
    """Checkpoint sizes of the same table hold only if the expert matrices, and nothing else, are mxfp4."""
    spec = SPECS[name]
    moe = spec.ffn["moe"]
    assert isinstance(moe, MoEFFN)
    matrices = spec.num_layers * moe.num_experts * 3 * spec.hidden_size * moe.intermediate_size
    experts = matrices * ELEMENT_TYPES[spec.dtype_of("experts")].bytes
    rest = (spec.total_parameters - matrices) * ELEMENT_TYPES[spec.dtype_of("attention")].bytes
    assert (experts + rest) / 2**30 == pytest.approx(gibibytes, abs=0.05)


@pytest.mark.parametrize(
    ("name", "kilobytes"), [("deepseek_v3", 70.272), ("qwen2_5_72b", 327.680), ("llama_3_1_405b", 516.096)]
)
def test_cache_per_token_as_published(name: str, kilobytes: float) -> None:
    """arXiv 2505.09343, table 1 (bfloat16). Counting query heads gives 8 to 16 times as much: LLM-Viewer issue 12."""
    assert cache_bytes_per_token(SPECS[name]) == kilobytes * 1000


@pytest.mark.parametrize("name", NAMES)
def test_cache_of_a_layer_uses_kv_heads(name: str) -> None:
    for part in SPECS[name].attention.values():
        if isinstance(part, SoftmaxAttention):
            assert part.num_query_heads % part.num_kv_heads == 0
            assert part.cache_elements_per_token == 2 * part.num_kv_heads * part.head_dim
        elif isinstance(part, LinearAttention):
            assert part.cache_elements_per_token == 0
            assert part.value_heads % part.key_heads == 0


@pytest.mark.parametrize("name", ["deepseek_v2_lite", "deepseek_v3", "kimi_k2"])
def test_mla_caches_576_elements(name: str) -> None:
    part = SPECS[name].attention["latent"]
    assert isinstance(part, LatentAttention)
    assert part.cache_elements_per_token == 576
    assert part.group_size == part.num_query_heads


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("gpt_oss_20b", {"sliding": 12, "full": 12}),
        ("gpt_oss_120b", {"sliding": 18, "full": 18}),
        ("gemma_3_1b", {"sliding": 22, "full": 4}),
        ("gemma_3_4b", {"sliding": 29, "full": 5}),
        ("gemma_3_12b", {"sliding": 40, "full": 8}),
        ("gemma_3_27b", {"sliding": 52, "full": 10}),
        ("llama_4_scout", {"chunked": 36, "full": 12}),
        ("llama_4_maverick", {"chunked": 36, "full": 12}),
        ("qwen3_next_80b_a3b", {"linear": 36, "full": 12}),
        ("mistral_7b", {"sliding": 32}),
    ],
)
def test_attention_pattern(name: str, attention: dict[str, int]) -> None:
    assert {kind: layers_with(SPECS[name], attention=kind) for kind in SPECS[name].attention} == attention


@pytest.mark.parametrize(
    ("name", "dense"),
    [
        ("deepseek_v2_lite", 1),
        ("deepseek_v3", 3),
        ("kimi_k2", 1),
        ("glm_4_5", 3),
        ("glm_4_5_air", 1),
        ("llada2_0_mini", 1),
        ("llada2_0_flash", 1),
        ("llama_4_maverick", 24),
    ],
)
def test_dense_layers_before_or_between_moe_layers(name: str, dense: int) -> None:
    spec = SPECS[name]
    assert (layers_with(spec, ffn="dense"), layers_with(spec, ffn="moe")) == (dense, spec.num_layers - dense)


@pytest.mark.parametrize("name", NAMES)
def test_every_named_part_is_used_by_a_layer(name: str) -> None:
    spec = SPECS[name]
    assert {g.attention for g in spec.layers} == set(spec.attention)
    assert {part for g in spec.layers for part in g.ffn} == set(spec.ffn)


def test_diffusion_models_and_their_blocks() -> None:
    found = {n: (s.diffusion.block_size, s.diffusion.cached) for n, s in SPECS.items() if s.diffusion is not None}
    canvas = dict.fromkeys(("llada_8b", "dream_7b", "llada_moe_7b_a1b"), (None, False))
    blocks = dict.fromkeys(("llada2_0_mini", "llada2_0_flash"), (32, True))
    sdar = dict.fromkeys(("sdar_4b", "sdar_8b", "sdar_30b_a3b"), (4, True))
    assert found == canvas | blocks | sdar


@pytest.mark.parametrize("name", ["deepseek_v3", "kimi_k2", "minimax_m2"])
def test_block_fp8_models_keep_router_head_and_embedding(name: str) -> None:
    spec = SPECS[name]
    assert {spec.dtype_of(group) for group in ("attention", "experts")} == {"fp8_block"}
    assert {spec.dtype_of(group) for group in ("router", "head", "embedding")} == {"bfloat16"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("num_layer",), 32, r"m\.toml: unknown key 'num_layer'; did you mean 'num_layers'\?"),
        (("attention", "full", "num_kv_head"), 8, r"'attention\.full\..*num_kv_head'; did you mean 'num_kv_heads'\?"),
        (("attention", "full", "num_kv_heads"), 7, r"num_query_heads 32 is not a multiple of num_kv_heads 7"),
        (("ffn", "moe", "top_k"), 9, r"top_k 9 exceeds num_experts 8"),
        (("num_layers",), 31, r"layer groups add up to 32 layers, num_layers is 31"),
        (("vocab_size",), 32_001, r"derived_total is 46,702,792,704, but the fields add up to 46,702,800,896"),
        (("derived_active",), 12_879_925_249, r"12,879,925,249, but the fields add up to 12,879,925,248"),
        (("dtype",), "bf17", r"unknown data type 'bf17'; allowed: float32, float16, bfloat16"),
        (("kv_dtype",), "fp7", r"unknown data type 'fp7'; allowed: "),
        (("dtypes",), {"experts": "fp5"}, r"unknown data type 'fp5'; allowed: "),
        (("dtypes",), {"expert": "fp8"}, r"unknown weight group 'expert'; allowed: attention, dense_ffn, experts"),
        (("published", "active"), -1.0, r"key 'published\.active': Input should be greater than 0 \(got -1\.0\)"),
        (("hidden_size",), "4096", r"key 'hidden_size': Input should be a valid integer \(got '4096'\)"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_in_one_line(path: tuple[str, ...], value: object, message: str) -> None:
    data = data_of("mixtral_8x7b")
    table = data
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    with pytest.raises(SpecError, match=message) as caught:
        ModelSpec.from_mapping(data, "m.toml")
    assert "\n" not in str(caught.value)


def test_a_layer_group_names_parts_that_exist() -> None:
    data = data_of("mixtral_8x7b")
    data["layers"][0]["ffn"] = ["dense"]
    with pytest.raises(SpecError, match="layers name ffn 'dense'; known: moe"):
        ModelSpec.from_mapping(data)


@given(st.sampled_from(NAMES), st.integers(1, 4))
def test_repeating_the_layers_adds_the_same_weights_each_time(name: str, times: int) -> None:
    """Count = fixed part (embedding, head, last norm) + layers: linear in the number of times the stack is repeated."""
    spec = SPECS[name]
    free = {"derived_total": None, "derived_active": None}

    def repeated(n: int) -> ModelSpec:
        groups = tuple(g.model_copy(update={"count": g.count * n}) for g in spec.layers)
        return spec.model_copy(update={"layers": groups, "num_layers": spec.num_layers * n, **free})

    one, two, many = (repeated(n).total_parameters for n in (1, 2, times))
    assert many - one == (times - 1) * (two - one)


@given(st.sampled_from([n for n in NAMES if SPECS[n].is_moe]), st.data())
def test_active_grows_with_top_k_up_to_the_total(name: str, data: st.DataObject) -> None:
    spec = SPECS[name]
    moe = spec.ffn["moe"]
    assert isinstance(moe, MoEFFN)
    k = data.draw(st.integers(1, moe.num_experts))

    def active(top_k: int) -> int:
        return spec.model_copy(
            update={"ffn": {**spec.ffn, "moe": moe.model_copy(update={"top_k": top_k})}}
        ).active_parameters

    layers = layers_with(spec, ffn="moe")
    assert spec.total_parameters - active(k) == (moe.num_experts - k) * layers * moe.expert_parameters(spec.hidden_size)
