"""Known categories, prompts and weights that do not fit SegPrompt."""

from collections.abc import Callable
from pathlib import Path

import torch

from tests.faults import sets
from tests.faults.case import Case

_NETWORK = "--model.init_args.model.init_args"


def words(*more: object) -> Callable[[Path], list[object]]:
    """Return a builder of a step of both stages with the words."""

    def build(folder: Path) -> list[object]:
        del folder
        start = ["train", "fit", "--config", "configs/quickstart/segprompt.yaml"]
        few = ["--data.train_scenes", "8", "--data.val_scenes", "2"]
        return [*start, *sets.ONE_STEP, *few, *more]

    return build


def _weights_of_others(folder: Path) -> list[object]:
    file = folder / "weights.pt"
    torch.save({"decoder.query_feat.weight": torch.zeros(25, 32)}, file)
    return words("--model.init_args.init_from", file)(folder)


def case(name: str, build: Callable[[Path], list[object]], *expected: str) -> Case:
    return Case("SegPrompt", name, build, expected, long=True)


CASES = [
    case("one known category", words("--data.known", "[1]"), "at least 2 known", "data.known"),
    case("merged categories", words("--data.class_agnostic", "true"), "data.class_agnostic: false"),
    case("more prompts than queries", words(f"{_NETWORK}.repeat", 26), "repeat", "num_queries 25"),
    case("a bank that only remembers", words(f"{_NETWORK}.momentum", 1.0), "momentum", "1.0"),
    case("a negative number of examples", words(f"{_NETWORK}.examples", -1), "examples", "-1"),
    case("no step of the first stage", words("--model.init_args.first_steps", 0), "first_steps"),
    case(
        "weights of another model", _weights_of_others, "weights.pt", "another model", "init_from"
    ),
    case("a misspelt term", words("--model.init_args.loss_weights.prompt_clas", 1), "prompt_cl"),
]
