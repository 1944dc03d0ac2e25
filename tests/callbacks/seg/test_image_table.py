import json
from pathlib import Path

import numpy as np
import pytest
import torch

from callbacks.seg.gallery import MaskGallery
from callbacks.seg.image_table import COLUMNS, image_rows
from loggers.run import build_loggers, finish_loggers
from loggers.wandb_logger import WandbOptions
from loggers.wandb_media import Media
from structures import Instances, RLEMasks

MEDIUM = Media(np.zeros((8, 16, 3), dtype=np.uint8), "")


def squares(places, labels, with_masks=True):
    """Squares of side 4 in an image of 8 x 16, their left edges at ``places``."""
    dense = np.zeros((len(places), 8, 16), dtype=bool)
    for mask, x in zip(dense, places, strict=True):
        mask[:4, x : x + 4] = True
    boxes = torch.tensor([[x, 0, x + 4, 4] for x in places], dtype=torch.float32).reshape(-1, 4)
    masks = RLEMasks.from_dense(dense) if with_masks else None
    return Instances(boxes, torch.ones(len(places)), torch.tensor(labels), (8, 16), masks)


@pytest.mark.parametrize("with_masks", [True, False])
def test_found_and_mean_overlap_by_hand(with_masks):
    truth = squares([0, 5, 12], [0, 1, 0])
    # Moved by 1: IoU 12/20. The second has the wrong class, the third is in a crowd region.
    found = squares([1, 5, 12], [0, 0, 0], with_masks)
    crowd = np.array([False, False, True])
    ((medium, name, instances, predicted, right, overlap),) = image_rows(
        [("image 7", truth, crowd, found)], [MEDIUM]
    )
    assert medium is MEDIUM
    assert (name, instances, predicted, right) == ("7", 2, 3, 1)
    assert overlap == pytest.approx(0.6)


def test_an_empty_image():
    nothing = squares([], [])
    row = image_rows([("image 7", nothing, np.zeros(0, dtype=bool), nothing)], [MEDIUM])[0]
    assert row[1:] == ["7", 0, 0, 0, None]


@pytest.mark.slow
def test_the_first_and_the_last_table_of_a_training(
    stand_in, make_trainer, offline_wandb, read_wandb
):
    loggers = build_loggers(offline_wandb / "x" / "version_0", WandbOptions())
    trainer = make_trainer([MaskGallery(num_pictures=2)], logger=loggers, max_epochs=4)
    trainer.fit(stand_in.SegModule(), stand_in.images(), stand_in.images())
    finish_loggers(loggers)
    (folder,) = (offline_wandb / "x/version_0/wandb").glob("offline-run-*")
    run = read_wandb(folder)
    tabled = [h["trainer/global_step"] for h in run.history if "val/pictures.path" in h]
    assert tabled == [3, 12]
    assert sum("val/gallery.count" in h for h in run.history) == 4
    table = run.tables("val/pictures")
    assert list(table[0]) == list(COLUMNS)
    # Both predictions of the two shown instances fit: squares by 12/20, bars exactly.
    assert [row["image"] for row in table] == ["100", "105"]
    assert [(row["instances"], row["predicted"], row["found"]) for row in table] == [(2, 2, 2)] * 2
    assert table[0]["mean IoU"] == pytest.approx(0.8)
    # The cell itself, with masks, boxes and names, is in the table's artifact.
    (artifact,) = [a for a in run.artifacts if "pictures" in a["name"]][-1:]
    files = {c["path"]: c["local_path"] for c in artifact["manifest"]["contents"]}
    assert sum("images/mask" in path for path in files) == 4
    (names,) = [p for path, p in files.items() if path.endswith(".classes.json")]
    classes = json.loads(Path(names).read_text())["class_set"]
    known = {c["id"]: c["name"] for c in classes}
    assert known == {0: "background", 1: "square", 2: "bar"}
    cell = json.loads(Path(files["val/pictures.table.json"]).read_text())["data"][1][0]
    assert sorted(cell["masks"]) == sorted(cell["boxes"]) == ["prediction", "truth"]
    first = cell["boxes"]["prediction"][0]
    assert first["position"] == {"minX": 22 / 64, "minY": 8 / 48, "maxX": 38 / 64, "maxY": 24 / 48}
    assert (first["class_id"], first["box_caption"]) == (1, "square 0.90")
