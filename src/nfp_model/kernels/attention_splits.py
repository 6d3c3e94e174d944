"""How attention kernels split the cache over CTAs: one function per published rule.

Each takes a :class:`SplitCase` and returns the splits s(N) over the positions, as floats. ``ctas`` is the grid before any split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nfp_model.kernels.counts import FloatArray
from nfp_model.kernels.steps import blocks_below, ceil_div, floor_div, next_power_of_two, round_half_even, round_up

SPLIT_LIMIT = 128
"""Most splits FlashAttention considers [-] (``num_splits_heuristic``)."""

FLASHINFER_CHUNK = 128
"""Fewest keys of a FlashInfer chunk [tokens] (``attention/scheduler.cuh``, ``min_kv_chunk_size``)."""

SGLANG_SPLIT_KEYS = 32
"""Keys of a split of SGLang's Triton decode are a multiple of this [tokens] (``_MIN_BLOCK_KV``)."""


WIDE_POSITIONS = 16
"""Most positions of one sequence for which TRT-LLM-gen shares the value width over all SMs (``isDsv3MinLatencyMode``)."""


@dataclass(frozen=True)
class SplitCase:
    """What a split rule looks at.

    Attributes
    ----------
    tiles : ndarray, shape (positions,)
        Query tiles per (sequence, KV head) [-].
    keys : ndarray, shape (positions,)
        Keys of the longest sequence [tokens].
    batch_size, num_kv_heads, sm_count : int
        B, n_kv, SM [-].
    kv_block : int
        Keys of one step of the kernel's loop [tokens].
    max_splits : int or None
        Cap, or the count for ``segments`` [-].
    min_split_keys : int
        Fewest keys a split is started for, where the rule names a number of its own [tokens].
    """

    tiles: FloatArray
    keys: FloatArray
    batch_size: int
    num_kv_heads: int
    sm_count: int
    kv_block: int
    max_splits: int | None = None
    min_split_keys: int = 1

    @property
    def ctas(self) -> FloatArray:
        """CTAs before any split: B x n_kv x tiles(N) [-]."""
        return self.tiles * self.batch_size * self.num_kv_heads

    @property
    def launched(self) -> float:
        """Most splits, a grid without any count of its own starts them all: the cap, else SM up to a power of two [-].

        sgl-project/sglang, ``triton_backend.py :: _mla_decode_kv_splits_cap``; its second bound, a 32nd of the model's
        longest context, never binds from 8192 tokens and 256 SMs down.
        """
        return float(self.max_splits or next_power_of_two(self.sm_count))

    @property
    def kv_blocks(self) -> FloatArray:
        """Steps along the keys [-]."""
        return np.maximum(ceil_div(self.keys, self.kv_block), 1.0)


def no_split(case: SplitCase) -> FloatArray:
    """One CTA walks all the keys."""
    return np.ones_like(case.tiles)


def fa2_splits(case: SplitCase) -> FloatArray:
    """FlashAttention-2: 1 where the grid fills 0.8 of 2 SM slots, else the smallest split within 0.85 of the best wave.

    With W CTAs, S = 2 SM slots and eff(n) = (W n / S) / ceil(W n / S), over n <= min(128, S, KV blocks) that change the
    blocks per split: the smallest n with eff(n) >= 0.85 max eff. Dao-AILab/flash-attention,
    ``csrc/flash_attn/flash_api.cpp :: num_splits_heuristic``.

    Examples
    --------
    >>> case = SplitCase(np.array([1.0]), np.array([4096.0]), 1, 8, 108, 128)
    >>> fa2_splits(case).tolist()
    [16.0]
    """
    return _wave_search(case.ctas, case.kv_blocks, 2 * case.sm_count, skip_equal=True)


