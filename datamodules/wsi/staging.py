"""Copies of slides on a quick disk, made ahead of reading and removed behind it."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import socket
import threading
import warnings
from pathlib import Path

from formats.slides.pyramid import slide_files

AHEAD = 2  # slides that are copied before the one that is read is finished  # A701
_BLOCK = 1 << 24  # bytes that are copied at once
_SEVERAL = (".vms", ".vmu")  # formats whose further files only OpenSlide knows


class Stage:
    """A folder of copies that belongs to this process.

    Copies are in ``FOLDER/segmil_HOST_PROCESS/SLIDE``, with the names of the slide's files.
    Folders of processes of this host that no longer run are removed.

    Args:
        folder: on a quick disk of this machine, such as ``$TMPDIR``; is made if there is none.

    Raises:
        ValueError: the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self._host = f"segmil_{socket.gethostname()}_"
        self._folder = Path(folder) / f"{self._host}{os.getpid()}"
        self._owner = os.getpid()  # not a process that was forked from it
        self._stopped = threading.Event()
        self._warned = False
        try:
            self._remove_left(Path(folder))
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"{folder}: cannot be written to ({error.strerror}); name another folder by stage"
            ) from None
        atexit.register(self.close)

    def _remove_left(self, folder: Path) -> None:
        for left in folder.glob(f"{self._host}*"):
            number = left.name.removeprefix(self._host)
            if number.isdigit() and not _runs(int(number)):
                shutil.rmtree(left, ignore_errors=True)

    def copy(self, path: Path, slide_id: str) -> Path:
        """Copy the files of a slide; return the copy of the file that is opened.

        The slide itself is returned, with a warning the first time, where it cannot be copied, for
        example because the disk is full. What is wrong with the slide comes out when it is read.
        """
        if path.suffix.lower() in _SEVERAL:
            return path
        place = self._folder / slide_id
        try:
            for file in slide_files(path):
                target = place / file.relative_to(path.parent)
                target.parent.mkdir(parents=True, exist_ok=True)
                self._copy_file(file, target)
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            if not self._warned and not self._stopped.is_set():
                self._warned = True
                warnings.warn(
                    f"{path} is read where it is: it cannot be copied to {place} "
                    f"({error.strerror or error}); so are others that do not fit",
                    stacklevel=2,
                )
            return path
        return place / path.name

    def _copy_file(self, file: Path, target: Path) -> None:
        with file.open("rb") as source, target.open("wb") as copy:
            while block := source.read(_BLOCK):
                if self._stopped.is_set():
                    raise OSError("stopped")
                copy.write(block)

    def remove(self, slide_id: str) -> None:
        """Remove the copies of a slide; those who have them open can read on."""
        shutil.rmtree(self._folder / slide_id, ignore_errors=True)

    def as_original(self, message: str, path: Path, slide_id: str) -> str:
        """Return a message in which the slide itself is named instead of its copy."""
        return message.replace(str(self._folder / slide_id), str(path.parent))

    def stop(self) -> None:
        """Copy nothing further."""
        self._stopped.set()

    def close(self) -> None:
        """Stop copying and remove all copies."""
        self.stop()
        if os.getpid() == self._owner:
            shutil.rmtree(self._folder, ignore_errors=True)
        atexit.unregister(self.close)


def _runs(process: int) -> bool:
    """Return whether a process of this host runs."""
    if os.name != "posix":
        return True
    with contextlib.suppress(PermissionError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True
