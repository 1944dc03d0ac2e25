"""mPC, rPC, CD and rCD: the published table, a slow version of the definitions, gaps."""

import math
import statistics

import numpy as np
import pytest

from evaluation.robustness.grid import Grid, read_grids
from evaluation.robustness.names import BENCHMARK, EXTRA
from evaluation.robustness.scores import mean_performance, relative_performance, summarise
from tests.support.cells import PUBLISHED, rows, write

published = pytest.mark.skipif(not PUBLISHED.exists(), reason=f"{PUBLISHED} is not here")

# The documentation of mmdetection and the authors' data: clean, mPC, rPC
NUMBERS = {"segm_map": (0.3416, 0.1678, 0.4912), "box_map": (0.3727, 0.1868, 0.5014)}
MEANS = {  # mask AP by corruption in percent
    "gaussian_noise": 15.8, "shot_noise": 15.8, "impulse_noise": 13.0, "defocus_blur": 15.7,
    "glass_blur": 10.0, "motion_blur": 14.0, "zoom_blur": 6.2, "snow": 15.8, "frost": 19.7,
    "fog": 28.2, "brightness": 29.9, "contrast": 21.1, "elastic_transform": 18.8,
    "pixelate": 13.5, "jpeg_compression": 14.1, "speckle_noise": 20.0, "gaussian_blur": 17.6,
    "spatter": 23.1, "saturate": 29.1,
}  # fmt: skip


@published
def test_the_published_table():
    (metrics,), (means,), _, notes = (
        part if isinstance(part, list) else list(part.values())
        for part in summarise(read_grids([PUBLISHED]))
    )
    for name, (clean, mpc, rpc) in NUMBERS.items():
        assert round(metrics[f"{name}_clean"], 4) == clean
        assert round(metrics[f"{name}_mpc"], 4) == mpc
        assert round(metrics[f"{name}_rpc"], 4) == rpc
    assert round(metrics["segm_map_mpc_all"], 4) == 0.1798
    assert {name: round(100 * row["segm_map"], 1) for name, row in means.items()} == MEANS
    assert notes == []


@published
def test_every_metric_of_the_published_table_from_its_lines():
    """The means of all lines, without the reader."""
    lines = [line.split(",") for line in PUBLISHED.read_text().split()[1:]]
    found = summarise(read_grids([PUBLISHED])).metrics["coco_c_mask_rcnn_r50"]
    for name in {f"{task}_{metric}" for _, _, task, metric, _ in lines}:
        own = [(c, float(v)) for c, _, task, metric, v in lines if f"{task}_{metric}" == name]
        ((_, clean),) = [one for one in own if one[0] == "clean"]
        mpc = statistics.mean(v for c, v in own if c in BENCHMARK)
        assert found[f"{name}_mpc"] == pytest.approx(mpc, rel=1e-12)
        assert found[f"{name}_rpc"] == pytest.approx(mpc / clean, rel=1e-12)
        both = statistics.mean(v for c, v in own if c != "clean")
        assert found[f"{name}_mpc_all"] == pytest.approx(both, rel=1e-12)
    assert len(found) == 12 * 4


def random_grid(file, seed, names=("segm_map", "segm_map_50", "box_map"), more=("saturate", "own")):
    rng = np.random.default_rng(seed)
    places = [("clean", 0), *((c, s) for c in (*BENCHMARK, *more) for s in range(1, 6))]
    clean = 0.9 + 0.1 * rng.random()
    return Grid(file, {p: {n: clean - 0.1 * p[1] * rng.random() for n in names} for p in places})


