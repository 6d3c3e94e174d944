"""Two irregular families, whose blocks are a mixer or a feed-forward alone, stated as layers of both."""

from __future__ import annotations

from nfp_model.errors import SpecError, UnsupportedError
from nfp_model.specs.hf_families import Family, num_heads, softmax_attention, state_dtype
from nfp_model.specs.hf_layers import Draft, LayerDraft, Modules, attention_modules, ffn_modules, moe_ffn
from nfp_model.specs.hf_reader import ConfigReader
from nfp_model.specs.model import AttentionKind, DenseFFN, FFNKind, LinearAttention, MoEFFN, SoftmaxAttention

_BLOCK_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


def draft_nemotron_h(cfg: ConfigReader, family: Family, hidden: int) -> Draft:
    """Nemotron-H: Mamba-2, attention and feed-forward blocks; each feed-forward joins the mixer before it."""
    kinds = _block_kinds(cfg)
    table: dict[str, AttentionKind] = {}
    if "mamba" in kinds:
        table["mamba"] = _mamba(cfg)
    if "attention" in kinds:
        table["attention"] = softmax_attention(cfg, family, hidden)
    ffn = _feed_forwards(cfg, family, hidden, kinds)
    feeds = {"mlp": ("dense",), "moe": ("moe",)}
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
            modules |= _feed_modules(f"layers.{i}", ffn[name], family)
        layers.append(LayerDraft(last.attention, last.ffn + feeds[kind], last.modules | modules))
    # Two norms are counted for every layer; a mixer without a feed-forward has one.
    uncounted = len(kinds) - 2 * len(layers)
    extra = kinds.count("mamba") * _mamba_extras(cfg, table) + uncounted * hidden
    notes = (f"{len(kinds)} blocks of one part each are stated as {len(layers)} layers",)
    return Draft(table, ffn, tuple(layers), 2, extra, notes)


def _block_kinds(cfg: ConfigReader) -> list[str]:
    pattern, named = cfg.get("hybrid_override_pattern"), cfg.sequence("layers_block_type")
    count = cfg.integer("num_hidden_layers")
    kinds = named or [_BLOCK_LETTERS.get(letter, letter) for letter in str(pattern or "")]
    unknown = sorted({str(kind) for kind in kinds} - set(_BLOCK_LETTERS.values()))
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
        state_dtype=state_dtype(cfg),
    )


def _mamba_extras(cfg: ConfigReader, table: dict[str, AttentionKind]) -> int:
    """Convolution bias, three constants a head and the inner norm, beyond what gated linear attention counts."""
    mamba = table.get("mamba")
    if not isinstance(mamba, LinearAttention):
        return 0
    inner = mamba.value_heads * mamba.value_head_dim
    bias = mamba.convolved_width if cfg.flag("use_conv_bias", default=True) else 0
    return bias + 3 * (2 * mamba.value_heads) + inner - (2 * mamba.value_heads + mamba.value_head_dim)


def _feed_forwards(cfg: ConfigReader, family: Family, hidden: int, kinds: list[str]) -> dict[str, FFNKind]:
    """Plain two-matrix blocks, and experts that may work in a latent width."""
    ffn: dict[str, FFNKind] = {}
    cfg.get("intermediate_size")
    latent = cfg.integer("moe_latent_size")
    if "mlp" in kinds:
        width = cfg.need("feed-forward width", "intermediate_size")
        ffn["dense"] = DenseFFN(intermediate_size=width, gated=False, bias=cfg.flag("mlp_bias"))
    if "moe" in kinds:
        update = {"gated": False, "expert_hidden_size": latent or None}
        ffn["moe"] = moe_ffn(cfg, family, hidden).model_copy(update=update)
    cfg.flag("mlp_bias")
    return ffn


def _feed_modules(layer: str, ffn: FFNKind, family: Family) -> Modules:
    modules = ffn_modules(layer, ffn, family)
    if isinstance(ffn, MoEFFN) and ffn.expert_hidden_size:
        modules["dense_ffn"] = tuple((f"{layer}.mixer.{part}", 1) for part in ("fc1_latent_proj", "fc2_latent_proj"))
    return modules


def draft_blocks(cfg: ConfigReader, family: Family, hidden: int) -> Draft:
    """Nemotron-NAS: every block has a width, and perhaps an attention, of its own."""
    cfg.get("num_hidden_layers")
    cfg.get("intermediate_size")
    blocks = cfg.sequence("block_configs")
    table: dict[str, AttentionKind] = {}
    ffn: dict[str, FFNKind] = {}
    layers: list[LayerDraft] = []
    parts = merged = 0
    for i, block in enumerate(blocks):
        feed, attention = _block_parts(cfg, block, f"{cfg.origin}: block {i}", hidden)
        parts += (feed is not None) + (attention is not None)
        names: tuple[str, ...] = ()
        modules: Modules = {}
        if feed is not None:
            names = (f"dense_{feed.intermediate_size}",)
            ffn[names[0]] = feed
            modules = ffn_modules(f"layers.{i}", feed, family)
        if attention is not None:
            kind = f"gqa_{attention.num_kv_heads}"
            table[kind] = attention
            layers.append(LayerDraft(kind, names, attention_modules(f"layers.{i}", attention, hidden) | modules))
        elif feed is not None:
            if not layers:
                raise UnsupportedError(f"{cfg.origin}: block {i} has no attention and none before it")
            last = layers.pop()
            layers.append(LayerDraft(last.attention, last.ffn + names, last.modules | modules))
            merged += 1
    where = "their feed-forward is counted with the layer before"
    notes = (f"{merged} of {len(blocks)} blocks have no attention; {where}",) if merged else ()
    # Each part has one norm; two are counted for every layer.
    return Draft(table, ffn, tuple(layers), 2, max(0, parts - 2 * len(layers)) * hidden, notes)


def _block_parts(
    cfg: ConfigReader, block: object, where: str, hidden: int
) -> tuple[DenseFFN | None, SoftmaxAttention | None]:
    """Feed-forward and attention of one block, None for what it leaves out."""
    tables = (block.get("attention"), block.get("ffn")) if isinstance(block, dict) else (None, None)
    if not isinstance(tables[0], dict) or not isinstance(tables[1], dict):
        raise SpecError(f"{where}: needs the tables attention and ffn")
    attention, feed = ConfigReader(tables[0], {}, where), ConfigReader(tables[1], {}, where)
    for part in (attention, feed):
        for name in ("replace_with_linear", "sparsify", "window_length", "num_sink_tokens"):
            if part.get(name):
                raise UnsupportedError(f"{where} sets {name}, which a model spec cannot state")
    dense = grouped = None
    if not feed.flag("no_op"):
        mult = feed.get("ffn_mult")
        if not isinstance(mult, (int, float)) or not 0 < mult < 1e6:
            raise SpecError(f"{where}: ffn_mult must be a number above 0, got {mult!r}")
        # A gated block's two thirds, rounded up to 256 (modeling_decilm).
        width = -(-int(2 * mult * hidden / 3) // 256) * 256
        dense = DenseFFN.from_mapping({"intermediate_size": width, "bias": cfg.flag("mlp_bias")}, where)
    if not attention.flag("no_op"):
        heads, group = num_heads(cfg), attention.need("heads per KV head", "n_heads_in_group")
        grouped = SoftmaxAttention.from_mapping(
            {
                "num_query_heads": heads,
                "num_kv_heads": heads // group,
                "head_dim": cfg.integer("head_dim") or hidden // heads,
                "qkv_bias": cfg.flag("attention_bias"),
                "output_bias": cfg.flag("attention_bias"),
            },
            where,
        )
    return dense, grouped
