import csv
import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from callbacks.results import predictions as prediction_writer
from callbacks.results.predictions import PredictionWriter
from evaluation.seg.coco import evaluate_results
from evaluation.seg.draw import draw_instances
from formats.coco.results import load_results

ROOT = Path(__file__).resolve().parents[3]


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_written_results_score_as_the_module_did(stand_in, make_trainer, tmp_path):
    module = stand_in.SegModule()
    trainer = make_trainer([PredictionWriter(overlays=0)])
    trainer.test(module, stand_in.images(4), verbose=False)
    folder = tmp_path / "run" / "predictions"
    assert [p.name for p in folder.iterdir()] == ["test.json"]
    truth = stand_in.ground_truth()
    rows = load_results(folder / "test.json", truth)
    again = evaluate_results(truth, rows).metrics
    assert list(again) == list(module.scores.metrics)
    np.testing.assert_array_equal(list(again.values()), list(module.scores.metrics.values()))
    assert again["segm_map"] == pytest.approx(0.65)  # the square overlaps by .6, the bar by 1
    assert len(rows) == 18  # weak predictions too
    first = rows[0]
    assert first["image_id"] == 100
    assert first["category_id"] == 5
    assert first["bbox"] == [12, 8, 16, 16]
    assert first["score"] == float(np.float32(0.9))
    assert first["segmentation"] == stand_in.found(0).masks.to_coco()[0]


def test_predict_writes_the_same_results_and_file_names(stand_in, make_trainer, tmp_path):
    import pytorch_lightning as pl

    class Data(pl.LightningDataModule):
        def predict_dataloader(self):
            return stand_in.images(3)

        def image_records(self, split):
            assert split == "predict"
            return [
                {"id": 100 + i, "file_name": f"{i}.png", "height": 48, "width": 64, "path": "x"}
                for i in range(6)
            ]

    trainer = make_trainer([PredictionWriter(tmp_path / "out", overlays=1)])
    trainer.predict(stand_in.SegModule(), datamodule=Data(), return_predictions=False)
    out = tmp_path / "out"
    written = ["overlays", "predict.json", "predict_coco.json", "predict_images.json"]
    assert sorted(p.name for p in out.iterdir()) == written
    document = json.loads((out / "predict_coco.json").read_text())
    assert [i["file_name"] for i in document["images"]] == [f"{i}.png" for i in range(6)]
    assert {a["score"] for a in document["annotations"]} == {
        float(np.float32(x)) for x in (0.9, 0.8)
    }
    assert {a["area"] for a in document["annotations"]} == {16 * 16, 20 * 8}
    trainer.test(stand_in.SegModule(), stand_in.images(), verbose=False)
    assert json.loads((out / "predict.json").read_text()) == json.loads(
        (out / "test.json").read_text()
    )
    records = json.loads((out / "predict_images.json").read_text())
    assert records[2] == {"id": 102, "file_name": "2.png", "height": 48, "width": 64}


@pytest.mark.parametrize(
    ("overlays", "expected"),
    [(2, [100, 101]), ("all", range(100, 106)), (None, range(100, 106))],
)
def test_overlays_show_what_was_found(overlays, expected, stand_in, make_trainer, tmp_path):
    trainer = make_trainer([PredictionWriter(overlays=overlays)])
    trainer.predict(stand_in.SegModule(), stand_in.images(), return_predictions=False)
    folder = tmp_path / "run" / "predictions" / "overlays"
    assert sorted(p.name for p in folder.iterdir()) == [f"{i}.png" for i in expected]
    with_legend = np.asarray(Image.open(folder / "101.png"))
    strong = stand_in.found(1).select(torch.tensor([0, 1]))
    grey = np.full((48, 64, 3), 64, dtype=np.uint8)
    wanted = draw_instances(
        grey,
        strong.boxes,
        strong.labels,
        strong.masks,
        ("square", "bar"),
        scores=strong.scores,
    )
    drawn = with_legend[: wanted.shape[0], : wanted.shape[1]]
    assert drawn.shape == wanted.shape
    # Where the image is plain, inside and outside of instances, the two agree exactly.
    scale = wanted.shape[0] // 48
    for rows, columns in [((9, 23), (28, 29)), ((0, 6), (0, 64)), ((42, 48), (0, 64))]:
        part = (
            slice(rows[0] * scale, rows[1] * scale),
            slice(columns[0] * scale, columns[1] * scale),
        )
        np.testing.assert_array_equal(drawn[part], wanted[part])


