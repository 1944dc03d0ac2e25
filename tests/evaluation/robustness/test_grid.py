"""Tables of cells: what is read, and what is told of a faulty one."""

import re

import numpy as np
import pytest

from evaluation.mil.scores import evaluate_bags
from evaluation.robustness.grid import known_values, read_grids
from evaluation.robustness.names import BENCHMARK, EXTRA
from evaluation.targets.survival_scores import SurvivalScorer
from evaluation.targets.tables import BinnedCurves, SurvivalReference, SurvivalTable
from structures import DataProblems
from tests.support.cells import HEADER, PUBLISHED, rows, write

GOOD = ["a,clean,0,segm,map,0.5", "a,fog,1,segm,map,0.4"]


def test_models_of_several_files(tmp_path):
    both = write(tmp_path / "both.csv", [*rows("a"), *rows("b")])
    lines = [line.removeprefix("a,") for line in rows("a", ("fog",))]
    alone = write(tmp_path / "group norm.csv", lines, HEADER.removeprefix("model,"))
    found = read_grids([both, alone])
    assert list(found) == ["a", "b", "group norm"]
    assert found["b"].file == both
    assert len(found["a"].cells) == 1 + 5 * (len(BENCHMARK) + len(EXTRA))
    assert list(found["group norm"].cells) == [("clean", 0), *(("fog", s) for s in range(1, 6))]
    assert found["group norm"].cells["fog", 2]["box_map"] == 0.85 - 0.2 - 0.002


def test_other_columns_their_order_and_spelling_do_not_matter(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "\ufeffvalue,metric,task,severity,note,corruption\r\n"
        '0.5,map,segm,0,,clean\r\n\r\n0.25, segm_map_50 ,segm,3.0,"x,y",my fog'
    )
    cells = read_grids([path])["a"].cells
    assert cells == {("clean", 0): {"segm_map": 0.5}, ("my fog", 3): {"segm_map_50": 0.25}}


def test_bags_have_the_names_of_their_evaluation(tmp_path):
    names = evaluate_bags([0, 1, 1], [0.2, 0.9, 0.4], "binary")
    lines = [f"a,clean,0,bag,{name.removeprefix('bag_')},{value}" for name, value in names.items()]
    lines += ["a,clean,0,bag,bag_mae,7", "a,clean,0,bag,r2,-3", "a,clean,0,bag,c_index,0.5"]
    (cell,) = read_grids([write(tmp_path / "a.csv", lines)])["a"].cells.values()
    assert cell == names | {"bag_mae": 7, "bag_r2": -3, "bag_c_index": 0.5}


@pytest.mark.parametrize(
    ("line", "reason", "remedy"),
    [
        ("a,fog,2,segm,map,nan", "value is 'nan'", "no line for a metric without a value"),
        ("a,fog,2,segm,map,-inf", "value is '-inf'", "a fraction such as"),
        ("a,fog,2,segm,map,low", "value is 'low'", "a fraction such as"),
        ("a,fog,2,segm,map,34.2", "value is 34.2", "write fractions, not percent"),
        ("a,fog,2,segm,map,-1", "value is -1", "leave the line out"),
        ("a,fog,2,bag,mae,-1", "value is -1", "not negative"),
        ("a,fog,2,segm,map,", "has no value", "complete the line"),
        (",fog,2,segm,map,.1", "has no model", "complete the line"),
        ("a,fog,2,segm,map", "has no value", "complete the line"),
        ("a,fog,2,segm,map,.1,.2", "more values than the header", "in quotes"),
        ("a,fog,6,segm,map,.1", "severity is '6'", "write 1 to 5, or 0 for clean"),
        ("a,fog,-1,segm,map,.1", "severity is '-1'", "write 1 to 5"),
        ("a,fog,1.5,segm,map,.1", "severity is '1.5'", "write 1 to 5"),
        ("a,fog,mild,segm,map,.1", "severity is 'mild'", "write 1 to 5"),
        ("a,fog,0,segm,map,.1", "fog has severity 0", "0 is for clean"),
        ("a,clean,1,segm,map,.1", "clean has severity 1", "write 0"),
        ("a,domain:x,1,segm,map,.1", "domain:x has severity 1", "the severity of domain:x"),
        ("a,domain:,0,segm,map,.1", "domain: has no name", "write domain:NAME"),
        ("a,fog,2,mask,map,.1", "task is 'mask'", "write segm, box, bag"),
        ("a,fog,2,segm,auroc,.1", "metric is 'auroc'", "of segm are map, map_50, map_75"),
        ("a,fog,1,segm,map,.4", "segm_map of a fog 1 is in line 3", "keep one of the two"),
        ("a,fog,1.0,segm,segm_map,.4", "segm_map of a fog 1 is in line 3", "keep one of the two"),
    ],
)
def test_faulty_lines(tmp_path, line, reason, remedy):
    path = write(tmp_path / "cells.csv", [*GOOD, line, "a,fog,3,segm,map,0.3"])
    with pytest.raises(DataProblems, match=re.escape(reason)) as error:
        read_grids([path])
    (problem,) = error.value.problems
    assert str(problem).startswith(f"{path}, line 4: ")
    assert remedy in problem.remedy


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model,corruption,severity,task,value\na,clean,0,segm,.5\n", "has no column metric but"),
        ("", "has no column corruption, severity, task, metric, value but nothing"),
        (HEADER + ",value\n", "has the column value twice"),
        (HEADER + "\n", "has no cells"),
        ("\x00\xff", "has no column"),
    ],
)
def test_files_that_are_no_table(tmp_path, text, reason):
    path = tmp_path / "cells.csv"
    path.write_text(text)
    with pytest.raises(DataProblems, match=reason) as error:
        read_grids([path])
    assert str(path) in str(error.value)


