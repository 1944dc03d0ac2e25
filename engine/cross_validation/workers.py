"""Distribution of the folds of a cross-validation over processes and devices."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import numpy as np
import torch

from engine.config.recipe import Recipe
from engine.cross_validation.checkpoints import FoldCheckpoints
from engine.cross_validation.devices import FoldDevices
from engine.cross_validation.external.sets import external_once, predict_external
from engine.cross_validation.finished import FinishedFolds
from engine.cross_validation.fold import (
    BagSet,
    Fold,
    FoldHooks,
    FoldKey,
    FoldRecipe,
    FoldResult,
    FoldTask,
    training_part,
)
from engine.cross_validation.folds import run_fold
from engine.cross_validation.inputs import BagInputs, inputs_once
from engine.cross_validation.recipe import Choice, read_once
from engine.cross_validation.together import run_folds

_TICK = 1.0  # seconds between reports of the progress


class Work(NamedTuple):
    """Picklable inputs that all folds share.

    Attributes:
        config: the recipe.
        files: the files of the bags.
        choice: which weights are taken.
        together: whether to train folds together.
        finished: where results are kept, or None.
        checkpoints: writes the checkpoints, or None.
        external: files of external sets, which each fold predicts too.
        bags_by: recipe by which the bags are read, if the values of ``config`` are those of a grid.
    """

    config: Recipe
    files: BagInputs
    choice: Choice
    together: bool
    finished: FinishedFolds | None = None
    checkpoints: FoldCheckpoints | None = None
    external: tuple[BagInputs, ...] = ()
    bags_by: Recipe | None = None

    def inputs(self) -> tuple[FoldRecipe, BagSet, list[BagSet]]:
        """Return the recipe, the bags and the external sets, which each process reads once."""
        given = self.bags_by or self.config, self.files, self.choice
        recipe, bags = inputs_once(*given)
        if self.bags_by is not None:
            recipe = read_once(self.config, self.choice)
        return recipe, bags, [external_once(*given, source) for source in self.external]

    def result(self, task: FoldTask) -> FoldResult | None:
        """Return the result of a fold that an earlier run has finished, or None."""
        if self.finished is None:
            return None
        if self.checkpoints is not None and not self.checkpoints.path(task[1]).is_file():
            return None
        return self.finished.load(*task)


_Done = tuple[list[FoldResult], list[str]]  # results, reasons why not together


def run_tasks(
    work: Work,
    tasks: Sequence[FoldTask],
    devices: FoldDevices,
    workers: int | None,
    progress: Callable[[float, int], None] | None,
) -> tuple[list[FoldResult], list[str]]:
    """Train and predict the folds that are not finished.

    Args:
        work: inputs of all folds.
        tasks: the folds.
        devices: where folds are trained.
        workers: number of processes on the processor; None for the number of ``devices``, else
            torch's number of threads.
        progress: called with the number of folds done, with the shares of those in training, and
            the number of all folds.

    Returns:
        The result of each task in order, and the reasons why folds were not trained together.

    Raises:
        ValueError: see `run_fold`.
    """

    def report(done: float) -> None:
        if progress is not None:
            progress(done, len(tasks))

    results = {n: found for n, task in enumerate(tasks) if (found := work.result(task))}
    count = min(workers or devices.workers or torch.get_num_threads(), len(tasks))
    count = count if devices.on_cpu else len(devices.devices)
    parts = [p for p in _parts(tasks, count, work.together) if not set(p) <= set(results)]
    reasons: list[str] = []
    shares = [float(n in results) for n in range(len(tasks))]
    if results:
        report(sum(shares))
    alone = count == 1 or not parts
    run = _in_this_process if alone else _in_processes
    for part, (new, why) in run(work, tasks, parts, devices, count, shares, report):
        reasons += why
        results |= dict(zip(part, new, strict=True))
    return [results[n] for n in range(len(tasks))], reasons


def _parts(tasks: Sequence[FoldTask], count: int, together: bool) -> list[list[int]]:
    """Return the numbers of the tasks of each part that a process trains."""
    if not together:
        return [[number] for number in range(len(tasks))]
    # Sort by number of training bags: only folds with equal numbers can be trained together.
    sizes = [int(training_part(folds, key).sum()) for folds, key in tasks]
    order = np.argsort(sizes, kind="stable")
    return [part.tolist() for part in np.array_split(order, count)]


def _in_this_process(
    work: Work,
    tasks: Sequence[FoldTask],
    parts: Sequence[list[int]],
    devices: FoldDevices,
    count: int,
    shares: MutableSequence[float],
    report: Callable[[float], None],
) -> Iterator[tuple[list[int], _Done]]:
    del count
    last = time.monotonic()

    def tick(finished: bool) -> None:
        nonlocal last
        if finished or time.monotonic() - last >= _TICK:
            last = time.monotonic()
            report(sum(shares))

    for part in parts:
        todo = [tasks[number] for number in part]
        yield part, _run(work, part, todo, devices.devices[0], shares, tick)


def _in_processes(
    work: Work,
    tasks: Sequence[FoldTask],
    parts: Sequence[list[int]],
    devices: FoldDevices,
    count: int,
    shares: MutableSequence[float],
    report: Callable[[float], None],
) -> Iterator[tuple[list[int], _Done]]:
    # CUDA cannot be used in a fork of a process that has used it.
    context: Any = multiprocessing.get_context(None if devices.on_cpu else "spawn")
    places = context.SimpleQueue()
    for number in range(count):
        places.put(str(devices.devices[number % len(devices.devices)]))
    shared = context.Array("d", list(shares), lock=False)
    pool = ProcessPoolExecutor(
        min(count, len(parts)),
        mp_context=context,
        initializer=_start,
        initargs=(places, shared, os.getpid(), devices.on_cpu),
    )
    waiting: dict[Future[_Done], list[int]] = {}
    try:
        for part in parts:
            waiting[pool.submit(_run_there, work, part, [tasks[n] for n in part])] = part
        while waiting:
            done, _ = wait(waiting, timeout=_TICK, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda f: waiting[f]):
                yield waiting.pop(future), future.result()
            report(sum(shared))
    except BrokenProcessPool:
        raise ValueError(
            "a process that trained a fold was killed, probably for lack of memory; train fewer "
            "folds at once by --trainer.devices 1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


class _There(NamedTuple):
    """What a worker process was started with."""

    device: torch.device
    shares: MutableSequence[float]


_THERE: list[_There] = []


def _start(places: Any, shares: MutableSequence[float], parent: int, on_cpu: bool) -> None:
    if on_cpu:  # one thread per process, as in torch's loader workers: the matrices are small
        torch.set_num_threads(1)
    _THERE[:] = [_There(torch.device(places.get()), shares)]
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when the command was killed, which leaves its workers behind."""
    while os.getppid() == parent:
        time.sleep(_TICK)
    os._exit(1)


