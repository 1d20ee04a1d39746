"""Training patches of Sec. 4.2: normalised, inverted, warped source crops with labels; target crops without."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from pdamlib.labels import label_components

Image = NDArray[np.uint8]
LabelMap = NDArray[np.int32]


def normalise(image: NDArray[np.integer], percentiles: tuple[float, float]) -> Image:
    """Return a fluorescence image (H, W) of any range as uint8 0-255 (Sec. 4.2, first step).

    percentiles: the values that become 0 and 255. Minimum and maximum would be the paper's plain reading, but
    a speck of bright debris then turns every nucleus black; high percentiles ignore it.
    """
    low, high = np.percentile(image, percentiles)
    scaled = (image.astype(np.float32) - low) * (255 / max(high - low, 1))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def as_source(image: NDArray[np.integer], percentiles: tuple[float, float], invert: bool) -> Image:
    """Return a fluorescence image (H, W) as uint8 RGB (H, W, 3), by default with dark nuclei on a bright ground."""
    grey = normalise(image, percentiles)
    return np.repeat((255 - grey if invert else grey)[..., None], 3, axis=2)


def random_warp(
    rng: np.random.Generator, shape: tuple[int, int], size: int, scale: tuple[float, float]
) -> NDArray[np.float64]:
    """Return the (2, 3) matrix that carries a random window of an (H, W) image onto a size x size patch.

    Rotation is uniform, magnification log-uniform in scale, mirroring has probability 1/2; the window's centre
    keeps it inside the image as far as it fits.
    """
    zoom = math.exp(rng.uniform(math.log(scale[0]), math.log(scale[1])))
    angle, mirror = rng.uniform(0, 2 * math.pi), rng.choice((-1.0, 1.0))
    half = 0.5 * size / zoom * (abs(math.cos(angle)) + abs(math.sin(angle)))
    height, width = shape
    centre = np.array([_within(rng, width, half), _within(rng, height, half)])
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    linear = np.array([[mirror * cos, -mirror * sin], [sin, cos]])
    return np.column_stack([linear, (size - 1) / 2 - linear @ centre])


def _within(rng: np.random.Generator, length: int, half: float) -> float:
    """A coordinate at least `half` from both ends, or the middle where that is impossible."""
    return rng.uniform(half, length - 1 - half) if 2 * half < length - 1 else (length - 1) / 2


def source_patch(
    rng: np.random.Generator,
    image: Image,
    label_map: LabelMap,
    size: int,
    scale: tuple[float, float] = (1.0, 1.0),
    smallest: int = 1,
) -> tuple[Image, LabelMap]:
    """Return one random patch (size, size, 3) and its label map (size, size), warped alike (Sec. 4.2, second step).

    Labels are taken from the nearest pixel, so no id is ever invented between two others, and re-labelled by
    components. Fragments under `smallest` pixels become background. Beyond the border the image is mirrored.
    """
    matrix = random_warp(rng, (image.shape[0], image.shape[1]), size, scale)
    border = cv2.BORDER_REFLECT_101
    patch = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
    # OpenCV warps no int32; nearest neighbour only copies, so the ids' bits travel as float32
    bits = np.ascontiguousarray(label_map, np.int32).view(np.float32)
    bits = cv2.warpAffine(bits, matrix, (size, size), flags=cv2.INTER_NEAREST, borderMode=border)
    return patch, _without_fragments(label_components(bits.view(np.int32)), smallest)


def _without_fragments(labels: LabelMap, smallest: int) -> LabelMap:
    """The label map (ids 1..N) without nuclei under `smallest` pixels, in the same order and without gaps."""
    kept = np.bincount(labels.ravel()) >= smallest
    kept[0] = False
    return (np.cumsum(kept, dtype=np.int32) * kept)[labels]


def target_patch(
    rng: np.random.Generator, image: NDArray, size: int, label_map: LabelMap | None = None
) -> tuple[Image, LabelMap | None]:
    """Return one random patch (size, size, 3), flipped and turned by right angles (Sec. 4.2); no labels are read.

    label_map: only the supervised rows of Table 5 give one; it is cut alike.
    """
    top = rng.integers(image.shape[0] - size + 1)
    left = rng.integers(image.shape[1] - size + 1)
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))

    def cut(plane: NDArray) -> NDArray:
        window = np.rot90(plane[top : top + size, left : left + size], turns)
        return np.ascontiguousarray(window[:, ::-1] if flip else window)

    return cut(image), None if label_map is None else label_components(cut(label_map))
