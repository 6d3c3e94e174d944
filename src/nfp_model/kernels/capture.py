"""Padding to captured CUDA-graph sizes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from nfp_model.errors import InvalidArgumentError, require_positive_int, unknown_name
from nfp_model.kernels.counts import IntArray
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.kernel_library import CaptureSizes, engine_names, load_engine


def pad_to_capture(
    captures: tuple[int, ...] | str | None, hardware: HardwareSpec, batch_size: int, positions: npt.ArrayLike
) -> IntArray:
    """Token rows a forward really runs once padded to the next captured graph.

    An engine that captures requests pads the batch, pad(B) x N; one that captures tokens pads the rows, pad(B x N), to a graph
    that holds whole sequences where there is one. Above the largest captured size nothing is padded.

    Parameters
    ----------
    captures : tuple of int or str or None
        Captured sizes in tokens, an engine whose default list applies, or None for no padding.
    hardware : HardwareSpec
        Memory and architecture decide an engine's largest size.
    batch_size : int
        Sequences B [-].
    positions : array_like of int
        Positions per sequence N [positions].

    Returns
    -------
    ndarray of int
        Rows, at least B x N [rows].

    Raises
    ------
    UnknownNameError
        For an engine without a list.
    InvalidArgumentError
        For sizes below 1.

    Examples
    --------
    SGLang pads five requests of three positions to five or more requests, vLLM fifteen tokens to a multiple of three.

    >>> from nfp_model import load_hardware
    >>> h100 = load_hardware("h100")
    >>> pad_to_capture("sglang", h100, 9, [1, 3]).tolist()
    [12, 30]
    >>> pad_to_capture((8, 16, 32), h100, 1, [1, 9, 33]).tolist()
    [8, 16, 33]
    """
    require_positive_int(batch_size=batch_size)
    whole = np.atleast_1d(np.asarray(positions, dtype=np.int64))
    if captures is None:
        return whole * batch_size
    if not isinstance(captures, str):
        if not captures or min(captures) < 1:
            raise InvalidArgumentError(f"captured sizes must be at least 1, got {list(captures)!r}")
        return _next_size(np.unique(np.asarray(captures, dtype=np.int64)), whole * batch_size)
    lists = _lists(captures)
    distinct, back = np.unique(whole, return_inverse=True)
    return np.array([_padded(lists, hardware, batch_size, int(n)) for n in distinct], dtype=np.int64)[back]


def captured_sizes(engine: str, hardware: HardwareSpec, positions: int) -> IntArray:
    """An engine's default captured sizes for a number of positions per sequence, rising [tokens] or [requests].

    Examples
    --------
    >>> from nfp_model import load_hardware
    >>> captured_sizes("vllm", load_hardware("h100"), 1)[:6].tolist()
    [1, 2, 4, 8, 16, 24]
    """
    require_positive_int(positions=positions)
    sizes = _list_for(_lists(engine), positions)
    return np.empty(0, dtype=np.int64) if sizes is None else _sizes(sizes, _largest(sizes, hardware), positions)


def _lists(engine: str) -> tuple[CaptureSizes, ...]:
    able = [name for name in engine_names() if load_engine(name).captures]
    if engine not in able:
        raise unknown_name("engine for captured graphs", engine, able)
    return load_engine(engine).captures


def _list_for(lists: tuple[CaptureSizes, ...], positions: int) -> CaptureSizes | None:
    return next((c for c in lists if c.min_positions <= positions <= (c.max_positions or positions)), None)


def _padded(lists: tuple[CaptureSizes, ...], hardware: HardwareSpec, batch_size: int, positions: int) -> int:
    sizes = _list_for(lists, positions)
    if sizes is None:
        return batch_size * positions
    captured = _sizes(sizes, _largest(sizes, hardware), positions)
    if sizes.counts == "requests":
        return int(_next_size(captured, np.array([batch_size]))[0]) * positions
    rows = np.array([batch_size * positions], dtype=np.int64)
    if sizes.position_multiples:
        # A full graph of uniform decode holds whole sequences; failing that the next size of any kind runs piecewise.
        full = captured[captured % positions == 0]
        if full.size and full[-1] >= rows[0]:
            return int(_next_size(full, rows)[0])
    return int(_next_size(captured, rows)[0])


def _largest(sizes: CaptureSizes, hardware: HardwareSpec) -> int:
    for limit in sizes.largest:
        if hardware.architecture not in (limit.architectures or (hardware.architecture,)):
            continue
        if limit.below_memory_bytes is None or hardware.memory_bytes < limit.below_memory_bytes:
            return limit.size
    return sizes.largest[-1].size


@lru_cache(maxsize=1024)
def _sizes(sizes: CaptureSizes, largest: int, positions: int) -> IntArray:
    captured: set[int] = set()
    for part in sizes.sizes:
        captured.update(range(part.start, min(part.stop or largest, largest) + 1, part.step))
    if sizes.position_multiples and positions > 1:
        multiple = positions
        while multiple <= largest:
            captured.add(multiple)
            multiple *= 2
    return np.array(sorted(captured), dtype=np.int64)


def _next_size(captured: IntArray, rows: IntArray) -> IntArray:
    index = np.searchsorted(captured, rows)
    above = index >= captured.size
    return np.where(above, rows, captured[np.minimum(index, captured.size - 1)])


__all__ = ["captured_sizes", "pad_to_capture"]
