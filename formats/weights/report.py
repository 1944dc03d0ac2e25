"""What was loaded of a weight file, and whether it was enough."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from torch import Tensor

_COUNTERS: Final = "num_batches_tracked"  # of batch norms; no weights
_ENOUGH: Final = 0.9


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Report on loading the tensors of a weight file; counters of batch norms are not listed.

    Attributes:
        source: the file.
        loaded: number of tensors loaded.
        missing: names the model has and the file lacks.
        unexpected: names the file has and the model lacks.
        mismatched: ``name: shape in file -> shape in model``.
        notes: further remarks on the file.
        norm_eps: epsilon that was set in frozen norms, or None.
    """

    source: str
    loaded: int
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    norm_eps: float | None = None

    @property
    def new(self) -> int:
        """Number of tensors of the model that keep their initial values."""
        return len(self.missing) + len(self.mismatched)

    @property
    def unused(self) -> int:
        """Number of tensors of the file that are not used."""
        return len(self.unexpected) + len(self.mismatched)

    def __str__(self) -> str:
        counts = f"{self.new} new (initial values), {self.unused} unused"
        lines = [f"{self.loaded} tensors loaded from {self.source}, {counts}"]
        lines += [f"  {note}" for note in self.notes]
        for title in ("missing", "unexpected", "mismatched"):
            names = getattr(self, title)
            if names:
                shown = ", ".join(names[:8])
                if names[8:]:
                    parts = {".".join(name.split(".")[:2]) for name in names[8:]}
                    shown += f" and {len(names) - 8} more in {', '.join(sorted(parts)[:12])}"
                lines.append(f"  {title} ({len(names)}): {shown}")
        return "\n".join(lines)


def without_counters(names: Collection[str]) -> list[str]:
    """Return the names of tensors that are weights or statistics."""
    return [name for name in names if not name.endswith(_COUNTERS)]


def backbone_fault(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], fits: Collection[str]
) -> str | None:
    """Return what is wrong with the weights of the backbone, None if they are complete (A301).

    At least 90 % of its tensors must be in the file, and at least 90 % of the file's weights of a
    backbone must be used: a deeper network has every name of a shallower one.

    Args:
        given: weights of the file under the names of the model.
        wanted: ``state_dict`` of the model; the backbone is what is named ``backbone.body.``, or
            ``backbone.`` where nothing is.
        fits: names that are loaded.
    """
    body = "backbone.body."
    prefix = body if any(name.startswith(body) for name in wanted) else "backbone."
    ours = without_counters([name for name in wanted if name.startswith(prefix)])
    parameters = (".weight", ".bias")  # group norms use no statistics of batch norms
    theirs = [name for name in given if name.startswith(prefix) and name.endswith(parameters)]
    for names, owner in ((ours, "the model's backbone"), (theirs, "the file's backbone")):
        used = sum(name in fits for name in names)
        if used < _ENOUGH * len(names):
            return (
                f"only {used} of the {len(names)} tensors of {owner} fit, so the file belongs to "
                "another network; docs/weights.md lists which files fit which recipe"
            )
    return None
