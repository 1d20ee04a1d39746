"""Slow readable twins of pdamlib.metrics.scores: a nucleus is a set of pixels, and every sum is spelled out."""

from fractions import Fraction
from itertools import permutations

import numpy as np

Nuclei = dict[int, set[tuple[int, int]]]


def nuclei(label_map: np.ndarray) -> Nuclei:
    """Return the pixels of each nucleus by its id, ascending."""
    found: Nuclei = {}
    for (row, column), label in np.ndenumerate(label_map):
        if label:
            found.setdefault(int(label), set()).add((row, column))
    return dict(sorted(found.items()))


def iou(first: set, second: set) -> Fraction:
    """Return the exact intersection over union of two sets of pixels."""
    return Fraction(len(first & second), len(first | second))


def aji(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Return Kumar's AJI, line by line as his Algorithm 1."""
    true, predicted = nuclei(truth), nuclei(prediction)
    shared, union, used = 0, 0, set()
    for pixels in true.values():
        candidates = [(iou(pixels, predicted[j]), -j) for j in predicted if pixels & predicted[j]]
        if not candidates:
            union += len(pixels)
            continue
        best = -max(candidates)[1]
        shared += len(pixels & predicted[best])
        union += len(pixels | predicted[best])
        used.add(best)
    return _finish(shared, union, predicted, used)


def aji_greedy(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Return the one-to-one AJI in which nuclei choose in the order of their ids."""
    true, predicted = nuclei(truth), nuclei(prediction)
    shared, union, used = 0, 0, set()
    for pixels in true.values():
        free = [(iou(pixels, predicted[j]), -j) for j in predicted if j not in used and pixels & predicted[j]]
        if not free:
            union += len(pixels)
            continue
        best = -max(free)[1]
        shared += len(pixels & predicted[best])
        union += len(pixels | predicted[best])
        used.add(best)
    return _finish(shared, union, predicted, used)


def aji_plus_all(truth: np.ndarray, prediction: np.ndarray) -> set[float]:
    """Return AJI+ of every best one-to-one pairing (there may be several); for a handful of nuclei."""
    true, predicted = list(nuclei(truth).values()), nuclei(prediction)
    places = [*predicted, *[None] * len(true)]
    best, values = Fraction(-1), set()
    for chosen in set(permutations(places, len(true))):
        pairs = [(pixels, j) for pixels, j in zip(true, chosen, strict=True) if j is not None and pixels & predicted[j]]
        total = sum((iou(pixels, predicted[j]) for pixels, j in pairs), Fraction(0))
        if total < best:
            continue
        if total > best:
            best, values = total, set()
        shared = sum(len(pixels & predicted[j]) for pixels, j in pairs)
        union = sum(map(len, true)) + sum(map(len, predicted.values())) - shared
        values.add(shared / union if union else 1.0)
    return values


def components(label_map: np.ndarray) -> np.ndarray:
    """Return the 8-connected components of equal value, by flood fill in reading order."""
    result = np.zeros(label_map.shape, np.int32)
    for start in zip(*np.nonzero(label_map), strict=True):
        if result[start]:
            continue
        name, stack = int(result.max()) + 1, [start]
        while stack:
            row, column = stack.pop()
            inside = 0 <= row < label_map.shape[0] and 0 <= column < label_map.shape[1]
            if not inside or result[row, column] or label_map[row, column] != label_map[start]:
                continue
            result[row, column] = name
            stack += [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return result


def aji_drfns(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Return the AJI of DIST's evaluation; see pdamlib.metrics.scores.aji_drfns."""
    true, predicted = nuclei(components(truth > 0)), nuclei(components(prediction))
    if not predicted:
        return 0.0 if true else 1.0
    shared, union, used = 0, 0, set()
    for pixels in true.values():
        best = -max((iou(pixels, predicted[j]), -j) for j in predicted)[1]
        shared += len(pixels & predicted[best])
        union += len(pixels | predicted[best])
        used.add(best)
    return _finish(shared, union, predicted, used)


def pixel_f1(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Return Dice of the foregrounds."""
    true, predicted = set(zip(*np.nonzero(truth), strict=True)), set(zip(*np.nonzero(prediction), strict=True))
    areas = len(true) + len(predicted)
    return 2 * len(true & predicted) / areas if areas else 1.0


def right_pairs(truth: np.ndarray, prediction: np.ndarray) -> list[Fraction]:
    """Return the IoU of every pair over one half."""
    true, predicted = nuclei(truth).values(), nuclei(prediction).values()
    return [iou(t, p) for t in true for p in predicted if iou(t, p) > Fraction(1, 2)]


def object_f1(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Return the harmonic mean of precision and recall of nuclei."""
    found, true, predicted = len(right_pairs(truth, prediction)), len(nuclei(truth)), len(nuclei(prediction))
    if true == predicted == 0:
        return 1.0
    if found == 0:
        return 0.0
    precision, recall = found / predicted, found / true
    return 2 * precision * recall / (precision + recall)


def pq(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Return segmentation quality times detection quality."""
    if not nuclei(truth) and not nuclei(prediction):
        return 1.0
    right = right_pairs(truth, prediction)
    if not right:
        return 0.0
    false_positives, false_negatives = len(nuclei(prediction)) - len(right), len(nuclei(truth)) - len(right)
    detection = len(right) / (len(right) + 0.5 * false_positives + 0.5 * false_negatives)
    return float(sum(right) / len(right)) * detection


def _finish(shared: int, union: int, predicted: Nuclei, used: set[int]) -> float:
    union += sum(len(pixels) for j, pixels in predicted.items() if j not in used)
    return shared / union if union else 1.0
