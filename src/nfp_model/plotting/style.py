"""Colours and axes every picture shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, distinguishable under the common colour-vision deficiencies.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY = "#BBBBBB"

CYCLE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK)
"""Order in which series take their colours; yellow is too light for lines on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Told apart in black and white too."""

HATCHES = ("", "///", "...", "xxx")
"""Fills told apart in black and white too."""


def new_axes(ax: Axes | None = None, width: float = 6.4, height: float = 4.0) -> Axes:
    """The axes given, or new ones, dark on white whatever style the notebook has [inch]."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    figure.patch.set_facecolor("white")
    axes.set_facecolor("white")
    axes.tick_params(which="both", colors=BLACK)
    for spine in axes.spines.values():
        spine.set_edgecolor(BLACK)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(BLACK)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def legend(axes: Axes, **options: Any) -> None:
    """A legend on white."""
    shown = {"fontsize": 8, "framealpha": 0.9, "facecolor": "white", "edgecolor": GREY, "labelcolor": BLACK, **options}
    axes.legend(**shown)


def titled(axes: Axes, title: str) -> None:
    """A title in the size of the text."""
    axes.set_title(title, fontsize=10)


def plain_numbers(axes: Axes, which: str = "x") -> None:
    """Whole numbers instead of powers on a logarithmic axis."""
    from matplotlib.ticker import NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def positions_words(count: int) -> str:
    """``1 position``, ``2 positions``."""
    return f"{count} position{'s' * (count != 1)}"
