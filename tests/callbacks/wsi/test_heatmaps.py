"""Maps over slides: the strongest patch lies on the dark square, in all three files."""

import csv

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import rankdata

import train
from callbacks.results.predictions import PredictionWriter
from callbacks.wsi import heatmaps
from callbacks.wsi.heatmaps import Heatmaps
from datamodules.mil.features import FeatureBagsDataModule
from formats.detections_csv import read_detections
from formats.slides.qupath import read_objects
from lightning_modules.mil import MILModule
from models.mil.abmil import ABMIL
from models.mil.pooling import InstancePooling
from tests.support.slides import reduced, write_tiff

SIDE, STRIDE, DARK = 64, 32, 150  # pixels of level 0
SQUARES = {"s0": (300, 200), "s1": (40, 250), "s2": (450, 30)}
BOUNDS = (30, 20, 600, 480)


def write_cohort(folder, slides=SQUARES):
    """Write slides with a dark square, and features of overlapping patches: their darkness."""
    (folder / "features").mkdir()
    (folder / "slides").mkdir()
    for name, (left, top) in slides.items():
        image = np.full((512, 640, 3), (230, 200, 220), np.uint8)
        image[top : top + DARK, left : left + DARK] = 60
        write_tiff(folder / f"slides/{name}.tiff", [image, reduced(image, 4)], None, 0.5, tile=64)
        corners = np.array([
            (x, y)
            for y in range(BOUNDS[1], 512 - SIDE, STRIDE)
            for x in range(BOUNDS[0], 640 - SIDE, STRIDE)
        ])  # fmt: skip
        dark = [1 - image[y : y + SIDE, x : x + SIDE].mean() / 255 for x, y in corners]
        with h5py.File(folder / f"features/{name}.h5", "w") as file:
            file["features"] = np.stack([dark, np.ones(len(dark))], axis=1).astype(np.float32)
            file["coords"] = corners
            file["coords"].attrs["patch_size_level0"] = SIDE  # as TRIDENT writes it
    with (folder / "slides.csv").open("w", newline="") as stream:
        rows = [
            ("slide_id", "patient_id", "label"),
            *((s, f"p{s}", "01"[s > "s0"]) for s in slides),
        ]
        csv.writer(stream).writerows(rows)
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"))


