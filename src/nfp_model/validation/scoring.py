"""How far predictions are from measured curves that no fit has seen: what ``nfp score`` runs.

Every table of the published silicon becomes rows by operator, GPU, backend, data type, setting and kernel. Percentage errors
are taken over GEMM and MoE points up to 1024 rows, the range fits see; boundaries on the whole curve.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date as calendar
from functools import partial
from pathlib import Path
from typing import Any

from nfp_model.errors import InvalidArgumentError, unknown_name
from nfp_model.specs.registry import load_hardware
from nfp_model.validation.datasets import CurveSet, Source, curves_of
from nfp_model.validation.dense_layers import layer_cases
from nfp_model.validation.fit_tables import SAMPLE, curve_dtype, sampled
from nfp_model.validation.recorded import read_timings
from nfp_model.validation.records import BACKENDS, Curve
from nfp_model.validation.score_cases import FITTED, UNCALIBRATED, CaseSet, case_set, row_setting
from nfp_model.validation.score_records import CurveCase, ExcludedRows, RowKey, RowScore, ScoreReport
from nfp_model.validation.score_rows import row_score
from nfp_model.validation.silicon import (
    load_attention,
    load_attention_module,
    load_collective,
    load_gemm,
    load_mla,
    load_moe,
)
from nfp_model.validation.silicon_tables import PACKAGE, SYSTEM_OF, package_version, versions

Progress = Callable[[str, int, int], None]

MOST_CURVES = SAMPLE["test"]
"""Curves of a row scored at most, the first by the hash of their shape, as a calibration states its score [-]."""

QUICK_CURVES = 16
"""The same for a quick look [-]."""

SILICON_BACKENDS = ("vllm", "sglang", "trtllm")

_LOADERS: dict[str, Callable[[str, str], CurveSet]] = {
    "gemm": load_gemm,
    "moe": load_moe,
    "attention": load_attention,
    "mla": load_mla,
    "all_reduce": load_collective,
    **{
        f"{family}_context_module": partial(load_attention_module, family=family)
        for family in ("dsv4_csa", "dsv4_hca", "dsa", "msa", "mla")
    },
}
"""Table -> loader. Dense-layer rows come with the GEMMs."""

OPERATORS = ("gemm", "dense_layer", "moe", "attention", "mla", "all_reduce", "attention_module")
"""What a score has rows of."""


@dataclass(frozen=True)
class _Job:
    """One table, in its own process if there are several."""

    table: str
    gpu: str
    backend: str
    half: str
    most: int
    dtypes: tuple[str, ...] | None


def score(
    dataset: str | Path = "silicon",
    gpus: Iterable[str] | None = None,
    backends: Iterable[str] | None = None,
    operators: Iterable[str] | None = None,
    dtypes: Iterable[str] | None = None,
    half: str | None = None,
    quick: bool = False,
    processes: int = 1,
    command: str = "nfp score",
    progress: Progress | None = None,
) -> ScoreReport:
    """Score predictions, and the predictors they compete with, on measured curves.

    Parameters
    ----------
    dataset : {"silicon"} or path
        NVIDIA's published timings (``aiconfigurator-core``), or a CSV or JSON file of one's own timings: of
        :func:`~nfp_model.validation.user_data.write_records` or of ``nfp measure``.
    gpus, backends, operators, dtypes : iterable of str or None
        Only these; None takes all there are.
    half : {"test", "fit", "all"} or None
        Half of the fixed split. None is ``test`` for silicon, ``all`` for a file.
    quick : bool
        A few curves of every row, the same ones every time.
    processes : int
        Worker processes [-].
    command : str
        Written into the report.
    progress : callable or None
        Told what was just scored, how many tables are done and how many there are.

    Raises
    ------
    UnknownNameError, InvalidArgumentError
        For a name that is not there, or a selection without any curve.
    MissingDependencyError
        Without the package of the published timings.
    """
    began = time.perf_counter()
    silicon = str(dataset) == "silicon"
    half = half or ("test" if silicon else "all")
    if half not in ("test", "fit", "all"):
        raise InvalidArgumentError(f"half must be 'test', 'fit' or 'all', got {half!r}")
    wanted = _selection(operators, OPERATORS, "operator to score")
    named = _selection(backends, BACKENDS, "backend")
    keys = None if gpus is None else tuple(load_hardware(gpu).name for gpu in gpus)
    most = QUICK_CURVES if quick else MOST_CURVES
    chosen = None if dtypes is None else tuple(dtypes)
    if silicon:
        rows, exclusions = _scored(_jobs(keys, named, wanted, chosen, half, most), processes, progress)
        source = f"{PACKAGE} {package_version()}"
    else:
        curves = [c for c in _recorded(Path(dataset)) if keys is None or load_hardware(c.gpu).name in keys]
        curves = [c for c in curves if named is None or c.backend in named]
        rows, exclusions, source = _file_rows(curves, half, most, chosen), [], Path(dataset).name
    rows = [row for row in rows if wanted is None or row.key.operator in wanted]
    if not rows:
        raise InvalidArgumentError(
            "nothing to score: no measured curve is left by this choice of GPUs, backends, operators"
        )
    rows.sort(
        key=lambda row: (OPERATORS.index(row.key.operator) if row.key.operator in OPERATORS else 99, str(row.key))
    )
    return ScoreReport(
        rows=tuple(rows),
        exclusions=tuple(exclusions),
        dataset="silicon" if silicon else Path(dataset).name,
        half=half,
        source=source,
        command=command,
        date=calendar.today().isoformat(),
        quick=quick,
        seconds=time.perf_counter() - began,
    )


def score_curves_of(
    curves: Sequence[Curve], table: Sequence[Curve], repeats: Sequence[tuple[Curve, Curve]]
) -> list[RowScore]:
    """Rows of curves that share operator, GPU, backend, data type, setting and kernel.

    Parameters
    ----------
    curves : sequence of Curve
        What is scored.
    table : sequence of Curve
        Both halves of the same kernel, for the interpolation.
    repeats : sequence of (Curve, Curve)
        Points of these curves recorded twice.
    """
    first = curves[0]
    dtype, kernel = curve_dtype(first), first.kernels[0] if first.kernels else ""
    key = RowKey(first.operator, load_hardware(first.gpu).name, first.backend, dtype, row_setting(first), kernel)
    if first.beyond_l2 is None:
        return _rows_of(key, case_set(curves, table, first.backend), curves, repeats)
    found = case_set(curves, table, first.backend)
    rows = _rows_of(replace(key, setting="every KV"), found, curves, repeats)
    if not found.cases:
        return rows
    outside = replace(found, cases={name: _beyond_l2(cases, curves) for name, cases in found.cases.items()})
    return rows + (
        _rows_of(replace(key, setting="KV beyond L2"), outside, curves, ()) if any(outside.cases.values()) else []
    )


def _beyond_l2(cases: Sequence[CurveCase], curves: Sequence[Curve]) -> list[CurveCase]:
    """The points whose cache replays cannot find in L2; curves without any are gone."""
    kept = []
    for case, curve in zip(cases, curves, strict=True):
        if curve.beyond_l2 is not None and curve.beyond_l2.any():
            kept.append(case.where(curve.beyond_l2))
    return kept


def _rows_of(
    key: RowKey, found: CaseSet, curves: Sequence[Curve], repeats: Sequence[tuple[Curve, Curve]]
) -> list[RowScore]:
    if not found.cases:
        return [row_score(key, [], found.refused)]
    rows = []
    # The other predictors do not depend on our constants: one row of a kind shows them.
    main = FITTED if FITTED in found.cases else UNCALIBRATED
    for constants, cases in found.cases.items():
        label = replace(key, constants=constants)
        labels: Any = {
            "references": constants == main,
            "described": found.described,
            "rule": found.rule,
            "calibration": (found.calibrations or {}).get(constants, ""),
        }
        rows.append(row_score(label, cases, found.refused, repeats, **labels))
        layers = layer_cases(curves, cases) if key.operator == "gemm" and len(cases) == len(curves) else []
        if layers:
            rows.append(row_score(replace(label, operator="dense_layer"), layers, **labels))
    return rows


def _table_rows(job: _Job) -> tuple[list[RowScore], list[ExcludedRows]]:
    """Every row of one table; runs in a worker process."""
    whole = _LOADERS[job.table](job.gpu, job.backend)
    scored = whole if job.half == "all" else whole.half(job.half)  # type: ignore[arg-type]
    operator = job.table if job.table in OPERATORS else "attention_module"
    excluded = [
        ExcludedRows(
            operator,
            job.gpu,
            job.backend,
            name if operator == job.table else f"{job.table} {name}",
            e.reason,
            e.rows,
            e.curves,
        )
        for name, e in whole.exclusions.items()
    ]
    rows = []
    for group, curves in _groups(scored).items():
        if job.dtypes is not None and group[0] not in job.dtypes:
            continue
        table = [curve for curve in whole if _group(curve)[0] == group[0] and _group(curve)[2] == group[2]]
        repeats = [pair for pair in scored.repeats if _group(pair[0]) == group]
        rows += score_curves_of(sampled(curves, job.most), table, repeats)
    return rows, excluded


def _group(curve: Curve) -> tuple[str, str, str]:
    return curve_dtype(curve), row_setting(curve), curve.kernels[0] if curve.kernels else ""


def _groups(curves: Iterable[Curve]) -> dict[tuple[str, str, str], list[Curve]]:
    groups: dict[tuple[str, str, str], list[Curve]] = {}
    for curve in curves:
        groups.setdefault(_group(curve), []).append(curve)
    return groups


def _jobs(
    gpus: tuple[str, ...] | None,
    backends: tuple[str, ...] | None,
    operators: tuple[str, ...] | None,
    dtypes: tuple[str, ...] | None,
    half: str,
    most: int,
) -> list[_Job]:
    jobs = []
    for table in _LOADERS:
        operator = table if table in OPERATORS else "attention_module"
        asked = operators is None or operator in operators or (operator == "gemm" and "dense_layer" in operators)
        for gpu in SYSTEM_OF if asked else ():
            jobs += [
                _Job(table, gpu, backend, half, most, dtypes)
                for backend in SILICON_BACKENDS
                if (gpus is None or gpu in gpus)
                and (backends is None or backend in backends)
                and versions(gpu, backend, table)
            ]
    return jobs


def _scored(
    jobs: Sequence[_Job], processes: int, progress: Progress | None
) -> tuple[list[RowScore], list[ExcludedRows]]:
    rows: list[RowScore] = []
    excluded: list[ExcludedRows] = []
    pool = ProcessPoolExecutor(processes) if processes > 1 else None
    try:
        results = map(_table_rows, jobs) if pool is None else pool.map(_table_rows, jobs)
        for done, (job, (some, out)) in enumerate(zip(jobs, results, strict=True), 1):
            rows += some
            excluded += out
            if progress is not None:
                progress(f"{job.table} {job.gpu} {job.backend}", done, len(jobs))
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    return rows, excluded


def _recorded(path: Path) -> tuple[Curve, ...]:
    return curves_of(read_timings(path))


def _file_rows(curves: Sequence[Curve], half: str, most: int, dtypes: tuple[str, ...] | None) -> list[RowScore]:
    kept = CurveSet(tuple(curves), Source("file"))
    tables: dict[tuple[str, str, str], list[Curve]] = {}
    for curve in kept if half == "all" else kept.half(half):  # type: ignore[arg-type]
        tables.setdefault((curve.operator, curve.gpu, curve.backend), []).append(curve)
    rows = []
    for some in tables.values():
        for group, group_curves in _groups(some).items():
            if dtypes is None or group[0] in dtypes:
                rows += score_curves_of(sampled(group_curves, most), group_curves, ())
    return rows


def _selection(names: Iterable[str] | None, known: Sequence[str], what: str) -> tuple[str, ...] | None:
    if names is None:
        return None
    chosen = tuple(names)
    for name in chosen:
        if name not in known:
            raise unknown_name(what, name, known)
    return chosen


__all__ = ["OPERATORS", "score", "score_curves_of"]
