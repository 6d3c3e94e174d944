"""What every spec file has in common: frozen strict fields, TOML in, one-line errors out."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from nfp_model.errors import SpecError, nearest


class Spec(BaseModel):
    """Base of every specification: immutable, strictly typed, unknown keys refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", ser_json_inf_nan="strings")

    @classmethod
    def from_mapping(cls, data: dict[str, Any], origin: str = "mapping") -> Self:
        """Validate a mapping as read from TOML or JSON.

        Parameters
        ----------
        data : dict
            Field names and values.
        origin : str
            What to call the data in an error: usually the file's path.

        Raises
        ------
        SpecError
            Naming the origin, the key and what is wrong with it, the nearest valid key for an unknown one.
        """
        try:
            # JSON mode: strict types, yet arrays are accepted for tuples as TOML has no tuples.
            return cls.model_validate_json(json.dumps(data, default=str))
        except ValidationError as error:
            raise SpecError(f"{origin}: {_first_fault(cls, error)}") from None

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read and validate one TOML file; see :meth:`from_mapping` for the errors."""
        return cls.from_mapping(read_toml(path), str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file into a dict.

    Raises
    ------
    SpecError
        When the file is missing, unreadable or not TOML; the message names the file.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not valid TOML ({error})") from None


def _first_fault(cls: type[BaseModel], error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        near = nearest(str(fault["loc"][-1]), _fields_at(cls, fault["loc"][:-1]))
        return f"unknown key '{key}'" + (f"; did you mean '{near[0]}'?" if near else "")
    if fault["type"] == "missing":
        return f"key '{key}' is missing"
    message = fault["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"key '{key}': {message} (got {fault['input']!r})"


def _fields_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the nested model a validation error points into, as far as types tell."""
    names: set[str] = set(cls.model_fields)
    current: list[type[BaseModel]] = [cls]
    for part in location:
        following: list[type[BaseModel]] = []
        for model in current:
            if isinstance(part, str) and part in model.model_fields:
                following += _models_in(model.model_fields[part].annotation)
        if following:
            current = following
            names = {name for model in current for name in model.model_fields}
    return sorted(names)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]
