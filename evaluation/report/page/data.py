"""What the scripts of the page read: charts as JSON that is safe inside of HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from evaluation.report.page.content import Chart, Line, Page, Reliability
from evaluation.report.page.numbers import defined, number_text

_ESCAPED = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def safe_json(value: Any) -> str:
    r"""JSON without a character that could end the `<script>` around it or open a comment.

    >>> safe_json({"name": "</script>"})
    '{"name":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escaped in _ESCAPED.items():
        text = text.replace(character, escaped)
    return text


def page_data(page: Page) -> dict[str, Any]:
    """Everything that scripts draw, by the id of the element that it is drawn into."""
    charts = {f"chart-{c.key}": _chart(c) for c in (*page.training, *page.curves)}
    runs = {run.name: i for i, run in enumerate(page.runs)}
    charts |= {
        f"reliability-{i}": _reliability(r, runs.get(r.run, 0))
        for i, r in enumerate(page.calibration)
    }
    return {"kind": page.kind, "score": page.operating_point, "charts": charts}


def chart_text(chart: Chart) -> str:
    """Describe a chart in words, for readers who don't see it."""
    lines = "; ".join(filter(None, map(_line_text, chart.lines)))
    return f"{chart.title}: {chart.y_label} against {chart.x_label}. {lines}"


def reliability_text(reliability: Reliability) -> str:
    """Describe a reliability diagram in words."""
    pairs = zip(reliability.confidence, reliability.frequency, strict=True)
    points = ", ".join(f"{number_text(c)} gives {number_text(f)}" for c, f in pairs)
    return f"Observed frequency by confidence of {reliability.subject}: {points}"


def _line_text(line: Line) -> str:
    values = [y for y in line.y if y is not None and math.isfinite(y)]
    if not values:
        return ""
    ends = f"from {values[0]:.3g} to {values[-1]:.3g}"
    return f"{line.name} {ends}, lowest {min(values):.3g}, highest {max(values):.3g}"


def _chart(chart: Chart) -> dict[str, Any]:
    return {
        "type": "lines",
        "x": chart.x_label,
        "y": chart.y_label,
        "lines": [
            {
                "name": line.name,
                "x": _short(line.x),
                "y": _short(line.y),
                "dashed": line.dashed,
                "run": line.run,
            }
            for line in chart.lines
        ],
        "diagonal": chart.diagonal,
        "log": chart.log_y,
        "unit": chart.unit,
    }


def _reliability(reliability: Reliability, run: int) -> dict[str, Any]:
    names = ("confidence", "frequency", "low", "high")
    return {
        "type": "reliability",
        "run": run,
        "counts": list(reliability.counts),
        **{name: _short(getattr(reliability, name)) for name in names},
    }


def _short(values: Iterable[float | None]) -> list[float | None]:
    """Six digits are more than a screen shows; JSON has no nan."""
    return [float(f"{v:.6g}") if v is not None and defined(v) else None for v in values]
