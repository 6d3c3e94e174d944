"""Chains of drafts: how many tokens one verify forward is expected to emit.

Notation of every model here: K drafts [-] are verified together with the last sure token, so the forward evaluates
q = K + 1 positions; E(K) [tokens per forward] counts the accepted drafts and the one token that is always emitted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nfp_model.errors import InvalidArgumentError, require_positive_int

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def require_rates(name: str, rates: Sequence[float]) -> None:
    """Refuse an empty list and anything that is not a probability, naming the position.

    Raises
    ------
    InvalidArgumentError
        For an empty list, or the first entry outside [0, 1].
    """
    if not rates:
        raise InvalidArgumentError(f"{name} must hold at least one rate, got an empty list")
    for position, rate in enumerate(rates, start=1):
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0.0 <= rate <= 1.0:
            raise InvalidArgumentError(f"{name} must lie in [0, 1], got {rate!r} at position {position}")


class AcceptanceModel(ABC):
    """How many tokens a verify forward emits as drafts are added; the algorithm's half of a speed-up."""

    @property
    @abstractmethod
    def max_drafts(self) -> int | None:
        """Most drafts [-] the model says anything about; None without end."""

    @property
    @abstractmethod
    def description(self) -> str:
        """One line for the head of an export: the numbers and their convention."""

    @abstractmethod
    def _token_curve(self, drafts: int) -> Floats:
        """E(0), E(1), ..., E(drafts)."""

    def token_curve(self, drafts: int) -> Floats:
        """Expected tokens per forward for every draft count up to `drafts`.

        Parameters
        ----------
        drafts : int
            Largest draft count K [-], at least 0.

        Returns
        -------
        ndarray, shape (drafts + 1,)
            E(0) = 1, E(1), ..., E(drafts) [tokens per forward].

        Raises
        ------
        InvalidArgumentError
            For a negative count, or one beyond :attr:`max_drafts`: no acceptance is invented.

        Examples
        --------
        >>> ConstantAcceptance(0.5).token_curve(3).tolist()
        [1.0, 1.5, 1.75, 1.875]
        """
        if isinstance(drafts, bool) or not hasattr(drafts, "__index__") or drafts < 0:
            raise InvalidArgumentError(f"drafts must be a whole number of at least 0, got {drafts!r}")
        if self.max_drafts is not None and drafts > self.max_drafts:
            raise InvalidArgumentError(f"acceptance is known up to {self.max_drafts} drafts, got {drafts}")
        return self._token_curve(drafts)

    def expected_tokens(self, drafts: int) -> float:
        """E(K) [tokens per forward], the guaranteed token included; see :meth:`token_curve`.

        Examples
        --------
        >>> round(ConstantAcceptance(0.7).expected_tokens(5), 3)
        2.941
        """
        return float(self.token_curve(drafts)[-1])

    def draft_steps(self, drafts: int) -> Ints:
        """Sequential drafter forwards [-] for 0..drafts drafts: one each in a chain, one a level in a tree."""
        return np.arange(drafts + 1, dtype=np.int64)


@dataclass(frozen=True)
class ConstantAcceptance(AcceptanceModel):
    """Every draft is accepted with the same probability, given that all before it were.

    E(K) = (1 - a^(K+1)) / (1 - a), K + 1 for a = 1: Leviathan, Kalman and Matias, "Fast inference from transformers
    via speculative decoding", arXiv 2211.17192, equation 1. A placeholder: measured rates fall (EAGLE heads) or rise
    (iterated MTP) with the position.

    Attributes
    ----------
    rate : float
        a [-], in [0, 1].

    Examples
    --------
    >>> ConstantAcceptance(1.0).expected_tokens(4)
    5.0
    """

    rate: float

    def __post_init__(self) -> None:
        require_rates("acceptance", [self.rate])

    @property
    def max_drafts(self) -> int | None:
        """None: the geometric series has no end."""
        return None

    @property
    def description(self) -> str:
        """One line for the head of an export."""
        return f"constant {self.rate:g} per token, conditional on all earlier drafts being accepted"

    def _token_curve(self, drafts: int) -> Floats:
        survival: Floats = float(self.rate) ** np.arange(drafts + 1, dtype=np.float64)
        return np.cumsum(survival)


@dataclass(frozen=True)
class PrefixAcceptance(AcceptanceModel):
    """Unconditional rates as engines report them: P_i = probability that drafts 1..i are all accepted.

    E(K) = 1 + P_1 + ... + P_K. This is the convention of vLLM's per-position metrics and of llama.cpp's log line.

    Attributes
    ----------
    rates : tuple of float
        P_1, P_2, ... [-], in [0, 1], never rising.

    Examples
    --------
    >>> model = PrefixAcceptance((0.730, 0.521, 0.355))  # Llama-3.1-8B with EAGLE-3, vLLM test_acceptance_length.py
    >>> round(model.expected_tokens(3), 2)
    2.61
    >>> [round(c, 2) for c in model.conditional.rates]
    [0.73, 0.71, 0.68]
    """

    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        require_rates("acceptance rates", self.rates)
        for position, (before, after) in enumerate(pairwise(self.rates), start=2):
            if after > before:
                raise InvalidArgumentError(
                    f"unconditional acceptance rates cannot rise, got {after:g} after {before:g} at position {position}"
                    "; rates conditional on the earlier drafts are given as 'conditional:...'"
                )

    @property
    def max_drafts(self) -> int | None:
        """Number of positions measured [-]."""
        return len(self.rates)

    @property
    def description(self) -> str:
        """One line for the head of an export."""
        return f"per position {_listed(self.rates)}, unconditional (all drafts up to the position accepted)"

    @property
    def conditional(self) -> ConditionalAcceptance:
        """The same chain as conditional rates c_i = P_i / P_(i-1); 0 after a position that is never reached."""
        before = (1.0, *self.rates[:-1])
        return ConditionalAcceptance(tuple(p / b if b > 0 else 0.0 for p, b in zip(self.rates, before, strict=True)))

    def _token_curve(self, drafts: int) -> Floats:
        return np.cumsum(np.array([1.0, *self.rates[:drafts]]))


