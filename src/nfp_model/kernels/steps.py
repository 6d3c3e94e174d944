"""The only place with ceilings: exact integer steps on arrays.

Inputs are whole numbers (as ints or exact floats); the arithmetic is done in integers so that no rounding error moves a step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nfp_model.kernels.counts import FloatArray


def ceil_div(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> FloatArray:
    """ceil(a / b) on whole numbers, exactly [-].

    Examples
    --------
    >>> ceil_div([128, 129], 128).tolist()
    [1.0, 2.0]
    """
    a, b = np.asarray(numerator, dtype=np.int64), np.asarray(denominator, dtype=np.int64)
    return (-(-a // b)).astype(np.float64)


def floor_div(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> FloatArray:
    """floor(a / b) on whole numbers, exactly [-].

    Examples
    --------
    >>> floor_div(64, 7).item()
    9.0
    """
    a, b = np.asarray(numerator, dtype=np.int64), np.asarray(denominator, dtype=np.int64)
    return (a // b).astype(np.float64)


def round_up(value: npt.ArrayLike, multiple: npt.ArrayLike) -> FloatArray:
    """The next multiple at or above a whole number.

    Examples
    --------
    >>> round_up([1, 64, 65], 64).tolist()
    [64.0, 64.0, 128.0]
    """
    return ceil_div(value, multiple) * np.asarray(multiple, dtype=np.float64)


def next_power_of_two(value: npt.ArrayLike) -> FloatArray:
    """The smallest power of two at or above a whole number of at least 1.

    Examples
    --------
    >>> next_power_of_two([1, 3, 16, 17]).tolist()
    [1.0, 4.0, 16.0, 32.0]
    """
    whole = np.asarray(value, dtype=np.int64)
    bits = np.ceil(np.log2(np.maximum(whole, 1).astype(np.float64))).astype(np.int64)
    return np.left_shift(np.int64(1), bits).astype(np.float64)


REDUCTION_THREADS = 512
WARP_THREADS = 32
BLOCK_ROWS = REDUCTION_THREADS // WARP_THREADS
"""Most rows of 32 elements and more that one block of such a reduction takes [rows]."""


def walked_elements(width: npt.ArrayLike, rows: npt.ArrayLike) -> FloatArray:
    """Elements of a row that one thread adds up in torch's reduction along ``rows`` rows of ``width`` elements [-].

    A block has 512 threads. It takes as many rows as the last power of two at or below M, at most as many as leave a warp to
    each, and shares its threads between them: with 16 rows a thread walks 16 times as far as with one. PyTorch,
    ``aten/src/ATen/native/cuda/Reduce.cuh``, ``ReduceConfig::set_block_dimension``.

    Examples
    --------
    >>> walked_elements(4096, [1, 2, 8, 16, 64]).tolist()
    [8.0, 16.0, 64.0, 128.0, 128.0]
    """
    across, down = (np.floor(np.log2(np.asarray(value, dtype=np.float64))).astype(np.int64) for value in (width, rows))
    across, down = np.left_shift(np.int64(1), across), np.left_shift(np.int64(1), down)
    height = np.minimum(down, REDUCTION_THREADS // np.minimum(across, WARP_THREADS))
    return ceil_div(width, np.minimum(across, REDUCTION_THREADS // height))


def whole_waves(ctas: npt.ArrayLike, slots: npt.ArrayLike) -> FloatArray:
    """Waves a grid takes when each wave holds ``slots`` CTAs: ceil(ctas / slots) [-].

    NVIDIA, Matrix Multiplication Background User's Guide (DU-09799-001), section 3.2.

    Examples
    --------
    108 tiles fill an A100 exactly; nine more cost a whole wave.

    >>> whole_waves([108, 117], 108).tolist()
    [1.0, 2.0]
    """
    return ceil_div(ctas, slots)


def shared_waves(ctas: npt.ArrayLike, sm_count: int, resident: npt.ArrayLike, cost: npt.ArrayLike) -> FloatArray:
    """Waves of a grid whose CTAs share SMs, in units of the time one CTA takes alone [-].

    A wave of r CTAs per SM takes 1 + (r - 1) (C - 1) / (o - 1), so C when full with o; C = 1 counts whole waves.

    Examples
    --------
    On 108 SMs with o = 2 and C = 1.4, 108 CTAs run alone, 216 share, the next 40 run alone again.

    >>> shared_waves([108, 216, 256], 108, 2, 1.4).round(2).tolist()
    [1.0, 1.4, 2.4]
    >>> shared_waves([108, 216, 256], 108, 2, 1.0).tolist()
    [1.0, 1.0, 2.0]
    """
    o, c = np.asarray(resident, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    full = floor_div(ctas, sm_count * o)
    left = ceil_div(np.asarray(ctas, dtype=np.int64) - full * sm_count * o, sm_count)
    beside = np.maximum(o - 1.0, 1.0)
    return np.asarray(full * c + np.where(left > 0, 1.0 + (left - 1.0) * (c - 1.0) / beside, 0.0))


def blocks_below(value: npt.ArrayLike, block: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Whole blocks at or below a real number, 0 for a negative one: floor(max(value, 0) / block) [-].

    Examples
    --------
    >>> blocks_below([-3.5, 31.9, 32.0], 16).tolist()
    [0, 1, 2]
    """
    real = np.maximum(np.asarray(value, dtype=np.float64), 0.0)
    return np.floor(real / np.asarray(block, dtype=np.float64)).astype(np.int64)


def round_half_even(value: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The nearest whole number, halves to the even one as IEEE 754 rounds.

    Examples
    --------
    >>> round_half_even([0.5, 1.5, 2.4]).tolist()
    [0, 2, 2]
    """
    return np.rint(np.asarray(value, dtype=np.float64)).astype(np.int64)


def ceil_ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> FloatArray:
    """ceil(a / b) where b need not be whole, such as the shared parts of a persistent kernel [-].

    A quotient within one part in 10^12 above a whole number counts as that number.

    Examples
    --------
    >>> ceil_ratio([33.0, 34.0], 16.5).tolist()
    [2.0, 3.0]
    """
    quotient = np.asarray(numerator, dtype=np.float64) / np.asarray(denominator, dtype=np.float64)
    return np.ceil(quotient * (1.0 - 1e-12))
