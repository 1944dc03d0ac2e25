"""Measures of a trained model on synthetic slides, for bags and for instances."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.wsi_mil.bags import KINDS, SlideSet
from evaluation.mil.metrics import auroc, average_precision
from models.losses.supervised_contrastive import supervised_contrastive_loss
from models.mil.mhim import MHIM
from models.mil.sc_mil import SCMIL
from structures import BagBatch, MILOutput

FloatArray = npt.NDArray[np.float64]


def bag_auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the probability that a positive bag scores higher than a negative one."""
    positive, values = np.asarray(labels) == 1, np.asarray(scores, dtype=np.float64)
    return float(auroc(positive, values, np.ones((1, values.size)))[0])


def bag_auprc(labels: npt.ArrayLike, scores: npt.ArrayLike, negatives: float) -> float:
    """Return the average precision at ``negatives`` negative bags per positive bag.

    The bags are weighted to this ratio.
    """
    positive, values = np.asarray(labels) == 1, np.asarray(scores, dtype=np.float64)
    weights = np.where(positive, 1.0, negatives * positive.sum() / (~positive).sum())
    return float(average_precision(positive, values, weights[None])[0])


def effective_number(attention: FloatArray) -> float:
    """Return exp of the entropy: N for uniform attention, 1 for attention on one instance.

    Args:
        attention: (N,) with the sum 1.
    """
    positive = attention[attention > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def learner_of(model: Any) -> Any:
    """Return the model that predicts: the ABMIL or DSMIL itself, or the one inside."""
    for name in ("student", "learner"):
        model = getattr(model, name, model)
    return model


@torch.no_grad()
def predict(module: Any, bags: SlideSet) -> dict[str, Any]:
    """Return ``labels`` and ``logits`` of all bags and measures of the attention.

    Means over all bags: ``effective`` and ``effective_share``, the effective number of instances,
    absolute and as a fraction of N. Means over positive bags: ``witness_auroc``, AUROC of witnesses
    against other instances by attention; ``witness_attention`` and ``witness_share``, the
    witnesses' fraction of the attention and of the instances; ``relative_attention``, N times the
    mean attention of an instance of each kind. ``instance_auroc`` is the AUROC of witnesses against
    the other instances of all bags by N times the contribution of an instance to the logit, or by
    the logit of the instance for INS and DSMIL.
    """
    model = learner_of(module.model).eval()
    logits, effective, rows, evidence, truth = [], [], [], [], []
    for number, slide in enumerate(bags.slides):
        embedded = model.embed_bags(bags.bag(number))
        output = model.pool(embedded)
        attention = output.attention.double().numpy()
        size = attention.size
        logits.append(float(output.logits))
        effective.append((effective_number(attention), effective_number(attention) / size))
        evidence.append(_evidence(model, embedded, output))
        truth.append(slide.witnesses)
        if slide.label:
            rows.append(_attention(attention, slide.kinds, slide.witnesses))
    number, share = np.mean(effective, axis=0)
    names = ("witness_auroc", "witness_attention", "witness_share", *KINDS)
    means = dict(zip(names, np.nanmean(rows, axis=0).tolist(), strict=True))
    return {
        "labels": bags.labels.tolist(),
        "logits": logits,
        "effective": float(number),
        "effective_share": float(share),
        "relative_attention": {kind: means.pop(kind) for kind in KINDS},
        "instance_auroc": bag_auroc(np.concatenate(truth), np.concatenate(evidence)),
        **means,
    }


def _evidence(model: Any, embedded: BagBatch, output: MILOutput) -> FloatArray:
    """Return (N,) evidence of each instance for class 1."""
    if output.instance_logits is not None:
        return output.instance_logits[:, 0].double().numpy()
    added: Tensor = model.instance_contributions(embedded, output)[:, 0]
    return added.double().numpy() * added.shape[0]


def _attention(
    attention: FloatArray, kinds: npt.NDArray[np.int8], witnesses: npt.NDArray[np.bool_]
) -> list[float]:
    relative = attention * attention.size
    of_kinds = [
        float(relative[kinds == kind].mean()) if (kinds == kind).any() else np.nan
        for kind in range(len(KINDS))
    ]
    values = (bag_auroc(witnesses, attention), attention[witnesses].sum(), witnesses.mean())
    return [*(float(value) for value in values), *of_kinds]


@torch.no_grad()
def masking(module: Any, bags: SlideSet, progress: float) -> dict[str, float] | None:
    """Return the fraction of witnesses in MHIM's masks, as means over the positive bags.

    ``witness_share`` is the fraction among all instances, ``high_share`` among the instances
    dropped by the high mask, and ``kept_share`` among the instances kept for the student. Returns
    None for other methods.

    Args:
        module: the module, whose teacher makes the masks.
        bags: the training bags.
        progress: fraction of the training at which the masks are taken.
    """
    model = module.model
    if not isinstance(model, MHIM) or not model.masks.high:
        return None
    model.eval()
    rows = []
    for number in np.flatnonzero(bags.labels).tolist():
        bag, witnesses = bags.bag(number), bags.slides[number].witnesses
        embedded = model.teacher.embed_bags(bag)
        scores = model._scores(embedded, model.teacher.pool(embedded))
        kept = model.masks.kept(scores, bag, progress, key=0).numpy()
        high = model.masks._dropped_high(scores, bag, progress, key=0).numpy()
        rows.append([witnesses.mean(), witnesses[high].mean(), witnesses[kept].mean()])
    names = ("witness_share", "high_share", "kept_share")
    return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))


@torch.no_grad()
def contrast(module: Any, bags: SlideSet) -> float | None:
    """Return the contrastive loss of whole bags minus log(B - 1), its value for equal embeddings.

    Equal numbers of bags of both classes are compared. Returns None for methods other than SC-MIL.
    """
    model = module.model
    if not isinstance(model, SCMIL):
        return None
    model.eval()
    count = min(np.bincount(bags.labels, minlength=2))
    chosen = np.concatenate([np.flatnonzero(bags.labels == c)[:count] for c in (0, 1)])
    embeddings = torch.cat([model.learner(bags.bag(n)).embeddings for n in chosen.tolist()])
    rows: Tensor = torch.nn.functional.normalize(model.projection(embeddings), dim=1)
    labels = torch.from_numpy(bags.labels[chosen])
    loss = supervised_contrastive_loss(rows, labels, model.temperature)
    return float(loss - np.log(len(chosen) - 1))
