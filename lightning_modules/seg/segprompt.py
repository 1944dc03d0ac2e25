"""Training of SegPrompt: first a class-agnostic Mask2Former, then prompts beside its queries."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightning_modules.base import OptimizerFactory, SchedulerFactory
from lightning_modules.open_world import OpenWorldModule
from lightning_modules.rebuilding import LINKS
from lightning_modules.staged import StagedModule, load_exactly
from models.seg.segprompt import SegPrompt
from structures import CategoryMap

_OF_PROMPTS = ("prompt_categories", "repeat", "examples", "momentum", "min_area")
_OF_DATA = tuple(target.rpartition(".")[2] for target in LINKS.values())
_PARTS = ("prompt_", "example_")  # prefixes of the terms that the first stage does not have
_TERMS = {part + name for part in ("", *_PARTS) for name in ("class", "mask", "dice")}
_ADDED = "prompts."  # names of the weights that Mask2Former does not have


class SegPromptModule(StagedModule, OpenWorldModule):
    """Second stage of SegPrompt; the first is an `OpenWorldModule` of a Mask2Former of one class.

    Data of the second stage tell known categories apart (``class_agnostic: false``), those of the
    first do not. Predictions are of the class ``object``, with an id that no category has.  # A629

    Args:
        model: a `SegPrompt`.
        optimizer: see `SegmentationModule`; both stages have it.
        lr_scheduler: of the second stage.
        init_from: checkpoint or weights of a Mask2Former of one class or of a SegPrompt, used
            instead of training a first stage.
        freeze: patterns of names that the second stage does not train; the first trains all.
        first_steps: optimizer steps of the first stage; None for the limits of the second.
        first_lr_scheduler: of the first stage; None for that of the second.
        **options: further arguments of `OpenWorldModule`.

    Raises:
        TypeError: ``model`` is not a `SegPrompt`.
        ValueError: ``first_steps`` is not positive, or ``loss_weights`` names another term.
    """

    first_stage_argument = "init_from"

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerFactory,
        lr_scheduler: SchedulerFactory | None = None,
        *,
        init_from: str | None = None,
        freeze: list[str] | None = None,
        first_steps: int | None = None,
        first_lr_scheduler: SchedulerFactory | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(model, SegPrompt):
            raise TypeError(f"SegPromptModule trains a SegPrompt, not a {type(model).__name__}")
        if first_steps is not None and first_steps < 1:
            raise ValueError(f"first_steps must be at least 1, got {first_steps}")
        unknown = sorted(set(options.get("loss_weights") or {}) - _TERMS)
        if unknown:  # said before the first stage is trained
            raise ValueError(f"loss_weights names {unknown}; the model has {sorted(_TERMS)}")
        del first_lr_scheduler  # the run of the first stage has it
        super().__init__(
            model, optimizer, lr_scheduler, first_stage_file=init_from, freeze=freeze, **options
        )
        self.known_map: CategoryMap | None = None  # the categories that prompts know

    @classmethod
    def first_stage(cls, model: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a Mask2Former in an `OpenWorldModule`; see the base class."""
        arguments = copy.deepcopy(dict(model["init_args"]))
        if arguments.pop("init_from", None) is not None:
            return None
        network = arguments["model"]["init_args"]
        arguments["model"] = {
            "class_path": "models.seg.mask2former.Mask2Former",
            "init_args": {k: v for k, v in network.items() if k not in (*_OF_PROMPTS, *_OF_DATA)},
        }
        weights = dict(arguments.get("loss_weights") or {})
        own = {name: value for name, value in weights.items() if not name.startswith(_PARTS)}
        arguments["loss_weights"] = own or None
        schedule = arguments.pop("first_lr_scheduler", None)
        if schedule is not None:
            arguments["lr_scheduler"] = schedule
        for name in ("freeze", "first_steps"):
            arguments.pop(name, None)
        path = "lightning_modules.open_world.OpenWorldModule"
        return {"class_path": path, "init_args": arguments}

    @classmethod
    def first_stage_run(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return class-agnostic data, and the number of steps of the first stage."""
        data, steps = config["data"], config["model"]["init_args"].get("first_steps")
        arguments = data["init_args"] | {"class_agnostic": True}
        limits = {} if steps is None else {"max_steps": steps, "max_epochs": -1}
        return {
            "data": data | {"init_args": arguments},
            "trainer": config["trainer"] | limits,
        }

    def load_first_stage(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights; prompts and bank keep their values unless the file has them."""
        own = {n: v for n, v in self.model.state_dict().items() if n.startswith(_ADDED)}
        load_exactly(self.model, own | dict(state))

    def take_categories(self, data: Any) -> None:
        """Take the known categories of the data; the class of the predictions is none of them."""
        if self.known_map is not None:
            self.known_map.check_same(data.category_map, "the checkpoint", "the data")
            return
        split = data.known_split  # data to predict have none; the checkpoint states the class
        ids = data.category_map.ids if split is None else tuple(split.names)
        self.known_map = data.category_map
        self.category_map = CategoryMap.class_agnostic(max(ids) + 1)

    def facts(self) -> dict[str, Any]:
        """Return also the known categories, as those of the data, and the class of predictions."""
        facts = super().facts()
        if self.known_map is None or "category_map" not in facts:
            return facts
        own = {"category_map": self.known_map.to_dict(), "predicted_map": facts["category_map"]}
        return facts | own

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Restore also the class of the predictions."""
        super().restore_facts(facts)
        self.known_map = self.category_map
        self.category_map = CategoryMap.from_dict(facts["predicted_map"])
