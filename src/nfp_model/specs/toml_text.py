"""Specs written as the TOML files they can be loaded from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nfp_model.errors import SpecError
from nfp_model.specs.model import ModelSpec


def model_to_toml(spec: ModelSpec) -> str:
    """The TOML text of a model spec, its parameter counts written in for the file to check itself.

    Parameters
    ----------
    spec : ModelSpec
        Any model, for instance from :func:`~nfp_model.specs.huggingface.from_hf_config`.

    Returns
    -------
    str
        Loads back equal to ``spec`` with ``derived_total`` and ``derived_active`` filled in; defaults are left out.

    Examples
    --------
    >>> from nfp_model.specs.huggingface import from_hf_config
    >>> tiny = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    ...         "vocab_size": 128, "intermediate_size": 128, "max_position_embeddings": 512}
    >>> print(model_to_toml(from_hf_config(tiny, name="tiny")).splitlines()[0])
    name = "tiny"
    """
    counted = spec.model_copy(update={"derived_total": spec.total_parameters, "derived_active": spec.active_parameters})
    data = counted.model_dump(exclude_defaults=True)
    for table in ("attention", "ffn"):
        for key, part in getattr(spec, table).items():
            data[table][key] = {"kind": part.kind} | data[table][key]
    top = {key: value for key, value in data.items() if not isinstance(value, dict) and key != "layers"}
    lines = [f"{key} = {toml_value(value)}" for key, value in top.items()]
    for key, value in data.items():
        if isinstance(value, dict):
            lines += _table(key, value)
    for group in data["layers"]:
        lines += ["", "[[layers]]", *(f"{key} = {toml_value(value)}" for key, value in group.items())]
    return "\n".join(lines) + "\n"


def _table(name: str, data: Mapping[str, Any]) -> list[str]:
    nested = {key: value for key, value in data.items() if isinstance(value, dict)}
    flat = {key: value for key, value in data.items() if key not in nested}
    lines = (
        ["", f"[{name}]", *(f"{toml_key(key)} = {toml_value(value)}" for key, value in flat.items())] if flat else []
    )
    for key, value in nested.items():
        lines += _table(f"{name}.{toml_key(key)}", value) if value else ["", f"[{name}.{toml_key(key)}]"]
    return lines


def mapping_to_toml(values: Mapping[str, Any], meaning: Mapping[str, str] | None = None) -> str:
    """TOML text of values, scalars and arrays first, then one table for each nested mapping that is not empty.

    Parameters
    ----------
    values : mapping
        One level of tables at most.
    meaning : mapping or None
        Key -> comment above it.

    Examples
    --------
    >>> print(mapping_to_toml({"name": "x", "sizes": (1, 2), "peak": {"bfloat16": 4.8}}, {"peak": "dense"}), end="")
    name = "x"
    sizes = [1, 2]
    <BLANKLINE>
    # dense
    [peak]
    bfloat16 = 4.8
    """
    comments = {key: [f"# {words}"] for key, words in (meaning or {}).items()}
    lines: list[str] = []
    for key, value in values.items():
        if not isinstance(value, Mapping):
            lines += [*comments.get(key, []), f"{toml_key(key)} = {toml_value(value)}"]
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += ["", *comments.get(key, []), f"[{toml_key(key)}]"]
            lines += [f"{toml_key(name)} = {toml_value(item)}" for name, item in value.items()]
    return "\n".join(lines) + "\n"


def toml_key(key: str) -> str:
    """A key as TOML writes it, quoted where it is not bare."""
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else toml_value(key)


def toml_value(value: object) -> str:
    """A number, string, array or inline table as TOML writes it."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value)
        case str():
            # A TOML basic string escapes as a JSON string does, and also refuses a bare delete character.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            if any(len(str(item)) > 40 for item in value):
                return "[\n" + "".join(f"  {toml_value(item)},\n" for item in value) + "]"
            return "[" + ", ".join(toml_value(item) for item in value) + "]"
        case dict():
            return (
                "{ " + ", ".join(f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items()) + " }"
                if value
                else "{}"
            )
        case _:
            raise SpecError(f"a {type(value).__name__} cannot be written to TOML")
