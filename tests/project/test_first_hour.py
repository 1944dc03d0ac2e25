"""README's ways from a folder of other programs to a scored test, typed as README says."""

import json
import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import train

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
SECTION = README.partition("## From a folder to a scored test")[2].partition("\n## ")[0]
BLOCKS = [block.strip().splitlines() for block in re.findall(r"```\n(.*?)```", SECTION, re.DOTALL)]
SIDE, WIDTH = 64, 16
SHORT = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--data.num_workers", "0"]
SMALL = [*SHORT, "--trainer.limit_train_batches", "2", "--data.batch_size", "2"]
OPTIONS = {
    "images": [*SMALL, "--data.train_short_sides", "[64]", "--data.eval_short_side", "64"],
    "yolo": [*SMALL, "--data.mosaic.size", "64", "--data.max_long_side", "64"],
    "clam": SHORT,
    "trident": SHORT,
}


def scene(number):
    """Return an image with a bright square, and the square's sides."""
    rng = np.random.default_rng(number)
    x, y = rng.integers(4, 24, 2).tolist()
    pixels = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
    pixels[y : y + 30, x : x + 30, number % 2] = 250
    return Image.fromarray(pixels), (x, y, x + 30, y + 30)


def coco(folder):
    for split, numbers in (("train", range(6)), ("val", range(6, 10))):
        images = folder / "COCO" / "images" / split
        images.mkdir(parents=True)
        records, annotations = [], []
        for number in numbers:
            picture, (x1, y1, x2, y2) = scene(number)
            picture.save(images / f"{number}.png")
            record = {"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE}
            records.append(record)
            annotations.append(
                {
                    **{"id": number + 1, "image_id": number, "category_id": number % 2 + 1},
                    **{"bbox": [x1, y1, 30, 30], "area": 900, "iscrowd": 0},
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                }
            )
        names = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
        content = {"images": records, "annotations": annotations, "categories": names}
        file = folder / "COCO" / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))


def ultralytics(folder):
    root = folder / "ULTRALYTICS"
    for split, numbers in (("train", range(6)), ("val", range(6, 10))):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in numbers:
            picture, (x1, y1, x2, y2) = scene(number)
            picture.save(root / "images" / split / f"{number}.png")
            points = np.array([x1, y1, x2, y1, x2, y2, x1, y2]) / SIDE
            line = f"{number % 2} {' '.join(f'{p:.4f}' for p in points)}\n"
            (root / "labels" / split / f"{number}.txt").write_text(line)
    text = f"path: {root}\ntrain: images/train\nval: images/val\nnames:\n  0: red\n  1: green\n"
    (root / "data.yaml").write_text(text)


def features(number):
    rng = np.random.default_rng(number)
    return (rng.standard_normal((20 + number, WIDTH)) + number % 2).astype(np.float16)


def clam(folder):
    (folder / "CLAM" / "pt_files").mkdir(parents=True)
    lines = ["case_id,slide_id,label"]
    for number in range(24):
        torch.save(
            torch.from_numpy(features(number)), folder / "CLAM" / "pt_files" / f"s{number}.pt"
        )
        lines.append(f"case_{number},s{number},{('normal', 'tumour')[number % 2]}")
    (folder / "CLAM" / "slides.csv").write_text("\n".join(lines) + "\n")


def trident(folder):
    place = folder / "TRIDENT" / "features_uni_v1"
    place.mkdir(parents=True)
    lines = ["slide_id,label"]
    for number in range(24):
        with h5py.File(place / f"s{number}.h5", "w") as file:
            found = features(number)
            file.create_dataset("features", data=found, chunks=(1, WIDTH), maxshape=(None, WIDTH))
            coords = np.arange(2 * len(found)).reshape(-1, 2)
            file.create_dataset("coords", data=coords, chunks=(1, 2), maxshape=(None, 2))
        lines.append(f"s{number},{number % 2}")
    (folder / "slides.csv").write_text("\n".join(lines) + "\n")


WRITERS = {"images": coco, "yolo": ultralytics, "clam": clam, "trident": trident}


def test_readme_has_three_commands_for_each():
    names = [re.search(r"--name (\w+)", block[1]).group(1) for block in BLOCKS]
    assert names == list(WRITERS)
    assert all(len(block) == 3 for block in BLOCKS)


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=list(WRITERS))
def test_three_commands_from_the_folder_to_the_score(block, tmp_path, capsys):
    name = re.search(r"--name (\w+)", block[1]).group(1)
    WRITERS[name](tmp_path)
    places = r"(?<=[ =])(COCO|ULTRALYTICS/data\.yaml|CLAM\S*|TRIDENT/\S+|slides\.csv|runs/\S+)"
    for line in block:
        typed = re.sub(places, lambda m: str(tmp_path / m.group(1)), line)
        _, script, *words = shlex.split(typed)
        if words[0] == "check-data":
            assert evaluate.main(words) == 0
            assert "no problem found" in capsys.readouterr().out
            continue
        assert script == "train.py"
        more = OPTIONS[name] if words[0] == "fit" else []
        assert train.main([*words, *more, "--runs_dir", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    metric = "segm_map" if name in ("images", "yolo") else "bag_auroc"
    assert f"test/{metric}" in shown
