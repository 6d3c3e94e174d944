"""One operator over grids of hardware and shape values, millions of points by the compiled equations in chunks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nfp_model.cost.binding import bind, check_backend
from nfp_model.cost.rates import near_free_over_rates, seconds_over_rates
from nfp_model.errors import InvalidArgumentError, require_positive, require_positive_int, unknown_name
from nfp_model.kernels.counts import FloatArray, IntArray
from nfp_model.operators import Attention, FusedMoE, Gemm
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.registry import load_hardware
from nfp_model.specs.variants import check_path, with_fields
from nfp_model.sweeping.prediction_grid import dataframe, is_axis
from nfp_model.sweeping.running import in_order, with_progress
from nfp_model.sweeping.tables import write_csv

if TYPE_CHECKING:
    import pandas

CHUNK_POINTS = 1 << 16
"""Points computed and written together [-]."""

CHUNK_TOKENS = 1 << 12
"""Token counts whose menu of tiles is held at once where rates move [-]."""

BANDWIDTH, PEAK = "hardware.memory_bandwidth_bytes_per_s", "hardware.peak_flop_per_s"
"""Axes that move no tile count, evaluated together; a value of the second multiplies every peak."""

TimedOperator = Gemm | FusedMoE | Attention


@dataclass(frozen=True)
class OperatorSweep:
    """One operator's latency or near-free range over a grid.

    Attributes
    ----------
    axes : dict
        Axis -> its values; the order of the dimensions of ``values``. ``tokens`` is the last for latencies.
    quantity : {"seconds", "nfp"}
        What ``values`` holds.
    values : ndarray, one dimension per axis
        Latency [s], or near-free token count [rows or positions].
    """

    axes: dict[str, tuple[Any, ...]]
    quantity: Literal["seconds", "nfp"]
    values: npt.NDArray[Any]

    @property
    def size(self) -> int:
        """Points [-]."""
        return int(self.values.size)

    def chunks(self, points: int = CHUNK_POINTS) -> Iterator[list[dict[str, Any]]]:
        """The points as records, some at a time, so that no million of dicts lies in memory."""
        flat, names = self.values.ravel(), (*self.axes, self.quantity)
        places = itertools.product(*self.axes.values())
        for start in range(0, flat.size, points):
            values = flat[start : start + points].tolist()
            yield [dict(zip(names, (*next(places), value), strict=True)) for value in values]

    def to_dataframe(self) -> pandas.DataFrame:
        """The grid as a DataFrame, one row per point; needs pandas."""
        columns: dict[str, Any] = {}
        repeat, tile = self.size, 1
        for name, values in self.axes.items():
            repeat //= len(values)
            columns[name] = np.tile(np.repeat(np.array(values), repeat), tile)
            tile *= len(values)
        return dataframe({**columns, self.quantity: self.values.ravel()})

    def to_csv(self, path: str | Path) -> None:
        """Write one row per point, whole or not at all."""
        write_csv(path, self.chunks())


def sweep_operator(
    hardware: str | Path | HardwareSpec,
    operator: TimedOperator,
    tokens: npt.ArrayLike | None = None,
    *,
    tolerance: float | None = None,
    baseline: int = 1,
    max_tokens: int = 4096,
    backend: str | None = None,
    progress: bool = False,
    executor: Executor | None = None,
    **axes: Any,
) -> OperatorSweep:
    """One operator's latency, or its near-free range, over every combination of hardware and shape values.

    Working memory is that of one chunk; the result is one number a point.

    Parameters
    ----------
    hardware : str, Path or HardwareSpec
        GPU; its kernels and constants are held while its fields move.
    operator : Gemm, FusedMoE or Attention
        Shape everything not swept comes from.
    tokens : array_like of int or None
        Rows (GEMM, MoE) or query positions (attention) at which to give the latency.
    tolerance : float or None
        eps [-]: give the near-free range instead, NFP(eps, baseline) of the operator alone.
    baseline, max_tokens : int
        For the near-free range: where it starts and where the search ends [rows or positions].
    backend : str or None
        As for :func:`~nfp_model.predict_nfp`.
    progress : bool
        Draw a progress bar on stderr.
    executor : concurrent.futures.Executor or None
        Where chunks run; None runs them here.
    **axes
        Lists or arrays: a field of the operator (``out_features``, ``top_k``, ``context_length``), or a hardware field
        path. Memory bandwidth [B/s] and ``"hardware.peak_flop_per_s"`` (a factor on every peak [-]) are evaluated all
        together; any other value has tile counts of its own and is bound once each.

    Returns
    -------
    OperatorSweep
        ``.values`` with one dimension per axis in the order given, ``.to_dataframe()``, ``.to_csv(path)``.

    Raises
    ------
    InvalidArgumentError
        Unless exactly one of ``tokens`` and ``tolerance`` is given; for empty axes, values out of range.
    UnknownNameError
        For a field the operator or the hardware does not have, with the nearest.

    Examples
    --------
    >>> from nfp_model import Gemm
    >>> found = sweep_operator("h100", Gemm(8192, 8192), [1, 64], **{BANDWIDTH: [3.35e12, 6.7e12]})
    >>> found.values.shape, bool(found.values[1, 0] < found.values[0, 0])
    ((2, 2), True)
    """
    check_backend(backend)
    spec = load_hardware(hardware)
    grid = _axes(spec, operator, axes)
    counted = _tokens(tokens, tolerance, grid)
    if tolerance is not None:
        require_positive(tolerance=tolerance)
        require_positive_int(baseline=baseline, max_tokens=max_tokens)
        if baseline > max_tokens:
            raise InvalidArgumentError(f"baseline {baseline} exceeds max_tokens {max_tokens}")
    rule = None if tolerance is None else _Rule(tolerance, baseline, max_tokens)
    places = [name for name in grid if name in (BANDWIDTH, PEAK)]
    shapes = [name for name in grid if name not in places]
    sizes = [len(grid[name]) for name in (*shapes, *places)]
    columns = 1 if counted is None else counted.size
    values = np.empty((math.prod(sizes), columns), dtype=np.float64 if rule is None else np.int64)
    tasks = _tasks(_Base(spec, operator, backend, rule), grid, shapes, places, counted)
    results = with_progress(
        in_order(run_part, tasks, executor), values.size, lambda part: part.values.size, progress, "points"
    )
    for part in results:
        values[part.row : part.row + part.values.shape[0], part.column : part.column + part.values.shape[1]] = (
            part.values
        )
    return _arranged(values, grid, (*shapes, *places), counted)


class _Rule(NamedTuple):
    tolerance: float
    baseline: int
    max_tokens: int


class _Base(NamedTuple):
    """What every task starts from."""

    hardware: HardwareSpec
    operator: TimedOperator
    backend: str | None
    rule: _Rule | None


class _Task(NamedTuple):
    """Some rates and token counts of one shape, and where the answer belongs."""

    base: _Base
    changes: dict[str, Any]
    bandwidth: FloatArray | None
    peak: FloatArray | None
    tokens: IntArray | None
    row: int
    column: int


class _Part(NamedTuple):
    values: npt.NDArray[Any]
    row: int
    column: int


def _axes(spec: HardwareSpec, operator: TimedOperator, given: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    names = [field.name for field in fields(operator)]
    axes: dict[str, tuple[Any, ...]] = {}
    for name, value in given.items():
        if name.startswith("hardware."):
            check_path(spec, name.removeprefix("hardware."))
        elif name not in names:
            raise unknown_name(f"field of {type(operator).__name__}", name, [*names, BANDWIDTH, PEAK])
        if not is_axis(value):
            raise InvalidArgumentError(f"sweep axis '{name}' must be a list or array, got {value!r}")
        axes[name] = tuple(item.item() if isinstance(item, np.generic) else item for item in value)
        if not axes[name]:
            raise InvalidArgumentError(f"sweep axis '{name}' is empty")
        if name in (BANDWIDTH, PEAK):
            for item in axes[name]:
                require_positive(**{name: item})
    return axes


def _tokens(tokens: npt.ArrayLike | None, tolerance: float | None, grid: dict[str, Any]) -> IntArray | None:
    if (tokens is None) == (tolerance is None):
        raise InvalidArgumentError("give tokens for latencies or tolerance for near-free ranges, not both or neither")
    if tokens is None:
        if not grid:
            raise InvalidArgumentError("a sweep needs at least one axis, got none")
        return None
    counted = np.atleast_1d(np.asarray(tokens)).ravel()
    if counted.size == 0:
        raise InvalidArgumentError("sweep axis 'tokens' is empty")
    if not np.issubdtype(counted.dtype, np.integer) or counted.min() < 1:
        raise InvalidArgumentError("tokens must be whole numbers of at least 1")
    return counted.astype(np.int64)


def _tasks(
    base: _Base, grid: dict[str, tuple[Any, ...]], shapes: list[str], places: list[str], tokens: IntArray | None
) -> Iterator[_Task]:
    rates = _rates(base.hardware, grid, places)
    count = 1 if rates is None else rates[0].size
    for index, combination in enumerate(itertools.product(*(grid[name] for name in shapes))):
        changes = dict(zip(shapes, combination, strict=True))
        for first, some in _split(tokens, CHUNK_POINTS if rates is None else CHUNK_TOKENS):
            step = max(1, CHUNK_POINTS // (1 if some is None else some.size))
            for start in range(0, count, step):
                part = slice(start, min(start + step, count))
                memory, matrix = (None, None) if rates is None else (rates[0][part], rates[1][part])
                yield _Task(base, changes, memory, matrix, some, index * count + start, first)


def _split(tokens: IntArray | None, size: int) -> Iterator[tuple[int, IntArray | None]]:
    if tokens is None:
        yield 0, None
        return
    for start in range(0, tokens.size, size):
        yield start, tokens[start : start + size]


def _rates(
    hardware: HardwareSpec, grid: dict[str, tuple[Any, ...]], places: list[str]
) -> tuple[FloatArray, FloatArray] | None:
    """Factors on bandwidth and peak over the product of their axes; None where neither is one."""
    if not places:
        return None
    mesh = np.meshgrid(*(np.array(grid[name], dtype=np.float64) for name in places), indexing="ij")
    flat = {name: values.ravel() for name, values in zip(places, mesh, strict=True)}
    ones = np.ones(mesh[0].size)
    bandwidth = flat.get(BANDWIDTH)
    factor = ones if bandwidth is None else bandwidth / hardware.memory_bandwidth_bytes_per_s
    return factor, flat.get(PEAK, ones)


def run_part(task: _Task) -> _Part:
    """The values of one task; at module level so that any executor can run it."""
    base = task.base
    changed = {name.removeprefix("hardware."): v for name, v in task.changes.items() if name.startswith("hardware.")}
    own = {name: v for name, v in task.changes.items() if not name.startswith("hardware.")}
    bound = bind(with_fields(base.hardware, changed), replace(base.operator, **own), base.backend)
    one = np.ones(1)
    memory, matrix = (one if task.bandwidth is None else task.bandwidth), (one if task.peak is None else task.peak)
    values: npt.NDArray[Any]
    if base.rule is not None:
        values = near_free_over_rates(bound, memory, matrix, *base.rule)[:, None]
    elif task.bandwidth is None:
        assert task.tokens is not None
        values = bound.seconds(task.tokens)[None]
    else:
        assert task.tokens is not None
        values = seconds_over_rates(bound, task.tokens, memory, matrix)
    return _Part(values, task.row, task.column)


def _arranged(
    values: npt.NDArray[Any], grid: dict[str, tuple[Any, ...]], computed: tuple[str, ...], tokens: IntArray | None
) -> OperatorSweep:
    """Dimensions in the order the axes were given, tokens last."""
    shaped = values.reshape(*(len(grid[name]) for name in computed), values.shape[1])
    order = [computed.index(name) for name in grid]
    shaped = np.transpose(shaped, (*order, len(computed)))
    if tokens is None:
        return OperatorSweep(grid, "nfp", shaped[..., 0])
    return OperatorSweep({**grid, "tokens": tuple(tokens.tolist())}, "seconds", shaped)


__all__ = ["BANDWIDTH", "PEAK", "OperatorSweep", "run_part", "sweep_operator"]
