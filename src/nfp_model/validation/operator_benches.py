"""Single operators on a device: ceilings, dense GEMM, attention. torch comes in as an argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nfp_model.quantities import element_type
from nfp_model.validation.cases import Case
from nfp_model.validation.timing import CannotMeasure

MIB = 1 << 20
CHECKED_ROWS = 17
CHECKED_CONTEXT = 300
"""Sizes of the correctness checks: no multiple of any tile."""


def relative_error(torch: Any, output: Any, reference: Any) -> float:
    """Norm of the difference over norm of the reference, in float32 [-]."""
    difference = torch.linalg.vector_norm(output.float() - reference.float())
    return float(difference / torch.linalg.vector_norm(reference.float()))


def kernel_count(torch: Any, execute: Callable[[int], object]) -> int:
    """Kernels, copies and fills one execution starts on the device, as torch's profiler lists them [-]."""
    execute(0)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        execute(0)
        torch.cuda.synchronize()
    return sum(1 for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA)


FLEX_DECODING_ROWS = 128
"""Query rows of one KV head, padded to a power of two, that FlexAttention's decoding kernel takes under a mask [rows]: with more,
torch 2.11 finds no kernel ("No choices exist for backend", 17 rows of 8 heads on an H100), so the general one is asked for."""


class ScaledProduct:
    """x W^T with e4m3 operands and one scale each, as ``torch._scaled_mm`` takes them."""

    def __init__(self, torch: Any, device: str) -> None:
        self.torch = torch
        self.one = torch.ones((), dtype=torch.float32, device=device)

    def quantized(self, tensor: Any) -> Any:
        """e4m3 with scale 1: values of size about 1 need no other."""
        return tensor.to(self.torch.float8_e4m3fn)

    def __call__(self, x: Any, weight: Any) -> Any:
        """bf16 output; fast accumulation, as inference engines ask for."""
        return self.torch._scaled_mm(
            x, weight.t(), scale_a=self.one, scale_b=self.one, out_dtype=self.torch.bfloat16, use_fast_accum=True
        )


class GemmBench:
    """torch's linear in bf16, or its scaled product in fp8, over copies of one weight matrix."""

    def __init__(self, case: Case, torch: Any, device: str) -> None:
        self.case, self.torch, self.device = case, torch, device
        self.fp8 = case["weight_dtype"] == "fp8"
        self.scaled = ScaledProduct(torch, device)
        self.weights: list[Any] = []

    def _random(self, rows: int, columns: int) -> Any:
        tensor = self.torch.randn(rows, columns, device=self.device, dtype=self.torch.bfloat16)
        return self.scaled.quantized(tensor) if self.fp8 else tensor

    def _product(self, x: Any, weight: Any) -> Any:
        return self.scaled(x, weight) if self.fp8 else self.torch.nn.functional.linear(x, weight)

    def footprint_bytes(self, positions: int) -> float:
        """The weight matrix [B]."""
        dtype = str(self.case["weight_dtype"])
        return self.case.number("out_features") * self.case.number("in_features") * element_type(dtype).bytes

    def copy_bytes(self, positions: int) -> float:
        """The weight matrix [B]."""
        return self.footprint_bytes(positions)

    def prepare(self, positions: int, copies: int) -> Callable[[int], object]:
        """One linear layer on ``positions`` rows; the copies share the activations, which L2 may hold as in a model."""
        while len(self.weights) < copies:
            self.weights.append(self._random(self.case.number("out_features"), self.case.number("in_features")))
        x = self._random(positions, self.case.number("in_features"))
        return lambda i: self._product(x, self.weights[i % copies])

    def relative_error(self) -> float:
        """Against the float32 product of the same operands [-]."""
        self.prepare(CHECKED_ROWS, 1)
        x = self._random(CHECKED_ROWS, self.case.number("in_features"))
        output = self._product(x, self.weights[0])
        return relative_error(self.torch, output, x.float() @ self.weights[0].float().t())

    def note(self, positions: int) -> str:
        """Nothing."""
        return ""


def attention_reference(torch: Any, q: Any, k: Any, v: Any, causal: bool) -> Any:
    """softmax(q k^T / sqrt(d)) v in float32, the queries being the last positions of the keys."""
    group = q.shape[1] // k.shape[1]
    q, k, v = q.float(), k.float().repeat_interleave(group, 1), v.float().repeat_interleave(group, 1)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
        scores = scores.masked_fill(~allowed, -math.inf)
    return torch.softmax(scores, -1) @ v


def flash_attention(torch: Any, q: Any, k: Any, v: Any, causal: bool, scale: float | None = None) -> Any:
    """SDPA held to its flash kernel on CUDA; causal is aligned to the last key."""
    from contextlib import nullcontext

    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.bias import causal_lower_right

    mask = causal_lower_right(q.shape[2], k.shape[2]) if causal and q.shape[2] > 1 else None
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]) if q.is_cuda else nullcontext():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)


