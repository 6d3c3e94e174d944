"""`nfp measure`: time our own curves on a CUDA device, within a time budget, into a file that can be continued.

Cases are gone through group by group (what shares loaded weights); each group may use an even share of the time left.
Within a group every case gets its coarse grid before any is refined. A finished point is on disk before the next begins
and is never measured again.
"""

from __future__ import annotations

import importlib.metadata
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from nfp_model.errors import InvalidArgumentError, require_positive, unknown_name
from nfp_model.validation.cases import KINDS, Case, cases_of
from nfp_model.validation.plan import STEP_THRESHOLD, TimeBudget, boundary_size, coarse_sizes, next_size, step_edges
from nfp_model.validation.store import RecordStore
from nfp_model.validation.timing import Backend, CannotMeasure, DeviceLost

Predictor = Callable[[Case, Sequence[int]], Sequence[float] | None]
"""Predicted seconds of a case at ascending positions; None where there is no prediction."""

STAGES = ("coarse", "boundaries", "steps")
"""What every case of a group gets before any gets the next."""

LOST = "the device was lost in "
"""Remark that keeps a continued run from the case that broke the device."""

METHOD = {
    "method": (
        "CUDA graph of `executions` executions, replayed; events around each replay; seconds = replay / executions, "
        "median and 10 % and 90 % quantiles over `repeats` replays; random data; clocks free"
    ),
    "l2_state": (
        "cold: executions rotate over `copies` copies, at least 2 L2 sizes between uses (16 where memory allows); "
        "partial: fewer fitted; warm: one copy, replayed"
    ),
    "units": (
        "seconds [s]; context, positions [tokens per sequence]; tokens = batch x positions; clocks [MHz]; "
        "temperature [degrees C]"
    ),
}

METHOD_OF_KIND = {
    "ceilings": (
        "size in `positions`: copy, MiB read and as many written; matmul, rows = columns = depth; graph_nodes, "
        "one-element kernels in one graph, seconds of all of them"
    ),
    "gemm": (
        "linear: torch.nn.functional.linear; scaled_mm: torch._scaled_mm on e4m3 inputs quantised beforehand, one "
        "scale a tensor, fast accumulation, bf16 out"
    ),
    "moe": (
        "both grouped GEMMs, activation, weighting and sum over choices; not the router. grouped_mm: the experts of "
        "transformers (sorting by expert included); triton: this package's kernels, row-block tables made beforehand"
    ),
    "attention": (
        "new positions are the last ones of a contiguous cache of context + positions tokens; causal 1: aligned to the "
        "last key (sdpa_cudnn: by a mask that is read)"
    ),
    "elementwise": (
        "one piece of a layer as transformers runs it between its matrix products, activations in L2 as in a model; "
        "note: kernels in one execution, counted by torch's profiler"
    ),
    "forward": (
        "transformers model, random weights, static cache of context + positions tokens, logits of all positions; one "
        "fill kernel more. Experts: independent uniform draws a layer in place of the random router's choice, which is "
        "computed all the same. flash: SDPA's flash kernel; sdpa: SDPA with a mask, keys and values repeated per query "
        "head. note at one position: kernels in one execution, counted by torch's profiler"
    ),
}


@dataclass
class MeasurementReport:
    """What a run did.

    Attributes
    ----------
    path : Path
        The file.
    measured, already_there : int
        Points added, points found in the file [-].
    refused : dict
        Case -> why it could not be measured.
    complete : bool
        False when the minutes ran out first; the same command continues.
    """

    path: Path
    measured: int = 0
    already_there: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    complete: bool = True


def run_measurement(
    kind: str,
    *,
    out: Path,
    minutes: float,
    hardware: str = "auto",
    l2_state: str = "cold",
    only: str = "",
    backend: Backend | None = None,
    predictor: Predictor | None = None,
    clock: Callable[[], float] = time.monotonic,
    command: str = "",
    progress: bool = True,
) -> MeasurementReport:
    """Measure one kind of operator into a CSV file, continuing it when it exists.

    Parameters
    ----------
    kind : {"ceilings", "gemm", "moe", "attention", "elementwise", "forward"}
        What to measure.
    out : Path
        CSV file.
    minutes : float
        Time budget [min].
    hardware : str
        Written into the header: a hardware key, or ``auto`` for the device's own name.
    l2_state : {"cold", "warm"}
        Whether executions rotate over copies.
    only : str
        Measure only cases whose name contains this text, for example ``llama_3_1_8b``.
    backend : Backend or None
        None opens the CUDA device of this machine.
    predictor : callable or None
        Predicted seconds, so that both sides of every predicted step are measured.
    clock : callable
        Seconds that only grow [s].
    command : str
        The command line, for the header.
    progress : bool
        Show a progress bar on standard error.

    Raises
    ------
    UnsupportedError, MissingDependencyError
        Without a CUDA device or torch: one line.
    UnknownNameError, InvalidArgumentError
        For an unknown kind, no such case, or minutes that are no positive number.
    SpecError
        When ``out`` holds something else or another device's points.

    Examples
    --------
    >>> run_measurement("gemms", out=Path("x.csv"), minutes=1.0)
    Traceback (most recent call last):
        ...
    nfp_model.errors.UnknownNameError: unknown kind of measurement 'gemms'; did you mean 'gemm'?
    """
    if kind not in KINDS:
        raise unknown_name("kind of measurement", kind, KINDS)
    if l2_state not in ("cold", "warm"):
        raise unknown_name("l2_state", l2_state, ["cold", "warm"])
    require_positive(minutes=minutes)
    cases = [case for case in cases_of(kind) if only in str(case)]
    if not cases:
        example = cases_of(kind)[0]
        raise InvalidArgumentError(f"no {kind} case is named like '{only}'; cases are named, for example, '{example}'")
    device = backend if backend is not None else _cuda_backend()
    store = RecordStore(out, kind, _header(kind, device, hardware, command))
    if store.points:
        store.remark(f"continued {_today()}: {command or 'run_measurement'}; {store.dropped} torn lines dropped")
    lost = [remark.removeprefix(LOST) for remark in store.remarks if remark.startswith(LOST)]
    report = MeasurementReport(out, refused=dict.fromkeys(lost, "it broke the CUDA context before"))
    run = _Run(device, store, l2_state, predictor, TimeBudget(60 * minutes, clock), report)
    with _progress_bar(len(cases), progress) as advance:
        run.go(cases, advance)
    return run.report


