"""What a Hugging Face ``model_type`` implies beyond the fields of its configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from nfp_model.errors import SpecError, UnsupportedError
from nfp_model.quantities import canonical_dtype
from nfp_model.specs.hf_reader import ConfigReader
from nfp_model.specs.model import AttentionKind, Diffusion, LatentAttention, LinearAttention, SoftmaxAttention


@dataclass(frozen=True)
class Family:
    """Facts the modelling code of a family fixes and its configuration does not repeat.

    Attributes
    ----------
    qkv_bias, output_bias, sinks, output_gate : bool
        Defaults where no field says so. ``output_bias``: the family's ``attention_bias`` covers the output projection.
    qk_norm : {"none", "head", "full"}
        Norm on queries and keys; ``qk_norm_default`` where ``use_qk_norm`` is absent.
    expert_width_is_intermediate : bool
        ``intermediate_size`` is the width of one expert.
    shared_gate, expert_bias, router_bias : bool
        As in :class:`~nfp_model.specs.model.MoEFFN`.
    ffn, experts, shared, router : str
        Module paths below a layer.
    norms, norm_bias, tied, windowed : int, bool, bool, bool
        Norms per layer; LayerNorm; default of ``tie_word_embeddings``; whether ``sliding_window`` is in force.
    full_every : int
        Windows alternate with one full layer in so many where no field says how; 0 for windows everywhere.
    defaults : tuple of (str, int)
        Fields the family's files leave to its configuration class.
    diffusion : Diffusion or None
        Denoising of the family, its block the default.
    """

    qkv_bias: bool = False
    output_bias: bool = True
    sinks: bool = False
    output_gate: bool = False
    qk_norm: Literal["none", "head", "full"] = "none"
    qk_norm_default: bool = True
    expert_width_is_intermediate: bool = False
    shared_gate: bool = False
    expert_bias: bool = False
    router_bias: bool = False
    ffn: str = "mlp"
    experts: str = "mlp.experts"
    shared: str = "mlp.shared_experts"
    router: str = "mlp.gate"
    norms: int = 2
    norm_bias: bool = False
    tied: bool = False
    windowed: bool = True
    full_every: int = 0
    defaults: tuple[tuple[str, int], ...] = ()
    diffusion: Diffusion | None = None


_LLAMA = Family()
_QWEN2 = Family(qkv_bias=True, output_bias=False)
_QWEN3 = Family(qk_norm="head")
_QWEN_NEXT = Family(qk_norm="head", output_gate=True, shared_gate=True, shared="mlp.shared_expert")
_MIXTRAL = Family(
    expert_width_is_intermediate=True,
    ffn="block_sparse_moe",
    experts="block_sparse_moe.experts",
    router="block_sparse_moe.gate",
)
_GPT_OSS = Family(
    qkv_bias=True, sinks=True, expert_width_is_intermediate=True, expert_bias=True, router_bias=True,
    router="mlp.router", full_every=2,
)  # fmt: skip
_LLAMA4 = Family(
    expert_width_is_intermediate=True, ffn="feed_forward", experts="feed_forward.experts",
    shared="feed_forward.shared_expert", router="feed_forward.router",
)  # fmt: skip
_LING = Family(output_bias=False, qk_norm="head", router_bias=True, windowed=False)
_GEMMA3 = Family(
    qk_norm="head", norms=4, tied=True, full_every=6,
    defaults=(("num_attention_heads", 8), ("num_key_value_heads", 4), ("head_dim", 256), ("vocab_size", 262208),
              ("max_position_embeddings", 131072)),
)  # fmt: skip
_GEMMA4 = Family(qk_norm="head", norms=4, tied=True, experts="experts", router="router")
_FULL_CANVAS = Diffusion(block_size=None, cached=False)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA, "mistral": _LLAMA, "qwen2": _QWEN2, "mimo": _QWEN2,
    "Dream": replace(_QWEN2, diffusion=_FULL_CANVAS),
    "qwen2_moe": replace(_QWEN2, shared_gate=True, shared="mlp.shared_expert"),
    "qwen3": _QWEN3, "qwen3_moe": _QWEN3, "qwen3_vl": _QWEN3, "qwen3_vl_text": _QWEN3, "qwen3_vl_moe": _QWEN3,
    "qwen3_vl_moe_text": _QWEN3, "qwen3_next": _QWEN_NEXT, "qwen3_5": _QWEN_NEXT, "qwen3_5_text": _QWEN_NEXT,
    "qwen3_5_moe": _QWEN_NEXT, "qwen3_5_moe_text": _QWEN_NEXT,
    "sdar": replace(_QWEN3, diffusion=Diffusion(block_size=4)),
    "sdar_moe": replace(_QWEN3, diffusion=Diffusion(block_size=4)),
    "mixtral": _MIXTRAL, "phimoe": replace(_MIXTRAL, norm_bias=True),
    "minimax_m2": replace(_MIXTRAL, qk_norm="full", router_bias=True),
    "gpt_oss": _GPT_OSS, "llama4": _LLAMA4, "llama4_text": _LLAMA4,
    "olmoe": Family(qk_norm="full", expert_width_is_intermediate=True),
    "deepseek_v2": _LLAMA, "deepseek_v3": _LLAMA, "deepseek_v32": _LLAMA, "kimi_k2": _LLAMA,
    "kimi_k25": _LLAMA, "glm_moe_dsa": _LLAMA,
    "glm4_moe": Family(output_bias=False, qk_norm="head", qk_norm_default=False, router_bias=True),
    "bailing_moe": _LING, "bailing_moe_v2": _LING, "llada2_moe": replace(_LING, diffusion=Diffusion(block_size=32)),
    "llada": replace(_LLAMA, diffusion=_FULL_CANVAS),
    "llada_moe": Family(qk_norm="head", diffusion=_FULL_CANVAS),
    "gemma3": _GEMMA3, "gemma3_text": _GEMMA3,
    "gemma4": _GEMMA4, "gemma4_text": _GEMMA4,
    "mimo_v2_flash": Family(router_bias=True), "step3p7": Family(router_bias=True, shared="share_expert"),
    "nemotron_h": Family(
        router_bias=True, ffn="mixer", experts="mixer.experts", shared="mixer.shared_experts", router="mixer.gate"
    ),
    "nemotron-nas": _LLAMA,
}  # fmt: skip
"""Every ``model_type`` that can be read, and what it implies (public modelling code of transformers and vLLM)."""

_KINDS = {f"{kind}_attention": kind for kind in ("full", "sliding", "chunked", "linear")}


def num_heads(cfg: ConfigReader) -> int:
    """Query heads."""
    return cfg.need("number of attention heads", "num_attention_heads", "n_heads")


def softmax_attention(cfg: ConfigReader, family: Family, hidden: int) -> SoftmaxAttention:
    """The family's full-attention layer."""
    heads = num_heads(cfg)
    kv_heads = (
        1 if cfg.get("multi_query_attention") else cfg.integer("num_key_value_heads", "n_kv_heads", default=heads)
    )
    head_dim = cfg.integer("head_dim", "attention_head_dim")
    if head_dim is None and hidden % heads:
        raise SpecError(f"{cfg.origin}: no head_dim, and hidden size {hidden} is no multiple of {heads} heads")
    bias = cfg.flag("attention_bias", "qkv_bias", "use_qkv_bias", "include_qkv_bias", default=family.qkv_bias)
    everywhere = cfg.flag("use_bias", "include_bias", default=False)
    kind = {"per_layer": "full", "per_head": "head"}.get(str(cfg.get("qk_norm_type")), family.qk_norm)
    normed = cfg.flag("use_qk_norm", "qk_layernorm", "attention_layer_norm", default=family.qk_norm_default)
    return SoftmaxAttention.from_mapping(
        {
            "num_query_heads": heads,
            "num_kv_heads": kv_heads,
            "head_dim": head_dim or hidden // heads,
            "value_head_dim": cfg.integer("v_head_dim"),
            "qkv_bias": bias or everywhere,
            "output_bias": everywhere or (bias and family.output_bias),
            "output_gate": cfg.flag("attn_output_gate", "attention_output_gate", default=family.output_gate),
            "sinks": family.sinks,
            "qk_norm": kind if normed else "none",
        },
        cfg.origin,
    )