def test_degradations_by_loops(tmp_path):
    grids = {name: random_grid(tmp_path, seed) for seed, name in enumerate("ab")}
    found = summarise(grids, "b")
    for name, start in (
        ("segm_map", "segm"),
        ("segm_map_50", "segm_map_50"),
        ("box_map", "box"),
    ):
        cds, rcds = [], []
        for corruption in (*BENCHMARK, "saturate", "own"):
            errors, losses = {}, {}
            for model, grid in grids.items():
                clean = grid.cells["clean", 0][name]
                values = [grid.cells[corruption, s][name] for s in (1, 2, 3, 4, 5)]
                errors[model] = sum(1 - value for value in values)
                losses[model] = sum(clean - value for value in values)
            cd, rcd = errors["a"] / errors["b"], losses["a"] / losses["b"]
            row = found.corruptions["a"][corruption]
            assert row[f"{start}_cd"] == pytest.approx(cd, rel=1e-12)
            assert row[f"{start}_rcd"] == pytest.approx(rcd, rel=1e-12)
            if corruption in BENCHMARK:
                cds.append(cd)
                rcds.append(rcd)
        metrics = found.metrics["a"]
        assert metrics[f"{start}_mcd"] == pytest.approx(statistics.mean(cds), rel=1e-12)
        assert metrics[f"{start}_rcd"] == pytest.approx(statistics.mean(rcds), rel=1e-12)
        assert abs(metrics[f"{start}_mcd"] - 1) > 0.01
        assert found.metrics["b"][f"{start}_mcd"] == found.metrics["b"][f"{start}_rcd"] == 1
    ones = {row["segm_cd"] for row in found.corruptions["b"].values()}
    assert ones == {1.0}


def test_other_corruptions_do_not_enter_the_mean(tmp_path):
    with_more, without = random_grid(tmp_path, 3), random_grid(tmp_path, 3, more=())
    found = summarise({"more": with_more, "less": without})
    more, less = found.metrics["more"], found.metrics["less"]
    assert more["segm_map_mpc"] == less["segm_map_mpc"]
    assert "own" in found.corruptions["more"]
    assert math.isnan(more["segm_map_mpc_all"])  # three of the extra corruptions are missing
    assert "segm_map_mpc_all" not in less
    assert found.notes == []


def test_an_incomplete_grid(tmp_path):
    grid = random_grid(tmp_path, 0, more=("own",))
    del grid.cells["fog", 3], grid.cells["own", 1], grid.cells["snow", 2]["box_map"]
    found = summarise({"a": grid})
    assert {name for name, value in found.metrics["a"].items() if not math.isnan(value)} == {
        "segm_map_clean", "segm_map_50_clean", "box_map_clean"
    }  # fmt: skip
    assert math.isnan(found.corruptions["a"]["fog"]["segm_map"])
    assert math.isnan(found.corruptions["a"]["own"]["segm_map"])
    assert found.corruptions["a"]["snow"]["segm_map"] > 0
    assert math.isnan(found.corruptions["a"]["snow"]["box_map"])
    assert found.cells["a"]["fog"].keys() == {"1", "2", "4", "5"}
    assert found.notes == [
        "a: no mPC and rPC of segm_map, segm_map_50, because 1 cell is missing: fog 3",
        "a: no mean over severities of segm_map, segm_map_50, box_map, because 1 cell is missing: "
        "own 1",
        "a: no mPC and rPC of box_map, because 2 cells are missing: snow 2, fog 3",
    ]


def test_a_metric_without_a_value_is_told_from_a_missing_cell(tmp_path):
    grid = random_grid(tmp_path, 0)
    del grid.cells["snow", 2]["segm_map_50"]
    assert summarise({"a": grid}).notes == [
        "a: no mPC and rPC of segm_map_50, without a value in snow 2"
    ]


def test_a_name_that_is_nearly_one_of_the_benchmark(tmp_path):
    """Names of one's own are allowed, so that a misspelt one is noted, not refused."""
    grid = random_grid(tmp_path, 0, more=("snow_flakes", "Fog"))
    cells = {("Gaussian noise" if c == "gaussian_noise" else c, s): v
             for (c, s), v in grid.cells.items()}  # fmt: skip
    notes = summarise({"a": grid._replace(cells=cells)}).notes
    assert notes[0] == (
        "a: Gaussian noise is taken for a corruption of its own; if it is gaussian_noise, rename it"
    )
    assert "gaussian_noise" in notes[1]
    assert len(notes) == 2


def test_without_the_clean_cell_the_mean_remains(tmp_path):
    grid, whole = random_grid(tmp_path, 0), random_grid(tmp_path, 1)
    del grid.cells["clean", 0]
    found = summarise({"a": grid, "b": whole}, "b")
    values = found.metrics["a"]
    assert values["segm_map_mpc"] > 0
    assert values["segm_mcd"] > 0
    assert all(math.isnan(values[f"segm_{name}"]) for name in ("map_clean", "map_rpc", "rcd"))
    assert found.notes == [
        "a: no rPC of segm_map, segm_map_50, box_map, because 1 cell is missing: clean"
    ]