def fa3_splits(case: SplitCase) -> FloatArray:
    """FlashAttention-3 with sequences of varying length: a bound from one sequence, then what fills the SMs once.

    The bound is ``max_splits`` where the engine fixes one (vLLM: 32 under full CUDA graphs), else the FlashAttention-2 search
    with one sequence and one CTA per SM; 1 for at most 4 KV blocks. Per sequence with K KV blocks and b = ceil(1.1 x all
    (query tile, KV block) pairs x n_kv / SM) blocks per SM::

        s = max(1, min(ceil(K / b), bound))

    Dao-AILab/flash-attention, ``hopper/heuristics.h :: num_splits_heuristic`` and ``hopper/flash_prepare_scheduler.cu``.

    Examples
    --------
    Twice the tiles, half the splits, still one wave of 132 CTAs:

    >>> case = SplitCase(np.array([1.0, 2.0]), np.array([4096.0, 4096.0]), 1, 8, 132, 128, 32)
    >>> fa3_splits(case).tolist()
    [11.0, 7.0]
    """
    if case.max_splits is None:
        one = _wave_search(case.tiles * case.num_kv_heads, case.kv_blocks, case.sm_count, skip_equal=False)
        bound = np.where(case.kv_blocks <= 4, 1.0, one)
    else:
        bound = np.full_like(case.tiles, float(case.max_splits))
    # 1.1 = 11 / 10, so that the ceiling stays in whole numbers.
    blocks_per_sm = ceil_div(11 * case.ctas * case.kv_blocks, 10 * case.sm_count)
    return np.maximum(np.minimum(ceil_div(case.kv_blocks, blocks_per_sm), bound), 1.0)


def fa4_splits(case: SplitCase) -> FloatArray:
    """FlashAttention-4: 1 for at most 4 KV blocks, else min(floor(SM / CTAs), 128, KV blocks), at least 1.

    Dao-AILab/flash-attention, ``flash_attn/cute/interface.py``.
    """
    splits = np.minimum(np.minimum(floor_div(case.sm_count, case.ctas), SPLIT_LIMIT), case.kv_blocks)
    return np.where(case.kv_blocks <= 4, 1.0, np.maximum(splits, 1.0))


def flashinfer_splits(case: SplitCase) -> FloatArray:
    """FlashInfer: the smallest KV chunk that keeps the grid within floor(2 SM / n_kv) CTAs per KV head.

    Chunks are at least 128 keys; with B equal sequences the search is s = floor(budget / (B tiles)), then ceil(keys / chunk).
    flashinfer ``attention/scheduler.cuh :: PrefillSplitQOKVIndptr``.
    """
    budget = floor_div(2 * case.sm_count, case.num_kv_heads)
    most = np.maximum(floor_div(budget, case.tiles * case.batch_size), 1.0)
    keys = np.maximum(case.keys, 1.0)
    chunk = np.maximum(ceil_div(keys, most), FLASHINFER_CHUNK)
    return ceil_div(keys, chunk)


def trtllm_gen_splits(case: SplitCase) -> FloatArray:
    """TRT-LLM-gen: fill the SMs once, two KV steps a split at least: min(ceil(keys / (2 KV step)), max(1, floor(SM / CTAs))).

    flashinfer ``trtllm/fmha/fmhaKernels.cuh :: computeCtaAndClusterConfig``.
    """
    room = np.maximum(floor_div(case.sm_count, case.ctas), 1.0)
    return np.minimum(ceil_div(np.maximum(case.keys, 1.0), 2 * case.kv_block), room)


def width_parts(case: SplitCase, splits: FloatArray, positions: FloatArray) -> FloatArray:
    """CTAs of TRT-LLM-gen's MLA that share a tile's value width: 4 where they fill half the SMs at most, else 2, else 1 [-].

    Half does not hold for one sequence of at most 16 positions: its CTAs may fill all SMs, at the cost of fewer splits. flashinfer
    ``trtllm/fmha/fmhaKernels.cuh :: computeCtaAndClusterConfig``.

    Examples
    --------
    On 148 SMs, one split: 32 sequences share by four, 64 by two, 128 do not.

    >>> one = np.ones(1)
    >>> [width_parts(SplitCase(one, one, batch, 1, 148, 128), one, one).item() for batch in (32, 64, 128)]
    [4.0, 2.0, 1.0]
    """
    least = np.where((case.batch_size == 1) & (positions <= WIDE_POSITIONS), 1.0, 2.0)
    filled = case.ctas * splits * least
    return np.where(2.0 * filled <= case.sm_count, 4.0, np.where(filled <= case.sm_count, 2.0, 1.0))