def module_of(name):
    """Return a module whose scores are the darkness of patches."""
    if name == "instance_logits":
        model = InstancePooling(2, 2, "binary", pool="mean", hidden_sizes=())
    else:
        model = ABMIL(2, 2, "binary", hidden_sizes=(), attention_dim=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.classifier.weight[0, 0] = 1.0
        if name != "instance_logits":
            model.attention_value.weight[0, 0] = 1.0
            model.attention_score.weight.fill_(1.0)
    return MILModule(model, lambda p: torch.optim.SGD(p, lr=0.1))


def predict(make_trainer, cohort, module, callback, **options):
    data = FeatureBagsDataModule(cohort / "slides.csv", eval_batch_size=2, **options)
    make_trainer([callback]).predict(module, datamodule=data, return_predictions=False)


def around(points, square, slack):
    low, high = np.array(square) - slack, np.array(square) + DARK + slack
    return bool(((points >= low) & (points <= high)).all())


@pytest.mark.parametrize(
    ("score", "pixels"),
    [("attention", 1000), ("instance_logits", 320), ("leave_one_out", 64)],
)
def test_the_maps_lie_on_the_slide(tmp_path, make_trainer, cohort, monkeypatch, score, pixels):
    opened = heatmaps.open_slide

    def cropped(path):
        slide = opened(path)
        slide.bounds = BOUNDS
        return slide

    monkeypatch.setattr(heatmaps, "open_slide", cropped)
    callback = Heatmaps(cohort / "slides", score, pixels=pixels, top=3)
    predict(make_trainer, cohort, module_of(score), callback)
    folder = tmp_path / "run/predictions/heatmaps"
    files = [f"{name}{end}" for name in SQUARES for end in (".geojson", ".png", "_top.png")]
    assert sorted(file.name for file in folder.glob("*.*")) == sorted(files)
    for name, square in SQUARES.items():
        place = np.array(square) - BOUNDS[:2]  # as QuPath counts
        objects = read_objects(folder / f"{name}.geojson")
        patches = [one for one in objects if one.kind == "tile"]
        regions = [one for one in objects if one.kind == "annotation"]
        best = max(patches, key=lambda one: one.measurements[score])
        assert best.measurements[f"{score} rank"] > 0.95
        assert around(best.polygons[0][0].mean(axis=0), place, 0)
        assert regions and all(one.locked and one.name == score for one in regions)
        assert all(around(one.polygons[0][0], place, SIDE) for one in regions)
        found = read_detections(folder / f"detections/{name}.csv")  # pixels of the whole file
        assert len(found) == len(regions)
        assert around(found[0, 1:], square, 0) and 0.5 < found[0, 0] < 0.8
        image = Image.open(folder / f"{name}.png")
        downsample = float(image.text["downsample"])
        assert downsample == pytest.approx(max(1, 600 / pixels))
        assert (image.text["x"], image.text["y"]) == ("30", "20")
        width, height = round(600 / downsample), round(480 / downsample)
        shown = np.asarray(image.convert("RGB"), np.int64)[:height, :width]
        # Attention ends in yellow, the others in red.
        strong = shown[..., 1] - shown[..., 2] if score == "attention" else shown[..., 0]
        strong = strong if score == "attention" else strong - shown[..., 1]
        peak = np.argwhere(strong == strong.max())[:, ::-1] + 0.5
        assert around(peak * downsample, place, SIDE / 2 + downsample)


@pytest.mark.parametrize(
    ("score", "names"),
    [
        ("attention", ["attention 0", "attention 1"]),
        ("leave_one_out", ["leave_one_out low", "leave_one_out mid", "leave_one_out high"]),
    ],
)
def test_the_maps_of_several_branches_and_classes(tmp_path, make_trainer, cohort, score, names):
    torch.manual_seed(0)
    model = ABMIL(2, 3, "multiclass", hidden_sizes=(), attention_dim=4, branches=2)
    module = MILModule(model, lambda p: torch.optim.SGD(p, lr=0.1))
    callback = Heatmaps(cohort / "slides", score, pixels=100)
    classes = {"class_names": ["low", "mid", "high"], "task": "multiclass"}
    predict(make_trainer, cohort, module, callback, **classes)
    folder = tmp_path / "run/predictions/heatmaps"
    first = read_objects(folder / "s0.geojson")[0]
    assert list(first.measurements) == [n + end for n in names for end in ("", " rank")]
    assert not (folder / "detections").exists()


def test_a_slide_that_cannot_be_drawn_is_named(tmp_path, make_trainer):
    cohort = write_cohort(tmp_path)
    (cohort / "slides/s0.tiff").unlink()
    broken = cohort / "slides/s2.tiff"
    broken.write_bytes(broken.read_bytes()[:3000])
    callback = Heatmaps(cohort / "slides", output_dir=tmp_path / "maps")
    with pytest.warns(
        UserWarning, match=r"2 not drawn: s0: .*no slide of this name; s2: .*cut off"
    ):
        predict(make_trainer, cohort, module_of("attention"), callback)
    assert sorted(file.name for file in (tmp_path / "maps").glob("*.geojson")) == ["s1.geojson"]


def patients(folder):
    """Write a cohort in which s1 and s2, much lighter, are of one patient; return it."""
    cohort = write_cohort(folder)
    text = (cohort / "slides.csv").read_text()
    (cohort / "slides.csv").write_text(text.replace("ps2", "ps1"))
    change(cohort, "s2", {"features": lambda features: features * np.float32(0.3)})
    return cohort


def attention_of(cohort, slides):
    """Return the attention of the module in a bag of slides, and each slide's part of it."""
    features = []
    for name in slides:
        with h5py.File(cohort / f"features/{name}.h5") as file:
            features.append(file["features"][:, 0].astype(np.float64))
    together = np.exp(np.tanh(np.concatenate(features)))
    parts = np.cumsum([len(own) for own in features])[:-1]
    return together / together.sum(), np.split(together / together.sum(), parts)


def test_the_slides_of_a_patient_are_drawn_in_the_scale_of_their_bag(
    tmp_path, make_trainer, monkeypatch
):
    cohort, shown = patients(tmp_path), {}
    drawn = heatmaps.draw_maps

    def noted(thumbnail, maps, *more):
        shown[more[-1]] = maps[0].limits()
        return drawn(thumbnail, maps, *more)

    monkeypatch.setattr(heatmaps, "draw_maps", noted)
    callbacks = [Heatmaps(cohort / "slides", pixels=64, top=2), PredictionWriter()]
    data = FeatureBagsDataModule(cohort / "slides.csv", eval_batch_size=2, bag="patient")
    trainer = make_trainer(callbacks)
    trainer.predict(module_of("attention"), datamodule=data, return_predictions=False)
    folder = tmp_path / "run/predictions"
    files = [f"{name}{end}" for name in SQUARES for end in (".geojson", ".png", "_top.png")]
    assert sorted(file.name for file in (folder / "heatmaps").glob("*.*")) == sorted(files)
    with (folder / "attention.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    probability = {"ps0": None, "ps1": None}
    with (folder / "bags.csv").open() as stream:
        probability |= {row["bag_id"]: float(row["score"]) for row in csv.DictReader(stream)}
    for patient, slides in (("ps0", ["s0"]), ("ps1", ["s1", "s2"])):
        together, parts = attention_of(cohort, slides)
        ranks = (rankdata(together.round(9)) - 1) / (len(together) - 1)
        ranks = np.split(ranks, np.cumsum([len(part) for part in parts])[:-1])
        for name, weights, rank in zip(slides, parts, ranks, strict=True):
            title = name if name == patient else f"{name} of {patient}"
            assert shown[title] == (0, pytest.approx(together.max(), rel=1e-5))
            objects = read_objects(folder / f"heatmaps/{name}.geojson")
            tiles = [one for one in objects if one.kind == "tile"]
            told = [[one.measurements[f"attention{end}"] for end in ("", " rank")]
                    for one in tiles]  # fmt: skip
            np.testing.assert_allclose(np.array(told)[:, 0], weights, rtol=1e-4)
            np.testing.assert_allclose(np.array(told)[:, 1], rank, atol=0.02)
            regions = [one for one in objects if one.kind == "annotation"]
            assert bool(regions) == (name != "s2")  # nothing in s2 is among the highest of ps1
            found = read_detections(folder / f"heatmaps/detections/{name}.csv")
            assert len(found) == len(regions)
            assert all(0.95 < row[0] / probability[patient] <= 1.0001 for row in found)
            own = [row for row in rows if row["slide_id"] == name]
            assert {row["bag_id"] for row in own} == {patient}
            with h5py.File(cohort / f"features/{name}.h5") as file:
                places = file["coords"][:].tolist()
            assert [[int(row["x"]), int(row["y"])] for row in own] == places
            np.testing.assert_allclose([float(row["attention"]) for row in own], weights, rtol=1e-4)


def test_a_slide_of_a_patient_without_coordinates_leaves_the_others(tmp_path, make_trainer):
    cohort = patients(tmp_path)
    change(cohort, "s2", {"coords": None})
    callbacks = [Heatmaps(cohort / "slides", pixels=64, top=2), PredictionWriter()]
    with pytest.warns(UserWarning, match="1 not drawn: s2: its features have no coordinates"):
        data = FeatureBagsDataModule(cohort / "slides.csv", eval_batch_size=2, bag="patient")
        trainer = make_trainer(callbacks)
        trainer.predict(module_of("attention"), datamodule=data, return_predictions=False)
    maps = (tmp_path / "run/predictions/heatmaps").glob("*.geojson")
    assert sorted(file.stem for file in maps) == ["s0", "s1"]
    with (tmp_path / "run/predictions/attention.csv").open() as stream:
        known = {(row["slide_id"], row["x"] != "") for row in csv.DictReader(stream)}
    assert known == {("s0", True), ("s1", True), ("s2", False)}


def change(cohort, name, arrays):
    """Replace arrays of a feature file; None removes one."""
    with h5py.File(cohort / f"features/{name}.h5", "r+") as file:
        for key, values in arrays.items():
            old = file.pop(key)
            if values is not None:
                file[key] = values(old[:]) if callable(values) else values


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda coords: coords + 500, "patches lie beyond the 640 x 512 pixels of .*s1.tiff; give"),
        (lambda coords: coords / 2, "its coordinates are no whole pixels"),
    ],
)
def test_patches_that_cannot_be_of_the_slide_are_not_drawn(tmp_path, make_trainer, wrong, message):
    cohort = write_cohort(tmp_path, {"s0": (40, 40), "s1": (40, 40)})
    change(cohort, "s1", {"coords": wrong})
    callback = Heatmaps(cohort / "slides", output_dir=tmp_path / "maps")
    data = FeatureBagsDataModule(cohort / "slides.csv", eval_batch_size=1)
    with pytest.warns(UserWarning, match=f"1 not drawn: s1: .*{message}"):
        make_trainer([callback]).predict(module_of("attention"), data, return_predictions=False)
    assert [file.name for file in (tmp_path / "maps").glob("*.geojson")] == ["s0.geojson"]


