"""Nuclei inpainting (Sec. 3.2): remove what looks like a nucleus in a translated image but carries no label."""

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.color import hed_from_rgb

from pdamlib.errors import UserError

CHANNELS = ("hematoxylin", "grey")

# Beer-Lambert un-mixing as in scikit-image's rgb2hed, but without its clipping of negative amounts: the authors'
# released patches are reproduced only so. Row c holds what each of the 256 values of channel c adds to hematoxylin.
_OPTICAL_DENSITY = np.log(np.maximum(np.arange(256) / 255, 1e-6)) / np.log(1e-6)
_HEMATOXYLIN = np.outer(hed_from_rgb[:, 0], _OPTICAL_DENSITY).astype(np.float32)


def hematoxylin(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the amount of hematoxylin at each pixel (H, W), any real, of an RGB image (H, W, 3)."""
    red, green, blue = (cv2.LUT(plane, row) for plane, row in zip(cv2.split(image), _HEMATOXYLIN, strict=True))
    return red + green + blue


def darkness(image: NDArray[np.uint8], channel: str = "hematoxylin") -> NDArray[np.uint8]:
    """Return the plane Otsu sees, uint8 (H, W) stretched to 0-255, high where nuclei are expected.

    channel: hematoxylin (the released code), or grey, the plain reading of Sec. 3.2.
    """
    if channel not in CHANNELS:
        raise UserError(f"unknown inpainting channel '{channel}'; choose one of {', '.join(CHANNELS)}")
    plane = hematoxylin(image) if channel == "hematoxylin" else 255.0 - cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.normalize(plane, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def otsu(image: NDArray[np.uint8], channel: str = "hematoxylin") -> NDArray[np.bool_]:
    """Return the binary nuclei (H, W) of an RGB image: the darker class of Otsu's threshold; none in a flat image."""
    plane = darkness(image, channel)
    threshold, _ = cv2.threshold(plane, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return plane > threshold


def auxiliary_mask(
    image: NDArray[np.uint8], label_map: NDArray[np.integer], channel: str = "hematoxylin"
) -> NDArray[np.bool_]:
    """Return M_aux (H, W), the pixels of nuclei without annotation: (otsu(S_raw) or M) minus M (Eq. 1).

    image: translated RGB patch S_raw (H, W, 3). label_map: its nuclei (H, W), 0 is background; M is everything else.
    """
    mask = label_map > 0
    return (otsu(image, channel) | mask) & ~mask


def inpaint_nuclei(image: NDArray[np.uint8], mask: NDArray[np.bool_], radius: int = 3) -> NDArray[np.uint8]:
    """Return S_inp (H, W, 3): the image with masked pixels filled from around them by Telea's fast marching (Eq. 2).

    radius: of the neighbourhood that a filled pixel is averaged from, px.
    """
    return cv2.inpaint(image, mask.astype(np.uint8), radius, cv2.INPAINT_TELEA)
