"""The small part of YAML the engines' files need, written and read by hand: no YAML package is a dependency.

Block mappings indented by two spaces; scalars; flow lists of numbers; flow maps of integers.
"""

from __future__ import annotations

import json
import re
from typing import Any

from nfp_model.errors import InvalidArgumentError

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
_INTEGER = re.compile(r"-?\d+")
_NUMBER = re.compile(r"-?\d+\.\d+(e[+-]?\d+)?", re.IGNORECASE)


def yaml_text(data: dict[str, Any], indent: int = 0) -> str:
    """YAML of nested mappings.

    Parameters
    ----------
    data : dict
        Values: dict with string keys (nested), dict with integer keys, list, str, bool, int or float.
    indent : int
        Columns to start at.

    Raises
    ------
    InvalidArgumentError
        For text beyond Unicode's first plane, which JSON and YAML escape differently.

    Examples
    --------
    >>> print(yaml_text({"block_size": 32, "threshold": 0.95}), end="")
    block_size: 32
    threshold: 0.95
    """
    lines = []
    for key, value in data.items():
        if isinstance(value, dict) and value and all(isinstance(k, str) for k in value):
            lines.append(f"{' ' * indent}{key}:\n{yaml_text(value, indent + 2)}")
        else:
            lines.append(f"{' ' * indent}{key}: {_scalar(value)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_scalar(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(v) for v in value) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    if isinstance(value, str) and any(character > "\uffff" for character in value):
        raise InvalidArgumentError(f"'{value}' holds a character that JSON and YAML escape differently")
    return json.dumps(value)  # JSON scalars are YAML scalars


def read_yaml(text: str) -> dict[str, Any]:
    """Read what :func:`yaml_text` writes, comment lines allowed.

    Raises
    ------
    InvalidArgumentError
        Naming the first line outside that part of YAML, or a key given twice.

    Examples
    --------
    >>> read_yaml("# note\\na:\\n  b: {4: 2}\\n")
    {'a': {'b': {4: 2}}}
    """
    root: dict[str, Any] = {}
    open_blocks: list[tuple[int, dict[str, Any]]] = [(0, root)]
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = re.fullmatch(r"( *)([A-Za-z_][A-Za-z0-9_]*):(?: (.+))?", line.rstrip())
        if not found:
            raise InvalidArgumentError(f"YAML line {number} is outside the part written here: '{line.strip()}'")
        depth, key, value = len(found[1]), found[2], found[3]
        while depth < open_blocks[-1][0]:
            open_blocks.pop()
        level, block = open_blocks[-1]
        if depth != level:
            raise InvalidArgumentError(f"YAML line {number} is indented by {depth} columns, not by {level}")
        if key in block:
            raise InvalidArgumentError(f"YAML line {number} gives the key '{key}' a second time")
        if value is None:
            block[key] = {}
            open_blocks.append((depth + 2, block[key]))
        else:
            block[key] = _read_value(value, number)
    return root


def _read_value(text: str, number: int) -> Any:
    if text.startswith("{") and text.endswith("}"):
        return _read_map(text[1:-1], number)
    if text.startswith("[") and text.endswith("]"):
        return [_read_value(part.strip(), number) for part in text[1:-1].split(",") if part.strip()]
    if text.startswith('"'):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise InvalidArgumentError(f"YAML line {number} holds an unreadable string: {text}") from None
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    if text in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[text]
    if _PLAIN.fullmatch(text):
        return text
    raise InvalidArgumentError(f"YAML line {number} is outside the part written here: '{text}'")


def _read_map(text: str, number: int) -> dict[int, int]:
    entries: dict[int, int] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+): (-?\d+)\s*", part)
        if not found:
            raise InvalidArgumentError(f"YAML line {number} must map whole numbers, got '{part.strip()}'")
        if int(found[1]) in entries:
            raise InvalidArgumentError(f"YAML line {number} gives the key {found[1]} a second time")
        entries[int(found[1])] = int(found[2])
    return entries
