"""Two specs in, an explained NFP out: the wiring."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nfp_model.boundary import near_free_boundary
from nfp_model.cost.binding import bind, check_backend, choose_backend
from nfp_model.cost.inputs import link_bandwidth
from nfp_model.cost.latency import BoundOperator
from nfp_model.curve import BoundForward, LatencyCurve
from nfp_model.errors import (
    InvalidArgumentError,
    MemoryCapacityError,
    UnsupportedError,
    require_positive,
    require_positive_int,
)
from nfp_model.kernels.counts import FloatArray
from nfp_model.kernels.tuned_moe import with_tuned_files
from nfp_model.operators import FusedMoE, Gemm, Operator, forward_operators
from nfp_model.prediction.result import Prediction, saturated_positions
from nfp_model.quantities import format_si
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import ModelSpec
from nfp_model.specs.moe_kernel import MoEKernel
from nfp_model.specs.registry import load_hardware, load_model
from nfp_model.workload import DecodeMode, Routing, Workload

SATURATED = "saturated"

UNFUSED_BACKENDS = ("torch",)
"""Backends that run a forward as transformers does, every piece by kernels of its own."""

MOST_POSITIONS = 1 << 20
"""Positions beyond which no search is offered: far past every boundary and every context [positions]."""


def predict_nfp(
    hardware: str | Path | HardwareSpec,
    model: str | Path | ModelSpec,
    *,
    batch_size: int = 1,
    context_length: int | Iterable[int] = 4096,
    tolerance: float = 0.1,
    baseline: int | str = 1,
    max_positions: int = 4096,
    backend: str | None = None,
    decode_mode: DecodeMode = "verify",
    routing: str | Routing | list[float] = "uniform",
    weight_dtype: str | None = None,
    kv_dtype: str | None = None,
    tensor_parallel: int = 1,
    expert_parallel: int = 1,
    captures: tuple[int, ...] | str | None = None,
    tuned_moe: str | Path | None = None,
    strict_memory: bool = False,
) -> Prediction:
    """How many positions one decode forward processes at near-free latency, and why.

    NFP(eps, N0) = max {N >= N0 : T(N) <= (1 + eps) T(N0)} (arXiv 2605.30851), searched over the edges of every tile, wave,
    expert block and query tile up to ``max_positions``.

    Parameters
    ----------
    hardware : str, Path or HardwareSpec
        ``"h100"``, a TOML path or a spec.
    model : str, Path or ModelSpec
        ``"mixtral"``, a TOML or ``config.json`` path, or a spec.
    batch_size : int
        Sequences in the forward [-].
    context_length : int or iterable of int
        Cached tokens per sequence [tokens].
    tolerance : float
        eps [-].
    baseline : int or "saturated"
        N0 [positions]; ``"saturated"`` starts where every expert is touched.
    max_positions : int
        Last N searched [positions].
    backend : {"torch", "vllm", "sglang", "trtllm", "uncalibrated"} or None
        Whose kernels; None takes the first calibrated for this GPU.
    decode_mode : {"verify", "block"}
        Causal verification of drafts, or bidirectional block diffusion.
    routing : str, Routing or list of float
        ``"uniform"``, ``"balanced"``, ``"power_law:1.2"`` or one load share per expert.
    weight_dtype, kv_dtype : str or None
        Storage formats; None keeps the model's own.
    tensor_parallel, expert_parallel : int
        Ranks [GPUs].
    captures : tuple of int, str or None
        Captured CUDA-graph sizes or an engine's default list; None for no padding.
    tuned_moe : str, Path or None
        A tuned fused-MoE JSON file of vLLM or SGLang, or a folder of them: its block sizes override the engine's defaults.
    strict_memory : bool
        Refuse a model that does not fit the GPU instead of warning.

    Returns
    -------
    Prediction
        ``.nfp``, ``.censored``, ``.idle_compute_nfp``, ``.modules``, ``.explain()`` and the rest.

    Raises
    ------
    NfpModelError
        For unknown names, sizes out of range, shards that do not divide, unsupported data types.

    Examples
    --------
    >>> p = predict_nfp("h100", "mixtral")
    >>> p.nfp < 8 < p.saturated.nfp
    True
    """
    spec, architecture = load_hardware(hardware), load_model(model)
    workload = Workload(
        batch_size=batch_size,
        context_length=_context_lengths(context_length),
        decode_mode=decode_mode,
        routing=Routing.parse(routing),
        weight_dtype=weight_dtype,
        kv_dtype=kv_dtype,
        tensor_parallel=tensor_parallel,
        expert_parallel=expert_parallel,
        captures=captures,
    )
    first = _baseline(architecture, workload, baseline, max_positions)
    require_positive(tolerance=tolerance)
    forward = bind_forward(spec, architecture, workload, backend, tuned_moe)
    curve = forward.curve(forward.edges(first, max_positions))
    boundary = near_free_boundary(curve, tolerance, first)
    prediction = Prediction(
        spec, architecture, workload, forward, curve, boundary, _warnings(spec, architecture, forward, backend)
    )
    return _checked_memory(prediction, strict_memory)


def _context_lengths(given: int | Iterable[int]) -> int | tuple[int, ...]:
    try:
        lengths = tuple(index(length) for length in given) if isinstance(given, Iterable) else index(given)
    except TypeError:
        lengths = ()
    if lengths == ():
        raise InvalidArgumentError(f"context_length must be a whole number, or one for each sequence, got {given!r}")
    return lengths


def _baseline(model: ModelSpec, workload: Workload, baseline: int | str, max_positions: int) -> int:
    require_positive_int(max_positions=max_positions)
    if max_positions > MOST_POSITIONS:
        raise InvalidArgumentError(f"max_positions must be at most {MOST_POSITIONS}, got {max_positions}")
    if baseline == SATURATED:
        saturated = saturated_positions(model, workload.batch_size)
        if saturated is None:
            raise InvalidArgumentError(f"baseline 'saturated' needs routed experts; {model.title} is dense")
        first = saturated
    elif isinstance(baseline, str):
        raise InvalidArgumentError(f"baseline must be a whole number or 'saturated', got '{baseline}'")
    else:
        require_positive_int(baseline=baseline)
        first = baseline
    if first > max_positions:
        raise InvalidArgumentError(f"baseline {first} exceeds max_positions {max_positions}")
    if workload.longest_context > model.max_context_length:
        raise InvalidArgumentError(
            f"context_length {workload.longest_context} exceeds the {model.max_context_length} tokens {model.title} was made for"
        )
    return first


def bind_forward(
    hardware: HardwareSpec,
    model: ModelSpec,
    workload: Workload,
    backend: str | None = None,
    tuned_moe: str | Path | None = None,
) -> BoundForward:
    """The forward's operators with kernel rules and constants.

    Parameters
    ----------
    hardware, model, workload
        What runs where.
    backend, tuned_moe
        As for :func:`predict_nfp`.
    """
    check_backend(backend)
    uses = forward_operators(model, workload)
    chosen = choose_backend(hardware, (use.operator for use in uses), backend)
    if chosen in UNFUSED_BACKENDS:
        uses = forward_operators(model, workload, fused=False)
    bound = [bind(hardware, use.operator, chosen) for use in uses]
    if tuned_moe is not None:
        bound = [_tuned(one, Path(tuned_moe)) for one in bound]
    return BoundForward(uses, tuple(bound), workload, chosen)


def _tuned(bound: BoundOperator, location: Path) -> BoundOperator:
    """The operator with a user's tuned block sizes, where it is a fused MoE run by a kernel that reads such files."""
    if not isinstance(bound.operator, FusedMoE) or not isinstance(bound.kernel, MoEKernel):
        return bound
    if "triton_moe" not in bound.kernel.key:
        raise UnsupportedError(f"tuned fused-MoE files apply to Triton kernels; {bound.kernel.key} runs here")
    return replace(bound, kernel=with_tuned_files(bound.kernel, location, bound.hardware, bound.operator))


