"""What a score says: one row per operator, GPU, backend, data type, setting and kernel, every predictor side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nfp_model.uncertainty import Spread

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

OURS = "model"
"""Name of this library's predictor among the others."""

REPEAT = "repeat"
"""A second recording of the same table, judged like a predictor: the noise no prediction can beat."""


@dataclass(frozen=True)
class RowKey:
    """What a row is about.

    Attributes
    ----------
    operator : str
        Kind of measured curve, or ``dense_layer``: the sum of four GEMMs.
    gpu, backend, dtype : str
        Hardware key, framework, storage of the weights (of the cache for attention).
    setting : str
        MoE ``balanced``, ``power law``, ``parallel``; attention ``KV beyond L2``, ``every KV``; else ``all``.
    kernel : str
        First kernel the table names for the curves; empty where it names none.
    constants : str
        ``fitted``; ``sibling``: constants of another GPU of this generation; ``uncalibrated``: that never saw the generation.
    """

    operator: str
    gpu: str
    backend: str
    dtype: str
    setting: str = "all"
    kernel: str = ""
    constants: str = "fitted"

    def __str__(self) -> str:
        parts = (self.operator, self.gpu, self.backend, self.dtype, self.setting, self.kernel, self.constants)
        return " ".join(part for part in parts if part and part not in ("all", "fitted"))


@dataclass(frozen=True)
class BoundaryScore:
    """How far predicted boundaries are from measured ones at one tolerance and baseline.

    Attributes
    ----------
    curves : int
        Curves with a measured point at or beyond the baseline [-].
    median, p90 : float
        Of |log2(NFP predicted / measured)| [-].
    within_quarter, within_double : float
        Share of curves within a factor of 1.25 and of 2 [-].
    signed_median : float
        Of log2(NFP predicted / measured): above 0 promises too much [-].
    band : float or None
        Share of curves whose measured boundary lies in the 80 % band of the predicted one; None for predictors without [-].
    both_censored, one_censored : int
        Curves on which both never left the tolerance, which is agreement, and on which one did not: its end of the range
        stands for its boundary, so the error counted is a lower bound [-].
    """

    curves: int
    median: float
    p90: float
    within_quarter: float
    within_double: float
    signed_median: float
    both_censored: int
    one_censored: int
    band: float | None = None


@dataclass(frozen=True)
class PredictorScore:
    """One predictor on the curves of a row.

    Attributes
    ----------
    mape : float or None
        Median over curves of the curve's mean |predicted / measured - 1| [-]; None for a predictor of boundaries alone.
    shape_mape : float or None
        The same after both curves are divided by their first point [-].
    boundaries : dict
        ``"<tolerance>|<baseline>"`` -> score.
    """

    mape: float | None = None
    shape_mape: float | None = None
    boundaries: Mapping[str, BoundaryScore] = field(default_factory=dict)


@dataclass(frozen=True)
class OverPrediction:
    """Distribution over curves of a predicted over a measured boundary; curves never seen to leave the tolerance left out.

    Attributes
    ----------
    curves, left_out : int
        Compared, and left out as censored [-].
    quantiles : tuple of float
        5, 10, 25, 50, 75, 90 and 95 % [-].
    from_2_4, from_23 : float
        Share of curves with at least that ratio [-].
    """

    curves: int
    left_out: int
    quantiles: tuple[float, ...]
    from_2_4: float
    from_23: float


@dataclass(frozen=True, eq=False)
class CurveCase:
    """One measured curve beside its predictions, all in seconds at the same tokens.

    Attributes
    ----------
    name : str
        Shape in words.
    tokens : ndarray of int, shape (points,)
        Places on the axis.
    measured, predicted : ndarray, shape (points,)
        Latencies [s].
    spread : Spread
        How unsure log T is at every point.
    memory, matrix : ndarray, shape (points,)
        Bytes over peak bandwidth and FLOP over peak rate [s].
    baselines : dict
        Name -> N0 as asked for.
    stream : dict
        Baseline name -> time the baseline's weights or cache take at peak bandwidth [s]; empty where idle compute has no say.
    others : dict
        Predictor name -> latencies [s].
    most : int
        Tokens up to which the percentage errors are judged.
    """

    name: str
    tokens: IntArray
    measured: FloatArray
    predicted: FloatArray
    spread: Spread
    memory: FloatArray
    matrix: FloatArray
    baselines: Mapping[str, int]
    stream: Mapping[str, float] = field(default_factory=dict)
    others: Mapping[str, FloatArray] = field(default_factory=dict)
    most: int = 2**62

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        """Points the percentage errors are taken over: up to ``most``, all where none is."""
        inside = self.tokens <= self.most
        return inside if inside.any() else np.ones(self.tokens.size, dtype=bool)

    def where(self, mask: npt.NDArray[np.bool_]) -> CurveCase:
        """The points a mask keeps."""
        columns = ("tokens", "measured", "predicted", "memory", "matrix")
        kept = {name: getattr(self, name)[mask] for name in columns}
        others = {name: seconds[mask] for name, seconds in self.others.items()}
        return replace(self, **kept, spread=self.spread.where(mask), others=others)

    def idle_positions(self, baseline: str) -> float | None:
        """Idle-compute NFP: tokens whose FLOP fit in the time the baseline's bytes take; never below the baseline."""
        if baseline not in self.stream:
            return None
        per_token = float(self.matrix[-1] / self.tokens[-1])
        return max(float(self.baselines[baseline]), self.stream[baseline] / per_token)