def test_bags_and_attention(stand_in, make_trainer, tmp_path):
    module = stand_in.BagModule()
    trainer = make_trainer([PredictionWriter()])
    trainer.test(module, stand_in.bags([4, 1, 0, 2, 3], 2), verbose=False)
    folder = tmp_path / "run" / "predictions"
    rows = table(folder / "bags.csv")
    assert [row["bag_id"] for row in rows] == [f"case {n}" for n in range(5)]
    assert [row["label"] for row in rows] == ["0", "1", "0", "1", "0"]
    np.testing.assert_array_equal(
        [float(row["score"]) for row in rows], module.bag_scores.probabilities
    )
    attention = table(folder / "attention.csv")
    assert list(attention[0]) == ["bag_id", "instance", "attention", "witness"]
    counts = [3, 2, 4, 2, 3]
    assert [row["bag_id"] for row in attention] == [
        f"case {n}" for n in range(5) for _ in range(counts[n])
    ]
    assert [int(row["instance"]) for row in attention] == [k for n in counts for k in range(n)]
    weights = [(k + 1) / (n * (n + 1) / 2) for n in counts for k in range(n)]
    np.testing.assert_allclose([float(r["attention"]) for r in attention], weights, rtol=1e-6)
    assert [int(row["witness"]) for row in attention] == [0, 0, 0, 0, 1] + [0] * 5 + [1, 0, 0, 0]


def test_predicted_bags_without_labels(stand_in, make_trainer, tmp_path):
    bags = [dataclasses.replace(stand_in.bag(2), labels=torch.tensor([-1]))]
    trainer = make_trainer([PredictionWriter(attention=False)])
    loader = DataLoader(bags, batch_size=None)
    trainer.predict(stand_in.BagModule(), loader, return_predictions=False)
    folder = tmp_path / "run" / "predictions"
    assert [p.name for p in folder.iterdir()] == ["bags.csv"]
    assert (folder / "bags.csv").read_text() == (
        "bag_id,label,score,prediction,threshold\ncase 2,,0.5,1,0.5\n"
    )


def test_samples_of_other_processes_count_once(stand_in, make_trainer, tmp_path, monkeypatch):
    """What two processes hand over, one of them repeating a sample of the other."""
    kept = []

    def with_an_earlier_process(state):
        kept.append(state)
        return list(kept)

    monkeypatch.setattr(prediction_writer, "gather_to_first", with_an_earlier_process)
    trainer = make_trainer([PredictionWriter(overlays=0)])
    for numbers in ([3, 1], [0, 1]):
        trainer.test(stand_in.BagModule(), stand_in.bags(numbers), verbose=False)
    folder = tmp_path / "run" / "predictions"
    names = [row["bag_id"] for row in table(folder / "bags.csv")]
    assert names == ["case 0", "case 1", "case 3"]
    attention = [row["bag_id"] for row in table(folder / "attention.csv")]
    assert attention == ["case 0"] * 3 + ["case 1"] * 2 + ["case 3"] * 2


