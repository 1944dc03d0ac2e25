"""Time and peak memory of training steps of MIL models against torchmil's.

Run `python benchmarks/mil_speed.py [--repeats R] [--all]`. A step is forward, losses, backward and
Adam, with equal layers and widths on the same values. *Ragged* is 8 bags of 560 to 3 500 instances
of 1024 features; torchmil pads them (52 % of its batch are instances) or processes them one by one,
our models pack them. *Single* is one bag of 10 000. The functions run in random order and medians
count. Memory is the peak that a step on the single bag adds to a separate process (Linux).
``--all`` also times the training step of every recipe, without a comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.mil.abmil import ABMIL
from models.mil.clam import CLAM
from models.mil.dsmil import DSMIL
from models.mil.dtfd import DTFD
from models.mil.transmil import TransMIL
from structures import BagBatch

WIDTH, HIDDEN, ATTENTION = 1024, 512, 128
SINGLE = [10_000]
RAGGED = [3500, 2800, 2300, 1900, 1500, 1200, 800, 560]
SLOWER = 1.05  # default bound of the ratio of times on a single bag
TIME = {"CLAM": 0.75, "DTFD": 0.8, "TransMIL": 0.6}
MEMORY = {"TransMIL": 0.6}
PACKED = 0.5  # bound of packed to padded time, attention models
HALF = 0.65  # bound of bfloat16 autocast to single precision time, ABMIL
NAMES = ("ABMIL", "DSMIL", "CLAM", "DTFD", "TransMIL")

Step = Callable[[], Any]


def make_bags(sizes: Sequence[int]) -> BagBatch:
    """Return bags of noise."""
    generator = torch.Generator().manual_seed(0)
    return BagBatch(
        features=torch.randn(sum(sizes), WIDTH, generator=generator),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.arange(len(sizes)) % 2,
        index=torch.arange(len(sizes)),
    )


def ours(name: str) -> nn.Module:
    """Return our model without dropout."""
    task: Any = "binary"
    facts = (WIDTH, 2, task)
    hidden, attention = (HIDDEN,), ATTENTION
    if name == "ABMIL":
        return ABMIL(*facts, hidden_sizes=hidden, attention_dim=attention)
    if name == "DSMIL":
        return DSMIL(*facts, hidden_sizes=hidden, attention_dim=attention, query="linear")
    if name == "CLAM":
        plain = {"dropout": 0.0, "attention_dropout": 0.0}
        return CLAM(*facts, hidden_sizes=hidden, attention_dim=attention, **plain)
    if name == "DTFD":
        return DTFD(*facts, hidden_size=HIDDEN, attention_dim=attention, gated=False)
    return TransMIL(*facts, width=HIDDEN, dropout=0.0)


def theirs(name: str) -> nn.Module:
    """Return torchmil's model with the same layers."""
    from torchmil import models as peer

    trunk = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU())
    shared: dict[str, Any] = {"in_shape": (WIDTH,), "feat_ext": trunk}
    if name == "TransMIL":
        return peer.TransMIL(att_dim=HIDDEN, n_heads=8, n_landmarks=256, **shared)
    shared["att_dim"] = ATTENTION
    if name == "CLAM":
        return peer.CLAM_SB(gated=True, k_sample=8, **shared)
    if name == "DTFD":
        return peer.DTFDMIL(n_groups=4, distill_mode="afs", **shared)
    return {"ABMIL": peer.ABMIL, "DSMIL": peer.DSMIL}[name](**shared)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of both."""
    return torch.optim.Adam(model.parameters(), lr=1e-4)


def our_step(model: Any, bags: BagBatch, half: bool = False) -> Step:
    """Return a function that runs a training step on packed bags."""
    optimizer = adam(model)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            terms = model.losses(model(bags), bags)
        torch.stack([*terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def their_step(model: Any, batches: Sequence[tuple[Tensor, ...]]) -> Step:
    """Return a function that runs a training step on (labels, features[, mask]) batches."""
    optimizer = adam(model)

    def step() -> None:
        optimizer.zero_grad()
        for batch in batches:
            _, terms = model.compute_loss(*batch)
            (torch.stack([*terms.values()]).sum() / len(batches)).backward()
        optimizer.step()

    return step


def dense(bags: BagBatch, name: str) -> list[tuple[Tensor, ...]]:
    """Return all bags padded to the largest, with a mask if the model takes one."""
    sizes = bags.sizes()
    mask = torch.arange(int(sizes.max())) < sizes[:, None]
    features = bags.features.new_zeros(*mask.shape, WIDTH)
    features[mask] = bags.features
    labels = bags.labels.float()
    return [(labels, features) if name == "TransMIL" else (labels, features, mask)]


def one_by_one(bags: BagBatch) -> list[tuple[Tensor, ...]]:
    """Return one batch per bag."""
    return [(bag.labels.float(), bag.features[None]) for bag in bags.bags()]


def in_turn(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Return the median seconds of each step; they alternate, after two warm-up rounds."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    rng = np.random.default_rng(0)
    for number in range(repeats + 2):
        for position in rng.permutation(len(steps)):
            name = list(steps)[position]
            start = time.perf_counter()
            steps[name]()
            if number >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(row) for name, row in times.items()}


def resident(line: str) -> float:
    """Return ``VmRSS`` or ``VmHWM``, this process's memory or its peak, in MiB."""
    found = Path("/proc/self/status").read_text().partition(f"{line}:")[2]
    return int(found.split()[0]) / 1024


