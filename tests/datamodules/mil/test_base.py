import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from datamodules.mil.base import MILDataModule, select_bags
from structures import BagBatch


class Seven(MILDataModule):
    """Seven bags of 1 to 4 instances whose features carry the bag's number."""

    num_classes, in_features, task, class_names = 2, 1, "binary", ["no", "yes"]

    def source(self, split):
        sizes = torch.tensor([1, 2, 3, 4, 1, 2, 3])
        return BagBatch(
            features=torch.arange(7.0).repeat_interleave(sizes).unsqueeze(1),
            offsets=torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]),
            labels=torch.arange(7) % 2,
            index=torch.arange(7),
            instance_labels=torch.arange(16),
            bag_ids=tuple(f"bag{b}" for b in range(7)),
        )

    def numbers(self, split):
        return {"train": [0, 2, 3, 5, 6], "val": [], "test": [4, 1], "predict": range(7)}[split]

    def evaluation_arguments(self):
        return {}


def test_loaders_serve_the_numbers_of_their_split():
    data = Seven(batch_size=2, eval_batch_size=3, seed=5)
    train = data.train_dataloader()
    seen = []
    for epoch in range(2):
        train.batch_sampler.set_epoch(epoch)
        batches = list(train)
        assert [len(b) for b in batches] == [2, 2]  # the fifth bag waits for another epoch
        for bags in batches:
            for bag in bags.bags():
                assert (bag.features == bag.index.item()).all()
                assert bag.bag_ids == (f"bag{bag.index.item()}",)
        seen.append([i for b in batches for i in b.index.tolist()])
    assert seen[0] != seen[1]
    assert set(seen[0]) < {0, 2, 3, 5, 6}
    assert [b.index.tolist() for b in data.test_dataloader()] == [[4, 1]]
    assert [b.index.tolist() for b in data.predict_dataloader()] == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_order_follows_the_seed_alone():
    orders = [
        [b.index.tolist() for b in Seven(batch_size=2, seed=s, num_workers=w).train_dataloader()]
        for s, w in ((0, 0), (0, 2), (1, 0))
    ]
    assert orders[0] == orders[1] != orders[2]


def test_a_trainer_runs_without_validation_bags(tmp_path):
    class Counting(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)
            self.validated = 0

        def training_step(self, bags, batch_idx):
            return self.layer(bags.features).mean()

        def validation_step(self, bags, batch_idx):
            self.validated += 1

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        use_distributed_sampler=False,
    )  # fmt: skip
    module = Counting()
    trainer.fit(module, datamodule=Seven(batch_size=2))
    assert trainer.global_step == 2 and module.validated == 0


def test_taking_bags_equals_collating_them():
    bags = Seven().source("train")
    positions = torch.tensor([5, 0, 3, 3])
    taken = select_bags(bags, positions)
    expected = BagBatch.collate([bags.bag(p) for p in positions.tolist()])
    for field in ("features", "offsets", "labels", "index", "instance_labels"):
        assert torch.equal(getattr(taken, field), getattr(expected, field))


def test_generated_bags_have_no_problem_and_are_counted(tmp_path):
    data = Seven()
    assert data.check(thorough=True) == []
    assert data.summary() == {
        "train": {"bags": 5, "instances": 13, "features": 1, "classes": 2},
        "test": {"bags": 2, "instances": 3, "features": 1, "classes": 2},
    }
    data.write_splits(tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text().splitlines()[-2:] == [
        "bag4,bag4,0,test", "bag1,bag1,1,test",
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"num_workers": -1}, {"seed": -1}])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Seven(**wrong)
