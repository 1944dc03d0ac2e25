"""Options of `mil-cv` that are wrong or would have no effect, and runs that make no folds."""

from pathlib import Path
from typing import Any

import yaml

from tests.faults import sets
from tests.faults.case import Case

_BEST = ["--select", "best"]
_STOPPING = {
    "class_path": "pytorch_lightning.callbacks.EarlyStopping",
    "init_args": {"monitor": "val/loss", "patience": 3},
}


def cv_case(name: str, words: list[object], *expected: str, **sections: Any) -> Case:
    """Cross-validate a valid file by a recipe with changed sections; ``{}`` is the folder."""

    def build(folder: Path) -> list[object]:
        recipe = sets.write_recipe(folder / "recipe.yaml", **sections.get("trainer", {}))
        changed = {key: value for key, value in sections.items() if key != "trainer"}
        recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | changed))
        data = sets.write_bags(folder / "bags.npz")
        given = [str(word).replace("{}", str(folder)) for word in words]
        return ["evaluate", "mil-cv", "--config", recipe, "--data", data, "--folds", 2, *given]

    return Case("cross-validation", name, build, expected)


def runs_case(name: str, words: list[object], *expected: str) -> Case:
    """Put runs together; ``RUN`` is the folder of a training without a test fold."""

    def build(folder: Path) -> list[object]:
        del folder
        run = sets.mil_checkpoint().parent.parent
        return ["evaluate", "mil-cv", "--runs", *(run if w == "RUN" else w for w in words)]

    return Case("cross-validation", name, build, expected)


def _kept_of_another_run(folder: Path) -> list[object]:
    (folder / "cv.json.folds").mkdir()
    (folder / "cv.json.folds" / "settings.json").write_text('{"seed": 3}')
    (folder / "cv.json.folds" / "repeat0_fold0.json").write_text("{}")
    recipe = sets.write_recipe(folder / "recipe.yaml")
    data = ["--data", sets.write_bags(folder / "bags.npz"), "--out", folder / "cv.json"]
    return ["evaluate", "mil-cv", "--config", recipe, *data]


CASES = [
    cv_case("best without a metric", _BEST, "recipe.yaml", "checkpoint.monitor", "--select last",
            checkpoint={"save_top_k": 0}),
    cv_case("best by a metric of images", _BEST, "val/segm_map", "val/bag_auroc",
            checkpoint={"monitor": "val/segm_map"}),
    cv_case("best by a metric of training", _BEST, "train/loss", "no metric of a validation",
            checkpoint={"monitor": "train/loss"}),
    cv_case("best by a misspelt metric", [*_BEST, "--checkpoint.monitor", "val/bag_auc"],
            "val/bag_auc,", "did you mean val/bag_au"),
    cv_case("best by a term that the loss lacks",
            [*_BEST, "--checkpoint.monitor", "val/loss_x", "--trainer.val_check_interval", 1],
            "val/loss_x", "it has val/bag_accuracy"),
    cv_case("best without a validation", _BEST, "fold 0", "val_check_interval"),
    cv_case("a share that leaves no validation bags", [*_BEST, "--val-fraction", 0.05],
            "--val-fraction 0.05", "--select last"),
    cv_case("a share of one", [*_BEST, "--val-fraction", 1], "--val-fraction", "between 0 and 1"),
    cv_case("a share of the last weights", ["--val-fraction", 0.2], "--val-fraction",
            "--select best"),
    cv_case("early stopping of the last weights", [], "trainer.callbacks", "--select best",
            trainer={"callbacks": [_STOPPING]}),
    cv_case("another callback", [], "LearningRateMonitor", "--trainer.callbacks null",
            trainer={"callbacks": ["LearningRateMonitor"]}),
    cv_case("an average of the weights", [], "ema has no effect", ema={"decay": 0.9}),
    cv_case("an interval of no validation", ["--trainer.val_check_interval", 5],
            "--trainer.val_check_interval", "--select best"),
    cv_case("a flag of the log", ["--trainer.log_every_n_steps", 5],
            "--trainer.log_every_n_steps has no effect"),
    cv_case("a flag of the validation batch", ["--data.eval_batch_size", 5],
            "--data.eval_batch_size has no effect"),
    cv_case("workers for a file", ["--data.num_workers", 2], "--data.num_workers has no effect",
            "tables of slides"),
    cv_case("features for a file", ["--features", "{}"], "--features", "CSV of slides"),
    cv_case("an accelerator that is none", ["--trainer.accelerator", "gpuu"], "gpuu", "auto"),
    cv_case("no devices", ["--trainer.devices", 0], "trainer.devices 0"),
    cv_case("a precision", ["--trainer.precision", "16-mixed"], "precision"),
    cv_case("checkpoints into a file", ["--save-checkpoints", "{}/bags.npz"], "--save-checkpoints",
            "folder"),
    cv_case("a table over the bags", ["--save-predictions", "{}/bags.npz"], "--save-predictions",
            "--data"),
    Case("cross-validation", "finished folds of another run", _kept_of_another_run,
         ("cv.json.folds", "other settings", "bags: not given -> 20", "--out")),
    runs_case("a run that is missing", ["absent"], "absent", "--runs"),
    runs_case("a run without a fold", ["RUN"], "--data.fold"),
    runs_case("a run twice", ["RUN", "RUN"], "--data.fold"),
    runs_case("folds of runs", ["RUN", "--folds", 3], "--folds has no effect on --runs"),
    Case("cross-validation", "a recipe without data",
         lambda _: ["evaluate", "mil-cv", "--config", "configs/mil/abmil.yaml"],
         ("--data FILE.npz",)),
]  # fmt: skip
