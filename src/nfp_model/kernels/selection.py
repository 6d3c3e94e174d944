"""Which kernel an engine runs for an operator on a GPU, from its defaults file; tiles of the matrix instruction where none is known."""

from __future__ import annotations

from nfp_model.operators import Attention, FusedMoE, Gemm
from nfp_model.quantities import element_type
from nfp_model.specs.attention_kernel import AttentionKernel, AttentionRow
from nfp_model.specs.gemm_kernel import GemmKernel
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.kernel_library import (
    DefaultRow,
    EngineDefaults,
    OperatorKind,
    engine_names,
    load_engine,
    load_kernel,
)
from nfp_model.specs.moe_kernel import MoEKernel

ENGINE_ORDER = ("vllm", "sglang", "trtllm", "torch")
"""Engines asked in turn where none is named."""

DEFAULT_SPLITS = (1, 2, 4, 8)
"""Split-K counts of the menu assumed without a library (those of the cuBLAS menu) [-]."""

UNCALIBRATED = "uncalibrated"
"""Backend name that means no engine in particular."""


def select_gemm(hardware: HardwareSpec, backend: str | None, operator: Gemm) -> GemmKernel:
    """The dense GEMM kernel an engine runs by default.

    Parameters
    ----------
    hardware : HardwareSpec
        Its architecture decides.
    backend : str or None
        Engine; None or ``"uncalibrated"`` takes the first of vllm, sglang, trtllm, torch that has a rule.
    operator : Gemm
        Its weight format decides.

    Returns
    -------
    GemmKernel
        A kernel of the hardware's default tiles where no engine has a rule.

    Raises
    ------
    UnknownNameError
        For an unknown engine.

    Examples
    --------
    >>> from nfp_model import load_hardware
    >>> from nfp_model.operators import Gemm
    >>> select_gemm(load_hardware("h100"), "vllm", Gemm(4096, 4096)).key
    'cublas_sm90:tile_menu'
    """
    row = default_row(hardware, backend, operator)
    if row is not None:
        kernel = load_kernel(row.kernel)
        assert isinstance(kernel, GemmKernel), row.kernel
        return kernel
    tile = hardware.default_tile
    return GemmKernel(
        name="default_tile",
        library=hardware.name,
        weight_dtypes=(operator.weight_dtype,),
        selection="menu",
        token_tiles=tile.token_rows,
        output_tiles=tile.output_columns,
        splits=DEFAULT_SPLITS,
        inferred=True,
        source=hardware.sources["matrix_instruction"],
    )


def select_attention(hardware: HardwareSpec, backend: str | None, operator: Attention) -> AttentionKernel:
    """The attention kernel an engine runs by default; ``operator.causal`` False means block diffusion, which may pick another.

    Arguments and errors as for :func:`select_gemm`.

    Examples
    --------
    >>> from nfp_model import load_hardware
    >>> from nfp_model.operators import Attention
    >>> select_attention(load_hardware("h100"), "vllm", Attention(32, 8, 128, 4096)).key
    'fa3_sm90:decode_vllm'
    """
    row = default_row(hardware, backend, operator)
    if row is not None:
        kernel = load_kernel(row.kernel)
        assert isinstance(kernel, AttentionKernel), row.kernel
        return kernel
    return AttentionKernel(
        name="default_tile",
        library=hardware.name,
        latent=operator.latent,
        rows=(AttentionRow(tile_rows=hardware.default_tile.attention_rows, packing="free", split_rule="fill"),),
        inferred=True,
        source=hardware.sources["matrix_instruction"],
    )


def select_moe(hardware: HardwareSpec, backend: str | None, operator: FusedMoE) -> MoEKernel:
    """The fused-MoE kernel an engine runs by default; arguments and errors as for :func:`select_gemm`.

    Examples
    --------
    >>> from nfp_model import load_hardware
    >>> from nfp_model.operators import FusedMoE
    >>> select_moe(load_hardware("h100"), "vllm", FusedMoE(4096, 14336, 8, 2)).name
    'default_16bit_int8'
    """
    row = default_row(hardware, backend, operator)
    if row is not None:
        kernel = load_kernel(row.kernel)
        assert isinstance(kernel, MoEKernel), row.kernel
        return kernel
    tile = hardware.default_tile
    return MoEKernel(
        name="default_tile",
        weight_dtypes=(operator.weight_dtype,),
        versions="",
        selection="smallest_covering",
        menu=tile.moe_rows,
        block_columns=max(tile.output_columns),
        expert_basis="local",
        inferred=True,
        source=hardware.sources["matrix_instruction"],
    )


def kernel_key(hardware: HardwareSpec, backend: str | None, operator: Gemm | FusedMoE | Attention) -> str:
    """``library_arch:kernel`` of the kernel the ``select_`` functions return.

    Examples
    --------
    >>> from nfp_model import load_hardware
    >>> from nfp_model.operators import FusedMoE
    >>> kernel_key(load_hardware("h100"), "vllm", FusedMoE(4096, 14336, 8, 2))
    'triton_moe_vllm:default_16bit_int8'
    """
    row = default_row(hardware, backend, operator)
    return f"{hardware.name}:default_tile" if row is None else row.kernel


def default_row(
    hardware: HardwareSpec, backend: str | None, operator: Gemm | FusedMoE | Attention
) -> DefaultRow | None:
    """The row of an engine's defaults that decides, with its source; None where no engine has a rule for this case."""
    if backend is None or backend == UNCALIBRATED:
        known = engine_names()
        engines = [load_engine(name) for name in ENGINE_ORDER if name in known]
    else:
        engines = [load_engine(backend)]
    for engine in engines:
        row = _first_row(engine, hardware, operator)
        if row is not None:
            return row
    return None


def _first_row(
    engine: EngineDefaults, hardware: HardwareSpec, operator: Gemm | FusedMoE | Attention
) -> DefaultRow | None:
    kind = _kind(operator)
    for row in engine.rows:
        if (
            row.operator == kind
            and hardware.architecture in (row.architectures or (hardware.architecture,))
            and _fits(row, operator)
        ):
            return row
    return None


def _kind(operator: Gemm | FusedMoE | Attention) -> OperatorKind:
    if isinstance(operator, Gemm):
        return "gemm"
    if isinstance(operator, FusedMoE):
        return "moe"
    return "mla" if operator.latent else "attention"


def _fits(row: DefaultRow, operator: Gemm | FusedMoE | Attention) -> bool:
    if isinstance(operator, Attention):
        mode = "verify" if operator.causal else "block"
        return (
            operator.kv_dtype in (row.kv_dtypes or (operator.kv_dtype,))
            and mode in (row.decode_modes or (mode,))
            and row.min_group <= operator.group_size <= (row.max_group or operator.group_size)
            and row.min_head_dim <= operator.head_dim <= (row.max_head_dim or operator.head_dim)
            and row.equal_head_dims in (None, operator.head_dim == operator.values_dim)
        )
    stored = element_type(operator.weight_dtype).kernel_format
    if stored not in (row.weight_dtypes or (stored,)):
        return False
    if isinstance(operator, FusedMoE):
        return row.expert_parallel in (None, operator.expert_parallel > 1)
    multiple = row.features_multiple_of or 1
    return operator.out_features % multiple == 0 and operator.in_features % multiple == 0


__all__ = ["default_row", "kernel_key", "select_attention", "select_gemm", "select_moe"]