def sglang_triton_splits(case: SplitCase) -> FloatArray:
    """SGLang Triton decode: more splits the longer the cache, from chunks of equal length in multiples of 32 keys.

    For equal sequences: the device counts as floor(SM x max(log2(L / 64), 1)) cores, s' = min(ceil(cores / CTAs), cap),
    and s = ceil(L / chunk) with chunk = ceil(L / s') in whole multiples of 32. sgl-project/sglang,
    ``get_num_kv_splits_triton`` and ``decode_attention.py`` (``_MIN_BLOCK_KV``); the cap is the server's default
    ``triton_attention_num_kv_splits`` = 8, for MLA :attr:`SplitCase.launched`.

    Examples
    --------
    >>> case = SplitCase(np.array([1.0, 1.0]), np.array([256.0, 4096.0]), 64, 8, 132, 128, 8)
    >>> sglang_triton_splits(case).tolist()
    [1.0, 2.0]
    """
    keys = np.maximum(case.keys, 1.0)
    cores = blocks_below(case.sm_count * np.maximum(np.log2(keys / 64.0), 1.0), 1)
    wanted = np.minimum(ceil_div(cores, case.ctas), case.launched)
    return ceil_div(keys, round_up(ceil_div(keys, wanted), SGLANG_SPLIT_KEYS))


def fixed_segments(case: SplitCase) -> FloatArray:
    """A fixed number of KV segments (vLLM Triton: 16, ``v1/attention/ops/triton_unified_attention.py``)."""
    return np.full_like(case.tiles, float(case.max_splits or 1))


def flex_splits(case: SplitCase) -> FloatArray:
    """FlexAttention decoding: max(2 floor(SM / (B n_kv)), 1), whatever the query tiles.

    pytorch ``torch/_inductor/kernel/flex/flex_decoding.py``.
    """
    per_head = np.full_like(case.tiles, case.batch_size * case.num_kv_heads)
    return np.maximum(2.0 * floor_div(case.sm_count, per_head), 1.0)


def flashmla_splits(case: SplitCase) -> FloatArray:
    """FlashMLA: max(floor(floor(SM / n_kv) / tiles), 1) parts shared evenly by all sequences, so s = parts / B.

    A value below 1 means that one CTA walks several sequences in turn. deepseek-ai/FlashMLA, ``csrc/api/dense_decode.h``.

    Examples
    --------
    >>> case = SplitCase(np.array([2.0]), np.array([4096.0]), 4, 1, 132, 64)
    >>> flashmla_splits(case).tolist()
    [16.5]
    """
    parts = np.maximum(floor_div(floor_div(case.sm_count, case.num_kv_heads), case.tiles), 1.0)
    return parts / case.batch_size


XQA_BLOCK = 128
XQA_WAVES = 8
XQA_SLOTS = 6000
"""Fewest keys of a split, waves a split may make, sequences x splits the workspace holds (``decoderXQAConstants.h``)."""


def xqa_splits(case: SplitCase) -> FloatArray:
    """XQA: one split for every 128 cached keys, m, but no more than sqrt(8 m), 8 waves of CTAs and 6000 / B.

    NVIDIA/TensorRT-LLM, ``decoderXQAImplCommon.h :: computeMultiBlockCount``.

    Examples
    --------
    >>> case = SplitCase(np.array([1.0]), np.array([4096.0]), 1, 8, 132, 128)
    >>> xqa_splits(case).tolist()
    [16.0]
    """
    blocks = floor_div(np.maximum(case.keys - 1.0, 1.0), XQA_BLOCK)
    few = np.maximum(np.minimum(blocks, round_half_even(np.sqrt(8.0 * blocks))), 1.0)
    waves = case.batch_size * case.num_kv_heads * few / (XQA_WAVES * case.sm_count)
    fitting = np.where(waves > 1.0, blocks_below(few / np.maximum(waves, 1.0), 1), few)
    slots = floor_div(XQA_SLOTS, case.batch_size)
    return np.maximum(np.minimum(np.maximum(fitting, 1.0), slots), 1.0)


MMHA_LOOP_KEYS = 8
"""Keys a group of threads that shares a head takes in one turn of the loop [tokens]."""


def mmha_split_keys(threads: int, head_dim: int) -> int:
    """Keys of one turn of the loop of a CTA of masked multi-head attention, the least it is split for [tokens].

    A thread holds 16 bytes of a 16-bit head, padded to a power of two. NVIDIA/TensorRT-LLM,
    ``decoderMaskedMultiheadAttentionLaunch.h :: multi_block_grid_setup``.

    Examples
    --------
    >>> mmha_split_keys(512, 128), mmha_split_keys(256, 192)
    (256, 64)
    """
    return threads * 8 // int(next_power_of_two(head_dim)) * MMHA_LOOP_KEYS


