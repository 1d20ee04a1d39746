"""Slow readable twins of pdamlib.translate.inpaint: stain un-mixing in double precision, Otsu by scikit-image."""

import numpy as np
from skimage.color import hed_from_rgb
from skimage.filters import threshold_otsu


def hematoxylin(image: np.ndarray) -> np.ndarray:
    """Return the first stain of scikit-image's rgb2hed, float64 (H, W), without its clipping at zero."""
    light = np.maximum(image / 255, 1e-6)
    density = np.log(light) / np.log(1e-6)
    return (density @ hed_from_rgb)[..., 0]


def stretched(plane: np.ndarray) -> np.ndarray:
    """Return a plane stretched to 0-255, uint8; a flat one becomes 0."""
    span = plane.max() - plane.min()
    return np.zeros(plane.shape, np.uint8) if span == 0 else (255 * (plane - plane.min()) / span).astype(np.uint8)


def auxiliary_mask(image: np.ndarray, label_map: np.ndarray) -> np.ndarray:
    """Return Eq. 1 by sets of pixels: (otsu or M) minus M, bool (H, W)."""
    plane = stretched(hematoxylin(image))
    otsu = {tuple(place) for place in np.argwhere(plane > threshold_otsu(plane))}
    labelled = {tuple(place) for place in np.argwhere(label_map)}
    mask = np.zeros(label_map.shape, bool)
    for place in (otsu | labelled) - labelled:
        mask[place] = True
    return mask


def between_class_variance(plane: np.ndarray, upper: np.ndarray) -> float:
    """Return what Otsu's threshold maximises, for a plane divided into `upper` and the rest."""
    share = upper.mean()
    if share in (0, 1):
        return 0.0
    return share * (1 - share) * (plane[upper].mean() - plane[~upper].mean()) ** 2
