"""Operator records with their bytes and FLOPs. Counts are exact; no efficiency enters here.

Three records are public and can be timed alone (:class:`Gemm`, :class:`FusedMoE`, :class:`Attention`); :class:`Elementwise`,
:class:`Collective` and :class:`LinearScan` fill the rest of a forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nfp_model.errors import InvalidArgumentError, require_positive_int
from nfp_model.operators.modules import CompressedAttention
from nfp_model.quantities import canonical_dtype, element_type
from nfp_model.workload import Routing

ACTIVATION_BYTES = 2
"""Activations travel between kernels in 16 bits [B]; quantisation happens inside the GEMM's launch sequence."""


@dataclass(frozen=True)
class Gemm:
    """A dense matrix product, ``tokens`` rows by ``out_features``.

    Attributes
    ----------
    out_features, in_features : int
        n and k of the weight matrix [elements].
    weight_dtype : str
        Storage format; it names the scheme: fp8 means 8-bit weights and 8-bit math, int4 and mxfp4 are weight-only.
    activation_dtype : str
        16-bit type of inputs and outputs.

    Examples
    --------
    >>> Gemm(4096, 4096).weight_bytes
    33554432.0
    """

    out_features: int
    in_features: int
    weight_dtype: str = "bfloat16"
    activation_dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        require_positive_int(out_features=self.out_features, in_features=self.in_features)
        object.__setattr__(self, "weight_dtype", canonical_dtype(self.weight_dtype))
        object.__setattr__(self, "activation_dtype", canonical_dtype(self.activation_dtype))

    @property
    def weight_bytes(self) -> float:
        """Bytes of the weight matrix, scales included [B]."""
        return self.out_features * self.in_features * element_type(self.weight_dtype).bytes

    @property
    def flop_per_row(self) -> float:
        """2 n k [FLOP]."""
        return 2.0 * self.out_features * self.in_features

    @property
    def activation_bytes_per_row(self) -> float:
        """Input read and output written for one row [B]."""
        return ACTIVATION_BYTES * (self.in_features + self.out_features)


