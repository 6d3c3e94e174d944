"""From measured curves to a calibration file: what `nfp fit` runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import date as calendar
from pathlib import Path

import numpy as np

from nfp_model.cost.binding import kernel_for
from nfp_model.cost.latency import Kernel
from nfp_model.errors import InvalidArgumentError, UnsupportedError, unknown_name
from nfp_model.kernels.counts import FloatArray
from nfp_model.specs.calibration import Calibration, Fit, HeldOutScore, OperatorKind
from nfp_model.specs.kernel_library import load_kernel, load_library
from nfp_model.specs.registry import load_hardware
from nfp_model.uncertainty import Z80
from nfp_model.validation.fit_bands import baseline_of, point_spread
from nfp_model.validation.fit_files import write_calibration
from nfp_model.validation.fit_points import FitPoints, collect
from nfp_model.validation.fit_sharing import refuse_thin, shared
from nfp_model.validation.fit_tables import (
    FIT_TOKENS,
    LOADERS,
    MAX_TOKENS,
    MEASURED_AS,
    FitTable,
    curve_dtype,
    recorded_tables,
    setting,
    silicon_tables,
)
from nfp_model.validation.fit_unknowns import significant
from nfp_model.validation.fitting import fit_constants, rounded_covariance
from nfp_model.validation.records import Curve
from nfp_model.validation.statistics import boundary_error, coverage, curve_mape, median_and_p90

Progress = Callable[[str], None]

SCORE_TOLERANCE = 0.2
"""eps of the boundary error a calibration states [-]."""


def fit_calibration(
    hardware: str,
    backend: str,
    operator: OperatorKind | None = None,
    dtype: str | None = None,
    records: str | Path | None = None,
    out: str | Path | None = None,
    date: str | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Fit the constants of one GPU and backend, and score them on shapes the fit never saw.

    Parameters
    ----------
    hardware : str
        Hardware key or alias.
    backend : {"vllm", "sglang", "trtllm", "torch"}
        Whose kernels.
    operator, dtype : str or None
        One operator kind or data type; None fits every one the data have.
    records : path or None
        A file of one's own timings, or a folder of files of ``nfp measure``; None takes NVIDIA's published ones (``aiconfigurator-core``).
    out : path or None
        File to write, named ``<gpu>.<backend>.toml``, or a folder for it; None writes nothing.
    date : str or None
        Date to write down; None is today.
    progress : callable or None
        Told in words what is being fitted.

    Returns
    -------
    Calibration
        One fit for every operator and data type with enough data.

    Raises
    ------
    InvalidArgumentError
        When a file of timings cannot determine the constants; the message says what to measure next.
    UnsupportedError
        When nothing was published for this combination.
    """
    known = LOADERS if records is None else MEASURED_AS
    if operator is not None and operator not in known:
        raise unknown_name("operator to fit", operator, known)
    key = load_hardware(hardware).name
    given = Path(records) if records is not None else None
    tables = _tables_of(key, backend, operator, dtype, given)
    command = _command(key, backend, operator, dtype, given)
    fits, refused = [], []
    for table in tables:
        if progress is not None:
            progress(f"{key} {backend} {table.operator} {table.dtype}")
        try:
            if given is None:
                refuse_thin(table)
            fits.append(fit_table(table, backend, date or calendar.today().isoformat(), command))
        except InvalidArgumentError as error:
            if given is not None:
                raise
            refused.append(f"{table.operator} {table.dtype} was not fitted: {error}")
    if not fits:
        raise UnsupportedError(f"no table of {backend} on {key} can be fitted: {'; '.join(refused) or 'none is there'}")
    calibration = Calibration(
        name=f"{key}.{backend}", hardware=key, backend=backend, fits=tuple(fits), notes=tuple(refused)
    )
    if out is not None:
        target = Path(out)
        write_calibration(calibration, target if target.suffix == ".toml" else target / f"{calibration.name}.toml")
    return calibration


def fit_table(table: FitTable, backend: str, date: str, command: str) -> Fit:
    """One fit with its score on the table's test half.

    Parameters
    ----------
    table : FitTable
        Curves by half.
    backend : str
        Whose kernel rules apply.
    date, command : str
        Written into the fit.
    """
    curves = (*table.fit, *table.lent)
    points = fitted_range(collect(curves, backend, kernel_of=_one_rule(table)))
    found = fit_constants(points, table.groups)
    source = table.source
    fit = Fit(
        operator=table.operator,
        dtypes=(table.dtype,),
        kernels=table.kernels,
        measured_kernels=table.measured_kernels,
        constants=found.constants,
        fitted=found.fitted,
        covariance=rounded_covariance(found.covariance),
        log_scatter=found.log_scatter,
        **asdict(found.bands),
        points=len(points),
        curves=len(curves),
        tokens=_token_range(points),
        data=" ".join(part for part in (source.name, source.version, source.file, _lent_words(table)) if part),
        library_version=source.library_version,
        date=date,
        command=command,
    )
    if not table.test:
        # Too few shapes for two halves: each was left out in turn.
        several = len({curve.split_key for curve in curves}) > 1
        held_out = _scored(points, fit, points.seconds / np.exp(found.left_out)) if several else None
        return fit.model_copy(update={"held_out": held_out})
    scores = score_curves(table.test, backend, fit)
    main = "balanced" if "balanced" in scores else "beyond_l2" if "beyond_l2" in scores else "all"
    return fit.model_copy(update={"held_out": scores.pop(main, None), "held_out_also": scores})


