"""What is measured: one case is an operator with everything fixed but the number of positions.

Shapes come from the model specs, so that no dimension is written twice. Kinds, in the order they are worth measuring:
``forward`` (whole decode forwards), ``attention``, ``moe``, ``gemm``; ``ceilings`` and ``elementwise`` are short and go with
the first run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nfp_model.boundary import saturated_baseline
from nfp_model.errors import InvalidArgumentError, unknown_name
from nfp_model.operators import Attention, FusedMoE, Gemm
from nfp_model.quantities import element_type
from nfp_model.specs.model import DenseFFN, ModelSpec, MoEFFN, SoftmaxAttention
from nfp_model.specs.registry import load_model
from nfp_model.specs.variants import with_fields

KEY_COLUMNS: dict[str, tuple[str, ...]] = {
    "ceilings": ("probe",),
    "gemm": ("shape", "out_features", "in_features", "weight_dtype", "implementation"),
    "moe": (
        "shape", "hidden_size", "intermediate_size", "num_experts", "top_k", "routing", "weight_dtype",
        "implementation", "block_rows",
    ),
    "attention": ("num_query_heads", "num_kv_heads", "head_dim", "causal", "kv_dtype", "implementation"),
    "elementwise": ("work", "width", "implementation"),
    "forward": ("model", "layers", "architecture", "decode_mode", "weight_dtype", "implementation"),
}  # fmt: skip
"""Columns that name a case, per kind; batch and context are columns of every kind."""

KINDS = tuple(KEY_COLUMNS)

GEMM_BASELINES = (1, 16)
"""One row, and past the special kernels for a few rows [rows]."""
GEMM_MODELS = ("llama_3_1_8b", "qwen3_8b", "llama_3_1_70b", "qwen3_32b")
MOE_MODELS = ("mixtral_8x7b", "qwen3_30b_a3b", "llada2_0_mini")
MOE_BLOCK_ROWS = (16, 32, 64, 128)
MOE_ROUTINGS = ("uniform", "power_law:1.2")
EXPERT_RANKS = {"deepseek_v3": 8}
"""MoE models measured as one of so many expert-parallel ranks."""

ATTENTION_HEADS = ((32, 8), (32, 4), (32, 32), (64, 4), (16, 4))
"""(query, KV) heads: GQA groups of 4, 8, 1, 16, and 4 with half the heads."""
ATTENTION_CONTEXTS = (8192, 1024, 32768, 131072)
ATTENTION_BATCHES = (1, 8, 64)
ATTENTION_CACHE_LIMIT_BYTES = 9e9
"""Largest cache of one case [B]: beyond it only the batch grows, and the run's minutes go."""
ATTENTION_STOP_RATIO = 16.0
FLEX_SIZES = (1, 16, 64, 256)
"""FlexAttention compiles anew for every number of positions, seconds each: a few must do [positions]."""

ELEMENTWISE_WORKS = ("rms_norm", "residual", "rotary", "cache_update", "activation", "router", "attention_output")
ELEMENTWISE_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

FORWARD_MODELS = (
    ("llama_3_1_8b", 32, "llama", "verify"),
    ("qwen3_30b_a3b", 48, "qwen3_moe", "verify"),
    ("llada2_0_mini", 20, "glm4_moe", "block"),
    ("llada_8b", 32, "llama", "block"),
    ("qwen3_8b", 36, "qwen3", "verify"),
    ("mixtral_8x7b", 20, "mixtral", "verify"),
)
"""Model spec, layers run, the transformers architecture that runs it (the nearest for diffusion models), decode mode. Twenty of
Mixtral's 32 layers are what fits 80 GB beside a cache."""
FORWARD_BATCHES = (1, 8, 32)
FORWARD_CONTEXTS = (1024, 8192)
FORWARD_STOP_RATIO = 6.0


@dataclass(frozen=True)
class Case:
    """One curve to measure.

    Attributes
    ----------
    operator : str
        One of :data:`KINDS`.
    key : tuple
        Values of :data:`KEY_COLUMNS` for this operator, in that order.
    batch : int
        Sequences [-].
    context : int
        Cached tokens of each [tokens].
    largest : int
        Most positions per sequence to measure [positions].
    sizes : tuple of int
        A fixed grid instead of an adaptive one; what a size means for a ceiling is told in the file's header.
    stop_ratio : float
        The coarse grid ends above this multiple of the first point [-]: what follows is plainly compute-bound.
    baselines : tuple of int
        Sizes from which near-free boundaries are looked for before other steps [positions].

    Examples
    --------
    >>> case = Case("gemm", ("qkv", 6144, 4096, "bfloat16", "linear"))
    >>> case["out_features"]
    6144
    """

    operator: str
    key: tuple[str | int, ...]
    batch: int = 1
    context: int = 0
    largest: int = 1024
    sizes: tuple[int, ...] = ()
    stop_ratio: float = math.inf
    baselines: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.operator not in KEY_COLUMNS:
            raise unknown_name("kind of measurement", self.operator, KINDS)
        if len(self.key) != len(KEY_COLUMNS[self.operator]):
            raise InvalidArgumentError(
                f"a {self.operator} case is named by {', '.join(KEY_COLUMNS[self.operator])}, got {self.key!r}"
            )

    def __getitem__(self, column: str) -> str | int:
        """One key column's value."""
        return self.key[KEY_COLUMNS[self.operator].index(column)]

    def number(self, column: str) -> int:
        """One key column as a whole number."""
        return int(self[column])

    @property
    def group(self) -> str:
        """Cases of one group share loaded weights and a share of the time budget."""
        return f"forward {self['model']}" if self.operator == "forward" else str(self)

    def __str__(self) -> str:
        named = " ".join(str(part) for part in self.key)
        return f"{self.operator} {named}" + (f" batch {self.batch} context {self.context}" if self.context else "")


