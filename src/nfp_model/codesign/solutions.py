"""The answer to an inverse question, and what it rests on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Trial:
    """One value tried.

    Attributes
    ----------
    value : float or str
        Of the field.
    growth : float or None
        T(target) / T(N0) [-]; None where it cannot run.
    free : bool
        ``growth`` is within the tolerance.
    refused : str
        Why it cannot run.
    """

    value: Any
    growth: float | None
    free: bool
    refused: str = ""


@dataclass(frozen=True)
class Solution:
    """The values of a field that make a number of positions free; prints as a sentence.

    Attributes
    ----------
    question : str
        In words.
    field : str
        Field or argument path, or ``tile of MODULE``.
    target_nfp : int
        Positions asked for [positions].
    present : float, str or None
        The field's present value.
    value : float, str or None
        The free value nearest the present one, or the first where that is no number; None where there is none.
    ranges : tuple of (low, high)
        Every free value found; a single one twice. Between the ends of a range every value is free.
    undecided : tuple of (low, high)
        Ranges narrower than the resolution that hold an edge of a free range; never the whole answer.
    method : {"interval proof", "exhaustive"}
        How the range was covered.
    trials : tuple of Trial
        What was evaluated: every value (exhaustive), or the ends of the range and the closest miss (interval proof).
    proven : bool
        Whether ``ranges`` is known to be all there is, up to ``undecided``; with no ranges and nothing undecided, that none
        exists.
    """

    question: str
    field: str
    target_nfp: int
    present: Any
    value: Any
    ranges: tuple[tuple[Any, Any], ...]
    undecided: tuple[tuple[float, float], ...]
    method: Literal["interval proof", "exhaustive"]
    trials: tuple[Trial, ...]

    @property
    def exists(self) -> bool:
        """Whether some value in the range is enough."""
        return self.value is not None

    @property
    def proven(self) -> bool:
        """Whether the answer is certain: a value that was evaluated, or none in a range without gaps."""
        return self.exists or not self.undecided

    def to_dict(self) -> dict[str, Any]:
        """Everything a program needs, JSON-safe."""
        return {
            "question": self.question,
            "field": self.field,
            "target_nfp": self.target_nfp,
            "present": self.present,
            "value": self.value,
            "ranges": [list(pair) for pair in self.ranges],
            "undecided": [list(pair) for pair in self.undecided],
            "method": self.method,
            "proven": self.proven,
            "trials": [
                {"value": t.value, "growth": t.growth, "free": t.free, "refused": t.refused} for t in self.trials
            ],
        }

    def __str__(self) -> str:
        ran = [trial for trial in self.trials if trial.growth is not None]
        if not self.exists:
            closest = min(ran, key=lambda trial: trial.growth or math.inf, default=None)
            near = f"; closest {_text(closest.value)} with growth {closest.growth:.3f}" if closest else ""
            sure = f"none in range ({self.method})" if self.proven else "none found, not proven"
            return f"{self.question}: {sure}{near}"
        shown = ", ".join(_text(low) if low == high else f"{_text(low)} to {_text(high)}" for low, high in self.ranges)
        first = f"nearest the present {_text(self.present)}" if isinstance(self.present, int | float) else "the first"
        return f"{self.question}: {shown}; {first}: {_text(self.value)} ({self.method})"


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def nearest_value(values: list[Any], present: Any) -> Any:
    """The value nearest the present one on a logarithmic scale; the first where they are no numbers, None where none is."""
    if not values:
        return None
    numbers = all(isinstance(value, int | float) for value in [*values, present])
    if not numbers or min([*values, present]) <= 0:
        return values[0]
    return min(values, key=lambda value: abs(math.log(value / present)))


__all__ = ["Solution", "Trial", "nearest_value"]
