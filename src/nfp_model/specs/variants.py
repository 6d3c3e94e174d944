"""Specs with some fields changed by path, everything else held: what sweeps and what-ifs run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from nfp_model.errors import unknown_name
from nfp_model.specs.base import Spec
from nfp_model.specs.hardware import HardwareSpec
from nfp_model.specs.model import ModelSpec

AnySpec = TypeVar("AnySpec", HardwareSpec, ModelSpec)

_OPEN_TABLES = ("peak_flop_per_s", "dtypes")
"""Tables whose keys are the user's choice; the spec itself refuses those it does not know."""

_WHOLE_SOURCES = ("matrix_instruction", "default_tile")
"""Tables a datasheet states in one place."""

_COUNTS = ("derived_total", "derived_active", "published")
"""Parameter counts of the model as published; a changed model has others."""


def field_paths(spec: Spec) -> list[str]:
    """Every field path of a spec, dotted, tables before what they hold.

    Examples
    --------
    >>> from nfp_model import load_model
    >>> [path for path in field_paths(load_model("mixtral")) if path.endswith("top_k")]
    ['ffn.moe.top_k']
    """
    return list(_paths(spec.model_dump(mode="json"), ""))


def _paths(value: Any, prefix: str) -> Iterator[str]:
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return
    for key, item in items:
        yield prefix + key
        yield from _paths(item, f"{prefix}{key}.")


def field_value(spec: Spec, path: str) -> Any:
    """The value at a field path, tables as dicts.

    Raises
    ------
    UnknownNameError
        For a path the spec does not have, with the nearest.

    Examples
    --------
    >>> from nfp_model import load_hardware
    >>> field_value(load_hardware("h100"), "sm_count")
    132
    """
    check_path(spec, path)
    value: Any = spec.model_dump(mode="json")
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value.get(key)
    return value


def check_path(spec: Spec, path: str) -> None:
    """Refuse a path the spec does not have.

    Raises
    ------
    UnknownNameError
        With the nearest paths.
    """
    known = field_paths(spec)
    parent = path.rpartition(".")[0]
    if path not in known and not (parent in known and parent.rpartition(".")[2] in _OPEN_TABLES):
        kind = "hardware" if isinstance(spec, HardwareSpec) else "model"
        raise unknown_name(f"{kind} field", path, known)


def with_fields(spec: AnySpec, changes: Mapping[str, Any]) -> AnySpec:
    """The same spec with some fields changed; name, kernels and fitted constants stay those of the original.

    Where the name decides which calibration and tuned tiles apply, they are held: the answer is to "this chip with another
    bandwidth", not to "another chip" (for that see :func:`~nfp_model.specs.templates.hardware_variant`).

    Parameters
    ----------
    spec : HardwareSpec or ModelSpec
        Where everything not named comes from.
    changes : mapping
        Field path (``memory_bandwidth_bytes_per_s``, ``ffn.moe.top_k``, ``layers.0.count``) -> value. A number given for
        ``peak_flop_per_s`` multiplies every peak.

    Raises
    ------
    UnknownNameError
        For a path the spec does not have, with the nearest.
    SpecError
        When the numbers contradict each other.

    Examples
    --------
    >>> from nfp_model import load_hardware, load_model
    >>> with_fields(load_model("mixtral"), {"ffn.moe.top_k": 4}).ffn["moe"].top_k
    4
    >>> round(with_fields(load_hardware("h100"), {"peak_flop_per_s": 2.0}).ridge_point())
    591
    """
    if not changes:
        return spec
    data = spec.model_dump(mode="json", exclude_none=True)
    for path, value in changes.items():
        check_path(spec, path)
        if path == "peak_flop_per_s" and isinstance(value, int | float):
            data[path] = {rate: value * peak for rate, peak in data[path].items()}
        else:
            _set(data, path, value)
    if isinstance(spec, HardwareSpec):
        _hold_sources(data, spec, changes)
    else:
        for key in _COUNTS:
            data.pop(key, None)
    return type(spec).from_mapping(data, f"{spec.name} with {', '.join(changes)} changed")


def _set(data: Any, path: str, value: Any) -> None:
    *tables, key = path.split(".")
    for table in tables:
        data = data[int(table)] if isinstance(data, list) else data.setdefault(table, {})
    if isinstance(data, list):
        data[int(key)] = value
    elif value is None:
        data.pop(key, None)
    else:
        data[key] = value


def _hold_sources(data: dict[str, Any], spec: HardwareSpec, changes: Mapping[str, Any]) -> None:
    """Numbers added or taken away keep the table of sources complete; a peak moved leaves the clock check behind."""
    sources = dict(spec.sources)
    for path, value in changes.items():
        number = isinstance(value, int | float) and path != "peak_flop_per_s"
        if number and path.partition(".")[0] not in _WHOLE_SOURCES:
            sources[path] = "stated by the user"
        elif value is None:
            sources.pop(path, None)
    if any(path == "sm_count" or path.startswith("peak_flop_per_s") for path in changes):
        data.pop("flop_per_clock_per_sm", None)
        sources.pop("flop_per_clock_per_sm", None)
    if isinstance(changes.get("peak_flop_per_s"), dict):
        kept = {path: why for path, why in sources.items() if not path.startswith("peak_flop_per_s.")}
        sources = kept | {f"peak_flop_per_s.{rate}": "stated by the user" for rate in data["peak_flop_per_s"]}
    data["sources"] = sources


__all__ = ["check_path", "field_paths", "field_value", "with_fields"]
