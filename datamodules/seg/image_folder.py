"""Datamodule of images without annotations, for prediction."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.seg.base import SegDataModule, Split
from datamodules.seg.coco_files import HEADER_LIMIT
from datamodules.seg.dataset import AnnotatedImage
from datamodules.transforms.label_maps import LabelMaps
from datamodules.transforms.raw.files import all_raw, read_linear
from formats.images import SUFFIXES, ImageOptions, read_header, read_rgb
from formats.raw_files import is_raw
from structures import CategoryMap, DataProblems, Problem, settle


@dataclass(frozen=True)
class ImageFolderSource:
    """Image files without annotations.

    Attributes:
        files: paths of the files, sorted by name.
        ids: position of each file among all images of the folder, counted from 1, so that it does
            not change when others are left out.
        options: how the files are read.
        linear: RAW files are read as the sensor's colours, not developed.
    """

    files: tuple[Path, ...]
    ids: tuple[int, ...]
    options: ImageOptions = field(default_factory=ImageOptions)
    linear: bool = False

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> AnnotatedImage:
        """Read one image; it has no instances.

        Raises:
            ValueError: the file is missing or broken, or cannot be converted to 8 bits.
        """
        image = _read(self.files[index], self.options, self.linear)
        nothing = np.zeros(0, dtype=np.int64)
        maps = LabelMaps(np.zeros((0, *image.shape[:2]), dtype=np.uint8), nothing, nothing)
        name = str(self.files[index])
        return AnnotatedImage(image, maps, nothing, nothing.astype(bool), self.ids[index], name)

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return the (n, 2) heights and widths of the images. Opens every file."""
        sizes = [_size(f, self.options) for f in self.files]
        return np.array(sizes, dtype=np.int64)

    def counts(self) -> npt.NDArray[np.int64]:
        """Return (n,) zeros, because there are no annotations."""
        return np.zeros(len(self), dtype=np.int64)

    def objects(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return two empty arrays, because there are no annotations."""
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)


class ImageFolderDataModule(SegDataModule):
    """The images of a folder, or a single image, for ``predict`` only.

    Up to 5 000 files are opened on construction, so that broken files are found before the first
    prediction.

    Args:
        root: a folder, whose png, jpg, tif and bmp files are read in the order of their names
            (without subfolders), or an image file. It may have RAW files instead (cr2, nef, dng),
            which are shown as they are: as the colours of the sensor to a network of ``raw3``, and
            developed to others.
        category_map: the map of the checkpoint ({ids, names}), because the images have no classes.
        **shared: the arguments of ``SegDataModule``.

    Raises:
        DataProblems: some image files cannot be read and ``bad_data`` is ``error``, or no file can
            be read.
        ValueError: the path does not exist or contains no image, has RAW files beside other images,
            or the network takes four channels of RAW files.
    """

    path_argument = "root"
    asked_last = True

    def __init__(
        self,
        root: Path | str,
        category_map: Mapping[str, Sequence[Any]],
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.category_map = CategoryMap.from_dict(category_map)
        path = Path(root)
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES or is_raw(f))
        else:
            raise ValueError(f"{path} is missing; give a folder of images or one image")
        if not files:
            raise ValueError(
                f"folder {path} contains no image ({', '.join(SUFFIXES)}); subfolders are not "
                "read, so give the folder with the images, such as DIR/images/val"
            )
        self._files = tuple(files)
        self.already_dark = all_raw(path, self._files, self.in_channels)
        small = len(files) <= HEADER_LIMIT
        self.problems = settle(
            self.check(thorough=self.bad_data != "error") if small else [], self.bad_data
        )
        broken = {problem.item for problem in self.problems}
        kept = [(file, n) for n, file in enumerate(files, start=1) if n not in broken]
        if not kept:
            raise DataProblems(self.problems)
        self._source = ImageFolderSource(
            tuple(f for f, _ in kept),
            tuple(n for _, n in kept),
            self.image_options,
            self.low_light is not None and self.low_light.input == "raw3",
        )

    @classmethod
    def section_for(
        cls, path: Path, record: Mapping[str, Any], folder: Path | None = None
    ) -> dict[str, Any] | None:
        """Return the section for a folder of images or a single image; see the base class."""
        facts = record["facts"]
        if "category_map" not in facts or folder is not None:
            return None
        known = facts["preprocessing"] | {"category_map": facts["category_map"]}
        return cls.section(known | {"root": str(path)})

    def check(self, thorough: bool = False) -> list[Problem]:
        """Open every file and return a problem for each file that cannot be read.

        Args:
            thorough: also decode every image.
        """
        with ThreadPoolExecutor(2) as pool:  # reading releases the interpreter
            look = functools.partial(_fault, thorough=thorough, options=self.image_options)
            faults = list(pool.map(look, self._files))
        return [
            Problem(file, number, None, *fault)
            for number, (file, fault) in enumerate(zip(self._files, faults, strict=True), start=1)
            if fault is not None
        ]

    def summary(self) -> dict[str, dict[str, int]]:
        """Return the number of images under ``predict``."""
        return {"predict": {"pictures": len(self._files)}}

    def source(self, split: Split) -> ImageFolderSource:
        """Return the images.

        Raises:
            ValueError: the split is not ``predict``.
        """
        if split != "predict":
            raise ValueError(
                f"a folder of images has no {split} split; use it with `predict`, or give "
                "annotations with CocoDataModule"
            )
        return self._source

    def ground_truth(self, split: Split) -> dict[str, Any]:
        """Raise an error, because images without annotations have no ground truth.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"a folder of images has no ground truth (asked for {split})")

    @functools.cached_property
    def _records(self) -> list[dict[str, Any]]:
        source = self._source
        rows = zip(source.ids, source.files, source.sizes().tolist(), strict=True)
        return [
            {"id": n, "file_name": f.name, "height": h, "width": w, "path": str(f.resolve())}
            for n, f, (h, w) in rows
        ]

    def image_records(self, split: Split) -> list[dict[str, Any]]:
        """Return ``id``, ``file_name``, ``height``, ``width`` and absolute ``path`` of images."""
        self.source(split)
        return [dict(record) for record in self._records]


def _read(file: Path, options: ImageOptions, linear: bool) -> Any:
    """Return an image, (h, w, 3) in 0 to 255."""
    return read_linear(file) if linear and is_raw(file) else read_rgb(file, options)


def _size(file: Path, options: ImageOptions) -> tuple[int, int]:
    return read_header(file, options).size(options.exif)


def _fault(file: Path, *, thorough: bool, options: ImageOptions) -> tuple[str, str] | None:
    """Return the reason why an image cannot be read and the remedy, or None."""
    try:
        read_header(file, options).is_turned(options.exif)
        if thorough:
            _read(file, options, linear=True)
    except ValueError as error:
        reason, _, remedy = str(error).rpartition("; ")
        return reason, f"{remedy} or remove it"
    return None
