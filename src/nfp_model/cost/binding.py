"""Operators meet hardware: which kernel rule runs them and which constants apply."""

from __future__ import annotations

from collections.abc import Iterable

from nfp_model.cost.latency import BoundOperator, Kernel
from nfp_model.errors import UnsupportedError, unknown_name
from nfp_model.kernels.selection import select_attention, select_gemm, select_moe
from nfp_model.operators import (
    Attention,
    Collective,
    CompressedAttention,
    Elementwise,
    FusedMoE,
    Gemm,
    LinearScan,
    Operator,
)
from nfp_model.quantities import element_type
from nfp_model.specs.calibration import Calibration, Fit, OperatorKind, load_calibration, uncalibrated
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.moe_kernel import MoEKernel

BACKENDS = ("vllm", "sglang", "trtllm", "torch")
"""Kernel library sets, in the order they are tried when none is named."""


def operator_kind(operator: Operator) -> OperatorKind:
    """Which constants an operator needs."""
    if isinstance(operator, Attention):
        return "latent_attention" if operator.latent else "attention"
    if isinstance(operator, CompressedAttention):
        return "csa_block" if operator.index_heads else "hca_block"
    kinds: dict[type, OperatorKind] = {
        Gemm: "gemm", FusedMoE: "moe", Elementwise: "elementwise", LinearScan: "linear_scan", Collective: "collective"
    }  # fmt: skip
    return kinds[type(operator)]


def operator_dtype(operator: Operator) -> str:
    """The data type constants are fitted by: weights of GEMMs and experts, cache of attention."""
    if isinstance(operator, Gemm | FusedMoE | CompressedAttention):
        return element_type(operator.weight_dtype).kernel_format
    return operator.kv_dtype if isinstance(operator, Attention) else "bfloat16"


def check_backend(backend: str | None) -> None:
    """Refuse a backend nobody knows.

    Raises
    ------
    UnknownNameError
        With the nearest known backend.
    """
    if backend is not None and backend not in (*BACKENDS, "uncalibrated"):
        raise unknown_name("backend", backend, [*BACKENDS, "uncalibrated"])


def choose_backend(hardware: HardwareSpec, operators: Iterable[Operator], backend: str | None) -> str:
    """The backend whose constants apply: the one named, else the first calibrated for most of these operators.

    Parameters
    ----------
    hardware : HardwareSpec
        GPU.
    operators : iterable of Operator
        What will run.
    backend : str or None
        ``torch``, ``vllm``, ``sglang``, ``trtllm``, ``uncalibrated`` or None.
    """
    check_backend(backend)
    if backend is not None:
        return backend
    wanted = {
        (operator_kind(op), operator_dtype(op)) for op in operators if isinstance(op, Gemm | FusedMoE | Attention)
    }
    best, covered = "uncalibrated", 0
    for name in BACKENDS:
        calibration = load_calibration(hardware.name, name)
        found = sum(calibration.fit_for(*key) is not None for key in wanted) if calibration else 0
        if found > covered:
            best, covered = name, found
    return best


def bind(hardware: HardwareSpec, operator: Operator, backend: str | None) -> BoundOperator:
    """An operator with its kernel rule and constants.

    Parameters
    ----------
    hardware : HardwareSpec
        GPU.
    operator : Operator
        Shape.
    backend : str or None
        As chosen by :func:`choose_backend`; None chooses for this operator alone.

    Raises
    ------
    UnsupportedError
        When the chip has no matrix rate for the operator's data type.
    """
    backend = choose_backend(hardware, [operator], backend)
    if isinstance(operator, Gemm | FusedMoE):
        hardware.peak(operator.weight_dtype, operator.activation_dtype)
    calibration, fit = constants_for(hardware, operator, backend)
    kernel = kernel_for(hardware, operator, backend)
    fit = as_held(fit, kernel) if calibration.backend == "uncalibrated" else fit
    return BoundOperator(operator, hardware, kernel, fit, calibration.name, backend)


def as_held(fit: Fit, kernel: Kernel | None) -> Fit:
    """General constants as a fused-MoE kernel takes them: those its rule holds fixed keep the rule's values."""
    if not isinstance(kernel, MoEKernel):
        return fit
    return fit.model_copy(update={"constants": {**fit.constants, **kernel.held}})


MEASURED_ON: dict[tuple[str, OperatorKind], str] = {("torch", "elementwise"): "h100_sxm5"}
"""GPU whose launches stand for every GPU's. The stated prior is that of fused element-wise kernels, twice as long as one small
kernel of transformers takes in a captured graph (validation/data/h100/elementwise.csv)."""


def constants_for(hardware: HardwareSpec, operator: Operator, backend: str) -> tuple[Calibration, Fit]:
    """The backend's fit for this operator and data type; the uncalibrated constants where it has none."""
    kind, dtype = operator_kind(operator), operator_dtype(operator)
    own = fitted(hardware.name, backend, kind, dtype)
    if own is not None:
        return own
    general = uncalibrated(hardware.generation)
    prior = general.fit_for(kind, dtype)
    if prior is None:
        raise UnsupportedError(f"no constants for {kind} with {dtype} in calibration '{general.name}'")
    lender = MEASURED_ON.get((backend, kind))
    lent = fitted(lender, backend, kind, dtype) if lender else None
    if lent is None:
        return general, prior
    # Never seen on this GPU: the band of the stated prior.
    wide = max(lent[1].log_scatter, prior.log_scatter)
    return lent[0], lent[1].model_copy(update={"log_scatter": wide, "band_scatter": None})


def fitted(hardware: str, backend: str, kind: OperatorKind, dtype: str) -> tuple[Calibration, Fit] | None:
    """A GPU's own fit for an operator and data type under a backend; None where it has none."""
    calibration = None if backend == "uncalibrated" else load_calibration(hardware, backend)
    fit = calibration.fit_for(kind, dtype) if calibration else None
    return None if calibration is None or fit is None else (calibration, fit)


def kernel_for(hardware: HardwareSpec, operator: Operator, backend: str) -> Kernel | None:
    """The kernel rule a backend runs an operator with; None for bandwidth-bound work."""
    rules = None if backend == "uncalibrated" else backend
    if isinstance(operator, Gemm):
        return select_gemm(hardware, rules, operator)
    if isinstance(operator, FusedMoE):
        return select_moe(hardware, rules, operator)
    return select_attention(hardware, rules, operator) if isinstance(operator, Attention) else None
