"""FROC against the organisers' procedure, written again on rasters of the whole slide."""

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from scipy import ndimage

from evaluation.wsi.froc import RATES, compare_detections, froc
from evaluation.wsi.lesion_map import lesion_map
from formats.slides.geojson import inside
from formats.slides.lesion_outlines import LesionOutlines

MPP, FACTOR = 0.243, 32  # level 5
SIDE = 400  # pixels of level 5


def blob(rng, largest):
    """An outline of a lesion in pixels of level 0, which may begin before the slide."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 25)))
    radii = rng.uniform(0.3, 1, len(angles)) * rng.uniform(2, largest)
    unit = np.stack([np.cos(angles), np.sin(angles) * rng.uniform(0.3, 1)], axis=1)
    return (rng.uniform(10, SIDE - 60, 2) + radii[:, None] * unit) * FACTOR


def case(seed):
    """Return outlines or None, and detections, half of them near lesions."""
    rng = np.random.default_rng(seed)
    if seed % 3 == 2:
        places = rng.uniform(0, SIDE * FACTOR, (rng.integers(0, 6), 2))
        return None, np.column_stack([rng.uniform(0.01, 1, len(places)), places])
    lesions = [[blob(rng, 40)] for _ in range(rng.integers(1, 9))]
    lesions[0].append(lesions[0][0] * 0.5 + lesions[0][0].mean(axis=0) * 0.5)  # a hole
    cut = [[blob(rng, 15)] for _ in range(2)]
    near = np.concatenate([p[0] for p in lesions[len(lesions) // 2 :]])[:: rng.integers(3, 9)]
    places = np.concatenate([near, rng.uniform(0, SIDE * FACTOR, (8, 2))])
    places = np.clip(places + rng.normal(0, 300, places.shape), 0, SIDE * FACTOR - 1)
    scores = rng.integers(1, 20, len(places)) / 20  # with ties
    return LesionOutlines(lesions, cut), np.column_stack([scores, places])


COLUMNS, ROWS = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)
CENTRES = np.column_stack([COLUMNS.ravel(), ROWS.ravel()])


def mask_of(polygons):
    """Return the slide's mask of level 5."""
    mask = np.zeros(SIDE * SIDE, dtype=bool)
    for polygon in polygons:
        odd = np.zeros_like(mask)
        for ring in polygon:
            odd ^= Outline(ring / FACTOR, closed=False).contains_points(CENTRES)
        mask |= odd
    return mask.reshape(SIDE, SIDE)


def numbered(outlines):
    """Return the lesions of a slide, how many there are and which are isolated cells."""
    mask = mask_of(outlines.lesions) & ~mask_of(outlines.cut_out)
    near = ndimage.distance_transform_edt(~mask) < 75 / (MPP * FACTOR * 2)
    eight = ndimage.generate_binary_structure(2, 2)
    label, count = ndimage.label(ndimage.binary_fill_holes(near), eight)
    small = set()
    for number in range(1, count + 1):
        values = np.linalg.eigvalsh(np.cov(np.argwhere(label == number).T, bias=True))
        if 4 * np.sqrt(values[-1]) < 275 / (MPP * FACTOR):
            small.add(number)
    return label, count, small


def theirs(cases):
    """Return the organisers' curve, and the numbers of lesions and of isolated cells."""
    false, true, isolated = [], [], 0
    for outlines, detections in cases:
        if outlines is None:
            false += detections[:, 0].tolist()
            continue
        label, count, small = numbered(outlines)
        best = {number: 0.0 for number in range(1, count + 1) if number not in small}
        for score, x, y in detections:
            hit = label[int(y / FACTOR), int(x / FACTOR)]
            if hit == 0:
                false.append(score)
            elif hit in best:
                best[hit] = max(best[hit], score)
        true, isolated = true + list(best.values()), isolated + len(small)
    curve = [  # the least value is 0, of a lesion that was missed
        ((np.array(false) >= least).sum() / len(cases), (np.array(true) >= least).sum() / len(true))
        for least in sorted({*false, *true})[1:]
    ]
    return [*curve, (0.0, 0.0)], len(true), isolated


