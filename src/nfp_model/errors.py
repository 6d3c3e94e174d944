"""The errors a user can meet, and the words they are told in.

Every error derives from :class:`NfpModelError`, itself a :class:`ValueError`, and is one sentence that names what was
given, what is allowed and, for names, the nearest valid one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Real


class NfpModelError(ValueError):
    """Base of every error this library raises on purpose."""


class SpecError(NfpModelError):
    """A hardware, model, kernel or calibration file says something it must not."""


class UnknownNameError(NfpModelError):
    """A name that is in no list; the message carries the nearest valid ones."""


class InvalidArgumentError(NfpModelError):
    """An argument outside the values it may take."""


class UnsupportedError(NfpModelError):
    """A combination the hardware, model or kernel library cannot run."""


class MemoryCapacityError(NfpModelError):
    """The model's state does not fit the GPU's memory and ``strict_memory`` was set."""


class MissingDependencyError(NfpModelError):
    """An optional package is needed for what was asked; the message says how to install it."""


def nearest(name: str, allowed: Iterable[str], count: int = 3) -> list[str]:
    """The valid names closest to a mistyped one, best first.

    Examples
    --------
    >>> nearest("h10", ["h100", "h200", "mi300x"])
    ['h100']
    """
    return difflib.get_close_matches(name.lower(), sorted(set(allowed)), n=count, cutoff=0.6)


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> UnknownNameError:
    """An :class:`UnknownNameError` that says what was given and what is near, or all there is where nothing is.

    Examples
    --------
    >>> print(unknown_name("hardware", "h10", ["h100", "h200"]))
    unknown hardware 'h10'; did you mean 'h100'?
    """
    names = sorted(set(allowed))
    near = nearest(str(name), names)
    if near:
        hint = "did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
    else:
        shown = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
        hint = f"known: {shown}"
    return UnknownNameError(f"unknown {kind} '{name}'; {hint}")


def require_positive(**values: float) -> None:
    """Refuse zero, negative and non-finite values, naming the argument.

    Raises
    ------
    InvalidArgumentError
        For the first value that is not a finite number above zero.
    """
    for name, value in values.items():
        if not (isinstance(value, Real) and not isinstance(value, bool) and 0 < value < float("inf")):
            raise InvalidArgumentError(f"{name} must be a finite number above 0, got {value!r}")


def require_positive_int(**values: int) -> None:
    """Refuse anything but whole numbers of at least 1, naming the argument.

    Raises
    ------
    InvalidArgumentError
        For the first value that is not an integer of at least 1.
    """
    for name, value in values.items():
        is_integer = not isinstance(value, bool) and hasattr(value, "__index__")
        if not is_integer or value < 1:
            raise InvalidArgumentError(f"{name} must be a whole number of at least 1, got {value!r}")
