"""How an attention kernel tiles query positions and splits the cache."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from nfp_model.quantities import ELEMENT_TYPES
from nfp_model.specs.base import Spec

Packing = Literal["free", "aligned", "heads", "none"]
"""What shares a query tile's rows: ``free``: (head of the group, position) pairs, tiles may cut through a position;
``aligned``: whole positions only; ``heads``: the group's heads of one position; ``none``: positions of one head."""

TileRule = Literal["fixed", "group", "group_power_of_two", "packed_power_of_two", "trtllm_gen"]
"""How many rows a tile has: as stated; the GQA group; the group's or the packed length's next power of two, at least
``tile_rows``; TRT-LLM-gen's ladder with its cost factors."""

SplitRule = Literal[
    "none", "fa2", "fa3", "fa4", "flashinfer", "trtllm_gen", "sglang_triton", "segments", "flex", "flashmla", "xqa", "mmha", "fill"
]  # fmt: skip
"""Name of the KV-split rule; each is a function of :mod:`nfp_model.kernels.attention_splits`."""


class AttentionRow(Spec):
    """One mode of an attention kernel: where it holds and how it tiles.

    Attributes
    ----------
    min_positions, max_positions : int or None
        Query positions N per sequence, ends included [positions].
    min_packed, max_packed : int or None
        Packed query length, ends included [rows]; see ``packed_length``.
    packed_length : {"own", "graph_worst"}
        N g of one sequence, or the longest one a captured graph of B N rows may hold, (B N - B + 1) g.
    min_group, max_group : int or None
        GQA group size g (all query heads for MLA) [heads].
    min_head_dim, max_head_dim : int or None
        d_k [elements].
    max_batch : int or None
        Sequences [-].
    max_useful_tiles : int or None
        The row holds while B x n_kv x tiles(N) is at most this [-].
    max_tiles_per_sm : float or None
        The same limit per SM of the GPU [-].
    min_key_blocks_per_sm : float or None
        The row holds from B x n_kv x max(1, floor(keys / 128)) blocks of keys per SM of the GPU on [-].
    max_split_keys : int or None
        The row holds while splits that fill the SMs once, of 256 keys at least, have at most this many keys [tokens].
    windowed, causal : bool or None
        Asks for a sliding window (or none), for a causal mask among the new positions (or none).
    tile_rule, tile_rows : str, int
        See :data:`TileRule` [rows].
    packing : str
        See :data:`Packing`.
    split_rule : str
        See :data:`SplitRule`.
    splits_whole_cache : bool
        Splits are planned for all cached tokens even where a window hides most of them.
    kv_block : int
        Keys of one step of the kernel's loop, the split's unit [tokens].
    max_splits : int or None
        Cap on KV splits [-]; the count itself for ``segments``.
    width_parts : int
        CTAs that share a tile's value width, each walking all of its keys [-].
    splits_width : bool
        Where SMs are idle, two or four CTAs share a tile's value width instead (:func:`.attention_splits.width_parts`).
    resident : int
        CTAs per SM, o [-].
    resident_cost : float
        Time of o CTAs that share an SM over that of one alone [-].
    split_threads : int or None
        For ``mmha``: threads of a CTA of the kernel that splits, of which an SM holds one; ``resident`` is then how many CTAs of
        256 threads an SM holds of the kernel that does not [threads].
    launches_all_splits : bool
        Whether a CTA starts for every split the grid has room for, those without keys ending at once.
    sequences_first : bool
        The grid runs through all sequences before the next query tile of the first: its keys are read again from memory.
    exposed_starts : bool
        A CTA's start and end do not overlap another CTA's stream, as in a persistent kernel of one CTA per SM.
    max_planned : int or None
        Most sequences that are planned one by one on the device; None for any number [-].
    regroups : bool
        With several KV heads and sequences, queries and outputs are copied once so that a group's heads lie together.
    combine_splits : float or None
        Where a kernel of its own combines the splits one after the other: how many take as long as its start; None where they
        are combined pairwise [-].
    combine_kernel : bool
        Splits are combined by a kernel of its own, which starts when every split has ended.
    masked_blocks : int
        KV blocks a CTA steps through besides, without reading them, where a window hides keys [-].
    fixed_share : float
        Fixed time over that of the library's main kernel, which others prepare [-].
    start_cost, step_cost : float
        Time of a CTA's start and end, and of a key step, over those of the library's main kernel [-].
    source : str or None
        Where the row is stated, when not where the kernel is.
    """

    min_positions: int = Field(default=1, ge=1)
    max_positions: int | None = Field(default=None, ge=1)
    min_packed: int = Field(default=1, ge=1)
    max_packed: int | None = Field(default=None, ge=1)
    packed_length: Literal["own", "graph_worst"] = "own"
    min_group: int = Field(default=1, ge=1)
    max_group: int | None = Field(default=None, ge=1)
    min_head_dim: int = Field(default=1, ge=1)
    max_head_dim: int | None = Field(default=None, ge=1)
    max_batch: int | None = Field(default=None, ge=1)
    max_useful_tiles: int | None = Field(default=None, ge=1)
    max_tiles_per_sm: float | None = Field(default=None, gt=0)
    min_key_blocks_per_sm: float | None = Field(default=None, gt=0)
    max_split_keys: int | None = Field(default=None, ge=1)
    windowed: bool | None = None
    causal: bool | None = None
    tile_rule: TileRule = "fixed"
    tile_rows: int = Field(gt=0)
    packing: Packing
    split_rule: SplitRule = "none"
    splits_whole_cache: bool = False
    kv_block: int = Field(default=128, gt=0)
    max_splits: int | None = Field(default=None, ge=1)
    width_parts: int = Field(default=1, ge=1)
    splits_width: bool = False
    resident: int = Field(default=1, ge=1)
    resident_cost: float = Field(default=1.0, ge=1)
    split_threads: int | None = Field(default=None, ge=32)
    exposed_starts: bool = False
    launches_all_splits: bool = False
    sequences_first: bool = False
    max_planned: int | None = Field(default=None, ge=1)
    regroups: bool = False
    combine_splits: float | None = Field(default=None, gt=0)
    combine_kernel: bool = False
    masked_blocks: int = Field(default=0, ge=0)
    fixed_share: float = Field(default=1.0, gt=0)
    start_cost: float = Field(default=1.0, gt=0)
    step_cost: float = Field(default=1.0, gt=0)
    source: str | None = None

    @property
    def label(self) -> str:
        """The row in words, for explanations."""
        parts = []
        for name, low, high in (
            ("N", self.min_positions, self.max_positions),
            ("N g", self.min_packed, self.max_packed),
            ("g", self.min_group, self.max_group),
            ("d", self.min_head_dim, self.max_head_dim),
        ):
            if low == high:
                parts.append(f"{name} = {low}")
            elif low > 1 or high is not None:
                parts.append((f"{low} <= " if low > 1 else "") + name + (f" <= {high}" if high is not None else ""))
        where = ", ".join(parts) or "any N"
        tile = {"fixed": str(self.tile_rows), "group": "g"}.get(
            self.tile_rule, f"{self.tile_rule.replace('_', ' ')} rule"
        )
        return f"{where}: tile {tile}, packing {self.packing}, KV split {self.split_rule}"

    @model_validator(mode="after")
    def _check_residency(self) -> Self:
        if self.resident == 1 and self.resident_cost != 1.0:
            raise ValueError(f"resident_cost {self.resident_cost} compares CTAs that share an SM, but resident is 1")
        if (self.split_rule == "mmha") != (self.split_threads is not None):
            raise ValueError("split_threads belongs to the split rule 'mmha', which needs it")
        return self


