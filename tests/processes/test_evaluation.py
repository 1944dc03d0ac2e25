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

from engine.training.command_line import run

ROOT = Path(__file__).resolve().parents[2]
SCENES, BAGS = "configs/quickstart/mask_rcnn.yaml", "configs/quickstart/abmil.yaml"
OPEN = "configs/quickstart/open_world_mask_rcnn.yaml"
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
    SCENES: [*TINY, "--data.val_scenes", "1", "--trainer.max_epochs", "1"],  # none for the second
    BAGS: [
        "--data.eval_batch_size", "4", "--trainer.max_epochs", "2",
        "--model.init_args.threshold", "youden", "--callbacks.attention.num_bags", "1",
    ],
}  # fmt: skip


@dataclass
class Job:
    """A recipe trained on W processes."""

    runs: Path
    arguments: list
    ranks: list
    run_dir: Path

    @property
    def checkpoint(self):
        return ["--ckpt_path", str(self.run_dir / "checkpoints/last.ckpt")]


def train(processes, world, runs, recipe, *more):
    arguments = ["--config", recipe, *RECIPES[recipe], *more]
    ranks = processes(world, command, runs=str(runs), arguments=["fit", *arguments])
    (run_dir,) = (runs / f"on_{world}" / Path(recipe).stem).iterdir()
    return Job(runs, arguments, ranks, run_dir)


@pytest.fixture(scope="module")
def jobs(processes, tmp_path_factory):
    """Return one job of each kind on two processes; each is trained when it is first asked for."""
    runs = tmp_path_factory.mktemp("jobs")
    more = {BAGS: ["--data.val_bags", "31", "--config", "configs/_base/wandb.yaml"], SCENES: []}
    return functools.cache(lambda recipe: train(processes, 2, runs, recipe, *more[recipe]))


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_job_on_images(processes, jobs):
    """The second process has no image to validate on."""
    job = jobs(SCENES)
    assert_scores_again(processes, job)
    assert {"val/segm_map", "val/loss", "val/loss_mask"} <= set(job.ranks[1]["metrics"])
    names = {"pictures/gallery_epoch_001.png", "pictures/curves_val.png", "checkpoints/best.ckpt"}
    assert names <= set(files(job.run_dir))


@pytest.mark.slow
def test_a_job_on_three(processes, tmp_path):
    """Two batches, of four bags and of three; the third process has none."""
    job = train(processes, 3, tmp_path, BAGS, "--data.val_bags", "7")
    assert_scores_again(processes, job)
    assert {"val/bag_auroc", "val/loss"} <= set(job.ranks[2]["metrics"])
    assert not math.isnan(job.ranks[2]["metrics"]["val/bag_auroc"])


def assert_scores_again(processes, job):
    """All processes know the same, and so does one process that has the checkpoint alone."""
    arguments = ["validate", *job.arguments, *job.checkpoint, "--name", "again", "--wandb", "null"]
    alone = processes.alone(command, runs=str(job.runs), arguments=arguments)
    for one in job.ranks:
        same(one["metrics"], alone["metrics"])
        assert one["threshold"] == alone["threshold"]
        assert one["advice"] == []


@pytest.fixture(scope="module")
def scored(processes, tmp_path_factory):
    """Return a function that runs a command on W processes and, once for all W, on one.

    It returns the metrics, found equal, and the names of the files, found equal byte for byte.
    """
    runs = tmp_path_factory.mktemp("scored")
    done, numbers = {}, {}

    def compare(world, arguments):
        key = tuple(map(str, arguments))
        number = numbers.setdefault(key, len(numbers))
        folder = runs / "_".join((arguments[0], Path(arguments[2]).stem, str(number)))
        given = {"runs": str(folder), "arguments": [*arguments, "--name", "p"]}
        if folder in done:
            ranks = processes(world, command, **given)
        else:
            done[folder], ranks = processes.beside_one(world, command, **given)
        alone = done[folder]
        for one in ranks:
            same(one["metrics"], alone["metrics"])
            assert one["advice"] == []  # that Lightning gives where a metric is not that of all
        once, together = (files(folder / f"on_{w}") for w in (1, world))
        assert set(together) == set(once)
        written = {name: path for name, path in once.items() if "/predictions/" in name}
        for name, path in written.items():
            assert together[name].read_bytes() == path.read_bytes(), name
        return alone["metrics"], written

    return compare


