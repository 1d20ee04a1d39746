"""Which patches meet: a permutation a pass, and no memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdamlib.data.pairs import flipped, flips_at, index_at

seeds, streams, counts = st.integers(0, 1000), st.integers(0, 3), st.integers(1, 40)
unhurried = settings(deadline=None, max_examples=50)  # a busy machine is no failure


@given(seeds, streams, counts, st.integers(0, 5))
@unhurried
def test_each_pass_visits_every_patch_once(seed: int, stream: int, count: int, epoch: int):
    visited = [index_at(seed, stream, count, epoch * count + step) for step in range(count)]
    assert sorted(visited) == list(range(count))
    assert all(type(index) is int for index in visited)


@given(seeds, st.lists(st.tuples(streams, st.integers(0, 200)), min_size=1, max_size=30))
@unhurried
def test_the_order_of_questions_does_not_matter(seed: int, questions: list[tuple[int, int]]):
    forwards = {question: index_at(seed, question[0], 17, question[1]) for question in questions}
    backwards = {question: index_at(seed, question[0], 17, question[1]) for question in reversed(questions)}
    assert forwards == backwards


def order(seed: int, stream: int, start: int = 0) -> list[int]:
    return [index_at(seed, stream, 50, iteration) for iteration in range(start, start + 50)]


def test_passes_streams_and_seeds_have_orders_of_their_own():
    orders = [order(0, 0), order(0, 0, start=50), order(0, 1), order(1, 0)]
    assert len({tuple(one) for one in orders}) == 4


@pytest.mark.parametrize("stream", [0, 1])
def test_half_of_the_patches_are_mirrored_each_way(stream: int):
    flips = np.array([flips_at(3, stream, iteration) for iteration in range(1000)])
    assert (abs(flips.mean(axis=0) - 0.5) < 0.05).all()
    assert abs((flips[:, 0] & flips[:, 1]).mean() - 0.25) < 0.05  # independent of each other


def test_flips_depend_on_seed_stream_and_iteration_alone():
    def flips(seed: int, stream: int) -> list[tuple[bool, bool]]:
        return [flips_at(seed, stream, iteration) for iteration in range(64)]

    assert flips(0, 0) == flips(0, 0)
    assert flips(0, 0) != flips(0, 1) and flips(0, 0) != flips(1, 0)


def test_flipped_literally():
    array = np.array([[1, 2], [3, 4]])
    assert flipped(array, (False, False)).tolist() == [[1, 2], [3, 4]]
    assert flipped(array, (True, False)).tolist() == [[2, 1], [4, 3]]
    assert flipped(array, (False, True)).tolist() == [[3, 4], [1, 2]]
    assert flipped(array, (True, True)).tolist() == [[4, 3], [2, 1]]


def test_flipped_moves_pixels_whole_and_in_one_piece():
    image = np.arange(24).reshape(2, 4, 3)
    found = flipped(image, (True, True))
    assert found[0, 0].tolist() == image[1, 3].tolist() and found.flags.c_contiguous
