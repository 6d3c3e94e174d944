"""T(N): the staircase, its boundary and what idle compute promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nfp_model.plotting.style import BLACK, BLUE, GREEN, ORANGE, SKY, VERMILION, legend, new_axes, plain_numbers, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nfp_model.prediction import Prediction


def plot_prediction(prediction: Prediction, ax: Axes | None = None) -> Axes:
    """Staircase of T(N) with its band, the tolerance, the boundary, its band, and what idle compute promises.

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
    positions = positions[positions >= boundary.baseline]
    milliseconds = 1e3 * prediction.latency_s(positions)
    idle = prediction.idle_compute_nfp
    low, high = prediction.band
    band = f"80 % band of NFP, {low} to {high}" if low < high else f"80 % band of NFP, {low} alone"
    axes.axvspan(low, max(high, 1.02 * low), color=SKY, alpha=0.35, linewidth=0, label=band)
    slowest, fastest = (1e3 * seconds for seconds in reversed(prediction.latency_band_s(positions)))
    axes.fill_between(positions, fastest, slowest, color=BLUE, alpha=0.15, linewidth=0, label="80 % band of T(N)")
    axes.plot(positions, milliseconds, color=BLUE, linewidth=1.6, label="T(N) predicted")
    tolerance = f"(1 + {boundary.tolerance:g}) T({boundary.baseline})"
    axes.axhline(1e3 * boundary.threshold_s, color=BLACK, linewidth=1, linestyle=":", label=tolerance)
    label = f"NFP {'at least ' if boundary.censored else ''}{boundary.nfp}"
    axes.axvline(boundary.nfp, color=VERMILION, linewidth=1.6, label=label)
    axes.axvline(idle, color=ORANGE, linewidth=1.6, linestyle="--", label=f"idle compute {idle:.0f}")
    saturated = prediction.saturated
    if saturated is not None and saturated is not prediction:
        text = f"from saturated ({saturated.baseline}): NFP {saturated.nfp}"
        axes.axvline(saturated.nfp, color=GREEN, linewidth=1.6, linestyle="-.", label=text)
    shown = max([idle, boundary.nfp, *([] if saturated is None else [saturated.nfp])])
    last = min(float(positions[-1]), 4 * shown)
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 1.08 * float(slowest[positions <= last].max()))
    axes.set_xlim(0.93 * boundary.baseline, max(last, 2.0 * boundary.baseline))
    plain_numbers(axes)
    axes.set_xlabel("positions per sequence N")
    axes.set_ylabel("decode forward T(N) [ms]")
    titled(axes, f"{prediction.model.title} on {prediction.hardware.title}, batch {prediction.workload.batch_size}")
    legend(axes, loc="upper left")
    return axes
