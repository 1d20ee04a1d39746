"""Picture files in, arrays out: every pixel decoded, every fault named with its file and its cure."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pdamlib.errors import UserError

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

EXTENSIONS = (".png", ".tif", ".tiff", ".jpg", ".jpeg")  # and in capitals
# what Pillow raises on damaged files of these formats
DECODE_ERRORS = (
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


def find_folder(root: Path, *choices: str) -> Path:
    """Return the first of some folders in root, or one level down, where an unpacked archive may have put it.

    Raises UserError when there is none.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; run `pdam data download` or give the right data root")
    for choice in choices:
        if (root / choice).is_dir():
            return root / choice
    for base in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))):
        for choice in choices:
            if (base / choice).is_dir():
                return base / choice
    raise UserError(f"{root}: no folder {' or '.join(choices)} in it; unpack the dataset there")


def stems(folder: Path, key: str) -> list[str]:
    """Return the sorted stems of the pictures in a folder, other and hidden files aside.

    Raises UserError when there is no picture, or two of one stem. key: the dataset, for the message.
    """
    files = [p for p in folder.glob("*") if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")]
    names = sorted(p.stem for p in files)
    if not names:
        raise UserError(f"{folder}: no PNG, TIFF or JPEG in it; unpack the images of {key} there")
    if twins := [a for a, b in pairwise(names) if a == b]:
        raise UserError(f"{folder}: two images are named {twins[0]}; keep one of them")
    return names


def find_file(folder: Path, name: str) -> Path:
    """Return the picture of a name in a folder, whatever its extension.

    Raises UserError when there is none.
    """
    for extension in (*EXTENSIONS, *map(str.upper, EXTENSIONS)):
        if (path := folder / f"{name}{extension}").is_file():
            return path
    raise UserError(f"{folder / name}.*: missing; each image and label map needs its counterpart of the same name")


def read_pixels(path: Path) -> NDArray[Any]:
    """Return the pixels of a picture, all of them decoded, so that a truncated file is found out.

    Raises UserError when it is missing, no image or not whole.
    """
    with _opened(path) as picture:
        picture.load()
        return np.array(picture)


def read_plane(path: Path) -> Pixels:
    """Return a grey picture as it is stored, uint8 or uint16 (H, W).

    Raises UserError when it has channels or another depth, or is damaged.
    """
    plane = read_pixels(path)
    if plane.ndim != 2 or plane.dtype.kind != "u":
        raise UserError(f"{path}: not a grey 8- or 16-bit image; put the original file there")
    return plane.astype(np.uint8) if plane.dtype.itemsize == 1 else plane.astype(np.uint16)


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Return a picture as uint8 (H, W, 3): alpha is dropped, grey is repeated.

    Raises UserError when it has more than 8 bits a channel, or is damaged.
    """
    with _opened(path) as picture:
        if picture.mode.startswith(("I", "F")):
            raise UserError(f"{path}: more than 8 bits a channel; save it as an 8-bit RGB image")
        return np.array(picture.convert("RGB"))


def size_of(path: Path) -> tuple[int, int]:
    """Return width and height of a picture from its header."""
    with _opened(path) as picture:
        return picture.size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture for decoding; whatever is wrong with the file becomes one UserError.

    Pillow warns of odd TIFF tags, in sound files as in broken ones; the latter fail to decode as well.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(path) as picture:
                yield picture
    except DECODE_ERRORS as error:
        raise UserError(f"{path}: not a whole image ({error}); copy or download it again") from error


def same_size(labels: NDArray[Any], path: Path, image: Path) -> NDArray[Any]:
    """Return the labels when they have the size of their image.

    labels: (H, W), of the file path. Raises UserError when the sizes differ.
    """
    height, width = labels.shape
    if (width, height) != size_of(image):
        raise UserError(
            f"{path}: {width} x {height} px, but its image {image.name} has {' x '.join(map(str, size_of(image)))};"
            " put the label map of this image there"
        )
    return labels
