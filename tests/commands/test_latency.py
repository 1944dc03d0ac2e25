"""`evaluate.py latency` and the table of `operating-point`, as a user types them."""

import importlib.util
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
from datamodules.seg.digit_scenes import DigitScenesDataModule
from engine.deploy import timing
from engine.deploy.timing import ImagesToTime, device_named, threads, timed_models
from models.ops.low_light.adaptive_downsampling import AdaptiveDownsample
from tests.support.tiny_checkpoints import LOW_PASS_YOLO, MASK_RCNN, YOLO, write_checkpoint

CPU = torch.device("cpu")
TIMED = ["--warmup", 1, "--pictures", 2, "--device", "cpu"]


def run(*arguments):
    return evaluate.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two checkpoints and three scenes of digits."""
    path = tmp_path_factory.mktemp("models")
    write_checkpoint(path / "one.ckpt", YOLO, liven=1.0)
    write_checkpoint(path / "low.ckpt", LOW_PASS_YOLO)
    write_checkpoint(path / "two.ckpt", MASK_RCNN)
    DigitScenesDataModule(test_scenes=3).write_split("test", path / "scenes")
    return path


@pytest.fixture
def scenes(folder):
    annotations = folder / "scenes" / "annotations" / "instances_test.json"
    return ["--annotations", annotations, "--images", folder / "scenes" / "images" / "test"]


def test_latency_of_two_checkpoints_on_noise(folder, tmp_path, capsys):
    one, two, out = folder / "one.ckpt", folder / "two.ckpt", tmp_path / "out.json"
    words = ["--size", 32, "--batch-sizes", 1, 2, "--threads", 1, *TIMED, "--out", out]
    assert run("latency", "--ckpt", one, two, *words) == 0
    shown = capsys.readouterr().out
    assert f"B: {two}" in shown
    assert "16 images of noise, 32 x 32, in memory: nothing is read" in shown
    assert "post: suppression of one-stage models, masks at the size of the original" in shown
    assert "1 thread(s); float32" in shown
    assert "medians of 2 passes of 1 image(s), 1 passes of 2 image(s)" in shown
    record = json.loads(out.read_text())
    rows = record["latency"]
    found = [(row["model"], row["batch_size"], row["pictures"]) for row in rows]
    assert found == [(str(p), b, 2) for b in (1, 2) for p in (one, two)]
    for row in rows:
        parts = [row[f"{name}_ms"] for name in ("load", "network", "post")]
        assert min(parts) > 0
        assert row["total_ms"] >= max(parts)
        assert 0 < row["detections"] <= 20
        assert row["threads"] == 1
    assert str(one) in record["files"]


@pytest.mark.slow
def test_a_table_of_two_checkpoints_with_times(folder, scenes, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sources = [folder / "one.ckpt", folder / "two.ckpt"]
    words = ["--score", 0.02, "--latency", *TIMED, "--out", tmp_path / "out.json"]
    words += ["--wandb", "test"] if importlib.util.find_spec("wandb") else []
    assert run("operating-point", "--ckpt", *sources, *scenes, *words) == 0
    shown = capsys.readouterr().out
    assert shown.index("first minus second") < shown.index(f"A: {sources[0]}")
    lines = [line.split("│") for line in shown.splitlines() if line.startswith(("│ A ", "│ B "))]
    assert len(lines) == 2
    assert {len(line) for line in lines} == {1 + 15 + 1}
    record = json.loads((tmp_path / "out.json").read_text())
    for source, row in zip(map(str, sources), record["table"], strict=True):
        assert (row["model"], row["dataset"]) == (source, str(scenes[1]))
        assert (row["confidence"], row["iou"], row["iou_type"]) == (0.02, 0.5, "segm")
        model = record["models"][source]
        for name, value in model["metrics"].items():
            assert row[name] == value
            assert [row[f"{name}_low"], row[f"{name}_high"]] == model["intervals_95"][name]
        state = torch.load(source, weights_only=True)["state_dict"]
        weights = [v for k, v in state.items() if k.endswith(("weight", "bias"))]
        assert row["parameters"] == sum(w.numel() for w in weights)
        timed = record["latency"][source]
        assert row["network_ms"] == timed["network_ms"]
        assert row["total_ms_p95"] == timed["total_ms_p95"]
        assert timed["pictures"] == 2
        assert row["peak_memory_mib"] == timed["peak_memory_mib"]
    logged = list((tmp_path / "runs" / "operating_point" / "version_0").rglob("*.table.json"))
    if "--wandb" in words:
        assert "logged to W&B (offline): 2 models" in shown
        table = json.loads(logged[0].read_text())
        assert table["columns"] == list(record["table"][0])
        assert [line[0] for line in table["data"]] == [str(source) for source in sources]


def test_the_table_has_the_numbers_of_the_coco_command(tmp_path, capsys):
    image = {"id": 1, "height": 20, "width": 20}
    truth = {
        "images": [image, image | {"id": 2}],
        "categories": [{"id": 3, "name": "a"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 3, "bbox": box, "area": 16, "iscrowd": 0}
            for n, box in ((1, [0, 0, 4, 4]), (2, [10, 10, 4, 4]))
        ],
    }
    hit = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 3.2], "score": 0.9}
    miss = hit | {"image_id": 2, "score": 0.95}
    weak = hit | {"bbox": [10, 10, 4, 4], "score": 0.4}
    files = {"truth": truth, "a": [hit, weak], "b": [hit, miss], "empty": []}
    paths = {name: tmp_path / f"{name}.json" for name in files}
    for name, content in files.items():
        paths[name].write_text(json.dumps(content))
    out = tmp_path / "out.json"
    common = ["--annotations", paths["truth"], "--out", out]
    sources = [paths[name] for name in ("a", "b", "empty")]
    words = ["--iou-type", "bbox", *common]
    with pytest.warns(UserWarning, match="undefined"):
        assert run("operating-point", "--predictions", *sources, *words) == 0
    shown = capsys.readouterr().out
    record = json.loads(out.read_text())
    rows = record["table"]
    assert [row["model"] for row in rows] == [str(path) for path in sources]
    assert [row["mean_precision"] for row in rows] == [1.0, 0.5, None]
    assert [row["micro_recall"] for row in rows] == [0.5, 0.5, 0.0]
    low, high = record["models"][str(sources[1])]["intervals_95"]["micro_precision"]
    assert low is high is rows[1]["micro_precision_low"] is rows[1]["micro_precision_high"] is None
    assert record["notes"][0] in shown
    assert "the ground truth has 2 images: intervals and p-values are withheld" in shown
    assert all(row["parameters"] is row["total_ms"] is None for row in rows)
    assert "weights" not in shown
    assert "ms" not in shown.splitlines()[-6]
    for path, row in zip(sources[:2], rows, strict=False):
        assert run("coco", "--predictions", path, *common) == 0
        metrics = json.loads(out.read_text())["metrics"]
        assert row["box_map"] == metrics["box_map"]
        assert row["box_map_75"] == metrics["box_map_75"]
    assert rows[0]["segm_map"] is None
    # At one detection an image, the weak one of the first file does not count.
    assert run("operating-point", "--predictions", paths["a"], *words, "--max-dets", 1) == 0
    (row,) = json.loads(out.read_text())["table"]
    assert row["ap_max_dets"] == 1
    assert row["box_map_50"] == pytest.approx(51 / 101)
    assert rows[0]["box_map_50"] == pytest.approx(1)
    capsys.readouterr()
    assert run("operating-point", "--predictions", paths["a"], paths["a"], *words) == 2
    assert "given twice" in capsys.readouterr().err


@pytest.mark.slow
def test_images_of_a_file_are_read_as_validation_does(folder, scenes, tmp_path):
    write_checkpoint(folder / "small.ckpt", YOLO, preprocessing={"eval_short_side": 40})
    truth = json.loads(scenes[1].read_text())
    truth["images"] = [
        {"id": n, "file_name": f"{n}.png", "height": 60, "width": 80 + n} for n in range(3)
    ]
    shape = {"bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 9, 0, 9, 9]], "area": 40, "iscrowd": 0}
    category = truth["categories"][0]["id"]
    truth["annotations"] = [{"id": 1, "image_id": 1, "category_id": category, **shape}]
    annotations = tmp_path / "truth.json"
    annotations.write_text(json.dumps(truth))
    for n in range(3):
        Image.fromarray(np.full((60, 80 + n, 3), 50 + n, np.uint8)).save(tmp_path / f"{n}.png")

    def loaded(numbers, **how):
        images = ImagesToTime(annotations, tmp_path, **how)
        (model,) = timed_models([folder / "small.ckpt"], images, CPU)
        assert model.images == 3
        return model.load(numbers)

    batch = loaded([1, 2])
    assert batch.sizes.tolist() == [[40, 54], [40, 55]]
    assert batch.original_sizes.tolist() == [[60, 81], [60, 82]]
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.images[:, 0, 0, 0].mul(255).round().tolist() == [51, 52]
    assert batch.counts.tolist() == [0, 0]  # of what a deployed model does not get
    with pytest.raises(ValueError, match=r"image 0 \(0.png\) of 60 x 80 pixels would be predicted"):
        loaded([0], size=20_000)
    assert loaded([0], size=50).sizes.tolist() == [[38, 50]]
    assert loaded([0], scale=0.5).sizes.tolist() == [[30, 40]]


@pytest.mark.slow
def test_what_is_timed_is_what_the_model_predicts(folder, scenes):
    images = ImagesToTime(scenes[1], scenes[3])
    for name in ("one", "two"):
        (model,) = timed_models([folder / f"{name}.ckpt"], images, CPU)
        (tiled,) = timed_models([folder / f"{name}.ckpt"], images, CPU, {"flip": True})
        batch = model.load([0, 2])
        found = model.post(model.network(batch), batch)
        network = timing.restored_as(
            folder / f"{name}.ckpt", timing.SegmentationModule
        ).module.model
        for ours, expected in zip(found, network.predict(batch), strict=True):
            torch.testing.assert_close(ours.boxes, expected.boxes)
            assert len(ours) == 20
        assert model.note == ""
        views = tiled.network(batch)
        assert tiled.post(views, batch) is views
        assert "network_ms includes post-processing" in tiled.note
        whole = {"tile": None, "flip": False, "flip_vertical": False, "scales": (1.0,)}
        (same,) = timed_models([folder / f"{name}.ckpt"], images, CPU, whole)
        assert same.note == ""
        outputs = same.network(batch)
        assert same.post(outputs, batch) is not outputs
        assert model.weight_bytes >= 4 * model.parameters


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "dir"], "--annotations"),
        (["--scale", 2], "--annotations"),
        (["--scale", 2, "--size", 32], "give a size or a positive scale"),
        (["--size", 4097], "their size is at most 4096 px, got 4097; give --annotations"),
        (["--size", 0], "must be positive"),
        (["--threads", 0], "must be positive"),
        (["--warmup", -1], "must not be negative, got -1"),
        (["--tile", 1], "tile must be at least 2"),
    ],
)
def test_wrong_timing_arguments(folder, capsys, words, message):
    assert run("latency", "--ckpt", folder / "one.ckpt", "--device", "cpu", *words) == 2
    assert message in capsys.readouterr().err


def test_a_checkpoint_beside_itself_has_two_letters(folder, capsys):
    one = folder / "one.ckpt"
    words = ["--size", 32, "--batch-sizes", 1, "--device", "cpu", *TIMED]
    assert run("latency", "--ckpt", one, one, *words) == 0
    rows = re.findall(r"^│ (\w) +│", capsys.readouterr().out, re.MULTILINE)
    assert rows == ["A", "B"]


def test_devices_and_threads():
    assert device_named("cpu") == CPU
    assert device_named("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="auto, cpu or cuda, got 'tpu'"):
        device_named("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device is available; use --device cpu"):
            device_named("cuda")
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with threads(None):
        assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"), threads(0):
        pass


def test_a_model_of_one_part_is_told_apart(folder, monkeypatch):
    from models.seg.yolo import YOLOSeg

    monkeypatch.delattr(YOLOSeg, "network_outputs")
    with pytest.raises(ValueError, match="one.ckpt: YOLOSeg cannot be timed in parts"):
        timed_models([folder / "one.ckpt"], ImagesToTime(size=32), CPU)


def test_low_pass_branches_are_timed_folded(folder):
    files = [folder / f"{name}.ckpt" for name in ("one", "low")]
    plain, low = timed_models(files, ImagesToTime(size=32), CPU)
    filters = low.parameters - plain.parameters
    with torch.device("meta"):
        wanted = sum(
            parameter.numel()
            for width in (16, 32, 32)
            for parameter in AdaptiveDownsample(width).parameters()
        )
    assert filters == wanted
