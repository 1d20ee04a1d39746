"""The three domain discriminators: image level (Table 1), semantic level (Table 2), instance level (Sec. 3.1).

None has a normalisation layer. Each returns two logits for each sample, in the channel order of `pdamlib.adapt.losses`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def pooled_pyramid(pyramid: Mapping[str, Tensor], size: int | None = None) -> Tensor:
    """Return the sum of the pyramid's levels, each average-pooled to the same size (Sec. 3.1): (B, C, size, size).

    pyramid: `p2`..`p5`, each (B, C, ...), finest first.
    size: 8 in the paper; by default the size of P5, which is 8 x 8 for its patches of 256 px.
    """
    levels = list(pyramid.values())
    height, width = levels[-1].shape[-2:] if size is None else (size, size)
    return torch.stack([F.adaptive_avg_pool2d(level, (height, width)) for level in levels]).sum(dim=0)


class ImageDiscriminator(nn.Sequential):
    """Image-level discriminator (Table 1). forward: `pooled_pyramid` (B, C, h, w) -> domain logits (B, 2, h, w)."""

    def __init__(self, channels: int = 256) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * channels, 2, 1),
        )
        _initialise(self)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class SemanticDiscriminator(nn.Sequential):
    """Semantic-level discriminator (Table 2). forward: entropy map (B, 2, H, W) -> domain logits (B, 2, H/16, W/16)."""

    def __init__(self, in_channels: int = 2, width: int = 64) -> None:
        """Build it. width: channels after the first convolution, 64 in Table 2; each further one doubles them."""
        layers: list[nn.Module] = []
        for stage, kernel in enumerate((7, 5, 5, 5)):
            channels = width * 2**stage
            entering = channels // 2 if stage else in_channels
            layers += [
                nn.Conv2d(entering, channels, kernel, stride=2, padding=kernel // 2),
                nn.ReLU(inplace=True),
                _Residual(channels),
            ]
        super().__init__(*layers, nn.Conv2d(8 * width, 2, 1))
        _initialise(self)


class InstanceDiscriminator(nn.Sequential):
    """Instance-level discriminator of three fully connected layers (Sec. 3.1).

    forward: instance features (N, features) -> domain logits (N, 2).
    """

    def __init__(self, features: int = 1024, hidden: int | None = None, dropout: float = 0.5) -> None:
        """Build it. hidden: outputs of the second layer, by default as many as features; 256 in the released code."""
        hidden = hidden or features
        super().__init__(
            nn.Linear(features, features),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(features, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, 2),
        )
        _initialise(self)


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
