"""Units and element types: SI floats inside, prefixes only where a person reads them.

Bytes are decimal here as on every datasheet; a test holds ``SI`` to the SI brochure's powers of ten.
"""

from __future__ import annotations

from dataclasses import dataclass

from nfp_model.errors import InvalidArgumentError, unknown_name

SI: dict[str, float] = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "m": 1e-3, "u": 1e-6, "n": 1e-9}
"""SI prefixes and their factors (SI brochure, 9th edition, table 7)."""


@dataclass(frozen=True)
class ElementType:
    """One storage format of weights, activations or cache.

    Attributes
    ----------
    name : str
        Key used in specs and arguments.
    bits : float
        Bits per element [bit], scale bytes included.
    matrix_rate : str or None
        Key of the dense peak a GEMM with such weights uses; None when the weights are expanded and the
        activations' own type decides (weight-only quantisation).
    source : str
        Where the scale layout is stated.
    kernels_of : str
        Format whose kernels and constants serve this one: scales of another density, the same kernel; empty for its own.
    """

    name: str
    bits: float
    matrix_rate: str | None
    source: str
    kernels_of: str = ""

    @property
    def kernel_format(self) -> str:
        """The name kernel rules and constants know this format by."""
        return self.kernels_of or self.name

    @property
    def bytes(self) -> float:
        """Bytes per element [B], scale bytes included."""
        return self.bits / 8.0


_TYPES = (
    ElementType("float32", 32, "float32", "IEEE 754 binary32"),
    ElementType("float16", 16, "float16", "IEEE 754 binary16"),
    ElementType("bfloat16", 16, "bfloat16", "bfloat16"),
    ElementType("fp8", 8, "fp8", "OCP FP8 e4m3; one scale a tensor or channel, not counted"),
    ElementType("fp8_block", 8 + 32 / (128 * 128), "fp8", "DeepSeek-V3: e4m3 with one float32 scale per 128x128 block"),
    ElementType("int8", 8, "int8", "one scale a channel, not counted"),
    ElementType(
        "int8_w8a16", 8 + 16 / 128, None, "GPTQ: 8 bits and one 16-bit scale per group of 128, expanded to 16-bit math"
    ),
    ElementType("int4", 4 + 16 / 128, None, "Marlin README: 4 bits and one fp16 scale per group of 128 (4.125 bits)"),
    ElementType("int4_g64", 4 + 16 / 64, None, "GPTQ, AWQ: 4 bits and one 16-bit scale per group of 64", "int4"),
    ElementType(
        "int4_g32", 4 + 16 / 32, None, "compressed-tensors pack-quantized: one 16-bit scale per group of 32", "int4"
    ),
    ElementType("nvfp4", 4 + 8 / 16, "fp4", "NVFP4: e2m1 with one fp8 scale per 16 elements (4.5 bits)"),
    ElementType("nvfp4_w4a16", 4 + 8 / 16, None, "ModelOpt W4A16_NVFP4: NVFP4 storage, expanded to 16-bit math"),
    ElementType("mxfp4", 4 + 8 / 32, None, "OCP MX: e2m1 with one e8m0 scale per 32 elements (4.25 bits)"),
    ElementType("mxfp4_w4a8", 4 + 8 / 32, "fp8", "MXFP4 storage, multiplied with MXFP8 activations at the 8-bit rate"),
)

ELEMENT_TYPES: dict[str, ElementType] = {t.name: t for t in _TYPES}
"""Every storage format the library knows, by name."""

_ALIASES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float": "float32",
    "e4m3": "fp8",
    "fp4": "nvfp4",
}


def element_type(name: str) -> ElementType:
    """Look a storage format up by name or common alias.

    Parameters
    ----------
    name : str
        ``bfloat16``, ``fp8``, ``fp8_block``, ``int4``, ... or an alias such as ``bf16``.

    Raises
    ------
    UnknownNameError
        For a name that is none of them.

    Examples
    --------
    >>> element_type("int4").bits
    4.125
    >>> element_type("bf16").bytes
    2.0
    """
    key = _ALIASES.get(name, name)
    if key not in ELEMENT_TYPES:
        raise unknown_name("data type", name, [*ELEMENT_TYPES, *_ALIASES])
    return ELEMENT_TYPES[key]


def canonical_dtype(name: str) -> str:
    """The one spelling of a data type's name.

    Examples
    --------
    >>> canonical_dtype("bf16")
    'bfloat16'
    """
    return element_type(name).name


def format_si(value: float, unit: str, digits: int = 3) -> str:
    """A value with the SI prefix people expect.

    Parameters
    ----------
    value : float
        In the plain unit.
    unit : str
        Unit symbol the prefix goes before.
    digits : int
        Significant digits.

    Examples
    --------
    >>> format_si(3.35e12, "B/s")
    '3.35 TB/s'
    >>> format_si(1.065e-3, "s")
    '1.06 ms'
    """
    if digits < 1:
        raise InvalidArgumentError(f"digits must be at least 1, got {digits!r}")
    if value == 0:
        return f"0 {unit}"
    for prefix, factor in sorted(SI.items(), key=lambda item: -item[1]):
        if abs(value) >= factor:
            return f"{value / factor:.{digits}g} {prefix}{unit}"
    return f"{value / SI['n']:.{digits}g} n{unit}"
