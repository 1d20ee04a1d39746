"""Instances as one integer array: the label map, and what the rest of the house derives from it.

A label map is (H, W), 0 for background and one positive id a nucleus. Ids may have gaps; `relabel` closes them.
"""

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from pdamlib.errors import UserError

LabelMap = NDArray[np.integer]

# ours: a lookup table of 16 million entries (128 MB) is still cheap; larger ids are sorted instead
_LARGEST_TABLE = 1 << 24


def nucleus_ids(label_map: LabelMap) -> NDArray[np.int64]:
    """Return the ids present, ascending, without the background: (N,) int64.

    label_map: (H, W), any integer type, no negative ids.
    """
    if label_map.max(initial=0) < _LARGEST_TABLE:
        present = np.bincount(label_map.ravel().astype(np.intp, copy=False)) > 0
        present[:1] = False
        return np.flatnonzero(present)
    ids = np.unique(label_map).astype(np.int64)
    return ids[ids > 0]


def count(label_map: LabelMap) -> int:
    """Return the number of nuclei, that is of distinct non-zero ids.

    label_map: (H, W), any integer type.
    """
    return len(nucleus_ids(label_map))


def relabel(label_map: LabelMap) -> NDArray[np.int32]:
    """Return the same nuclei with ids 1..N in the order of the old ids: (H, W) int32, always a new array.

    label_map: (H, W), any integer type, also with gaps and huge ids.
    """
    ids = nucleus_ids(label_map)
    if not len(ids) or ids[-1] == len(ids):
        return label_map.astype(np.int32)
    if ids[-1] < _LARGEST_TABLE:
        new_id = np.zeros(ids[-1] + 1, np.int32)
        new_id[ids] = np.arange(1, len(ids) + 1)
        return new_id.take(label_map)
    compact = np.searchsorted(ids, label_map.astype(np.int64)) + 1
    return np.where(label_map == 0, 0, compact).astype(np.int32)


def label_components(label_map: LabelMap) -> NDArray[np.int32]:
    """Return the 8-connected components of equal non-zero value, numbered 1..N in reading order: (H, W) int32.

    Two neighbouring values stay two components, so it reads a colouring (BBBC039) as well as a binary mask (TNBC).

    label_map: (H, W), any integer type.
    """
    if not label_map.size:
        return label_map.astype(np.int32)
    components = cc3d.connected_components(np.ascontiguousarray(label_map), connectivity=8, out_dtype=np.uint32)
    return components.view(np.int32)


def nucleus_boxes(label_map: LabelMap) -> NDArray[np.float32]:
    """Return the box of each nucleus present, in the order of ids: (N, 4) float32, x1 y1 x2 y2, x2 and y2 exclusive.

    label_map: (H, W), any integer type. Units are pixels; a nucleus of one pixel at (0, 0) has the box 0 0 1 1.
    """
    slices = find_objects(relabel(label_map)) if label_map.size else []
    corners = [(x.start, y.start, x.stop, y.stop) for y, x in slices]
    return np.array(corners, np.float32).reshape(-1, 4)


def detection_masks(label_map: LabelMap) -> NDArray[np.uint8]:
    """Return one plane a nucleus present, in the order of ids: (N, H, W) uint8, 1 inside and 0 outside.

    For training crops: the memory is that of N images.

    label_map: (H, W), any integer type.
    """
    ids = nucleus_ids(label_map).astype(label_map.dtype)
    masks: NDArray[np.uint8] = (label_map == ids[:, None, None]).view(np.uint8)
    return masks


def overlap_table(truth: LabelMap, prediction: LabelMap) -> NDArray[np.int64]:
    """Return the pixels that each pair of nuclei shares: (T + 1, P + 1) int64.

    Row i is the i-th of the T nuclei of `truth` in the order of ids, column j the j-th of the P of `prediction`; row 0
    and column 0 are the background. Absent ids have no row, so gaps cost nothing and every row has a positive sum.

    truth, prediction: (H, W), any integer types. Raises UserError when the shapes differ.
    """
    check_same_shape(truth, prediction, "truth and prediction")
    if (int(truth.max(initial=0)) + 1) * (int(prediction.max(initial=0)) + 1) > _LARGEST_TABLE:
        truth, prediction = relabel(truth), relabel(prediction)
    rows, columns = int(truth.max(initial=0)) + 1, int(prediction.max(initial=0)) + 1
    # int64 before the product: 300 x 300 ids overflow the uint16 of a PNG
    pair = truth.astype(np.int64) * columns + prediction.astype(np.int64, copy=False)
    table = np.bincount(pair.ravel(), minlength=rows * columns).reshape(rows, columns)
    return _without_empty(_without_empty(table).T).T


def check_same_shape(first: np.ndarray, second: np.ndarray, what: str) -> None:
    """Raise UserError unless both arrays have one shape.

    what: names the two, for the message: "a.png and b.png".
    """
    if first.shape != second.shape:
        sizes = f"{_size(first)} against {_size(second)}"
        raise UserError(f"{what} differ in size: {sizes}; compare maps of the same image")


def _without_empty(table: NDArray[np.int64]) -> NDArray[np.int64]:
    keep = table.sum(axis=1) > 0
    keep[0] = True
    return table if keep.all() else table[keep]


def _size(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape)) + " pixels (height x width)"
