"""Figure of an image under corruptions, one row for each, severity growing to the right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evaluation.robustness.corruptions import Image, corrupt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 1.45  # inches of an image
_LONGEST = 6  # more rows than this stand in two blocks, side by side


def plot_corruptions(
    image: Image, names: Sequence[str], severities: Sequence[int], seed: int, exact: bool = False
) -> Figure:
    """Draw the image as it is, and under each corruption at each severity.

    Args:
        image: (H, W, 3) uint8, RGB; a small one shows the damage best, because the images of the
            figure are about 150 pixels wide.
        names: corruptions, from the top.
        severities: severities, from the left.
        seed: as for `corrupt`, the same in every cell.
        exact: as for `corrupt`.

    Raises:
        ValueError: no corruption or severity is named, or `corrupt` refuses one.
    """
    from matplotlib.figure import Figure

    if not names or not severities:
        raise ValueError("name at least one corruption and one severity to draw")
    across, blocks = len(severities), 1 if len(names) < _LONGEST else 2
    rows = math.ceil((len(names) + 1) / blocks)
    high = _WIDTH * image.shape[0] / image.shape[1]
    size = (_WIDTH * across * blocks + 0.3 * (blocks - 1), (high + 0.22) * rows)
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0, hspace=0)  # type: ignore[union-attr,call-arg]
    parts = figure.subfigures(1, blocks, squeeze=False, wspace=0.02)[0]
    panels = [part.subplots(rows, across, squeeze=False) for part in parts]
    for axes in (axes for block in panels for axes in block.flat):
        axes.axis("off")
    for place, name in enumerate(["", *names]):
        block, row = divmod(place, rows)
        line = panels[block][row]
        if name:
            for axes, severity in zip(line, severities, strict=True):
                _draw(axes, corrupt(image, name, severity, seed, exact), f"{severity}")
            _title(line[0], name, severities[0])
        else:
            _draw(line[0], image, "")
            _title(line[0], "as it is", None)
    return figure


def _draw(axes: Axes, image: Image, title: str) -> None:
    axes.imshow(image, interpolation="none")
    axes.set_title(title, fontsize=7, loc="right", pad=2)


def _title(axes: Axes, name: str, severity: int | None) -> None:
    text = name.rpartition(".")[2].replace("_", " ")
    axes.set_title(text, fontsize=8, loc="left", pad=2, fontweight="bold")