def test_features_without_coordinates_are_said(tmp_path, make_trainer):
    cohort = write_cohort(tmp_path, {"s0": (40, 40), "s1": (40, 40)})
    for name in ("s0", "s1"):
        change(cohort, name, {"coords": None})
    with pytest.warns(UserWarning, match="nothing was drawn, because no bag is a slide"):
        predict(make_trainer, cohort, module_of("attention"), Heatmaps(cohort / "slides"))
    assert not (tmp_path / "run/predictions").exists()


def test_nothing_is_drawn_without_slides_and_said_once(tmp_path, make_trainer, cohort, caplog):
    with caplog.at_level("INFO"):
        predict(make_trainer, cohort, module_of("attention"), Heatmaps())
    assert caplog.text.count("--callbacks.heatmaps.slides DIR") == 1
    assert not (tmp_path / "run/predictions").exists()


class SlidesKnown(FeatureBagsDataModule):
    def __init__(self, table, slides, **options):
        super().__init__(table, **options)
        self.slide_folder = slides


@pytest.mark.parametrize("name", ["attention", "instance_logits"])
def test_the_datamodule_may_know_the_slides(tmp_path, make_trainer, cohort, name, recwarn):
    table = tmp_path / "suffix.csv"  # names the files
    table.write_text("slide_id,label\ns0.tiff,0\ns1.tiff,1\n")
    data = SlidesKnown(table, cohort / "slides", features=cohort / "features")
    callback = Heatmaps()
    make_trainer([callback]).predict(module_of(name), datamodule=data, return_predictions=False)
    found = sorted(p.name for p in (tmp_path / "run/predictions").rglob("*.geojson"))
    said = " ".join(str(warning.message) for warning in recwarn)
    if name == "attention":
        assert found == ["s0.tiff.geojson", "s1.tiff.geojson"]
    else:  # nobody has asked for maps, so their lack is no error
        assert found == []
        assert "2 not drawn: s0.tiff: the model has no attention" in said


