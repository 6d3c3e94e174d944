"""Calibrations written as the TOML files they are loaded from: whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfp_model.errors import InvalidArgumentError, SpecError
from nfp_model.specs.calibration import Calibration

_NOTICE = "# Fitted constants; no datasheet fact stands here. Written by `nfp fit`: change the data or the command, not the numbers."


def calibration_to_toml(calibration: Calibration) -> str:
    """The TOML text of a calibration; defaults are left out, and it loads back equal.

    Examples
    --------
    >>> from nfp_model.specs.calibration import uncalibrated
    >>> text = calibration_to_toml(uncalibrated())
    >>> text.splitlines()[1]
    'name = "uncalibrated"'
    """
    data = calibration.model_dump(exclude_defaults=True)
    fits = data.pop("fits", [])
    lines = [_NOTICE, *(f"{key} = {_value(value)}" for key, value in data.items())]
    for fit in fits:
        lines += ["", "[[fits]]", *(f"{key} = {_value(value)}" for key, value in fit.items())]
    return "\n".join(lines) + "\n"


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration file, atomically: a reader sees the old file or the whole new one.

    Parameters
    ----------
    calibration : Calibration
        Its name must be the stem of the path.
    path : Path
        ``<name>.toml``.

    Raises
    ------
    InvalidArgumentError
        When name and path disagree.
    SpecError
        When the file cannot be written, or would not load back.
    """
    if path.name != f"{calibration.name}.toml":
        raise InvalidArgumentError(
            f"calibration '{calibration.name}' belongs in {calibration.name}.toml, got {path.name}"
        )
    staged = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(calibration_to_toml(calibration), encoding="utf-8")
        if Calibration.from_toml(staged) != calibration:
            raise SpecError(f"{path}: the calibration does not load back as it was written")
        os.replace(staged, path)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        staged.unlink(missing_ok=True)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list() | tuple():
            if value and isinstance(value[0], list | tuple):
                return "[\n" + "".join(f"  {_value(row)},\n" for row in value) + "]"
            return "[" + ", ".join(_value(item) for item in value) + "]"
        case Mapping():
            return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items() if item is not None) + " }"
        case _:
            raise SpecError(f"a {type(value).__name__} cannot be written to TOML")


__all__ = ["calibration_to_toml", "write_calibration"]
