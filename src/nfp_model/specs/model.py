"""Model architectures as their published configurations state them, and the parameters they imply."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nfp_model.quantities import ELEMENT_TYPES
from nfp_model.specs.base import Spec

WEIGHT_GROUPS = (
    "attention", "dense_ffn", "experts", "shared_experts", "router", "head", "embedding", "attention_output"
)  # fmt: skip
"""Weight groups that may be stored in a data type of their own; the output projection as the rest of attention if not named,
the projections around latent experts as the dense FFN."""


class SoftmaxAttention(Spec):
    """MHA, GQA or MQA, optionally windowed, chunked or with K and V shared.

    Attributes
    ----------
    num_query_heads, num_kv_heads : int
        Heads [-]; their ratio is the GQA group size.
    head_dim, value_head_dim : int
        Width of a key and of a value head [elements]; values default to keys.
    window : int or None
        Sliding window [tokens]: keys seen behind the newest position.
    chunk : int or None
        Chunked attention: at most this many keys, restarting at multiples [tokens].
    shared_kv : bool
        One cache serves keys and values.
    qkv_bias, output_bias, output_gate, sinks : bool
        Biases; a gate as wide as the output (doubles the query projection); one learned sink per head.
    qk_norm : {"none", "head", "full"}
        RMS norm on queries and keys, per head width or over the full projection.
    """

    kind: Literal["softmax"] = "softmax"
    num_query_heads: int = Field(gt=0)
    num_kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    value_head_dim: int | None = Field(default=None, gt=0)
    window: int | None = Field(default=None, gt=0)
    chunk: int | None = Field(default=None, gt=0)
    shared_kv: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    output_gate: bool = False
    sinks: bool = False
    qk_norm: Literal["none", "head", "full"] = "none"

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.num_query_heads % self.num_kv_heads:
            raise ValueError(
                f"num_query_heads {self.num_query_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        return self

    @property
    def group_size(self) -> int:
        """GQA group size: query heads per KV head [-]."""
        return self.num_query_heads // self.num_kv_heads

    @property
    def values_dim(self) -> int:
        """Width of one value head [elements]."""
        return self.value_head_dim or self.head_dim

    @property
    def cache_elements_per_token(self) -> int:
        """KV-cache elements one token occupies in this layer [elements]."""
        return self.num_kv_heads * (self.head_dim + (0 if self.shared_kv else self.values_dim))

    def parameters(self, hidden: int) -> int:
        """Weights of the layer's projections, biases, q/k norms and sinks [parameters]."""
        queries, keys = self.num_query_heads * self.head_dim, self.num_kv_heads * self.head_dim
        values, output = self.num_kv_heads * self.values_dim, self.num_query_heads * self.values_dim
        query_columns = queries + (output if self.output_gate else 0)
        columns = query_columns + keys + (0 if self.shared_kv else values)
        total = hidden * columns + output * hidden
        total += columns if self.qkv_bias else 0
        total += hidden if self.output_bias else 0
        total += {"none": 0, "head": 2 * self.head_dim, "full": queries + keys}[self.qk_norm]
        return total + (self.num_query_heads if self.sinks else 0)


class LatentAttention(Spec):
    """Multi-head latent attention (MLA), decoded in the absorbed form: MQA over a shared latent cache.

    Attributes
    ----------
    num_query_heads : int
        Heads [-].
    query_rank : int or None
        Low rank of the query projection [elements]; None for a full projection.
    latent_rank : int
        Width of the cached latent [elements].
    nope_head_dim, rope_head_dim, value_head_dim : int
        Per-head widths [elements].
    index_heads, index_head_dim, index_top_k : int or None
        Sparse-attention indexer (DSA), if the model has one; it bounds the keys seen.
    """

    kind: Literal["latent"] = "latent"
    num_query_heads: int = Field(gt=0)
    query_rank: int | None = Field(default=None, gt=0)
    latent_rank: int = Field(gt=0)
    nope_head_dim: int = Field(gt=0)
    rope_head_dim: int = Field(gt=0)
    value_head_dim: int = Field(gt=0)
    index_heads: int | None = Field(default=None, gt=0)
    index_head_dim: int | None = Field(default=None, gt=0)
    index_top_k: int | None = Field(default=None, gt=0)

    @property
    def group_size(self) -> int:
        """All heads share the one latent cache [-]."""
        return self.num_query_heads

    @property
    def cache_elements_per_token(self) -> int:
        """Latent plus rotary key [elements]; 576 for DeepSeek-V3."""
        return self.latent_rank + self.rope_head_dim + (self.index_head_dim or 0)

    def parameters(self, hidden: int) -> int:
        """Weights of the low-rank projections, their norms and the indexer [parameters]."""
        query_width = self.num_query_heads * (self.nope_head_dim + self.rope_head_dim)
        if self.query_rank is None:
            total = hidden * query_width
        else:
            total = hidden * self.query_rank + self.query_rank + self.query_rank * query_width
        total += hidden * (self.latent_rank + self.rope_head_dim) + self.latent_rank
        total += self.latent_rank * self.num_query_heads * (self.nope_head_dim + self.value_head_dim)
        total += self.num_query_heads * self.value_head_dim * hidden
        if self.index_heads is not None and self.index_head_dim is not None:
            source = self.query_rank or hidden
            total += source * self.index_heads * self.index_head_dim + hidden * (self.index_head_dim + self.index_heads)
            total += 2 * self.index_head_dim
        return total


