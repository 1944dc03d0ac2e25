"""Timing of models: sections, order, synchronisation, statistics, with a clock that we move."""

import dataclasses
import math
import mmap

import numpy as np
import pytest
import torch

from evaluation.speed import latency
from evaluation.speed.latency import LatencySettings, TimedModel, measure_latency, processor_name
from evaluation.speed.memory import peak_memory

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class World:
    """A clock that the models move by hand, and a diary of what was called."""

    def __init__(self):
        self.now, self.diary = 0.0, []

    def clock(self):
        self.diary.append("clock")
        return self.now

    def model(self, name, load, network, post, images=5):
        """Return a model whose sections take such seconds; values may depend on the pass."""

        def spend(what, seconds, result):
            self.diary.append((name, what))
            self.now += seconds
            return result

        passes = {"network": 0}

        def run(batch):
            number, passes["network"] = passes["network"], passes["network"] + 1
            return spend("network", network[number % len(network)], f"raw {batch}")

        return TimedModel(
            name,
            images,
            load=lambda numbers: spend(("load", *numbers), load, list(numbers)),
            network=run,
            post=lambda outputs, batch: spend(
                f"post {outputs}", post, [[7] * (n + 1) for n in batch]
            ),
            parameters=3,
            weight_bytes=2**21,
        )


@pytest.fixture
def world(monkeypatch):
    made = World()
    monkeypatch.setattr(latency, "peak_memory", lambda work, device: work() or 5.0)
    return made


def test_medians_and_percentiles_of_every_section(world):
    network = [100.0, 0.001, 0.003, 0.002, 0.040, 0.004]  # the first is the warm-up
    model = world.model("A", 0.010, network, 0.5)
    (row,) = measure_latency([model], LatencySettings(warmup=1, images=5), clock=world.clock)
    counted = np.array(network[1:]) * 1000
    assert row["load_ms"] == pytest.approx(10)
    assert row["load_ms_p95"] == pytest.approx(10)
    assert row["network_ms"] == pytest.approx(3)
    assert row["network_ms_p95"] == pytest.approx(np.percentile(counted, 95))
    assert row["post_ms"] == pytest.approx(500)
    assert row["total_ms"] == pytest.approx(513)
    assert row["total_ms_p95"] == pytest.approx(510 + np.percentile(counted, 95))
    assert row["pictures_per_second"] == pytest.approx(1000 / 513)
    assert row["pictures"] == 5
    assert row["parameters"] == 3
    assert row["peak_memory_mib"] == 2 + 5
    # Images 1, 2, 3, 4 and again 0 have 2, 3, 4, 5 and 1 detections.
    assert row["detections"] == 3


def test_models_take_turns_and_files_are_read_before_they_are_timed(world):
    models = [world.model(name, 0.0, [0.0], 0.0) for name in "AB"]
    told = []
    settings = LatencySettings(warmup=1, images=2)
    rows = measure_latency(models, settings, lambda *x: told.append(x), world.clock)
    assert [row["model"] for row in rows] == ["A", "B"]
    assert told == [(1, 3), (2, 3), (3, 3)]

    def timed(name, number):
        raw = f"post raw [{number}]"
        calls = ("clock", ("load", number), "clock", "network", "clock", raw, "clock")
        return [call if call == "clock" else (name, call) for call in calls]

    for number in range(3):
        size = 2 + 2 * 7
        seen = world.diary[number * size : (number + 1) * size]
        read = [("A", ("load", number)), ("B", ("load", number))]
        assert seen == [*read, *timed("A", number), *timed("B", number)]


def test_batches_are_whole_and_times_are_an_image(world):
    model = world.model("A", 0.8, [0.4], 0.2, images=6)
    settings = LatencySettings(batch_size=4, warmup=3, images=5)
    (row,) = measure_latency([model], settings, clock=world.clock)
    assert row["batch_size"] == 4
    assert row["pictures"] == 8
    assert [row[f"{name}_ms"] for name in ("load", "network", "post", "total")] == [
        pytest.approx(value) for value in (200, 100, 50, 350)
    ]
    loads = [what[1:] for _, what in (d for d in world.diary if d != "clock") if what[0] == "load"]
    assert loads[::2][:3] == [(0, 1, 2, 3), (4, 5, 0, 1), (2, 3, 4, 5)]
    assert row["detections"] == pytest.approx(((5 + 6 + 1 + 2) + (3 + 4 + 5 + 6)) / 8)