def cases_of(kind: str) -> tuple[Case, ...]:
    """Every case of one kind, most wanted first.

    Parameters
    ----------
    kind : str
        One of :data:`KINDS`.

    Raises
    ------
    UnknownNameError
        For any other kind.

    Examples
    --------
    >>> [str(case) for case in cases_of("ceilings")][:2]
    ['ceilings copy', 'ceilings matmul_bfloat16']
    """
    makers: dict[str, Callable[[], Iterator[Case]]]
    makers = {"ceilings": _ceilings, "gemm": _gemms, "moe": _moes, "attention": _attentions,
              "elementwise": _elementwise, "forward": _forwards}  # fmt: skip
    if kind not in makers:
        raise unknown_name("kind of measurement", kind, KINDS)
    return tuple(dict.fromkeys(makers[kind]()))


def operator_of(case: Case) -> Gemm | FusedMoE | Attention | None:
    """The operator record of a case, for predicting its steps; None for ceilings and whole forwards.

    Examples
    --------
    >>> operator_of(Case("gemm", ("qkv", 6144, 4096, "fp8", "scaled_mm")))
    Gemm(out_features=6144, in_features=4096, weight_dtype='fp8', activation_dtype='bfloat16')
    """
    if case.operator == "gemm":
        return Gemm(case.number("out_features"), case.number("in_features"), str(case["weight_dtype"]))
    if case.operator == "moe":
        return FusedMoE(
            hidden_size=case.number("hidden_size"),
            intermediate_size=case.number("intermediate_size"),
            num_experts=case.number("num_experts"),
            top_k=case.number("top_k"),
            weight_dtype=str(case["weight_dtype"]),
            routing=str(case["routing"]),
        )
    if case.operator == "attention":
        return Attention(
            num_query_heads=case.number("num_query_heads"),
            num_kv_heads=case.number("num_kv_heads"),
            head_dim=case.number("head_dim"),
            context_length=case.context,
            batch_size=case.batch,
            causal=bool(case.number("causal")),
        )
    return None


def _ceilings() -> Iterator[Case]:
    yield Case("ceilings", ("copy",), sizes=(1024, 8192))
    yield Case("ceilings", ("matmul_bfloat16",), sizes=(4096, 8192, 16384))
    yield Case("ceilings", ("matmul_fp8",), sizes=(4096, 8192, 16384))
    yield Case("ceilings", ("graph_nodes",), sizes=(64, 1024))


def dense_shapes(model: ModelSpec) -> dict[tuple[int, int], str]:
    """(out, in) features of a model's dense GEMMs -> its name: fused as engines run them, split as transformers does.

    Examples
    --------
    >>> dense_shapes(load_model("llama_3_1_8b"))[(6144, 4096)]
    'llama_3_1_8b.qkv'
    """
    found: dict[tuple[int, int], str] = {}

    def add(name: str, out_features: int, in_features: int) -> None:
        found.setdefault((out_features, in_features), f"{model.name}.{name}")

    hidden = model.hidden_size
    for attention in model.attention.values():
        if isinstance(attention, SoftmaxAttention):
            queries = attention.num_query_heads * attention.head_dim
            keys = attention.num_kv_heads * attention.head_dim
            add("qkv", queries + 2 * keys, hidden)
            add("o", hidden, queries)
            add("q", queries, hidden)
            add("k", keys, hidden)
    for ffn in model.ffn.values():
        if isinstance(ffn, DenseFFN):
            add("gate_up", 2 * ffn.intermediate_size, hidden)
            add("down", hidden, ffn.intermediate_size)
            add("gate", ffn.intermediate_size, hidden)
    add("head", model.vocab_size, hidden)
    return found


def _gemms() -> Iterator[Case]:
    for weight_dtype, implementation in (("bfloat16", "linear"), ("fp8", "scaled_mm")):
        seen: dict[tuple[int, int], str] = {}
        for name in GEMM_MODELS:
            seen |= {
                features: shape for features, shape in dense_shapes(load_model(name)).items() if features not in seen
            }
        for (out_features, in_features), shape in seen.items():
            key = (shape, out_features, in_features, weight_dtype, implementation)
            yield Case("gemm", key, baselines=GEMM_BASELINES)


