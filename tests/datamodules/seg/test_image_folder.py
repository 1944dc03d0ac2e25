import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.seg.image_folder import ImageFolderDataModule
from structures import DataProblems

MAP = {"ids": [5, 9], "names": ["cat", "dog"]}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, shape in (("b.png", (6, 9, 3)), ("a.PNG", (8, 5, 3)), ("c.tif", (7, 7))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "inner").mkdir()
    Image.fromarray(np.zeros((3, 3), dtype=np.uint8)).save(tmp_path / "inner" / "d.png")
    return tmp_path


def test_every_image_in_the_order_of_the_names(folder):
    data = ImageFolderDataModule(folder, MAP, eval_batch_size=2, size_multiple=1)
    assert data.image_records("predict") == [
        {"id": n, "file_name": f, "height": h, "width": w, "path": str((folder / f).resolve())}
        for n, f, h, w in ((1, "a.PNG", 8, 5), (2, "b.png", 6, 9), (3, "c.tif", 7, 7))
    ]
    batches = list(data.predict_dataloader())
    assert [b.image_ids for b in batches] == [(1, 2), (3,)]
    assert batches[0].original_sizes.tolist() == [[8, 5], [6, 9]]
    pixels = torch.from_numpy(np.array(Image.open(folder / "b.png"))).permute(2, 0, 1) / 255
    assert torch.equal(batches[0].images[1, :, :6, :9], pixels)
    assert sum(int(b.counts.sum()) for b in batches) == 0
    assert data.num_classes == 2
    assert data.class_names == ["cat", "dog"]


def test_one_image(folder):
    data = ImageFolderDataModule(folder / "c.tif", MAP, scale=2.0, size_multiple=1)
    (batch,) = data.predict_dataloader()
    assert batch.images.shape == (1, 3, 14, 14)
    assert batch.original_sizes.tolist() == [[7, 7]]


def test_what_it_cannot_do_is_told(folder):
    data = ImageFolderDataModule(folder, MAP)
    for ask in (data.train_dataloader, data.val_dataloader, data.test_dataloader):
        with pytest.raises(ValueError, match=r"has no (train|val|test) split"):
            ask()
    with pytest.raises(ValueError, match="no ground truth"):
        data.ground_truth("predict")
    with pytest.raises(ValueError, match="contains no image"):
        (folder / "empty").mkdir()
        ImageFolderDataModule(folder / "empty", MAP)
    with pytest.raises(ValueError, match="nowhere is missing"):
        ImageFolderDataModule(folder / "nowhere", MAP)


def test_broken_files_are_all_named_before_predicting_or_left_out(folder):
    (folder / "a.PNG").write_bytes(b"no image")
    whole = (folder / "c.tif").read_bytes()
    (folder / "d.png").write_text("")
    with pytest.raises(DataProblems) as error:
        ImageFolderDataModule(folder, MAP)
    found = [(p.file, p.item) for p in error.value.problems]
    assert found == [(folder / "a.PNG", 1), (folder / "d.png", 4)]
    assert "cannot be read" in str(error.value)
    assert "replace it or remove it" in str(error.value)
    (folder / "c.tif").write_bytes(whole[: len(whole) // 2])
    data = ImageFolderDataModule(folder, MAP, bad_data="skip")
    assert [p.item for p in data.problems] == [1, 3, 4]
    assert [r["id"] for r in data.image_records("predict")] == [2]  # as without the others
    assert [b.image_ids for b in data.predict_dataloader()] == [(2,)]
    assert data.summary() == {"predict": {"pictures": 4}}
    assert [p.item for p in data.check(thorough=True)] == [1, 3, 4]
    (folder / "b.png").write_text("")
    with pytest.raises(DataProblems, match="b.png cannot be read"):
        ImageFolderDataModule(folder, MAP, bad_data="skip")


def test_webp(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (9, 4, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.webp", lossless=True)
    (batch,) = ImageFolderDataModule(tmp_path, MAP, size_multiple=1).predict_dataloader()
    assert torch.equal(batch.images[0], torch.from_numpy(image).permute(2, 0, 1) / 255)