def latent_attention(cfg: ConfigReader) -> LatentAttention:
    """Multi-head latent attention, with its indexer where one is configured."""
    for name in ("num_key_value_heads", "head_dim", "qk_head_dim"):
        cfg.get(name)  # Equal to the head count, or another meaning altogether, in every MLA configuration.
    if cfg.flag("attention_bias"):
        raise UnsupportedError(f"{cfg.origin}: attention_bias on latent attention has no field in a model spec")
    return LatentAttention.from_mapping(
        {
            "num_query_heads": num_heads(cfg),
            "query_rank": cfg.integer("q_lora_rank"),
            "latent_rank": cfg.need("latent rank", "kv_lora_rank"),
            "nope_head_dim": cfg.need("head width without rotary", "qk_nope_head_dim"),
            "rope_head_dim": cfg.need("rotary head width", "qk_rope_head_dim"),
            "value_head_dim": cfg.need("value head width", "v_head_dim"),
            "index_heads": cfg.integer("index_n_heads"),
            "index_head_dim": cfg.integer("index_head_dim"),
            "index_top_k": cfg.integer("index_topk"),
        },
        cfg.origin,
    )


def state_dtype(cfg: ConfigReader) -> str:
    """Storage of a recurrent state: as stated, the model's own for ``auto``, else 32 bits."""
    stated = str(cfg.get("mamba_ssm_dtype", "mamba_ssm_cache_dtype", default="float32"))
    return canonical_dtype(str(cfg.get("dtype", "torch_dtype", default="bfloat16")) if stated == "auto" else stated)


