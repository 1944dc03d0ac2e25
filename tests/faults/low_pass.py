"""Wrong options of low-pass layers, pairs of views and learning rates by pattern."""

from collections.abc import Callable
from pathlib import Path

from tests.faults import sets
from tests.faults.case import Case

_MODEL = "--model.init_args.model.init_args.backbone"
_LOW = ["train", "fit", "--config", "configs/quickstart/low_light.yaml"]


def words(*more: object, start: list[str] = _LOW) -> Callable[[Path], list[object]]:
    """Return a builder of a training in the dark with the words."""

    def build(folder: Path) -> list[object]:
        del folder
        return [*start, *sets.ONE_STEP, *more]

    return build


def backbone(name: str, options: str) -> Callable[[Path], list[object]]:
    """Return a builder with another backbone and options of its low-pass layers."""
    keys = (f"{_MODEL}.init_args.name", name, f"{_MODEL}.init_args.low_pass", options)
    return words(*keys)


def case(name: str, build: Callable[[Path], list[object]], *expected: str) -> Case:
    return Case("low-pass layers", name, build, expected, long=True)


CASES = [
    case("no pairs", words("--data.low_light.clean", "false"), "low_light.clean: true"),
    case("no darkness", words("--data.low_light", "null"), "low_light.clean: true"),
    case("another network", backbone("mambaout_femto", "{}"), "ConvNeXt", "mambaout_femto"),
    case("strides of ConvNeXt", backbone("convnext_atto", "{placement: stride}"), "use blur"),
    case("an unknown placement", backbone("resnet10t", "{placement: before}"), "placement", "blur"),
    case("neither layer", backbone("resnet10t", "{awd: false, scb: false}"), "awd or scb"),
    case("a pattern of nothing", words("--model.init_args.lr_mult", "{backbon.*: 2.0}"),
         "lr_mult", "backbon.*", "did you mean backbone.*"),
    case("a factor of zero", words("--model.init_args.lr_mult", "{backbone.*: 0.0}"),
         "lr_mult", "must be positive"),
    case("channels by hand", words("--model.init_args.model.init_args.in_channels", "4"),
         "set from the data", "leave it out"),
]  # fmt: skip
