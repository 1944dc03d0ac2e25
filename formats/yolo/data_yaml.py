"""Reading the ``data.yaml`` of a YOLO data set: classes, splits and their images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from formats.images import SUFFIXES
from structures import CategoryMap, DataProblems, Problem

SPLITS = ("train", "val", "test")


class Images(NamedTuple):
    """The images of a split by sorted name.

    Attributes:
        folder: folder that the names are relative to.
        names: names with forward slashes; an absolute path if an image is elsewhere.
        problems: images that are listed but missing, or listed twice.
    """

    folder: Path
    names: list[str]
    problems: list[Problem]


@dataclass(frozen=True)
class YoloSet:
    """The content of a ``data.yaml``.

    Attributes:
        file: the ``data.yaml``.
        root: folder that the splits are relative to.
        names: class number -> name, ascending.
        entries: split -> its folders or files that list images, as written.
    """

    file: Path
    root: Path
    names: dict[int, str]
    entries: dict[str, list[str]]

    @classmethod
    def read(cls, file: Path, root: Path | None = None) -> YoloSet:
        """Read a ``data.yaml``.

        Args:
            file: the file.
            root: folder of the data; overrides ``path`` in the file. A relative ``path`` is
                relative to the folder of the file; if it does not exist, the splits are.

        Raises:
            DataProblems: the file is missing, is not YAML, or has no usable names or splits.
        """
        content = _load_yaml(file)
        if "kpt_shape" in content:
            raise _fault(file, "kpt_shape marks a keypoint data set", "export polygons instead")
        names = _names(file, content)
        entries = {s: _entries(file, s, content[s]) for s in SPLITS if content.get(s)}
        if not entries:
            raise _fault(file, f"has none of {', '.join(SPLITS)}", "add the image folders")
        stated = content.get("path") or "."
        if not isinstance(stated, str):
            raise _fault(file, f"path is {stated!r}", "write the folder of the data set")
        if root is None:
            named = file.parent / stated
            root = named if named.is_dir() else file.parent  # A65
        return cls(file, root, names, entries)

    @property
    def category_map(self) -> CategoryMap:
        """The classes with their numbers as ids."""
        return CategoryMap(tuple(self.names), tuple(self.names.values()))

    def images(self, split: str) -> Images:
        """List the images of a split; folders are searched recursively.

        Raises:
            DataProblems: the split is not declared, or an entry is missing or without images.
        """
        if split not in self.entries:
            reason = f"has no {split} split, only {', '.join(self.entries)}"
            share = ", or hold out training images by data.val_fraction 0.2"
            remedy = f"add `{split}:` with its image folder{share if split == 'val' else ''}"
            raise _fault(self.file, reason, remedy)
        places = [self._place(split, entry) for entry in self.entries[split]]
        folder = places[0] if len(places) == 1 and places[0].is_dir() else self.root
        names: list[str] = []
        problems: list[Problem] = []
        for place in places:
            if place.is_dir():
                names += [_relative(f, folder) for f in _image_files(self.file, split, place)]
            else:
                names += self._listed(place, folder, problems)
        reason, remedy = f"is listed more than once under {split}", "name it once"
        counts = Counter(names)
        twice = sorted(name for name, count in counts.items() if count > 1)
        problems += [Problem(self.file, name, None, reason, remedy) for name in twice]
        return Images(folder, sorted(counts), problems)

    def exists(self, split: str) -> bool:
        """Return whether all folders and files of a declared split exist."""
        try:
            return all(self._place(split, entry) for entry in self.entries.get(split, ()))
        except DataProblems:
            return False

    def _place(self, split: str, entry: str) -> Path:
        """Return the folder or file of an entry; see A65 for the second path that is tried."""
        tried = [self.root / entry]
        if entry.startswith("../"):
            tried.append(self.root / entry.removeprefix("../"))
        for place in tried:
            if place.exists():
                return place
        raise _fault(
            self.file,
            f"{split} is {entry!r}, but there is no {tried[0]}",
            "correct it, or name the folder of the data by `path` in that file or by data.root",
        )

    def _listed(self, file: Path, folder: Path, problems: list[Problem]) -> Iterator[str]:
        """Yield the images that a text file lists, relative to itself or to the root."""
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            remedy = "give a folder of images, or a text file with one image per line"
            raise _fault(file, f"cannot be read ({error})", remedy) from error
        if not any(line.strip() for line in lines):
            raise _fault(file, "lists no image", "write one image per line")
        for number, line in enumerate(lines, start=1):
            name = line.strip()
            if not name:
                continue
            tried = [file.parent / name, self.root / name]
            found = next((path for path in tried if _is_file(path)), None)
            if found is None:
                reason, remedy = f"image file {tried[0]} is missing", "add it or remove the line"
                problems.append(Problem(file, name, number, reason, remedy, part="line"))
            else:
                yield _relative(found, folder)


def has_names(file: Path) -> bool:
    """Return whether a YAML file could declare a data set."""
    try:
        return "names" in _load_yaml(file)
    except DataProblems:
        return False


def _fault(file: Path, reason: str, remedy: str) -> DataProblems:
    return DataProblems([Problem(file, None, None, reason, remedy)])


def _load_yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise _fault(file, "no such file", "give the data.yaml of a YOLO data set") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise _fault(file, f"is not a readable YAML file ({error})", "write it again") from error
    if not isinstance(content, dict):
        raise _fault(file, "has no keys", "a data.yaml has train, val and names")
    return content


def _names(file: Path, content: Mapping[Any, Any]) -> dict[int, str]:
    """Return class number -> name; ``names`` is a list or a mapping from numbers."""
    names = content.get("names")
    if not isinstance(names, dict | list) or not names:
        raise _fault(file, f"names is {names!r}", "list the class names in order")
    listed = names if isinstance(names, dict) else dict(enumerate(names))
    found: dict[int, str] = {}
    for number, name in listed.items():
        if type(number) is not int or number < 0:
            raise _fault(file, f"{number!r} is not a class number", "number the names from 0")
        if isinstance(name, bool) or not isinstance(name, str | int | float) or name == "":
            remedy = "write a text, in quotes where YAML reads something else (yes, no, null)"
            raise _fault(file, f"the name of class {number} is {name!r}", remedy)
        found[number] = str(name)
    twice = [name for name, count in Counter(found.values()).items() if count > 1]
    if twice:
        raise _fault(file, f"the class name {twice[0]!r} occurs twice", "rename one")
    stated = content.get("nc", len(found))
    if stated != len(found):
        raise _fault(file, f"nc is {stated!r}, but there are {len(found)} names", "correct it")
    return dict(sorted(found.items()))


def _entries(file: Path, split: str, value: Any) -> list[str]:
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) and entry and "\0" not in entry for entry in listed):
        remedy = "write a folder, a text file that lists images, or a list of folders and files"
        raise _fault(file, f"{split} is {value!r}", remedy)
    return listed


def _image_files(file: Path, split: str, folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    if not found:
        reason = f"the {split} folder {folder} has no image ({', '.join(SUFFIXES)})"
        raise _fault(file, reason, "correct the path")
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a line that is not a valid file name
        return False


def _relative(file: Path, folder: Path) -> str:
    """Return the path of a file relative to a folder if it is inside, else the absolute path."""
    inside = file.is_relative_to(folder) and ".." not in file.relative_to(folder).parts
    return (file.relative_to(folder) if inside else file.absolute()).as_posix()
