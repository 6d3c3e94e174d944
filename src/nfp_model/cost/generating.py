"""SymPy equations to NumPy source: writes ``cost/generated.py``, so that a prediction does not wait for SymPy to load.

``python -m nfp_model.cost.generating`` writes the file anew; a test holds the committed file to what this module generates.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp
from sympy.printing.numpy import NumPyPrinter

from nfp_model.cost.equations import KINDS, equation
from nfp_model.cost.symbols import SYMBOLS

PER_TIME = ("bandwidth", "peak", "attention_peak", "index_peak")
"""Symbols with seconds in the denominator."""

_CALLED = {"sqrt": np.sqrt, "square": np.square}

_HEAD = '''"""NumPy code of every latency equation and term: written by ``python -m nfp_model.cost.generating``, not by hand."""

# ruff: noqa
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy import sqrt, square

'''


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


def generated_source() -> str:
    """Text of ``cost/generated.py``: one function for every equation's latency and each of its terms."""
    by_symbol = {info.symbol: name for name, info in SYMBOLS.items()}
    functions, table = [], []
    for kind in KINDS:
        source = equation(kind)
        for term in (None, *source.terms):
            expression = source.latency if term is None else source.terms[term]
            arguments = sorted(expression.free_symbols, key=lambda symbol: symbol.name)
            name = f"{kind}_{term or 'latency'}"
            functions.append(_function(name, arguments, expression))
            names = tuple(by_symbol[symbol] for symbol in arguments)
            table.append(f"    ({kind!r}, {term!r}): ({names!r}, {name}),")
    times = sorted(name for name, info in SYMBOLS.items() if info.unit == "s")
    kinds = "dict[tuple[str, str | None], tuple[tuple[str, ...], Callable[..., Any]]]"
    return "\n".join(
        [
            _HEAD + f"PER_TIME = frozenset({sorted(PER_TIME)!r})",
            f"TIMES = frozenset({times!r})",
            *functions,
            f"\n\nFUNCTIONS: {kinds} = {{",
            *table,
            "}\n",
        ]
    )


def _function(name: str, arguments: list[sp.Symbol], expression: sp.Expr) -> str:
    printer = _FastPowers({"fully_qualified_modules": False, "inline": True, "allow_unknown_functions": False})
    compiled = sp.lambdify(arguments, expression, modules=[_CALLED], printer=printer, cse=True)
    body = inspect.getsource(compiled).split("\n", 1)[1].rstrip()
    typed = ", ".join(f"{symbol.name}: Any" for symbol in arguments)
    return f"\n\ndef {name}({typed}) -> Any:\n{body}"


if __name__ == "__main__":
    Path(__file__).with_name("generated.py").write_text(generated_source(), encoding="utf-8")
