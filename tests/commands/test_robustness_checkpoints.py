"""`evaluate.py robustness --ckpt`: cells are evaluated, each once, on corrupted images."""

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import evaluate
import formats.files
from evaluation.robustness import corruptions, kept
from evaluation.robustness.corruptions import corrupt, image_seed
from tests.support.bright_objects import SIZES, BrightObjects, write_bright, write_scenes
from tests.support.layers import ROOT

FAST = ("brightness", "zoom_blur")  # need no library
OWN = "own_haze_of_a_test.haze"
HAZE = """
import os, pathlib, signal

def haze(image, severity, rng):
    if severity == 5 and pathlib.Path("armed").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    faulty = pathlib.Path("faulty")  # has the height of an image
    if faulty.exists() and faulty.read_text() == str(image.shape[0]):
        raise KeyError("no such haze")
    noise = rng.integers(0, 20 * severity, image.shape)
    return (image * 0.6 + noise).astype("uint8")
"""
CELLS = 1 + 3 * 2


def run(*words):
    return evaluate.main(["robustness", *map(str, words)])


def common(folder):
    """Return the arguments of all evaluations of the scenes."""
    truth = ("--annotations", folder / "truth.json")
    return *truth, "--corruptions", *FAST, OWN, "--severities", 1, 5


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
    """Do not wait for the disk; the working folder has the user's own corruption."""
    monkeypatch.setattr(formats.files.os, "fsync", lambda _: None)
    monkeypatch.setattr(BrightObjects, "predicted", [])
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes and a run's checkpoint."""
    root = tmp_path_factory.mktemp("robustness")
    write_scenes(root)
    run_folder = root / "runs" / "bright" / "version_0"
    (run_folder / "checkpoints").mkdir(parents=True)
    write_bright(run_folder / "checkpoints" / "best.ckpt")
    (root / "own_haze_of_a_test.py").write_text(HAZE)
    return root


@pytest.fixture(scope="module")
def ckpt(folder):
    return folder / "runs" / "bright" / "version_0" / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def whole(folder, ckpt):
    """Evaluate all cells once; returns the table, the record, image ids and what was printed."""
    told = io.StringIO()
    words = (*common(folder), "--out", folder / "whole.json", "--figure", folder / "whole.png")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(told):
        patch.chdir(folder)
        patch.setattr(BrightObjects, "predicted", [])
        assert run("--ckpt", ckpt, *words) == 0
        predicted = BrightObjects.predicted
    table = ckpt.parent.parent / "robustness.csv"
    record = json.loads((folder / "whole.json").read_text())
    return table, record, predicted, told.getvalue().splitlines()


def predictions(table):
    """Return the bytes of all files that are kept beside a table."""
    folder = table.with_name(f"{table.name}.predictions")
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def coco(folder, *words):
    """Return the metrics of `evaluate.py coco`."""
    out = folder / "coco.json"
    truth = ("--annotations", folder / "truth.json")
    assert evaluate.main(["coco", *map(str, (*truth, "--out", out, *words))]) == 0
    return json.loads(out.read_text())["metrics"]


def test_the_clean_cell_is_the_number_of_coco(folder, ckpt, whole):
    table, record, predicted, _ = whole
    assert len(predicted) == CELLS * len(SIZES)
    found = record["cells"]["bright"]
    expected = coco(folder, "--ckpt", ckpt)
    assert 0.3 < expected["segm_map"] < 1
    clean = found["clean"]["0"]
    assert {"segm_map", "box_map_50", "segm_map_small"} <= set(clean)
    assert clean == {name: expected[name] for name in clean}
    assert "segm_map_large" not in clean  # the scenes have no large object
    assert list(found) == ["clean", *FAST, OWN]
    values = [cell["segm_map"] for cells in found.values() for cell in cells.values()]
    assert len(set(values)) == CELLS
    assert found["brightness"]["5"]["segm_map"] < 0.1 < found["zoom_blur"]["1"]["segm_map"]
    assert record["metrics"]["bright"]["segm_map_mpc"] is None
    assert (record["path"], record["seed"], record["table"]) == ("fast", 0, str(table))
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"bright"}
    assert len({(row["corruption"], row["severity"]) for row in rows}) == CELLS


