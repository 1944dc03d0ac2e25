"""Which launcher started the processes, and what the trainer is told."""

import os
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from engine.training.launchers import (
    Launch,
    check_launcher,
    cluster_environment,
    launched,
    use_launcher,
)

TASK = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
STEP = TASK | {"SLURM_STEP_ID": "0"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "a", "RANK": "1", "LOCAL_RANK": "1"}


@pytest.fixture
def variables(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def setting(values):
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return setting


def options(**given):
    defaults = {"strategy": "auto", "devices": "auto", "num_nodes": 1, "accelerator": "cpu"}
    return SimpleNamespace(**defaults | given)


@pytest.mark.parametrize(
    ("values", "launch"),
    [
        ({}, None),
        (TASK | {"SLURM_NTASKS": 1}, None),
        (STEP | {"SLURM_NTASKS": 2}, Launch("srun", 2, 1)),
        (STEP | {"SLURM_NTASKS": 8, "SLURM_NNODES": 2}, Launch("srun", 4, 2)),
        (STEP | {"SLURM_NTASKS": 4, "SLURM_STEP_NUM_TASKS": 1}, None),  # a step of one task
        (TORCHRUN | {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}, Launch("torchrun", 2, 1)),
        (TORCHRUN | {"WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2}, Launch("torchrun", 2, 2)),
        (TORCHRUN | {"WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}, None),
        (
            STEP | TORCHRUN | {"SLURM_NTASKS": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2},
            Launch("torchrun", 2, 1),
        ),
        ({"PMI_SIZE": 1}, None),
    ],
)
def test_the_launcher_is_recognised_and_used(variables, values, launch):
    variables(values)
    assert launched() == launch
    trainer = options()
    check_launcher(trainer)
    use_launcher(trainer)
    if launch is None:
        assert trainer == options()
    else:
        nodes = launch.nodes
        assert trainer == options(strategy="ddp", devices=launch.processes, num_nodes=nodes)


def test_what_the_user_chose_stays(variables):
    variables(STEP | {"SLURM_NTASKS": 2})
    trainer = options(strategy="ddp", devices=2)
    use_launcher(trainer)
    assert trainer == options(strategy="ddp", devices=2)


@pytest.mark.parametrize(
    ("values", "given", "message"),
    [
        (TASK | {"SLURM_NTASKS": 2}, {}, r"2 tasks .*not a step of srun.*configs/_base/ddp.yaml"),
        ({"OMPI_COMM_WORLD_SIZE": 3}, {}, r"mpirun started 3 .*ddp.yaml --trainer.devices 3"),
        (STEP | {"SLURM_NTASKS": 3, "SLURM_NNODES": 2}, {}, "3 processes on 2 nodes"),
        (STEP | {"SLURM_NTASKS": 2}, {"devices": 1}, "trainer.devices is 1; leave it out or set 2"),
    ],
)
def test_processes_that_would_each_train_are_refused(variables, values, given, message):
    variables(values)
    with pytest.raises(ValueError, match=message):
        check_launcher(options(**given))


def test_every_process_must_see_every_gpu(variables, monkeypatch):
    variables(STEP | {"SLURM_NTASKS": 2})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="sees 1 GPU.*--gpus-per-node"):
        check_launcher(options(accelerator="auto"))
    check_launcher(options(accelerator="cpu"))


def test_lightning_writes_no_checkpoint_of_its_own(variables, monkeypatch):
    assert cluster_environment() is None
    variables(TASK | {"SLURM_NTASKS": 1})
    assert isinstance(cluster_environment(), LightningEnvironment)  # it may start processes
    variables(STEP | {"SLURM_NTASKS": 2})
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "")  # is restored at the end
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    found = cluster_environment()
    assert isinstance(found, SLURMEnvironment)
    assert not found.auto_requeue
    assert os.environ["SLURM_NTASKS_PER_NODE"] == "2"
    monkeypatch.delenv("SLURM_PROCID")  # a shell of salloc
    assert isinstance(cluster_environment(), LightningEnvironment)
