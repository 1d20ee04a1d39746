"""Label maps: literal cases, and slow twins on random and nasty maps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from oracles.scores import components, nuclei
from pdamlib.errors import UserError
from pdamlib.labels import (
    check_same_shape,
    count,
    detection_masks,
    label_components,
    nucleus_boxes,
    nucleus_ids,
    overlap_table,
    relabel,
)

INTEGERS = ["uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
unhurried = settings(deadline=None)  # a busy machine is no failure
shapes = st.tuples(st.integers(1, 8), st.integers(1, 8))
# few distinct values, so that nuclei touch and fall apart; 7 and 120 leave gaps
label_maps = st.sampled_from(INTEGERS).flatmap(
    lambda dtype: shapes.flatmap(lambda shape: arrays(dtype, shape, elements=st.sampled_from([0, 0, 1, 2, 3, 7, 120])))
)


def test_relabel_closes_gaps_and_keeps_the_order_of_ids():
    found = relabel(np.array([[9, 9, 0], [4, 0, 70]], np.uint16))
    assert found.dtype == np.int32
    assert found.tolist() == [[2, 2, 0], [1, 0, 3]]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_relabel_takes_any_integer_type(dtype):
    assert relabel(np.array([[5, 0, 120]], dtype)).tolist() == [[1, 0, 2]]


@pytest.mark.parametrize("dtype", ["uint32", "int64", "uint64"])
def test_relabel_takes_huge_ids(dtype):
    huge = np.array([[4_000_000_000, 0, 3, 4_000_000_000, 3_999_999_999]], dtype)
    assert relabel(huge).tolist() == [[3, 0, 1, 3, 2]]
    assert relabel(huge).dtype == np.int32
    assert count(huge) == 3


def test_relabel_returns_a_new_array_even_when_nothing_changes():
    already = np.array([[0, 1], [2, 2]], np.int32)
    relabel(already)[0, 0] = 9
    assert already[0, 0] == 0


@unhurried
@given(label_maps)
def test_relabel_keeps_every_nucleus(label_map):
    assert list(nuclei(relabel(label_map)).values()) == list(nuclei(label_map).values())
    assert list(nuclei(relabel(label_map))) == list(range(1, count(label_map) + 1))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_a_map_without_nuclei(dtype):
    empty = np.zeros((3, 4), dtype)
    assert count(empty) == 0
    assert relabel(empty).tolist() == empty.tolist()
    assert label_components(empty).tolist() == empty.tolist()
    assert nucleus_boxes(empty).shape == (0, 4)
    assert detection_masks(empty).shape == (0, 3, 4)
    assert overlap_table(empty, empty).tolist() == [[12]]


def test_a_map_without_pixels():
    nothing = np.zeros((0, 5), np.uint16)
    assert count(nothing) == 0
    assert relabel(nothing).shape == label_components(nothing).shape == (0, 5)
    assert nucleus_boxes(nothing).shape == (0, 4)
    assert overlap_table(nothing, nothing).tolist() == [[0]]


def test_components_join_diagonals_but_not_different_values():
    colouring = np.array([[1, 0, 2, 2], [0, 1, 3, 2], [0, 0, 0, 0], [1, 0, 0, 0]], np.uint8)
    found = label_components(colouring)
    assert found.dtype == np.int32
    assert found.tolist() == [[1, 0, 2, 2], [0, 1, 3, 2], [0, 0, 0, 0], [4, 0, 0, 0]]


@unhurried
@given(label_maps)
def test_components_equal_a_flood_fill(label_map):
    assert label_components(label_map).tolist() == components(label_map).tolist()


def test_components_of_a_view_that_is_not_contiguous():
    colouring = np.array([[1, 0, 1], [1, 0, 0]], np.uint16)
    assert label_components(colouring.T).tolist() == [[1, 1], [0, 0], [2, 0]]


def test_ids_are_those_present():
    assert nucleus_ids(np.array([[7, 0], [2, 7]])).tolist() == [2, 7]
    assert nucleus_ids(np.array([[7, 3], [2, 7]])).tolist() == [2, 3, 7]  # no background at all


def test_boxes_are_exclusive_and_skip_absent_ids():
    label_map = np.array([[5, 0, 0, 0], [0, 0, 9, 9], [0, 0, 0, 9]], np.uint16)
    boxes = nucleus_boxes(label_map)
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[0, 0, 1, 1], [2, 1, 4, 3]]


@unhurried
@given(label_maps)
def test_boxes_bound_the_pixels_of_each_nucleus(label_map):
    expected = []
    for pixels in nuclei(label_map).values():
        rows, columns = zip(*pixels, strict=True)
        expected.append([min(columns), min(rows), max(columns) + 1, max(rows) + 1])
    assert nucleus_boxes(label_map).tolist() == expected


def test_masks_are_planes_of_ones_in_the_order_of_ids():
    masks = detection_masks(np.array([[4, 4, 0], [0, 2, 0]], np.int32))
    assert masks.dtype == np.uint8
    assert masks.tolist() == [[[0, 0, 0], [0, 1, 0]], [[1, 1, 0], [0, 0, 0]]]


@unhurried
@given(label_maps)
def test_masks_boxes_and_relabel_agree(label_map):
    masks = detection_masks(label_map)
    assert len(masks) == len(nucleus_boxes(label_map)) == count(label_map)
    numbers = np.arange(1, len(masks) + 1)[:, None, None]
    assert (masks * numbers).sum(axis=0).tolist() == relabel(label_map).tolist()


def test_overlap_table_counts_every_pair_and_drops_absent_ids():
    truth = np.array([[0, 3, 3, 3], [0, 0, 8, 8]], np.uint8)
    prediction = np.array([[0, 5, 5, 0], [0, 0, 5, 0]], np.uint16)
    table = overlap_table(truth, prediction)
    assert table.dtype == np.int64
    assert table.tolist() == [[3, 0], [1, 2], [1, 1]]


def test_overlap_table_keeps_a_row_for_a_background_without_pixels():
    full = np.array([[1, 1], [2, 2]])
    assert overlap_table(full, full).tolist() == [[0, 0, 0], [0, 2, 0], [0, 0, 2]]


def test_overlap_table_of_many_ids_in_sixteen_bits_does_not_overflow():
    ids = np.arange(90_000).reshape(300, 300) % 1_000
    table = overlap_table(ids.astype(np.uint16), ids.astype(np.uint16))
    assert (table == np.diag(np.full(1_000, 90))).all()


def test_overlap_table_of_huge_ids_stays_small():
    huge = np.array([[4_000_000_000, 0, 7, 7]], np.uint32)
    assert overlap_table(huge, np.array([[1, 0, 90_000, 0]])).tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]


@unhurried
@given(label_maps, st.data())
def test_overlap_table_equals_counting(truth, data):
    prediction = data.draw(arrays("uint16", truth.shape, elements=st.sampled_from([0, 1, 2, 60_000])))
    true, predicted = nuclei(truth), nuclei(prediction)
    table = overlap_table(truth, prediction)
    assert table.sum() == truth.size
    assert table[1:, 1:].tolist() == [[len(t & p) for p in predicted.values()] for t in true.values()]
    assert table.sum(axis=1)[1:].tolist() == [len(t) for t in true.values()]
    assert table.sum(axis=0)[1:].tolist() == [len(p) for p in predicted.values()]


@pytest.mark.parametrize("other", [(2, 8), (1, 4), (4, 1), (16,)])
def test_maps_of_different_size_are_refused(other):
    with pytest.raises(UserError, match=r"truth and prediction differ in size: 4 x 4 pixels"):
        overlap_table(np.zeros((4, 4), int), np.zeros(other, int))


def test_the_shape_error_names_both():
    with pytest.raises(UserError, match=r"^a\.png and b\.png differ in size: 1 x 2 .* against 3 x 4 .*; compare"):
        check_same_shape(np.zeros((1, 2)), np.zeros((3, 4)), "a.png and b.png")
