"""Hardware as its datasheet states it: nothing fitted, nothing derated, every number with its source."""

from __future__ import annotations

from itertools import pairwise
from typing import Self

from pydantic import Field, model_validator

from nfp_model.errors import UnsupportedError, nearest, unknown_name
from nfp_model.quantities import ELEMENT_TYPES, ElementType, element_type
from nfp_model.specs.base import Spec

FLOP_RATES = ("float32", "tf32", "float16", "bfloat16", "fp8", "int8", "fp4")
"""Keys a table of dense peaks may have."""

CLOCK_TOLERANCE = 0.01
"""Rounding of printed peaks [-]: 312 TFLOP/s on an A100 implies 1411 MHz against a 1410 MHz boost clock."""

HIGHEST_RATIO = {"float32": 1.0, "tf32": 0.5, "float16": 1.0, "fp8": 2.0, "int8": 4.0}
"""Highest dense peak over the bf16 peak [-]. Halving the operand doubles the rate; int8 has twice that room because
GeForce cards halve bf16 and fp8, not int8, when they accumulate in float32 (NVIDIA Ada, RTX Blackwell whitepapers)."""

HIGHEST_FP4_RATIO = 3.2
"""Highest dense fp4 peak over the faster 8-bit peak [-]: 2 by halving the operand, 14 / 4.5 on Blackwell Ultra, whose
fp4 pipes alone were widened (NVIDIA Blackwell Ultra datasheet); a sparse fp4 number stands at 4."""

RATIO_TOLERANCE = 0.03
"""Rounding of printed peaks [-]: the L40S datasheet prints 733 fp8 beside 362.05 bf16, a ratio of 2.025."""


class MatrixInstruction(Spec):
    """Native matrix-instruction shape, the floor of every tile.

    Attributes
    ----------
    name : str
        Instruction family, for example ``wgmma``.
    rows, columns, depth : int
        M x N x K of the smallest 16-bit instruction [elements].
    swappable : bool
        Whether kernels put the tokens on the N side, so that ``columns`` is the token quantum.

    Examples
    --------
    Hopper's ``wgmma`` is 64 rows by 8 to 256 columns (PTX ISA); with the operands swapped, tokens come in eights.

    >>> MatrixInstruction(name="wgmma", rows=64, columns=8, depth=16).token_quantum
    8
    """

    name: str
    rows: int = Field(gt=0)
    columns: int = Field(gt=0)
    depth: int = Field(gt=0)
    swappable: bool = True

    @property
    def token_quantum(self) -> int:
        """Smallest number of token rows one instruction works on [rows]."""
        return min(self.rows, self.columns) if self.swappable else self.rows


class DefaultTile(Spec):
    """Tiles assumed where no kernel library is known for the chip; they follow from the matrix instruction.

    Attributes
    ----------
    token_rows : tuple of int
        Token-side tile sizes a GEMM may choose from [rows].
    output_columns : tuple of int
        Output-feature tile sizes [columns].
    attention_rows : int
        Query rows of one attention tile [rows].
    moe_rows : tuple of int
        Expert block sizes [rows].

    Each menu is in ascending order, so that its first entry is the smallest tile.
    """

    token_rows: tuple[int, ...]
    output_columns: tuple[int, ...]
    attention_rows: int = Field(gt=0)
    moe_rows: tuple[int, ...]

    @model_validator(mode="after")
    def _check_menus(self) -> Self:
        for name in ("token_rows", "output_columns", "moe_rows"):
            sizes = getattr(self, name)
            if not sizes or sizes[0] < 1 or any(small >= large for small, large in pairwise(sizes)):
                raise ValueError(f"{name} must be ascending sizes above 0, got {list(sizes)}")
        return self


class Interconnect(Spec):
    """Links between accelerators.

    Attributes
    ----------
    scale_up_bandwidth_bytes_per_s : float or None
        One direction, per GPU, inside the scale-up domain [B/s]; half of a datasheet's bidirectional figure.
    scale_up_domain : int
        GPUs that share it [GPUs]; 1 where the board decides and the chip's papers do not.
    scale_up_name : str
        For example ``NVLink 4``.
    host_bandwidth_bytes_per_s : float or None
        One direction of the host link [B/s]: PCIe, or NVLink-C2C on the Grace superchips.
    scale_out_bandwidth_bytes_per_s : float or None
        One direction between nodes, per GPU [B/s].
    """

    scale_up_bandwidth_bytes_per_s: float | None = Field(default=None, gt=0)
    scale_up_domain: int = Field(default=1, ge=1)
    scale_up_name: str = ""
    host_bandwidth_bytes_per_s: float | None = Field(default=None, gt=0)
    scale_out_bandwidth_bytes_per_s: float | None = Field(default=None, gt=0)


