"""Standard callbacks of every run; each is disabled or configured by one line.

A standard callback is a class in any module below `callbacks/` with a class attribute ``entry``,
its name in the ``callbacks`` section. Callbacks run in increasing ``order``; those without an
``order`` come last. The constructor must work without arguments, and the first line of the
docstring is the help text of the flag.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytorch_lightning as pl

from structures.classes_by_place import classes_below

_ABOUT = """The ``callbacks`` section of a configuration.

Each entry is ``true``, ``false`` or the arguments of its class, which are checked by name and
type: ``callbacks: {gallery: {every_n_epochs: 5}, curves: false}``, or on the command line
``--callbacks.gallery.every_n_epochs 5 --callbacks.curves false``. Overlays replace single entries.
Callbacks of other classes are listed in ``trainer.callbacks``; a callback there of the same class
as an entry, or of its base class, replaces the entry.

Attributes:
"""


def standard_callbacks() -> dict[str, type[pl.Callback]]:
    """Return the classes of the standard callbacks by entry, in the order of execution.

    Raises:
        ValueError: two classes have the same entry.
    """
    found: dict[str, type[pl.Callback]] = {}
    for callback in classes_below("callbacks"):
        entry = vars(callback).get("entry")  # not inherited by subclasses
        if entry is None or not issubclass(callback, pl.Callback):
            continue
        other = found.setdefault(entry, callback)
        if other is not callback:
            raise ValueError(
                f"{other.__module__}.{other.__name__} and {callback.__module__}."
                f"{callback.__name__} have the same entry {entry!r}"
            )
    return dict(sorted(found.items(), key=lambda pair: _place(*pair)))


def _place(entry: str, callback: type[pl.Callback]) -> tuple[float, str]:
    return getattr(callback, "order", math.inf), entry


class _Entries:
    """Base class of `StandardCallbacks`, whose fields are the entries."""

    def build(
        self, own: Sequence[pl.Callback] = (), progress_bar: bool | None = None
    ) -> list[pl.Callback]:
        """Return the callbacks of a run in the order of the entries, ``own`` at the end.

        Args:
            own: the callbacks of ``trainer.callbacks``.
            progress_bar: ``trainer.enable_progress_bar``; False removes every progress bar.
        """
        given = {name: getattr(self, name) for name in _CLASSES}
        chosen = [_CLASSES[n]() if c is True else c for n, c in given.items() if c is not False]
        taken = tuple({type(callback) for callback in own})
        standard = [c for c in chosen if not isinstance(c, taken)]
        if progress_bar is False or any(map(_is_bar, own)):
            standard = [c for c in standard if not _is_bar(c)]
        if progress_bar is False:
            own = [c for c in own if not _is_bar(c)]
        return [*standard, *own]


def _is_bar(callback: pl.Callback) -> bool:
    return isinstance(callback, pl.callbacks.ProgressBar)


def _summary(callback: type[pl.Callback]) -> str:
    """Return the first line of a class's docstring."""
    return (inspect.getdoc(callback) or "").partition("\n")[0]


_CLASSES = standard_callbacks()
if TYPE_CHECKING:
    StandardCallbacks = _Entries
else:
    StandardCallbacks = dataclasses.make_dataclass(
        "StandardCallbacks",
        [(entry, bool | callback, True) for entry, callback in _CLASSES.items()],
        bases=(_Entries,),
        frozen=True,
        namespace={
            "__module__": __name__,
            "__doc__": _ABOUT + "\n".join(f"    {e}: {_summary(c)}" for e, c in _CLASSES.items()),
        },
    )
