"""EoMT: a plain vision transformer that segments by a few query tokens.

Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, arXiv 2503.19108.
The first blocks of the transformer see prefix and patch tokens alone; before the last L blocks, Q
learnt queries join them. Before each of these blocks and after the last,

    x = norm(tokens)
    class logits of a query     Linear(x_q)                         K + 1, the last is no object
    mask logits of a query      MLP(x_q) . upscaled(x_patches)      at stride 4

so that there are L + 1 supervised outputs. In training a query attends within its mask, to patches
where its mask logit is positive, and always to queries and prefix tokens. The share of such queries
falls from 1 to 0 in each block (`models/seg/eomt/annealing.py`), so that in the end the network is
a plain transformer whose only prediction is the last.

Letters: B images, C channels, H x W pixels, Q queries, K classes, L blocks with queries, P prefix
tokens, N all tokens, D width, h x w patches. Assumptions A570 and A571.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formats.weights.public import PublicWeights
from models.backbones.in_channels import channel_constants, set_in_channels
from models.backbones.timm_vit import TimmViT, check_architecture
from models.seg.checks import check_counts, check_deviations
from models.seg.eomt.annealing import (
    PARTS,
    Window,
    as_parts,
    check_windows,
    masked_queries,
    share,
    staggered,
)
from models.seg.eomt.names import published_names
from models.seg.eomt.upscale import Upscale
from models.seg.protocol import Reduction
from models.seg.queries.instances import query_instances
from models.seg.queries.mask_classification import (
    MaskLossOptions,
    mask_classification_losses,
)
from models.seg.queries.output import QueryOutput
from models.seg.queries.padding import SIZE_DIVISIBLE, check_images, normalise, prepare, valid_cells
from structures import Instances, SegBatch

_LOSS: Final = MaskLossOptions()
_STRIDE: Final = 4  # of the mask logits
_IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class _Frame(NamedTuple):
    """Size of a batch and its padding.

    Attributes:
        grid: (h, w) patches.
        keys: (B, 1, 1, P + h w) bool, tokens that are no padding; None without padding.
        levels: (B, h_k, w_k) bool of each enlargement; None without padding.
    """

    grid: tuple[int, int]
    keys: Tensor | None
    levels: list[Tensor | None]


class EoMT(nn.Module):
    """Plain vision transformer as a segmentation model.

    Args:
        num_classes: K, foreground classes.
        vit: transformer with a patch of 8, 16 or 32 pixels and a square whose side is a multiple
            of 32, such as ``TimmViT``.
        num_queries: Q, the largest number of objects in an image.
        num_blocks: L, number of last blocks with queries.
        annealing: a window (start, end) for each of these blocks, as shares of the training; None
            for those of ``staggered``, which are the published ones. A training of another module
            than `SegmentationModule` calls ``set_progress``.
        loss: costs of the matching and options of the losses.
        max_dets: detections kept per image.
        image_mean: channel means, subtracted from RGB in [0, 1].
        image_std: channel standard deviations, which divide the result.
        in_channels: channels of the images, set from the data: 3, or 4 for R, Gr, B, Gb, whose
            greens have mean and deviation of G.

    Raises:
        ValueError: a number is out of range, or the transformer's patch or square does not suit.
    """

    no_weight_decay = ("query.weight", "*.pos_embed", "*.cls_token", "*.reg_token")
    mask_parts: Tensor
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        num_classes: int,
        vit: TimmViT,
        *,
        num_queries: int = 200,
        num_blocks: int = 4,
        annealing: Sequence[Window] | None = None,
        loss: MaskLossOptions = _LOSS,
        max_dets: int = 100,
        image_mean: tuple[float, float, float] = _IMAGENET[0],
        image_std: tuple[float, float, float] = _IMAGENET[1],
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, num_queries=num_queries, max_dets=max_dets)
        check_deviations(image_std)
        if not 1 <= num_blocks <= len(vit.blocks):
            raise ValueError(
                f"num_blocks must be in 1..{len(vit.blocks)}, the blocks of {vit.name}, "
                f"got {num_blocks}"
            )
        _check_square(vit)
        set_in_channels(vit, in_channels)
        self.num_classes, self.max_dets, self.in_channels = num_classes, max_dets, in_channels
        self.num_queries, self.num_blocks, self.loss = num_queries, num_blocks, loss
        self._class_weights: Tensor | None = None
        windows = staggered(num_blocks) if annealing is None else annealing
        self.windows = check_windows(windows, num_blocks)
        self.backbone = vit
        width = vit.width
        self.query = nn.Embedding(num_queries, width)
        self.class_head = nn.Linear(width, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width),
        )
        enlargements = int(math.log2(vit.patch_size // _STRIDE))
        self.upscale = nn.ModuleList([Upscale(width) for _ in range(enlargements)])
        self.register_buffer("mask_parts", torch.full((num_blocks,), PARTS))
        self.register_buffer("_mean", channel_constants(image_mean, in_channels), persistent=False)
        self.register_buffer("_std", channel_constants(image_std, in_channels), persistent=False)

    def set_progress(self, progress: float) -> None:
        """Set the shares of masked queries for a part of the training that is done, in [0, 1]."""
        shares = [share(progress, window) for window in self.windows]
        self.mask_parts.copy_(as_parts(torch.tensor(shares)))

    def forward(
        self,
        images: Tensor,
        sizes: Tensor | None = None,
        *,
        key: int = 0,
        index: Tensor | None = None,
    ) -> QueryOutput:
        """Return all L + 1 supervised outputs.

        Args:
            images: (B, in_channels, H, W) float in [0, 1], H and W multiples of 32 and at most the
                side of the transformer's square.
            sizes: (B, 2) valid (height, width); None if all pixels are valid.
            key: with ``index``, seed of the choice of queries that attend within their masks.
            index: (B,) int64, numbers of the images in their data set; None for 0 to B - 1.

        Raises:
            ValueError: the shape is wrong.
        """
        check_images(images, self.in_channels)
        numbers = torch.arange(len(images), device=images.device) if index is None else index
        pixels = normalise(images, sizes, self._mean, self._std)
        return self._run(pixels, sizes, key, numbers, supervised=True)

    def losses(
        self, batch: SegBatch, reduction: Reduction = "mean", key: int = 0
    ) -> dict[str, Tensor]:
        """Return the terms ``class``, ``mask`` and ``dice``, sums over the outputs.

        Args:
            batch: images with targets, not larger than the square; crowds are no targets.
            reduction: ``mean`` gives scalars, with denominators counted over all processes;
                ``none`` gives (B,) values.
            key: seed of random points and of the choice of masked queries, together with each
                image's index.

        Raises:
            ValueError: an image is larger than the square, or a box or label is not valid.
        """
        images, sizes = prepare(batch, self._mean, self._std)
        output = self._run(images, sizes, key, batch.index, supervised=True)
        size = (images.shape[-2], images.shape[-1])
        return mask_classification_losses(
            output, batch, size, self.loss, reduction, key, self._class_weights
        )

    def set_class_weights(self, weights: Tensor) -> None:
        """Weight queries with an object by its class in ``class`` (A334).

        Args:
            weights: (C,) positive.
        """
        self._class_weights = weights

    def public_weights(self, given: Mapping[str, Tensor]) -> PublicWeights | None:
        """Recognise EoMT files of the authors and of `transformers`; positions are resampled.

        Another number of classes leaves the class head at its initial values.

        Raises:
            ValueError: the file is of another architecture.
        """
        known = published_names(given)
        if known is None:
            return None
        kind, tensors = known
        start = "backbone.body."
        body = {n.removeprefix(start): v for n, v in tensors.items() if n.startswith(start)}
        found = {n: v for n, v in tensors.items() if not n.startswith(start)}
        found |= {start + name: value for name, value in self.backbone.resampled(body).items()}
        if "attn_mask_probs" in found:
            found["mask_parts"] = as_parts(found.pop("attn_mask_probs"))
        check_architecture(found, self.state_dict(), kind, free=("class_head.",))
        return PublicWeights(kind, found)

    @torch.no_grad()
    def predict(self, batch: SegBatch) -> list[Instances]:
        """Return up to ``max_dets`` detections of each image in its original frame."""
        return self.instances(self.network_outputs(batch), batch)

    @torch.no_grad()
    def network_outputs(self, batch: SegBatch) -> QueryOutput:
        """Return the last output for images of any size up to the square.

        Raises:
            ValueError: an image is larger than the square.
        """
        images, sizes = prepare(batch, self._mean, self._std)
        output = self._run(images, sizes, 0, batch.index, supervised=False)
        return QueryOutput(output.class_logits[-1:], output.mask_logits[-1:])

    @torch.no_grad()
    def instances(self, outputs: QueryOutput, batch: SegBatch) -> list[Instances]:
        """Choose pairs of query and class and encode their masks.

        Args:
            outputs: output of ``network_outputs`` for the same images.
            batch: batch whose ``sizes`` and ``original_sizes`` are read.
        """
        scores = outputs.class_logits[-1].float().softmax(dim=-1)[..., :-1]
        return query_instances(scores, outputs.mask_logits[-1], batch, max_dets=self.max_dets)

    def _run(
        self, images: Tensor, sizes: Tensor | None, key: int, index: Tensor, *, supervised: bool
    ) -> QueryOutput:
        """Return every output, or those that attention needs and the last."""
        frame = self._frame(images, sizes)
        tokens = self.backbone.tokens(images)
        blocks = list(self.backbone.blocks)
        for block in blocks[: -self.num_blocks]:
            tokens = block(tokens, attn_mask=frame.keys)
        queries = self.query.weight.expand(len(images), -1, -1)
        tokens = torch.cat([queries, tokens], dim=1)
        keys = frame.keys
        if keys is not None:
            keys = F.pad(keys, (self.num_queries, 0), value=True)
        output = QueryOutput([], [])
        parts = self.mask_parts.tolist()
        for number, block in enumerate(blocks[-self.num_blocks :]):
            visible = keys
            if supervised or parts[number]:
                self._predict(tokens, frame, output)
            if parts[number]:
                masked = masked_queries(parts[number], self.num_queries, key, index, number)
                visible = self._within_masks(output.mask_logits[-1], masked, frame, keys)
            tokens = block(tokens, attn_mask=visible)
        self._predict(tokens, frame, output)
        return output

    def _frame(self, images: Tensor, sizes: Tensor | None) -> _Frame:
        """Return the grid of the batch and what is padding; asks the device once."""
        size = (images.shape[-2], images.shape[-1])
        patch = self.backbone.patch_size
        grid = (size[0] // patch, size[1] // patch)
        if sizes is None or bool((sizes == sizes.new_tensor(size)).all()):
            return _Frame(grid, None, [None] * len(self.upscale))
        cells = valid_cells(sizes, size, grid).flatten(1)
        keys = F.pad(cells, (self.backbone.num_prefix, 0), value=True)[:, None, None]
        factors = [2 ** (k + 1) for k in range(len(self.upscale))]
        levels = [valid_cells(sizes, size, (grid[0] * f, grid[1] * f)) for f in factors]
        return _Frame(grid, keys, [*levels])

    def _predict(self, tokens: Tensor, frame: _Frame, output: QueryOutput) -> None:
        """Append the predictions from (B, N, D) tokens to the output."""
        tokens = self.backbone.norm(tokens)
        queries = tokens[:, : self.num_queries]
        cells = tokens[:, self.num_queries + self.backbone.num_prefix :]
        cells = cells.transpose(1, 2).reshape(len(cells), -1, *frame.grid)
        for enlarge, valid in zip(self.upscale, frame.levels, strict=True):
            cells = enlarge(cells, valid)
        output.class_logits.append(self.class_head(queries))
        masks = torch.einsum("bqd,bdhw->bqhw", self.mask_head(queries), cells)
        output.mask_logits.append(masks)

    def _within_masks(
        self, mask_logits: Tensor, masked: Tensor, frame: _Frame, keys: Tensor | None
    ) -> Tensor:
        """Return which tokens each token attends to, (B, 1, N, N) bool.

        Args:
            mask_logits: (B, Q, H / 4, W / 4).
            masked: (B, Q) bool, queries that attend within their masks.
            frame: grid of the batch.
            keys: (B, 1, 1, N) bool, tokens that are no padding, or None.
        """
        logits = mask_logits.detach().float()
        inside = F.interpolate(logits, frame.grid, mode="bilinear").flatten(2) > 0  # (B, Q, h w)
        before = self.num_queries + self.backbone.num_prefix
        total = before + inside.shape[-1]
        visible = inside.new_ones(len(inside), 1, total, total)
        visible[:, 0, : self.num_queries, before:] = inside | ~masked[..., None]
        return visible if keys is None else visible & keys


def _check_square(vit: TimmViT) -> None:
    """Check that masks of a transformer have stride 4 and images that fit its square.

    Raises:
        ValueError: the patch is not 8, 16 or 32 pixels, or the square no multiple of 32.
    """
    if vit.patch_size not in (8, 16, 32):
        raise ValueError(
            f"the patch of {vit.name} must be 8, 16 or 32 pixels, got {vit.patch_size}; set "
            "patch_size of the transformer, weights of another patch are resampled"
        )
    if vit.image_size % SIZE_DIVISIBLE:
        raise ValueError(
            f"image_size of {vit.name} must be a multiple of {SIZE_DIVISIBLE}, got {vit.image_size}"
        )
