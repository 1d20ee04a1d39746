"""The feature extractor: a ResNet with GroupNorm and a feature pyramid (Sec. 3.1, 3.5)."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1
from torchvision.ops import FeaturePyramidNetwork

LEVELS = ("p2", "p3", "p4", "p5")
# ours: 10, one block a stage, for the smallest profile
BLOCKS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    10: (BasicBlock, (1, 1, 1, 1)),
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}
Norm = Callable[[int], nn.Module]


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """Return a GroupNorm of `groups` groups, or of the largest smaller number that divides `channels` (Sec. 3.5)."""
    fitting = max(g for g in range(1, min(groups, channels) + 1) if channels % g == 0)
    return nn.GroupNorm(fitting, channels)


class ResNet(nn.Module):
    """The four stages of a ResNet without its classifier; parameters are named as in torchvision.

    forward: (B, 3, H, W) float32 -> `p2`..`p5` before the pyramid, strides 4, 8, 16, 32.
    """

    def __init__(self, depth: int, width: int, norm: Norm) -> None:
        super().__init__()
        block, counts = BLOCKS[depth]
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.channels = [width * 2**stage * block.expansion for stage in range(4)]
        for stage, count in enumerate(counts):
            entering = self.channels[stage - 1] if stage else width
            layers = _stage(block, entering, width * 2**stage, count, stride=2 if stage else 1, norm=norm)
            setattr(self, f"layer{stage + 1}", layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        x = self.maxpool(F.relu(self.bn1(self.conv1(images)), inplace=True))
        stages = OrderedDict()
        for stage, level in enumerate(LEVELS):
            x = stages[level] = getattr(self, f"layer{stage + 1}")(x)
        return stages


def _stage(
    block: type[BasicBlock | Bottleneck], entering: int, planes: int, count: int, stride: int, norm: Norm
) -> nn.Sequential:
    """Return `count` residual blocks, the first one with the stride and the change of channels."""
    leaving = planes * block.expansion
    shortcut = None
    if stride != 1 or entering != leaving:
        shortcut = nn.Sequential(conv1x1(entering, leaving, stride), norm(leaving))
    first = block(entering, planes, stride, shortcut, norm_layer=norm)
    return nn.Sequential(first, *(block(leaving, planes, norm_layer=norm) for _ in range(1, count)))


class ResNetFPN(nn.Module):
    """ResNet and feature pyramid. forward: (B, 3, H, W) -> `p2`..`p5`, each (B, out_channels, H / 4 .. H / 32, ...).

    H and W are multiples of 32, so that every level halves the one before.
    """

    def __init__(self, depth: int, width: int, fpn_channels: int, groups: int) -> None:
        super().__init__()
        norm = partial(group_norm, groups=groups)
        self.body = ResNet(depth, width, norm)
        self.fpn = FeaturePyramidNetwork(self.body.channels, fpn_channels, norm_layer=norm)
        self.out_channels = fpn_channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        pyramid: OrderedDict[str, Tensor] = self.fpn(self.body(images))
        return pyramid


def resnet_fpn(depth: int = 101, width: int = 64, fpn_channels: int = 256, groups: int = 32) -> ResNetFPN:
    """Return a ResNet-FPN with GroupNorm and without any BatchNorm; defaults are the paper's (Sec. 3.1, 3.5).

    depth: 10, 18, 34, 50 or 101. width: channels of the stem and of the first stage, 64 in every published ResNet.
    groups: GroupNorm groups, fewer where they do not divide the channels.
    """
    return ResNetFPN(depth, width, fpn_channels, groups)
