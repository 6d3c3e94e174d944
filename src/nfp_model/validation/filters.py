"""Rows of the published silicon tables that say nothing about the kernel, each kind under a name, with its reason.

The facts behind them are how the package's collector times (six replays of a CUDA graph, mean, clocks free, no L2
flush) and what its tables show; every filter is counted in the set it was applied to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nfp_model.errors import InvalidArgumentError, unknown_name
from nfp_model.kernels.routing import experts_touched
from nfp_model.quantities import element_type
from nfp_model.specs.registry import load_hardware
from nfp_model.validation.datasets import Exclusion
from nfp_model.validation.records import BoolArray
from nfp_model.workload import Routing

SMALLEST_FEATURES = 256
"""Out and in features below which a GEMM is a launch, not a stream [elements]."""

ROUTING_COLUMNS = ["num_experts", "topk", "moe_ep_size", "distribution"]
"""What makes two rows of a fused-MoE table touch the same number of experts at the same tokens."""

GROUP_ROUTED = {"hidden_size": 7168, "inter_size": 2048, "num_experts": 256, "topk": 8}
"""Experts of DeepSeek-V3 and R1, whose router keeps 4 of 8 groups (their ``config.json``: n_group, topk_group)."""

GROUP_ROUTING = ("vllm", "sglang")
GROUP_ROUTED_DTYPES = ("fp8_block", "nvfp4")
"""Engines and weight formats whose balanced timings of those experts on one expert-parallel rank were routed so; inferred. From 64
tokens on they take 0.50 to 0.53 of the time of all 256 experts with every kernel (Triton on H100, H200, L40S and RTX PRO 6000, FlashInfer
CUTLASS on RTX PRO 6000), where power laws, TensorRT-LLM, bf16 and int4 take 0.9 to 1.0 (aiconfigurator-core 0.12.0, fit half)."""

TRITON_ALIGNMENT = 16
"""Elements that integer arguments must be a multiple of for Triton to specialise a kernel on it (triton-lang/triton,
``specialize_impl``), and with it to load vectors."""

NON_GATED_EXPERTS = frozenset({(2688, 1856), (1024, 2688), (2048, 5120), (4096, 2688), (8192, 5120)})
"""(hidden, expert width) of the experts with two matrices; TensorRT-LLM's own kernel label says so for all five."""

REMAINDER_ON_ONE_RANK = frozenset({("trtllm", "1.0.0"), ("vllm", "0.14.0")})
"""(engine, version) whose collector gave the pairs left over from rounded power-law loads to experts in order of their number, so to
one rank; with M k <= E nearly all loads round to none. A100, 256 experts of (7168, 2048), k 8, TensorRT-LLM 1.0.0: a rank of 8 takes
543 us at one token and 978 at two, one GPU with all of them 530 and 977; vLLM 0.14.0 491 and 941, 436 and 830. Later versions spread
them (H100, TensorRT-LLM 1.3: 0.1 to 0.3 of one GPU's time). ``_generate_power_law_distribution`` of aiconfigurator's
collector/helper.py shows both."""

ALL_GATED = frozenset({("vllm", "0.14.0"), ("sglang", "0.5.10")})
"""(engine, version) whose timings give every expert three matrices; inferred. All 128 experts of (2688, 1856) at 64 tokens, over
the time their two matrices take at the full bandwidth: A100 vLLM 0.14.0 1.52 and SGLang 0.5.10 1.78, H100 SGLang 0.5.10 1.65,
where gated experts (4096, 1536) have 1.57, 1.76 and 1.72 by the same two matrices; H100 vLLM 0.24.0 has 1.12 against 1.67."""

GATED_IN = {("sglang", "0.5.14", 1024, 2688): ("bfloat16", "fp8_block")}
"""(engine, version, hidden, expert width) -> formats whose timings give that expert three matrices all the same: aiconfigurator's
collector/sglang/collect_moe.py passes 2 x width whatever the model to Triton's experts; that it did so then is inferred. Two ranks of
SGLang's Triton experts (1024, 2688, k 22, E 512) take 1.3 to 1.5 times, over their touched experts' two matrices, what every other
shape takes on H100 and H200 (fit half, up to 192 tokens); nvfp4 on B200 and RTX PRO 6000 takes 1.03 and 1.06."""

DSA_MSA_WITHOUT_GRAPH = (
    "several-position rows are bound by launches: one sequence costs 4 to 25 times the graph-timed step"
)


@dataclass(frozen=True)
class RowFilter:
    """One reason to leave rows out.

    Attributes
    ----------
    name : str
        Under which the rows are counted; pass it in ``keep`` to have them back.
    reason : str
        In words.
    takes : callable
        Data frame -> mask of the rows it takes.
    """

    name: str
    reason: str
    takes: Callable[[Any], BoolArray]


