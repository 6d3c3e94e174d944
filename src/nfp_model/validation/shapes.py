"""What was timed: one small record per kind of operator, each with the key that decides its half of a score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from nfp_model.errors import InvalidArgumentError, require_positive_int, unknown_name
from nfp_model.operators import Attention, Elementwise, FusedMoE, Gemm
from nfp_model.operators.pieces import UNFUSED
from nfp_model.workload import Routing

Axis = Literal["rows", "sequences", "positions", "bytes"]

MLA_KEY_DIM = 576
MLA_VALUE_DIM = 512
"""Width of MLA's one cached vector per token and of its value part (FlashMLA README)."""


@dataclass(frozen=True)
class GemmShape:
    """Out features n and in features k [elements]; the axis is token rows M.

    Examples
    --------
    >>> GemmShape(8192, 4096).split_key
    'gemm|8192|4096'
    """

    out_features: int
    in_features: int

    def __post_init__(self) -> None:
        require_positive_int(out_features=self.out_features, in_features=self.in_features)

    @property
    def split_key(self) -> str:
        """``gemm|n|k``."""
        return f"gemm|{self.out_features}|{self.in_features}"

    @property
    def axis(self) -> Axis:
        """Token rows."""
        return "rows"

    def operator(self, weight_dtype: str, activation_dtype: str) -> Gemm:
        """The operator record."""
        return Gemm(self.out_features, self.in_features, weight_dtype, activation_dtype)


@dataclass(frozen=True)
class MoEShape:
    """Routed experts of one layer; the axis is token rows M over all ranks.

    Attributes
    ----------
    hidden_size, intermediate_size : int
        h and i, before sharding [elements].
    num_experts, top_k : int
        E and k over all ranks [-].
    tensor_parallel, expert_parallel : int
        Ranks [GPUs]; one rank was timed.
    gated : bool
        Three matrices per expert, else two.
    routing : str
        As :class:`~nfp_model.workload.Routing` reads it.

    Examples
    --------
    >>> MoEShape(2048, 768, num_experts=128, top_k=8, expert_parallel=4).split_key
    'moe|2048|768|8|128|4'
    """

    hidden_size: int
    intermediate_size: int
    num_experts: int
    top_k: int
    tensor_parallel: int = 1
    expert_parallel: int = 1
    gated: bool = True
    routing: str = "uniform"

    def __post_init__(self) -> None:
        object.__setattr__(self, "routing", str(Routing.parse(self.routing)))
        self.operator("bfloat16", "bfloat16")  # refuses what no layer can be

    @property
    def split_key(self) -> str:
        """``moe|hidden|inter|topk|experts|ep``: routing and sharding of the width stay in one half."""
        parts = (self.hidden_size, self.intermediate_size, self.top_k, self.num_experts, self.expert_parallel)
        return "moe|" + "|".join(map(str, parts))

    @property
    def axis(self) -> Axis:
        """Token rows."""
        return "rows"

    def operator(self, weight_dtype: str, activation_dtype: str) -> FusedMoE:
        """The operator record."""
        return FusedMoE(
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_experts=self.num_experts,
            top_k=self.top_k,
            weight_dtype=weight_dtype,
            activation_dtype=activation_dtype,
            gated=self.gated,
            routing=self.routing,
            tensor_parallel=self.tensor_parallel,
            expert_parallel=self.expert_parallel,
        )


@dataclass(frozen=True)
class AttentionShape:
    """Decode attention of one layer on one rank.

    Attributes
    ----------
    num_query_heads, num_kv_heads, head_dim : int
        Heads on this rank [-], d_k [elements]. MLA in absorbed form has one KV head of 576.
    context_length : int
        Cached tokens of every sequence [tokens].
    batch_size : int or None
        Sequences [-]; None when they are the axis, one query position each. Otherwise positions per sequence are.
    window : int
        Sliding window [tokens], 0 for none.

    Examples
    --------
    >>> AttentionShape(32, 8, 128, context_length=4095).axis
    'sequences'
    >>> AttentionShape(32, 8, 128, context_length=4095, batch_size=2).axis
    'positions'
    """

    num_query_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    batch_size: int | None = None
    window: int = 0

    def __post_init__(self) -> None:
        if self.window < 0:
            raise InvalidArgumentError(f"window must be at least 0, got {self.window}")
        self.operator("bfloat16", self.batch_size or 1)

    @property
    def split_key(self) -> str:
        """``attention|heads|kv_heads|head_dim|window``: every context length and batch of a layer stays in one half."""
        return f"attention|{self.num_query_heads}|{self.num_kv_heads}|{self.head_dim}|{self.window}"

    @property
    def axis(self) -> Axis:
        """Sequences, or positions per sequence where the batch is given."""
        return "sequences" if self.batch_size is None else "positions"

    def operator(self, kv_dtype: str, batch_size: int | None = None, latent: bool = False) -> Attention:
        """The operator record of one batch.

        Raises
        ------
        InvalidArgumentError
            When sequences are the axis and no batch is named.
        """
        batch = self.batch_size if self.batch_size is not None else batch_size
        if batch is None:
            raise InvalidArgumentError("sequences are this curve's axis: name the batch_size of the point")
        return Attention(
            num_query_heads=self.num_query_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            context_length=self.context_length,
            batch_size=batch,
            value_head_dim=MLA_VALUE_DIM if latent else None,
            shared_kv=latent,
            kv_dtype=kv_dtype,
            window=self.window or None,
            latent=latent,
        )


