"""SGLang DSpark cost tables: predicted step times in the JSON forms of ``--speculative-dspark-sps-table-path``.

Rules of SGLang 0.5.23 (``srt/speculative/dspark_components/dspark_sps.py``). Used in its ragged-verify modes only
(``SGLANG_RAGGED_VERIFY_MODE`` cap-accept or compact).
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from nfp_model.errors import InvalidArgumentError, UnsupportedError
from nfp_model.exporters.writing import EngineRules, Export, ExportFacts, read_json, validated

ENGINE = "SGLang DSpark"
VERSIONS = "rules as of 0.5.23"
_ARGUMENTS = "--speculative-dspark-sps-table-path FILE"
_NOTES = ("used with SGLANG_RAGGED_VERIFY_MODE cap-accept or compact only",)

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class SpsCostTable(EngineRules):
    """Steps per second at probed token counts; a look-up takes the probe below (a step function).

    Attributes
    ----------
    sample_batch_tokens : list of int
        Token rows of the verify forward [tokens], strictly increasing.
    sample_steps_per_sec : list of float
        Forwards per second [1/s] at each.
    max_batch_tokens : int
        At least the last probe [tokens].
    """

    sample_batch_tokens: Annotated[list[Count], Field(min_length=1)]
    sample_steps_per_sec: list[Positive]
    max_batch_tokens: Count

    @model_validator(mode="after")
    def _rules(self) -> Self:
        _require_pair(
            "sample_batch_tokens", self.sample_batch_tokens, "sample_steps_per_sec", self.sample_steps_per_sec
        )
        if self.max_batch_tokens < self.sample_batch_tokens[-1]:
            raise ValueError(
                f"max_batch_tokens must be at least the last probe {self.sample_batch_tokens[-1]},"
                f" got {self.max_batch_tokens}"
            )
        return self

    def steps_per_second(self, tokens: int) -> float:
        """What SGLang reads from the table [1/s]: the largest probe not above `tokens`, the first one below it."""
        index = bisect.bisect_right(self.sample_batch_tokens, tokens) - 1
        return self.sample_steps_per_sec[max(index, 0)]


class SpsAdditiveCostTable(EngineRules):
    """Step time [s] = bias + alpha(requests) + theta(requests + drafts), linear between probes, clamped at the ends.

    Attributes
    ----------
    bias_seconds : float
        Above 0 [s].
    bs_probes, alpha_seconds : list
        Requests [sequences], strictly increasing, and their share [s].
    m_probes, theta_seconds : list
        Token rows [tokens], strictly increasing, and their share [s].
    """

    bias_seconds: Positive
    bs_probes: Annotated[list[Count], Field(min_length=1)]
    alpha_seconds: list[Finite]
    m_probes: Annotated[list[Count], Field(min_length=1)]
    theta_seconds: list[Finite]

    @model_validator(mode="after")
    def _rules(self) -> Self:
        _require_pair("bs_probes", self.bs_probes, "alpha_seconds", self.alpha_seconds)
        _require_pair("m_probes", self.m_probes, "theta_seconds", self.theta_seconds)
        return self

    def seconds(self, requests: int, tokens: int) -> float:
        """Step time [s] SGLang reads for so many requests and token rows."""
        alpha = float(np.interp(requests, self.bs_probes, self.alpha_seconds))
        return self.bias_seconds + alpha + float(np.interp(tokens, self.m_probes, self.theta_seconds))


def _require_pair(probe_name: str, probes: Sequence[int], value_name: str, values: Sequence[float]) -> None:
    if len(probes) != len(values):
        raise ValueError(f"{probe_name} and {value_name} must be equally long, got {len(probes)} and {len(values)}")
    if any(after <= before for before, after in pairwise(probes)):
        raise ValueError(f"{probe_name} must strictly increase, got {list(probes)}")


def export_step_costs(
    batch_tokens: Sequence[int], seconds: Sequence[float], max_batch_tokens: int, facts: ExportFacts | None = None
) -> Export:
    """Predicted verify times as an ``SpsCostTable``.

    The look-up is a step function that takes the probe below, so probes belong at the starts of the cost's stairs.

    Parameters
    ----------
    batch_tokens : sequence of int, shape (probes,)
        Token rows B x q [tokens], strictly increasing; at least two, as SGLang takes one for "not measured yet".
    seconds : sequence of float, shape (probes,)
        Step time at each [s].
    max_batch_tokens : int
        Largest token count served [tokens].
    facts : ExportFacts, optional
        For the header.

    Raises
    ------
    UnsupportedError
        Naming SGLang's rule.

    Examples
    --------
    >>> print(export_step_costs([1, 8, 64], [0.010, 0.0125, 0.020], 512).text)
    {"sample_batch_tokens": [1, 8, 64], "sample_steps_per_sec": [100.0, 80.0, 50.0], "max_batch_tokens": 512}
    """
    if len(batch_tokens) < 2:
        raise UnsupportedError(f"SGLang DSpark takes a table of one probe as uninitialised, got {len(batch_tokens)}")
    if not all(0 < value < float("inf") for value in seconds):
        raise InvalidArgumentError("step times must be finite and above 0 seconds")
    data = {
        "sample_batch_tokens": [int(tokens) for tokens in batch_tokens],
        "sample_steps_per_sec": [float(f"{1.0 / value:.12g}") for value in seconds],
        "max_batch_tokens": int(max_batch_tokens),
    }
    table = validated(SpsCostTable, data, ENGINE)
    return _returned(table, json.dumps(data), facts)


def export_additive_costs(
    bias_seconds: float,
    requests: Sequence[int],
    request_seconds: Sequence[float],
    tokens: Sequence[int],
    token_seconds: Sequence[float],
    facts: ExportFacts | None = None,
) -> Export:
    """Predicted verify times T(B, q) = bias + alpha(B) + theta(B q) as an ``SpsAdditiveCostTable``.

    Parameters
    ----------
    bias_seconds : float
        Part that depends on neither [s], above 0.
    requests, request_seconds : sequence, shape (request probes,)
        Sequences and the part that grows with them (attention) [s].
    tokens, token_seconds : sequence, shape (token probes,)
        Token rows and the part that grows with them (GEMMs, experts) [s].
    facts : ExportFacts, optional
        For the header.

    Raises
    ------
    UnsupportedError
        Naming SGLang's rule.

    Examples
    --------
    >>> print(export_additive_costs(0.008, [1, 64], [0.0, 0.002], [1, 512], [0.0, 0.006]).text[:44])
    {"bias_seconds": 0.008, "bs_probes": [1, 64]
    """
    data = {
        "bias_seconds": float(bias_seconds),
        "bs_probes": [int(count) for count in requests],
        "alpha_seconds": [float(value) for value in request_seconds],
        "m_probes": [int(count) for count in tokens],
        "theta_seconds": [float(value) for value in token_seconds],
    }
    table = validated(SpsAdditiveCostTable, data, ENGINE)
    return _returned(table, json.dumps(data), facts)


def parse_costs(text: str) -> SpsCostTable | SpsAdditiveCostTable:
    """Read either form as SGLang does: told apart by ``bias_seconds``, unknown keys ignored.

    Raises
    ------
    InvalidArgumentError
        For text that is not a JSON object.
    UnsupportedError
        For a table SGLang refuses.

    Examples
    --------
    >>> table = parse_costs('{"sample_batch_tokens": [1, 8], "sample_steps_per_sec": [100, 98], "max_batch_tokens": 9}')
    >>> table.steps_per_second(7)
    100.0
    """
    data = read_json(text, ENGINE)
    if not isinstance(data, dict):
        raise InvalidArgumentError(f"{ENGINE}: a cost table is one JSON object, got {type(data).__name__}")
    rules: type[SpsCostTable] | type[SpsAdditiveCostTable]
    rules = SpsAdditiveCostTable if "bias_seconds" in data else SpsCostTable
    return validated(rules, {key: value for key, value in data.items() if key in rules.model_fields}, ENGINE)


def _returned(table: SpsCostTable | SpsAdditiveCostTable, text: str, facts: ExportFacts | None) -> Export:
    export = Export(ENGINE, VERSIONS, "json", text, _ARGUMENTS, None, _NOTES, facts)
    if parse_costs(export.text) != table or parse_costs(export.document) != table:
        raise UnsupportedError(f"{ENGINE} would not read the table back as it was written")
    return export
