"""Tasks in order, here or on any executor, a few in flight at a time, with a progress bar when asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

IN_FLIGHT = 32
"""Chunks handed to an executor before the first result is asked for, so that a grid never lies in memory whole [-]."""


def in_order(function: Callable[[Task], Result], tasks: Iterable[Task], executor: Executor | None) -> Iterator[Result]:
    """``map`` with a bounded queue: results in the order of the tasks.

    Parameters
    ----------
    function : callable
        At module level, so that it can be sent to another process.
    tasks : iterable
        Taken as they are needed.
    executor : concurrent.futures.Executor or None
        None runs here.
    """
    if executor is None:
        yield from map(function, tasks)
        return
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            waiting.append(executor.submit(function, task))
            if len(waiting) >= IN_FLIGHT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def with_progress(
    results: Iterable[Result], total: int, size: Callable[[Result], int], shown: bool, title: str
) -> Iterator[Result]:
    """The results as they come, with a bar on stderr when ``shown``.

    Parameters
    ----------
    results : iterable
        Chunks.
    total : int
        Points of the grid [-].
    size : callable
        Points in one chunk.
    shown : bool
        Draw the bar.
    title : str
        What is counted.
    """
    if not shown:
        yield from results
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        for result in results:
            bar.advance(task, size(result))
            yield result
