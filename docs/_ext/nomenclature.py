"""Tables of symbols, fitted constants and storage formats, from the code that defines them."""

from __future__ import annotations

import sympy as sp
from page_markup import code, table, text

from nfp_model.cost.equations import equation
from nfp_model.cost.symbols import SYMBOLS
from nfp_model.quantities import ELEMENT_TYPES
from nfp_model.specs.calibration import CONSTANTS_OF

KINDS = ("gemm", "moe", "attention", "block", "stream", "collective")


def used_in(symbol: sp.Symbol) -> str:
    """Kinds of the equations a symbol stands in; the closed form where it stands in none."""
    kinds = [kind for kind in KINDS if symbol in equation(kind).latency.free_symbols]
    return ", ".join(kinds) or "closed form"


def symbol_table() -> str:
    """Every symbol: sign, name in code, unit, meaning, who supplies it, where it stands."""
    rows = (
        (
            f"${sp.latex(info.symbol)}$",
            code(name),
            code(info.unit),
            text(info.meaning),
            info.origin,
            used_in(info.symbol),
        )
        for name, info in SYMBOLS.items()
    )
    return table(("symbol", "name in code", "unit", "meaning", "from", "stands in"), rows)


def constants_table() -> str:
    """Fitted constants by operator kind, as calibration files name them."""
    rows = (
        (code(kind), ", ".join(code(name) for name in constants.model_fields), code(constants.__name__))
        for kind, constants in CONSTANTS_OF.items()
    )
    return table(("operator", "constants", "type"), rows)


def storage_formats() -> str:
    """Storage formats with their bytes, scales counted."""
    rows = (
        (
            code(kind.name),
            f"{kind.bits:.6g}",
            code(kind.matrix_rate) if kind.matrix_rate else "the activations'",
            text(kind.source),
        )
        for kind in ELEMENT_TYPES.values()
    )
    return table(("format", "bits per element", "matrix peak", "stated in"), rows)