class AttentionKernel(Spec):
    """One attention kernel of a library.

    Attributes
    ----------
    name, library : str
        Key within its file, and the file's name (set on loading).
    latent : bool
        Serves MLA in its absorbed form, and nothing else.
    kv_dtypes : tuple of str
        Cache formats it serves.
    rows : tuple of AttentionRow
        Ordered modes, first match wins.
    max_positions : int or None
        Query positions beyond which its use is unknown [positions]; outside, a prediction says so.
    inferred : bool
        Inferred from measured steps or traces, not read in source.
    source, versions : str
        Public source and the library versions read.
    cache_traffic : float
        Bytes moved for every cached byte: more than 1 where the cache is converted to another type first [-].
    eight_bit_math : bool
        An 8-bit cache is multiplied in 8 bits, the queries being quantised too.
    unfilled_exponent : float
        The bandwidth a kernel of few CTAs per SM draws falls with the share of its SM slots that are filled, to this power [-].
    row_cost : float
        Time a CTA takes to fetch 16 query rows of width 128 and to write their outputs, over its start with a tile of 64 [-].
    drops_windows : bool
        A window that covers every cached key counts as none.
    notes : tuple of str
        What the rule leaves out.
    """

    name: str
    library: str = ""
    latent: bool = False
    kv_dtypes: tuple[str, ...] = ("bfloat16", "float16", "fp8")
    rows: tuple[AttentionRow, ...] = Field(min_length=1)
    max_positions: int | None = Field(default=None, ge=1)
    inferred: bool = False
    source: str = Field(min_length=1)
    versions: str = ""
    cache_traffic: float = Field(default=1.0, ge=1)
    eight_bit_math: bool = False
    unfilled_exponent: float = Field(default=0.0, ge=0)
    row_cost: float = Field(default=0.0, ge=0)
    drops_windows: bool = False
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_itself(self) -> Self:
        unknown = set(self.kv_dtypes) - set(ELEMENT_TYPES)
        if unknown:
            raise ValueError(f"unknown cache data type '{min(unknown)}'; allowed: {', '.join(ELEMENT_TYPES)}")
        return self

    @property
    def key(self) -> str:
        """``library_arch:kernel``."""
        return f"{self.library}:{self.name}"


__all__ = ["AttentionKernel", "AttentionRow", "Packing", "SplitRule", "TileRule"]
