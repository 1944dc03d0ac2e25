"""Test cases of a broken input and the command that has to reject it.

A command must reject a broken input with exit code 2 and one message on stderr that names the place
and the remedy. It must not print a traceback, hang, stay silent, train, or run code in a file.
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
MARKER = "code-was-run"  # file that code inside an input would write
LONGEST = 4000  # characters of a message: twenty problems with their places and remedies
_MESSAGE = re.compile(r"^(?:\w+\.py(?: [\w-]+)?: )?error: ", re.MULTILINE)
_SECOND = re.compile(
    r"Traceback|^\w*(?:Error|Exception)\b|HDF5-DIAG|Exception ignored", re.MULTILINE
)
_BORDERS = dict.fromkeys(map(ord, "│┃"), " ")
_TRAINING = ("fit", "validate", "test", "predict")


@dataclass(frozen=True)
class Case:
    """A fault of a user's input.

    Attributes:
        kind: kind of file.
        name: description of the fault, unique within the kind.
        build: writes the broken files into an empty folder and returns the command's words,
            ``train`` or ``evaluate`` first.
        expected: required parts of the message, ignoring case.
        long: whether the case is slow, because its recipe has many keys.
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
    """Result of a command.

    Attributes:
        code: exit code; None if the command did not end by itself.
        out: standard output.
        err: standard error.
        seconds: wall time.
    """

    code: int | None
    out: str
    err: str
    seconds: float


class Hang(BaseException):
    """Raised by the alarm; not an Exception, so that ``except Exception`` does not catch it."""


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
        except BaseException as error:  # any exception that leaves main is a failure
            fallen = f"Traceback: {type(error).__name__} left main: {error}\n"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    seconds = time.perf_counter() - start
    out, err = texts()
    return Outcome(code, out, err + fallen, seconds)


def run_apart(words: list[str], limit: float) -> Outcome:
    """Run a command in a separate process, as a user does."""
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
    """Return the failures of a command, an empty list if it rejected the input correctly."""
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
    elif (folder / "runs").exists():
        faults.append("left a run behind")
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
    """Capture the output of Python and of libraries that write to the file descriptors."""
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
