"""From a trained network to one label map of an image of any size: tiles, detections, one merged map."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from pdamlib.engine.runtime import Runtime

Box = tuple[int, int, int, int]

SEAM = 2
"""Ours, px: both tiles at a seam answer for centres this near to it, lest each sees a centre on the other's side."""


class Detector(Protocol):
    """What tiling needs of a network."""

    def predict_batch(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Return boxes (N, 4) px, scores (N,) and masks (N, M, M) in 0..1 of each image of (B, 3, H, W) in 0..1."""


@dataclass(frozen=True)
class Detections:
    """N nuclei of one image, best first.

    boxes: float32 (N, 4), x1 y1 x2 y2 px. scores: float32 (N,) in 0..1. masks: float32 (N, M, M) probabilities, a grid
    over each box. shape: of the image.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    masks: NDArray[np.float32]
    shape: tuple[int, int]

    def over(self, score: float) -> "Detections":
        """Return those with a score above the given one."""
        keep = self.scores > score
        return Detections(self.boxes[keep], self.scores[keep], self.masks[keep], self.shape)


def tiles(length: int, size: int, overlap: int) -> list[tuple[int, int, int]]:
    """Return (start, first, last) along one axis: a tile begins at `start` and is responsible for first <= x < last.

    Tiles of `size` px overlap by at least `overlap`; their responsibilities meet in the middle of the overlap and cover
    0..length exactly once. A length up to `size` gives one tile.
    """
    if length <= size:
        return [(0, 0, length)]
    count = -(-(length - overlap) // (size - overlap))
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    seams = [0, *((left + size + right) // 2 for left, right in pairwise(starts)), length]
    return [(start, *seam) for start, seam in zip(starts, pairwise(seams), strict=True)]


@torch.inference_mode()
def detect(
    network: Detector,
    image: NDArray[np.uint8],
    runtime: Runtime,
    *,
    tile: int,
    overlap: int,
    nms_iou: float,
    batch: int = 1,
) -> Detections:
    """Return the nuclei of an image uint8 (H, W, 3) of any size, each once.

    A detection counts in the tile that is responsible for its centre, so a nucleus cut by a tile's edge is taken from
    the neighbour that sees it whole, as long as it is smaller than the overlap by 2 SEAM.
    """
    height, width = image.shape[:2]
    places = [(y, x) for y in tiles(height, tile, overlap) for x in tiles(width, tile, overlap)]
    found: list[dict[str, Tensor]] = []
    for start in range(0, len(places), batch):
        group = places[start : start + batch]
        crops = np.stack([image[y[0] : y[0] + tile, x[0] : x[0] + tile] for y, x in group])
        tensor = torch.from_numpy(crops).to(runtime.device).permute(0, 3, 1, 2).float().div_(255)
        with runtime.autocast():
            results = network.predict_batch(tensor)
        found += [_responsible(result, y, x) for result, (y, x) in zip(results, group, strict=True)]
    together = {name: torch.cat([part[name] for part in found]).float() for name in ("boxes", "scores", "masks")}
    # a centre may move across a seam between two tiles' views of one nucleus
    keep = nms(together["boxes"], together["scores"], nms_iou)
    return Detections(**{name: part[keep].cpu().numpy() for name, part in together.items()}, shape=(height, width))


def _responsible(result: dict[str, Tensor], y: tuple[int, int, int], x: tuple[int, int, int]) -> dict[str, Tensor]:
    """The detections of a tile whose centres it answers for, or nearly so, in coordinates of the image."""
    boxes = result["boxes"] + result["boxes"].new_tensor([x[0], y[0], x[0], y[0]])
    centre_x, centre_y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    keep = (centre_x >= x[1] - SEAM) & (centre_x < x[2] + SEAM) & (centre_y >= y[1] - SEAM) & (centre_y < y[2] + SEAM)
    return {"boxes": boxes[keep], "scores": result["scores"][keep], "masks": result["masks"][keep]}


def merge(found: Detections, taken: float = 0.7, threshold: float = 0.5) -> NDArray[np.int32]:
    """Return one label map (H, W), ids 1..N by descending score; of two overlapping masks the better keeps the pixels.

    Each mask is drawn within its own box, so no full-size mask is ever built. taken: a mask that has more than this
    share of its pixels taken already is dropped. threshold: on the mask probability.
    """
    label_map = np.zeros(found.shape, np.int32)
    order = np.argsort(-found.scores, kind="stable")
    label = 0
    for (x1, y1, x2, y2), mask in _drawn(found, order, threshold):
        region = label_map[y1:y2, x1:x2]
        free = mask & (region == 0)
        size, left = np.count_nonzero(mask), np.count_nonzero(free)
        if left and (size - left) / size <= taken:
            label += 1
            region[free] = label
    return label_map


def _drawn(found: Detections, order: NDArray[np.intp], threshold: float) -> Iterator[tuple[Box, NDArray[np.bool_]]]:
    """Each mask enlarged to its box, as (region of the image, binary mask of that region)."""
    height, width = found.shape
    cells = found.masks.shape[-1]
    for index in order:
        x1, y1, x2, y2 = found.boxes[index]
        step_x, step_y = (x2 - x1) / cells, (y2 - y1) / cells
        # the pixels whose centres lie in the box
        left, top = max(int(np.ceil(x1 - 0.5)), 0), max(int(np.ceil(y1 - 0.5)), 0)
        right, bottom = min(int(np.ceil(x2 - 0.5)), width), min(int(np.ceil(y2 - 0.5)), height)
        if left < right and top < bottom:
            # torchvision's RoIAlign, which makes the training targets, samples cell i at pixel x1 + (i + 0.5) * step
            matrix = np.array([[step_x, 0, x1 - left + step_x / 2], [0, step_y, y1 - top + step_y / 2]], np.float64)
            size = (right - left, bottom - top)
            mask = cv2.warpAffine(found.masks[index], matrix, size, borderMode=cv2.BORDER_REPLICATE)
            yield (left, top, right, bottom), mask >= threshold
