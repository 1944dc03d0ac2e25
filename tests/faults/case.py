"""One broken input, the command that reads it, and whether the command refuses it as promised.

Promised are exit code 2 and one message on stderr that names the place and the remedy; never a
traceback, a hang, silence, or a run with a checkpoint. Code inside a file must not run.
"""

import contextlib
import importlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MARKER = "code-was-run"  # what code inside a file would write beside it
LONGEST = 4000  # characters of one message: twenty problems with their places and remedies
_MESSAGE = re.compile(r"^(?:\w+\.py(?: [\w-]+)?: )?error: ", re.MULTILINE)
_SECOND = re.compile(
    r"Traceback|^\w*(?:Error|Exception)\b|HDF5-DIAG|Exception ignored", re.MULTILINE
)
_BORDERS = dict.fromkeys(map(ord, "│┃"), " ")
_TRAINING = ("fit", "validate", "test", "predict")


@dataclass(frozen=True)
class Case:
    """A fault that a user's input can have.

    Attributes:
        kind: sort of file.
        name: what is wrong, unique within the kind.
        build: writes the broken files into an empty folder and returns the command's words,
            ``train`` or ``evaluate`` first.
        expected: parts of the message, upper and lower case alike.
        long: whether it takes a good part of a second, by a recipe of many keys.
    """

    kind: str
    name: str
    build: Callable[[Path], list[object]]
    expected: tuple[str, ...]
    long: bool = False

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        code: exit code; None where it did not end by itself.
        out: standard output.
        err: standard error.
        seconds: wall time.
    """

    code: int | None
    out: str
    err: str
    seconds: float


class Hang(BaseException):
    """Raised by the alarm; no ``except Exception`` may take it."""


def words_of(case: Case, folder: Path) -> list[str]:
    """Build the case's files and return its command, with its runs kept inside the folder."""
    words = [str(word) for word in case.build(folder)]
    trains = words[0] == "train" and words[1:] and words[1] in _TRAINING
    if trains and "--runs_dir" not in words:
        words += ["--runs_dir", str(folder / "runs")]
    return words


def run_here(words: list[str], limit: float) -> Outcome:
    """Run a command in this process through its ``main``."""
    main = importlib.import_module(words[0]).main

    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    start, code, fallen = time.perf_counter(), None, ""
    with _captured() as texts:
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            code = main(words[1:])
        except Hang:
            pass
        except BaseException as error:  # whatever leaves main is the finding
            fallen = f"Traceback: {type(error).__name__} left main: {error}\n"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    seconds = time.perf_counter() - start
    out, err = texts()
    return Outcome(code, out, err + fallen, seconds)


def run_apart(words: list[str], limit: float) -> Outcome:
    """Run a command in a process of its own, as a user does."""
    command = [sys.executable, str(ROOT / f"{words[0]}.py"), *words[1:]]
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return Outcome(None, "", "", time.perf_counter() - start)
    return Outcome(done.returncode, done.stdout, done.stderr, time.perf_counter() - start)


def judge(case: Case, outcome: Outcome, folder: Path) -> list[str]:
    """Return what the command did not keep of its promise, nothing if all is well."""
    faults = []
    if outcome.code is None:
        faults.append(f"did not end by itself ({outcome.seconds:.1f} s)")
    elif outcome.code != 2:
        faults.append(f"exit code {outcome.code}")
    faults += _message_faults(outcome)
    message = outcome.err[m.start() :] if (m := _MESSAGE.search(outcome.err)) else ""
    if "listed above" in message:  # check-data prints its findings as tables
        message += outcome.out.translate(_BORDERS)
    plain = " ".join(message.split()).lower()  # argparse wraps its lines
    faults += [f"lacks {part!r}" for part in case.expected if part.lower() not in plain]
    if next((folder / "runs").rglob("*.ckpt"), None) is not None:
        faults.append("trained")
    if next(folder.rglob(MARKER), None) is not None:
        faults.append("ran code that a file carries")
    return faults


def _message_faults(outcome: Outcome) -> list[str]:
    faults = []
    messages = _MESSAGE.findall(outcome.err)
    if len(messages) != 1:
        faults.append(f"{len(messages)} messages on stderr")
    for name, text in (("stdout", outcome.out), ("stderr", outcome.err)):
        if found := _SECOND.search(text):
            faults.append(f"{found.group()!r} on {name}")
    match = _MESSAGE.search(outcome.err)
    length = len(outcome.err) - match.end() if match else 0
    if match and not 10 <= length <= LONGEST:
        faults.append(f"a message of {length} characters")
    return faults


@contextlib.contextmanager
def _captured() -> Iterator[Callable[[], tuple[str, str]]]:
    """Catch what Python writes and what libraries write to the descriptors past Python."""
    streams = io.StringIO(), io.StringIO()
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as low_out, tempfile.TemporaryFile() as low_err:

        def texts() -> tuple[str, str]:
            return found[0], found[1]

        found = ["", ""]
        os.dup2(low_out.fileno(), 1)
        os.dup2(low_err.fileno(), 2)
        try:
            with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
                yield texts
        finally:
            for number, (low, old) in enumerate(zip((low_out, low_err), kept, strict=True)):
                os.dup2(old, number + 1)
                os.close(old)
                low.seek(0)
                found[number] = low.read().decode(errors="replace") + streams[number].getvalue()
