"""What W processes measure and write is what one does: the same numbers, the same bytes."""

import contextlib
import csv
import functools
import io
import json
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightning_modules.cli import run

ROOT = Path(__file__).resolve().parents[2]
SCENES, BAGS = "configs/quickstart/mask_rcnn.yaml", "configs/quickstart/abmil.yaml"
TINY = [
    "--data.train_scenes", "16", "--data.size", "64", "--data.digits", "[1,3]",
    "--data.classes", "[3]",
    "--data.test_scenes", "5", "--data.eval_batch_size", "2",
    "--model.init_args.model.init_args.score_thresh", "0.0",
    "--model.init_args.model.init_args.max_dets", "20",
    "--model.init_args.log_val_loss", "true",
]  # fmt: skip
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]


def command(rank, world, runs, arguments):
    """Run `train.py` and return what this process knows afterwards."""
    os.chdir(ROOT)
    arguments = [str(a) for a in (*arguments, *QUIET, "--runs_dir", Path(runs) / f"on_{world}")]
    if world > 1:
        arguments += ["--config", "configs/_base/ddp.yaml", "--trainer.devices", str(world)]
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        cli = run(arguments)
    metrics = {n: v.item() for n, v in cli.trainer.callback_metrics.items()}
    return {
        "metrics": {n: v for n, v in metrics.items() if n.startswith(("val/", "test/"))},
        "threshold": getattr(cli.model, "threshold", None),
        "advice": [str(w.message) for w in caught if "sync_dist" in str(w.message)],
    }


def same(mine, wanted):
    """Compare bit for bit, undefined metrics too."""
    assert set(mine) == set(wanted)
    for name, value in wanted.items():
        assert mine[name] == value or (math.isnan(mine[name]) and math.isnan(value)), name


def files(folder):
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


RECIPES = {
    SCENES: [*TINY, "--data.val_scenes", "5", "--trainer.max_epochs", "1"],
    BAGS: [
        "--config", "configs/_base/wandb.yaml", "--data.val_bags", "31",
        "--data.eval_batch_size", "4", "--trainer.max_epochs", "2",
        "--model.init_args.threshold", "youden",
    ],
}  # fmt: skip


@dataclass
class Job:
    """A recipe trained on W processes."""

    runs: Path
    recipe: str
    ranks: list
    run_dir: Path

    @property
    def checkpoint(self):
        return ["--ckpt_path", str(self.run_dir / "checkpoints/last.ckpt")]


def train(processes, world, runs, recipe):
    arguments = ["fit", "--config", recipe, *RECIPES[recipe]]
    ranks = processes(world, command, runs=str(runs), arguments=arguments)
    (run_dir,) = (runs / f"on_{world}" / Path(recipe).stem).iterdir()
    return Job(runs, recipe, ranks, run_dir)


@pytest.fixture(scope="module")
def jobs(processes, tmp_path_factory):
    """Return one job of each kind on two processes; each is trained when it is first asked for."""
    runs = tmp_path_factory.mktemp("jobs")
    return functools.cache(lambda recipe: train(processes, 2, runs, recipe))


def test_a_job_on_bags(processes, jobs):
    """One run folder, one W&B run; its checkpoint scores on one process what the job logged."""
    job = jobs(BAGS)
    assert_scores_again(processes, job)
    assert len(list((job.run_dir / "wandb").glob("offline-run-*"))) == 1
    assert job.ranks[0]["threshold"] != 0.5
    names = set(files(job.run_dir))
    assert {"config.yaml", "metrics.csv", "checkpoints/best.ckpt"} <= names
    with (job.run_dir / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    logged = [row["val/bag_auroc"] for row in rows if row["val/bag_auroc"]]
    assert len(logged) == 2
    assert float(logged[-1]) == job.ranks[0]["metrics"]["val/bag_auroc"]
    speeds = [
        (float(r["time/bags_per_second"]), float(r["time/step"])) for r in rows if r["time/step"]
    ]
    bags_a_step = [speed * seconds for speed, seconds in speeds]
    assert bags_a_step == pytest.approx([2 * 8] * 2)  # of both processes, logged every 10 steps


def test_a_job_on_pictures(processes, jobs):
    job = jobs(SCENES)
    assert_scores_again(processes, job)
    names = {"pictures/gallery_epoch_000.png", "pictures/curves_val.png", "checkpoints/best.ckpt"}
    assert names <= set(files(job.run_dir))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [SCENES, BAGS])
