"""What stands under the procedural microscope: its knobs, the nuclei of a field, and fluorescence images of them."""

import math
from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from pdamlib.data.shapes import Field, LabelMap, Points, Size, depth, draw, outline, place, smooth_noise, spots, within
from pdamlib.errors import UserError

Stain = tuple[float, float, float]

GREY: Stain = (0.577, 0.577, 0.577)  # what all stains become without a gap
AREA = 10_000  # px; densities are counts in such an area, 100 x 100 px
DARK_LEVEL, FULL_WELL = 110, 4095  # camera counts, the range of BBBC039


@dataclass(frozen=True)
class Microscope:
    """The knobs of the simulation. Raises UserError when one is out of range.

    Stain colours are optical densities of red, green and blue light, of length about 1.
    """

    gap: float = 1.0  # 0..1: H&E looks close to inverted fluorescence .. like full histology
    density: float = 4.5  # nuclei per 100 x 100 px
    radius: float = 11.5  # px, mean of the nuclei, that of the disc of equal area
    radius_spread: float = 1.5  # px, standard deviation
    touching: float = 0.3  # 0..1, share of the nuclei laid against another one
    wobble: float = 0.10  # relative deformation of the outlines
    blur: float = 0.9  # px, sigma of the optics in focus
    noise: float = 1.0  # shot and read noise, 1 is a common camera
    uneven_light: float = 0.3  # 0..1, loss of light from the brightest to the darkest corner (a quarter of it in H&E)
    debris: float = 0.08  # bright unlabelled pieces per 100 x 100 px, fluorescence only
    darkness_spread: float = 0.45  # log-normal deviation of the optical density between nuclei, H&E only
    stroma: float = 1.0  # optical density of eosin, 1 is common
    fibres: float = 1.0  # contrast of the strands in the stroma, 1 is common
    fat: float = 0.15  # vacuoles per 100 x 100 px
    red_cells: float = 0.10  # groups of red blood cells per 100 x 100 px
    distractors: float = 3.5  # nucleus-like things that are none, per 100 x 100 px
    stain_spread: float = 0.10  # deviation of stain colours and strengths between images
    hematoxylin: Stain = (0.66, 0.68, 0.32)
    eosin: Stain = (0.16, 0.88, 0.44)
    blood: Stain = (0.05, 0.69, 0.72)

    def __post_init__(self) -> None:
        for knob in fields(self):
            value = getattr(self, knob.name)
            if knob.type is not float:
                continue
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"microscope setting {knob.name} is {value}: give a number that is not negative")
            if knob.name in ("gap", "touching", "uneven_light") and value > 1:
                raise UserError(f"microscope setting {knob.name} is {value}: give a number from 0 to 1")
        if self.radius < 4:
            raise UserError(f"microscope setting radius is {self.radius}: give 4 px or more, smaller nuclei are lost")


STANDARD = Microscope()


@dataclass(frozen=True)
class Nuclei:
    """The nuclei of one field: label_map int32 (H, W), and for each label 1..N a row of every other member.

    outlines: (64, 2) each. spindle, lymphocyte: bool (N,), kinds that differ in shape (both false: a round nucleus).
    """

    label_map: LabelMap
    outlines: list[Points]
    spindle: NDArray[np.bool_]
    lymphocyte: NDArray[np.bool_]

    def spread(self, values: NDArray[np.float64], outside: float = 0.0) -> Field:
        """Return the field (H, W) that holds each nucleus' value (N,) on its pixels."""
        return np.append(outside, values).astype(np.float32)[self.label_map]


def grow_nuclei(
    rng: np.random.Generator,
    size: Size,
    scope: Microscope,
    taken: NDArray[np.bool_],
    stroma: Field,
    angle: float = 0.0,
) -> Nuclei:
    """Return nuclei laid out at random, none centred in `taken` (H, W).

    Where `stroma` (H, W, 0..1) is high, most are spindles along `angle`; lymphocytes are everywhere it is above 0.
    """
    margin = 2 * scope.radius
    number = rng.poisson(scope.density * (size[0] + margin) * (size[1] + margin) / AREA)
    radii = np.clip(rng.normal(scope.radius, scope.radius_spread, number), 0.55 * scope.radius, 1.6 * scope.radius)
    centres = place(rng, size, radii, scope.touching, taken)
    found = ~np.isnan(centres[:, 0])
    centres, radii = centres[found], radii[found]
    x, y = (np.clip(centres[:, axis], 0, size[1 - axis] - 1).astype(int) for axis in (0, 1))
    spindle = rng.random(len(radii)) < 0.75 * stroma[y, x]
    lymphocyte = ~spindle & (rng.random(len(radii)) < 0.2 * (stroma[y, x] > 0))
    elongation = np.where(lymphocyte, 1.06, 1 + rng.gamma(2.2, 0.16, len(radii))) + spindle * rng.uniform(0.5, 1.3)
    turns = np.where(spindle, angle + rng.normal(0, 0.3, len(radii)), rng.uniform(0, np.pi, len(radii)))
    radii = radii * np.where(lymphocyte, 0.8, np.where(spindle, 0.9, 1.0))
    wobble = scope.wobble * np.where(lymphocyte, 0.4, 1.0)
    shapes = zip(centres, radii, elongation, turns, wobble, strict=True)
    contours = [outline(rng, *shape) for shape in shapes]
    label_map, kept = draw(contours, size)
    return Nuclei(label_map, [contours[index] for index in kept], spindle[kept], lymphocyte[kept])


