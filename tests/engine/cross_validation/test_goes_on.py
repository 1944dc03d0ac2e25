"""A cross-validation that was killed goes on fold by fold; its files."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import evaluate
from engine.cross_validation import workers
from evaluation.mil.cross_validation import summarise_folds
from tests.support.mil_recipes import ROOT


@pytest.fixture
def words(config, bag_file, tmp_path):
    """Return a function that gives the command for a recipe with a checkpoint section."""

    def written(*more, **changes):
        sections = {"checkpoint": {"monitor": "val/bag_auroc"}} | changes
        recipe = config(*sections.items())
        base = ["mil-cv", "--config", str(recipe), "--data", str(bag_file), "--folds", "3"]
        return [*base, "--repeats", "2", "--trainer.devices", "1", *map(str, more)]

    return written


class Killed(BaseException):
    """Not an Exception, so that nothing handles it."""


def kill_after(monkeypatch, folds):
    """End the command when this many folds are trained; return how many were trained."""
    trained, run_fold = [], workers.run_fold

    def run(*arguments):
        if len(trained) == folds:
            raise Killed
        trained.append(arguments[3])
        return run_fold(*arguments)

    monkeypatch.setattr(workers, "run_fold", run)
    return trained


def record(path):
    found = json.loads(path.read_text())
    return {k: v for k, v in found.items() if k not in ("seconds", "command")}


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--one-by-one"], ["--select", "best"]])
def test_a_killed_run_gives_the_same_json(words, tmp_path, monkeypatch, capsys, options):
    whole, out = tmp_path / "whole.json", tmp_path / "cv.json"
    tables = tmp_path / "whole.csv", tmp_path / "cv.csv"
    assert (
        evaluate.main([*words(*options, "--out", whole), "--save-predictions", str(tables[0])]) == 0
    )
    assert not (tmp_path / "whole.json.folds").exists()
    command = words(*options, "--out", out, "--save-predictions", tables[1])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, 2)
        evaluate.main(command)
    kept = sorted(file.name for file in (tmp_path / "cv.json.folds").iterdir())
    assert kept == ["repeat0_fold0.json", "repeat0_fold1.json", "settings.json"]
    assert not out.exists()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        trained = kill_after(patch, 99)
        assert evaluate.main(command) == 0
    assert [key[1:] for key in trained] == [(0, 2), (1, 0), (1, 1), (1, 2)]
    assert record(out) == record(whole)
    assert tables[0].read_bytes() == tables[1].read_bytes()
    assert not (tmp_path / "cv.json.folds").exists()


def test_other_settings_do_not_go_on(words, tmp_path, monkeypatch, capsys):
    out = tmp_path / "cv.json"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, 1)
        evaluate.main(words("--one-by-one", "--out", out))
    for change, name in (
        (["--model.optimizer.lr", "0.02"], "model.init_args.optimizer.init_args.lr: 0.01 -> 0.02"),
        (["--seed", "3"], "seed: 0 -> 3"),
        (["--trainer.max_steps", "9"], "training.max_steps: 30 -> 9"),
        (["--select", "best"], "select: last -> best"),
        (["--data.batch_size", "5"], "batch_size: 4 -> 5"),
    ):
        assert evaluate.main(words("--one-by-one", "--out", out, *change)) == 2
        message = capsys.readouterr().err
        assert "has finished folds of a run with other settings" in message and name in message
    bags = dict(np.load(words()[4]))
    np.savez(words()[4], **bags | {"X": bags["X"] + 1})
    assert evaluate.main(words("--one-by-one", "--out", out)) == 2
    assert "data_hash: " in capsys.readouterr().err
    (tmp_path / "other.json.folds").mkdir()
    (tmp_path / "other.json.folds" / "mine.txt").touch()
    assert evaluate.main(words("--out", tmp_path / "other.json")) == 2
    assert "other.json.folds is in the way" in capsys.readouterr().err


def test_wrong_input_leaves_nothing_and_does_not_block_the_next_run(words, tmp_path, capsys):
    out, place = tmp_path / "cv.json", tmp_path / "weights"
    few = ["--select", "best", "--val-fraction", "0.01", "--save-checkpoints", place]
    assert evaluate.main(words("--out", out, *few)) == 2
    assert "repeat 0, fold 0: --val-fraction 0.01" in capsys.readouterr().err
    assert not (tmp_path / "cv.json.folds").exists()
    (tmp_path / "cv.json.folds").mkdir()
    (tmp_path / "cv.json.folds" / "settings.json").write_text('{"seed": 3}')  # killed at once
    assert evaluate.main(words("--out", out, "--save-checkpoints", place)) == 0
    assert not (tmp_path / "cv.json.folds").exists()


def test_a_fold_counts_as_finished_with_its_checkpoint(words, tmp_path, monkeypatch):
    out, place = tmp_path / "cv.json", tmp_path / "weights"
    command = words("--one-by-one", "--out", out, "--save-checkpoints", place)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, 2)
        evaluate.main(command)
    (place / "repeat0_fold0.ckpt").unlink()
    with monkeypatch.context() as patch:
        trained = kill_after(patch, 99)
        assert evaluate.main(command) == 0
    assert [key[1:] for key in trained] == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert len(list(place.glob("*.ckpt"))) == 6


def test_the_table_recomputes_to_the_json(words, tmp_path):
    out, table = tmp_path / "cv.json", tmp_path / "cv.csv"
    changes = {"model.init_args.threshold": "youden"}
    assert evaluate.main(words("--out", out, "--save-predictions", table, **changes)) == 0
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    expected = ["repeat", "fold", "bag_id", "label", "score", "prediction", "threshold"]
    assert list(rows[0]) == expected
    assert [(int(r["repeat"]), int(r["fold"])) for r in rows] == sorted(
        (int(r["repeat"]), int(r["fold"])) for r in rows
    )
    numbers = {name: n for n, name in enumerate(sorted({r["bag_id"] for r in rows}))}
    labels, folds = np.zeros(30, int), np.zeros((2, 30), int)
    scores, thresholds = np.zeros((2, 30)), {}
    for row in rows:
        bag, repeat, fold = numbers[row["bag_id"]], int(row["repeat"]), int(row["fold"])
        labels[bag], folds[repeat, bag] = int(row["label"]), fold
        scores[repeat, bag] = float(row["score"])
        thresholds[repeat, fold] = float(row["threshold"])
        assert int(row["prediction"]) == (float(row["score"]) >= float(row["threshold"]))
    assert len({*thresholds.values()}) > 1
    found = summarise_folds(labels, scores, folds, "binary", thresholds)
    assert json.loads(out.read_text())["metrics"] == json.loads(json.dumps(found))


def test_checkpoints_give_the_scores_of_their_fold(words, bag_file, tmp_path, capsys):
    out, place = tmp_path / "cv.json", tmp_path / "weights"
    changes = {"data.init_args.clip": 1.5}
    assert evaluate.main(words("--out", out, "--save-checkpoints", place, **changes)) == 0
    metrics = json.loads(out.read_text())["metrics"]
    for number in (0, 5):
        file = place / f"repeat{number // 3}_fold{number % 3}.ckpt"
        score = ["mil", "--ckpt", str(file), "--data", str(bag_file), "--draws", "2"]
        assert evaluate.main([*score, "--out", str(tmp_path / "one.json")]) == 0
        alone = json.loads((tmp_path / "one.json").read_text())["metrics"]
        assert alone == {name: summary["folds"][number] for name, summary in metrics.items()}
    capsys.readouterr()
    assert evaluate.main(words("--save-checkpoints", place, **changes)) == 2
    assert "has checkpoints of an earlier run; name a new folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_killed_by_the_system_leaves_nobody_behind(words, tmp_path):
    out, folder = tmp_path / "cv.json", tmp_path / "cv.json.folds"
    command = words("--one-by-one", "--out", out, "--trainer.max_steps", "150")
    command[command.index("--trainer.devices") + 1] = "2"
    with subprocess.Popen(
        [sys.executable, "evaluate.py", *command], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as process:
        while not list(folder.glob("repeat*.json")) and process.poll() is None:
            time.sleep(0.02)
        listed = f"/proc/{process.pid}/task/{process.pid}/children"
        children = [int(number) for number in open(listed).read().split()]  # noqa: SIM115, PTH123
        process.send_signal(signal.SIGKILL)
    assert children and not out.exists()
    end = time.monotonic() + 10
    while any(map(runs, children)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(runs, children))
    done = len(list(folder.glob("repeat*.json")))
    assert 0 < done < 6
    assert evaluate.main(command) == 0
    alone = tmp_path / "alone.json"
    command[command.index(str(out))] = str(alone)
    assert evaluate.main(command) == 0
    assert record(out) == record(alone)


def runs(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
