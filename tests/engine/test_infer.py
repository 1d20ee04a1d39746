"""From detections to one label map: tiles, seams, and masks drawn within their boxes."""

from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_align

from oracles import merge as slow
from pdamlib.config import method
from pdamlib.engine.infer import Detections, detect, merge, tiles
from pdamlib.engine.runtime import Runtime
from pdamlib.labels import count, nucleus_boxes
from pdamlib.methods.pdam import build_network

CELLS = 28
COUNTS = ((12, (4,)), (3, ()), (12, (2, 2)))


# tiles


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, int, int]:
    size = draw(st.integers(1, 300))
    return draw(st.integers(1, 3000)), size, draw(st.integers(0, size - 1))


@given(axes())
def test_responsibilities_cover_every_pixel_exactly_once(axis: tuple[int, int, int]):
    length = axis[0]
    found = tiles(*axis)
    assert [first for _, first, _ in found] == [0, *(last for _, _, last in found[:-1])]
    assert found[-1][2] == length
    assert all(first < last for _, first, last in found)


@given(axes())
def test_every_tile_sees_what_it_answers_for_and_overlaps_its_neighbour(axis: tuple[int, int, int]):
    length, size, overlap = axis
    found = tiles(*axis)
    for start, first, last in found:
        assert 0 <= start <= first
        assert last <= min(start + size, length)
        assert start + size <= length or len(found) == 1
    starts = [start for start, _, _ in found]
    assert all(left + size - right >= overlap for left, right in pairwise(starts))


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (10, [(0, 0, 10)]),
        (16, [(0, 0, 16)]),
        (17, [(0, 0, 8), (1, 8, 17)]),
        (28, [(0, 0, 14), (12, 14, 28)]),
        (30, [(0, 0, 11), (7, 11, 18), (14, 18, 30)]),
    ],
)
def test_tiles_by_hand(length: int, expected: list[tuple[int, int, int]]):
    assert tiles(length, 16, 4) == expected


# detection across seams


class Oracle:
    """A detector that knows: the id of each nucleus is the colour of its pixels.

    It gives box and mask of the part of each nucleus that its tile shows. wobble: moves boxes by so many pixels, in
    every second tile to the left, as a network does that sees other surroundings.
    """

    def __init__(self, wobble: float = 0.0) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.wobble = wobble

    def predict_batch(self, images: Tensor) -> list[dict[str, Tensor]]:
        self.shapes.append(tuple(images.shape))
        assert images.dtype == torch.float32
        return [self._see((image * 255).round().long()) for image in images]

    def _see(self, colours: Tensor) -> dict[str, Tensor]:
        ids = (colours[0] + 256 * colours[1]).numpy()
        present = [int(i) for i in np.unique(ids) if i]
        boxes = torch.from_numpy(nucleus_boxes(ids))
        planes = torch.from_numpy(np.array([ids == i for i in present], np.float32).reshape(-1, *ids.shape))
        places = torch.cat([torch.arange(len(boxes), dtype=torch.float32)[:, None], boxes], dim=1)
        masks = roi_align(planes[:, None], places, CELLS)[:, 0]
        shift = torch.tensor([1.0, 0, 1, 0]) * self.wobble * (-1) ** len(self.shapes)
        return {"boxes": boxes + shift, "scores": torch.tensor([score_of(i) for i in present]), "masks": masks}


def score_of(nucleus: int) -> float:
    return 0.9 - nucleus / 2000


