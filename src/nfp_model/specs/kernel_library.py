"""Kernel libraries and engine defaults: what ``hardware_specs/kernels/*.toml`` holds.

A ``<library>_<arch>.toml`` lists the kernels of one library; an ``engine_<engine>.toml`` says which of them an engine runs by
default, and the CUDA-graph sizes it captures.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from nfp_model.errors import UnknownNameError, unknown_name
from nfp_model.quantities import ELEMENT_TYPES
from nfp_model.specs.attention_kernel import AttentionKernel
from nfp_model.specs.base import Spec
from nfp_model.specs.gemm_kernel import GemmKernel
from nfp_model.specs.moe_kernel import MoEKernel
from nfp_model.specs.registry import load_spec, spec_names

ENGINE_PREFIX = "engine_"

WEIGHT_ONLY = ("marlin_", "machete_")
"""Libraries whose kernels expand weights to the activations' type, whatever the storage format."""

OperatorKind = Literal["gemm", "moe", "attention", "mla"]

Kernel = GemmKernel | AttentionKernel | MoEKernel


class KernelLibrary(Spec):
    """The kernels of one library on some architectures.

    Attributes
    ----------
    name : str
        The file's name, ``<library>_<arch>``.
    library : str
        The library as people call it.
    architectures : tuple of str
        Architectures every kernel in the file runs on.
    versions : str
        Library versions the rules were read in.
    gemm, attention, moe : tuple
        Kernels.
    """

    name: str
    library: str
    architectures: tuple[str, ...] = Field(min_length=1)
    versions: str
    gemm: tuple[GemmKernel, ...] = ()
    attention: tuple[AttentionKernel, ...] = ()
    moe: tuple[MoEKernel, ...] = ()

    @classmethod
    def from_mapping(cls, data: dict[str, Any], origin: str = "mapping") -> Self:
        """Validate a mapping, telling every kernel which file and versions it comes from so that it can name itself."""
        filled = dict(data)
        for kind, record in (("gemm", GemmKernel), ("attention", AttentionKernel), ("moe", MoEKernel)):
            inherited = {key: data[at] for key, at in (("library", "name"), ("versions", "versions")) if at in data}
            extra = {key: value for key, value in inherited.items() if key in record.model_fields}
            if isinstance(data.get(kind), list):
                filled[kind] = [{**extra, **kernel} if isinstance(kernel, dict) else kernel for kernel in data[kind]]
        return super().from_mapping(filled, origin)

    @model_validator(mode="after")
    def _check_itself(self) -> Self:
        names = [kernel.name for kernel in self.kernels]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"kernel '{min(twice)}' is listed twice")
        return self

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """Every kernel of the file."""
        return (*self.gemm, *self.attention, *self.moe)

    def kernel(self, name: str) -> Kernel:
        """One kernel by name.

        Raises
        ------
        UnknownNameError
            For a name that is not in the file.
        """
        for kernel in self.kernels:
            if kernel.name == name:
                return kernel
        raise unknown_name(f"kernel of {self.name}", name, [kernel.name for kernel in self.kernels])


class SizeRange(Spec):
    """Captured sizes from ``start`` in steps of ``step``, ``stop`` included if met; ``stop`` None runs to the largest size."""

    start: int = Field(ge=1)
    step: int = Field(ge=1)
    stop: int | None = Field(default=None, ge=1)


class LargestSize(Spec):
    """Largest captured size for GPUs of some architectures and with less than ``below_memory_bytes`` of memory [B]."""

    size: int = Field(ge=1)
    architectures: tuple[str, ...] = ()
    below_memory_bytes: float | None = Field(default=None, gt=0)


class CaptureSizes(Spec):
    """CUDA-graph sizes an engine captures by default.

    Attributes
    ----------
    name : str
        For example ``decode`` or ``speculative``.
    counts : {"tokens", "requests"}
        What a size counts: token rows B x N, or sequences B.
    min_positions, max_positions : int or None
        Positions per sequence the list is used for [positions].
    sizes : tuple of SizeRange
        The captured sizes [tokens] or [requests].
    position_multiples : bool
        N x 1, 2, 4, 8, ... are captured too, and a graph of uniform decode must hold whole sequences.
    largest : tuple of LargestSize
        Largest captured size, first match wins.
    source, versions : str
        Public source and the versions read.
    """

    name: str
    counts: Literal["tokens", "requests"]
    min_positions: int = Field(default=1, ge=1)
    max_positions: int | None = Field(default=None, ge=1)
    sizes: tuple[SizeRange, ...] = Field(min_length=1)
    position_multiples: bool = False
    largest: tuple[LargestSize, ...] = Field(min_length=1)
    source: str = Field(min_length=1)
    versions: str = ""


