"""Comparison of two checkouts: trained weights, JSON scores, flags of the commands.

Trains each quickstart recipe for twenty steps in both checkouts and compares every weight bit for
bit; scores fixed inputs with `coco`, `mil`, `mil-cv` and `compare` and compares the JSON; compares
the arguments that each command accepts. Use it for changes that must not alter results, such as a
new folder layout. Run it from the new checkout; the old one needs no environment of its own:

    git worktree add ../before COMMIT && python benchmarks/compare_checkouts.py ../before

The exit code is 1 if anything differs. A checkout from before RoIAlign summed rows and proposal
losses were computed at the sampled anchors alone has weights of Mask R-CNN that differ by rounding;
those of the other recipes must not differ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from datamodules.seg.digit_scenes import DigitScenesDataModule

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
RECIPES = ("mask_rcnn", "abmil", "yolo")
CHANGING = {"command", "versions", "seconds", "files", "created", "git", "model", "training"}
FLAGS = """
import argparse, json, evaluate
def show(parser):
    return sorted(
        [*a.option_strings, str(a.dest), str(a.nargs), str(a.default), str(a.choices), a.required]
        for a in parser._actions if not isinstance(a, argparse._SubParsersAction)
    )
parser = evaluate.build_parser()
subs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
print(json.dumps({name: show(sub) for name, sub in subs.choices.items()}, default=str))
"""


def call(checkout: Path, *words: object) -> str:
    """Run Python in a checkout and return its standard output."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, words)],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{checkout}: {' '.join(map(str, words))}\n{done.stderr[-3000:]}")
    return done.stdout


def train(checkout: Path, recipes: Path, folder: Path) -> dict[str, Path]:
    """Train each recipe for twenty steps and return the checkpoints."""
    found = {}
    for name in RECIPES:
        call(
            checkout, "train.py", "fit", "--config", recipes / f"{name}.yaml",
            "--trainer.max_steps", 20, "--trainer.accelerator", "cpu", "--runs_dir", folder,
            "--name", name, "--trainer.limit_val_batches", 4, "--trainer.val_check_interval", 20,
        )  # fmt: skip
        found[name] = folder / name / "version_0" / "checkpoints" / "last.ckpt"
    return found


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the network's weights of a checkpoint."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return dict(content["state_dict"])


def fixed_inputs(folder: Path) -> dict[str, Path]:
    """Write predictions of two models on the same bags."""
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    files = {}
    for name, signal in (("a", 1.0), ("b", 0.6)):
        scores = 1 / (1 + np.exp(-(signal * (2 * labels - 1) + random.normal(size=60))))
        lines = [f"b{i},{y},{s:.17g}" for i, (y, s) in enumerate(zip(labels, scores, strict=True))]
        files[name] = folder / f"{name}.csv"
        files[name].write_text("bag_id,label,score\n" + "\n".join(lines) + "\n")
    return files


def scores(checkout: Path, recipes: Path, trained: dict[str, Path], folder: Path) -> dict[str, Any]:
    """Return the JSON of each command, keyed by a name."""
    inputs = fixed_inputs(folder.parent)  # the JSON of `compare` has the files' names
    fixture, musk = DATA / "coco_eval_fixture", DATA / "mil_classic" / "musk1.npz"
    truth = fixture / "instances_val2014_100.json"
    segm = fixture / "instances_val2014_fakesegm100_results.json"
    box = fixture / "instances_val2014_fakebbox100_results.json"
    abmil = recipes / "abmil.yaml"
    classic = checkout / "configs" / "mil" / "abmil.yaml"
    images, annotations = DigitScenesDataModule(test_scenes=20).write_split("test", folder / "set")
    commands: dict[str, list[object]] = {
        "coco file": ["coco", "--predictions", segm, "--annotations", truth, "--per-class"],
        "coco boxes": ["coco", "--predictions", box, "--annotations", truth],
        "coco checkpoint": [
            "coco", "--ckpt", trained["mask_rcnn"], "--annotations", annotations,
            "--images", images,
        ],
        "mil file": ["mil", "--predictions", inputs["a"]],
        "mil checkpoint": ["mil", "--ckpt", trained["abmil"], "--data", abmil],
        "mil-cv": [
            "mil-cv", "--config", classic, "--data", musk, "--folds", 3, "--repeats", 1,
            "--trainer.max_epochs", 5,
        ],
        "mil-cv one by one": [
            "mil-cv", "--config", classic, "--data", musk, "--folds", 3, "--repeats", 1,
            "--trainer.max_epochs", 2, "--one-by-one",
        ],
        "compare bags": ["compare", "--predictions", inputs["a"], inputs["b"]],
        "operating-point": ["operating-point", "--predictions", segm, "--annotations", truth],
        "check-data": ["check-data", "--config", abmil],
        "compare images": ["compare", "--predictions", segm, segm, "--annotations", truth],
    }  # fmt: skip
    found = {}
    for name, words in commands.items():
        out = folder / f"{name.replace(' ', '_')}.json"
        call(checkout, "evaluate.py", *words, "--out", out)
        found[name] = json.loads(out.read_text())
    return found


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Return the differences of two JSON values, apart from paths, versions and times."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = (old.keys() | new.keys()) - CHANGING
        return [d for k in sorted(keys) for d in differences(old.get(k), new.get(k), f"{name}.{k}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{name}[{i}]")]
    return [] if old == new else [f"{name}: {str(old)[:80]} -> {str(new)[:80]}"]


def main() -> int:
    """Compare the checkouts and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", type=Path, help="checkout to compare with")
    parser.add_argument("--new", type=Path, default=ROOT)
    parser.add_argument("--recipes", type=Path, help="recipes of the new side's trainings")
    args = parser.parse_args()
    sides = {"old": args.old.resolve(), "new": args.new.resolve()}
    given = {"old": None, "new": args.recipes}
    faults: list[str] = []

    def report(name: str, found: list[str]) -> None:
        faults.extend(found)
        print(f"{name:32s} {'equal' if not found else f'{len(found)} differences'}", flush=True)
        for line in found[:5]:
            print(f"    {line}", flush=True)

    flags = {side: json.loads(call(path, "-c", FLAGS)) for side, path in sides.items()}
    for command in sorted(flags["old"].keys() | flags["new"].keys()):
        report(f"flags of {command}", differences(*(flags[s].get(command) for s in sides)))
    with tempfile.TemporaryDirectory() as folder:
        trained, found = {}, {}
        for side, path in sides.items():
            place = Path(folder) / side
            place.mkdir()
            recipes = (given[side] or path / "configs" / "quickstart").resolve()
            trained[side] = train(path, recipes, place)
            found[side] = scores(path, recipes, trained[side], place)
        for name in RECIPES:
            old, new = (weights(trained[side][name]) for side in sides)
            unequal = [k for k in old if k not in new or not torch.equal(old[k], new[k])]
            report(f"{len(old)} weights of {name}", [*unequal, *(new.keys() - old.keys())])
        for name in found["old"]:
            report(f"JSON of {name}", differences(found["old"][name], found["new"][name]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