@dataclass(frozen=True)
class FusedMoE:
    """Routed experts of one layer: gate/up and down grouped GEMMs over the experts that ``tokens`` rows touch.

    Attributes
    ----------
    hidden_size, intermediate_size : int
        h and i of one expert [elements]; i before tensor-parallel sharding.
    num_experts, top_k : int
        E and k over all ranks [-].
    weight_dtype, activation_dtype : str
        As for :class:`Gemm`.
    gated : bool
        Three matrices per expert, else two.
    routing : Routing or str
        How tokens choose experts.
    tensor_parallel, expert_parallel : int
        Ranks that share each expert's width, and ranks the experts are spread over. ``tokens`` counts over all ranks.
    """

    hidden_size: int
    intermediate_size: int
    num_experts: int
    top_k: int
    weight_dtype: str = "bfloat16"
    activation_dtype: str = "bfloat16"
    gated: bool = True
    routing: Routing | str = "uniform"
    tensor_parallel: int = 1
    expert_parallel: int = 1

    def __post_init__(self) -> None:
        require_positive_int(
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_experts=self.num_experts,
            top_k=self.top_k,
            tensor_parallel=self.tensor_parallel,
            expert_parallel=self.expert_parallel,
        )
        object.__setattr__(self, "weight_dtype", canonical_dtype(self.weight_dtype))
        object.__setattr__(self, "activation_dtype", canonical_dtype(self.activation_dtype))
        object.__setattr__(self, "routing", Routing.parse(self.routing))
        if self.top_k > self.num_experts:
            raise InvalidArgumentError(f"top_k {self.top_k} exceeds num_experts {self.num_experts}")
        if self.num_experts % self.expert_parallel:
            raise InvalidArgumentError(
                f"expert_parallel {self.expert_parallel} does not divide {self.num_experts} experts"
            )
        if self.intermediate_size % self.tensor_parallel:
            raise InvalidArgumentError(
                f"tensor_parallel {self.tensor_parallel} does not divide the expert width {self.intermediate_size}"
            )
        shares = self.load_routing.shares
        if shares and len(shares) != self.num_experts:
            raise InvalidArgumentError(f"the routing histogram has {len(shares)} shares for {self.num_experts} experts")

    @property
    def load_routing(self) -> Routing:
        """The routing as a :class:`~nfp_model.workload.Routing`."""
        return Routing.parse(self.routing)

    @property
    def local_experts(self) -> int:
        """Experts whose weights this rank holds [-]."""
        return self.num_experts // self.expert_parallel

    @property
    def local_width(self) -> int:
        """Expert width on this rank [elements]."""
        return self.intermediate_size // self.tensor_parallel

    @property
    def matrices(self) -> int:
        """Weight matrices per expert: 3 gated, 2 plain [-]."""
        return 3 if self.gated else 2

    @property
    def up_bytes(self) -> float:
        """Weights of one local expert's first grouped GEMM [B]."""
        return (self.matrices - 1) * self.hidden_size * self.local_width * element_type(self.weight_dtype).bytes

    @property
    def down_bytes(self) -> float:
        """Weights of one local expert's second grouped GEMM [B]."""
        return self.hidden_size * self.local_width * element_type(self.weight_dtype).bytes

    @property
    def expert_bytes(self) -> float:
        """All weights of one local expert [B]."""
        return self.up_bytes + self.down_bytes

    @property
    def flop_per_routed_row(self) -> float:
        """FLOP of one (token, expert) pair on this rank: 2 x matrices x h x i [FLOP]."""
        return 2.0 * self.matrices * self.hidden_size * self.local_width

    @property
    def activation_bytes_per_routed_row(self) -> float:
        """Rows gathered, intermediate written and read, result written: (2h + 3i) x 2 B (cost model, section 3) [B]."""
        return (2 * self.hidden_size + 3 * self.local_width) * ACTIVATION_BYTES


