"""The semantic branch of Panoptic FPN on top of the feature pyramid (Sec. 3.3)."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from pdamlib.models.backbone import LEVELS, group_norm


class SemanticBranch(nn.Module):
    """Nucleus or background for each pixel, from all pyramid levels.

    Each level is brought to stride 4 by convolutions of 3 x 3 with GroupNorm and ReLU, each followed by a doubling of
    the size (P5 three, P4 two, P3 one; P2 one convolution alone); their sum is classified and enlarged four times.

    forward: `p2`..`p5` of an image of H x W -> logits (B, classes, H, W).
    """

    def __init__(
        self, in_channels: int, channels: int = 128, classes: int = 2, groups: int = 32, upsampling: str = "bilinear"
    ) -> None:
        """Build the branch. upsampling: `bilinear` as in Panoptic FPN, or `nearest` as in the released code."""
        super().__init__()
        enlarge = partial(nn.Upsample, mode=upsampling, align_corners=False if upsampling == "bilinear" else None)
        self.levels = nn.ModuleDict()
        for doublings, level in enumerate(LEVELS):
            layers: list[nn.Module] = []
            for step in range(max(doublings, 1)):
                layers += [
                    nn.Conv2d(channels if step else in_channels, channels, 3, padding=1, bias=False),
                    group_norm(channels, groups),
                    nn.ReLU(inplace=True),
                ]
                if doublings:
                    layers.append(enlarge(scale_factor=2))
            self.levels[level] = nn.Sequential(*layers)
        self.classify = nn.Conv2d(channels, classes, 1)
        self.enlarge = enlarge(scale_factor=4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classify.weight, std=0.01)

    def forward(self, pyramid: Mapping[str, Tensor]) -> Tensor:
        p2, p3, p4, p5 = (layers(pyramid[level]) for level, layers in self.levels.items())
        logits: Tensor = self.enlarge(self.classify(p2 + p3 + p4 + p5))
        return logits