class LinearAttention(Spec):
    """Gated linear attention (Gated DeltaNet): a fixed state instead of a cache.

    Attributes
    ----------
    key_heads, value_heads : int
        Heads [-].
    key_head_dim, value_head_dim : int
        Widths [elements].
    conv_kernel : int
        Taps of the short causal convolution [-].
    state_dtype : str
        Storage of the recurrent state.
    """

    kind: Literal["linear"] = "linear"
    key_heads: int = Field(gt=0)
    value_heads: int = Field(gt=0)
    key_head_dim: int = Field(gt=0)
    value_head_dim: int = Field(gt=0)
    conv_kernel: int = Field(gt=0)
    state_dtype: str = "float32"

    @property
    def convolved_width(self) -> int:
        """Channels of the short convolution: queries, keys and values [elements]."""
        return 2 * self.key_heads * self.key_head_dim + self.value_heads * self.value_head_dim

    @property
    def state_elements(self) -> int:
        """Elements of one sequence's recurrent state, independent of context [elements]."""
        return self.value_heads * self.key_head_dim * self.value_head_dim

    @property
    def cache_elements_per_token(self) -> int:
        """No cache grows with the context [elements]."""
        return 0

    def parameters(self, hidden: int) -> int:
        """Input projections (q, k, v, gate z, decay a, rate b), convolution, constants, norm, output [parameters]."""
        values = self.value_heads * self.value_head_dim
        total = hidden * (self.convolved_width + values + 2 * self.value_heads)
        total += self.convolved_width * self.conv_kernel + 2 * self.value_heads + self.value_head_dim
        return total + values * hidden


AttentionKind = Annotated[SoftmaxAttention | LatentAttention | LinearAttention, Field(discriminator="kind")]


class DenseFFN(Spec):
    """A feed-forward block every token passes through.

    Attributes
    ----------
    intermediate_size : int
        Width [elements].
    gated : bool
        Three matrices (SwiGLU) instead of two.
    bias : bool
        Biases on every matrix.
    """

    kind: Literal["dense"] = "dense"
    intermediate_size: int = Field(gt=0)
    gated: bool = True
    bias: bool = False

    def parameters(self, hidden: int) -> int:
        """Weights and biases [parameters]."""
        matrices = 3 if self.gated else 2
        bias = ((matrices - 1) * self.intermediate_size + hidden) if self.bias else 0
        return matrices * hidden * self.intermediate_size + bias

    def active_parameters(self, hidden: int) -> int:
        """All of them [parameters]."""
        return self.parameters(hidden)


