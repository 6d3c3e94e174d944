"""Measured forwards and modules beside their predictions, as the part of ``docs/validation.md`` about our own timings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date as calendar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nfp_model.specs.calibration import load_calibration
from nfp_model.specs.registry import load_hardware
from nfp_model.validation.forwards import (
    CLOSE,
    JUDGED_ROWS,
    TILE_ROWS,
    TOLERANCES,
    Setting,
    agreement,
    forward_settings,
    module_settings,
)
from nfp_model.validation.granularity import granularity_scores
from nfp_model.validation.recorded import BACKEND, read_header, read_recorded
from nfp_model.validation.records import FloatArray
from nfp_model.validation.score_plots import BLACK, BLUE, GREY, ORANGE, PAPER_HIGH, PAPER_LOW, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GOAL_CLOSE, GOAL_LATENCY = 0.9, 0.08
"""Share of boundaries within 25 %, and largest error of T, that were asked for [-]."""

_KINDS = {"forward": "whole forwards", "dense_ffn": "dense FFN", "moe_ffn": "MoE FFN", "attention": "attention, causal"}

_SHIPPED_FOLDER = ("validation", "data", "h100")
_SHIPPED_HEADER = {"hardware": "h100_sxm5", "date": "2026-11-25T18:02:14+00:00"}
"""The set of this project: only its page says what is true of that run alone."""

_METHOD = """\
Timed by `nfp measure` on one {device} (driver {driver}, PyTorch {torch}, transformers {transformers}, {day}): CUDA graph replay, event
pairs, weights and caches larger than L2 or rotated over copies, random data, clocks free. The files, with their headers, are in
`validation/data/{folder}/` (Apache-2.0); the page on measuring says how a point is timed. transformers runs a static cache and SDPA's flash
kernel; experts are independent uniform draws a layer in place of what random routers choose; LLaDA-8B runs in the Llama
architecture and LLaDA2.0-mini in GLM-4.5's, the nearest in transformers, both bidirectional; of Mixtral 20 layers, which is what fits.

The constants of `{calibration}` are fitted on single operators (`nfp fit validation/data/{folder}`): GEMMs on the fit half of their shapes,
the few shapes of experts, attention and element-wise work all together and scored in up to five groups, each left out in turn. **No whole
forward was fitted.** The table of pieces that transformers runs between its matrix products (`operators/pieces.py`) was written with the
first of these forwards at hand, so theirs is not a blind prediction of that part.
"""

_METHOD_ANY = """\
Timed by `nfp measure` on one {device} (driver {driver}, PyTorch {torch}, transformers {transformers}, {day}): CUDA graph replay, event
pairs, weights and caches larger than L2 or rotated over copies, random data, clocks as found. The files, with their headers, are in
`{folder}`; the page on measuring says how a point is timed. transformers runs a static cache and SDPA's flash kernel; experts are
independent uniform draws a layer in place of what random routers choose.
"""

_FITTED = """\
The constants of `{calibration}` are fitted on single operators: of many shapes on the fit half, few shapes all together and scored in
up to five groups, each left out in turn. **No whole forward was fitted.**
"""

_NOT_FITTED = """\
There is no calibration `{calibration}`: no constant was fitted on this GPU, those of others stand in. `nfp fit` makes one from measured
operators.
"""

_JUDGED = """\
NFP is the last measured number of positions within the tolerance, on the measured sizes for all three columns; curves that never
leave it are left out. T is judged up to {rows} rows. Idle compute is the definition of this library, at datasheet rates.
"""

_MODULES = """\
### Modules

Put together from measured operators: gate and up as two equal GEMMs, and down; the experts; attention.
"""


def write_own_docs(data: Path, folder: Path, command: str) -> tuple[Path, ...]:
    """``validation/own.md`` and its picture from a folder of files of ``nfp measure``.

    Parameters
    ----------
    data : Path
        With ``forward.csv``; what ``gemm.csv``, ``moe.csv`` and ``attention.csv`` tell is left out where they are missing.
    folder : Path
        The documentation's folder.
    command : str
        Written into the page.
    """
    forwards, modules = forward_settings(data / "forward.csv"), module_settings(data)
    inside = folder / "validation"
    inside.mkdir(parents=True, exist_ok=True)
    page, picture, claim = inside / "own.md", inside / "own_forwards.png", inside / "own_claim.png"
    draw(forwards, modules, picture)
    draw_claim(forwards, modules, claim)
    page.write_text(own_markdown(data, forwards, modules, command), encoding="utf-8")
    return page, picture, claim


def own_markdown(data: Path, forwards: Sequence[Setting], modules: Sequence[Setting], command: str) -> str:
    """The page's text: how it was timed, summary against the goals, operators, every setting."""
    header = read_header(data / "forward.csv")
    point = read_recorded(data / "forward.csv")[0]
    gpu = load_hardware(point.gpu).name
    ours = _is_shipped(data, header)
    operators, granularity = _operators(gpu), _granularity(data / "moe.csv")
    parts = [
        f"Written by\n\n```\n{command}\n```\n\n{calendar.today().isoformat()}.\n",
        _method(header, data.resolve().name, gpu, ours),
        _summary(forwards, modules),
        _verdict(forwards),
        *(["### Operators the constants come from\n", operators] if operators else []),
        *(["### Granularity alone\n", granularity] if granularity else []),
        "### Every whole forward\n",
        _settings(forwards),
        *([_MODULES, _settings(modules)] if modules else []),
        "![own forwards](own_forwards.png)\n",
        f"### The paper's claim on {'our own' if ours else 'these'} timings\n",
        _claim(forwards, modules),
        "![own claim](own_claim.png)\n",
    ]  # fmt: skip
    return "\n".join(parts)


