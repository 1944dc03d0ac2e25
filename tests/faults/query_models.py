"""Wrong options, images and weights of models with object queries, and of large-scale jitter."""

from collections.abc import Callable
from pathlib import Path

import torch

from tests.faults import sets
from tests.faults.case import Case

_MODEL = "--model.init_args.model.init_args"


def words(recipe: str, *more: object) -> Callable[[Path], list[object]]:
    """Return a builder of a step with a recipe of the quickstart and the words."""

    def build(folder: Path) -> list[object]:
        del folder
        start = ["train", "fit", "--config", f"configs/quickstart/{recipe}.yaml"]
        return [*start, *sets.ONE_STEP, *more]

    return build


def case(name: str, build: Callable[[Path], list[object]], *expected: str) -> Case:
    return Case("models with queries", name, build, expected, long=True)


def _other_weights(folder: Path) -> list[object]:
    """A file with the names of `transformers`' Mask2Former, of another width."""
    file = folder / "model.pt"
    torch.save({"model.transformer_module.queries_features.weight": torch.zeros(25, 32)}, file)
    return words("mask2former", "--model.init_args.init_from", file)(folder)


_JITTER = "--data.scale_jitter"

CASES = [
    case("a width that heads do not divide", words("mask2former", f"{_MODEL}.num_heads", 7),
         "width", "num_heads", "7"),
    case("a width without groups", words("mask2former", f"{_MODEL}.width", 48), "width", "32"),
    case("levels of the wrong strides",
         words("mask2former", f"{_MODEL}.backbone.strides", "[8,16,32]"), "strides", "4, 8, 16"),
    case("a backbone without a stride",
         words("deformable_detr", f"{_MODEL}.backbone.name", "vit_tiny_patch16_224"), "vit_tiny"),
    case("weights of another width", _other_weights, "another size", "query"),
    case("no queries", words("deformable_detr", f"{_MODEL}.num_queries", 0), "num_queries"),
    case("an unknown assignment", words("deformable_detr", f"{_MODEL}.assignment", "nearest"),
         "assignment", "hungarian"),
    case("images larger than the square", words("eomt", "--data.size", 160), "160", "128"),
    case("more blocks than there are", words("eomt", f"{_MODEL}.num_blocks", 9), "num_blocks", "9"),
    case("layer-wise decay without blocks",
         words("mask2former", "--model.init_args.layer_decay", 0.8), "layer_decay", "TimmViT"),
    case("a square of 100 px", words("mask2former", _JITTER, "{size: 100}"), "scale_jitter.size"),
    case("factors that fall", words("mask2former", _JITTER, "{scale: [2.0, 0.5]}"),
         "scale_jitter.scale"),
    case("jitter beside drawn sizes",
         words("mask2former", _JITTER, "{size: 96}", "--data.train_short_sides", "[96]"),
         "scale_jitter", "train_short_sides"),
]  # fmt: skip
