"""What producing the drafts costs, in units of one target forward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nfp_model.errors import InvalidArgumentError


@dataclass(frozen=True)
class DraftCost:
    """Drafting cost c*K + c0 of K sequential drafter forwards, nothing at K = 0.

    Leviathan et al. (arXiv 2211.17192, theorem 3.8) write c for the first part. ``DraftCost()`` is free drafting
    (n-gram lookup), ``DraftCost(fixed=c)`` a parallel drafter that needs one forward for any K (DFlash, Medusa, PARD).

    Attributes
    ----------
    per_step : float
        c, time of one drafter forward over one target forward at one position [-].
    fixed : float
        c0, cost of a drafted step whatever K is, over the same [-].

    Examples
    --------
    >>> DraftCost(per_step=0.1, fixed=0.02).of([0, 1, 3]).round(2).tolist()
    [0.0, 0.12, 0.32]
    """

    per_step: float = 0.0
    fixed: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("per_step", self.per_step), ("fixed", self.fixed)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < float("inf"):
                raise InvalidArgumentError(f"draft cost {name} must be a finite number of at least 0, got {value!r}")

    def of(self, steps: ArrayLike) -> NDArray[np.float64]:
        """Cost [target forwards] of `steps` sequential drafter forwards [-]; same shape."""
        count = np.asarray(steps, dtype=np.float64)
        return np.where(count > 0, self.per_step * count + self.fixed, 0.0)
