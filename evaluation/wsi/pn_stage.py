"""Stages of patients from the classes of their slides, as CAMELYON17 scores them.

Bandi et al. 2019, IEEE TMI 38(2): the pN stage of a patient follows from five lymph nodes, a slide
each, and stages are compared by Cohen's kappa with quadratic weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.targets import ordinal
from formats.camelyon import NODES, Row, node_class, read_rows
from structures import DataProblems, Problem

STAGES = ("pN0", "pN0(i+)", "pN1mi", "pN1", "pN2")
SLIDES = 5  # of a patient
_NEGATIVE, _ITC, _MICRO, _MACRO = range(len(NODES))
_SLIDE = ("slide_id", "bag_id")
_PATIENT = ("patient_id", "case_id", "patient", "group")


class PatientStages(NamedTuple):
    """Stages of the patients that were predicted.

    Attributes:
        predicted: patient -> stage by the predicted classes of the slides.
        true: patient -> stage by the true classes, the same patients in the same order.
        without: patients of the truth of which no slide was predicted.
    """

    predicted: dict[str, str]
    true: dict[str, str]
    without: tuple[str, ...]

    def confusion(self) -> npt.NDArray[np.int64]:
        """Return (5, 5) patients by true stage (rows) and predicted stage."""
        pairs = [(self.true[p], stage) for p, stage in self.predicted.items()]
        counts = Counter(pairs)
        return np.array([[counts[true, says] for says in STAGES] for true in STAGES])


def pn_stage(nodes: Sequence[int]) -> str:
    """Return the stage of a patient.

    Args:
        nodes: class of each of the five slides, a number of `NODES`.

    >>> [pn_stage(nodes) for nodes in ([0] * 5, [0, 1, 1, 1, 1], [2, 2, 2, 2, 1])]
    ['pN0', 'pN0(i+)', 'pN1mi']
    >>> [pn_stage(nodes) for nodes in ([3, 0, 0, 0, 1], [3, 2, 2, 0, 1], [3, 2, 2, 2, 0])]
    ['pN1', 'pN1', 'pN2']
    """
    count = Counter(nodes)
    if count[_MACRO]:
        return "pN1" if count[_MICRO] + count[_MACRO] <= 3 else "pN2"
    if count[_MICRO]:
        return "pN1mi"
    return "pN0(i+)" if count[_ITC] else "pN0"


def quadratic_kappa(confusion: npt.NDArray[np.int64]) -> float:
    """Return Cohen's kappa with quadratic weights; NaN where all are of one class in both.

    Args:
        confusion: (C, C) counts.
    """
    return float(ordinal.quadratic_kappa(confusion[None])[0])


def patient_stages(predictions: Path, truth: Path) -> PatientStages:
    """Stage the patients of whom slides were predicted.

    Args:
        predictions: CSV with ``bag_id`` or ``slide_id`` and the predicted class: a column
            ``prediction``, else the largest of four ``score_<class>``, else ``label``. A class is a
            number or name of `NODES`; where there are scores, a number counts their columns.
        truth: CSV with ``slide_id``, ``label`` and the patient; without a column for it the name of
            a slide ends in ``_node_<number>`` and begins with the patient.

    Raises:
        DataProblems: a line of a file is wrong, a slide is not in the truth, or a patient has not
            five slides or has slides without a prediction.
    """
    guesses = _predicted_nodes(predictions)
    labels, patients = _true_nodes(truth)
    problems = [
        Problem(predictions, s, None, f"the slide is not in {truth}", "remove or add it", "slide")
        for s in guesses
        if s not in labels
    ]
    slides: dict[str, list[str]] = {}
    for slide, patient in patients.items():
        slides.setdefault(patient, []).append(slide)
    predicted, true, without = {}, {}, []
    for patient, own in slides.items():
        lacking = [slide for slide in own if slide not in guesses]
        if len(lacking) == len(own):
            without.append(patient)
            continue
        if len(own) != SLIDES:
            reason, remedy = f"has {len(own)} slides", f"a stage needs {SLIDES} slides"
            problems.append(Problem(truth, patient, None, reason, remedy, "patient"))
        elif lacking:
            reason = f"has no prediction for {', '.join(lacking)}"
            remedy = "predict all slides of a patient"
            problems.append(Problem(predictions, patient, None, reason, remedy, "patient"))
        else:
            predicted[patient] = pn_stage([guesses[slide] for slide in own])
            true[patient] = pn_stage([labels[slide] for slide in own])
    if problems:
        raise DataProblems(problems)
    return PatientStages(predicted, true, tuple(without))


def _true_nodes(path: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Return the class and the patient of each slide."""
    lines = read_rows(path, _SLIDE, ("label",))
    labels = _by_slide(path, lines, [(row["label"], node_class(row["label"])) for _, row in lines])
    patients, problems = {}, []
    for number, row in lines:
        slide = row["slide_id"]
        stem, found, _ = slide.rpartition("_node_")
        patient = next((row[name] for name in _PATIENT if row.get(name)), stem if found else "")
        patients[slide] = patient
        if not patient:
            problem = "the patient is not known", "add a column patient_id"
            problems.append(Problem(path, slide, number, *problem, kind="slide", part="line"))
    if problems:
        raise DataProblems(problems)
    return labels, patients


