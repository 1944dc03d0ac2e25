"""`extraction.csv`: what became of each slide, written by several processes."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from formats.files import write_csv
from formats.slide_features import locked, remove_parts

COLUMNS = (
    "slide_id", "status", "reason", "patches", "tissue_mm2", "slide_mpp", "mpp_source", "seconds",
)  # fmt: skip
TABLE = "extraction.csv"
DONE, FAILED = "done", "failed"

Row = dict[str, str]


class ExtractionTable:
    """The table of a folder of features; each change is written at once.

    Args:
        folder: the folder.
        name: of the table.
    """

    def __init__(self, folder: Path, name: str = TABLE) -> None:
        self.folder, self.path = folder, folder / name

    def begin(self, own: Collection[str], known: Iterable[Row]) -> None:
        """Remove the rows of slides that are to be read, and add those that are missing.

        Args:
            own: slides that this process is going to read.
            known: rows of other slides; those that say the same already stay as they are, with
                the seconds that are no longer known.
        """
        known = list(known)
        if not known and not self.folder.is_dir():
            return
        with locked(self.folder):
            remove_parts(self.path)
            before = self.read()
            rows = {name: row for name, row in before.items() if name not in own}
            for row in known:
                old = rows.get(row["slide_id"], {})
                if any(old.get(column) != row[column] for column in COLUMNS[:-1]):
                    rows[row["slide_id"]] = row
            if rows != before:
                self.write(rows)

    def add(self, row: Row) -> None:
        """Write the row of a slide, in place of an earlier one."""
        with locked(self.folder):
            self.write(self.read() | {row["slide_id"]: row})

    def read(self) -> dict[str, Row]:
        """Return the rows by slide."""
        if not self.path.is_file():
            return {}
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = [{c: row.get(c) or "" for c in COLUMNS} for row in csv.DictReader(file)]
        return {row["slide_id"]: row for row in rows}

    def write(self, rows: Mapping[str, Row]) -> None:
        """Write these rows in place of all others."""
        ordered = (rows[name] for name in sorted(rows))
        write_csv(self.path, COLUMNS, [[row[c] for c in COLUMNS] for row in ordered])


def row(slide_id: str, status: str, **values: object) -> Row:
    """Return a row; columns that are not given are empty, numbers have six digits."""
    texts = {n: f"{v:.6g}" if isinstance(v, float) else str(v) for n, v in values.items()}
    return dict.fromkeys(COLUMNS, "") | {"slide_id": slide_id, "status": status} | texts
