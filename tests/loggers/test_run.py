"""Run folders and the loggers in them."""

import os

import pytest
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only

from loggers.run import build_loggers, forget_run_dir, next_run_dir, remove_empty_run
from loggers.wandb_logger import WandbOptions


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in ("SEGMIL_RUN_DIR", "LOCAL_RANK", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    yield
    forget_run_dir()


def test_a_run_folder_is_never_used_twice(tmp_path):
    assert next_run_dir(tmp_path, "a") == tmp_path / "a" / "version_0"
    for name in ("version_0", "version_7", "version_x", "notes"):
        (tmp_path / "a" / name).mkdir(parents=True)
    assert next_run_dir(tmp_path, "a") == tmp_path / "a" / "version_8"


def test_processes_that_a_job_launches_share_its_folder(tmp_path, monkeypatch):
    first = next_run_dir(tmp_path, "a")
    first.mkdir(parents=True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert next_run_dir(tmp_path, "a") == first
    forget_run_dir()
    assert next_run_dir(tmp_path, "a") == tmp_path / "a" / "version_1"


def test_the_csv_logger_writes_into_the_run_folder(tmp_path):
    (logger,) = build_loggers(tmp_path / "a" / "version_3", None)
    assert isinstance(logger, CSVLogger)
    assert logger.log_dir == str(tmp_path / "a" / "version_3")


def test_wandb_stays_inside_the_run_folder(tmp_path):
    options = WandbOptions(project="p", group="g", tags=("t",))
    _, logger = build_loggers(tmp_path / "a" / "version_0", options)
    assert logger.save_dir == str(tmp_path / "a" / "version_0")
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "a" / "version_0" / "wandb")
    build_loggers(tmp_path / "a" / "version_1", options)
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "a" / "version_1" / "wandb")


@pytest.mark.parametrize(("rank", "node"), [(1, "0"), (0, "1")])
def test_a_process_that_is_not_the_first_of_its_job_creates_nothing(
    tmp_path, monkeypatch, rank, node
):
    """torchrun and Slurm start every process alike; each makes up a folder, one of them counts."""
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    monkeypatch.setenv("NODE_RANK", node)
    build_loggers(next_run_dir(tmp_path, "a"), WandbOptions())
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_not_begun_is_removed_with_its_empty_folders(tmp_path):
    run = next_run_dir(tmp_path / "runs", "a")
    remove_empty_run()  # nothing is there yet
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    remove_empty_run()
    assert not list(tmp_path.iterdir())


def test_a_run_that_has_begun_is_kept(tmp_path, monkeypatch):
    run = next_run_dir(tmp_path, "a")
    run.mkdir(parents=True)
    (run / "metrics.csv").touch()
    remove_empty_run()
    assert run.is_dir()
    (run / "metrics.csv").unlink()
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # another process of the job
    remove_empty_run()
    assert run.is_dir()
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    (tmp_path / "a" / "notes").touch()
    remove_empty_run()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["notes"]
