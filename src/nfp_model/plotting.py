"""Pictures by matplotlib, imported when drawn: labelled with units, readable in print, safe for colour-blind readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nfp_model.prediction import Prediction

# Okabe and Ito's palette, distinguishable under the common colour-vision deficiencies.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip


def new_axes(ax: Axes | None = None, width: float = 6.4, height: float = 4.0) -> Axes:
    """The axes given, or new ones on a white figure [inch]."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    figure.patch.set_facecolor("white")
    return axes


def plot_prediction(prediction: Prediction, ax: Axes | None = None) -> Axes:
    """Staircase of T(N) with the tolerance, the boundary, its band, and what idle compute promises.

    Parameters
    ----------
    prediction : Prediction
        What :func:`nfp_model.predict_nfp` returned.
    ax : matplotlib.axes.Axes or None
        Where to draw; None makes a figure.

    Examples
    --------
    >>> from nfp_model import predict_nfp
    >>> axes = plot_prediction(predict_nfp("h100", "llama-3.1-8b"))
    >>> axes.get_xlabel()
    'positions per sequence N'
    """
    axes = new_axes(ax)
    curve, boundary = prediction.curve, prediction.boundary
    # Between the grid's steps T is smooth but not straight: small N are drawn one by one.
    positions = np.union1d(curve.positions, np.arange(boundary.baseline, min(64, int(curve.positions[-1])) + 1))
    milliseconds = 1e3 * prediction.latency_s(positions)
    axes.plot(positions, milliseconds, color=BLUE, linewidth=1.6, label="T(N) predicted")
    axes.axhline(1e3 * boundary.threshold_s, color=BLACK, linewidth=1, linestyle=":", label=f"(1 + {boundary.tolerance:g}) T(N0)")
    low, high = prediction.band
    axes.axvspan(low, max(high, low + 0.2), color=SKY, alpha=0.35, linewidth=0, label=f"80 % band of NFP, {low} to {high}")
    label = f"NFP {'at least ' if boundary.censored else ''}{boundary.nfp}"
    axes.axvline(boundary.nfp, color=VERMILION, linewidth=1.6, label=label)
    idle = prediction.idle_compute_nfp
    axes.axvline(idle, color=ORANGE, linewidth=1.6, linestyle="--", label=f"idle compute {idle:.0f}")
    saturated = prediction.saturated
    if saturated is not None and saturated is not prediction:
        text = f"from saturated ({saturated.baseline}): NFP {saturated.nfp}"
        axes.axvline(saturated.nfp, color=GREEN, linewidth=1.6, linestyle="-.", label=text)
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 1.05 * float(np.interp(4 * idle, positions, milliseconds)))
    axes.set_xlim(boundary.baseline, min(float(curve.positions[-1]), 8 * idle))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    axes.set_xlabel("positions per sequence N")
    axes.set_ylabel("decode forward T(N) [ms]")
    axes.set_title(f"{prediction.model.title} on {prediction.hardware.title}, batch {prediction.workload.batch_size}", fontsize=10)
    axes.legend(fontsize=8, framealpha=0.9)
    return axes
