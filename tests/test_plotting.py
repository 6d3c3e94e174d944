"""Every picture says what it shows: labels with units, the numbers of the object drawn, dark text on white."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from nfp_model import Gemm, Prediction, predict_nfp
from nfp_model.codesign import Sensitivities, sensitivities
from nfp_model.errors import NfpModelError
from nfp_model.plotting import (
    plot_map,
    plot_over_prediction,
    plot_prediction,
    plot_roofline,
    plot_sensitivities,
    plot_slacks,
)
from nfp_model.plotting.roofline import useful_work
from nfp_model.plotting.slacks import SMALLEST_SHARE
from nfp_model.plotting.style import CYCLE
from nfp_model.sweeping import SweepResult, sweep


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    from matplotlib import pyplot

    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def mixtral() -> Prediction:
    return predict_nfp("h100", "mixtral", backend="vllm")


@pytest.fixture(scope="module")
def levers() -> Sensitivities:
    return sensitivities("h100", "mixtral", baseline="saturated", backend="vllm", max_positions=512)


@pytest.fixture(scope="module")
def grid() -> SweepResult:
    # 10^6 tokens are beyond what the model was made for: one column is refused.
    contexts = [1024, 16384, 10**6]
    return sweep("h100", "llama-3.1-8b", batch_size=[1, 64], context_length=contexts, max_positions=32, backend="vllm")


@pytest.fixture(scope="module")
def chips() -> SweepResult:
    return sweep(["h100", "b200"], ["llama-3.1-8b", "mixtral"], max_positions=512, backend="vllm")


PICTURES: dict[str, Callable[[Any], Any]] = {
    "staircase": lambda get: plot_prediction(get("mixtral")),
    "slacks": lambda get: plot_slacks(get("mixtral")),
    "roofline": lambda get: plot_roofline(get("mixtral")),
    "sensitivities": lambda get: plot_sensitivities(get("levers")),
    "map": lambda get: plot_map(get("grid")),
    "over_prediction": lambda get: plot_over_prediction(get("chips")),
}


def texts(axes: Any) -> list[str]:
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_dark_on_white_in_a_dark_notebook(name: str, request: pytest.FixtureRequest) -> None:
    from matplotlib import colors, pyplot
    from matplotlib.text import Text

    with pyplot.style.context("dark_background"):
        axes = PICTURES[name](request.getfixturevalue)
        axes.figure.canvas.draw()
    assert colors.to_hex(axes.figure.get_facecolor()) == "#ffffff"
    inside = {text for text in axes.texts if name == "map"}  # numbers on coloured cells choose their own contrast
    for text in axes.figure.findobj(Text):
        if text.get_text().strip() and text not in inside:
            assert sum(colors.to_rgb(text.get_color())) < 0.5, text.get_text()


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_names_its_axes_and_draws_where_told(name: str, request: pytest.FixtureRequest) -> None:
    axes = PICTURES[name](request.getfixturevalue)
    assert axes.get_xlabel()
    assert axes.get_title()
    assert axes.figure.get_layout_engine() is not None


def test_pictures_draw_into_the_axes_given(mixtral: Prediction) -> None:
    from matplotlib import pyplot

    _, panels = pyplot.subplots(1, 3)
    for draw, panel in zip((plot_prediction, plot_slacks, plot_roofline), panels, strict=True):
        assert draw(mixtral, panel) is panel


def test_the_staircase_carries_the_predictions_numbers(mixtral: Prediction) -> None:
    axes = plot_prediction(mixtral)
    assert axes.get_xlabel() == "positions per sequence N"
    assert axes.get_ylabel() == "decode forward T(N) [ms]"
    assert mixtral.saturated is not None
    words = texts(axes)
    assert f"NFP {mixtral.nfp}" in words
    assert f"idle compute {mixtral.idle_compute_nfp:.0f}" in words
    assert f"from saturated ({mixtral.saturated.baseline}): NFP {mixtral.saturated.nfp}" in words
    low, high = axes.get_xlim()
    assert low < mixtral.nfp
    assert high > mixtral.saturated.nfp
    line = next(line for line in axes.lines if line.get_label() == "T(N) predicted")
    at = list(line.get_xdata()).index(mixtral.nfp)
    assert line.get_ydata()[at] == pytest.approx(1e3 * mixtral.curve.at(mixtral.nfp))


def test_a_censored_boundary_is_drawn_as_at_least() -> None:
    axes = plot_prediction(predict_nfp("h100", "llama-3.1-8b", max_positions=4, backend="vllm"))
    assert "NFP at least 4" in texts(axes)


def test_the_slack_waterfall_ends_at_the_whole_forward(mixtral: Prediction) -> None:
    axes = plot_slacks(mixtral)
    assert axes.get_xlabel() == "time within the forward [ms]"
    shown = [label.get_text() for label in axes.get_yticklabels()]
    large = [r.name for r in mixtral.operators if r.seconds >= SMALLEST_SHARE * mixtral.baseline_latency_s]
    assert shown == [*large, "smaller ones"]
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches if bar.get_height() > 0.8]
    assert max(ends) == pytest.approx(1e3 * mixtral.baseline_latency_s)
    assert texts(axes) == ["operator's time", "memory slack", "granularity slack", "latency slack"]


def test_no_module_rises_above_the_roof(mixtral: Prediction) -> None:
    axes = plot_roofline(mixtral)
    assert axes.get_xlabel() == "arithmetic intensity [FLOP/B]"
    assert axes.get_ylabel() == "useful matrix rate [TFLOP/s]"
    h100 = mixtral.hardware
    names = {name.replace("_", " ") for name in mixtral.modules}
    lines = [line for line in axes.lines if line.get_label() in names]
    assert len(lines) == 4
    for line in lines:
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        roof = np.minimum(h100.peak_flop_per_s["bfloat16"], h100.memory_bandwidth_bytes_per_s * x) / 1e12
        assert (y <= roof).all(), line.get_label()
    # Tile steps show: the experts' rate falls somewhere although positions are added.
    experts = next(line for line in lines if line.get_label() == "moe ffn")
    assert (np.diff(experts.get_ydata()) < 0).any()


def test_useful_work_of_a_matrix_is_two_flop_a_weight() -> None:
    flop, moved = useful_work(Gemm(4096, 1024), np.array([1, 10]))
    assert flop.tolist() == [2 * 4096 * 1024, 20 * 4096 * 1024]
    assert moved[0] == 2 * (4096 * 1024 + 4096 + 1024)


def test_the_map_shows_every_number_and_says_refused(grid: SweepResult) -> None:
    axes = plot_map(grid)
    assert axes.get_ylabel() == "batch [sequences]"
    assert axes.get_xlabel() == "context [tokens per sequence]"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1024", "16384", "1e+06"]
    bar = axes.figure.axes[1]
    assert bar.get_ylabel() == "NFP [positions per sequence]"
    shown = [text.get_text() for text in axes.texts]
    expected = ["refused" if r["nfp"] is None else ("≥" if r["censored"] else "") + str(r["nfp"]) for r in grid.records]
    assert shown == expected
    assert shown.count("refused") == 2
    assert "llama-3.1-8b on h100" in axes.get_title()


def test_a_map_needs_two_axes_and_a_number(grid: SweepResult, chips: SweepResult) -> None:
    with pytest.raises(NfpModelError, match="two axes with more than one value, the sweep has 1"):
        plot_map(sweep("h100", "llama-3.1-8b", batch_size=[1, 2], max_positions=8))
    with pytest.raises(NfpModelError, match="unknown sweep result 'nf'"):
        plot_map(grid, "nf")
    refused = SweepResult(grid.axes, tuple({**record, "nfp": None} for record in grid.records))
    with pytest.raises(NfpModelError, match="no point of the sweep has a nfp"):
        plot_map(refused)
    with pytest.raises(NfpModelError, match="over hardware and model, got batch_size, context_length"):
        plot_over_prediction(grid)


def test_over_prediction_places_every_pair(chips: SweepResult) -> None:
    axes = plot_over_prediction(chips)
    assert axes.get_xlabel() == "over-prediction, idle-compute NFP / NFP [-]"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["llama-3.1-8b", "mixtral"]
    assert texts(axes) == ["h100", "b200"]
    drawn = sorted(x for line in axes.lines if line.get_label() in ("h100", "b200") for x in line.get_xdata())
    assert drawn == pytest.approx(sorted(record["over_prediction"] for record in chips))


@pytest.mark.parametrize("quantity", ["nfp", "latency"])
def test_sensitivity_bars_are_the_elasticities(levers: Sensitivities, quantity: Any) -> None:
    axes = plot_sensitivities(levers, quantity=quantity)
    symbol = "NFP" if quantity == "nfp" else "T(16)"
    assert axes.get_xlabel() == f"d log {symbol} / d log lever [-]"
    assert [label.get_text() for label in axes.get_yticklabels()] == [r.lever.replace("_", " ") for r in levers.rows]
    values = [getattr(row, f"{quantity}_truth") for row in levers.rows]
    widths = [bar.get_width() for bar in axes.containers[1]]
    assert widths == pytest.approx([value for value in values if value is not None])
    assert "finite difference" in texts(axes)


def test_another_quantity_is_refused(levers: Sensitivities) -> None:
    with pytest.raises(NfpModelError, match="unknown quantity 'nfq'; did you mean 'nfp'"):
        plot_sensitivities(levers, quantity="nfq")  # type: ignore[arg-type]


def test_objects_plot_themselves(mixtral: Prediction, levers: Sensitivities) -> None:
    assert mixtral.plot().get_xlabel() == plot_prediction(mixtral).get_xlabel()
    assert levers.plot().get_xlabel() == plot_sensitivities(levers).get_xlabel()


def test_series_stay_apart_without_colour_vision() -> None:
    # Viénot, Brettel and Mollon (1999): what is left of linear RGB without long-wave, or without medium-wave cones.
    from matplotlib import colors

    protan = np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]])
    deutan = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
    linear = np.array([colors.to_rgb(colour) for colour in CYCLE]) ** 2.2
    for matrix in (np.eye(3), protan, deutan):
        seen = np.clip(linear @ matrix.T, 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
        assert apart[~np.eye(len(CYCLE), dtype=bool)].min() > 0.12


def test_importing_plots_does_not_import_matplotlib() -> None:
    code = (
        "import sys, nfp_model.plotting, nfp_model.sweeping, nfp_model.codesign;"
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'pandas', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
