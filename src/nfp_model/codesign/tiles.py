"""Kernels with other tiles: what a library would be with the same rule and another granularity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nfp_model.cost.latency import Kernel
from nfp_model.curve import BoundForward
from nfp_model.errors import UnsupportedError
from nfp_model.specs.attention_kernel import AttentionKernel
from nfp_model.specs.gemm_kernel import GemmKernel
from nfp_model.specs.moe_kernel import MoEKernel, MoERow

STATED = "stated by the user"


def scaled_tiles(forward: BoundForward, factor: float) -> BoundForward:
    """Every token-side tile of a forward times a factor, its rules otherwise held."""
    return _with_kernels(forward, lambda kernel: _scaled(kernel, factor), None)


def fixed_tiles(forward: BoundForward, rows: int, module: str) -> BoundForward:
    """One token-side tile for every operator of a module.

    Raises
    ------
    UnsupportedError
        When no operator of the module has a tile to set.

    Examples
    --------
    >>> from nfp_model import predict_nfp
    >>> forward = fixed_tiles(predict_nfp("h100", "mixtral").forward, 64, "moe_ffn")
    >>> next(bound.kernel_row(8).rule for bound in forward.bound if hasattr(bound.operator, "num_experts"))
    'M <= 32: 64 x 64'
    """
    changed = _with_kernels(forward, lambda kernel: _fixed(kernel, rows), module)
    if changed.bound == forward.bound and not any(
        use.module == module and bound.kernel is not None
        for use, bound in zip(forward.uses, forward.bound, strict=True)
    ):
        raise UnsupportedError(f"module '{module}' has no tile to set")
    return changed


def _with_kernels(forward: BoundForward, change: Callable[[Kernel], Kernel], module: str | None) -> BoundForward:
    bound = tuple(
        replace(each, kernel=change(each.kernel))
        if each.kernel is not None and (module is None or use.module == module)
        else each
        for use, each in zip(forward.uses, forward.bound, strict=True)
    )
    return replace(forward, bound=bound)


def _times(size: int, factor: float) -> int:
    return max(1, round(size * factor)) if size else 0  # 0: compiled for the exact number of rows


def _scaled(kernel: Kernel, factor: float) -> Kernel:
    if isinstance(kernel, MoEKernel):
        return kernel.model_copy(
            update={
                "rows": tuple(
                    row.model_copy(update={"block_rows": _times(row.block_rows, factor)}) for row in kernel.rows
                ),
                "menu": tuple(_times(size, factor) for size in kernel.menu),
                "tuned": tuple(
                    shape.model_copy(update={"block_rows": tuple(_times(size, factor) for size in shape.block_rows)})
                    for shape in kernel.tuned
                ),
            }
        )
    if isinstance(kernel, AttentionKernel):
        rows = tuple(row.model_copy(update={"tile_rows": _times(row.tile_rows, factor)}) for row in kernel.rows)
        return kernel.model_copy(update={"rows": rows})
    return _gemm(kernel, lambda size: _times(size, factor))


def _fixed(kernel: Kernel, size: int) -> Kernel:
    if isinstance(kernel, MoEKernel):
        rows = kernel.rows or (
            MoERow(
                block_rows=size,
                block_columns=kernel.block_columns or size,
                grouped=kernel.grouped,
                source=STATED,
                inferred=True,
            ),
        )
        whole = {"selection": "rows", "menu": (), "tuned": (), "fill_limit": None, "sparse_path_factor": None}
        fixed = tuple(row.model_copy(update={"block_rows": size}) for row in rows)
        return kernel.model_copy(update={**whole, "double_up_to": None, "double_limit": None, "rows": fixed})
    if isinstance(kernel, AttentionKernel):
        update = {"tile_rule": "fixed", "tile_rows": size}
        return kernel.model_copy(update={"rows": tuple(row.model_copy(update=update) for row in kernel.rows)})
    return _gemm(kernel, lambda _: size)


def _gemm(kernel: GemmKernel, change: Callable[[int], int]) -> GemmKernel:
    """A menu's or a dispatch table's tiles changed; rules that live in code choose from tiles of their own and stay."""
    if kernel.selection == "menu":
        return kernel.model_copy(update={"token_tiles": tuple(sorted({change(size) for size in kernel.token_tiles}))})
    rows = tuple(row.model_copy(update={"token_tile": change(row.token_tile)}) for row in kernel.rows)
    return kernel.model_copy(update={"rows": rows})


__all__ = ["fixed_tiles", "scaled_tiles"]
