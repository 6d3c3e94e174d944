"""Which measured curves determine which constants: tables, kernels, settings, and a fixed sample of the large ones."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nfp_model.cost.binding import kernel_for
from nfp_model.errors import InvalidArgumentError, UnsupportedError
from nfp_model.operators import FusedMoE
from nfp_model.specs.calibration import OperatorKind
from nfp_model.specs.registry import load_hardware
from nfp_model.validation.datasets import CurveSet, Source, curves_of
from nfp_model.validation.fit_points import CALIBRATED_AS, LENT, MEASURED_AS, measured_kind
from nfp_model.validation.recorded import read_timings
from nfp_model.validation.records import Curve
from nfp_model.validation.shapes import MoEShape
from nfp_model.validation.silicon import (
    load_attention,
    load_attention_module,
    load_collective,
    load_gemm,
    load_mla,
    load_moe,
)

LOADERS: dict[OperatorKind, Callable[[str, str], CurveSet]] = {
    "gemm": load_gemm,
    "moe": load_moe,
    "attention": load_attention,
    "latent_attention": load_mla,
    "csa_block": partial(load_attention_module, family="dsv4_csa"),
    "hca_block": partial(load_attention_module, family="dsv4_hca"),
    "collective": load_collective,
}

MAX_TOKENS: dict[OperatorKind, int] = {"gemm": 1024, "moe": 1024}
"""Rows up to which an error is judged; boundaries are judged on the whole curve [rows]."""

FIT_TOKENS: dict[OperatorKind, int] = {"gemm": 1024, "moe": 2048, "elementwise": 256}
"""Rows a fit sees: MoE layers of many experts leave their plateau late [rows]."""

SAMPLE = {"fit": 120, "test": 120}
"""Curves of one setting used at most; the first by the hash of their shape, so that the sample is fixed."""

FEWEST_SPLIT = 16
"""Shapes from which one's own timings are split into halves; below, and for element-wise work, of which half would leave out
whole kinds of kernels, all are fitted, and scored with each shape left out in turn [-]."""

_FAMILIES = ("grouped_mm", "marlin", "trtllm_gen", "deepgemm", "cutlass", "triton")


@dataclass(frozen=True)
class FitTable:
    """Curves of one operator and data type, by half.

    Attributes
    ----------
    operator, dtype : str
        Whose constants, and the data type they are for.
    fit, test : tuple of Curve
        The two halves; the test half is empty for a few shapes of one's own, all of which are then fitted.
    groups : tuple of str
        Setting of each curve of ``fit``; see :func:`setting`.
    source : Source
        Where the curves come from.
    kernels : tuple of str
        Kernel rules the fit assumes.
    lent : tuple of Curve
        Curves of other weight formats on the same kernel and GPU that join the fit; see :func:`.fit_sharing.shared`.
    """

    operator: OperatorKind
    dtype: str
    fit: tuple[Curve, ...]
    test: tuple[Curve, ...]
    source: Source
    kernels: tuple[str, ...]
    lent: tuple[Curve, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """Setting of every curve of the fit half, then of every lent one, which are groups of their own."""
        lent = (f"{LENT} {curve.backend} {curve_dtype(curve)} {setting(curve)}" for curve in self.lent)
        return (*(setting(curve) for curve in self.fit), *lent)

    @property
    def measured_kernels(self) -> tuple[str, ...]:
        """Kernel names recorded for the curves."""
        return tuple(sorted({name for curve in (*self.fit, *self.test) for name in curve.kernels}))


def setting(curve: Curve) -> str:
    """Under which heading a curve is scored: MoE ``balanced``, ``skewed`` or ``parallel``; everything else ``all``."""
    if not isinstance(curve.shape, MoEShape):
        return "all"
    if curve.shape.tensor_parallel > 1 or curve.shape.expert_parallel > 1:
        return "parallel"
    return "balanced" if curve.shape.routing in ("balanced", "uniform") else "skewed"


def curve_dtype(curve: Curve) -> str:
    """The data type constants are fitted by: weights, or the cache for attention."""
    return curve.weight_dtype or curve.kv_dtype or "bfloat16"


def silicon_tables(hardware: str, backend: str, operator: OperatorKind, dtype: str | None) -> list[FitTable]:
    """The published curves of one operator, one table for every data type that has both halves.

    Raises
    ------
    UnsupportedError
        When nothing was published for this GPU, backend and operator.
    """
    return _tables(operator, LOADERS[operator](hardware, backend), backend, dtype, 1)


def recorded_tables(path: Path, hardware: str, backend: str, operator: str | None, dtype: str | None) -> list[FitTable]:
    """The curves of a file of one's own timings.

    Raises
    ------
    InvalidArgumentError
        When the file has no timings of that GPU and backend a fit can use.
    """
    key = load_hardware(hardware).name
    every = curves_of(read_timings(path))
    curves = [
        c
        for c in every
        if load_hardware(c.gpu).name == key and c.backend == backend and measured_kind(c) in CALIBRATED_AS
    ]
    tables = []
    for kind in sorted({CALIBRATED_AS[measured_kind(curve)] for curve in curves}):
        if operator in (None, kind):
            mine = tuple(curve for curve in curves if CALIBRATED_AS[measured_kind(curve)] == kind)
            name = f"{path.name}/{mine[0].source}" if path.is_dir() else path.name
            source = Source(name, library_version=mine[0].library_version)
            fewest = len(mine) + 1 if kind == "elementwise" else FEWEST_SPLIT
            tables += _tables(kind, CurveSet(mine, source), backend, dtype, fewest)
    if not tables:
        there = ", ".join(sorted({f"{c.gpu} {c.backend} {c.operator}" for c in every})) or "nothing"
        raise InvalidArgumentError(f"{path} has no timings of {backend} on {key} to fit; it has {there}")
    return tables


def _tables(operator: OperatorKind, curves: CurveSet, backend: str, dtype: str | None, fewest: int) -> list[FitTable]:
    tables = []
    for name in sorted({curve_dtype(curve) for curve in curves}):
        if dtype not in (None, name):
            continue
        mine = [curve for curve in curves if curve_dtype(curve) == name]
        mine, rules = _of_one_kernel(mine, backend)
        fit, test = ([curve for curve in mine if curve.half == half] for half in ("fit", "test"))
        if len({curve.split_key for curve in mine}) < fewest or not fit or not test:
            fit, test = mine, []
        picked = [tuple(sampled(half, SAMPLE[kind])) for half, kind in ((fit, "fit"), (test, "test"))]
        tables.append(FitTable(operator, name, picked[0], picked[1], curves.source, rules))
    return tables


def _of_one_kernel(curves: list[Curve], backend: str) -> tuple[list[Curve], tuple[str, ...]]:
    """Curves whose recorded kernel is the one the rule describes: of its family where names tell, else the most frequent."""
    hardware = load_hardware(curves[0].gpu)
    rules: Counter[str] = Counter()
    for curve in curves:
        if curve.operator != "all_reduce":
            kernel = kernel_for(hardware, curve.operator_record(1), backend)
            rules[kernel.key if kernel is not None else ""] += len(curve)
    keys = tuple(key for key, _ in rules.most_common())
    names = Counter({name: 0 for curve in curves for name in curve.kernels})
    for curve in curves:
        names[curve.kernels[0] if curve.kernels else ""] += len(curve)
    allowed = {names.most_common(1)[0][0]}
    if isinstance(curves[0].operator_record(1) if curves[0].operator != "all_reduce" else None, FusedMoE):
        rule = next((one for one in _FAMILIES if keys and one in keys[0]), "")
        related = {name for name in names if rule and family(name) == rule}
        allowed = related or allowed
    return [curve for curve in curves if not curve.kernels or curve.kernels[0] in allowed], keys


def family(name: str) -> str:
    """Family of a fused-MoE kernel by its recorded name or its rule's key; empty for others.

    Examples
    --------
    >>> family("vllm_compressedtensorswna16marlinmoe_marlin_marlinexperts"), family("marlin_moe:marlin")
    ('marlin', 'marlin')
    """
    if "trtllm" in name and "triton" not in name:
        return "trtllm_gen"
    return next((one for one in _FAMILIES if one in name), "")


def sampled(curves: Iterable[Curve], most: int) -> list[Curve]:
    """At most ``most`` curves of every setting, the first by the hash of their shape."""
    ordered = sorted(curves, key=lambda curve: hashlib.sha256(repr(curve.shape).encode()).hexdigest())
    count: Counter[str] = Counter()
    kept = []
    for curve in ordered:
        count[setting(curve)] += 1
        if count[setting(curve)] <= most:
            kept.append(curve)
    return kept


__all__ = [
    "FIT_TOKENS", "LOADERS", "MAX_TOKENS", "MEASURED_AS", "FitTable", "UnsupportedError", "curve_dtype", "family", "recorded_tables",
    "sampled", "setting", "silicon_tables",
]  # fmt: skip