def apply_filters(
    rows: Any, filters: Sequence[RowFilter], curve_columns: list[str], keep: Iterable[str] = ()
) -> tuple[Any, dict[str, Exclusion]]:
    """Take rows out, one filter after the other.

    Parameters
    ----------
    rows : DataFrame
        Rows of one table.
    filters : sequence of RowFilter
        In order: a row counts for the first that takes it.
    curve_columns : list of str
        Columns that tell curves apart.
    keep : iterable of str
        Names of filters not to apply.

    Raises
    ------
    UnknownNameError
        For a name in ``keep`` that no filter of this table has.
    """
    names = [f.name for f in filters]
    for name in keep:
        if name not in names:
            raise unknown_name("exclusion of this table", name, names)
    exclusions = {}
    for one in filters:
        if one.name in keep:
            continue
        taken = np.broadcast_to(np.asarray(one.takes(rows), dtype=bool), len(rows))
        if taken.any():
            curves = len(rows.loc[taken, curve_columns].drop_duplicates())
            exclusions[one.name] = Exclusion(one.reason, int(taken.sum()), curves)
            rows = rows[~taken]
    return rows, exclusions


def weight_copies(backend: str, dtype: str, weight_bytes: npt.ArrayLike, l2_bytes: float) -> npt.NDArray[np.float64]:
    """Copies of the weights the collector cycles through [-], so that L2 does not serve them.

    vLLM 6 for bf16 and fp8, 1 for fp8_block and nvfp4; SGLang 6; TensorRT-LLM min(5, ceil(L2 / W)) (collector of
    ai-dynamo/aiconfigurator).

    Examples
    --------
    >>> weight_copies("trtllm", "bfloat16", [8e6, 20e6, 80e6], 50e6)
    array([5., 3., 1.])
    """
    weights = np.asarray(weight_bytes, dtype=float)
    if backend == "trtllm":
        return np.minimum(5.0, np.ceil(l2_bytes / weights))
    return np.full_like(weights, 1.0 if backend == "vllm" and dtype in ("fp8_block", "nvfp4") else 6.0)


def beyond_l2(read_bytes: npt.ArrayLike, gpu: str) -> BoolArray:
    """Whether a working set is larger than the GPU's L2 cache."""
    return np.asarray(read_bytes, dtype=float) > _l2_bytes(gpu)


def gemm_filters(gpu: str, backend: str, version: str, max_tokens: int) -> list[RowFilter]:
    """Filters of GEMM tables; ``weight_dtype`` is a column of the rows."""
    l2 = _l2_bytes(gpu)

    def resident(rows: Any) -> BoolArray:
        taken = np.zeros(len(rows), dtype=bool)
        for dtype in rows["weight_dtype"].unique():
            here = (rows["weight_dtype"] == dtype).to_numpy()
            weights = rows["n"].to_numpy(float) * rows["k"].to_numpy(float) * element_type(dtype).bytes
            taken |= here & (weight_copies(backend, dtype, weights, l2) * weights < 2 * l2)
        return taken

    def of_dtype(dtype: str, applies: bool) -> Callable[[Any], BoolArray]:
        return lambda rows: (rows["weight_dtype"] == dtype).to_numpy() & applies

    multi_modal = (gpu, backend, version) == ("b200_sxm", "vllm", "0.24.0")
    return [
        _too_many_tokens("m", max_tokens),
        RowFilter(
            "narrow",
            f"fewer than {SMALLEST_FEATURES} out or in features",
            lambda rows: (rows["n"] < SMALLEST_FEATURES) | (rows["k"] < SMALLEST_FEATURES),
        ),
        RowFilter(
            "timed_without_graph",
            "vLLM fp8_block is timed without a CUDA graph: 55 us and more of launch time",
            of_dtype("fp8_block", backend == "vllm"),
        ),
        RowFilter(
            "multi_modal", "B200 vLLM 0.24 fp8 jumps between two latencies 2x apart", of_dtype("fp8", multi_modal)
        ),
        RowFilter("l2_resident", "the weight copies cycled through are smaller than twice the L2 cache", resident),
    ]


