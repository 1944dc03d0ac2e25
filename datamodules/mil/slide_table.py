"""Reader of the CSV table of slides, and lookup of their feature files.

``slide_id[,patient_id][,label][,split][,fold][,weight]``, one line per slide; other columns are
ignored. ``case_id`` is accepted for ``patient_id``. Without patients each slide is its own patient;
without ``label`` the slides can only be used for prediction. `datamodules.mil.slide_labels`
describes the labels, `datamodules.mil.targets.columns` times and values in place of them.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.mil.slide_labels import LabelOptions, read_labels
from datamodules.mil.splits import NAMES
from formats.features import SUFFIXES
from structures import DataProblems, Problem

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_SURPLUS = "fields without a column"
_SLIDE_NAMES = (  # often mean slide_id
    "slide", "slides", "slide_name", "slideid", "image_id", "filename", "file", "wsi",
)  # fmt: skip
_ALIASES = {"case_id": "patient_id"}  # column names in the tables of other tools
# Subfolders that extraction tools use for each format, and the suffixes of slide files.
FOLDERS = ("", "h5_files", "safetensors_files", "npy_files", "pt_files")
_SLIDES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide",
           ".czi", ".isyntax", ".dcm")  # fmt: skip


class SlideTable(NamedTuple):
    """The S slides of a table, without faulty lines.

    Attributes:
        path: the CSV.
        slide_ids: unique names of the slides.
        patients: the patient of each slide, or empty without the column.
        labels: (S,) classes, or (S, C) zeros and ones for several classes a slide, -1 where
            unknown; or float64 times and values, see `SlideLabels`.
        label_columns: the columns of the labels.
        fields: the labels of each slide as written in the file, in the order of the columns.
        class_names: name of each class.
        splits: ``train``, ``val`` or ``test`` for each slide, or empty without the column.
        folds: (S,) published test fold, or None without the column.
        weights: (S,) weights for the weighted sampler, or None without the column.
    """

    path: Path
    slide_ids: tuple[str, ...]
    patients: tuple[str, ...]
    labels: npt.NDArray[Any]
    label_columns: tuple[str, ...]
    fields: tuple[tuple[str, ...], ...]
    class_names: tuple[str, ...]
    splits: tuple[str, ...]
    folds: IntArray | None
    weights: FloatArray | None

    @property
    def texts(self) -> tuple[str, ...]:
        """The labels of each slide as one text."""
        names = self.label_columns
        if self.labels.dtype.kind == "f":  # equal numbers may be written differently
            return tuple(
                ", ".join(f"{n} {v:.15g}" for n, v in zip(names, own, strict=True))
                for own in self.labels.tolist()
            )
        if len(names) == 1:
            return tuple(texts[0] for texts in self.fields)
        return tuple(" ".join(map("{}={}".format, names, texts)) for texts in self.fields)


Line = tuple[int, dict[str, str]]  # number in the file, fields by column


def read_slide_table(
    path: Path,
    labels: LabelOptions = LabelOptions(),  # noqa: B008
) -> tuple[SlideTable, list[Problem]]:
    """Read a table and find the faults of its lines.

    Labels are names of classes, or whole numbers from 0. The classes are those of the options if
    given, else the labels found: sorted by name, or 0 to the largest number.

    Args:
        path: the CSV, UTF-8, comma-separated, with a header.
        labels: meaning of the labels, for example the classes of a checkpoint.

    Returns:
        The slides without faults, and a problem for each faulty line.

    Raises:
        DataProblems: the file cannot be read, lacks ``slide_id`` or a column of labels that the
            options name, has no slide, or its labels cannot be classes.
    """
    path = Path(path)
    columns, lines = read_lines(path)
    faults = list(id_faults(path, lines)) + list(_field_faults(path, columns, lines))
    found = read_labels(path, columns, [fields for _, fields in lines], labels)
    faults += [
        fault_of_line(path, lines[at], reason, remedy) for at, reason, remedy in found.faults
    ]
    bad = {fault.annotation for fault in faults}
    keep = [at for at, (number, _) in enumerate(lines) if number not in bad]

    def column(name: str) -> tuple[str, ...]:
        return tuple(lines[at][1][name] for at in keep) if name in columns else ()

    folds, weights = column("fold"), column("weight")
    table = SlideTable(
        path=path,
        slide_ids=column("slide_id"),
        patients=column("patient_id"),
        labels=found.labels[keep],
        label_columns=found.columns,
        fields=tuple(found.fields[at] for at in keep),
        class_names=found.class_names,
        splits=tuple(name.lower() for name in column("split")),
        folds=np.array([int(f) for f in folds], dtype=np.int64) if folds else None,
        weights=np.array([float(w) for w in weights]) if weights else None,
    )
    return table, faults


def read_lines(path: Path) -> tuple[list[str], list[Line]]:
    """Return the columns of a table of slides and its lines, of which the fields are not checked.

    Raises:
        DataProblems: the file cannot be read, lacks ``slide_id`` or has no slide.
    """
    if not path.is_file():
        raise _refused(path, "no such file", "give the CSV of slides")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restkey=_SURPLUS, strict=True)
            stated = [(name or "").strip() for name in reader.fieldnames or []]
            columns = [_ALIASES.get(name, name) for name in stated]
            reader.fieldnames = columns
            lines = [(reader.line_num, {k: _text(v) for k, v in row.items()}) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        reason = f"cannot be read as CSV ({error})"
        raise _refused(path, reason, "save it as UTF-8 with commas") from None
    if "slide_id" not in columns:
        needs = "slide_id,patient_id,label"
        reason = f"column slide_id is missing; the file has {', '.join(stated) or 'none'}"
        other = next((name for name in stated if name.lower() in _SLIDE_NAMES), None)
        remedy = f"rename column {other} to slide_id" if other else f"start with the line {needs}"
        raise _refused(path, reason, remedy)
    twice = sorted(name for name, count in Counter(columns).items() if count > 1)
    if twice:
        raise _refused(path, f"column {twice[0]!r} occurs twice", "keep one of them")
    if not lines:
        raise _refused(path, "no slide in the file", "write one line per slide")
    return columns, lines


def _text(value: str | Sequence[str] | None) -> str:
    """Return a field as text; missing fields become empty, surplus ones a visible list."""
    return (value or "").strip() if isinstance(value, str | None) else "+".join(value)


def _refused(path: Path, reason: str, remedy: str) -> DataProblems:
    return DataProblems([Problem(path, None, None, reason, remedy)])


def fault_of_line(path: Path, line: Line, reason: str, remedy: str) -> Problem:
    """Return a fault of the slide in a line."""
    item = line[1]["slide_id"] or None
    return Problem(path, item, line[0], reason, remedy, kind="slide", part="line")


def id_faults(path: Path, lines: Sequence[Line]) -> Iterator[Problem]:
    """Yield a fault for each slide without a name or with that of another, and for surplus fields.

    Args:
        path: the table.
        lines: its lines.
    """
    first: dict[str, int] = {}
    for line in lines:
        number, fields = line
        if not fields["slide_id"]:
            yield fault_of_line(path, line, "slide_id is empty", "name the slide")
        elif fields["slide_id"] in first:
            reason = f"the slide is also in line {first[fields['slide_id']]}"
            yield fault_of_line(path, line, reason, "keep one line per slide")
        else:
            first[fields["slide_id"]] = number
        if _SURPLUS in fields:
            reason = f"more fields than columns: {fields[_SURPLUS]}"
            yield fault_of_line(path, line, reason, "quote fields with commas")


def _field_faults(path: Path, columns: Sequence[str], lines: Sequence[Line]) -> Iterator[Problem]:
    for line in lines:
        fields = line[1]
        if "patient_id" in columns and not fields["patient_id"]:
            yield fault_of_line(
                path, line, "patient_id is empty", "name the patient, or drop the column"
            )
        if "split" in columns and fields["split"].lower() not in NAMES:
            reason = f"split is {fields['split']!r}"
            yield fault_of_line(path, line, reason, f"use {', '.join(NAMES)}")
        if "fold" in columns and not fields["fold"].isdecimal():
            reason = f"fold is {fields['fold']!r}"
            yield fault_of_line(path, line, reason, "number the folds 0, 1, ...")
        if "weight" in columns and not _is_weight(fields["weight"]):
            reason = f"weight is {fields['weight']!r}"
            yield fault_of_line(path, line, reason, "use a finite number that is not negative")


def _is_weight(text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return math.isfinite(value) and value >= 0


def find_feature_files(folder: Path, slide_ids: Sequence[str]) -> dict[str, Path]:
    """Return the feature file of each slide that has one.

    Files are searched in ``folder`` and in the subfolders ``h5_files``, ``pt_files``, ... of
    extraction tools, by the id of the slide, then by the id without the suffix of a slide file such
    as ``.svs``. If a slide has several files, h5 is preferred, because it can contain coordinates
    (A55).

    Raises:
        DataProblems: the folder does not exist.
    """
    files = feature_files(folder)
    return {slide: file for slide in slide_ids if (file := _file_of(slide, files)) is not None}


def feature_files(folder: Path) -> dict[str, Path]:
    """Return the feature files in a folder and its known subfolders by their names.

    Raises:
        DataProblems: the folder does not exist.
    """
    if not folder.is_dir():
        raise _refused(folder, "no such folder", "give the folder of feature files")
    files: dict[str, Path] = {}
    for name in reversed(FOLDERS):
        place = folder / name
        if place.is_dir():
            files |= {file.name: file for file in place.iterdir() if file.suffix in SUFFIXES}
    return files


def is_slide_name(slide: str) -> bool:
    """Return whether the name of a slide has the suffix of a slide file."""
    return Path(slide).suffix.lower() in _SLIDES


def _file_of(slide: str, files: Mapping[str, Path]) -> Path | None:
    stem = Path(slide).stem if is_slide_name(slide) else slide
    for name in dict.fromkeys((slide, stem)):
        for suffix in SUFFIXES:
            if name + suffix in files:
                return files[name + suffix]
    return None
