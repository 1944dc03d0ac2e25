import pytest

from callbacks.after_evaluation import AfterEvaluation


class Recorder(AfterEvaluation):
    """Notes what it is handed."""

    def __init__(self, every_n_epochs=1):
        super().__init__(every_n_epochs)
        self.drawn, self.kept = [], []

    def start(self):
        self.kept = []

    def keep(self, pl_module, outputs, batch):
        self.kept += batch.image_ids

    def draw(self, trainer, pl_module, stage):
        scored = pl_module.scores is not None
        self.drawn.append((stage, len(self.kept), scored))


def fit(recorder, stand_in, make_trainer, **options):
    trainer = make_trainer([recorder], **options)
    trainer.fit(stand_in.SegModule(), stand_in.images(), stand_in.images())
    return trainer


def test_each_stage_sees_all_its_samples_and_the_scores(stand_in, make_trainer):
    recorder = Recorder()
    trainer = fit(recorder, stand_in, make_trainer, max_epochs=2)
    trainer.validate(stand_in.SegModule(), stand_in.images(), verbose=False)
    trainer.test(stand_in.SegModule(), stand_in.images(), verbose=False)
    stages = ["epoch_001", "epoch_002", "val", "test"]
    assert recorder.drawn == [(stage, 6, True) for stage in stages]
    assert recorder.kept == []  # nothing is held on to


@pytest.mark.parametrize(
    ("every", "options", "epochs"),
    [
        (1, {"max_epochs": 3}, [0, 1, 2]),
        (2, {"max_epochs": 5}, [0, 2, 4]),
        (3, {"max_epochs": 6}, [0, 3, 5]),  # the last one although 5 is not due
        (4, {"max_epochs": 9, "check_val_every_n_epoch": 3}, [2, 8]),
        (9, {"max_epochs": 1, "num_sanity_val_steps": -1}, [0]),
        (1, {"max_epochs": 2, "val_check_interval": 1}, [0, 1, 1]),  # three validations an epoch
        (2, {"max_epochs": 3, "val_check_interval": 1}, [0, 2, 2]),
        (3, {"max_epochs": 2, "val_check_interval": 1}, [0, 1]),
    ],
)
def test_which_epochs_are_drawn(every, options, epochs, stand_in, make_trainer):
    recorder = Recorder(every)
    fit(recorder, stand_in, make_trainer, **options)
    assert [stage for stage, _, _ in recorder.drawn] == [f"epoch_{n + 1:03d}" for n in epochs]
    assert all(count == 6 for _, count, _ in recorder.drawn)


def test_the_first_validation_of_a_continued_run_is_drawn(stand_in, make_trainer):
    recorder = Recorder(10)
    trainer = fit(recorder, stand_in, make_trainer)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(trainer.lightning_module, stand_in.images(), stand_in.images())
    assert [stage for stage, _, _ in recorder.drawn] == ["epoch_001", "epoch_002", "epoch_004"]


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match="every_n_epochs must be at least 1, got 0"):
        Recorder(0)
