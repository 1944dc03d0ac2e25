"""Deformable DETR (Zhu et al. 2021, arXiv 2010.04159) with a mask head of dynamic convolutions.

Queries are decoded against an encoded feature pyramid; both attend to a few learned locations
only (eq. 3). With iterative refinement (sec. 4.3) each decoder layer l moves the box of the one
before:

    b_l = sigmoid(delta_l + logit(stopgrad(b_{l-1}))),  b_0 the reference point of the query

A query's score for a class is sigmoid(class logit) of the last layer. Masks are those of
models/seg/deformable_detr/mask_head.py. With the same weights the class logits and boxes equal
those of transformers' DeformableDetrForObjectDetection. Assumptions A560,
A565 and A567.

Letters: B images, Q queries, C width, K classes, H x W pixels of the padded images.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formats.weights.public import PublicWeights
from models.backbones.in_channels import channel_constants, set_in_channels
from models.backbones.levels import check_levels, level_channels
from models.losses.box import to_corners
from models.ops.masks.dynamic import to_cell_centres
from models.ops.precision import at_least_float32
from models.seg.deformable_detr.checks import (
    STRIDES,
    Assignment,
    check_arguments,
    check_choices,
)
from models.seg.deformable_detr.criterion import MatchCosts, MoreTerms, detr_losses
from models.seg.deformable_detr.layers import MLP, DecoderLayer, EncoderLayer, inverse_sigmoid
from models.seg.deformable_detr.mask_head import MASK_STRIDE, MaskHead
from models.seg.deformable_detr.names import transformers_weights
from models.seg.deformable_detr.one_to_many import best_of_overlapping, one_to_many
from models.seg.deformable_detr.output import Decoded, DETROutput
from models.seg.deformable_detr.pyramid import Cells, Pyramid, cell_centres, level_maps
from models.seg.deformable_detr.two_stage import ProposalHead, Proposals, Queries
from models.seg.protocol import Reduction
from models.seg.queries.instances import query_instances
from models.seg.queries.output import QueryOutput
from models.seg.queries.padding import check_images, normalise, padded_size, prepare
from structures import Instances, SegBatch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_POINTS = 4
_PRIOR_LOGIT = -4.59511985013459  # -log((1 - 0.01) / 0.01): every class begins at 0.01


class DeformableDETR(nn.Module):
    """Deformable DETR with masks, a ``TimedSegModel``.

    The network ends in ``decode``; what heads add is read from ``Decoded``, so that a model which
    adds heads needs no change here.

    Args:
        num_classes: foreground classes, K.
        backbone: network from (B, C, H, W) to three levels at strides 8, 16 and 32 with their
            widths in ``feature_channels``, such as ``TimmFeatures``.
        num_queries: Q.
        width: channels of encoder and decoder, divisible by 32 and by ``num_heads``.
        num_heads: attention heads.
        encoder_layers: layers of the encoder.
        decoder_layers: layers of the decoder, each with losses.
        ffn: hidden channels of the feed-forward layers.
        dropout: rate in encoder and decoder.
        box_refine: refine boxes from layer to layer, each with a box head of its own; without, the
            reference points stay and one box head serves all layers.
        two_stage: take the queries from the encoder's best proposals; needs ``box_refine``.
        assignment: how queries are matched with objects: ``hungarian``, one query for an object,
            or ``sim_ota``, several (one_to_many.py). What these find of one object is suppressed in
            predictions. The proposals of ``two_stage`` are always matched by ``hungarian``.
        class_cost: weight of the focal class cost in ``hungarian``.
        box_cost: weight of the L1 cost in ``hungarian``.
        giou_cost: weight of the GIoU cost in ``hungarian``.
        max_dets: predictions kept per image.
        image_mean: channel means, subtracted from RGB in [0, 1].
        image_std: channel standard deviations, which divide the result.
        in_channels: channels of the images, set from the data: 3, or 4 for R, Gr, B, Gb.

    Raises:
        ValueError: a number is out of its range or does not divide ``width``, the backbone does not
            declare three levels, or ``assignment`` is unknown.
    """

    # parameters without weight decay, by patterns of their names
    no_weight_decay: tuple[str, ...] = ("query_embed.weight", "pyramid.level_embed")

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Module,
        *,
        num_queries: int = 300,
        width: int = 256,
        num_heads: int = 8,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        ffn: int = 1024,
        dropout: float = 0.1,
        box_refine: bool = True,
        two_stage: bool = False,
        assignment: Assignment = "hungarian",
        class_cost: float = 2.0,
        box_cost: float = 5.0,
        giou_cost: float = 2.0,
        max_dets: int = 100,
        image_mean: tuple[float, float, float] = IMAGENET_MEAN,
        image_std: tuple[float, float, float] = IMAGENET_STD,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        counts = {
            "num_classes": num_classes,
            "num_queries": num_queries,
            "encoder_layers": encoder_layers,
            "decoder_layers": decoder_layers,
            "ffn": ffn,
            "max_dets": max_dets,
        }
        check_arguments(counts, width, num_heads, dropout, image_std)
        check_choices(box_refine, two_stage, assignment)
        self.num_classes, self.num_queries, self.max_dets = num_classes, num_queries, max_dets
        self.box_refine, self.assignment = box_refine, assignment
        self.costs = MatchCosts(class_cost, box_cost, giou_cost)
        channels = level_channels(backbone, STRIDES)
        set_in_channels(backbone, in_channels)
        self.backbone, self.in_channels = backbone, in_channels
        self.pyramid = Pyramid(channels, width)
        sizes = (width, num_heads, len(STRIDES) + 1, _POINTS, ffn, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(decoder_layers))
        self._xavier()
        stages = decoder_layers + int(two_stage)  # the proposals of the encoder have heads, too
        self.class_heads = nn.ModuleList(nn.Linear(width, num_classes) for _ in range(stages))
        self.box_heads = nn.ModuleList(MLP(width, 4) for _ in range(stages if box_refine else 1))
        self.mask_head = MaskHead(width)
        self.proposal_head = ProposalHead(width) if two_stage else None
        if not two_stage:
            self.query_embed = nn.Embedding(num_queries, 2 * width)  # position, content
            self.reference_points = nn.Linear(width, 2)
        self._reset_heads(two_stage)
        self.register_buffer("_mean", channel_constants(image_mean, in_channels), persistent=False)
        self.register_buffer("_std", channel_constants(image_std, in_channels), persistent=False)
        self._mean: Tensor
        self._std: Tensor

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> DETROutput:
        """Return classes and boxes of every decoder layer, and the masks of the last.

        Args:
            images: (B, in_channels, H, W) float in [0, 1]; H and W are multiples of 32.
            sizes: (B, 2) int64, valid (height, width); None if all pixels are.

        Raises:
            ValueError: the shape is wrong, or the backbone's levels have other strides.
        """
        check_images(images, self.in_channels)
        images = normalise(images, sizes, self._mean, self._std)
        if sizes is None:
            sizes = images.new_tensor(images.shape[-2:], dtype=torch.int64).expand(len(images), -1)
        decoded = self.decode(images, sizes)
        shown = _shown(sizes, images)
        masks = self.masks(decoded.queries[-1], decoded.references[-1], decoded, sizes)
        boxes = [own * shown for own in decoded.boxes]
        return DETROutput(self.classify(decoded.queries), [masks], boxes, decoded)

    def decode(self, images: Tensor, sizes: Tensor) -> Decoded:
        """Run backbone, encoder and decoder.

        Args:
            images: (B, C, H, W), normalised and padded.
            sizes: (B, 2) int64, valid (height, width).
        """
        levels = self.backbone(images)
        check_levels(levels, (images.shape[-2], images.shape[-1]), STRIDES, self.backbone)
        cells = self.pyramid(levels, sizes, (images.shape[-2], images.shape[-1]))
        memory, centres = cells.values, cell_centres(cells)
        for layer in self.encoder:
            memory = layer(memory, cells.positions, centres, cells.shapes, cells.valid)
        proposals, queries = self._first_queries(memory, cells)
        contents, references, boxes = self._decode_queries(memory, cells, queries)
        seen = level_maps(memory.masked_fill(~cells.valid[..., None], 0), cells.shapes)
        features = self.mask_head.features(seen[: len(STRIDES)])
        return Decoded(contents, references, boxes, features, proposals)

    def classify(self, queries: list[Tensor]) -> list[Tensor]:
        """Return the class logits (B, Q, K) of the queries of each decoder layer."""
        return [head(own) for head, own in zip(self.class_heads, queries, strict=False)]

    def score_logits(self, queries: Tensor) -> Tensor:
        """Return (B, Q, K), the logits of the scores of the last layer's queries (B, Q, C)."""
        logits: Tensor = self.class_heads[len(self.decoder) - 1](queries)
        return logits

    def masks(self, queries: Tensor, points: Tensor, decoded: Decoded, sizes: Tensor) -> Tensor:
        """Return mask logits (B, N, H / 4, W / 4) of any queries.

        Args:
            queries: (B, N, C).
            points: (B, N, 2), their references as fractions of the valid area.
            decoded: of the same images.
            sizes: (B, 2), valid (height, width).
        """
        pixels = points * sizes.flip(1).unsqueeze(1)
        logits: Tensor = self.mask_head(decoded.mask_features, queries, pixels)
        return logits

    def losses(
        self, batch: SegBatch, reduction: Reduction = "mean", key: int = 0
    ) -> dict[str, Tensor]:
        """Return the terms ``class``, ``box``, ``giou``, ``mask``, ``dice``, sums over the layers.

        Args:
            batch: images of any size with targets; crowd instances are no targets.
            reduction: ``mean`` gives scalars with the number of objects, or of queries with one,
                over all processes as denominator; ``none`` gives (B,) values.
            key: unused, since nothing is sampled.

        Raises:
            ValueError: a box is empty or not finite, a label is not in [0, num_classes), or
                ``mask_stride`` does not divide 4.
        """
        return self.matched_losses(batch, reduction)

    def matched_losses(
        self, batch: SegBatch, reduction: Reduction = "mean", more: MoreTerms | None = None
    ) -> dict[str, Tensor]:
        """Return the terms of ``losses`` and those that ``more`` makes of the matched queries."""
        images, sizes = prepare(batch, self._mean, self._std)
        decoded = self.decode(images, sizes)
        logits = self.classify(decoded.queries)

        def mask_of(image: int, queries: Tensor, points: Tensor) -> Tensor:
            one = slice(image, image + 1)
            own = decoded._replace(mask_features=decoded.mask_features[one])
            return self.masks(queries[None], points[None], own, sizes[one])[0]

        matcher = one_to_many if self.assignment == "sim_ota" else None
        return detr_losses(logits, decoded, mask_of, batch, self.costs, reduction, matcher, more)

    def public_weights(self, given: Mapping[str, Tensor]) -> PublicWeights | None:
        """Recognise what transformers writes for DeformableDetrForObjectDetection.

        Raises:
            ValueError: the file is of another variant of the network.
        """
        return transformers_weights(given, self.state_dict())

    @torch.no_grad()
    def predict(self, batch: SegBatch) -> list[Instances]:
        """Return up to ``max_dets`` predictions of each image in its original frame."""
        return self.instances(self.network_outputs(batch), batch)

    @torch.no_grad()
    def network_outputs(self, batch: SegBatch) -> QueryOutput:
        """Return classes, masks and boxes of the ``max_dets`` best queries of the last layer.

        No pair of a query and a class that is among the best belongs to another query. With
        ``sim_ota`` the queries that ``instances`` suppresses come last.
        """
        images, sizes = prepare(batch, self._mean, self._std)
        decoded = self.decode(images, sizes)
        logits = self.score_logits(decoded.queries[-1])
        placed = decoded.boxes[-1] * _shown(sizes, images)
        number = min(self.max_dets, logits.shape[1])
        order = logits.amax(dim=2)
        kept = self._kept(logits, placed, batch)
        if kept is not None:
            order = order.masked_fill(~kept, -torch.inf)
        best = order.topk(number, dim=1).indices.unsqueeze(2)  # (B, N, 1)
        chosen = (logits, placed, decoded.queries[-1], decoded.references[-1])
        scores, boxes, queries, points = (
            part.gather(1, best.expand(-1, -1, part.shape[2])) for part in chosen
        )
        masks = self.masks(queries, points, decoded, sizes)
        return QueryOutput([scores], [masks], [boxes])

    @torch.no_grad()
    def instances(self, outputs: QueryOutput, batch: SegBatch) -> list[Instances]:
        """Choose the best pairs of query and class, resize and encode their masks.

        Args:
            outputs: output of ``network_outputs`` for the same images.
            batch: batch whose ``sizes`` and ``original_sizes`` are read.
        """
        assert outputs.boxes is not None
        logits, boxes = outputs.class_logits[-1], outputs.boxes[-1]
        scores = at_least_float32(logits).sigmoid()
        masks = to_cell_centres(at_least_float32(outputs.mask_logits[-1]), MASK_STRIDE)
        return query_instances(
            scores,
            masks,
            batch,
            max_dets=self.max_dets,
            boxes=boxes,
            kept=self._kept(logits, boxes, batch),
            mask_quality=False,  # A566
        )

    def _kept(self, logits: Tensor, boxes: Tensor, batch: SegBatch) -> Tensor | None:
        """Return (B, Q), which queries are not suppressed, None where none can be."""
        if self.assignment == "hungarian":
            return None
        height, width = padded_size(batch)
        pixels = to_corners(at_least_float32(boxes)) * boxes.new_tensor([width, height] * 2)
        return best_of_overlapping(logits, pixels)

    def _first_queries(self, memory: Tensor, cells: Cells) -> tuple[Proposals | None, Queries]:
        if self.proposal_head is not None:
            heads = (self.class_heads[-1], self.box_heads[-1])
            chosen: tuple[Proposals, Queries] = self.proposal_head(
                memory, cells, *heads, self.num_queries
            )
            return chosen
        learned = self.query_embed.weight.expand(len(memory), -1, -1)
        positions, contents = learned.chunk(2, dim=2)
        points = at_least_float32(self.reference_points(positions)).sigmoid()
        return None, Queries(contents, positions, points)

    def _decode_queries(
        self, memory: Tensor, cells: Cells, first: Queries
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return queries (B, Q, C), reference points (B, Q, 2) and boxes (B, Q, 4) by layer."""
        queries, reference = first.contents, first.references
        contents, points, boxes = [], [], []
        for number, layer in enumerate(self.decoder):
            ratios = cells.ratios.repeat(1, 1, reference.shape[-1] // 2)[:, None]
            seen_at = reference[:, :, None] * ratios  # (B, Q, L, 2 or 4)
            queries = layer(queries, first.positions, seen_at, memory, cells.shapes, cells.valid)
            change = at_least_float32(self.box_heads[number if self.box_refine else 0](queries))
            start = F.pad(inverse_sigmoid(reference), (0, 4 - reference.shape[-1]))
            box = (change + start).sigmoid()
            contents.append(queries)
            points.append(reference[..., :2])
            boxes.append(box)
            if self.box_refine:
                reference = box.detach()
        return contents, points, boxes

    def _xavier(self) -> None:
        """Draw the matrices of encoder and decoder as the authors do."""
        for name, parameter in [*self.encoder.named_parameters(), *self.decoder.named_parameters()]:
            own = "sampling_offsets" in name or "attention_weights" in name
            if parameter.dim() > 1 and not own:
                nn.init.xavier_uniform_(parameter)

    def _reset_heads(self, two_stage: bool) -> None:
        """Scores begin at 0.01, boxes at their reference with a side of sigmoid(-2)."""
        for head in self.class_heads:
            nn.init.constant_(head.bias, _PRIOR_LOGIT)  # type: ignore[arg-type]
        for number, head in enumerate(self.box_heads):
            last: nn.Linear = head.layers[-1]  # type: ignore[index, union-attr, assignment]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            if number == 0 and not two_stage:
                nn.init.constant_(last.bias[2:], -2.0)
        if not two_stage:
            nn.init.xavier_uniform_(self.reference_points.weight)
            nn.init.zeros_(self.reference_points.bias)


def _shown(sizes: Tensor, images: Tensor) -> Tensor:
    """Return (B, 1, 4), the valid part (width, height, width, height) of the padded images."""
    padded = sizes.new_tensor(images.shape[-2:]).to(
        torch.promote_types(images.dtype, torch.float32)
    )
    return (sizes / padded).flip(1).repeat(1, 2).unsqueeze(1)
