"""Image files that are not where a COCO file says: where they are instead."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from formats.images import SUFFIXES

ADD_FILE = "add the file or remove the image"


class Elsewhere:
    """Search for missing image files by their names in a folder and below it.

    Args:
        folder: folder that the names of an annotation file are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @functools.cached_property
    def _below(self) -> dict[str, list[str]]:
        """Name of a file -> its paths relative to the folder, read when a file is missing."""
        found: dict[str, list[str]] = {}
        for path in sorted(self._folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                name = path.relative_to(self._folder).as_posix()
                found.setdefault(path.name, []).append(name)
        return found

    def remedy(self, name: str) -> str:
        """Return what to do about a missing file, by its stated name."""
        places = self._below.get(re.split(r"[\\/]", name)[-1], [])
        if len(places) != 1:
            return ADD_FILE
        return f"the file is in {self._folder}: write {places[0]!r} as its file_name"
