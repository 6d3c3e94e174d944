"""Two irregular families, whose blocks are a mixer or a feed-forward alone, stated as layers of both."""

from __future__ import annotations

from nfp_model.errors import SpecError, UnsupportedError
from nfp_model.specs.hf_families import Family, num_heads, softmax_attention
from nfp_model.specs.hf_layers import Draft, LayerDraft, Modules, attention_modules, ffn_modules, moe_ffn
from nfp_model.specs.hf_reader import ConfigReader
from nfp_model.specs.model import AttentionKind, DenseFFN, FFNKind, LinearAttention, SoftmaxAttention

_BLOCK_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


def draft_nemotron_h(cfg: ConfigReader, family: Family, hidden: int) -> Draft:
    """Nemotron-H: Mamba-2, attention and feed-forward blocks; each feed-forward joins the mixer before it."""
    kinds = _block_kinds(cfg)
    table: dict[str, AttentionKind] = {}
    if "mamba" in kinds:
        table["mamba"] = _mamba(cfg)
    if "attention" in kinds:
        table["attention"] = softmax_attention(cfg, family, hidden)
    ffn, notes = _feed_forwards(cfg, family, hidden, kinds)
    feeds = {"mlp": ("dense",), "moe": tuple(name for name in ffn if name != "dense")}
    layers: list[LayerDraft] = []
    for i, kind in enumerate(kinds):
        if kind in table:
            layers.append(LayerDraft(kind, (), attention_modules(f"layers.{i}", table[kind], hidden, "mixer")))
            continue
        if not layers:
            raise UnsupportedError(
                f"{cfg.origin}: the first block is a feed-forward; a model spec starts a layer with a mixer"
            )
        last = layers.pop()
        modules: Modules = {}
        for name in feeds[kind]:
            modules |= _feed_modules(f"layers.{i}", name, ffn[name], family)
        layers.append(LayerDraft(last.attention, last.ffn + feeds[kind], last.modules | modules))
    # Two norms are counted for every layer; a mixer without a feed-forward has one.
    uncounted = len(kinds) - 2 * len(layers)
    extra = kinds.count("mamba") * _mamba_extras(cfg, table) + uncounted * hidden
    notes += (f"{len(kinds)} blocks of one part each are stated as {len(layers)} layers",)
    return Draft(table, ffn, tuple(layers), 2, extra, notes)


def _block_kinds(cfg: ConfigReader) -> list[str]:
    pattern, named = cfg.get("hybrid_override_pattern"), cfg.get("layers_block_type")
    count = cfg.integer("num_hidden_layers")
    kinds = list(named) if named else [_BLOCK_LETTERS.get(letter, letter) for letter in pattern or ""]
    unknown = sorted(set(kinds) - set(_BLOCK_LETTERS.values()))
    if unknown or not kinds:
        what = (
            f"block type '{unknown[0]}' is not known"
            if unknown
            else "no hybrid_override_pattern and no layers_block_type"
        )
        raise UnsupportedError(f"{cfg.origin}: {what}; known: {', '.join(_BLOCK_LETTERS.values())}")
    if count is not None and count != len(kinds):
        raise SpecError(f"{cfg.origin}: num_hidden_layers is {count}, but {len(kinds)} blocks are listed")
    return kinds


def _mamba(cfg: ConfigReader) -> LinearAttention:
    """Mamba-2 as gated linear attention of the same matrices, convolution and state.

    Mamba-2 projects one step size a head where Gated DeltaNet projects a decay and a rate, so two Mamba heads are
    stated as one of twice the width: projections, convolution and state then have exactly their sizes.
    """
    heads = cfg.need("Mamba heads", "mamba_num_heads")
    if heads % 2:
        raise UnsupportedError(f"{cfg.origin}: an odd number of Mamba heads ({heads}) cannot be stated")
    if cfg.flag("use_bias") or cfg.flag("mamba_proj_bias"):
        raise UnsupportedError(f"{cfg.origin}: biases on Mamba projections have no field in a model spec")
    return LinearAttention(
        key_heads=cfg.need("Mamba groups", "n_groups"),
        value_heads=heads // 2,
        key_head_dim=cfg.need("Mamba state size", "ssm_state_size"),
        value_head_dim=2 * cfg.need("Mamba head width", "mamba_head_dim"),
        conv_kernel=cfg.need("convolution taps", "conv_kernel"),
        state_dtype=str(cfg.get("mamba_ssm_cache_dtype", default="float32")),
    )


