"""Commented hardware TOML files for chips that are not in our list."""

from __future__ import annotations

from typing import Any

from nfp_model.errors import InvalidArgumentError, unknown_name
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.toml_text import mapping_to_toml

MEANING = {
    "sm_count": "streaming multiprocessors, compute units or TensorCores [-]",
    "boost_clock_hz": "optional: vendor's maximum clock [Hz]; the peak is checked against it",
    "flop_per_clock_per_sm": "optional: dense bf16 matrix FLOP per clock per SM",
    "memory_bandwidth_bytes_per_s": "datasheet peak, decimal bytes [B/s]",
    "memory_bytes": "usable device memory [B]",
    "l2_bytes": "optional: last-level on-chip cache [B]",
    "shared_memory_bytes_per_sm": "optional: occupancy limit [B]",
    "shared_memory_bytes_per_cta": "optional: occupancy limit [B]",
    "max_ctas_per_sm": "optional: occupancy limit [-]",
    "max_threads_per_sm": "optional: occupancy limit [-]",
    "registers_per_sm": "optional: occupancy limit [-]",
    "power_w": "optional: board power [W]",
    "peak_flop_per_s": "dense peaks [FLOP/s], never the sparse numbers; bfloat16 is required, the rest optional",
    "matrix_instruction": "native shape of a 16-bit matrix instruction: the floor of every tile",
    "default_tile": "tiles assumed where no kernel library is known for the architecture",
    "interconnect": "optional: links, one direction, per GPU [B/s]",
    "sources": "where each number is printed; every number needs one",
    "architecture": "what kernel files are keyed by: sm80 ... sm120, cdna3, cdna4, tpu, or a new word (then default_tile decides)",
    "generation": "what the uncalibrated constants leave out: ampere, ada, hopper, blackwell, blackwell_rtx, cdna, tpu, or a new word",
}


def hardware_variant(base: HardwareSpec, name: str, changes: dict[str, Any]) -> HardwareSpec:
    """A chip like another, some numbers changed.

    Parameters
    ----------
    base : HardwareSpec
        Where everything not named comes from.
    name : str
        Key of the new chip.
    changes : dict
        Field path (``sm_count``, ``peak_flop_per_s.bfloat16``) -> value.

    Raises
    ------
    UnknownNameError
        For a field that does not exist.
    SpecError
        When the numbers contradict each other.

    Examples
    --------
    >>> from nfp_model import load_hardware
    >>> chip = hardware_variant(load_hardware("h200"), "fast", {"memory_bandwidth_bytes_per_s": 8e12})
    >>> round(chip.ridge_point())
    124
    """
    data = base.model_dump(mode="json", exclude_none=True)
    data |= {
        "name": name,
        "title": name,
        "aliases": [],
        "notes": [f"numbers without a source of their own are copied from {base.name}"],
    }
    sources = {path: f"copied from {base.name}: {source}" for path, source in base.sources.items()}
    for path, value in changes.items():
        _set(data, path, value)
        sources[path] = "stated when the file was made; replace by the datasheet"
    data["sources"] = sources
    changed_peak = any(path.startswith("peak_flop_per_s") or path == "sm_count" for path in changes)
    if changed_peak and "flop_per_clock_per_sm" not in changes:
        # The base's rate per SM says nothing about another chip's peak, and would fail its clock check.
        data.pop("flop_per_clock_per_sm", None)
        sources.pop("flop_per_clock_per_sm", None)
    return HardwareSpec.from_mapping(data, f"{name} (from {base.name})")


def _set(data: dict[str, Any], path: str, value: Any) -> None:
    table, _, key = path.rpartition(".")
    known = HardwareSpec.model_fields
    if (table or key) not in known:
        raise unknown_name("hardware field", path, known)
    target = data.setdefault(table, {}) if table else data
    if not isinstance(target, dict):
        raise InvalidArgumentError(f"hardware field '{table}' has no parts; set it whole")
    target[key] = value


def hardware_to_toml(spec: HardwareSpec) -> str:
    """A commented TOML file that loads back to the same spec.

    Examples
    --------
    >>> import tomllib
    >>> from nfp_model import load_hardware
    >>> h100 = load_hardware("h100")
    >>> HardwareSpec.from_mapping(tomllib.loads(hardware_to_toml(h100))) == h100
    True
    """
    head = f"# {spec.title}. SI units without prefixes; peaks are dense. Check it with: nfp specs show FILE.toml\n"
    return head + mapping_to_toml(spec.model_dump(mode="json", exclude_none=True), MEANING)