def _warnings(hardware: HardwareSpec, model: ModelSpec, forward: BoundForward, asked: str | None) -> tuple[str, ...]:
    found: list[str] = []
    kernels = [bound for bound in forward.bound if bound.kernel is not None]
    loose = sorted({bound.fit.operator for bound in kernels if bound.calibration.startswith("uncalibrated")})
    if loose:
        asked_for = f" for backend {forward.backend}" if asked not in (None, "uncalibrated") else ""
        found.append(
            f"uncalibrated{asked_for}: {', '.join(loose)} on {hardware.title} use general constants; the band is wide"
        )
    lent = sorted(
        {(bound.fit.operator, bound.calibration) for bound in forward.bound if _of_another_gpu(bound, hardware)}
    )
    found += [f"{work} on {hardware.title} uses constants measured on another GPU ({name})" for work, name in lent]
    for weights, activations in _expanded(hardware, forward):
        found.append(
            f"weight-only: {weights} is expanded to {activations}, {hardware.title} has no {weights} matrix units"
        )
    found += _slow_links(hardware, forward.workload.ranks)
    if model.diffusion is None and forward.workload.decode_mode == "block":
        found.append(
            f"{model.title} is not a diffusion model; block mode assumes bidirectional attention among the new positions"
        )
    if model.diffusion is not None and not model.diffusion.cached:
        found.append(f"{model.title} keeps no exact KV cache; the cached context stands for an approximate block cache")
    return tuple(found)


