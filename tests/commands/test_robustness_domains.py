"""`evaluate.py robustness --domain`: other data sets, scored with the same checkpoints."""

import json
import shutil

import pytest

import evaluate
import formats.files
from tests.support.bright_objects import CATEGORY, BrightObjects, write_bright, write_scenes

FAST = "brightness"
DARKER = ((70, 64), (45, 50))


def run(*words):
    return evaluate.main(["robustness", *map(str, words)])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Do not wait for the disk, and count what is predicted."""
    monkeypatch.setattr(formats.files.os, "fsync", lambda _: None)
    monkeypatch.setattr(BrightObjects, "predicted", [])


def with_categories(file, target, categories):
    """Write the COCO file of scenes with other categories; the objects have the first one."""
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation["category_id"] = categories[0]["id"]
    target.write_text(json.dumps(content | {"categories": categories}))
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes, a checkpoint, and a domain whose category has another id and whose path a colon."""
    root = tmp_path_factory.mktemp("domains")
    write_scenes(root / "own")
    write_bright(root / "bright.ckpt")
    other = root / "at: night"
    file = write_scenes(other, DARKER)
    with_categories(file, other / "moved.json", [{"id": 8, "name": CATEGORY["name"]}])
    return root


@pytest.fixture
def words(folder, tmp_path):
    """Return the arguments of all evaluations but for the domains."""
    truth = ("--annotations", folder / "own" / "truth.json")
    cells = ("--cells", tmp_path / "cells.csv", "--out", tmp_path / "out.json")
    return ("--ckpt", folder / "bright.ckpt", *truth, "--corruptions", FAST, *cells)


def night(folder):
    other = folder / "at: night"
    return f"night={other / 'moved.json'}:{other / 'images'}"


def test_a_domain_has_the_scores_of_coco(folder, words, tmp_path, capsys):
    assert run(*words, "--severities", 5, "--domain", night(folder)) == 0
    assert len(BrightObjects.predicted) == 3 + 3 + len(DARKER)
    told = capsys.readouterr()
    assert "3 of 3 cells (bright, domain:night: mask AP " in told.err
    other = folder / "at: night"
    truth = ("--annotations", other / "truth.json", "--images", other / "images")
    coco = ("coco", "--ckpt", folder / "bright.ckpt", *truth, "--out", tmp_path / "coco.json")
    assert evaluate.main([*map(str, coco)]) == 0
    expected = json.loads((tmp_path / "coco.json").read_text())["metrics"]
    record = json.loads((tmp_path / "out.json").read_text())
    found, clean = record["domains"]["bright"]["night"], record["cells"]["bright"]["clean"]["0"]
    for name in ("segm_map", "box_map_75", "segm_map_small"):
        assert found[name] == expected[name] > 0
        assert found[f"{name}_ratio"] == pytest.approx(expected[name] / clean[name])
    assert "segm_map_large" not in found
    # It enters nothing else.
    assert list(record["cells"]["bright"]) == ["clean", FAST]
    assert list(record["corruptions"]["bright"]) == [FAST]
    assert f"{other / 'moved.json'}" in record["files"]
    row = [line for line in told.out.splitlines() if "night" in line and "│" in line]
    cells = [cell.strip() for cell in row[0].strip("│ ").split("│")]
    assert cells[:3] == ["bright", "night", f"{expected['segm_map']:.4f}"]


def test_a_table_goes_on_with_and_without_domains(folder, words, tmp_path):
    table = tmp_path / "cells.csv"
    assert run(*words, "--severities", 1, "--domain", night(folder)) == 0
    before = table.read_text()
    assert [line.split(",")[1:3] for line in before.splitlines()][-1] == ["domain:night", "0"]
    BrightObjects.predicted.clear()
    assert run(*words, "--severities", 1, "--domain", night(folder)) == 0
    assert BrightObjects.predicted == []
    assert run(*words, "--severities", 5) == 0
    assert len(BrightObjects.predicted) == 3
    assert table.read_text().startswith(before)
    first = json.loads((tmp_path / "out.json").read_text())
    again = tmp_path / "again.json"
    assert run("--cells", table, "--out", again) == 0
    assert json.loads(again.read_text())["domains"] == first["domains"]
    # A domain that broke off is evaluated again.
    table.write_text("".join(before.splitlines(keepends=True)[:-1]))
    BrightObjects.predicted.clear()
    assert run(*words, "--severities", 1, "--domain", night(folder)) == 0
    assert len(BrightObjects.predicted) == len(DARKER)
    assert table.read_text() == before
    # Other images under the name of the domain are refused.
    copied = shutil.copytree(folder / "at: night", tmp_path / "copied")
    for file in (copied / "images").iterdir():
        file.write_bytes(file.read_bytes() + b"\0")
    moved = f"night={copied / 'moved.json'}:{copied / 'images'}"
    assert run(*words, "--severities", 1, "--domain", moved) == 2
    assert table.read_text() == before


def test_wrong_domains(folder, words, tmp_path, capsys):
    other = folder / "at: night"
    images, truth = other / "images", other / "truth.json"
    more = [CATEGORY, {"id": 9, "name": "bus"}]
    wider = with_categories(truth, tmp_path / "wider.json", more)
    renamed = with_categories(truth, tmp_path / "renamed.json", [{"id": 3, "name": "tram"}])
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps(json.loads(truth.read_text()) | {"annotations": []}))
    for domains, told in (
        ([f"night={renamed}:{images}"], "--domain night: "),
        ([f"night={renamed}:{images}"], "other categories: it has tram, which "),
        ([f"night={renamed}:{images}"], f"lacks {CATEGORY['name']} of "),
        ([f"night={wider}:{images}"], "it has bus, which "),
        ([f"night={empty}:{images}"], "empty.json"),
        ([f"night={tmp_path}/no.json:{images}"], f"night: no such file of annotations: {tmp_path}"),
        (["night=no.json"], "night: no such file of annotations: no.json"),
        ([f"night={truth}:{tmp_path}/no"], f"night: no such folder of images: {tmp_path}/no"),
        ([f"night={truth}:"], "no such folder of images: nothing after the colon"),
        ([f"night={wider}"], "cannot guess the image folder"),
        ([f"{truth}:{images}"], "write NAME=ANNOTATIONS:IMAGES, got "),
        ([f"={truth}:{images}"], "write NAME=ANNOTATIONS:IMAGES, got "),
        ([f"a={truth}:{images}", f"a={truth}:{images}"], "have the name a; rename one"),
    ):  # fmt: skip
        assert run(*words, "--domain", *domains) == 2, domains
        shown = capsys.readouterr()
        assert told in shown.err, (domains, shown.err)
        assert "Traceback" not in shown.err
    assert BrightObjects.predicted == []
    assert (tmp_path / "cells.csv").read_text().count("\n") == 1
    assert run("--cells", truth, "--domain", night(folder)) == 2
    assert "--domain is for evaluating checkpoints" in capsys.readouterr().err
    assert run(*words[:-1], truth, "--domain", f"night={truth}:{images}") == 2
    assert "would replace it" in capsys.readouterr().err
