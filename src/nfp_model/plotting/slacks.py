"""Bars: the slacks of every operator, and the elasticities of every lever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from nfp_model.errors import unknown_name
from nfp_model.plotting.style import (
    BLACK,
    BLUE,
    GREY,
    HATCHES,
    ORANGE,
    SKY,
    VERMILION,
    legend,
    new_axes,
    positions_words,
    titled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nfp_model.codesign import Sensitivities
    from nfp_model.prediction import Prediction

SMALLEST_SHARE = 0.01
"""Operators below this share of the forward are drawn as one [-]."""

_SLACKS = (
    ("memory_slack_s", "memory slack", SKY),
    ("granularity_slack_s", "granularity slack", ORANGE),
    ("latency_slack_s", "latency slack", VERMILION),
)


def plot_slacks(prediction: Prediction, ax: Axes | None = None) -> Axes:
    """Waterfall of T(N0) over the operators, the three slacks of each inside its step.

    Memory slack: compute that could hide under the memory stream. Granularity slack: matrix time already paid for rows not yet
    used. Latency slack: fixed and serial time. They overlap in time, so they do not add up to the step.

    Parameters
    ----------
    prediction : Prediction
        What :func:`nfp_model.predict_nfp` returned.
    ax : matplotlib.axes.Axes or None
        Where to draw; None makes a figure.

    Examples
    --------
    >>> from nfp_model import predict_nfp
    >>> plot_slacks(predict_nfp("h100", "llama-3.1-8b")).get_xlabel()
    'time within the forward [ms]'
    """
    total = prediction.baseline_latency_s
    steps: list[tuple[str, float, list[float]]] = []
    rest = [0.0, 0.0, 0.0, 0.0]
    for report in prediction.operators:
        slacks = [float(getattr(report, name)) for name, _, _ in _SLACKS]
        if report.seconds >= SMALLEST_SHARE * total:
            steps.append((report.name, report.seconds, slacks))
        else:
            rest = [sum(pair) for pair in zip(rest, [report.seconds, *slacks], strict=True)]
    if rest[0]:
        steps.append(("smaller ones", rest[0], rest[1:]))
    axes = new_axes(ax, height=1.2 + 0.42 * (len(steps) + 1))
    start = 0.0
    for row, (_, seconds, slacks) in enumerate(steps):
        axes.barh(row, 1e3 * seconds, left=1e3 * start, height=0.86, color="#E4E4E4", edgecolor=GREY, linewidth=0.6)
        for place, (slack, (_, _, colour)) in enumerate(zip(slacks, _SLACKS, strict=True)):
            axes.barh(
                row + 0.27 * (place - 1),
                1e3 * slack,
                left=1e3 * start,
                height=0.25,
                color=colour,
                hatch=HATCHES[place],
                edgecolor=BLACK,
                linewidth=0.4,
            )
        if row + 1 < len(steps):
            axes.plot([1e3 * (start + seconds)] * 2, [row + 0.43, row + 1 - 0.43], color=GREY, linewidth=0.8)
        start += seconds
    axes.set_yticks(range(len(steps)), [name for name, *_ in steps])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02e3 * start)
    axes.set_xlabel("time within the forward [ms]")
    titled(
        axes,
        f"Slacks of {prediction.model.title} on {prediction.hardware.title}, {positions_words(prediction.baseline)}",
    )
    from matplotlib.patches import Patch

    handles = [Patch(facecolor="#E4E4E4", edgecolor=GREY, label="operator's time")]
    handles += [
        Patch(facecolor=colour, edgecolor=BLACK, linewidth=0.4, hatch=hatch, label=label)
        for (_, label, colour), hatch in zip(_SLACKS, HATCHES, strict=False)
    ]
    legend(axes, handles=handles, loc="upper right")
    return axes


def plot_sensitivities(
    found: Sensitivities, ax: Axes | None = None, quantity: Literal["nfp", "latency"] = "nfp"
) -> Axes:
    """Elasticities of every lever: with counts held, and by finite difference.

    Parameters
    ----------
    found : Sensitivities
        What :func:`nfp_model.codesign.sensitivities` returned.
    ax : matplotlib.axes.Axes or None
        Where to draw; None makes a figure.
    quantity : {"nfp", "latency"}
        Whose elasticities.

    Raises
    ------
    UnknownNameError
        For another quantity.

    Examples
    --------
    >>> from nfp_model.codesign import sensitivities
    >>> found = sensitivities("h100", "llama-3.1-8b", max_positions=256)
    >>> plot_sensitivities(found, quantity="latency").get_xlabel()
    'd log T(1) / d log lever [-]'
    """
    if quantity not in ("nfp", "latency"):
        raise unknown_name("quantity", quantity, ["nfp", "latency"])
    axes = new_axes(ax, height=1.2 + 0.42 * len(found.rows))
    held = [getattr(row, f"{quantity}_held") for row in found.rows]
    truth = [getattr(row, f"{quantity}_truth") for row in found.rows]
    where = np.arange(len(found.rows))
    label = f"closed form of {found.binding}" if quantity == "nfp" and found.binding else "tile counts held"
    for offset, values, name, colour, hatch in (
        (-0.2, held, label, SKY, "///"),
        (0.2, truth, "finite difference", BLUE, ""),
    ):
        present = [(x, v) for x, v in zip(where, values, strict=True) if v is not None]
        missing = [x for x, v in zip(where, values, strict=True) if v is None]
        axes.barh(
            [x + offset for x, _ in present],
            [v for _, v in present],
            height=0.38,
            color=colour,
            hatch=hatch,
            edgecolor=BLACK,
            linewidth=0.4,
            label=name,
        )
        for x in missing:
            axes.annotate(
                "none", (0, x + offset), (3, 0), textcoords="offset points", va="center", fontsize=7, color=BLACK
            )
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.set_yticks(where, [row.lever.replace("_", " ") for row in found.rows])
    axes.invert_yaxis()
    symbol = "NFP" if quantity == "nfp" else f"T({found.positions})"
    axes.set_xlabel(f"d log {symbol} / d log lever [-]")
    titled(
        axes, f"{found.prediction.model.title} on {found.prediction.hardware.title}, from {found.prediction.baseline}"
    )
    legend(axes)
    return axes