@dataclass(frozen=True)
class Evidence:
    """What the pictures of a row are drawn from; not part of the JSON."""

    points: FloatArray
    boundary_errors: FloatArray
    idle_errors: FloatArray
    ratios: Mapping[str, tuple[FloatArray, FloatArray]]
    overlays: Mapping[str, CurveCase]


@dataclass(frozen=True)
class WorstCurve:
    """One of the worst curves of a row: name, MAPE [-], kind of error and its tokens; see ``score_rows.kind_of_error``."""

    name: str
    mape: float
    kind: str
    tokens: int


@dataclass(frozen=True)
class RowScore:
    """One row.

    Attributes
    ----------
    key : RowKey
        What it is about.
    curves, points : int
        Scored [-].
    refused : dict
        Reason -> curves the model refused: each counts as missed.
    predictors : dict
        :data:`OURS`, the references and, where the table records points twice, :data:`REPEAT`.
    coverage : float or None
        Share of points inside the 80 % band [-].
    described : bool
        The kernel the table names is the one the rule describes.
    rule, calibration : str
        Kernel rule and calibration file behind the predictions.
    by_tokens : dict
        Range of tokens -> median |predicted / measured - 1| and its signed median over points [-].
    over_prediction, own_over_prediction : dict
        ``"<tolerance>|<baseline>"`` -> idle compute, and this model, over measured.
    worst : tuple of WorstCurve
        The worst 5 % of curves, at least one.
    evidence : Evidence or None
        For the pictures.
    """

    key: RowKey
    curves: int
    points: int
    refused: Mapping[str, int]
    predictors: Mapping[str, PredictorScore]
    coverage: float | None = None
    described: bool = True
    rule: str = ""
    calibration: str = ""
    by_tokens: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    over_prediction: Mapping[str, OverPrediction] = field(default_factory=dict)
    own_over_prediction: Mapping[str, OverPrediction] = field(default_factory=dict)
    worst: tuple[WorstCurve, ...] = ()
    evidence: Evidence | None = field(default=None, compare=False, repr=False)

    @property
    def ours(self) -> PredictorScore:
        """This library's predictor; without any score where every curve was refused."""
        return self.predictors.get(OURS, PredictorScore())

    def to_dict(self, brief: bool = False) -> dict[str, Any]:
        """JSON-safe, rounded to four significant digits; ``brief`` leaves out all but this library's own predictor.

        The reference predictors keep the median and 90th percentile of their boundary errors; an over-prediction keeps its
        curves, those left out, and its 10, 50 and 90 % quantiles; of the worst curves five are named.
        """
        labels = ("curves", "points", "refused", "coverage", "described", "rule", "calibration", "by_tokens")
        plain = {name: _plain(getattr(self, name)) for name in labels}
        if brief:
            return {**asdict(self.key), **plain, "predictors": {OURS: _brief(self.ours, True)}}
        return {
            **asdict(self.key),
            **plain,
            "worst": _plain(self.worst[:5]),
            "predictors": {name: _brief(one, name == OURS) for name, one in self.predictors.items()},
            "over_prediction": {name: _quantiles(one) for name, one in self.over_prediction.items()},
            "own_over_prediction": {name: _quantiles(one) for name, one in self.own_over_prediction.items()},
        }


@dataclass(frozen=True)
class ExcludedRows:
    """Rows of one table left out under one name."""

    operator: str
    gpu: str
    backend: str
    name: str
    reason: str
    rows: int
    curves: int


@dataclass(frozen=True)
class ScoreReport:
    """Everything one run of :func:`~nfp_model.validation.scoring.score` found.

    Attributes
    ----------
    rows : tuple of RowScore
        By operator, GPU, backend, data type, setting and kernel.
    exclusions : tuple of ExcludedRows
        What the filters took from whole tables, both halves.
    dataset, half, source, command, date : str
        What was scored, which half of the fixed split, package and version, how to repeat it, when.
    quick : bool
        Only some curves of every row were scored.
    seconds : float
        Duration [s].
    """

    rows: tuple[RowScore, ...]
    exclusions: tuple[ExcludedRows, ...]
    dataset: str
    half: str
    source: str
    command: str
    date: str
    quick: bool
    seconds: float

    def __iter__(self) -> Iterator[RowScore]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, **labels: str) -> tuple[RowScore, ...]:
        """Rows whose key has these values, for example ``where(operator="gemm", dtype="bfloat16")``."""
        return tuple(row for row in self.rows if all(getattr(row.key, n) == v for n, v in labels.items()))

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        plain = {
            name: _plain(getattr(self, name)) for name in ("dataset", "half", "source", "command", "date", "quick")
        }
        fitted = {row.key for row in self.rows if row.key.constants == "fitted"}
        return {
            **plain,
            "seconds": round(self.seconds, 1),
            # The references do not depend on the constants: they stand in the fitted row where there is one.
            "rows": [
                row.to_dict(row.key not in fitted and replace(row.key, constants="fitted") in fitted)
                for row in self.rows
            ],
            "exclusions": [asdict(one) for one in self.exclusions],
        }


def _brief(score: PredictorScore, whole: bool) -> Any:
    if whole:
        return _plain(score)
    boundaries = {name: _plain((one.median, one.p90)) for name, one in score.boundaries.items()}
    return {"mape": _plain(score.mape), "shape_mape": _plain(score.shape_mape), "boundaries": boundaries}


def _quantiles(one: OverPrediction) -> Any:
    return _plain((one.curves, one.left_out, one.quantiles[1], one.quantiles[3], one.quantiles[5]))


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return value