def _cuda_backend() -> Backend:
    from nfp_model.validation.cuda_backend import CudaBackend

    return CudaBackend()


def _today() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _header(kind: str, backend: Backend, hardware: str, command: str) -> Mapping[str, str]:
    try:
        version = importlib.metadata.version("nfp-model")
    except importlib.metadata.PackageNotFoundError:  # a checkout that is on the path, not installed
        version = "not installed"
    environment = dict(backend.environment())
    detected = environment.pop("hardware", "auto")
    return {
        "title": f"{kind} timings measured by nfp_model.validation.measure",
        "command": command or "run_measurement",
        "date": _today(),
        "hardware": detected if hardware == "auto" else hardware,
        "nfp_model": version,
        **environment,
        **METHOD,
        "kind": METHOD_OF_KIND[kind],
        "licence": "Apache-2.0",
    }


@dataclass
class _Run:
    backend: Backend
    store: RecordStore
    l2_state: str
    predictor: Predictor | None
    budget: TimeBudget
    report: MeasurementReport
    longest: dict[str, float] = field(default_factory=dict)

    def go(self, cases: Sequence[Case], advance: Callable[[str, int], None]) -> None:
        groups = [list(group) for _, group in groupby(cases, key=lambda case: case.group)]
        for number, group in enumerate(groups):
            until = self.budget.left - self.budget.share(len(groups) - number)
            advance(group[0].group, 0)
            try:
                for stage in STAGES:
                    for case in group:
                        self.complete_case(case, stage, until)
            finally:
                self.backend.release()
            advance(group[0].group, len(group))

    def complete_case(self, case: Case, stage: str, until: float) -> None:
        """Measure a case's coarse grid, look for its near-free boundaries, or refine its steps, while the group's share lasts."""
        measured = self.store.measured(case, self.l2_state)
        if stage == STAGES[0]:
            self.report.already_there += len(measured)
        predicted = self.predicted_edges(case) if stage == "steps" else ()
        while str(case) not in self.report.refused:
            size = _wanted_size(case, stage, measured, predicted)
            if size is None:
                return
            if not self.time_allows(case, until):
                self.report.complete = False
                return
            self.measure_point(case, size, measured)

    def time_allows(self, case: Case, until: float) -> bool:
        """Whether a point as long as the longest of its group so far still ends in the group's share."""
        return self.budget.allows(until + self.longest.get(case.group, 0.0))

    def predicted_edges(self, case: Case) -> tuple[int, ...]:
        if self.predictor is None or case.sizes:
            return ()
        sizes = range(1, case.largest + 1)
        seconds = self.predictor(case, sizes)
        return () if seconds is None else step_edges(sizes, seconds)

    def measure_point(self, case: Case, size: int, measured: dict[int, float]) -> None:
        started = self.budget.clock()
        before = self.backend.device_state()
        try:
            samples = self.backend.time(case, size, self.l2_state)
        except CannotMeasure as reason:
            self.report.refused[str(case)] = str(reason)
            self.store.remark(f"refused {case} at {size}: {reason}")
            return
        except DeviceLost:
            self.store.remark(f"{LOST}{case}")
            raise
        self.store.append(case, size, self.l2_state, samples, before, self.backend.device_state())
        measured[size] = samples.quantiles()[1]
        self.report.measured += 1
        spent = self.budget.clock() - started
        self.longest[case.group] = max(spent, self.longest.get(case.group, 0.0))


def _wanted_size(case: Case, stage: str, measured: Mapping[int, float], predicted: Sequence[int]) -> int | None:
    if stage == "boundaries":
        return None if case.sizes else boundary_size(measured, case.baselines)
    threshold = STEP_THRESHOLD if stage == "steps" and not case.sizes else math.inf
    return next_size(measured, case.sizes or coarse_sizes(case.largest), predicted, threshold, case.stop_ratio)


@contextmanager
def _progress_bar(total: int, shown: bool) -> Iterator[Callable[[str, int], None]]:
    if not shown:
        yield lambda name, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)

        def advance(name: str, done: int) -> None:
            bar.update(task, description=name, advance=done)

        yield advance
