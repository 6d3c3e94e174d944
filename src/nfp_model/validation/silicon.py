"""Loaders of the published silicon timings: one table in, curves, counted exclusions and repeats out.

Every loader takes our hardware key and a backend, reads the version the package serves (or the one asked for) and
applies the filters of :mod:`~nfp_model.validation.filters`. Data types that no storage format of ours describes are
counted out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nfp_model.errors import InvalidArgumentError, unknown_name
from nfp_model.quantities import ELEMENT_TYPES, canonical_dtype
from nfp_model.specs.registry import load_hardware
from nfp_model.validation import slower_ranks
from nfp_model.validation.assemble import CurveTable, assemble
from nfp_model.validation.datasets import CurveSet, Exclusion, Source
from nfp_model.validation.filters import (
    RowFilter,
    apply_filters,
    beyond_l2,
    collective_filters,
    gemm_filters,
    is_gated,
    module_filters,
    moe_filters,
)
from nfp_model.validation.records import BoolArray
from nfp_model.validation.shapes import (
    MLA_KEY_DIM,
    AllReduceShape,
    AttentionShape,
    GemmShape,
    ModuleShape,
    MoEShape,
)
from nfp_model.validation.silicon_rows import prepared_rows
from nfp_model.validation.silicon_tables import EXCLUDED_SYSTEMS, PACKAGE, default_version, package_version, table_path

MAX_TOKENS = 4096
"""Token rows up to which GEMM and MoE curves are read: the near-free region and the way out of it."""

MIN_POSITIONS = 4
"""Query positions a module curve must have been timed at to show where it leaves its plateau."""

MODULE_FAMILIES = ("mla", "dsa", "msa", "dsv4_csa", "dsv4_hca")

_ELEMENT_BYTES = {name: kind.bytes for name, kind in ELEMENT_TYPES.items()}

GRAPH_TIMING = "CUDA graph, 6 replays, mean, clocks free, no L2 flush"


def load_gemm(
    gpu: str,
    backend: str,
    weight_dtype: str | None = None,
    version: str | None = None,
    max_tokens: int = MAX_TOKENS,
    keep: Iterable[str] = (),
) -> CurveSet:
    """Dense GEMM latency against token rows.

    Parameters
    ----------
    gpu : str
        Hardware key or alias, for example ``h100_sxm5``.
    backend : {"vllm", "sglang", "trtllm"}
        Whose kernels.
    weight_dtype : str or None
        One storage format; None reads all.
    version : str or None
        Library version; None takes the one the package serves.
    max_tokens : int
        Rows with more tokens are left out [rows].
    keep : iterable of str
        Names of exclusions not to apply, for example ``("l2_resident",)``.

    Returns
    -------
    CurveSet
        One curve per (n, k, data type), and per kernel where two were timed at the same point.

    Raises
    ------
    MissingDependencyError
        Without the ``aiconfigurator-core`` package.
    UnsupportedError, UnknownNameError, InvalidArgumentError
        For a GPU, backend, data type, version or exclusion that is not there.
    """
    table = CurveTable(
        operator="gemm",
        tokens="m",
        columns=["n", "k"],
        shape=lambda row: GemmShape(row["n"], row["k"]),
    )
    return _load(
        "gemm", table, gpu, backend, version, weight_dtype, lambda g, v: gemm_filters(g, backend, v, max_tokens), keep
    )


def load_moe(
    gpu: str,
    backend: str,
    weight_dtype: str | None = None,
    version: str | None = None,
    max_tokens: int = MAX_TOKENS,
    keep: Iterable[str] = (),
) -> CurveSet:
    """Fused-MoE latency of one rank against token rows over all ranks.

    Routing, permutation, grouped GEMMs, activation and combination are inside; router GEMM, shared experts and
    all-to-all are not. Shapes say routing and sharding; experts with two matrices have ``gated`` False. Curves of
    :mod:`~nfp_model.validation.slower_ranks` are counted out. In balanced
    rows of group-routed models not every expert is touched when top_k x tokens reaches their number.

    Parameters and errors are those of :func:`load_gemm`.
    """
    timed = (
        version
        if version is not None or gpu in EXCLUDED_SYSTEMS
        else default_version(load_hardware(gpu).name, backend, "moe")
    )
    sizes = ["hidden_size", "inter_size", "num_experts", "topk", "moe_tp_size", "moe_ep_size"]
    table = CurveTable(
        operator="moe",
        tokens="num_tokens",
        columns=[*sizes, "distribution"],
        shape=lambda row: MoEShape(
            hidden_size=row["hidden_size"],
            intermediate_size=row["inter_size"],
            num_experts=row["num_experts"],
            top_k=row["topk"],
            tensor_parallel=row["moe_tp_size"],
            expert_parallel=row["moe_ep_size"],
            gated=is_gated(row["hidden_size"], row["inter_size"], backend, timed, row["weight_dtype"]),
            routing=row["distribution"],
        ),
    )
    rest = [name for name in keep if name != slower_ranks.NAME]
    found = _load(
        "moe", table, gpu, backend, version, weight_dtype, lambda g, v: moe_filters(g, backend, v, max_tokens), rest
    )
    return slower_ranks.without_slower_ranks(found, keep)


def load_attention(gpu: str, backend: str, kv_dtype: str | None = None, version: str | None = None) -> CurveSet:
    """Decode attention, one query position per sequence: latency against sequences, one curve per context length.

    Every curve flags the points whose KV cache is larger than L2 (``beyond_l2``): the collector replays one cache.

    Parameters
    ----------
    gpu, backend, version
        As for :func:`load_gemm`, with its errors.
    kv_dtype : str or None
        Storage of the cache; None reads all.
    """
    key = load_hardware(gpu).name

    def outside(rows: Any) -> BoolArray:
        seen = rows["step"].where(rows["window_size"] == 0, rows[["step", "window_size"]].min(axis=1)) + 1
        elements = rows["batch_size"] * seen * rows["num_key_value_heads"] * 2 * rows["head_dim"]
        return beyond_l2(elements * rows["kv_dtype"].map(_ELEMENT_BYTES), key)

    table = CurveTable(
        operator="attention",
        tokens="batch_size",
        columns=["num_heads", "num_key_value_heads", "head_dim", "window_size", "step"],
        shape=lambda row: AttentionShape(
            row["num_heads"], row["num_key_value_heads"], row["head_dim"], row["step"], window=row["window_size"]
        ),
        beyond_l2=outside,
    )
    return _load("attention", table, gpu, backend, version, kv_dtype, lambda g, v: [], ())


def load_mla(gpu: str, backend: str, kv_dtype: str | None = None, version: str | None = None) -> CurveSet:
    """Decode MLA kernels in absorbed form: latency against sequences, one curve per heads and context length.

    vLLM has none; its MLA is timed as a module: ``load_attention_module(gpu, "vllm", "mla", phase="generation")``.
    Parameters and errors are those of :func:`load_attention`.
    """
    key = load_hardware(gpu).name
    table = CurveTable(
        operator="mla",
        tokens="batch_size",
        columns=["num_heads", "step"],
        shape=lambda row: AttentionShape(row["num_heads"], 1, MLA_KEY_DIM, row["step"]),
        beyond_l2=lambda rows: beyond_l2(
            rows["batch_size"] * (rows["step"] + 1) * MLA_KEY_DIM * rows["kv_dtype"].map(_ELEMENT_BYTES), key
        ),
    )
    return _load("mla", table, gpu, backend, version, kv_dtype, lambda g, v: [], ())


def load_attention_module(
    gpu: str,
    backend: str,
    family: str,
    phase: str = "context",
    weight_dtype: str | None = None,
    version: str | None = None,
    min_context: int = 2048,
    keep: Iterable[str] = (),
) -> CurveSet:
    """Whole attention blocks: projections, indexer where there is one, attention, output projection.

    Parameters
    ----------
    gpu, backend, version, keep
        As for :func:`load_gemm`, with its errors.
    family : {"mla", "dsa", "msa", "dsv4_csa", "dsv4_hca"}
        Which block. Only the dsv4 families have graph-timed rows with several positions over a long cache.
    phase : {"context", "generation"}
        ``context``: latency against query positions, one curve per batch and cached length; ``generation``: against
        sequences with one position each.
    weight_dtype : str or None
        Storage of the projections' weights; None reads all.
    min_context : int
        Context rows with fewer cached tokens are left out [tokens].
    """
    if family not in MODULE_FAMILIES:
        raise unknown_name("attention module", family, MODULE_FAMILIES)
    if phase not in ("context", "generation"):
        raise InvalidArgumentError(f"phase must be 'context' or 'generation', got {phase!r}")
    several = phase == "context"
    table = CurveTable(
        operator="attention_module",
        tokens="isl" if several else "batch_size",
        columns=["model", "num_heads", "tp_size", "compress_ratio", "step", *(["batch_size"] if several else [])],
        shape=lambda row: ModuleShape(
            family=family,
            model=row["model"],
            num_query_heads=row["num_heads"],
            context_length=row["step"],
            batch_size=row["batch_size"] if several else None,
            tensor_parallel=row["tp_size"],
            compress_ratio=row["compress_ratio"],
        ),
        min_points=MIN_POSITIONS if several else 1,
    )
    name = f"{family}_{phase}_module"

    def filters(g: str, v: str) -> list[RowFilter]:
        return module_filters(g, backend, family, min_context) if several else []

    return _load(name, table, gpu, backend, version, weight_dtype, filters, keep)


def load_collective(
    gpu: str, backend: str, collective: str = "all_reduce", version: str | None = None, keep: Iterable[str] = ()
) -> CurveSet:
    """Collectives: latency against payload bytes on one rank, one curve per number of ranks.

    The tables count elements; they are turned into bytes here.

    Parameters
    ----------
    gpu, version, keep
        As for :func:`load_gemm`, with its errors.
    backend : {"vllm", "sglang", "trtllm", "nccl"}
        An engine's own all-reduce, or NCCL.
    collective : {"all_reduce", "all_gather", "reduce_scatter", "alltoall"}
        NCCL has all four, the engines the first.
    """
    names = ("all_reduce", "all_gather", "reduce_scatter", "alltoall")
    if collective not in names:
        raise unknown_name("collective", collective, names)
    if backend != "nccl" and collective != "all_reduce":
        raise InvalidArgumentError(
            f"{backend} has only all_reduce timings, got {collective!r}; nccl has {', '.join(names)}"
        )
    table = CurveTable(
        operator="all_reduce",
        tokens="payload_bytes",
        columns=["num_gpus"],
        shape=lambda row: AllReduceShape(row["num_gpus"], collective),
    )
    name = "nccl" if backend == "nccl" else "all_reduce"
    filters: list[RowFilter] = [] if backend == "nccl" else collective_filters()
    return _load(name, table, gpu, backend, version, None, lambda g, v: filters, keep, collective)


def _load(
    name: str,
    table: CurveTable,
    gpu: str,
    backend: str,
    version: str | None,
    dtype: str | None,
    filters: Callable[[str, str], list[RowFilter]],
    keep: Iterable[str],
    collective: str = "",
) -> CurveSet:
    key = gpu if gpu in EXCLUDED_SYSTEMS else load_hardware(gpu).name
    path, found = table_path(key, backend, name, version)
    rows, unread = prepared_rows(name, path, table, None if dtype is None else canonical_dtype(dtype), collective)
    rows, taken = apply_filters(rows, filters(key, found), table.identity, tuple(keep))
    source = Source(PACKAGE, package_version(), "/".join(path.parts[-6:]), found)
    curves, repeats = assemble(rows, table, key, backend, found, GRAPH_TIMING, f"{PACKAGE} {source.version}")
    short = [len(curve) for curve in curves if len(curve) < table.min_points]
    if short:
        reason = f"timed at fewer than {table.min_points} points"
        taken["few_points"] = Exclusion(reason, sum(short), len(short))
        curves = tuple(curve for curve in curves if len(curve) >= table.min_points)
        repeats = tuple(pair for pair in repeats if len(pair[0]) >= table.min_points)
    return CurveSet(curves, source, {**unread, **taken}, repeats)
