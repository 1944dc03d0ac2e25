import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.mil import target_figures
from callbacks.mil.bag_table import BagTable
from callbacks.mil.target_figures import TargetFigures
from evaluation.mil.collector import BagScores
from evaluation.targets.from_scores import target_predictions
from loggers.run import build_loggers, finish_loggers
from loggers.wandb_logger import WandbOptions
from structures import TargetCoding

COUNT = 8  # bags of the stand-in, of which the module predicts what it likes
LEVEL = np.arange(COUNT, dtype=np.float64)
LABELS = {
    "cox": np.stack((10 - LEVEL, LEVEL % 2), axis=1),
    "discrete_time": np.stack((10 - LEVEL, LEVEL % 2), axis=1),
    "regression": np.stack((LEVEL, LEVEL**2), axis=1),
    "ordinal": (LEVEL // 3).astype(np.int64),
}
SAYS = {
    "cox": LEVEL,
    "discrete_time": np.stack((1 - LEVEL / 10, 0.5 - LEVEL / 20), axis=1),
    "regression": np.stack((LEVEL + 1, LEVEL), axis=1),
    "ordinal": np.full((COUNT, 3), 1 / 3),
}


@pytest.fixture
def module_of(stand_in):
    def make(task, labels=None):
        class Module(stand_in.BagModule):
            target_coding = TargetCoding(
                task,
                edges=(0.0, 4.0, 10.0) if task == "discrete_time" else (),
                deviation=(1.0, 10.0) if task == "regression" else (),
            )

            def on_validation_epoch_end(self):
                super().on_validation_epoch_end()
                index = self.bag_scores.index
                truth = LABELS[task] if labels is None else labels
                self.bag_scores = BagScores(
                    self.bag_scores.bag_ids, index, truth[index], SAYS[task][index]
                )

            on_test_epoch_end = on_validation_epoch_end

            def target_predictions(self, scores):
                names = {"regression": ("a", "b"), "ordinal": ("low", "mid", "high")}
                return target_predictions(
                    scores, task, self.target_coding, None, names.get(task, ())
                )

        module = Module()
        module.task = task
        if task == "ordinal":
            module.class_names = ("low", "mid", "high")
        return module

    return make


@pytest.mark.slow
@pytest.mark.parametrize("task", LABELS)
def test_files_and_w_and_b_of_a_training(
    task, stand_in, module_of, make_trainer, offline_wandb, read_wandb
):
    folder = offline_wandb / "x" / "version_0"
    loggers = build_loggers(folder, WandbOptions())
    trainer = make_trainer([TargetFigures(), BagTable(top=1)], logger=loggers)
    trainer.fit(module_of(task), stand_in.bags(), stand_in.bags())
    finish_loggers(loggers)
    names = ["targets"] if task in ("regression", "ordinal") else ["survival", "targets"]
    assert sorted(p.name for p in (folder / "pictures").iterdir()) == [
        f"{name}_val.png" for name in names
    ]
    (offline,) = (folder / "wandb").glob("offline-run-*")
    found = read_wandb(offline)
    for name in names:
        shown = [h for h in found.history if f"val/{name}.count" in h]
        assert len(shown) >= 1 and shown[-1][f"val/{name}.captions"][0].startswith("val, epoch ")
        image = Image.open(offline / "files" / shown[-1][f"val/{name}.filenames"][0])
        drawn = Image.open(folder / "pictures" / f"{name}_val.png")
        np.testing.assert_array_equal(np.asarray(image), np.asarray(drawn))
    assert not any("val/survival.count" in h for h in found.history) or "survival" in names
    rows = found.tables("val/bags")
    assert len(rows) == COUNT
    errors = [row["error"] for row in rows]
    assert errors == sorted(errors, reverse=True)
    one = next(row for row in rows if row["bag"] == "case 3")
    assert one["instances"] == 2 and one["instance 1"] == 1
    expected = {
        "cox": {"time": 7, "event": 1, "risk": 3},
        "discrete_time": {"event": 1, "risk": -0.7 - 0.35, "S(4)": 0.7, "S(10)": 0.35},
        "regression": {"true a": 3, "predicted a": 4, "true b": 9, "predicted b": 3, "error": 1},
        "ordinal": {"truth": "mid", "decision": "low", "p(mid)": 1 / 3, "error": 2 / 3},
    }[task]
    assert {name: one[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("task", "labels", "drawn"),
    [
        ("cox", LABELS["cox"] * [1, 0], ["survival", "targets"]),  # no event
        ("cox", np.full((COUNT, 2), np.nan), []),
        ("regression", np.ones((COUNT, 2)), ["targets"]),  # constant values
        ("regression", np.full((COUNT, 2), np.nan), []),
        ("ordinal", np.full(COUNT, -1), []),
        ("ordinal", np.ones(COUNT, dtype=np.int64), ["targets"]),
    ],
)
def test_undefined_cases_are_drawn_or_told(
    task, labels, drawn, stand_in, module_of, make_trainer, tmp_path, monkeypatch
):
    told = []
    monkeypatch.setattr(target_figures, "rank_zero_info", told.append)
    trainer, module = make_trainer([TargetFigures()]), module_of(task, labels)
    for _ in range(2):
        trainer.validate(module, stand_in.bags(), verbose=False)
    found = sorted(p.name for p in (tmp_path / "run/pictures").glob("*"))
    assert found == [f"{name}_val.png" for name in drawn]
    nothing = "no figure of targets: no bag of val has a known target"
    assert told == ([] if drawn else [nothing])


def test_classes_other_processes_and_empty_splits_draw_nothing(
    stand_in, module_of, make_trainer, tmp_path, monkeypatch
):
    trainer = make_trainer([callback := TargetFigures()])
    trainer.validate(stand_in.BagModule(), stand_in.bags(), verbose=False)
    module = module_of("cox")
    module.bag_scores = BagScores((), np.zeros(0, int), np.zeros(0), np.zeros(0))
    callback.draw(trainer, module, "val")
    module.bag_scores = BagScores(tuple("abcdefgh"), np.arange(8), LABELS["cox"], SAYS["cox"])
    monkeypatch.setattr(type(trainer), "is_global_zero", False)
    callback.draw(trainer, module, "val")
    assert not (tmp_path / "run/pictures").exists()
    monkeypatch.undo()
    callback.draw(trainer, module, "test")
    assert len(list((tmp_path / "run/pictures").iterdir())) == 2


def test_bags_without_known_targets_are_last_in_the_table():
    from callbacks.mil.instance_columns import InstanceColumns
    from callbacks.mil.target_rows import target_rows

    instances = InstanceColumns({}, {}, 0)
    labels = LABELS["regression"].copy()
    labels[3], labels[5, 0] = np.nan, np.nan
    scores = BagScores(
        tuple("abcdefgh"), np.arange(8), labels, SAYS["regression"], tuple("ppqqrrss")
    )
    found = target_predictions(scores, "regression", None, None)
    columns, rows = target_rows(found, range(8), instances)
    assert columns == ["bag", "patient", "error", "true 0", "predicted 0", "true 1",
                       "predicted 1", "instances"]  # fmt: skip
    assert rows[-1][0] == "d" and np.isnan(rows[-1][2])
    assert rows[0][:3] == ["h", "s", 49 - 7]
    assert next(row for row in rows if row[0] == "f")[2] == 25 - 5  # the known value alone
    times = LABELS["cox"].copy()
    times[2] = np.nan
    scores = BagScores(tuple("abcdefgh"), np.arange(8), times, SAYS["cox"])
    columns, rows = target_rows(target_predictions(scores, "cox", None, None), range(8), instances)
    assert columns == ["bag", "error", "time", "event", "risk", "instances"]
    assert rows[-1][0] == "c" and rows[-1][3] is None
    assert torch.tensor([row[1] for row in rows[:-1]]).eq(0).all()  # all in the right order