def _is_shipped(data: Path, header: Mapping[str, str]) -> bool:
    return data.resolve().parts[-3:] == _SHIPPED_FOLDER and _SHIPPED_HEADER.items() <= header.items()


def _method(header: Mapping[str, str], folder: str, gpu: str, ours: bool) -> str:
    fitted = _FITTED if load_calibration(gpu, BACKEND) is not None else _NOT_FITTED
    paragraphs = (_METHOD, _JUDGED) if ours else (_METHOD_ANY, fitted, _JUDGED)
    known = {name: header.get(name, "not recorded") for name in ("device", "driver", "torch", "transformers")}
    day = header.get("date", "day not recorded").partition("T")[0]
    text = "\n".join(paragraphs)
    return text.format(**known, day=day, folder=folder, calibration=f"{gpu}.{BACKEND}", rows=JUDGED_ROWS)


def _summary(forwards: Sequence[Setting], modules: Sequence[Setting]) -> str:
    lines = [
        f"| | settings | boundaries | within 25 % | within {TILE_ROWS} rows | NFP error | T: median MAPE (worst) "
        "| idle / measured (worst) | NFP in its 80 % band | T in its |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups = {
        "whole forwards": forwards,
        "of them dense": [one for one in forwards if not one.moe],
        "of them MoE": [one for one in forwards if one.moe],
        "of them causal verification": [one for one in forwards if one.words.startswith("verify")],
        "of them block diffusion": [one for one in forwards if one.words.startswith("block")],
        **{
            _KINDS[kind]: [one for one in modules if one.kind == kind] for kind in ("dense_ffn", "moe_ffn", "attention")
        },
    }
    for words, some in groups.items():
        if some:
            a = agreement(some)
            latency = f"{a.mape:.1%} ({a.most_mape:.1%})"
            if not a.boundaries:
                lines.append(
                    f"| {words} | {a.settings} | none | - | - | - | {latency} | - | - | {_share(a.covered_latency)} |"
                )
                continue
            lines.append(
                f"| {words} | {a.settings} | {a.boundaries} | {a.close:.0%} | {a.within_a_tile:.0%} "
                f"| {a.median_error:.2f}/{a.p90_error:.2f} | {latency} "
                f"| {a.idle_median:.1f}x ({a.idle_most:.0f}x) | {_share(a.covered)} | {_share(a.covered_latency)} |"
            )
    return "\n".join(lines) + "\n"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _verdict(forwards: Sequence[Setting]) -> str:
    a = agreement(forwards)
    close = "met" if a.close >= GOAL_CLOSE else "missed"
    share = f"**{close}** ({a.close:.0%} within a factor of {CLOSE})" if a.boundaries else "no boundary was reached"
    latency = "met" if a.most_mape <= GOAL_LATENCY else "missed"
    near = sum(one.mape <= GOAL_LATENCY for one in forwards)
    slow = [
        one for one in forwards if not one.moe and one.batch_size == 1 and {1, 16, 64} <= set(one.positions.tolist())
    ]
    asked = (
        f"Asked for: NFP within 25 % for nine of ten settings: {share}; T within"
        f" 8 %: **{latency}** ({near} of {len(forwards)} settings)."
    )
    if not slow:
        return asked + "\n"
    rises = [(_rise(one, 1, 16), _rise(one, 16, 64)) for one in slow]
    (measured, predicted), (later, later_predicted) = np.median(np.array(rises), axis=0)
    return (
        f"{asked} Where the boundary is missed, latency rises so slowly that a"
        f" few percent of T move it by a factor: of dense models at batch 1, T rises by {measured:.1%} from 1 to 16 positions"
        f" (predicted {predicted:.1%}) and by {later:.1%} from 16 to 64 ({later_predicted:.1%}), medians of {len(slow)} settings.\n"
    )


