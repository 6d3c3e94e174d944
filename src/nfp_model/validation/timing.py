"""How one point is timed: CUDA-graph replay between event pairs, rotating over copies that L2 cannot serve."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nfp_model.errors import NfpModelError, require_positive
from nfp_model.validation.cases import Case

L2_MULTIPLE = 16
"""Bytes streamed between two uses of one copy, in L2 sizes [-]. A cache that evicts at random then serves at most about
1/16 of them, one that evicts the oldest none."""
MOST_COPIES = 512
MEMORY_SHARE = 0.6
"""Share of the free device memory that copies may take [-]; the rest is for outputs and workspaces."""
WINDOW_S = 1e-3
"""Least length of one timed replay [s]: far above an event's resolution (about 0.5 us, CUDA runtime documentation of
``cudaEventElapsedTime``) and above the time the host needs to launch the next one."""
WARM_UP_S = 0.03
SAMPLING_S = 0.15
FEWEST_REPEATS, MOST_REPEATS = 7, 100


class CannotMeasure(NfpModelError):
    """A case this device, library or memory cannot run; the message says why and the run goes on."""


class DeviceLost(NfpModelError):
    """A kernel broke the CUDA context: this process can measure nothing more."""


@dataclass(frozen=True)
class DeviceState:
    """Clock and temperature as the driver reports them.

    Attributes
    ----------
    sm_clock_mhz : int
        SM clock [MHz].
    temperature_c : int
        GPU temperature [degrees C].
    """

    sm_clock_mhz: int
    temperature_c: int


@dataclass(frozen=True)
class Samples:
    """Seconds of one execution, one number a replay.

    Attributes
    ----------
    seconds : tuple of float
        Replay time over executions [s].
    executions : int
        Executions in one graph [-].
    copies : int
        Copies of weights or cache rotated over [-].
    l2_state : {"cold", "partial", "warm"}
        Partial: device memory or :data:`MOST_COPIES` allowed fewer copies than cold needs.
    note : str
        What else belongs to the point, such as ``experts_touched=117.5``.

    Examples
    --------
    >>> Samples((1.0, 2.0, 3.0), executions=1, copies=1, l2_state="warm").quantiles()
    (1.2, 2.0, 2.8)
    """

    seconds: tuple[float, ...]
    executions: int
    copies: int
    l2_state: str
    note: str = ""

    def quantiles(self) -> tuple[float, float, float]:
        """The 10 %, 50 % and 90 % quantiles [s]."""
        low, median, high = (float(q) for q in np.quantile(self.seconds, (0.1, 0.5, 0.9)))
        return low, median, high


class Backend(Protocol):
    """What the driver needs of a device; tests give it a fake one."""

    def environment(self) -> Mapping[str, str]:
        """Device, driver and library versions for the file's header."""

    def device_state(self) -> DeviceState:
        """Clock and temperature now."""

    def time(self, case: Case, positions: int, l2_state: str) -> Samples:
        """Measure one point; raises CannotMeasure."""

    def release(self) -> None:
        """Free what is kept between points of one group."""


class Bench(Protocol):
    """One operator, ready to be timed at any size."""

    def footprint_bytes(self, positions: int) -> float:
        """Bytes of one copy that one execution reads [B]."""

    def copy_bytes(self, positions: int) -> float:
        """Device memory of one copy [B]."""

    def prepare(self, positions: int, copies: int) -> Callable[[int], object]:
        """A function that runs execution number i on copy i mod ``copies``."""

    def relative_error(self) -> float:
        """Norm of (output - float32 reference) over norm of the reference at a small size [-]."""

    def note(self, positions: int) -> str:
        """What else belongs to the point just prepared; may be empty."""


def rotation_copies(footprint_bytes: float, l2_bytes: float, copy_bytes: float, free_bytes: float) -> tuple[int, str]:
    """Copies to rotate over so that L2 does not serve them, and whether that many were possible.

    ``copies = ceil(16 l2 / footprint)``, within memory and :data:`MOST_COPIES`. Fewer than ``2 l2 / footprint`` copies
    are called partial.

    Parameters
    ----------
    footprint_bytes : float
        Bytes one execution reads of its copy [B].
    l2_bytes : float
        Last-level cache [B].
    copy_bytes : float
        Memory one copy takes [B]; more than the footprint where an execution reads a part (experts).
    free_bytes : float
        Device memory free [B].

    Returns
    -------
    (int, {"cold", "partial"})

    Raises
    ------
    CannotMeasure
        When not even one copy fits.

    Examples
    --------
    >>> rotation_copies(32e6, 60e6, 32e6, 100e9)
    (30, 'cold')
    """
    require_positive(footprint_bytes=footprint_bytes, l2_bytes=l2_bytes, copy_bytes=copy_bytes)
    room = int(MEMORY_SHARE * free_bytes / copy_bytes)
    if room < 1 and copy_bytes > 0.95 * free_bytes:
        raise CannotMeasure(f"needs {copy_bytes / 1e9:.1f} GB, {free_bytes / 1e9:.1f} GB of device memory are free")
    wanted = math.ceil(L2_MULTIPLE * l2_bytes / footprint_bytes)
    copies = max(1, min(wanted, MOST_COPIES, room))
    return copies, "cold" if copies * footprint_bytes >= 2 * l2_bytes else "partial"


def executions_per_graph(copies: int, seconds: float, window_s: float = WINDOW_S) -> int:
    """Executions that make one replay last at least ``window_s``, a whole number of turns through the copies.

    Examples
    --------
    >>> executions_per_graph(copies=30, seconds=10e-6)
    120
    """
    require_positive(copies=copies, seconds=seconds)
    return copies * max(1, math.ceil(window_s / (copies * seconds)))


def repeats_for(replay_seconds: float) -> int:
    """Replays that fit the sampling time, within bounds.

    Examples
    --------
    >>> repeats_for(1e-3), repeats_for(1.0), repeats_for(5e-3)
    (100, 7, 30)
    """
    require_positive(replay_seconds=replay_seconds)
    return min(MOST_REPEATS, max(FEWEST_REPEATS, round(SAMPLING_S / replay_seconds)))


class GraphTimer(Protocol):
    """Captures executions and replays them; the CUDA one is in ``cuda_backend``."""

    def capture(self, execute: Callable[[int], object], executions: int) -> None:
        """Warm up, then record ``executions`` calls into one graph."""

    def replay(self, repeats: int) -> list[float]:
        """Seconds of each replay [s]."""


def sample(timer: GraphTimer, execute: Callable[[int], object], copies: int, l2_state: str) -> Samples:
    """Time one prepared point: capture, size the graph to the window, warm up, replay.

    Parameters
    ----------
    timer : GraphTimer
        Captures and replays.
    execute : callable
        Runs execution number i.
    copies : int
        Rotated over [-].
    l2_state : str
        Label of the samples.
    """
    executions = copies
    timer.capture(execute, executions)
    replay = min(timer.replay(3))
    needed = executions_per_graph(copies, replay / executions)
    if needed > executions:
        executions = needed
        timer.capture(execute, executions)
        replay = min(timer.replay(3))
    timer.replay(max(1, math.ceil(WARM_UP_S / replay)))
    seconds = tuple(total / executions for total in timer.replay(repeats_for(replay)))
    return Samples(seconds, executions, copies, l2_state)
