"""Whole predictions over a grid of arguments and spec fields."""

from __future__ import annotations

import inspect
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nfp_model.cost.binding import check_backend
from nfp_model.errors import InvalidArgumentError, NfpModelError, UnknownNameError, unknown_name
from nfp_model.prediction import Prediction, predict_nfp
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import ModelSpec
from nfp_model.specs.registry import load_hardware, load_model
from nfp_model.specs.variants import check_path, with_fields
from nfp_model.sweeping.running import in_order, with_progress
from nfp_model.sweeping.tables import write_csv

if TYPE_CHECKING:
    import pandas

CHUNK_POINTS = 64
"""Predictions per chunk: some seconds of work on one core, small enough to spread and to send [-]."""

ARGUMENTS = tuple(name for name in inspect.signature(predict_nfp).parameters if name not in ("hardware", "model"))
"""Arguments of :func:`~nfp_model.predict_nfp` that may be an axis, besides ``hardware`` and ``model``."""

RESULTS = (
    "nfp", "censored", "first_exit", "saturated_nfp", "idle_compute_nfp", "over_prediction", "baseline_latency_s",
    "backend", "binding", "fits_memory", "refused",
)  # fmt: skip
"""Keys every record has after its axes."""


@dataclass(frozen=True)
class SweepResult:
    """Predictions over a grid.

    Attributes
    ----------
    axes : dict
        Axis -> its values, in the order they were given; the last one moves fastest.
    records : tuple of dict
        One per point: the axes' values, then ``nfp`` [positions], ``censored``, ``first_exit`` [positions],
        ``saturated_nfp`` [positions], ``idle_compute_nfp`` [positions], ``over_prediction`` [-], ``baseline_latency_s``
        [s], ``backend``, ``binding``, ``fits_memory``, and ``refused``: why a point has no prediction, None where it has.
    fixed : dict
        What every point shares: hardware, model and the arguments given, by name.
    """

    axes: dict[str, tuple[Any, ...]]
    records: tuple[dict[str, Any], ...]
    fixed: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.records)

    def values(self, name: str) -> np.ndarray:
        """One result as an array with one dimension per axis; NaN where a point was refused.

        Raises
        ------
        UnknownNameError
            For a name that is no result.

        Examples
        --------
        >>> found = sweep("h100", "llama-3.1-8b", batch_size=[1, 2], context_length=[1024, 4096], max_positions=64)
        >>> found.values("nfp").shape
        (2, 2)
        """
        if name not in RESULTS:
            raise unknown_name("sweep result", name, RESULTS)
        column = [record[name] for record in self.records]
        shape = tuple(len(values) for values in self.axes.values())
        if all(value is None or isinstance(value, int | float) for value in column):
            return np.array([math.nan if value is None else float(value) for value in column]).reshape(shape)
        return np.array(column, dtype=object).reshape(shape)

    def to_dataframe(self) -> pandas.DataFrame:
        """The records as a DataFrame; needs pandas.

        Raises
        ------
        MissingDependencyError
            When pandas is not installed.
        """
        return dataframe(self.records)

    def to_csv(self, path: str | Path) -> None:
        """Write the records as CSV, whole or not at all.

        Raises
        ------
        InvalidArgumentError
            When the file cannot be written.
        """
        write_csv(path, [self.records])

    def to_json(self) -> str:
        """The records as a JSON list."""
        return json.dumps(list(self.records), indent=2)


def dataframe(data: Any) -> pandas.DataFrame:
    """A DataFrame, with the way to pandas where it is missing."""
    try:
        import pandas
    except ImportError:
        from nfp_model.errors import MissingDependencyError

        raise MissingDependencyError('a DataFrame needs pandas: pip install "nfp-model[silicon]"') from None
    return pandas.DataFrame(data)