def _predicted_nodes(path: Path) -> dict[str, int]:
    lines = read_rows(path, _SLIDE)
    columns = lines[0][1]
    scores = [name for name in columns if name.startswith("score_") or name == "score"]
    classes = [node_class(name.removeprefix("score_")) for name in scores]
    known = [number for number in classes if number is not None]
    source = next((name for name in ("prediction", "label") if name in columns), None)
    if "prediction" not in columns and scores:
        source = None
    elif source is None:
        remedy = "write a column prediction, or score_<class> for each class"
        raise DataProblems([Problem(path, None, None, "no class is predicted", remedy)])
    if scores and sorted(known) != list(range(len(NODES))):
        reason = f"the scores are {', '.join(scores)}"
        remedy = f"stages need a score of each class: {', '.join(NODES)}, or 0 to 3"
        raise DataProblems([Problem(path, None, None, reason, remedy)])
    if source:
        found = [(row[source], _class_of(row[source], known)) for _, row in lines]
    else:
        found = [_likeliest([row[name] for name in scores], known) for _, row in lines]
    return _by_slide(path, lines, found)


def _class_of(text: str, known: Sequence[int]) -> int | None:
    """Return a predicted class; a number is that of a column of scores, where there are some."""
    number = node_class(text)
    return known[number] if known and number is not None and text.isdecimal() else number


def _likeliest(scores: Sequence[str], known: Sequence[int]) -> tuple[str, int | None]:
    text = ", ".join(scores)
    try:
        values = np.array([float(score) for score in scores])
    except ValueError:
        return text, None
    return text, known[int(values.argmax())] if np.isfinite(values).all() else None


def _by_slide(
    path: Path, lines: Sequence[tuple[int, Row]], found: Sequence[tuple[str, int | None]]
) -> dict[str, int]:
    """Return the class of each slide; a slide twice or a class that is none is an error."""
    classes: dict[str, int] = {}
    problems = []
    for (number, row), (text, value) in zip(lines, found, strict=True):
        slide = row["slide_id"]
        fault = None
        if not slide:
            fault = "names no slide", "write its name"
        elif slide in classes:
            fault = "the slide occurs twice", "keep one line per slide"
        elif value is None:
            fault = f"{text!r} is no class", f"write 0 to 3, or {', '.join(NODES)}"
        else:
            classes[slide] = value
        if fault:
            problems.append(Problem(path, slide, number, *fault, kind="slide", part="line"))
    if problems:
        raise DataProblems(problems)
    return classes
