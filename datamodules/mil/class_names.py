"""Names of classes that are probably one class: written in two ways, or mistyped once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from structures import Problem

IntArray = npt.NDArray[np.int64]

_SHORTEST = 4  # letters of a name that is taken for a mistyped one  # A470
_FREQUENT = 10  # slides of the class that is meant
_SHOWN = 10  # classes that a remedy lists


def misspelt(labels: Sequence[Sequence[str]]) -> dict[str, tuple[str, str]]:
    """Find classes of a single slide that are most likely a mistyped name of another class (A470).

    Such a name has four letters or more and nothing else, and one letter inserted, left out or
    replaced, or two neighbours exchanged, give the name of a class of ten slides or more.

    Args:
        labels: the classes of each slide.

    Returns:
        The mistyped names, each with a reason and a remedy.

    >>> list(misspelt([["tumor"]] * 10 + [["tumuor"], ["node"]]))
    ['tumuor']
    """
    counts = Counter(name for names in labels for name in set(names))
    found = {}
    for name, count in sorted(counts.items()):
        if count > 1 or len(name) < _SHORTEST or not name.isalpha():
            continue
        for meant, many in counts.most_common():
            if many >= _FREQUENT and _one_edit(name.casefold(), meant.casefold()):
                reason = f"label {name!r} (1 slide) is almost {meant!r} ({many} slides)"
                listed = sorted(counts) if len(counts) <= _SHOWN else f"[..., '{name}', ...]"
                keep = f'name all classes by --data.class_names "{listed}"'
                found[name] = reason, f"write {meant!r}, or {keep} if it is another class"
                break
    return found


def _one_edit(first: str, second: str) -> bool:
    """Return whether one insertion, deletion, replacement or exchange of neighbours is between.

    >>> [_one_edit("tumor", other) for other in ("tumr", "tumour", "tunor", "tumro", "tumor")]
    [True, True, True, True, False]
    >>> _one_edit("tumor", "tour"), _one_edit("normal", "abnormal"), _one_edit("abcd", "badc")
    (False, False, False)
    """
    short, long = sorted((first, second), key=len)
    same = next(
        (k for k, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short)
    )
    if len(short) < len(long):
        return short[same:] == long[same + 1 :]
    exchanged = long[same : same + 2][::-1] + long[same + 2 :]
    return first != second and (short[same + 1 :] == long[same + 1 :] or short[same:] == exchanged)


def similar_names(path: Path, names: Sequence[str], labels: IntArray) -> list[Problem]:
    """Return a problem for classes whose names differ in case or spaces only (A471).

    Args:
        path: the table.
        names: the C classes.
        labels: (S,) class of each slide, or (S, C) zeros and ones; -1 where unknown.
    """
    own = (
        np.eye(len(names), dtype=np.int64)[labels[labels >= 0]] if labels.ndim == 1 else labels > 0
    )
    counts = dict(zip(names, own.sum(axis=0).tolist(), strict=True))
    return [
        Problem(
            path,
            None,
            None,
            f"the classes {' and '.join(f'{name!r} ({counts[name]} slides)' for name in alike)} "
            "differ only in case or spaces",
            "write one class in one way; if they are two, name all classes by --data.class_names",
        )
        for alike in _similar(names)
    ]


def _similar(names: Sequence[str]) -> Iterator[list[str]]:
    """Yield names that are equal without case and spaces.

    >>> list(_similar(["Tumor", "normal", "tumor "]))
    [['Tumor', 'tumor ']]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("".join(name.casefold().split()), []).append(name)
    return (alike for alike in groups.values() if len(alike) > 1)
