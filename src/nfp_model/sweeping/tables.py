"""Records to CSV, chunk by chunk, whole or not at all."""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nfp_model.errors import InvalidArgumentError


def write_csv(path: str | Path, chunks: Iterable[Sequence[Mapping[str, Any]]]) -> int:
    """Write chunks of records as they come; the file appears only when the last one is in.

    Parameters
    ----------
    path : str or Path
        Written whole or not at all; a failure on the way leaves what was there before.
    chunks : iterable of sequences of mappings
        All records have the keys of the first.

    Returns
    -------
    int
        Rows written [-].

    Raises
    ------
    InvalidArgumentError
        When there is nothing to write, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_csv(folder + "/a.csv", [[{"n": 1}, {"n": 2}], [{"n": 3}]])
    3
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", newline="") as file:
            rows = _write_rows(file, chunks)
        if not rows:
            raise InvalidArgumentError(f"{target}: nothing to write")
        os.replace(temporary, target)
    except OSError as error:
        raise InvalidArgumentError(f"{target}: cannot be written ({error.strerror})") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    return rows


def _write_rows(file: Any, chunks: Iterable[Sequence[Mapping[str, Any]]]) -> int:
    writer: csv.DictWriter[str] | None = None
    rows = 0
    for chunk in chunks:
        if writer is None and chunk:
            writer = csv.DictWriter(file, list(chunk[0]), lineterminator="\n")
            writer.writeheader()
        if writer is not None:
            writer.writerows(chunk)
        rows += len(chunk)
    return rows
