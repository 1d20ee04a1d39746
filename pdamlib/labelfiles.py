"""Label maps on disk: 8-, 16- or 32-bit PNG and TIFF in, 16-bit PNG or 32-bit TIFF out."""

import os
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pdamlib.errors import UserError
from pdamlib.labels import LabelMap

LABEL_SUFFIXES = (".png", ".tif", ".tiff")
_LARGEST_PNG_ID = 65_535

# what Pillow raises on damaged files of these two formats
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def read_label_map(path: Path) -> NDArray[np.int32]:
    """Return the label map of a file: (H, W) int32, ids as stored, so that gaps remain.

    path: a PNG or TIFF of one channel and one page, 8, 16 or 32 bit, or with a palette (then its indices are the ids).
    Raises UserError, naming the file: missing, damaged, not an image, several pages, colour, float, or ids below 0.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    stored = _pixels(path)
    if stored.ndim != 2:
        raise UserError(f"{path}: has {stored.shape[2]} channels, a colour image; a label map has one, of integer ids")
    if stored.dtype.kind not in "biu":
        raise UserError(f"{path}: holds {stored.dtype} values, not integer ids; save the label map as 16-bit PNG")
    if stored.min(initial=0) < 0:
        raise UserError(f"{path}: holds ids outside 0..2147483647; number the nuclei from 1, with background 0")
    return stored.astype(np.int32)


def write_label_map(path: Path, label_map: LabelMap) -> None:
    """Write a label map as 16-bit PNG (`.png`) or 32-bit TIFF (`.tif`, `.tiff`); the file appears whole or not at all.

    path: its folder must exist. label_map: (H, W), any integer type, ids from 0.
    Raises UserError for another suffix, for ids over 65,535 in a PNG and when the disk refuses.
    """
    path = Path(path)
    encoded = _encoded(path, label_map)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(encoded)
        os.replace(partial, path)
    except OSError as problem:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({problem.strerror}); check folder and free space") from None


def _pixels(path: Path) -> np.ndarray:
    try:
        # Pillow warns about odd metadata, which does not touch the ids, before it fails on damage, which we report
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=("PNG", "TIFF")) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise UserError(f"{path}: holds {image.n_frames} pages; save one label map a file")  # type: ignore[attr-defined]
            return np.asarray(image)
    except _DAMAGE as problem:
        reason = _reason(problem)
        raise UserError(f"{path}: not a readable PNG or TIFF image ({reason}); export it as 16-bit PNG") from None


def _reason(problem: BaseException) -> str:
    if isinstance(problem, UnidentifiedImageError):
        return "its content is of another kind or damaged"
    return " ".join(str(problem).split()) or type(problem).__name__


def _encoded(path: Path, label_map: LabelMap) -> bytes:
    suffix = path.suffix.lower()
    largest = int(label_map.max(initial=0))
    if suffix not in LABEL_SUFFIXES:
        raise UserError(f"{path}: label maps are written as {', '.join(LABEL_SUFFIXES)}; rename it")
    if suffix != ".png":
        buffer = BytesIO()
        Image.fromarray(label_map.astype(np.int32)).save(buffer, format="TIFF", compression="tiff_adobe_deflate")
        return buffer.getvalue()
    if largest > _LARGEST_PNG_ID:
        raise UserError(f"{path}: id {largest} is over the {_LARGEST_PNG_ID} of a 16-bit PNG; write a .tif or relabel")
    return cv2.imencode(".png", label_map.astype(np.uint16))[1].tobytes()
