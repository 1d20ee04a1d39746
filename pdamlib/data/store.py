"""Patches on disk as memory-mapped arrays: reading one costs microseconds, and nothing is decoded twice."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pdamlib.errors import UserError

IMAGES, LABELS = "images.npy", "labels.npy"


@dataclass(frozen=True)
class Patches:
    """N patches of S x S pixels.

    images: uint8 (N, S, S, 3) RGB. label_maps: uint16 (N, S, S), or None where no labels were read.
    Both are memory-mapped and read-only.
    """

    images: NDArray[np.uint8]
    label_maps: NDArray[np.uint16] | None

    @property
    def labels(self) -> NDArray[np.uint16]:
        """The label maps of patches that have them."""
        if self.label_maps is None:
            raise UserError("these patches carry no labels; a method cannot learn from them")
        return self.label_maps

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        return self.images.shape[1]


def open_patches(folder: Path) -> Patches:
    """Return the patches of a folder, memory-mapped. Raises UserError when they are missing or damaged."""
    labels = folder / LABELS
    return Patches(_open(folder / IMAGES), _open(labels) if labels.exists() else None)


def _open(path: Path) -> NDArray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot read these patches ({error}); delete the folder and run again") from None


def write_patches(
    folder: Path, patches: Iterable[tuple[NDArray, NDArray | None]], count: int, size: int, labelled: bool
) -> None:
    """Write `count` patches (S, S, 3) and, when labelled, their label maps (S, S) into a folder.

    They are written in order, not through a memory map, where a full disk would kill the process without a word.
    Raises UserError when the disk refuses.
    """

    def create(name: str, dtype: type[np.integer], *shape: int) -> BinaryIO:
        file = files.enter_context((folder / name).open("wb"))
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        return file

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:
            images = create(IMAGES, np.uint8, count, size, size, 3)
            labels = create(LABELS, np.uint16, count, size, size) if labelled else None
            for image, label_map in patches:
                images.write(np.ascontiguousarray(image, np.uint8).data)
                if labels is not None and label_map is not None:
                    labels.write(np.ascontiguousarray(label_map, np.uint16).data)
    except OSError as error:
        raise UserError(f"{folder}: cannot write patches ({error}); free some disk space and run again") from None


def batches(patches: Patches, size: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (first index, images (B, S, S, 3)) over all patches in order."""
    for start in range(0, len(patches), size):
        yield start, patches.images[start : start + size]
