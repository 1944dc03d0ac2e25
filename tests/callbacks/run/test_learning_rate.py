from pytorch_lightning.callbacks import LearningRateMonitor

from callbacks.run.learning_rate import LearningRate


def test_it_logs_steps_where_lightning_would_ask_the_schedule():
    assert LearningRate().logging_interval == "step"
    assert LearningRateMonitor().logging_interval is None


def test_its_arguments_are_those_of_lightning():
    given = LearningRate(logging_interval="epoch", log_momentum=True, log_weight_decay=True)
    assert (given.logging_interval, given.log_momentum, given.log_weight_decay) == (
        "epoch",
        True,
        True,
    )
