"""Extraction that is killed, and by two processes: the files are those of an undisturbed run."""

import itertools
import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from callbacks.wsi import feature_files
from callbacks.wsi.extraction_table import DONE, FAILED, ExtractionTable, row
from tests.support.extraction import RECIPE, content, rows
from tests.support.small_slides import write_broken_slide, write_slide

ROOT = Path(__file__).resolve().parents[3]
KILLS = 3


def command(folder, out, *words):
    recipe = folder / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    return [
        "predict", "--config", str(recipe), "--data.slides", str(folder / "slides"),
        "--data.features", str(folder / out), "--runs_dir", str(folder / f"runs_{out}"),
        *map(str, words),
    ]  # fmt: skip


def run(words):
    import train

    torch.set_num_threads(1)
    os._exit(train.main(words))


def process(words):
    """A process that starts quickly, because a server has imported what it needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["engine.training.command_line", "datamodules.wsi.base", "train"]
    )
    return context.Process(target=run, args=(words,))


def without_seconds(folder):
    return {name: row | {"seconds": ""} for name, row in rows(folder).items()}


def finished(out):
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in out.glob("*.h5")}


def at_work(one, out):
    """Wait until a process writes its first file; return the time."""
    before = finished(out)
    own = f".*.h5.{one.pid}"
    while one.exitcode is None and not list(out.glob(own)) and finished(out) == before:
        time.sleep(0.002)
    return time.monotonic()


def kill_and_compare(folder, kills, seed, workers=(0,), slides=6):
    """Kill runs at random moments of their work; return how many files were finished at each."""
    for number in range(slides):
        write_slide(folder / "slides" / f"s{number}.tiff", number)
    whole = process(command(folder, "whole"))
    whole.start()
    start = at_work(whole, folder / "whole")
    whole.join()
    assert whole.exitcode == 0
    duration, rng, killed = time.monotonic() - start, random.Random(seed), list[int]()
    folders = (folder / f"parts{number}" for number in itertools.count())
    out = next(folders)
    while len(killed) < kills:
        before = finished(out)
        if len(before) == slides:  # begin again, so that there is work to kill
            compare(folder, out)
            out, before = next(folders), {}
        one = process(command(folder, out.name, "--data.num_workers", rng.choice(workers)))
        one.start()
        at_work(one, out)
        one.join(rng.uniform(0, 0.6) * duration)
        if one.exitcode is None:
            one.kill()
            one.join()
            killed.append(len(finished(out)))
        assert finished(out).items() >= before.items()
    compare(folder, out)
    return killed


def compare(folder, out):
    """Let a run end, and compare its files with those of the undisturbed one."""
    before = finished(out)
    last = process(command(folder, out.name))
    last.start()
    last.join()
    assert last.exitcode == 0
    assert finished(out).items() >= before.items()
    assert content(out) == content(folder / "whole")
    assert without_seconds(out) == without_seconds(folder / "whole")


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path):
    assert len(kill_and_compare(tmp_path, KILLS, seed=0)) == KILLS


def test_rows_of_other_processes_are_waited_for(tmp_path, monkeypatch):
    table, waited = ExtractionTable(tmp_path), []
    table.add(row("a", DONE))

    def another_process(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            table.add(row("b", FAILED, reason="broken"))

    monkeypatch.setattr(feature_files.time, "sleep", another_process)
    feature_files.wait_for_rows(table, ["a", "b"], pause=0.1)
    assert waited == [0.1] * 3
    parents = iter([5, 5, 1])
    monkeypatch.setattr(feature_files.os, "getppid", lambda: next(parents))
    with pytest.raises(RuntimeError, match="the process that started this one has ended"):
        feature_files.wait_for_rows(table, ["a", "b", "c"])


@pytest.mark.slow
def test_sigterm_ends_it_at_once(tmp_path):
    slides = 16  # the signal comes when the first is done, however busy the machine is
    for number in range(slides):
        write_slide(tmp_path / "slides" / f"s{number}.tiff", number)
    one, out = process(command(tmp_path, "out")), tmp_path / "out"
    one.start()
    while not finished(out):
        time.sleep(0.001)
    one.terminate()
    one.join()
    assert one.exitcode == 143
    assert len(finished(out)) < slides
    assert not list(out.rglob(".*"))


@pytest.mark.slow
def test_two_processes(tmp_path):
    """They write the same files, and the command ends when both have."""
    for number in range(4):
        write_slide(tmp_path / "slides" / f"s{number}.tiff", number, width=480 + 160 * number)
    write_broken_slide(tmp_path / "slides" / "s4.tiff")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for out, words in {
        "one": [],
        "two": ["--config", "configs/_base/ddp.yaml", "--trainer.devices", "2"],
    }.items():
        line = [sys.executable, "train.py", *command(tmp_path, out, *words)]
        if out == "two":
            line += ["--trainer.accelerator", "cpu"]
        done = subprocess.run(
            line, cwd=ROOT, capture_output=True, text=True, env=environment, check=False
        )
        said = done.stdout + done.stderr
        assert done.returncode == 2, said
        assert said.count("slide s4: the 64 x 64 pixels at") == 1
        assert "4 of 5 slides have their features" in said
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert without_seconds(tmp_path / "one") == without_seconds(tmp_path / "two")
