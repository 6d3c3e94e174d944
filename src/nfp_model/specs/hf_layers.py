"""From the fields of a configuration to layer parts, and the modules whose storage formats decide theirs."""

from __future__ import annotations

from dataclasses import dataclass, field

from nfp_model.errors import SpecError
from nfp_model.specs.hf_families import Family, attention_table
from nfp_model.specs.hf_reader import ConfigReader
from nfp_model.specs.model import AttentionKind, DenseFFN, FFNKind, LatentAttention, MoEFFN, SoftmaxAttention

Modules = dict[str, tuple[tuple[str, int], ...]]
"""Weight group -> (module name, parameters) of one layer."""


@dataclass(frozen=True)
class LayerDraft:
    """One layer before equal ones are grouped: keys of its parts, and its modules."""

    attention: str
    ffn: tuple[str, ...]
    modules: Modules


@dataclass(frozen=True)
class Draft:
    """The layers of a model, in order, with what their parts leave uncounted.

    Attributes
    ----------
    attention, ffn : dict
        Named layer parts.
    layers : tuple of LayerDraft
        In order.
    norms_per_layer, extra_parameters : int
        As in :class:`~nfp_model.specs.model.ModelSpec`.
    notes : tuple of str
        How something without a field of its own was stated.
    """

    attention: dict[str, AttentionKind]
    ffn: dict[str, FFNKind]
    layers: tuple[LayerDraft, ...]
    norms_per_layer: int
    extra_parameters: int = 0
    notes: tuple[str, ...] = field(default=())


def draft_regular(cfg: ConfigReader, family: Family, hidden: int) -> Draft:
    """Layers of attention followed by a dense or routed feed-forward block: nearly every family."""
    count = cfg.need("number of layers", "num_hidden_layers", "n_layers", "num_layers")
    table, kinds = attention_table(cfg, family, hidden, count)
    routed = _routed_layers(cfg, count)
    parallel = cfg.flag("enable_moe_block")  # Gemma-4: every layer has a dense block beside its experts.
    ffn: dict[str, FFNKind] = {}
    if any(routed):
        ffn["moe"] = moe_ffn(cfg, family, hidden)
    if parallel or not all(routed):
        ffn["dense"] = _dense_ffn(cfg)
    elif not family.expert_width_is_intermediate:
        cfg.get("intermediate_size")  # Present and unused where every layer is routed.
    cfg.get("intermediate_size_mlp", "dense_intermediate_size")
    layers = []
    for i, (kind, is_routed) in enumerate(zip(kinds, routed, strict=True)):
        names = ("dense", "moe") if parallel and is_routed else ("moe",) if is_routed else ("dense",)
        modules = attention_modules(f"layers.{i}", table[kind], hidden)
        for name in names:
            modules |= ffn_modules(f"layers.{i}", ffn[name], family)
        layers.append(LayerDraft(kind, names, modules))
    extra, notes = _gemma4_extras(cfg, table, kinds, hidden, parallel)
    return Draft(table, ffn, tuple(layers), family.norms + (3 if parallel else 0), extra, notes)


def _gemma4_extras(
    cfg: ConfigReader, table: dict[str, AttentionKind], kinds: list[str], hidden: int, parallel: bool
) -> tuple[int, tuple[str, ...]]:
    """A scale of the hidden width in each router; values projected by a copy of the key matrix."""
    extra = len(kinds) * hidden if parallel else 0
    full = table.get("full")
    if not cfg.flag("attention_k_eq_v") or not isinstance(full, SoftmaxAttention):
        return extra, ()
    copies = kinds.count("full") * hidden * full.num_kv_heads * full.values_dim
    return extra, (
        f"full layers reuse the key matrix for values; keys and values differ after their norms and are cached apart, "
        f"so the {copies} copied parameters are counted",
    )


def _routed_layers(cfg: ConfigReader, count: int) -> list[bool]:
    """Which layers have routed experts."""
    experts = _expert_count(cfg)
    first_dense = cfg.integer("first_k_dense_replace", default=0) or 0
    listed = cfg.per_layer("moe_layer_freq", count)
    every = 1 if isinstance(cfg.get("moe_layer_freq"), list) else (cfg.integer("moe_layer_freq", default=1) or 1)
    types = cfg.per_layer("mlp_layer_types", count)
    step = cfg.integer("decoder_sparse_step", "interleave_moe_layer_step", default=1) or 1
    only_dense, chosen = cfg.sequence("mlp_only_layers"), cfg.sequence("moe_layers")
    if not experts or cfg.get("enable_moe_block", default=True) is False:
        return [False] * count
    routed = [i >= first_dense and i % every == 0 and (i + 1) % step == 0 and i not in only_dense for i in range(count)]
    if listed is not None:
        routed = [bool(flag) and i >= first_dense for i, flag in enumerate(listed)]
    if types is not None:
        stated = [kind == "sparse" for kind in types]
        if first_dense and any(stated[:first_dense]):
            raise SpecError(f"{cfg.origin}: mlp_layer_types and first_k_dense_replace = {first_dense} disagree")
        routed = stated
    return routed if not chosen else [i in chosen for i in range(count)]