@pytest.mark.parametrize(("name", "severity"), [("zoom_blur", 1), (OWN, 5)])
def test_saved_corrupted_images_have_the_same_scores(folder, ckpt, whole, tmp_path, name, severity):
    images = json.loads((folder / "truth.json").read_text())["images"]
    for record in images:
        pixels = np.array(Image.open(folder / "images" / record["file_name"]))
        seed = image_seed(0, record["id"], name, severity)
        changed = corrupt(pixels, name, severity, seed)
        Image.fromarray(changed).save(tmp_path / record["file_name"])
    expected = coco(folder, "--ckpt", ckpt, "--images", tmp_path)
    found = whole[1]["cells"]["bright"][name][str(severity)]
    assert found == {key: expected[key] for key in found}


def test_the_same_command_again_predicts_nothing(folder, ckpt, whole, capsys):
    table, record, *_ = whole
    before = table.read_bytes()
    (folder / "own_haze_of_a_test.py").write_text(f"{HAZE}# changed\n")  # known by its name (A708)
    out = folder / "again.json"
    assert run("--ckpt", ckpt, *common(folder), "--out", out) == 0
    assert BrightObjects.predicted == []
    assert table.read_bytes() == before
    again = json.loads(out.read_text())
    assert {k: again[k] for k in ("metrics", "cells")} == {
        k: record[k] for k in ("metrics", "cells")
    }
    assert f"7 of 7 cells (in {table})" in capsys.readouterr().err


def test_progress_and_figure(folder, whole):
    lines = [line for line in whole[3] if "cells" in line]
    assert len(lines) == 1 + CELLS
    assert lines[3].startswith("3 of 7 cells, ")
    value = whole[1]["cells"]["bright"]["brightness"]["5"]["segm_map"]
    assert lines[3].endswith(f" left (bright, brightness 5: mask AP {value:.4f})")
    assert (folder / "whole.png").stat().st_size > 1000


@pytest.mark.slow
def test_workers_batches_and_order_do_not_change_cells(folder, ckpt, whole, tmp_path):
    """Another seed changes what is drawn at random, and nothing else."""
    base = ("--ckpt", ckpt, "--annotations", folder / "truth.json", "--severities", 5)
    second, rows = tmp_path / "second.csv", set(whole[0].read_text().splitlines())
    by_workers = {}
    for workers, batch in ((0, 1), (1, 2), (3, 1)):
        first = tmp_path / f"first{workers}.csv"
        words = ("--workers", workers, "--batch-size", batch, "--corruptions", OWN)
        assert run(*base, *words, "--cells", first) == 0
        assert set(first.read_text().splitlines()) < rows
        by_workers[workers] = predictions(first)
    assert by_workers[0] == by_workers[1] == by_workers[3]
    assert by_workers[0].items() < predictions(whole[0]).items()
    words = ("--corruptions", OWN, FAST[0], "--seed", 1)
    assert run(*base, *words, "--cells", second) == 0
    changed = {row.split(",")[1] for row in set(second.read_text().splitlines()) - rows}
    assert changed == {OWN}


def test_a_second_model_is_added_to_the_table(folder, ckpt, whole, tmp_path):
    """In the settings of tiles and views that `coco` has, too."""
    other = write_bright(tmp_path / "dim.ckpt", threshold=0.7)
    cells, out = tmp_path / "cells.csv", tmp_path / "o.json"
    how = ("--tile", 48, "--tta", "--scale", 1)
    which = ("--annotations", "truth.json", "--corruptions", FAST[0], "--severities", 5)
    words = (*which, *how, "--cells", cells, "--out", out)
    assert run("--ckpt", ckpt, *words) == 0
    first = cells.read_bytes()
    BrightObjects.predicted.clear()
    assert run("--ckpt", ckpt, other, *words, "--reference", "bright") == 0
    assert cells.read_bytes().startswith(first)
    record = json.loads(out.read_text())
    found = record["cells"]
    assert list(found) == ["bright", "dim"]
    for name, file in (("bright", ckpt), ("dim", other)):
        expected, clean = coco(folder, "--ckpt", file, *how), found[name]["clean"]["0"]
        assert clean == {key: expected[key] for key in clean}
    assert found["bright"]["clean"] != whole[1]["cells"]["bright"]["clean"]
    assert record["metrics"]["dim"]["segm_mcd"] is None