def sweep(
    hardware: Any,
    model: Any,
    *,
    progress: bool = False,
    executor: Executor | None = None,
    **axes_and_arguments: Any,
) -> SweepResult:
    """Predictions over every combination of the arguments and spec fields given as lists.

    Parameters
    ----------
    hardware, model : as for :func:`~nfp_model.predict_nfp`, or a list of such
        A list is an axis.
    progress : bool
        Draw a progress bar on stderr.
    executor : concurrent.futures.Executor or None
        Where chunks run: a process pool, ``dask.distributed.Client(...).get_executor()``; None runs them here.
    **axes_and_arguments
        Any argument of :func:`~nfp_model.predict_nfp`, or a field path such as ``"hardware.sm_count"``,
        ``"hardware.memory_bandwidth_bytes_per_s"``, ``"model.ffn.moe.top_k"`` (given by ``**{...}``). A list, range or
        array is an axis; a tuple is one value (contexts of one batch, captured sizes, a routing histogram). A number for
        ``"hardware.peak_flop_per_s"`` multiplies every peak. Changed specs keep the kernels and fitted constants of the
        original.

    Returns
    -------
    SweepResult
        ``.records``, ``.values("nfp")``, ``.to_dataframe()``, ``.to_csv(path)``. A combination that cannot run (an expert
        count that does not divide, a data type the chip lacks) is a record that says so in ``refused``.

    Raises
    ------
    InvalidArgumentError
        For an empty axis, or when nothing is an axis.
    UnknownNameError
        For an axis, field, hardware, model or backend nobody knows, with the nearest.

    Examples
    --------
    >>> found = sweep("h100", "llama-3.1-8b", batch_size=[1, 8], max_positions=256)
    >>> [record["batch_size"] for record in found], found.records[0]["nfp"] > found.records[1]["nfp"]
    ([1, 8], True)
    """
    grid = _Grid.of(hardware, model, axes_and_arguments)
    chunks = _chunks(grid, executor, progress, CHUNK_POINTS)
    records = tuple(itertools.chain.from_iterable(chunks))
    axes = {name: tuple(map(_shown, values)) for name, values in grid.axes.items()}
    return SweepResult(axes, records, {name: _shown(value) for name, value in grid.fixed.items()})


def iter_sweep(
    hardware: Any,
    model: Any,
    *,
    progress: bool = False,
    executor: Executor | None = None,
    chunk_points: int = CHUNK_POINTS,
    **axes_and_arguments: Any,
) -> Iterator[list[dict[str, Any]]]:
    """The records of :func:`sweep` in chunks, so that a grid of any size needs the memory of one chunk.

    Parameters
    ----------
    hardware, model, progress, executor, **axes_and_arguments
        As for :func:`sweep`.
    chunk_points : int
        Records per chunk [-].

    Examples
    --------
    >>> chunks = iter_sweep("h100", "llama-3.1-8b", batch_size=[1, 2, 4], max_positions=64, chunk_points=2)
    >>> [len(chunk) for chunk in chunks]
    [2, 1]
    """
    return _chunks(_Grid.of(hardware, model, axes_and_arguments), executor, progress, chunk_points)


def is_axis(value: Any) -> bool:
    """Whether an argument's value is a list of values.

    Examples
    --------
    >>> is_axis([1, 2]), is_axis((1, 2)), is_axis("h100")
    (True, False, False)
    """
    return isinstance(value, list | range | np.ndarray)


@dataclass(frozen=True)
class _Grid:
    """Axes, and the arguments every point shares."""

    axes: dict[str, tuple[Any, ...]]
    fixed: dict[str, Any]

    @classmethod
    def of(cls, hardware: Any, model: Any, given: dict[str, Any]) -> _Grid:
        known = ("hardware", "model", *ARGUMENTS)
        for name in given:
            if name not in known and not name.startswith(("hardware.", "model.")):
                raise unknown_name("sweep axis", name, [*known, "hardware.FIELD", "model.FIELD"])
        every = {"hardware": hardware, "model": model, **given}
        axes = {name: tuple(_plain(v) for v in value) for name, value in every.items() if is_axis(value)}
        for name, values in axes.items():
            if not values:
                raise InvalidArgumentError(f"sweep axis '{name}' is empty")
        if not axes:
            raise InvalidArgumentError("a sweep needs at least one argument or field given as a list, got none")
        fixed = {name: value for name, value in every.items() if name not in axes}
        grid = cls(axes, fixed)
        grid._check_names()
        return grid

    def _values(self, name: str) -> tuple[Any, ...]:
        return self.axes.get(name) or (self.fixed.get(name),)

    def _check_names(self) -> None:
        """What no point could use is refused before the first is computed."""
        for backend in self._values("backend"):
            check_backend(backend)
        specs: dict[str, list[HardwareSpec] | list[ModelSpec]] = {
            "hardware": [load_hardware(value) for value in self._values("hardware")],
            "model": [load_model(value) for value in self._values("model")],
        }
        for name in (*self.axes, *self.fixed):
            kind, _, path = name.partition(".")
            if path:
                for spec in specs[kind]:
                    check_path(spec, path)

    @property
    def points(self) -> int:
        return math.prod(len(values) for values in self.axes.values())


