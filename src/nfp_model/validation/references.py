"""Predictors to stand beside ours on the same measured curves: rooflines, one constant, interpolation in the table itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nfp_model.cost.block_inputs import INDEX_READS
from nfp_model.cost.inputs import attention_bytes
from nfp_model.kernels.counts import FloatArray
from nfp_model.operators import Attention, CompressedAttention, Elementwise, FusedMoE, Gemm
from nfp_model.specs.registry import load_hardware
from nfp_model.validation.fit_points import FitPoints
from nfp_model.validation.records import Curve, IntArray
from nfp_model.validation.shapes import AllReduceShape, AttentionShape, GemmShape, ModuleShape, MoEShape, Shape

IDLE, ROOFLINE, THREE, CONSTANT, TABLE = (
    "idle_compute", "roofline", "three_constants", "best_constant", "interpolation",
)  # fmt: skip
"""Names of the reference predictors."""

REFERENCES: dict[str, str] = {
    IDLE: "idle compute: FLOP that fit in the time of the baseline's bytes, peak rates",
    ROOFLINE: "plain roofline: max(bytes / peak bandwidth, FLOP / peak rate)",
    THREE: "three-constant roofline t0 + max(memory / eb, matrix / ef), fitted on the scored curves themselves",
    CONSTANT: "the best single boundary in hindsight for all curves of the row",
    TABLE: "interpolation in the measured table, both halves, with the scored shape left out",
}
"""What each says."""

NEIGHBOURS = 12
"""Measured shapes an interpolation rests on [-]."""


def memory_seconds(points: FitPoints) -> FloatArray:
    """Bytes each point moves, weights, cache and activations, over the datasheet bandwidth [s]; passes that quantise left out."""
    inputs = {name: value[points.starts] for name, value in points.inputs.items()}
    if points.kind == "gemm":
        moved = inputs["weight_bytes"] + inputs["row_bytes"] * inputs["rows"]
    elif points.kind == "moe":
        moved = inputs["experts_touched"] * (inputs["up_bytes"] + inputs["down_bytes"]) + inputs["moved_bytes"]
    elif points.kind == "attention":
        return _cache_bytes(points) / _datasheet_bandwidth(points)
    elif points.kind == "block":
        keys_once = inputs["index_bytes"] / np.clip(points.tokens, *INDEX_READS)
        moved = inputs["weight_bytes"] + keys_once + inputs["moved_bytes"]
    else:
        moved = inputs["moved_bytes"]
    return np.asarray(moved / inputs["bandwidth"])


def _cache_bytes(points: FitPoints) -> FloatArray:
    """Cache bytes the keys asked for take, without those a kernel reads besides, at each point [B]."""
    moved = np.empty(len(points))
    for index, curve in enumerate(points.curves):
        here = points.curve == index
        record, tokens = curve.operator_record(1), points.tokens[here]
        assert isinstance(record, Attention)
        over = curve.axis == "positions"
        moved[here] = attention_bytes(record, tokens) if over else attention_bytes(record, np.ones(1, int)) * tokens
    return moved


def _datasheet_bandwidth(points: FitPoints) -> FloatArray:
    """Memory bandwidth of each point's GPU, before what a kernel of few CTAs draws of it [B/s]."""
    of = np.array([load_hardware(curve.gpu).memory_bandwidth_bytes_per_s for curve in points.curves])
    return np.asarray(of[points.curve])


def matrix_seconds(points: FitPoints) -> FloatArray:
    """FLOP of useful rows over the datasheet rate, at each point [s]; nothing for streams."""
    if points.kind in ("stream", "collective"):
        return np.zeros(len(points))
    tokens, peak = points.tokens.astype(np.float64), points.inputs["peak"][points.starts]
    per_token = np.array([_flop_per_token(curve) for curve in points.curves])[points.curve]
    return np.asarray(per_token * tokens / peak)


