"""Inputs of a block over a compressed cache (DeepSeek-V4): tiles of its sparse kernel, selection, the indexer's keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nfp_model.kernels.counts import FloatArray, IntArray
from nfp_model.kernels.steps import ceil_ratio, round_up
from nfp_model.operators import CompressedAttention
from nfp_model.operators.records import ACTIVATION_BYTES

if TYPE_CHECKING:
    from nfp_model.cost.latency import BoundOperator

DECODE_TILE = (64, 64)
"""Query heads of one token, and keys, that FlashMLA's sparse kernel for decoding takes at a time [heads], [tokens]
(deepseek-ai/FlashMLA, ``csrc/sm90/decode/sparse_fp8/config.h``: ``BLOCK_M``, ``TOPK_BLOCK_SIZE``). SGLang runs it for all positions;
on B200 64 heads and fewer take the same time for a key and 128 twice that (fit half), and what stands in for it on RTX PRO 6000
takes 5.5 us for 64 keys of one row, however many heads."""

PREFILL_TILE = {"hopper": (64, 128), "": (128, 128)}
"""The same of the kernel for sparse prefill, which vLLM runs, by generation, "" for any other (vllm-project/vllm,
``v1/attention/backends/mla/flashmla_sparse.py``: ``prefill_padding``). TensorRT-LLM's is taken for it too: not read."""

PADDED_QUERIES = {("sglang", "blackwell"): 1.5}
"""Times a row's queries, padded to a whole tile, are written besides where its heads do not fill one [-]: inferred on B200 and GB300,
fit half, shapes left out in turn: ``csa`` 8.1 to 6.0 %, ``hca`` 8.6 to 6.4 %; on Hopper it does not show."""

FP32_MATRIX_TIME = 2.0
"""Matrix time of 32-bit operands, as TF32, over 16-bit ones, by every data sheet since Ampere [-]. The compressor of DeepSeek-V4 holds
its weights in 32 bits (deepseek-ai/DeepSeek-V4, inference/model.py, ``Compressor``)."""

SPARSE_PREFILL_ROWS = 11673
SPARSE_PREFILL_SHARE = 0.6
"""Rows up to which SGLang runs attention over a compressed cache through the kernel for decoding, beyond through the one for sparse
prefill [rows] (``_LARGE_INDEXER_QUERY_THRESHOLD``, sgl-project/sglang, ``layers/attention/dsv4/metadata.py``), and the attention time of
that one over the other's [-]: inferred on B200, fit half, between 10240 and 12288 rows (slope over the compressed tokens). On other
generations no such row was timed."""

SELECTION_STEPS = 32.0
"""Steps of the block that picks a row's tokens that take as long as starting the selection does [-]. One block serves a row, one thread
for each token it picks, and walks the scores of all (sgl-project/sglang, ``jit_kernel/csrc/deepseek_v4/topk.cuh``:
``kTopKBlockSize``); one sequence takes 0.54 us a step longer on H200, 0.40 on B200 (fit half), where a start takes some 13."""

INDEX_READS = (2, 16)
"""Times the keys of an indexer stream from memory, at least and at most, N for N positions in between [-]: inferred on B200, GB300,
H100 and H200, fit half. One position streams them at half the rate of weights (B200 0.0073, H200 0.0095 ns a token and sequence);
up to some 16 read them each for itself (H200: 9.8 us a row at 1 M tokens up to 32 positions, 6.4 from 128 on)."""

PLANNED_BESIDE = {"vllm": 8.0, "trtllm": 32.0}
"""Sequences whose planning takes as long as what an indexer starts besides once a sequence has several positions [-]: 17 us in vLLM, 18 in
TensorRT-LLM. Inferred on B200, GB300, H100 and H200, fit half, shapes left out in turn: mean boundary error of vLLM .76 to .08 octaves, its
MAPE 5.3 to 5.1 %; of TensorRT-LLM 1.9 to 1.0 and 10.8 to 11.0 %. SGLang's decode kernel serves both."""

RANKED_TOKENS = 2048
"""Most compressed tokens a row's selection compares pair by pair [tokens] (``kNumFinalItems`` of ``topKPerRowJob``,
vllm-project/vllm ``csrc/sampler.cu``, TensorRT-LLM ``indexerTopK.cu``): those of the histogram's bin where the cut falls. Inferred
from vLLM on B200, fit half: a row's time grows with the square of all its candidates up to there and falls by 0.6 us beyond, so in
these timings all scores share that bin. Scores that differ would leave fewer."""


def sparse_prefill_rows(bound: BoundOperator) -> int:
    """Most rows the backend's decode kernel takes before another serves them; a number never reached where it knows none [rows]."""
    return SPARSE_PREFILL_ROWS if (bound.backend, bound.hardware.generation) == ("sglang", "blackwell") else 2**62


def sparse_tile(bound: BoundOperator) -> tuple[int, int]:
    """Heads and keys the backend's kernel over a compressed cache is padded to [heads], [tokens]."""
    if bound.backend == "sglang":
        return DECODE_TILE
    return PREFILL_TILE.get(bound.hardware.generation or "", PREFILL_TILE[""])


def selecting_waves(bound: BoundOperator, operator: CompressedAttention, positions: IntArray) -> FloatArray:
    """Waves of rows that select, one row an SM [-]."""
    return ceil_ratio(operator.selecting_rows(positions), bound.hardware.sm_count)


def block_inputs(bound: BoundOperator, operator: CompressedAttention, positions: IntArray) -> dict[str, Any]:
    """Shape inputs of the equation of an attention block, shape (positions,)."""
    hardware, rows = bound.hardware, positions * float(operator.batch_size)
    sixteen, peak = hardware.peak_flop_per_s["bfloat16"], hardware.peak(operator.weight_dtype, "bfloat16")
    heads, keys = sparse_tile(bound)
    padded = float(round_up(operator.num_query_heads, heads))
    copied = PADDED_QUERIES.get((bound.backend, hardware.generation or ""), 0.0) * (padded > operator.num_query_heads)
    slower = operator.compressor_elements * (FP32_MATRIX_TIME * peak / sixteen - 1.0)
    planned = operator.batch_size + (PLANNED_BESIDE.get(bound.backend, 0.0) if operator.index_heads else 0.0)
    return {
        "bandwidth": hardware.memory_bandwidth_bytes_per_s,
        "peak": peak,
        "attention_peak": sixteen,
        "index_peak": hardware.peak_flop_per_s.get("fp8", sixteen),
        "weight_bytes": operator.weight_bytes,
        "rows": rows,
        "row_flop": 2.0 * (operator.weight_elements + slower),
        "padded_flop": operator.attention_flop(positions, padded, operator.keys_walked(positions, keys))
        * np.where(rows > sparse_prefill_rows(bound), SPARSE_PREFILL_SHARE, 1.0),
        # One position goes through the decode path, which shows no such step in the public timings, but walks the same scores.
        "selection_waves": selecting_waves(bound, operator, positions)
        * ((positions > 1) + operator.selection_steps(positions) / SELECTION_STEPS),
        "ranking_waves": operator.ranked_pairs(positions, RANKED_TOKENS) / RANKED_TOKENS**2 / hardware.sm_count,
        "planned": planned * (positions > 1),
        "index_flop": operator.index_flop(positions),
        # Without an indexer one byte, so that no derivative is undefined.
        "index_bytes": max(operator.index_bytes(), 1.0) * np.clip(positions, *INDEX_READS),
        "moved_bytes": (operator.activation_bytes_per_row + copied * ACTIVATION_BYTES * padded * operator.head_dim)
        * rows,
    }