def test_ratios_without_a_denominator(tmp_path):
    """A clean AP of 0 has no share; a reference that never falls has no multiple."""
    flat = Grid(tmp_path, {place: {"segm_map": 0.0} for place in random_grid(tmp_path, 0).cells})
    perfect = Grid(tmp_path, {place: {"segm_map": 1.0} for place in flat.cells})
    found = summarise({"flat": flat, "perfect": perfect}, "perfect")
    assert math.isnan(found.metrics["flat"]["segm_map_rpc"])
    assert math.isnan(found.metrics["perfect"]["segm_mcd"])
    some = "gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, "
    some += "zoom_blur, snow and 7 more"
    assert found.notes[:3] == [
        "flat: no rPC of segm_map, because its clean value is 0",
        f"flat: no segm_cd of {some}, where the reference never errs",
        f"flat: no segm_rcd of {some}, where the reference never falls",
    ]
    boxes = Grid(tmp_path, {place: {"box_map": 0.5} for place in flat.cells})
    told = summarise({"flat": flat, "boxes": boxes}, "boxes").notes
    assert "flat: no CD of segm_map, because the reference has no such values" in told


def test_bags_are_averaged_over_all_shifts(tmp_path):
    """One that a model lacks makes its mean undefined; errors have no degradation."""
    lines = rows("a", ("noise", "missing"), ("bag_auroc", "bag_mae"))
    lines += rows("b", ("noise",), ("bag_auroc", "bag_mae"))
    grids = read_grids([write(tmp_path / "cells.csv", lines)])
    found = summarise(grids, "a")
    cells = [v["bag_auroc"] for (c, _), v in grids["a"].cells.items() if c != "clean"]
    assert found.metrics["a"]["bag_auroc_mpc"] == pytest.approx(statistics.mean(cells), rel=1e-12)
    assert found.metrics["a"]["bag_mcd"] == 1
    assert not [
        name for name in found.metrics["a"] if name.startswith("bag_mae_m") and "cd" in name
    ]
    assert math.isnan(found.metrics["b"]["bag_auroc_mpc"])
    own = summarise(grids, benchmark={"bag": ["noise"]}).metrics
    assert own["b"]["bag_auroc_mpc"] == pytest.approx(0.7 - 0.3 - 0.003, rel=1e-12)


def test_a_task_has_one_main_metric(tmp_path):
    auroc = random_grid(tmp_path, 0, ("bag_auroc", "bag_f1"))
    f1 = random_grid(tmp_path, 1, ("bag_f1",))
    metrics = summarise({"f1": f1, "both": auroc}, "both").metrics
    assert {"bag_mcd", "bag_f1_mcd"} <= {*metrics["both"]}
    assert "bag_mcd" not in metrics["f1"]
    assert metrics["f1"]["bag_f1_mcd"] > 0


def test_an_unknown_reference(tmp_path):
    with pytest.raises(ValueError, match="--reference c: no such model; there are a, b"):
        summarise({name: random_grid(tmp_path, 0) for name in "ab"}, "c")


def test_only_a_clean_cell(tmp_path):
    for name in ("segm_map", "bag_auroc"):
        found = summarise({"a": Grid(tmp_path, {("clean", 0): {name: 0.5}})}, "a")
        assert found.metrics["a"][f"{name}_clean"] == 0.5
        assert math.isnan(found.metrics["a"][f"{name}_mpc"])
        assert found.corruptions == {"a": {}}


def test_draws_are_leading_dimensions():
    values = np.random.default_rng(0).random((7, 15, 5))
    clean = np.linspace(0.5, 1, 7)
    one = [relative_performance(clean[k], values[k]) for k in range(7)]
    np.testing.assert_allclose(relative_performance(clean, values), one, rtol=1e-12)
    assert mean_performance(values).shape == (7,)


def test_the_names_are_those_of_the_paper():
    assert len(BENCHMARK) == 15
    assert len({*BENCHMARK, *EXTRA}) == 19
