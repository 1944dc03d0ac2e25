"""Stand-ins for data and modules."""

from tests.support.stand_ins import make_trainer, stand_in  # noqa: F401
