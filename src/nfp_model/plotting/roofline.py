"""The roofline with every module's path along it as positions are added."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nfp_model.cost.inputs import attention_bytes
from nfp_model.kernels.counts import FloatArray, IntArray
from nfp_model.kernels.routing import experts_touched
from nfp_model.operators import Attention, FusedMoE, Gemm, Operator
from nfp_model.plotting.style import BLACK, CYCLE, GREY, MARKERS, legend, new_axes, positions_words, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nfp_model.prediction import Prediction


def plot_roofline(prediction: Prediction, ax: Axes | None = None) -> Axes:
    """Achieved matrix rate over arithmetic intensity, one line per module from the baseline to the last position.

    Every step edge is drawn: where a tile, wave or row block is added, the rate drops although the intensity rises. The roof is
    Williams, Waterman and Patterson's (CACM 52(4), 2009), min(peak, bandwidth x intensity), with datasheet numbers.

    Parameters
    ----------
    prediction : Prediction
        What :func:`nfp_model.predict_nfp` returned.
    ax : matplotlib.axes.Axes or None
        Where to draw; None makes a figure.

    Examples
    --------
    >>> from nfp_model import predict_nfp
    >>> plot_roofline(predict_nfp("h100", "llama-3.1-8b")).get_ylabel()
    'useful matrix rate [TFLOP/s]'
    """
    axes = new_axes(ax, height=4.4)
    forward, hardware = prediction.forward, prediction.hardware
    grid = prediction.curve.positions[prediction.curve.positions >= prediction.baseline]
    intensities = []
    lines = 0
    for module in prediction.modules:
        flop, moved, seconds = np.zeros(grid.size), np.zeros(grid.size), np.zeros(grid.size)
        for use, bound in zip(forward.uses, forward.bound, strict=True):
            if use.module == module:
                tokens = forward.tokens(use, grid)
                work, traffic = useful_work(use.operator, tokens)
                flop, moved = flop + use.count * work, moved + use.count * traffic
                seconds = seconds + use.count * bound.seconds(tokens)
        if not flop[0]:
            continue
        intensity, rate = flop / moved, flop / seconds / 1e12
        colour, marker = CYCLE[lines % len(CYCLE)], MARKERS[lines % len(MARKERS)]
        lines += 1
        axes.plot(intensity, rate, color=colour, linewidth=1.2, label=module.replace("_", " "))
        nfp = prediction.modules[module].boundary.nfp
        axes.plot(intensity[0], rate[0], marker=marker, color=colour, markersize=5, markerfacecolor="white")
        at = int(np.searchsorted(grid, nfp, side="right")) - 1
        axes.plot(intensity[at], rate[at], marker=marker, color=colour, markersize=7, markeredgecolor=BLACK)
        intensities += [intensity.min(), intensity.max()]
    _roof(axes, prediction, 0.7 * min(intensities), 1.6 * max(intensities))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("arithmetic intensity [FLOP/B]")
    axes.set_ylabel("useful matrix rate [TFLOP/s]")
    titled(axes, f"{prediction.model.title} on {hardware.title}, {grid[0]} to {grid[-1]} positions")
    handles, labels = axes.get_legend_handles_labels()
    from matplotlib.lines import Line2D

    handles.append(Line2D([], [], linestyle="", marker="o", color=GREY, markersize=5, markerfacecolor="white"))
    handles.append(Line2D([], [], linestyle="", marker="o", color=GREY, markersize=7, markeredgecolor=BLACK))
    labels += [f"at {positions_words(prediction.baseline)}", "at the module's NFP"]
    legend(axes, handles=handles, labels=labels, loc="lower right")
    return axes


def _roof(axes: Axes, prediction: Prediction, low: float, high: float) -> None:
    hardware = prediction.hardware
    rates = {
        hardware.matrix_rate_key(use.operator.weight_dtype, use.operator.activation_dtype)
        for use in prediction.forward.uses
        if isinstance(use.operator, Gemm | FusedMoE)
    } | {"bfloat16"}
    x = np.geomspace(low, high, 200)
    for index, rate in enumerate(sorted(rates, key=hardware.peak_flop_per_s.__getitem__)):
        roof = np.minimum(hardware.peak_flop_per_s[rate], hardware.memory_bandwidth_bytes_per_s * x) / 1e12
        style = "-" if index == 0 else "--"
        axes.plot(x, roof, color=BLACK, linewidth=1.0, linestyle=style, label=f"roof, {rate}")


def useful_work(operator: Operator, tokens: IntArray) -> tuple[FloatArray, FloatArray]:
    """FLOP and bytes of an operator without padding, re-reads or splits, over its token counts [FLOP], [B].

    Examples
    --------
    >>> flop, moved = useful_work(Gemm(8192, 8192), np.array([1]))
    >>> round(float(flop[0] / moved[0]), 2)
    1.0
    """
    if isinstance(operator, Gemm):
        moved = operator.weight_bytes + operator.activation_bytes_per_row * tokens
        return np.asarray(operator.flop_per_row * tokens), np.asarray(moved)
    if isinstance(operator, FusedMoE):
        touched = experts_touched(
            operator.load_routing, operator.num_experts, operator.top_k, tokens, operator.expert_parallel
        )
        pairs = tokens * operator.top_k / operator.expert_parallel
        moved = touched * operator.expert_bytes + operator.activation_bytes_per_routed_row * pairs
        return np.asarray(operator.flop_per_routed_row * pairs), np.asarray(moved)
    if isinstance(operator, Attention):
        keys = operator.mean_keys_before
        flop = operator.flop_per_position_and_key * operator.batch_size * tokens * (keys + tokens)
        return np.asarray(flop), attention_bytes(operator, tokens)
    return np.zeros(tokens.size), np.zeros(tokens.size)
