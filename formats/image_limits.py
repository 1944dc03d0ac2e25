"""How large an image may be: our own limit, and the imaging library's, which it replaces."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

_CONTAINER = (  # the limit of a container, in its second and first form
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_UNKNOWN = 8 << 30  # assumed where the system does not tell
_MEMORY_SHARE = 12  # an image of 3 bytes a pixel may take this part of the memory (A322)


@functools.cache
def machine_memory() -> int:
    """Return the bytes of memory that the processes of this machine or container share."""
    found = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not on every system
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in _CONTAINER:
        with contextlib.suppress(OSError, ValueError):  # no such file, or the word `max`
            found.append(int(file.read_text()))
    return min((size for size in found if size > 0), default=_UNKNOWN)


def check_size(path: Path, size: tuple[int, int], max_megapixels: float | None) -> None:
    """Refuse an image that is too large to be read.

    Args:
        path: the file, for the message.
        size: (height, width).
        max_megapixels: the limit; None for 3 bytes a pixel in a twelfth of the machine's memory.

    Raises:
        ValueError: the image is larger; the message names its size, the limit and the argument.
    """
    memory, megapixels = machine_memory(), size[0] * size[1] / 1e6
    limit = memory / (3 * _MEMORY_SHARE) / 1e6 if max_megapixels is None else max_megapixels
    if megapixels > limit:
        source = "max_megapixels" if max_megapixels is not None else f"{memory / 1e9:.3g} GB memory"
        raise ValueError(
            f"image file {path} has {megapixels:.4g} megapixels ({size[0]} px high, {size[1]} px "
            f"wide), more than the limit of {limit:.4g} ({source}); set data.max_megapixels "
            f"(--data.max_megapixels {megapixels + 1:.0f}) where memory allows, or reduce the image"
        )


class LibraryLimit:
    """The limit of the imaging library on pixels, one number for a whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users, self._limit = 0, Image.MAX_IMAGE_PIXELS

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """Lift the limit until the last thread has left the block."""
        with self._lock:
            if self._users == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    Image.MAX_IMAGE_PIXELS = self._limit
