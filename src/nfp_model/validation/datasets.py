"""A set of measured curves, what was left out of it and why, and how well it repeats itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from nfp_model.errors import InvalidArgumentError
from nfp_model.validation.records import Curve, Half, Measurement


@dataclass(frozen=True)
class Exclusion:
    """Rows left out under one name.

    Attributes
    ----------
    reason : str
        Why such rows say nothing about the kernel.
    rows, curves : int
        How many rows, and how many curves lost at least one [-].
    """

    reason: str
    rows: int
    curves: int


@dataclass(frozen=True)
class Source:
    """Where a set of curves comes from.

    Attributes
    ----------
    name : str
        Package, publication or file.
    version : str
        Of the package; empty where there is none.
    file : str
        Path inside the package, or the user's file.
    library_version : str
        Version of the kernel library that was timed.
    """

    name: str
    version: str = ""
    file: str = ""
    library_version: str = ""


@dataclass(frozen=True)
class RepeatNoise:
    """How far two recordings of the same curves are apart, by the statistic a prediction is scored with.

    Attributes
    ----------
    median_mape : float
        Median over curves of the curve's mean |a/b - 1| [-]; NaN without common points.
    mean_deviation, median_deviation : float
        Over all points [-].
    curves, points : int
        Compared [-].
    """

    median_mape: float
    mean_deviation: float
    median_deviation: float
    curves: int
    points: int


@dataclass(frozen=True)
class CurveSet:
    """Measured curves of one table.

    Attributes
    ----------
    curves : tuple of Curve
        What is left after the filters.
    source : Source
        Where from.
    exclusions : mapping of str to Exclusion
        What the filters took, by name.
    repeats : tuple of (Curve, Curve)
        First and second recording of every curve that has points recorded more than once, at those points.
    """

    curves: tuple[Curve, ...]
    source: Source
    exclusions: Mapping[str, Exclusion] = field(default_factory=dict)
    repeats: tuple[tuple[Curve, Curve], ...] = ()

    def __len__(self) -> int:
        return len(self.curves)

    def __iter__(self) -> Iterator[Curve]:
        return iter(self.curves)

    @property
    def points(self) -> int:
        """Measured points in all curves [-]."""
        return sum(len(curve) for curve in self.curves)

    def half(self, half: Half) -> CurveSet:
        """The curves of one half of the fixed split; see :func:`~nfp_model.validation.records.split_half`."""
        if half not in ("fit", "test"):
            raise InvalidArgumentError(f"half must be 'fit' or 'test', got {half!r}")
        return self.where(lambda curve: curve.half == half)

    def where(self, keep: Callable[[Curve], bool]) -> CurveSet:
        """The curves a condition keeps; the exclusions stay those of the whole table."""
        return replace(
            self,
            curves=tuple(curve for curve in self.curves if keep(curve)),
            repeats=tuple(pair for pair in self.repeats if keep(pair[0])),
        )

    @property
    def repeat_noise(self) -> RepeatNoise:
        """Noise of the table itself, from the points it records more than once."""
        return _noise(self.repeats)


def noise_between(first: Iterable[Curve], second: Iterable[Curve]) -> RepeatNoise:
    """Noise between two recordings of the same shapes: two versions, or backends with the same kernel.

    Curves are matched by shape and data types, points by token count; shapes that either side has more than one curve
    of (kernels that compete) are left out.

    Examples
    --------
    >>> from nfp_model.validation.published import mixtral_h100_vllm
    >>> noise_between(mixtral_h100_vllm(), mixtral_h100_vllm()).median_mape
    0.0
    """
    ours, theirs = _unique(first), _unique(second)
    return _noise([(curve, theirs[key]) for key, curve in ours.items() if key in theirs])


def curves_of(measurements: Iterable[Measurement]) -> tuple[Curve, ...]:
    """Gather single measurements into curves: median of repeats, (max - min) / median as their spread.

    Points of one curve share everything but tokens, seconds and spread.

    Examples
    --------
    >>> from nfp_model.validation.shapes import GemmShape
    >>> points = [
    ...     Measurement("gemm", GemmShape(4096, 4096), "h100_sxm5", "torch", tokens, seconds)
    ...     for tokens, seconds in ((16, 1.5e-5), (1, 1.4e-5), (16, 1.7e-5))
    ... ]
    >>> (curve,) = curves_of(points)
    >>> curve.tokens.tolist(), curve.seconds.tolist(), curve.half
    ([1, 16], [1.4e-05, 1.6e-05], 'fit')
    """
    groups: dict[Measurement, list[Measurement]] = {}
    for point in measurements:
        groups.setdefault(replace(point, tokens=1, seconds=1.0, spread=None), []).append(point)
    return tuple(_curve(label, points) for label, points in groups.items())


def _curve(label: Measurement, points: list[Measurement]) -> Curve:
    tokens = sorted({point.tokens for point in points})
    seconds, spread = [], []
    for count in tokens:
        here = [point for point in points if point.tokens == count]
        times = [point.seconds for point in here]
        middle = float(np.median(times))
        seconds.append(middle)
        alone = np.nan if here[0].spread is None else here[0].spread
        spread.append((max(times) - min(times)) / middle if len(times) > 1 else alone)
    return Curve(
        operator=label.operator,
        shape=label.shape,
        gpu=label.gpu,
        backend=label.backend,
        tokens=np.array(tokens),
        seconds=np.array(seconds),
        weight_dtype=label.weight_dtype,
        activation_dtype=label.activation_dtype,
        kv_dtype=label.kv_dtype,
        library_version=label.library_version,
        kernels=(label.kernel_source,) if label.kernel_source else (),
        spread=None if np.all(np.isnan(spread)) else np.array(spread),
        timing=label.timing,
        source=label.source,
    )


def _identity(curve: Curve) -> tuple[object, ...]:
    return (curve.operator, curve.shape, curve.weight_dtype, curve.activation_dtype, curve.kv_dtype)


def _unique(curves: Iterable[Curve]) -> dict[tuple[object, ...], Curve]:
    groups: dict[tuple[object, ...], list[Curve]] = {}
    for curve in curves:
        groups.setdefault(_identity(curve), []).append(curve)
    return {key: group[0] for key, group in groups.items() if len(group) == 1}


def _noise(pairs: Iterable[tuple[Curve, Curve]]) -> RepeatNoise:
    deviations = []
    for first, second in pairs:
        _, i, j = np.intersect1d(first.tokens, second.tokens, assume_unique=True, return_indices=True)
        if len(i):
            deviations.append(np.abs(first.seconds[i] / second.seconds[j] - 1.0))
    if not deviations:
        return RepeatNoise(float("nan"), float("nan"), float("nan"), 0, 0)
    every = np.concatenate(deviations)
    return RepeatNoise(
        median_mape=float(np.median([d.mean() for d in deviations])),
        mean_deviation=float(every.mean()),
        median_deviation=float(np.median(every)),
        curves=len(deviations),
        points=len(every),
    )
