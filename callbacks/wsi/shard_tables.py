"""One table of the tables that the parts of a set of slides write."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from callbacks.wsi.extraction_table import TABLE, ExtractionTable, Row


def join_tables(folder: Path, tables: Collection[str], names: Collection[str]) -> bool:
    """Write `extraction.csv` once the tables of all parts together have a row for every slide.

    Each part calls this when it has written its last row, so whichever is last finds all of them,
    and no part has to wait or to lock anything. Two that write it at once write the same rows.

    Args:
        folder: of the tables.
        tables: their names.
        names: the slides of all parts.

    Returns:
        Whether all slides have a row.
    """
    found: dict[str, Row] = {}
    for table in tables:
        found |= ExtractionTable(folder, table).read()
    if not found.keys() >= set(names):
        return False
    ExtractionTable(folder, TABLE).write({name: found[name] for name in names})
    return True
