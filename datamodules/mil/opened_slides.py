"""The feature files of the slides of a table, opened and compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from datamodules.mil.slide_table import SlideTable, find_feature_files
from datamodules.mil.splits import divided_patients
from formats.feature_arrays import FeatureKeys
from formats.features import FeatureHeader, read_header
from structures import DataProblems, MILTask, Problem
from structures.tasks import has_classes

IntArray = npt.NDArray[np.int64]
PatientLabel = Literal["same", "max"]
_NAMED = 3  # slides of a label that a message names


@dataclass(frozen=True, slots=True)
class Slide:
    """A usable slide: its line in the table and its file."""

    line: int
    name: str
    file: Path
    header: FeatureHeader

    @property
    def bytes(self) -> int:
        """Size of the slide's features on disk."""
        return self.header.instances * self.header.width * self.header.dtype.itemsize

    @property
    def bytes_in_memory(self) -> int:
        """Most bytes of all arrays of the slide, apart from the features 8 numbers of 8 bytes."""
        return self.bytes + 64 * (self.header.instances + 8)


def non_finite_problem(slide: Slide, row: int, column: int) -> Problem:
    """Return the fault of a feature that is no finite number."""
    return Problem(
        slide.file, slide.name, row, f"feature {column} is NaN, infinite or beyond float32",
        "extract the slide again", kind="slide", part="row",
    )  # fmt: skip


def check_patient_label(bag: str, label: str, task: MILTask | None = None) -> None:
    """Refuse a label of patients that bags of slides, or times and values, would not use.

    Raises:
        ValueError: the label is unknown, or ``max`` is given for bags of slides or for a task
            without classes.
    """
    if label not in get_args(PatientLabel):
        raise ValueError(f"patient_label is same or max, got {label!r}")
    if label != "same" and bag != "patient":
        raise ValueError(
            f"patient_label {label} has no effect on bags of slides; set bag: patient, or "
            "patient_label: same"
        )
    if label == "max" and task is not None and not has_classes(task):
        raise ValueError(  # A774
            f"patient_label max has no meaning for the task {task}: all slides of a patient have "
            "one time or value; set patient_label: same"
        )


def patient_problems(table: SlideTable) -> Iterator[Problem]:
    """Yield a fault for each patient in several splits or folds."""
    if table.splits:
        yield from divided_patients(table.path, table.patients, table.splits, "split")
    if table.folds is not None:
        yield from divided_patients(table.path, table.patients, table.folds.tolist(), "fold")


def open_slides(
    table: SlideTable, folder: Path, keys: FeatureKeys, left_out: Collection[str] = ()
) -> tuple[list[Slide], list[Problem]]:
    """Open the files of all slides; return the consistent slides, and the faults of the others.

    Slides that are ``left_out`` count as if they were not in the table.
    """
    files = find_feature_files(folder, table.slide_ids)
    slides: list[Slide] = []
    faults: list[Problem] = []
    owner: dict[Path, str] = {}
    for at, name in enumerate(table.slide_ids):
        file = files.get(name)
        if name in left_out:
            continue
        if file is None:
            remedy = "extract its features or remove its line"
            reason = f"no feature file in {folder}"
            faults.append(Problem(table.path, name, None, reason, remedy, "slide"))
        elif owner.setdefault(file, name) != name:
            reason = f"slide {owner[file]} has the same file"
            faults.append(Problem(file, name, None, reason, "keep one of the slides", "slide"))
        else:
            try:
                slides.append(Slide(at, name, file, read_header(file, keys)))
            except DataProblems as error:
                faults += [problem._replace(item=name) for problem in error.problems]
    widths = Counter(slide.header.width for slide in slides)
    usual = widths.most_common(1)[0][0] if widths else 0
    for slide in slides:
        if slide.header.width != usual:
            reason = f"{slide.header.width} features, but {widths[usual]} other slides have {usual}"
            remedy = "extract all slides with one encoder"
            faults.append(Problem(slide.file, slide.name, None, reason, remedy, "slide"))
    alike = [slide for slide in slides if slide.header.width == usual]
    other = dict(_other_origins(alike))
    return [slide for slide in alike if slide.name not in other], [*faults, *other.values()]


