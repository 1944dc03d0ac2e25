"""Embeddings of tiles by a self-supervised vision transformer, as used by Self-ViT-MIL.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (DINO), ICCV 2021, arXiv
2104.14294, and Gul et al. 2022, arXiv 2210.09021. A tile's embedding is, side by side,

    the class tokens of the last four blocks, in the order of the blocks      4 D
    the mean of the last block's patch tokens                                 1 D

each after the transformer's last normalisation (A98), if it has one ahead of the pooling;
register tokens are ignored. Any timm vision transformer with a class token is supported:
`vit_base_patch16_224.dino` gives 3 840 values. The authors use the teacher that DINO has trained
on the tiles themselves: `dino_teacher` extracts it from a checkpoint of DINO's training script.

For a folder of tiles, writing one file per slide for
`datamodules.mil.features.FeatureBagsDataModule`:

    checkpoint = torch.load("checkpoint.pth", map_location="cpu", weights_only=False)
    torch.save(dino_teacher(checkpoint), "teacher.pt")
    network = DinoEmbedding("vit_base_patch16_224", weights="teacher.pt", mean=SELF_VIT_MEAN,
                            std=SELF_VIT_STD).cuda()
    files, parts = sorted(folder.glob("*.png")), []
    for start in range(0, len(files), 256):  # all tiles of a slide may not fit into memory
        tiles = torch.stack([read_image(str(f)) for f in files[start : start + 256]]) / 255
        parts.append(embed_tiles(network, tiles))
    numpy.save("features/slide_7.npy", torch.cat(parts).numpy())

Letters: N tiles of H x W pixels, D width of the transformer, P patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.backbones.download import create_timm
from models.backbones.weights import load_backbone_weights

# Channel statistics of CAMELYON16 tissue, used for normalisation by the authors of Self-ViT-MIL.
SELF_VIT_MEAN = (0.6223, 0.4763, 0.6009)
SELF_VIT_STD = (0.2012, 0.2190, 0.1722)
_CLASS_TOKENS = 4  # number of last blocks whose class token is used


class DinoEmbedding(nn.Module):
    """Class tokens of the last four blocks and the mean patch token of the last.

    Args:
        name: timm's name of a vision transformer.
        pretrained: load timm's own weights, which timm downloads unless they are in its cache.
        weights: file with a state dict of the timm model ``name`` instead.
        image_size: side of the tiles, if not the model's default; position embeddings are
            resampled.
        mean: channel means of the training tiles in [0, 1]; None for the model's own.
        std: channel standard deviations; None for the model's own.

    Attributes:
        input_size: side of the tiles.
        out_features: 5 D.

    Raises:
        ValueError: the model has no class token or fewer than four blocks, the weights do not
            fit, or both sources of weights are given.
    """

    mean: Tensor
    std: Tensor
    starts_from: ClassVar[dict[str, Any]] = {"pretrained": False, "weights": None}

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        weights: str | None = None,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if pretrained and weights is not None:
            raise ValueError("give either pretrained: true or weights, not both")
        body: Any = create_timm(name, pretrained=pretrained, num_classes=0)
        blocks = len(getattr(body, "blocks", ()))
        if getattr(body, "cls_token", None) is None or blocks < _CLASS_TOKENS:
            raise ValueError(
                f"{name} must be a vision transformer with a class token and at least "
                f"{_CLASS_TOKENS} blocks"
            )
        if weights is not None:
            load_backbone_weights(body, name, weights)
        if image_size is not None:
            body.set_input_size(img_size=image_size)
        self.body = body
        self.out_features = (_CLASS_TOKENS + 1) * int(body.embed_dim)
        own = body.pretrained_cfg
        self.input_size = int(own["input_size"][-1]) if image_size is None else image_size
        for key, value in (("mean", mean or own["mean"]), ("std", std or own["std"])):
            self.register_buffer(key, torch.tensor(value).view(3, 1, 1))

    def forward(self, tiles: Tensor) -> Tensor:
        """Return the embeddings (N, 5 D) of RGB tiles (N, 3, H, W) in [0, 1]."""
        layers = self.body.forward_intermediates(
            (tiles - self.mean) / self.std,
            indices=_CLASS_TOKENS,
            return_prefix_tokens=True,
            norm=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        class_tokens = [prefix[:, 0] for _, prefix in layers]  # (N, D) each
        patches = layers[-1][0]  # (N, P, D)
        return torch.cat([*class_tokens, patches.mean(dim=1)], dim=1)


@torch.no_grad()
def embed_tiles(network: nn.Module, tiles: Tensor, chunk: int = 64) -> Tensor:
    """Embed any number of tiles in chunks.

    Args:
        network: `DinoEmbedding` or another network of tiles; evaluated in eval mode, on the device
            of its parameters; its training mode is restored.
        tiles: (N, 3, H, W) RGB in [0, 1], on any device.
        chunk: number of tiles per forward pass.

    Returns:
        (N, E) on the host, in float32.

    Raises:
        ValueError: there are no tiles, or they are not (N, 3, H, W) floats.
    """
    if tiles.ndim != 4 or tiles.shape[1] != 3 or not tiles.is_floating_point() or not len(tiles):
        raise ValueError(
            f"tiles must be (N, 3, H, W) floats, N >= 1, got {tuple(tiles.shape)} {tiles.dtype}"
        )
    device = next(network.parameters()).device
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        parts = [
            network(tiles[start : start + chunk].to(device)).float().cpu()
            for start in range(0, len(tiles), chunk)
        ]
    finally:
        for module in training:
            module.training = True
    return torch.cat(parts)


def dino_teacher(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the teacher's backbone from a checkpoint of DINO's training script.

    The prefixes of the data-parallel and multi-crop wrappers are removed, which leaves the tensor
    names of timm's vision transformers; the projection head is dropped.

    Raises:
        ValueError: the checkpoint has no ``teacher`` with a backbone.
    """
    teacher = {
        key.removeprefix("module."): value for key, value in checkpoint.get("teacher", {}).items()
    }
    start = "backbone."
    found = {key[len(start) :]: value for key, value in teacher.items() if key.startswith(start)}
    if not found:
        raise ValueError("the checkpoint has no teacher with tensors named backbone.*")
    return found
