"""Small convolutional network that embeds digit images in the MNIST-bags experiments."""

from __future__ import annotations

from torch import Tensor, nn


class LeNetEncoder(nn.Module):
    """Two convolutions with pooling and one fully connected layer (Ilse et al. 2018, appendix).

    The convolutions are padded so that the 8 x 8 digits of `datamodules.digits` fit as well as
    MNIST's 28 x 28.

    Args:
        side: height and width of an image, at least 4.
        channels: channels of an image.
        out_features: width of the embedding.

    Raises:
        ValueError: the images are too small to be pooled twice.
    """

    def __init__(self, side: int, channels: int = 1, out_features: int = 500) -> None:
        super().__init__()
        if side < 4:
            raise ValueError(f"images need a side of at least 4 pixels, got {side}")
        self.out_features = out_features
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 20, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(50 * (side // 4) ** 2, out_features),
            nn.ReLU(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, out_features) for images (N, channels, side, side)."""
        embedded: Tensor = self.layers(images)
        return embedded
