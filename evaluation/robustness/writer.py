"""Writing cells one at a time, so that a stopped evaluation continues where it was.

Beside the table ``cells.csv``, the file ``cells.csv.origin.json`` says what the cells were made
from. Both are replaced as a whole (`formats.files.atomic_write`): whenever a process is killed, a
cell is in the table with all its metrics or not at all.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from evaluation.mil.csv_rows import read_rows
from evaluation.robustness.grid import (
    COLUMNS,
    METRICS,
    Grid,
    Place,
    known_values,
    read_grids,
)
from evaluation.robustness.names import CLEAN, LIBRARY, SEVERITIES, domain_of, is_graded
from formats.files import atomic_write
from formats.slide_features import lock_now
from structures import DataProblems, Problem

_HEADER = ",".join(COLUMNS)
_OTHER = "write to another file with --cells, or remove this one"


@dataclass(frozen=True)
class Origin:
    """What cells are made from; cells of another origin are not continued.

    Attributes:
        checkpoints: model -> hash of its checkpoint.
        data: hash of annotations and images, or of the bags.
        seed: seed of the corruptions.
        path: how images are corrupted.
        settings: whatever else changes the numbers, by the name of its flag, as JSON values: tiles,
            views, scale; under `LIBRARY` the version of the library of corruptions, None if no
            cell needs it.
        domains: name of another data set -> hash of its annotations and images. A table may have
            cells of more or fewer of them.
    """

    checkpoints: Mapping[str, str]
    data: str
    seed: int
    path: str = "fast"
    settings: Mapping[str, Any] = field(default_factory=dict)
    domains: Mapping[str, str] = field(default_factory=dict)

    def shared(self) -> dict[str, Any]:
        """Return what all models share, as it is read from JSON."""
        facts = {"data": self.data, "seed": self.seed, "path": self.path, **self.settings}
        shared: dict[str, Any] = json.loads(json.dumps(facts))
        return shared


def origin_path(cells: Path) -> Path:
    """Return the file that says what a table of cells was made from."""
    return cells.with_name(f"{cells.name}.origin.json")


def read_origin(cells: Path) -> dict[str, Any] | None:
    """Return what a table was made from, or None if no file says so.

    Returns:
        ``shared``: what the models share, such as ``data``, ``seed`` and ``path``; ``models``: name
        -> ``checkpoint``, a hash, ``metrics``, the metrics of the model's first cell, and
        ``fewer``, those of cells where some of these have no value, by cell; ``domains``: name ->
        ``data``, a hash, and ``metrics``, model -> metrics.

    Raises:
        DataProblems: the file cannot be read.
    """
    path = origin_path(cells)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        domains = found.get("domains", {})
        whole = isinstance(found["shared"], dict) and all(
            keys <= {*one}
            for keys, records in (
                ({"checkpoint", "metrics"}, found["models"]),
                ({"data", "metrics"}, domains),
            )
            for one in records.values()
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        reason = f"does not say what {cells.name} was made from"
        remedy = "restore it, or write to another table with --cells"
        raise DataProblems([Problem(path, None, None, reason, remedy)])
    return {"shared": found["shared"], "models": found["models"], "domains": domains}


def path_of(origins: Mapping[Path, Mapping[str, Any] | None]) -> tuple[str | None, list[str]]:
    """Return how the images of some tables were corrupted, and what the tables do not share.

    Args:
        origins: table -> what `read_origin` says.

    Returns:
        ``path`` of the origins, None if it is not known or not the same, and sentences on facts
        that differ.
    """
    known = {path: found["shared"] for path, found in origins.items() if found is not None}
    notes = []
    for name in dict.fromkeys(name for shared in known.values() for name in shared):
        values = {json.dumps(shared.get(name)): path for path, shared in known.items()}
        if name == LIBRARY:  # of no matter where no cell needed it
            values.pop("null", None)
        if len(values) > 1:
            told = ", ".join(f"{value} in {path}" for value, path in values.items())
            notes.append(f"the tables were made with different values of {name}: {told}")
    paths = {shared.get("path") for shared in known.values()}
    alone = paths.pop() if len(paths) == 1 and len(known) == len(origins) else None
    return alone, notes


class CellWriter:
    """A table of cells that grows by whole cells; used as a context.

        with CellWriter(path, origin) as table:
            for place in places(corruptions, severities):
                if (model, *place) not in table:
                    table.add(model, *place, predict_and_score(...))
        summary = summarise(table.grids)

    Entering locks the table, drops a cell that is not complete, and reads the others. A table of a
    model that the origin does not name is refused; models may be added (A793).

    Args:
        path: the table; missing folders are created.
        origin: what the cells are made from.

    Raises:
        DataProblems: on entering: the table was made from something else, nothing says what it was
            made from, it has faults (see `read_grids`), or another process writes it.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        self.path, self.origin = Path(path), origin
        self.grids: dict[str, Grid] = {}
        self._texts: dict[tuple[str, Place], str] = {}  # lines of each cell, in order
        self._metrics: dict[str, list[str]] = {}  # of the first cell of each model
        self._fewer: dict[str, dict[str, list[str]]] = {}  # of cells that lack some of these
        self._domains: dict[str, dict[str, Any]] = {}  # of each domain with cells: data, metrics
        self._library: str | None = None  # version that cells of the table needed
        self._lock: int | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            self._remove_parts()
            self._read()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __contains__(self, cell: tuple[str, str, int]) -> bool:
        """Return whether the table has (model, corruption, severity)."""
        model, *place = cell
        return model in self.grids and tuple(place) in self.grids[model].cells

    def add(self, model: str, corruption: str, severity: int, metrics: Mapping[str, float]) -> None:
        """Add a cell; it is on the disk when this returns.

        Args:
            model: a name of the origin.
            corruption: name of the corruption or shift, ``clean`` or ``domain:NAME``.
            severity: 1 to 5, or 0 of ``clean`` and domains.
            metrics: value by name, such as those of `evaluation.seg.coco` or of bags; what has no
                row in a table and what is NaN is left out.

        Raises:
            ValueError: the table has the cell, the origin does not name the model or the domain,
                or no metric of a table has a value.
        """
        if self._lock is None:
            raise RuntimeError(f"{self.path} is not open; use the writer as a context")
        if model not in self.origin.checkpoints:
            raise ValueError(f"{model} is not among {', '.join(self.origin.checkpoints)}")
        if (model, corruption, severity) in self:
            raise ValueError(f"{self.path} has {model} {corruption} {severity} already")
        if (severity not in SEVERITIES) if is_graded(corruption) else severity != 0:
            raise ValueError(
                f"{corruption} of severity {severity}: 1 to 5, or 0 of {CLEAN} and domains"
            )
        domain = domain_of(corruption)
        if domain is not None and domain not in self.origin.domains:
            raise ValueError(f"{domain} is not among {', '.join(self.origin.domains) or 'none'}")
        values = known_values(metrics)
        if not values:
            raise ValueError(f"{model} {corruption} {severity}: no metric has a value")
        place = (corruption, severity)
        self._note_metrics(model, place, list(values))
        self._texts[model, place] = _text(model, place, values)
        self._write()
        self.grids.setdefault(model, Grid(self.path, {})).cells[place] = values

    def _note_metrics(self, model: str, place: Place, names: list[str]) -> None:
        """Write the metrics of a model's first cell, or of a domain, or of a cell with fewer."""
        domain = domain_of(place[0])
        if domain is not None:
            known = {"data": self.origin.domains[domain], "metrics": {}}
            self._domains.setdefault(domain, known)["metrics"][model] = names
            self._metrics.setdefault(model, [])
        elif not self._metrics.get(model):
            self._metrics[model] = names
        elif {*names} < {*self._metrics[model]}:  # A861
            self._fewer.setdefault(model, {})[_cell_name(place)] = names
        else:
            return
        self._write_origin()

    def close(self) -> None:
        """Let other processes write the table."""
        if self._lock is not None:
            with contextlib.suppress(PermissionError):  # Windows keeps open files
                self._lock_path().unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _lock_path(self) -> Path:
        return self.path.with_name(f".{self.path.name}.lock")

    def _take_lock(self) -> None:
        path = self._lock_path()
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # Its process may remove the file after it was opened here, which ends in another file.
            free = lock_now(lock) and os.path.samestat(os.fstat(lock), path.stat())
        except OSError:
            free = False
        if not free:
            os.close(lock)
            raise self._problem("another process writes it", "wait, or choose another with --cells")
        self._lock = lock

    def _remove_parts(self) -> None:
        """Remove what killed processes have left of unfinished files."""
        for path in (self.path, origin_path(self.path)):
            start = f".{path.name}."
            for part in path.parent.iterdir():
                if part.name.startswith(start) and part.name.removeprefix(start).isdecimal():
                    part.unlink(missing_ok=True)

    def _read(self) -> None:
        text = self.path.read_bytes() if self.path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]  # without a line that breaks off
        if whole.count(b"\n") <= 1:  # at most the header
            if not _HEADER.startswith(text.decode(errors="replace").partition("\n")[0]):
                raise self._problem("is no table of cells", _OTHER)
            self._write_origin()
            self._write()
            return
        origin = read_origin(self.path)
        if origin is None:
            reason = f"has no {origin_path(self.path).name} that says what it was made from"
            raise self._problem(reason, _OTHER)
        self._check(origin, {})
        if whole != text:
            with atomic_write(self.path, durable=True) as file:
                file.write(whole)
        grids = read_grids([self.path])
        self._check(origin, grids)
        self._take(grids, origin)
        self._write_origin()
        self._write()

    def _check(self, found: Mapping[str, Any], grids: Mapping[str, Grid]) -> None:
        """Refuse a table of another origin."""
        shared, known = self.origin.shared(), found["models"]
        both = {n: (found["shared"].get(n), shared.get(n)) for n in [*shared, *found["shared"]]}
        wrong = [
            f"{name} was {old} and is {new}"
            for name, (old, new) in both.items()
            if old != new and (name != LIBRARY or None not in (old, new))  # A707
        ]
        for model in grids:
            if model not in known:
                wrong.append(f"nothing says what its cells of {model} were made from")
            elif model not in self.origin.checkpoints:
                wrong.append(f"it has cells of {model}, which is not evaluated now")
            elif known[model]["checkpoint"] != self.origin.checkpoints[model]:
                old, new = known[model]["checkpoint"], self.origin.checkpoints[model]
                wrong.append(f"the checkpoint of {model} was {old} and is {new}")
        for domain in _domains_of(grids):
            was, now = found["domains"].get(domain, {}).get("data"), self.origin.domains.get(domain)
            if was is None:
                wrong.append(f"nothing says what its cells of the domain {domain} were made from")
            elif now not in (None, was):
                wrong.append(f"the data of the domain {domain} were {was} and are {now}")
        if wrong:
            raise self._problem(f"is of another evaluation: {'; '.join(wrong)}", _OTHER)

    def _take(self, grids: dict[str, Grid], origin: Mapping[str, Any]) -> None:
        """Take over the cells, except for a last one that lacks a metric of the model's first.

        The objects of a domain may have other sizes, and under a shift a metric may have no value:
        such a cell is compared with what was written.
        """
        for _, row in read_rows(self.path)[1]:
            model = row["model"].strip()
            place = (row["corruption"].strip(), int(float(row["severity"])))
            self._texts[model, place] = _text(model, place, grids[model].cells[place])
        model, place = next(reversed(self._texts))  # A794
        domain, known = domain_of(place[0]), origin["models"][model]
        metrics = known.get("fewer", {}).get(_cell_name(place), known["metrics"])
        if domain is not None:
            metrics = origin["domains"][domain]["metrics"].get(model, [])
        if {*grids[model].cells[place]} < {*metrics}:
            del self._texts[model, place], grids[model].cells[place]
        self.grids = {model: grid for model, grid in grids.items() if grid.cells}
        models = {model: origin["models"][model] for model in self.grids}
        self._metrics = {model: list(known["metrics"]) for model, known in models.items()}
        self._fewer = {model: dict(known.get("fewer", {})) for model, known in models.items()}
        self._library = origin["shared"].get(LIBRARY)
        self._domains = {domain: origin["domains"][domain] for domain in _domains_of(self.grids)}

    def _write(self) -> None:
        _replace(self.path, "".join([_HEADER, "\n", *self._texts.values()]))

    def _write_origin(self) -> None:
        models: dict[str, dict[str, Any]] = {}
        for model, metrics in self._metrics.items():
            models[model] = {"checkpoint": self.origin.checkpoints[model], "metrics": metrics}
            if self._fewer.get(model):
                models[model]["fewer"] = self._fewer[model]
        shared = self.origin.shared()
        if self._library is not None and shared.get(LIBRARY) is None:
            shared[LIBRARY] = self._library
        record = {"shared": shared, "models": models}
        record |= {"domains": self._domains} if self._domains else {}
        _replace(origin_path(self.path), json.dumps(record, indent=1) + "\n")

    def _problem(self, reason: str, remedy: str) -> DataProblems:
        return DataProblems([Problem(self.path, None, None, reason, remedy)])


def _cell_name(place: Place) -> str:
    return f"{place[0]} {place[1]}"


def _domains_of(grids: Mapping[str, Grid]) -> list[str]:
    names = [domain_of(name) for grid in grids.values() for name, _ in grid.cells]
    return list(dict.fromkeys(name for name in names if name is not None))


def _replace(path: Path, text: str) -> None:
    """Write a file unless it has the text already."""
    content = text.encode()
    if not path.exists() or path.read_bytes() != content:
        with atomic_write(path, durable=True) as file:
            file.write(content)


def _text(model: str, place: Place, values: Mapping[str, float]) -> str:
    """Return the lines of a cell, with numbers as they are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, value in values.items():
        task = next(task for task in METRICS if name.startswith(f"{task}_"))
        writer.writerow([model, *place, task, name.removeprefix(f"{task}_"), repr(value)])
    return text.getvalue()