class AttentionBench:
    """New positions of a batch against copies of a contiguous KV cache."""

    def __init__(self, case: Case, torch: Any, device: str) -> None:
        self.case, self.torch, self.device = case, torch, device
        self.causal = bool(case.number("causal"))
        self.caches: list[tuple[Any, Any]] = []

    def _tokens_bytes(self, tokens: int) -> float:
        per_token = 2 * self.case.number("num_kv_heads") * self.case.number("head_dim")
        return self.case.batch * tokens * per_token * element_type(str(self.case["kv_dtype"])).bytes

    def footprint_bytes(self, positions: int) -> float:
        """Keys and values read [B]."""
        return self._tokens_bytes(self.case.context + positions)

    def copy_bytes(self, positions: int) -> float:
        """A cache with room for the largest number of positions [B]."""
        return self._tokens_bytes(self.case.context + self.case.largest)

    def _random(self, batch: int, heads: int, tokens: int) -> Any:
        shape = (batch, heads, tokens, self.case.number("head_dim"))
        return self.torch.randn(shape, device=self.device, dtype=self.torch.bfloat16)

    def _kernel(self, positions: int, keys: int) -> Callable[[Any, Any, Any], Any]:
        implementation = str(self.case["implementation"])
        if implementation == "sdpa_flash":
            return lambda q, k, v: flash_attention(self.torch, q, k, v, self.causal)
        if implementation == "sdpa_cudnn":
            return self._cudnn(positions, keys)
        if implementation == "flex":
            return self._flex(positions, keys)
        raise CannotMeasure(f"no attention implementation is named '{implementation}'")

    def _cudnn(self, positions: int, keys: int) -> Callable[[Any, Any, Any], Any]:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        torch, mask = self.torch, None
        if self.causal and positions > 1:  # SDPA's own causal flag is aligned to the first key, so the mask is given
            mask = torch.ones(positions, keys, dtype=torch.bool, device=self.device).tril(keys - positions)

        def run(q: Any, k: Any, v: Any) -> Any:
            with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)

        return run

    def _flex(self, positions: int, keys: int) -> Callable[[Any, Any, Any], Any]:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        self.torch._dynamo.reset()  # one compilation a shape; old ones would count against the limit of recompilations
        compiled = self.torch.compile(flex_attention, dynamic=False)
        mask, options = None, {}
        if self.causal and positions > 1:
            before = keys - positions
            mask = create_block_mask(
                lambda b, h, q, k: k <= q + before, None, None, positions, keys, device=self.device
            )
            group = self.case.number("num_query_heads") // self.case.number("num_kv_heads")
            if group * (1 << (positions - 1).bit_length()) > FLEX_DECODING_ROWS:
                options = {"FORCE_USE_FLEX_ATTENTION": True}
        return lambda q, k, v: compiled(q, k, v, block_mask=mask, enable_gqa=True, kernel_options=options)

    def prepare(self, positions: int, copies: int) -> Callable[[int], object]:
        """Attention of ``positions`` per sequence on the first context + positions tokens of each cache."""
        case = self.case
        while len(self.caches) < copies:
            room = (case.batch, case.number("num_kv_heads"), case.context + case.largest)
            self.caches.append((self._random(*room), self._random(*room)))
        keys = case.context + positions
        views = [(k[:, :, :keys], v[:, :, :keys]) for k, v in self.caches[:copies]]
        q = self._random(case.batch, case.number("num_query_heads"), positions)
        kernel = self._kernel(positions, keys)
        return lambda i: kernel(q, *views[i % copies])

    def relative_error(self) -> float:
        """Against explicit float32 attention on a short cache [-]: it is masks, head groups and scale that go wrong."""
        keys = CHECKED_CONTEXT + CHECKED_ROWS
        q = self._random(1, self.case.number("num_query_heads"), CHECKED_ROWS)
        k, v = (self._random(1, self.case.number("num_kv_heads"), keys) for _ in range(2))
        output = self._kernel(CHECKED_ROWS, keys)(q, k, v)
        return relative_error(self.torch, output, attention_reference(self.torch, q, k, v, self.causal))

    def note(self, positions: int) -> str:
        """Nothing."""
        return ""


class CeilingBench:
    """The device's own limits: a copy, large matrix products, the gap between nodes of a graph."""

    def __init__(self, case: Case, torch: Any, device: str) -> None:
        self.torch, self.device = torch, device
        self.probe = str(case["probe"])

    def footprint_bytes(self, positions: int) -> float:
        """Read and written by one execution [B]; graph nodes: a number no cache holds, there is nothing to rotate."""
        if self.probe == "copy":
            return 2.0 * positions * MIB
        if self.probe == "graph_nodes":
            return 1e15
        return 2.0 * positions**2 * (1 if self.probe.endswith("fp8") else 2)

    def copy_bytes(self, positions: int) -> float:
        """Memory of one copy [B]."""
        return 4.0 if self.probe == "graph_nodes" else self.footprint_bytes(positions)

    def prepare(self, positions: int, copies: int) -> Callable[[int], object]:
        """One copy of ``positions`` MiB, one product of that many rows, or a chain of that many one-element kernels."""
        torch = self.torch
        if self.probe == "copy":
            source = torch.randint(0, 256, (positions * MIB,), dtype=torch.uint8, device=self.device)
            target = torch.empty_like(source)
            return lambda i: target.copy_(source)
        if self.probe == "graph_nodes":
            counter = torch.zeros(1, device=self.device)
            return lambda i: [counter.add_(1.0) for _ in range(positions)]
        pairs = [[self._operand(positions) for _ in range(2)] for _ in range(copies)]
        product = ScaledProduct(torch, self.device) if self.probe == "matmul_fp8" else torch.nn.functional.linear
        return lambda i: product(*pairs[i % copies])

    def _operand(self, rows: int) -> Any:
        tensor = self.torch.randn(rows, rows, device=self.device, dtype=self.torch.bfloat16)
        return tensor.to(self.torch.float8_e4m3fn) if self.probe == "matmul_fp8" else tensor

    def relative_error(self) -> float:
        """Nothing to check: a copy, an addition and torch's own product, which the GEMM cases check [-]."""
        return 0.0

    def note(self, positions: int) -> str:
        """Nothing."""
        return ""
