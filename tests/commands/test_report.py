"""`evaluate.py report`: its numbers are those of other commands, and it predicts once."""

import json
import shutil

import pytest
import torch

import evaluate
import evaluation.report.html
import formats.files
from evaluation.report.page.content import Link, Value
from evaluation.report.page.mil_scores import class_tables, confusion, curves, score_bags
from evaluation.targets.files import read_predictions
from tests.support.bright_objects import SIZES, BrightObjects, write_scenes
from tests.support.report_runs import write_bag_run, write_bright_run, write_run, write_test_run

FEW = ("--draws", "30", "--gallery", "2")


def command(*words):
    return evaluate.main([str(word) for word in words])


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(formats.files.os, "fsync", lambda _: None)
    monkeypatch.setattr(BrightObjects, "predicted", [])


@pytest.fixture
def pages(monkeypatch):
    """Return the list of the pages that are made, which are not drawn."""
    found = []
    monkeypatch.setattr(
        evaluation.report.html, "render_page", lambda page: found.append(page) or "<html>"
    )
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes, and runs on them and on bags; none is changed."""
    root = tmp_path_factory.mktemp("report")
    write_scenes(root, SIZES * 8)  # as many as intervals need
    write_bright_run(root)
    write_bright_run(root, "strict", threshold=0.7)
    write_bag_run(root, "bags")
    write_bag_run(root, "other_bags", seed=1, noise=2.5)
    write_bag_run(root, "classes", classes=3, noise=2.5)
    return root


@pytest.fixture
def runs(folder, tmp_path):
    """Return a copy of the runs by name."""
    shutil.copytree(folder / "runs", tmp_path / "runs")
    return {path.name: path / "version_0" for path in (tmp_path / "runs").iterdir()}


def truth(folder):
    return "--annotations", folder / "truth.json", "--images", folder / "images"


def read(path):
    return json.loads(path.read_text())


def test_numbers_of_a_run_are_those_of_coco(folder, runs, tmp_path, pages):
    run, checkpoint = runs["bright"], runs["bright"] / "checkpoints" / "best.ckpt"
    out, coco = tmp_path / "report.json", tmp_path / "coco.json"
    assert command("report", "--run", run, *truth(folder), *FEW, "--out", out) == 0
    assert sorted(BrightObjects.predicted) == list(range(40, 64))
    assert command("coco", "--ckpt", checkpoint, *truth(folder), "--errors", "--out", coco) == 0
    found, wanted = read(out), read(coco)
    for name in ("metrics", "per_class", "errors", "error_counts", "calibration"):
        assert found[name] == wanted[name], name
    (page,) = pages
    shown = {line.name: line.values[0].value for line in page.headlines}
    assert shown["segm_map_50"] == wanted["metrics"]["segm_map_50"]
    assert [one.task for one in page.errors] == ["segm", "box"]
    assert page.errors[0].gains == pytest.approx(wanted["errors"]["segm"])
    headline = page.headlines[0].values[0]
    assert headline.low < headline.value < headline.high
    assert page.calibration[0].scores["ece"] == wanted["calibration"]["ece"]
    assert page.runs[0].model == "Bright"
    assert (page.runs[0].steps, page.runs[0].last_epoch) == (40, 1)
    assert page.runs[0].seconds == 0.5 * 10 + 0.25 * 20


def test_commands_of_the_recipe_give_the_numbers_again(folder, runs, tmp_path, pages):
    out, again = tmp_path / "report.json", tmp_path / "again.json"
    both = (runs["bright"], runs["strict"])
    assert command("report", "--run", *both, *truth(folder), *FEW, "--out", out) == 0
    found = read(out)
    lines = [dict(recipe.commands) for recipe in pages[0].recipes]
    page = lines[0]["this page, with its intervals, lists and images"].split()[2:]
    assert command(*page, "--out", again) == 0
    assert read(again)["intervals"] == found["intervals"]
    assert "--draws 30" in " ".join(page)
    for name, given in zip(("bright", "strict"), lines, strict=True):
        words = given["metrics, errors and calibration"].split()[2:]
        assert command(*words, "--out", again) == 0
        record = read(again)
        assert record["metrics"] == found["metrics"][name]
        assert record["errors"] == found["errors"][name]
    assert command(*lines[1]["differences"].split()[2:], "--out", again) == 0
    record = read(again)
    assert record["difference"] == found["difference"]["strict"]
    (table,) = pages[0].compare
    cells = {row[0]: row[3] for row in table.rows}
    wanted = record["difference"]["segm_ar_100"]
    assert cells["segm_ar_100"] == Value(wanted["value"], wanted["low"], wanted["high"])
    assert wanted["low"] < wanted["value"] < 0


def test_a_second_report_predicts_nothing(folder, runs, tmp_path, pages):
    words = ("report", "--run", runs["bright"], *FEW)
    assert command(*words, *truth(folder)) == 0
    assert len(BrightObjects.predicted) == 24
    assert command(*words, *truth(folder), "--seed", 5) == 0
    assert len(BrightObjects.predicted) == 24
    assert pages[0].headlines[0].values[0].value == pages[1].headlines[0].values[0].value
    shutil.copy(runs["strict"] / "checkpoints" / "best.ckpt", runs["bright"] / "checkpoints")
    assert command(*words, *truth(folder)) == 0  # another checkpoint
    assert len(BrightObjects.predicted) == 48
    content = read(folder / "truth.json")
    content["annotations"].pop()
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(content))
    given = ("--annotations", changed, "--images", folder / "images")
    assert command(*words, *given) == 0  # other data
    assert len(BrightObjects.predicted) == 72


def test_a_run_without_a_test_split_is_shown_on_its_validation_split(folder, runs, tmp_path, pages):
    checkpoint = runs["bright"] / "checkpoints" / "best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    files = {"images": str(folder / "images"), "annotations": str(folder / "truth.json")}
    content["segmil"]["blueprint"]["data"] = {
        "class_path": "datamodules.seg.coco.CocoDataModule",
        "init_args": {"scale": 1.25}
        | {f"{s}_{k}": path for s in ("train", "val") for k, path in files.items()},
    }
    torch.save(content, checkpoint)
    out = tmp_path / "report.json"
    assert command("report", "--run", runs["bright"], *FEW, "--out", out) == 0
    assert command("report", "--run", runs["bright"], *FEW) == 0
    assert len(BrightObjects.predicted) == 24
    assert pages[0].runs[0].split == "validation"
    assert pages[0].runs[0].count == 24
    named = tmp_path / "named.json"
    assert command("report", "--run", runs["bright"], *truth(folder), *FEW, "--out", named) == 0
    assert read(named)["metrics"]["box_ar_100"] == read(out)["metrics"]["box_ar_100"]


def test_every_link_leads_to_an_image_of_the_gallery(folder, runs, pages):
    both = (runs["strict"], runs["bright"])
    assert command("report", "--run", *both, *truth(folder), "--draws", 5, "--gallery", 1) == 0
    (page,) = pages
    keys = {image.key for image in page.gallery}
    links = [cell for t in page.mistakes for row in t.rows for cell in row if type(cell) is Link]
    assert links
    assert {link.target for link in links} <= keys
    titles = [table.title for table in page.mistakes]
    assert "Found by bright, missed by strict" in titles
    assert all(len(image.predictions) == 2 for image in page.gallery)
    assert all(one.kind in {"found", "miss"} for image in page.gallery for one in image.truth)


def test_a_test_run_is_read_and_its_images_are_shown(folder, runs, tmp_path, pages):
    rows = [{"image_id": 40, "category_id": 3, "bbox": [1, 2, 9, 9], "score": 0.5}]
    run = write_test_run(tmp_path, "boxes", rows)
    assert command("report", "--run", run, *truth(folder), *FEW) == 0
    (page,) = pages
    assert [line.name for line in page.headlines][:1] == ["box_map"]
    shown = next(image for image in page.gallery if image.predictions[0])
    assert shown.predictions[0][0].polygons == (((1, 2), (10, 2), (10, 11), (1, 11)),)
    assert not page.confusion[0].integers or page.confusion[0].rows[-1] == "background"


def test_a_training_beside_a_test_without_predictions(folder, runs, tmp_path, pages):
    """Masks of the ground truth are run lengths for the one, polygons for the other."""
    nothing = write_test_run(tmp_path, "nothing", [])
    assert command("report", "--run", runs["bright"], nothing, *truth(folder), *FEW) == 0
    (page,) = pages
    assert [value.value for value in page.headlines[0].values][1] == 0
    assert len(page.calibration) == 1
    assert all(image.predictions[1] == () for image in page.gallery)
    assert command("report", "--run", nothing, *truth(folder), "--draws", 5, "--gallery", 0) == 0
    assert pages[1].gallery == ()
    assert all(type(row[0]) is str for table in pages[1].mistakes for row in table.rows)


def test_cells_are_drawn_and_read_first(folder, runs, tmp_path, pages, capsys):
    cells = tmp_path / "cells.csv"
    head = "model,corruption,severity,task,metric,value\n"
    cells.write_text(head + "m,clean,0,segm,map,0.5\nm,fog,1,segm,map,0.25\n")
    words = ("report", "--run", runs["bright"], *truth(folder), *FEW, "--cells", cells)
    assert command(*words) == 0
    (matrix,) = pages[0].robustness
    assert (matrix.rows, matrix.columns[:2]) == (("fog",), ("clean", "1"))
    assert matrix.values == ((0.5, 0.25, None, None, None, None),)
    BrightObjects.predicted.clear()
    shutil.rmtree(runs["bright"] / "report")
    cells.write_text(head + "m,fog,9,segm,map,0.25\n")
    assert command(*words) == 2
    assert "severity is '9'" in capsys.readouterr().err
    assert not BrightObjects.predicted


def test_numbers_of_bags_are_those_of_mil_and_compare(runs, tmp_path, pages):
    out, mil, pair = (tmp_path / f"{name}.json" for name in ("report", "mil", "compare"))
    both = (runs["bags"], runs["other_bags"])
    assert command("report", "--run", *both, *FEW, "--out", out) == 0
    found = read(out)
    tables = [run / "predictions" / "bags.csv" for run in both]
    for name, table in zip(("bags", "other_bags"), tables, strict=True):
        assert command("mil", "--predictions", table, "--draws", 30, "--out", mil) == 0
        record = read(mil)
        assert record["metrics"].items() <= found["metrics"][name].items()
        assert record["intervals"] == found["intervals"][name]
        assert record["confusion_matrix"] == found["confusion_matrix"][name]
    words = ("compare", "--predictions", *reversed(tables), "--draws", 30, "--out", pair)
    assert command(*words) == 0
    assert read(pair)["difference"] == found["difference"]["other_bags"]
    (page,) = pages
    assert {chart.key for chart in page.curves} == {"roc", "pr"}
    assert page.attention[0].instances[0][0].place is not None


@pytest.mark.parametrize("name", ["bags", "classes"])
def test_wrong_bags_are_shown_the_most_confident_first(name, runs, pages):
    assert command("report", "--run", runs[name], "--draws", 5, "--gallery", 3) == 0
    (page,) = pages
    wrong = [table for table in page.mistakes if table.title == "Most confident wrong bags"]
    keys = {bag.key: bag for bag in page.attention}
    for table in wrong:
        sure = [float(row[-1].rpartition("(")[2].rstrip(")")) for row in table.rows]
        assert sure == sorted(sure, reverse=True)
        assert all(keys[row[0].target].wrong == (True,) for row in table.rows)
    assert bool(wrong) == (name == "classes")
    for bag in page.attention:
        weights = [one.attention for one in bag.instances[0]]
        assert weights == sorted(weights, reverse=True)
        assert sum(weights) == pytest.approx(1)
    assert page.headlines[-1].name == "witness_auroc"


def test_bags_between_runs_are_shown_as_well(runs, pages):
    both = (runs["bags"], runs["other_bags"])
    assert command("report", "--run", *both, "--draws", 5, "--gallery", 1) == 0
    (page,) = pages
    keys = {bag.key for bag in page.attention}
    tables = [table for table in page.mistakes if table.title.startswith("Right by")]
    assert tables
    assert {row[0].target for table in page.mistakes for row in table.rows} <= keys


def test_grades_have_what_classes_have(tmp_path):
    run = write_bag_run(tmp_path, "grades", classes=3, noise=2.5)
    table, out = run / "predictions" / "bags.csv", tmp_path / "mil.json"
    read_table = read_predictions(table, task="ordinal")
    found = score_bags("grades", read_table, ("low", "mid", "high"), draws=5)
    words = ("--predictions", table, "--task", "ordinal", "--draws", 5, "--out", out)
    assert command("mil", *words) == 0
    (matrix,) = confusion([found])
    assert matrix.values == tuple(map(tuple, read(out)["confusion_matrix"]))
    assert matrix.rows == ("low", "mid", "high")
    (classes,) = class_tables([found])
    assert [row[1] for row in classes.rows] == [sum(row) for row in matrix.values]
    assert {chart.key for chart in curves([found])} == {"roc", "pr"}


def test_times_have_a_page(runs, tmp_path, pages):
    run = write_run(tmp_path, "times", {"ckpt_path": None})
    (run / "predictions").mkdir()
    lines = [f"b{n},{n + 1},{n % 3 > 0:d},{-n}" for n in range(30)]
    table = "\n".join(["bag_id,time,event,risk", *lines])
    (run / "predictions" / "bags.csv").write_text(table)
    shutil.copytree(run, tmp_path / "again" / "version_0")
    both = (run, tmp_path / "again" / "version_0")
    assert command("report", "--run", *both, "--draws", 5) == 0
    (page,) = pages
    assert page.headlines[0].values[0].value == 1  # the C-index
    assert page.training
    assert page.compare[0].rows
    assert page.recipes
    assert any("censoring of the bags that are scored" in note for note in page.notes)


def test_values_have_a_page(tmp_path, pages):
    run = write_run(tmp_path, "values", {"ckpt_path": None})
    (run / "predictions").mkdir()
    lines = [f"b{n},{n},{n + n % 2}" for n in range(30)]
    table = "\n".join(["bag_id,target_size,prediction_size", *lines])
    (run / "predictions" / "bags.csv").write_text(table)
    assert command("report", "--run", run, "--draws", 5) == 0
    (page,) = pages
    lines = {line.name: line for line in page.headlines}
    assert lines["bag_mae"].values[0].value == 0.5
    assert not lines["bag_mae"].higher_is_better
    assert lines["bag_r2"].higher_is_better
    assert page.class_tables == page.curves == page.confusion == ()
    (errors,) = page.mistakes
    assert errors.title == "Largest errors"
    assert all(row[-1] == "+1" for row in errors.rows)


def test_missing_images_are_an_error_or_a_note(folder, runs, tmp_path, pages, capsys):
    shutil.copytree(folder / "images", tmp_path / "images")
    (tmp_path / "images" / "scene1.png").unlink()
    words = ("report", "--run", runs["bright"], "--annotations", folder / "truth.json", *FEW)
    given = (*words, "--images", tmp_path / "images")
    assert command(*given) == 2
    assert "scene1.png" in capsys.readouterr().err
    assert command(*given, "--bad-data", "skip") == 0
    assert pages[0].runs[0].count == 23
    assert "scene1.png" in pages[0].notes[0]


def test_wrong_input(folder, runs, tmp_path, pages, monkeypatch, capsys):
    empty = write_run(tmp_path, "empty")
    other = read(folder / "truth.json")
    other["images"], ids = other["images"][:2], {40, 41}
    other["annotations"] = [a for a in other["annotations"] if a["image_id"] in ids]
    (tmp_path / "other.json").write_text(json.dumps(other))
    bright, bags, images = runs["bright"], runs["bags"], truth(folder)
    (tmp_path / "page.html").mkdir()
    cases = {
        ("--run", tmp_path / "nothing"): "does not exist",
        ("--run", tmp_path): "has no config.yaml",
        ("--run", empty): "neither checkpoints",
        ("--run", bright, bags, *images): "write a report of each",
        ("--run", bags, runs["classes"]): "compare predictions of the same task",
        ("--run", bright, bright.parent, *images): "are the same run",
        ("--run", bright, *images, "--html", tmp_path / "page.html"): "is a folder",
        ("--run", bright, *images, "--html", bright / "config.yaml"): "a page is an HTML file",
        ("--run", bright, "--data", bags / "predictions" / "bags.csv"): "--data names bags",
        ("--run", bags, *images): "--annotations and --images name images",
        ("--run", bags, "--data", bags / "predictions" / "bags.csv"): "leave --data out",
        ("--run", bright, "--images", folder / "images"): "--images are those of --annotations",
    }
    for words, message in cases.items():
        assert command("report", *words) == 2, words
        assert message in capsys.readouterr().err, words
    monkeypatch.setattr("commands.report._EXTRA", ("plotly", "jinja_of_nobody"))
    assert command("report", "--run", bags) == 2
    assert "needs jinja_of_nobody: run `pip install -e '.[report]'`" in capsys.readouterr().err
    assert not pages


def test_runs_on_other_bags_and_images_are_refused(folder, runs, tmp_path, pages, capsys):
    fewer = write_bag_run(tmp_path, "fewer", bags=30)
    assert command("report", "--run", runs["bags"], fewer, "--draws", 5) == 2
    assert "is only in" in capsys.readouterr().err
    rows = [{"image_id": 40, "category_id": 3, "bbox": [1, 2, 9, 9], "score": 0.5}]
    one = write_test_run(tmp_path, "one", rows)
    two = write_test_run(tmp_path, "two", rows)
    content = read(folder / "truth.json")
    for run, count in ((one, 24), (two, 21)):
        ids = {image["id"] for image in content["images"][:count]}
        part = {
            **content,
            "images": content["images"][:count],
            "annotations": [a for a in content["annotations"] if a["image_id"] in ids],
        }
        (run / "truth.json").write_text(json.dumps(part))
        data = {
            "class_path": "datamodules.seg.coco.CocoDataModule",
            "init_args": {
                f"{split}_{kind}": str(path)
                for split in ("train", "val", "test")
                for kind, path in (
                    ("images", folder / "images"),
                    ("annotations", run / "truth.json"),
                )
            },
        }
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(f"{text}data: {json.dumps(data)}\n")
    assert command("report", "--run", one, "--draws", 5) == 0  # the run's own data
    assert pages[-1].runs[0].count == 24
    assert command("report", "--run", one, two, "--draws", 5) == 2
    assert "on other images or objects" in capsys.readouterr().err
    merged = read(one / "truth.json")
    merged["categories"] = [{"id": 3, "name": "object"}]
    (two / "truth.json").write_text(json.dumps(merged))
    assert command("report", "--run", one, two, "--draws", 5) == 2
    assert "has the classes 2, " in capsys.readouterr().err
