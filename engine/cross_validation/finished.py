"""Finished folds on disk, so that a cross-validation that was killed goes on fold by fold.

What has to be equal for that: A414.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.cross_validation.fold import FoldKey, FoldResult
from engine.cross_validation.selection import Selected
from evaluation.targets.training_bags import TrainingBags
from formats.files import write_json
from lightning_modules.resuming import differences
from structures import TargetCoding

_SETTINGS = "settings.json"
_FOLDS = "repeat*_fold*.json"
_INNER = "grid*_fold*.json"  # of nested cross-validation


def fold_name(key: FoldKey) -> str:
    """Return the name of a fold's files without their suffix."""
    return f"repeat{key[1]}_fold{key[2]}"


class FinishedFolds(NamedTuple):
    """A folder with the result of each finished fold and the settings they have in common.

    Attributes:
        folder: the folder.
        grid: number of the combination of a grid whose inner folds are meant; None for the folds.
    """

    folder: Path
    grid: int | None = None

    def of_grid(self, number: int) -> FinishedFolds:
        """Return the inner folds of a combination of a grid, in the same folder."""
        return self._replace(grid=number)

    def begin(self, settings: Mapping[str, Any]) -> bool:
        """Create the folder, or go on in it; settings without a finished fold are replaced.

        Args:
            settings: everything that determines the results, as plain values.

        Returns:
            Whether the folder is that of an earlier run with these settings.

        Raises:
            ValueError: the folder has folds of other settings, or other files.
        """
        file = self.folder / _SETTINGS
        known: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        if not file.is_file():
            if self.folder.exists() and (not self.folder.is_dir() or any(self._others())):
                raise ValueError(
                    f"{self.folder} is in the way: finished folds are kept there until all are "
                    "done; move it, or give another --out"
                )
            write_json(file, known, indent=1)
            return False
        found = _read(file)
        changed = ["its settings cannot be read"] if found is None else differences(found, known)
        if changed and not self._has_folds():
            write_json(file, known, indent=1)
            return False
        if changed:
            raise ValueError(
                f"{self.folder} has finished folds of a run with other settings "
                f"({'; '.join(changed[:5])}); repeat that command to go on with it, give another "
                "--out, or delete the folder to start again"
            )
        return True

    def load(self, folds: npt.NDArray[np.int64], key: FoldKey) -> FoldResult | None:
        """Return the result of a fold, or None if it is not finished.

        Args:
            folds: (B,) fold of each bag.
            key: (seed, repeat, fold).
        """
        found = _read(self._file(key))
        if found is None:
            return None
        selected, coding, bags = (found[n] for n in ("selected", "coding", "training_bags"))
        return FoldResult(
            folds == key[2],
            np.array(found["probabilities"], dtype=np.float64),
            found["threshold"],
            None if selected is None else Selected(**selected),
            None if coding is None else TargetCoding.from_plain(coding),
            None if bags is None else TrainingBags.from_plain(bags),
            external=tuple(np.array(p, dtype=np.float64) for p in found.get("external", ())),
        )

    def save(self, key: FoldKey, result: FoldResult) -> None:
        """Write the result of a fold; the write is atomic."""
        selected, coding, bags = result.selected, result.coding, result.training_bags
        content = {
            "probabilities": result.probabilities,
            "threshold": result.threshold,
            "selected": None if selected is None else selected._asdict(),
            "coding": None if coding is None else coding.plain(),
            "training_bags": None if bags is None else bags.plain(),
            **({"external": result.external} if result.external else {}),
        }
        write_json(self._file(key), content)

    def remove(self) -> None:
        """Delete the files, and the folder unless it has other files."""
        for pattern in (_FOLDS, _INNER, _SETTINGS):
            for file in (*self.folder.glob(pattern), *self.folder.glob(f".{pattern}.*")):
                file.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def remove_without_folds(self) -> None:
        """Delete the folder if no fold is finished, so that wrong input leaves nothing behind."""
        if self.folder.is_dir() and not self._has_folds():
            self.remove()

    def _has_folds(self) -> bool:
        return any(any(self.folder.glob(pattern)) for pattern in (_FOLDS, _INNER))

    def _others(self) -> Iterator[Path]:
        """Yield the files in the folder but those of a write that was killed."""
        return (file for file in self.folder.iterdir() if not file.name.startswith("."))

    def _file(self, key: FoldKey) -> Path:
        if self.grid is None:
            return self.folder / f"{fold_name(key)}.json"
        return self.folder / f"grid{self.grid}_{key[0]}_fold{key[2]}.json"  # the seed is its own


def _read(file: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file, or None if it is missing or cut off."""
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return content
