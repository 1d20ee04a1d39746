"""The measures of Sec. 4.1 for one image: AJI in its several readings, pixel-F1, object-F1, and PQ.

All of them follow from one overlap table. In every measure two empty maps score 1 and one empty map scores 0: an image
without nuclei in which none were found is answered perfectly, one invented or one missed nucleus leaves nothing right,
and the mean over images stays defined.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from pdamlib.labels import LabelMap, label_components, overlap_table


@dataclass(frozen=True)
class Scores:
    """The four measures of one image, each in 0..1, 1 being perfect."""

    aji: float
    pixel_f1: float
    object_f1: float
    pq: float


MEASURES = tuple(field.name for field in fields(Scores))


def score(truth: LabelMap, prediction: LabelMap) -> Scores:
    """Return all four measures of a prediction (Sec. 4.1), from one overlap table.

    truth, prediction: (H, W), any integer types; ids may have gaps and are compared by their pixels, never by number.
    Raises UserError when the shapes differ.
    """
    overlaps = _overlaps(truth, prediction)
    return Scores(_aji(overlaps), _pixel_f1(overlaps), _object_f1(overlaps), _pq(overlaps))


def aji(truth: LabelMap, prediction: LabelMap) -> float:
    """Return the aggregated Jaccard index of Kumar et al. 2017, Algorithm 1: 0..1.

    Each true nucleus takes the overlapping prediction of highest IoU, on a tie the one with the lower label, even when
    another nucleus took it before. Shared pixels are divided by the unions, to which nuclei that nothing overlaps and
    predictions that nobody took add their areas.

    truth, prediction: (H, W), any integer types. Raises UserError when the shapes differ.
    """
    return _aji(_overlaps(truth, prediction))


def aji_plus(truth: LabelMap, prediction: LabelMap) -> float:
    """Return AJI+ (Graham et al. 2019): pairs are one-to-one and chosen for the highest sum of IoU: 0..1.

    truth, prediction: (H, W), any integer types. Raises UserError when the shapes differ.
    """
    overlaps = _overlaps(truth, prediction)
    iou = np.zeros((len(overlaps.true_areas), len(overlaps.predicted_areas)))
    pair_at = np.full(iou.shape, -1)
    iou[overlaps.true, overlaps.predicted] = overlaps.iou
    pair_at[overlaps.true, overlaps.predicted] = np.arange(len(overlaps.iou))
    taken = pair_at[linear_sum_assignment(iou, maximize=True)]
    return _aggregated_jaccard(overlaps, taken[taken >= 0])


def aji_greedy(truth: LabelMap, prediction: LabelMap) -> float:
    """Return the AJI of the authors' released evaluation, without its slip: 0..1.

    Nuclei choose in the order of their ids the free prediction of highest IoU, which is then gone, so this reading
    depends on the order of ids. The released code lets a nucleus without a free overlapping prediction use up
    prediction 1; here, as everywhere else, such a nucleus adds its own area and takes nothing.

    truth, prediction: (H, W), any integer types. Raises UserError when the shapes differ.
    """
    overlaps = _overlaps(truth, prediction)
    gone: set[int] = set()
    served: set[int] = set()
    taken = []
    for pair in _by_nucleus_then_iou(overlaps):
        nucleus, candidate = int(overlaps.true[pair]), int(overlaps.predicted[pair])
        if nucleus not in served and candidate not in gone:
            served.add(nucleus)
            gone.add(candidate)
            taken.append(pair)
    return _aggregated_jaccard(overlaps, np.array(taken, np.intp))


def aji_drfns(truth: LabelMap, prediction: LabelMap) -> float:
    """Return the AJI of DIST's evaluation (Naylor et al. 2018): 0..1.

    It departs from Kumar's in the input and in one term: truth is binarised and split into 8-connected components, so
    touching nuclei merge; predictions too are split into components; and a nucleus that nothing overlaps is paired with
    the first prediction in reading order, whose whole area it adds to the union, each time.

    truth, prediction: (H, W), any integer types. Raises UserError when the shapes differ.
    """
    overlaps = _overlaps(label_components((truth > 0).astype(np.uint8)), label_components(prediction))
    taken = _best_pairs(overlaps)
    if not len(overlaps.true_areas) or not len(overlaps.predicted_areas):
        return _aggregated_jaccard(overlaps, taken)
    alone = len(overlaps.true_areas) - len(taken)
    unused = np.ones(len(overlaps.predicted_areas), bool)
    unused[overlaps.predicted[taken]] = False
    unused[0] &= alone == 0
    intersection, union = _sums(overlaps, taken)
    union += alone * overlaps.predicted_areas[0] + overlaps.predicted_areas[unused].sum()
    return float(intersection / union)


AJI_READINGS: dict[str, Callable[[LabelMap, LabelMap], float]] = {
    "kumar": aji,
    "aji_plus": aji_plus,
    "greedy": aji_greedy,
    "drfns": aji_drfns,
}


def pixel_f1(truth: LabelMap, prediction: LabelMap) -> float:
    """Return the F1 score (Dice) of the two foregrounds (Sec. 4.1): 0..1, the same when the arguments swap.

    truth, prediction: (H, W), any integer types. Raises UserError when the shapes differ.
    """
    return _pixel_f1(_overlaps(truth, prediction))


def object_f1(truth: LabelMap, prediction: LabelMap) -> float:
    """Return the F1 score of nuclei, a pair being right when its IoU is over 0.5, strictly (Sec. 4.1): 0..1.

    truth, prediction: (H, W), any integer types. Raises UserError when the shapes differ.
    """
    return _object_f1(_overlaps(truth, prediction))


def pq(truth: LabelMap, prediction: LabelMap) -> float:
    """Return the panoptic quality: the sum of IoU over right pairs (over 0.5) by the mean count of nuclei: 0..1.

    It is object-F1 times the mean IoU of the right pairs (DQ times SQ of Graham et al. 2019).

    truth, prediction: (H, W), any integer types. Raises UserError when the shapes differ.
    """
    return _pq(_overlaps(truth, prediction))


@dataclass(frozen=True)
class _Overlaps:
    """The overlap table without its zeros: areas of all nuclei, and the pairs that share a pixel, in reading order."""

    true_areas: NDArray[np.int64]  # (T,)
    predicted_areas: NDArray[np.int64]  # (P,)
    true: NDArray[np.intp]  # (K,) 0..T-1, as are the next four of length K
    predicted: NDArray[np.intp]
    intersection: NDArray[np.int64]
    union: NDArray[np.int64]
    iou: NDArray[np.float64]


def _overlaps(truth: LabelMap, prediction: LabelMap) -> _Overlaps:
    table = overlap_table(truth, prediction)
    true_areas, predicted_areas = table.sum(axis=1)[1:], table.sum(axis=0)[1:]
    true, predicted = np.nonzero(table[1:, 1:] > 0)
    intersection = table[true + 1, predicted + 1]
    union = true_areas[true] + predicted_areas[predicted] - intersection
    return _Overlaps(true_areas, predicted_areas, true, predicted, intersection, union, intersection / union)


def _by_nucleus_then_iou(overlaps: _Overlaps) -> NDArray[np.intp]:
    # lexsort is stable and pairs come in the order of labels: on a tie the lower label stays first
    return np.lexsort((-overlaps.iou, overlaps.true))


def _best_pairs(overlaps: _Overlaps) -> NDArray[np.intp]:
    order = _by_nucleus_then_iou(overlaps)
    return order[np.unique(overlaps.true[order], return_index=True)[1]]


def _sums(overlaps: _Overlaps, taken: NDArray[np.intp]) -> tuple[int, int]:
    """Intersections and unions of the pairs taken, with the areas of nuclei that took nothing in the union."""
    alone = np.ones(len(overlaps.true_areas), bool)
    alone[overlaps.true[taken]] = False
    return (
        int(overlaps.intersection[taken].sum()),
        int(overlaps.union[taken].sum() + overlaps.true_areas[alone].sum()),
    )


def _aggregated_jaccard(overlaps: _Overlaps, taken: NDArray[np.intp]) -> float:
    intersection, union = _sums(overlaps, taken)
    unused = np.ones(len(overlaps.predicted_areas), bool)
    unused[overlaps.predicted[taken]] = False
    return _ratio(intersection, union + int(overlaps.predicted_areas[unused].sum()))


def _aji(overlaps: _Overlaps) -> float:
    return _aggregated_jaccard(overlaps, _best_pairs(overlaps))


def _pixel_f1(overlaps: _Overlaps) -> float:
    areas = overlaps.true_areas.sum() + overlaps.predicted_areas.sum()
    return _ratio(2 * int(overlaps.intersection.sum()), int(areas))


def _object_f1(overlaps: _Overlaps) -> float:
    right = int(np.count_nonzero(_right(overlaps)))
    return _ratio(2 * right, len(overlaps.true_areas) + len(overlaps.predicted_areas))


def _pq(overlaps: _Overlaps) -> float:
    quality = float(overlaps.iou[_right(overlaps)].sum())
    return _ratio(2 * quality, len(overlaps.true_areas) + len(overlaps.predicted_areas))


def _right(overlaps: _Overlaps) -> NDArray[np.bool_]:
    # in integers, so that one half is exactly one half; over it, a nucleus has one such partner at most
    return 2 * overlaps.intersection > overlaps.union


def _ratio(part: float, whole: float) -> float:
    """part / whole, or 1 when there was nothing to find and nothing was found."""
    return part / whole if whole else 1.0
