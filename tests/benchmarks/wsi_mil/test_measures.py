"""What is measured on synthetic slides, against slow or other ways to say the same."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.wsi_mil import measures
from benchmarks.wsi_mil.bags import Slides, SlideSet
from models.losses.supervised_contrastive import supervised_contrastive_loss
from models.mil.abmil import ABMIL
from models.mil.mhim import MHIM
from models.mil.mhim.masking import MaskRatios
from models.mil.sc_mil import SCMIL

SMALL = Slides(width=6, sizes=(40, 90), share=(0.1, 0.3), signal=4.0)


def small_set(count=12):
    return SlideSet(4, "test", 1, SMALL, count)


def learner(in_features=6, num_classes=2, task="binary"):
    torch.manual_seed(2)
    model = ABMIL(in_features, num_classes, task, hidden_sizes=(5,), attention_dim=4)
    model.attention_score.weight.data *= 8
    return model


def test_effective_number_of_instances():
    assert measures.effective_number(np.full(50, 0.02)) == pytest.approx(50)
    assert measures.effective_number(np.eye(50)[3]) == pytest.approx(1)
    assert measures.effective_number(np.array([0.5, 0, 0.5])) == pytest.approx(2)


def test_auprc_at_another_frequency_is_that_of_repeated_negatives():
    rng = np.random.default_rng(0)
    labels = np.arange(30) < 10
    scores = rng.normal(size=30) + labels
    repeated = np.concatenate([scores[labels], np.repeat(scores[~labels], 5)])
    truth = np.arange(repeated.size) < 10
    wanted = average_precision_score(truth, repeated)
    assert measures.bag_auprc(labels, scores, negatives=10) == pytest.approx(wanted)
    own = average_precision_score(labels, scores)
    assert measures.bag_auprc(labels, scores, negatives=2) == pytest.approx(own)


def test_measures_of_attention_one_instance_at_a_time():
    bags, model = small_set(), learner()
    found = measures.predict(SimpleNamespace(model=model), bags)
    effective, shares, aurocs, mass, relative = [], [], [], [], {k: [] for k in range(4)}
    evidence, truth = [], []
    for number, slide in enumerate(bags.slides):
        features = torch.from_numpy(slide.features.astype(np.float32))
        hidden = model.embed(features)
        scores = model.attention_score(model.attention_value(hidden).tanh())[:, 0]
        attention = scores.double().softmax(dim=0)
        size = len(attention)
        logit = (attention[:, None] * hidden).sum(dim=0) @ model.classifier.weight[0].double()
        logit = float(logit + model.classifier.bias)
        assert found["logits"][number] == pytest.approx(logit, abs=1e-5)
        effective.append(float(torch.exp(-(attention * attention.log()).sum())))
        shares.append(effective[-1] / size)
        for row in range(size):
            added = float(attention[row] * (hidden[row] @ model.classifier.weight[0]))
            evidence.append(size * added)
            truth.append(slide.kinds[row] in (2, 3))
        if slide.label:
            weights = attention.detach().numpy()
            aurocs.append(roc_auc_score(slide.witnesses, weights))
            mass.append(sum(w for w, kind in zip(weights, slide.kinds, strict=True) if kind >= 2))
            for kind, values in relative.items():
                inside = weights[slide.kinds == kind]
                values.append(size * inside.mean() if inside.size else np.nan)
    assert found["labels"] == [1] * 6 + [0] * 6
    assert found["effective"] == pytest.approx(np.mean(effective), rel=1e-4)
    assert found["effective_share"] == pytest.approx(np.mean(shares), rel=1e-4)
    assert found["witness_auroc"] == pytest.approx(np.mean(aurocs), abs=1e-3)
    assert found["witness_attention"] == pytest.approx(np.mean(mass), rel=1e-4)
    assert found["instance_auroc"] == pytest.approx(roc_auc_score(truth, evidence), abs=1e-4)
    for kind, name in enumerate(("background", "confuser", "easy witness", "hard witness")):
        wanted = np.nanmean(relative[kind])
        assert found["relative_attention"][name] == pytest.approx(wanted, rel=1e-4)


def first_feature_is_attention(model):
    """Let the teacher look at the first feature alone."""
    model.embed = torch.nn.Identity()
    model.attention_value.weight.data = 0.1 * torch.eye(4)[:, :1] @ torch.eye(6)[:1]
    model.attention_value.bias.data.zero_()
    model.attention_score.weight.data = torch.eye(4)[:1]


def test_masks_are_counted_in_positive_bags():
    masks = MaskRatios(random=0.0, high=0.1, high_drop_share=1.0)
    make = lambda d, c, t: ABMIL(d, c, t, hidden_sizes=(6,), attention_dim=4)  # noqa: E731
    model = MHIM(6, 2, "binary", learner=make, masks=masks)
    first_feature_is_attention(model.teacher)
    bags, shares, kept = small_set(), [], []
    for slide in bags.slides:
        slide.features[:, 0] = np.where(slide.witnesses, 5, -5) + slide.features[:, 1] / 100
        if slide.label:
            size, witnesses = slide.kinds.size, slide.witnesses.sum()
            dropped = int(np.ceil(0.1 * size))
            shares.append(min(1, witnesses / dropped))
            kept.append(max(0, witnesses - dropped) / (size - dropped))
    found = measures.masking(SimpleNamespace(model=model), bags, progress=0.0)
    assert found["high_share"] == pytest.approx(np.mean(shares))
    assert found["kept_share"] == pytest.approx(np.mean(kept))
    share = np.mean([s.witnesses.mean() for s in bags.slides if s.label])
    assert found["witness_share"] == pytest.approx(share)
    assert measures.masking(SimpleNamespace(model=learner()), bags, 0.0) is None


def test_contrast_compares_equally_many_bags_with_bags_that_are_all_alike():
    model = SCMIL(6, 2, "binary", learner=learner, view_instances=20, projection_dim=3)
    bags = SlideSet(4, "test", 3, SMALL, 12)  # 3 positive bags, 9 negative ones
    chosen = [0, 1, 2, 3, 4, 5]
    model.eval()
    rows = torch.stack([model.projection(model(bags.bag(n)).embeddings)[0] for n in chosen])
    rows = torch.nn.functional.normalize(rows, dim=1)
    loss = supervised_contrastive_loss(rows, torch.tensor([1, 1, 1, 0, 0, 0]), model.temperature)
    found = measures.contrast(SimpleNamespace(model=model), bags)
    assert found == pytest.approx(float(loss) - np.log(5), abs=1e-5)
    for parameter in model.projection[2].parameters():
        parameter.data.zero_()
    model.projection[2].bias.data.fill_(1.0)  # every bag in the same place
    assert measures.contrast(SimpleNamespace(model=model), bags) == pytest.approx(0, abs=1e-5)
    assert measures.contrast(SimpleNamespace(model=learner()), bags) is None
