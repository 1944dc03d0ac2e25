"""Output of the evaluation commands: tables, JSON and progress.

The module has no slow imports, which keeps ``--help`` fast.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any


def show(title: str, columns: list[str], rows: Any, width: int = 80) -> None:
    """Print a title and a table; ``width`` is its least width if the output is not a terminal."""
    from rich.console import Console

    from evaluation.report.record import table

    console = Console(markup=False)
    least = 80 if console.is_terminal else width
    console = Console(width=max(least, console.width), markup=False)
    console.print(title, soft_wrap=True, highlight=False)
    console.print(table(columns, rows))


def write(path: Path | None, record: dict[str, Any]) -> None:
    """Write a record as JSON and print the path, if a path is given."""
    if path is not None:
        from formats.files import write_json

        write_json(path, record)
        print(f"written: {path}")


def progress(what: str, every: int = 1) -> Any:
    """Return a callback that prints the progress of a long task to stderr."""

    def report(done: int, total: int) -> None:
        if done % every == 0 or done == total:
            print(f"{done} of {total} {what}", file=sys.stderr, flush=True)

    return report


def progress_with_time(what: str, every: float = 30.0) -> Any:
    """Return a callback that prints the progress of a long task and the time left to stderr.

    Its third argument, if there is one, is printed at the end of the line.

    Args:
        what: what is counted.
        every: least number of seconds between two lines.
    """
    last = time.monotonic()
    first: tuple[float, float] | None = None  # time and number done of the first call

    def report(done: float, total: int, note: str = "") -> None:
        nonlocal last, first
        now = time.monotonic()
        first = first or (now, done)  # what an earlier run has finished does not count
        if now - last < every and done < total:
            return
        last = now
        line = f"{f'{done:.1f}'.removesuffix('.0')} of {total} {what}"
        if first[1] < done < total:
            left = (now - first[0]) * (total - done) / (done - first[1])
            line += f", {_duration(left)} left"
        print(line + note, file=sys.stderr, flush=True)

    return report


def _duration(seconds: float) -> str:
    """Return a rounded duration in words.

    >>> [_duration(seconds) for seconds in (5, 100, 5000, 200000)]
    ['less than a minute', '2 min', '1 h 23 min', '55 h 33 min']
    """
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{minutes} min"


def report_bad_data(problems: Any) -> dict[str, dict[str, int]]:
    """Print the number of skipped and of repaired problems of each file and return the counts.

    Returns:
        file -> count under ``skipped``, and under ``repaired`` if something was repaired.
    """
    counts: dict[str, dict[str, int]] = {"skipped": {}}
    for problem in problems:
        files = counts.setdefault("repaired" if problem.repaired else "skipped", {})
        files[str(problem.file)] = files.get(str(problem.file), 0) + 1
    for word, files in counts.items():
        for file, count in files.items():
            print(f"{word}: {count} problem(s) of {file}")
    return counts
