"""Whole decode forwards on a device: a transformers model with random weights at real dimensions and a static cache."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from nfp_model.specs.model import DenseFFN, ModelSpec, MoEFFN, SoftmaxAttention
from nfp_model.validation.cases import Case, forward_model
from nfp_model.validation.operator_benches import flash_attention, kernel_count
from nfp_model.validation.timing import CannotMeasure

BYTES = 2
"""bf16 weights and cache [B]."""
LONGEST_POSITION = 1 << 18


def config_values(model: ModelSpec, architecture: str) -> dict[str, Any]:
    """The spec's dimensions under the names a transformers architecture gives them.

    Parameters
    ----------
    model : ModelSpec
        Softmax attention of one kind.
    architecture : {"llama", "qwen3", "qwen3_moe", "mixtral", "glm4_moe"}
        What runs it.

    Examples
    --------
    >>> config_values(forward_model("mixtral_8x7b", 20), "mixtral")["num_local_experts"]
    8
    """
    attention = next(part for part in model.attention.values() if isinstance(part, SoftmaxAttention))
    values: dict[str, Any] = {
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": attention.num_query_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": LONGEST_POSITION,
        "tie_word_embeddings": model.tied_embeddings,
    }
    dense = [part for part in model.ffn.values() if isinstance(part, DenseFFN)]
    routed = [part for part in model.ffn.values() if isinstance(part, MoEFFN)]
    if dense:
        values["intermediate_size"] = dense[0].intermediate_size
    if routed:
        values["num_experts_per_tok"] = routed[0].top_k
        values |= _expert_values(model, routed[0], architecture)
    return values


def _expert_values(model: ModelSpec, experts: MoEFFN, architecture: str) -> dict[str, Any]:
    if architecture == "mixtral":
        return {
            "num_local_experts": experts.num_experts,
            "intermediate_size": experts.intermediate_size,
            "sliding_window": None,
        }
    if architecture == "qwen3_moe":
        return {"num_experts": experts.num_experts, "moe_intermediate_size": experts.intermediate_size}
    return {
        "n_routed_experts": experts.num_experts,
        "n_shared_experts": experts.shared_intermediate_size // experts.intermediate_size,
        "moe_intermediate_size": experts.intermediate_size,
        "n_group": experts.groups,
        "topk_group": experts.groups_kept,
        "first_k_dense_replace": sum(group.count for group in model.layers if "dense" in group.ffn),
        "use_qk_norm": True,
    }


class ForwardBench:
    """One batch, context and decode mode of a model; the loaded model itself is shared by the cases of its group."""

    def __init__(self, case: Case, torch: Any, device: str, shared: dict[str, Any]) -> None:
        self.case, self.torch, self.device, self.shared = case, torch, device, shared
        self.spec = forward_model(str(case["model"]), case.number("layers"))
        self.causal = case["decode_mode"] == "verify"
        self.cache: Any = None
        self.hooks: list[Any] = []

    def _cache_bytes(self, positions: int) -> float:
        attention = next(part for part in self.spec.attention.values() if isinstance(part, SoftmaxAttention))
        tokens = self.case.batch * (self.case.context + positions)
        return float(self.spec.num_layers * attention.cache_elements_per_token * tokens * BYTES)

    def footprint_bytes(self, positions: int) -> float:
        """Weights and cache [B]; experts not touched count too, since what is read exceeds any cache by far."""
        return self.spec.total_parameters * BYTES + self._cache_bytes(positions)

    def copy_bytes(self, positions: int) -> float:
        """Weights, cache and logits [B]."""
        return self.footprint_bytes(positions) + self.case.batch * positions * self.spec.vocab_size * BYTES

    @property
    def model(self) -> Any:
        """The transformers model, made on first use with the library's own random initialisation."""
        if "model" not in self.shared:
            transformers = importlib.import_module("transformers")
            architecture = str(self.case["architecture"])
            config = transformers.AutoConfig.for_model(architecture, **config_values(self.spec, architecture))
            with self.torch.device(self.device):
                model = transformers.AutoModelForCausalLM.from_config(config, dtype=self.torch.bfloat16)
            if self.spec.is_moe:
                model.set_experts_implementation("grouped_mm")
            self.shared["model"] = model.eval()
        return self.shared["model"]

    def _choose_attention(self, model: Any) -> None:
        if self.case["implementation"] == "sdpa":
            model.set_attn_implementation("sdpa")
            return
        # A name with "flash" in it would make transformers look for a package.
        name = "nfp_causal" if self.causal else "nfp_full"
        interface = importlib.import_module("transformers").AttentionInterface
        torch, causal = (
            self.torch,
            self.causal,
        )  # not self: the library keeps the function, and would keep the model with it

        def attention(module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float | None = None, **_: Any) -> Any:
            output = flash_attention(torch, q, k, v, causal, scaling)
            return output.transpose(1, 2).contiguous(), None

        interface.register(name, attention)
        model.set_attn_implementation(name)

    def _random_cache(self, model: Any, positions: int) -> Any:
        """A static cache of context + positions tokens with random contents; one tensor holds the layers' lengths."""
        torch, case = self.torch, self.case
        transformers = importlib.import_module("transformers")
        cache = transformers.StaticCache(config=model.config, max_cache_len=case.context + positions)
        heads, width = model.config.num_key_value_heads, model.config.head_dim
        cache.early_initialization(case.batch, heads, width, torch.bfloat16, torch.device(self.device))
        lengths = torch.full((len(cache.layers),), case.context, dtype=torch.int64, device=self.device)
        for layer, length in zip(cache.layers, lengths, strict=True):
            if not hasattr(layer, "cumulative_length"):
                raise CannotMeasure(
                    f"transformers {transformers.__version__} keeps no length in its static cache; 5 does"
                )
            layer.keys.normal_()
            layer.values.normal_()
            layer.cumulative_length = length
        self.cache = cache
        return lengths

    def prepare(self, positions: int, copies: int) -> Callable[[int], object]:
        """One forward of ``positions`` new tokens a sequence; the cache's lengths are set back by one small kernel."""
        torch, case, model = self.torch, self.case, self.model
        self.cache = None  # the last size's, before the next is made
        self._choose_attention(model)
        lengths = self._random_cache(model, positions)
        keys = case.context + positions
        self._draw_experts(model, positions)
        tokens = torch.randint(0, self.spec.vocab_size, (case.batch, positions), device=self.device)
        places = torch.arange(case.context, keys, device=self.device).expand(case.batch, positions)
        mask = None
        if case["implementation"] == "sdpa":
            mask = torch.ones(case.batch, 1, positions, keys, dtype=torch.bool, device=self.device)
            mask = mask.tril(case.context) if self.causal else mask
        cache = self.cache

        def execute(i: int) -> Any:
            lengths.fill_(case.context)
            output = model(
                input_ids=tokens, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
            )
            return output.logits

        self.execute = execute
        return execute

    def relative_error(self) -> float:
        """0 when two positions give finite logits of the right shape, else NaN: random weights know no reference."""
        logits: Any = self.prepare(2, 1)(0)
        right = tuple(logits.shape) == (self.case.batch, 2, self.spec.vocab_size)
        return 0.0 if right and bool(self.torch.isfinite(logits).all()) else float("nan")

    def _draw_experts(self, model: Any, positions: int) -> None:
        """Every MoE layer gets choices of its own: independent uniform draws, in place of what the random router chose."""
        for hook in self.hooks:
            hook.remove()
        experts = [module for module in model.modules() if type(module).__name__.endswith("Experts")]
        self.hooks = [module.register_forward_pre_hook(self._choice(positions)) for module in experts]

    def _choice(self, positions: int) -> Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]:
        routed = next(part for part in self.spec.ffn.values() if isinstance(part, MoEFFN))
        rows = self.case.batch * positions
        ranks = self.torch.rand(rows, routed.num_experts, device=self.device)
        chosen = ranks.topk(routed.top_k, dim=-1).indices

        def replaced(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden, index, weights = arguments
            return hidden, chosen.to(index.dtype), weights

        return replaced

    def note(self, positions: int) -> str:
        """Kernels of the prepared forward at one position."""
        return f"kernels={kernel_count(self.torch, self.execute)}" if positions == 1 else ""
