"""A whole attention block timed as one launch sequence: DeepSeek-V4's, over a cache of compressed tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nfp_model.errors import InvalidArgumentError, require_positive_int
from nfp_model.quantities import canonical_dtype, element_type

FloatArray = npt.NDArray[np.float64]

_ROW_ELEMENT_BYTES = element_type("bfloat16").bytes


def _mean_ceil(low: npt.ArrayLike, high: npt.ArrayLike) -> FloatArray:
    """Mean of ceil(x) over x from ``low`` to ``high``; ceil of ``low`` where they are one."""
    first, last = (np.asarray(x, dtype=np.float64) for x in (low, high))
    summed = [np.floor(x) * (np.floor(x) + 1.0) / 2.0 + (x - np.floor(x)) * (np.floor(x) + 1.0) for x in (first, last)]
    width = last - first
    return np.asarray(
        np.where(width > 0.0, (summed[1] - summed[0]) / np.where(width > 0.0, width, 1.0), np.ceil(first))
    )


@dataclass(frozen=True)
class CompressedAttention:
    """Projections, compressor, indexer where there is one, attention and grouped output projection of one layer on one rank.

    Dimensions carry the names of the model's Hugging Face configuration. With an indexer, each query picks ``index_topk``
    compressed tokens; without one it sees them all. Both see the last ``window`` tokens uncompressed. Indexer, compressor and
    the projections into low ranks are on every rank; heads and output groups are divided.

    Attributes
    ----------
    hidden_size, query_rank, output_rank, head_dim : int
        h, ``q_lora_rank``, ``o_lora_rank``, width of a head and of the one cached vector per token [elements].
    num_query_heads, output_groups : int
        Heads and groups of the output projection on this rank [-].
    compress_ratio : int
        Tokens per compressed one [-].
    context_length, batch_size : int
        Cached tokens of every sequence [tokens], sequences [-].
    window : int
        Uncompressed tokens each query sees [tokens].
    index_heads, index_dim, index_topk : int
        Indexer; 0 heads where there is none [-], [elements], [tokens].
    weight_dtype : str
        Storage of the projections' weights.

    Examples
    --------
    >>> block = CompressedAttention(7168, 1536, 1024, 512, 128, 16, compress_ratio=4, context_length=4096, batch_size=1,
    ...     index_heads=64, index_dim=128, index_topk=1024)
    >>> block.keys_seen([1, 4096]).round().tolist()
    [1152.0, 1152.0]
    """

    hidden_size: int
    query_rank: int
    output_rank: int
    head_dim: int
    num_query_heads: int
    output_groups: int
    compress_ratio: int
    context_length: int
    batch_size: int
    window: int = 128
    index_heads: int = 0
    index_dim: int = 0
    index_topk: int = 0
    weight_dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        require_positive_int(
            hidden_size=self.hidden_size,
            query_rank=self.query_rank,
            output_rank=self.output_rank,
            head_dim=self.head_dim,
            num_query_heads=self.num_query_heads,
            output_groups=self.output_groups,
            compress_ratio=self.compress_ratio,
            batch_size=self.batch_size,
        )
        if self.index_heads and not (self.index_dim and self.index_topk):
            raise InvalidArgumentError("an indexer needs index_dim and index_topk above 0")
        object.__setattr__(self, "weight_dtype", canonical_dtype(self.weight_dtype))

    @property
    def weight_elements(self) -> int:
        """Weights of every projection on this rank [elements]."""
        heads, h = self.num_query_heads * self.head_dim, self.hidden_size
        queries = self.query_rank * (h + heads)
        cache = h * self.head_dim + self.compressor_elements
        output = self.output_rank * (heads + self.output_groups * h)
        index = self.index_heads * (self.query_rank * self.index_dim + h) + 4 * h * self.index_dim
        return queries + cache + output + (index if self.index_heads else 0)

    @property
    def compressor_elements(self) -> int:
        """Weights that compress the cache, values and gates; twice as many where compressed tokens overlap [elements]."""
        return 2 * self.hidden_size * self.head_dim * (2 if self.index_heads else 1)

    @property
    def weight_bytes(self) -> float:
        """Bytes of those weights, scales included [B]."""
        return self.weight_elements * element_type(self.weight_dtype).bytes

    @property
    def activation_bytes_per_row(self) -> float:
        """Bytes written and read again between the kernels for one token row, in 16 bits [B]."""
        heads = self.num_query_heads * self.head_dim
        return float(
            _ROW_ELEMENT_BYTES
            * (2 * self.hidden_size + 3 * self.query_rank + 4 * heads + 2 * self.output_groups * self.output_rank)
        )

    def selecting_rows(self, positions: npt.ArrayLike) -> FloatArray:
        """Rows that pick among more compressed tokens than ``index_topk``; none without an indexer [rows]."""
        n = np.asarray(positions, dtype=np.float64)
        return np.asarray(self.batch_size * (n - self._growing(n)) if self.index_heads else 0.0 * n)

    def selection_steps(self, positions: npt.ArrayLike) -> FloatArray:
        """Steps of the block that picks a row's tokens: one thread for each it picks, which walk all compressed ones, the mean [-].

        Examples
        --------
        >>> block = CompressedAttention(7168, 1536, 1024, 512, 128, 16, compress_ratio=4, context_length=262144, batch_size=1,
        ...     index_heads=64, index_dim=128, index_topk=1024)
        >>> block.selection_steps([1, 4096]).round().tolist()
        [64.0, 64.0]
        """
        n = np.asarray(positions, dtype=np.float64)
        steps = (self.context_length + n / 2.0) / self.compress_ratio / max(self.index_topk, 1)
        return np.asarray(steps if self.index_heads else 0.0 * n)

    def ranked_pairs(self, positions: npt.ArrayLike, most: int) -> FloatArray:
        """Pairs of compressed tokens over all new rows that may pick among more than ``index_topk`` and at most ``most`` [-].

        The sum of squared candidates (L + j) / r over positions j, as an integral; one position, without an indexer: none.

        Examples
        --------
        1024 to 1280 candidates a row, 1154 squared on average; rows beyond 2048 add none:

        >>> block = CompressedAttention(7168, 1536, 1024, 512, 128, 16, compress_ratio=4, context_length=4096, batch_size=1,
        ...     index_heads=64, index_dim=128, index_topk=1024)
        >>> (block.ranked_pairs([1, 1024, 4096, 8192], 2048) / 1e6).round().tolist()
        [0.0, 1365.0, 10022.0, 10022.0]
        """
        n, ratio = np.asarray(positions, dtype=np.float64), float(self.compress_ratio)
        low = max(float(self.index_topk), self.context_length / ratio)
        high = np.clip((self.context_length + n) / ratio, low, max(low, float(most)))
        pairs = self.batch_size * ratio / 3.0 * (high**3 - low**3)
        return np.asarray(pairs * (n > 1) if self.index_heads else 0.0 * n)

    def _growing(self, positions: FloatArray) -> FloatArray:
        """New positions that see fewer compressed tokens than the indexer would pick."""
        return np.asarray(np.clip(self.index_topk * self.compress_ratio - float(self.context_length), 0.0, positions))

    def keys_seen(self, positions: npt.ArrayLike) -> FloatArray:
        """Keys a query attends to, the mean over N new positions: window, and compressed tokens up to ``index_topk`` [tokens]."""
        n, cached = np.asarray(positions, dtype=np.float64), float(self.context_length)
        if not self.index_heads:
            return np.asarray((cached + n / 2.0) / self.compress_ratio + self.window)
        growing = self._growing(n)
        picked = (growing * cached + growing**2 / 2.0) / self.compress_ratio + (n - growing) * self.index_topk
        return np.asarray(picked / n + self.window)

    def keys_walked(self, positions: npt.ArrayLike, tile: int) -> FloatArray:
        """The same where a kernel walks each row's keys in whole tiles: the mean of every row's own tiles [tokens].

        Examples
        --------
        A row sees 128 keys and a 128th of what is cached: two tiles of 128 for the first 16384 rows, three for the others.

        >>> block = CompressedAttention(7168, 1536, 1024, 512, 128, 16, compress_ratio=128, context_length=0, batch_size=1)
        >>> (block.keys_walked([16384, 32768], 128) / 128).tolist()
        [2.0, 2.5]
        """
        n, cached = np.asarray(positions, dtype=np.float64), float(self.context_length)
        first = (self.window + cached / self.compress_ratio) / tile
        if not self.index_heads:
            return tile * _mean_ceil(first, first + n / self.compress_ratio / tile)
        growing = self._growing(n)
        picked = growing * _mean_ceil(first, first + growing / self.compress_ratio / tile)
        whole = np.ceil((self.window + self.index_topk) / tile)
        return np.asarray(tile * (picked + (n - growing) * whole) / n)

    def attention_flop(
        self, positions: npt.ArrayLike, heads: float | None = None, keys: npt.ArrayLike | None = None
    ) -> FloatArray:
        """Attention of N positions of every sequence: B N H keys 4 d_h, over more heads and keys where a kernel pads [FLOP]."""
        n = np.asarray(positions, dtype=np.float64)
        seen = self.keys_seen(n) if keys is None else np.asarray(keys, dtype=np.float64)
        return np.asarray(self.batch_size * n * (heads or self.num_query_heads) * seen * 4.0 * self.head_dim)

    def index_flop(self, positions: npt.ArrayLike) -> FloatArray:
        """Scores of every compressed token by every index head: 2 B N (L + N / 2) / r H_i d_i [FLOP]."""
        n = np.asarray(positions, dtype=np.float64)
        tokens = (self.context_length + n / 2.0) / self.compress_ratio
        return np.asarray(2.0 * self.batch_size * n * tokens * self.index_heads * self.index_dim)

    def index_bytes(self) -> float:
        """The indexer's cache in 8 bits, read once: B L / r d_i [B]."""
        return float(self.batch_size * self.context_length / self.compress_ratio * self.index_dim)


__all__ = ["CompressedAttention"]
