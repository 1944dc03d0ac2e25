import io
import re
import time
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import rich

from callbacks.run.progress import ProgressBar, TimeLeft


@pytest.fixture
def output():
    """Everything rich writes, on something that is not a terminal."""
    stream = io.StringIO()
    rich.reconfigure(file=stream, force_terminal=False, width=40)
    yield stream
    rich.reconfigure()


@pytest.fixture
def clock(monkeypatch):
    """Let ``time.perf_counter`` advance by one second a call."""
    ticks = iter(range(1_000_000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))


def lines(stream):
    return [line for line in stream.getvalue().splitlines() if line.startswith("epoch")]


def test_one_line_a_validation_in_a_file(stand_in, make_trainer, output, clock):
    module = stand_in.SegModule(losses=(4.0, 1.0, 0.0, 2.0))
    trainer = make_trainer([ProgressBar(smoothing=0.5)], max_epochs=2)
    trainer.fit(module, stand_in.images(3), stand_in.images(3))
    # Two steps an epoch; weights .25, .5 of losses 4, 1; then .0625, .125, .25, .5 of 4, 1, 0, 2.
    assert lines(output) == [
        "epoch 1/2, step 2: train/loss 2.000, lr 1.2e-01, val/segm_map 0.650, pictures/s 3.0, "
        "left 0:00:03",  # the epoch began 1 s after the start, and each of its two steps took 1 s
        "epoch 2/2, step 4: train/loss 1.467, lr 1.2e-01, val/segm_map 0.650, pictures/s 3.0",
    ]
    assert "\x1b" not in output.getvalue()


def test_epochs_without_validation_have_a_line(stand_in, make_trainer, output):
    bar = ProgressBar(calm_seconds=0)
    trainer = make_trainer([bar], max_epochs=3, check_val_every_n_epoch=2)
    trainer.fit(stand_in.BagModule(), stand_in.bags(), stand_in.bags())
    assert [line.split(":")[0] for line in lines(output)] == [
        "epoch 1/3, step 3",
        "epoch 2/3, step 6",
        "epoch 3/3, step 9",
    ]
    assert all("bags/s" in line for line in lines(output))
    trainer.validate(stand_in.BagModule(), stand_in.bags(), verbose=False)
    assert len(lines(output)) == 3


def test_a_line_has_a_score_only_where_it_was_measured(stand_in, make_trainer, output, clock):
    bar = ProgressBar(calm_seconds=0, line_seconds=3)
    trainer = make_trainer([bar], max_epochs=3, check_val_every_n_epoch=2, num_sanity_val_steps=0)
    trainer.fit(stand_in.SegModule(), stand_in.images(3), stand_in.images(3))
    scored = [line.split(":")[0] for line in lines(output) if "val/segm_map" in line]
    assert scored == ["epoch 2/3, step 4"]
    assert len(lines(output)) > 3
    trainer = make_trainer([ProgressBar(calm_seconds=1000)], max_epochs=2)
    trainer.fit(stand_in.SegModule(), stand_in.images(3), stand_in.images(3))
    assert "val/segm_map" in lines(output)[-1]  # held back and printed at the end


def test_long_epochs_have_lines_in_between(stand_in, make_trainer, output, clock):
    trainer = make_trainer([ProgressBar(line_seconds=3)], num_sanity_val_steps=0)
    trainer.fit(stand_in.SegModule(), stand_in.images(1), stand_in.images())
    # The clock ticks once a batch and once a line; six batches.
    steps = [line.split(":")[0] for line in lines(output)]
    assert steps == ["epoch 1/1, step 2", "epoch 1/1, step 5", "epoch 1/1, step 6"]


def test_short_epochs_have_few_lines_but_the_first_and_the_last(
    stand_in, make_trainer, output, clock
):
    """An epoch of three steps takes 5 s of this clock, with 1 s at its start and 1 s at its end."""
    bar = ProgressBar(calm_seconds=12, line_seconds=1000)
    make_trainer([bar], max_epochs=6).fit(stand_in.BagModule(), stand_in.bags())
    assert [line.split(",")[0] for line in lines(output)] == ["epoch 1/6", "epoch 4/6", "epoch 6/6"]
    left = [line.rpartition("left ")[2] for line in lines(output)]
    assert left[:2] == ["0:00:20", "0:00:10"]
    assert "left" not in left[2]