def linear_attention(cfg: ConfigReader) -> LinearAttention:
    """Gated DeltaNet of Qwen3-Next and Qwen3.5."""
    return LinearAttention(
        key_heads=cfg.need("linear-attention key heads", "linear_num_key_heads"),
        value_heads=cfg.need("linear-attention value heads", "linear_num_value_heads"),
        key_head_dim=cfg.need("linear-attention key width", "linear_key_head_dim"),
        value_head_dim=cfg.need("linear-attention value width", "linear_value_head_dim"),
        conv_kernel=cfg.need("convolution taps", "linear_conv_kernel_dim"),
        state_dtype=state_dtype(cfg),
    )


def attention_table(
    cfg: ConfigReader, family: Family, hidden: int, layers: int
) -> tuple[dict[str, AttentionKind], list[str]]:
    """Attention kinds of a regular family, and the kind of each layer.

    Raises
    ------
    UnsupportedError
        For a layer type that is none of full, sliding, chunked and linear.
    """
    if cfg.integer("kv_lora_rank"):
        return _latent_table(cfg, layers)
    full = softmax_attention(cfg, family, hidden)
    stated = cfg.integer("sliding_window", "sliding_window_size")
    limit = cfg.integer("max_position_embeddings") or float("inf")
    in_force = cfg.flag("use_sliding_window", default=True) and family.windowed
    window = stated if stated and in_force and stated < limit else None
    chunk = cfg.integer("attention_chunk_size") or None
    kinds = _layer_kinds(cfg, family, layers, window, None if window else chunk)
    if stated and not window:
        kinds = ["full" if kind == "sliding" else kind for kind in kinds]
    table: dict[str, AttentionKind] = {}
    for kind in dict.fromkeys(kinds):
        if kind == "sliding" and window is None:
            raise SpecError(f"{cfg.origin}: layer_types name sliding attention, but there is no sliding_window")
        match kind:
            case "sliding":
                table[kind] = _sliding(cfg, full, window)
            case "chunked":
                table[kind] = full.model_copy(update={"chunk": chunk})
            case "linear":
                table[kind] = linear_attention(cfg)
            case _:
                table[kind] = _global(cfg, full)
    return table, kinds


