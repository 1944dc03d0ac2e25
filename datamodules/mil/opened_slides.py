"""The feature files of the slides of a table, opened and compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.mil.slide_table import SlideTable, find_feature_files
from datamodules.mil.splits import divided_patients
from formats.features import FeatureHeader, FeatureKeys, read_header
from structures import DataProblems, Problem


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


def patient_problems(table: SlideTable) -> Iterator[Problem]:
    """Yield a fault for each patient in several splits or folds."""
    if table.splits:
        yield from divided_patients(table.path, table.patients, table.splits, "split")
    if table.folds is not None:
        yield from divided_patients(table.path, table.patients, table.folds.tolist(), "fold")


def open_slides(
    table: SlideTable, folder: Path, keys: FeatureKeys
) -> tuple[list[Slide], list[Problem]]:
    """Open the files of all slides; return the consistent slides, and the faults of the others."""
    files = find_feature_files(folder, table.slide_ids)
    slides: list[Slide] = []
    faults: list[Problem] = []
    owner: dict[Path, str] = {}
    for at, name in enumerate(table.slide_ids):
        file = files.get(name)
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
    table: SlideTable, slides: Sequence[Slide], by_patient: bool
) -> tuple[list[list[Slide]], list[Problem]]:
    """Return the slides of each bag, and a fault for each patient with contradicting labels."""
    if not by_patient or not table.patients:
        return [[slide] for slide in slides], []
    of_patient: dict[str, list[Slide]] = {}
    for slide in slides:
        of_patient.setdefault(table.patients[slide.line], []).append(slide)
    bags, faults = [], []
    for patient, bag in of_patient.items():
        texts = sorted({table.texts[slide.line] for slide in bag})
        if len(texts) > 1:
            reason = f"slides with labels {', '.join(texts)}"
            remedy = "give all slides of a patient one label, or make bags of slides"
            faults.append(Problem(table.path, patient, None, reason, remedy, "patient"))
        else:
            bags.append(bag)
    return bags, faults
