"""`--wandb PROJECT` of coco, mil and robustness: what is logged, and that nothing depends on it."""

import argparse
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import evaluate
from commands._wandb import add_wandb
from commands._wandb_logs import log_report
from loggers import wandb_evaluation
from loggers.wandb_artifacts import Made
from loggers.wandb_evaluation import Evaluation, training_of
from loggers.wandb_logger import WandbOptions

BAGS = "bag_id,label,score\n" + "".join(f"b{k},{k % 2},{0.2 + 0.6 * (k % 2)}\n" for k in range(8))
CELLS = "model,corruption,severity,task,metric,value\n" + "".join(
    f"{model},{name},{level},segm,map,{value}\n"
    for model in ("a", "b")
    for name, level, value in [("clean", 0, 0.5), ("fog", 1, 0.25), ("fog", 2, 0.125)]
)


def run(*words):
    return evaluate.main([str(word) for word in words])


@pytest.fixture
def images(tmp_path, monkeypatch):
    """The arguments of `coco` for predictions of one image, and the working folder."""
    monkeypatch.chdir(tmp_path)
    category, image = {"id": 3, "name": "a"}, {"id": 1, "height": 10, "width": 10}
    box = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4]}
    truth = {
        "images": [image | {"file_name": "one.png"}],
        "categories": [category],
        "annotations": [box | {"id": 1, "area": 16, "iscrowd": 0}],
    }
    Path("truth.json").write_text(json.dumps(truth))
    Path("found.json").write_text(json.dumps([box | {"score": 0.9}]))
    return ["coco", "--annotations", "truth.json", "--predictions", "found.json"]


@pytest.fixture
def sent(monkeypatch):
    """What would be logged, as (options, evaluation)."""
    found = []

    def keep(options, evaluation):
        found.append((options, evaluation))
        return "logged"

    monkeypatch.setattr(wandb_evaluation, "log_evaluation", keep)
    return found


def test_images(images, sent, capsys):
    words = ["--wandb", "p", "--wandb-mode", "online", "--errors", "--out", "out.json"]
    assert run(*images, *words) == 0
    ((options, evaluation),) = sent
    assert options == WandbOptions(project="p", mode="online")
    record = json.loads(Path("out.json").read_text())
    assert evaluation.metrics == record["metrics"]
    assert evaluation.facts["files"] == record["files"]
    assert evaluation.command == "coco"
    assert evaluation.data == {"annotations": Path("truth.json")}
    assert evaluation.predictions == {"predictions.json": Path("found.json")}
    assert evaluation.tables["per_class"] == record["per_class"]
    gains = {row["error"]: row["AP50 gained"] for row in evaluation.tables["errors"]}
    assert gains == record["errors"]["box"]
    assert evaluation.figures["curves"]().axes
    assert "logged" in capsys.readouterr().out


def test_bags(tmp_path, monkeypatch, sent):
    monkeypatch.chdir(tmp_path)
    Path("bags.csv").write_text(BAGS)
    assert run("mil", "--predictions", "bags.csv", "--draws", 20, "--wandb", "p") == 0
    ((_, evaluation),) = sent
    assert evaluation.metrics["bag_auroc"] == 1.0
    assert evaluation.tables["bags"][1] == {"bag_id": "b1", "label": 1, "score": 0.8}
    (row,) = [r for r in evaluation.tables["metrics"] if r["metric"] == "bag_auroc"]
    assert set(row) == {"metric", "value", "low", "high"}
    assert list(evaluation.charts) == ["confusion"]
    assert evaluation.data == {}  # a table of predictions does not name its data


def test_scores_of_several_classes_are_columns(tmp_path, monkeypatch, sent):
    monkeypatch.chdir(tmp_path)
    lines = [f"b{k},{k % 3},{','.join(str(0.6 if c == k % 3 else 0.2) for c in range(3))}"
             for k in range(9)]  # fmt: skip
    Path("bags.csv").write_text("\n".join(["bag_id,label,score_0,score_1,score_2", *lines]))
    assert run("mil", "--predictions", "bags.csv", "--draws", 20, "--wandb", "p") == 0
    row = sent[0][1].tables["bags"][1]
    assert row == {"bag_id": "b1", "label": 1, "score_0": 0.2, "score_1": 0.6, "score_2": 0.2}