def test_jobs_on_three(processes, tmp_path, recipe):
    assert_scores_again(processes, train(processes, 3, tmp_path, recipe))


def assert_scores_again(processes, job):
    """All processes know the same, and so does one process that has the checkpoint alone."""
    arguments = ["validate", "--config", job.recipe, *RECIPES[job.recipe], *job.checkpoint]
    arguments += ["--name", "again", "--wandb", "null"]
    alone = processes.alone(command, runs=str(job.runs), arguments=arguments)
    for one in job.ranks:
        same(one["metrics"], alone["metrics"])
        assert one["threshold"] == alone["threshold"]
        assert one["advice"] == []


def scored(processes, world, tmp_path, arguments):
    """Return the metrics, found equal, and the names of the files, found equal byte for byte."""
    arguments = [*arguments, "--name", "p"]
    alone, ranks = processes.beside_one(world, command, runs=str(tmp_path), arguments=arguments)
    for one in ranks:
        same(one["metrics"], alone["metrics"])
        assert one["advice"] == []  # that Lightning gives where a metric is not that of all
    once, together = (files(tmp_path / f"on_{w}") for w in (1, world))
    assert set(together) == set(once)
    written = {name: path for name, path in once.items() if "/predictions/" in name}
    for name, path in written.items():
        assert together[name].read_bytes() == path.read_bytes(), name
    return alone["metrics"], written


@pytest.mark.parametrize("subcommand", ["test", pytest.param("predict", marks=pytest.mark.slow)])
def test_pictures(processes, world, tmp_path, jobs, subcommand):
    """Three batches, the last one half full."""
    arguments = [subcommand, "--config", SCENES, *TINY, *jobs(SCENES).checkpoint]
    metrics, written = scored(processes, world, tmp_path, arguments)
    if subcommand == "test":
        assert metrics["test/box_map_50"] > 0, metrics
    assert sum(name.endswith(".png") for name in written) == 5
    rows = json.loads(written[f"p/version_0/predictions/{subcommand}.json"].read_text())
    assert sorted({row["image_id"] for row in rows}) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("subcommand", ["test", pytest.param("predict", marks=pytest.mark.slow)])
def test_bags(processes, world, tmp_path, jobs, subcommand):
    """Seven batches, the last one with five bags; the files keep the order of the data."""
    arguments = [subcommand, "--config", BAGS, "--data.test_bags", "41"]
    arguments += ["--data.eval_batch_size", "6", *jobs(BAGS).checkpoint]
    metrics, written = scored(processes, world, tmp_path, arguments)
    if subcommand == "test":
        assert {"test/bag_auroc", "test/bag_kappa", "test/witness_auroc", "test/loss"} <= set(
            metrics
        )
        assert metrics["test/loss"] > 0
    with written["p/version_0/predictions/bags.csv"].open() as stream:
        names = [row["bag_id"] for row in csv.DictReader(stream)]
    assert names == [f"test_{i:05d}" for i in range(41)]


def test_a_process_without_a_picture(processes, world, tmp_path, jobs):
    arguments = ["validate", "--config", SCENES, *TINY, "--data.val_scenes", "1"]
    arguments += jobs(SCENES).checkpoint
    metrics, _ = scored(processes, world, tmp_path, arguments)
    assert {"val/segm_map", "val/loss", "val/loss_mask"} <= set(metrics)


@pytest.mark.slow
def test_a_process_without_a_bag(processes, world, tmp_path, jobs):
    arguments = ["validate", "--config", BAGS, "--data.val_bags", "3"]
    arguments += ["--data.eval_batch_size", "10", *jobs(BAGS).checkpoint]
    metrics, _ = scored(processes, world, tmp_path, arguments)
    assert {"val/bag_auroc", "val/loss"} <= set(metrics)


def refused(rank, world, runs, arguments):
    with pytest.raises(ValueError) as caught:
        command(rank, world, runs, arguments)
    return str(caught.value)


def test_a_job_that_cannot_run_is_refused_by_every_process(processes, tmp_path):
    arguments = ["fit", "--config", BAGS, "--data.batch_size", "150"]
    for message in processes(2, refused, runs=str(tmp_path), arguments=arguments):
        assert "do not fill one step of 150 items on each of 2 processes" in message
