"""Finding a YOLO data set in a folder, with or without a ``data.yaml``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from formats.yolo.data_yaml import SPLITS, YoloSet, has_names
from structures import DataProblems, Problem

_NAMES = {"train": ("train", "train2017"), "val": ("val", "valid", "val2017"), "test": ("test",)}
_PATTERNS = ("images/{}", "{}/images")  # Ultralytics' folders and Roboflow's
_SHOWN = 10  # class numbers in a note
_CLASS_FILES = ("classes.txt", "labels/classes.txt", "labels/train/classes.txt")


class FoundSet(NamedTuple):
    """A data set.

    Attributes:
        dataset: its content.
        notes: what the user should know about how it was found.
    """

    dataset: YoloSet
    notes: tuple[str, ...]


def find_set(root: Path) -> FoundSet:
    """Find the data set in a folder.

    The folder has a ``data.yaml``, one other YAML file with class names, or only the folders
    ``images/{train,val}`` and ``labels/{train,val}`` or ``{train,valid}/{images,labels}``. In the
    last case the classes are those of a ``classes.txt``, or the numbers in the label files.  # A315

    Raises:
        DataProblems: there is none, there are several, or its file is wrong.
    """
    if (root / "data.yaml").exists():
        return FoundSet(YoloSet.read(root / "data.yaml"), ())
    others = sorted(f for end in ("yaml", "yml") for f in root.glob(f"*.{end}") if has_names(f))
    if len(others) == 1:
        return FoundSet(YoloSet.read(others[0]), (f"{others[0]} declares the data set",))
    if others:
        reason = f"has no data.yaml, but {', '.join(f.name for f in others)}"
        raise _fault(root, reason, "name the one to use by data.data_yaml")
    found = [entries for entries in (_folders(root, p) for p in _PATTERNS) if entries]
    if not found:
        looked = "data.yaml; images/train and labels/train; train/images and train/labels"
        reason = f"no data.yaml is there, and no folders of a YOLO set; looked for {looked}"
        raise _fault(root, reason, "correct data.root, or name the file by data.data_yaml")
    if len(found) > 1:
        held = " and ".join(", ".join(entries.values()) for entries in found)
        raise _fault(root, f"has {held}", "write a data.yaml that names the folders to use")
    names, source = _class_names(root, found[0])
    entries = {split: [folder] for split, folder in found[0].items()}
    note = f"{root} has no data.yaml; it has {', '.join(found[0].values())}, and classes {source}"
    return FoundSet(YoloSet(root, root, names, entries), (note,))


def _fault(root: Path, reason: str, remedy: str) -> DataProblems:
    return DataProblems([Problem(root, None, None, reason, remedy)])


def _folders(root: Path, pattern: str) -> dict[str, str]:
    """Return split -> image folder for splits with images and labels in the places of a pattern.

    A split besides ``train`` may lack labels.
    """
    found: dict[str, str] = {}
    for split in SPLITS:
        for name in _NAMES[split]:
            folder = pattern.format(name)
            labels = root / folder.replace("images", "labels")
            if (root / folder).is_dir() and (labels.is_dir() or "train" in found):
                found.setdefault(split, folder)
    return found


def _class_names(root: Path, folders: dict[str, str]) -> tuple[dict[int, str], str]:
    """Return class number -> name, and a description of their source."""
    for name in _CLASS_FILES:
        if (root / name).is_file():
            lines = (root / name).read_text("utf-8-sig", "replace").splitlines()
            names = [line.strip() for line in lines if line.strip()]
            return dict(enumerate(names)), f"from {name}"
    used = {number for folder in folders.values() for number in _used(root, folder)}
    if not used:
        raise _fault(root, "has no data.yaml, and no label file has an object", "write a data.yaml")
    named = {number: str(number) for number in sorted(used)}
    shown = ", ".join([*named.values()][:_SHOWN]) + (", ..." if len(named) > _SHOWN else "")
    return named, f"named by their numbers: {shown}"


def _used(root: Path, folder: str) -> Iterator[int]:
    """Yield the class numbers in the label files of an image folder."""
    for file in sorted((root / folder.replace("images", "labels")).rglob("*.txt")):
        for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
            word = line.split(maxsplit=1)[0] if line.strip() else ""
            if word.isdecimal():
                yield int(word)