@dataclass(frozen=True)
class ModuleShape:
    """A whole attention block timed as one: projections, indexer where there is one, attention, output projection.

    Attributes
    ----------
    family : str
        ``mla``, ``dsa``, ``msa``, ``dsv4_csa`` or ``dsv4_hca``.
    model : str
        Hugging Face name of the model whose block it is.
    num_query_heads, tensor_parallel : int
        Heads on this rank [-], ranks [GPUs].
    context_length : int
        Cached tokens of every sequence [tokens].
    batch_size : int or None
        Sequences [-]; None when they are the axis.
    compress_ratio : int
        Cached tokens per stored one of the dsv4 families [-], 0 where there is none.
    """

    family: str
    model: str
    num_query_heads: int
    context_length: int
    batch_size: int | None = None
    tensor_parallel: int = 1
    compress_ratio: int = 0

    def __post_init__(self) -> None:
        require_positive_int(num_query_heads=self.num_query_heads, tensor_parallel=self.tensor_parallel)
        if self.context_length < 0:
            raise InvalidArgumentError(f"context_length must be at least 0, got {self.context_length}")

    @property
    def split_key(self) -> str:
        """``attention_module|family|model|heads``."""
        return f"attention_module|{self.family}|{self.model}|{self.num_query_heads}"

    @property
    def axis(self) -> Axis:
        """Sequences, or positions per sequence where the batch is given."""
        return "sequences" if self.batch_size is None else "positions"


@dataclass(frozen=True)
class AllReduceShape:
    """A collective among ``ranks`` GPUs; the axis is payload bytes on one rank."""

    ranks: int
    collective: str = "all_reduce"

    def __post_init__(self) -> None:
        require_positive_int(ranks=self.ranks)

    @property
    def split_key(self) -> str:
        """``collective|ranks``."""
        return f"{self.collective}|{self.ranks}"

    @property
    def axis(self) -> Axis:
        """Payload bytes."""
        return "bytes"


@dataclass(frozen=True)
class ElementwiseShape:
    """A piece of a forward between its matrix products, as transformers runs it; the axis is token rows.

    Attributes
    ----------
    work : str
        Name in :data:`~nfp_model.operators.pieces.UNFUSED`.
    width : int
        Features, experts, or heads of 128 (rotary, cache_update, attention_output) [-].

    Examples
    --------
    >>> ElementwiseShape("rms_norm", 4096).operator().launches
    8
    """

    work: str
    width: int

    def __post_init__(self) -> None:
        require_positive_int(width=self.width)
        if self.work not in UNFUSED:
            raise unknown_name("elementwise work", self.work, UNFUSED)

    @property
    def split_key(self) -> str:
        """``elementwise|work|width``."""
        return f"elementwise|{self.work}|{self.width}"

    @property
    def axis(self) -> Axis:
        """Token rows."""
        return "rows"

    def operator(self) -> Elementwise:
        """The operator record."""
        elements = self.width * _ELEMENTS_PER_WIDTH.get(self.work, 1)
        piece = UNFUSED[self.work].of(elements)
        # The bench sets the cache's length back by a fill of its own, and transformers' router brings its matrix product.
        return replace(piece, launches=piece.launches + 1) if self.work in ("cache_update", "router") else piece


_ELEMENTS_PER_WIDTH = {"rotary": 128, "attention_output": 128, "cache_update": 2 * 128}
"""Elements of a row for each head; a KV head has keys and values [elements]."""


@dataclass(frozen=True)
class ForwardShape:
    """A whole decode forward of a named model; the axis is positions per sequence.

    Attributes
    ----------
    model : str
        Spec.
    batch_size, context_length : int
        Sequences [-], cached tokens of each [tokens].
    layers : int
        Layers run, where not all of the model's were [layers]; 0 for all.
    decode_mode : {"verify", "block"}
        Causal or bidirectional among the new positions.
    """

    model: str
    batch_size: int = 1
    context_length: int = 0
    layers: int = 0
    decode_mode: Literal["verify", "block"] = "verify"

    def __post_init__(self) -> None:
        require_positive_int(batch_size=self.batch_size)
        if not self.model:
            raise InvalidArgumentError("model must name what was run, got ''")

    @property
    def split_key(self) -> str:
        """``forward|model|batch|context``."""
        return f"forward|{self.model}|{self.batch_size}|{self.context_length}"

    @property
    def axis(self) -> Axis:
        """Positions per sequence."""
        return "positions"


Shape = GemmShape | MoEShape | AttentionShape | ModuleShape | AllReduceShape | ElementwiseShape | ForwardShape