def _rise(one: Setting, first: int, last: int) -> tuple[float, float]:
    """Relative rise of T between two sizes, measured and predicted [-]."""
    low, high = (int(np.flatnonzero(one.positions == size)[0]) for size in (first, last))
    return tuple(float(seconds[high] / seconds[low] - 1) for seconds in (one.measured, one.predicted))  # type: ignore[return-value]


def _operators(gpu: str) -> str:
    """Table of the calibration's fits; empty where none was scored on shapes it did not see."""
    calibration = load_calibration(gpu, BACKEND)
    if calibration is None or all(fit.held_out is None for fit in calibration.fits):
        return ""
    lines = [
        "| operator | data type | curves fitted | points | held-out curves | MAPE | NFP error | band |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for fit in calibration.fits:
        held = fit.held_out
        if held is None:
            continue
        error = "-" if held.boundary_median is None else f"{held.boundary_median:.2f}/{held.boundary_p90:.2f}"
        band = "-" if held.band_coverage is None else f"{held.band_coverage:.0%}"
        lines.append(
            f"| {fit.operator} | {' '.join(fit.dtypes)} | {fit.curves} | {fit.points} | {held.curves} | {held.mape:.1%} "
            f"| {error} | {band} |"
        )
    return "\n".join(lines) + "\n"


def _granularity(path: Path) -> str:
    constants, scores = granularity_scores(path)
    if not scores:
        return ""
    values = ", ".join(f"{name} {value:.3g}" for name, value in constants.items())
    lines = [
        "Our Triton grouped GEMM with 16, 32, 64 and 128 rows a block, and nothing else changed: one set of constants, fitted on the"
        f" fit half of the shapes over all four ({values}), on the test half:\n",
        "| block rows | curves | MAPE | MAPE with 64 rows counted instead |", "|---|---|---|---|",
    ]  # fmt: skip
    lines += [f"| {one.block_rows} | {one.curves} | {one.mape:.1%} | {one.mistaken:.1%} |" for one in scores]
    return "\n".join(lines) + "\n"


def claim_groups(forwards: Sequence[Setting], modules: Sequence[Setting]) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Module or forward, and where from -> idle compute, and this model, over measured at every tolerance [-]."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for one in (*modules, *forwards):
        dense = {"forward": "whole forward, dense"}.get(one.kind, _KINDS[one.kind])
        name = dense if not one.moe else dense.replace("dense", "MoE")
        for baseline, _, measured, predicted, idle in one.boundaries():
            start = "" if not one.moe else ", from one position" if baseline == 1 else ", every expert awake"
            groups.setdefault(name + start, []).append((idle / measured, predicted / measured))
    return {name: (np.array(pairs)[:, 0], np.array(pairs)[:, 1]) for name, pairs in groups.items()}


def _claim(forwards: Sequence[Setting], modules: Sequence[Setting]) -> str:
    lines = [
        f"Idle compute over measured, at tolerances {', '.join(f'{one:g}' for one in TOLERANCES)}; the source paper reports"
        f" {PAPER_LOW:g}x to {PAPER_HIGH:g}x at a tolerance, baseline and GPU that are not public. Many positions against a long"
        " cache, which for plain attention no public table times, are among these.\n",
        f"| | boundaries | idle / measured: median (p10 to p90) | ours / measured | idle from {PAPER_LOW:g}x | from {PAPER_HIGH:g}x |",
        "|---|---|---|---|---|---|",
    ]
    groups = claim_groups(forwards, modules)
    for name, (idle, ours) in groups.items():
        spread = [f"{np.median(x):.1f} ({np.quantile(x, 0.1):.1f} to {np.quantile(x, 0.9):.1f})" for x in (idle, ours)]
        shares = [f"{np.mean(idle >= limit):.0%}" for limit in (PAPER_LOW, PAPER_HIGH)]
        lines.append(f"| {name} | {idle.size} | {' | '.join(spread)} | {' | '.join(shares)} |")
    if not groups:
        lines.append("| none reached | 0 | - | - | - | - |")
    return "\n".join(lines) + "\n"


def draw_claim(forwards: Sequence[Setting], modules: Sequence[Setting], path: Path) -> None:
    """Over-prediction of idle compute and of this model, by module and baseline, with the paper's range."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = claim_groups(forwards, modules)
    with matplotlib.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}):
        figure = Figure(figsize=(8.5, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        random = np.random.default_rng(0)
        for row, (idle, ours) in enumerate(groups.values()):
            for ratio, shift, colour, words in (
                (idle, 0.18, ORANGE, "idle compute"),
                (ours, -0.18, BLUE, "this model"),
            ):
                place = row + shift + random.uniform(-0.09, 0.09, ratio.size)
                axes.plot(ratio, place, ".", color=colour, markersize=4, alpha=0.6, label=words if row == 0 else None)
                axes.plot([np.median(ratio)] * 2, [row + shift - 0.15, row + shift + 0.15], color=BLACK, linewidth=1.6)
        axes.axvspan(
            PAPER_LOW,
            PAPER_HIGH,
            color=GREY,
            alpha=0.25,
            linewidth=0,
            label=f"paper: {PAPER_LOW:g}x to {PAPER_HIGH:g}x",
        )
        axes.axvline(1.0, color=BLACK, linewidth=0.8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_yticks(range(len(groups)), list(groups))
        axes.invert_yaxis()
        axes.set_xlabel("NFP over measured NFP (bar: median)")
        axes.legend(loc="lower right", fontsize=8)
        figure.savefig(path, dpi=110, metadata={"Software": None})


def _settings(settings: Sequence[Setting]) -> str:
    tolerances = " | ".join(f"eps {tolerance:g}" for tolerance in TOLERANCES)
    lines = [
        f"| | setting | from | T MAPE | {tolerances} | idle compute |",
        "|---|---|---|---|" + "---|" * (len(TOLERANCES) + 1),
    ]
    for one in settings:
        found = {(baseline, tolerance): rest for baseline, tolerance, *rest in one.boundaries()}
        for baseline, idle in one.idle.items():
            cells = [
                "/".join(f"{value:g}" for value in found[baseline, tolerance][:2]) if (baseline, tolerance) in found else "never left"
                for tolerance in TOLERANCES
            ]  # fmt: skip
            lines.append(
                f"| {one.name} | {one.words} | {baseline} | {one.mape:.1%} | {' | '.join(cells)} | {idle:.0f} |"
            )
    return "\n".join(lines) + "\n\nEach cell: NFP measured/predicted [positions].\n"


def draw(forwards: Sequence[Setting], modules: Sequence[Setting], path: Path) -> None:
    """Boundaries predicted, and by idle compute, against measured; six staircases of whole forwards."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}):
        figure = Figure(figsize=(11.0, 8.2), layout="constrained")
        FigureCanvasAgg(figure)
        halves: Any = figure.subfigures(1, 2, width_ratios=(1.0, 1.35))
        left, right = halves
        above, below = left.subplots(2, 1)
        _scatter(above, forwards, "whole forwards")
        _scatter(below, modules, "modules from measured operators")
        panels = right.subplots(3, 2)
        for axes, one in zip(panels.flat, _shown(forwards), strict=False):
            _staircase(axes, one)
        figure.savefig(path, dpi=110, metadata={"Software": None})


def _scatter(axes: Axes, settings: Sequence[Setting], title: str) -> None:
    rows = [(one.moe, *found) for one in settings for found in one.boundaries()]
    moe, _, _, measured, predicted, idle = np.array(rows, dtype=np.float64).reshape(-1, 6).T
    # Many points share a place: spread them a little.
    jitter = np.exp(np.random.default_rng(0).normal(0.0, 0.04, measured.size))
    axes.plot(measured * jitter, idle, "x", color=GREY, markersize=5, label="idle compute")
    for chosen, words, colour, marker in ((moe == 0, "dense", BLUE, "o"), (moe == 1, "MoE", VERMILION, "s")):
        if chosen.any():
            axes.plot((measured * jitter)[chosen], (predicted * jitter[::-1])[chosen], marker, color=colour, markersize=4, alpha=0.75,
                      label=f"this model, {words}")  # fmt: skip
    ends = np.array([0.8, 1400.0])
    axes.plot(ends, ends, color=BLACK, linewidth=0.8)
    axes.fill_between(ends, ends / CLOSE, ends * CLOSE, color=GREY, alpha=0.35, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("NFP measured [positions]")
    axes.set_ylabel("NFP predicted [positions]")
    axes.set_title(f"{title}: eps 0.1, 0.2, 0.5", fontsize=10)
    axes.legend(loc="lower right", fontsize=8)


def _shown(forwards: Sequence[Setting]) -> list[Setting]:
    """One setting of every model, the one with the most points."""
    best: dict[str, Setting] = {}
    for one in forwards:
        if one.name not in best or one.positions.size > best[one.name].positions.size:
            best[one.name] = one
    return list(best.values())[:6]


def _staircase(axes: Axes, one: Setting) -> None:
    axes.plot(one.positions, 1e3 * one.measured, "o", color=BLACK, markersize=3, label="measured")
    axes.plot(one.positions, 1e3 * one.predicted, "-", color=BLUE, linewidth=1.3, label="predicted")
    for baseline, idle in list(one.idle.items())[-1:]:
        if idle <= one.positions[-1]:
            axes.axvline(idle, color=GREY, linewidth=1.2, label=f"idle compute from {baseline}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.1e}"[0] in "25" else "")
    axes.set_xlabel("N [positions]")
    axes.set_ylabel("T [ms]")
    axes.set_title(f"{one.name}\n{one.words}", fontsize=10)
    axes.legend(fontsize=7)
