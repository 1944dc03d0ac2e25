import csv
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, Dataset

import callbacks.run.throughput
from callbacks.run.throughput import Throughput

FETCH, STEP, VALIDATION = 0.25, 0.5, 100.0  # seconds of the clock below


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when told to."""
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(callbacks.run.throughput, "perf_counter", lambda: now.time)
    return now


class SlowItems(Dataset):
    def __init__(self, items, clock):
        self.items, self.clock = items, clock

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.clock.time += FETCH
        return self.items[index]


def slow(loader, clock):
    return DataLoader(SlowItems(loader.dataset, clock), batch_size=None)


def timed(base, clock):
    class Timed(base):
        def training_step(self, batch, batch_idx):
            clock.time += STEP
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            clock.time += VALIDATION
            return super().validation_step(batch, batch_idx)

        def on_train_epoch_end(self):
            clock.time += VALIDATION

    return Timed()


def rows(folder):
    with (folder / "run" / "metrics.csv").open() as stream:
        table = [{k: float(v) for k, v in r.items() if v} for r in csv.DictReader(stream)]
    return [r for r in table if "time/step" in r]


def fit(module, loader, clock, make_trainer, val, **options):
    trainer = make_trainer([Throughput()], **options)
    trainer.fit(module, slow(loader, clock), val)


def test_images_a_second_without_validation(stand_in, make_trainer, tmp_path, clock):
    """3 batches of 2 images an epoch: 0.25 s of data and 0.5 s of work for each."""
    module = timed(stand_in.SegModule, clock)
    options = {"log_every_n_steps": 3, "max_epochs": 2, "val_check_interval": 1}
    fit(module, stand_in.images(), clock, make_trainer, stand_in.images(), **options)
    found = rows(tmp_path)
    assert [r.pop("step") for r in found] == [2, 5]  # beside the loss of the third and sixth step
    assert [r.pop("epoch", 0) for r in found] == [0, 0]
    assert (
        found
        == [
            {
                "time/step": 0.75,
                "time/data": 0.25,
                "time/pictures_per_second": pytest.approx(2 / 0.75),
            }
        ]
        * 2
    )


def test_bags_and_their_instances(stand_in, make_trainer, tmp_path, clock):
    """4 bags of 3, 2, 4 and 2 instances in batches of 3 and 1: two steps, 1.5 s."""
    module = timed(stand_in.BagModule, clock)
    loader = stand_in.bags(range(4))
    fit(module, loader, clock, make_trainer, stand_in.bags(), log_every_n_steps=2)
    (found,) = rows(tmp_path)
    assert found["time/bags_per_second"] == pytest.approx(4 / 1.5)
    assert found["time/instances_per_second"] == pytest.approx(11 / 1.5)
    assert "time/pictures_per_second" not in found


def test_an_accumulated_step_is_one_step(stand_in, make_trainer, tmp_path, clock):
    module = timed(stand_in.SegModule, clock)
    options = {"accumulate_grad_batches": 3, "max_epochs": 2}
    fit(module, stand_in.images(), clock, make_trainer, stand_in.images(), **options)
    found = rows(tmp_path)
    assert [r["step"] for r in found] == [0, 1]
    assert [r["time/step"] for r in found] == [2.25, 2.25]
    assert [r["time/pictures_per_second"] for r in found] == [pytest.approx(6 / 2.25)] * 2


def test_nothing_is_logged_before_a_step_is_due(stand_in, make_trainer, tmp_path, clock):
    module = timed(stand_in.SegModule, clock)
    fit(module, stand_in.images(), clock, make_trainer, None, log_every_n_steps=4, max_epochs=1)
    assert not (tmp_path / "run" / "metrics.csv").exists() or rows(tmp_path) == []


def test_counts_of_all_processes_but_the_clock_of_one(stand_in, clock):
    """This process has 2 images in 0.5 s, another one 3 in the same time."""
    logged, reduced = [], []

    def reduce(values, reduce_op):
        reduced.append((values.tolist(), reduce_op))
        return values + 3.0

    trainer = SimpleNamespace(
        global_step=0,
        log_every_n_steps=1,
        world_size=2,
        strategy=SimpleNamespace(reduce=reduce),
        loggers=[SimpleNamespace(log_metrics=lambda values, step: logged.append((step, values)))],
    )
    module, meter = stand_in.SegModule(), Throughput()
    meter.on_train_start(trainer, module)
    meter.on_train_epoch_start(trainer, module)
    batch = next(iter(stand_in.images()))
    meter.on_train_batch_start(trainer, module, batch, 0)
    clock.time += STEP
    trainer.global_step = 1
    meter.on_train_batch_end(trainer, module, None, batch, 0)
    assert reduced == [([2.0], "sum")]
    assert logged == [(0, {"time/step": 0.5, "time/data": 0.0, "time/pictures_per_second": 10.0})]
