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
NEW = ["new_000", "new_001"]  # one of them with a lesion of some size
SHORT = ["--trainer.max_epochs", "2", "--trainer.accelerator", "cpu"]


def commands():
    """The commands before the section on disk and hours."""
    text = (ROOT / "docs" / "wsi.md").read_text().partition("## Disk and hours")[0]
    blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("python ")]


@pytest.mark.slow
def test_from_a_folder_of_slides_to_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_slides(Path(), 13, 12, side_mm=0.5)
    write_slides(Path("more"), 2, 2, side_mm=1.0)
    for path in [*Path("more").glob("slides/*"), *Path("more").glob("lesions/*")]:
        path.rename(Path(path.parent.name, path.name.replace("slide_", "new_")))
    Path("new.csv").write_text("\n".join(["slide_id", *NEW]))
    lines = commands()
    assert len(lines) == 10
    for line in lines:
        program, *words = shlex.split(line)[1:]
        if words[0] in ("fit", "mil-cv"):
            words += SHORT
        code = PROGRAMS[program].main(words)
        assert code == 0, (line, capsys.readouterr())
    for slide in NEW:
        with h5py.File(f"runs/predict/version_0/predictions/features/{slide}.h5") as file:
            assert len(file["features"])
        maps = Path("runs/predict/version_0/predictions/heatmaps")
        assert {path.name for path in maps.glob(f"{slide}*")} == {
            f"{slide}.png", f"{slide}_top.png", f"{slide}.geojson",
        }  # fmt: skip
    with Path("runs/predict/version_0/predictions/bags.csv").open(newline="") as file:
        assert [row["bag_id"] for row in csv.DictReader(file)] == NEW
    for name in ("abmil", "mhim", "compare", "final", "froc"):
        assert json.loads(Path(f"{name}.json").read_text())["metrics"]