@pytest.mark.slow
def test_a_killed_evaluation_continues(folder, ckpt, whole, tmp_path):
    """Killed while an image is corrupted, it repeats none of the finished cells."""
    cells, armed = tmp_path / "cells.csv", folder / "armed"
    words = [str(word) for word in ("--ckpt", ckpt, *common(folder), "--cells", cells)]
    armed.touch()
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(ROOT / "evaluate.py"), "robustness", *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}"},
            capture_output=True,
            check=False,
        )
    finally:
        armed.unlink()
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    text, table = cells.read_text(), whole[0].read_text()
    assert table.startswith(text)
    assert len({tuple(line.split(",")[1:3]) for line in text.splitlines()[1:]}) == CELLS - 1
    assert len(predictions(cells)) == CELLS - 1
    assert run(*words) == 0
    assert len(BrightObjects.predicted) == len(SIZES)  # the last cell
    assert cells.read_text() == table
    assert predictions(cells) == predictions(whole[0])


@pytest.mark.parametrize(
    ("number", "workers"), [(0, 0), (1, 0), pytest.param(1, 2, marks=pytest.mark.slow)]
)
def test_a_function_that_raises_is_named(folder, ckpt, tmp_path, capsys, number, workers):
    """If it does for the first image, nothing is predicted before; else what is known stays."""
    words = ("--corruptions", OWN, "--severities", 2, "--cells", tmp_path / "cells.csv")
    (folder / "faulty").write_text(str(SIZES[number][0]))
    try:
        base = ("--ckpt", ckpt, "--annotations", folder / "truth.json", "--workers", workers)
        assert run(*base, *words) == 2
    finally:
        (folder / "faulty").unlink()
    told = capsys.readouterr().err.splitlines()[-1]
    place = f"({folder / 'images' / f'scene{number}.png'})"
    assert told.startswith("error: image ")
    assert told.endswith(f"{place}: {OWN} at severity 2 raised KeyError: 'no such haze'")
    assert ("clean" in (tmp_path / "cells.csv").read_text()) == (number > 0)
    assert bool(BrightObjects.predicted) == (number > 0)


def test_predictions_are_written_before_their_cell(folder, ckpt, tmp_path, capsys, monkeypatch):
    def full(path, matches):
        del matches
        raise OSError(f"{path}: no space left")

    monkeypatch.setattr(kept, "keep", full)
    cells = tmp_path / "cells.csv"
    assert run("--ckpt", ckpt, *common(folder), "--cells", cells) == 2
    assert "clean_0.npz: no space left" in capsys.readouterr().err
    assert cells.read_text().count("\n") == 1


def test_no_predictions_are_kept_where_none_are_wanted(folder, ckpt, tmp_path):
    cells, out = tmp_path / "cells.csv", tmp_path / "out.json"
    base = ("--ckpt", ckpt, "--annotations", folder / "truth.json", "--cells", cells)
    words = ("--corruptions", FAST[0], "--severities", 1, "--out", out)
    assert run(*base, *words, "--no-predictions") == 0
    assert predictions(cells) == {}
    reason = f"because no predictions are kept in {cells}.predictions"
    told = f"no intervals for the models of {cells}, {reason}"
    assert told in json.loads(out.read_text())["notes"]
    assert run(*base, *words, "--no-intervals") == 0
    record = json.loads(out.read_text())
    assert not [note for note in record["notes"] if "no intervals" in note]
    assert record["intervals"] == {}


