"""Whole decode forwards and modules, measured by ``nfp measure``, beside their prediction from constants fitted on operators alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nfp_model.boundary import near_free_boundary, saturated_baseline
from nfp_model.curve import LatencyCurve
from nfp_model.operators import Attention, FusedMoE, Gemm
from nfp_model.prediction import operator_latency, predict_nfp
from nfp_model.prediction.result import Prediction, saturated_positions
from nfp_model.specs.model import DenseFFN, ModelSpec, MoEFFN
from nfp_model.specs.registry import load_model
from nfp_model.specs.variants import with_fields
from nfp_model.validation.cases import GEMM_MODELS, MOE_MODELS, forward_model
from nfp_model.validation.datasets import curves_of
from nfp_model.validation.recorded import BACKEND, read_recorded
from nfp_model.validation.records import Curve, FloatArray, IntArray
from nfp_model.validation.shapes import AttentionShape, ForwardShape, GemmShape, MoEShape
from nfp_model.validation.statistics import coverage

TOLERANCES = (0.1, 0.2, 0.5)
"""eps the boundaries are compared at [-]."""
CLOSE = 1.25
"""Ratio within which a boundary counts as met [-]."""
TILE_ROWS = 64
"""A tile step in rows: half of all measured GEMM boundaries are multiples of it [rows]."""
JUDGED_ROWS = 1024
"""Rows up to which latencies are judged, the range the operators were fitted on [rows]."""
IMPLEMENTATION = "flash"
"""Whose forwards are judged: SDPA with a mask repeats keys and values and runs another kernel, which no rule describes."""


@dataclass(frozen=True, eq=False)
class Setting:
    """One measured curve and what was predicted for it.

    Attributes
    ----------
    name : str
        Model, or module and model.
    kind : {"forward", "dense_ffn", "moe_ffn", "attention"}
        A whole forward or one module.
    words : str
        Batch, context, decode mode.
    moe : bool
        Routed experts are part of it.
    batch_size : int
        Sequences [-].
    positions : ndarray of int, shape (points,)
        N [positions].
    measured, predicted : ndarray, shape (points,)
        T(N) [s].
    idle : dict
        Baseline N0 -> idle-compute NFP [positions].
    bands : dict
        (Baseline, tolerance) -> 80 % band of the predicted NFP [positions]; empty for modules.
    latency_band : tuple of ndarray or None
        80 % band of the predicted T [s]; None for modules.
    """

    name: str
    kind: str
    words: str
    moe: bool
    batch_size: int
    positions: IntArray
    measured: FloatArray
    predicted: FloatArray
    idle: dict[int, float]
    bands: dict[tuple[int, float], tuple[int, int]] = field(default_factory=dict)
    latency_band: tuple[FloatArray, FloatArray] | None = None

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        """Points up to :data:`JUDGED_ROWS` rows."""
        return self.positions * self.batch_size <= JUDGED_ROWS

    @property
    def mape(self) -> float:
        """Mean |predicted / measured - 1| over :attr:`judged` points [-]."""
        return float(np.abs(self.predicted / self.measured - 1)[self.judged].mean())

    def boundaries(self) -> Iterator[tuple[int, float, int, int, float]]:
        """Baseline, tolerance, NFP measured, predicted and by idle compute, where the measured curve leaves the tolerance.

        All three are the last measured size within the tolerance, or at or below idle compute's answer.
        """
        for baseline, idle in self.idle.items():
            for tolerance in TOLERANCES:
                found = [
                    near_free_boundary(LatencyCurve.measured(self.positions, seconds), tolerance, baseline)
                    for seconds in (self.measured, self.predicted)
                ]
                if not found[0].censored:
                    free = self.positions[self.positions <= max(idle, baseline)]
                    yield baseline, tolerance, found[0].nfp, found[1].nfp, float(free[-1])


@dataclass(frozen=True)
class Agreement:
    """How many boundaries of some settings agree.

    Attributes
    ----------
    settings, boundaries : int
        Settings, and boundaries in them over tolerances and baselines [-].
    close, within_a_tile : float
        Share within :data:`CLOSE`, and within :data:`TILE_ROWS` rows [-].
    median_error, p90_error : float
        Of |log2(predicted / measured)| [-].
    idle_median, idle_most : float
        Idle compute over measured, median and largest [-].
    mape, most_mape : float
        Median and largest over settings of :attr:`Setting.mape` [-].
    covered : float or None
        Share of measured boundaries inside the 80 % band of the prediction [-]; None where no band was asked for.
    covered_latency : float or None
        Share of judged points inside the 80 % band of T [-]; None likewise.

    Where no curve left a tolerance, ``boundaries`` is 0 and what is said of boundaries is NaN.
    """

    settings: int
    boundaries: int
    close: float
    within_a_tile: float
    median_error: float
    p90_error: float
    idle_median: float
    idle_most: float
    mape: float
    most_mape: float
    covered: float | None
    covered_latency: float | None


def agreement(settings: Iterable[Setting]) -> Agreement:
    """Summary of some settings, every boundary counting alike."""
    every = list(settings)
    rows = [(one.batch_size, *found) for one in every for found in one.boundaries()]
    errors = [one.mape for one in every]
    points = [
        coverage(one.measured[one.judged], *(end[one.judged] for end in one.latency_band))
        for one in every
        if one.latency_band is not None
    ]
    covered = float(np.mean(points)) if points else None
    if not rows:
        nan = float("nan")
        middle, most = float(np.median(errors)), max(errors)
        return Agreement(len(every), 0, nan, nan, nan, nan, nan, nan, middle, most, None, covered)
    batch, _, _, measured, predicted, idle = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    ratio = np.abs(np.log2(predicted / measured))
    inside = [
        low <= found <= high
        for one in every
        for baseline, tolerance, found, _, _ in one.boundaries()
        if (band := one.bands.get((baseline, tolerance))) is not None
        for low, high in [band]
    ]
    return Agreement(
        len(every), len(rows),
        float(np.mean(ratio <= np.log2(CLOSE) + 1e-9)),
        float(np.mean(batch * np.abs(predicted - measured) <= TILE_ROWS)),
        float(np.median(ratio)), float(np.quantile(ratio, 0.9)),
        float(np.median(idle / measured)), float(np.max(idle / measured)),
        float(np.median(errors)), max(errors), float(np.mean(inside)) if inside else None, covered,
    )  # fmt: skip


def forward_prediction(
    hardware: str, shape: ForwardShape, last: int, backend: str = BACKEND, baseline: int = 1, tolerance: float = 0.1
) -> Prediction:
    """The prediction of a measured forward: the layers that ran, its decode mode, whatever context it was given."""
    model = forward_model(shape.model, shape.layers) if shape.layers else load_model(shape.model)
    if shape.context_length > model.max_context_length:  # random weights run at any context
        model = with_fields(model, {"max_context_length": shape.context_length})
    return predict_nfp(
        hardware, model, batch_size=shape.batch_size, context_length=shape.context_length,
        decode_mode=shape.decode_mode, backend=backend, max_positions=last, baseline=baseline, tolerance=tolerance,
    )  # fmt: skip


def forward_settings(path: Path) -> list[Setting]:
    """Every whole forward of a measured file that a kernel rule describes, predicted.

    Parameters
    ----------
    path : Path
        ``forward.csv`` of ``nfp measure``.
    """
    return [_forward(curve) for curve in curves_of(read_recorded(path, IMPLEMENTATION))]


def _forward(curve: Curve) -> Setting:
    shape = curve.shape
    assert isinstance(shape, ForwardShape)
    prediction = forward_prediction(curve.gpu, shape, int(curve.tokens[-1]))
    idle = {1: prediction.idle_compute_nfp}
    if prediction.model.is_moe:
        asked = saturated_positions(prediction.model, shape.batch_size) or 1
        later = curve.tokens[curve.tokens >= asked]
        if later.size and later[0] > 1 and prediction.saturated is not None:
            idle[int(later[0])] = prediction.saturated.idle_compute_nfp
    last = int(curve.tokens[-1])
    bands = {
        (baseline, tolerance): forward_prediction(curve.gpu, shape, last, baseline=baseline, tolerance=tolerance).band
        for baseline in idle
        for tolerance in TOLERANCES
    }
    cut = shape.layers and shape.layers < load_model(shape.model).num_layers
    return Setting(
        name=prediction.model.title + (f", {shape.layers} layers" if cut else ""),
        kind="forward",
        words=f"{shape.decode_mode}, batch {shape.batch_size}, context {shape.context_length}",
        moe=prediction.model.is_moe,
        batch_size=shape.batch_size,
        positions=curve.tokens,
        measured=curve.seconds,
        predicted=prediction.forward.curve(curve.tokens).seconds,
        idle=idle,
        bands=bands,
        latency_band=prediction.latency_band_s(curve.tokens),
    )


def module_settings(folder: Path) -> list[Setting]:
    """Modules of the measured models, put together from measured operators: dense FFN, MoE FFN, attention of one layer.

    Parameters
    ----------
    folder : Path
        With ``gemm.csv``, ``moe.csv`` and ``attention.csv`` of ``nfp measure``; a missing one has no modules.
    """
    return [*_dense_modules(folder / "gemm.csv"), *_moe_modules(folder / "moe.csv"), *_attentions(folder)]


def curves_timed(path: Path, implementation: str) -> tuple[Curve, ...]:
    """Curves of one implementation in a measured file; none where the file or the implementation is missing."""
    points = read_recorded(path) if path.exists() else ()
    return curves_of(point for point in points if point.kernel_source.split(", ")[0] == implementation)


def _dense_modules(path: Path) -> Iterator[Setting]:
    curves = {curve.shape: curve for curve in curves_timed(path, "linear")}
    for name in GEMM_MODELS:
        model = load_model(name)
        ffn = next(part for part in model.ffn.values() if isinstance(part, DenseFFN))
        gate = GemmShape(ffn.intermediate_size, model.hidden_size)
        down = GemmShape(model.hidden_size, ffn.intermediate_size)
        if gate not in curves or down not in curves:
            continue
        parts = {gate: 2, down: 1}
        rows = np.intersect1d(curves[gate].tokens, curves[down].tokens)
        measured = sum(n * curves[shape].seconds[np.isin(curves[shape].tokens, rows)] for shape, n in parts.items())
        operators = {Gemm(shape.out_features, shape.in_features): n for shape, n in parts.items()}
        hardware = curves[gate].gpu
        predicted = sum(n * operator_latency(hardware, one, rows, BACKEND) for one, n in operators.items())
        yield Setting(
            model.title, "dense_ffn", "", False, 1, rows, np.asarray(measured), np.asarray(predicted),
            {1: _idle(model, hardware, "dense_ffn", 1, 1)},
        )  # fmt: skip


def _moe_modules(path: Path) -> Iterator[Setting]:
    models = {name: load_model(name) for name in MOE_MODELS}
    for curve in curves_timed(path, "grouped_mm"):
        shape = curve.shape
        assert isinstance(shape, MoEShape)
        for model in models.values():
            ffn = next(part for part in model.ffn.values() if isinstance(part, MoEFFN))
            sizes = (model.hidden_size, ffn.intermediate_size, ffn.num_experts, ffn.top_k)
            if (shape.hidden_size, shape.intermediate_size, shape.num_experts, shape.top_k) != sizes:
                continue
            if shape.routing != "uniform" or len(curve) < 8:
                continue
            record = curve.operator_record()
            assert isinstance(record, FusedMoE)
            saturated = saturated_baseline(ffn.num_experts, ffn.top_k, 1)
            baselines = (1, *curve.tokens[curve.tokens >= saturated][:1].tolist())
            yield Setting(
                model.title, "moe_ffn", "uniform routing", True, 1, curve.tokens, curve.seconds,
                operator_latency(curve.gpu, record, curve.tokens, BACKEND),
                {first: _idle(model, curve.gpu, "moe_ffn", 1, first) for first in baselines},
            )  # fmt: skip


def _attentions(folder: Path) -> Iterator[Setting]:
    for curve in curves_timed(folder / "attention.csv", "sdpa_flash"):
        shape = curve.shape
        assert isinstance(shape, AttentionShape)
        if "causal" not in curve.kernels[0] or len(curve) < 8 or shape.batch_size is None:
            continue
        record = curve.operator_record()
        assert isinstance(record, Attention)
        yield Setting(
            f"{shape.num_query_heads} heads on {shape.num_kv_heads}", "attention",
            f"batch {shape.batch_size}, context {shape.context_length}", False, shape.batch_size,
            curve.tokens, curve.seconds, operator_latency(curve.gpu, record, curve.tokens, BACKEND),
            {1: _idle_attention(curve.gpu, record)},
        )  # fmt: skip


def _idle(model: ModelSpec, hardware: str, module: str, batch_size: int, baseline: int) -> float:
    prediction = predict_nfp(hardware, model, batch_size=batch_size, backend=BACKEND, baseline=baseline)
    return float(prediction.modules[module].idle_compute_nfp or 1.0)


def _idle_attention(hardware: str, record: Attention) -> float:
    """balance x KV bytes per cached token / (2 H (d_k + d_v)), never below 1 (cost model, section 1) [positions]."""
    from nfp_model.specs.registry import load_hardware

    flop = 2.0 * record.num_query_heads * (record.head_dim + record.values_dim)
    return max(1.0, load_hardware(hardware).ridge_point() * record.cache_bytes_per_token / flop)


__all__ = [
    "Agreement", "Setting", "agreement", "curves_timed", "forward_prediction", "forward_settings", "module_settings",
]  # fmt: skip
