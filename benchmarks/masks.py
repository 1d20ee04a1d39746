"""Merging 600 masks of a 1000 x 1000 image into one label map, against torchvision's `paste_masks_in_image`.

The peer pastes full-size masks and merges them in the obvious loop, best first, by the same rule. The masks come from
true ellipses as training makes them, by RoIAlign, so both label maps can be held against the truth: torchvision
truncates the corners of boxes to whole pixels, which here costs accuracy and not only time.
Prints one line; exits 1 when ours takes over a fiftieth of its time.
"""

import argparse
import sys
from time import process_time

import numpy as np
import torch
from scenes import crowd, draw
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import roi_align

from pdamlib.engine.infer import Detections, merge
from pdamlib.labels import count, nucleus_boxes, nucleus_ids

TARGET = 1 / 50
SIZE, NUCLEI, CELLS, TAKEN = 1000, 600, 28, 0.7
ERROR = 0.5  # px, of each side of a box in the second comparison
GROUP = 100  # full-size masks in memory at a time: 600 take 5 GB, which would not make the peer faster


def detections(truth: np.ndarray, rng: np.random.Generator, error: float) -> Detections:
    """Return what a perfect mask head says of the nuclei of a label map. error: of the boxes' sides, px."""
    boxes = nucleus_boxes(truth)
    boxes += rng.normal(0, error, boxes.shape).astype(np.float32)
    masks = np.empty((len(boxes), CELLS, CELLS), np.float32)
    for place, nucleus in enumerate(nucleus_ids(truth)):
        plane = torch.from_numpy((truth == nucleus).astype(np.float32))[None, None]
        masks[place] = roi_align(plane, [torch.from_numpy(boxes[[place]])], CELLS)[0, 0].numpy()
    scores = np.sort(rng.random(len(boxes)).astype(np.float32))[::-1].copy()
    return Detections(boxes, scores, masks, truth.shape)


def pasted(found: Detections) -> np.ndarray:
    """Return the label map that torchvision and the obvious loop make of detections in descending order."""
    label_map = np.zeros(found.shape, np.int32)
    label = 0
    for start in range(0, len(found.scores), GROUP):
        group = slice(start, start + GROUP)
        masks, boxes = torch.from_numpy(found.masks[group])[:, None], torch.from_numpy(found.boxes[group])
        for plane in paste_masks_in_image(masks, boxes, found.shape)[:, 0].numpy() >= 0.5:
            free = plane & (label_map == 0)
            if free.any() and 1 - free.sum() / plane.sum() <= TAKEN:
                label += 1
                label_map[free] = label
    return label_map


def mean_iou(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Return the mean IoU of nuclei of equal id."""
    shared = np.bincount(truth[truth == prediction], minlength=truth.max() + 1)[1:]
    either = np.bincount(truth.ravel())[1:] + np.bincount(prediction.ravel(), minlength=truth.max() + 1)[1:] - shared
    return float(np.mean(shared / either))


def times(found: Detections, repeats: int) -> tuple[float, float]:
    """Return the shortest CPU times of ours and the peer in seconds; they take turns."""
    taken = np.empty((repeats, 2))
    for turn in taken:
        for place, call in enumerate((merge, pasted)):
            start = process_time()
            call(found)
            turn[place] = process_time() - start
    ours, peer = taken.min(axis=0)
    return float(ours), float(peer)


def main() -> int:
    """Return the exit code: 0 within the target, 1 over it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    repeats = 1 if parser.parse_args().quick else 3
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    truth = draw(crowd(rng, SIZE, NUCLEI), SIZE)
    ious = []
    for error in (0.0, ERROR):
        found = detections(truth, rng, error)
        ours, peer = merge(found), pasted(found)
        if not count(truth) == count(ours) == count(peer):
            raise AssertionError(f"{count(truth)} true nuclei, {count(ours)} ours, {count(peer)} pasted")
        ious.append([mean_iou(truth, ours), mean_iou(truth, peer), mean_iou(ours, peer)])
    ours_seconds, peer_seconds = times(found, repeats)
    ratio = ours_seconds / peer_seconds
    (ours_exact, peer_exact, both_exact), (ours_rough, peer_rough, _) = ious
    print(
        f"masks: ratio {ratio:.4f} (target <= {TARGET:.2f}) "
        f"ours {1e3 * ours_seconds:.1f} ms, torchvision {1e3 * peer_seconds:.0f} ms; "
        f"IoU to the truth: ours {ours_exact:.3f}, torchvision {peer_exact:.3f}, to each other {both_exact:.3f}; "
        f"with boxes off by {ERROR} px: ours {ours_rough:.3f}, torchvision {peer_rough:.3f}"
    )
    return int(ratio > TARGET or ours_exact < peer_exact or ours_rough < peer_rough)


if __name__ == "__main__":
    sys.exit(main())
