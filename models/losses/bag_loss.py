"""The loss of bags in every multiple-instance model, whatever their target is."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from models.losses.bag_classification import bag_classification_loss, mean_over_bags
from models.losses.survival import (
    Ties,
    cox_shares,
    discrete_time_loss,
    ordinal_loss,
    regression_loss,
)
from models.ops.bags.gather_rows import gather_rows, own_rows
from models.ops.distributed import global_mean_count
from structures import MILOutput, MILTask
from structures.processes import world_size

Reduction = Literal["mean", "none"]


def bag_loss(
    logits: Tensor, labels: Tensor, task: MILTask, present: Tensor | None = None
) -> Tensor:
    """Return the loss of each bag.

    Where a bag has K predictions, from branches, layers or pseudo-bags, its loss is the mean of
    theirs. The risk set of ``cox`` is the bags of this batch on all processes, for each of the K by
    itself (A743); every process must call it. Without gradients it is the batch of this process.

    Args:
        logits: (B, C), or (B, K, C) for several predictions of a bag.
        labels: (B,) or (B, C), coded; see `BagBatch`.
        task: what the logits mean.
        present: (B, K) bool, False for predictions that do not exist; at least one of a bag does.

    Returns:
        (B,). For ``cox`` the bag's share of the loss times the number of events, see `cox_shares`.
    """
    if task == "cox":
        return cox_bag_loss(logits, labels, present=present)
    if logits.ndim == 2:
        return _loss_of_task(logits, labels, task)
    repeated = labels.repeat_interleave(logits.shape[1], dim=0)
    each = _loss_of_task(logits.flatten(0, 1), repeated, task).view(logits.shape[:2])
    if present is None:
        return each.mean(dim=1)
    return each.masked_fill(~present, 0).sum(dim=1) / present.sum(dim=1)


def _loss_of_task(logits: Tensor, labels: Tensor, task: MILTask) -> Tensor:
    if task == "discrete_time":
        return discrete_time_loss(logits, labels)
    if task == "ordinal":
        return ordinal_loss(logits, labels)
    if task == "regression":
        return regression_loss(logits, labels)
    return bag_classification_loss(logits, labels, task)


def cox_bag_loss(
    logits: Tensor, labels: Tensor, ties: Ties = "efron", present: Tensor | None = None
) -> Tensor:
    """Return the share of each bag, (B,); see `bag_loss`.

    Args:
        logits: (B, 1) log-risks, or (B, K, 1), of which each of the K has its own risk sets.
        labels: (B, 2) times and events.
        ties: see `cox_shares`.
        present: (B, K) bool, or None.
    """
    risks = logits.flatten(1)  # (B, K)
    together = torch.is_grad_enabled() and world_size() > 1
    bags = slice(None)
    everywhere = present
    if together:
        bags = own_rows(risks)
        risks, labels = gather_rows(risks), gather_rows(labels)
        # gloo gathers no bool
        everywhere = None if present is None else gather_rows(present.to(torch.uint8)).bool()
    times, events = labels[:, 0], labels[:, 1] == 1
    masks = [None] * risks.shape[1] if everywhere is None else everywhere.unbind(1)
    columns = [
        cox_shares(column, times, events, ties, mask)
        for column, mask in zip(risks.unbind(1), masks, strict=True)
    ]
    shares = torch.stack(columns, dim=1)[bags]  # (B, K)
    return shares.mean(dim=1) if present is None else shares.sum(dim=1) / present.sum(dim=1)


def counted_bags(labels: Tensor, task: MILTask) -> Tensor:
    """Return (B,) bool, True for bags over whose number the loss of a batch is averaged.

    Those with an event for ``cox``; for ``regression`` and ``ordinal`` those with a known target
    (A744), since others have no loss; all for the other tasks.
    """
    if task == "cox":
        return labels[:, 1] == 1
    if task == "regression":
        return ~labels.isnan().all(dim=1)
    if task == "ordinal":
        return labels >= 0
    return torch.ones(labels.shape[0], dtype=torch.bool, device=labels.device)


def reduce_bag_loss(losses: Tensor, labels: Tensor, task: MILTask, reduction: Reduction) -> Tensor:
    """Return the values of `bag_loss`, or their mean over the counted bags of all processes.

    Without gradients, the mean is over the bags of this process.

    Args:
        losses: (B,), of the bags that are not counted 0.
        labels: labels of the bags.
        task: what the labels are.
        reduction: ``none`` leaves (B,) values, ``mean`` gives a scalar.
    """
    if reduction == "none":
        return losses
    if task in ("binary", "multiclass", "multilabel", "discrete_time"):
        return mean_over_bags(losses)
    count = counted_bags(labels, task).sum().to(losses.device)
    return losses.sum() / global_mean_count(count, losses.dtype)


def bag_terms(
    output: MILOutput, labels: Tensor, task: MILTask, reduction: Reduction = "mean"
) -> dict[str, Tensor]:
    """Return the loss terms that compare predictions with labels: scalars, or (B,).

    Args:
        output: output of a model; `MILOutput.supervised` says which predictions it has.
        labels: labels of the bags.
        task: what the logits mean.
        reduction: see `reduce_bag_loss`.
    """
    return {
        name: reduce_bag_loss(bag_loss(logits, labels, task, present), labels, task, reduction)
        for name, (logits, present) in output.supervised().items()
    }
