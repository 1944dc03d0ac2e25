"""A training that is cut and resumed ends, bit for bit, where the uninterrupted one ends."""

import contextlib
import csv
import functools
import shutil
from pathlib import Path

import pytest
import torch

import train
from callbacks.run.checkpoints import RunCheckpoint

ROOT = Path(__file__).resolve().parents[3]
BAGS = [
    "fit",
    "--config",
    "configs/quickstart/abmil.yaml",
    "--data.train_bags",
    "44",
    "--data.val_bags",
    "20",
    "--data.eval_batch_size",
    "20",
    "--trainer.log_every_n_steps",
    "1",
    "--checkpoint.last_seconds",
    "0",
    "--callbacks.curves",
    "false",
    "--callbacks.attention",
    "false",
    "--callbacks.progress",
    "false",
]  # fmt: skip  (44 bags in batches of 8: 5 steps an epoch)
EMA = ["--ema.decay", "0.9", "--ema.warmup_steps", "5"]
MEASURED = ("time/", "memory/")  # columns that no two runs share


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@contextlib.contextmanager
def snapshots(folder):
    """Keep the run folder as a kill right after each writing of last.ckpt would leave it."""
    write, kept = RunCheckpoint._write, {}

    def write_and_keep(self, trainer):
        before = self._last_step
        write(self, trainer)
        if self._last_step != before:
            run = self.last_path.parents[1]
            kept[self._last_step] = folder / f"kept{len(kept)}" / run.name
            shutil.copytree(run, kept[self._last_step])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunCheckpoint, "_write", write_and_keep)
        yield kept


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a function that gives the folder of an uninterrupted run and its snapshots by step.

    Each run is made once; what is done to a snapshot is done to a copy.
    """

    @functools.cache
    def trained(*arguments):
        folder = tmp_path_factory.mktemp("whole")
        with snapshots(folder) as kept:
            run(*arguments, "--runs_dir", folder / "runs", "--debug")
        (straight,) = folder.glob("runs/*/version_0")
        return straight, kept

    return trained


def run(*arguments):
    assert train.main([str(a) for a in arguments]) == 0


def rows(run_dir):
    with (run_dir / "metrics.csv").open() as stream:
        return [
            {k: v for k, v in r.items() if v and not k.startswith(MEASURED)}
            for r in csv.DictReader(stream)
        ]


def content(run_dir, name="last"):
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)


def same(a, b, name=""):
    """Name the first place where two checkpoints differ, None where they are equal."""
    if isinstance(a, torch.Tensor):
        return None if torch.equal(a, b) and a.dtype == b.dtype else name
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{name}: {a.keys() ^ b.keys()}"
        pairs = [(a[k], b[k], f"{name}.{k}") for k in a if not str(k).endswith(("path", "models"))]
        pairs = [p for p in pairs if not p[2].endswith(".dirpath")]
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            return name
        pairs = [(x, y, f"{name}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return None if a == b else f"{name}: {a} {b}"
    return next((found for p in pairs if (found := same(*p))), None)


def assert_resumes(straight, cuts, tmp_path):
    """Resume each cut run in its folder and compare everything it leaves with the straight run."""
    expected, table = content(straight), rows(straight)
    assert len(table) > 10
    for step, kept in cuts.items():
        assert step < expected["global_step"]
        folder = shutil.copytree(kept, tmp_path / f"cut{step}" / kept.name)
        run("fit", "--ckpt_path", folder / "checkpoints" / "last.ckpt", "--debug")
        assert same(expected, content(folder)) is None, step
        assert same(content(straight, "best"), content(folder, "best")) is None, step
        assert rows(folder) == table, step


LENGTHS = {
    "epochs": ["--trainer.max_epochs", "4"],
    "steps": ["--trainer.max_steps", "20", "--trainer.max_epochs", "-1"],
    "sparse": ["--trainer.max_epochs", "4", "--trainer.check_val_every_n_epoch", "2"],
    "inside": [
        "--trainer.max_steps", "22", "--trainer.max_epochs", "-1",
        "--trainer.val_check_interval", "3", "--trainer.check_val_every_n_epoch", "null",
    ],
    "inside_epochs": ["--trainer.max_epochs", "4", "--trainer.val_check_interval", "2"],
    "accumulated": ["--trainer.max_epochs", "4", "--trainer.accumulate_grad_batches", "2"],
}  # fmt: skip


slow = pytest.mark.slow
# Both where steps, validations and epochs fall apart; elsewhere where the average adds to what is
# kept, but for whole epochs, the usual run.
CASES = [(n, "ema") for n in LENGTHS if n != "epochs"]
CASES += [(n, "plain") for n in ("epochs", "inside", "accumulated")]
QUICK = {("inside_epochs", "ema")}
# Cut at the first writing, in the first epoch, or half-way; at both where the first one is inside
# an epoch, or before any validation.
TWICE = {("inside", "ema"), ("sparse", "ema")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "average"), [pytest.param(*c, marks=[] if c in QUICK else slow) for c in CASES]
)
def test_bags(length, average, whole, tmp_path):
    straight, kept = whole(*BAGS, *LENGTHS[length], *(EMA if average == "ema" else []))
    steps = sorted(kept)
    assert len(steps) >= 3
    case, half = (length, average), steps[len(steps) // 2]
    chosen = steps[:1] if case in QUICK else [steps[0], half] if case in TWICE else [half]
    assert_resumes(straight, {step: kept[step] for step in chosen}, tmp_path)


@slow
@pytest.mark.parametrize("length", ["sparse", "inside", "inside_epochs"])
def test_from_the_best_checkpoint(length, whole, tmp_path):
    """Such checkpoints are written inside validation, also on an epoch's last batch."""
    straight, kept = whole(*BAGS, *LENGTHS[length], *EMA)
    folder = shutil.copytree(kept[sorted(kept)[1]], tmp_path / "cut" / straight.name)
    (folder / "checkpoints" / "last.ckpt").unlink()
    step = content(folder, "best")["global_step"]
    run("fit", "--ckpt_path", folder / "checkpoints" / "best.ckpt", "--debug")
    assert same(content(straight), content(folder)) is None, step
    assert rows(folder) == rows(straight), step


