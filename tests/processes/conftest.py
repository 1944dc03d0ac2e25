"""Groups of gloo processes that all tests of this folder share: importing torch takes seconds.

They are forked from one process that has imported what most of them need.
"""

import inspect
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.processes import worker

ROOT = Path(__file__).resolve().parents[2]
# A process whose file tests.perturb changes has to import it after the change.
CHANGED = "SEGMIL_CHANGED_FILE" in os.environ
LATER = [  # what commands import, when they need it
    "engine.training.command_line", "train", "matplotlib.pyplot", "sklearn.datasets",
    "sklearn.metrics", "scipy.stats", "timm", "hotcoco", "wandb",
]  # fmt: skip
IMPORTED = ["torch"] if CHANGED else ["torch", *LATER]


class Group:
    """Processes that wait for functions to run together."""

    def __init__(self, world, folder):
        folder.mkdir()
        self.logs = [folder / f"rank_{rank}.txt" for rank in range(world)]
        self.channels, self.processes = [], []
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        for rank, log in enumerate(self.logs):
            ours, theirs = context.Pipe()
            job = {"rank": rank, "world": world, "store": str(folder / "store"), "root": str(ROOT)}
            process = context.Process(target=worker.main, args=(theirs, str(log)), kwargs=job)
            process.start()
            theirs.close()
            self.channels.append(ours)
            self.processes.append(process)

    def start(self, function, arguments):
        request = pickle.dumps((inspect.getfile(function), function.__name__, arguments))
        for channel in self.channels:
            channel.send_bytes(request)

    def results(self, seconds):
        """Return what the function gave on each process; a failure or a hang ends the group."""
        end, answers = time.monotonic() + seconds, {}
        for rank in range(len(self.channels)):
            answers[rank] = self._answer(rank, max(0.0, end - time.monotonic()))
            if not answers[rank][0]:
                end = min(end, time.monotonic() + 5)  # the others may wait for this one
        wrong = [f"process {r}: {text}" for r, (fine, text) in answers.items() if not fine]
        if wrong:
            self.fail("\n".join(wrong))
        return [value for _, value in answers.values()]

    def _answer(self, rank, seconds):
        try:
            if not self.channels[rank].poll(seconds):
                return False, f"no answer within {seconds:.0f} s"
            return pickle.loads(self.channels[rank].recv_bytes())
        except (EOFError, ConnectionError):
            return False, "it ended"

    def fail(self, message):
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGUSR1)  # writes where it waits into its log
        time.sleep(0.3)
        self.stop()
        tails = [f"--- {log.name}\n{log.read_text()[-3000:]}" for log in self.logs]
        pytest.fail("\n".join([message, *tails]), pytrace=False)

    def stop(self):
        for channel in self.channels:
            channel.close()
        for process in self.processes:
            process.kill()
            process.join()
        self.channels = []


class Processes:
    """Runs one function on several processes and, as the reference, on this one alone."""

    def __init__(self, folder):
        self.folder, self.groups, self.count = folder, {}, 0

    def __call__(self, world, function, seconds=180, **arguments):
        """Return what ``function(rank, world, **arguments)`` gives on each of W processes."""
        group = self._group(world)
        group.start(function, arguments)
        return group.results(seconds)

    def beside_one(self, world, function, seconds=180, **arguments):
        """Return what it gives on one process, this one, and on each of W."""
        group = self._group(world)
        group.start(function, arguments)
        try:
            return self.alone(function, **arguments), group.results(seconds)
        except BaseException:
            group.stop()  # it is busy with what nobody waits for
            raise

    @staticmethod
    def alone(function, **arguments):
        """Return what it gives on this process, with one thread, as the others have.

        The number of threads decides how convolutions round.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return function(0, 1, **arguments)
        finally:
            torch.set_num_threads(threads)

    def _group(self, world):
        if world not in self.groups or not self.groups[world].channels:
            self.count += 1
            self.groups[world] = Group(world, self.folder / f"group_{self.count}")
        return self.groups[world]

    def stop(self):
        for group in self.groups.values():
            group.stop()


@pytest.fixture(scope="session")
def processes(tmp_path_factory):
    shared = Processes(tmp_path_factory.mktemp("processes"))
    yield shared
    shared.stop()


@pytest.fixture(params=[2, pytest.param(3, marks=pytest.mark.slow)])
def world(request):
    """Two processes in the quick suite, three in the slow one."""
    return request.param
