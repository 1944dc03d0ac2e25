"""Plain vision transformers of timm as backbones: all tokens, at any size up to a square.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv 2010.11929; with registers and
layer scale as of DINOv2 (Oquab et al., arXiv 2304.07193; Darcet et al., arXiv 2309.16588).

Letters: B images, C channels, H x W pixels, h x w patches, P prefix tokens (class and registers),
D width, G x G patches of the square.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from formats.weights.public import PublicWeights, for_four_channels
from models.backbones.download import create_timm
from models.backbones.in_channels import set_in_channels
from models.backbones.lazy_timm import load_timm
from models.backbones.weights import load_backbone_weights

_PATCHES: Final = "patch_embed.proj.weight"
_POSITIONS: Final = "pos_embed"
_CLASSIFIER: Final = ("head.", "fc_norm.")  # layers of timm's classifier that are not used


class TimmViT(nn.Module):
    """A plain vision transformer, used block by block.

    ``tokens`` makes the input of the first of ``blocks``, which take (B, N, D) and the keyword
    ``attn_mask``; ``norm`` is the last normalisation. An image smaller than the square has the
    positions of the square's top left part.

    Args:
        name: timm's name of a vision transformer, for example ``vit_large_patch14_reg4_dinov2``.
        image_size: side of the square that positions are learnt for, a multiple of ``patch_size``.
        patch_size: side of a patch, if not the model's own. Published weights of another patch or
            image size are resampled as timm does (FlexiViT, arXiv 2212.08013).
        pretrained: load timm's own weights, which timm downloads unless they are in its cache.
        weights: file with a state dict of the timm model, or of DINOv2.
        trainable_blocks: number of blocks that are trained, counted from the last; None for
            everything. The embeddings are frozen with the first block, the last norm never.
        in_channels: 3 for RGB, 4 for the planes R, Gr, B, Gb.
        drop_path: rate of stochastic depth of the last block; it rises linearly from 0.
        options: further arguments of ``timm.create_model``, for example ``depth`` or ``embed_dim``.

    Attributes:
        width: D.
        num_prefix: P.

    Raises:
        ValueError: the model is unknown or no plain vision transformer with learnt positions,
            ``image_size`` is not divisible, the weights do not fit, both sources of weights are
            given, or a number is out of range.
    """

    starts_from: ClassVar[dict[str, Any]] = {"pretrained": False, "weights": None}

    def __init__(
        self,
        name: str,
        image_size: int,
        patch_size: int | None = None,
        *,
        pretrained: bool = False,
        weights: str | None = None,
        trainable_blocks: int | None = None,
        in_channels: int = 3,
        drop_path: float = 0.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if pretrained and weights is not None:
            raise ValueError("give either pretrained: true or weights, not both")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1), got {drop_path}")
        arguments = {**(options or {}), "drop_path_rate": drop_path}
        self.name = name
        self.body = _body(name, image_size, patch_size, pretrained, arguments)
        self.image_size, self.patch_size = image_size, int(self.body.patch_embed.patch_size[0])
        self.width, self.num_prefix = int(self.body.embed_dim), int(self.body.num_prefix_tokens)
        if weights is not None:
            load_backbone_weights(self.body, name, weights, convert=self.resampled)
        self._freeze(trainable_blocks)
        set_in_channels(self.body, in_channels)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks, first to last."""
        blocks: nn.ModuleList = self.body.blocks
        return blocks

    @property
    def norm(self) -> nn.Module:
        """The normalisation after the last block."""
        norm: nn.Module = self.body.norm
        return norm

    def tokens(self, images: Tensor) -> Tensor:
        """Return the input of the first block, (B, P + h w, D): prefix tokens, then patches by row.

        Args:
            images: (B, C, H, W), normalised, H and W multiples of the patch and at most
                ``image_size``.

        Raises:
            ValueError: an image is larger than the square.
        """
        height, width = images.shape[-2:]
        if max(height, width) > self.image_size:
            raise ValueError(
                f"images of {height} x {width} are larger than the square of {self.image_size} x "
                f"{self.image_size} that the transformer has positions for; make them smaller "
                f"(eval_short_side and max_long_side of the data, at most {self.image_size}), "
                f"predict in tiles (inference.tile), or build it with image_size "
                f"{-(-max(height, width) // self.patch_size) * self.patch_size}"
            )
        body, batch = self.body, images.shape[0]
        patches = body.patch_embed.proj(images)  # (B, D, h, w)
        rows, columns = patches.shape[-2:]
        patches = body.patch_embed.norm(patches.flatten(2).transpose(1, 2))
        side = self.image_size // self.patch_size
        grid = body.pos_embed[:, -side * side :].unflatten(1, (side, side))
        patches = patches + grid[:, :rows, :columns].flatten(1, 2)
        prefix = [part for part in (body.cls_token, body.reg_token) if part is not None]
        if prefix:
            first = torch.cat(prefix, dim=1)  # (1, P, D)
            if not body.no_embed_class:
                first = first + body.pos_embed[:, : self.num_prefix]
            patches = torch.cat([first.expand(batch, -1, -1), patches], dim=1)
        tokens: Tensor = body.norm_pre(body.pos_drop(patches))
        return tokens

    def forward(self, images: Tensor) -> Tensor:
        """Return all tokens after the last norm, (B, P + h w, D)."""
        tokens = self.tokens(images)
        for block in self.blocks:
            tokens = block(tokens)
        found: Tensor = self.norm(tokens)
        return found

    def blocks_above(self, name: str) -> int:
        """Return how many blocks follow that of a parameter; embeddings belong to the first.

        >>> TimmViT("test_vit", 32).blocks_above("body.blocks.0.norm1.weight")
        5
        """
        parts = name.removeprefix("body.").split(".")
        if parts[0] == "norm":
            return 0
        block = int(parts[1]) if parts[0] == "blocks" else 0
        return len(self.blocks) - 1 - block

    def public_weights(self, given: Mapping[str, Tensor]) -> PublicWeights | None:
        """Recognise weights of timm's model of the same name, or DINOv2's; they are resampled.

        Raises:
            ValueError: positions or patches are of another network.
        """
        if not {_PATCHES, _POSITIONS} <= given.keys():
            return None
        named = self.resampled(given)
        found = {n if n.startswith(_CLASSIFIER) else f"body.{n}": v for n, v in named.items()}
        wanted = {f"body.{name}": value for name, value in self.body.state_dict().items()}
        check_architecture(found, wanted, f"timm's {self.name}", free=_CLASSIFIER)
        return PublicWeights(f"timm's {self.name}", found)

    def resampled(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights by timm's names whose patches and positions fit this size.

        Args:
            given: weights by timm's or DINOv2's names, of any patch and image size. Those of
                another width are returned as they are.
        """
        load_timm()
        from timm.models.vision_transformer import checkpoint_filter_fn

        width = given[_POSITIONS].shape[-1] if _POSITIONS in given else None
        if width != self.width:
            return dict(given)
        found: dict[str, Tensor] = checkpoint_filter_fn(dict(given), self.body)
        return found

    def _freeze(self, trainable_blocks: int | None) -> None:
        total = len(self.blocks)
        number = total if trainable_blocks is None else trainable_blocks
        if not 0 <= number <= total:
            raise ValueError(f"trainable_blocks must be in 0..{total}, got {trainable_blocks}")
        for name, parameter in self.named_parameters():
            if not name.startswith("body.norm.") and self.blocks_above(name) >= number:
                parameter.requires_grad_(False)


def check_architecture(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], kind: str, free: tuple[str, ...]
) -> None:
    """Refuse weights of another network; kernels of RGB images fit those of four channels.

    Args:
        given: weights by the names of the network.
        wanted: ``state_dict`` of the network.
        kind: what the weights are, for the message.
        free: beginnings of the names of tensors that may be absent or have another shape.

    Raises:
        ValueError: a tensor is missing, unknown or has another shape; the first are named.
    """
    given = {**given, **for_four_channels(given, wanted)}
    wrong = []
    for name in [*wanted, *sorted(given.keys() - wanted.keys())]:
        if name.startswith(free):
            continue
        ours, theirs = (tuple(w[name].shape) if name in w else None for w in (wanted, given))
        if ours is None or theirs is None:
            wrong.append(f"{name} is {'unknown' if ours is None else 'missing'}")
        elif ours != theirs:
            wrong.append(f"{name} is {theirs} in the file, {ours} in the model")
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(f"it is of another architecture ({kind}): {'; '.join(wrong[:4])}{more}")


def _body(
    name: str,
    image_size: int,
    patch_size: int | None,
    pretrained: bool,
    options: Mapping[str, Any],
) -> Any:
    """Return timm's model without its classifier."""
    arguments: dict[str, Any] = {"img_size": image_size, "num_classes": 0, **options}
    if patch_size is not None:
        arguments["patch_size"] = patch_size
    try:
        body = create_timm(name, pretrained=pretrained, **arguments)
    except (TypeError, AssertionError) as error:
        raise ValueError(f"timm cannot build {name} with {arguments}: {error}") from error
    from timm.models.vision_transformer import Block, VisionTransformer

    plain = isinstance(body, VisionTransformer) and all(isinstance(b, Block) for b in body.blocks)
    if not plain or body.pos_embed is None or body.attn_pool is not None:
        raise ValueError(
            f"{name} is no plain vision transformer with learnt positions; give one such as "
            "vit_small_patch16_224 or vit_large_patch14_reg4_dinov2"
        )
    if isinstance(body.norm, nn.Identity):
        raise ValueError(f"{name} normalises only pooled tokens; give a model with a class token")
    patch = int(body.patch_embed.patch_size[0])
    if image_size < patch or image_size % patch:
        raise ValueError(
            f"image_size must be a multiple of the patch of {patch} pixels, got {image_size}; "
            "set patch_size too, as weights of another patch are resampled"
        )
    return body
