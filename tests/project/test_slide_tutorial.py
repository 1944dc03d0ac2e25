"""The tutorial of docs/wsi.md, command by command, on slides that are drawn."""

import csv
import json
import re
import shlex
from pathlib import Path

import h5py
import pytest

import evaluate
import train
from datamodules.wsi.synthetic_slides import write_slides

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {"train.py": train, "evaluate.py": evaluate}
SHORT = ["--trainer.max_epochs", "2", "--trainer.accelerator", "cpu"]


def commands():
    """The commands before the section on disk and hours."""
    text = (ROOT / "docs" / "wsi.md").read_text().partition("## Disk and hours")[0]
    blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("python ")]


@pytest.mark.slow
def test_from_a_folder_of_slides_to_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_slides(Path(), 9, 6, side_mm=0.6)
    Path("new.csv").write_text("slide_id\nslide_000\nslide_001\n")
    lines = commands()
    assert len(lines) == 10
    for line in lines:
        program, *words = shlex.split(line)[1:]
        if words[0] in ("fit", "mil-cv"):
            words += SHORT
        code = PROGRAMS[program].main(words)
        assert code == 0, (line, capsys.readouterr())
    for slide in ("slide_000", "slide_001"):
        with h5py.File(f"features/{slide}.h5") as file:
            assert len(file["features"])
        maps = Path("runs/predict/version_0/predictions/heatmaps")
        assert {path.name for path in maps.glob(f"{slide}*")} == {
            f"{slide}.png", f"{slide}_top.png", f"{slide}.geojson",
        }  # fmt: skip
    with Path("runs/predict/version_0/predictions/bags.csv").open(newline="") as file:
        assert [row["bag_id"] for row in csv.DictReader(file)] == ["slide_000", "slide_001"]
    for name in ("abmil", "mhim", "compare", "final", "froc"):
        assert json.loads(Path(f"{name}.json").read_text())["metrics"]
