"""Slow readable twins of pdamlib.engine.infer: full-size masks pasted one by one, pixel by pixel."""

import numpy as np

from pdamlib.engine.infer import Detections


def probability(mask: np.ndarray, box: np.ndarray, row: int, column: int) -> float:
    """Return a mask's value at a pixel of the image, 0 where its centre is outside the box.

    Cell i lies at pixel start + (i + 0.5) * side / M. Between cells the value is bilinear, beyond the last it stays.
    """
    cells = len(mask)
    x1, y1, x2, y2 = (float(corner) for corner in box)
    if not (x1 <= column + 0.5 < x2 and y1 <= row + 0.5 < y2):
        return 0.0
    v, u = (row - y1) * cells / (y2 - y1) - 0.5, (column - x1) * cells / (x2 - x1) - 0.5
    v, u = (min(max(place, 0), cells - 1) for place in (v, u))
    total = 0.0
    for i in range(cells):
        for j in range(cells):
            total += max(1 - abs(v - i), 0) * max(1 - abs(u - j), 0) * float(mask[i, j])
    return total


def plane(mask: np.ndarray, box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the mask's probability at every pixel of the image: (H, W) float64."""
    values = [[probability(mask, box, row, column) for column in range(shape[1])] for row in range(shape[0])]
    return np.array(values).reshape(shape)


def merge(found: Detections, taken: float = 0.7, threshold: float = 0.5) -> np.ndarray:
    """Return the label map by the rule in words: best first, a later nucleus gets the pixels nobody has."""
    label_map = np.zeros(found.shape, np.int32)
    for index in sorted(range(len(found.scores)), key=lambda i: (-found.scores[i], i)):
        mask = plane(found.masks[index], found.boxes[index], found.shape) >= threshold
        free = mask & (label_map == 0)
        if free.any() and 1 - free.sum() / mask.sum() <= taken + 1e-9:
            label_map[free] = label_map.max() + 1
    return label_map
