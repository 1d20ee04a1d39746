"""RoIAlign by matrix products, forward and backward, which on a CPU is several times faster for small patches."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from pdamlib.models.backbone import LEVELS

STRIDES = (4, 8, 16, 32)
SAMPLES = 2  # points a bin and axis
MOST_CELLS = 64 * 64  # of P2; from there on, patches over 256 px, torchvision's loop over the samples is as fast


class PyramidRoIAlign(MultiScaleRoIAlign):
    """RoIAlign over p2..p5, each RoI from the level of its size.

    forward: pyramid, boxes (N, 4) in pixels for each image, (H, W) of each image -> (all N, C, size, size).
    """

    def __init__(self, size: int, canonical_scale: int) -> None:
        """Build it. canonical_scale: side in pixels of a RoI taken from P4; half of it is taken from P3, and so on."""
        super().__init__(list(LEVELS), size, SAMPLES, canonical_scale=canonical_scale)
        # set here, as torchvision guesses the strides from the first image it meets and keeps the guess
        self.scales = [1 / stride for stride in STRIDES]
        self.map_levels = initLevelMapper(2, 5, canonical_scale=canonical_scale)

    def forward(self, pyramid: Mapping[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        finest = pyramid[LEVELS[0]]
        small = finest.device.type == "cpu" and finest[0, 0].numel() <= MOST_CELLS
        if small and any(len(box) > 0 for box in boxes):
            return self._by_products(pyramid, boxes)
        pooled: Tensor = super().forward(dict(pyramid), boxes, sizes)
        return pooled

    def _by_products(self, pyramid: Mapping[str, Tensor], boxes: list[Tensor]) -> Tensor:
        level_of = self.map_levels(boxes).split([len(box) for box in boxes])
        pieces, places, first, size = [], [], 0, self.output_size[0]
        for image, (box, level) in enumerate(zip(boxes, level_of, strict=True)):
            for number, (name, stride) in enumerate(zip(LEVELS, STRIDES, strict=True)):
                here = (level == number).nonzero()[:, 0]
                if len(here):
                    pieces.append(roi_align_by_products(pyramid[name][image], box[here], 1 / stride, size))
                    places.append(here + first)
            first += len(box)
        return torch.cat(pieces)[torch.cat(places).argsort()]


def roi_align_by_products(features: Tensor, boxes: Tensor, scale: float, size: int) -> Tensor:
    """Return the RoIs pooled as by `torchvision.ops.roi_align` with two samples an axis: (N, C, size, size).

    Bilinear sampling on a grid along the axes is linear and separable: rows @ features @ columns. Its cost grows with
    the area of the map, not of the RoIs, so it suits training patches and not whole images.

    features: (C, H, W) of one image. boxes: (N, 4) in pixels. scale: 1 / stride of the features.
    """
    channels, height, width = features.shape
    left, top, right, bottom = (boxes * scale).unbind(dim=1)
    rows = _sampling_weights(top, bottom, height, size).to(features.dtype)
    columns = _sampling_weights(left, right, width, size).to(features.dtype)
    lines = rows.flatten(0, 1) @ features.permute(1, 2, 0).reshape(height, width * channels)
    pooled = columns[:, None] @ lines.view(len(boxes), size, width, channels)
    return pooled.permute(0, 3, 1, 2)


def _sampling_weights(start: Tensor, end: Tensor, cells: int, size: int) -> Tensor:
    """Return how much each cell of an axis adds to each bin: (N, size, cells), each row summing to 1 inside the map."""
    step = (end - start).clamp(min=1) / (size * SAMPLES)
    points = start[:, None] + (torch.arange(size * SAMPLES, device=start.device) + 0.5) * step[:, None]
    inside = (points >= -1) & (points <= cells)
    distance = points.clamp(0, cells - 1)[..., None] - torch.arange(cells, device=start.device)
    weights = (1 - distance.abs()).clamp(min=0) * inside[..., None]
    return weights.unflatten(1, (size, SAMPLES)).mean(dim=2)
