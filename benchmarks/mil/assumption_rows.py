"""Models in the table of the algorithmic unit tests, as small variants of the recipes.

Only the widths are reduced: layers before the pooling have widths 64, 64, 64 with dropout .5.
Methods keep their mask ratios, temperatures and loss weights (A190). Settings that depend on the
size of slides (views, queues, landmarks) are adapted to bags of 45 instances. A class of models/mil
with a recipe but without a row here gets a row with the unchanged recipe.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.assumptions import RecipeModel, recipe_model
from engine.config.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
SIZE = 45  # instances of a bag
TRUNK: dict[str, Any] = {"hidden_sizes": [64, 64, 64], "dropout": 0.5}
ATTENTION: dict[str, Any] = {**TRUNK, "attention_dim": 32}
AROUND: dict[str, Any] = {"learner": {"init_args": ATTENTION}}
TRANSFORMER: dict[str, Any] = {"width": 64, "heads": 4, "landmarks": 16, "residual_kernel": 9}


@dataclass(frozen=True, eq=False)
class Row:
    """A model of the table.

    Attributes:
        name: name in the table and the figure.
        recipe: stem of a file in configs/mil.
        init_args: changes of the model's arguments.
    """

    name: str
    recipe: str
    init_args: dict[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """Path of the recipe."""
        return ROOT / f"configs/mil/{self.recipe}.yaml"

    @property
    def learner(self) -> str:
        """Name of the model's class."""
        arguments = Recipe.of(self.file).section("model")["init_args"]
        return str(arguments["model"]["class_path"]).rpartition(".")[2]

    def build(self) -> RecipeModel:
        """Return the factory of the model, which takes a seed."""
        return recipe_model(self.file, self.init_args)


ROWS = (
    Row("mi-Net (largest instance score)", "mi_net", TRUNK),
    Row("top-5 mean of instance scores", "top_k_instance", TRUNK),
    Row("LSE of instance scores, mean form", "lse_instance", TRUNK),
    Row("noisy-OR, default start", "noisy_or_instance", {**TRUNK, "first_bias": None}),
    Row(
        "noisy-OR, started at -log 45",
        "noisy_or_instance",
        {**TRUNK, "first_bias": round(-math.log(SIZE), 1)},
    ),
    Row("mean of instance scores", "mean_instance", TRUNK),
    Row("MI-Net (largest embedding)", "mi_net_embedding", TRUNK),
    Row("MI-Net DS", "mi_net_ds", TRUNK),
    Row("MI-Net RC", "mi_net_rc", {"width": 64}),
    Row("mean embedding", "mean_embedding", TRUNK),
    Row("ABMIL", "abmil", {**ATTENTION, "input_dropout": 0.0}),
    Row("ABMIL, gated", "abmil_features", ATTENTION),
    Row("additive ABMIL", "additive", {**ATTENTION, "classifier_sizes": []}),
    Row("DSMIL", "dsmil", ATTENTION),
    Row("MonotoneMax", "monotone_max"),
    Row("MinMaxLattice", "min_max_lattice"),
    Row("CLAM-SB", "clam_sb", ATTENTION),
    Row("CLAM-MB", "clam_mb", ATTENTION),
    Row("TransMIL", "transmil", TRANSFORMER),
    Row("DTFD (AFS)", "dtfd", {"hidden_size": 64, "attention_dim": 32}),
    Row("ACMIL", "acmil", {"hidden_size": 64, "attention_dim": 32}),
    Row("AEM around gated ABMIL", "aem", AROUND),
    Row("AEM around MHA", "aem_mha", {"learner": {"init_args": {"hidden_size": 64, "heads": 4}}}),
    Row("MHIM around ABMIL", "mhim", AROUND),
    Row("MHIM around DSMIL", "mhim_dsmil", AROUND),
    Row(
        "MHIM-v2 around ABMIL",
        "mhim_v2",
        {
            **AROUND,
            "recycle": {"init_args": {"width": 64, "tokens": 1, "heads": 4, "head_width": 16}},
        },
    ),
    Row("SC-MIL around gated ABMIL", "sc_mil", {**AROUND, "view_instances": SIZE}),
    Row("SC-MIL in two stages", "sc_mil_two_stage", {**AROUND, "view_instances": SIZE}),
    Row(
        "INS",
        "ins",
        {**TRUNK, "projection_dim": 32, "queue_size": 1024, "max_anchors": 8},
    ),
    Row("Self-ViT-MIL", "self_vit_mil", {"attention_dim": 32}),
    Row("gated ABMIL, class weights", "abmil_class_weighted", AROUND),
    Row("gated ABMIL, focal loss", "abmil_focal", AROUND),
    Row("gated ABMIL, logit adjustment", "abmil_logit_adjusted", AROUND),
)


def rows() -> list[Row]:
    """Return `ROWS`, followed by a row for each class that only has a recipe."""
    found, known = list(ROWS), {row.learner for row in ROWS}
    for path in sorted((ROOT / "configs/mil").glob("*.yaml")):
        row = Row(path.stem, path.stem)
        if row.learner not in known and "\n    task: " not in path.read_text():  # of classes
            known.add(row.learner)
            found.append(Row(row.learner, path.stem))
    return found
