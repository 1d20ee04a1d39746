"""Shapes and textures of the procedural microscope: outlines of nuclei, their layout, and noise that looks like tissue.

Sizes are (rows, columns) in pixels, outlines (P, 2) float64 of x and y, fields (H, W) float32 or float64.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
Field = NDArray[np.floating[Any]]
LabelMap = NDArray[np.int32]
Points = NDArray[np.float64]

SLIVER = 30  # ours: px; what is left of a nucleus behind its neighbours or the border must be recognisable


def smooth_noise(rng: np.random.Generator, size: Size, scale: float) -> Field:
    """Return a random field (H, W) of mean 0 and deviation 1 whose grains are about `scale` px wide."""
    step = max(1.0, scale / 2)  # drawn coarsely and enlarged: the cost does not grow with the scale
    rows, columns = (int(np.ceil(side / step)) + 6 for side in size)
    grains = cv2.GaussianBlur(rng.standard_normal((rows, columns), dtype=np.float32), (0, 0), scale / step / 2)
    enlarged = cv2.resize(grains, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
    top, left = (int(rng.integers(0, have - want + 1)) for have, want in zip(enlarged.shape, size, strict=True))
    field = enlarged[top : top + size[0], left : left + size[1]]
    return np.asarray((field - grains.mean()) / (grains.std() + 1e-6), np.float32)


def fibre_noise(rng: np.random.Generator, size: Size, angle: float, length: float = 36, width: float = 2.6) -> Field:
    """Return wavy strands (H, W), mean 0 and deviation 1, that run along `angle` (radians) in the mean.

    length, width: px of one strand.
    """
    side = int(np.hypot(*size)) + 80
    step = length / 6  # strands change slowly along themselves: coarse columns do
    strands = rng.standard_normal((side, int(side / step) + 4), dtype=np.float32)
    strands = np.asarray(cv2.GaussianBlur(strands, (0, 0), sigmaX=3, sigmaY=width / 2), np.float32)
    y, x = np.indices(size, dtype=np.float32)
    x -= size[1] / 2
    y -= size[0] / 2
    wave = 9 * smooth_noise(rng, size, 60) + 2 * smooth_noise(rng, size, 18)
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    along = (cosine * x + sine * y + side / 2) / step
    across = cosine * y - sine * x + side / 2 + wave
    field = cv2.remap(strands, along, across, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray((field - strands.mean()) / strands.std(), np.float32)


def outline(
    rng: np.random.Generator, centre: Points, radius: float, elongation: float, angle: float, wobble: float
) -> Points:
    """Return a closed smooth contour (64, 2), x and y: an ellipse of area pi radius^2, deformed by low Fourier orders.

    elongation: long over short axis, 1 or more. angle: of the long axis, radians. wobble: relative, 0 is an ellipse.
    """
    theta = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    orders = np.arange(2, 6)
    phases = rng.uniform(0, 2 * np.pi, len(orders))
    sizes = wobble * rng.standard_normal(len(orders)) / (orders - 1) ** 1.5
    reach = radius * np.maximum(1 + sizes @ np.cos(orders[:, None] * theta + phases[:, None]), 0.3)
    long, short = reach * np.cos(theta) * np.sqrt(elongation), reach * np.sin(theta) / np.sqrt(elongation)
    turned = (np.cos(angle) * long - np.sin(angle) * short, np.sin(angle) * long + np.cos(angle) * short)
    return np.asarray(centre + np.stack(turned, axis=1), np.float64)


def place(rng: np.random.Generator, size: Size, radii: Points, touching: float, taken: NDArray[np.bool_]) -> Points:
    """Return centres (N, 2), x and y, for circles of the given radii (N,); NaN where a crowded field has no room left.

    A share `touching` of them lies against an earlier one, the others keep a distance; none lies in `taken` (H, W).
    Centres reach one radius beyond the field, so that its border cuts some nuclei.
    """
    centres = np.full((len(radii), 2), np.nan)
    for index, radius in enumerate(radii):
        earlier = np.flatnonzero(~np.isnan(centres[:index, 0]))
        leans = rng.random() < touching and len(earlier) > 0
        if leans:
            partner = rng.choice(earlier, 16)
            turn = rng.uniform(0, 2 * np.pi, 16)
            reach = (radius + radii[partner]) * rng.uniform(0.85, 1.0, 16)
            tries = centres[partner] + reach[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        else:
            tries = rng.uniform(-radius, np.array([size[1], size[0]]) + radius, (16, 2))
        apart = np.linalg.norm(tries[:, None] - centres[earlier], axis=2) / (radius + radii[earlier])
        x, y = (np.clip(tries[:, axis], 0, size[1 - axis] - 1).astype(int) for axis in (0, 1))
        fits = (apart.min(axis=1, initial=np.inf) > (0.82 if leans else 1.25)) & ~taken[y, x]
        if fits.any():
            centres[index] = tries[fits.argmax()]
    return centres


def fill(contour: Points, size: Size) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """Return the window of the field that a contour covers and its inside there, bool; an empty window when outside."""
    low = np.clip(np.floor(contour.min(axis=0)).astype(int), 0, (size[1], size[0]))
    high = np.clip(np.ceil(contour.max(axis=0)).astype(int) + 1, low, (size[1], size[0]))
    inside = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    if inside.size:
        cv2.fillPoly(inside, [np.round((contour - low) * 16).astype(np.int32)], (1,), shift=4)
    return (slice(low[1], high[1]), slice(low[0], high[0])), inside.astype(bool)


def draw(contours: Sequence[Points], size: Size) -> tuple[LabelMap, NDArray[np.intp]]:
    """Return the label map (H, W) of filled contours, and for each label 1..N the index of its contour.

    A contour gets only the pixels that earlier ones left, of these the largest connected piece, and no label when
    that piece is a sliver: each label is one solid region.
    """
    label_map = np.zeros(size, np.int32)
    kept: list[int] = []
    for index, contour in enumerate(contours):
        window, inside = fill(contour, size)
        inside &= label_map[window] == 0
        if inside.sum() < SLIVER:
            continue
        _, pieces, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=4)
        largest = int(stats[1:, cv2.CC_STAT_AREA].argmax()) + 1
        if stats[largest, cv2.CC_STAT_AREA] >= SLIVER:
            kept.append(index)
            label_map[window][pieces == largest] = len(kept)
    return label_map, np.array(kept, np.intp)


def depth(label_map: LabelMap) -> Field:
    """Return the distance (H, W) in px of each nuclear pixel to the edge of its own nucleus, 0 outside."""
    own = label_map > 0
    down = label_map[1:] == label_map[:-1]
    right = label_map[:, 1:] == label_map[:, :-1]
    own[1:] &= down
    own[:-1] &= down
    own[:, 1:] &= right
    own[:, :-1] &= right
    return (cv2.distanceTransform(own.astype(np.uint8), cv2.DIST_L2, 3) + (label_map > 0)).astype(np.float32)


def spots(points: Points, radii: Points, strengths: Points, size: Size, blur: float = 0.7) -> Field:
    """Return soft-edged discs (H, W): at each point (N, 2) its strength (N,), over a radius (N,) in px."""
    field = np.zeros(size, np.float32)
    for (x, y), radius, strength in zip(points, radii, strengths, strict=True):
        centre = (round(float(x) * 16), round(float(y) * 16))
        cv2.circle(field, centre, round(float(radius) * 16), (float(strength),), -1, cv2.LINE_8, shift=4)
    return np.asarray(cv2.GaussianBlur(field, (0, 0), blur), np.float32)


def within(rng: np.random.Generator, contours: Sequence[Points], most: int) -> Points:
    """Return random points (M, 2) well inside contours, 0 to `most` in each."""
    owner = np.repeat(np.arange(len(contours)), rng.integers(0, most + 1, len(contours)))
    share = rng.uniform(0, 0.55, (len(owner), 1))  # of the way from the centre to the edge
    edge = np.array([contours[index][rng.integers(64)] for index in owner.tolist()]).reshape(-1, 2)
    centre = np.array([contours[index].mean(axis=0) for index in owner.tolist()]).reshape(-1, 2)
    return np.asarray(centre + share * (edge - centre), np.float64)
