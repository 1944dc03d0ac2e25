"""Extraction in parts: by tasks of an array, by the processes of a launcher, with staged slides."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train
from datamodules.wsi.staging import Stage
from tests.callbacks.wsi.test_restarting import command, process, without_seconds
from tests.support.extraction import content
from tests.support.small_slides import write_broken_slide, write_slide

ROOT = Path(__file__).resolve().parents[3]


def tables(folder):
    return sorted(path.name for path in folder.glob("*.csv"))


@pytest.mark.slow
def test_parts_one_after_another(tmp_path, capsys, monkeypatch):
    """The last one writes the whole table; a part without a slide is an ordinary case."""
    left, close = [], Stage.close

    def look_and_close(self):
        left.extend((tmp_path / "stage").glob("*/*"))
        close(self)

    monkeypatch.setattr(Stage, "close", look_and_close)
    write_slide(tmp_path / "slides" / "large.tiff", 0, width=1280)
    write_broken_slide(tmp_path / "slides" / "small.tiff")
    out, stage = tmp_path / "parts", ("--data.stage", tmp_path / "stage")
    assert train.main(command(tmp_path, "whole", "--data.bad_data", "skip")) == 0
    said = []
    for number, code in ((1, 0), (3, 0), (2, 2)):
        capsys.readouterr()
        words = command(tmp_path, "parts", "--data.shard", f"{number}/3", *stage)
        assert train.main(words) == code
        said.append("".join(capsys.readouterr()))
        assert ("extraction.csv" in tables(out)) == (number == 2)
    assert "shard 1/3: 1 of 1 slides have their features" in said[0]
    assert "shard 3/3: 0 of 0 slides have their features" in said[1]
    assert "all 3 shards are in extraction.csv" in said[2]
    assert f"{tmp_path / 'slides' / 'small.tiff'}, slide small: the 64 x 64 pixels at" in said[2]
    assert "segmil_" not in said[2]  # the name of the copy
    assert left == []  # each copy is removed when its slide is finished or has failed
    assert list((tmp_path / "stage").iterdir()) == []
    assert content(out) == content(tmp_path / "whole")
    whole = without_seconds(tmp_path / "whole")
    assert without_seconds(out) == whole
    assert {name: row["status"] for name, row in whole.items()} == {
        "large": "done", "small": "failed",
    }  # fmt: skip


def test_a_wrong_shard_or_stage_is_refused_before_anything_is_read(tmp_path, capsys):
    write_slide(tmp_path / "slides" / "a.tiff")
    assert train.main(command(tmp_path, "out", "--data.shard", "4/3")) == 2
    assert "shard must be NUMBER/COUNT" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert train.main(command(tmp_path, "out", "--data.stage", tmp_path / "file")) == 2
    assert "name another folder by stage" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_three_parts_at_once_and_two_processes_of_torchrun(tmp_path):
    """They write the files of one process."""
    for number in range(5):
        write_slide(tmp_path / "slides" / f"s{number}.tiff", number, width=480 + 160 * number)
    stage = ("--data.stage", tmp_path / "stage")
    runs = [process(command(tmp_path, "one"))]
    parts = [command(tmp_path, "parts", "--data.shard", f"{n}/3", *stage) for n in (1, 2, 3)]
    runs += [process(words) for words in parts]
    for run in runs:
        run.start()
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "train.py"]
    done = subprocess.run(
        [*line, *command(tmp_path, "ranks", "--trainer.devices", "auto")],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    for run in runs:
        run.join()
        assert run.exitcode == 0
    assert done.returncode == 0, done.stderr
    one = content(tmp_path / "one")
    assert len(one) == 15  # features, preview and outlines of each
    for name in ("parts", "ranks"):
        assert content(tmp_path / name) == one
        assert without_seconds(tmp_path / name) == without_seconds(tmp_path / "one")
    assert tables(tmp_path / "parts") == [
        "extraction.csv", *(f"extraction_{n}_of_3.csv" for n in (1, 2, 3)),
    ]  # fmt: skip
    assert list((tmp_path / "stage").iterdir()) == []


@pytest.mark.slow
def test_the_array_of_slurm(tmp_path):
    """Two tasks of `docs/slurm/extract.sbatch`, of which one has no slide."""
    write_slide(tmp_path / "slides" / "a.tiff")
    command(tmp_path, "out")  # writes the recipe
    programs = tmp_path / "environment" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f'PATH="{programs}:{Path(sys.executable).parent}:$PATH"\n')
    (programs / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    (programs / "srun").chmod(0o755)
    (tmp_path / "node").mkdir()
    (tmp_path / "train.py").symlink_to(ROOT / "train.py")
    given = {
        "SLIDES": tmp_path / "slides",
        "FEATURES": tmp_path / "out",
        "TMPDIR": tmp_path / "node",
    }
    given |= {"CONFIG": tmp_path / "tiny.yaml", "ENVIRONMENT": programs.parent}
    given |= {"SLURM_NTASKS": 1, "SLURM_JOB_ID": 7, "SLURM_ARRAY_JOB_ID": 7, "OMP_NUM_THREADS": 1}
    tasks = []
    for number in (1, 2):
        environment = given | {"SLURM_ARRAY_TASK_ID": number}
        tasks.append(
            subprocess.Popen(
                ["bash", str(ROOT / "docs/slurm/extract.sbatch")], cwd=tmp_path, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=os.environ | {name: str(value) for name, value in environment.items()},
            )
        )  # fmt: skip
        time.sleep(0.1)
    for number, task in enumerate(tasks, 1):
        said = task.communicate()[0]
        assert task.returncode == 0, said
        assert f"shard {number}/16: {2 - number} of {2 - number} slides have their features" in said
    assert tables(tmp_path / "out")[0] == "extraction.csv"
    assert [path.name for path in (tmp_path / "out").glob("*.h5")] == ["a.h5"]
    assert not list((tmp_path / "node").glob("segmil_*"))
