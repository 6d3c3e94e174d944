"""What is asked of a model in one decode forward: everything but the number of positions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from nfp_model.errors import InvalidArgumentError, require_positive_int, unknown_name
from nfp_model.quantities import canonical_dtype

DecodeMode = Literal["verify", "block"]
"""``verify``: causal among the new positions (speculation); ``block``: bidirectional among them (block diffusion)."""

CAPTURE_ENGINES = ("vllm", "sglang", "trtllm")


@dataclass(frozen=True)
class Routing:
    """How tokens choose experts.

    Attributes
    ----------
    kind : {"uniform", "balanced", "power_law", "histogram"}
        Independent uniform choices; loads differing by at most one; skewed loads of exponent ``exponent``; given loads.
    exponent : float
        Power-law exponent [-].
    shares : tuple of float
        Histogram: relative load per expert [-], any scale.

    Examples
    --------
    >>> Routing.parse("power_law:1.2")
    Routing(kind='power_law', exponent=1.2, shares=())
    """

    kind: Literal["uniform", "balanced", "power_law", "histogram"] = "uniform"
    exponent: float = 0.0
    shares: tuple[float, ...] = ()

    @classmethod
    def parse(cls, value: str | Routing | list[float] | tuple[float, ...] | np.ndarray) -> Routing:
        """Read a routing from its text form or an explicit histogram.

        Raises
        ------
        InvalidArgumentError
            For an exponent or histogram that is no distribution.
        UnknownNameError
            For an unknown kind.
        """
        if isinstance(value, Routing):
            return value
        if not isinstance(value, str):
            try:
                shares = tuple(float(share) for share in value)
            except (TypeError, ValueError):
                raise InvalidArgumentError(f"routing must be a name or one share per expert, got {value!r}") from None
            if not shares or min(shares) < 0 or not 0 < sum(shares) < float("inf"):
                raise InvalidArgumentError("a routing histogram needs one non-negative share per expert, not all zero")
            return cls("histogram", shares=shares)
        if value == "uniform":
            return cls("uniform")
        if value == "balanced":
            return cls("balanced")
        match = re.fullmatch(r"power_law[:_]([0-9.]+)", value)
        if match:
            exponent = float(match.group(1))
            if not 0 < exponent < 10:
                raise InvalidArgumentError(f"power-law exponent must be between 0 and 10, got {exponent}")
            return cls("power_law", exponent=exponent)
        raise unknown_name("routing", value, ["uniform", "balanced", "power_law:1.2"])

    def __str__(self) -> str:
        if self.kind == "power_law":
            return f"power_law:{self.exponent:g}"
        return self.kind


@dataclass(frozen=True)
class Workload:
    """One decode forward, positions left open.

    Attributes
    ----------
    batch_size : int
        Sequences [-].
    context_length : int or tuple of int
        Cached tokens per sequence [tokens]; a tuple gives one length per sequence.
    decode_mode : {"verify", "block"}
        Causal or bidirectional among the new positions.
    routing : Routing
        How tokens choose experts.
    weight_dtype, kv_dtype : str or None
        Override of the model's storage formats.
    tensor_parallel, expert_parallel : int
        Ranks [GPUs]. Tensor-parallel ranks share every matrix outside the experts; expert-parallel ranks share the experts.
        With more expert than tensor ranks, attention runs data-parallel on ``expert_parallel / tensor_parallel`` replicas,
        each with its part of the batch.
    captures : tuple of int or str or None
        Captured CUDA-graph sizes, or the engine whose default list applies; None for no padding.
    """

    batch_size: int = 1
    context_length: int | tuple[int, ...] = 4096
    decode_mode: DecodeMode = "verify"
    routing: Routing = field(default_factory=Routing)
    weight_dtype: str | None = None
    kv_dtype: str | None = None
    tensor_parallel: int = 1
    expert_parallel: int = 1
    captures: tuple[int, ...] | str | None = None

    def __post_init__(self) -> None:
        require_positive_int(
            batch_size=self.batch_size, tensor_parallel=self.tensor_parallel, expert_parallel=self.expert_parallel
        )
        small, large = sorted((self.tensor_parallel, self.expert_parallel))
        if large % small:
            raise InvalidArgumentError(
                f"of tensor_parallel {self.tensor_parallel} and expert_parallel {self.expert_parallel} one must divide the other"
            )
        lengths = self.context_lengths
        if min(lengths) < 0:
            raise InvalidArgumentError(f"context_length must be at least 0, got {min(lengths)}")
        if isinstance(self.context_length, tuple) and len(lengths) != self.batch_size:
            raise InvalidArgumentError(
                f"context_length lists {len(lengths)} sequences, batch_size is {self.batch_size}"
            )
        if self.decode_mode not in ("verify", "block"):
            raise unknown_name("decode_mode", self.decode_mode, ["verify", "block"])
        for name in ("weight_dtype", "kv_dtype"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, canonical_dtype(value))
        if isinstance(self.captures, str) and self.captures not in CAPTURE_ENGINES:
            raise unknown_name("engine for captured graphs", self.captures, CAPTURE_ENGINES)

    @property
    def context_lengths(self) -> tuple[int, ...]:
        """Cached tokens as a tuple; of length one where every sequence has the same [tokens]."""
        return self.context_length if isinstance(self.context_length, tuple) else (self.context_length,)

    @property
    def ranks(self) -> int:
        """GPUs the forward runs on [-]."""
        return max(self.tensor_parallel, self.expert_parallel)

    @property
    def attention_replicas(self) -> int:
        """Data-parallel attention replicas [-]."""
        return max(1, self.expert_parallel // self.tensor_parallel)

    @property
    def expert_tensor_parallel(self) -> int:
        """Ranks that share one expert's width [-]."""
        return max(1, self.tensor_parallel // self.expert_parallel)

    @property
    def rank_batch(self) -> int:
        """Sequences on the busiest attention replica [-]."""
        return -(-self.batch_size // self.attention_replicas)

    @property
    def longest_context(self) -> int:
        """Longest cached length, which decides KV splits [tokens]."""
        return max(self.context_lengths)

    @property
    def mean_context(self) -> float:
        """Mean cached length, which decides bytes [tokens]."""
        return sum(self.context_lengths) / len(self.context_lengths)
