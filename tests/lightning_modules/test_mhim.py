"""Both stages of MHIM from the command line: weights handed on, kills, resuming, refusals."""

import csv
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import evaluate
import train
from callbacks.run.checkpoints import RunCheckpoint
from engine.checkpoints.restore import restore
from lightning_modules.mhim import MHIMModule
from lightning_modules.mil import MILModule
from lightning_modules.sc_mil import SCMILModule
from models.mil.abmil import ABMIL

ROOT = Path(__file__).resolve().parents[2]
LEARNER = "--model.init_args.model.init_args.learner.init_args"
SMALL = [
    "--config", "configs/mil/mhim_v2.yaml", "--config", "configs/_base/data/digit_bags.yaml",
    "--config", "configs/_base/small_bags.yaml",
    f"{LEARNER}.hidden_sizes", "[8]", f"{LEARNER}.attention_dim", "4",
    "--model.init_args.model.init_args.recycle.init_args.width", "8",
    "--model.init_args.model.init_args.momentum", "0.9",
    "--data.train_bags", "16", "--data.val_bags", "10", "--data.eval_batch_size", "10",
    "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.max_epochs", "2",
    "--trainer.log_every_n_steps", "1", "--checkpoint.last_seconds", "0",
    "--callbacks.curves", "false", "--callbacks.attention", "false",
    "--callbacks.confusion", "false", "--callbacks.progress", "false",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def fit(*arguments):
    assert train.main(["fit", *[str(a) for a in arguments], "--debug"]) == 0


def refused(capsys, *arguments):
    capsys.readouterr()
    assert train.main(["fit", *[str(a) for a in arguments]]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return shown


def content(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_equal_runs(found, expected):
    for folder in (Path(), Path("first_stage")):
        mine, wanted = content(found / folder), content(expected / folder)
        assert mine["global_step"] == wanted["global_step"]
        assert set(mine["state_dict"]) == set(wanted["state_dict"])
        for name, value in wanted["state_dict"].items():
            assert torch.equal(mine["state_dict"][name], value), name
    states = mine["optimizer_states"][0]["state"], wanted["optimizer_states"][0]["state"]
    for number, state in states[1].items():
        assert all(torch.equal(states[0][number][k], v) for k, v in state.items())
    assert rows(found) == rows(expected)
    assert rows(found / "first_stage") == rows(expected / "first_stage")


def rows(run):
    """What was logged, but for times and memory, of which a resumed run has its own."""
    with (run / "metrics.csv").open() as stream:
        logged = [
            {k: v for k, v in row.items() if v and not k.startswith(("time/", "memory/"))}
            for row in csv.DictReader(stream)
        ]
    return [row for row in logged if set(row) - {"step", "epoch"}]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two stages of 2 epochs of 2 steps, and its folder as kills would have left it.

    ``handed_on`` is what the second stage was given.
    """
    os.chdir(ROOT)
    runs, patch = tmp_path_factory.mktemp("runs"), pytest.MonkeyPatch()
    write, take, handed_on = RunCheckpoint._write, MHIMModule.load_first_stage, {}

    def write_and_copy(self, trainer):
        before = self._last_step
        write(self, trainer)
        if self._last_step != before:
            kind = "second" if isinstance(trainer.lightning_module, MHIMModule) else "first"
            run = runs / "mhim_v2" / "version_0"
            shutil.copytree(run, runs / f"{kind}_{self._last_step}" / "mhim_v2" / "version_0")

    def take_and_tell(self, state):
        handed_on.update({name: value.clone() for name, value in state.items()})
        take(self, state)

    patch.setattr(RunCheckpoint, "_write", write_and_copy)
    patch.setattr(MHIMModule, "load_first_stage", take_and_tell)
    fit(*SMALL, "--runs_dir", runs)
    patch.undo()
    return runs, handed_on


@pytest.fixture
def cut(whole, tmp_path):
    """Return a function that gives the run folder as a kill after a writing left it."""

    def copied(name):
        source = whole[0] / name / "mhim_v2" / "version_0"
        return shutil.copytree(source, tmp_path / "runs" / "mhim_v2" / "version_0")

    return copied


def finished(whole):
    return whole[0] / "mhim_v2" / "version_0"


@pytest.mark.slow
def test_a_file_of_a_subclass_gives_the_subclass(whole):
    file = finished(whole) / "checkpoints" / "last.ckpt"
    for kind in (MILModule, MHIMModule):
        module = kind.load_from_checkpoint(file)
        assert type(module) is MHIMModule
        torch.testing.assert_close(module.state_dict(), restore(file).module.state_dict())
    with pytest.raises(ValueError, match="holds a MHIMModule, which is no SCMILModule; use MHIM"):
        SCMILModule.load_from_checkpoint(file)


def test_the_first_stage_is_an_ordinary_run_in_the_folder(whole, tmp_path):
    run = finished(whole)
    recipe = yaml.safe_load((run / "first_stage" / "config.yaml").read_text())
    second = yaml.safe_load((run / "config.yaml").read_text())
    assert recipe["model"]["class_path"].endswith("MILModule")
    assert recipe["model"]["init_args"]["model"]["class_path"].endswith("ABMIL")
    assert recipe["model"]["init_args"]["optimizer"] == second["model"]["init_args"]["optimizer"]
    assert recipe["model"]["init_args"]["threshold"] == "youden"
    for section in ("data", "trainer", "checkpoint", "seed_everything"):
        assert recipe[section] == second[section]
    assert sorted(p.name for p in (run / "first_stage" / "checkpoints").iterdir()) == [
        "best.ckpt", "last.ckpt",
    ]  # fmt: skip
    for folder in (run, run / "first_stage"):  # each has its own four steps
        assert [int(r["step"]) for r in rows(folder) if "train/loss" in r] == [0, 1, 2, 3]
    for folder, has in ((run, True), (run / "first_stage", False)):
        assert any("train/loss_consistency" in row for row in rows(folder)) is has
    restored = restore(run / "first_stage" / "checkpoints" / "best.ckpt")
    assert isinstance(restored.module.model, ABMIL)
    out = tmp_path / "m.json"
    arguments = ["mil", "--ckpt", str(run / "first_stage/checkpoints/best.ckpt")]
    assert evaluate.main([*arguments, "--data", "configs/_base/data/digit_bags.yaml",
                          "--out", str(out)]) == 0  # fmt: skip


def test_the_best_weights_are_handed_on(whole):
    run, handed_on = finished(whole), whole[1]
    best = content(run / "first_stage", "best")["state_dict"]
    assert {f"model.{name}" for name in handed_on} == set(best)
    for name, value in handed_on.items():
        assert torch.equal(best[f"model.{name}"], value)


def test_a_finished_checkpoint_needs_no_files(whole):
    state = content(finished(whole))["state_dict"]
    assert {n.split(".")[1] for n in state} == {"student", "teacher", "recycle"}
    module = restore(finished(whole) / "checkpoints" / "last.ckpt").module
    for name, value in module.state_dict().items():
        assert torch.equal(state[name], value)
    # what moves by averages alone has moved between the second step and the fourth
    before = content(whole[0] / "second_2" / "mhim_v2" / "version_0")["state_dict"]
    for name in ("recycle.queries", "teacher.embed.1.weight", "teacher.classifier.weight"):
        assert not torch.equal(state[f"model.{name}"], before[f"model.{name}"])
    assert not torch.equal(state["model.teacher.classifier.weight"], whole[1]["classifier.weight"])


def test_resuming_the_second_stage_is_bit_equal_and_runs_no_first(whole, cut, monkeypatch):
    run = cut("second_2")
    assert content(run)["global_step"] == 2
    monkeypatch.setattr(MHIMModule, "load_first_stage", None)  # never called
    before = (run / "first_stage" / "metrics.csv").stat().st_mtime_ns
    fit("--ckpt_path", run / "checkpoints" / "last.ckpt")
    assert (run / "first_stage" / "metrics.csv").stat().st_mtime_ns == before
    assert_equal_runs(run, finished(whole))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder"),
    [("first_2", "."), pytest.param("first_4", "first_stage", marks=pytest.mark.slow)],
)
def test_a_run_killed_in_or_after_its_first_stage_goes_on(whole, cut, name, folder):
    """By the path of any other run, or by that of the first stage's own checkpoint."""
    run = cut(name)
    assert not (run / "checkpoints").exists()
    fit("--ckpt_path", run / folder / "checkpoints" / "last.ckpt")
    assert [p.name for p in run.parent.iterdir()] == ["version_0"]
    assert_equal_runs(run, finished(whole))


@pytest.mark.slow
def test_after_the_second_has_begun_the_first_is_a_run_of_its_own(whole, cut):
    run = cut("second_2")
    second = (run / "checkpoints" / "last.ckpt").read_bytes()
    last = run / "first_stage" / "checkpoints" / "last.ckpt"
    fit("--ckpt_path", last, "--trainer.max_epochs", "3")
    assert content(run / "first_stage")["global_step"] == 6
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == second


@pytest.mark.slow
def test_a_named_teacher_takes_the_place_of_the_first_stage(whole, tmp_path):
    best = finished(whole) / "first_stage" / "checkpoints" / "best.ckpt"
    file = shutil.copy(best, tmp_path / "teacher.ckpt")
    named = ["--model.init_args.teacher", file, "--runs_dir", tmp_path]
    fit(*SMALL, *named)
    run = tmp_path / "mhim_v2" / "version_0"
    assert not (run / "first_stage").exists()
    found, expected = content(run)["state_dict"], content(finished(whole))["state_dict"]
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    Path(file).unlink()  # what was taken over is in the checkpoint
    assert isinstance(restore(run / "checkpoints" / "last.ckpt").module, MHIMModule)
    fit("--ckpt_path", run / "checkpoints" / "last.ckpt", "--trainer.max_epochs", "3")
    assert content(run)["global_step"] == 6


def test_a_teacher_that_is_missing_is_refused(tmp_path, capsys):
    missing = tmp_path / "gone.ckpt"
    shown = refused(capsys, *SMALL, "--runs_dir", tmp_path, "--model.init_args.teacher", missing)
    assert f"{missing}: no such" in shown
    assert "omit model.init_args.teacher" in shown
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_a_teacher_of_another_network_is_refused(whole, tmp_path, capsys):
    quiet = [*SMALL, "--runs_dir", tmp_path]
    best = finished(whole) / "first_stage" / "checkpoints" / "best.ckpt"
    other = ["--model.init_args.teacher", best, f"{LEARNER}.attention_dim", "5"]
    shown = refused(capsys, *quiet, *other)
    assert f"{best}: weights of another model" in shown
    assert "attention_value.weight: (4, 8) for (5, 8)" in shown
    whole_run = finished(whole) / "checkpoints" / "last.ckpt"  # a student and its teacher
    shown = refused(capsys, *quiet, "--model.init_args.teacher", whole_run)
    assert f"{whole_run}: weights of another model" in shown
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_fast_dev_run_takes_a_step_in_both_and_writes_nothing(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(MHIMModule, "load_first_stage", lambda self, state: taken.append(state))
    fit(*SMALL, "--trainer.fast_dev_run", "true", "--runs_dir", tmp_path)
    assert len(taken) == 1
    assert not list(tmp_path.iterdir())
