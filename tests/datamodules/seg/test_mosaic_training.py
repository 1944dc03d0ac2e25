"""Samples made of several images in the datamodule and a run."""

import pickle

import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser

from datamodules.sampling.run_length import run_epochs
from datamodules.seg.base import SegDataModule
from datamodules.seg.dataset import SegDataset
from datamodules.seg.digit_scenes import DigitScenesDataModule
from datamodules.seg.mosaic import MosaicDataset
from datamodules.seg.mosaic_options import MosaicOptions

SMALL = {"size": 48, "digit_size": (16, 24), "train_scenes": 12, "val_scenes": 2, "test_scenes": 2}
MOSAIC = {"size": 64, "close_epochs": 1, "window": 4, "mixup": 0.3, "copy_paste": 0.3}


class Recorder(pl.LightningModule):
    """Keeps what it is fed."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        kept = (batch.images.numpy().tobytes(), batch.masks.numpy().tobytes())
        self.seen.append((self.current_epoch, batch.index.tolist(), hash(kept)))
        assert batch.images.shape == (2, 3, *batch.sizes[0].tolist())
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path, **arguments):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    arguments = {"limit_val_batches": 0} | arguments
    return pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        use_distributed_sampler=False,
        enable_checkpointing=False,
        **quiet | arguments,
    )


def module_of(workers=0, **changes):
    options = MosaicOptions(**MOSAIC | changes)
    return DigitScenesDataModule(
        **SMALL,
        batch_size=2,
        num_workers=workers,
        mask_stride=4,
        mosaic=options,
        train_short_sides=[64, 96],
    )


def fit(tmp_path, workers=0, data=None, ckpt_path=None, **arguments):
    module = Recorder()
    data = module_of(workers) if data is None else data
    trainer(tmp_path, **{"max_epochs": 3} | arguments).fit(module, data, ckpt_path=ckpt_path)
    return module.seen


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("whole"))


def test_workers_change_nothing_and_persist_over_the_closing(whole, tmp_path):
    assert len(whole) == 18
    assert fit(tmp_path, workers=2) == whole


def test_the_last_epochs_of_the_run_are_closed(whole):
    loader = module_of(close_epochs=0).train_dataloader()
    single = module_of(close_epochs=0, probability=0.0).train_dataloader()
    made = []
    for epoch in range(3):
        for source in (loader, single):
            source.batch_sampler.set_epoch(epoch)
            made.append(
                [hash((b.images.numpy().tobytes(), b.masks.numpy().tobytes())) for b in source]
            )
    seen = [[s[2] for s in whole if s[0] == epoch] for epoch in range(3)]
    assert seen[0] == made[0]
    assert seen[1] == made[2] != made[3]
    assert seen[2] == made[5] != made[4]


class KeepMiddle(pl.Callback):
    """Writes a checkpoint in the second of three epochs."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 8:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_closes_at_the_same_epoch(whole, tmp_path, workers):
    path = tmp_path / "middle.ckpt"
    assert fit(tmp_path, callbacks=[KeepMiddle(path)]) == whole
    assert fit(tmp_path, workers, ckpt_path=path) == whole[8:]


class Limits:
    """What `run_epochs` reads of a trainer."""

    def __init__(self, max_epochs, max_steps, limit=1.0, accumulate=1):
        self.max_epochs, self.max_steps = max_epochs, max_steps
        self.limit_train_batches, self.accumulate_grad_batches = limit, accumulate


@pytest.mark.parametrize(
    ("limits", "epochs"),
    [
        (Limits(30, -1), 30),
        (Limits(-1, 100), 10),
        (Limits(None, 101), 11),
        (Limits(-1, 100, accumulate=3), 25),  # 4 steps an epoch: the last is not full
        (Limits(-1, 100, limit=5), 20),
        (Limits(-1, 100, limit=50), 10),
        (Limits(-1, 100, limit=0.5), 20),
        (Limits(5, 100), 5),
        (Limits(50, 100), 10),
        (Limits(-1, -1), None),
    ],
)
def test_epochs_of_a_run(limits, epochs):
    assert run_epochs(limits, 10) == epochs


def test_when_it_closes(tmp_path):
    data = module_of(close_epochs=2)
    assert data.train_dataset().close_from is None  # without a run the end is open
    for arguments, expected in (
        ({"max_epochs": 7}, 5),
        ({"max_epochs": -1, "max_steps": 25}, 3),  # 6 steps an epoch: 5 epochs
        ({"max_epochs": -1}, None),
        ({"fast_dev_run": True}, None),
    ):
        data.trainer = trainer(tmp_path, **arguments)
        assert data.train_dataset().close_from == expected
    data.trainer = trainer(tmp_path, max_epochs=2)
    with pytest.warns(UserWarning, match="close_epochs is 2, but the run has 2 epochs"):
        assert data.train_dataset().close_from == 0
    never = module_of(close_epochs=0)
    never.trainer = trainer(tmp_path, max_epochs=3)
    assert never.train_dataset().close_from is None


def test_a_recipe_states_options_and_mistakes_are_told():
    parser = ArgumentParser()
    parser.add_subclass_arguments(SegDataModule, "data")
    start = ["--data=DigitScenesDataModule", "--data.size=64"]
    given = parser.parse_args(
        [*start, "--data.mosaic={size: 96, hsv: [0.1, 0.2, 0.3]}", "--data.mosaic.mixup=0.5"]
    )
    data = parser.instantiate(given).data if hasattr(parser, "instantiate") else None
    if data is None:
        data = parser.instantiate_classes(given).data
    assert data.mosaic == MosaicOptions(size=96, hsv=(0.1, 0.2, 0.3), mixup=0.5)
    assert isinstance(data.train_dataset(), MosaicDataset)
    off = parser.parse_args([*start, "--data.mosaic=null"])
    assert off.data.init_args.mosaic is None
    with pytest.raises(SystemExit):
        parser.parse_args([*start, "--data.mosaic={sizes: 96}"])


def test_without_the_option_nothing_changes():
    data = DigitScenesDataModule(**SMALL)
    assert isinstance(data.train_dataset(), SegDataset)
    assert all(key.neighbours == () for keys in data.train_sampler() for key in keys)
    assert isinstance(module_of().eval_dataset("val"), SegDataset)


def test_sides_too_large_for_the_perspective_stop_the_run():
    with pytest.raises(ValueError, match="for 96 px"):
        module_of(perspective=0.004)


def test_datasets_travel_to_spawned_workers():
    dataset = module_of().train_dataset()
    (keys, *_) = module_of().train_sampler()
    before = dataset[keys[0]]
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy.cache) == 0 < len(dataset.cache)
    assert torch.equal(copy[keys[0]].images, before.images)