def growth(who: str, name: str) -> float:
    """Return the MiB that a step on the single bag adds to model, optimizer and features."""
    model = ours(name) if who == "ours" else theirs(name)
    steps = []
    for bags in (make_bags([64]), make_bags(SINGLE)):
        make = our_step(model, bags) if who == "ours" else their_step(model, one_by_one(bags))
        steps.append(make)
    steps[0]()
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = resident("VmRSS")
    steps[1]()
    return resident("VmHWM") - before


def memory(who: str, name: str) -> float:
    """Return `growth`, measured in a separate process."""
    command = [sys.executable, "-W", "ignore", __file__, "--memory", who, name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def verdict(ratio: float, bound: float | None) -> str:
    """Return the ratio with its bound and whether it is met."""
    if bound is None:
        return f"{ratio:5.2f}"
    return f"{ratio:5.2f} (bound {bound:.2f}: {'met' if ratio <= bound else 'MISSED'})"


def compare(name: str, repeats: int) -> bool:
    """Print the rows of one model; return whether all bounds are met."""
    single, ragged = make_bags(SINGLE), make_bags(RAGGED)
    model, peer = ours(name), theirs(name)
    times = in_turn(
        {
            "ours": our_step(model, single),
            "peer": their_step(peer, one_by_one(single)),
            "packed": our_step(model, ragged),
            "padded": their_step(peer, dense(ragged, name)),
            "by one": their_step(peer, one_by_one(ragged)),
        },
        repeats,
    )
    mine, other = memory("ours", name), memory("peer", name)
    family = None if name == "TransMIL" else PACKED
    rows = [
        ("single, time", times["ours"], times["peer"], TIME.get(name, SLOWER), "s"),
        ("single, memory", mine, other, MEMORY.get(name), "MiB"),
        ("ragged, padded peer", times["packed"], times["padded"], family, "s"),
        ("ragged, peer one by one", times["packed"], times["by one"], None, "s"),
    ]
    kept = True
    for what, own, their, bound, unit in rows:
        digits = 3 if unit == "s" else 0
        pair = f"{own:8.{digits}f} {unit:3s} torchmil {their:8.{digits}f} {unit:3s}"
        print(f"{name:9s}{what:25s}{pair}  ratio {verdict(own / their, bound)}", flush=True)
        kept &= bound is None or own / their <= bound
    return kept


def half_precision(repeats: int) -> bool:
    """Print ABMIL under bfloat16 autocast against float32; return whether `HALF` is met."""
    bags, model = make_bags(SINGLE), ours("ABMIL")
    steps = {"half": our_step(model, bags, half=True), "single": our_step(model, bags)}
    times = in_turn(steps, repeats)
    ratio = times["half"] / times["single"]
    print(f"ABMIL bfloat16 {times['half']:.3f} s, float32 {times['single']:.3f} s"
          f"  ratio {verdict(ratio, HALF)}", flush=True)  # fmt: skip
    return ratio <= HALF


def every_recipe(repeats: int) -> None:
    """Print the time of every recipe's training step on the single bag."""
    from tests.support.mil_recipes import NAMES as RECIPES
    from tests.support.mil_recipes import build, prepare

    bags = make_bags(SINGLE)
    for name in RECIPES:
        module = prepare(build(name, in_features=WIDTH), bags).train()
        optimizer = adam(module)

        def step(module: Any = module, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            module.weighted_sum(module.training_terms(bags)).backward()
            optimizer.step()
            module.after_optimizer_step()

        print(f"{name:25s}{in_turn({'step': step}, repeats)['step']:8.3f} s", flush=True)


def main() -> int:
    """Print the tables and return exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=NAMES, choices=NAMES, metavar="LEARNER")
    parser.add_argument("--all", action="store_true", help="also time every recipe's step")
    parser.add_argument("--memory", nargs=2, metavar=("WHO", "LEARNER"), help="print one number")
    args = parser.parse_args()
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    if args.memory is not None:
        print(json.dumps(growth(*args.memory)))
        return 0
    kept = [compare(name, args.repeats) for name in args.only]
    kept.append(half_precision(args.repeats))
    if args.all:
        every_recipe(args.repeats)
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(main())