def test_a_gpu_is_waited_for_before_every_look_at_the_clock(world, monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda d: world.diary.append(f"wait {d.type}"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    model = world.model("A", 0.1, [0.2], 0.3)
    settings = LatencySettings(warmup=0, images=2, device=CUDA)
    (row,) = measure_latency([model], settings, clock=world.clock)
    places = [n for n, what in enumerate(world.diary) if what == "clock"]
    assert len(places) == 2 * 4
    assert all(world.diary[n - 1] == "wait cuda" for n in places)
    assert world.diary.count("wait cuda") == len(places)
    assert row["device"] == "Some GPU"
    world.diary.clear()
    measure_latency([model], LatencySettings(warmup=0, images=1), clock=world.clock)
    assert "wait cuda" not in world.diary


@pytest.mark.parametrize(
    ("precision", "seen", "said"),
    [
        ("32-true", torch.float32, "float32"),
        ("bf16-mixed", torch.bfloat16, "bfloat16 (autocast)"),
    ],
)
def test_precision_is_that_of_the_networks_arithmetic(world, precision, seen, said):
    dtypes = set()

    def network(batch):
        assert not torch.is_grad_enabled()
        dtypes.add((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return batch

    model = dataclasses.replace(world.model("A", 0.0, [0.0], 0.0), network=network)
    settings = LatencySettings(warmup=0, images=1, precision=precision)
    (row,) = measure_latency([model], settings, clock=world.clock)
    assert dtypes == {seen}
    assert row["dtype"] == said
    assert row["threads"] == torch.get_num_threads()
    assert row["tf32"] is False


def test_a_clock_that_stands_still_gives_no_rate(world):
    (row,) = measure_latency(
        [world.model("A", 0.0, [0.0], 0.0)], LatencySettings(1, 0, 1), clock=world.clock
    )
    assert math.isinf(row["pictures_per_second"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "at least one"),
        ({"images": 0}, "at least one"),
        ({"warmup": -1}, "warm-up -1"),
        ({"precision": "64-true"}, "32-true, 16-mixed, bf16-mixed, got '64-true'"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        LatencySettings(**wrong)


def test_a_model_without_images_is_refused(world):
    with pytest.raises(ValueError, match="A: latency needs at least one image"):
        measure_latency([world.model("A", 0.0, [0.0], 0.0, images=0)], LatencySettings())


def test_processor_name(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2.0 GHz\n\nmodel name\t: Other\n")
    assert processor_name(info) == "Some CPU @ 2.0 GHz"
    assert processor_name(tmp_path / "nothing")


def test_peak_memory_is_what_was_held_at_once():
    held = []

    def touched(mib):  # of the system's own: the allocator keeps what is freed
        block = mmap.mmap(-1, mib * 2**20)
        for start in range(0, len(block), mmap.PAGESIZE):
            block[start] = 1
        return block

    def work():
        held.append(touched(20))
        touched(40).close()
        touched(30).close()

    peak = peak_memory(work, CPU)
    if peak is None:
        pytest.skip("this system does not tell a process's peak")
    assert 55 < peak < 70
    assert peak_memory(lambda: None, CPU) < 5


def test_memory_of_a_gpu_is_above_what_was_there(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: calls.append("wait"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 3 * 2**20)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 10 * 2**20)
    assert peak_memory(lambda: calls.append("work"), CUDA) == 7
    assert calls == ["wait", "reset", "work", "wait"]


def test_a_system_without_counters_has_no_peak(monkeypatch, tmp_path):
    from evaluation.speed import memory

    monkeypatch.setattr(memory, "_RESET", tmp_path / "none" / "clear_refs")
    done = []
    assert peak_memory(lambda: done.append(1), CPU) is None
    assert done == [1]