def _other_origins(slides: Sequence[Slide]) -> Iterator[tuple[str, Problem]]:
    """Yield name and fault of each slide that was extracted otherwise than most of them.

    Files that do not say how they were made are left alone.  # A522
    """
    known = [slide for slide in slides if slide.header.origin is not None]
    counts = Counter(slide.header.origin for slide in known)
    if len(counts) < 2:
        return
    usual, count = counts.most_common(1)[0]
    example = next(slide for slide in known if slide.header.origin == usual)
    remedy = "extract all slides with one encoder, one mpp, one patch_px and one stain"
    for slide in known:
        if slide.header.origin != usual and slide.header.origin is not None and usual is not None:
            what = slide.header.origin.difference(usual)
            others = f"as {count} of {len(known)} slides have, for example {example.name}"
            reason = f"{what}, {others}"
            yield slide.name, Problem(slide.file, slide.name, None, reason, remedy, "slide")


def version_problems(slides: Sequence[Slide]) -> Iterator[Problem]:
    """Yield a fault for each slide without augmented versions, or with another number of them.

    Slides with fewer versions would be seen without augmentation more often than others.  # A694
    """
    for slide in slides:
        found, usual = slide.header.versions, slides[0].header.versions
        if found == 0:
            reason = "its features have no augmented versions, which augmented draws from"
            remedy = "extract them with --data.augmented K, or train without augmented"
        elif found != usual:
            reason = f"{found} augmented versions, but slide {slides[0].name} has {usual}"
            remedy = "extract all slides with one number of versions"
        else:
            continue
        yield Problem(slide.file, slide.name, None, reason, remedy, "slide")


def grouped(
    table: SlideTable, slides: Sequence[Slide], by_patient: bool, label: PatientLabel = "same"
) -> tuple[list[list[Slide]], list[Problem]]:
    """Return the slides of each bag, and a fault for each patient with contradicting labels.

    With the label ``max``, labels of a patient contradict each other nowhere.
    """
    if not by_patient or not table.patients:
        return [[slide] for slide in slides], []
    of_patient: dict[str, list[Slide]] = {}
    for slide in slides:
        of_patient.setdefault(table.patients[slide.line], []).append(slide)
    bags, faults = [], []
    for patient, bag in of_patient.items():
        named: dict[str, list[str]] = {}
        for slide in bag:
            named.setdefault(table.texts[slide.line], []).append(slide.name)
        if len(named) > 1 and label == "same":
            parts = [f"{text} ({_some(named[text])})" for text in sorted(named)]
            reason = f"slides with labels {', '.join(parts)}"
            remedy = "give all slides of a patient one label, "
            if table.labels.dtype.kind != "f":
                remedy += "take the largest by patient_label: max, "
            remedy += "or make bags of slides"
            faults.append(Problem(table.path, patient, None, reason, remedy, "patient"))
        else:
            bags.append(bag)
    return bags, faults


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def bag_labels(
    table: SlideTable, bags: Sequence[Sequence[Slide]], label: PatientLabel
) -> npt.NDArray[Any]:
    """Return (B,) or (B, C) labels: those of the slides, or the largest of a patient's.

    For ``max`` every slide of the table counts, also one without usable features: a patient does
    not become negative because the file of the positive slide is missing.  # A674

    Args:
        table: the table.
        bags: the slides of each bag.
        label: ``same`` if the slides of a bag have one label; ``max`` for bags of patients.
    """
    first = [bag[0].line for bag in bags]
    if label == "same" or not table.patients:
        same: npt.NDArray[Any] = table.labels[first]
        return same
    largest: dict[str, IntArray] = {}
    for patient, own in zip(table.patients, table.labels, strict=True):
        largest[patient] = np.maximum(largest.get(patient, own), own)
    return np.array([largest[table.patients[line]] for line in first], dtype=np.int64)


def order_warning(table: SlideTable, bags: Sequence[Sequence[Slide]]) -> str:
    """Return a warning if patients have the largest of labels that were ordered by the alphabet.

    Empty where the classes are numbers, or no patient has slides of several classes.  # A673
    """
    names = table.class_names
    mixed = [b for b in bags if len({table.texts[slide.line] for slide in b}) > 1]
    words = {text for texts in table.fields for text in texts}
    if not mixed or table.labels.ndim == 2 or all(map(str.isdecimal, words)):
        return ""
    example = table.patients[mixed[0][0].line]
    return (
        f"{table.path}: patient_label max takes the classes in the order of the alphabet, "
        f"{' < '.join(names)}; {len(mixed)} of {len(bags)} patients, for example {example}, have "
        "slides of several classes and get the last of these; name the classes in their order, the "
        f'gravest last, by --data.class_names "{list(names)}"'
    )