def test_nothing_is_written_without_a_folder(stand_in, make_trainer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer([PredictionWriter()], fast_dev_run=True)
    trainer.test(stand_in.SegModule(), stand_in.images(), verbose=False)
    assert list(tmp_path.iterdir()) == []


def test_several_loaders_are_refused(stand_in, make_trainer):
    class Module(stand_in.SegModule):
        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            return super().predict_step(batch, batch_idx)

    trainer = make_trainer([PredictionWriter()])
    with pytest.raises(ValueError, match="2 dataloaders"):
        trainer.predict(Module(), [stand_in.images(), stand_in.images()])


def test_images_without_ids_are_refused(stand_in, make_trainer):
    nameless = dataclasses.replace(stand_in.image(0), image_ids=())
    trainer = make_trainer([PredictionWriter()])
    with pytest.raises(ValueError, match="image_ids is empty"):
        trainer.predict(stand_in.SegModule(), DataLoader([nameless], batch_size=None))


def test_an_image_that_was_not_predicted_is_not_in_the_file(stand_in, make_trainer, tmp_path):
    import pytorch_lightning as pl

    class Data(pl.LightningDataModule):
        def predict_dataloader(self):
            return stand_in.images(2)

        def image_records(self, split):
            folders = [f"night/{i}.png" for i in range(3)] + [f"day/{i}.png" for i in range(3)]
            return [
                {"id": 100 + i, "file_name": name, "height": 48, "width": 64}
                for i, name in enumerate(folders)
            ]

    trainer = make_trainer([PredictionWriter(score=0.85)], limit_predict_batches=2)
    trainer.predict(stand_in.SegModule(), datamodule=Data(), return_predictions=False)
    out = tmp_path / "run" / "predictions"
    document = json.loads((out / "predict_coco.json").read_text())
    assert [i["id"] for i in document["images"]] == [100, 101, 102, 103]
    assert [a["image_id"] for a in document["annotations"]] == [100, 101, 102, 103]
    drawn = sorted(p.relative_to(out / "overlays").as_posix() for p in out.rglob("*.png"))
    assert drawn == ["day/0.png", "night/0.png", "night/1.png", "night/2.png"]


@pytest.mark.parametrize("wrong", [{"overlays": -1}, {"score": 2.0}])
def test_arguments_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PredictionWriter(**wrong)


# The second process is a copy of the first, which has imported what takes seconds; the environment
# is that of torchrun.
TWO_PROCESSES = """
import os
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only

from callbacks.mil.attention import AttentionFigure
from callbacks.results.predictions import PredictionWriter
from callbacks.seg.gallery import MaskGallery
from tests.support import stand_ins

other = os.fork()
rank_zero_only.rank = rank = 0 if other else 1
os.environ |= {
    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[2],
}


class Share(pl.LightningDataModule):
    # Process 0 has one batch more than process 1, which repeats a sample.
    def __init__(self, make, numbers):
        super().__init__()
        self.make, self.numbers = make, numbers

    def test_dataloader(self):
        return self.make(self.numbers[dist.get_rank()])


def images(numbers):
    return stand_ins.loader([stand_ins.image(n) for n in numbers])


def bags(numbers):
    return stand_ins.bags(numbers, 2)


writer, gallery, figure = PredictionWriter(), MaskGallery(3), AttentionFigure(2)
trainer = pl.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", callbacks=[writer, gallery, figure],
    logger=CSVLogger(sys.argv[1], name="", version="run"), enable_progress_bar=False,
    enable_model_summary=False, enable_checkpointing=False, use_distributed_sampler=False,
)


class Quiet(stand_ins.SegModule):
    def on_test_epoch_end(self):
        pass


trainer.test(Quiet(), Share(images, [[0, 2, 4, 5], [1, 3, 5]]), verbose=False)
trainer.test(stand_ins.BagModule(), Share(bags, [[0, 2, 4, 6, 7], [1, 3, 5, 7]]), verbose=False)
if other:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
"""


@pytest.mark.slow
def test_two_processes_write_what_one_writes(stand_in, make_trainer, tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(script), str(tmp_path / "two"), str(port)]
    subprocess.run(command, check=True, env=env, timeout=300)
    from callbacks.mil.attention import AttentionFigure
    from callbacks.seg.gallery import MaskGallery

    trainer = make_trainer([PredictionWriter(), MaskGallery(3), AttentionFigure(2)])
    trainer.test(stand_in.SegModule(), stand_in.images(1), verbose=False)
    trainer.test(stand_in.BagModule(), stand_in.bags(range(8), 2), verbose=False)
    one, two = tmp_path / "run", tmp_path / "two" / "run"
    files = sorted(p.relative_to(one) for folder in ("predictions", "pictures")
                   for p in (one / folder).rglob("*.*"))  # fmt: skip
    assert len(files) == 3 + 6 + 2  # json and two tables, overlays, two figures
    for name in files:
        assert (two / name).read_bytes() == (one / name).read_bytes(), name