def painted(label_map: np.ndarray) -> np.ndarray:
    """Return the RGB image that shows each nucleus in the colour of its id."""
    return np.stack([label_map % 256, label_map // 256, label_map * 0], axis=2).astype(np.uint8)


def found_in(label_map: np.ndarray, detector: Oracle, tile: int = 48, overlap: int = 16, batch: int = 1) -> Detections:
    return detect(detector, painted(label_map), Runtime(), tile=tile, overlap=overlap, nms_iou=0.5, batch=batch)


@st.composite
def fields(draw: st.DrawFn) -> np.ndarray:
    """Return a label map of up to 150 px a side: in cells of 12 px, nuclei of 4 to 12 px, which may touch."""
    height, width = draw(st.integers(12, 150)), draw(st.integers(12, 150))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    label_map = np.zeros((height, width), np.int32)
    for row in range(0, height - 11, 12):
        for column in range(0, width - 11, 12):
            h, w = rng.integers(4, 13, 2)
            top, left = row + rng.integers(0, 13 - h), column + rng.integers(0, 13 - w)
            if rng.random() < 0.7:
                label_map[top : top + h, left : left + w] = label_map.max() + 1
    return label_map


@settings(deadline=None, max_examples=40)
@given(fields(), st.integers(1, 5))
def test_each_nucleus_is_found_once_and_whole(label_map: np.ndarray, batch: int):
    found = found_in(label_map, Oracle(), batch=batch)
    boxes = nucleus_boxes(label_map)
    assert len(found.boxes) == len(boxes)
    np.testing.assert_array_equal(found.boxes, boxes)  # best first is the order of ids
    np.testing.assert_allclose(found.scores, [score_of(i + 1) for i in range(len(boxes))], rtol=1e-6)


@settings(deadline=None, max_examples=10)
@given(fields())
def test_the_label_map_shows_each_nucleus_once(label_map: np.ndarray):
    result = merge(found_in(label_map, Oracle()))
    assert (result.shape, result.dtype) == (label_map.shape, np.int32)
    assert count(result) == count(label_map)
    for nucleus in range(1, count(label_map) + 1):
        truth, ours = label_map == nucleus, result == nucleus
        assert (truth & ours).sum() / (truth | ours).sum() > 0.95


def test_a_nucleus_on_a_seam_is_found_whichever_way_its_centre_seems_to_move():
    (_, _, seam), _ = tiles(80, 48, 16)
    for left in range(seam - 20, seam + 8):
        label_map = np.zeros((48, 80), np.int32)
        label_map[10:22, left : left + 12] = 1
        for wobble in (-1.0, 1.0):
            found = found_in(label_map, Oracle(wobble))
            assert len(found.boxes) == 1
            assert abs(found.boxes[0, 0] - left) == 1


@pytest.mark.parametrize("shape", [(20, 33), (48, 48), (20, 48), (48, 100), (49, 47), (97, 131)])
def test_images_of_any_size_are_tiled(shape: tuple[int, int]):
    label_map = np.zeros(shape, np.int32)
    label_map[2:10, 3:13] = 1
    label_map[-9:, -7:] = 2  # touches the corner
    detector = Oracle()
    found = found_in(label_map, detector)
    np.testing.assert_array_equal(found.boxes, nucleus_boxes(label_map))
    assert found.shape == shape
    assert set(detector.shapes) == {(1, 3, min(shape[0], 48), min(shape[1], 48))}


def test_one_tile_is_enough_up_to_its_size():
    for side, calls in ((47, 1), (48, 1), (49, 4)):
        detector = Oracle()
        found_in(np.zeros((side, side), np.int32), detector)
        assert len(detector.shapes) == calls


def test_without_detections_the_map_is_empty():
    found = found_in(np.zeros((70, 90), np.int32), Oracle())
    assert (found.boxes.shape, found.scores.shape, found.masks.shape) == ((0, 4), (0,), (0, CELLS, CELLS))
    result = merge(found)
    assert (result.shape, result.dtype, result.max()) == ((70, 90), np.int32, 0)


def test_detections_come_best_first_and_duplicates_go():
    class Twice:
        def predict_batch(self, images: Tensor) -> list[dict[str, Tensor]]:
            boxes = torch.tensor([[20.0, 20, 30, 30], [0, 0, 10, 10], [0, 0, 10, 11]])
            return [{"boxes": boxes, "scores": torch.tensor([0.5, 0.6, 0.9]), "masks": torch.ones(3, 4, 4)}]

    found = detect(Twice(), np.zeros((40, 40, 3), np.uint8), Runtime(), tile=64, overlap=8, nms_iou=0.5)
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.boxes.tolist() == [[0, 0, 10, 11], [20, 20, 30, 30]]


@pytest.mark.parametrize("shape", [(50, 70), (64, 64), (31, 131)])
def test_the_network_itself_is_tiled(shape: tuple[int, int]):
    torch.manual_seed(0)
    network = build_network(method("cyc_pdam"), tiny.NETWORK).eval()
    image = np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8)
    found = detect(network, image, Runtime(), tile=64, overlap=16, nms_iou=0.5)
    assert len(found.boxes) > 0
    assert found.masks.shape[1:] == (28, 28)
    assert (found.boxes[:, :2] >= 0).all()
    assert (found.boxes[:, 2:] <= [shape[1], shape[0]]).all()
    assert (np.diff(found.scores) <= 0).all()
    assert merge(found).shape == shape


def test_over_keeps_scores_above():
    boxes, scores, masks = (np.arange(n, dtype=np.float32).reshape(3, *cells) for n, cells in COUNTS)
    kept = Detections(boxes, scores, masks, (9, 9)).over(1)
    assert kept.scores.tolist() == [2]
    assert kept.boxes.tolist() == [[8, 9, 10, 11]]
    assert kept.masks.tolist() == [[[8, 9], [10, 11]]]
    assert kept.shape == (9, 9)


# merging


def detections(boxes: list[list[float]], scores: list[float], masks: np.ndarray, shape: tuple[int, int]) -> Detections:
    return Detections(np.array(boxes, np.float32), np.array(scores, np.float32), masks.astype(np.float32), shape)


def bars(*columns: tuple[int, int], scores: list[float], width: int = 40) -> Detections:
    """Return detections that cover the given columns (first, last + 1) of an image of one row."""
    boxes = [[first, 0, last, 1] for first, last in columns]
    return detections(boxes, scores, np.ones((len(columns), 4, 4)), (1, width))


def drawn(found: Detections, **how: float) -> str:
    return "".join(".123456789"[label] for label in merge(found, **how)[0])


def test_masks_lie_where_their_boxes_say():
    assert drawn(bars((2, 5), (7, 8), scores=[0.9, 0.8], width=10)) == "..111..2.."


def test_ids_follow_the_score():
    assert drawn(bars((0, 2), (3, 5), (6, 8), scores=[0.5, 0.9, 0.7], width=9)) == "33.11.22."


def test_equal_scores_keep_their_order():
    assert drawn(bars((3, 5), (0, 2), scores=[0.5, 0.5], width=5)) == "22.11"


def test_the_better_one_keeps_the_pixels_both_want():
    assert drawn(bars((0, 4), (2, 6), scores=[0.8, 0.9], width=7)) == "112222.".translate(str.maketrans("12", "21"))


@pytest.mark.parametrize(
    ("covered", "length", "kept"),
    [(6, 10, True), (7, 10, True), (8, 10, False), (9, 10, False), (10, 10, False), (21, 30, True), (22, 30, False)],
)
def test_a_mask_goes_when_more_than_the_share_is_taken(covered: int, length: int, kept: bool):
    found = bars((0, covered), (0, length), scores=[0.9, 0.8])
    assert drawn(found).rstrip(".") == "1" * covered + "2" * (length - covered) * kept


@pytest.mark.parametrize("covered", [7 * n for n in range(1, 30)])
def test_exactly_the_share_is_not_more_than_it(covered: int):
    """0.7 has no exact binary form, and 63 of 90 is still 7 of 10."""
    length = covered // 7 * 10
    assert merge(bars((0, covered), (0, length), scores=[0.9, 0.8], width=300)).max() == 2


def test_a_dropped_mask_takes_neither_pixels_nor_an_id():
    assert drawn(bars((0, 9), (0, 10), (9, 12), scores=[0.9, 0.8, 0.7], width=13)) == "111111111222."


def test_the_share_counts_what_all_earlier_ones_took():
    found = bars((0, 4), (4, 8), (0, 10), scores=[0.9, 0.8, 0.7], width=10)
    assert drawn(found) == "11112222.."
    assert drawn(found, taken=0.8) == "1111222233"


def test_a_mask_outside_the_image_is_nothing():
    assert drawn(bars((-9, -4), (2, 4), (50, 60), scores=[0.9, 0.8, 0.7], width=6)) == "..11.."


def test_a_mask_is_cut_at_the_images_edge():
    assert drawn(bars((-3, 2), (4, 9), scores=[0.9, 0.8], width=6)) == "11..22"


def test_a_mask_under_the_threshold_is_nothing():
    found = detections([[0, 0, 8, 8]], [0.9], np.full((1, 4, 4), 0.4), (8, 8))
    assert merge(found).max() == 0
    assert merge(found, threshold=0.3).max() == 1


@st.composite
def exact(draw: st.DrawFn) -> Detections:
    """Return masks of quarters on boxes of half, once or twice the grid, where bilinear values are exact fractions."""
    cells, number = 4, draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    corner, side = rng.integers(-4, 14, (number, 2)), rng.choice([2, 4, 8], (number, 2))
    masks = rng.choice([0, 0.25, 0.5, 0.75, 1], (number, cells, cells), p=[0.2, 0.1, 0.1, 0.1, 0.5])
    scores = rng.choice([0.5, 0.6, 0.7, 0.8], number)
    return detections(np.hstack([corner, corner + side]).reshape(-1, 4), scores, masks, (11, 14))


@settings(deadline=None)
@given(exact(), st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0]))
def test_merge_is_its_slow_twin(found: Detections, taken: float):
    np.testing.assert_array_equal(merge(found, taken), slow.merge(found, taken))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32))
