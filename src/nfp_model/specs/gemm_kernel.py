"""How a dense GEMM library tiles its token rows: a menu it may choose from, or a dispatch rule read in its source."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from nfp_model.quantities import ELEMENT_TYPES
from nfp_model.specs.base import Spec

GemmSelection = Literal["menu", "dispatch", "deepgemm_sm90", "deepgemm_sm100", "cutedsl_sm100"]
"""``menu``: the cheapest tile of a menu; ``dispatch``: the first row whose conditions hold; the rest: scoring rules in code."""


class GemmRow(Spec):
    """One row of a dispatch rule: where it holds and the tile it gives.

    Attributes
    ----------
    min_rows, max_rows : int or None
        Token rows M the row holds for, both ends included; None is open [rows].
    rows_multiple_of, rows_not_multiple_of : int or None
        Divisibility of M the row asks for [rows].
    min_out_features, max_out_features, min_in_features, max_in_features : int or None
        Range of n and k, ends included [elements].
    max_tiles_per_sm, over_tiles_per_sm : float or None
        The row holds while its tiles (before splits and clusters) number at most, or more than, this many per SM [-].
    token_tile : int
        Token-side tile of one CTA [rows]; 0 for a kernel compiled for the exact number of rows.
    output_tile : int
        Output-feature tile of one CTA [columns].
    cluster : tuple of int
        CTAs per cluster along (tokens, outputs); tile counts are rounded up to it [CTAs].
    source : str or None
        Where the row is stated, when not where the kernel is.
    """

    min_rows: int = Field(default=1, ge=1)
    max_rows: int | None = Field(default=None, ge=1)
    rows_multiple_of: int | None = Field(default=None, gt=1)
    rows_not_multiple_of: int | None = Field(default=None, gt=1)
    min_out_features: int = Field(default=1, ge=1)
    max_out_features: int | None = Field(default=None, ge=1)
    min_in_features: int = Field(default=1, ge=1)
    max_in_features: int | None = Field(default=None, ge=1)
    max_tiles_per_sm: float | None = Field(default=None, gt=0)
    over_tiles_per_sm: float | None = Field(default=None, gt=0)
    token_tile: int = Field(ge=0)
    output_tile: int = Field(gt=0)
    cluster: tuple[int, int] = (1, 1)
    source: str | None = None

    @property
    def label(self) -> str:
        """The row in words, for explanations."""
        high = "" if self.max_rows is None else f" <= {self.max_rows}"
        low = f"{self.min_rows} <= " if self.min_rows > 1 else ""
        rows = f"{low}T{high}" if low or high else "any T"
        parts = [rows]
        if self.rows_multiple_of:
            parts.append(f"T % {self.rows_multiple_of} = 0")
        if self.rows_not_multiple_of:
            parts.append(f"T % {self.rows_not_multiple_of} > 0")
        for name, low_end, high_end in (
            ("n", self.min_out_features, self.max_out_features),
            ("k", self.min_in_features, self.max_in_features),
        ):
            if low_end > 1:
                parts.append(f"{name} >= {low_end}")
            if high_end is not None:
                parts.append(f"{name} <= {high_end}")
        if self.max_tiles_per_sm:
            parts.append(f"at most {self.max_tiles_per_sm:g} tiles an SM")
        if self.over_tiles_per_sm:
            parts.append(f"over {self.over_tiles_per_sm:g} tiles an SM")
        tile = f"{self.token_tile or 'T'} x {self.output_tile}"
        cluster = "" if self.cluster == (1, 1) else f", cluster {self.cluster[0]} x {self.cluster[1]}"
        return f"{', '.join(parts)}: {tile}{cluster}"


class GemmKernel(Spec):
    """One dense GEMM kernel of a library.

    Attributes
    ----------
    name, library : str
        Key within its file, and the file's name (set on loading).
    weight_dtypes : tuple of str
        Weight formats it serves.
    selection : str
        See :data:`GemmSelection`.
    hard_waves : bool
        A last partial wave costs a whole one. Always so for a dispatch row unless ``stream_k``; a menu stands for kernels
        unknown in detail and defaults to fractional waves.
    stream_k : bool
        Work is divided evenly over the SMs whatever the tile count (stream-K, striped partitioning).
    idle_rows_slow : bool
        Dispatch: where more than one row tile runs, tiles with rows outside M are slower than full ones (seen on Hopper: the time
        falls while M fills the last tile).
    idle_tile_rows : int
        Dispatch: rows outside M slow tiles of at least this many rows, one alone too, and no smaller ones [rows]; 0: any tile where more
        than one row tile runs.
    idle_rows_reread : bool
        Dispatch: there a partly filled last tile also reads its idle share of the weights anew (seen with DeepGEMM on Hopper).
    slow_blocks : tuple of (int, int)
        DeepGEMM: blocks (tokens, outputs) that run slower where no cluster shares their loads.
    slow_factor : float
        How much longer such a block takes for its matrix instructions [-].
    quantizing_bytes : float
        Bytes an input element moves in launches that quantise it before the product and are timed with it, counted at the weights'
        rate (more than they are where those launches are slower) [B]; 0 where the input is already quantised or the passes do not show.
    clustered_sms : float
        Dispatch: share of the SMs that clusters of more than two CTAs fill in a wave; a cluster must lie within one part of the chip [-].
    small_input_bytes : float
        Dispatch: while the quantised input, scales left out, is smaller, the weights stream more slowly (seen with tiles of 128 rows on
        RTX Blackwell) [B].
    small_input_slow : float
        How much longer the stream then takes, over its time [-].
    few_rows : int
        Rows up to which a kernel without tiles runs instead, on CUDA cores [rows].
    few_rows_stream : float
        Time of its memory stream over that of the others [-].
    token_tiles, output_tiles : tuple of int
        Menu: bm and bn [rows], [columns].
    max_tile_area : int
        Menu: largest bm x bn [elements].
    splits : tuple of int
        Menu: split-K counts s [-].
    rows : tuple of GemmRow
        Dispatch: ordered rows, first match wins.
    min_rows, max_rows : int or None
        M the kernel's rule is known for [rows]; outside, a prediction says so.
    inferred : bool
        The rule was inferred from measured steps or traces, not read in source.
    source, versions : str
        Public source and the library versions read.
    notes : tuple of str
        What the rule leaves out.
    """

    name: str
    library: str = ""
    weight_dtypes: tuple[str, ...]
    selection: GemmSelection
    hard_waves: bool = False
    stream_k: bool = False
    idle_rows_slow: bool = False
    idle_tile_rows: int = Field(default=0, ge=0)
    idle_rows_reread: bool = False
    slow_blocks: tuple[tuple[int, int], ...] = ()
    slow_factor: float = Field(default=1.0, ge=1.0)
    quantizing_bytes: float = Field(default=0.0, ge=0.0)
    clustered_sms: float = Field(default=1.0, gt=0.0, le=1.0)
    small_input_bytes: float = Field(default=0.0, ge=0.0)
    small_input_slow: float = Field(default=0.0, ge=0.0)
    few_rows: int = Field(default=0, ge=0)
    few_rows_stream: float = Field(default=1.0, gt=0.0)
    token_tiles: tuple[int, ...] = ()
    output_tiles: tuple[int, ...] = ()
    max_tile_area: int = Field(default=32768, gt=0)
    splits: tuple[int, ...] = (1,)
    rows: tuple[GemmRow, ...] = ()
    min_rows: int = Field(default=1, ge=1)
    max_rows: int | None = Field(default=None, ge=1)
    inferred: bool = False
    source: str = Field(min_length=1)
    versions: str = ""
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_itself(self) -> Self:
        unknown = set(self.weight_dtypes) - set(ELEMENT_TYPES)
        if unknown:
            raise ValueError(f"unknown weight data type '{min(unknown)}'; allowed: {', '.join(ELEMENT_TYPES)}")
        if (self.selection == "menu") != bool(self.token_tiles and self.output_tiles):
            raise ValueError(
                f"kernel '{self.name}': token_tiles and output_tiles belong to selection 'menu', and it needs both"
            )
        if (self.selection == "dispatch") != bool(self.rows):
            raise ValueError(f"kernel '{self.name}': rows belong to selection 'dispatch', and it needs at least one")
        return self

    @property
    def key(self) -> str:
        """``library_arch:kernel``."""
        return f"{self.library}:{self.name}"


__all__ = ["GemmKernel", "GemmRow", "GemmSelection"]
