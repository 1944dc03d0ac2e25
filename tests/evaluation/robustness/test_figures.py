"""The figure shows the numbers of the cells."""

import io

import numpy as np
import pytest

from evaluation.robustness.figures import plot_robustness
from evaluation.robustness.grid import Grid, places
from evaluation.robustness.names import BENCHMARK, EXTRA
from evaluation.robustness.scores import summarise
from evaluation.robustness.tables import tables


def made(names, corruptions, slope=0.1):
    cells = {
        (corruption, severity): dict.fromkeys(names, 0.9 - slope * severity - 0.001 * n)
        for n, (corruption, severity) in enumerate(places(corruptions))
    }
    return Grid("cells.csv", cells)


def parts(figure):
    """Return the heat maps and the panels of curves."""
    upper, lower = figure.subfigs
    maps = [axes for axes in upper.axes if axes.images]
    return maps, {axes.get_title(): axes for axes in lower.axes if axes.get_title()}


def test_maps_and_curves_of_two_models():
    names = (*BENCHMARK[::-1], *EXTRA, "own")
    grids = {"a": made(["segm_map", "box_map"], names), "b": made(["segm_map"], names, 0.12)}
    del grids["b"].cells["fog", 2]
    (first, second), curves = parts(plot_robustness(grids, summarise(grids)))
    labels = [label.get_text() for label in first.get_yticklabels()]
    assert labels == [name.replace("_", " ") for name in (*BENCHMARK, *EXTRA, "own")]
    shown = first.images[0].get_array()
    for row, name in enumerate((*BENCHMARK, *EXTRA, "own")):
        wanted = [grids["a"].cells[name, s]["segm_map"] for s in (1, 2, 3, 4, 5)]
        np.testing.assert_allclose(shown[row], wanted)
    assert second.images[0].get_array().mask.sum() == 1
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0, 0.9)
    assert list(curves) == ["noise", "blur", "weather", "digital", "extra", "own"]
    whole, gap = curves["weather"].lines
    own = [grids["a"].cells[name, 4]["segm_map"] for name in BENCHMARK[7:11]]
    assert whole.get_ydata()[0] == 0.9
    assert whole.get_ydata()[4] == pytest.approx(np.mean(own))
    assert gap.get_xdata().tolist() == [0, 1, 3, 4, 5]
    low, high = curves["noise"].get_ylim()
    assert low == 0
    assert high > 0.9


@pytest.mark.parametrize("models", [1, 6])
def test_shifts_of_bags_have_a_panel_each(models):
    grids = {f"m{k}": made(["bag_auroc"], ["gaussian_noise", "gain"]) for k in range(models)}
    maps, curves = parts(plot_robustness(grids, summarise(grids)))
    assert len(maps) == models
    assert list(curves) == ["gaussian noise", "gain"]
    assert maps[0].images[0].get_clim()[0] == pytest.approx(0.9 - 0.5 - 0.01)


def test_only_a_clean_cell_can_be_drawn():
    for name in ("segm_map", "bag_auroc"):
        grids = {"a": Grid("cells.csv", {("clean", 0): {name: 0.0}})}
        figure = plot_robustness(grids, summarise(grids))
        figure.savefig(io.BytesIO())


def test_many_models_do_not_share_a_table():
    grids = {f"model {k}": made(["segm_map"], BENCHMARK) for k in range(9)}
    found = tables(summarise(grids, "model 0"), grids, "model 0")
    assert [columns[2:] for title, columns, _ in found if title.startswith("mask AP by")] == [
        list("ABCDEFG"), list("HI")
    ]  # fmt: skip
    assert [columns[-1] for title, columns, _ in found if title == "CD of masks by corruption"] == [
        "CD H", "CD I"
    ]  # fmt: skip
    assert [row[0] for row in found[0][2]][:2] == ["A: model 0", "B: model 1"]
