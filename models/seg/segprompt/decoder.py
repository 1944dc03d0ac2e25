"""Mask2Former's decoder with prompts and examples beside its queries.

Queries attend to themselves alone, so prompts and examples do not change what they become:

    from / to     queries   prompts              examples
    queries       all       -                    -
    prompts       all       of the same group    -
    examples      -         -                    all that exist

Queries and prompts attend to the pixels of the mask that they predicted before, as in Mask2Former,
examples to those of their object in every layer.

Letters: B images, Q queries, P prompts, E examples, N = Q + P + E, D channels, S cells of a level.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.ops.masks.points import sample_masks
from models.seg.mask2former.decoder import LEVELS, LevelMasks, MaskedDecoder, mask_maps
from models.seg.mask2former.pixel_decoder import PixelFeatures, Size
from models.seg.queries.output import QueryOutput
from models.seg.queries.padding import valid_cells
from models.seg.queries.targets import Matched
from structures import SegBatch

Embedding = tuple[Tensor, Tensor]  # a mask is the product of the first with the fine map + second


class Prompts(NamedTuple):
    """Prompts and examples as input of the decoder.

    Attributes:
        contents: (B, P, D).
        places: (B, P, D).
        among: (B, N, N) bool, see `attention_table`.
        regions: (B, E, S) bool for each level, where examples attend.
    """

    contents: Tensor
    places: Tensor
    among: Tensor
    regions: list[Tensor]


class PromptedOutput(NamedTuple):
    """Outputs of the decoder, lists with an entry for each supervised output.

    Attributes:
        queries: of the model's queries.
        prompt_classes: (B, P, 2).
        prompt_masks: embeddings of the prompts' masks.
        example_classes: (B, E, 2).
        example_masks: embeddings of the examples' masks.
        examples: (B, E, D), examples after the last layer, before the norm of the heads.  # A624
    """

    queries: QueryOutput
    prompt_classes: list[Tensor]
    prompt_masks: list[Embedding]
    example_classes: list[Tensor]
    example_masks: list[Embedding]
    examples: Tensor


def attention_table(num_queries: int, groups: int, repeat: int, shown: Tensor) -> Tensor:
    """Return (B, N, N) bool, True where the query of a row attends to that of a column.

    Args:
        num_queries: Q.
        groups: of prompts of the same category.
        repeat: prompts of a group.
        shown: (B, E) bool, which examples exist. Nothing attends to the others but they themselves,
            unlike in the authors' code.  # A622

    >>> attention_table(1, 2, 1, torch.tensor([[True]])).int().tolist()
    [[[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]]
    """
    batch, examples = shown.shape
    prompts = groups * repeat
    end = num_queries + prompts
    table = torch.zeros(batch, end + examples, end + examples, dtype=torch.bool)
    table[:, :end, :num_queries] = True
    group = torch.arange(groups).repeat_interleave(repeat)
    table[:, num_queries:end, num_queries:end] = group[:, None] == group
    table = table.to(shown.device)
    itself = torch.eye(examples, dtype=torch.bool, device=shown.device)
    table[:, end:, end:] = shown[:, None] & shown[:, :, None] | itself
    return table


@torch.no_grad()
def example_regions(
    batch: SegBatch, examples: Matched, number: int, size: Size, levels: list[Size]
) -> list[Tensor]:
    """Return the cells of each level that examples attend to, (B, E, S) bool.

    Those are the cells whose centre has a part in the object, by bilinear interpolation of its
    mask; all valid cells for an object without one.

    Args:
        batch: images with masks.
        examples: objects by image and number of the example.
        number: E.
        size: (H, W) of the padded images.
        levels: (h, w) of each level.
    """
    device = batch.masks.device
    covered = [side * batch.mask_stride for side in batch.masks.shape[-2:]]
    found = []
    for height, width in levels:
        y, x = (
            (torch.arange(n, device=device) + 0.5) * (side / n / extent)
            for n, side, extent in zip((height, width), size, covered, strict=True)
        )
        centres = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1)
        inside = batch.crowd.new_zeros(len(batch), number, height * width)
        covering = sample_masks(batch.masks, examples.rows, centres.flatten(0, 1)) > 0
        inside[examples.images, examples.queries] = covering
        valid = valid_cells(batch.sizes, size, (height, width)).flatten(1)[:, None]
        inside &= valid
        found.append(inside | (~inside.any(dim=-1, keepdim=True) & valid))
    return found


def decode(
    decoder: MaskedDecoder,
    pixels: PixelFeatures,
    mask_features: torch.nn.Conv2d,
    valid: Tensor | None,
    size: Size,
    prompts: Prompts,
) -> PromptedOutput:
    """Run the layers of Mask2Former's decoder on queries, prompts and examples.

    Args:
        decoder: of Mask2Former.
        pixels: output of the pixel decoder.
        mask_features: its last convolution.
        valid: (B, 2) valid sizes in pixels; None if nothing is padding.
        size: (H, W) of the padded images.
        prompts: prompts and examples.
    """
    keys, values = decoder.keys_and_values(pixels)
    masks = LevelMasks(pixels, valid, size)
    batch, examples = len(keys[0]), prompts.regions[0].shape[1]
    nothing = prompts.contents.new_zeros(batch, examples, prompts.contents.shape[2])

    def joined(own: Tensor, of_prompts: Tensor) -> Tensor:
        return torch.cat([own.expand(batch, -1, -1), of_prompts, nothing], dim=1)

    queries = joined(decoder.query_feat.weight, prompts.contents)
    places = joined(decoder.query_embed.weight, prompts.places)
    end = queries.shape[1] - examples
    normed = [decoder.norm(queries)]
    embedded = [decoder.mask_embedding(normed[0], mask_features)]
    for number, layer in enumerate(decoder.layers):
        level = number % LEVELS
        allowed = masks.allowed(level, *(part[:, :end] for part in embedded[-1]))
        allowed = torch.cat([allowed, prompts.regions[level]], dim=1)
        queries = layer(queries, places, keys[level], values[level], allowed, prompts.among)
        normed.append(decoder.norm(queries))
        embedded.append(decoder.mask_embedding(normed[-1], mask_features))
    sizes = [len(decoder.query_feat.weight), prompts.contents.shape[1], examples]
    classes = [decoder.class_embed(one).split_with_sizes(sizes, dim=1) for one in normed]
    splits = [tuple(part.split_with_sizes(sizes, dim=1) for part in one) for one in embedded]
    own, of_prompts, of_examples = (
        [(embedding[n], bias[n]) for embedding, bias in splits] for n in range(3)
    )
    return PromptedOutput(
        QueryOutput([one[0] for one in classes], mask_maps(own, pixels.fine)),
        [one[1] for one in classes],
        of_prompts,
        [one[2] for one in classes],
        of_examples,
        queries[:, end:],
    )