def test_an_endless_training_has_no_time_left(stand_in, make_trainer, output):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == 4

    trainer = make_trainer([ProgressBar(calm_seconds=0), Stop()], max_epochs=-1)
    trainer.fit(stand_in.BagModule(), stand_in.bags())
    assert lines(output)
    assert not any("left" in line for line in lines(output))


def test_accumulated_batches_count_in_full(stand_in, make_trainer, output):
    trainer = make_trainer([ProgressBar()], accumulate_grad_batches=3)
    trainer.fit(stand_in.SegModule(losses=(1.5,)), stand_in.images(1))
    assert "train/loss 1.500" in lines(output)[0]


def test_throughput_counts_samples_of_all_processes(stand_in, make_trainer, monkeypatch):
    """Batches of 4 and 2 images that take 2 s and 1 s on each of 3 processes: 6 a second."""
    now = iter([0.0, 100.0, 102.0, 103.0])
    monkeypatch.setattr("callbacks.run.progress.time.perf_counter", lambda: next(now))
    monkeypatch.setattr(pl.Trainer, "world_size", 3)
    bar = ProgressBar(smoothing=0.5)  # 0.0
    bar.disable()
    trainer = make_trainer([])
    module = stand_in.SegModule()
    bar.on_train_epoch_start(trainer, module)  # 100.0: waiting before does not count
    for count in (4, 2):
        batch = stand_in.join([stand_in.image(n) for n in range(count)])
        bar.on_train_batch_end(trainer, module, None, batch, 0)
    assert bar._numbers(trainer) == {"pictures/s": "6.0"}


def test_bar_on_a_terminal_shows_the_numbers(stand_in, make_trainer):
    stream = io.StringIO()
    rich.reconfigure(file=stream, force_terminal=True, width=200)
    try:
        bar = ProgressBar()
        seen = []
        read = bar.get_metrics
        bar.get_metrics = lambda *args: seen.append(read(*args)) or seen[-1]
        # Lightning makes the console anew from these.
        bar._console_kwargs = {"file": stream, "force_terminal": True, "width": 200}
        trainer = make_trainer([bar], max_epochs=2)
        trainer.fit(stand_in.SegModule(losses=(0.5,)), stand_in.images(1), stand_in.images())
    finally:
        rich.reconfigure()
    assert list(seen[-1]) == ["train/loss", "lr", "val/segm_map", "pictures/s"]
    assert seen[-1]["train/loss"] == "0.500"
    text = stream.getvalue()
    assert "train/loss: 0.500" in text
    assert "val/segm_map: 0.650" in text
    assert "it/s" not in text
    assert re.search(r"\d:\d\d:\d\d left", text)
    assert not [line for line in text.splitlines() if line.startswith("epoch ")]


def test_the_bar_of_a_training_shows_the_time_that_its_other_epochs_will_take():
    bar = ProgressBar()
    shown = [
        TimeLeft(bar).render(SimpleNamespace(id=None, time_remaining=t)).plain for t in (None, 5)
    ]
    assert shown == ["-:--:-- left", "-:--:-- left"]  # no training has started
    bar.train_progress_bar_id, bar.seconds_left = 3, 61.5
    shown = [TimeLeft(bar).render(SimpleNamespace(id=k, time_remaining=5)).plain for k in (3, 4)]
    assert shown == ["0:01:02 left", "0:00:05 left"]


def test_numbers_are_read_twice_a_second(monkeypatch):
    now = iter([0.0, 10.0, 10.4, 10.6])
    monkeypatch.setattr("callbacks.run.progress.time.perf_counter", lambda: next(now))
    bar = ProgressBar()
    values = iter([{"a": "1"}, {"a": "2"}])
    monkeypatch.setattr(bar, "_numbers", lambda _: next(values))
    shown = [bar.get_metrics(None, None)["a"] for _ in range(3)]
    assert shown == ["1", "1", "2"]


def test_smoothing_out_of_range():
    with pytest.raises(ValueError, match="smoothing"):
        ProgressBar(smoothing=1.0)
