"""Processes that a launcher, srun of Slurm or torchrun, has started for one training."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.utilities import rank_zero_info

_ALONE = (
    "each would be a whole training of its own. Start one process with --config "
    "configs/_base/ddp.yaml --trainer.devices {count}, or the {count} by srun or torchrun "
    "(docs/cluster.md)"
)
_TASK = {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"}  # variables of a task of Slurm


@dataclass(frozen=True, slots=True)
class Launch:
    """Processes of a launcher.

    Attributes:
        name: ``srun`` or ``torchrun``.
        processes: number on each node.
        nodes: number of nodes.
    """

    name: str
    processes: int
    nodes: int


def launched() -> Launch | None:
    """Return the processes to which this one belongs, None if it was started alone.

    Raises:
        ValueError: it is one of several that do not know each other, or nodes have unequal numbers.
    """
    if TorchElasticEnvironment.detect():
        world, local = _number("WORLD_SIZE"), _number("LOCAL_WORLD_SIZE")
        return _launch("torchrun", world, max(1, world // local))
    tasks = _number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    if tasks > 1:
        if not os.environ.keys() & {"SLURM_STEP_ID", "SLURM_STEPID"}:
            raise ValueError(
                f"the job has {tasks} tasks (SLURM_NTASKS), but this process is not a step of "
                f"srun: {_ALONE.format(count=tasks)}; for one process, ask for --ntasks=1"
            )
        return _launch("srun", tasks, _number("SLURM_STEP_NUM_NODES", "SLURM_NNODES"))
    count = _number("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
    if count > 1:
        raise ValueError(f"mpirun started {count} processes: {_ALONE.format(count=count)}")
    return None


def check_launcher(trainer: Any) -> None:
    """Refuse options of the trainer that do not fit the launcher's processes.

    Args:
        trainer: the ``trainer`` section of a parsed configuration.

    Raises:
        ValueError: see `launched`; or ``devices`` or the visible GPUs are not as many as processes.
    """
    if trainer.strategy != "auto":  # Lightning checks the numbers of what the user chose
        return
    launch = launched()
    if launch is None:
        return
    count, started = launch.processes, f"{launch.name} started {launch.processes} processes a node"
    if str(trainer.devices) not in ("auto", str(count)):
        raise ValueError(
            f"{started}, but trainer.devices is {trainer.devices}; leave it out or set {count}"
        )
    gpus = torch.cuda.device_count() if trainer.accelerator in ("auto", "gpu", "cuda") else 0
    if 0 < gpus < count:
        raise ValueError(
            f"{started}, but this one sees {gpus} GPU; every process needs to see all GPUs of its "
            "node: with Slurm ask for --gpus-per-node instead of --gpus-per-task"
        )


def use_launcher(trainer: Any) -> None:
    """Let all processes of a launcher train one model, as with ``configs/_base/ddp.yaml``.

    Args:
        trainer: the ``trainer`` section; changed in place unless it names a strategy.
    """
    launch = launched() if trainer.strategy == "auto" else None
    if launch is None:
        return
    trainer.strategy, trainer.devices = "ddp", launch.processes
    trainer.num_nodes = launch.nodes
    nodes = f" on each of {launch.nodes} nodes" if launch.nodes > 1 else ""
    rank_zero_info(
        f"{launch.name}: {launch.processes} processes{nodes} train one model; batch sizes are "
        "those of one process"
    )


def cluster_environment() -> ClusterEnvironment | None:
    """Return what Lightning asks about the processes in a job of Slurm, None elsewhere.

    Lightning's own choice requeues a job with a checkpoint in the working directory, which any
    later job would take, and starts no processes on several GPUs in a job of one task.
    """
    if TorchElasticEnvironment.detect() or "SLURM_NTASKS" not in os.environ:
        return None
    tasks = _number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    if tasks == 1 or not os.environ.keys() >= _TASK:
        return LightningEnvironment()
    each = tasks // _number("SLURM_STEP_NUM_NODES", "SLURM_NNODES")
    os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(each))  # Lightning insists on it
    return SLURMEnvironment(auto_requeue=False)


def _launch(name: str, processes: int, nodes: int) -> Launch | None:
    if processes % nodes:
        raise ValueError(
            f"{name} started {processes} processes on {nodes} nodes; start as many on each "
            "(--ntasks-per-node)"
        )
    return Launch(name, processes // nodes, nodes) if processes > 1 else None


def _number(*names: str) -> int:
    """Return the first of these variables that is set, 1 if none is."""
    return int(next((os.environ[name] for name in names if os.environ.get(name)), 1))
