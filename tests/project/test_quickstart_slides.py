"""`python quickstart.py wsi` on fewer and smaller slides, and README's commands for slide files."""

import csv
import functools
import json
import re
import shlex
from pathlib import Path

import pytest

import evaluate
import quickstart
import train
from datamodules.wsi import synthetic_slides
from tests.support.small_slides import write_slide

ROOT = Path(__file__).resolve().parents[2]


def test_another_word_is_refused(capsys):
    assert quickstart.main(["slides"]) == 2
    assert "quickstart.py [wsi]" in capsys.readouterr().err


@pytest.mark.slow
def test_from_slides_to_a_summary(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    small = functools.partial(synthetic_slides.write_slides, side_mm=0.7)
    monkeypatch.setattr(synthetic_slides, "write_slides", small)
    monkeypatch.setattr(quickstart, "RUNS", tmp_path)
    monkeypatch.setattr(quickstart, "WSI", tmp_path / "quickstart_wsi")
    monkeypatch.setattr(quickstart, "SLIDES", 12)
    monkeypatch.setattr(quickstart, "PATIENTS", 12)
    few = {name: (recipe, 2) for name, (recipe, _) in quickstart.SLIDE_MODELS.items()}
    monkeypatch.setattr(quickstart, "SLIDE_MODELS", few)
    assert quickstart.main(["wsi"]) == 0
    summary = json.loads((tmp_path / "quickstart_wsi/summary.json").read_text())
    assert {"slides", "table", "lesions", "features", "predictions", "attention"} <= set(summary)
    assert {"colour_auroc", "seconds", "seconds_by_step", "pictures"} <= set(summary)
    patches = 0
    for file in Path(summary["features"]).glob("*.h5"):
        patches += rows_of(file)
    for name in ("abmil", "mhim"):
        assert 0 <= summary["slide_auroc"][name] <= 1
        assert 0 <= summary["lesion_patch_auroc"][name] <= 1
        slides = table_rows(summary["predictions"][name])
        assert sorted(row["bag_id"] for row in slides) == [f"slide_{n:03d}" for n in range(12)]
        assert {"bag_id", "label", "score", "patient_id", "fold"} <= set(slides[0])
        found = table_rows(summary["attention"][name])
        assert {"bag_id", "instance", "attention", "x", "y"} <= set(found[0])
        assert len(found) == patches  # each slide once, by the fold that did not see it
    assert all(Path(path).is_file() for path in summary["pictures"])


SHORT = ["--trainer.max_epochs", "1", "--data.num_workers", "0"]
OPTIONS = {
    "predict": ["--data.num_workers", "0"],
    "mil-cv": [*SHORT, "--folds", "2", "--repeats", "1"],
    "fit": [*SHORT, "--trainer.accelerator", "cpu"],
}


@pytest.mark.slow
def test_the_commands_of_readme(tmp_path, monkeypatch):
    """Typed as README says, in a folder with slides and a table."""
    text = (ROOT / "README.md").read_text().partition("## From slide files to a model")[2]
    lines = re.search(r"```\n(.*?)```", text, re.DOTALL).group(1).strip().splitlines()
    assert [shlex.split(line)[2] for line in lines] == [*OPTIONS, "predict"]
    table = ["slide_id,patient_id,label"]
    for number in range(20):
        write_slide(tmp_path / "SLIDES" / f"s{number}.tiff", number)
        table.append(f"s{number},p{number // 2},{number // 2 % 2}")
    (tmp_path / "slides.csv").write_text("\n".join(table) + "\n")
    write_slide(tmp_path / "NEW" / "new.tiff", 20)
    (tmp_path / "new.csv").write_text("slide_id\nnew\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for line in lines:
        _, script, command, *words = shlex.split(line)
        program = {"train.py": train, "evaluate.py": evaluate}[script]
        assert program.main([command, *words, *OPTIONS[command]]) == 0
    assert len(table_of := table_rows(tmp_path / "out_of_fold.csv")) == 20
    assert {row["patient_id"] for row in table_of} == {f"p{n}" for n in range(10)}
    assert (tmp_path / "runs/mhim/version_0/checkpoints/best.ckpt").is_file()
    (predicted,) = (tmp_path / "runs/predict").iterdir()
    assert [row["bag_id"] for row in table_rows(predicted / "predictions/bags.csv")] == ["new"]
    assert (predicted / "predictions/heatmaps/new.png").is_file()


def rows_of(file):
    import h5py

    with h5py.File(file) as content:
        return len(content["features"])


def table_rows(path):
    with Path(path).open(newline="") as stream:
        return list(csv.DictReader(stream))