def test_times_have_their_figure(tmp_path, monkeypatch, sent):
    monkeypatch.chdir(tmp_path)
    lines = [f"b{k},{k + 1},{k % 2},{0.1 * k}" for k in range(12)]
    Path("bags.csv").write_text("\n".join(["bag_id,time,event,risk", *lines]))
    assert run("mil", "--predictions", "bags.csv", "--draws", 20, "--wandb", "p") == 0
    ((_, evaluation),) = sent
    assert evaluation.tables["bags"][0]["time"] == 1
    assert evaluation.figures["curves"]().axes


def test_cells(tmp_path, monkeypatch, sent):
    monkeypatch.chdir(tmp_path)
    Path("cells.csv").write_text(CELLS + "a,domain:night,0,segm,map,0.25\n")
    assert run("robustness", "--cells", "cells.csv", "--wandb", "p") == 0
    ((_, evaluation),) = sent
    cells = evaluation.tables["cells"]
    assert {"model": "b", "corruption": "fog", "severity": "2", "segm_map": 0.125} in cells
    assert len(cells) == 6
    means = evaluation.tables["corruptions"]
    assert {"model": "a", "corruption": "fog"}.items() <= means[0].items()
    assert evaluation.figures["degradation"]().axes
    assert evaluation.tables["domains"] == [
        {"model": "a", "domain": "night", "segm_map": 0.25, "segm_map_ratio": 0.5}
    ]


def test_off_imports_nothing(images, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it fails
    monkeypatch.setattr(wandb_evaluation, "_log_evaluation", None)
    assert run(*images) == 0
    assert not Path("runs").exists()


def no_space(monkeypatch):
    import wandb

    def refuse(**given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wandb, "init", refuse)


def no_folder(monkeypatch):
    Path("runs").write_text("a file where the folder of runs would be")


def no_wandb(monkeypatch):
    import pytorch_lightning.loggers.wandb as lightning

    monkeypatch.setattr(lightning, "_WANDB_AVAILABLE", False)


def own_error(monkeypatch):
    def refuse(*given):
        raise KeyError("broken")

    monkeypatch.setattr(wandb_evaluation, "_log_evaluation", refuse)


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(no_space, marks=pytest.mark.slow),
        pytest.param(no_folder, marks=pytest.mark.slow),
        no_wandb,
        own_error,
    ],
)
def test_a_failure_is_a_warning(break_it, images, offline_wandb, monkeypatch, capsys, caplog):
    break_it(monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert run(*images, "--wandb", "p", "--out", "out.json") == 0
    assert json.loads(Path("out.json").read_text())["metrics"]["box_map"] == pytest.approx(1)
    said = capsys.readouterr().out + "".join(r.getMessage() for r in caplog.records)
    assert "W&B" in said


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["", "log_artifact", "Html"])
def test_a_report_is_an_artifact_and_a_page(
    broken, images, offline_wandb, read_wandb, monkeypatch, caplog, capsys
):
    """Also a run of which W&B refuses something is ended, and keeps the rest."""
    import wandb

    def refuse(*given, **named):
        raise ValueError("refused")

    if broken:
        owner = wandb.sdk.wandb_run.Run if broken == "log_artifact" else wandb
        monkeypatch.setattr(owner, broken, refuse)
    page = offline_wandb / "report.html"
    page.write_text("<title>a</title>")
    parser = argparse.ArgumentParser()
    add_wandb(parser)
    args = parser.parse_args(["--wandb", "p"])
    args.command = "report"
    record = {"metrics": {"x": {"segm_map": 0.5, "box_map": None}}, "seed": 0}
    predictions = {"x/predictions.json": Path("found.json")}
    data = {"annotations": Path("truth.json"), "images": None}
    log_report(args, record, page, data=data, predictions=predictions)
    (folder,) = Path("runs/evaluate_report/version_0/wandb").glob("offline-run-*")
    found = read_wandb(folder)
    assert found.summary["evaluate/x/segm_map"] == 0.5
    assert found.state == "finished"
    if broken:
        assert len([r for r in caplog.records if "refused" in r.getMessage()]) == 1
        assert ("evaluate/report" in found.summary) == (broken == "log_artifact")
        assert bool(found.artifacts) == (broken == "Html")
        return
    assert found.summary["evaluate/report"]["_type"] == "html-file"
    shown = folder / "files" / found.summary["evaluate/report"]["path"]
    assert shown.read_text() == page.read_text()  # nothing from elsewhere is added
    made = {a["type"]: a for a in found.artifacts}
    assert list(made) == ["dataset", "predictions", "report"]
    inputs = json.loads(made["report"]["metadata"])["inputs"]
    assert [(one["type"], one["digest"]) for one in inputs] == [
        (kind, made[kind]["digest"]) for kind in ("dataset", "predictions")
    ]
    assert "logged to W&B (offline)" in capsys.readouterr().out