def _flop_per_token(curve: Curve) -> float:
    """FLOP one more row, sequence or position costs; causal pairs among new positions are left out [FLOP]."""
    record = curve.operator_record(1)
    if isinstance(record, Gemm):
        return record.flop_per_row
    if isinstance(record, FusedMoE):
        return record.flop_per_routed_row * record.top_k / record.expert_parallel
    if isinstance(record, CompressedAttention):
        return float(2.0 * record.weight_elements * record.batch_size + record.attention_flop(1) + record.index_flop(1))
    if isinstance(record, Elementwise):
        return 0.0
    cached = record.keys_before(record.context_lengths[0])
    if curve.axis == "positions":
        return record.flop_per_position_and_key * record.batch_size * cached
    return record.flop_per_position_and_key * (cached + 1)


def stream_seconds(points: FitPoints, curve: int, baseline: int) -> float | None:
    """Time the baseline's weights (of the experts it touches) or cache take at peak bandwidth [s].

    None where the intuition has no say: sequences and payload bytes bring their own traffic with them.

    Parameters
    ----------
    points : FitPoints
        Counted points.
    curve : int
        Which curve of ``points``.
    baseline : int
        N0; its first measured point at or above decides which experts are touched.
    """
    here = np.flatnonzero(points.curve == curve)
    index = int(np.searchsorted(points.tokens[here], baseline))
    if index >= here.size:
        return None
    entry = points.starts[here[index]]
    value = {name: float(column[entry]) for name, column in points.inputs.items()}
    if points.kind == "gemm":
        return value["weight_bytes"] / value["bandwidth"]
    if points.kind == "moe":
        return value["experts_touched"] * (value["up_bytes"] + value["down_bytes"]) / value["bandwidth"]
    if points.kind == "attention" and points.curves[curve].axis == "positions":
        record = points.curves[curve].operator_record(1)
        assert isinstance(record, Attention)
        cached = float(attention_bytes(record, np.zeros(1, int))[0])
        return cached / load_hardware(points.curves[curve].gpu).memory_bandwidth_bytes_per_s
    return None


def fitted_roofline(memory: FloatArray, matrix: FloatArray, seconds: FloatArray) -> tuple[float, float, float]:
    """Constants t0 [s], eb, ef [-] of t0 + max(memory / eb, matrix / ef), by least squares in log time (soft L1).

    Examples
    --------
    >>> memory, matrix = np.full(12, 1e-5), np.linspace(1e-6, 4e-5, 12)
    >>> found = fitted_roofline(memory, matrix, 2e-6 + np.maximum(memory / 0.8, matrix / 0.5))
    >>> [float(f"{value:.3g}") for value in found]
    [2e-06, 0.8, 0.5]
    """
    from scipy.optimize import least_squares

    kept = np.linspace(0, seconds.size - 1, min(seconds.size, 6000)).astype(np.intp)
    memory, matrix, measured = memory[kept], matrix[kept], np.log(seconds[kept])
    scale = float(np.exp(np.median(measured)))

    def residuals(logs: FloatArray) -> FloatArray:
        t0, eb, ef = np.exp(logs)
        return np.asarray(np.log(t0 * scale + np.maximum(memory / eb, matrix / ef)) - measured)

    best = min(
        (
            least_squares(residuals, np.log([t0, eb, ef]), loss="soft_l1", f_scale=0.1, bounds=(-14, 3), xtol=1e-12)
            for t0, eb, ef in ((0.1, 0.8, 0.7), (0.3, 0.9, 0.3))
        ),
        key=lambda solution: solution.cost,
    )
    t0, eb, ef = np.exp(best.x)
    return float(t0 * scale), float(eb), float(ef)


def best_constant(boundaries: Sequence[float]) -> float:
    """The one boundary with the least median |log2| distance to all: among those measured, the best [tokens].

    Examples
    --------
    >>> best_constant([64, 64, 128, 512])
    64
    """
    candidates = np.unique(boundaries)
    logs = np.log2(np.asarray(boundaries, dtype=np.float64))
    medians = [float(np.median(np.abs(np.log2(candidate) - logs))) for candidate in candidates]
    return candidates[int(np.argmin(medians))].item()  # type: ignore[no-any-return]