class MoEFFN(Spec):
    """Routed experts, with or without experts every token shares.

    Attributes
    ----------
    num_experts, top_k : int
        Routed experts, and how many a token visits [-].
    intermediate_size : int
        Width of one routed expert [elements].
    shared_intermediate_size : int
        Total width of the shared experts [elements]; 0 for none.
    expert_hidden_size : int or None
        Width the routed experts read and write where a projection down to it and one back up stand around them (latent MoE of
        Nemotron 3 Super and Ultra) [elements]; None for the model's own. Router and shared experts keep the model's.
    gated, shared_gate, expert_bias, router_bias : bool
        Three matrices per expert; a scalar gate on the shared expert; biases inside experts; a bias or correction
        term per expert on the router.
    groups, groups_kept : int
        Group-limited routing (DeepSeek-V3: 8 and 4); 1 and 1 for none.
    """

    kind: Literal["moe"] = "moe"
    num_experts: int = Field(gt=0)
    top_k: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    shared_intermediate_size: int = Field(default=0, ge=0)
    expert_hidden_size: int | None = Field(default=None, gt=0)
    gated: bool = True
    shared_gate: bool = False
    expert_bias: bool = False
    router_bias: bool = False
    groups: int = Field(default=1, gt=0)
    groups_kept: int = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _top_k_fits(self) -> Self:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k {self.top_k} exceeds num_experts {self.num_experts}")
        if self.num_experts % self.groups:
            raise ValueError(f"num_experts {self.num_experts} is not a multiple of groups {self.groups}")
        return self

    def expert_parameters(self, hidden: int) -> int:
        """Weights of one routed expert, biases included [parameters]."""
        expert = DenseFFN(intermediate_size=self.intermediate_size, gated=self.gated, bias=self.expert_bias)
        return expert.parameters(self.expert_hidden_size or hidden)

    def _unrouted_parameters(self, hidden: int) -> int:
        matrices = 3 if self.gated else 2
        total = hidden * self.num_experts + (self.num_experts if self.router_bias else 0)
        total += 2 * hidden * (self.expert_hidden_size or 0)
        return total + matrices * hidden * self.shared_intermediate_size + (hidden if self.shared_gate else 0)

    def parameters(self, hidden: int) -> int:
        """Router, shared experts, latent projections and every routed expert [parameters]."""
        return self._unrouted_parameters(hidden) + self.num_experts * self.expert_parameters(hidden)

    def active_parameters(self, hidden: int) -> int:
        """Router, shared experts, latent projections and the top-k experts one token visits [parameters]."""
        return self._unrouted_parameters(hidden) + self.top_k * self.expert_parameters(hidden)


FFNKind = Annotated[DenseFFN | MoEFFN, Field(discriminator="kind")]


class LayerGroup(Spec):
    """Layers of one shape; the order of groups does not matter to the cost.

    Attributes
    ----------
    count : int
        How many [layers].
    attention : str
        Key into the model's ``attention`` table.
    ffn : tuple of str
        Keys into the model's ``ffn`` table; two where a dense block runs beside the experts.
    dtypes : dict
        Weight group -> data type where these layers differ from the model.
    """

    count: int = Field(gt=0)
    attention: str
    ffn: tuple[str, ...]
    dtypes: dict[str, str] = Field(default_factory=dict)


class Diffusion(Spec):
    """How a diffusion language model denoises.

    Attributes
    ----------
    block_size : int or None
        Positions denoised together [positions]; None for a full canvas of the caller's choice.
    cached : bool
        Whether finished blocks keep an exact KV cache (block-causal), or every forward sees the whole sequence.
    """

    block_size: int | None = Field(default=None, gt=0)
    cached: bool = True


class PublishedCount(Spec):
    """Parameter counts the vendor prints, to compare with.

    Attributes
    ----------
    total, active : float or None
        [parameters].
    active_excludes_embedding, active_excludes_head : bool
        The vendor's active figure leaves the input embedding, or the LM head, out.
    source : str
        Where they are printed.
    """

    total: float | None = Field(default=None, gt=0)
    active: float | None = Field(default=None, gt=0)
    active_excludes_embedding: bool = False
    active_excludes_head: bool = False
    source: str


