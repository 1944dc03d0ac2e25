import pytest
import pytorch_lightning as pl
from jsonargparse import ArgumentError, ArgumentParser
from pytorch_lightning.callbacks import LearningRateMonitor, RichProgressBar

from callbacks.results.curves import Curves
from callbacks.run.gradient_norm import GradientNorm
from callbacks.run.progress import ProgressBar
from callbacks.seg.gallery import MaskGallery
from callbacks.standard import _DEFAULTS, StandardCallbacks


def built(arguments, **options):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(StandardCallbacks, "callbacks")
    entries = parser.instantiate(parser.parse_args(arguments)).callbacks
    return entries.build(**options)


def names(found):
    return [type(c).__name__ for c in found]


def test_all_are_on_and_in_the_order_of_the_entries():
    found = built([])
    assert len(found) == len(_DEFAULTS) == len(StandardCallbacks.__dataclass_fields__)
    assert list(_DEFAULTS) == list(StandardCallbacks.__dataclass_fields__)
    assert names(found)[:3] == ["ProgressBar", "LearningRateMonitor", "Throughput"]
    (monitor,) = [c for c in found if isinstance(c, LearningRateMonitor)]
    assert monitor.logging_interval == "step"


@pytest.mark.parametrize("entry", list(_DEFAULTS))
def test_each_is_switched_off_by_its_own_flag(entry):
    everything, rest = names(built([])), names(built([f"--callbacks.{entry}", "false"]))
    (gone,) = set(everything) - set(rest)
    assert gone == type(_DEFAULTS[entry]()).__name__
    assert len(rest) == len(everything) - 1


def test_arguments_of_one_leave_the_others_alone():
    found = built(["--callbacks.gallery.every_n_epochs", "5", "--callbacks.curves", "true"])
    (gallery,) = [c for c in found if isinstance(c, MaskGallery)]
    assert (gallery.every_n_epochs, gallery.num_pictures) == (5, 8)
    assert names(found) == names(built([]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--callbacks.galery", "false"],
        ["--callbacks.gallery", "7"],
        ["--callbacks.gallery.every", "5"],
        ["--callbacks.gallery.every_n_epochs", "often"],
        ["--callbacks.curves", "callbacks.seg.gallery.MaskGallery"],  # a class of another entry
    ],
)
def test_a_wrong_name_or_type_is_refused(arguments):
    with pytest.raises(ArgumentError, match="call"):
        built(arguments)


def test_own_callbacks_come_last_and_take_the_place_of_their_like():
    own = [Curves(every_n_epochs=3), pl.callbacks.Timer()]
    found = built([], own=own)
    assert found[-2:] == own
    assert names(found).count("Curves") == 1


def test_another_progress_bar_takes_the_place_of_ours():
    found = built([], own=[RichProgressBar()])
    assert [c for c in found if isinstance(c, pl.callbacks.ProgressBar)] == found[-1:]
    assert type(found[-1]) is RichProgressBar


def test_no_progress_bar_at_all_where_the_trainer_has_none():
    found = built([], own=[ProgressBar(), GradientNorm()], progress_bar=False)
    assert not any(isinstance(c, pl.callbacks.ProgressBar) for c in found)
    assert names(found).count("GradientNorm") == 1