def features(shape: Shape) -> tuple[float, ...]:
    """Sizes of a shape that an interpolation may use, as logarithms [-]."""
    if isinstance(shape, GemmShape):
        sizes: tuple[int, ...] = (shape.out_features, shape.in_features)
    elif isinstance(shape, MoEShape):
        sizes = (shape.hidden_size, shape.intermediate_size, shape.num_experts, shape.top_k)
        sizes += (shape.tensor_parallel, shape.expert_parallel)
    elif isinstance(shape, AttentionShape):
        sizes = (shape.num_query_heads, shape.num_kv_heads, shape.head_dim, shape.context_length + 1)
        sizes += (shape.window + 1,)
    elif isinstance(shape, AllReduceShape):
        sizes = (shape.ranks,)
    elif isinstance(shape, ModuleShape):
        sizes = (shape.num_query_heads, shape.context_length + 1, shape.batch_size or 1)
    else:
        sizes = ()
    return tuple(np.log2(sizes).tolist())


class TableInterpolator:
    """Local linear interpolation of log latency in the logarithms of a table's shapes, a shape itself left out.

    Parameters
    ----------
    curves : sequence of Curve
        Measured curves of one kernel, data type and routing, both halves.

    Examples
    --------
    >>> from nfp_model.validation.records import Curve
    >>> grid = [(n, k) for n in (1024, 2048, 4096, 8192) for k in (1024, 2048, 4096, 8192)]
    >>> table = [Curve("gemm", GemmShape(n, k), "h100_sxm5", "vllm", [1, 2], [n * k * 1e-12, n * k * 2e-12]) for n, k in grid]
    >>> left_out = TableInterpolator(table).seconds(table[5])
    >>> bool(np.allclose(left_out, table[5].seconds, rtol=0.05))
    True
    """

    def __init__(self, curves: Sequence[Curve]) -> None:
        self.keys = np.array([curve.split_key for curve in curves])
        raw = np.array([features(curve.shape) for curve in curves], dtype=np.float64)
        spread = raw.std(axis=0) if raw.size else np.ones(0)
        self.moving = spread > 0
        self.spread = spread[self.moving]
        self.places = raw[:, self.moving] / self.spread
        self.grid = np.unique(np.concatenate([curve.tokens for curve in curves]))
        self.logs = np.array([_on_grid(self.grid, curve) for curve in curves])

    def seconds(self, curve: Curve) -> FloatArray | None:
        """Latency of a curve from the other shapes of the table [s]; None where there are too few of them."""
        others = np.flatnonzero(self.keys != curve.split_key)
        if others.size < 4 or not self.moving.any():
            return None
        place = np.array(features(curve.shape))[self.moving] / self.spread
        apart = self.places[others] - place
        distance = np.sqrt((apart**2).sum(axis=1))
        near = np.argsort(distance, kind="stable")[:NEIGHBOURS]
        share = linear_weights(apart[near], distance[near])
        log = share @ self.logs[others[near]]
        return np.asarray(np.exp(log[np.searchsorted(self.grid, curve.tokens)]))


def linear_weights(apart: FloatArray, distance: FloatArray) -> FloatArray:
    """Weights of neighbours whose sum is the local linear estimate at the origin, slopes held back by a weak ridge [-]."""
    weight = 1.0 / (distance + 0.05 * max(float(distance.max()), 1e-9)) ** 2
    design = np.column_stack([np.ones(len(apart)), apart])
    weighted = design * weight[:, None]
    normal = weighted.T @ design
    ridge = np.full(normal.shape[0], 1e-3 * weight.sum() * float(np.mean(apart**2)) + 1e-12)
    ridge[0] = 0.0
    return np.asarray(np.linalg.solve(normal + np.diag(ridge), weighted.T)[0])


def _on_grid(grid: IntArray, curve: Curve) -> npt.NDArray[np.float64]:
    return np.interp(np.log(grid), np.log(curve.tokens), np.log(curve.seconds))


__all__ = [
    "CONSTANT", "IDLE", "REFERENCES", "ROOFLINE", "TABLE", "THREE", "TableInterpolator", "best_constant", "fitted_roofline",
    "matrix_seconds", "memory_seconds", "stream_seconds",
]  # fmt: skip
