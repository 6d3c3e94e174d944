"""Turn pytest-benchmark's JSON into ``benchmarks/results.md``: ``python benchmarks/summary.py benchmarks/latest.json``."""

from __future__ import annotations

import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path


def table(report: dict) -> str:
    """Medians as a table; extra measurements (bytes a point) beside them."""
    cpu = report["machine_info"].get("cpu", {})
    lines = [
        "# Speed and memory",
        "",
        f"Written by `make bench` on {datetime.now(UTC).date()}: Python {platform.python_version()}, "
        f"{cpu.get('count', '?')} cores of {cpu.get('brand_raw', 'an unnamed CPU')}.",
        "Times are whole calls; fresh-process rows are whole processes.",
        "",
        "| benchmark | median | fastest | rounds | beside |",
        "|---|---|---|---|---|",
    ]
    for bench in report["benchmarks"]:
        stats = bench["stats"]
        beside = ", ".join(f"{key}: {value}" for key, value in bench["extra_info"].items())
        lines.append(
            f"| {bench['name']} | {_seconds(stats['median'])} | {_seconds(stats['min'])} | {stats['rounds']} | {beside} |"
        )
    return "\n".join(lines) + "\n"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.2f} ms"


if __name__ == "__main__":
    source = Path(sys.argv[1])
    Path(__file__).with_name("results.md").write_text(table(json.loads(source.read_text())), encoding="utf-8")
