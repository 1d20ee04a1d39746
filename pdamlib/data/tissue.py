"""H&E fields of the procedural microscope: how much of each stain lies where, and the light it lets pass."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from pdamlib.data.scenes import AREA, GREY, STANDARD, Microscope, Nuclei, focus, grow_nuclei, illumination
from pdamlib.data.shapes import (
    Field,
    LabelMap,
    Points,
    Size,
    depth,
    fibre_noise,
    fill,
    outline,
    smooth_noise,
    spots,
    within,
)


def histology(
    rng: np.random.Generator, size: Size = (256, 256), scope: Microscope = STANDARD
) -> tuple[NDArray[np.uint8], LabelMap]:
    """Return a field of H&E tissue, uint8 RGB (H, W, 3), and its label map, int32 (H, W), of nuclei alone.

    size: rows and columns in px. Smudges, debris, mucin and fibre shadows take hematoxylin too and have no label.
    """
    angle = rng.uniform(0, np.pi)
    stroma = scope.gap * sigmoid(3.5 * (smooth_noise(rng, size, 110) + rng.normal(-0.1, 0.8)))
    vacuoles, walls = fat(rng, size, scope)
    nuclei = grow_nuclei(rng, size, scope, vacuoles > 0.3, stroma, angle)
    free = (nuclei.label_map == 0).astype(np.float32)
    basophil, pink = cytoplasm(rng, nuclei, stroma, angle, scope)
    blood, lumen = red_cells(rng, size, scope)
    solid = (1 - vacuoles * free) * (1 - lumen * free)
    between = np.maximum(basophil, distractors(rng, nuclei, angle, scope)) * solid * free
    hematoxylin = focus(between + chromatin(rng, nuclei, scope), 0.5)  # nuclei taper within the section
    eosin = pink * solid * (0.5 + 0.5 * free) + walls * free
    return expose(rng, (hematoxylin, eosin, blood * free), scope), nuclei.label_map


def expose(rng: np.random.Generator, stains: tuple[Field, Field, Field], scope: Microscope) -> NDArray[np.uint8]:
    """Return the image (H, W, 3) of a stained slide by the law of Beer and Lambert: light = exp(-optical density).

    stains: optical density (H, W) of hematoxylin, eosin and blood. Their colours and strengths differ a little from
    image to image, as between laboratories.
    """
    size = stains[0].shape
    density = np.zeros((*size, 3), np.float32)
    for amount, colour in zip(stains, (scope.hematoxylin, scope.eosin, scope.blood), strict=True):
        vector = np.array(GREY) + scope.gap * (np.array(colour) - GREY)
        vector = np.maximum(vector + 0.35 * scope.gap * scope.stain_spread * rng.standard_normal(3), 0.02)
        strength = math.exp(1.6 * scope.gap * scope.stain_spread * rng.standard_normal())
        density += (strength * amount)[..., None] * (vector / np.linalg.norm(vector)).astype(np.float32)
    light = focus(np.exp(-density), scope.blur) * illumination(rng, size, scope.uneven_light / 4)[..., None]
    noise = 0.008 * scope.noise * rng.standard_normal(light.shape, dtype=np.float32)
    return np.clip(np.round(245 * (light + noise)), 0, 255).astype(np.uint8)


def chromatin(rng: np.random.Generator, nuclei: Nuclei, scope: Microscope) -> Field:
    """Return hematoxylin (H, W) in nuclei alone: pale vesicular ones with a dark rim and nucleoli, and dense ones."""
    size, number = nuclei.label_map.shape, len(nuclei.outlines)
    dense = nuclei.spindle | nuclei.lymphocyte | (rng.random(number) < 0.25)
    level = np.where(dense, 1.1, 0.68) * np.exp(scope.gap * scope.darkness_spread * rng.standard_normal(number))
    level = np.clip(level, 0.25, 1.9)
    pale = nuclei.spread(scope.gap * np.where(dense, 0.2, rng.uniform(0.5, 1.0, number)))
    rim = np.exp(-np.square((depth(nuclei.label_map) - 1.5) / 1.4))
    grain = 0.55 * smooth_noise(rng, size, 2.6) + 0.6 * smooth_noise(rng, size, 5)
    points = within(rng, nuclei.outlines, 2)
    dots = spots(points, rng.uniform(1.2, 2.3, len(points)), scope.gap * rng.uniform(0.3, 1, len(points)), size)
    body = 1 + 0.12 * grain * (1 + 2 * pale) + pale * (0.65 * rim - 0.32) + 0.8 * dots * pale
    return np.asarray(nuclei.spread(level) * np.maximum(body, 0.15), np.float32)


def cytoplasm(
    rng: np.random.Generator, nuclei: Nuclei, stroma: Field, angle: float, scope: Microscope
) -> tuple[Field, Field]:
    """Return hematoxylin and eosin (H, W) between nuclei: wavy pink strands in the stroma, granular cells elsewhere."""
    size = stroma.shape
    strands = fibre_noise(rng, size, angle) + 0.7 * fibre_noise(rng, size, angle + 0.25, 60, 6)
    collagen = 0.5 + 0.15 * scope.fibres * strands + 0.08 * smooth_noise(rng, size, 30)
    clefts = sigmoid(5 * (scope.fibres * strands + 2.1))  # where strands part, the slide shines through
    distance, cell = nearest(nuclei)
    tone = np.exp(0.18 * rng.standard_normal(int(cell.max()) + 1)).astype(np.float32)[cell]
    body = tone * (0.42 + 0.07 * smooth_noise(rng, size, 4) + 0.06 * smooth_noise(rng, size, 14))
    body += 0.22 * membranes(cell)
    shrunk = (0.8 * rng.random(int(cell.max()) + 1) ** 2.5).astype(np.float32)[cell]  # fixing pulls some cells off
    halo = shrunk * np.exp(-np.square((distance - 2.5) / 2.5)) * sigmoid(1 + 2 * smooth_noise(rng, size, 12))
    eosin = (stroma * collagen * clefts + (1 - stroma) * body) * (1 - halo)
    basophil = rng.uniform(0.08, 0.3) * np.exp(0.4 * smooth_noise(rng, size, 45) + 0.3 * smooth_noise(rng, size, 5))
    basophil = (1 - stroma) * tone * basophil + stroma * 0.06 * (1 + strands)
    hematoxylin = scope.gap * basophil * (1 - halo)
    return np.maximum(hematoxylin, 0), np.maximum(scope.gap * scope.stroma * eosin, 0)


def nearest(nuclei: Nuclei) -> tuple[Field, NDArray[np.int32]]:
    """Return for each pixel (H, W) the distance in px to the nearest group of touching nuclei, and its number."""
    if not nuclei.outlines:
        return np.full(nuclei.label_map.shape, 1e3, np.float32), np.zeros_like(nuclei.label_map)
    outside = (nuclei.label_map == 0).astype(np.uint8)
    distance, group = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, 5)
    return np.asarray(distance, np.float32), np.asarray(group, np.int32)


def membranes(cell: NDArray[np.int32]) -> Field:
    """Return the borders (H, W, 0..1) between the cells of a label map."""
    border = np.zeros(cell.shape, np.float32)
    border[1:] = cell[1:] != cell[:-1]
    border[:, 1:] = np.maximum(border[:, 1:], cell[:, 1:] != cell[:, :-1])
    return np.asarray(np.minimum(2.2 * focus(border, 1.0), 1), np.float32)


def fat(rng: np.random.Generator, size: Size, scope: Microscope) -> tuple[Field, Field]:
    """Return the empty inside (H, W, 0..1) of fat vacuoles, which lie in groups, and the eosin of their walls."""
    number = rng.poisson(scope.gap * scope.fat * size[0] * size[1] / AREA)
    home = rng.uniform(0, 1, (max(1, number // 4), 2)) * (size[1], size[0])
    inside, wall = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for _ in range(number):
        centre = home[rng.integers(len(home))] + rng.normal(0, 34, 2)
        contour = outline(rng, centre, rng.uniform(8, 26), rng.uniform(1, 1.35), rng.uniform(0, np.pi), 0.05)
        window, mask = fill(contour, size)
        inside[window][mask] = 1
        cv2.polylines(wall, [np.round(contour * 16).astype(np.int32)], True, (1.0,), 2, cv2.LINE_8, 4)
    return focus(inside * (1 - wall), 0.8), 0.45 * scope.stroma * focus(wall, 0.9)


def red_cells(rng: np.random.Generator, size: Size, scope: Microscope) -> tuple[Field, Field]:
    """Return the optical density (H, W) of red blood cells, discs of 4-5 px, and the vessel (0..1) around them."""
    groups = rng.poisson(scope.gap * scope.red_cells * size[0] * size[1] / AREA)
    blood, lumen = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for _ in range(groups):
        number = int(rng.integers(3, 11))
        reach = 5.5 * np.sqrt(number) * rng.uniform(0.8, 1.2)
        way = rng.uniform(0, np.pi)
        centre = rng.uniform(0, 1, 2) * (size[1], size[0])
        window, mask = fill(outline(rng, centre, 1.25 * reach, 2.0, way, 0.1), size)
        lumen[window][mask] = 0.85
        turn, share = rng.uniform(0, 2 * np.pi, number), np.sqrt(rng.random(number))
        long, short = 1.3 * reach * share * np.cos(turn), 0.6 * reach * share * np.sin(turn)
        axis = np.array([np.cos(way), np.sin(way)])
        points = centre + long[:, None] * axis + short[:, None] * axis[::-1] * (-1, 1)
        radii = rng.uniform(3.6, 5.2, number)
        discs = spots(points, radii, rng.uniform(0.8, 1.3, number), size)
        pallor = spots(points, 0.45 * radii, np.full(number, 0.3), size, 1.2)
        blood = np.maximum(blood, discs * (1 - pallor))
    return blood, focus(lumen, 1.2)


def distractors(rng: np.random.Generator, nuclei: Nuclei, angle: float, scope: Microscope) -> Field:
    """Return hematoxylin (H, W) of things that look like nuclei and are none, clear of the nuclei by some px.

    Smudges (crushed or out of focus), pyknotic crumbs, clouds of mucin and shadows of fibres.
    """
    size = nuclei.label_map.shape
    stain = np.zeros(size, np.float32)
    number = rng.poisson(scope.gap * scope.distractors * size[0] * size[1] / AREA)
    taken = cv2.dilate((nuclei.label_map > 0).astype(np.uint8), np.ones((13, 13), np.uint8))
    for kind in rng.choice(4, number, p=(0.4, 0.2, 0.1, 0.3)):
        centre = rng.uniform(0, 1, 2) * (size[1], size[0])
        if not taken[int(centre[1]), int(centre[0])]:
            DISTRACTORS[kind](rng, stain, centre, angle, scope.radius)
    return stain


def _smudge(rng: np.random.Generator, stain: Field, centre: Points, angle: float, radius: float) -> None:
    contour = outline(rng, centre, radius * rng.uniform(0.6, 1.15), rng.uniform(1, 2), rng.uniform(0, np.pi), 0.22)
    _stamp(stain, contour, rng.uniform(0.45, 1.1), rng.uniform(1.2, 3.5), rng)


def _crumbs(rng: np.random.Generator, stain: Field, centre: Points, angle: float, radius: float) -> None:
    for _ in range(rng.integers(1, 6)):
        place = centre + rng.normal(0, 0.5 * radius, 2)
        _stamp(stain, outline(rng, place, radius * rng.uniform(0.1, 0.3), 1.2, 0, 0.1), rng.uniform(0.9, 1.6), 0.7, rng)


def _mucin(rng: np.random.Generator, stain: Field, centre: Points, angle: float, radius: float) -> None:
    contour = outline(rng, centre, radius * rng.uniform(1.6, 3), rng.uniform(1, 2), angle, 0.3)
    _stamp(stain, contour, rng.uniform(0.35, 0.65), radius * 0.5, rng)


def _shadow(rng: np.random.Generator, stain: Field, centre: Points, angle: float, radius: float) -> None:
    contour = outline(rng, centre, radius * rng.uniform(0.5, 0.75), rng.uniform(4, 9), angle + rng.normal(0, 0.2), 0.15)
    _stamp(stain, contour, rng.uniform(0.5, 1.1), rng.uniform(0.9, 1.8), rng)


DISTRACTORS = (_smudge, _crumbs, _mucin, _shadow)


def _stamp(stain: Field, contour: Points, level: float, softness: float, rng: np.random.Generator) -> None:
    """Raise `stain` to a soft-edged, grainy patch of the given level, in the window around the contour alone."""
    margin = int(3 * softness) + 1
    low = np.floor(contour.min(axis=0)).astype(int) - margin
    high = np.ceil(contour.max(axis=0)).astype(int) + margin + 1
    wide, tall = (high - low).tolist()
    inner, mask = fill(contour - low, (tall, wide))
    patch = np.zeros((tall, wide), np.float32)
    patch[inner][mask] = level
    patch = focus(patch, softness) * (1 + 0.18 * smooth_noise(rng, (tall, wide), 4))
    (left, top), (right, bottom) = np.maximum(low, 0).tolist(), np.maximum(high, 0).tolist()
    view = stain[top:bottom, left:right]  # slicing stops at the far borders
    patch = patch[top - low[1] :, left - low[0] :][: view.shape[0], : view.shape[1]]
    np.maximum(view, patch, out=view)


def sigmoid(field: Field) -> Field:
    """Return 1 / (1 + exp(-field))."""
    return np.asarray(1 / (1 + np.exp(-field)), np.float32)
