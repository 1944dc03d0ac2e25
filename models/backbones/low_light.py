"""Low-pass layers in the backbones of networks for dark images (IJCV 131, 2023).

`AdaptiveDownsample` (AWD) before the stages of strides 8, 16 and 32, `SmoothConv` (SCB) beside the
3 x 3 convolutions of residual blocks and the depthwise ones of ConvNeXt. The tensors of the
network keep their names, so that weights of the network without these layers fit (A483).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn

from models.backbones.norm import Norm, convert_norm
from models.ops.low_light.adaptive_downsampling import AdaptiveDownsample, ChannelAffine
from models.ops.low_light.smooth_convolution import KernelInit, SmoothConv

Placement = Literal["blur", "stride"]
_BLOCKS = {"BasicBlock", "Bottleneck", "ConvNeXtBlock"}  # of torchvision and timm, by name
_STAGES = (("layer1", "layer2", "layer3", "layer4"), tuple(f"stages_{k}" for k in range(4)))


@dataclass(frozen=True)
class LowPassOptions:
    """Which low-pass layers a backbone gets.

    Attributes:
        awd: `AdaptiveDownsample` before each stage that lowers the resolution, except the first.
        scb: `SmoothConv` in place of the convolutions of stages that are trained.
        placement: ``blur`` filters at full resolution and keeps the stride of the stage; ``stride``
            moves the stride from the stage into the filter, which ConvNeXt cannot do (A484).
        init: initial kernels of SCB, see `SmoothConv`.

    Raises:
        ValueError: an option is unknown, or both layers are off.
    """

    awd: bool = True
    scb: bool = True
    placement: Placement = "blur"
    init: KernelInit = "binomial"

    def __post_init__(self) -> None:
        for name, kind in (("placement", Placement), ("init", KernelInit)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"low_pass.{name} must be {' or '.join(get_args(kind))}, "
                    f"got {getattr(self, name)!r}"
                )
        if not (self.awd or self.scb):
            raise ValueError("low_pass needs awd or scb; leave it out for neither")

    @property
    def stride(self) -> int:
        """Stride of the filters before a stage."""
        return 2 if self.placement == "stride" else 1


def add_low_pass(body: Any, name: str, options: LowPassOptions | None, norm: Norm) -> None:
    """Add low-pass layers to a ResNet or ConvNeXt, in place.

    Args:
        body: its modules in the order of execution, as timm's and torchvision's feature extractors
            hold them; weights are loaded, frozen stages frozen, norms converted.
        name: of the network, for messages.
        options: which layers; None for none.
        norm: normalisation of the backbone, see `adaptive_filter`.

    Raises:
        ValueError: the network is of another family, its stages cannot give up their stride, or
            no convolution can get a branch.
    """
    if options is None:
        return
    stages = _stages(body)
    if not stages:
        raise ValueError(
            "low_pass needs a ConvNeXt, or a ResNet of plain blocks (BasicBlock, Bottleneck); "
            f"{name} is neither"
        )
    if options.scb and not sum(_add_branches(body[s], options.init) for s in stages):
        raise ValueError(
            f"low_pass.scb: {name} has no trained stage with a 3 x 3 convolution that can get a "
            "branch; set scb: false or train more stages"
        )
    if options.awd:
        for before, stage in itertools.pairwise(stages):
            if options.placement == "stride":
                _remove_stride(body[stage], name)
            width = _out_channels(body[before])
            insert_before(body, stage, f"awd_{stage}", adaptive_filter(width, options, norm))


def adaptive_filter(channels: int, options: LowPassOptions, norm: Norm) -> AdaptiveDownsample:
    """Return the filter before a stage.

    Args:
        channels: of the map before the stage.
        options: placement of the filter.
        norm: normalisation of its logits. Where the backbone's norms are frozen, it is a learned
            scale and shift, since batch norms that start at mean 0 and variance 1 stay so (A485).
    """
    made = AdaptiveDownsample(channels, options.stride)
    if norm == "frozen_bn":
        made.norm = ChannelAffine(made.logits.out_channels)
    else:
        convert_norm(made, norm)
    return made


def insert_before(body: nn.ModuleDict, place: str, name: str, module: nn.Module) -> None:
    """Insert a module before another in a container that runs its modules in order."""
    later = list(body)[list(body).index(place) :]
    rest = {key: body.pop(key) for key in later}
    body[name] = module
    body.update(rest)


def _stages(body: nn.Module) -> list[str]:
    """Return the names of the stages of a ResNet or ConvNeXt, an empty list for others."""
    children = dict(body.named_children()) if isinstance(body, nn.ModuleDict) else {}
    stages = [stage for names in _STAGES for stage in names if stage in children]
    kinds = {type(block).__name__ for stage in stages for block in _blocks(children[stage])}
    return stages if kinds <= _BLOCKS else []


def _blocks(stage: nn.Module) -> Iterator[nn.Module]:
    yield from getattr(stage, "blocks", stage).children()


def _out_channels(stage: nn.Module) -> int:
    """Return the channels of a stage's output: those of the last block's last convolution."""
    last: Any = list(_blocks(stage))[-1]
    convs = [getattr(last, n) for n in ("conv3", "conv2", "conv_dw") if hasattr(last, n)]
    return int(convs[0].out_channels)


def _add_branches(stage: nn.Module, init: KernelInit) -> int:
    """Replace the convolutions of a trained stage and return their number."""
    count = 0
    for block in _blocks(stage):
        for name in ("conv1", "conv2", "conv_dw"):
            conv = getattr(block, name, None)
            if type(conv) is not nn.Conv2d or conv.kernel_size == (1, 1):
                continue
            if conv.weight.requires_grad:
                setattr(block, name, SmoothConv(conv, init))
                count += 1
    return count


def _remove_stride(stage: nn.Module, name: str) -> None:
    """Set the strides of a ResNet's stage to 1."""
    first: Any = next(_blocks(stage))
    if type(first).__name__ == "ConvNeXtBlock":
        raise ValueError(
            f"low_pass.placement: the 2 x 2 convolutions between the stages of {name} do not "
            "overlap and need their stride; use blur"
        )
    for path, module in list(first.named_modules())[1:]:
        stride = getattr(module, "stride", 1)
        if set(stride if isinstance(stride, tuple) else (stride,)) == {1}:
            continue
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        elif type(module) is nn.AvgPool2d:
            first.set_submodule(path, nn.Identity())
        else:
            raise ValueError(
                f"low_pass.placement: stride is not possible for {name}, which downsamples by "
                f"{type(module).__name__}; use blur"
            )
