"""Feature files of whole slides, as `train.py predict` writes them and CLAM and TRIDENT read them.

An h5 file has ``features`` (N, D) float16, ``coords`` (N, 2) int64, level-0 pixels (x, y) of the
patches, and attributes that say how it was made, see `SlideAttributes`. A file under its name is
complete: it is written beside it, flushed to the disk and renamed. Features of augmented versions
of the patches are in the group ``augmented``, data sets ``1`` to K like ``features``.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from formats.files import sync_folder

CHUNK = 1 << 20  # bytes of a chunk of features
VERSIONS = "augmented"  # group of the features of augmented versions
LARGEST = float(np.finfo(np.float16).max)

Array = npt.NDArray[Any]
_JSON = {"settings", "encoder_config", "stain"}  # attributes that are JSON


class SlideAttributes(NamedTuple):
    """How the features of a slide were made; the attributes of the file have the same names.

    Attributes:
        slide_mpp: micrometres per pixel of level 0.
        mpp: micrometres per pixel of the patches.
        patch_px: side of a patch in pixels of the encoder's input.
        patch_size_level0: side of a patch in level-0 pixels.
        encoder: name of the encoder with its arguments.
        weights_sha256: hash of its weights.
        settings: all settings that the features depend on.
        slide_fingerprint: hash of the slide file.
        tissue_mm2: area of the tissue.
        mpp_source: where ``slide_mpp`` comes from, ``table`` or ``file``.
        encoder_config: configuration that builds the encoder again, see
            `lightning_modules.extraction`; empty for files written before there was one.
        stain: fitted values of the slide's stain; None, and no attribute, without ``stain``.
    """

    slide_mpp: float
    mpp: float
    patch_px: int
    patch_size_level0: int
    encoder: str
    weights_sha256: str
    settings: Mapping[str, Any]
    slide_fingerprint: str
    tissue_mm2: float
    mpp_source: str
    encoder_config: Mapping[str, Any] = {}
    stain: Mapping[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """Return the attributes as they are written."""
        values = {n: v for n, v in self._asdict().items() if v is not None}
        if not self.encoder_config:
            del values["encoder_config"]
        texts = {n: json.dumps(values[n], sort_keys=True) for n in _JSON & set(values)}
        return {**values, **texts, "complete": True}


class Origin(NamedTuple):
    """What all feature files of a table have to share.

    Attributes:
        encoder: name of the encoder with its arguments.
        weights_sha256: hash of its weights.
        mpp: micrometres per pixel of the patches.
        patch_px: side of a patch in pixels.
        stain: class that normalised the stain, with a hash of its arguments; empty for none.
    """

    encoder: str
    weights_sha256: str
    mpp: float
    patch_px: int
    stain: str = ""

    def difference(self, other: Origin) -> str:
        """Return in words how this differs from another origin.

        >>> Origin("a", "", 0.5, 224).difference(Origin("b", "", 0.25, 224))
        'encoder a instead of b, mpp 0.5 instead of 0.25'
        """
        names = self._fields
        pairs = [p for p in zip(names, self, other, strict=True) if p[1] != p[2]]
        words = ((name, *(short(value) or "none" for value in pair)) for name, *pair in pairs)
        return ", ".join(f"{name} {mine} instead of {its}" for name, mine, its in words)


def short(value: Any) -> str:
    """Return a value for a message: hashes are cut."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{text[:12]}..." if len(text) == 64 and " " not in text else text


def origin_of(attributes: Mapping[str, Any]) -> Origin | None:
    """Return the origin that the attributes of an h5 file state; None for those of other tools."""
    names = [name for name in Origin._fields if name not in Origin._field_defaults]
    if not {*names, "settings"} <= set(attributes):
        return None
    encoder, weights, mpp, patch_px = (attributes[name] for name in names)
    stain = _stain_in(str(attributes["settings"]))
    try:
        return Origin(str(encoder), str(weights), float(mpp), int(patch_px), stain)
    except (TypeError, ValueError):  # the same names with another meaning
        return None


def _stain_in(settings: str) -> str:
    """Return the stain of settings in JSON, see `Origin`."""
    try:
        section = json.loads(settings).get("stain")
        text = json.dumps(section["init_args"], sort_keys=True)
        return f"{section['class_path']} ({hashlib.sha256(text.encode()).hexdigest()[:8]})"
    except (AttributeError, KeyError, TypeError, ValueError):  # no JSON, or of another program
        return ""


def version_name(version: int) -> str:
    """Return the name of the features of an augmented version, from 1; 0 for those without."""
    return f"{VERSIONS}/{version}" if version else "features"


def versions_in(file: Any) -> int:
    """Return the number of augmented versions of the features in an open h5 file."""
    group = file.get(VERSIONS)
    keys = getattr(group, "keys", tuple)  # other tools may have a data set of this name
    return sum(name.isdecimal() for name in keys())