class DefaultRow(Spec):
    """One row of an engine's defaults: where it holds, and the kernel it gives.

    Attributes
    ----------
    operator : {"gemm", "moe", "attention", "mla"}
        Operator kind.
    architectures : tuple of str
        Where it holds; empty for every architecture.
    weight_dtypes, kv_dtypes : tuple of str
        Weight formats (gemm, moe) or cache formats (attention, mla); empty for all.
    decode_modes : tuple of str
        ``verify``, ``block``; empty for both.
    features_multiple_of : int or None
        gemm: n and k are multiples of it [elements].
    expert_parallel : bool or None
        moe: asks for more than one expert-parallel rank, or for one.
    min_group, max_group, min_head_dim, max_head_dim : int or None
        attention, mla: query heads per KV head [heads], d_k [elements].
    equal_head_dims : bool or None
        attention: asks for d_k = d_v, or for the contrary.
    kernel : str
        ``library_arch:kernel``.
    source : str
        Public source of the default.
    inferred : bool
        Not read in source.
    """

    operator: OperatorKind
    architectures: tuple[str, ...] = ()
    weight_dtypes: tuple[str, ...] = ()
    kv_dtypes: tuple[str, ...] = ()
    decode_modes: tuple[Literal["verify", "block"], ...] = ()
    features_multiple_of: int | None = Field(default=None, gt=1)
    expert_parallel: bool | None = None
    min_group: int = Field(default=1, ge=1)
    max_group: int | None = Field(default=None, ge=1)
    min_head_dim: int = Field(default=1, ge=1)
    max_head_dim: int | None = Field(default=None, ge=1)
    equal_head_dims: bool | None = None
    kernel: str = Field(pattern=r"^[a-z0-9_]+:[a-z0-9_]+$")
    source: str = Field(min_length=1)
    inferred: bool = False

    @model_validator(mode="after")
    def _check_itself(self) -> Self:
        unknown = {*self.weight_dtypes, *self.kv_dtypes} - set(ELEMENT_TYPES)
        if unknown:
            raise ValueError(f"unknown data type '{min(unknown)}'; allowed: {', '.join(ELEMENT_TYPES)}")
        return self


class EngineDefaults(Spec):
    """Which kernels an engine runs by default.

    Attributes
    ----------
    name, engine : str
        The file's name, ``engine_<engine>``, and the engine.
    versions : str
        Versions the rules were read in.
    rows : tuple of DefaultRow
        Ordered; first match wins.
    captures : tuple of CaptureSizes
        Captured graph sizes; empty for an engine without graphs.
    """

    name: str
    engine: str
    versions: str
    rows: tuple[DefaultRow, ...]
    captures: tuple[CaptureSizes, ...] = ()


def library_names() -> list[str]:
    """Names of every kernel library file, sorted."""
    return [name for name in spec_names("kernels") if not name.startswith(ENGINE_PREFIX)]


def engine_names() -> list[str]:
    """Engines with a defaults file, sorted.

    Examples
    --------
    >>> engine_names()
    ['sglang', 'torch', 'trtllm', 'vllm']
    """
    return [name.removeprefix(ENGINE_PREFIX) for name in spec_names("kernels") if name.startswith(ENGINE_PREFIX)]


def load_library(name: str | Path) -> KernelLibrary:
    """A kernel library by file name or path.

    Raises
    ------
    UnknownNameError, SpecError
        See :func:`nfp_model.specs.registry.load_spec`.

    Examples
    --------
    >>> load_library("cublas_sm90").architectures
    ('sm90',)
    """
    return load_spec(KernelLibrary, "kernels", name)


def load_engine(name: str) -> EngineDefaults:
    """An engine's defaults by the engine's name.

    Raises
    ------
    UnknownNameError
        For an engine without a defaults file.

    Examples
    --------
    >>> load_engine("vllm").name
    'engine_vllm'
    """
    try:
        return load_spec(EngineDefaults, "kernels", ENGINE_PREFIX + name)
    except UnknownNameError:
        raise unknown_name("backend", name, [*engine_names(), "uncalibrated"]) from None


def load_kernel(key: str) -> Kernel:
    """A kernel by its key ``library_arch:kernel``.

    Raises
    ------
    UnknownNameError
        For an unknown library or kernel, with the nearest.

    Examples
    --------
    >>> load_kernel("cublas_sm90:tile_menu").selection
    'menu'
    """
    library, _, kernel = key.partition(":")
    return load_library(library).kernel(kernel)


@cache
def has_weight_only_kernel(architecture: str, weight_dtype: str) -> bool:
    """Whether an engine's defaults run this storage format with a kernel that expands weights, on this architecture.

    Examples
    --------
    >>> has_weight_only_kernel("sm90", "nvfp4"), has_weight_only_kernel("cdna3", "nvfp4")
    (True, False)
    """
    rows = (row for engine in engine_names() for row in load_engine(engine).rows)
    return any(
        architecture in row.architectures and weight_dtype in row.weight_dtypes and row.kernel.startswith(WEIGHT_ONLY)
        for row in rows
    )


def all_libraries() -> Iterable[KernelLibrary]:
    """Every kernel library there is, in the order of names."""
    return (load_library(name) for name in library_names())


__all__ = [
    "CaptureSizes", "DefaultRow", "EngineDefaults", "Kernel", "KernelLibrary", "LargestSize", "OperatorKind", "SizeRange",
    "all_libraries", "engine_names", "has_weight_only_kernel", "library_names", "load_engine", "load_kernel", "load_library",
]  # fmt: skip
