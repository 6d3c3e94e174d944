"""What is measured: one case is an operator with everything fixed but the number of positions.

Shapes come from the model specs, so that no dimension is written twice. Kinds, in the order they are worth measuring:
``forward`` (whole decode forwards), ``attention``, ``moe``, ``gemm``; ``ceilings`` are short and go with the first run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from nfp_model.errors import InvalidArgumentError, unknown_name
from nfp_model.operators import Attention, FusedMoE, Gemm
from nfp_model.quantities import element_type
from nfp_model.specs.model import DenseFFN, ModelSpec, MoEFFN, SoftmaxAttention
from nfp_model.specs.registry import load_model

KEY_COLUMNS: dict[str, tuple[str, ...]] = {
    "ceilings": ("probe",),
    "gemm": ("shape", "out_features", "in_features", "weight_dtype", "implementation"),
    "moe": (
        "shape", "hidden_size", "intermediate_size", "num_experts", "top_k", "routing", "weight_dtype",
        "implementation", "block_rows",
    ),
    "attention": ("num_query_heads", "num_kv_heads", "head_dim", "causal", "kv_dtype", "implementation"),
    "forward": ("model", "architecture", "decode_mode", "weight_dtype", "implementation"),
}  # fmt: skip
"""Columns that name a case, per kind; batch and context are columns of every kind."""

KINDS = tuple(KEY_COLUMNS)

GEMM_MODELS = ("llama_3_1_8b", "qwen3_8b", "llama_3_1_70b", "qwen3_32b")
MOE_MODELS = ("mixtral_8x7b", "qwen3_30b_a3b", "llada2_0_mini")
MOE_BLOCK_ROWS = (16, 32, 64, 128)
MOE_ROUTINGS = ("uniform", "power_law:1.2")
EXPERT_RANKS = {"deepseek_v3": 8}
"""MoE models measured as one of so many expert-parallel ranks."""

ATTENTION_HEADS = ((32, 8), (64, 8), (32, 32), (64, 4))
"""(query, KV) heads: GQA groups of 4, 8, 1 and 16."""
ATTENTION_CONTEXTS = (4096, 1024, 16384, 65536, 131072)
ATTENTION_BATCHES = (1, 8, 64)
ATTENTION_CACHE_LIMIT_BYTES = 16e9
"""Largest cache of one case [B]: beyond it only the batch grows, and the run's minutes go."""
ATTENTION_STOP_RATIO = 16.0

FORWARD_MODELS = (
    ("llama_3_1_8b", "llama", "verify"),
    ("qwen3_30b_a3b", "qwen3_moe", "verify"),
    ("llada2_0_mini", "glm4_moe", "block"),
    ("llada_8b", "llama", "block"),
    ("qwen3_8b", "qwen3", "verify"),
    ("mixtral_8x7b", "mixtral", "verify"),
)
"""Model spec, the transformers architecture that runs it (the nearest for diffusion models), decode mode."""
FORWARD_BATCHES = (1, 8, 32)
FORWARD_CONTEXTS = (1024, 8192)


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
    makers = {"ceilings": _ceilings, "gemm": _gemms, "moe": _moes, "attention": _attentions, "forward": _forwards}
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
            yield Case("gemm", (shape, out_features, in_features, weight_dtype, implementation))


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
            yield Case("moe", (*shape, routing, "bfloat16", "grouped_mm", 0))
            for rows in MOE_BLOCK_ROWS:
                yield Case("moe", (*shape, routing, "bfloat16", "triton", rows))


def _attentions() -> Iterator[Case]:
    head_dim, per_element = 128, element_type("bfloat16").bytes
    runs = (
        ("sdpa_flash", True),
        ("sdpa_flash", False),
        ("sdpa_cudnn", False),
        ("flex", True),
        ("sdpa_cudnn", True),
        ("flex", False),
    )
    for implementation, causal in runs:
        for context in ATTENTION_CONTEXTS:
            for heads, kv_heads in ATTENTION_HEADS:
                for batch in ATTENTION_BATCHES:
                    if 2 * batch * context * kv_heads * head_dim * per_element <= ATTENTION_CACHE_LIMIT_BYTES:
                        key = (heads, kv_heads, head_dim, int(causal), "bfloat16", implementation)
                        yield Case("attention", key, batch, context, largest=512, stop_ratio=ATTENTION_STOP_RATIO)


def _forwards() -> Iterator[Case]:
    for model, architecture, mode in FORWARD_MODELS:
        for implementation in ("flash", "sdpa"):
            for context in FORWARD_CONTEXTS:
                for batch in FORWARD_BATCHES:
                    if implementation == "flash" or batch == 1:
                        key = (model, architecture, mode, "bfloat16", implementation)
                        yield Case("forward", key, batch, context)