class ModelSpec(Spec):
    """One decoder-only language model.

    Attributes
    ----------
    name, title : str
        Key and printed name.
    aliases : tuple of str
        Short names.
    hidden_size, num_layers, vocab_size : int
        [elements], [layers], [tokens].
    max_context_length : int
        Longest context the model was configured for [tokens].
    tied_embeddings : bool
        The LM head reuses the input embedding.
    head_bias : bool
        Bias on the LM head.
    dtype : str
        Storage of everything not named in ``dtypes``.
    dtypes : dict
        Weight group -> storage format; groups are :data:`WEIGHT_GROUPS`.
    kv_dtype : str or None
        KV-cache format; None means ``dtype`` if 16-bit, else bfloat16.
    attention, ffn : dict
        Named layer parts.
    layers : tuple of LayerGroup
        How many layers use which.
    norms_per_layer : int
        Norms of ``hidden_size`` per layer (2; Gemma-3: 4), besides q/k norms.
    norm_bias : bool
        LayerNorm (weight and bias) instead of RMS norm.
    extra_parameters : int
        Parameters no other field counts, named in ``notes`` [parameters].
    diffusion : Diffusion or None
        Set for block and full-canvas diffusion models.
    published : PublishedCount or None
        Vendor's counts.
    derived_total, derived_active : int or None
        Counts this file must reproduce exactly [parameters]; checked on load.
    licence, source : str
        Licence of the configuration, and where it was read.
    notes : tuple of str
        Conflicts and how they were settled.

    Examples
    --------
    >>> from nfp_model import load_model
    >>> load_model("mixtral").total_parameters
    46702792704
    """

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    hidden_size: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    vocab_size: int = Field(gt=0)
    max_context_length: int = Field(gt=0)
    tied_embeddings: bool = False
    head_bias: bool = False
    dtype: str = "bfloat16"
    dtypes: dict[str, str] = Field(default_factory=dict)
    kv_dtype: str | None = None
    attention: dict[str, AttentionKind]
    ffn: dict[str, FFNKind]
    layers: tuple[LayerGroup, ...] = Field(min_length=1)
    norms_per_layer: int = Field(default=2, ge=0)
    norm_bias: bool = False
    extra_parameters: int = Field(default=0, ge=0)
    diffusion: Diffusion | None = None
    published: PublishedCount | None = None
    derived_total: int | None = Field(default=None, gt=0)
    derived_active: int | None = Field(default=None, gt=0)
    licence: str = ""
    source: str
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_itself(self) -> Self:
        listed = sum(group.count for group in self.layers)
        if listed != self.num_layers:
            raise ValueError(f"layer groups add up to {listed} layers, num_layers is {self.num_layers}")
        for group in self.layers:
            if group.attention not in self.attention:
                raise ValueError(f"layers name attention '{group.attention}'; known: {', '.join(self.attention)}")
            for ffn in group.ffn:
                if ffn not in self.ffn:
                    raise ValueError(f"layers name ffn '{ffn}'; known: {', '.join(self.ffn)}")
        tables = (self.dtypes, *(group.dtypes for group in self.layers))
        for key in (key for table in tables for key in table):
            if key not in WEIGHT_GROUPS:
                raise ValueError(f"unknown weight group '{key}'; allowed: {', '.join(WEIGHT_GROUPS)}")
        stored = [self.dtype, self.kv_dtype or self.dtype, *(dtype for table in tables for dtype in table.values())]
        for dtype in stored:
            if dtype not in ELEMENT_TYPES:
                raise ValueError(f"unknown data type '{dtype}'; allowed: {', '.join(ELEMENT_TYPES)}")
        for stated, counted, what in (
            (self.derived_total, self.total_parameters, "derived_total"),
            (self.derived_active, self.active_parameters, "derived_active"),
        ):
            if stated is not None and stated != counted:
                raise ValueError(f"{what} is {stated:,}, but the fields add up to {counted:,}")
        return self

    @property
    def is_moe(self) -> bool:
        """Whether any layer has routed experts."""
        return any(isinstance(self.ffn[name], MoEFFN) for group in self.layers for name in group.ffn)

    @property
    def embedding_parameters(self) -> int:
        """Input embedding [parameters]."""
        return self.vocab_size * self.hidden_size

    @property
    def head_parameters(self) -> int:
        """LM head beyond a tied embedding [parameters]."""
        return (0 if self.tied_embeddings else self.embedding_parameters) + (self.vocab_size if self.head_bias else 0)

    def _count(self, active: bool) -> int:
        norm = self.hidden_size * (2 if self.norm_bias else 1)
        total = self.embedding_parameters + self.head_parameters + norm + self.extra_parameters
        for group in self.layers:
            layer = self.attention[group.attention].parameters(self.hidden_size) + self.norms_per_layer * norm
            for name in group.ffn:
                ffn = self.ffn[name]
                layer += ffn.active_parameters(self.hidden_size) if active else ffn.parameters(self.hidden_size)
            total += group.count * layer
        return total

    @property
    def total_parameters(self) -> int:
        """Every stored parameter, MTP layers and vision towers excluded [parameters]."""
        return self._count(active=False)

    @property
    def active_parameters(self) -> int:
        """Parameters one token passes through, input embedding included [parameters]."""
        return self._count(active=True)

    def dtype_of(self, weight_group: str, group: LayerGroup | None = None) -> str:
        """Storage format of a weight group, in one layer group where it differs."""
        own = group.dtypes if group is not None else {}
        named = own.get(weight_group) or self.dtypes.get(weight_group)
        if named is None and weight_group == "attention_output":
            return self.dtype_of("attention", group)
        return named or self.dtype