@pytest.mark.parametrize("score", ["leave_one_out", "attention"])
def test_a_score_that_the_model_lacks_is_refused(tmp_path, make_trainer, cohort, score):
    with pytest.raises(ValueError, match=f"score {score}: InstancePooling has none; choose one of"):
        callback = Heatmaps(cohort / "slides", score)
        predict(make_trainer, cohort, module_of("instance_logits"), callback)
    assert not (tmp_path / "run/predictions").exists()


def test_wrong_arguments_are_refused(make_trainer, cohort):
    with pytest.raises(ValueError, match="score is one of"):
        Heatmaps(score="gradient")
    with pytest.raises(ValueError, match="region_rank in"):
        Heatmaps(region_rank=1)
    with pytest.raises(ValueError, match="no such folder"):
        predict(make_trainer, cohort, module_of("attention"), Heatmaps(cohort / "none"))


@pytest.mark.slow
def test_the_command_of_the_documents(tmp_path, capsys):
    squares = {f"s{n}": (40 * n, 20 * n) for n in range(12)}
    cohort, runs = write_cohort(tmp_path, squares), ["--runs_dir", str(tmp_path / "runs")]
    given = ["--data.features", str(cohort / "features"), "--data.num_workers", "0"]
    table, recipe = str(cohort / "slides.csv"), "configs/mil/abmil_features.yaml"
    fit = ["fit", "--config", recipe, "--data.table", table, "--trainer.max_epochs", "1"]
    assert train.main([*fit, *given, *runs, "--trainer.accelerator", "cpu"]) == 0
    (best,) = tmp_path.glob("runs/*/version_0/checkpoints/best.ckpt")
    words = ["predict", "--ckpt_path", str(best), "--data", table, *given, *runs]
    slides = "--callbacks.heatmaps.slides"
    score = ["--callbacks.heatmaps.score", "leave_one_out"]
    assert train.main([*words, slides, str(cohort / "slides"), *score]) == 0
    (folder,) = tmp_path.glob("runs/*/version_0/predictions/heatmaps")
    assert len(list(folder.glob("*"))) == 3 * 12 + 1  # and detections
    capsys.readouterr()
    assert train.main([*words, slides, str(cohort / "none"), *score]) == 2
    assert "there is no such folder of slides" in capsys.readouterr().err
    assert train.main([*words, slides, str(cohort / "slides"), score[0], "gradient"]) == 2
    assert "gradient" in capsys.readouterr().err
    assert len(list(tmp_path.glob("runs/*/*/predictions"))) == 1
