"""Constants for a chip nobody measured: fitted over generations, with the scatter seen when one is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date as calendar
from pathlib import Path

import numpy as np

from nfp_model.errors import UnsupportedError, unknown_name
from nfp_model.specs.calibration import Calibration, Fit, OperatorKind, uncalibrated
from nfp_model.specs.registry import load_hardware
from nfp_model.uncertainty import unit_effects
from nfp_model.validation.calibrating import fitted_range, score_curves
from nfp_model.validation.fit_bands import gradient, sized_bands
from nfp_model.validation.fit_files import write_calibration
from nfp_model.validation.fit_points import FitPoints, collect, weights
from nfp_model.validation.fit_tables import sampled, setting, silicon_tables
from nfp_model.validation.fit_unknowns import significant
from nfp_model.validation.fitting import (
    fit_constants,
    residuals_at,
    rounded_covariance,
    solve,
)
from nfp_model.validation.records import Curve
from nfp_model.validation.silicon_tables import PACKAGE, SYSTEM_OF, package_version

Progress = Callable[[str], None]

POOLED: dict[OperatorKind, str] = {
    "gemm": "vllm",
    "moe": "vllm",
    "latent_attention": "sglang",
}
"""Operators fitted over generations, and whose 16-bit timings stand for them. Decode attention is not among them: kernels of
two kinds (with and without KV splits and packed heads) pull its constants apart, and the stated prior predicts a Hopper or
Blackwell GPU left out better (7 and 29 % against 23 and 41 %)."""

CURVES_PER_GPU = 24
"""Curves of one setting taken from each GPU [-]."""


@dataclass(frozen=True)
class _Pool:
    """Points of one operator over all GPUs, with the generation of each of their curves."""

    points: FitPoints
    generations: tuple[str, ...]
    groups: tuple[str, ...]

    def mask(self, generation: str) -> np.ndarray:
        return np.array([one == generation for one in self.generations])[self.points.curve]


def fit_uncalibrated(
    leave_out_generation: str | None = None,
    out: str | Path | None = None,
    date: str | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Fit the constants of chips nobody measured, over every published generation but one.

    Every GPU counts alike. The scatter is that of generations left out in turn: what to expect on one the constants
    never saw. Operators without a pooled fit keep their stated prior.

    Parameters
    ----------
    leave_out_generation : str or None
        GPU generation the constants shall not see, ``hopper`` for instance; None pools all.
    out : path or None
        File to write, or a folder for it; None writes nothing.
    date : str or None
        Date to write down; None is today.
    progress : callable or None
        Told in words what is being fitted.

    Raises
    ------
    UnknownNameError
        For a generation nobody timed.
    """
    known = sorted({load_hardware(gpu).generation for gpu in SYSTEM_OF})
    if leave_out_generation is not None and leave_out_generation not in known:
        raise unknown_name("generation with published timings", leave_out_generation, known)
    name = "uncalibrated" + (f".without_{leave_out_generation}" if leave_out_generation else "")
    fits = []
    for operator in POOLED:
        if progress is not None:
            progress(f"{name} {operator}")
        pool, unseen = _pooled(operator, leave_out_generation)
        fits.append(_fit_pool(operator, pool, unseen, leave_out_generation, date or calendar.today().isoformat()))
    kept = [fit for fit in uncalibrated().fits if fit.operator not in POOLED]
    calibration = Calibration(
        name=name,
        hardware="any",
        backend="uncalibrated",
        generation_left_out=leave_out_generation,
        fits=(*fits, *kept),
        notes=(
            "One set for every chip, from 16-bit timings; the bands are the spread seen when a generation is left out.",
        ),
    )
    if out is not None:
        target = Path(out)
        write_calibration(calibration, target if target.suffix == ".toml" else target / f"{name}.toml")
    return calibration


def _pooled(operator: OperatorKind, left_out: str | None) -> tuple[_Pool, list[Curve]]:
    """Fit-half points of every GPU but those of one generation, and the test-half curves of that one."""
    curves: list[Curve] = []
    generations: list[str] = []
    unseen: list[Curve] = []
    for gpu in SYSTEM_OF:
        generation = load_hardware(gpu).generation
        try:
            tables = silicon_tables(gpu, POOLED[operator], operator, "bfloat16")
        except UnsupportedError:
            continue
        for table in tables:
            if generation == left_out:
                unseen += table.test
                continue
            some = sampled(table.fit, CURVES_PER_GPU)
            curves += some
            generations += [generation] * len(some)
    groups = tuple(f"{curve.gpu} {setting(curve)}" for curve in curves)
    return _Pool(fitted_range(collect(curves, "uncalibrated")), tuple(generations), groups), unseen


def _fit_pool(operator: OperatorKind, pool: _Pool, unseen: list[Curve], left_out: str | None, date: str) -> Fit:
    points, seen = pool.points, sorted(set(pool.generations))
    found = fit_constants(points, pool.groups)
    missed = np.zeros(len(points))
    for generation in seen:
        out = pool.mask(generation)
        rest = points.where(~out) if (~out).any() and len(seen) > 1 else points
        missed[out] = residuals_at(points.where(out), solve(rest, weights(rest, pool.groups), points.unknowns.start))
    weight = weights(points, pool.groups)
    moved = unit_effects(gradient(points, found.constants, found.fitted), found.covariance)
    fit = Fit(
        operator=operator,
        constants=found.constants,
        fitted=found.fitted,
        covariance=rounded_covariance(found.covariance),
        log_scatter=significant(float(np.sqrt(np.average(missed**2, weights=weight)))),
        **asdict(sized_bands(points, missed, pool.groups, moved)),
        points=len(points),
        curves=len(points.curves),
        data=f"{PACKAGE} {package_version()}: bfloat16 {operator} timings of {POOLED[operator]} on {', '.join(seen)}",
        date=date,
        command="nfp fit --uncalibrated" + (f" --leave-out {left_out}" if left_out else ""),
    )
    if not unseen:
        return fit
    scores = score_curves(unseen, "uncalibrated", fit)
    main = next(name for name in ("balanced", "beyond_l2", "all", "skewed", "parallel") if name in scores)
    return fit.model_copy(update={"held_out": scores.pop(main), "held_out_also": scores})


__all__ = ["POOLED", "fit_uncalibrated"]
