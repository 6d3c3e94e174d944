"""Dimensions of the models whose attention blocks were timed, from the Hugging Face configurations beside the timings."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from nfp_model.errors import UnsupportedError
from nfp_model.operators import CompressedAttention
from nfp_model.validation.silicon_tables import package_root

INDEXED = "dsv4_csa"
FAMILIES = (INDEXED, "dsv4_hca")
"""Attention modules over a compressed cache: with an indexer, and without."""


@lru_cache(maxsize=16)
def model_config(model: str) -> dict[str, Any]:
    """``config.json`` of a model as the package of timings installs it.

    Raises
    ------
    UnsupportedError
        When the package has none.
    """
    path = package_root().parent / "model_configs" / f"{model.replace('/', '--')}_config.json"
    if not path.is_file():
        raise UnsupportedError(f"no configuration of {model} beside the published timings")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def compressed_attention(
    model: str,
    family: str,
    num_query_heads: int,
    tensor_parallel: int,
    compress_ratio: int,
    context_length: int,
    batch_size: int,
    weight_dtype: str,
) -> CompressedAttention:
    """The operator of one timed attention block, heads and output groups of one rank."""
    if family not in FAMILIES:
        raise UnsupportedError(f"attention module '{family}' is no operator the library has")
    config = model_config(model)
    indexed = family == INDEXED
    return CompressedAttention(
        hidden_size=config["hidden_size"],
        query_rank=config["q_lora_rank"],
        output_rank=config["o_lora_rank"],
        head_dim=config["head_dim"],
        num_query_heads=num_query_heads,
        output_groups=max(1, config["o_groups"] // tensor_parallel),
        compress_ratio=compress_ratio,
        context_length=context_length,
        batch_size=batch_size,
        window=config["sliding_window"],
        index_heads=config["index_n_heads"] if indexed else 0,
        index_dim=config["index_head_dim"] if indexed else 0,
        index_topk=config["index_topk"] if indexed else 0,
        weight_dtype=weight_dtype,
    )


__all__ = ["FAMILIES", "compressed_attention", "model_config"]
