from types import SimpleNamespace

import pytest

from callbacks.run.alerts import AlertOnError
from loggers.wandb_logger import SafeWandbLogger, WandbOptions
from structures.not_finite import LossNotFiniteError


@pytest.fixture
def logger(tmp_path):
    """A logger whose run keeps alerts and how it ended."""
    made = SafeWandbLogger(tmp_path / "x" / "version_0", WandbOptions())
    run = SimpleNamespace(alerts=[], ended=[], offline=False, dir=str(tmp_path / "files"))

    def finish(exit_code):
        run.ended.append(exit_code)

    run.finish = finish
    run.alert = lambda **given: run.alerts.append(given)
    made._experiment = made.run = run
    return made


@pytest.mark.parametrize(
    ("error", "title"),
    [
        (LossNotFiniteError("loss is not finite: {'box': nan}"), "loss is not finite at step 7"),
        (RuntimeError("x" * 5000), "error at step 7"),
    ],
)
def test_an_error_is_an_alert_and_a_failed_run(logger, error, title):
    trainer = SimpleNamespace(loggers=[object(), logger], global_step=7)
    AlertOnError().on_exception(trainer, None, error)
    logger.finalize("failed")
    (alert,) = logger.run.alerts
    assert (alert["title"], alert["level"]) == (title, "ERROR")
    assert alert["text"].startswith(f"{type(error).__name__}: {str(error)[:20]}")
    assert len(alert["text"]) <= 1000
    assert logger.run.ended == [1]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)])
def test_a_signal_is_none(logger, stop):
    AlertOnError().on_exception(SimpleNamespace(loggers=[logger], global_step=7), None, stop)
    logger.finalize("failed")
    assert (logger.run.alerts, logger.run.ended) == ([], [])


def test_an_alert_that_fails_is_a_warning(logger, caplog):
    def refuse(**given):
        raise OSError(28, "No space left on device")

    logger.run.alert = refuse
    trainer = SimpleNamespace(loggers=[logger], global_step=7)
    AlertOnError().on_exception(trainer, None, RuntimeError("a"))
    logger.finalize("failed")
    assert logger.failed
    assert [r for r in caplog.records if "No space left" in r.getMessage()]


def test_a_run_that_has_not_started_is_not_started_for_an_alert(tmp_path):
    made = SafeWandbLogger(tmp_path / "x" / "version_0", WandbOptions())
    AlertOnError().on_exception(SimpleNamespace(loggers=[made], global_step=0), None, OSError("a"))
    assert made._experiment is None
    assert not list(tmp_path.iterdir())