def _run_there(work: Work, numbers: list[int], tasks: Sequence[FoldTask]) -> _Done:
    (there,) = _THERE
    return _run(work, numbers, tasks, there.device, there.shares, lambda finished: None)


def _run(
    work: Work,
    numbers: Sequence[int],
    tasks: Sequence[FoldTask],
    device: torch.device,
    shares: MutableSequence[float],
    tick: Callable[[bool], None],
) -> _Done:
    recipe, bags, sets = work.inputs()
    outcome: dict[FoldKey, FoldResult] = {}
    recipe = dataclasses.replace(recipe, device=device)
    place = {key: number for number, (_, key) in zip(numbers, tasks, strict=True)}

    def progress(key: FoldKey, share: float) -> None:
        shares[place[key]] = min(share, 0.999)  # its test bags are not predicted yet
        tick(False)

    def finished(key: FoldKey, fold: Fold, result: FoldResult) -> None:
        if sets:
            predicted = predict_external(fold, bags, sets, recipe)
            result = dataclasses.replace(result, external=predicted)
        outcome[key] = result
        if work.checkpoints is not None:
            work.checkpoints.write(key, fold, bags, recipe)
        if work.finished is not None:
            work.finished.save(key, result)
        shares[place[key]] = 1.0
        tick(True)

    hooks, reasons = FoldHooks(progress, finished), list[str]()
    if work.together:
        run_folds(bags, tasks, recipe, reasons.append, hooks)
    else:
        for folds, key in tasks:
            run_fold(bags, folds, recipe, key, hooks)
    return [outcome[key] for _, key in tasks], reasons
