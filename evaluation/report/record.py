"""Printed tables and JSON records of an evaluation."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from formats.files import file_hash

_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "timm", "pycocotools", "numpy")


def package_versions(names: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """Return the installed version of each package that is installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def finite(value: Any) -> Any:
    """Replace NaN and infinities by None in nested containers, so that JSON stays valid."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def report(
    command: Sequence[str],
    metrics: Mapping[str, Any],
    *,
    files: Iterable[Path] = (),
    seed: int | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Return the JSON record of an evaluation: command, files, versions, seed and metrics.

    Args:
        command: words of the command line.
        metrics: numbers by name, unrounded; NaN becomes null.
        files: files that were read; each is recorded with its hash.
        seed: seed of the random numbers, or None.
        **extra: further entries.
    """
    record = {
        "command": " ".join(command),
        "files": {str(p): file_hash(p) for p in files},
        "versions": package_versions(),
        "seed": seed,
        "metrics": metrics,
        **extra,
    }
    result: dict[str, Any] = finite(record)
    return result


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Any:
    """Return a rich table; numbers are shown with four decimals, NaN as a dash."""
    from rich.table import Table

    shown = Table()
    for number, name in enumerate(columns):
        # In a narrow terminal, long words are wrapped instead of truncated.
        shown.add_column(name, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        shown.add_row(*[_cell(value) for value in row])
    return shown


def problem_table(problems: Sequence[Any]) -> tuple[str, Any]:
    """Return a title and a rich table of `structures.Problem`s with all columns in full.

    Files are shown relative to their common folder, which is part of the title. More than three
    problems of the same cause are one row with their number and three examples.
    """
    from rich.table import Table

    from structures.problem import EXAMPLES, by_cause

    folder = os.path.commonpath([p.file.absolute().parent for p in problems])
    shown = Table("file", "item", "part", "reason", "remedy")
    last = None
    for group in by_cause(problems):
        examples = group[:EXAMPLES]
        names = _lines(os.path.relpath(p.file, folder) for p in examples)
        items = ("" if p.item is None else f"{p.kind} {p.item}" for p in examples)
        parts = ("" if p.annotation is None else f"{p.part} {p.annotation}" for p in examples)
        reason = _lines(p.reason for p in examples)
        if len(group) > 1:
            joint = ", for example\n" if "\n" in reason else " "
            reason = f"{len(group)} x{joint}{reason}"
        name = "" if names == last else names
        shown.add_row(name, _lines(items), _lines(parts), reason, group[0].remedy)
        last = names
    return f"{len(problems)} problem(s) below {folder}", shown


def _lines(texts: Iterable[str]) -> str:
    return "\n".join(dict.fromkeys(texts))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if math.isfinite(value) else "-"
    return "-" if value is None else str(value)