def _expert_count(cfg: ConfigReader) -> int:
    return cfg.integer("num_experts", "n_routed_experts", "num_local_experts", default=0) or 0


def moe_ffn(cfg: ConfigReader, family: Family, hidden: int) -> MoEFFN:
    """Routed experts and what every token shares."""
    if family.expert_width_is_intermediate:
        width = cfg.need("expert width", "intermediate_size")
    else:
        width = cfg.need("expert width", "moe_intermediate_size", "expert_intermediate_size")
    correction = cfg.get("topk_method") == "noaux_tc"
    bias = cfg.flag(
        "use_routing_bias",
        "use_moe_router_bias",
        "moe_router_enable_expert_bias",
        default=family.router_bias or correction,
    )
    groups, kept = cfg.integer("n_group", "num_expert_group", default=1) or 1, cfg.integer("topk_group", default=1) or 1
    return MoEFFN.from_mapping(
        {
            "num_experts": _expert_count(cfg),
            "top_k": cfg.need(
                "experts per token",
                "num_experts_per_tok",
                "experts_per_token",
                "top_k_experts",
                "num_experts_per_token",
            ),
            "intermediate_size": width,
            "shared_intermediate_size": _shared_width(cfg, family, width),
            "shared_gate": family.shared_gate,
            "expert_bias": family.expert_bias,
            # Gemma-4 scales each expert's weight, as many parameters as a bias.
            "router_bias": bias or cfg.flag("enable_moe_block"),
            "groups": groups,
            "groups_kept": kept,
        },
        cfg.origin,
    )


def _shared_width(cfg: ConfigReader, family: Family, expert_width: int) -> int:
    """Total width of the experts every token passes through."""
    count = cfg.integer("n_shared_experts", "num_shared_experts")
    stated = cfg.integer(
        "shared_expert_intermediate_size",
        "shared_intermediate_size",
        "moe_shared_expert_intermediate_size",
        "share_expert_dim",
    )
    if stated is not None:
        return stated * (count if count is not None else 1)
    if count is not None:
        return count * expert_width
    return expert_width if family.shared == "feed_forward.shared_expert" else 0


def _dense_ffn(cfg: ConfigReader) -> DenseFFN:
    special = cfg.integer("intermediate_size_mlp", "dense_intermediate_size", "mlp_hidden_size")
    width = special or cfg.need("feed-forward width", "intermediate_size")
    return DenseFFN(intermediate_size=width, bias=cfg.flag("mlp_bias", default=False))


def attention_modules(layer: str, attention: AttentionKind, hidden: int, path: str = "") -> Modules:
    """Projections of one attention layer by their usual names, the output projection apart."""
    sizes: dict[str, int]
    if isinstance(attention, SoftmaxAttention):
        path = path or "self_attn"
        queries, values = (
            attention.num_query_heads * attention.head_dim,
            attention.num_query_heads * attention.values_dim,
        )
        sizes = {
            "q_proj": hidden * (queries + (values if attention.output_gate else 0)),
            "k_proj": hidden * attention.num_kv_heads * attention.head_dim,
            "v_proj": hidden * attention.num_kv_heads * attention.values_dim,
            "o_proj": hidden * values,
        }
    elif isinstance(attention, LatentAttention):
        path, heads = path or "self_attn", attention.num_query_heads
        width = heads * (attention.nope_head_dim + attention.rope_head_dim)
        rank = attention.query_rank
        sizes = {"q_proj": hidden * width} if rank is None else {"q_a_proj": hidden * rank, "q_b_proj": rank * width}
        sizes |= {
            "kv_a_proj_with_mqa": hidden * (attention.latent_rank + attention.rope_head_dim),
            "kv_b_proj": attention.latent_rank * heads * (attention.nope_head_dim + attention.value_head_dim),
            "o_proj": heads * attention.value_head_dim * hidden,
        }
    else:
        path, values = path or "linear_attn", attention.value_heads * attention.value_head_dim
        sizes = {
            "in_proj_qkv": hidden * attention.convolved_width,
            "in_proj_z": hidden * values,
            "out_proj": values * hidden,
        }
        if path == "mixer":
            sizes = {"in_proj": sizes["in_proj_qkv"] + sizes["in_proj_z"], "out_proj": sizes["out_proj"]}
    output = list(sizes)[-1]
    return {
        "attention": tuple((f"{layer}.{path}.{name}", size) for name, size in sizes.items() if name != output),
        "attention_output": ((f"{layer}.{path}.{output}", sizes[output]),),
    }


def ffn_modules(layer: str, ffn: FFNKind, family: Family) -> Modules:
    """Matrices of one feed-forward block, by the family's paths."""
    if isinstance(ffn, DenseFFN):
        return {"dense_ffn": tuple((f"{layer}.{family.ffn}.{name}", 1) for name in ("up_proj", "down_proj"))}
    modules: Modules = {
        "experts": tuple((f"{layer}.{family.experts}.0.{name}", 1) for name in ("up_proj", "down_proj")),
        "router": ((f"{layer}.{family.router}", 1),),
    }
    if ffn.shared_intermediate_size:
        modules["shared_experts"] = tuple((f"{layer}.{family.shared}.{name}", 1) for name in ("up_proj", "down_proj"))
    return modules