def test_faults_of_all_files_are_told_together(tmp_path):
    first, second = write(tmp_path / "1.csv", GOOD), write(tmp_path / "2.csv", GOOD)
    third = write(tmp_path / "3.csv", ["c,fog,9,segm,map,.1"])
    with pytest.raises(DataProblems) as error:
        read_grids([first, second, third, tmp_path / "none.csv"])
    told = str(error.value).splitlines()
    assert told[0].startswith(f"{second}, model a: is also in {first}; rename it")
    assert told[1].startswith(f"{third}, line 2: severity is '9'")
    assert told[2].startswith(f"{tmp_path / 'none.csv'}: no such file")


def test_metrics_that_have_a_line():
    nan = float("nan")
    metrics = {"box_map": 0.1, "segm_map": 1.0000000001, "segm_ar_100": 0.4, "segm_map_small": nan}
    assert list(known_values(metrics)) == ["segm_map", "box_map"]
    with pytest.raises(ValueError, match="segm_map is 34.0; write fractions"):
        known_values({"segm_map": 34})


def test_a_brier_score_of_heavily_censored_training_bags_may_exceed_one():
    """In training nine of ten are lost early, so that one who is seen late counts ten times."""
    reference = SurvivalReference(np.arange(1.0, 11), np.arange(10) == 9)
    late = np.linspace(9.5, 9.9, 5)
    wrong = BinnedCurves(np.zeros((5, 1)), [9.1])
    table = SurvivalTable(late, np.ones(5, dtype=bool), -late, wrong)
    found = SurvivalScorer(table, reference, times=[9.1, 9.2]).metrics(np.ones((1, 5)))
    value = float(found["bag_ibs"][0])
    assert value == pytest.approx(10)
    assert known_values({"bag_ibs": value}) == {"bag_ibs": value}


@pytest.mark.skipif(not PUBLISHED.exists(), reason=f"{PUBLISHED} is not here")
def test_the_published_table_has_the_corruptions_of_the_benchmark():
    ((model, grid),) = read_grids([PUBLISHED]).items()
    assert model == "coco_c_mask_rcnn_r50"
    assert list(dict.fromkeys(name for name, _ in grid.cells)) == ["clean", *BENCHMARK, *EXTRA]
    assert {len(cell) for cell in grid.cells.values()} == {12}


def test_tables_of_one_name_in_several_runs_have_the_names_of_folders(tmp_path):
    rows = "corruption,severity,task,metric,value\nclean,0,segm,map,.5\nfog,1,segm,map,.25\n"
    files = [tmp_path / run / "version_0" / "robustness.csv" for run in ("bn", "gn")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text(rows)
    grids = read_grids([*files, write(tmp_path / "1.csv", GOOD)])
    assert list(grids)[:2] == ["bn/version_0/robustness", "gn/version_0/robustness"]
    assert [len(grid.cells) for grid in grids.values()][:2] == [2, 2]
    with pytest.raises(DataProblems, match="is also in"):
        read_grids([files[0], files[0]])