def moe_filters(gpu: str, backend: str, version: str, max_tokens: int) -> list[RowFilter]:
    """Filters of fused-MoE tables."""
    hopper_vllm = backend == "vllm" and gpu in ("h100_sxm5", "h200_sxm")

    def routed_in_groups(rows: Any) -> BoolArray:
        by_engine = rows["weight_dtype"].isin(GROUP_ROUTED_DTYPES) & (backend in GROUP_ROUTING)
        itself = rows["kernel_source"].str.contains("flashinfer_trtllm|min_latency")
        named = (rows[list(GROUP_ROUTED)] == list(GROUP_ROUTED.values())).all(axis=1)
        alone = by_engine & (rows["moe_ep_size"] == 1)
        return np.asarray((rows["distribution"] == "balanced") & named & (itself | alone), dtype=bool)

    return [
        _too_many_tokens("num_tokens", max_tokens),
        RowFilter(
            "l2_resident",
            "the weights of the experts touched fit in the L2 cache, which replays of one graph then read instead of memory",
            lambda rows: ~beyond_l2(touched_bytes(rows, backend, version), gpu),
        ),
        RowFilter(
            "group_routed",
            "balanced rows of DeepSeek-V3's experts through kernels or engines that route by themselves: group-limited routing "
            "reaches half of them",
            routed_in_groups,
        ),
        RowFilter(
            "remainder_on_one_rank",
            "power-law rows of several ranks with no more pairs than experts, whose rounded loads left the pairs to one rank's experts",
            lambda rows: (
                rows["distribution"].str.startswith("power_law")
                & (rows["moe_ep_size"] > 1)
                & (rows["num_tokens"] * rows["topk"] <= rows["num_experts"])
                & ((backend, version) in REMAINDER_ON_ONE_RANK)
            ),
        ),
        RowFilter(
            "narrow_loads",
            f"Triton vectorises loads only where strides divide by {TRITON_ALIGNMENT}; a rank's expert width here does not",
            lambda rows: (
                rows["kernel_source"].str.contains("triton|vllm_fused_moe")
                & ((rows["inter_size"] // rows["moe_tp_size"]) % TRITON_ALIGNMENT > 0)
            ),
        ),
        RowFilter(
            "falls_with_tokens",
            "fp8 through FlashInfer CUTLASS on H100 and H200: latency falls as tokens rise",
            lambda rows: (
                (rows["weight_dtype"] == "fp8") & rows["kernel_source"].str.contains("flashinfer_cutlass") & hopper_vllm
            ),
        ),
    ]


def is_gated(hidden_size: int, width: int, backend: str, version: str | None, weight_dtype: str = "bfloat16") -> bool:
    """Whether a published fused-MoE row timed experts with three matrices.

    Examples
    --------
    >>> is_gated(2688, 1856, "vllm", "0.24.0"), is_gated(2688, 1856, "vllm", "0.14.0"), is_gated(4096, 1536, "vllm", "0.24.0")
    (False, True, True)
    """
    anyway = weight_dtype in GATED_IN.get((backend, version or "", hidden_size, width), ())
    return anyway or (hidden_size, width) not in NON_GATED_EXPERTS or (backend, version) in ALL_GATED


def touched_bytes(rows: Any, backend: str, version: str) -> npt.NDArray[np.float64]:
    """Weights of the experts a rank touches at each row of a fused-MoE table, from routing and sharding [B].

    Parameters
    ----------
    rows : DataFrame
        With the columns of the published table and ``weight_dtype``.
    backend, version : str
        Whose table, which decides on the matrices of an expert.
    """
    tokens = rows["num_tokens"].to_numpy()
    touched = np.zeros(len(rows))
    for (experts, top_k, ranks, routing), here in rows.groupby(ROUTING_COLUMNS, sort=False).indices.items():
        asked, place = np.unique(tokens[here], return_inverse=True)
        touched[here] = experts_touched(Routing.parse(routing), experts, top_k, asked, ranks)[place]
    hidden, width = rows["hidden_size"].to_numpy(), rows["inter_size"].to_numpy()
    shapes = zip(hidden.tolist(), width.tolist(), rows["weight_dtype"].tolist(), strict=True)
    matrices = np.array([3 if is_gated(h, i, backend, version, dtype) else 2 for h, i, dtype in shapes])
    element = rows["weight_dtype"].map({dtype: element_type(dtype).bytes for dtype in rows["weight_dtype"].unique()})
    expert = matrices * hidden * (width // rows["moe_tp_size"].to_numpy()) * element.to_numpy()
    return np.asarray(touched * expert, dtype=np.float64)


def module_filters(gpu: str, backend: str, family: str, min_context: int) -> list[RowFilter]:
    """Filters of attention-module tables over several query positions."""
    blackwell = gpu in ("b200_sxm", "b300_sxm", "gb200", "gb300")
    launches = {("sglang", "dsa"), ("sglang", "msa"), ("vllm", "dsa")} | ({("trtllm", "msa")} if blackwell else set())
    return [
        RowFilter(
            "short_cache",
            f"fewer than {min_context} cached tokens: prefill, not decode",
            lambda rows: rows["step"] < min_context,
        ),
        RowFilter(
            "timed_without_graph",
            DSA_MSA_WITHOUT_GRAPH,
            lambda rows: np.full(len(rows), (backend, family) in launches),
        ),
    ]


def collective_filters() -> list[RowFilter]:
    """Filters of all-reduce tables."""
    return [
        RowFilter(
            "eager_launch",
            "timed without a CUDA graph: 20 us and more of launch time",
            lambda rows: rows["kernel_source"].str.endswith("_eager"),
        )
    ]


def _too_many_tokens(column: str, max_tokens: int) -> RowFilter:
    if max_tokens < 1:
        raise InvalidArgumentError(f"max_tokens must be at least 1, got {max_tokens!r}")
    return RowFilter(
        "above_max_tokens",
        f"more than {max_tokens} tokens, beyond the near-free region",
        lambda r: r[column] > max_tokens,
    )


def _l2_bytes(gpu: str) -> float:
    size = load_hardware(gpu).l2_bytes
    if size is None:
        raise InvalidArgumentError(f"the spec of {gpu} states no l2_bytes, which the filters of its tables need")
    return size
