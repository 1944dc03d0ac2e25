"""Two processes of MHIM-v2 end with the teacher and the queries of one with all their bags."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import train
from callbacks.run.checkpoints import RunCheckpoint
from models.mil.abmil import ABMIL
from models.mil.mhim import MHIM, GlobalRecycle
from models.mil.mhim.masking import MaskRatios
from structures import BagBatch

ROOT = Path(__file__).resolve().parents[2]
LEARNER = "--model.init_args.model.init_args.learner.init_args"
STAGES = [
    "fit", "--config", "configs/mil/mhim_v2.yaml", "--config", "configs/_base/data/digit_bags.yaml",
    "--config", "configs/_base/small_bags.yaml",
    "--config", "configs/_base/ddp.yaml", "--config", "configs/_base/wandb.yaml",
    f"{LEARNER}.hidden_sizes", "[8]", f"{LEARNER}.attention_dim", "4",
    "--model.init_args.model.init_args.recycle.init_args.width", "8",
    "--data.train_bags", "20", "--data.val_bags", "9", "--data.eval_batch_size", "4",
    "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2", "--checkpoint.last_seconds", "0",
    "--callbacks.curves", "false", "--callbacks.attention", "false",
    "--callbacks.confusion", "false", "--callbacks.progress", "false", "--debug",
]  # fmt: skip
SIZES = [5, 9, 1, 12, 3, 7]  # two steps of three bags; of two processes one has two of them


class Terms(torch.nn.Module):
    """Runs the terms inside ``forward``, where DDP prepares the averaging."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, bags, progress):
        return sum(self.model.training_losses(bags, progress).values())


def some_of(numbers):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(sum(SIZES), 4, generator=generator, dtype=torch.float64)
    parts = features.split(SIZES)
    sizes = [SIZES[n] for n in numbers]
    return BagBatch(
        features=torch.cat([parts[n] for n in numbers]),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.tensor(numbers) % 2,
        index=torch.tensor(numbers),
    )


def two_steps(rank, world):
    torch.manual_seed(1)
    model = MHIM(
        4, 2, "binary",
        learner=lambda *facts: ABMIL(*facts, hidden_sizes=(6,), attention_dim=3),
        masks=MaskRatios(random=0.3, high=0.2), momentum=0.8,
        recycle=GlobalRecycle(6, 2, heads=2, head_width=3, dropout=0.0, momentum=0.8),
        recycle_keep_ratio=0.6,
    ).double()  # fmt: skip
    for parameter in model.teacher.parameters():
        parameter.add_(0.2)
    terms = Terms(model)
    step = DistributedDataParallel(terms) if world > 1 else terms
    optimizer = torch.optim.SGD(model.student.parameters(), lr=0.5)
    for number in range(2):
        torch.manual_seed(number)  # the same key everywhere
        own = [3 * number + i for i in range(3)]
        own = own if world == 1 else [own[:2], own[2:]][rank]
        optimizer.zero_grad()
        step(some_of(own), number / 2).backward()
        optimizer.step()
        model.update_teacher(number / 2)
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_teacher_and_queries_are_those_of_one_process(processes):
    alone, ranks = processes.beside_one(2, two_steps)
    for name, value in alone.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        torch.testing.assert_close(ranks[0][name], value, rtol=0, atol=1e-10)


def both_stages(rank, world, runs):
    """Train both, and copy the folder as a kill in the first would leave it."""
    os.chdir(ROOT)
    write, copies = RunCheckpoint._write, []

    def write_and_copy(self, trainer):
        write(self, trainer)
        if not copies:
            copies.append(Path(runs) / "cut" / "mhim_v2" / "version_0")
            if rank == 0:
                shutil.copytree(self.last_path.parents[2], copies[0], symlinks=True)
            torch.distributed.barrier()

    RunCheckpoint._write = write_and_copy
    try:
        assert train.main([*STAGES, "--runs_dir", runs]) == 0
    finally:
        RunCheckpoint._write = write
    return copies[0]


def resumed(rank, world, folder):
    os.chdir(ROOT)
    assert train.main(["fit", "--ckpt_path", str(folder / "checkpoints/last.ckpt"), "--debug"]) == 0


def weights(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_both_stages_on_two_in_one_folder(processes, tmp_path, offline_wandb):
    cut = processes(2, both_stages, runs=str(tmp_path))[0]
    whole = tmp_path / "mhim_v2" / "version_0"
    assert [p.name for p in whole.parent.iterdir()] == ["version_0"]
    for folder in (whole, whole / "first_stage"):
        assert (folder / "config.yaml").is_file()
        assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
    assert not (cut / "checkpoints").exists()
    processes(2, resumed, folder=cut)
    for stage in (Path(), Path("first_stage")):
        found, expected = weights(cut / stage), weights(whole / stage)
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert torch.equal(found[name], value), name
