"""Published speed-ups split into what the algorithm gave and what the system took."""

from __future__ import annotations

from dataclasses import dataclass

from nfp_model.errors import require_positive


@dataclass(frozen=True)
class Decomposition:
    """A published speed-up split in its two factors.

    Attributes
    ----------
    speedup, tokens_per_forward : float
        As published [-].
    step_ratio : float
        E / S [-]: what a speculative step cost over a plain one, drafting included.
    """

    speedup: float
    tokens_per_forward: float
    step_ratio: float

    @property
    def target_efficiency(self) -> float:
        """S / E [-]: MoESD's T(B, 1) / T(B, gamma) (arXiv 2505.19645) with drafting counted in."""
        return 1.0 / self.step_ratio


def decompose_speedup(speedup: float, tokens_per_forward: float) -> Decomposition:
    """What a published speed-up says about the system, the accepted length given: step cost = E / S.

    Parameters
    ----------
    speedup : float
        S [-], tokens per second over decoding without drafts.
    tokens_per_forward : float
        E [tokens per forward]; for a published accepted fraction sigma of gamma drafts, sigma * (gamma + 1).

    Raises
    ------
    InvalidArgumentError
        For values that are not finite and above 0.

    Examples
    --------
    >>> round(decompose_speedup(5.51, 6.62).step_ratio, 2)  # EAGLE-3, Vicuna-13B, batch 1, arXiv 2503.01840
    1.2
    """
    require_positive(speedup=speedup, tokens_per_forward=tokens_per_forward)
    return Decomposition(speedup, tokens_per_forward, tokens_per_forward / speedup)
