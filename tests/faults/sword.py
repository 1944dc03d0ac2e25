"""Wrong options of SWORD."""

from tests.faults.case import Case
from tests.faults.query_models import words

_MODEL = "--model.init_args.model.init_args"


def case(name: str, options: dict[str, object], *expected: str) -> Case:
    flags = [word for key, value in options.items() for word in (f"{_MODEL}.{key}", value)]
    build = words("sword", *flags)
    return Case("SWORD", name, build, expected, long=True)


CASES = [
    case("a negative temperature", {"temperature": -0.1}, "temperature must be positive", "-0.1"),
    case("an empty queue", {"queue_size": 0}, "queue_size must be at least 1", "0"),
    case("unknown negatives", {"negatives": "inside"}, "negatives", "ring", "outside"),
    case("a score of heads that are off", {"iou_heads": "false", "score": "product"},
         "product", "iou_heads: true"),
]  # fmt: skip