def mmha_splits(case: SplitCase) -> FloatArray:
    """Masked multi-head attention of TensorRT-LLM: ceil(SM / CTAs), from one CTA for every head and sequence.

    At least one turn of its loop each. NVIDIA/TensorRT-LLM, ``common/attentionOp.cpp :: getMaxNumSeqLenTile`` and
    ``decoderMaskedMultiheadAttentionLaunch.h :: multi_block_grid_setup``.

    Examples
    --------
    >>> case = SplitCase(np.array([64.0]), np.array([255.0]), 1, 1, 132, 32, min_split_keys=128)
    >>> mmha_splits(case).tolist()
    [2.0]
    """
    return np.minimum(ceil_div(case.sm_count, case.ctas), ceil_div(case.keys, case.min_split_keys))


def mmha_resident(case: SplitCase, resident: int) -> FloatArray:
    """CTAs of masked multi-head attention that share an SM, o' [-].

    With o CTAs of 256 threads an SM at most, W CTAs unsplit get min(ceil(o SM / W), o) times 256 threads, rounded down to 256, 512
    or 1024; split ones have an SM each. NVIDIA/TensorRT-LLM, ``decoderMaskedMultiheadAttentionLaunch.h :: mmha_launch_kernel_ex``.

    Examples
    --------
    Four CTAs of 256 threads an SM: 256 CTAs on 132 SMs get 512 threads, two an SM; 1024 CTAs stay at 256.

    >>> mmha_resident(SplitCase(np.array([64.0, 256.0]), np.array([64.0, 64.0]), 4, 1, 132, 32, min_split_keys=128), 4).tolist()
    [2.0, 4.0]
    """
    wanted = np.minimum(ceil_div(resident * case.sm_count, case.ctas), resident)
    blocks = np.where(wanted >= 4, 4.0, np.where(wanted >= 2, 2.0, 1.0))
    return np.where(mmha_splits(case) > 1, 1.0, np.maximum(floor_div(resident, blocks), 1.0))


def fill_splits(case: SplitCase) -> FloatArray:
    """Enough splits to fill the SMs once, one KV block each at least: where a kernel splits but its rule is not public."""
    room = np.maximum(floor_div(case.sm_count, case.ctas), 1.0)
    return np.minimum(case.kv_blocks, room)


def _wave_search(ctas: FloatArray, kv_blocks: FloatArray, slots: int, skip_equal: bool) -> FloatArray:
    """Smallest split whose wave efficiency is within 0.85 of the best, for every position at once."""
    most = min(SPLIT_LIMIT, slots)
    n = np.arange(1, most + 1, dtype=np.float64)[None]
    ctas, kv_blocks = ctas[:, None], kv_blocks[:, None]
    waves = ctas * n / slots
    efficiency = waves / ceil_div(ctas * n, slots)
    allowed = n <= kv_blocks
    if skip_equal:
        # A split that leaves the blocks per CTA as they are gains nothing.
        allowed &= (n == 1) | (ceil_div(kv_blocks, n) != ceil_div(kv_blocks, np.maximum(n - 1, 1)))
    efficiency = np.where(allowed, efficiency, 0.0)
    good = efficiency >= 0.85 * efficiency.max(axis=1, keepdims=True)
    splits = good.argmax(axis=1) + 1.0
    return np.where(ctas[:, 0] >= 0.8 * slots, 1.0, splits)


SPLIT_RULES: dict[str, Callable[[SplitCase], FloatArray]] = {
    "none": no_split,
    "fa2": fa2_splits,
    "fa3": fa3_splits,
    "fa4": fa4_splits,
    "flashinfer": flashinfer_splits,
    "trtllm_gen": trtllm_gen_splits,
    "sglang_triton": sglang_triton_splits,
    "segments": fixed_segments,
    "flex": flex_splits,
    "flashmla": flashmla_splits,
    "xqa": xqa_splits,
    "mmha": mmha_splits,
    "fill": fill_splits,
}
"""Split rules by the name kernel files use."""
