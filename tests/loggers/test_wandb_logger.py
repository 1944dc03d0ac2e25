"""W&B as a logger: what a run leaves behind, and every way in which W&B can fail."""

import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from callbacks.results.class_table import ClassTable
from callbacks.run.best_values import BestValues
from lightning_modules.mil import MILModule
from lightning_modules.segmentation import SegmentationModule
from loggers import wandb_logger
from loggers.metric_names import best_of
from loggers.run import build_loggers, finish_loggers
from loggers.wandb_logger import SafeWandbLogger, WandbOptions
from loggers.wandb_names import display_name


@pytest.fixture
def loggers(offline_wandb):
    """Return a function that builds the loggers of the run folder, finished after the test."""
    built = []

    def build(**options):
        built.append(build_loggers(offline_wandb / "x" / "version_0", WandbOptions(**options)))
        return built[-1]

    yield build
    for some in built:
        finish_loggers(some)


def runs(folder):
    return sorted((folder / "x/version_0/wandb").glob("offline-run-*"))


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if "W&B" in r.getMessage()]


def children():
    """Return the processes that this one started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid() and fields[0] != "Z":
                found.append((int(entry.name), (entry / "cmdline").read_text()))
    return found


def kill_service():
    for number, command in children():
        if "wandb" in command:
            os.kill(number, signal.SIGKILL)
    time.sleep(0.3)


def save_checkpoints(logger, folder):
    """Tell a logger of a best and a last checkpoint."""
    for name in ("best", "last"):
        (folder / f"{name}.ckpt").write_text(f"weights of {name}")
    logger.after_save_checkpoint(
        SimpleNamespace(
            last_path=folder / "last.ckpt",
            best_model_path=str(folder / "best.ckpt"),
            best_model_score=0.5,
            monitor="val/segm_map",
        )
    )


def assert_models(run, run_id, aliases, folder):
    """The checkpoints of these names, and no others, are artifacts of a run."""
    models = [a for a in run.artifacts if a["type"] == "model"]
    assert [next(n for n in a["aliases"] if n != "latest") for a in models] == aliases
    for alias, artifact in zip(aliases, models, strict=True):
        assert artifact["name"] == f"model-{run_id}"
        (content,) = artifact["manifest"]["contents"]
        assert content["path"] == f"{alias}.ckpt"
        staged = Path(content["local_path"])
        assert staged.is_relative_to(folder)  # a sync needs nothing from the home folder
        assert staged.read_text() == f"weights of {alias}"
        assert ('"score":0.5' in artifact["metadata"].replace(" ", "")) == (alias == "best")


@pytest.mark.slow
def test_history_summary_groups_and_definitions_are_read_back(loggers, offline_wandb, read_wandb):
    both = loggers(group="folds", job_type="fold3", tags=("a", "b"), checkpoints="none")
    logger = both[1]
    logger.logged_by = SegmentationModule
    assert not runs(offline_wandb)  # nothing starts before something is logged
    logger.log_hyperparams({"model": {"lr": 0.5, "sizes": [1, 2]}, "data_hash": "abc"})
    for step, (score, loss) in enumerate([(0.25, 3.0), (0.75, 1.0), (0.5, 2.0)]):
        metrics = {"val/segm_map": score, "val/loss": loss, "time/step": loss}
        logger.log_metrics(metrics, step=10 * step)
    save_checkpoints(logger, offline_wandb)
    logger.finalize("success")
    finish_loggers(both)
    (folder,) = runs(offline_wandb)
    run = read_wandb(folder)
    assert run.state == "finished"
    assert run.config["model"] == {"lr": 0.5, "sizes": [1, 2]}
    assert run.config["data_hash"] == "abc"
    assert run.summary["val/segm_map"] == {"max": 0.75, "last": 0.5}
    assert run.summary["val/loss"] == {"min": 1.0, "last": 2.0}
    assert run.summary["time/step"] == 2.0
    assert [h["val/segm_map"] for h in run.history] == [0.25, 0.75, 0.5]
    assert [h["trainer/global_step"] for h in run.history] == [0, 10, 20]
    assert run.metrics["val/segm_map"]["step_metric"] == "trainer/global_step"
    assert (run.record["run_group"], run.record["job_type"]) == ("folds", "fold3")
    assert sorted(run.record["tags"]) == ["a", "b"]
    assert run.record["display_name"] == "x/version_0"
    assert_models(run, logger.version, [], offline_wandb)


@pytest.mark.slow
def test_a_run_that_goes_on_in_its_folder_is_the_same_wandb_run(loggers, offline_wandb, read_wandb):
    """It keeps the best checkpoint at first, and then the last one."""
    for value, wanted in ((1.0, "best"), (2.0, "last")):
        both = loggers(checkpoints=wanted)
        both[1].log_metrics({"val/loss": value}, step=1)
        save_checkpoints(both[1], offline_wandb)
        both[1].finalize("success")
        finish_loggers(both)
        time.sleep(1.1)  # the folders' names have seconds
    first, second = (read_wandb(folder) for folder in runs(offline_wandb))
    assert first.record["run_id"] == second.record["run_id"]
    known = (offline_wandb / "x/version_0/wandb_run_id").read_text().strip()
    assert known == second.record["run_id"]
    assert second.record["resume"] is True
    assert second.history[0]["val/loss"] == 2.0
    assert_models(first, known, ["best"], offline_wandb)
    assert_models(second, known, ["last"], offline_wandb)


@pytest.mark.slow
def test_checkpoints_become_artifacts(loggers, offline_wandb, read_wandb):
    both = loggers(checkpoints="both")
    save_checkpoints(both[1], offline_wandb)
    both[1].log_metrics({"val/segm_map": 0.5}, step=1)
    both[1].finalize("failed")
    both[1].finalize("success")
    run_id = both[1].version
    finish_loggers(both)
    (folder,) = runs(offline_wandb)
    assert_models(read_wandb(folder), run_id, ["last", "best"], offline_wandb)


def fail_to_start(monkeypatch, offline_wandb):
    import wandb

    def refuse(**kwargs):
        raise wandb.errors.CommError("no service")

    monkeypatch.setattr(wandb, "init", refuse)


def not_importable(monkeypatch, offline_wandb):
    monkeypatch.setitem(sys.modules, "wandb", None)


def disk_full(monkeypatch, offline_wandb):
    import wandb

    def refuse(**kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wandb, "init", refuse)


@pytest.mark.parametrize("break_it", [fail_to_start, not_importable, disk_full])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_training_goes_on_without_wandb(
    break_it, loggers, offline_wandb, stand_in, make_trainer, monkeypatch, caplog
):
    break_it(monkeypatch, offline_wandb)
    both = loggers(checkpoints="both")
    trainer = make_trainer([ClassTable(), BestValues()], logger=both, max_epochs=2)
    with caplog.at_level(logging.WARNING):
        trainer.fit(stand_in.SegModule(), stand_in.images(), stand_in.images())
        both[1].experiment.summary.update({"anything": 1})  # what other callbacks may do
        both[1].experiment.config["anything"] = 1
        finish_loggers(both)
    assert trainer.state.finished
    assert both[1].failed
    assert len(warnings(caplog)) == 1
    folder = offline_wandb / "x" / "version_0"
    assert "val/segm_map" in (folder / "metrics.csv").read_text().splitlines()[0]
    assert (folder / "per_class.csv").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the service through /proc")
@pytest.mark.parametrize("moment", ["before a metric", "before the end"])
def test_a_service_that_dies_in_the_middle_is_left_alone(
    moment, loggers, offline_wandb, caplog, read_wandb
):
    both = loggers()
    both[1].log_metrics({"val/loss": 1.0}, step=1)
    kill_service()
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        if moment == "before a metric":
            for step in (2, 3):
                both[1].log_metrics({"val/loss": 1.0}, step=step)
                both[1].log_hyperparams({"a": step})
        finish_loggers(both)
    assert time.monotonic() - start < 20
    assert both[1].failed
    assert len(warnings(caplog)) == 1
    # The next training of this process has a service again.
    again = loggers()
    again[1].log_metrics({"val/loss": 2.0}, step=4)
    finish_loggers(again)
    assert not again[1].failed
    assert read_wandb(runs(offline_wandb)[-1]).history[0]["val/loss"] == 2.0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the service through /proc")
def test_a_service_that_died_between_two_runs_is_replaced(
    loggers, offline_wandb, caplog, read_wandb
):
    first = loggers()
    first[1].log_metrics({"val/loss": 1.0}, step=1)
    finish_loggers(first)
    kill_service()
    second = loggers()
    with caplog.at_level(logging.WARNING):
        second[1].log_metrics({"val/loss": 2.0}, step=2)
        finish_loggers(second)
    assert not second[1].failed
    assert not warnings(caplog)
    assert len(runs(offline_wandb)) == 2  # the attempt that failed leaves no folder
    assert read_wandb(runs(offline_wandb)[-1]).history[0]["val/loss"] == 2.0


@pytest.mark.slow
def test_a_service_of_a_parent_process_that_is_gone_is_replaced(
    loggers, offline_wandb, monkeypatch, caplog
):
    wandb_logger._discard_service()
    monkeypatch.setenv("WANDB_SERVICE", f"3-{os.getpid()}-unix-{offline_wandb}/gone")
    both = loggers()
    with caplog.at_level(logging.WARNING):
        both[1].log_metrics({"val/loss": 1.0}, step=1)
        finish_loggers(both)
    assert not both[1].failed
    assert not warnings(caplog)
    assert len(runs(offline_wandb)) == 1


def test_what_an_attempt_left_goes_in_either_mode(offline_wandb, monkeypatch):
    import wandb

    logger = SafeWandbLogger(offline_wandb / "x" / "version_0", WandbOptions())
    parent = offline_wandb / "x/version_0/wandb"
    (parent / "offline-run-1-old").mkdir(parents=True)
    (parent / "latest-run").symlink_to("offline-run-1-old")
    attempts = iter(["run-2-a", "offline-run-2-b"])

    def init(**given):
        (parent / next(attempts)).mkdir()
        if len(list(parent.glob("*-2-*"))) == 1 and not (parent / "offline-run-2-b").exists():
            raise ConnectionResetError("Connection lost")
        return "run"

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "teardown", lambda: None)
    assert logger._init(mode="online") == "run"
    left = sorted(path.name for path in parent.iterdir())
    assert left == ["latest-run", "offline-run-1-old", "offline-run-2-b"]


def test_wandb_that_is_not_installed_leaves_the_table(offline_wandb, monkeypatch):
    import pytorch_lightning.loggers.wandb as lightning

    monkeypatch.setattr(lightning, "_WANDB_AVAILABLE", False)
    with pytest.warns(UserWarning, match="not installed"):
        (table,) = build_loggers(offline_wandb / "x" / "version_0", WandbOptions())
    assert not isinstance(table, SafeWandbLogger)


def test_online_without_a_login_asks_nobody_and_writes_to_disk(loggers, offline_wandb, caplog):
    both = loggers(mode="online")
    with caplog.at_level(logging.WARNING):
        both[1].log_metrics({"val/loss": 1.0}, step=1)
    finish_loggers(both)
    assert len(runs(offline_wandb)) == 1
    assert [m for m in warnings(caplog) if "logged in" in m]


def test_a_server_that_does_not_answer_leaves_an_offline_run(
    loggers, offline_wandb, monkeypatch, caplog
):
    import wandb

    start, modes = wandb.init, []

    def init(mode, **given):
        modes.append(mode)
        if mode == "online":
            raise wandb.errors.CommError("timed out")
        return start(mode=mode, **given)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb_logger, "_logged_in", lambda: True)
    both = loggers(mode="online")
    with caplog.at_level(logging.WARNING):
        both[1].log_metrics({"val/loss": 1.0}, step=1)
    finish_loggers(both)
    assert modes == ["online", "offline"]
    assert len(runs(offline_wandb)) == 1
    assert [m for m in warnings(caplog) if "timed out" in m]
    assert not both[1].failed


@pytest.mark.parametrize(("asked", "mode"), [("dryrun", "offline"), ("disabled", "disabled")])
def test_the_environment_can_switch_an_online_run_off(asked, mode, offline_wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", asked)
    logger = SafeWandbLogger(offline_wandb / "x" / "version_0", WandbOptions(mode="online"))
    assert logger._mode() == mode


def test_waiting_for_the_end_is_bounded():
    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        wandb_logger._run_with_timeout(0.05, lambda: time.sleep(2))
    with pytest.raises(KeyError):
        wandb_logger._run_with_timeout(5, lambda: {}["x"])


def test_processes_after_the_first_touch_nothing(loggers, offline_wandb, monkeypatch):
    from pytorch_lightning.utilities import rank_zero_only

    both = loggers()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    both[1].log_metrics({"val/loss": 1.0}, step=1)
    both[1].log_hyperparams({"a": 1})
    both[1].experiment.anything()
    finish_loggers(both)
    assert not runs(offline_wandb)
    assert not (offline_wandb / "x/version_0/wandb_run_id").exists()


@pytest.mark.parametrize(
    ("module", "high"),
    [
        (SegmentationModule, ["val/segm_map", "val/box_ar_100", "val/box_map_small"]),
        (MILModule, ["val/bag_auroc", "val/bag_balanced_accuracy", "val/witness_auroc"]),
    ],
)
def test_only_what_has_a_best_value_keeps_it(module, high):
    assert [best_of(name, module) for name in high] == ["max"] * 3
    low = ["train/loss", "train/loss_mask", "val/loss"]
    assert [best_of(name, module) for name in low] == ["min"] * 3
    others = ["test/segm_map", "lr-SGD", "time/step", "best/val/bag_auroc", "val/gallery", "epoch"]
    assert [best_of(name, module) for name in others] == [None] * 6


def test_a_module_declares_what_is_better_when_lower():
    class Calibrated(MILModule):
        metric_names = (*MILModule.metric_names, "val/bag_ece")
        lower_is_better = (*MILModule.lower_is_better, "val/bag_ece")

    assert best_of("val/bag_ece", Calibrated) == "min"
    assert best_of("val/bag_ece", MILModule) is None
    assert best_of("val/bag_auroc", object()) is None


def test_a_stage_is_named_after_its_run(tmp_path):
    folder = tmp_path / "mhim" / "version_3"
    assert display_name(folder) == "mhim/version_3"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    assert display_name(folder) == "mhim/version_3"
    assert display_name(folder / "first_stage") == "mhim/version_3/first_stage"
