"""Seeded scenes for the benchmarks: crowded nuclei, and a prediction that is wrong in all the usual ways."""

from typing import NamedTuple

import numpy as np


class Ellipses(NamedTuple):
    """N filled ellipses: centres (x, y), half axes in pixels, angle in radians, each (N,) float64."""

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    angle: np.ndarray


def crowd(rng: np.random.Generator, size: int = 1000, nuclei: int = 700) -> Ellipses:
    """Return that many ellipses on a jittered grid over a square image, close enough to touch here and there."""
    columns = int(np.ceil(np.sqrt(nuclei)))
    pitch = size / columns
    cells = np.sort(rng.choice(columns * columns, nuclei, replace=False))
    x, y = ((cells % columns) + 0.5) * pitch, ((cells // columns) + 0.5) * pitch
    jitter = rng.normal(0, pitch / 8, (2, nuclei))
    a, b = rng.uniform(0.2, 0.45, (2, nuclei)) * pitch
    return Ellipses(x + jitter[0], y + jitter[1], a, b, rng.uniform(0, np.pi, nuclei))


def perturbed(rng: np.random.Generator, truth: Ellipses, missed: float = 0.1, invented: float = 0.08) -> Ellipses:
    """Return what a fair detector would make of them: shifted, resized, some missed, some invented, order lost."""
    found = len(truth.x)
    shift, scale = rng.normal(0, 2.5, (2, found)), rng.uniform(0.8, 1.2, (2, found))
    moved = np.stack([truth.x + shift[0], truth.y + shift[1], truth.a * scale[0], truth.b * scale[1], truth.angle])
    kept = moved[:, rng.random(found) >= missed]
    extra = moved[:, rng.random(found) < invented].copy()
    extra[:2] = rng.uniform(0, max(truth.x.max(), truth.y.max()), extra[:2].shape)
    both = np.concatenate([kept, extra], axis=1)
    return Ellipses(*both[:, rng.permutation(both.shape[1])])


def draw(ellipses: Ellipses, size: int = 1000) -> np.ndarray:
    """Return the label map of the ellipses, later over earlier ones: (size, size) int32, id i + 1 for ellipse i."""
    label_map = np.zeros((size, size), np.int32)
    for label, (x, y, a, b, angle) in enumerate(zip(*ellipses, strict=True), start=1):
        reach = int(max(a, b)) + 2
        top, left = max(int(y) - reach, 0), max(int(x) - reach, 0)
        window = label_map[top : int(y) + reach + 1, left : int(x) + reach + 1]
        rows, columns = np.ogrid[top : top + window.shape[0], left : left + window.shape[1]]
        along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
        across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
        window[(along / a) ** 2 + (across / b) ** 2 <= 1] = label
    return label_map


def truth_and_prediction(seed: int = 0, size: int = 1000, nuclei: int = 700) -> tuple[np.ndarray, np.ndarray]:
    """Return a true and a predicted label map of one crowded image: two (size, size) int32."""
    rng = np.random.default_rng(seed)
    truth = crowd(rng, size, nuclei)
    return draw(truth, size), draw(perturbed(rng, truth), size)
