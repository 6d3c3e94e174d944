"""Prefixes and element types against their public definitions."""

from __future__ import annotations

import pytest

from nfp_model.errors import InvalidArgumentError, UnknownNameError
from nfp_model.quantities import ELEMENT_TYPES, SI, element_type, format_si

# SI brochure, 9th edition, table 7: decimal exponents.
BROCHURE = {"": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "m": -3, "u": -6, "n": -9}


def test_prefixes_are_those_of_the_si_brochure() -> None:
    assert {prefix: float(f"1e{exponent}") for prefix, exponent in BROCHURE.items()} == SI


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.35e12, "3.35 TB/s"),
        (64e9, "64 GB/s"),
        (1e3, "1 kB/s"),
        (0.5, "500 mB/s"),
        (2.5e-10, "0.25 nB/s"),
        (0.0, "0 B/s"),
        (-2e6, "-2 MB/s"),
    ],
)
def test_values_get_the_prefix_people_expect(value: float, text: str) -> None:
    assert format_si(value, "B/s") == text


def test_digits_below_one_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="digits must be at least 1, got 0"):
        format_si(1.0, "s", 0)


@pytest.mark.parametrize(
    ("name", "bits"),
    # IEEE 754; Marlin README (fp16 scale per 128); OCP MX (e8m0 per 32); NVFP4 (fp8 per 16); DeepSeek-V3 (fp32 per 128 x 128).
    [("bfloat16", 16), ("fp8", 8), ("int4", 4.125), ("mxfp4", 4.25), ("nvfp4", 4.5), ("fp8_block", 8 + 32 / 16384)],
)
def test_bits_per_element_count_the_scales(name: str, bits: float) -> None:
    assert element_type(name).bits == bits
    assert element_type(name).bytes == bits / 8


def test_unknown_types_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown data type 'bfloat'; did you mean .*'bfloat16'"):
        element_type("bfloat")
    assert all(kind.source for kind in ELEMENT_TYPES.values())
