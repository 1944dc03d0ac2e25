"""What the study of robustness trains: data sets, methods, and the order of the runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2)
DIGITS, NUCLEI, BAGS, TILES = "digits", "nuclei", "bags", "tiles"
SETS = (DIGITS, BAGS, TILES, NUCLEI)  # the dearest last


class Method(NamedTuple):
    """How a model is trained.

    Attributes:
        title: its name in the tables.
        recipe: file below ``configs``.
        steps: optimizer steps; None for the epochs of the recipe.
        changes: what differs from the recipe.
        overlays: files below ``configs`` that are laid over the recipe before the changes.
        start: the method that trains the first half of the steps, if it is another.
    """

    title: str
    recipe: str
    steps: int | None = None
    changes: Mapping[str, Any] = {}
    overlays: tuple[str, ...] = ()
    start: str | None = None


class Run(NamedTuple):
    """One model: a method of a data set, trained with a seed."""

    data: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Return the name in tables of cells."""
        return f"{self.method}_{self.seed}"

    def folder(self, root: Path) -> Path:
        """Return the folder of everything that the run leaves behind."""
        return root / self.data / self.method / f"seed_{self.seed}"


def _backbone(**changes: Any) -> dict[str, Any]:
    """Return what changes the backbone of a recipe of Mask R-CNN."""
    model = {"init_args": {"backbone": {"init_args": changes}}}
    return {"model": {"init_args": {"model": model}}}


_STEP = {  # ABMIL's training in the quickstart, so that models of bags differ in nothing else
    "optimizer": {
        "class_path": "torch.optim.AdamW",
        "init_args": {"lr": 1.0e-3, "weight_decay": 0.01},
    },
    "lr_scheduler": {"class_path": "optim.schedules.Cosine", "init_args": {"warmup": 0.05}},
}
_WIDTHS = {"hidden_sizes": [128, 64], "dropout": 0.25}
_SMALL = ("_base/data/digit_bags.yaml", "_base/small_bags.yaml")


def _bags(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what gives a recipe of bags the widths and the training of the quickstart."""
    init_args = {"model": {"init_args": dict(model)}, **_STEP}
    # MHIM trains as long again for its teacher
    return {"model": {"init_args": init_args}, "trainer": {"max_epochs": 25}}


_LEARNER = {
    "class_path": "models.mil.abmil.ABMIL",
    "init_args": {**_WIDTHS, "attention_dim": 64, "gated": True},
}
_MASK_RCNN, _NUCLEI_RCNN = "quickstart/mask_rcnn.yaml", "seg/mask_rcnn_nuclei.yaml"
# About as much processor time for each: see the seconds in the table of the page
_DIGIT_STEPS, _NUCLEI_STEPS = 1800, 600
_FROZEN = "mask_rcnn_frozen"
METHODS: dict[str, dict[str, Method]] = {
    DIGITS: {
        "mask_rcnn_bn": Method(
            "Mask R-CNN, BN", _MASK_RCNN, _DIGIT_STEPS, _backbone(norm="bn")
        ),
        "mask_rcnn_gn": Method(
            "Mask R-CNN, GN", _MASK_RCNN, _DIGIT_STEPS, _backbone(norm="gn")
        ),
        _FROZEN: Method(
            "Mask R-CNN, frozen BN", _MASK_RCNN, _DIGIT_STEPS, _backbone(norm="frozen_bn"),
            start="mask_rcnn_bn",  # A815
        ),
        "yolo": Method("YOLOSeg", "quickstart/yolo.yaml", 1300),
    },
    BAGS: {
        "abmil": Method("ABMIL", "quickstart/abmil.yaml"),
        "mi_net": Method("mi-Net", "mil/mi_net.yaml", None, _bags(_WIDTHS), _SMALL),
        "mhim": Method("MHIM (ABMIL)", "mil/mhim.yaml", None, _bags({"learner": _LEARNER}), _SMALL),
        "dsmil": Method(
            "DSMIL", "mil/dsmil.yaml", None, _bags({"hidden_sizes": [128, 64]}), _SMALL
        ),
    },
    TILES: {
        "abmil": Method(
            "ABMIL", "quickstart/abmil.yaml", overlays=("_base/data/tabular_bags.yaml",),
            changes={"data": {"init_args": {"test_fraction": 0.0, "standardise": True}}},
        ),
    },
    NUCLEI: {
        "packaged_frozen": Method(
            "Mask R-CNN, packaged, frozen BN", _NUCLEI_RCNN, _NUCLEI_STEPS
        ),
        "scratch_gn": Method(
            "Mask R-CNN, from scratch, GN", _NUCLEI_RCNN, _NUCLEI_STEPS,
            _backbone(weights=None, norm="gn"),
        ),
        "scratch_bn": Method(
            "Mask R-CNN, from scratch, BN", _NUCLEI_RCNN, _NUCLEI_STEPS,
            _backbone(weights=None, norm="bn"),
        ),
        "yolo": Method("YOLOSeg", "seg/yolo_nuclei.yaml", _NUCLEI_STEPS),
        "packaged_bn": Method(
            "Mask R-CNN, packaged, BN", _NUCLEI_RCNN, _NUCLEI_STEPS, _backbone(norm="bn")
        ),
    },
}  # fmt: skip


def runs(seeds: Sequence[int], sets: Sequence[str], only: Sequence[str] = ()) -> Iterator[Run]:
    """Yield the runs, all of a seed before those of the next.

    Args:
        seeds: of training.
        sets: names of data sets.
        only: names of methods; all of them if there are none.
    """
    for seed in seeds:
        for data in SETS:
            if data in sets:
                for name in METHODS[data]:
                    if not only or name in only:
                        yield Run(data, name, seed)
