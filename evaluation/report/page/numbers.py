"""Numbers, durations and cells of tables as the page writes them."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass

from evaluation.report.page.content import Cell, Link, Value

NOTHING = "\u2013"  # a dash


@dataclass(frozen=True)
class CellView:
    """A cell as the template writes it.

    Attributes:
        text: what is shown.
        value: the number or text that the column is sorted by, empty where there is none.
        interval: such as `0.381 to 0.442`, or empty.
        target: key of the image or bag that the cell leads to, or empty.
        numeric: whether the cell is aligned as a number.
    """

    text: str
    value: str = ""
    interval: str = ""
    target: str = ""
    numeric: bool = True


def defined(value: float | None) -> bool:
    """Whether a number is there and finite."""
    return value is not None and math.isfinite(value)


def number_text(value: float | None) -> str:
    """A number with about three digits after the first; a dash where it is undefined.

    >>> number_text(0.41249), number_text(12.345), number_text(12345), number_text(1e-5)
    ('0.412', '12.3', '12,345', '<0.001')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    size = abs(value)
    if isinstance(value, int) or size == 0:
        return f"{value:,.0f}"
    if size < 5e-4:
        return "<0.001" if value > 0 else ">-0.001"
    if size >= 1e7:
        return f"{value:.2e}"
    decimals = 3 if size < 10 else 1 if size < 100 else 0
    return f"{value:,.{decimals}f}"


def interval_text(value: Value) -> str:
    """Both ends of an interval, or an empty text."""
    if not (defined(value.low) and defined(value.high)):
        return ""
    return f"{number_text(value.low)} to {number_text(value.high)}"


def duration_text(seconds: float | None) -> str:
    """A duration in the two largest units that fit.

    >>> duration_text(42.25), duration_text(130), duration_text(7322)
    ('42.2 s', '2 min 10 s', '2 h 2 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def memory_text(mebibytes: float | None) -> str:
    """An amount of memory in MiB or GiB."""
    if mebibytes is None or not math.isfinite(mebibytes):
        return NOTHING
    return f"{mebibytes:.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.1f} GiB"


def cell_view(cell: Cell, targets: Container[str] = ()) -> CellView:
    """A cell of a table; links whose image is not on the page become text."""
    if cell is None:
        return CellView(NOTHING)
    if isinstance(cell, Link):
        return CellView(
            cell.text, cell.text, target=cell.target * (cell.target in targets), numeric=False
        )
    if isinstance(cell, str):
        return CellView(cell, cell, numeric=False)
    if isinstance(cell, Value):
        return CellView(number_text(cell.value), _exact(cell.value), interval_text(cell))
    return CellView(number_text(cell), _exact(cell))


def _exact(value: float | None) -> str:
    return repr(value) if value is not None and math.isfinite(value) else ""
