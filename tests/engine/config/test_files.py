"""What is found in a configuration file before the parser sees it."""

from types import SimpleNamespace

import pytest
from pytorch_lightning.callbacks import BackboneFinetuning, EarlyStopping, LearningRateFinder

from engine.config.files import check_callbacks, check_config_file, check_monitors, check_values
from evaluation.mil.scores import evaluate_bags
from evaluation.seg.coco import evaluate_results
from lightning_modules.mil import MILModule
from lightning_modules.segmentation import SegmentationModule


class Config(SimpleNamespace):
    """Stands for a parsed configuration, whose ``get`` takes nested names."""

    def get(self, name):
        return self.values.get(name)


def config(every=1, monitor="val/segm_map", save_top_k=1, together=1, **values):
    trainer = SimpleNamespace(check_val_every_n_epoch=every, accumulate_grad_batches=together)
    checkpoint = SimpleNamespace(monitor=monitor, save_top_k=save_top_k)
    return Config(trainer=trainer, checkpoint=checkpoint, values=values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "key a of line 1 is repeated in line 3"),
        ("a: {b: 1, b: 2}\n", "key b of line 1"),
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n", "not a mapping of keys"),
        ("a: [1\nb: 2\n", "line 2"),
        ("a: &x [*x]\n", "an alias refers to a node that contains it"),
        ("trainer: 3\n", "trainer in line 1 is not a mapping of keys"),
        ("trainer: [1]\n", "trainer in line 1 is not a mapping of keys"),
        ("a: !!python/name:os.system x\n", "not plain YAML in line 1"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: {class_pth: b.C}\n", "unknown key class_pth in line 1, beside which a class has"),
        ("a:\n  class_path: b\n  lr: 3\n", "alone; did you mean below init_args: lr"),
        ("a: {init_arg: {b: 1}}\n", "did you mean init_args"),
    ],
)
def test_a_file_that_cannot_mean_what_it_says(tmp_path, text, message):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match="recipe.yaml") as caught:
        check_config_file(file)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: &x {b: 1}\nc: *x\nd: *x\n",
        "trainer: ../_base/trainer.yaml\n",
        "trainer: null\ncallbacks: {gallery: false}\n",
        "\ufeffa: 1\n",
    ],
)
def test_ordinary_files_are_taken(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    assert check_config_file(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(("words", "taken"), [(99_990, True), (100_001, False)])
def test_aliases_are_counted_as_what_they_stand_for(tmp_path, words, taken):
    """10 lists of a tenth of the words each, nine of them by alias."""
    part = ", ".join(["x"] * (words // 10 - 1))
    file = tmp_path / "recipe.yaml"
    file.write_text(f"a: &a [{part}]\nb: [{', '.join(['*a'] * 9)}]\n")
    if taken:
        check_config_file(file)
    else:
        file.write_text(file.read_text() + "c: *a\n")
        with pytest.raises(ValueError, match="aliases expand to more than 100000"):
            check_config_file(file)


def test_values_that_the_parser_takes():
    links = {"in_features": "net.in_features"}
    check_values(config(), links, trains=True)
    check_values(config(monitor=None), links, trains=False)
    check_values(config(monitor=None, save_top_k=0), links, trains=True)
    check_values(config(every=None), links, trains=True)
    with pytest.raises(ValueError, match="is set from the data"):
        check_values(config(**{"model.net.in_features": 3}), links, trains=False)
    links = {"in_channels": "net.init_args.in_channels"}
    given = {"model.net.class_path": "models.backbones.csp.CSPBackbone"}
    check_values(config(**given, **{"model.net.init_args.in_channels": 3}), links, trains=False)
    with pytest.raises(ValueError, match="is set from the data"):
        check_values(config(**given, **{"model.net.init_args.in_channels": 4}), links, trains=False)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        check_values(config(every=0), links, trains=True)
    with pytest.raises(ValueError, match="accumulate_grad_batches must be at least 1, got 0"):
        check_values(config(together=0), links, trains=False)
    with pytest.raises(ValueError, match=r"best.ckpt would be the last checkpoint"):
        check_values(config(monitor=None), links, trains=True)


def test_callbacks_for_modules_of_another_make():
    check_callbacks([EarlyStopping("val/loss")])
    with pytest.raises(ValueError, match=r"LearningRateFinder .*optimizer.init_args.lr instead"):
        check_callbacks([LearningRateFinder()])
    with pytest.raises(ValueError, match="BackboneFinetuning .*freeze"):
        check_callbacks([type("Mine", (BackboneFinetuning,), {})()])


def monitors(name):
    return [SimpleNamespace(), SimpleNamespace(monitor=None), SimpleNamespace(monitor=name)]


def test_everything_that_evaluation_logs_can_be_monitored():
    truth = {
        "images": [{"id": 1, "height": 8, "width": 8}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 4,
             "bbox": [0, 0, 2, 2], "segmentation": {"size": [8, 8], "counts": [0, 2, 6, 2, 54]}},
        ],
    }  # fmt: skip
    row = {"image_id": 1, "category_id": 1, "score": 1.0, "bbox": [0, 0, 2, 2]}
    row["segmentation"] = truth["annotations"][0]["segmentation"]
    images = evaluate_results(truth, [row], max_dets=[1, 10, 300]).metrics
    assert len(images) == 2 * 12
    for name in [*images, "loss", "loss_mask"]:
        check_monitors(monitors(f"val/{name}"), SegmentationModule.metric_names)
    bags = evaluate_bags([0, 1], [0.2, 0.7], "binary")
    for name in [*bags, "witness_auroc", "loss"]:
        check_monitors(monitors(f"val/{name}"), MILModule.metric_names)


@pytest.mark.parametrize(
    ("module", "name", "hint"),
    [
        (MILModule, "val/bag_aurocc", "did you mean val/bag_auroc"),
        (MILModule, "val/segm_map", "logged are .*val/bag_auroc"),
        (MILModule, "val/AUROC", r"did you mean val/bag_auroc\?"),
        (MILModule, "val/AUC", r"did you mean val/bag_auroc\?"),
        (MILModule, "val/cindex", r"did you mean val/bag_c_index"),
        (SegmentationModule, "val/mAP", "did you mean val/box_map or val/segm_map"),
        (SegmentationModule, "segm_map", "did you mean val/segm_map"),
        (SegmentationModule, "val/segm_ar_all", "did you mean val/segm_ar_"),
    ],
)
def test_a_metric_that_is_never_logged(module, name, hint):
    with pytest.raises(ValueError, match=f"monitors {name}, which is never logged; {hint}"):
        check_monitors(monitors(name), module.metric_names)
    check_monitors(monitors(name), ())
