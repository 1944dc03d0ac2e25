"""Tables of CAMELYON16 and CAMELYON17: labels of slides, official split, centres.

Litjens et al. 2018, GigaScience 7(6), and the READMEs of both data sets.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from structures import BadDataPolicy, DataProblems, Problem, settle

NODES = ("negative", "itc", "micro", "macro")  # classes of CAMELYON17's slides, by number
_SLIDE_16 = re.compile(r"(normal|tumor|test)_(\d{3})", re.IGNORECASE)
_SLIDE_17 = re.compile(r"(patient_(\d{3}))_node_[0-4]", re.IGNORECASE)
_COUNTS_16 = {"normal": 160, "tumor": 111, "test": 130}
_BINARY = {"0": 0, "normal": 0, "negative": 0, "1": 1, "tumor": 1, "positive": 1}
_REFUSED = {
    "test_049": (
        "is a duplicate, which the organisers took out of the test set",
        "remove the line",
    ),
    "normal_086": ("has a metastasis and was renamed tumor_111", "remove the line"),
}
_PATIENTS = ("patient_id", "case_id", "patient", "group")

Row = dict[str, str]
Fault = tuple[str, str]  # reason and remedy


class ChallengeTable(NamedTuple):
    """The slides of a challenge as a table that training reads.

    Attributes:
        columns: names of the columns.
        rows: a row a slide, in the order of the file.
        problems: faulty lines that were left out.
    """

    columns: tuple[str, ...]
    rows: list[Row]
    problems: tuple[Problem, ...]


def node_class(text: str) -> int | None:
    """Return the number of a class of CAMELYON17's slides, by number or name; None for none.

    >>> [node_class(text) for text in ("3", "ITC", "macro ", "4")]
    [3, 1, 3, None]
    """
    text = text.strip().lower()
    names = {**{str(n): n for n in range(len(NODES))}, **{name: n for n, name in enumerate(NODES)}}
    return names.get(text)


def read_rows(path: Path, *needed: Sequence[str]) -> list[tuple[int, Row]]:
    """Return the lines of a CSV with a header: the number of each and its fields by column.

    Args:
        path: UTF-8, with commas.
        *needed: names of a column that is needed; any of them will do, and the first is the key.

    Raises:
        DataProblems: the file cannot be read, lacks a column or has no line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            columns = [(name or "").strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            lines = [
                (reader.line_num, {k: (row[k] or "").strip() for k in columns}) for row in reader
            ]
    except FileNotFoundError:
        raise _refused(path, "no such file", "give the path of a CSV file") from None
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise _refused(path, f"cannot be read ({error})", "give a CSV file in UTF-8") from None
    for names in needed:
        found = next((name for name in names if name in columns), None)
        if found is None:
            reason = f"column {names[0]} is missing; the file has {', '.join(columns) or 'none'}"
            raise _refused(path, reason, f"add a column {' or '.join(names)}")
        for _, row in lines:
            row[names[0]] = row[found]
    if not lines:
        raise _refused(path, "no slide in the file", "write one line per slide")
    return lines


def _refused(path: Path, reason: str, remedy: str) -> DataProblems:
    return DataProblems([Problem(path, None, None, reason, remedy)])


def camelyon16(path: Path, policy: BadDataPolicy = "error") -> ChallengeTable:
    """Return the slides of CAMELYON16 with the official split.

    The column ``split`` is ``test`` for ``test_*``, else ``train``; validation slides are drawn
    from the training slides when a model is trained.

    Args:
        path: table of ``slide_id`` and ``label`` (0 or 1, normal or tumor) and perhaps patients.
        policy: ``skip`` leaves faulty lines out.

    Raises:
        DataProblems: the table cannot be read, or a line is wrong and the policy is ``error``: no
            slide of the challenge, one that the organisers withdrew, twice, or with another label
            than its name says.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, row in _slides(path, problems):
        slide = row["slide_id"]
        fault = _fault_16(slide, row["label"])
        if fault:
            problems.append(_problem(path, slide, number, fault))
            continue
        patient = _patient(row)
        made = {"slide_id": slide} | ({"patient_id": patient} if patient else {})
        split = "test" if slide.lower().startswith("test") else "train"
        rows.append({**made, "label": str(_BINARY[row["label"].lower()]), "split": split})
    patients = ("patient_id",) if rows and all("patient_id" in row for row in rows) else ()
    return ChallengeTable(("slide_id", *patients, "label", "split"), rows, settle(problems, policy))


def _fault_16(slide: str, label: str) -> Fault | None:
    if refused := _REFUSED.get(slide.lower()):
        return refused
    match = _SLIDE_16.fullmatch(slide)
    if match is None or not 1 <= int(match[2]) <= _COUNTS_16[match[1].lower()]:
        return (
            "is no slide of CAMELYON16",
            "name it normal_001 to 160, tumor_001 to 111 or test_001 to 130",
        )
    kind = match[1].lower()
    value = _BINARY.get(label.lower())
    if value is None:
        return f"the label is {label!r}", "write 0 for normal and 1 for tumor"
    if kind != "test" and value != int(kind == "tumor"):
        return f"the label of a slide named {kind} is {label}", "correct the label"
    return None


def camelyon17(path: Path, policy: BadDataPolicy = "error") -> ChallengeTable:
    """Return the slides of CAMELYON17 with the centre as fold.

    Args:
        path: table of ``slide_id``, ``label`` (0 to 3, or `NODES`) and ``center``, 0 to 4; without
            it the centre of a training patient is known from the number (A646).
        policy: ``skip`` leaves faulty lines out.

    Raises:
        DataProblems: the table cannot be read, or a line is wrong and the policy is ``error``: no
            slide of the challenge, twice, an unknown class or centre, or a patient of two centres.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    centres: dict[str, str] = {}
    for number, row in _slides(path, problems):
        slide, label = row["slide_id"], node_class(row["label"])
        match, centre = _SLIDE_17.fullmatch(slide), row.get("center", row.get("centre"))
        fault: Fault | None = None
        if match is None or int(match[2]) >= 200:
            fault = "is no slide of CAMELYON17", "name it patient_000_node_0"
        elif label is None:
            fault = f"the label is {row['label']!r}", f"write 0 to 3, or {', '.join(NODES)}"
        else:
            if centre is None and int(match[2]) < 100:
                centre = str(int(match[2]) // 20)
            if centre not in tuple("01234"):
                fault = f"the centre is {centre!r}", "write 0 to 4 into the column center"
            elif centres.setdefault(match[1], centre) != centre:
                fault = f"patient {match[1]} is of two centres", "correct the column center"
        if fault:
            problems.append(_problem(path, slide, number, fault))
            continue
        assert match is not None and centre is not None
        rows.append(
            {"slide_id": slide, "patient_id": match[1], "label": str(label), "fold": centre}
        )
    columns = ("slide_id", "patient_id", "label", "fold")
    return ChallengeTable(columns, rows, settle(problems, policy))


def _slides(path: Path, problems: list[Problem]) -> Iterator[tuple[int, Row]]:
    """Yield the lines of a table; one of a slide that was there before is a problem."""
    first: dict[str, int] = {}
    for number, row in read_rows(path, ("slide_id",), ("label",)):
        slide = re.sub(r"\.tiff?$", "", row["slide_id"], flags=re.IGNORECASE)
        if slide.lower() in first:
            fault = f"the slide is also in line {first[slide.lower()]}", "keep one line per slide"
            problems.append(_problem(path, slide, number, fault))
            continue
        first[slide.lower()] = number
        yield number, {**row, "slide_id": slide}


def _patient(row: Row) -> str:
    return next((row[name] for name in _PATIENTS if row.get(name)), "")


def _problem(path: Path, slide: str, number: int, fault: Fault) -> Problem:
    return Problem(path, slide, number, *fault, kind="slide", part="line")
