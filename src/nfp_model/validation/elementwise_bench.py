"""What transformers runs in a layer between matrix products, attention and experts: norms, rotary, cache writes, routers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from nfp_model.validation.cases import Case
from nfp_model.validation.operator_benches import kernel_count, relative_error
from nfp_model.validation.timing import CannotMeasure

HEAD_DIM = 128
CACHE_TOKENS = 2048
TOP_K = 8
CHECKED_ROWS = 17


class ElementwiseBench:
    """One piece of work on ``positions`` rows of one sequence; the case's width is features, heads or experts.

    ``rotary`` turns queries and keys of ``width`` heads in all, a fifth of them (a ninth at 36) being keys; ``cache_update``
    writes ``width`` KV heads; ``router`` is softmax, top-8 and normalisation over ``width`` experts, without its GEMM;
    ``attention_output`` makes ``width`` heads contiguous.
    """

    def __init__(self, case: Case, torch: Any, device: str) -> None:
        self.case, self.torch, self.device = case, torch, device
        self.work, self.width = str(case["work"]), case.number("width")
        self.execute: Callable[[int], Any] | None = None

    def footprint_bytes(self, positions: int) -> float:
        """A number no cache holds: activations come from L2 in a model too, there is nothing to rotate [B]."""
        return 1e15

    def copy_bytes(self, positions: int) -> float:
        """Next to nothing [B]."""
        return 4.0

    def _random(self, *shape: int) -> Any:
        return self.torch.randn(shape, device=self.device, dtype=self.torch.bfloat16)

    def prepare(self, positions: int, copies: int) -> Callable[[int], object]:
        """The work on fresh random rows."""
        makers: dict[str, Callable[[int], Callable[[int], Any]]] = {
            "rms_norm": self._rms_norm, "residual": self._residual, "rotary": self._rotary,
            "cache_update": self._cache_update, "activation": self._activation, "router": self._router,
            "attention_output": self._attention_output,
        }  # fmt: skip
        if self.work not in makers:
            raise CannotMeasure(f"no elementwise work is named '{self.work}'")
        self.execute = makers[self.work](positions)
        return self.execute

    def _rms_norm(self, rows: int) -> Callable[[int], Any]:
        llama = importlib.import_module("transformers.models.llama.modeling_llama")
        norm = llama.LlamaRMSNorm(self.width).to(self.device, self.torch.bfloat16)
        x = self._random(1, rows, self.width)
        return lambda i: norm(x)

    def _residual(self, rows: int) -> Callable[[int], Any]:
        x, y = self._random(1, rows, self.width), self._random(1, rows, self.width)
        return lambda i: x + y

    def _rotary(self, rows: int) -> Callable[[int], Any]:
        llama = importlib.import_module("transformers.models.llama.modeling_llama")
        keys = self.width // 5 if self.width % 5 == 0 else self.width // 9
        # As views of the projections' outputs, heads after rows, the way the model makes them.
        q = self._random(1, rows, self.width - keys, HEAD_DIM).transpose(1, 2)
        k = self._random(1, rows, keys, HEAD_DIM).transpose(1, 2)
        cos, sin = self._random(1, rows, HEAD_DIM), self._random(1, rows, HEAD_DIM)
        return lambda i: llama.apply_rotary_pos_emb(q, k, cos, sin)

    def _cache_update(self, rows: int) -> Callable[[int], Any]:
        cache_utils = importlib.import_module("transformers.cache_utils")
        layer = cache_utils.StaticLayer(max_cache_len=CACHE_TOKENS)
        k, v = (self._random(1, rows, self.width, HEAD_DIM).transpose(1, 2) for _ in range(2))
        layer.lazy_initialization(k, v)
        length = layer.cumulative_length

        def run(i: int) -> Any:
            updated = layer.update(k, v)
            length.zero_()  # one fill, as the whole forward has one for all layers
            return updated

        return run

    def _activation(self, rows: int) -> Callable[[int], Any]:
        gate, up = self._random(1, rows, self.width), self._random(1, rows, self.width)
        return lambda i: self.torch.nn.functional.silu(gate) * up

    def _router(self, rows: int) -> Callable[[int], Any]:
        qwen = importlib.import_module("transformers.models.qwen3_moe.modeling_qwen3_moe")
        configs = importlib.import_module("transformers.models.qwen3_moe.configuration_qwen3_moe")
        config = configs.Qwen3MoeConfig(hidden_size=64, num_experts=self.width, num_experts_per_tok=TOP_K)
        router = qwen.Qwen3MoeTopKRouter(config).to(self.device, self.torch.bfloat16)
        self.torch.nn.init.normal_(router.weight)
        x = self._random(rows, 64)
        return lambda i: router(x)

    def _attention_output(self, rows: int) -> Callable[[int], Any]:
        output = self._random(1, self.width, rows, HEAD_DIM)
        return lambda i: output.transpose(1, 2).contiguous()

    def relative_error(self) -> float:
        """The norm against its definition in float32 [-]; the rest is the library's own code on any input."""
        if self.work != "rms_norm":
            return 0.0
        llama = importlib.import_module("transformers.models.llama.modeling_llama")
        norm = llama.LlamaRMSNorm(self.width).to(self.device, self.torch.bfloat16)
        x = self._random(1, CHECKED_ROWS, self.width)
        exact = x.float() / (x.float().pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
        return relative_error(self.torch, norm(x), exact)

    def note(self, positions: int) -> str:
        """Kernels of one execution."""
        assert self.execute is not None
        return f"kernels={kernel_count(self.torch, self.execute)}"