@slow
@pytest.mark.parametrize("average", [pytest.param([], id="plain"), EMA])
def test_a_longer_run_continues_the_epoch_inside_which_a_shorter_one_ended(average, tmp_path):
    """Without a schedule, whose course would depend on the length."""
    steps = ["--trainer.max_epochs", "-1", "--model.init_args.lr_scheduler", "null", *average]
    run(*BAGS, *steps, "--trainer.max_steps", "13", "--runs_dir", tmp_path, "--debug")
    run(*BAGS, *steps, "--trainer.max_steps", "7", "--runs_dir", tmp_path, "--debug")
    straight, short = (tmp_path / "abmil" / f"version_{k}" for k in (0, 1))
    last = short / "checkpoints" / "last.ckpt"
    run("fit", "--ckpt_path", last, "--trainer.max_steps", "13", "--debug")
    assert same(content(straight), content(short)) is None
    assert rows(short) == rows(straight)


SCENES = [
    "fit", "--config", "configs/quickstart/mask_rcnn.yaml", "--data.train_scenes", "6",
    "--data.val_scenes", "2", "--data.eval_batch_size", "2", "--data.size", "64",
    "--trainer.limit_train_batches", "1.0", "--trainer.log_every_n_steps", "1",
    "--callbacks.curves", "false", "--callbacks.gallery", "false",
    "--callbacks.progress", "false", "--checkpoint.last_seconds", "0",
]  # fmt: skip


@slow
@pytest.mark.parametrize(("workers", "cuts"), [(0, [2]), (2, [2, 3])])
def test_scenes_with_batch_norm_and_workers(workers, cuts, whole, tmp_path):
    """Inside an epoch, where the loader has drawn ahead, and at its end."""
    inside = ["--trainer.max_epochs", "2", "--trainer.val_check_interval", "2"]
    augmented = [f"--data.num_workers={workers}"]
    augmented += ['--data.augmentations=[{"name": "HorizontalFlip", "p": 0.5}]']
    straight, kept = whole(*SCENES, *inside, *augmented, *EMA)
    assert sorted(kept) == [2, 3, 5, 6]
    assert_resumes(straight, {step: kept[step] for step in cuts}, tmp_path)
