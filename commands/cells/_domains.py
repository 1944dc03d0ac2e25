"""Other data sets on which checkpoints are scored, for `evaluate.py robustness --domain`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from engine.deploy.predict import CocoPredictor
    from structures import Problem

_NOTHING = Path("/dev/null/nothing")  # no folder


@dataclass(frozen=True)
class Domain:
    """Another data set, as the user names it; as a path it is its annotations.

    Attributes:
        name: the name in tables.
        paths: ANNOTATIONS:IMAGES. Each colon may be the one between them, because paths may have
            colons too; without IMAGES, the images are searched beside the annotations.
    """

    name: str
    paths: str

    def __fspath__(self) -> str:
        return str(next((f for f, _ in self._pairs() if f.is_file()), self._last()))

    def files(self) -> tuple[Path, Path | None]:
        """Return the COCO file and the folder of images, None if no folder is named.

        Raises:
            ValueError: one of them is missing, or there are several such pairs.
        """
        fitting = [(file, folder) for file, folder in self._pairs() if file.is_file()]
        whole = [(file, folder) for file, folder in fitting if folder.is_dir()]
        if len(whole) > 1:
            told = " and ".join(f"{file} with {folder}" for file, folder in whole)
            raise ValueError(f"--domain {self.name}: means {told}; rename a file or a folder")
        if whole:
            return whole[0]
        if Path(self.paths).is_file():
            return Path(self.paths), None
        if fitting:
            folder = fitting[0][1]
            missing = "nothing after the colon" if folder == _NOTHING else folder
            raise ValueError(f"--domain {self.name}: no such folder of images: {missing}")
        missing = next((file for file, folder in self._pairs() if folder.is_dir()), self._last())
        raise ValueError(f"--domain {self.name}: no such file of annotations: {missing}")

    def _pairs(self) -> list[tuple[Path, Path]]:
        colons = [place for place, letter in enumerate(self.paths) if letter == ":"]
        return [
            (Path(self.paths[:place]), Path(self.paths[place + 1 :] or _NOTHING))
            for place in colons
        ]

    def _last(self) -> Path:
        return Path(self.paths.rpartition(":")[0] or self.paths)


class ReadDomain(NamedTuple):
    """A domain that was read and checked.

    Attributes:
        annotations: COCO file.
        images: folder of its images.
        truth: its content with the category ids of ``--annotations``.
        data: hash of the annotations and images.
        problems: of what was left out or repaired.
    """

    annotations: Path
    images: Path
    truth: dict[str, Any]
    data: str
    problems: tuple[Problem, ...]


def domain(text: str) -> Domain:
    """Return what NAME=ANNOTATIONS:IMAGES means; an argument type."""
    name, _, paths = text.partition("=")
    if not name.strip() or not paths.strip():
        raise argparse.ArgumentTypeError(f"write NAME=ANNOTATIONS:IMAGES, got {text!r}")
    return Domain(name.strip(), paths)


def _check_names(domains: Sequence[Domain]) -> None:
    seen: dict[str, Domain] = {}
    for one in domains:
        if one.name in seen:
            raise ValueError(
                f"--domain: {seen[one.name].paths} and {one.paths} have the name {one.name}; "
                "rename one"
            )
        seen[one.name] = one


def read_domains(args: argparse.Namespace, truth: dict[str, Any]) -> dict[str, ReadDomain]:
    """Read and check the domains, by their names.

    Args:
        args: arguments of the command.
        truth: content of ``--annotations``.

    Raises:
        ValueError: two have one name, or a file is missing, faulty or has other categories.
    """
    from engine.deploy.checked_coco import image_folder_of, read_to_predict
    from engine.deploy.corrupted import data_hash
    from engine.deploy.domains import with_categories_of

    domains: list[Domain] = args.domain or []
    _check_names(domains)
    found = {}
    for one, (file, images) in [(one, one.files()) for one in domains]:
        folder, reference = images or image_folder_of(file), args.annotations
        own, problems = read_to_predict(file, folder, args.bad_data)
        own = with_categories_of(one.name, file, own, reference, truth["categories"])
        data = data_hash(file, folder, own["images"])
        found[one.name] = ReadDomain(file, folder, own, data, problems)
    return found


def on_domains(
    args: argparse.Namespace, predictor: CocoPredictor, domains: Mapping[str, ReadDomain]
) -> dict[str | None, CocoPredictor]:
    """Return the checkpoint of a predictor with the images of each domain.

    Raises:
        ValueError: the checkpoint cannot be scored on one.
    """
    from engine.deploy.corrupted import check_images
    from engine.deploy.domains import on_domain

    found: dict[str | None, CocoPredictor] = {}
    for name, one in domains.items():
        found[name] = on_domain(
            predictor,
            one.annotations,
            one.images,
            one.truth,
            batch_size=args.batch_size,
            bad_data=args.bad_data,
            scale=args.scale,
        )
        check_images(found[name], one.annotations, corrupted=False)
        found[name].data.num_workers = args.workers or 0
    return found
