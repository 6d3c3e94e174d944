# mypy: ignore-errors
"""A grouped GEMM of our own in Triton with a chosen number of block rows: the one way to vary granularity alone.

One program computes one row block (rows of one expert) times one block of output columns; programs of one column block run
side by side, so that row blocks of an expert can share its weights in L2.

Compiled for compute capability 9.0, Triton 3.6 gives tiles of 64 and 128 rows warpgroup instructions (wgmma) and smaller ones
mma.sync: between 32 and 64 rows not only the granularity changes.
"""

from __future__ import annotations

from functools import cache

COLUMNS = 128
DEPTH = 64


@cache
def grouped_kernels():
    """The two kernels, made on first use: gate and up with activation, then down with routing weights."""
    import triton
    import triton.language as tl

    @triton.jit
    def gated_up(
        x, weight, out, order, block_expert, block_edges,
        top_k: tl.constexpr, hidden: tl.constexpr, width: tl.constexpr,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    ):  # fmt: skip
        block, column_block = tl.program_id(0), tl.program_id(1)
        expert = tl.load(block_expert + block).to(tl.int64)
        start, end = tl.load(block_edges + 2 * block), tl.load(block_edges + 2 * block + 1)
        rows = start + tl.arange(0, ROWS)
        inside = rows < end
        token = tl.load(order + rows, mask=inside, other=0) // top_k
        columns = column_block * COLUMNS + tl.arange(0, COLUMNS)
        depth = tl.arange(0, DEPTH)
        x_at = x + token[:, None].to(tl.int64) * hidden + depth[None, :]
        gate_at = weight + expert * 2 * width * hidden + columns[None, :].to(tl.int64) * hidden + depth[:, None]
        up_at = gate_at + width * hidden
        gate = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        up = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        column_inside = columns[None, :] < width
        for k in range(0, hidden, DEPTH):
            depth_inside = depth < hidden - k
            a = tl.load(x_at, mask=inside[:, None] & depth_inside[None, :], other=0.0)
            wanted = column_inside & depth_inside[:, None]
            gate = tl.dot(a, tl.load(gate_at, mask=wanted, other=0.0), gate)
            up = tl.dot(a, tl.load(up_at, mask=wanted, other=0.0), up)
            x_at += DEPTH
            gate_at += DEPTH
            up_at += DEPTH
        value = gate * tl.sigmoid(gate) * up
        out_at = out + rows[:, None].to(tl.int64) * width + columns[None, :]
        tl.store(out_at, value.to(out.dtype.element_ty), mask=inside[:, None] & column_inside)

    @triton.jit
    def down_scaled(
        x, weight, out, order, scale, block_expert, block_edges,
        hidden: tl.constexpr, width: tl.constexpr,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    ):  # fmt: skip
        block, column_block = tl.program_id(0), tl.program_id(1)
        expert = tl.load(block_expert + block).to(tl.int64)
        start, end = tl.load(block_edges + 2 * block), tl.load(block_edges + 2 * block + 1)
        rows = start + tl.arange(0, ROWS)
        inside = rows < end
        pair = tl.load(order + rows, mask=inside, other=0)
        columns = column_block * COLUMNS + tl.arange(0, COLUMNS)
        depth = tl.arange(0, DEPTH)
        x_at = x + rows[:, None].to(tl.int64) * width + depth[None, :]
        weight_at = weight + expert * hidden * width + columns[None, :].to(tl.int64) * width + depth[:, None]
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        column_inside = columns[None, :] < hidden
        for k in range(0, width, DEPTH):
            depth_inside = depth < width - k
            a = tl.load(x_at, mask=inside[:, None] & depth_inside[None, :], other=0.0)
            b = tl.load(weight_at, mask=column_inside & depth_inside[:, None], other=0.0)
            total = tl.dot(a, b, total)
            x_at += DEPTH
            weight_at += DEPTH
        total *= tl.load(scale + pair, mask=inside, other=0.0)[:, None]
        # Written back in (token, choice) order, so that the sum over choices needs no gather.
        out_at = out + pair[:, None].to(tl.int64) * hidden + columns[None, :]
        tl.store(out_at, total.to(out.dtype.element_ty), mask=inside[:, None] & column_inside)

    return gated_up, down_scaled


def grouped_experts(x, gate_up, down, scale, order, block_expert, block_edges, top_k, block_rows):
    """Gated experts of one MoE layer.

    Parameters
    ----------
    x : Tensor, shape (M, h)
        Token rows.
    gate_up, down : Tensor, shapes (E, 2 i, h) and (E, h, i)
        Expert weights.
    scale : Tensor of float32, shape (M k,)
        Routing weight of every (token, choice).
    order, block_expert, block_edges : Tensor of int32
        As ``moe_routing.row_blocks`` returns.
    top_k, block_rows : int
        k, and rows of a block (16, 32, 64 or 128) [-].

    Returns
    -------
    Tensor, shape (M, h)
    """
    import torch
    import triton

    gated_up, down_scaled = grouped_kernels()
    tokens, hidden = x.shape
    width = down.shape[2]
    blocks = block_expert.shape[0]
    inner = torch.empty(tokens * top_k, width, device=x.device, dtype=x.dtype)
    outer = torch.empty(tokens * top_k, hidden, device=x.device, dtype=x.dtype)
    tile = {"ROWS": block_rows, "COLUMNS": COLUMNS, "DEPTH": DEPTH}
    launch = {"num_warps": 8 if block_rows > 64 else 4, "num_stages": 3}
    gated_up[(blocks, triton.cdiv(width, COLUMNS))](
        x, gate_up, inner, order, block_expert, block_edges, top_k, hidden, width, **tile, **launch
    )
    down_scaled[(blocks, triton.cdiv(hidden, COLUMNS))](
        inner, down, outer, order, scale, block_expert, block_edges, hidden, width, **tile, **launch
    )
    return outer.view(tokens, top_k, hidden).sum(dim=1)