def patch_side(file: Mapping[str, Any], coords: Mapping[str, Any]) -> float | None:
    """Return the side of a patch in level-0 pixels, as far as the attributes of an h5 file tell it.

    Our files tell it without rounding; those of TRIDENT have it beside the coordinates.

    Args:
        file: attributes of the file.
        coords: attributes of its coordinates.
    """
    origin = origin_of(file)
    try:
        if origin is not None:
            found = origin.mpp / float(file["slide_mpp"]) * origin.patch_px
        else:
            found = float(coords["patch_size_level0"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return found if 0 < found < math.inf else None


def read_attributes(path: Path) -> tuple[int, SlideAttributes]:
    """Return the number of patches and the attributes of a file.

    Raises:
        ValueError: the file cannot be read, or this program has not written it.
    """
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            found = dict(file.attrs)
            patches = len(file["features"]) if "features" in file else 0
            known = {name: found[name] for name in SlideAttributes._fields if name in found}
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path}: cannot be read as h5 ({error})") from None
    needed = [n for n in SlideAttributes._fields if n not in SlideAttributes._field_defaults]
    missing = [name for name in (*needed, "complete") if name not in found]
    if missing or not bool(found["complete"]):
        what = f"has no attribute {missing[0]}" if missing else "is not complete"
        raise ValueError(f"{path}: {what}, so another program has written it")
    kinds: dict[str, Callable[[Any], Any]] = {"patch_px": int, "patch_size_level0": int}
    kinds |= dict.fromkeys(("slide_mpp", "mpp", "tissue_mm2"), float)
    plain: dict[str, Any] = {name: kinds.get(name, str)(value) for name, value in known.items()}
    plain |= {name: json.loads(plain[name]) for name in _JSON & set(plain)}
    return patches, SlideAttributes(**plain)


class SlideFeatureWriter:
    """Writes the feature file of a slide batch by batch, so that a slide needs no memory.

    Args:
        path: the file, which appears when `finish` is called.
        patches: N.
        width: D.
        attributes: how the features are made.
        versions: K, augmented versions of the patches.
    """

    def __init__(
        self,
        path: Path,
        patches: int,
        width: int,
        attributes: SlideAttributes,
        versions: int = 0,
    ) -> None:
        import h5py

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.patches = path, patches
        self._part = path.with_name(f".{path.name}.{os.getpid()}")
        self._rows = min(patches, max(1, CHUNK // (2 * width)))
        self._waiting: list[Array] = []
        self._written = self._count = 0
        self._file = h5py.File(self._part, "w", locking=False)
        self._open = self._part.open("rb+")  # its lock says that somebody writes the file
        lock_now(self._open.fileno())
        names = [version_name(k) for k in range(versions + 1)]
        self._sets = [
            self._file.create_dataset(
                name, (patches, width), np.float16, chunks=(self._rows, width)
            )
            for name in names
        ]
        self._coords = self._file.create_dataset("coords", (patches, 2), np.int64)
        self._file.attrs.update(attributes.plain())
        # TRIDENT's slide encoders look for it here.
        self._coords.attrs["patch_size_level0"] = attributes.patch_size_level0

    def add(self, features: npt.NDArray[np.float16], coords: npt.NDArray[np.int64]) -> None:
        """Append the next patches.

        Args:
            features: (n, D), or (1 + K, n, D) with those of the versions behind.
            coords: (n, 2).
        """
        features = features if features.ndim == 3 else features[None]
        if len(features) != len(self._sets):
            raise ValueError(f"{len(features) - 1} versions instead of {len(self._sets) - 1}")
        self._coords[self._count : self._count + len(coords)] = coords
        self._count += len(coords)
        self._waiting.append(features)
        if (
            sum(part.shape[1] for part in self._waiting) >= self._rows
            or self._count == self.patches
        ):
            self._write_chunks()

    def _write_chunks(self) -> None:
        """Write whole chunks, since a part of one would have to be read again."""
        rows = np.concatenate(self._waiting, axis=1)
        last, waiting = self._count == self.patches, rows.shape[1]
        count = waiting if last else waiting // self._rows * self._rows
        for target, part in zip(self._sets, rows, strict=True):
            target[self._written : self._written + count] = part[:count]
        self._written += count
        self._waiting = [rows[:, count:]]

    def finish(self) -> None:
        """Flush the file to the disk and give it its name.

        Raises:
            RuntimeError: not all patches were added.
        """
        if self._count != self.patches:
            raise RuntimeError(f"{self.path}: {self._count} of {self.patches} patches were added")
        self._file.close()
        os.fsync(self._open.fileno())
        self._part.replace(self.path)
        self._open.close()
        sync_folder(self.path.parent)

    def abandon(self) -> None:
        """Remove what was written."""
        with contextlib.suppress(OSError, RuntimeError):  # the disk may be full
            self._file.close()
        self._part.unlink(missing_ok=True)
        self._open.close()


def remove_parts(path: Path) -> None:
    """Remove unfinished files that killed processes have left beside a file."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(FileNotFoundError), part.open("rb+") as file:
            if lock_now(file.fileno()):
                part.unlink()


def lock_now(descriptor: int) -> bool:
    """Lock a file if no other process has locked it; return whether none has."""
    if os.name != "posix":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time into the block; processes on Windows are not kept out."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
