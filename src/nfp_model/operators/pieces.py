"""What runs between the matrix products: one fused kernel a piece in inference engines, many small ones in transformers.

Bytes count each kernel's reads and writes; launches were counted by torch's profiler (``validation/data/h100/elementwise.csv``)
but for ``grouped_router`` and ``once``, counted in the source and inferred from what a profiled forward leaves, and with ``rotary``
weighted as said there. They agree with the source: transformers 5.17, ``modeling_llama.py``, ``modeling_qwen3_moe.py``,
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
    launches, several_rows_launches, reductions : int
        As in :class:`~nfp_model.operators.records.Elementwise`.
    """

    bytes_per_element: float
    launches: int
    several_rows_launches: int = 0
    reductions: int = 0

    def of(self, width: float, times: int = 1) -> Elementwise:
        """The piece on rows of ``width`` elements; ``times`` of them in a row share the width between them.

        Examples
        --------
        >>> UNFUSED["rms_norm"].of(4096).launches
        8
        """
        return Elementwise(
            self.bytes_per_element * width,
            launches=times * self.launches,
            several_rows_launches=times * self.several_rows_launches,
            reductions=times * self.reductions,
        )


UNFUSED: dict[str, Piece] = {
    # To float32, square, mean, add, rsqrt, scale, back to 16 bits, weight. The mean counts as two reductions: 2.5 us with one
    # row and 9.3 with 64 (torch's profiler, Llama-3.1-8B on H100).
    "rms_norm": Piece(36.0, 8, reductions=2),
    "residual": Piece(6.0, 1),
    # Queries and keys each: times cos, halves turned (negate, concatenate), times sin, add: ten kernels, of which the six that
    # broadcast or concatenate take half as long again as a plain one.
    "rotary": Piece(20.0, 13),
    # Positions (range, add), length (add), keys and values copied to their places.
    "cache_update": Piece(4.0, 5),
    "activation": Piece(10.0, 2),
    # Softmax, top-k (search and sort), sum, division: the first four reduce or search; over groups also biases, masks, a sum of
    # two and a second top-k.
    "router": Piece(10.0, 5, reductions=4),
    "grouped_router": Piece(40.0, 22, reductions=8),
    # Heads side by side again: a copy, unless there is one position.
    "attention_output": Piece(4.0, 0, several_rows_launches=1),
    # The same in a forward, with rotary on views of the projections that are strided from two positions on: three launches
    # more, in time.
    "strided_heads": Piece(4.0, 0, several_rows_launches=4),
    # Embedding, rotary angles, lengths set back; once a forward.
    "once": Piece(4.0, 21),
}
"""Pieces of an unfused forward, by name."""
