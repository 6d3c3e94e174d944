"""What runs between the matrix products: one fused kernel a piece in inference engines, many small ones in transformers.

Bytes count each kernel's reads and writes; launches were counted by torch's profiler, alone (``validation/data/h100/elementwise.csv``)
or, ``grouped_router`` and ``once``, in whole forwards (``forward_kernels.csv`` there), with ``rotary`` weighted as said there. They
agree with the source: transformers 5.17, ``modeling_llama.py``, ``modeling_qwen3_moe.py``,
``modeling_glm4_moe.py``, ``cache_utils.py :: StaticLayer``.
"""

from __future__ import annotations

from dataclasses import dataclass

from nfp_model.operators.records import Elementwise


@dataclass(frozen=True)
class Piece:
    """One piece of work as transformers runs it.

    Attributes
    ----------
    bytes_per_element : float
        Read and written for each element of the piece's width, over all its kernels [B].
    launches, several_rows_launches, searches : int
        As in :class:`~nfp_model.operators.records.Elementwise`.
    averages : bool
        Whether one of the kernels averages along the row.
    """

    bytes_per_element: float
    launches: int
    several_rows_launches: int = 0
    averages: bool = False
    searches: int = 0

    def of(self, width: float, parts: tuple[tuple[int, int], ...] = ()) -> Elementwise:
        """The piece on rows of ``width`` elements, or on ``parts`` of such a row one after the other.

        Parameters
        ----------
        width : float
            Elements of a token row [elements].
        parts : tuple of (int, int)
            Elements along which each part averages, and how many such rows it has in a token row; () for the whole row at once.

        Examples
        --------
        >>> UNFUSED["rms_norm"].of(4096).launches
        8
        """
        times = max(1, len(parts))
        return Elementwise(
            self.bytes_per_element * width,
            launches=times * self.launches,
            several_rows_launches=times * self.several_rows_launches,
            means=(parts or ((round(width), 1),)) if self.averages else (),
            searches=times * self.searches,
        )


UNFUSED: dict[str, Piece] = {
    # To float32, square, mean, add, rsqrt, scale, back to 16 bits, weight.
    "rms_norm": Piece(36.0, 8, averages=True),
    "residual": Piece(6.0, 1),
    # Queries and keys each: times cos, halves turned (negate, concatenate), times sin, add: ten kernels, of which the six that
    # broadcast or concatenate take half as long again as a plain one.
    "rotary": Piece(20.0, 13),
    # Positions (range, add), length (add), keys and values copied to their places.
    "cache_update": Piece(4.0, 5),
    "activation": Piece(10.0, 2),
    # Softmax, top-k (search and sort), sum, division: the first four reduce or search; over groups also biases, masks, sums of
    # two and two more searches.
    "router": Piece(10.0, 5, searches=4),
    "grouped_router": Piece(40.0, 25, searches=7),
    # Heads side by side again: a copy, unless there is one position.
    "attention_output": Piece(4.0, 0, several_rows_launches=1),
    # The same in a forward, with rotary on views of the projections that are strided from two positions on: three launches
    # more, in time.
    "strided_heads": Piece(4.0, 0, several_rows_launches=4),
    # Embedding, rotary angles, lengths set back; once a forward.
    "once": Piece(4.0, 12),
}
"""Pieces of an unfused forward, by name."""
