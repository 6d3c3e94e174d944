"""A model and a workload become the operators of one decode forward, as one rank runs them."""

from __future__ import annotations

from collections.abc import Iterator

from nfp_model.errors import UnsupportedError
from nfp_model.operators.pieces import UNFUSED
from nfp_model.operators.records import (
    ACTIVATION_BYTES,
    Attention,
    Collective,
    Elementwise,
    FusedMoE,
    Gemm,
    LinearScan,
    Module,
    OperatorUse,
)
from nfp_model.quantities import element_type
from nfp_model.specs.model import (
    DenseFFN,
    LatentAttention,
    LayerGroup,
    LinearAttention,
    ModelSpec,
    MoEFFN,
    SoftmaxAttention,
)
from nfp_model.workload import Workload

FP8_BLOCK = 128
"""Edge of an fp8_block scale [elements]. A shard that cuts blocks is refused by the engines, but for merged columns such as
qkv (vLLM, model_executor/layers/quantization: validate_fp8_block_shape, Fp8MoEMethod.create_weights)."""

UNQUANTIZED_GROUPS = ("router", "head", "embedding")
"""Groups engines leave in 16 bits when a user asks for quantized weights."""


def forward_operators(model: ModelSpec, workload: Workload, fused: bool = True) -> tuple[OperatorUse, ...]:
    """Every operator of one decode forward on one rank, in running order, equal ones merged with a count.

    Parameters
    ----------
    model : ModelSpec
        Architecture.
    workload : Workload
        Batch, context, decode mode, data types, ranks.
    fused : bool
        As inference engines run it: query, key and value projections in one GEMM, gate and up in one, every piece between
        GEMMs in one kernel. False: as transformers runs it, each apart (layers of softmax attention and their FFNs).

    Returns
    -------
    tuple of OperatorUse
        GEMMs, fused MoE, attention, element-wise work and collectives.

    Raises
    ------
    UnsupportedError
        When heads, widths or experts do not divide over the ranks, or a shard cuts the scale blocks of fp8_block weights.

    Examples
    --------
    >>> from nfp_model import load_model
    >>> from nfp_model.workload import Workload
    >>> [use.name for use in forward_operators(load_model("llama-3.1-8b"), Workload()) if use.module == "dense_ffn"]
    ['gate_up_proj', 'activation', 'down_proj']
    """
    once = _rows(2 * model.hidden_size) if fused else UNFUSED["once"].of(model.hidden_size)
    uses: list[OperatorUse] = [OperatorUse("embedding", "elementwise", once, 1, "rank_rows")]
    for group in model.layers:
        uses += _attention_operators(model, group, workload, fused)
        for name in group.ffn:
            ffn = model.ffn[name]
            if isinstance(ffn, MoEFFN):
                uses += _moe_operators(model, group, ffn, workload, fused)
            else:
                uses += _dense_operators(model, group, ffn, workload, fused)
    norms = model.num_layers * model.norms_per_layer + 1
    norm = _rows(4 * model.hidden_size) if fused else UNFUSED["rms_norm"].of(model.hidden_size)
    uses.append(OperatorUse("norms", "elementwise", norm, norms, "rank_rows"))
    if not fused:
        residual = UNFUSED["residual"].of(model.hidden_size)
        uses.append(OperatorUse("residuals", "elementwise", residual, 2 * model.num_layers, "rank_rows"))
    head = Gemm(
        _shard_up(model.vocab_size, workload.tensor_parallel), model.hidden_size, _dtype(model, None, "head", workload)
    )
    uses.append(OperatorUse("lm_head", "head", head, 1, "rank_rows"))
    return tuple(_merged(uses))


def _rows(elements_per_row: float, launches: int = 1) -> Elementwise:
    return Elementwise(ACTIVATION_BYTES * elements_per_row, launches=launches)


def _merged(uses: list[OperatorUse]) -> Iterator[OperatorUse]:
    merged: dict[tuple[object, ...], OperatorUse] = {}
    for use in uses:
        key = (use.name, use.module, use.operator, use.axis)
        known = merged.get(key)
        count = use.count + (known.count if known else 0)
        merged[key] = OperatorUse(use.name, use.module, use.operator, count, use.axis)
    names = [use.name for use in merged.values()]
    for use in merged.values():
        # Two shapes under one name (full and sliding attention, say) are told apart by number.
        twins = [other for other in merged.values() if other.name == use.name]
        suffix = f"_{twins.index(use) + 1}" if names.count(use.name) > 1 else ""
        yield OperatorUse(use.name + suffix, use.module, use.operator, use.count, use.axis)


