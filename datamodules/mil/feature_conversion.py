"""Conversion of a folder of feature files to another format, which can be continued."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from datamodules.mil.slide_table import FOLDERS, feature_files
from formats.feature_arrays import FeatureKeys
from formats.feature_writer import Form, check_type, convert_file
from formats.features import SUFFIXES, FeatureHeader, read_header
from structures import BadDataPolicy, DataProblems, Problem, settle


class _Job(NamedTuple):
    """A file to convert."""

    source: Path
    target: Path
    header: FeatureHeader


class FolderConversion(NamedTuple):
    """Numbers of feature files.

    Attributes:
        written: files that were converted.
        present: files that an earlier conversion has written.
        without_coords: files whose coordinates the format cannot hold.
        problems: files that were left out.
    """

    written: int
    present: int
    without_coords: int
    problems: tuple[Problem, ...]


def convert_features(
    source: Path,
    target: Path,
    form: Form,
    keys: FeatureKeys = FeatureKeys(),  # noqa: B008
    bad_data: BadDataPolicy = "error",
    progress: Callable[[int, int], None] | None = None,
) -> FolderConversion:
    """Convert the feature files of a folder, and of its subfolders such as ``h5_files``.

    Of the files of a slide, the one that the datamodule would read is converted. A file that is
    already there is kept if it has as many instances and features, and is not older (A422).

    Args:
        source: folder to read.
        target: folder to write, a file per slide.
        form: format to write.
        keys: names of the arrays.
        bad_data: ``skip`` leaves out files that cannot be read.
        progress: called with (files done, total files) after each file.

    Raises:
        DataProblems: a folder or file is wrong; except for values that cannot be read, all headers
            are checked before the first file is written.
    """
    if target.resolve() in {(source / name).resolve() for name in FOLDERS}:
        raise ValueError(f"--to {target} is a folder of --from {source}; name another folder")
    files = _preferred(feature_files(source))
    if not files:
        reason = f"no feature file ({', '.join(SUFFIXES)})"
        raise DataProblems([Problem(source, None, None, reason, "give a folder that has some")])
    jobs, present, faults = list[_Job](), 0, list[Problem]()
    for name, file in files.items():
        try:
            job = _Job(file, target / f"{name}.{form}", read_header(file, keys))
            check_type(file, form, job.header.dtype)
            if _is_present(job, keys):
                present += 1
            else:
                jobs.append(job)
        except DataProblems as error:
            faults += error.problems
    problems = settle(faults, bad_data)
    _check_space(jobs, target)
    for number, job in enumerate(jobs, start=1):
        convert_file(job.source, job.target, keys)
        if progress is not None:
            progress(number, len(jobs))
    lost = sum(job.header.has_coords for job in jobs) if form == "npy" else 0
    return FolderConversion(len(jobs), present, lost, problems)


def _preferred(files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the file of each slide that the datamodule would read, by the name of the slide."""
    chosen: dict[str, Path] = {}
    for file in sorted(files.values(), key=lambda f: (f.stem, SUFFIXES.index(f.suffix))):
        chosen.setdefault(file.stem, file)
    return chosen


def _is_present(job: _Job, keys: FeatureKeys) -> bool:
    """Return whether an earlier conversion has written a file and the source is not newer.

    Raises:
        DataProblems: the file there is another one.
    """
    if not job.target.exists():
        return False
    header = None
    with contextlib.suppress(DataProblems):
        header = read_header(job.target, keys)
    if header is None or header[:3] != job.header[:3]:
        reason = f"already exists and does not have the features of {job.source}"
        raise DataProblems(
            [Problem(job.target, None, None, reason, "remove it, or name another folder by --to")]
        )
    return job.target.stat().st_mtime >= job.source.stat().st_mtime


def _check_space(jobs: list[_Job], target: Path) -> None:
    place = target.absolute()
    while not place.exists():
        place = place.parent
    headers = [job.header for job in jobs]
    needed = sum(h.instances * (h.width * h.dtype.itemsize + 16) for h in headers)
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ValueError(
            f"--to {target}: {len(jobs)} files take {needed / 1e9:.3g} GB, and the disk has "
            f"{free / 1e9:.3g} GB left; name a folder on another disk"
        )
