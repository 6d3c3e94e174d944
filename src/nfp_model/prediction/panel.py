"""A prediction as people and programs read it: panel, explanation, HTML, dict. It computes nothing."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from nfp_model.quantities import format_si
from nfp_model.workload import Workload

if TYPE_CHECKING:
    from nfp_model.boundary import Boundary
    from nfp_model.kernels.counts import KernelRow
    from nfp_model.prediction.explanation import Binding, OperatorReport
    from nfp_model.prediction.result import Prediction

_WIDTH = 100


def panel_text(prediction: Prediction) -> str:
    """The readable panel: both baselines, binding, module table, warnings."""
    lines = [*_header(prediction), "", *_table(_BOUNDARY_HEAD, _boundary_rows(prediction)), ""]
    lines += [f"binding  {prediction.binding}"]
    saturated = prediction.saturated
    if saturated is not None and saturated is not prediction:
        lines += [f"         saturated: {saturated.binding}"]
    lines += ["", *_table(_MODULE_HEAD, _module_rows(prediction))]
    lines += [f"warning  {warning}" for warning in prediction.warnings]
    return "\n".join(lines)


def workload_words(workload: Workload) -> str:
    """The workload in one line."""
    contexts = workload.context_lengths
    context = f"context {contexts[0]}" if len(contexts) == 1 else f"contexts {min(contexts)} to {max(contexts)}"
    words = [f"batch {workload.batch_size}", context, workload.decode_mode, f"routing {workload.routing}"]
    words += [f"weights {workload.weight_dtype}"] if workload.weight_dtype else []
    words += [f"KV {workload.kv_dtype}"] if workload.kv_dtype else []
    words += [f"TP {workload.tensor_parallel}"] if workload.tensor_parallel > 1 else []
    words += [f"EP {workload.expert_parallel}"] if workload.expert_parallel > 1 else []
    words += [f"captured graphs {workload.captures}"] if workload.captures is not None else []
    return ", ".join(words)


def _header(prediction: Prediction) -> list[str]:
    p = prediction
    return [
        f"{p.model.title} on {p.hardware.title}: NFP {_count(p.boundary)} at tolerance {p.boundary.tolerance:g}",
        workload_words(p.workload),
        f"kernels {p.backend}; constants {p.calibration}",
    ]


def _count(boundary: Boundary) -> str:
    return f"at least {boundary.nfp}" if boundary.censored else str(boundary.nfp)


_BOUNDARY_HEAD = (
    "from",
    "NFP",
    "80 % band",
    "first exit",
    "idle-compute",
    "over-prediction",
    "T(baseline)",
    "80 % band of T",
)


def _boundary_rows(prediction: Prediction) -> list[tuple[str, ...]]:
    rows = [_boundary_row(prediction, f"{prediction.baseline} position{'s' * (prediction.baseline > 1)}")]
    saturated = prediction.saturated
    if saturated is not None and saturated is not prediction:
        rows.append(_boundary_row(saturated, f"saturated ({saturated.baseline})"))
    return rows


def _boundary_row(p: Prediction, label: str) -> tuple[str, ...]:
    low, high = p.band
    return (
        label,
        _count(p.boundary),
        f"{low} to {high}",
        "-" if p.first_exit is None else str(p.first_exit),
        f"{p.idle_compute_nfp:.0f}",
        _factor(p.over_prediction, p.censored),
        format_si(p.baseline_latency_s, "s"),
        " to ".join(format_si(one, "s") for one in _baseline_band(p)),
    )


def _baseline_band(p: Prediction) -> list[float]:
    return [float(one[0]) for one in p.latency_band_s(p.baseline)]


def _factor(value: float, censored: bool) -> str:
    return f"{'<= ' if censored else ''}{value:.3g}x"


_MODULE_HEAD = (
    "module",
    "share",
    "NFP",
    "idle-compute",
    "over-pred.",
    "memory slack",
    "granularity",
    "latency",
    "binding",
)


def _module_rows(prediction: Prediction) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, module in prediction.modules.items():
        idle = module.idle_compute_nfp > module.boundary.baseline
        rows.append(
            (
                name,
                f"{100 * module.share:.1f} %",
                _count(module.boundary),
                f"{module.idle_compute_nfp:.0f}" if idle else "-",
                _factor(module.over_prediction, module.boundary.censored) if idle else "-",
                format_si(module.memory_slack_s, "s"),
                format_si(module.granularity_slack_s, "s"),
                format_si(module.latency_slack_s, "s"),
                module.binding,
            )
        )
    return rows


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]
    return [lines[0], "-" * max(len(line) for line in lines), *lines[1:]]


def explanation_text(prediction: Prediction, binding: Binding) -> str:
    """The whole explanation: what binds, every operator with its kernel row and slacks, sources, equations."""
    lines = [*_header(prediction), f"binding: {binding.sentence}", ""]
    exit_at = prediction.nfp if prediction.censored else prediction.nfp + 1
    lines.append(f"operators, all launches together, at {prediction.baseline} and at {exit_at} positions")
    for report in prediction.operators:
        lines += _operator_lines(report)
    lines += ["", "rules and sources", *_source_lines(prediction)]
    lines += ["", f"warnings: {'; '.join(prediction.warnings)}"] if prediction.warnings else []
    return "\n".join(lines)


def _operator_lines(report: OperatorReport) -> list[str]:
    times = f"{format_si(report.seconds, 's')} -> {format_si(report.seconds_at_exit, 's')}"
    slacks = (
        f"slack: memory {format_si(report.memory_slack_s, 's')}, granularity {format_si(report.granularity_slack_s, 's')}, "
        f"latency {format_si(report.latency_slack_s, 's')}"
    )
    lines = [f"  {report.name} x{report.count} [{report.module}]  {times}  {slacks}"]
    if report.kernel is None or report.kernel_at_exit is None:
        return lines
    lines.append(f"      {_kernel_words(report.kernel)}: {report.granularity}")
    if report.granularity_at_exit != report.granularity or report.kernel_at_exit != report.kernel:
        lines.append(f"      then {_kernel_words(report.kernel_at_exit)}: {report.granularity_at_exit}")
    return lines


def _kernel_words(row: KernelRow) -> str:
    marks = (" (inferred)" if row.inferred else "") + ("" if row.in_range else " (outside its stated range)")
    return f"{row.kernel} [{row.rule}]{marks}"


def _source_lines(prediction: Prediction) -> list[str]:
    rows = [row for report in prediction.operators for row in (report.kernel, report.kernel_at_exit) if row is not None]
    sources = dict.fromkeys(f"  {row.kernel}: {row.source}" for row in rows)
    fits = dict.fromkeys(
        f"  constants of {bound.fit.operator} ({bound.calibration}): {bound.fit.data}"
        for bound in prediction.forward.bound
    )
    return [*sources, *fits]


def panel_html(prediction: Prediction) -> str:
    """The panel for notebooks: two tables, the binding, the warnings."""
    head = "<br>".join(escape(line) for line in _header(prediction))
    binding = escape(prediction.binding)
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in prediction.warnings)
    return (
        f"<div><p>{head}</p>{_html_table(_BOUNDARY_HEAD, _boundary_rows(prediction))}<p>binding: {binding}</p>"
        f"{_html_table(_MODULE_HEAD, _module_rows(prediction))}{f'<ul>{warnings}</ul>' if warnings else ''}</div>"
    )


def _html_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def prediction_dict(prediction: Prediction) -> dict[str, Any]:
    """Everything a program needs, JSON-safe; times in seconds, positions per sequence."""
    saturated = prediction.saturated
    return {
        "hardware": prediction.hardware.name,
        "model": prediction.model.name,
        "workload": workload_words(prediction.workload),
        "backend": prediction.backend,
        "calibration": prediction.calibration,
        "max_positions": int(prediction.curve.positions[-1]),
        **_boundary_dict(prediction),
        "saturated": None if saturated is None else _boundary_dict(saturated),
        "modules": {name: _module_dict(prediction, name) for name in prediction.modules},
        "operators": [_operator_dict(report) for report in prediction.operators],
        "fits_memory": prediction.fits_memory,
        "memory_needed_bytes": prediction.memory_needed_bytes,
        "warnings": list(prediction.warnings),
    }


def _boundary_dict(p: Prediction) -> dict[str, Any]:
    return {
        "nfp": p.nfp,
        "censored": p.censored,
        "first_exit": p.first_exit,
        "baseline": p.baseline,
        "tolerance": p.boundary.tolerance,
        "baseline_latency_s": p.baseline_latency_s,
        "baseline_latency_band_s": _baseline_band(p),
        "band": list(p.band),
        "idle_compute_nfp": p.idle_compute_nfp,
        "over_prediction": p.over_prediction,
        "binding": p.binding,
    }


def _module_dict(prediction: Prediction, name: str) -> dict[str, Any]:
    module = prediction.modules[name]
    return {
        "nfp": module.nfp,
        "censored": module.boundary.censored,
        "first_exit": module.boundary.first_exit,
        "idle_compute_nfp": module.idle_compute_nfp,
        "over_prediction": module.over_prediction,
        "share": module.share,
        "baseline_latency_s": module.baseline_latency_s,
        "memory_slack_s": module.memory_slack_s,
        "granularity_slack_s": module.granularity_slack_s,
        "latency_slack_s": module.latency_slack_s,
        "binding": module.binding,
    }


def _operator_dict(report: OperatorReport) -> dict[str, Any]:
    kernel = report.kernel
    return {
        "name": report.name,
        "module": report.module,
        "count": report.count,
        "seconds": report.seconds,
        "seconds_at_exit": report.seconds_at_exit,
        "granularity": report.granularity,
        "granularity_at_exit": report.granularity_at_exit,
        "kernel": None if kernel is None else kernel.kernel,
        "rule": None if kernel is None else kernel.rule,
        "source": None if kernel is None else kernel.source,
        "memory_slack_s": report.memory_slack_s,
        "granularity_slack_s": report.granularity_slack_s,
        "latency_slack_s": report.latency_slack_s,
        "calibration": report.calibration,
    }
