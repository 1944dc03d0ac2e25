"""LIS on a generated set: pairs, names of files and categories, and what is refused."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import train
from datamodules.seg.lis import NAMES, LISDataModule
from datamodules.seg.mosaic_options import MosaicOptions
from lightning_modules.rebuilding import FORMAT
from lightning_modules.segmentation import SegmentationModule
from structures import DataProblems
from tests.support.colour_segmentor import ColourModel

SIDE = 32
KINDS = [(light, source) for light in ("dark", "normal") for source in ("raw", "rgb")]
SCENES = {"train": (1, 3, 5), "test": (7, 9), "traintest": (1, 3, 5, 7, 9)}


def box(scene):
    """Category and corner of the object of a scene; category 0 is one of them."""
    return (scene // 2) % 8, 4 + scene


def document(part, step, prefix, suffix):
    annotations, images = [], []
    for scene in SCENES[part]:
        category, start = box(scene)
        images.append({"id": scene + step, "file_name": f"{prefix}{scene + step}{suffix}",
                       "height": SIDE, "width": SIDE})  # fmt: skip
        end = start + 10
        annotations.append({
            "id": scene, "image_id": scene + step, "category_id": category, "iscrowd": 0,
            "bbox": [start, start, 10, 10], "area": 100,
            "segmentation": [[start, start, end, start, end, end, start, end]],
        })  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def lis(tmp_path):
    """Return the folder of a set; the colour of an image tells its kind and scene apart."""
    root = tmp_path / "LIS"
    (root / "annotations").mkdir(parents=True)
    for source, suffix in (("RGB", ".JPG"), ("RAW", ".png")):
        for light, step in (("normal", 0), ("dark", 1)):
            folder = root / f"{source}-{light}" / "JPEGImages"
            folder.mkdir(parents=True)
            for scene in SCENES["traintest"]:
                value = 20 * scene + 10 * step + (source == "RAW")
                pixels = np.full((SIDE, SIDE, 3), value, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{scene + step}{suffix}", quality=100)
    for kind, suffix in (("JPG", ".JPG"), ("png", ".png")):
        for part in SCENES:
            for step, end in ((0, ""), (1, "+1")):
                if (kind, step) != ("JPG", 0):
                    prefix = "JPEGImages/" if part == "train" else ""
                    file = root / "annotations" / f"lis_coco_{kind}_{part}{end}.json"
                    file.write_text(json.dumps(document(part, step, prefix, suffix)))
    assert len(list((root / "annotations").iterdir())) == 9
    return root


def change(lis, name, edit):
    file = lis / "annotations" / name
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(("light", "source"), KINDS)
def test_images_and_objects_of_every_kind(lis, light, source):
    data = LISDataModule(lis, light=light, source=source)
    assert data.class_names == list(NAMES.values())
    assert data.category_map.ids == tuple(range(8))
    for split, scenes in (("train", SCENES["train"]), ("val", SCENES["test"])):
        images = data.source(split)
        assert len(images) == len(scenes)
        for number, scene in enumerate(scenes):
            found = images.read(number)
            value = 20 * scene + 10 * (light == "dark") + (source == "raw")
            assert abs(int(found.image[0, 0, 0]) - value) <= 2
            assert found.image_id == scene + (light == "dark")
            assert found.labels.tolist() == [box(scene)[0]]
    assert len(LISDataModule(lis, light=light, source=source, test="traintest").source("val")) == 5


def test_its_images_are_left_as_they_are(lis):
    data = LISDataModule(lis, low_light={"input": "raw3"})
    batch = next(iter(data.val_dataloader()))
    assert data.on_after_batch_transfer(batch, 0) is batch
    with pytest.raises(ValueError, match="raw4, but the images of LIS have three channels"):
        LISDataModule(lis, low_light={"input": "raw4"})


def test_categories_are_matched_by_name_whatever_their_order(lis):
    """As a model of COCO has them: other ids in another order, with classes that LIS lacks."""
    coco = {"bicycle": 2, "car": 3, "motorcycle": 4, "bus": 6, "person": 1, "bottle": 44,
            "chair": 62, "dining table": 67, "tv": 72}  # fmt: skip
    numbers = dict(sorted(coco.items(), key=lambda item: item[1]))
    given = {"ids": list(numbers.values()), "names": list(numbers)}
    data = LISDataModule(lis, category_map=given)
    for number, scene in enumerate(SCENES["test"]):
        name = [*NAMES.values()][box(scene)[0]]
        assert data.class_names[data.source("val").read(number).labels[0]] == name
    truth = data.labelled_truth("val")
    assert {a["category_id"] for a in truth["annotations"]} <= set(coco.values())


def test_a_shuffled_file_gives_the_same_labels(lis):
    wanted = [LISDataModule(lis).source("train").read(n).labels[0] for n in range(3)]

    def shuffle(content):
        for record in (*content["categories"],):
            record["id"] = 7 - record["id"]
        for row in content["annotations"]:
            row["category_id"] = 7 - row["category_id"]

    change(lis, "lis_coco_png_train+1.json", shuffle)
    found = [LISDataModule(lis).source("train").read(n).labels[0] for n in range(3)]
    assert found == wanted


PAIRS = {"input": "raw3", "clean": True}


def gradients(lis):
    """Give the images of a set a pattern, the partners one of another brightness."""
    y, x = np.mgrid[:SIDE, :SIDE]
    for source, suffix in (("RGB", ".JPG"), ("RAW", ".png")):
        for scene in SCENES["traintest"]:
            for light, step, factor in (("normal", 0, 4), ("dark", 1, 1)):
                pixels = np.stack([x, y, x // 2 + scene], axis=-1) * factor
                file = lis / f"{source}-{light}" / "JPEGImages" / f"{scene + step}{suffix}"
                Image.fromarray(pixels.astype(np.uint8)).save(file)
    return lis


@pytest.mark.parametrize(
    "more",
    [
        {"augmentations": [{"name": "HorizontalFlip", "p": 0.5},
                           {"name": "Affine", "rotate": [-30, 30], "interpolation": 0, "p": 1.0}]},
        {"train_short_sides": [24, 40]},
        {"mosaic": MosaicOptions(size=64, close_epochs=0, hsv=(0, 0, 0), mixup=0)},
    ],
)  # fmt: skip
def test_pairs_have_the_same_geometry(lis, more):
    gradients(lis)
    data = LISDataModule(lis, low_light=PAIRS, batch_size=3, seed=1, **more)
    assert data.gives_pairs
    alone = LISDataModule(lis, low_light={"input": "raw3"}, batch_size=3, seed=1, **more)
    plain, batch = (next(iter(d.train_dataloader())) for d in (alone, data))
    assert plain.clean_images is None
    assert torch.equal(plain.images, batch.images)
    assert torch.equal(plain.masks, batch.masks)
    dark, clean = (view[:, 0] * 255 for view in (batch.images, batch.clean_images))
    seen = (dark > 10) & (dark != 114)  # rounding is small beside it, and it is no padding
    assert seen.sum() > 500
    torch.testing.assert_close(clean[seen], 4 * dark[seen], rtol=0, atol=3)
    assert data.on_after_batch_transfer(batch, 0) is batch
    assert next(iter(data.val_dataloader())).clean_images is None


def test_colours_of_both_views_change_alike(lis):
    jitter = {"name": "ColorJitter", "brightness": [0.5, 0.5], "hue": 0, "saturation": 0, "p": 1.0}
    data = LISDataModule(lis, low_light=PAIRS, augmentations=[jitter | {"contrast": 0}])
    batch = next(iter(data.train_dataloader()))
    for n, number in enumerate(batch.image_ids):
        dark = 20 * (number - 1) + 11
        assert batch.images[n, 0, 0, 0] * 255 == pytest.approx(dark / 2, abs=1)
        assert batch.clean_images[n, 0, 0, 0] * 255 == pytest.approx((dark - 10) / 2, abs=1)


def test_pairs_need_images_in_the_dark(lis):
    assert not LISDataModule(lis, low_light=PAIRS, light="normal").gives_pairs
    assert not LISDataModule(lis, low_light={"input": "raw3"}).gives_pairs


def resize_partner(lis, name="3.png"):
    pixels = np.zeros((SIDE, SIDE - 2, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(lis / "RAW-normal" / "JPEGImages" / name)


def test_partners_of_another_size(lis, capsys):
    resize_partner(lis)
    assert check(lis, capsys)[0] == 0  # without pairs it is not read
    words = ["--data.low_light", "{clean: true}", "--out", str(lis / "out.json")]
    assert check(lis, capsys, *words)[0] == 2
    (problem,) = json.loads((lis / "out.json").read_text())["problems"]
    for part in ("RAW-normal/JPEGImages/3.png is 32 px high and 30 px wide, but",
                 "RAW-dark/JPEGImages/4.png is 32 and 32"):  # fmt: skip
        assert part in problem["reason"]
    file = lis / "RAW-normal" / "JPEGImages" / "3.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataProblems, match=r"image 4.*its partner: .*3\.png cannot be read"):
        LISDataModule(lis, low_light=PAIRS)


@pytest.mark.slow
def test_a_training_on_pairs(lis, tmp_path, capsys):
    words = ["fit", "--config", "configs/quickstart/low_light.yaml"]
    words += ["--config", "configs/_base/data/lis.yaml", "--data.root", str(lis)]
    words += ["--runs_dir", str(tmp_path), "--name", "lis", "--trainer.max_epochs", "1"]
    words += ["--trainer.limit_train_batches", "1", "--trainer.log_every_n_steps", "1"]
    assert train.main(words) == 0
    run = tmp_path / "lis" / "version_0"
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert len([row for row in rows if float(row["train/loss_dsl"] or 0) > 0]) == 1
    assert (run / "pictures" / "gallery_epoch_001.png").is_file()
    assert train.main([*words, "--data.light", "normal"]) == 2
    assert "LIS in the dark" in " ".join(capsys.readouterr().err.split())
    resize_partner(lis)
    assert train.main(words) == 2
    assert "3.png is 32 px high and 30" in " ".join(capsys.readouterr().err.split())


def check(root, capsys, *more):
    """Run `check-data` and return its exit code and what it prints."""
    configs = ["--config", "configs/quickstart/mask_rcnn.yaml"]
    configs += ["--config", "configs/_base/data/lis.yaml"]
    code = evaluate.main(["check-data", *configs, "--data.root", str(root), *more])
    shown = capsys.readouterr()
    return code, " ".join((shown.out + shown.err).split())


def test_a_folder_is_missing(lis, capsys):
    (lis / "RAW-normal").rename(lis / "elsewhere")
    code, text = check(lis, capsys)
    assert code == 2
    assert "lacks RAW-normal/JPEGImages; give the folder LIS" in text


def test_a_partner_is_missing(lis, capsys):
    (lis / "RAW-normal" / "JPEGImages" / "3.png").unlink()
    code, text = check(lis, capsys)
    assert code == 2
    assert "1 problem(s)" in text
    with pytest.raises(DataProblems, match=r"image 4.*3\.png is missing.*n in normal light"):
        LISDataModule(lis)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["categories"].pop(0), r"lacks the categories \['bicycle'\]"),
        (lambda c: c["categories"][1].update(name="sofa"), "category 'sofa' is not of LIS"),
        (lambda c: c["categories"][1].update(name="tv"), "'tvmonitor' is there twice"),
    ],
)
def test_a_category_is_missing_or_unknown(lis, edit, message):
    change(lis, "lis_coco_png_train+1.json", edit)
    with pytest.raises(DataProblems, match=message):
        LISDataModule(lis)


def test_check_data_of_a_sound_set(lis, capsys):
    code, text = check(lis, capsys)
    assert code == 0, text
    assert "no problem" in text


def test_a_checkpoint_is_scored_on_its_annotations(lis, tmp_path, capsys):
    """The images are dark already: no noise is added, and no JPEGImages need be named."""
    data = LISDataModule(lis)
    options = {"input": "raw3", "camera": "canon_5d4", "ratio": [10, 100], "bits": None,
               "physics": "corrected", "clean": False, "evaluate": "dark"}  # fmt: skip
    model = {
        "class_path": "lightning_modules.segmentation.SegmentationModule",
        "init_args": {
            "model": {"class_path": "tests.support.colour_segmentor.ColourModel", "init_args": {}},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
        },
    }
    record = {
        "format": FORMAT,
        "blueprint": {
            "model": model,
            "data": {"class_path": "datamodules.seg.coco.CocoDataModule", "init_args": {}},
            "links": {"num_classes": 8},
        },
        "facts": {
            "category_map": data.category_map.to_dict(),
            "preprocessing": data.evaluation_arguments() | {"low_light": options, "seed": 0},
            "categories": data.category_arguments(),
        },
        "precision": "32-true",
    }
    state = SegmentationModule(ColourModel(8), torch.optim.SGD).state_dict()
    trained = {"pytorch-lightning_version": "2.6", "epoch": 0, "global_step": 0}
    file, out, rows = tmp_path / "c.ckpt", tmp_path / "out.json", tmp_path / "rows.json"
    torch.save({"segmil": record, "state_dict": state, **trained}, file)
    words = ["coco", "--ckpt", file, "--annotations", lis / "annotations/lis_coco_png_test+1.json",
             "--images", lis / "RAW-dark", "--out", out, "--save-predictions", rows]  # fmt: skip
    assert evaluate.main([str(w) for w in words]) == 0
    assert {row["image_id"] for row in json.loads(rows.read_text())} == {8, 10}
    assert evaluate.main([str(w) for w in (*words[:7], "--light", "dark")]) == 2
    assert "their light cannot be changed" in capsys.readouterr().err
    whole = [row["area"] for row in json.loads(rows.read_text()) if "area" in row]
    assert all(area == SIDE * SIDE for area in whole)  # without noise an image has one colour
