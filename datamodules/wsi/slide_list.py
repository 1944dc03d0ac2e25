"""The slides of a folder, or those that a table names, with the headers of their files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.mil.slide_table import Line, fault_of_line, id_faults, is_slide_name, read_lines
from formats.slides.pyramid import find_slides, open_slide
from formats.slides.resolution import PatchReader, resolution
from structures import Problem


class SlideEntry(NamedTuple):
    """A slide to read.

    Attributes:
        slide_id: its name.
        path: its file.
        mpp: micrometres per pixel of level 0 that the table states, or None.
    """

    slide_id: str
    path: Path
    mpp: float | None = None


class SlideHeader(NamedTuple):
    """A slide whose file was opened.

    Attributes:
        slide_id: its name.
        path: its file.
        mpp: micrometres per pixel of level 0.
        mpp_source: ``table`` or ``file``.
        pixels: number of pixels of level 0.
    """

    slide_id: str
    path: Path
    mpp: float
    mpp_source: str
    pixels: int


def list_slides(folder: Path, table: Path | None) -> tuple[list[SlideEntry], list[Problem]]:
    """Return the slides of a folder by name, or those of a table in its order.

    The table has a column ``slide_id``, with or without the suffix of the file, and may have
    ``mpp``, which wins over the file where it is not empty. Other columns are ignored.

    Returns:
        The slides, and the faults of the table.

    Raises:
        DataProblems: the table cannot be read.
        ValueError: there is no such folder, it has no slide, or two of one name.
    """
    files = find_slides(folder)
    if table is None:
        return [SlideEntry(name, files[name]) for name in sorted(files)], []
    columns, lines = read_lines(Path(table))
    faults = [*id_faults(table, lines), *_field_faults(table, "mpp" in columns, lines)]
    wrong = {fault.annotation for fault in faults}
    entries: list[SlideEntry] = []
    owner: dict[Path, str] = {}
    for line in lines:
        number, fields = line
        name = fields["slide_id"]
        path = files.get(name) or files.get(Path(name).stem if is_slide_name(name) else name)
        if number in wrong:
            continue
        if path is None:
            reason, remedy = f"no slide of this name in {folder}", "add its file or drop the line"
            faults.append(fault_of_line(table, line, reason, remedy))
        elif owner.setdefault(path, name) != name:
            reason = f"slide {owner[path]} has the same file {path.name}"
            faults.append(fault_of_line(table, line, reason, "keep one of the lines"))
        else:
            given = fields.get("mpp")
            entries.append(SlideEntry(name, path, float(given) if given else None))
    return entries, faults


def _field_faults(table: Path, has_mpp: bool, lines: list[Line]) -> Iterator[Problem]:
    for line in lines:
        fields = line[1]
        if "/" in fields["slide_id"] or fields["slide_id"].startswith("."):
            reason = f"slide_id {fields['slide_id']!r} cannot be the name of a file"
            yield fault_of_line(table, line, reason, "use the name of the slide without its folder")
        if has_mpp and fields["mpp"] and not _is_positive(fields["mpp"]):
            reason = f"mpp is {fields['mpp']!r}"
            remedy = "state micrometres per pixel, such as 0.25, or leave it empty"
            yield fault_of_line(table, line, reason, remedy)


def _is_positive(text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return math.isfinite(value) and value > 0


def read_headers(entries: list[SlideEntry], mpp: float) -> tuple[list[SlideHeader], list[Problem]]:
    """Open the files of slides; return those that can be read at a resolution, and the faults.

    Args:
        entries: the slides.
        mpp: micrometres per pixel of the patches.
    """
    headers, faults = list[SlideHeader](), list[Problem]()
    for entry in entries:
        try:
            with open_slide(entry.path) as slide:
                found = resolution(slide, entry.mpp)
                PatchReader(slide, found.mpp, mpp, 1)
                width, height = slide.size
        except (ValueError, OSError) as error:
            faults.append(slide_problem(entry.path, entry.slide_id, str(error)))
        else:
            header = SlideHeader(entry.slide_id, entry.path, *found, width * height)
            headers.append(header)
    return headers, faults


def slide_problem(path: Path, slide_id: str, message: str) -> Problem:
    """Return a problem of a slide from the message of an error, ``FILE: REASON; REMEDY``."""
    text = message.removeprefix(f"{path}: ")
    reason, _, remedy = text.rpartition("; ")
    if not reason:
        reason, remedy = text, "copy the file again, or leave the slide out"
    return Problem(path, slide_id, None, reason, remedy, kind="slide")
