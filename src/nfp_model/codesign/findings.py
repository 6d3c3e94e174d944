"""Elasticities as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nfp_model.errors import unknown_name
from nfp_model.prediction import Prediction
from nfp_model.quantities import format_si

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Sensitivity:
    """What one lever does.

    Attributes
    ----------
    lever, unit : str
        Which, in what.
    value : float
        Present value.
    compared : tuple of float
        Neighbouring values the truth is taken between; with one of them, against the present one.
    latency_held, latency_truth : float or None
        d log T / d log x at the stated position: with tile, wave, split and block counts held; by finite difference of the
        whole prediction [-]. None where no neighbour runs.
    nfp_held : float or None
        d log N / d log x of the closed form of the operator that binds [-]; None where nothing binds.
    nfp_truth : float or None
        The same by finite difference of the searched boundary [-]; None where one is censored.
    nfp_compared : tuple of int
        NFP at the neighbouring values [positions].
    note : str
        What is held or compared.
    """

    lever: str
    unit: str
    value: float
    compared: tuple[float, ...]
    latency_held: float
    latency_truth: float | None
    nfp_held: float | None
    nfp_truth: float | None
    nfp_compared: tuple[int, ...]
    note: str


@dataclass(frozen=True)
class Sensitivities:
    """Elasticities of a prediction; prints as a table.

    Attributes
    ----------
    prediction : Prediction
        Around which.
    positions : int
        Where the latency's elasticities are taken [positions].
    binding : str
        Operator whose closed form gives ``nfp_held``; empty where nothing binds.
    rows : tuple of Sensitivity
        One per lever.
    """

    prediction: Prediction
    positions: int
    binding: str
    rows: tuple[Sensitivity, ...]

    def __getitem__(self, lever: str) -> Sensitivity:
        for row in self.rows:
            if row.lever == lever:
                return row
        raise unknown_name("lever", lever, [row.lever for row in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Everything a program needs, JSON-safe."""
        p = self.prediction
        return {
            "hardware": p.hardware.name,
            "model": p.model.name,
            "positions": self.positions,
            "nfp": p.nfp,
            "censored": p.censored,
            "baseline": p.baseline,
            "tolerance": p.boundary.tolerance,
            "binding": self.binding,
            "levers": [
                asdict(row) | {"compared": list(row.compared), "nfp_compared": list(row.nfp_compared)}
                for row in self.rows
            ],
        }

    def plot(self, ax: Axes | None = None) -> Axes:
        """Bars of both elasticities, by matplotlib."""
        from nfp_model.plotting import plot_sensitivities

        return plot_sensitivities(self, ax)

    def __str__(self) -> str:
        p = self.prediction
        found = f"at least {p.nfp}" if p.censored else str(p.nfp)
        held = f"closed form of {self.binding}" if self.binding else "nothing binds"
        lines = [
            f"{p.model.title} on {p.hardware.title}: NFP {found} from {p.baseline} at tolerance {p.boundary.tolerance:g}",
            f"d log / d log of the lever; T at {self.positions} positions; held: tile counts held ({held}); "
            "truth: finite difference of the prediction",
            f"{'lever':12s} {'value':>12s} {'T held':>8s} {'truth':>8s} {'NFP held':>8s} {'truth':>8s}  NFP at",
        ]
        lines += [_line(row) for row in self.rows]
        return "\n".join(lines)


def _line(row: Sensitivity) -> str:
    numbers = (row.latency_held, row.latency_truth, row.nfp_held, row.nfp_truth)
    cells = [f"{'-' if number is None else format(number, '+.2f'):>8s}" for number in numbers]
    at = ", ".join(f"{_value(x, row.unit)}: {nfp}" for x, nfp in zip(row.compared, row.nfp_compared, strict=True))
    return f"{row.lever:12s} {_value(row.value, row.unit):>12s} {' '.join(cells)}  {at}" + (
        f"  ({row.note})" if row.note else ""
    )


def _value(value: float, unit: str) -> str:
    if unit in ("B/s", "FLOP/s"):
        return format_si(value, unit)
    return f"{value:g}" + {"-": "", "x": "x", "bit": " bit", "elements": ""}[unit]


__all__ = ["Sensitivities", "Sensitivity"]
