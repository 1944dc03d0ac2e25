"""What a command says and returns when a signal ended it."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from callbacks.run.checkpoints import RunCheckpoint
from callbacks.run.stopping import StopOnSignal
from engine.training.requeue import requeue


def exit_of(stop: SystemExit, signals: StopOnSignal) -> SystemExit:
    """Return the exit of a command that ended early; of a training, say how it is resumed.

    Args:
        stop: what ended the command. Lightning turns SIGTERM and Ctrl-C into it.
        signals: the callback of the training, if there was one.

    Returns:
        ``stop`` itself unless a signal caused it, else one whose code is 128 plus the signal's
        number, as in a shell.
    """
    at_once = isinstance(stop.__context__, KeyboardInterrupt)
    if not at_once and not isinstance(stop, SIGTERMException):
        return stop
    number = signal.SIGINT if at_once else signals.received or signal.SIGTERM
    if signals.trainer is not None and signals.trainer.is_global_zero:
        requeued = f"{requeue()}; " if number == signal.SIGUSR1 else ""
        sys.stderr.write(f"{requeued}{stop_message(number, signals.trainer)}")
    return SystemExit(128 + number)


def stop_message(number: signal.Signals, trainer: pl.Trainer) -> str:
    """Return where a training was stopped and the command that resumes it."""
    stopped = f"stopped by {number.name} after step {trainer.global_step}"
    saved = trainer.checkpoint_callback
    last = saved.last_path if isinstance(saved, RunCheckpoint) else None
    if last is None or not last.is_file():
        return f"{stopped}; no checkpoint was written\n"
    words = ["fit", "--ckpt_path", str(last)]
    run = Path(str(trainer.loggers[0].log_dir))
    if last.absolute().parent.parent != run.absolute():
        words += ["--config", str(run / "config.yaml")]
    return f"{stopped}; to resume:\n  {program()} {shlex.join(words)}\n"


def program() -> str:
    """Return the words by which the user started this program."""
    name = Path(sys.argv[0]).name
    return name if name.startswith("segmil-train") else "python train.py"