@dataclass(frozen=True)
class _Chunk:
    """Points computed together; small enough to pickle."""

    fixed: dict[str, Any]
    points: tuple[dict[str, Any], ...]


def _chunks(
    grid: _Grid, executor: Executor | None, progress: bool, chunk_points: int
) -> Iterator[list[dict[str, Any]]]:
    if chunk_points < 1:
        raise InvalidArgumentError(f"chunk_points must be at least 1, got {chunk_points}")
    results = in_order(run_chunk, _tasks(grid, chunk_points), executor)
    return with_progress(results, grid.points, len, progress, "predictions")


def _tasks(grid: _Grid, size: int) -> Iterator[_Chunk]:
    points = itertools.product(*grid.axes.values())
    while batch := tuple(itertools.islice(points, size)):
        yield _Chunk(grid.fixed, tuple(dict(zip(grid.axes, values, strict=True)) for values in batch))


def run_chunk(chunk: _Chunk) -> list[dict[str, Any]]:
    """The records of one chunk; at module level so that any executor can run it."""
    return [_record(chunk.fixed, point) for point in chunk.points]


def _record(fixed: dict[str, Any], point: dict[str, Any]) -> dict[str, Any]:
    named = {name: _shown(value) for name, value in point.items()}
    try:
        prediction = _predict({**fixed, **point})
    except UnknownNameError:
        raise
    except NfpModelError as error:
        return {**named, **dict.fromkeys(RESULTS), "refused": str(error)}
    saturated = prediction.saturated
    return {
        **named,
        "nfp": prediction.nfp,
        "censored": prediction.censored,
        "first_exit": prediction.first_exit,
        "saturated_nfp": None if saturated is None else saturated.nfp,
        "idle_compute_nfp": prediction.idle_compute_nfp,
        "over_prediction": prediction.over_prediction,
        "baseline_latency_s": prediction.baseline_latency_s,
        "backend": prediction.backend,
        "binding": prediction.binding,
        "fits_memory": prediction.fits_memory,
        "refused": None,
    }


def _predict(values: dict[str, Any]) -> Prediction:
    specs: dict[str, Any] = {"hardware": load_hardware(values["hardware"]), "model": load_model(values["model"])}
    for kind in specs:
        changes = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(kind + ".")}
        if changes:
            specs[kind] = _changed(kind, specs[kind].model_dump_json(), json.dumps(changes))
    arguments = {name: value for name, value in values.items() if name in ARGUMENTS}
    if isinstance(arguments.get("routing"), tuple):
        arguments["routing"] = list(arguments["routing"])
    return predict_nfp(specs["hardware"], specs["model"], **arguments)


@lru_cache(maxsize=64)
def _changed(kind: str, spec: str, changes: str) -> HardwareSpec | ModelSpec:
    """The same change to the same spec once: neighbouring points share it."""
    if kind == "hardware":
        return with_fields(HardwareSpec.model_validate_json(spec), json.loads(changes))
    return with_fields(ModelSpec.model_validate_json(spec), json.loads(changes))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _shown(value: Any) -> Any:
    """An axis value as a record holds it: numbers, text and lists of them."""
    if isinstance(value, HardwareSpec | ModelSpec):
        return value.name
    if value is None or isinstance(value, int | float | str | bool):
        return value
    return list(value) if isinstance(value, Iterable) else str(value)


__all__ = ["RESULTS", "SweepResult", "dataframe", "is_axis", "iter_sweep", "run_chunk", "sweep"]
