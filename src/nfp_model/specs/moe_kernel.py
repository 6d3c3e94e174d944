"""How a fused-MoE kernel cuts the rows of each expert into blocks, as data."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from nfp_model.quantities import ELEMENT_TYPES
from nfp_model.specs.base import Spec
from nfp_model.specs.calibration import MoEConstants

MOST_FITTED = 6
"""Constants a fit may move for one kernel [-]."""

NO_WAVE_TIME_S = 1e-18
"""Stands for none: a derivative of the p-norm needs a positive number [s]."""

SECOND_SAVES = 0.5
"""Share of a re-read that an expert's second block saves, running beside the first; inferred [-]. Balanced curves take two
blocks an expert, power laws many: TRT-LLM-gen on B200 (aiconfigurator-core 0.12.0, vLLM 0.24.0, fit half) re-reads 0.12 of the
weights per further block in the first, 0.22 in the second, and one share fits both where the second block counts half."""

Selection = Literal["rows", "smallest_covering", "occupancy", "next_power_of_two"]
"""``rows``: first row whose conditions hold. ``smallest_covering``: smallest menu tile that holds the rows per expert.
``occupancy``: first menu tile that the rows per expert fill by less than ``fill_limit``. ``next_power_of_two``: the
rows per expert rounded up, doubled where few."""


class MoERow(Spec):
    """One row of a dispatch rule: conditions, then the block they give. A condition left out always holds.

    Attributes
    ----------
    min_tokens, max_tokens : int
        Token rows M entering the layer, both ends included [rows].
    tokens_against_experts : {"at_most", "above"} or None
        M <= E or M > E, with the experts the kernel sees on this rank.
    above_rows_per_expert, up_to_rows_per_expert : float or None
        Rows per expert, lower end excluded, upper included [rows]; see ``MoEKernel.expert_basis``.
    min_up_columns, min_hidden_size : int or None
        Output features of the first grouped GEMM, and its depth [elements].
    block_rows, block_columns : int
        Rows of one expert block, and its output columns [rows], [columns].
    block_depth : int or None
        Elements of k a block takes in one step of its loop [elements]; None where it is not known.
    grouped : bool
        Blocks of one expert run side by side over a column panel, so that its weights stay in cache.
    source : str
        Public source of the row.
    versions : str or None
        Library versions the row was read or seen in; None for the kernel's own.
    inferred : bool
        Inferred from measured steps, not read in source.
    """

    min_tokens: int = Field(default=1, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    tokens_against_experts: Literal["at_most", "above"] | None = None
    above_rows_per_expert: float | None = Field(default=None, ge=0)
    up_to_rows_per_expert: float | None = Field(default=None, gt=0)
    min_up_columns: int | None = Field(default=None, ge=1)
    min_hidden_size: int | None = Field(default=None, ge=1)
    block_rows: int = Field(gt=0)
    block_columns: int = Field(gt=0)
    block_depth: int | None = Field(default=None, gt=0)
    grouped: bool = False
    source: str
    versions: str | None = None
    inferred: bool = False

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.max_tokens is not None and self.max_tokens < self.min_tokens:
            raise ValueError(f"max_tokens {self.max_tokens} is below min_tokens {self.min_tokens}")
        return self

    @property
    def words(self) -> str:
        """The row in words, for example ``33 <= M <= 64: 32 x 64``."""
        parts: list[str] = []
        if self.min_tokens > 1 and self.max_tokens is not None:
            parts.append(f"{self.min_tokens} <= M <= {self.max_tokens}")
        elif self.max_tokens is not None:
            parts.append(f"M <= {self.max_tokens}")
        elif self.min_tokens > 1:
            parts.append(f"M >= {self.min_tokens}")
        if self.tokens_against_experts is not None:
            parts.append("M <= E" if self.tokens_against_experts == "at_most" else "M > E")
        if self.above_rows_per_expert is not None:
            parts.append(f"rows per expert > {self.above_rows_per_expert:g}")
        if self.up_to_rows_per_expert is not None:
            parts.append(f"rows per expert <= {self.up_to_rows_per_expert:g}")
        if self.min_up_columns is not None:
            parts.append(f"N >= {self.min_up_columns}")
        if self.min_hidden_size is not None:
            parts.append(f"K >= {self.min_hidden_size}")
        return f"{', '.join(parts) or 'any M'}: {self.block_rows} x {self.block_columns}"


class TunedShape(Spec):
    """Block sizes tuned for one expert shape on one device; they win over the rule.

    Attributes
    ----------
    devices : tuple of str
        Names of hardware specs the tuning is for; empty for any.
    num_experts : int
        Experts in the weight tensor on one rank [-].
    width : int
        Expert width on one rank (last dimension of the second GEMM's weights) [elements].
    weight_dtypes : tuple of str
        Storage formats.
    tokens : tuple of int
        Keys: the token counts tuned for, in the file's order [rows]. A digest may list only the ends of a run of equal
        tiles.
    block_rows : tuple of int
        Tile of each key [rows].
    block_columns, block_depth : tuple of int or None
        Column tile of each key [columns], and elements of k in one step of its loop [elements]; None where the source lists
        rows only.
    source : str
        The file.
    """

    devices: tuple[str, ...] = ()
    num_experts: int = Field(gt=0)
    width: int = Field(gt=0)
    weight_dtypes: tuple[str, ...]
    tokens: tuple[int, ...] = Field(min_length=1)
    block_rows: tuple[int, ...]
    block_columns: tuple[int, ...] | None = None
    block_depth: tuple[int, ...] | None = None
    source: str

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        _known_dtypes(self.weight_dtypes)
        lists = (self.tokens, self.block_rows, self.block_columns or self.tokens, self.block_depth or self.tokens)
        if len({len(one) for one in lists}) > 1:
            raise ValueError("tokens, block_rows, block_columns and block_depth must have the same length")
        if min(min(one) for one in lists) < 1:
            raise ValueError("tokens, block_rows, block_columns and block_depth must be at least 1")
        return self


class MoEKernel(Spec):
    """One fused-MoE kernel of a library: its block rule and what it reads again.

    Attributes
    ----------
    name : str
        Key inside the library.
    library : str
        Name of the file the kernel is listed in; filled in when the file is read.
    weight_dtypes : tuple of str
        Storage formats it serves.
    versions : str
        Library versions the rule was read in.
    selection : str
        How a block is chosen; see :data:`Selection`.
    rows : tuple of MoERow
        For ``selection = "rows"``, in order; the first that holds decides.
    menu : tuple of int
        Block heights the other selections choose from, rising [rows].
    menu_offset : int
        Steps along the menu from the smallest covering tile, -1 for the next smaller; stops at the menu's ends.
    fill_limit : float or None
        For ``occupancy``: a tile is taken when rows per expert / tile is below it [-].
    double_up_to : int or None
        For ``next_power_of_two``: whole rows per expert up to which the tile is twice as tall as needed [rows].
    double_limit : int or None
        For ``next_power_of_two``: tallest tile of the doubled branch [rows].
    block_columns : int or None
        Column tile where no row gives it [columns].
    expert_basis : {"global", "local"}
        Rows per expert = M k / E with E all experts, or only those on this rank.
    grouped : bool
        For selections other than ``rows``; see :class:`MoERow`.
    grouped_above_tokens_per_expert : int or None
        Blocks are grouped whatever the row says once floor(M/E) exceeds this [rows].
    sparse_path_factor : int or None
        Each (token, expert) pair gets a block of its own when M k times this is at most E, without expert parallelism.
    sparse_path_fixed_share : float
        Fixed time on that path over the fixed time off it, where pairs are sorted and aligned first [-].
    expert_parallel_fixed_share : float
        Fixed time with experts spread over ranks over that without, where experts of others are sorted out in launches of their own [-].
    tuned : tuple of TunedShape
        Shapes with tuned tiles.
    resident_blocks : int
        Blocks an SM works on side by side [-].
    walks_experts : bool
        A persistent tile scheduler walks the list of all experts of this rank, touched or not.
    keeps_local_rows : bool
        Rows of other ranks' experts are dropped before the activation, instead of carried along.
    zeroes_other_rows : bool
        Both GEMMs write zeros for rows of other ranks' experts.
    computes_every_pair : bool
        Rows of other ranks' experts are cut into blocks and multiplied too.
    stored_as : str or None
        Format the engine keeps the weights in once loaded, where it expands the checkpoint's; None for the checkpoint's own.
    expansion_cost : float
        Time of a block over that of a format the same kernel expands for free, in its weight stream and in its products [-].
    tile_depth : int or None
        Elements of k in one step of a block whose stream takes as long for a tile that the expert fills in part, in columns or in
        depth, as for a whole one [elements]; None where that does not show.
    recorded_as : str
        Part of the kernel names of public timings that this rule describes, where the library has several for a format.
    padded_to : int
        Multiple that hidden size and expert width on a rank are filled up to with zeros, in weights and rows [elements].
    second_saves : float
        Share of a re-read that an expert's second block saves; see :data:`SECOND_SAVES` [-].
    evicted_read : float
        Share of what left the cache that a further block reads itself, where blocks are not grouped; the rest another block running
        beside it has just read [-].
    idle_tile : int or None
        Height of the block whose idle rows slow its weight stream [rows].
    idle_cost : float
        Time its stream would take longer if all its rows were idle, over its time without any [-].
    held : dict of str to float
        Constants of the equation that a fit holds at these values for this kernel, so that at most six are fitted.
    source : str
        Public source of the rule.
    inferred : bool
        The rule was inferred from measured steps; ``notes`` says which.
    notes : tuple of str
        What the rule leaves out, or the evidence of an inferred one.

    Examples
    --------
    >>> from nfp_model.specs.kernel_library import load_kernel
    >>> kernel = load_kernel("trtllm_gen_moe:untuned")
    >>> kernel.menu, kernel.menu_offset
    ((8, 16, 32, 64, 128), -1)
    """

    name: str
    library: str = ""
    weight_dtypes: tuple[str, ...]
    versions: str
    selection: Selection = "rows"
    rows: tuple[MoERow, ...] = ()
    menu: tuple[int, ...] = ()
    menu_offset: int = 0
    fill_limit: float | None = Field(default=None, gt=0)
    double_up_to: int | None = Field(default=None, ge=1)
    double_limit: int | None = Field(default=None, ge=1)
    block_columns: int | None = Field(default=None, gt=0)
    expert_basis: Literal["global", "local"] = "global"
    grouped: bool = False
    grouped_above_tokens_per_expert: int | None = Field(default=None, ge=1)
    sparse_path_factor: int | None = Field(default=None, ge=1)
    sparse_path_fixed_share: float = Field(default=1.0, gt=0, le=1)
    expert_parallel_fixed_share: float = Field(default=1.0, ge=1)
    tuned: tuple[TunedShape, ...] = Field(default=(), repr=False)
    resident_blocks: int = Field(default=1, gt=0)
    walks_experts: bool = False
    keeps_local_rows: bool = False
    zeroes_other_rows: bool = False
    computes_every_pair: bool = False
    stored_as: str | None = None
    expansion_cost: float = Field(default=1.0, ge=1)
    tile_depth: int | None = Field(default=None, gt=0)
    recorded_as: str = ""
    padded_to: int = Field(default=1, ge=1)
    second_saves: float = Field(default=SECOND_SAVES, ge=0, le=1)
    evicted_read: float = Field(default=1.0, ge=0, le=1)
    idle_tile: int | None = Field(default=None, ge=1)
    idle_cost: float = Field(default=0.0, ge=0)
    held: dict[str, float] = Field(default_factory=lambda: {"wave_time_s": NO_WAVE_TIME_S, "expert_time_s": 0.0})
    source: str
    inferred: bool = False
    notes: tuple[str, ...] = Field(default=(), repr=False)

    @model_validator(mode="after")
    def _check_itself(self) -> Self:
        _known_dtypes((*self.weight_dtypes, *([self.stored_as] if self.stored_as else [])))
        unknown = sorted(set(self.held) - set(MoEConstants.model_fields))
        if unknown or len(MoEConstants.model_fields) - len(self.held) > MOST_FITTED:
            allowed = ", ".join(MoEConstants.model_fields)
            raise ValueError(f"held {sorted(self.held)} must name all but {MOST_FITTED} of {allowed}")
        if not self.walks_experts and self.held.get("expert_time_s") != 0.0:
            raise ValueError("a kernel that does not walk experts holds expert_time_s at 0")
        if self.selection == "rows":
            if not self.rows or self.menu:
                raise ValueError("selection 'rows' needs rows and no menu")
        else:
            if self.rows or not self.menu or self.block_columns is None:
                raise ValueError(f"selection '{self.selection}' needs a menu and block_columns, and no rows")
            if list(self.menu) != sorted(set(self.menu)) or self.menu[0] < 1:
                raise ValueError("menu must rise from at least 1")
        if (self.selection == "occupancy") != (self.fill_limit is not None):
            raise ValueError("fill_limit belongs to selection 'occupancy', which needs it")
        if (self.idle_tile is None) != (self.idle_cost == 0.0):
            raise ValueError("idle_tile and idle_cost belong together")
        tiles = {*self.menu, *(row.block_rows for row in self.rows)}
        if self.idle_tile is not None and self.idle_tile not in tiles:
            raise ValueError(
                f"idle_tile is {self.idle_tile}; the kernel's tiles have {', '.join(map(str, sorted(tiles)))} rows"
            )
        if self.zeroes_other_rows and (self.keeps_local_rows or self.computes_every_pair):
            raise ValueError("zeroes_other_rows goes with neither keeps_local_rows nor computes_every_pair")
        if self.computes_every_pair and (self.keeps_local_rows or self.idle_tile is not None):
            raise ValueError("computes_every_pair goes with neither keeps_local_rows nor idle_tile")
        doubling = self.double_up_to is not None and self.double_limit is not None
        if (self.selection == "next_power_of_two") != doubling:
            raise ValueError("double_up_to and double_limit belong to selection 'next_power_of_two', which needs both")
        return self

    @property
    def key(self) -> str:
        """``library:kernel``, the name explanations use."""
        return f"{self.library}:{self.name}" if self.library else self.name


def _known_dtypes(names: tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in ELEMENT_TYPES]
    if unknown or not names:
        raise ValueError(f"weight_dtypes {list(names)} must be among {', '.join(ELEMENT_TYPES)}")
