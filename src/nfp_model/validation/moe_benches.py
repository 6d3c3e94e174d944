"""MoE layers on a device: the experts as transformers runs them, and our own grouped GEMM with chosen block rows."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from nfp_model.validation.cases import Case
from nfp_model.validation.moe_routing import IntArray, draw_routing, row_blocks
from nfp_model.validation.operator_benches import CHECKED_ROWS, relative_error
from nfp_model.validation.timing import Bench, CannotMeasure

BYTES = 2
"""bf16 weights [B]."""


class MoEBench:
    """Copies of one layer's experts, each with routings of its own; a subclass runs them."""

    def __init__(self, case: Case, torch: Any, device: str) -> None:
        self.case, self.torch, self.device = case, torch, device
        self.hidden, self.width = case.number("hidden_size"), case.number("intermediate_size")
        self.num_experts, self.top_k = case.number("num_experts"), case.number("top_k")
        self.layers: list[Any] = []

    @property
    def expert_bytes(self) -> float:
        """Weights of one expert [B]."""
        return 3.0 * self.hidden * self.width * BYTES

    def routing(self, positions: int, copy: int) -> IntArray:
        """Experts of every token, the same whenever the same point is drawn."""
        generator = np.random.default_rng((positions, copy))
        return draw_routing(str(self.case["routing"]), positions, self.num_experts, self.top_k, generator)

    def footprint_bytes(self, positions: int) -> float:
        """Weights of the experts one execution touches [B]."""
        return len(np.unique(self.routing(positions, 0))) * self.expert_bytes

    def copy_bytes(self, positions: int) -> float:
        """All experts [B]."""
        return self.num_experts * self.expert_bytes

    def _random_weights(self) -> tuple[Any, Any]:
        shapes = ((self.num_experts, 2 * self.width, self.hidden), (self.num_experts, self.hidden, self.width))
        gate_up, down = (self.torch.randn(shape, device=self.device, dtype=self.torch.bfloat16) for shape in shapes)
        # Scaled so that outputs stay of size about 1.
        return gate_up.mul_(self.hidden**-0.5), down.mul_(self.width**-0.5)

    def prepare(self, positions: int, copies: int) -> Callable[[int], object]:
        """The experts of one layer on ``positions`` tokens."""
        while len(self.layers) < copies:
            self.layers.append(self.layer(*self._random_weights()))
        x = self.torch.randn(positions, self.hidden, device=self.device, dtype=self.torch.bfloat16)
        runs = [self.run(self.layers[copy], x, self.routing(positions, copy)) for copy in range(copies)]
        return lambda i: runs[i % copies]()

    def layer(self, gate_up: Any, down: Any) -> Any:
        """One copy, in the form :meth:`run` takes."""
        raise NotImplementedError

    def run(self, layer: Any, x: Any, experts: IntArray) -> Callable[[], Any]:
        """One execution, everything that is not timed already done."""
        raise NotImplementedError

    def scales(self, experts: IntArray) -> Any:
        """Equal routing weights that add up to one, shape (M, k)."""
        return self.torch.full(experts.shape, 1.0 / self.top_k, device=self.device, dtype=self.torch.float32)

    def note(self, positions: int) -> str:
        """Experts touched by the first copy's routing."""
        return f"experts_touched={len(np.unique(self.routing(positions, 0)))}"

    def relative_error(self) -> float:
        """Against a float32 loop over the experts that are hit [-]."""
        torch = self.torch
        gate_up, down = self._random_weights()
        x = torch.randn(CHECKED_ROWS, self.hidden, device=self.device, dtype=torch.bfloat16)
        experts = self.routing(CHECKED_ROWS, 0)
        reference = torch.zeros(CHECKED_ROWS, self.hidden, device=self.device)
        for expert in np.unique(experts).tolist():
            rows = torch.as_tensor(np.flatnonzero((experts == expert).any(axis=1)), device=self.device)
            gate, up = (x[rows].float() @ gate_up[expert].float().t()).chunk(2, dim=-1)
            reference[rows] += torch.nn.functional.silu(gate) * up @ down[expert].float().t() / self.top_k
        return relative_error(torch, self.run(self.layer(gate_up, down), x, experts)(), reference)


class TransformersMoE(MoEBench):
    """torch's grouped GEMM inside the experts module of transformers."""

    def layer(self, gate_up: Any, down: Any) -> Any:
        """An experts module that holds these weights."""
        models = importlib.import_module("transformers.models.qwen3_moe.modeling_qwen3_moe")
        configs = importlib.import_module("transformers.models.qwen3_moe.configuration_qwen3_moe")
        config = configs.Qwen3MoeConfig(
            hidden_size=self.hidden,
            moe_intermediate_size=self.width,
            num_experts=self.num_experts,
            num_experts_per_tok=self.top_k,
        )
        config._experts_implementation = "grouped_mm"
        with self.torch.device("meta"):
            module = models.Qwen3MoeExperts(config)
        parameter = self.torch.nn.Parameter
        module.gate_up_proj = parameter(gate_up, requires_grad=False)
        module.down_proj = parameter(down, requires_grad=False)
        return module

    def run(self, layer: Any, x: Any, experts: IntArray) -> Callable[[], Any]:
        """Its forward: sort, gather, two grouped GEMMs, weighting, sum."""
        index = self.torch.as_tensor(experts, device=self.device)
        scales = self.scales(experts).to(x.dtype)
        return lambda: layer(x, index, scales)


class TritonMoE(MoEBench):
    """Our own kernels with the case's block rows."""

    def layer(self, gate_up: Any, down: Any) -> Any:
        """The weights themselves."""
        return gate_up, down

    def run(self, layer: Any, x: Any, experts: IntArray) -> Callable[[], Any]:
        """Two kernels and a sum; the row-block tables are made here, outside the clock."""
        try:
            kernels = importlib.import_module("nfp_model.validation.moe_triton")
        except ImportError as error:
            raise CannotMeasure(f"triton cannot be imported ({error})") from None
        block_rows = self.case.number("block_rows")
        tables = row_blocks(experts, self.num_experts, block_rows)
        on_device = [
            self.torch.as_tensor(table, dtype=self.torch.int32, device=self.device).contiguous() for table in tables
        ]
        scales = self.scales(experts).reshape(-1)
        return lambda: kernels.grouped_experts(x, *layer, scales, *on_device, self.top_k, block_rows)


def make_moe_bench(case: Case, torch: Any, device: str) -> Bench:
    """The bench of one MoE case."""
    return (
        TritonMoE(case, torch, device) if case["implementation"] == "triton" else TransformersMoE(case, torch, device)
    )
