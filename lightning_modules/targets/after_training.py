"""The pass over the training bags once a model of times is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from evaluation.targets.training_bags import TrainingBags
from formats.files import atomic_write
from formats.weights.files import read_file
from structures import BagBatch
from structures.processes import gather_to_all, rank_and_world_size

if TYPE_CHECKING:
    from lightning_modules.targets.module import TargetModule


class _Bags(Dataset[BagBatch]):
    """Some bags of a source, one at a time."""

    def __init__(self, source: Any, numbers: list[int]) -> None:
        self.source, self.numbers = source, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> BagBatch:
        bag: BagBatch = self.source.bag(self.numbers[place])
        return bag


def training_risks(module: TargetModule, batches: Iterable[BagBatch]) -> dict[int, float]:
    """Return the risk of each bag by its number, predicted in eval mode without gradients.

    Args:
        module: a module of a task of times; its mode is kept.
        batches: bags, on any device.
    """
    found: dict[int, float] = {}
    training = module.training
    module.eval()
    with torch.no_grad():
        for bags in batches:
            batch = bags.to(module.device).in_single_precision()
            risk = module.predict_step(batch, 0).risk(module.task).double().cpu()
            found |= dict(zip(batch.index.tolist(), risk.tolist(), strict=True))
    module.train(training)
    return found


def fitted(
    bags: TrainingBags, risks: Mapping[int, float], numbers: Iterable[int], module: TargetModule
) -> TrainingBags:
    """Return the facts of training bags with those of the trained model.

    Args:
        bags: the facts before.
        risks: risk of each bag by its number.
        numbers: the bags in the order of ``bags``.
        module: the model.
    """
    risk = np.array([risks[int(number)] for number in numbers])
    if not np.isfinite(risk).all():
        rank_zero_warn(
            f"{int((~np.isfinite(risk)).sum())} training bags have a risk that is not finite: the "
            "checkpoint gets neither a baseline nor risk groups"
        )
        return bags.without_risks()
    return bags.with_risks(risk, module.task)


def complete_checkpoints(module: TargetModule) -> None:
    """Add what the trained model says of its training bags to its checkpoints, and to the module.

    Every process must call it, and each predicts its share of the bags. A checkpoint gets what its
    own weights say, and nothing else in it changes; a file is either the old or the new one.
    """
    trainer, bags = module.trainer, module.training_bags
    data: Any = getattr(trainer, "datamodule", None)
    if bags is None or data is None or getattr(trainer, "fast_dev_run", False):
        return
    own = {name: value.detach().clone() for name, value in module.state_dict().items()}
    module.training_bags = of_these = pass_over(module, trainer, data, bags)
    try:
        for path in trainer.strategy.broadcast(_checkpoints(trainer)):
            content = read_file(path) if trainer.is_global_zero else {}
            state: Any = trainer.strategy.broadcast(content.get("state_dict"))
            complete = of_these
            if not _equal(state, own):
                module.load_state_dict(state)
                complete = pass_over(module, trainer, data, bags)
            if trainer.is_global_zero:
                content["segmil"]["facts"]["training_bags"] = complete.plain()
                with atomic_write(Path(path), durable=True) as file:
                    torch.save(content, file)
    finally:
        module.load_state_dict(own)


def _checkpoints(trainer: Any) -> list[str]:
    """Return the files of this training that exist, each once."""
    named: list[str] = []
    for callback in trainer.checkpoint_callbacks:
        kept = getattr(callback, "best_k_models", {})
        best, last = (getattr(callback, f"{n}_model_path", "") for n in ("best", "last"))
        named += [str(path) for path in (best, *kept, last) if path]
    return [path for path in dict.fromkeys(named) if Path(path).is_file()]


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    if first.keys() != second.keys():
        return False
    return all(torch.equal(value.cpu(), second[name].cpu()) for name, value in first.items())


def pass_over(module: TargetModule, trainer: Any, data: Any, bags: TrainingBags) -> TrainingBags:
    """Return the facts of training bags with the risks that a module predicts for them.

    Every process must call it, and each predicts its share of the bags.

    Args:
        module: a module of a task of times.
        trainer: its trainer, for the precision.
        data: the datamodule, with ``numbers`` and ``source``.
        bags: the facts before.
    """
    numbers, (rank, world) = [int(n) for n in data.numbers("train")], rank_and_world_size()
    loader: DataLoader[BagBatch] = DataLoader(
        _Bags(data.source("train"), numbers[rank::world]),
        batch_size=None,
        num_workers=getattr(data, "num_workers", 0),
        collate_fn=_same,
    )
    with trainer.precision_plugin.val_step_context():
        mine = training_risks(module, loader)
    risks = {number: risk for part in gather_to_all(mine) for number, risk in part.items()}
    return fitted(bags, risks, numbers, module)


def _same(bag: Any) -> Any:
    return bag
