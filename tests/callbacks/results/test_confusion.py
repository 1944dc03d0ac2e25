import numpy as np
import pytest
import pytorch_lightning as pl

from callbacks.results import confusion as confusion_figure
from callbacks.results.confusion import ConfusionFigure, frequent_classes


@pytest.fixture
def drawn(monkeypatch):
    """Record what is plotted."""
    calls = []
    plot = confusion_figure.plot_confusion

    def record(matrix, names, title):
        calls.append((matrix, list(names), title))
        return plot(matrix, names, title)

    monkeypatch.setattr(confusion_figure, "plot_confusion", record)
    return calls


def test_bags_by_decision(stand_in, make_trainer, tmp_path, drawn):
    trainer = make_trainer([ConfusionFigure()])
    trainer.validate(stand_in.BagModule(), stand_in.bags(), verbose=False)
    ((matrix, names, title),) = drawn
    assert names == ["absent", "present"]
    assert title == "val"
    # Bags 0, 1 are called absent, 2 to 7 present; odd ones are positive.
    np.testing.assert_array_equal(matrix, [[1, 3], [1, 3]])
    assert (tmp_path / "run/pictures/confusion_val.png").is_file()


class Images(pl.LightningDataModule):
    def __init__(self, stand_in):
        super().__init__()
        self.val_dataloader = stand_in.images
        self.ground_truth = lambda split: stand_in.ground_truth()
        self.labelled_truth = self.ground_truth


def test_images_with_the_background(stand_in, make_trainer, tmp_path, drawn):
    class Module(stand_in.SegModule):
        def on_validation_epoch_end(self):
            super().on_validation_epoch_end()
            self.results = self.evaluator.results()

    trainer = make_trainer([ConfusionFigure(score=0.3, iou=0.65)])
    trainer.validate(Module(), datamodule=Images(stand_in), verbose=False)
    ((matrix, names, title),) = drawn
    assert names == ["square", "bar", "background"]
    # Six images: squares overlap by .6 only, bars are exact, a third detection is of nothing.
    np.testing.assert_array_equal(matrix, [[0, 0, 6], [0, 6, 0], [6, 6, 0]])
    assert "IoU ≥ 0.65" in title


def test_multilabel_and_unlabelled_bags_have_none(stand_in, make_trainer, tmp_path):
    module = stand_in.BagModule()
    trainer = make_trainer([ConfusionFigure()])
    module.task = "multilabel"
    trainer.validate(module, stand_in.bags(), verbose=False)
    assert not (tmp_path / "run/images").exists()


def test_rare_classes_are_joined():
    matrix = np.array([[5, 1, 0, 2], [1, 0, 0, 0], [0, 3, 4, 0], [7, 0, 9, 0]])
    names = ["a", "b", "c", "background"]
    joined, shown = frequent_classes(matrix, names, 2)
    assert shown == ["a", "c", "other", "background"]
    np.testing.assert_array_equal(joined, [[5, 0, 1, 2], [0, 4, 3, 0], [1, 0, 0, 0], [7, 9, 0, 0]])
    same, all_names = frequent_classes(matrix, names, 3)
    assert all_names == names
    np.testing.assert_array_equal(same, matrix)
    no_background, left = frequent_classes(matrix, ["a", "b", "c", "d"], 1)
    assert left == ["d", "other"]
    np.testing.assert_array_equal(no_background, [[0, 16], [2, 14]])


@pytest.mark.parametrize("wrong", [{"score": 2}, {"iou": 0}, {"max_classes": 0}])
def test_arguments_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ConfusionFigure(**wrong)
