"""Figure of AP in the dark over the precision of the camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluation.report.model_table import letter

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_bits(
    metrics: Mapping[str, Mapping[str, float]], cells: Sequence[Mapping[str, Any]]
) -> Figure:
    """Draw mask AP over bits, a panel for each reduction of the exposure.

    Args:
        metrics: model -> ``normal_segm_map``, drawn as a dotted line.
        cells: rows with ``model``, ``input``, ``ratio``, ``bits`` and ``segm_map``.
    """
    from matplotlib.figure import Figure

    ratios = sorted({cell["ratio"] for cell in cells})
    figure = Figure(figsize=(1.2 + 3 * len(ratios), 3.6), layout="constrained")
    panels = figure.subplots(1, len(ratios), sharey=True, squeeze=False)[0]
    for panel, ratio in zip(panels, ratios, strict=True):
        for number, (model, scores) in enumerate(metrics.items()):
            own = [c for c in cells if (c["model"], c["ratio"]) == (model, ratio)]
            own.sort(key=lambda cell: int(cell["bits"]))
            colour = f"C{number % 10}"
            label = f"{letter(number)} ({own[0]['input']})"
            bits, found = [c["bits"] for c in own], [c["segm_map"] for c in own]
            panel.plot(bits, found, "o-", color=colour, label=label)
            panel.axhline(scores["normal_segm_map"], color=colour, linestyle=":", linewidth=1)
        panel.set(xlabel="bits", title=f"exposure / {ratio:g}", xticks=sorted({*bits}))
        panel.grid(alpha=0.25)
    panels[0].set(ylabel="mask AP", ylim=(0, None))
    panels[-1].legend(fontsize=8, title="dotted: normal light", title_fontsize=8)
    return figure
