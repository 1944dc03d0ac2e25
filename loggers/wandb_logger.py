"""Weights & Biases logger that never stops or delays a run.

W&B may be missing, fail to start, lose its service during the run or the network at its end. The
first failure is reported once; afterwards the logger does nothing, and the run continues with its
CSV file, images and checkpoints.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from loggers.metric_names import best_of
from loggers.wandb_artifacts import ArtifactSpec
from loggers.wandb_names import RUN_ID_FILE, display_name
from loggers.wandb_results import Results, log_results

STEP = "trainer/global_step"  # the horizontal axis of everything
START_SECONDS = 60.0
TEARDOWN_SECONDS = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WandbOptions:
    """Options of logging to Weights & Biases.

    Attributes:
        project: project name.
        mode: ``offline`` writes the run to disk, to be sent later by ``wandb sync``; ``online``
            falls back to it if the user is not logged in or the server does not answer.
        entity: team or user, None for the default.
        group: name that joins the runs of an experiment, for example folds or seeds.
        job_type: role of this run within the group, for example ``seed1``.
        tags: free labels.
        checkpoints: which checkpoints are copied into artifacts at the end of the training, with
            the aliases ``best`` and ``last``; ``reference`` copies none and logs place and
            checksum of ``best.ckpt``, or of ``last.ckpt`` where nothing is monitored.
        finish_seconds: how long the end of an online run waits for uploads; the rest stays on disk
            for ``wandb sync``.
    """

    project: str = "segmil"
    mode: Literal["offline", "online"] = "offline"
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: tuple[str, ...] = ()
    checkpoints: Literal["reference", "none", "best", "last", "both"] = "reference"
    finish_seconds: float = 600.0


class SafeWandbLogger(WandbLogger):
    """Lightning's W&B logger with bounded waiting times, whose failures do not affect the run.

    The W&B run starts when something is first logged, on the first process only. Its id is written
    to the run folder, and a training that continues in that folder continues the same W&B run.
    Validation metrics have their best and their last value in the summary (see `best_of`).

    Args:
        run_dir: folder of the run.
        options: see `WandbOptions`.
        group: the group where the options have none.

    Attributes:
        failed: whether W&B has failed and is no longer used.

    Raises:
        ModuleNotFoundError: wandb is not installed.
    """

    def __init__(self, run_dir: Path, options: WandbOptions, group: str | None = None) -> None:
        file = run_dir / RUN_ID_FILE
        super().__init__(
            name=display_name(run_dir),
            save_dir=str(run_dir.resolve()),  # the service may have another working directory
            id=file.read_text().strip() if file.is_file() else None,
            project=options.project,
            entity=options.entity,
            group=options.group or group,
            job_type=options.job_type,
            tags=list(options.tags),
        )
        self.options = options
        self.failed = False
        self._run_dir = run_dir
        self._defined: set[str] = set()
        self.logged_by: object = None  # the module, which declares the best values of metrics
        self._checkpoints: Any = None
        self._exit_code = 0
        self.data: Callable[[], ArtifactSpec] | None = None  # of the run, as an artifact
        self.tested: Path | None = None  # the checkpoint that is scored or predicts

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the W&B run, or an object that ignores all calls if W&B has failed."""
        if self._experiment is None and not self.failed:
            with self.guard("did not start"):
                self._experiment = self._start()
        return _NullRun() if self._experiment is None else self._experiment

    @contextlib.contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """Turn an error inside the block into a single warning and disable W&B for this run.

        Args:
            what: description of the failure, for the message.
        """
        try:
            yield
        except Exception as error:  # only W&B, its service, the disk or the network can fail here
            if self.failed:
                return
            self.failed, self._experiment = True, None
            _log.warning(
                "W&B %s (%s: %s); the run continues without it, and the run folder has everything "
                "except the W&B pages",
                what,
                type(error).__name__,
                str(error).strip() or "no message",
            )
            _discard_service()

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Turn an error inside the block into a warning, and go on with W&B if it is still there.

        Args:
            what: see `guard`.
        """
        try:
            yield
        except Exception as error:
            with self.guard(what):
                if _is_lost_connection(error):
                    raise
            if not self.failed:
                reason = str(error).strip() or "no message"
                _log.warning("W&B %s (%s: %s)", what, type(error).__name__, reason)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers or native W&B objects at a step."""
        if self.failed:
            return
        with self.guard("stopped working"):
            self._define(metrics)
            super().log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Add parameters to the configuration of the W&B run."""
        if self.failed:
            return
        with self.guard("did not accept the configuration"):
            super().log_hyperparams(params)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Remember the callback whose checkpoints are sent at the end of the training."""
        self._checkpoints = checkpoint_callback

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Send the artifacts of a run that succeeded; `finish` ends the run."""
        if self.failed or self._experiment is None:
            return
        if status != "success":
            if self._exit_code:
                self.finish()
            return
        with self.attempt("did not accept artifacts"):
            _run_with_timeout(self.options.finish_seconds, self._log_results)

    @rank_zero_only
    def alert(self, title: str, text: str) -> None:
        """Send an alert that an error has ended the run, which then counts as failed.

        Args:
            title: at most 63 characters.
            text: the message.
        """
        if self.failed or self._experiment is None:
            return
        self._exit_code = 1
        with self.guard("did not accept an alert"):
            self.experiment.alert(title=title, text=text, level="ERROR")

    @rank_zero_only
    def finish(self) -> None:
        """End the run; wait for uploads at most ``finish_seconds``."""
        run, self._experiment = self._experiment, None
        if run is None or self.failed:
            return
        with self.guard("did not finish"):
            end = functools.partial(run.finish, exit_code=self._exit_code)
            _run_with_timeout(self.options.finish_seconds + TEARDOWN_SECONDS, end)
            if run.offline:
                rank_zero_info(f"logged offline; `wandb sync {Path(run.dir).parent}` sends it")

    def _start(self) -> Any:
        import wandb

        mode = self._mode()
        options: dict[str, Any] = {
            "init_timeout": START_SECONDS,
            "finish_timeout": self.options.finish_seconds,
            "quiet": True,  # no history and summary at the end
            "silent": mode == "offline",  # `finish` says how to send the run
        }
        known = wandb.Settings.model_fields  # older versions lack some
        settings = wandb.Settings(**{k: v for k, v in options.items() if k in known})
        given = {k: v for k, v in self._wandb_init.items() if k != "anonymous"}
        given |= {"settings": settings, "reinit": "finish_previous"}
        try:
            run = self._init(mode=mode, **given)
        except Exception as error:
            if mode != "online":
                raise
            _log.warning("W&B is not reachable (%s); logging offline", str(error).strip())
            run = self._init(mode="offline", **given)
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        self._run_dir.mkdir(parents=True, exist_ok=True)
        (self._run_dir / RUN_ID_FILE).write_text(f"{run.id}\n")
        self._wandb_init["id"] = self._id = run.id
        return run

    def _init(self, **given: Any) -> Any:
        """Start a run, with a new service if the service of an earlier run or parent is dead."""
        import wandb

        before = self._folders()
        try:
            return wandb.init(**given)
        except Exception as error:
            if not _is_lost_connection(error):
                raise
            for folder in self._folders() - before:  # it is still empty
                shutil.rmtree(folder, ignore_errors=True)
            _discard_service()
            return wandb.init(**given)

    def _folders(self) -> set[Path]:
        found = (self._run_dir / "wandb").glob("*run-*")
        return {path for path in found if not path.is_symlink()}

    def _mode(self) -> Any:
        """Return the mode of the run without prompting the user."""
        if self.options.mode == "offline":
            return "offline"
        asked = os.environ.get("WANDB_MODE", "online")
        if asked != "online":
            return {"dryrun": "offline"}.get(asked, asked)
        if _logged_in():
            return "online"
        _log.warning("not logged in to W&B (`wandb login`, WANDB_API_KEY); logging offline")
        return "offline"

    def _define(self, metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            best = best_of(name, self.logged_by)
            numeric = isinstance(value, int | float) or hasattr(value, "item")
            if best is not None and numeric and name not in self._defined:
                self._defined.add(name)
                self.experiment.define_metric(name, step_metric=STEP, summary=f"{best},last")

    def _log_results(self) -> None:
        callback, wanted = self._checkpoints, self.options.checkpoints
        data = None if self.data is None else self.data()
        log_results(self.experiment, Results(self._run_dir, data, callback, wanted, self.tested))


class _NullRun:
    """Object that accepts every call, attribute and item and does nothing."""

    def __getattr__(self, name: str) -> _NullRun:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> _NullRun:
        return self

    def __getitem__(self, key: Any) -> _NullRun:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


def _is_lost_connection(error: BaseException) -> bool:
    """Return whether W&B's service is gone; the error classes for that are not public."""
    names = ("MailboxClosedError", "WandbServiceConnectionError")
    return isinstance(error, ConnectionError) or type(error).__name__ in names


def _discard_service() -> None:
    """Discard a dead service, so that neither the next run nor the end of the program uses it."""

    def work() -> None:
        import wandb

        wandb.teardown()

    with contextlib.suppress(Exception):  # a dead service cannot be closed properly
        _run_with_timeout(TEARDOWN_SECONDS, work)
    os.environ.pop("WANDB_SERVICE", None)  # address of the service, possibly of a parent process


def _logged_in() -> bool:
    """Return whether there are credentials, without prompting for them."""
    import wandb

    quiet = "prompt" in inspect.signature(wandb.login).parameters
    return bool(wandb.login(**({"prompt": False} if quiet else {"timeout": 0})))


def _run_with_timeout(seconds: float, work: Callable[[], Any]) -> None:
    """Run ``work`` in a thread and wait for it at most ``seconds``.

    Raises:
        TimeoutError: ``work`` has not ended in time; the thread is abandoned.
        Exception: the error that ``work`` raised.
    """
    errors: list[Exception] = []

    def target() -> None:
        try:
            work()
        except Exception as error:  # raised again below in the waiting thread
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer for {seconds:g} s")
    if errors:
        raise errors[0]
