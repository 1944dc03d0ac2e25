"""Broken recipes, overlays and flags."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.faults import sets
from tests.faults.case import MARKER, ROOT, Case

_MIL = (ROOT / "configs/quickstart/abmil.yaml").read_text()
_SEG = (ROOT / "configs/quickstart/mask_rcnn.yaml").read_text()


def fit(file: Path, *words: object) -> list[object]:
    return ["train", "fit", "--config", file, *sets.ONE_STEP, *words]


def briefly(file: Path, *words: object) -> list[object]:
    """Train for an epoch with the trainer settings of the recipe."""
    return ["train", "fit", "--config", file, "--trainer.max_epochs", 1, *words]


def file_case(name: str, content: bytes | str, *expected: str) -> Case:
    """Train with a recipe of the given bytes."""

    def build(folder: Path) -> list[object]:
        file = folder / "recipe.yaml"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return fit(file)

    return Case("config", name, build, ("recipe.yaml", *expected))


def key_case(
    name: str,
    key: str,
    value: Any,
    *expected: str,
    recipe: str = _MIL,
    start: Callable[..., list[object]] = fit,
) -> Case:
    """Set one key of a valid recipe, given as ``a.b.c``."""

    def build(folder: Path) -> list[object]:
        content = yaml.safe_load(recipe)
        section = content
        *parents, last = key.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
        (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
        return start(folder / "recipe.yaml")

    return Case("config", name, build, expected)


def seg_case(name: str, key: str, value: Any, *expected: str) -> Case:
    return dataclasses.replace(key_case(name, key, value, *expected, recipe=_SEG), long=True)


def flag_case(
    name: str, words: list[object], *expected: str, start: Callable[..., list[object]] = fit
) -> Case:
    """Pass a wrong flag with a valid recipe."""
    recipe = Path("configs/quickstart/abmil.yaml")
    return Case("flags", name, lambda _: start(recipe, *words), expected)


def words_case(name: str, words: Callable[[Path], list[object]], *expected: str) -> Case:
    return Case("flags", name, words, expected)


def _folder(folder: Path) -> list[object]:
    (folder / "recipe.yaml").mkdir()
    return fit(folder / "recipe.yaml")


def _itself(folder: Path) -> list[object]:
    content = yaml.safe_load(_MIL) | {"data": "recipe.yaml"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return fit(folder / "recipe.yaml")


def _code(folder: Path) -> list[object]:
    call = f'name: !!python/object/apply:builtins.open ["{folder / MARKER}", "w"]\n'
    (folder / "recipe.yaml").write_text(_MIL + call)
    return fit(folder / "recipe.yaml")


def _laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 12)]
    return "\n".join(lines)


FILES = [
    Case("config", "missing file", lambda f: fit(f / "recipe.yaml"), ("recipe.yaml",)),
    Case("config", "a folder", _folder, ("recipe.yaml",)),
    Case("config", "data of itself", _itself, ("data",)),
    Case("config", "a tag that calls", _code, ("python/object/apply",)),
    file_case("empty file", "", "empty"),
    file_case("a tab", _MIL.replace("  init_args:", "\tinit_args:", 1), "line 4"),
    file_case("indentation lost", _MIL.replace("  init_args:", " init_args:", 1), "line 4"),
    file_case("cut in a list", _MIL[: _MIL.index("128, 64")], "line"),
    file_case("a bracket too many", _MIL + "]\n", "line"),
    file_case("a colon lost", _MIL.replace("model:", "model", 1), "line"),
    file_case("a key twice", _MIL.replace("dropout: 0.25", "dropout: 0.25\n        dropout: 0.5"),
              "dropout of line 9", "line 10"),
    file_case("a list", "- model\n- data\n"),
    file_case("a number", "3\n"),
    file_case("a sentence", "see the other file\n"),
    file_case("two documents", f"{_MIL}---\n{_MIL}", "document"),
    file_case("UTF-16", _MIL.encode("utf-16"), "UTF-8"),
    file_case("Latin-1", _MIL.replace("# ABMIL", "# \u00e9").encode("latin-1"), "UTF-8"),
    file_case("zeros from a full disk", bytes(300)),
    file_case("a checkpoint", b"PK\x03\x04\xff\xfe" + bytes(64)),
    file_case("an unknown anchor", _MIL + "name: *name\n", "name"),
    file_case("three thousand brackets", "model: " + "[" * 3_000, "deeply"),
    file_case("a thousand million words by anchors", _laughs(), "aliases"),
    file_case("JSON cut in half", json.dumps(yaml.safe_load(_MIL))[:200]),
]  # fmt: skip

_NET = "model.init_args.model.init_args"
KEYS = [
    key_case("an unknown section", "modle", {"a": 1}, "modle"),
    key_case("an unknown key of a section", "model.init_arg", {"a": 1}, "init_arg"),
    key_case("an unknown key of the module", "model.init_args.treshold", 0.5, "treshold"),
    key_case("an unknown key of the network", f"{_NET}.drop_out", 0.5, "drop_out"),
    key_case("an unknown key of the optimizer", "model.init_args.optimizer.init_args.momentum",
             0.9, "momentum"),
    key_case("an unknown key of the schedule", "model.init_args.lr_scheduler.init_args.gamma", 0.1,
             "gamma"),
    key_case("an unknown key of the data", "data.init_args.batchsize", 4, "batchsize"),
    key_case("an unknown key of the trainer", "trainer.epochs", 4, "epochs"),
    key_case("an unknown key of the checkpoints", "checkpoint.metric", "val/loss", "metric"),
    key_case("an unknown callback", "callbacks.galery", True, "galery"),
    key_case("an unknown key of a callback", "callbacks.gallery.every", 2, "every"),
    key_case("an unknown key of W&B", "wandb.projekt", "a", "projekt"),
    key_case("an unknown key of EMA", "ema.decai", 0.9, "decai"),
    key_case("a module that is not there", "model.class_path", "lightning_module.MILModule",
             "no module lightning_module"),
    key_case("a misspelt class", "model.class_path", "lightning_modules.MilModule", "MilModule"),
    key_case("data as model", "model.class_path", "datamodules.mil.digit_bags.DigitBagsDataModule",
             "DigitBagsDataModule"),
    key_case("a model as data", "data.class_path", "lightning_modules.mil.MILModule", "MILModule"),
    key_case("a misspelt network", "model.init_args.model.class_path", "models.mil.ABMill",
             "ABMill"),
    key_case("a network of the other task", "model.init_args.model.class_path",
             "models.seg.mask_rcnn.MaskRCNN", "attention_dim"),
    key_case("a network that is none of ours", "model.init_args.model",
             {"class_path": "torch.nn.Identity"}, "Identity"),
    key_case("a class that is no network", "model.init_args.model.class_path",
             "collections.OrderedDict", "OrderedDict"),
    key_case("a misspelt optimizer", "model.init_args.optimizer.class_path", "torch.optim.Adamm",
             "Adamm"),
    key_case("a schedule as optimizer", "model.init_args.optimizer.class_path",
             "optim.schedules.Cosine", "Cosine"),
    key_case("a misspelt schedule", "model.init_args.lr_scheduler.class_path",
             "optim.schedules.Cosinus", "Cosinus"),
    key_case("a function by its name", "model.class_path", "os.system", "os.system"),
    key_case("no model", "model", None, "model"),
    key_case("no data", "data", None, "data"),
    key_case("no network", "model.init_args.model", None, "model"),
    key_case("no optimizer", "model.init_args.optimizer", None, "optimizer"),
    key_case("no learning rate", "model.init_args.optimizer.init_args", {"weight_decay": 0.1},
             "lr"),
    key_case("a learning rate as text", "model.init_args.optimizer.init_args.lr", "fast", "lr",
             "fast"),
    key_case("a learning rate below 0", "model.init_args.optimizer.init_args.lr", -0.1, "-0.1"),
    key_case("decay below 0", "model.init_args.optimizer.init_args.weight_decay", -0.1, "-0.1"),
    key_case("a list as learning rate", "model.init_args.optimizer.init_args.lr", [0.1], "lr"),
    key_case("a number as list", f"{_NET}.hidden_sizes", 128, "hidden_sizes"),
    key_case("text in a list", f"{_NET}.hidden_sizes", [128, "wide"], "hidden_sizes", "wide"),
    key_case("a width of 0", f"{_NET}.hidden_sizes", [0], "positive"),
    key_case("a width below 0", f"{_NET}.attention_dim", -8, "positive"),
    key_case("dropout above 1", f"{_NET}.dropout", 1.5, "1.5"),
    key_case("dropout as text", f"{_NET}.dropout", "half", "dropout", "half"),
    key_case("a number as truth value", f"{_NET}.gated", 3, "gated"),
    key_case("a number as mapping", "trainer", 3, "trainer"),
    key_case("a list as mapping", "data.init_args", ["batch_size"], "init_args"),
    key_case("a batch of 0", "data.init_args.batch_size", 0, "batch_size"),
    key_case("a batch below 0", "data.init_args.batch_size", -8, "batch_size"),
    key_case("half a batch", "data.init_args.batch_size", 1.5, "batch_size", "1.5"),
    key_case("workers below 0", "data.init_args.num_workers", -1, "num_workers"),
    key_case("a seed below 0", "data.init_args.seed", -1, "seed"),
    key_case("a seed of 30 digits", "seed_everything", 10**30, "bounds"),
    key_case("bags of no instance", "data.init_args.mean_length", -3, "mean_length"),
    key_case("more witnesses than instances", "data.init_args.witness_rate", 1.5, "witness_rate"),
    key_case("a target that is no digit", "data.init_args.target", 10, "10"),
    key_case("no bags to train on", "data.init_args.train_bags", 0, "train_bags"),
    key_case("a policy that is none", "data.init_args.bad_data", "ignore", "bad_data", "skip"),
    key_case("a threshold above 1", "model.init_args.threshold", 2, "threshold", "[0, 1]"),
    key_case("a threshold as text", "model.init_args.threshold", "best", "threshold", "youden"),
    key_case("a warm-up above 1", "model.init_args.lr_scheduler.init_args.warmup", 2, "warmup"),
    key_case("a weight of no loss", "model.init_args.loss_weights", {"bagg": 1.0}, "bagg"),
    key_case("weights file that is not there", "model.init_args.init_from", "nothere.pt",
             "nothere.pt"),
    key_case("epochs as text", "trainer.max_epochs", "ten", "max_epochs", "ten"),
    key_case("epochs below -1", "trainer.max_epochs", -5, "max_epochs"),
    key_case("an accelerator that is none", "trainer.accelerator", "gpuu", "gpuu", start=briefly),
    key_case("a precision that is none", "trainer.precision", "fp17", "precision", start=briefly),
    key_case("a strategy that is none", "trainer.strategy", "dppp", "dppp", start=briefly),
    key_case("a share of batches above 1", "trainer.limit_train_batches", 1.5,
             "limit_train_batches", start=briefly),
    key_case("validation every 0 epochs", "trainer.check_val_every_n_epoch", 0,
             "check_val_every_n_epoch", start=briefly),
    key_case("clipping as text", "trainer.gradient_clip_val", "some", "gradient_clip_val"),
    key_case("a callback that is none", "trainer.callbacks",
             [{"class_path": "callbacks.MaskGalery"}], "MaskGalery"),
    key_case("no metric to choose the best by", "checkpoint", {"save_top_k": 1}, "monitor",
             "best.ckpt"),
    key_case("a metric that is misspelt", "checkpoint.monitor", "val/bag_aurocc", "val/bag_aurocc",
             "did you mean val/bag_auroc", start=briefly),
    key_case("a mode that is none", "checkpoint.mode", "highest", "mode", "highest", start=briefly),
    key_case("fewer than no checkpoints", "checkpoint.save_top_k", -2, "save_top_k", start=briefly),
    key_case("a gallery of no epoch", "callbacks.gallery.every_n_epochs", 0, "every_n_epochs"),
    key_case("a W&B mode that is none", "wandb.mode", "onlin", "mode", "offline"),
    key_case("an EMA of decay 2", "ema.decay", 2, "decay"),
    seg_case("no detections", f"{_NET}.max_dets", 0, "max_dets"),
    seg_case("a score threshold as text", f"{_NET}.score_thresh", "low", "score_thresh"),
    seg_case("an overlap above 1", f"{_NET}.nms_thresh", 1.5, "nms_thresh"),
    seg_case("a backbone that is none", f"{_NET}.backbone.init_args.name", "resnet10x",
             "resnet10x"),
    seg_case("strides that the backbone lacks", f"{_NET}.backbone.init_args.strides", [4, 7], "7"),
    seg_case("a norm that is none", f"{_NET}.backbone.init_args.norm", "layer", "norm"),
    seg_case("anchors for other levels", f"{_NET}.rpn.anchor_sizes", [[24], [40], [56]],
             "anchor_sizes"),
    seg_case("no proposals", f"{_NET}.rpn.post_nms_train", 0, "post_nms_train"),
    seg_case("overlaps out of order", f"{_NET}.box.fg_iou_thresh", 0.1, "fg_iou_thresh"),
    seg_case("a mean of four channels", f"{_NET}.image_mean", [0.5] * 4, "image_mean"),
    seg_case("a deviation of 0", f"{_NET}.image_std", [0, 1, 1], "image_std"),
    seg_case("a scale of 0", "data.init_args.scale", 0, "scale"),
    seg_case("masks of stride 0", "data.init_args.mask_stride", 0, "mask_stride"),
    seg_case("a short side below 0", "data.init_args.train_short_sides", [64, -64],
             "train_short_sides"),
    seg_case("an augmentation that is none", "data.init_args.augmentations",
             [{"name": "HorizontalFlop"}], "augmentations[0]", "HorizontalFlop"),
    seg_case("an augmentation without a name", "data.init_args.augmentations", [{"p": 0.5}],
             "augmentations[0]", "name"),
    seg_case("an augmentation with an unknown argument", "data.init_args.augmentations",
             [{"name": "HorizontalFlip", "probability": 1}], "probability"),
    seg_case("an augmentation by its name alone", "data.init_args.augmentations",
             ["HorizontalFlip"], "augmentations"),
    seg_case("augmentations as a mapping", "data.init_args.augmentations",
             {"name": "HorizontalFlip"}, "augmentations"),
    seg_case("a chance above 1", "data.init_args.augmentations",
             [{"name": "HorizontalFlip", "p": 2}], "augmentations[0]"),
    seg_case("a digit that is none", "data.init_args.classes", [3, 12], "classes", "12"),
    seg_case("nothing known", "data.init_args.known", [], "none of the known categories"),
    seg_case("a known digit by its name", "data.init_args.known", [0, 1], "category id 0",
             "id = digit + 1"),
    seg_case("every digit known", "data.init_args.known", list(range(1, 11)), "are known"),
    seg_case("a known class that is none", "data.init_args.known", ["eight"], "'eight'"),
    seg_case("a split of other categories", "data.init_args.known", "voc", "split voc"),
    seg_case("the old name of known", "data.init_args.known_classes", [1], "known_classes"),
    seg_case("a texture that is none", "data.init_args.textures", ["grass"], "grass"),
    seg_case("more digits at least than at most", "data.init_args.digits", [6, 2], "digits"),
    seg_case("no scenes", "data.init_args.train_scenes", 0, "scenes must be positive"),
]  # fmt: skip

FLAGS = [
    words_case("an unknown command", lambda _: ["train", "train", "--config", "a.yaml"], "train"),
    words_case("no recipe", lambda _: ["train", "fit"], "--config"),
    words_case("a recipe without its flag", lambda _: ["train", "fit", "recipe.yaml"],
               "--config"),
    words_case("a flag without value", lambda _: ["train", "fit", "--config"], "--config"),
    words_case("an overlay that is missing",
               lambda _: fit(Path("configs/quickstart/abmil.yaml"), "--config", "nothere.yaml"),
               "nothere.yaml"),
    words_case("data that predict cannot find",
               lambda _: ["train", "predict", "--ckpt_path", sets.mil_checkpoint(), "--data", "x"],
               "--data", "x"),
    words_case("predict without checkpoint", lambda _: ["train", "predict"], "--ckpt_path"),
    flag_case("an unknown flag", ["--batch_size", 3], "--batch_size"),
    flag_case("a key that is none", ["--data.batch_sise", 3], "batch_sise"),
    flag_case("a value of another type", ["--data.batch_size", "many"], "batch_size", "many"),
    flag_case("a data class that is none", ["--data", "datamodules.Nothing"], "Nothing"),
    flag_case("a linked fact", ["--model.init_args.model.init_args.in_features", 3],
              "in_features"),
    flag_case("a folder of runs that is a file", ["--runs_dir", "README.md"], "README.md",
              start=briefly),
    flag_case("a checkpoint that is missing", ["--ckpt_path", "nothere.ckpt"], "nothere.ckpt"),
    words_case("an unknown script", lambda _: ["evaluate", "cocoo"], "cocoo"),
    words_case("no script", lambda _: ["evaluate"], "COMMAND"),
    words_case("no annotations", lambda _: ["evaluate", "coco", "--predictions", "p.json"],
               "--annotations"),
    words_case("neither predictions nor checkpoint",
               lambda _: ["evaluate", "coco", "--annotations", "a.json"], "--ckpt",
               "--predictions"),
    words_case("predictions and checkpoint",
               lambda _: ["evaluate", "coco", "--annotations", "a.json", "--ckpt", "c.ckpt",
                          "--predictions", "p.json"], "not allowed"),
    words_case("an unknown backend",
               lambda _: ["evaluate", "coco", "--annotations", "a", "--predictions", "p",
                          "--backend", "slow"], "slow", "pycocotools"),
    words_case("latency of predictions",
               lambda _: ["evaluate", "operating-point", "--annotations", "a", "--predictions",
                          "p", "--latency"], "--latency"),
    words_case("latency of a missing checkpoint",
               lambda _: ["evaluate", "latency", "--ckpt", "none.ckpt"], "none.ckpt", "no such"),
    words_case("latency of bags",
               lambda _: ["evaluate", "latency", "--ckpt", sets.mil_checkpoint()],
               "holds a MILModule"),
    words_case("latency on a folder without annotations",
               lambda _: ["evaluate", "latency", "--ckpt", "a.ckpt", "--images", "b"],
               "--annotations"),
    words_case("export of bags",
               lambda f: ["evaluate", "export", "--ckpt", sets.mil_checkpoint(), "--out",
                          f / "m.onnx"], "holds a MILModule", "YOLOSeg"),
    words_case("export of a two-stage model",
               lambda f: ["evaluate", "export", "--ckpt", sets.seg_checkpoint(), "--out",
                          f / "m.onnx"], "holds a MaskRCNN", "cannot"),
    words_case("export without a file",
               lambda _: ["evaluate", "export", "--ckpt", "a.ckpt"], "--out"),
    words_case("mil without data",
               lambda _: ["evaluate", "mil", "--ckpt", sets.mil_checkpoint()], "--data"),
]  # fmt: skip


def scored_case(name: str, words: list[object], *expected: str, command: str = "coco") -> Case:
    """Score valid files with a wrong number."""

    def build(folder: Path) -> list[object]:
        files = folder / "truth.json", folder / "found.json"
        for file, content in zip(files, (sets.truth(), sets.results()), strict=True):
            file.write_text(json.dumps(content))
        sound = ["--annotations", files[0], "--predictions", files[1]]
        return ["evaluate", command, *sound, *words]

    return Case("flags", name, build, expected)


def bags_case(name: str, words: list[object], *expected: str) -> Case:
    def build(folder: Path) -> list[object]:
        table = "bag_id,label,score\na,1,0.9\nb,0,0.1\nc,1,0.8\nd,0,0.3\n"
        (folder / "bags.csv").write_text(table)
        return ["evaluate", "mil", "--predictions", folder / "bags.csv", *words]

    return Case("flags", name, build, expected)


def folds_case(name: str, words: list[object], *expected: str, **trainer: Any) -> Case:
    def build(folder: Path) -> list[object]:
        recipe = sets.write_recipe(folder / "recipe.yaml", **trainer)
        data = sets.write_bags(folder / "bags.npz")
        return ["evaluate", "mil-cv", "--config", recipe, "--data", data, *words]

    return Case("flags", name, build, expected)


SCORES = [
    scored_case("no detections scored", ["--max-dets", 0], "--max-dets"),
    scored_case("a cap as text", ["--max-dets", "all"], "--max-dets"),
    scored_case("an overlap of 0", ["--iou", 0], "iou", command="operating-point"),
    scored_case("an overlap above 1", ["--iou", 1.5], "iou", command="operating-point"),
    scored_case("a confidence NaN", ["--score", "nan"], "score", command="operating-point"),
    scored_case("a seed below 0", ["--seed", -1], "seed", command="operating-point"),
    scored_case("an output folder that is a file", ["--out", "README.md/m.json"], "README.md"),
    bags_case("a threshold above 1", ["--threshold", 1.5], "--threshold"),
    bags_case("a threshold NaN", ["--threshold", "nan"], "--threshold"),
    bags_case("no draws", ["--draws", 0], "draws"),
    bags_case("a seed below 0 for bags", ["--seed", -1], "seed"),
    folds_case("one fold", ["--folds", 1], "folds"),
    folds_case("more folds than bags", ["--folds", 21], "folds", "20"),
    folds_case("no repeats", ["--repeats", 0], "repeats"),
    folds_case("a seed below 0 for folds", ["--seed", -1], "seed"),
    folds_case("a trainer that folds don't follow", [], "limit_train_batches",
               limit_train_batches=4),
    folds_case("no number of steps", [], "max_steps", max_steps=None),
    folds_case("steps below 0", [], "max_steps", max_steps=-1),
]  # fmt: skip

CASES = [*FILES, *KEYS, *FLAGS, *SCORES]