each = pytest.mark.parametrize(
    ("world", "subcommand"),
    [
        (2, "test"),
        pytest.param(3, "test", marks=pytest.mark.slow),
        pytest.param(2, "predict", marks=pytest.mark.slow),
    ],
)


@pytest.mark.slow
@each
def test_images(scored, world, jobs, subcommand):
    """Three batches, the last one half full."""
    arguments = [subcommand, "--config", SCENES, *TINY, *jobs(SCENES).checkpoint]
    metrics, written = scored(world, arguments)
    if subcommand == "test":
        assert metrics["test/box_map_50"] > 0, metrics
    assert sum(name.endswith(".png") for name in written) == 5
    rows = json.loads(written[f"p/version_0/predictions/{subcommand}.json"].read_text())
    assert sorted({row["image_id"] for row in rows}) == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_images_in_the_dark(scored, jobs):
    """Noise follows from the index of an image, wherever it is predicted."""
    dark = ["--data.low_light", "{input: raw3, bits: 12}"]
    arguments = ["test", "--config", SCENES, *TINY, *dark, *jobs(SCENES).checkpoint]
    metrics, _ = scored(2, arguments)
    assert metrics["test/box_map_50"] >= 0


@each
def test_bags(scored, world, jobs, subcommand):
    """Seven batches, the last one with five bags; the files keep the order of the data."""
    arguments = [subcommand, "--config", BAGS, "--data.test_bags", "41"]
    arguments += ["--callbacks.attention.num_bags", "1"]
    arguments += ["--data.eval_batch_size", "6", *jobs(BAGS).checkpoint]
    metrics, written = scored(world, arguments)
    if subcommand == "test":
        assert {"test/bag_auroc", "test/bag_kappa", "test/witness_auroc", "test/loss"} <= set(
            metrics
        )
        assert metrics["test/loss"] > 0
    with written["p/version_0/predictions/bags.csv"].open() as stream:
        names = [row["bag_id"] for row in csv.DictReader(stream)]
    assert names == [f"test_{i:05d}" for i in range(41)]


@pytest.mark.slow
def test_validated_on_three(scored, jobs):
    """Two batches, of two images and of one; the third process has none."""
    arguments = ["validate", "--config", SCENES, *TINY, "--data.val_scenes", "3"]
    metrics, _ = scored(3, [*arguments, *jobs(SCENES).checkpoint])
    assert {"val/segm_map", "val/loss", "val/loss_mask"} <= set(metrics)


@pytest.mark.slow
def test_known_and_novel_objects(scored):
    """Random weights find a few objects by chance, which is enough to compare."""
    arguments = ["validate", "--config", OPEN, "--data.val_scenes", "3", "--data.size", "64"]
    arguments += ["--data.digit_size", "[16,28]", "--data.eval_batch_size", "2"]
    arguments += ["--data.train_scenes", "8"]
    metrics, _ = scored(2, arguments)
    assert metrics["val/novel_box_ar_100"] > 0
    assert metrics["val/known_box_ar_100"] > 0


def refused(rank, world, runs, arguments):
    with pytest.raises(ValueError) as caught:
        command(rank, world, runs, arguments)
    return str(caught.value)


def test_a_job_that_cannot_run_is_refused_by_every_process(processes, tmp_path):
    arguments = ["fit", "--config", BAGS, "--data.batch_size", "150"]
    for message in processes(2, refused, runs=str(tmp_path), arguments=arguments):
        assert "do not fill one step of 150 items on each of 2 processes" in message