def _dtype(model: ModelSpec, group: LayerGroup | None, weight_group: str, workload: Workload) -> str:
    override = workload.weight_dtype
    own = model.dtype_of(weight_group, group)
    if override is None:
        return own
    quantized = element_type(override).bits < 16
    if quantized and weight_group in UNQUANTIZED_GROUPS:
        return own if element_type(own).bits >= 16 else "bfloat16"
    return override


def kv_dtype(model: ModelSpec, workload: Workload) -> str:
    """Storage format of the KV cache: asked for, the model's own, else 16 bits."""
    if workload.kv_dtype is not None:
        return workload.kv_dtype
    if model.kv_dtype is not None:
        return model.kv_dtype
    return model.dtype if element_type(model.dtype).bits == 16 else "bfloat16"


def _shard(model: ModelSpec, what: str, size: int, ranks: int) -> int:
    if size % ranks:
        raise UnsupportedError(f"{model.title}: tensor_parallel {ranks} does not divide {what} {size}")
    return size // ranks


def _whole_blocks(model: ModelSpec, what: str, width: int, ranks: int, weights: str) -> None:
    """Refuse a shard that is no whole number of fp8 blocks wide."""
    if weights == "fp8_block" and ranks > 1 and width % FP8_BLOCK:
        raise UnsupportedError(
            f"{model.title}: {what} is {width} on each of {ranks} ranks, no multiple of the {FP8_BLOCK} of its fp8_block weights"
        )