def _one_rule(table: FitTable) -> Callable[[Curve], Kernel] | None:
    """The rule most own points have, for lent curves the one of its library recorded for them; None leaves every curve its own."""
    if not table.lent:
        return None
    kernel = load_kernel(table.kernels[0])
    recorded = [one for one in load_library(table.kernels[0].split(":")[0]).moe if one.recorded_as]

    def rule(curve: Curve) -> Kernel:
        own = kernel_for(load_hardware(curve.gpu), curve.operator_record(1), curve.backend)
        if own is not None and own.library == kernel.library:
            return own
        named = [one for one in recorded if any(one.recorded_as in name for name in curve.kernels)]
        return max(named, key=lambda one: len(one.recorded_as)) if named else kernel

    return rule


def _lent_words(table: FitTable) -> str:
    if not table.lent:
        return ""
    formats = ", ".join(sorted({f"{curve.backend} {curve_dtype(curve)}" for curve in table.lent}))
    return f"with {len(table.lent)} curves of {formats} on the same kernel"


def score_curves(curves: Iterable[Curve], backend: str, fit: Fit) -> dict[str, HeldOutScore]:
    """Score a fit on curves, by setting: ``all``, or MoE ``balanced``, ``skewed``, ``parallel``; attention also ``beyond_l2``.

    Parameters
    ----------
    curves : iterable of Curve
        Of the fit's operator and data type.
    backend : str
        Whose kernel rules apply.
    fit : Fit
        Constants, covariance and scatter.
    """
    points = collect(curves, backend)
    settings = np.array([setting(curve) for curve in points.curves])[points.curve]
    masks = {str(name): settings == name for name in np.unique(settings)}
    if "resident" in points.inputs:
        masks["beyond_l2"] = ~points.inputs["resident"]
    return {name: score_points(points.where(mask), fit) for name, mask in sorted(masks.items()) if mask.any()}


def score_points(points: FitPoints, fit: Fit) -> HeldOutScore:
    """Median MAPE over curves, boundary error and coverage of the 80 % band of one fit on measured points."""
    return _scored(points, fit, points.predicted(fit.constants))


def _scored(points: FitPoints, fit: Fit, predicted: FloatArray) -> HeldOutScore:
    deviation = point_spread(points, fit).deviation
    judged = points.tokens <= MAX_TOKENS.get(points.operator, int(points.tokens.max()))
    errors, boundaries = [], []
    for index in np.unique(points.curve):
        here = points.curve == index
        inside = here & judged
        if inside.any():
            errors.append(curve_mape(predicted[inside], points.seconds[inside]))
        baseline = baseline_of(points.curves[index])
        moved = boundary_error(points.tokens[here], predicted[here], points.seconds[here], SCORE_TOLERANCE, baseline)
        boundaries += [] if moved is None else [moved]
    low, high = (predicted[judged] * np.exp(sign * Z80 * deviation[judged]) for sign in (-1.0, 1.0))
    spread = median_and_p90(boundaries) or (None, None)
    return HeldOutScore(
        curves=len(errors),
        mape=significant(float(np.median(errors)), 3),
        boundary_median=None if spread[0] is None else round(spread[0], 3),
        boundary_p90=None if spread[1] is None else round(spread[1], 3),
        band_coverage=round(coverage(points.seconds[judged], low, high), 3),
    )


def _token_range(points: FitPoints) -> tuple[int, int] | None:
    """What the fit saw along the axis its operator is timed over: rows, or query positions; one where sequences were varied."""
    if points.kind == "attention":
        seen = [points.tokens[points.curve == i] for i, curve in enumerate(points.curves) if curve.axis == "positions"]
        return (1, max((int(tokens.max()) for tokens in seen if tokens.size), default=1))
    return None if points.kind == "collective" else (int(points.tokens.min()), int(points.tokens.max()))


def fitted_range(points: FitPoints) -> FitPoints:
    """The points within the tokens a fit is made on."""
    most = FIT_TOKENS.get(points.operator)
    return points if most is None else points.where(points.tokens <= most)


def _tables_of(
    key: str, backend: str, operator: OperatorKind | None, dtype: str | None, given: Path | None
) -> list[FitTable]:
    if given is not None:
        return recorded_tables(given, key, backend, operator, dtype)
    tables: list[FitTable] = []
    for kind in [operator] if operator is not None else LOADERS:
        try:
            tables += map(shared, silicon_tables(key, backend, kind, dtype))
        except UnsupportedError:
            if operator is not None:
                raise
    return tables


def _command(key: str, backend: str, operator: str | None, dtype: str | None, given: Path | None) -> str:
    parts = ["nfp fit", *([given.as_posix()] if given and not given.is_absolute() else [given.name] if given else [])]
    parts += [] if given else ["--hardware", key, "--backend", backend]
    for name, value in (("operator", operator), ("dtype", dtype)):
        parts += [f"--{name}", value] if value is not None else []
    return " ".join(parts)


__all__ = ["fit_calibration", "fit_table", "fitted_range", "score_curves", "score_points"]
