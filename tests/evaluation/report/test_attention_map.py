"""The map of the attention of a slide."""

import numpy as np
import pytest

from evaluation.report.attention_map import TOP, patch_side, plot_attention_map

GRID = np.stack(np.meshgrid(np.arange(6), np.arange(5)), axis=-1).reshape(-1, 2) * 224 + 1000


def test_each_patch_is_a_square_at_its_place_and_the_best_are_listed():
    weights = np.arange(1.0, 31) / 465
    figure = plot_attention_map(weights, GRID, np.arange(30) == 29, "slide 1")
    axes, listed = figure.axes[:2]
    patches, best = axes.collections
    np.testing.assert_allclose(patches.get_array(), weights)
    outlines = [path.vertices for path in patches.get_paths()]
    np.testing.assert_allclose([o.min(axis=0) for o in outlines], GRID)
    np.testing.assert_allclose([o.max(axis=0) for o in outlines], GRID + 224)
    assert len(best.get_paths()) == TOP
    low, high = axes.get_ylim()
    assert low > high  # y points down, as in the slide
    cells = listed.tables[0].get_celld()
    assert [cells[1, column].get_text().get_text() for column in range(6)] == [
        "1", "29", "2120", "1896", f"{30 / 465:.3g}", "yes",
    ]  # fmt: skip
    assert cells[2, 5].get_text().get_text() == ""
    assert figure.get_suptitle() == "slide 1 · 30 patches"


def test_the_slides_of_a_patient_have_maps_of_their_own_in_one_scale():
    weights = np.arange(1.0, 31)[::-1] / 465  # the first slide has the highest
    coords = np.where(np.arange(30)[:, None] < 25, GRID, np.nan)  # the last has no coordinates
    ends = [0, 3, 10, 12, 18, 25, 30]
    slides = [(f"s{k}", slice(*ends[k : k + 2])) for k in range(6)]
    figure = plot_attention_map(weights, coords, None, "p", slides)
    shown = [axes for axes in figure.axes if axes.collections and axes.get_title()]
    assert [axes.get_title() for axes in shown] == ["1: s0", "2: s1", "3: s2", "4: s3"]
    for axes, (_, rows) in zip(shown, slides, strict=False):
        patches, best = axes.collections
        np.testing.assert_allclose(patches.get_array(), weights[rows])
        assert patches.get_clim() == (0, weights.max())
        corners = [path.vertices.min(axis=0) for path in patches.get_paths()]
        np.testing.assert_allclose(corners, GRID[rows])
        assert len(best.get_paths()) == max(0, min(12, rows.stop) - rows.start)
    cells = next(a for a in figure.axes if a.tables).tables[0].get_celld()
    listed = [cells[row, 1].get_text().get_text() for row in range(13)]
    assert listed == ["slide", *"111", *"2222222", *"33"]
    assert figure.get_suptitle() == "p · 30 patches of 6 slides, 4 of them drawn"
    last = plot_attention_map(weights[::-1], coords, None, "p", slides)
    titles = {axes.get_title() for axes in last.axes}
    assert {"5: s4"} < titles and not {"1: s0", "6: s5"} & titles


def test_the_side_is_the_distance_of_neighbours():
    assert patch_side(GRID[::-1]) == 224
    assert patch_side(np.concatenate([GRID, GRID, [[90000, 0]]])) == 224
    assert patch_side(GRID[:1]) == 1
    assert plot_attention_map(np.ones(1), GRID[:1]).get_suptitle() == " · 1 patch"


def test_another_number_of_coordinates_is_refused():
    with pytest.raises(ValueError, match=r"coords \(n, 2\), got \(30,\) and \(29, 2\)"):
        plot_attention_map(np.ones(30), GRID[1:])
