"""Equations as LaTeX, printed from the SymPy expressions the code evaluates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import sympy as sp

from nfp_model.cost import closed_form
from nfp_model.cost.equations import equation

KINDS = ("gemm", "moe", "attention", "block", "stream", "collective")

CLOSED_FORMS: dict[str, Callable[[], sp.Expr]] = {
    "dense": closed_form.dense_positions,
    "cache": closed_form.cache_positions,
    "free time": closed_form.free_time,
    "dense residual": closed_form.dense_residual,
    "experts allowed": closed_form.experts_allowed,
    "uniform experts": closed_form.uniform_expert_positions,
    "balanced experts": closed_form.balanced_expert_positions,
    "row blocks": closed_form.row_block_positions,
    "wave": closed_form.wave_positions,
    "stream": closed_form.stream_positions,
    "collective": closed_form.collective_positions,
}
"""Name on the page -> the expression."""


def displayed(left: str, expression: sp.Expr) -> str:
    """``left = expression`` as a displayed equation."""
    return f"$$\n{left} = {sp.latex(expression)}\n$$\n"


def terms(kind: str) -> str:
    """The terms of a latency equation, one display each."""
    named = equation(kind).terms
    return "\n".join(displayed(rf"\text{{{name}}}", expression) for name, expression in named.items())


def latency(kind: str) -> str:
    """The whole latency."""
    return displayed("T", equation(kind).latency)


def closed(name: str) -> str:
    """One closed form."""
    left = {"free time": r"\theta", "dense residual": "0", "experts allowed": "A^*"}.get(name, "N")
    return displayed(left, CLOSED_FORMS[name]())


PARTS: dict[str, Callable[[], str]] = {
    **{f"terms {kind}": partial(terms, kind) for kind in KINDS},
    **{f"latency {kind}": partial(latency, kind) for kind in KINDS},
    **{f"closed form {name}": partial(closed, name) for name in CLOSED_FORMS},
}
