"""Generator and discriminator of CycleGAN (Zhu et al., ICCV 2017), the translation of Sec. 3.5."""

import torch
from torch import Tensor, nn


def _norm_relu(channels: int) -> list[nn.Module]:
    return [nn.InstanceNorm2d(channels), nn.ReLU(inplace=True)]


class ResidualBlock(nn.Module):
    """Two reflection-padded 3x3 convolutions with instance norm, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            *_norm_relu(channels),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Generator(nn.Module):
    """Translate images of one domain into the other: float (B, 3, H, W) in -1..1 to the same shape and range.

    width, blocks: 64 and 9 in the original work. H and W must be multiples of 4.
    residual: learn a change of the input instead of a new image, tanh(x + network(x)). The original has none;
    a budget of a few thousand iterations is too short to learn to copy.
    """

    def __init__(self, width: int = 64, blocks: int = 9, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        w = width
        self.body = nn.Sequential(
            nn.Conv2d(3, w, 7, padding=3, padding_mode="reflect"),
            *_norm_relu(w),
            nn.Conv2d(w, 2 * w, 3, stride=2, padding=1),
            *_norm_relu(2 * w),
            nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1),
            *_norm_relu(4 * w),
            *(ResidualBlock(4 * w) for _ in range(blocks)),
            nn.ConvTranspose2d(4 * w, 2 * w, 3, stride=2, padding=1, output_padding=1),
            *_norm_relu(2 * w),
            nn.ConvTranspose2d(2 * w, w, 3, stride=2, padding=1, output_padding=1),
            *_norm_relu(w),
            nn.Conv2d(w, 3, 7, padding=3, padding_mode="reflect"),
        )
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        change = self.body(x)
        return torch.tanh(x + change if self.residual else change)


class PatchDiscriminator(nn.Module):
    """Judge overlapping 70 px windows: float (B, 3, H, W) to real-valued scores (B, 1, H/8 - 2, W/8 - 2)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for inputs, outputs, stride in ((1, 2, 2), (2, 4, 2), (4, 8, 1)):
            layers += [
                nn.Conv2d(inputs * width, outputs * width, 4, stride=stride, padding=1),
                nn.InstanceNorm2d(outputs * width),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers.append(nn.Conv2d(8 * width, 1, 4, padding=1))
        self.body = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def _initialise(module: nn.Module) -> None:
    """Weights from N(0, 0.02), as in the original work."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
