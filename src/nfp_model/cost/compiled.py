"""Expressions compiled to NumPy, once per structure; the only place that calls ``lambdify``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import sympy as sp
from sympy.printing.numpy import NumPyPrinter

from nfp_model.cost.equations import equation
from nfp_model.cost.symbols import SYMBOLS

FloatArray = npt.NDArray[np.float64]

TIME_UNIT_S = 1e-6
"""Times are evaluated in microseconds: the equations are homogeneous in time, and high powers of seconds underflow [s]."""

_PER_TIME = {"bandwidth", "peak"}
_TIMES = {name for name, info in SYMBOLS.items() if info.unit == "s"}


_NAMES = {"sqrt": np.sqrt, "square": np.square}
"""All a compiled equation calls; SymPy's own "numpy" namespace would import every NumPy submodule."""


class _FastPowers(NumPyPrinter):  # type: ignore[misc]
    """Powers of two and their roots as squares and square roots: several times faster than ``pow``."""

    def _print_Pow(self, expr: Any, rational: bool = False) -> str:
        base, exponent = expr.as_base_exp()
        for doublings in (1, 2, 3):
            if exponent == 2**doublings:
                return self._nested("numpy.square", base, doublings)
            if exponent == sp.Rational(1, 2**doublings):
                return self._nested("numpy.sqrt", base, doublings)
        return str(super()._print_Pow(expr, rational=rational))

    def _nested(self, function: str, base: Any, times: int) -> str:
        name = str(self._module_format(function))
        return f"{name}(" * times + str(self._print(base)) + ")" * times


@cache
def compiled(kind: str, term: str | None = None) -> tuple[tuple[str, ...], Callable[..., Any]]:
    """A NumPy function for an equation's latency or one of its terms.

    Parameters
    ----------
    kind : str
        Equation; see :func:`nfp_model.cost.equations.equation`.
    term : str or None
        One of the equation's terms; None for the latency.

    Returns
    -------
    names : tuple of str
        Keys of :data:`~nfp_model.cost.symbols.SYMBOLS`, in argument order.
    function : callable
        Takes arrays that broadcast, returns an array.
    """
    source = equation(kind)
    expression = source.latency if term is None else source.terms[term]
    by_symbol = {info.symbol: name for name, info in SYMBOLS.items()}
    arguments = sorted(expression.free_symbols, key=lambda symbol: symbol.name)
    printer = _FastPowers({"fully_qualified_modules": False, "inline": True, "allow_unknown_functions": False})
    function = sp.lambdify(arguments, expression, modules=[_NAMES], printer=printer, cse=True)
    return tuple(by_symbol[symbol] for symbol in arguments), function


def evaluate(kind: str, inputs: Mapping[str, Any], term: str | None = None) -> FloatArray:
    """Seconds from named inputs in SI units.

    Parameters
    ----------
    kind, term : str
        As for :func:`compiled`.
    inputs : mapping
        Symbol name -> number or array that broadcasts with the others.

    Returns
    -------
    ndarray
        Latency or term [s].

    Examples
    --------
    One gigabyte at full H100 bandwidth:

    >>> round(float(evaluate("stream", dict(moved_bytes=1e9, bandwidth=3.35e12, memory_efficiency=1, fixed_time=0))) * 1e6)
    299
    """
    names, function = compiled(kind, term)
    return np.asarray(function(*[_scaled(name, inputs[name]) for name in names]) * TIME_UNIT_S)


def _scaled(name: str, value: Any) -> Any:
    if name in _PER_TIME:
        return value * TIME_UNIT_S
    return value / TIME_UNIT_S if name in _TIMES else value
