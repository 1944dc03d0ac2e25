"""Patients and bags of a set, by which another set that shares some of them is recognised.

Patients are compared where both sets know them, else slides by their ids, and bags of npz files,
which have no ids of their own, by their instances.  # A715
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from datamodules.mil.feature_set import FeatureSet
from datamodules.mil.npz_file import BagFile

_PATIENTS, _BAGS = "patients", "bags"  # keys of the record
_SHOWN = 5  # names in a message


class Members(NamedTuple):
    """What a set of bags holds.

    Attributes:
        patients: ids of the patients, each once; empty if they are not known.
        bags: name of each slide, or of each bag of an npz file, by what it is recognised by.
    """

    patients: tuple[str, ...] = ()
    bags: Mapping[str, str] = {}

    def record(self) -> dict[str, list[str]]:
        """Return what a checkpoint keeps: short hashes, which name nobody (A716)."""
        found = {_PATIENTS: self.patients, _BAGS: self.bags}
        return {kind: sorted(map(_hashed, names)) for kind, names in found.items() if names}

    def shared_with(self, record: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        """Return names of own patients, or of own bags, that are in a record of another set."""
        theirs = set(record.get(_PATIENTS, ()))
        if self.patients and theirs:
            return tuple(name for name in self.patients if _hashed(name) in theirs)
        theirs = set(record.get(_BAGS, ()))
        return tuple(name for key, name in self.bags.items() if _hashed(key) in theirs)

    def check_apart(
        self, record: Mapping[str, Sequence[str]], source: object, training: str
    ) -> None:
        """Check that nobody is in both sets.

        Args:
            record: `record` of the bags that were, or will be, trained on.
            source: the file of this set, for the message.
            training: what the others are, for the message.

        Raises:
            ValueError: a patient or a bag is in both; the message names them and the remedy.
        """
        found = self.shared_with(record)
        if not found:
            return
        by_patient = bool(self.patients and record.get(_PATIENTS))
        what = "patients" if by_patient else "bags"
        if by_patient or all(key == name for key, name in self.bags.items()):
            other = "leave them out, give other ids to those that are not the same"
        else:
            other = "by their instances they are the same; leave them out"
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ValueError(
            f"{source}: {len(found)} {what} are also among {training}: "
            f"{', '.join(found[:_SHOWN])}{more}. Scores on what was trained on are too good: "
            f"{other}, or accept it by --allow-overlap"
        )


def members_of(bags: BagFile | FeatureSet, numbers: Iterable[int]) -> Members:
    """Return what some of the bags hold.

    Args:
        bags: the bags of a file.
        numbers: which of them.
    """
    chosen = list(numbers)
    patients = tuple(dict.fromkeys(bags.groups[n] for n in chosen)) if bags.groups else ()
    if isinstance(bags, FeatureSet):
        names = [slide.name for number in chosen for slide in bags.slides(number)]
        return Members(patients, {name: name for name in names})
    ids = bags.numbers()
    return Members(patients, {_content(bags, n): f"{bags.path.stem}_{ids[n]}" for n in chosen})


def _content(bags: BagFile, number: int) -> str:
    """Return a hash of the instances of a bag, as they are in the file."""
    part: Any = bags.features[bags.offsets[number] : bags.offsets[number + 1]]
    return hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()


def _hashed(name: str) -> str:
    return hashlib.sha256(f"segmil {name}".encode()).hexdigest()[:16]