@dataclass(frozen=True)
class ConditionalAcceptance(AcceptanceModel):
    """Rates given that every earlier draft was accepted; P_i = c_1 c_2 ... c_i and E(K) = 1 + P_1 + ... + P_K.

    Not the "n-alpha" of the EAGLE papers, which conditions on the drafter's input instead.

    Attributes
    ----------
    rates : tuple of float
        c_1, c_2, ... [-], in [0, 1]; they may rise.

    Examples
    --------
    >>> ConditionalAcceptance((0.8, 0.5)).prefix.rates
    (0.8, 0.4)
    """

    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        require_rates("conditional acceptance rates", self.rates)

    @property
    def max_drafts(self) -> int | None:
        """Number of positions known [-]."""
        return len(self.rates)

    @property
    def description(self) -> str:
        """One line for the head of an export."""
        return f"per position {_listed(self.rates)}, conditional on all earlier drafts being accepted"

    @property
    def prefix(self) -> PrefixAcceptance:
        """The same chain as unconditional rates."""
        return PrefixAcceptance(tuple(float(p) for p in np.cumprod(np.array(self.rates))))

    def _token_curve(self, drafts: int) -> Floats:
        return self.prefix._token_curve(drafts)


@dataclass(frozen=True)
class LengthCurve(AcceptanceModel):
    """Mean accepted length measured at each draft count, as sweeps over K report it.

    Attributes
    ----------
    lengths : tuple of float
        E(1), E(2), ... [tokens per forward], E(K) in [1, K + 1]. It may fall: each K is a run of its own.

    Examples
    --------
    >>> LengthCurve((1.78, 2.38, 2.83)).expected_tokens(2)  # MiniMax-M3 EAGLE-3, InferenceX golden file
    2.38
    """

    lengths: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.lengths:
            raise InvalidArgumentError("lengths must hold at least one mean accepted length, got an empty list")
        for drafts, length in enumerate(self.lengths, start=1):
            require_length(length, drafts)

    @property
    def max_drafts(self) -> int | None:
        """Largest K measured [-]."""
        return len(self.lengths)

    @property
    def description(self) -> str:
        """One line for the head of an export."""
        return f"mean accepted length {_listed(self.lengths)} for 1, 2, ... drafts, guaranteed token included"

    def _token_curve(self, drafts: int) -> Floats:
        return np.array([1.0, *self.lengths[:drafts]])


def require_length(length: float, drafts: int) -> None:
    """Refuse a mean accepted length that `drafts` drafts cannot give.

    Raises
    ------
    InvalidArgumentError
        Outside [1, drafts + 1].
    """
    if isinstance(length, bool) or not isinstance(length, (int, float)) or not 1.0 <= length <= drafts + 1:
        raise InvalidArgumentError(
            f"mean accepted length must lie in [1, {drafts + 1}] for {drafts} drafts, the guaranteed token counted,"
            f" got {length!r}"
        )


def prefix_from_length(length: float, drafts: int) -> PrefixAcceptance:
    """The per-position list of least variance with a given mean accepted length: ones, one fraction, zeros.

    The rule vLLM applies to ``synthetic_acceptance_length``. Every forward then emits floor(length) or one more token,
    so for fewer drafts than were measured it is an upper bound, E(K) = min(K + 1, length).

    Parameters
    ----------
    length : float
        Mean tokens per forward [-], guaranteed token included, in [1, drafts + 1].
    drafts : int
        Draft count K [-] the mean was measured with.

    Raises
    ------
    InvalidArgumentError
        For a length that so many drafts cannot give.

    Examples
    --------
    >>> prefix_from_length(2.5, 4).rates
    (1.0, 0.5, 0.0, 0.0)
    """
    require_positive_int(drafts=drafts)
    require_length(length, drafts)
    return PrefixAcceptance(tuple(min(1.0, max(0.0, length - position)) for position in range(1, drafts + 1)))


def mtp_draft_counts(predict_layers: int, limit: int) -> tuple[int, ...]:
    """Draft counts vLLM accepts as ``num_speculative_tokens`` of a multi-token-prediction (MTP) checkpoint.

    Any count up to the checkpoint's ``n_predict``, above it multiples of it (vLLM 0.33.0, ``SpeculativeConfig``).

    Parameters
    ----------
    predict_layers : int
        ``n_predict``: prediction modules of the checkpoint [-].
    limit : int
        Largest count wanted [-].

    Examples
    --------
    >>> mtp_draft_counts(5, 12)
    (1, 2, 3, 4, 5, 10)
    """
    require_positive_int(predict_layers=predict_layers, limit=limit)
    return tuple(k for k in range(1, limit + 1) if k <= predict_layers or k % predict_layers == 0)


def _listed(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{v:g}" for v in values) + "]"