def test_wrong_input(folder, ckpt, whole, tmp_path, capsys, monkeypatch):
    def missing():
        raise ValueError("these corruptions need imagecorruptions-imaug")

    monkeypatch.setattr(corruptions, "_library", missing)
    small = write_scenes(tmp_path / "small", [(40, 31), (40, 40)])
    twin = tmp_path / "bright.ckpt"
    shutil.copy(ckpt, twin)
    other = write_bright(tmp_path / "other.ckpt", threshold=0.6)
    empty = write_scenes(tmp_path / "empty", SIZES[:1])
    content = json.loads(empty.read_text())
    empty.write_text(json.dumps(content | {"annotations": []}))
    table, truth = whole[0], folder / "truth.json"
    before = table.read_bytes()
    base = ("--ckpt", ckpt, "--annotations", truth)
    swapped = ("--ckpt", other, *base[2:], "--names", "bright", "--cells", table)
    one = ("--corruptions", FAST[0])
    for words, told in (
        ((*base, "--corruptions", "fogg"), "no corruption 'fogg'; did you mean fog?"),
        ((*base, *one, "--severities", 0), "a severity is 1, 2, 3, 4 or 5, got 0"),
        ((*base, *one, "--severities", 6), "a severity is 1, 2, 3, 4 or 5, got 6"),
        ((*base, "--corruptions", "fog"), "need imagecorruptions-imaug"),
        ((*base, *one, "--exact"), "need imagecorruptions-imaug"),
        ((*base, "--corruptions", "no_such.thing"), "importing no_such raised"),
        ((*base[:3], small, *one), f"{small}, image 40: scene0.png is 40 px"),
        ((*base[:3], empty, *one, "--cells", tmp_path / "e.csv"), "no image has an object"),
        ((*base, *one, "--reference", "brigth"), "--reference brigth: no such model; there are br"),
        (("--ckpt", ckpt, twin, *base[2:], *one), "two checkpoints have the name bright: "),
        (("--ckpt", ckpt, twin, *base[2:], *one, "--names", "a"), "1 names for 2 checkpoints"),
        (("--ckpt", twin, *base[2:], *one, "--names", " "), "a name is empty"),
        (("--ckpt", tmp_path / "no.ckpt", *base[2:]), "no.ckpt: no such file"),
        (("--ckpt", ckpt, *one), "--ckpt needs --annotations"),
        ((*base, *one, "--seed", 1), "seed was 0 and is 1"),
        ((*base, *one, "--scale", 2), "--scale was None and is 2.0"),
        ((*base, *one, "--images", tmp_path / "small"), "is missing"),
        ((*swapped, *one), "the checkpoint of bright was"),
        ((*base, *one, "--cells", table, table), "--cells is the one table that is written"),
        ((*base, *one, "--cells", truth), "is the file of --annotations and would replace it"),
        ((*base, *one, "--cells", tmp_path), "is a folder; name a file"),
        ((*base, *one, "--out", table), "cannot both be written"),
        ((*base, *one, "--out", f"{table}.origin.json"), "the file beside --cells"),
        (("--cells", table, "--seed", 0), "--seed is for evaluating checkpoints; give --ckpt"),
        (("--cells", table, "--no-tta"), "--tta is for evaluating checkpoints"),
        ((), "give --ckpt with --annotations to evaluate checkpoints, or --cells to summarise"),
    ):  # fmt: skip
        assert run(*words) == 2, words
        shown = capsys.readouterr()
        assert told in shown.err, (words, shown.err)
        assert "Traceback" not in shown.err
    assert BrightObjects.predicted == []
    assert table.read_bytes() == before
    # Files with other bytes are other data, though their names and sizes are the same.
    copied = shutil.copytree(folder / "images", tmp_path / "copied")
    Image.new("RGB", SIZES[0][::-1]).save(copied / "scene0.png")
    assert run(*base, *one, "--images", copied) == 2
    assert "data was" in capsys.readouterr().err