def test_a_large_page_is_an_artifact_alone(tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    page.write_text("<p>")
    monkeypatch.setattr(wandb_evaluation, "MAX_PAGE", 2)
    assert wandb_evaluation._media(Evaluation("report", {}, page=page)) == {}


def test_numbers_of_nested_metrics():
    metrics = {"a": {"x": np.float64(0.5), "y": float("nan"), "z": None}, "b": 2, "c": True}
    assert dict(wandb_evaluation._numbers(metrics)) == {"a/x": 0.5, "b": 2.0, "c": 1.0}


def test_the_training_of_a_checkpoint(tmp_path):
    folder = tmp_path / "abmil" / "version_3"
    checkpoint = folder / "checkpoints" / "best.ckpt"
    assert training_of(checkpoint) is None
    folder.mkdir(parents=True)
    (folder / "wandb_run_id").write_text("r1\n")
    assert training_of(checkpoint) == ("r1", "abmil/version_3", None)
    (folder / "config.yaml").write_text("wandb: {group: seeds, entity: team}\n")
    assert training_of(checkpoint) == ("r1", "seeds", "team")
    stage = folder / "first_stage"
    stage.mkdir()
    (stage / "wandb_run_id").write_text("r2\n")
    (stage / "config.yaml").write_text("wandb: {project: p}\n")
    assert training_of(stage / "checkpoints/best.ckpt") == ("r2", "abmil/version_3", None)


@pytest.mark.parametrize("of_test", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_what_a_page_of_own_data_is_made_from(own, of_test, tmp_path, monkeypatch):
    """The data of the training, or those that a run of `test` has logged with its predictions."""
    data, model = Made("dataset", "dataset-d", "1"), Made("model", "model-m", "2")
    tested, folder = Made("dataset", "dataset-t", "4"), tmp_path / "tested"
    table = folder / "predictions" / "bags.csv"
    if of_test:
        table.parent.mkdir(parents=True)
        table.touch()
        content = {"predictions-t": [tested._asdict(), model._asdict()]}
        (folder / "wandb_artifacts.json").write_text(json.dumps(content))
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    (tmp_path / "wandb_artifacts.json").write_text(json.dumps({"model-m": [data._asdict()]}))
    found = {}

    def keep(_, spec, inputs):
        found[spec.type] = inputs
        return Made(spec.type, spec.name, "3")

    monkeypatch.setattr(wandb_evaluation, "use_artifact", lambda *_: model)
    monkeypatch.setattr(wandb_evaluation, "log_artifact", keep)
    page = tmp_path / "report.html"
    page.touch()
    predictions = {"p": table if of_test else tmp_path / "report/abc/predictions.json"}
    evaluation = Evaluation(
        "report", {}, checkpoints=[checkpoint], predictions=predictions, own_data=own, page=page
    )
    logger = SimpleNamespace(failed=False, experiment=SimpleNamespace(id="r"))
    training = wandb_evaluation.Training("m", "g", None)
    wandb_evaluation._artifacts(logger, evaluation, [training], tmp_path)
    inputs = [model, *[data] * own, *[tested] * of_test]
    assert found["predictions"] == inputs
    assert found["report"] == [*inputs, Made("predictions", "predictions-r", "3")]