def _of_another_gpu(bound: BoundOperator, hardware: HardwareSpec) -> bool:
    general = bound.calibration.startswith("uncalibrated")
    return not general and not bound.calibration.startswith(f"{hardware.name}.")


def _slow_links(hardware: HardwareSpec, ranks: int) -> list[str]:
    """What ranks beyond the scale-up domain talk over."""
    links = hardware.interconnect
    inside = links.scale_up_bandwidth_bytes_per_s is not None and ranks <= links.scale_up_domain
    if ranks == 1 or inside:
        return []
    name = "inter-node" if links.scale_out_bandwidth_bytes_per_s else "host"
    fits = f"links {links.scale_up_domain} GPUs" if links.scale_up_bandwidth_bytes_per_s else "has no link between GPUs"
    speed = format_si(link_bandwidth(hardware, ranks), "B/s")
    return [
        f"{hardware.title} {fits}: every collective of {ranks} ranks is counted over the {name} connection of {speed}"
    ]


def _expanded(hardware: HardwareSpec, forward: BoundForward) -> list[tuple[str, str]]:
    """Weight formats the chip has no pipe for, with the type they are expanded to."""
    found = {
        (use.operator.weight_dtype, use.operator.activation_dtype)
        for use in forward.uses
        if isinstance(use.operator, Gemm | FusedMoE)
    }
    return sorted(pair for pair in found if hardware.expands_weights(*pair))


def _checked_memory(prediction: Prediction, strict: bool) -> Prediction:
    if prediction.fits_memory:
        return prediction
    needed, present = prediction.memory_needed_bytes, prediction.hardware.memory_bytes
    message = (
        f"{prediction.model.title} needs {needed / 1e9:.1f} GB per GPU (weights and cache), "
        f"{prediction.hardware.title} has {present / 1e9:.1f} GB"
    )
    if strict:
        raise MemoryCapacityError(message)
    return replace(prediction, warnings=(*prediction.warnings, f"does not fit: {message}"))


def latency_curve(
    hardware: str | Path | HardwareSpec,
    model: str | Path | ModelSpec,
    *,
    positions: npt.ArrayLike | None = None,
    **arguments: Any,
) -> LatencyCurve:
    """T(N) of a decode forward, by operator.

    Parameters
    ----------
    hardware, model, **arguments
        As for :func:`predict_nfp`.
    positions : array_like of int or None
        Where to evaluate [positions]; None takes both sides of every step.

    Examples
    --------
    >>> latency_curve("h100", "llama-3.1-8b", positions=[1, 8]).positions.tolist()
    [1, 8]
    """
    prediction = predict_nfp(hardware, model, **arguments)
    if positions is None:
        return prediction.curve
    grid = np.atleast_1d(np.asarray(positions, dtype=np.int64))
    if grid.size == 0 or grid.min() < 1 or (np.diff(grid) <= 0).any():
        raise InvalidArgumentError("positions must be at least 1 and strictly increasing")
    return prediction.forward.curve(grid)


def idle_compute_nfp(hardware: str | Path | HardwareSpec, model: str | Path | ModelSpec, **arguments: Any) -> float:
    """What the idle-compute intuition promises [positions]; same arguments as :func:`predict_nfp`.

    Examples
    --------
    >>> idle_compute_nfp("h100", "llama-3.1-8b") > 100
    True
    """
    return predict_nfp(hardware, model, **arguments).idle_compute_nfp


def operator_latency(
    hardware: str | Path | HardwareSpec, operator: Operator, tokens: npt.ArrayLike, backend: str | None = None
) -> FloatArray:
    """Seconds of one operator over token counts.

    Parameters
    ----------
    hardware : str, Path or HardwareSpec
        GPU.
    operator : Gemm, FusedMoE or Attention
        Shape. What a backend times with a quantized GEMM (activation quantisation in the same launch sequence) is part of it.
    tokens : array_like of int
        Rows M (GEMM, MoE, over all ranks) or query positions N (attention), at least 1.
    backend : str or None
        As for :func:`predict_nfp`.

    Returns
    -------
    ndarray, shape of ``tokens``
        Latency [s].

    Raises
    ------
    InvalidArgumentError
        For token counts below 1.

    Examples
    --------
    >>> from nfp_model import Gemm
    >>> t = operator_latency("h100", Gemm(8192, 8192), [1, 256])
    >>> bool(t[0] <= t[1])
    True
    """
    counted = np.asarray(tokens)
    if counted.size == 0 or not np.issubdtype(counted.dtype, np.integer) or counted.min() < 1:
        raise InvalidArgumentError("tokens must be whole numbers of at least 1")
    if not isinstance(operator, Operator):
        raise InvalidArgumentError(f"operator must be a Gemm, FusedMoE or Attention, got {operator!r}")
    bound = bind(load_hardware(hardware), operator, backend)
    return bound.seconds(counted.ravel()).reshape(counted.shape)