def fluorescence(
    rng: np.random.Generator, size: Size = (256, 256), scope: Microscope = STANDARD
) -> tuple[NDArray[np.uint16], LabelMap]:
    """Return a field of stained nuclei, uint16 (H, W) of 110..4095 camera counts, and its label map, int32 (H, W).

    size: rows and columns in px. The nuclei shine on dark ground (U2OS cells with Hoechst in BBBC039, Sec. 4.1).
    """
    nuclei = grow_nuclei(rng, size, scope, np.zeros(size, bool), np.zeros(size, np.float32))
    number = len(nuclei.outlines)
    light = _glow(rng, nuclei, size) * rng.uniform(380, 800)
    defocus = nuclei.spread((rng.random(number) < 0.1) * rng.uniform(0.3, 1, number))
    light = focus(light * (1 - defocus), scope.blur) + focus(light * defocus, scope.blur + 1.5)
    light += _debris(rng, size, scope)
    light += 0.05 * focus(light, 14) + 0.03 * focus(light, 40)  # scattered light
    light = (light + 34) * illumination(rng, size, scope.uneven_light)
    return _camera(rng, light, scope.noise), nuclei.label_map


def focus(field: Field, sigma: float) -> Field:
    """Return the field blurred by optics of width sigma in px; 0 leaves it as it is."""
    return np.asarray(cv2.GaussianBlur(field, (0, 0), sigma), np.float32) if sigma > 0 else field


def illumination(rng: np.random.Generator, size: Size, loss: float) -> Field:
    """Return the light (H, W) that reaches each pixel: a broad off-centre hill from 1 - loss to 1."""
    y, x = np.indices(size, dtype=np.float32)
    top, left = rng.uniform(0.2, 0.8, 2) * size
    hill = np.square((y - top) / size[0]) + np.square((x - left) / size[1])
    return np.asarray(1 - loss * hill / hill.max(), np.float32)


def _glow(rng: np.random.Generator, nuclei: Nuclei, size: Size) -> Field:
    """Return the stain (H, W) in nuclei, about 1: grain, darker nucleoli, and a few condensed and bright (dividing)."""
    number = len(nuclei.outlines)
    dividing = rng.random(number) < 0.05
    level = np.exp(0.28 * rng.standard_normal(number)) * np.where(dividing, rng.uniform(1.7, 2.6, number), 1)
    thickness = 1 - 0.45 * np.exp(-depth(nuclei.label_map) / 2.2)
    grain = 0.07 * smooth_noise(rng, size, 3) + 0.08 * smooth_noise(rng, size, 7)
    grain *= nuclei.spread(np.where(dividing, 2.2, rng.uniform(0.5, 1.6, number)))
    points = within(rng, nuclei.outlines, 3)
    holes = spots(points, rng.uniform(1, 2.4, len(points)), rng.uniform(0.1, 0.4, len(points)), size, 0.9)
    light = nuclei.spread(level) * thickness * (1 + grain) * (1 - holes)
    return np.asarray(np.maximum(light, 0), np.float32)


def _debris(rng: np.random.Generator, size: Size, scope: Microscope) -> Field:
    """Return the counts (H, W) of unlabelled dirt: specks, some far brighter than any nucleus, and rare hairs."""
    light = np.zeros(size, np.float32)
    for _ in range(rng.poisson(scope.debris * size[0] * size[1] / AREA)):
        centre = rng.uniform(0, 1, 2) * (size[1], size[0])
        if rng.random() < 0.12:
            hair = centre + np.cumsum(rng.normal(0, 0.3, 2) + rng.normal(0, 0.15, (30, 2)), axis=0) * scope.radius
            strand = np.zeros(size, np.float32)
            cv2.polylines(strand, [np.round(hair).astype(np.int32)], False, (rng.uniform(800, 2500),), 3)
            light += focus(strand, rng.uniform(1.5, 5))
        else:
            radius, level = scope.radius * rng.uniform(0.12, 0.5), rng.choice([600.0, 1500.0, 5000.0])
            speck = np.zeros(size, np.float32)
            piece = outline(rng, centre, radius, rng.uniform(1, 2.5), rng.uniform(0, np.pi), 0.2)
            cv2.fillPoly(speck, [np.round(piece).astype(np.int32)], (level,))
            light += focus(speck, rng.uniform(0.8, 2))
    return light


def _camera(rng: np.random.Generator, light: Field, noise: float) -> NDArray[np.uint16]:
    """Return the counts (H, W) that a 12-bit camera reads: offset, Poisson shot noise, Gaussian read noise."""
    if noise > 0:
        gain = 0.45 * noise**2  # counts per photon
        light = rng.poisson(light / gain) * gain + 2.5 * noise * rng.standard_normal(light.shape)
    return np.clip(np.round(DARK_LEVEL + light), DARK_LEVEL, FULL_WELL).astype(np.uint16)