def _mamba_extras(cfg: ConfigReader, table: dict[str, AttentionKind]) -> int:
    """Convolution bias, three constants a head and the inner norm, beyond what gated linear attention counts."""
    mamba = table.get("mamba")
    if not isinstance(mamba, LinearAttention):
        return 0
    inner = mamba.value_heads * mamba.value_head_dim
    bias = mamba.convolved_width if cfg.flag("use_conv_bias", default=True) else 0
    return bias + 3 * (2 * mamba.value_heads) + inner - (2 * mamba.value_heads + mamba.value_head_dim)


def _feed_forwards(
    cfg: ConfigReader, family: Family, hidden: int, kinds: list[str]
) -> tuple[dict[str, FFNKind], tuple[str, ...]]:
    """Plain two-matrix blocks; experts in a latent width are stated in the model's, with the same weights and FLOPs."""
    ffn: dict[str, FFNKind] = {}
    notes: tuple[str, ...] = ()
    cfg.get("intermediate_size")
    latent = cfg.integer("moe_latent_size")
    if "mlp" in kinds:
        width = cfg.need("feed-forward width", "intermediate_size")
        ffn["dense"] = DenseFFN(intermediate_size=width, gated=False, bias=cfg.flag("mlp_bias"))
    if "moe" in kinds:
        moe = moe_ffn(cfg, family, hidden).model_copy(update={"gated": False})
        if latent:
            width, rest = divmod(moe.intermediate_size * latent, hidden)
            if rest:
                raise UnsupportedError(
                    f"{cfg.origin}: experts of latent width {latent} cannot be stated in hidden size {hidden}"
                )
            notes = (
                f"experts are {moe.intermediate_size} wide in a latent space of {latent}; "
                f"stated as {width} wide in {hidden}, with equal weights and FLOPs but another GEMM shape",
            )
            moe = moe.model_copy(update={"intermediate_size": width})
            ffn["latent_projections"] = DenseFFN(intermediate_size=latent, gated=False)
        ffn["moe"] = moe
    cfg.flag("mlp_bias")
    return ffn, notes


def _feed_modules(layer: str, name: str, ffn: FFNKind, family: Family) -> Modules:
    if name == "latent_projections":
        return {"dense_ffn": tuple((f"{layer}.mixer.{part}", 1) for part in ("fc1_latent_proj", "fc2_latent_proj"))}
    return ffn_modules(layer, ffn, family)


def draft_blocks(cfg: ConfigReader, family: Family, hidden: int) -> Draft:
    """Nemotron-NAS: every block has a width, and perhaps an attention, of its own."""
    blocks, heads = cfg.get("block_configs"), num_heads(cfg)
    head_dim = cfg.integer("head_dim") or hidden // heads
    cfg.get("num_hidden_layers")
    cfg.get("intermediate_size")
    table: dict[str, AttentionKind] = {}
    ffn: dict[str, FFNKind] = {}
    layers: list[LayerDraft] = []
    merged = 0
    for i, block in enumerate(blocks):
        attention, feed = block["attention"], block["ffn"]
        for part in (attention, feed):
            odd = [k for k in ("replace_with_linear", "sparsify", "window_length", "num_sink_tokens") if part.get(k)]
            if odd:
                raise UnsupportedError(f"{cfg.origin}: block {i} sets {odd[0]}, which a model spec cannot state")
        names: tuple[str, ...] = ()
        modules: Modules = {}
        if not feed.get("no_op"):
            width = _multiple_of_256(int(2 * feed["ffn_mult"] * hidden / 3))
            names = (f"dense_{width}",)
            ffn[names[0]] = DenseFFN(intermediate_size=width, bias=cfg.flag("mlp_bias"))
            modules = ffn_modules(f"layers.{i}", ffn[names[0]], family)
        if not attention.get("no_op"):
            kv_heads = heads // attention["n_heads_in_group"]
            kind = f"gqa_{kv_heads}"
            table[kind] = SoftmaxAttention(
                num_query_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim, qkv_bias=cfg.flag("attention_bias")
            )
            layers.append(LayerDraft(kind, names, attention_modules(f"layers.{i}", table[kind], hidden) | modules))
        elif names:
            if not layers:
                raise UnsupportedError(f"{cfg.origin}: block {i} has no attention and none before it")
            last = layers.pop()
            layers.append(LayerDraft(last.attention, last.ffn + names, last.modules | modules))
            merged += 1
    note = (
        f"{merged} of {len(blocks)} blocks have no attention; their feed-forward is counted with the layer before"
        if merged
        else ""
    )
    return Draft(table, ffn, tuple(layers), 2, merged * hidden, (note,) if note else ())


def _multiple_of_256(width: int) -> int:
    return -(-width // 256) * 256
