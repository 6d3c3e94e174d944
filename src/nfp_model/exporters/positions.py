"""Free positions q to each engine's own number: engines count drafts, steps, verify tokens or blocks."""

from __future__ import annotations

from collections.abc import Callable

from nfp_model.errors import UnsupportedError, require_positive_int, unknown_name

_CHAINS = ("eagle", "eagle3", "mtp", "draft_model", "ngram", "suffix", "dspark")
_SGLANG_CHAINS = ("eagle", "eagle3", "nextn", "standalone")


def _drafts(name: str) -> Callable[[int], dict[str, int]]:
    return lambda q: {name: q - 1}


def _sglang_chain(q: int) -> dict[str, int]:
    return {"speculative_num_steps": q - 1, "speculative_eagle_topk": 1, "speculative_num_draft_tokens": q}


_SETTINGS: dict[tuple[str, str], Callable[[int], dict[str, int]]] = {
    **{("vllm", method): _drafts("num_speculative_tokens") for method in _CHAINS},
    ("vllm", "diffusion"): lambda q: {"canvas_length": q},
    **{("sglang", method): _sglang_chain for method in _SGLANG_CHAINS},
    ("sglang", "tree"): lambda q: {"speculative_num_draft_tokens": q},
    ("sglang", "dflash"): lambda q: {"speculative_dflash_block_size": q},
    ("sglang", "dspark"): lambda q: {"speculative_dspark_block_size": q - 1, "speculative_num_draft_tokens": q},
    ("sglang", "diffusion"): lambda q: {"block_size": q},
    ("tensorrt_llm", "linear"): _drafts("max_draft_len"),
    ("tensorrt_llm", "tree"): _drafts("max_total_draft_tokens"),
    # PARD verifies 2 K positions
    ("tensorrt_llm", "pard"): lambda q: {"max_draft_len": q // 2},
}


def setting_for_positions(engine: str, method: str, positions: int) -> dict[str, int]:
    """The engine's fields that make its target forward evaluate at most `positions` positions per sequence.

    vLLM 0.33.0 (``VllmConfig.num_speculative_tokens``), SGLang 0.5.23 (``arg_groups/speculative_hook.py``),
    TensorRT-LLM (``DecodingBaseConfig.tokens_per_gen_step``, ``PARDDecodingConfig``).

    Parameters
    ----------
    engine : {"vllm", "sglang", "tensorrt_llm"}
    method : str
        The engine's method, ``tree`` or ``diffusion``.
    positions : int
        q [positions per sequence], at least 2; 1 is no speculation (diffusion: at least 1).

    Raises
    ------
    UnknownNameError
        For an unknown engine or method.
    UnsupportedError
        For one position with a method that drafts.

    Examples
    --------
    >>> setting_for_positions("vllm", "eagle3", 4)
    {'num_speculative_tokens': 3}
    >>> setting_for_positions("sglang", "eagle3", 4)
    {'speculative_num_steps': 3, 'speculative_eagle_topk': 1, 'speculative_num_draft_tokens': 4}
    >>> setting_for_positions("tensorrt_llm", "pard", 7)
    {'max_draft_len': 3}
    """
    require_positive_int(positions=positions)
    if engine not in {name for name, _ in _SETTINGS}:
        raise unknown_name("engine", engine, {name for name, _ in _SETTINGS})
    if (engine, method) not in _SETTINGS:
        raise unknown_name(f"{engine} method", method, {kind for name, kind in _SETTINGS if name == engine})
    if positions < 2 and method != "diffusion":
        raise UnsupportedError(f"{engine} {method} needs at least one draft, and 1 position leaves none")
    return _SETTINGS[engine, method](positions)