def ours(cases):
    maps = [None if outlines is None else lesion_map(outlines, MPP) for outlines, _ in cases]
    pairs = zip(cases, maps, strict=True)
    return froc([compare_detections(found, lesions) for (_, found), lesions in pairs]), maps


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_organisers_procedure(seed):
    cases = [case(100 * seed + number) for number in range(6)]
    curve, lesions, isolated = theirs(cases)
    found, maps = ours(cases)
    assert found.lesions == lesions > 3
    assert sum(m.isolated.sum() for m in maps if m) == isolated > 1
    assert curve[0][1] < 1  # a lesion is missed, else they drop the last point
    pairs = zip(found.rates[::-1].tolist(), found.sensitivities[::-1].tolist(), strict=True)
    np.testing.assert_allclose(list(pairs), curve, rtol=0, atol=1e-12)
    metrics = found.metrics()
    for rate in RATES:
        best = max(sensitivity for other, sensitivity in curve if other <= rate)
        assert metrics[f"sensitivity_at_{rate:g}"] == pytest.approx(best, abs=1e-12)
    assert metrics["froc"] == pytest.approx(
        np.mean([metrics[f"sensitivity_at_{r:g}"] for r in RATES])
    )


def square(x, y, side):
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], dtype=float)


def test_the_raster_is_the_centres_inside():
    """The margin is taken off again by a distance of the raster's own."""
    rng = np.random.default_rng(0)
    outer = blob(rng, 60)
    polygon = [outer, outer.mean(axis=0) + 0.6 * (outer - outer.mean(axis=0))[::-1]]
    lesions = lesion_map(LesionOutlines([polygon], []), MPP)
    rows, columns = np.indices(lesions.numbers.shape)
    centres = (np.column_stack([columns.ravel(), rows.ravel()]) + lesions.origin + 0.5) * FACTOR
    mask = inside([polygon], centres).reshape(lesions.numbers.shape)
    grown = ndimage.distance_transform_edt(~mask) < 37.5 / 7.776
    assert mask.sum() > 500
    assert ((lesions.numbers > 0) == ndimage.binary_fill_holes(grown)).all()


def test_sizes_and_places_by_hand():
    """A square of 100 pixels grown by 4 on each side, its corners rounded."""
    lesions = lesion_map(LesionOutlines([[square(3200, 6400, 3200)]], []), MPP)
    assert lesions.major_axes_um[0] == pytest.approx(4 * 108 / np.sqrt(12) * 7.776, rel=0.01)
    np.testing.assert_allclose(lesions.centres, [[4800, 8000]])
    grown = np.array([[3200 - 4 * 32, 8000], [3200 - 4 * 32 - 1, 8000], [1e9, 8000], [0, 0]])
    assert lesions.at(grown).tolist() == [1, 0, 0, 0]
    assert not lesions.isolated[0]


@pytest.mark.parametrize(("side_um", "isolated"), [(150, True), (350, False), (1, True)])
def test_lesions_below_275_um_are_isolated_cells(side_um, isolated):
    """One of 1 um has no centre of a pixel inside and still is a lesion."""
    lesions = lesion_map(LesionOutlines([[square(5000, 5000, side_um / MPP)]], []), MPP)
    assert lesions.isolated.tolist() == [isolated]


def test_lesions_that_touch_at_a_corner_are_one_and_cut_outs_win():
    pair = [[square(0, 0, 3200)], [square(3200, 3200, 3200)]]
    assert len(lesion_map(LesionOutlines(pair, []), MPP).isolated) == 1
    apart = lesion_map(LesionOutlines(pair, [[square(2560, 2560, 1280)]]), MPP)
    assert len(apart.isolated) == 2
    assert apart.at(np.array([[3200.0, 3200.0]])).tolist() == [0]
    nothing = lesion_map(LesionOutlines(pair, [[square(-9, -9, 9999)]]), MPP)
    assert len(nothing.isolated) == 0
    assert nothing.at(np.zeros((2, 2))).tolist() == [0, 0]


def test_probability_0_detects_nothing_and_all_found_counts():
    lesions = lesion_map(LesionOutlines([[square(5000, 5000, 3200)]], []), MPP)
    nothing = compare_detections(np.array([[0, 6000, 6000], [0, 1, 1]]), lesions)
    assert froc([nothing]).metrics()["froc"] == 0
    perfect = compare_detections(np.array([[0.7, 6000, 6000], [0.6, 1, 1]]), lesions)
    curve = froc([perfect])
    assert curve.rates.tolist() == [0, 0, 1]
    assert curve.sensitivities.tolist() == [0, 1, 1]
    assert set(curve.metrics().values()) == {1.0}


def test_outlines_of_another_scale_and_slides_without_lesions_are_refused():
    far = LesionOutlines([[square(0, 0, 50)], [square(9e7, 9e7, 50)]], [])
    with pytest.raises(ValueError, match=r"span 21870 x 21870 mm .*--mpp"):
        lesion_map(far, MPP)
    with pytest.raises(ValueError, match="none of the 1 slides has a lesion that counts"):
        froc([compare_detections(np.zeros((0, 3)), None)])