@dataclass(frozen=True)
class Attention:
    """Decode attention of one layer: ``tokens`` new positions per sequence against the cached context.

    Attributes
    ----------
    num_query_heads, num_kv_heads : int
        Heads on this rank [-].
    head_dim, value_head_dim : int
        d_k and d_v [elements].
    context_length : int or tuple of int
        Cached tokens [tokens], one number or one per sequence.
    batch_size : int
        Sequences [-].
    shared_kv : bool
        One cache holds keys and values (MLA's latent: d_k = 576, d_v = 512).
    causal : bool
        Among the new positions; False for block diffusion.
    kv_dtype : str
        Cache storage.
    window : int or None
        Sliding window [tokens].
    chunk : int or None
        Attention chunk [tokens].
    latent : bool
        MLA in its absorbed form, which has kernels of its own.
    """

    num_query_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int | tuple[int, ...]
    batch_size: int = 1
    value_head_dim: int | None = None
    shared_kv: bool = False
    causal: bool = True
    kv_dtype: str = "bfloat16"
    window: int | None = None
    chunk: int | None = None
    latent: bool = False

    def __post_init__(self) -> None:
        require_positive_int(
            num_query_heads=self.num_query_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            batch_size=self.batch_size,
        )
        object.__setattr__(self, "kv_dtype", canonical_dtype(self.kv_dtype))
        if self.num_query_heads % self.num_kv_heads:
            raise InvalidArgumentError(
                f"num_query_heads {self.num_query_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if min(self.context_lengths) < 0:
            raise InvalidArgumentError(f"context_length must be at least 0, got {min(self.context_lengths)}")

    @property
    def context_lengths(self) -> tuple[int, ...]:
        """Cached tokens, as a tuple [tokens]."""
        return self.context_length if isinstance(self.context_length, tuple) else (self.context_length,)

    @property
    def group_size(self) -> int:
        """GQA group size g: query heads per KV head [-]."""
        return self.num_query_heads // self.num_kv_heads

    @property
    def values_dim(self) -> int:
        """d_v [elements]."""
        return self.value_head_dim or self.head_dim

    @property
    def cache_bytes_per_token(self) -> float:
        """KV bytes of one cached token of one sequence, over KV heads, never query heads [B]."""
        elements = self.num_kv_heads * (self.head_dim + (0 if self.shared_kv else self.values_dim))
        return elements * element_type(self.kv_dtype).bytes

    @property
    def flop_per_position_and_key(self) -> float:
        """2 H (d_k + d_v): scores and weighted sum of one position against one key [FLOP]."""
        return 2.0 * self.num_query_heads * (self.head_dim + self.values_dim)

    def keys_before(self, context: int) -> int:
        """Cached keys a new position still sees behind a window or chunk [tokens]."""
        if self.window is not None:
            return min(context, self.window - 1)
        if self.chunk is not None:
            return context % self.chunk
        return context

    @property
    def mean_keys_before(self) -> float:
        """Cached keys a new position sees, mean of the sequences [tokens]."""
        return sum(self.keys_before(context) for context in self.context_lengths) / len(self.context_lengths)


@dataclass(frozen=True)
class Elementwise:
    """A bandwidth-bound kernel: norm, rotary, activation, embedding lookup, residual.

    Attributes
    ----------
    bytes_per_row : float
        Read and written for one token row [B].
    fixed_bytes : float
        Read whatever the rows [B], such as a recurrent state per sequence.
    launches : int
        Kernels it takes, in launches of a plain one [-].
    several_rows_launches : int
        Kernels more from two rows on: what is contiguous with one row is copied or strided with several [-].
    means : tuple of (int, int)
        Kernels among them that average along rows: elements of such a row, and such rows in one token row [-].
    searches : int
        Kernels among them that search or sort along a row, slower the more rows there are, up to a limit [-].
    """

    bytes_per_row: float
    fixed_bytes: float = 0.0
    launches: int = 1
    several_rows_launches: int = 0
    means: tuple[tuple[int, int], ...] = ()
    searches: int = 0


@dataclass(frozen=True)
class LinearScan:
    """Recurrent update of a gated linear-attention layer: a fixed state per sequence, no context term.

    Attributes
    ----------
    state_bytes : float
        State of all sequences, read and written once a forward [B].
    bytes_per_row : float
        Queries, keys, values and outputs of one token row [B].
    flop_per_row : float
        State update and readout of one row [FLOP].
    """

    state_bytes: float
    bytes_per_row: float
    flop_per_row: float


@dataclass(frozen=True)
class Collective:
    """Communication between ranks.

    Attributes
    ----------
    kind : {"all_reduce", "all_gather", "all_to_all"}
        Which.
    bytes_per_row : float
        Payload of one token row on one rank [B].
    ranks : int
        GPUs taking part.
    """

    kind: Literal["all_reduce", "all_gather", "all_to_all"]
    bytes_per_row: float
    ranks: int


Operator = Gemm | FusedMoE | Attention | CompressedAttention | Elementwise | LinearScan | Collective

Module = Literal["projections", "attention", "dense_ffn", "moe_ffn", "head", "elementwise", "collectives"]
MODULES: tuple[Module, ...] = ("projections", "attention", "dense_ffn", "moe_ffn", "head", "elementwise", "collectives")


@dataclass(frozen=True)
class OperatorUse:
    """An operator in its place in the forward.

    Attributes
    ----------
    name : str
        For example ``layers.down_proj``.
    module : str
        One of :data:`MODULES`.
    operator : Operator
        The record.
    count : int
        Times it runs in one forward [-].
    axis : {"rows", "positions", "rank_rows"}
        What its token count is: all token rows M = B x N, query positions N per sequence (attention), or the rows of
        one data-parallel rank.
    """

    name: str
    module: Module
    operator: Operator
    count: int
    axis: Literal["rows", "positions", "rank_rows"] = "rows"