def _sliding(cfg: ConfigReader, full: SoftmaxAttention, window: int | None) -> SoftmaxAttention:
    """A windowed layer; MiMo-V2 gives it heads of its own."""
    own = {
        "window": window,
        "num_query_heads": cfg.integer("swa_num_attention_heads", default=full.num_query_heads),
        "num_kv_heads": cfg.integer("swa_num_key_value_heads", default=full.num_kv_heads),
        "head_dim": cfg.integer("swa_head_dim", default=full.head_dim),
        "value_head_dim": cfg.integer("swa_v_head_dim", default=full.value_head_dim),
        "sinks": cfg.flag("add_swa_attention_sink_bias", default=full.sinks),
    }
    return SoftmaxAttention.from_mapping(full.model_dump() | own, cfg.origin)


def _global(cfg: ConfigReader, full: SoftmaxAttention) -> SoftmaxAttention:
    """A full layer; Gemma-4 gives it heads of its own."""
    own: dict[str, object] = {
        "sinks": cfg.flag("add_full_attention_sink_bias", default=full.sinks),
        "head_dim": cfg.integer("global_head_dim") or full.head_dim,
    }
    if cfg.flag("attention_k_eq_v"):
        own["num_kv_heads"] = cfg.integer("num_global_key_value_heads") or full.num_kv_heads
    return SoftmaxAttention.from_mapping(full.model_dump() | own, cfg.origin)


def _latent_table(cfg: ConfigReader, layers: int) -> tuple[dict[str, AttentionKind], list[str]]:
    latent = latent_attention(cfg)
    cfg.get("layer_types")
    types = cfg.per_layer("indexer_types", layers) or ["full"] * layers
    unknown = set(types) - {"full", "shared"}
    if unknown:
        raise UnsupportedError(
            f"{cfg.origin}: indexer_types names '{sorted(map(str, unknown))[0]}'; known: full, shared"
        )
    table: dict[str, AttentionKind] = {"latent": latent}
    if "shared" in types:
        # These layers attend to the keys an earlier layer's indexer chose and have none of their own.
        table["latent_shared_index"] = latent.model_copy(update={"index_heads": None, "index_head_dim": None})
    return table, ["latent" if kind == "full" else "latent_shared_index" for kind in types]


def _layer_kinds(cfg: ConfigReader, family: Family, layers: int, window: int | None, chunk: int | None) -> list[str]:
    types = cfg.per_layer("layer_types", layers)
    interval = cfg.integer("full_attention_interval")
    pattern = cfg.integer("sliding_window_pattern", "_sliding_window_pattern") or family.full_every
    hybrid, no_rope = cfg.per_layer("hybrid_layer_pattern", layers), cfg.per_layer("no_rope_layers", layers)
    step = cfg.integer("no_rope_layer_interval", default=4) or 4
    first = cfg.integer("max_window_layers", default=0) or 0
    if attn_type := cfg.per_layer("attn_type_list", layers):
        types = ["full_attention" if kind == 1 else f"type {kind} of attn_type_list" for kind in attn_type]
    if types is not None:
        return [_kind(str(name), cfg.origin) for name in types]
    if interval:
        return ["full" if (i + 1) % interval == 0 else "linear" for i in range(layers)]
    if hybrid is not None:
        return ["sliding" if windowed else "full" for windowed in hybrid]
    if chunk:
        # 1 marks a rotary, hence chunked, layer (transformers, configuration_llama4).
        rotary = no_rope or [int((i + 1) % step != 0) for i in range(layers)]
        return ["chunked" if flag else "full" for flag in rotary]
    if pattern and window:
        return ["full" if (i + 1) % pattern == 0 else "sliding" for i in range(layers)]
    first = first if cfg.get("use_sliding_window") else 0  # Qwen: windows begin above this layer.
    return ["sliding" if window and i >= first else "full" for i in range(layers)]


def _kind(name: str, origin: str) -> str:
    if name not in _KINDS:
        raise UnsupportedError(f"{origin}: layer type '{name}' is not known; known: {', '.join(_KINDS)}")
    return _KINDS[name]
