"""One symbolic latency equation per operator kind (docs/theory, sections 2 to 5).

Counts (tiles, waves, splits, experts, row blocks) are input symbols: they are computed exactly by ``kernels/`` and never
appear as ceilings here, so that every expression stays differentiable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import sympy as sp

from nfp_model.cost import symbols as y
from nfp_model.errors import unknown_name

CHAIN_SHARPNESS = 2
"""Exponent joining the chain with the overlapped memory and matrix time [-]: a CTA that walks k starts late and drains late, so
the two add in part. Chosen among 8, 4 and 2 on the fit half of the public timings, shapes left out in turn: 2 is best by 0.1
points of MAPE for cuBLAS and by 0.5 to 1.1 points for CUTLASS fp8."""


@dataclass(frozen=True)
class Equation:
    """A latency and the terms it is made of.

    Attributes
    ----------
    latency : sympy.Expr
        T [s].
    terms : dict
        Name -> expression [s]: ``memory``, ``matrix``, ``chain``, ``fixed``, ``rows``, ``attention``.
    """

    latency: sp.Expr
    terms: dict[str, sp.Expr]

    @property
    def symbols(self) -> tuple[sp.Symbol, ...]:
        """Free symbols of the latency, sorted by name."""
        return tuple(sorted(self.latency.free_symbols, key=lambda symbol: symbol.name))


def overlapped(exponent: sp.Expr, *times: sp.Expr) -> sp.Expr:
    """p-norm of times that run side by side: their sum for p = 1, their maximum for large p [s]."""
    return sp.Add(*[time**exponent for time in times]) ** (1 / exponent)


def gemm() -> Equation:
    r"""Dense GEMM of one tile choice; the library's choice is the minimum over its menu.

    .. math::
        T = t_0 + \left[(m^p + c^p)^{2/p} + h^2\right]^{1/2} + \sigma t_s + \frac{M a_q}{BW e_b}

    with memory time m, matrix time c over whole tiles and waves, and the serial chain h of one CTA along k. Where one tile is
    given for every M, each further row tile reads a share r of the weights again, and where rows of a tile outside M are known
    to slow it, their share slows matrix and chain by r. Passes that quantise the input end before the product begins.
    """
    memory = (y.W * (1 + y.r * y.x) + y.a * y.M) / (y.BW * y.e_b) + y.sigma * 8 * y.s * y.M * y.n / (3 * y.BW)
    slowed = 1 + y.r * y.u
    matrix = slowed * y.f * 2 * y.b_m * y.b_n * (y.k / y.s) * y.SM / (y.P * y.e_f)
    chain = slowed * y.f * y.k_c * y.k / y.s
    fixed = y.t_0 + y.sigma * y.t_s
    rows = y.M * y.a_q / (y.BW * y.e_b)
    joined = (memory**y.p + matrix**y.p) ** (CHAIN_SHARPNESS / y.p) + chain**CHAIN_SHARPNESS
    latency = fixed + joined ** sp.Rational(1, CHAIN_SHARPNESS) + rows
    return Equation(latency, {"memory": memory, "matrix": matrix, "chain": chain, "rows": rows, "fixed": fixed})


def moe() -> Equation:
    r"""Fused MoE: A experts read once, further row blocks read a share again, padded blocks computed, in f waves.

    .. math::
        T = t_0 + E_w t_e + \left[\left(\frac{\sum_g (A + r_g (N_B - A)) W_g}{BW e_b}\right)^p
            + \left(\frac{N_B b_m F}{P e_f}\right)^p + (f t_w)^p\right]^{1/p} + \frac{Y}{BW e_a}
    """
    again = y.NB - y.A
    weights = (y.A + y.r_u * again) * y.W_u + (y.A + y.r_d * again) * y.W_d
    memory = weights / (y.BW * y.e_b)
    matrix = y.NB * y.b_m * y.F / (y.P * y.e_f)
    chain = y.f * y.t_w
    rows = y.Y / (y.BW * y.e_a)
    fixed = y.t_0 + y.E_w * y.t_e
    latency = fixed + overlapped(y.p, memory, matrix, chain) + rows
    return Equation(latency, {"memory": memory, "matrix": matrix, "chain": chain, "rows": rows, "fixed": fixed})


def attention() -> Equation:
    r"""Decode attention: the KV stream, waves of CTAs walking 128-key steps, and the matrix rate, side by side.

    .. math::
        T = t_0 + t_b B_p + f_x t_c \rho + \left[\left(\frac{V + V_s}{BW e_b}\right)^p
            + \left((f_h t_c + f q \tau d) \rho\right)^p + \left(\frac{G}{P e_f}\right)^p\right]^{1/p} + c_p t_s
    """
    memory = (y.V + y.V_s) / (y.BW * y.e_b)
    chain = (y.f_h * y.t_c + y.f * y.q * y.tau * y.d) * y.rho
    matrix = y.G / (y.P * y.e_f)
    fixed = y.t_0 + y.t_b * y.B_p + y.f_x * y.t_c * y.rho + y.c_p * y.t_s
    return Equation(
        fixed + overlapped(y.p, memory, chain, matrix),
        {"memory": memory, "chain": chain, "matrix": matrix, "fixed": fixed},
    )


def block() -> Equation:
    r"""A whole attention block: projections as one GEMM, then attention, indexer and row traffic one after the other.

    The indexer's keys stream beside its scores as weights beside a product.

    .. math::
        T = t_0 + \left[\left(\frac{W}{BW e_b}\right)^p + \left(\frac{M F}{P e_f}\right)^p\right]^{1/p}
            + \frac{G}{P_a e_g} + \left[\left(\frac{Y_x}{BW e_b}\right)^p + \left(\frac{I_x}{P_i e_i}\right)^p\right]^{1/p}
            + f_k t_k + f_q t_q + \frac{Y}{BW e_a} + B_p t_b
    """
    memory = y.W / (y.BW * y.e_b)
    matrix = y.M * y.F / (y.P * y.e_f)
    index_time = overlapped(y.p, y.Y_x / (y.BW * y.e_b), y.I_x / (y.P_i * y.e_i))
    attention_time = y.G / (y.P_a * y.e_g) + index_time + y.f_k * y.t_k + y.f_q * y.t_q
    rows = y.Y / (y.BW * y.e_a)
    fixed = y.t_0 + y.B_p * y.t_b
    latency = fixed + overlapped(y.p, memory, matrix) + attention_time + rows
    return Equation(
        latency, {"memory": memory, "matrix": matrix, "attention": attention_time, "rows": rows, "fixed": fixed}
    )


def stream() -> Equation:
    r"""Bandwidth-bound work: :math:`T = t_0 + Y / (BW e_b)`."""
    memory = y.Y / (y.BW * y.e_b)
    return Equation(y.t_0 + memory, {"memory": memory, "fixed": y.t_0})


def collective() -> Equation:
    r"""Communication between r ranks: latency by ranks and exchanges, and the bytes that cross a link, by the faster algorithm.

    .. math::
        T = t_0 + t_r r_2 + x_g t_x + \frac{Y}{BW e_b}
    """
    memory = y.Y / (y.BW * y.e_b)
    fixed = y.t_0 + y.t_r * y.r_2 + y.x_g * y.t_x
    return Equation(fixed + memory, {"memory": memory, "fixed": fixed})


_BUILDERS = {
    "gemm": gemm,
    "moe": moe,
    "attention": attention,
    "block": block,
    "stream": stream,
    "collective": collective,
}

KINDS = tuple(_BUILDERS)
"""Operator kinds with an equation of their own."""


@cache
def equation(kind: str) -> Equation:
    """The equation of an operator kind, built once.

    Parameters
    ----------
    kind : {"gemm", "moe", "attention", "block", "stream", "collective"}
        Which.

    Examples
    --------
    >>> sorted(str(symbol) for symbol in equation("stream").symbols)
    ['BW', 'Y', 'e_b', 't_0']
    """
    if kind not in _BUILDERS:
        raise unknown_name("equation", kind, _BUILDERS)
    return _BUILDERS[kind]()
