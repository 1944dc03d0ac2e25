import pytest
import pytorch_lightning as pl
from jsonargparse import ArgumentError, ArgumentParser
from pytorch_lightning.callbacks import LearningRateMonitor, RichProgressBar

import callbacks
from callbacks.results.curves import Curves
from callbacks.run.gradient_norm import GradientNorm
from callbacks.run.progress import ProgressBar
from callbacks.seg.gallery import MaskGallery
from callbacks.standard import StandardCallbacks, standard_callbacks

# In the order in which they run.
ENTRIES = ["progress", "learning_rate", "throughput", "memory", "gradient_norm", "gallery"]
ENTRIES += [
    "known_unknown",
    "attention",
    "curves",
    "confusion",
    "targets",
    "class_table",
    "bag_table",
    "predictions",
    "heatmaps",
    "feature_files",
]


def built(arguments, **options):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(StandardCallbacks, "callbacks")
    entries = parser.instantiate(parser.parse_args(arguments)).callbacks
    return entries.build(**options)


def names(found):
    return [type(c).__name__ for c in found]


def test_all_are_on_and_in_the_order_of_the_entries():
    found = built([])
    assert list(StandardCallbacks.__dataclass_fields__) == ENTRIES
    assert [type(callback) for callback in found] == list(standard_callbacks().values())
    assert names(found)[:3] == ["ProgressBar", "LearningRate", "Throughput"]
    (monitor,) = [c for c in found if isinstance(c, LearningRateMonitor)]
    assert monitor.logging_interval == "step"


@pytest.mark.parametrize("entry", ENTRIES)
def test_each_is_switched_off_by_its_own_flag(entry):
    everything, rest = names(built([])), names(built([f"--callbacks.{entry}", "false"]))
    (gone,) = set(everything) - set(rest)
    assert gone == standard_callbacks()[entry].__name__
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


def test_one_of_the_class_that_an_entry_extends_takes_its_place():
    own = [LearningRateMonitor(logging_interval="epoch")]
    found = built([], own=own)
    assert [c for c in found if isinstance(c, LearningRateMonitor)] == own


def test_the_help_text_of_an_entry_is_the_first_line_of_its_class():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(StandardCallbacks, "callbacks")
    shown = " ".join(parser.format_help().split())
    for callback in standard_callbacks().values():
        assert callback.__doc__.partition("\n")[0] in shown


NEW = """
import pytorch_lightning as pl

from callbacks.results.curves import Curves


class {name}(pl.Callback):
    entry = "{entry}"


class Inherits(Curves):
    pass
"""


def test_a_class_with_an_entry_in_any_module_of_the_folder_is_one(monkeypatch, tmp_path):
    monkeypatch.setattr(callbacks, "__path__", [*callbacks.__path__, str(tmp_path)])
    (tmp_path / "brought.py").write_text(NEW.format(name="Brought", entry="brought"))
    found = standard_callbacks()
    assert list(found) == [*ENTRIES, "brought"]
    assert found["brought"].__name__ == "Brought"


def test_an_entry_of_two_classes_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(callbacks, "__path__", [*callbacks.__path__, str(tmp_path)])
    (tmp_path / "twice.py").write_text(NEW.format(name="Twice", entry="curves"))
    with pytest.raises(ValueError, match=r"Curves and callbacks.twice.Twice .*'curves'"):
        standard_callbacks()


def test_another_progress_bar_takes_the_place_of_ours():
    found = built([], own=[RichProgressBar()])
    assert [c for c in found if isinstance(c, pl.callbacks.ProgressBar)] == found[-1:]
    assert type(found[-1]) is RichProgressBar


def test_no_progress_bar_at_all_where_the_trainer_has_none():
    found = built([], own=[ProgressBar(), GradientNorm()], progress_bar=False)
    assert not any(isinstance(c, pl.callbacks.ProgressBar) for c in found)
    assert names(found).count("GradientNorm") == 1
