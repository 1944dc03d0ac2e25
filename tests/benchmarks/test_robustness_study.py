"""The study of robustness: order of its runs, commands of the trainings, nothing done twice."""

import json

import pytest
import yaml

from benchmarks import robustness_study as study
from benchmarks.robustness import plan, training
from benchmarks.robustness.plan import BAGS, DIGITS, METHODS, NUCLEI, SETS, Run


def test_a_seed_is_complete_before_the_next():
    runs = list(plan.runs((0, 1), SETS))
    count = sum(map(len, METHODS.values()))
    assert [run.seed for run in runs] == [0] * count + [1] * count
    assert len(set(runs)) == 2 * count
    assert [run.data for run in plan.runs((2,), [NUCLEI, DIGITS], ["yolo"])] == [DIGITS, NUCLEI]


@pytest.mark.parametrize("method", [m for ms in METHODS.values() for m in ms.values()])
def test_recipes_are_there(method):
    for name in (method.recipe, *method.overlays):
        assert (plan.ROOT / "configs" / name).is_file()


def test_command_of_a_training(tmp_path):
    run = Run(NUCLEI, "scratch_gn", 2)
    method = METHODS[NUCLEI]["scratch_gn"]
    words = training.command(run, method, 7, tmp_path, {NUCLEI: tmp_path / "data"})
    options = dict(zip(words[-14::2], words[-13::2], strict=True))
    assert ["--data.root", str(tmp_path / "data")] == words[5:7]
    assert options["--trainer.max_steps"] == "7"
    assert options["--seed_everything"] == options["--data.seed"] == "2"
    changes = yaml.safe_load((tmp_path / "changes.yaml").read_text())
    backbone = changes["model"]["init_args"]["model"]["init_args"]["backbone"]["init_args"]
    assert backbone == {"weights": None, "norm": "gn"}


class Trainer:
    """Stands for `train.py`: keeps the commands and writes a checkpoint."""

    def __init__(self):
        self.commands = []

    def main(self, words):
        self.commands.append(dict(zip(words[1::2], words[2::2], strict=True)))
        place = training.Path(self.commands[-1]["--runs_dir"]) / "model/version_0/checkpoints"
        place.mkdir(parents=True)
        (place / "last.ckpt").write_bytes(b"weights")
        return 0


@pytest.fixture
def trainer(monkeypatch):
    """Replace `train.py`."""
    made = Trainer()
    monkeypatch.setattr(training, "train", made)
    return made


def test_frozen_statistics_are_those_of_half_a_training(tmp_path, trainer):
    run, root = Run(DIGITS, "mask_rcnn_frozen", 1), tmp_path / "study"
    checkpoint = training.trained(run, root, {})
    first, second = trainer.commands
    steps = METHODS[DIGITS]["mask_rcnn_bn"].steps
    assert int(first["--trainer.max_steps"]) + int(second["--trainer.max_steps"]) == steps
    begun = run.folder(root) / "start/model/version_0/checkpoints/last.ckpt"
    assert second["--model.init_args.init_from"] == str(begun)
    assert "--model.init_args.init_from" not in first
    assert checkpoint == run.folder(root) / "model/version_0/checkpoints/last.ckpt"
    assert training.trained(run, root, {}) == checkpoint
    assert len(trainer.commands) == 2
    moved = root.rename(tmp_path / "moved")
    assert training.trained(run, moved, {}) == moved / checkpoint.relative_to(root)


def test_runs_and_cells_are_done_once(tmp_path, trainer, monkeypatch, capsys):
    scored = []

    def score(run, root, checkpoint, until):
        assert checkpoint.is_file()
        scored.append(run)
        return 0

    monkeypatch.setattr(study, "score_bags", score)
    words = ["--sets", BAGS, "--seeds", "0", "--folder", str(tmp_path)]
    assert study.main([*words, "--part", "score"]) == 0
    assert not trainer.commands
    assert not scored
    assert study.main([*words, "--part", "train"]) == 0
    assert not scored
    for _ in range(2):
        assert study.main(words) == 0
    assert len(trainer.commands) == len(METHODS[BAGS])
    assert scored == 2 * list(plan.runs((0,), [BAGS]))
    study.main([*words, "--seconds", "0"])
    assert len(scored) == 2 * len(METHODS[BAGS])
    assert "No model is scored yet" in capsys.readouterr().out


def test_data_are_asked_for(capsys):
    with pytest.raises(SystemExit):
        study.main(["--sets", NUCLEI])
    assert "--nuclei is missing" in capsys.readouterr().err


def test_the_page_keeps_its_other_text(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{study.BEGIN}\n\nold\n\n{study.END}\n\nafter\n")
    study.publish("new", page)
    assert page.read_text() == f"before\n\n{study.BEGIN}\n\nnew\n\n{study.END}\n\nafter\n"


def test_records_of_trainings(tmp_path, trainer):
    run = Run(BAGS, "abmil", 0)
    training.trained(run, tmp_path, {})
    record = json.loads((run.folder(tmp_path) / training.DONE).read_text())
    assert record["steps"] is None
    assert record["seconds"] >= 0
