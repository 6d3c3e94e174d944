"""What other predictors would say, on the same operators: the idle-compute intuition first of all."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from nfp_model.curve import BoundForward
from nfp_model.kernels.routing import experts_touched
from nfp_model.operators import Attention, FusedMoE, Gemm, OperatorUse
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.workload import Workload

FloatArray = npt.NDArray[np.float64]


def idle_work(use: OperatorUse, hardware: HardwareSpec, workload: Workload, baseline: int) -> tuple[float, float]:
    """Compute and memory time the idle-compute intuition sees in an operator.

    Peak rates, no tiles, no overhead, activations ignored, no expert beyond those touched at the baseline (cost model,
    section 1).

    Returns
    -------
    seconds_per_position, memory_seconds : float
        Matrix time one position per sequence adds, and the time the baseline's bytes take [s].
    """
    operator, bandwidth = use.operator, hardware.memory_bandwidth_bytes_per_s
    if isinstance(operator, Gemm):
        flop = operator.flop_per_row * workload.rank_batch
        peak = hardware.peak(operator.weight_dtype, operator.activation_dtype)
        return use.count * flop / peak, use.count * operator.weight_bytes / bandwidth
    if isinstance(operator, FusedMoE):
        rows = workload.batch_size
        touched = experts_touched(
            operator.load_routing,
            operator.num_experts,
            operator.top_k,
            np.array([rows * baseline]),
            operator.expert_parallel,
        )
        flop = operator.flop_per_routed_row * operator.top_k * rows / operator.expert_parallel
        peak = hardware.peak(operator.weight_dtype, operator.activation_dtype)
        return use.count * flop / peak, use.count * float(touched[0]) * operator.expert_bytes / bandwidth
    if isinstance(operator, Attention):
        keys = operator.batch_size * operator.mean_keys_before
        flop = operator.flop_per_position_and_key * keys
        return (
            use.count * flop / hardware.peak_flop_per_s["bfloat16"],
            use.count * keys * operator.cache_bytes_per_token / bandwidth,
        )
    return 0.0, 0.0


def idle_compute_positions(
    uses: Iterable[OperatorUse], hardware: HardwareSpec, workload: Workload, baseline: int = 1
) -> float:
    """Idle-compute NFP of a set of operators: positions whose FLOPs fit in the time the baseline's bytes take [positions].

    Never below the baseline: a compute-bound baseline has none to give. Operators without matrix work are ignored.

    Examples
    --------
    A bf16 GEMM at batch 1 gives the ridge point:

    >>> from nfp_model import load_hardware
    >>> from nfp_model.operators import Gemm, OperatorUse
    >>> use = OperatorUse("up", "dense_ffn", Gemm(8192, 8192), 1)
    >>> round(idle_compute_positions([use], load_hardware("h100"), Workload()))
    295
    """
    compute = memory = 0.0
    for use in uses:
        per_position, stream = idle_work(use, hardware, workload, baseline)
        compute += per_position
        memory += stream
    return max(float(baseline), memory / compute) if compute else float(baseline)


def roofline_seconds(forward: BoundForward, positions: npt.ArrayLike) -> FloatArray:
    """The plain roofline of a forward: max(bytes / bandwidth, FLOP / peak) per operator, nothing else [s].

    Experts follow the routing and activations are counted; tiles, waves, fixed times and efficiencies are not.
    """
    grid = np.atleast_1d(np.asarray(positions, dtype=np.int64))
    total = np.zeros(grid.size)
    for use, bound in zip(forward.uses, forward.bound, strict=True):
        tokens = forward.tokens(use, grid)
        operator, bandwidth = use.operator, bound.hardware.memory_bandwidth_bytes_per_s
        if isinstance(operator, Gemm):
            moved = operator.weight_bytes + operator.activation_bytes_per_row * tokens
            flop = operator.flop_per_row * tokens
            peak = bound.hardware.peak(operator.weight_dtype, operator.activation_dtype)
        elif isinstance(operator, FusedMoE):
            touched = experts_touched(
                operator.load_routing, operator.num_experts, operator.top_k, tokens, operator.expert_parallel
            )
            pairs = tokens * operator.top_k / operator.expert_parallel
            moved = touched * operator.expert_bytes + operator.activation_bytes_per_routed_row * pairs
            flop, peak = operator.flop_per_routed_row * pairs, bound.hardware.peak(operator.weight_dtype)
        elif isinstance(operator, Attention):
            keys = operator.mean_keys_before
            moved = (keys + tokens) * operator.batch_size * operator.cache_bytes_per_token
            flop = operator.flop_per_position_and_key * operator.batch_size * tokens * (keys + tokens)
            peak = bound.hardware.peak_flop_per_s["bfloat16"]
        else:
            continue
        total += use.count * np.maximum(moved / bandwidth, flop / peak)
    return total