def _moe_shapes() -> Iterator[tuple[str, int, int, int, int]]:
    for name in MOE_MODELS:
        model = load_model(name)
        ffn = next(part for part in model.ffn.values() if isinstance(part, MoEFFN))
        yield name, model.hidden_size, ffn.intermediate_size, ffn.num_experts, ffn.top_k
    for name, ranks in EXPERT_RANKS.items():
        model = load_model(name)
        ffn = next(part for part in model.ffn.values() if isinstance(part, MoEFFN))
        # One rank's mean share: of k choices over E experts, k / ranks fall on its E / ranks experts.
        yield (
            f"{name}.rank",
            model.hidden_size,
            ffn.intermediate_size,
            ffn.num_experts // ranks,
            max(1, ffn.top_k // ranks),
        )


def _moes() -> Iterator[Case]:
    shapes = list(_moe_shapes())
    for routing in MOE_ROUTINGS:
        for shape in shapes:
            baselines = (1, saturated_baseline(shape[3], shape[4], 1))
            for implementation, rows in (("grouped_mm", 0), *(("triton", rows) for rows in MOE_BLOCK_ROWS)):
                yield Case("moe", (*shape, routing, "bfloat16", implementation, rows), baselines=baselines)


def _attentions() -> Iterator[Case]:
    """The kernel of whole forwards first, over everything; the others where they show how they differ."""
    short, few = ATTENTION_CONTEXTS[:2], ((32, 8), (32, 32))
    yield from _attention_cases("sdpa_flash", True, ATTENTION_CONTEXTS, ATTENTION_HEADS, ATTENTION_BATCHES)
    yield from _attention_cases("sdpa_flash", False, short, ATTENTION_HEADS, ATTENTION_BATCHES[:2])
    yield from _attention_cases("sdpa_cudnn", False, short, few, ATTENTION_BATCHES[:2])
    yield from _attention_cases("sdpa_cudnn", True, short, few[:1], ATTENTION_BATCHES[:1])
    yield from _attention_cases("flex", True, short[:1], few, ATTENTION_BATCHES[:1], FLEX_SIZES)
    yield from _attention_cases("flex", False, short[:1], few, ATTENTION_BATCHES[:1], FLEX_SIZES)


def _attention_cases(
    implementation: str,
    causal: bool,
    contexts: tuple[int, ...],
    heads: tuple[tuple[int, int], ...],
    batches: tuple[int, ...],
    sizes: tuple[int, ...] = (),
) -> Iterator[Case]:
    head_dim, per_element = 128, element_type("bfloat16").bytes
    for context in contexts:
        for query_heads, kv_heads in heads:
            for batch in batches:
                if 2 * batch * context * kv_heads * head_dim * per_element <= ATTENTION_CACHE_LIMIT_BYTES:
                    key = (query_heads, kv_heads, head_dim, int(causal), "bfloat16", implementation)
                    yield Case(
                        "attention", key, batch, context, largest=512, sizes=sizes,
                        stop_ratio=ATTENTION_STOP_RATIO, baselines=(1,),
                    )  # fmt: skip


def _elementwise() -> Iterator[Case]:
    """What transformers runs between GEMMs, attention and experts, at the widths of the forwards."""
    widths = {
        "rms_norm": (4096, 2048, 1024, 128), "residual": (4096, 2048), "rotary": (40, 36), "cache_update": (8, 4),
        "activation": (14336, 5120), "router": (128, 256), "attention_output": (32, 16),
    }  # fmt: skip
    for work in ELEMENTWISE_WORKS:
        for width in widths[work]:
            # One row of heads is contiguous as it is: no kernel runs.
            sizes = ELEMENTWISE_SIZES[1:] if work == "attention_output" else ELEMENTWISE_SIZES
            yield Case("elementwise", (work, width, "transformers"), sizes=sizes)


def forward_model(model: str, layers: int) -> ModelSpec:
    """A model's spec with its last group of layers cut so that ``layers`` are left: what fits the device.

    Examples
    --------
    >>> forward_model("mixtral_8x7b", 20).num_layers
    20
    """
    spec = load_model(model)
    if layers == spec.num_layers:
        return spec
    last = len(spec.layers) - 1
    kept = layers - sum(group.count for group in spec.layers[:last])
    return with_fields(spec, {"num_layers": layers, f"layers.{last}.count": kept})


def _forwards() -> Iterator[Case]:
    for model, layers, architecture, mode in FORWARD_MODELS:
        spec = load_model(model)
        routed = next((part for part in spec.ffn.values() if isinstance(part, MoEFFN)), None)
        for implementation in ("flash", "sdpa"):
            for context in FORWARD_CONTEXTS:
                for batch in FORWARD_BATCHES:
                    if implementation == "flash" or (batch == 1 and context == FORWARD_CONTEXTS[0]):
                        key = (model, layers, architecture, mode, "bfloat16", implementation)
                        saturated = saturated_baseline(routed.num_experts, routed.top_k, batch) if routed else 1
                        yield Case(
                            "forward", key, batch, context,
                            stop_ratio=FORWARD_STOP_RATIO, baselines=tuple(dict.fromkeys((1, saturated))),
                        )  # fmt: skip