class HardwareSpec(Spec):
    """One accelerator, from public datasheets.

    Attributes
    ----------
    name, title, vendor : str
        Key, printed name, maker.
    aliases : tuple of str
        Short names that mean this device.
    architecture : str
        ``sm80``, ``sm86``, ``sm89``, ``sm90``, ``sm100``, ``sm103``, ``sm120``, ``cdna3``, ``cdna4``, ``tpu``: what
        kernel files are keyed by.
    generation : str
        ``ampere``, ``ada``, ``hopper``, ``blackwell``, ``blackwell_rtx``, ``cdna``, ``tpu``: what calibrations leave
        out.
    sm_count : int
        Streaming multiprocessors, compute units or TensorCores enabled [-].
    boost_clock_hz : float or None
        Vendor's maximum clock [Hz]; None when unpublished.
    flop_per_clock_per_sm : float or None
        Dense bf16 matrix FLOP per clock per SM, CU or TensorCore [FLOP], for the clock check.
    peak_flop_per_s : dict
        Dense peak per data type [FLOP/s]; 1 multiply-add = 2 FLOP; never a sparse number.
    memory_bandwidth_bytes_per_s : float
        Datasheet peak [B/s], decimal.
    memory_bytes : float
        Usable device memory [B]: what the driver reports where that is public, else the marketing number in decimal
        bytes.
    l2_bytes : float or None
        Last-level on-chip cache kernels can hit [B]. Vendors print caches in units of 2^20 B: an "L2 of 40 MB" is
        41 943 040 B, as the driver says. On AMD it is the Infinity Cache; TPUs have none.
    shared_memory_bytes_per_sm : float or None
        Shared memory (AMD: LDS) of one SM [B].
    shared_memory_bytes_per_cta : float or None
        Most that one thread block can opt in to [B].
    max_ctas_per_sm, max_threads_per_sm, registers_per_sm : int or None
        Occupancy limits: thread blocks, threads, 32-bit registers [-]; None where the vendor states none.
    matrix_instruction : MatrixInstruction
        Native shape.
    default_tile : DefaultTile
        Granularity assumed without a kernel library.
    interconnect : Interconnect
        Links.
    power_w : float or None
        Board power [W].
    sources : dict
        Field path -> where the number is printed. Every number has one, and nothing else has.
    notes : tuple of str
        Conflicts between sources and how this file settles them.

    Raises
    ------
    SpecError
        From :meth:`from_toml`, when a peak looks sparse (it implies a clock above boost, or stands too far above the
        other peaks), when a tile is no whole number of instructions, when a number has no source or a source no
        number.

    Examples
    --------
    >>> from nfp_model import load_hardware
    >>> h100 = load_hardware("h100")
    >>> round(h100.ridge_point("bfloat16"))
    295
    """

    name: str
    title: str
    vendor: str
    aliases: tuple[str, ...] = ()
    architecture: str
    generation: str
    sm_count: int = Field(gt=0)
    boost_clock_hz: float | None = Field(default=None, gt=0)
    flop_per_clock_per_sm: float | None = Field(default=None, gt=0)
    peak_flop_per_s: dict[str, float]
    memory_bandwidth_bytes_per_s: float = Field(gt=0)
    memory_bytes: float = Field(gt=0)
    l2_bytes: float | None = Field(default=None, gt=0)
    shared_memory_bytes_per_sm: float | None = Field(default=None, gt=0)
    shared_memory_bytes_per_cta: float | None = Field(default=None, gt=0)
    max_ctas_per_sm: int | None = Field(default=None, gt=0)
    max_threads_per_sm: int | None = Field(default=None, gt=0)
    registers_per_sm: int | None = Field(default=None, gt=0)
    matrix_instruction: MatrixInstruction
    default_tile: DefaultTile
    interconnect: Interconnect = Interconnect()
    power_w: float | None = Field(default=None, gt=0)
    sources: dict[str, str]
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_itself(self) -> Self:
        self._check_peaks()
        self._check_clock()
        self._check_on_chip()
        self._check_sources()
        return self

    def _check_peaks(self) -> None:
        for key, value in self.peak_flop_per_s.items():
            if key not in FLOP_RATES:
                raise ValueError(f"unknown peak '{key}'; allowed: {', '.join(FLOP_RATES)}")
            if not value > 0:
                raise ValueError(f"peak_flop_per_s.{key} must be above 0, got {value!r}")
        if "bfloat16" not in self.peak_flop_per_s:
            raise ValueError("peak_flop_per_s needs 'bfloat16'")
        for key, highest in HIGHEST_RATIO.items():
            self._check_ratio(key, "bfloat16", highest)
        eight_bit = [key for key in ("fp8", "int8") if key in self.peak_flop_per_s]
        if eight_bit:
            self._check_ratio("fp4", max(eight_bit, key=self.peak_flop_per_s.__getitem__), HIGHEST_FP4_RATIO)

    def _check_ratio(self, key: str, reference: str, highest: float) -> None:
        ratio = self.peak_flop_per_s.get(key, 0.0) / self.peak_flop_per_s[reference]
        if ratio > highest * (1 + RATIO_TOLERANCE):
            raise ValueError(
                f"peak_flop_per_s.{key} is {ratio:.3g} times the {reference} peak, "
                f"where at most {highest:g} times is possible; is it a sparse number?"
            )

    def _check_clock(self) -> None:
        clock, boost = self.implied_clock_hz, self.boost_clock_hz
        if clock is not None and boost is not None and clock > boost * (1 + CLOCK_TOLERANCE):
            raise ValueError(
                f"peak_flop_per_s.bfloat16 = {self.peak_flop_per_s['bfloat16']:.4g} implies a clock of "
                f"{clock / 1e6:.0f} MHz, above the boost clock of {boost / 1e6:.0f} MHz; is it a sparse number?"
            )

    def _check_on_chip(self) -> None:
        quantum = self.matrix_instruction.token_quantum
        tiles = (*self.default_tile.token_rows, *self.default_tile.moe_rows, self.default_tile.attention_rows)
        for rows in tiles:
            if rows % quantum:
                name = self.matrix_instruction.name
                raise ValueError(f"default_tile has {rows} rows, no multiple of the {quantum} rows of {name}")
        per_sm, per_cta = self.shared_memory_bytes_per_sm, self.shared_memory_bytes_per_cta
        if per_sm is not None and per_cta is not None and per_cta > per_sm:
            raise ValueError(f"shared_memory_bytes_per_cta = {per_cta:g} is more than the {per_sm:g} of the whole SM")

    def _check_sources(self) -> None:
        paths = self._numbered_fields()
        missing = [path for path in paths if not self.sources.get(path, "").strip()]
        if missing:
            raise ValueError(f"no source given for {', '.join(missing)}")
        for extra in self.sources:
            if extra not in paths:
                near = nearest(extra, paths, count=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise ValueError(f"sources has '{extra}', but the file gives no such number{hint}")

    def _numbered_fields(self) -> list[str]:
        simple = [
            "sm_count", "boost_clock_hz", "flop_per_clock_per_sm", "memory_bandwidth_bytes_per_s", "memory_bytes",
            "l2_bytes", "shared_memory_bytes_per_sm", "shared_memory_bytes_per_cta", "max_ctas_per_sm",
            "max_threads_per_sm", "registers_per_sm", "power_w",
        ]  # fmt: skip
        links = ["scale_up_bandwidth_bytes_per_s", "host_bandwidth_bytes_per_s", "scale_out_bandwidth_bytes_per_s"]
        paths = [name for name in simple if getattr(self, name) is not None]
        paths += [f"peak_flop_per_s.{key}" for key in self.peak_flop_per_s]
        paths += [f"interconnect.{name}" for name in links if getattr(self.interconnect, name) is not None]
        if self.interconnect.scale_up_domain > 1:
            paths.append("interconnect.scale_up_domain")
        return [*paths, "matrix_instruction", "default_tile"]

    @property
    def implied_clock_hz(self) -> float | None:
        """Clock at which the bf16 peak is reached [Hz]: peak / (SM count x FLOP per clock per SM)."""
        if self.flop_per_clock_per_sm is None:
            return None
        return self.peak_flop_per_s["bfloat16"] / (self.sm_count * self.flop_per_clock_per_sm)

    def matrix_rate_key(self, weight_dtype: str, activation_dtype: str = "bfloat16") -> str:
        """Which dense peak a GEMM with these types runs at.

        A format's own pipe where the chip has it. Weight-only formats (int4, mxfp4) are expanded to the activations' type, and
        so is any other narrow format the chip has no pipe for, if an engine runs it here with a weight-only kernel
        (:meth:`expands_weights`): fp8 on Ampere and nvfp4 on Hopper through Marlin.

        Parameters
        ----------
        weight_dtype, activation_dtype : str
            Data types of the two operands, see :data:`nfp_model.quantities.ELEMENT_TYPES`.

        Raises
        ------
        UnsupportedError
            When this chip has no such matrix rate; the message lists the data types it can run.

        Examples
        --------
        >>> from nfp_model import load_hardware
        >>> load_hardware("a100").matrix_rate_key("int4")
        'bfloat16'
        >>> load_hardware("h100").matrix_rate_key("nvfp4"), load_hardware("b200").matrix_rate_key("nvfp4")
        ('bfloat16', 'fp4')
        """
        weights, activations = element_type(weight_dtype), element_type(activation_dtype)
        key = self._matrix_rate(weights, activations)
        if key is None:
            able = [known.name for known in ELEMENT_TYPES.values() if self._matrix_rate(known, activations)]
            raise UnsupportedError(f"{self.title} has no matrix rate for {weights.name}; it can run {', '.join(able)}")
        return key

    def _matrix_rate(self, weights: ElementType, activations: ElementType) -> str | None:
        own = weights.matrix_rate
        if own is not None and (
            own in self.peak_flop_per_s or not self.expands_weights(weights.name, activations.name)
        ):
            return own if own in self.peak_flop_per_s else None
        return activations.matrix_rate if activations.matrix_rate in self.peak_flop_per_s else None

    def expands_weights(self, weight_dtype: str, activation_dtype: str = "bfloat16") -> bool:
        """Whether weights of a format with a matrix rate are expanded here for want of it.

        True where the chip lacks the pipe, the format is narrower than the activations, and an engine's defaults name a
        weight-only kernel for it on this architecture (vLLM: Marlin).

        Examples
        --------
        >>> from nfp_model import load_hardware
        >>> [load_hardware(name).expands_weights("fp8") for name in ("a100", "h100", "tpu_v5e")]
        [True, False, False]
        """
        # The kernel files are read by the registry, which knows this class.
        from nfp_model.specs.kernel_library import has_weight_only_kernel

        weights, activations = element_type(weight_dtype), element_type(activation_dtype)
        if (
            weights.matrix_rate is None
            or weights.matrix_rate in self.peak_flop_per_s
            or weights.bits >= activations.bits
        ):
            return False
        return has_weight_only_kernel(self.architecture, weights.name)

    def peak(self, weight_dtype: str, activation_dtype: str = "bfloat16") -> float:
        """Dense matrix peak for these types [FLOP/s]; see :meth:`matrix_rate_key`."""
        return self.peak_flop_per_s[self.matrix_rate_key(weight_dtype, activation_dtype)]

    def ridge_point(self, rate: str = "bfloat16") -> float:
        """Hardware balance: peak over bandwidth [FLOP/B]; the arithmetic intensity where compute takes over.

        The ridge of the roofline (Williams, Waterman and Patterson, CACM 52(4), 2009): ``peak / bandwidth``.

        Parameters
        ----------
        rate : str
            Key of ``peak_flop_per_s``.

        Raises
        ------
        UnknownNameError
            When this chip has no such peak.

        Examples
        --------
        >>> from nfp_model import load_hardware
        >>> round(load_hardware("h200").ridge_point("fp8"))
        412
        """
        if rate not in self.peak_flop_per_s:
            raise unknown_name(f"matrix rate of {self.title}", rate, self.peak_flop_per_s)
        return self.peak_flop_per_s[rate] / self.memory_bandwidth_bytes_per_s
