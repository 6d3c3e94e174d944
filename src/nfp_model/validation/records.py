"""A measured point and a measured curve, whatever their origin: public tables, a user's file, our own timer.

Shapes say what was timed; a :class:`Measurement` is one timing of one; a :class:`Curve` holds every timing of one shape
along its axis as arrays. Which half of a score a shape belongs to is fixed by the hash of its key: :func:`split_half`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from nfp_model.errors import (
    InvalidArgumentError,
    UnsupportedError,
    require_positive,
    require_positive_int,
    unknown_name,
)
from nfp_model.operators import Attention, CompressedAttention, Elementwise, FusedMoE, Gemm
from nfp_model.quantities import canonical_dtype
from nfp_model.validation.shapes import (
    AllReduceShape,
    AttentionShape,
    ElementwiseShape,
    ForwardShape,
    GemmShape,
    ModuleShape,
    MoEShape,
    Shape,
)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

OperatorKind = Literal["gemm", "moe", "attention", "mla", "attention_module", "all_reduce", "elementwise", "forward"]
OPERATOR_KINDS: tuple[str, ...] = get_args(OperatorKind)

BACKENDS = ("vllm", "sglang", "trtllm", "torch", "nccl", "deepgemm")
"""Kernel library sets a measurement may come from."""

SHAPE_TYPES: dict[str, type[Shape]] = {
    "gemm": GemmShape,
    "moe": MoEShape,
    "attention": AttentionShape,
    "mla": AttentionShape,
    "attention_module": ModuleShape,
    "all_reduce": AllReduceShape,
    "elementwise": ElementwiseShape,
    "forward": ForwardShape,
}
"""Shape record of every kind of operator."""

Half = Literal["fit", "test"]


def split_half(key: str) -> Half:
    """Which half of every score a shape belongs to.

    A shape is in the fit half if the first 8 hexadecimal digits of the SHA-256 of its key, as an integer, are even,
    else in the test half: the same for everyone, for ever, and blind to the timings.

    Parameters
    ----------
    key : str
        For example ``gemm|n|k`` with decimal integers; see ``split_key`` of the shapes.

    Examples
    --------
    >>> split_half("gemm|4096|4096"), split_half("gemm|8192|8192")
    ('fit', 'fit')
    """
    return "test" if int(hashlib.sha256(key.encode("ascii")).hexdigest()[:8], 16) % 2 else "fit"


def _check_labels(operator: str, shape: Shape, backend: str) -> None:
    if operator not in OPERATOR_KINDS:
        raise unknown_name("operator", operator, OPERATOR_KINDS)
    if not isinstance(shape, SHAPE_TYPES[operator]):
        raise InvalidArgumentError(f"{operator} needs a {SHAPE_TYPES[operator].__name__}, got {type(shape).__name__}")
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)


@dataclass(frozen=True)
class Measurement:
    """One timing.

    Attributes
    ----------
    operator : str
        One of :data:`OPERATOR_KINDS`.
    shape : Shape
        What was timed.
    gpu : str
        Hardware key, for example ``h100_sxm5``.
    backend : str
        One of :data:`BACKENDS`.
    tokens : int
        Place on the shape's axis: token rows, sequences, positions per sequence or bytes.
    seconds : float
        Latency [s].
    spread : float or None
        Relative spread of repeated timings [-]; None when timed once or unstated.
    weight_dtype, activation_dtype, kv_dtype : str or None
        Storage formats; None where the operator has no such operand.
    library_version, kernel_source, timing, source : str
        Version of the backend, kernel name as recorded, timing method, where the number is published.
    """

    operator: OperatorKind
    shape: Shape
    gpu: str
    backend: str
    tokens: int
    seconds: float
    spread: float | None = None
    weight_dtype: str | None = None
    activation_dtype: str | None = None
    kv_dtype: str | None = None
    library_version: str = ""
    kernel_source: str = ""
    timing: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        _check_labels(self.operator, self.shape, self.backend)
        require_positive_int(tokens=self.tokens)
        require_positive(seconds=self.seconds)
        if not self.gpu:
            raise InvalidArgumentError("gpu must be a hardware key such as 'h100_sxm5', got ''")
        if self.spread is not None and not 0 <= self.spread < float("inf"):
            raise InvalidArgumentError(f"spread must be a relative spread of at least 0, got {self.spread!r}")
        for name in ("weight_dtype", "activation_dtype", "kv_dtype"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, canonical_dtype(value))


_COLUMNS: dict[str, type[np.generic]] = {
    "tokens": np.int64,
    "seconds": np.float64,
    "kernel_index": np.int64,
    "spread": np.float64,
    "beyond_l2": np.bool_,
}


@dataclass(frozen=True, eq=False)
class Curve:
    """Every timing of one shape along its axis.

    Attributes
    ----------
    operator, shape, gpu, backend, library_version
        As in :class:`Measurement`.
    tokens : ndarray of int64, shape (P,)
        Strictly increasing places on the shape's axis.
    seconds : ndarray of float64, shape (P,)
        Latencies [s], the median where a point was recorded more than once.
    weight_dtype, activation_dtype, kv_dtype : str or None
        Storage formats.
    kernels : tuple of str
        Kernel names as recorded, in order of first use along the axis.
    kernel_index : ndarray of int64, shape (P,), or None
        Which of ``kernels`` ran at each point; None when there is one.
    spread : ndarray of float64, shape (P,), or None
        (max - min) / median of repeated recordings [-]; NaN where recorded once.
    beyond_l2 : ndarray of bool, shape (P,), or None
        Attention only: whether the KV cache read is larger than the L2 cache, so that replays cannot find it there.
    timing, source : str
        Timing method; where the numbers are published.
    """

    operator: OperatorKind
    shape: Shape
    gpu: str
    backend: str
    tokens: IntArray
    seconds: FloatArray
    weight_dtype: str | None = None
    activation_dtype: str | None = None
    kv_dtype: str | None = None
    library_version: str = ""
    kernels: tuple[str, ...] = ()
    kernel_index: IntArray | None = None
    spread: FloatArray | None = None
    beyond_l2: BoolArray | None = None
    timing: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        _check_labels(self.operator, self.shape, self.backend)
        columns = {
            "tokens": np.int64,
            "seconds": np.float64,
            "kernel_index": np.int64,
            "spread": np.float64,
            "beyond_l2": np.bool_,
        }
        for name, dtype in columns.items():
            value = getattr(self, name)
            if value is None:
                continue
            array: npt.NDArray[np.generic] = np.array(
                value, dtype=dtype
            )  # a copy of our own, so that freezing it freezes nobody else's
            array.setflags(write=False)
            if array.shape != (len(self.tokens),):
                raise InvalidArgumentError(f"{name} must have one value per token count, got shape {array.shape}")
            object.__setattr__(self, name, array)
        if len(self.tokens) == 0 or self.tokens[0] < 1 or np.any(np.diff(self.tokens) <= 0):
            raise InvalidArgumentError("tokens must be strictly increasing whole numbers of at least 1")
        if not np.all(np.isfinite(self.seconds) & (self.seconds > 0)):
            raise InvalidArgumentError("seconds must be finite numbers above 0")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def split_key(self) -> str:
        """Key whose hash decides the half."""
        return self.shape.split_key

    @property
    def half(self) -> Half:
        """``fit`` or ``test``; see :func:`split_half`."""
        return split_half(self.split_key)

    @property
    def axis(self) -> str:
        """What ``tokens`` counts: ``rows``, ``sequences``, ``positions`` or ``bytes``."""
        return self.shape.axis

    @property
    def kernel_source(self) -> str:
        """Kernel names joined in order of use."""
        return ", then ".join(self.kernels)

    def where(self, mask: BoolArray) -> Curve:
        """The points a mask keeps.

        Raises
        ------
        InvalidArgumentError
            When nothing is left.
        """
        arrays = {name: getattr(self, name) for name in _COLUMNS}
        return replace(self, **{name: array[mask] for name, array in arrays.items() if array is not None})

    @staticmethod
    def _module(shape: ModuleShape, batch_size: int, weight_dtype: str) -> CompressedAttention:
        from nfp_model.validation.module_configs import compressed_attention

        return compressed_attention(
            shape.model,
            shape.family,
            shape.num_query_heads,
            shape.tensor_parallel,
            shape.compress_ratio,
            shape.context_length,
            batch_size,
            weight_dtype,
        )

    def operator_record(
        self, batch_size: int | None = None
    ) -> Gemm | FusedMoE | Attention | CompressedAttention | Elementwise:
        """The operator this curve times, for the cost model.

        Parameters
        ----------
        batch_size : int or None
            Attention over sequences only: which point of the axis.

        Raises
        ------
        UnsupportedError
            For other attention modules, collectives and whole forwards, which are more than one operator record.
        """
        weight, activation = self.weight_dtype or "bfloat16", self.activation_dtype or "bfloat16"
        if isinstance(self.shape, GemmShape):
            return self.shape.operator(weight, activation)
        if isinstance(self.shape, MoEShape):
            return self.shape.operator(weight, activation)
        if isinstance(self.shape, AttentionShape):
            return self.shape.operator(self.kv_dtype or "bfloat16", batch_size, latent=self.operator == "mla")
        if isinstance(self.shape, ElementwiseShape):
            return self.shape.operator()
        if isinstance(self.shape, ModuleShape) and self.shape.batch_size is not None:
            return self._module(self.shape, self.shape.batch_size, weight)
        raise UnsupportedError(f"a curve of kind '{self.operator}' is not one operator record")

    def measurements(self) -> Iterator[Measurement]:
        """The points one by one, each with the kernel that ran there."""
        for i, (tokens, seconds) in enumerate(zip(self.tokens.tolist(), self.seconds.tolist(), strict=True)):
            spread = None if self.spread is None or np.isnan(self.spread[i]) else float(self.spread[i])
            which = 0 if self.kernel_index is None else int(self.kernel_index[i])
            yield Measurement(
                operator=self.operator,
                shape=self.shape,
                gpu=self.gpu,
                backend=self.backend,
                tokens=tokens,
                seconds=seconds,
                spread=spread,
                weight_dtype=self.weight_dtype,
                activation_dtype=self.activation_dtype,
                kv_dtype=self.kv_dtype,
                library_version=self.library_version,
                kernel_source=self.kernels[which] if self.kernels else "",
                timing=self.timing,
                source=self.source,
            )