def _shard_up(size: int, ranks: int) -> int:
    """Vocabularies are padded to a multiple of the ranks, as engines do."""
    return -(-size // ranks)


def _contexts(workload: Workload) -> int | tuple[int, ...]:
    if workload.attention_replicas == 1:
        return workload.context_length
    return workload.longest_context


def _attention_operators(model: ModelSpec, group: LayerGroup, workload: Workload, fused: bool) -> list[OperatorUse]:
    part = model.attention[group.attention]
    if isinstance(part, LatentAttention):
        uses = _latent(model, group, part, workload)
    elif isinstance(part, LinearAttention):
        uses = _linear(model, group, part, workload)
    else:
        uses = _softmax(model, group, part, workload, fused)
    return uses + _all_reduce(model, group, workload)


def _all_reduce(model: ModelSpec, group: LayerGroup, workload: Workload) -> list[OperatorUse]:
    if workload.tensor_parallel == 1:
        return []
    collective = Collective("all_reduce", ACTIVATION_BYTES * model.hidden_size, workload.tensor_parallel)
    return [OperatorUse("all_reduce", "collectives", collective, group.count, "rank_rows")]


def _softmax(
    model: ModelSpec, group: LayerGroup, part: SoftmaxAttention, workload: Workload, fused: bool
) -> list[OperatorUse]:
    ranks, hidden, count = workload.tensor_parallel, model.hidden_size, group.count
    heads = _shard(model, "query heads", part.num_query_heads, ranks)
    if part.num_kv_heads % ranks and ranks % part.num_kv_heads:
        raise UnsupportedError(
            f"{model.title}: {part.num_kv_heads} KV heads neither divide nor replicate over {ranks} ranks"
        )
    kv_heads = max(1, part.num_kv_heads // ranks)
    queries, output = heads * part.head_dim, heads * part.values_dim
    keys, values = kv_heads * part.head_dim, 0 if part.shared_kv else kv_heads * part.values_dim
    gate = output if part.output_gate else 0
    weights = _dtype(model, group, "attention", workload)
    output_weights = _dtype(model, group, "attention_output", workload)
    _whole_blocks(model, "the attention output", output, ranks, output_weights)
    attention = Attention(
        heads, kv_heads, part.head_dim, _contexts(workload), workload.rank_batch,
        value_head_dim=part.values_dim, shared_kv=part.shared_kv, causal=workload.decode_mode == "verify",
        kv_dtype=kv_dtype(model, workload), window=part.window, chunk=part.chunk,
    )  # fmt: skip
    output_projection = OperatorUse("o_proj", "projections", Gemm(hidden, output, output_weights), count, "rank_rows")
    if not fused:
        widths = {"q_proj": queries + gate, "k_proj": keys, "v_proj": values}
        return [
            *(
                OperatorUse(name, "projections", Gemm(width, hidden, weights), count, "rank_rows")
                for name, width in widths.items()
                if width
            ),
            *_unfused_attention_pieces(part, (queries, keys, values), workload.rank_batch, count),
            OperatorUse("attention", "attention", attention, count, "positions"),
            output_projection,
        ]
    # Rotary reads and writes queries and keys; the cache write reads keys and values and stores them.
    rotary = _rows(2 * (queries + keys) + 2 * (keys + values), launches=1 if part.qk_norm == "none" else 2)
    return [
        OperatorUse(
            "qkv_proj", "projections", Gemm(queries + gate + keys + values, hidden, weights), count, "rank_rows"
        ),
        OperatorUse("rotary_and_cache", "elementwise", rotary, count, "rank_rows"),
        OperatorUse("attention", "attention", attention, count, "positions"),
        output_projection,
    ]


def _unfused_attention_pieces(
    part: SoftmaxAttention, widths: tuple[int, int, int], batch: int, count: int
) -> list[OperatorUse]:
    queries, keys, values = widths
    pieces = {
        "rotary": UNFUSED["rotary"].of(queries + keys),
        "cache_update": UNFUSED["cache_update"].of(keys + values),
    }
    if part.qk_norm != "none":
        whole = part.qk_norm == "full"
        means = tuple((width, 1) if whole else (part.head_dim, width // part.head_dim) for width in (queries, keys))
        pieces["qk_norms"] = UNFUSED["rms_norm"].of(queries + keys, means)
    rows = [OperatorUse(name, "elementwise", piece, count, "rank_rows") for name, piece in pieces.items()]
    strided = OperatorUse(
        "strided_heads", "elementwise", UNFUSED["strided_heads"].of(batch * queries), count, "positions"
    )
    return [*rows, strided]


def _latent(model: ModelSpec, group: LayerGroup, part: LatentAttention, workload: Workload) -> list[OperatorUse]:
    """MLA as decoded: low-rank projections, W_UK absorbed into the query, one shared latent head, W_UV after it."""
    hidden, count = model.hidden_size, group.count
    heads = _shard(model, "query heads", part.num_query_heads, workload.tensor_parallel)
    weights = _dtype(model, group, "attention", workload)
    output_weights = _dtype(model, group, "attention_output", workload)
    # The absorbed halves of kv_b are kept in 16 bits by the engines, whatever the checkpoint stores.
    absorbed = weights if element_type(weights).bits >= 16 else "bfloat16"
    query_width = heads * (part.nope_head_dim + part.rope_head_dim)
    latent = part.latent_rank + part.rope_head_dim
    uses = [
        OperatorUse(
            "qkv_a_proj", "projections", Gemm((part.query_rank or 0) + latent, hidden, weights), count, "rank_rows"
        ),
        OperatorUse(
            "q_b_proj", "projections", Gemm(query_width, part.query_rank or hidden, weights), count, "rank_rows"
        ),
        OperatorUse(
            "absorb_k", "projections", Gemm(heads * part.latent_rank, part.nope_head_dim, absorbed), count, "rank_rows"
        ),
    ]
    window = part.index_top_k
    if part.index_heads is not None and part.index_head_dim is not None:
        uses += _indexer(model, group, part, workload)
    attention = Attention(
        heads, 1, latent, _contexts(workload), workload.rank_batch, value_head_dim=part.latent_rank, shared_kv=True,
        causal=workload.decode_mode == "verify", kv_dtype=kv_dtype(model, workload), window=window, latent=True,
    )  # fmt: skip
    value_width = heads * part.value_head_dim
    _whole_blocks(model, "the query projection", query_width, workload.tensor_parallel, weights)
    _whole_blocks(model, "the attention output", value_width, workload.tensor_parallel, output_weights)
    return [
        *uses,
        OperatorUse("rotary_and_cache", "elementwise", _rows(2 * query_width + 3 * latent), count, "rank_rows"),
        OperatorUse("attention", "attention", attention, count, "positions"),
        OperatorUse("absorb_v", "projections", Gemm(value_width, part.latent_rank, absorbed), count, "rank_rows"),
        OperatorUse("o_proj", "projections", Gemm(hidden, value_width, output_weights), count, "rank_rows"),
    ]


def _indexer(model: ModelSpec, group: LayerGroup, part: LatentAttention, workload: Workload) -> list[OperatorUse]:
    """Sparse-attention indexer: its projection, and a scan of the 8-bit index keys of the whole context."""
    assert part.index_heads is not None
    assert part.index_head_dim is not None
    weights = _dtype(model, group, "attention", workload)
    projection = Gemm(part.index_heads * part.index_head_dim, part.query_rank or model.hidden_size, weights)
    scan = Attention(
        part.index_heads, 1, part.index_head_dim, _contexts(workload), workload.rank_batch, shared_kv=True,
        causal=workload.decode_mode == "verify", kv_dtype="fp8",
    )  # fmt: skip
    return [
        OperatorUse("index_proj", "projections", projection, group.count, "rank_rows"),
        OperatorUse("index_scan", "attention", scan, group.count, "positions"),
    ]


def _linear(model: ModelSpec, group: LayerGroup, part: LinearAttention, workload: Workload) -> list[OperatorUse]:
    hidden, count, ranks = model.hidden_size, group.count, workload.tensor_parallel
    value_heads = _shard(model, "linear-attention value heads", part.value_heads, ranks)
    convolved = _shard(model, "linear-attention channels", part.convolved_width, ranks)
    values = value_heads * part.value_head_dim
    weights = _dtype(model, group, "attention", workload)
    output_weights = _dtype(model, group, "attention_output", workload)
    _whole_blocks(model, "the attention output", values, ranks, output_weights)
    state = workload.rank_batch * value_heads * part.key_head_dim * part.value_head_dim
    scan = LinearScan(
        state_bytes=2 * state * element_type(part.state_dtype).bytes,
        bytes_per_row=ACTIVATION_BYTES * (convolved + values),
        flop_per_row=6.0 * value_heads * part.key_head_dim * part.value_head_dim,
    )
    return [
        OperatorUse(
            "in_proj", "projections", Gemm(convolved + values + 2 * value_heads, hidden, weights), count, "rank_rows"
        ),
        OperatorUse("convolution", "elementwise", _rows(2 * convolved), count, "rank_rows"),
        OperatorUse("linear_scan", "attention", scan, count, "rank_rows"),
        OperatorUse("gated_norm", "elementwise", _rows(3 * values), count, "rank_rows"),
        OperatorUse("o_proj", "projections", Gemm(hidden, values, output_weights), count, "rank_rows"),
    ]


def _dense_operators(
    model: ModelSpec, group: LayerGroup, ffn: DenseFFN, workload: Workload, fused: bool
) -> list[OperatorUse]:
    width = _shard(model, "the FFN width", ffn.intermediate_size, workload.tensor_parallel)
    weights = _dtype(model, group, "dense_ffn", workload)
    _whole_blocks(model, "the FFN width", width, workload.tensor_parallel, weights)
    columns = width * (2 if ffn.gated else 1)
    hidden, count = model.hidden_size, group.count
    return [
        *_gated_mlp("", "dense_ffn", (columns, width, hidden), weights, count, fused),
        *_all_reduce(model, group, workload),
    ]


def _gated_mlp(
    prefix: str, module: Module, sizes: tuple[int, int, int], weights: str, count: int, fused: bool
) -> list[OperatorUse]:
    """First GEMM (gate and up together or apart), activation, second GEMM; ``sizes`` are its columns, width and hidden size."""
    columns, width, hidden = sizes
    gated = columns > width
    if fused or not gated:
        name = f"{prefix}gate_up_proj" if gated and not prefix else f"{prefix}up_proj"
        first = [OperatorUse(name, module, Gemm(columns, hidden, weights), count, "rank_rows")]
    else:
        first = [OperatorUse(f"{prefix}gate_and_up_proj", module, Gemm(width, hidden, weights), 2 * count, "rank_rows")]
    activation = _rows(columns + width) if fused else UNFUSED["activation"].of(width)
    return [
        *first,
        OperatorUse(f"{prefix}activation", module, activation, count, "rank_rows"),
        OperatorUse(f"{prefix}down_proj", module, Gemm(hidden, width, weights), count, "rank_rows"),
    ]


def _moe_operators(
    model: ModelSpec, group: LayerGroup, ffn: MoEFFN, workload: Workload, fused: bool
) -> list[OperatorUse]:
    hidden, count = model.hidden_size, group.count
    if ffn.num_experts % workload.expert_parallel:
        raise UnsupportedError(
            f"{model.title}: expert_parallel {workload.expert_parallel} does not divide {ffn.num_experts} experts"
        )
    expert_ranks, expert_weights = workload.expert_tensor_parallel, _dtype(model, group, "experts", workload)
    width = _shard(model, "the expert width", ffn.intermediate_size, expert_ranks)
    _whole_blocks(model, "the expert width", width, expert_ranks, expert_weights)
    expert_hidden = ffn.expert_hidden_size or hidden
    router = Gemm(ffn.num_experts, hidden, _dtype(model, group, "router", workload))
    experts = FusedMoE(
        expert_hidden, ffn.intermediate_size, ffn.num_experts, ffn.top_k, expert_weights, gated=ffn.gated,
        routing=workload.routing, tensor_parallel=expert_ranks, expert_parallel=workload.expert_parallel,
    )  # fmt: skip
    uses = [OperatorUse("router", "moe_ffn", router, count, "rank_rows")]
    if not fused:
        choice = UNFUSED["grouped_router" if ffn.groups > 1 else "router"].of(ffn.num_experts)
        uses.append(OperatorUse("choice", "moe_ffn", choice, count, "rank_rows"))
    around = _latent_projections(model, group, ffn, workload)
    if ffn.shared_intermediate_size:
        width = _shard(model, "the shared-expert width", ffn.shared_intermediate_size, workload.tensor_parallel)
        weights = _dtype(model, group, "shared_experts", workload)
        _whole_blocks(model, "the shared-expert width", width, workload.tensor_parallel, weights)
        columns = width * (2 if ffn.gated else 1)
        uses += _gated_mlp("shared_", "moe_ffn", (columns, width, hidden), weights, count, fused)
    if workload.attention_replicas > 1:
        # Each row travels to at most top_k ranks and its partial sums come back: dispatch and combine.
        copies = min(ffn.top_k, workload.expert_parallel)
        exchange = Collective("all_to_all", ACTIVATION_BYTES * expert_hidden * copies, workload.expert_parallel)
        uses.append(OperatorUse("dispatch_and_combine", "collectives", exchange, 2 * count, "rank_rows"))
    uses += [*around[:1], OperatorUse("experts", "moe_ffn", experts, count, "rows"), *around[1:]]
    return uses + _all_reduce(model, group, workload)


def _latent_projections(model: ModelSpec, group: LayerGroup, ffn: MoEFFN, workload: Workload) -> list[OperatorUse]:
    """Down to the width of latent experts and back up, whole on every rank as the engines keep them.

    vLLM, model_executor/models/nemotron_h.py: fc1_latent_proj and fc2_latent_proj are ReplicatedLinear.
    """
    if ffn.expert_hidden_size is None:
        return []
    latent, weights = ffn.expert_hidden_size, _dtype(model, group, "dense_ffn", workload)
    down, up = Gemm(latent, model.hidden_size, weights), Gemm(model.hidden_size, latent, weights)
    return [
        OperatorUse("latent_down_proj", "moe_ffn", down, group.count, "rank_rows"),
        OperatorUse("latent_up_proj", "moe_ffn", up, group.count, "rank_rows"),
    ]


def weight_bytes(model: ModelSpec, workload: Workload, uses: tuple[OperatorUse, ...] | None = None) -> float:
    """Bytes of weights one rank stores: every matrix of the forward, every local expert, the embedding [B].

    ``uses`` spares the work where the forward's operators are already there.
    """
    total = 0.0
    for use in forward_operators(model, workload) if uses is None else uses:
        if isinstance(use.operator, Gemm):
            total += use.count * use.operator.weight_bytes
        elif isinstance(use.operator, FusedMoE):
            total += use.count * use.operator.expert_bytes * use.operator.local_experts
    if model.tied_embeddings:
        return total
    rows = _shard_up(model.vocab_size, workload.tensor_parallel)
    return total + rows * model.hidden_size * element_type(_dtype(model, None, "embedding", workload)).bytes


def cache_bytes(model: ModelSpec, workload: Workload, uses: tuple[OperatorUse, ...] | None = None) -> float:
    """Bytes of KV cache and recurrent state one rank holds for the batch at the given context [B]; ``uses`` as above."""
    total = 0.0
    for use in forward_operators(model, workload) if uses is None else uses:
        if isinstance(use.operator, Attention):
            op = use.operator
            tokens = op.mean_keys_before if op.window else workload.mean_context
            total += use.count * op.batch_size * op.cache_bytes_per_token * tokens
        elif isinstance(use.operator, LinearScan):
            total += use.count * use.operator.state_bytes / 2
    return total
