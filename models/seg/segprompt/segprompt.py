"""SegPrompt (Zhu et al. 2023, arXiv 2308.06531): categories teach a class-agnostic Mask2Former.

Known categories take part in the training of a Mask2Former of one class. Beside its queries, the
decoder gets

- prompts of categories, drawn for each image: an embedding of the category and what a bank
  remembers of it, added to a query (models/seg/segprompt/prompts.py and drawing.py). They find the
  objects of their category, or learn that there are none;
- examples, which begin empty and see the pixels of one known object. They learn its mask, and what
  they become is remembered in the bank.

Queries do not see either (models/seg/segprompt/decoder.py), so predictions and the terms ``class``,
``mask`` and ``dice`` are those of a Mask2Former of one class with the same weights. The other terms
are in models/seg/segprompt/losses.py. Assumptions A620 to A629.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.ops.distributed import reduce_terms
from models.seg.mask2former.mask2former import Mask2Former
from models.seg.protocol import Reduction
from models.seg.queries.mask_classification import mask_classification_losses, random_points
from models.seg.queries.padding import prepare, valid_cells
from models.seg.segprompt.decoder import (
    Prompts,
    attention_table,
    decode,
    example_regions,
)
from models.seg.segprompt.drawing import Drawn, PromptOptions, draw
from models.seg.segprompt.losses import MaskContext, example_terms, prompt_terms
from models.seg.segprompt.prompts import CategoryPrompts
from structures import SegBatch


class SegPrompt(Mask2Former):
    """SegPrompt; it is trained on known categories and predicts a single class.

    Args:
        num_classes: known categories, at least 2 where there are prompts.
        backbone: see `Mask2Former`.
        prompt_categories: categories with prompts of an image. If there are fewer, they are
            repeated, with a warning. 0 for no prompts.
        repeat: prompts of each of them, at most the number of queries.
        examples: known objects of an image that are shown to the decoder; 0 for none.
        momentum: share of the old value in an update of the bank, in [0, 1).
        min_area: objects must have more pixels than this to be learnt by prompts and examples.
        in_channels: see `Mask2Former`, set from the data.
        **options: further arguments of `Mask2Former`.

    Raises:
        ValueError: there are too few known categories, a number is out of range, or see
            `Mask2Former`.
    """

    no_weight_decay: ClassVar[tuple[str, ...]] = (  # A628
        *Mask2Former.no_weight_decay,
        "*prompts.*.weight",
    )
    set_class_weights = None  # type: ignore[assignment]  # it predicts one class

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Module,
        *,
        prompt_categories: int = 30,
        repeat: int = 10,
        examples: int = 5,
        momentum: float = 0.9,
        min_area: float = 100.0,
        in_channels: int = 3,
        **options: Any,
    ) -> None:
        prompting = PromptOptions(prompt_categories, repeat, examples, min_area)
        if prompt_categories and num_classes < 2:
            raise ValueError(
                f"prompts need at least 2 known categories, the data have {num_classes}; set "
                "data.class_agnostic: false and name more in data.known, or set "
                "prompt_categories: 0"
            )
        super().__init__(1, backbone, in_channels=in_channels, **options)
        queries, width = self.decoder.query_feat.weight.shape
        if repeat > queries:
            raise ValueError(
                f"repeat must be at most num_queries {queries}, whose content the prompts of a "
                f"category take, got {repeat}"
            )
        self.num_classes = num_classes
        self.prompt_options = prompting
        self.prompts = CategoryPrompts(num_classes, width, momentum)

    def losses(
        self, batch: SegBatch, reduction: Reduction = "mean", key: int = 0
    ) -> dict[str, Tensor]:
        """Return ``class``, ``mask`` and ``dice``, each also as ``prompt_*`` and ``example_*``.

        Reads the bank and does not change it; with gradients it keeps what `update_after_step`
        needs. Terms without prompts or examples are 0.

        Args:
            batch: images of any size with targets, whose labels are known categories.
            reduction: see `Mask2Former.losses`.
            key: seed of categories, queries, examples and points, together with each image's
                index.

        Raises:
            ValueError: a box is empty or not finite, or a label is not in [0, num_classes).
        """
        self._warn_of_repeats()
        queries = self.decoder.query_feat.num_embeddings
        drawn = draw(batch, key, self.num_classes, queries, self.prompt_options)
        images, sizes = prepare(batch, self._mean, self._std)
        size = (images.shape[-2], images.shape[-1])
        pixels = self._pixel_features(images, sizes)
        prompts = self._prompts(drawn, batch, size, pixels.sizes)
        mask_features = self.pixel_decoder.mask_features
        output = decode(self.decoder, pixels, mask_features, sizes, size, prompts)
        if torch.is_grad_enabled():
            one = drawn.examples
            self.prompts.keep(output.examples[one.images, one.queries], one.labels)
        merged = dataclasses.replace(batch, labels=torch.zeros_like(batch.labels))
        terms = mask_classification_losses(
            output.queries, merged, size, self.options, reduction, key
        )
        with torch.autocast(images.device.type, enabled=False):
            cells = (pixels.fine.shape[-2], pixels.fine.shape[-1])
            context = MaskContext(
                merged,
                pixels.fine,
                valid_cells(batch.sizes, size, cells),
                random_points(batch, size, self.options, key),
                self.options,
            )
            more = prompt_terms(output.prompt_classes, output.prompt_masks, drawn, context)
            more |= example_terms(output.example_classes, output.example_masks, drawn, context)
            return terms | reduce_terms(more, reduction)

    def update_after_step(self) -> None:
        """Update the bank by the examples of all processes since the last call."""
        self.prompts.update()

    def _prompts(
        self, drawn: Drawn, batch: SegBatch, size: tuple[int, int], levels: list[tuple[int, int]]
    ) -> Prompts:
        """Return prompts and examples as input of the decoder."""
        options, decoder = self.prompt_options, self.decoder
        contents, places = self.prompts(drawn.categories.to(batch.labels.device))
        return Prompts(
            contents + decoder.query_feat(drawn.queries),
            places + decoder.query_embed(drawn.queries),
            attention_table(
                decoder.query_feat.num_embeddings, options.categories, options.repeat, drawn.shown
            ),
            example_regions(batch, drawn.examples, options.examples, size, levels),
        )

    def _warn_of_repeats(self) -> None:
        wanted = self.prompt_options.categories
        if wanted > self.num_classes:
            warnings.warn(
                f"prompt_categories is {wanted}, but there are {self.num_classes} known "
                "categories: they have several groups of prompts each",
                stacklevel=3,
            )
