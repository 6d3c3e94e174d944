"""Pictures of sweeps: heat maps over two axes, and over-prediction by model and GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nfp_model.errors import InvalidArgumentError
from nfp_model.plotting.style import BLACK, CYCLE, GREY, MARKERS, legend, new_axes, plain_numbers, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nfp_model.sweeping import SweepResult

_UNITS = {
    "nfp": "NFP [positions per sequence]",
    "saturated_nfp": "NFP from the saturated baseline [positions per sequence]",
    "idle_compute_nfp": "idle-compute NFP [positions per sequence]",
    "over_prediction": "idle-compute NFP / NFP [-]",
    "baseline_latency_s": "T(N0) [s]",
}
_AXES = {
    "batch_size": "batch [sequences]",
    "context_length": "context [tokens per sequence]",
    "tolerance": "tolerance [-]",
    "tensor_parallel": "tensor-parallel ranks [GPUs]",
    "expert_parallel": "expert-parallel ranks [GPUs]",
    "hardware.memory_bandwidth_bytes_per_s": "memory bandwidth [B/s]",
    "hardware.peak_flop_per_s": "factor on every peak [-]",
    "hardware.sm_count": "SMs [-]",
}

MOST_LABELLED = 120
"""Cells up to which each carries its number [-]."""


def plot_map(found: SweepResult, value: str = "nfp", ax: Axes | None = None) -> Axes:
    """Heat map of a sweep over two axes: the first downwards, the second to the right, colours logarithmic.

    Parameters
    ----------
    found : SweepResult
        With exactly two axes that have more than one value.
    value : str
        Numeric result to colour by: ``nfp``, ``saturated_nfp``, ``over_prediction``, ``baseline_latency_s``, ...
    ax : matplotlib.axes.Axes or None
        Where to draw; None makes a figure.

    Raises
    ------
    InvalidArgumentError
        For another number of axes, or when every point was refused.

    Examples
    --------
    >>> from nfp_model.sweeping import sweep
    >>> found = sweep("h100", "llama-3.1-8b", batch_size=[1, 4], context_length=[1024, 4096], max_positions=256)
    >>> plot_map(found).get_ylabel()
    'batch [sequences]'
    """
    swept = [name for name, values in found.axes.items() if len(values) > 1]
    if len(swept) != 2:
        raise InvalidArgumentError(f"a heat map needs two axes with more than one value, the sweep has {len(swept)}")
    down, right = swept
    numbers = found.values(value).reshape(len(found.axes[down]), len(found.axes[right])).astype(float)
    if not np.isfinite(numbers).any():
        raise InvalidArgumentError(f"no point of the sweep has a {value}")
    axes = new_axes(ax, width=2.6 + 0.62 * numbers.shape[1], height=1.6 + 0.4 * numbers.shape[0])
    from matplotlib.colors import LogNorm

    norm = LogNorm(vmin=max(np.nanmin(numbers), 1e-12), vmax=max(np.nanmax(numbers), 1.0001 * np.nanmin(numbers)))
    axes.set_facecolor(GREY)
    image = axes.imshow(np.ma.masked_invalid(numbers), cmap="cividis", norm=norm, aspect="auto")
    _label_cells(axes, found, value, numbers, norm)
    for axis, name in ((axes.yaxis, down), (axes.xaxis, right)):
        axis.set_ticks(range(len(found.axes[name])), [_short(item) for item in found.axes[name]])
        axis.set_label_text(_AXES.get(name, name))
    bar = axes.figure.colorbar(image, ax=axes)
    bar.set_label(_UNITS.get(value, value), color=BLACK)
    bar.ax.tick_params(which="both", colors=BLACK)
    from matplotlib.ticker import LogLocator

    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plain_numbers(bar.ax, "y")
    titled(axes, _title(found))
    return axes


def _label_cells(axes: Axes, found: SweepResult, value: str, numbers: np.ndarray, norm: Any) -> None:
    if numbers.size > MOST_LABELLED:
        return
    censored = np.array([bool(record["censored"]) for record in found.records]).reshape(numbers.shape)
    for (row, column), number in np.ndenumerate(numbers):
        bright = np.isnan(number) or float(norm(number)) > 0.55
        at_least = "≥" if value == "nfp" and censored[row, column] else ""
        text = (
            "refused" if np.isnan(number) else f"{at_least}{number:.3g}" if number < 1000 else f"{at_least}{number:.0f}"
        )
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=BLACK if bright else "white")


def _short(item: Any) -> str:
    return f"{item:g}" if isinstance(item, int | float) else str(item)


def _title(found: SweepResult) -> str:
    """Model, chip, and axes of one value."""
    shared = {**found.fixed, **{name: values[0] for name, values in found.axes.items() if len(values) == 1}}
    model, chip = shared.pop("model", None), shared.pop("hardware", None)
    names = [str(model) if model else "", f"on {chip}" if chip else ""]
    rest = [f"{name.rpartition('.')[2].replace('_', ' ')} {_short(value)}" for name, value in shared.items()]
    return ", ".join(part for part in [" ".join(names).strip(), *rest] if part)


def plot_over_prediction(found: SweepResult, ax: Axes | None = None) -> Axes:
    """How far idle compute promises more than the model predicts, by model and GPU.

    Parameters
    ----------
    found : SweepResult
        Of a sweep with ``hardware`` and ``model`` as axes, and nothing else.
    ax : matplotlib.axes.Axes or None
        Where to draw; None makes a figure.

    Raises
    ------
    InvalidArgumentError
        For a sweep over anything else.

    Examples
    --------
    >>> from nfp_model.sweeping import sweep
    >>> found = sweep(["h100", "b200"], ["llama-3.1-8b", "mistral-7b"], max_positions=512)
    >>> plot_over_prediction(found).get_xlabel()
    'over-prediction, idle-compute NFP / NFP [-]'
    """
    if sorted(found.axes) != ["hardware", "model"]:
        raise InvalidArgumentError(f"needs a sweep over hardware and model, got {', '.join(found.axes)}")
    chips, models = found.axes["hardware"], found.axes["model"]
    axes = new_axes(ax, height=1.6 + 0.32 * len(models))
    spread = np.linspace(-0.22, 0.22, len(chips)) if len(chips) > 1 else [0.0]
    for index, chip in enumerate(chips):
        own = [r for r in found.records if r["hardware"] == chip and r["over_prediction"] is not None]
        axes.plot(
            [record["over_prediction"] for record in own],
            [models.index(record["model"]) + spread[index] for record in own],
            linestyle="",
            marker=MARKERS[index % len(MARKERS)],
            color=CYCLE[index % len(CYCLE)],
            markersize=6,
            label=str(chip),
        )
    for row in range(len(models)):
        axes.axhline(row, color=GREY, linewidth=0.6, zorder=0)
    axes.axvline(1, color=BLACK, linewidth=1, linestyle=":")
    axes.set_xscale("log")
    plain_numbers(axes)
    axes.set_yticks(range(len(models)), [str(model) for model in models])
    axes.set_ylim(len(models) - 0.5, -0.5)
    axes.set_xlabel("over-prediction, idle-compute NFP / NFP [-]")
    titled(axes, "What idle compute promises over what is near-free")
    legend(axes, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return axes
