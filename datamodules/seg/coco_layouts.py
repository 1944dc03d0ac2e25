"""Layouts of COCO data sets on disk, so that the folder of a set is enough to find its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "val", "test")
Given = tuple[Path | str | None, Path | str | None]


@dataclass(frozen=True)
class Layout:
    """Where a kind of data set has the files of a split, relative to its folder.

    Attributes:
        name: name in messages.
        annotations: the annotation file; ``{}`` stands for the name of the split.
        images: the image folder, and other places of it.
        val: names of the validation split.
    """

    name: str
    annotations: str
    images: tuple[str, ...]
    val: tuple[str, ...] = ("val",)

    def places(self, root: Path, split: str) -> Iterator[tuple[Path, Path]]:
        """Yield the image folders and annotation files where a split may be."""
        for name in self.val if split == "val" else (split,):
            for folder in self.images:
                yield root / folder.format(name), root / self.annotations.format(name)

    def find(self, root: Path, split: str) -> tuple[Path, Path] | None:
        """Return the image folder and the annotation file of a split; None without annotations.

        The image folder may be missing.
        """
        found = [pair for pair in self.places(root, split) if pair[1].exists()]
        return next((pair for pair in found if pair[0].is_dir()), found[0] if found else None)

    def expected(self, split: str = "train") -> str:
        """Return the files of a split as text."""
        name = self.val[0] if split == "val" else split
        images = " or ".join(f"{folder.format(name)}/" for folder in self.images)
        return f"{self.annotations.format(name)} with images in {images} ({self.name})"


OURS = Layout("segmil", "annotations/instances_{}.json", ("images/{}",))
LAYOUTS = (
    OURS,
    Layout("COCO 2017", "annotations/instances_{}2017.json", ("{}2017", "images/{}2017")),
    Layout("COCO 2014", "annotations/instances_{}2014.json", ("{}2014", "images/{}2014")),
    Layout("Roboflow", "{}/_annotations.coco.json", ("{}",), ("valid", "val")),
)


def fitting(root: Path, splits: Sequence[str] = SPLITS) -> list[Layout]:
    """Return the layouts of which a folder has an annotation file.

    Layouts whose image folders exist are preferred to others.
    """
    found = {layout: [layout.find(root, split) for split in splits] for layout in LAYOUTS}
    some = {layout: [p for p in pairs if p] for layout, pairs in found.items() if any(pairs)}
    whole = [layout for layout, pairs in some.items() if all(p[0].is_dir() for p in pairs)]
    return whole or list(some)


def locate(
    root: Path | None, given: Mapping[str, Given]
) -> tuple[dict[str, tuple[Path, Path] | None], dict[str, str]]:
    """Find the files of every split.

    Args:
        root: folder of the data set, or None.
        given: split -> image folder and annotation file that are named; they win.

    Returns:
        split -> image folder and annotation file, None for a missing split; and split -> what was
        looked for, empty without ``root``.

    Raises:
        ValueError: nothing is named; no layout fits the folder, or several do; or only one of the
            two paths of a split is known.
    """
    unnamed = [split for split, (_, annotations) in given.items() if annotations is None]
    if root is None and not any(path for pair in given.values() for path in pair):
        raise ValueError(
            "data.root names no folder; give --data.root DIR, the folder of the data set, or the "
            "files of each split by data.train_annotations, data.train_images and so on"
        )
    layout = OURS if root is None else _layout(root, unnamed)
    found = {split: _pair(root, layout, split, *named) for split, named in given.items()}
    looked = {split: f"{layout.expected(split)} in {root}" for split in given if root is not None}
    return found, looked


def _pair(
    root: Path | None,
    layout: Layout,
    split: str,
    images: Path | str | None,
    annotations: Path | str | None,
) -> tuple[Path, Path] | None:
    usual = None if root is None else next(layout.places(root, split))[0]
    found = None if root is None else layout.find(root, split)
    file = annotations
    if found is not None:
        usual, file = found[0], annotations or found[1]
    if file is None:
        if images is not None:
            raise ValueError(f"{split}_images is given without {split}_annotations")
        return None
    folder = usual if images is None else images
    if folder is None:
        raise ValueError(f"{split}_annotations is given without {split}_images")
    return Path(folder), Path(file)


def _layout(root: Path, splits: Sequence[str]) -> Layout:
    """Return the layout of a folder, which must have one if the training files are not named."""
    found = fitting(root, splits)
    if len(found) > 1:
        held = "; ".join(_held(root, layout, splits) for layout in found)
        raise ValueError(
            f"data.root: {root} has the files of {len(found)} layouts: {held}; name those to use "
            "by data.train_annotations and data.train_images, and the same for val and test"
        )
    if found or "train" not in splits:
        return (*found, OURS)[0]
    if not root.is_dir():
        raise ValueError(f"data.root: there is no folder {root}; correct the path")
    looked = "; ".join(layout.expected() for layout in LAYOUTS)
    raise ValueError(
        f"data.root: {root} has no annotation file in a known place; looked for {looked}; "
        f"{_hint(root)}"
    )


def _held(root: Path, layout: Layout, splits: Sequence[str]) -> str:
    pairs = [layout.find(root, split) for split in splits]
    files = ", ".join(str(pair[1].relative_to(root)) for pair in pairs if pair)
    return f"{files} ({layout.name})"


def _hint(root: Path) -> str:
    """Return the remedy for a folder without a known layout."""
    if any(root.glob("*.yaml")) or (root / "labels").is_dir():
        return "for a YOLO set add --config configs/_base/data/yolo_txt.yaml"
    near = [root.absolute().parent, *sorted(p for p in root.iterdir() if p.is_dir())]
    folder = next((place for place in near if fitting(place)), None)
    if folder is not None:
        return f"did you mean {folder}?"
    return "correct data.root, or name the files by data.train_annotations and data.train_images"
