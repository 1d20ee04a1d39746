"""One warp to the patch against rotate-then-crop with scikit-image, and memory-mapped patches against PNG files.

Prints one line a ratio; exits 1 when the warp is under 100 times as fast, or the reading under 40 times.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time

import cv2
import numpy as np
from scenes import truth_and_prediction
from skimage.measure import label
from skimage.morphology import remove_small_objects
from skimage.transform import rescale, rotate

from pdamlib.data.patches import source_patch
from pdamlib.data.simulate import histology
from pdamlib.data.store import open_patches, write_patches

SIZE, SMALLEST = 256, 10
WARP, READ = 100, 40


def fastest(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the shortest time of each call in seconds on the processor; they take turns."""
    times = np.empty((repeats, 2))
    for turn in times:
        for place, call in enumerate((ours, theirs)):
            start = process_time()
            call()
            turn[place] = process_time() - start
    shortest = times.min(axis=0)
    return float(shortest[0]), float(shortest[1])


def rotate_then_crop(image: np.ndarray, label_map: np.ndarray, angle: float, zoom: float) -> tuple[np.ndarray, ...]:
    """Return the middle patch and its label map, cut out of the whole field enlarged and turned (degrees)."""
    big = rescale(image, zoom, order=1, channel_axis=2, anti_aliasing=False, preserve_range=True)
    ids = rescale(label_map, zoom, order=0, anti_aliasing=False, preserve_range=True)
    big = rotate(big, angle, order=1, mode="reflect", preserve_range=True)
    ids = rotate(ids, angle, order=0, mode="reflect", preserve_range=True)
    top, left = (big.shape[0] - SIZE) // 2, (big.shape[1] - SIZE) // 2
    window = slice(top, top + SIZE), slice(left, left + SIZE)
    labels = remove_small_objects(label(ids[window].round().astype(np.int32), connectivity=2), max_size=SMALLEST - 1)
    return big[window].round().astype(np.uint8), labels


def warp(repeats: int) -> bool:
    """Print the ratio of cutting a random patch of 256 px from a field of 1000 px; return whether it is reached."""
    truth, _ = truth_and_prediction(seed=0)
    image = np.repeat((255 - 150 * (truth > 0)).astype(np.uint8)[..., None], 3, axis=2)
    rng = np.random.default_rng(0)
    ours, theirs = fastest(
        lambda: [source_patch(rng, image, truth, SIZE, (0.5, 1.0), SMALLEST) for _ in range(20)],
        lambda: rotate_then_crop(image, truth, 30, 0.75),
        repeats,
    )
    ours /= 20
    print(
        f"patches, warp: ratio {theirs / ours:.0f} (target >= {WARP}) "
        f"ours {1e3 * ours:.2f} ms, scikit-image {1e3 * theirs:.0f} ms a patch"
    )
    return theirs / ours >= WARP


def read(count: int, repeats: int) -> bool:
    """Print the ratio of reading patches in random order; return whether it is reached."""
    field, _ = histology(np.random.default_rng(0), (512, 512))
    rng = np.random.default_rng(1)
    corners = rng.integers(512 - SIZE + 1, size=(count, 2))
    images = [field[top : top + SIZE, left : left + SIZE] for top, left in corners]
    order = rng.permutation(count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_patches(folder, ((image, None) for image in images), count, SIZE, labelled=False)
        patches = open_patches(folder)
        files = [folder / f"{index}.png" for index in range(count)]
        for file, image in zip(files, images, strict=True):
            cv2.imwrite(str(file), image[..., ::-1])
        np.testing.assert_array_equal(patches.images[3], cv2.imread(str(files[3]))[..., ::-1])
        ours, theirs = fastest(
            lambda: [np.array(patches.images[index]) for index in order],
            lambda: [cv2.imread(str(files[index])) for index in order],
            repeats,
        )
    print(
        f"patches, read: ratio {theirs / ours:.0f} (target >= {READ}) "
        f"ours {1e6 * ours / count:.0f} us, cv2 on PNG {1e6 * theirs / count:.0f} us a patch"
    )
    return theirs / ours >= READ


def main() -> int:
    """Return the exit code: 0 within both targets, 1 over one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer patches and repeats")
    quick = parser.parse_args().quick
    cv2.setNumThreads(1)  # one thread a process, as in training
    reached = [warp(3 if quick else 10), read(64 if quick else 256, 5 if quick else 20)]
    return int(not all(reached))


if __name__ == "__main__":
    sys.exit(main())
