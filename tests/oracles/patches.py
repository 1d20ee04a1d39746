"""Slow readable twins of pdamlib.data.patches: the whole field is turned first, and the patch is cut out afterwards."""

import numpy as np
from skimage.measure import label
from skimage.transform import AffineTransform, warp


def turn_then_crop(
    image: np.ndarray, label_map: np.ndarray, matrix: np.ndarray, size: int, smallest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the patch (size, size, 3) and its label map by scikit-image; `matrix` maps field x, y to patch x, y."""
    height, width = label_map.shape
    corners = np.array([[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]])
    places = np.vstack([corners @ matrix.T, [[0, 0], [size - 1, size - 1]]])
    left, top = (int(np.floor(low)) for low in places.min(axis=0))
    right, bottom = (int(np.ceil(high)) + 1 for high in places.max(axis=0))
    to_canvas = np.vstack([matrix, [0, 0, 1]])
    to_canvas[:2, 2] -= left, top

    def turned(plane: np.ndarray, order: int) -> np.ndarray:
        inverse = AffineTransform(to_canvas).inverse
        shape = (bottom - top, right - left)
        canvas = warp(plane, inverse, output_shape=shape, order=order, mode="reflect", preserve_range=True)
        return canvas[-top : size - top, -left : size - left]

    patch = turned(image, 1).round().astype(np.uint8)
    return patch, without_fragments(label(turned(label_map, 0).round().astype(int), connectivity=2), smallest)


def without_fragments(labels: np.ndarray, smallest: int) -> np.ndarray:
    """Return the label map with ids 1..N without the nuclei of fewer pixels than `smallest`."""
    kept = np.zeros_like(labels)
    for nucleus in range(1, labels.max() + 1):
        pixels = labels == nucleus
        if pixels.sum() >= smallest:
            kept[pixels] = kept.max() + 1
    return kept


def symmetries(window: np.ndarray) -> list[np.ndarray]:
    """Return the eight ways a square can lie: four turns, each as it is and mirrored left to right."""
    turns = [window, window.swapaxes(0, 1)[::-1], window[::-1, ::-1], window.swapaxes(0, 1)[:, ::-1]]
    return turns + [turn[:, ::-1] for turn in turns]
