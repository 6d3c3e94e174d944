"""The principle in closed form: how many positions are near-free, one expression per kind of operator (docs/theory, section 6).

Every expression gives N, positions per sequence, from datasheet numbers, shapes, fitted constants and the tolerance; counts of
tiles, waves, experts and blocks are held, so that all of them can be differentiated. The exact answer is a search over step
edges; these say which slack it is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import sympy as sp

from nfp_model.cost import symbols as y

FloatArray = npt.NDArray[np.float64]

NEWTON_STEPS = 3
"""Steps of :func:`iterated_rows`: from the one-line form the third moves the root by under 1 % [-]."""


def dense_positions() -> sp.Expr:
    r"""Weights read once for every row, one line.

    .. math::
        N = \frac{P e_f W}{F\,BW e_b B} \left[\left(1 + \epsilon \left(1 + \frac{t_0 BW e_b}{W}\right)\right)^p - 1\right]^{1/p}

    The first factor is the balance with efficiencies (memory slack), :math:`t_0 BW e_b / W` the latency slack. For
    :math:`p \to \infty`, :math:`e_b = e_f = 1` and :math:`t_0 = 0` it is :math:`1 + \epsilon` times idle compute.

    Examples
    --------
    >>> dense_positions().subs({y.t_0: 0, y.e_b: 1, y.e_f: 1, y.p: 1})
    P*W*epsilon/(B*BW*F)
    """
    return _under_stream(y.W, y.t_0)


def cache_positions() -> sp.Expr:
    """Attention by the same line: KV bytes V instead of weights, F the FLOP of one position of one sequence.

    Examples
    --------
    >>> y.V in cache_positions().free_symbols
    True
    """
    return _under_stream(y.V, y.t_0 + y.t_b * y.B)


def _under_stream(moved: sp.Expr, fixed: sp.Expr) -> sp.Expr:
    memory = moved / (y.BW * y.e_b)
    balance = (y.P * y.e_f / y.F) * memory / y.B
    return balance * ((1 + y.eps * (1 + fixed / memory)) ** y.p - 1) ** (1 / y.p)


def free_time() -> sp.Expr:
    r"""Time memory and matrix work may take together: :math:`\theta = \epsilon T_0 + (W + a M_0) / (BW e_b)` [s].

    The rest of T(N0), fixed and serial time, is taken to stay.
    """
    return y.eps * y.T_0 + (y.W + y.a * y.M_0) / (y.BW * y.e_b)


@cache
def dense_residual() -> sp.Expr:
    r"""Zero at the boundary of a dense GEMM with activations counted [-].

    .. math::
        \left(\frac{W + a M}{BW e_b \theta}\right)^p + \left(\frac{F M}{P e_f \theta}\right)^p - 1
    """
    memory = (y.W + y.a * y.M) / (y.BW * y.e_b)
    matrix = y.F * y.M / (y.P * y.e_f)
    return (memory / y.theta) ** y.p + (matrix / y.theta) ** y.p - 1


@cache
def dense_step() -> sp.Expr:
    """One Newton step on :func:`dense_residual`: the next M from this M [rows].

    Examples
    --------
    >>> dense_step().has(y.theta)
    True
    """
    residual = dense_residual()
    return y.M - residual / sp.diff(residual, y.M)


def iterated_rows(values: Mapping[str, float]) -> float:
    """The dense form with activations counted: :func:`dense_step` taken three times from the one-line form.

    The start is cut to the rows whose activations alone fill the free time; the residual is convex and rises, so that every
    further step comes from above.

    Parameters
    ----------
    values : mapping
        ``weight_bytes``, ``row_bytes``, ``row_flop``, ``bandwidth``, ``peak``, ``memory_efficiency``,
        ``matrix_efficiency``, ``overlap_exponent``, ``free_time``, and ``start`` [rows].

    Returns
    -------
    float
        M [rows].
    """
    rate = values["bandwidth"] * values["memory_efficiency"]
    memory, per_row = values["weight_bytes"] / rate, values["row_bytes"] / rate
    matrix, free, p = (
        values["row_flop"] / (values["peak"] * values["matrix_efficiency"]),
        values["free_time"],
        values["overlap_exponent"],
    )
    rows = min(values["start"], (free - memory) / per_row)
    for _ in range(NEWTON_STEPS):
        stream, work = (memory + per_row * rows) / free, matrix * rows / free
        slope = p / free * (per_row * stream ** (p - 1) + matrix * work ** (p - 1))
        rows -= (stream**p + work**p - 1) / slope
    return max(rows, 0.0)


def experts_allowed() -> sp.Expr:
    r"""Experts whose weights the tolerance pays for: :math:`A^* = A + \epsilon T_0 BW e_b / (W_u + W_d)` [-]."""
    return y.A + y.eps * y.T_0 * y.BW * y.e_b / (y.W_u + y.W_d)


def uniform_expert_positions() -> sp.Expr:
    r"""Positions that touch :math:`A^* < E` experts when tokens choose independently: :math:`\ln(1 - A^*/E) / (B \ln(1 - \kappa/E))`.

    The inverse of MoESD, arXiv 2505.19645, equation 8.
    """
    return sp.log(1 - experts_allowed() / y.E) / sp.log(1 - y.K / y.E) / y.B


def balanced_expert_positions() -> sp.Expr:
    r"""Positions that touch :math:`A^* < E` experts in balanced turn: :math:`A^* / (\kappa B)`."""
    return experts_allowed() / (y.K * y.B)


def row_block_positions() -> sp.Expr:
    r"""Every expert already read: positions until row blocks and matrix work fill the tolerance.

    .. math::
        N = \frac{1}{\kappa B}\left[\frac{P e_f}{F} \left(\theta^p - m^p - (f t_w)^p\right)^{1/p} - \frac{E (b_m - 1)}{2}\right]

    with :math:`\theta = (1 + \epsilon) T_0 - t_0 - E_w t_e - Y / (BW e_a)`, m the weight stream with re-reads and f the waves
    at the boundary's own block count, and half a block of padding per expert (granularity slack).
    """
    again = y.NB - y.A
    memory = ((y.A + y.r_u * again) * y.W_u + (y.A + y.r_d * again) * y.W_d) / (y.BW * y.e_b)
    free = (1 + y.eps) * y.T_0 - y.t_0 - y.E_w * y.t_e - y.Y / (y.BW * y.e_a)
    rows = y.P * y.e_f / y.F * (free**y.p - memory**y.p - (y.f * y.t_w) ** y.p) ** (1 / y.p)
    return (rows - y.E * (y.b_m - 1) / 2) / (y.K * y.B)


def row_blocks_reach(values: Mapping[str, Any]) -> FloatArray:
    """:func:`row_block_positions` over arrays of counts, one per N: the branch ends at the last N that is at most its own reach.

    Parameters
    ----------
    values : mapping
        Symbol name -> number or array over N.

    Returns
    -------
    ndarray
        Positions; below 0 where the re-reads alone break the tolerance [positions].
    """
    again = values["row_blocks"] - values["experts_touched"]
    moved = values["experts_touched"] * (values["up_bytes"] + values["down_bytes"]) + again * (
        values["reread_up"] * values["up_bytes"] + values["reread_down"] * values["down_bytes"]
    )
    bandwidth, p = values["bandwidth"], values["overlap_exponent"]
    row_time = values["moved_bytes"] / (bandwidth * values["activation_efficiency"])
    fixed = values["fixed_time"] + values["walked_experts"] * values["expert_time"]
    free = (1 + values["tolerance"]) * values["baseline_latency"] - fixed - row_time
    busy = (moved / (bandwidth * values["memory_efficiency"])) ** p + (values["waves"] * values["wave_time"]) ** p
    share = np.clip(busy ** (1 / p) / np.maximum(free, 1e-30), 0.0, 1.0)
    rows = (
        values["peak"]
        * values["matrix_efficiency"]
        / values["row_flop"]
        * np.maximum(free, 0.0)
        * (1 - share**p) ** (1 / p)
    )
    padding = values["experts"] * (values["tile_rows"] - 1) / 2
    return np.asarray(np.where(share < 1, rows - padding, -1.0) / (values["top_k"] * values["batch"]))


def wave_positions() -> sp.Expr:
    """Query positions that fill the attention waves already running: f SM o CTA slots, c per tile, b_m / g positions each.

    Examples
    --------
    >>> wave_positions()
    SM*b_m*f*o/(c*g)
    """
    return y.f * y.SM * y.o / y.c * y.b_m / y.g


def stream_positions() -> sp.Expr:
    """Bandwidth-bound work: N0 + eps T0 BW e_b / (a B)."""
    return y.N_0 + y.eps * y.T_0 * y.BW * y.e_b / (y.a * y.B)


def collective_positions() -> sp.Expr:
    """Collectives by one algorithm: ((1 + eps) T0 - t_0 - t_r r_2 - x_g t_x) BW e_b / (a B); that with most positions decides."""
    return ((1 + y.eps) * y.T_0 - y.t_0 - y.t_r * y.r_2 - y.x_g * y.t_x) * y.BW * y.e_b / (y.a * y.B)


def evaluated(expression: sp.Expr, values: Mapping[str, float]) -> float:
    """An expression's number, from symbol names and SI values.

    Parameters
    ----------
    expression : sympy.Expr
        Built from :data:`~nfp_model.cost.symbols.SYMBOLS`.
    values : mapping
        Symbol name -> value; more than needed does no harm.

    Raises
    ------
    KeyError
        When a symbol of the expression has no value.

    Examples
    --------
    >>> evaluated(y.W / y.BW, {"weight_bytes": 8.0, "bandwidth": 2.0})
    4.0
    """
    names = {info.symbol: name for name, info in y.SYMBOLS.items()}
    return float(
        expression.xreplace({symbol: sp.Float(values[names[symbol]]) for symbol in expression.free_symbols}).evalf()
    )