def test_a_mask_on_any_box_is_its_slow_twin_but_for_pixels_on_the_very_outline(seed: int):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-3, 12, 2)
    box = [x, y, x + rng.uniform(1, 14), y + rng.uniform(1, 14)]
    mask = rng.random((1, 4, 4))
    found = detections([box], [0.9], mask, (15, 16))
    value = slow.plane(found.masks[0], found.boxes[0], (15, 16))
    clear = np.abs(value - 0.5) > 0.05  # OpenCV may round places to 1/32 of a cell
    np.testing.assert_array_equal(merge(found)[clear] > 0, (value >= 0.5)[clear])


@settings(deadline=None)
@given(exact())
def test_ids_have_no_gaps_and_no_mask_is_larger_than_drawn(found: Detections):
    result = merge(found)
    assert set(np.unique(result)) - {0} == set(range(1, result.max() + 1))
    assert result.max() <= len(found.scores)


@settings(deadline=None)
@given(exact())
def test_the_best_nucleus_is_drawn_whole(found: Detections):
    if len(found.scores):
        best = int(np.argmax(found.scores))
        alone = Detections(found.boxes[[best]], found.scores[[best]], found.masks[[best]], found.shape)
        if (merge(alone) > 0).any():
            np.testing.assert_array_equal(merge(found) == 1, merge(alone) == 1)


def test_masks_of_an_ellipse_come_back_where_it_was():
    """RoIAlign makes the masks that the network learns: drawn again, they must lie where they came from."""
    rows, columns = np.ogrid[:80, :90]
    truth = (((columns - 41.3) / 17) ** 2 + ((rows - 37.8) / 11) ** 2 <= 1).astype(np.int32)
    box = nucleus_boxes(truth)
    plane = torch.from_numpy(truth.astype(np.float32))[None, None]
    mask = roi_align(plane, [torch.from_numpy(box)], CELLS)[:, 0].numpy()
    ours = merge(Detections(box, np.array([0.9], np.float32), mask, truth.shape))
    assert (truth & ours).sum() / (truth | ours).sum() > 0.98
    centres = [np.mean(np.nonzero(label_map), axis=1) for label_map in (truth, ours)]
    np.testing.assert_allclose(*centres, atol=0.1)
