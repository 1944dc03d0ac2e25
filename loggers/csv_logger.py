"""Logger for the ``metrics.csv`` of a run, which a resumed run continues without repeated rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger

from formats.files import atomic_write


class MetricsTable(CSVLogger):
    """CSV logger that keeps the history of the run that is continued.

    Args:
        run_dir: folder of the run.
        resume_step: number of optimizer steps in the checkpoint from which the run continues; rows
            of later steps, which the run will repeat, are dropped. None for a new run.
    """

    def __init__(self, run_dir: Path, resume_step: int | None = None) -> None:
        super().__init__(str(run_dir.parent), name="", version=run_dir.name)
        self._resume_step = resume_step
        self._table: TableFile | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> TableFile:  # type: ignore[override]
        """Return the writer of the file, which creates the run folder."""
        if self._table is None:
            self._table = TableFile(Path(self.log_dir) / "metrics.csv", self._resume_step)
        return self._table

    def log_hyperparams(self, params: Any = None) -> None:
        """Do nothing: ``config.yaml`` in the same folder contains the hyper-parameters."""

    def finalize(self, status: str) -> None:
        """Write the remaining rows; the file is not changed by a run that failed to start."""
        del status
        if self._table is not None and self._table.metrics:
            self._table.save()


class TableFile:
    """A CSV file to which rows and new columns can be added.

    Rows are appended. If there are new columns, the file is rewritten atomically. An existing file
    is not changed until the first `save`.

    Args:
        path: the file; an existing one is continued.
        resume_step: first step whose rows are dropped from an existing file; None to keep all.

    Attributes:
        metrics: rows that are not in the file yet.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        self.metrics: list[dict[str, Any]] = []
        self._path = path
        self._resume_step = resume_step
        self._columns: list[str] | None = None  # columns of the file; None before the first write
        path.parent.mkdir(parents=True, exist_ok=True)

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row; tensors with one value become numbers."""
        row = {k: v.item() if hasattr(v, "item") else v for k, v in metrics.items()}
        self.metrics.append(row | {"step": len(self.metrics) if step is None else step})

    def save(self) -> None:
        """Write new rows to the file; the first call also drops rows that will be repeated."""
        if not self.metrics and (self._columns is not None or not self._path.is_file()):
            return
        rows, self.metrics = self.metrics, []
        new = {name for row in rows for name in row}
        if self._columns is not None and new <= set(self._columns):
            with self._path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerows(rows)
            return
        kept = _whole_rows(self._path)
        if self._columns is None and self._resume_step is not None:
            kept = [row for row in kept if int(row["step"]) < self._resume_step]
        # Each row of the file has all columns, empty if nothing was logged.
        used = {name for row in kept for name, value in row.items() if value != ""}
        self._columns = sorted({*used, *new})
        self._write([{k: v for k, v in row.items() if k in used} for row in kept] + rows)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, self._columns or ())
        table.writeheader()
        table.writerows(rows)
        with atomic_write(self._path) as file:
            file.write(text.getvalue().encode())


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    """Read the complete rows of a table, without a truncated last line; empty without a file."""
    if not path.is_file():
        return []
    text = path.read_bytes().decode()
    whole = text[: text.rfind("\n") + 1]
    return list(csv.DictReader(io.StringIO(whole, newline="")))
