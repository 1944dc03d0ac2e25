"""Convolution with a learned low-pass branch beside it that can be folded away after training.

Smooth-oriented convolutional block (SCB) of Chen et al., "Instance Segmentation in the Dark", IJCV
131 (2023). For a convolution W with input channels i and output channels o:

    y = W * h + P (D * h)        D_i = softmax over its 9 values, P a 1x1 convolution
      = W' * h                   W'[o, i] = W[o, i] + P[o, i] D[i]      (D at the centre of W)

D has non-negative values with a sum of 1 in every input channel, so it is a low-pass filter. The
authors' script indexes D by the output channel, which changes the output (A481). A depthwise
convolution has a P that mixes channels (ConvNeXt); it cannot be folded.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KernelInit = Literal["binomial", "repo"]
_SIDE = 3


class SmoothConv(nn.Conv2d):
    """A convolution plus a low-pass filter and a 1x1 convolution; see the module docstring.

    Weight and bias are those of the convolution, under the same names, so that weight files of
    networks without the branch fit. Where the branch can be folded, ``forward`` convolves once, by
    the folded kernel, which costs no more than the convolution alone.

    Args:
        conv: convolution with an odd kernel of at least 3 x 3, zero padding and an output as large
            as its input / stride; its parameters are taken over.
        init: initial D: ``binomial`` for (1 2 1) (1 2 1) / 16; ``repo`` takes the softmax of these
            values as the authors do, which is nearly a box.

    Raises:
        ValueError: the convolution is of another kind, or ``init`` is unknown.
    """

    new_weights: ClassVar[tuple[str, ...]] = ("kernel", "mix.weight")  # no public file has them

    def __init__(self, conv: nn.Conv2d, init: KernelInit = "binomial") -> None:
        _check(conv)
        depthwise = conv.groups == conv.in_channels > 1
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            (conv.stride[0], conv.stride[1]),
            (int(conv.padding[0]), int(conv.padding[1])),
            (conv.dilation[0], conv.dilation[1]),
            conv.groups,
            bias=False,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.folds = not depthwise
        self.kernel = nn.Parameter(_initial_logits(init).repeat(conv.in_channels, 1, 1, 1))
        self.mix = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            1,
            groups=conv.groups if self.folds else 1,  # A482
            bias=False,
        )
        self.train(conv.training)
        self.to(conv.weight.device)

    def low_pass(self) -> Tensor:
        """Return D, (in_channels, 1, 3, 3)."""
        return self.kernel.flatten(1).softmax(dim=1).view_as(self.kernel)

    def folded_weight(self) -> Tensor:
        """Return W' in the shape of ``weight``.

        Raises:
            ValueError: the convolution is depthwise.
        """
        if not self.folds:
            raise ValueError("the branch of a depthwise convolution mixes channels: no fold")
        outputs, inputs = self.weight.shape[:2]  # inputs of one group
        groups = self.groups
        kernels = self.low_pass().view(groups, 1, inputs, _SIDE, _SIDE)
        mix = self.mix.weight.view(groups, outputs // groups, inputs, 1, 1)
        branch = (mix * kernels).view(outputs, inputs, _SIDE, _SIDE)
        rows, columns = ((side - _SIDE) // 2 for side in self.kernel_size)
        return self.weight + F.pad(branch, (columns, columns, rows, rows))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to the shape that the convolution gives."""
        if self.folds:
            folded: Tensor = self._conv_forward(features, self.folded_weight(), self.bias)
            return folded
        smooth = F.conv2d(
            features,
            self.low_pass(),
            stride=self.stride,
            padding=self.dilation,
            dilation=self.dilation,
            groups=self.in_channels,
        )
        mixed: Tensor = self.mix(smooth)
        return super().forward(features) + mixed

    def folded(self) -> nn.Conv2d:
        """Return a plain convolution with W' and the bias."""
        plain = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            (self.kernel_size[0], self.kernel_size[1]),
            (self.stride[0], self.stride[1]),
            (int(self.padding[0]), int(self.padding[1])),
            (self.dilation[0], self.dilation[1]),
            self.groups,
            bias=False,
            device="meta",
        )
        with torch.no_grad():
            plain.weight = nn.Parameter(self.folded_weight(), self.weight.requires_grad)
        plain.bias = self.bias
        return plain.train(self.training)


def fold_smooth_convs(module: nn.Module) -> int:
    """Replace every `SmoothConv` below a module that can be folded by a plain convolution.

    The outputs stay the same up to rounding; the tensors have the names and shapes of the network
    without branches. Branches beside depthwise convolutions stay.

    Args:
        module: a network, changed in place.

    Returns:
        Number of folded convolutions.
    """
    count = 0
    for name, child in module.named_children():
        if isinstance(child, SmoothConv):
            if child.folds:
                setattr(module, name, child.folded())
                count += 1
        else:
            count += fold_smooth_convs(child)
    return count


def _initial_logits(init: KernelInit) -> Tensor:
    row = torch.tensor([1.0, 2.0, 1.0])
    binomial = (row[:, None] * row / 16)[None, None]  # (1, 1, 3, 3)
    if init == "binomial":
        return binomial.log()
    if init == "repo":
        return binomial
    raise ValueError(f"init must be binomial or repo, got {init!r}")


def _check(conv: nn.Conv2d) -> None:
    sides = conv.kernel_size
    padding = tuple(d * (side - 1) // 2 for d, side in zip(conv.dilation, sides, strict=True))
    odd = all(side >= _SIDE and side % 2 for side in sides)
    if type(conv) is not nn.Conv2d or not odd or conv.padding != padding:
        raise ValueError(
            "SmoothConv needs an nn.Conv2d with an odd kernel of at least 3 x 3 and a padding of "
            f"half of it, got {conv}"
        )
    if conv.padding_mode != "zeros":
        raise ValueError(f"SmoothConv needs zero padding, got {conv.padding_mode!r}")
