"""The measures: literal cases, slow twins on random scenes, and what must not matter."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from oracles import scores as slow
from pdamlib.errors import UserError
from pdamlib.metrics.scores import (
    AJI_READINGS,
    MEASURES,
    Scores,
    aji,
    aji_drfns,
    aji_greedy,
    aji_plus,
    object_f1,
    pixel_f1,
    pq,
    score,
)

EMPTY = np.zeros((2, 3), np.int32)
FULL = np.ones((2, 3), np.int32)
unhurried = settings(deadline=None)  # a busy machine is no failure
NAMED = [*AJI_READINGS.values(), pixel_f1, object_f1, pq]


def maps(*values: int) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Pairs of small maps in which nuclei touch, fall apart, are missing, or are absent altogether."""
    shapes = st.tuples(st.integers(1, 7), st.integers(1, 7))
    return shapes.flatmap(lambda shape: st.tuples(*[arrays("uint16", shape, elements=st.sampled_from(values))] * 2))


def random_scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping rectangles with gaps in the ids: what a detector leaves, at a size a slow twin can bear."""
    rng = np.random.default_rng(seed)
    size = rng.integers(6, 20)
    scene = np.zeros((2, size, size), np.uint16)
    for plane in scene:
        for label in rng.choice(np.arange(1, 60), size=rng.integers(0, 8), replace=False):
            y, x = rng.integers(0, size, 2)
            height, width = rng.integers(1, 8, 2)
            plane[y : y + height, x : x + width] = label
    return scene[0], scene[1]


def test_aji_of_a_prediction_that_is_right():
    truth = np.array([[1, 1, 0], [0, 2, 2]])
    assert aji(truth, truth) == 1


def test_aji_charges_a_prediction_for_every_nucleus_it_swallows():
    truth = np.array([[1, 1, 2, 2]])
    merged = np.array([[1, 1, 1, 1]])
    assert aji(truth, merged) == (2 + 2) / (4 + 4)


def test_aji_adds_missed_nuclei_and_invented_predictions_to_the_union():
    truth = np.array([[1, 1, 1, 0, 2, 2, 0, 0]])
    prediction = np.array([[1, 1, 0, 0, 0, 0, 2, 2]])
    assert aji(truth, prediction) == 2 / (3 + 2 + 2)


def test_aji_takes_the_highest_iou_not_the_largest_intersection():
    truth = np.array([[1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]])
    prediction = np.array([[1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2]])
    assert aji(truth, prediction) == 2 / (5 + 9)  # IoU 2/5 beats 3/11


def test_aji_takes_the_lower_label_on_a_tie():
    # the IoU is 1/4 with the prediction of one pixel and 2/8 with that of six
    truth = np.array([[1, 1, 1, 1, 0, 0, 0, 0]])
    prediction = np.array([[2, 7, 7, 0, 7, 7, 7, 7]])
    assert aji(truth, prediction) == 1 / (4 + 6)
    swapped = np.array([[7, 2, 2, 0, 2, 2, 2, 2]])
    assert aji(truth, swapped) == 2 / (8 + 1)


def test_the_readings_of_aji_on_one_scene():
    # a row of two touching nuclei under one prediction, a missed nucleus, an invented prediction
    truth = np.array([[1, 1, 2, 2, 2, 0, 3, 0, 0]])
    prediction = np.array([[4, 4, 4, 4, 4, 0, 0, 0, 6]])
    assert {name: reading(truth, prediction) for name, reading in AJI_READINGS.items()} == {
        "kumar": (2 + 3) / (5 + 5 + 1 + 1),
        "aji_plus": 3 / (2 + 5 + 1 + 1),  # nucleus 2 has the higher IoU
        "greedy": 2 / (5 + 3 + 1 + 1),  # nucleus 1 comes first
        "drfns": 5 / (5 + (1 + 5) + 1),  # 1 and 2 melt; 3 brings the first prediction along
    }


def test_greedy_aji_depends_on_the_order_of_ids_and_kumars_does_not():
    truth = np.array([[1, 1, 2, 2, 2]])
    swapped = np.array([[2, 2, 1, 1, 1]])
    merged = np.array([[1, 1, 1, 1, 1]])
    assert aji_greedy(truth, merged) == 2 / (5 + 3)
    assert aji_greedy(swapped, merged) == 3 / (5 + 2)
    assert aji(truth, merged) == aji(swapped, merged) == 5 / 10


def test_greedy_aji_has_no_slip_for_a_nucleus_that_nothing_overlaps():
    truth = np.array([[1, 0, 2, 2]])
    prediction = np.array([[0, 0, 1, 1]])
    assert aji_greedy(truth, prediction) == 2 / (1 + 2)


def test_pixel_f1_is_dice_of_the_foregrounds():
    assert pixel_f1(np.array([[1, 2, 0, 0]]), np.array([[0, 5, 5, 5]])) == 2 * 1 / (2 + 3)


def test_objects_need_more_than_half():
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 2]])
    prediction = np.array([[1, 1, 0, 0, 0, 2, 2, 0]])  # IoU exactly 1/2, and 2/3
    assert object_f1(truth, prediction) == 2 * 1 / (2 + 2)
    assert pq(truth, prediction) == pytest.approx((2 / 3) / (1 + 0.5 + 0.5))


def test_pq_is_object_f1_when_every_right_pair_is_perfect():
    truth = np.array([[1, 1, 0, 2, 0]])
    prediction = np.array([[1, 1, 0, 0, 2]])
    assert pq(truth, prediction) == object_f1(truth, prediction) == 0.5


def test_score_collects_the_four():
    truth = np.array([[1, 1, 1, 0, 2, 2, 0, 0]])
    prediction = np.array([[1, 1, 0, 0, 0, 0, 2, 2]])
    found = score(truth, prediction)
    assert found == Scores(aji=2 / 7, pixel_f1=4 / 9, object_f1=0.5, pq=pytest.approx(1 / 3))
    assert all(type(value) is float for value in astuple(found))
    assert MEASURES == ("aji", "pixel_f1", "object_f1", "pq")


@pytest.mark.parametrize("measure", NAMED)
def test_nothing_found_where_nothing_is_scores_one(measure):
    assert measure(EMPTY, EMPTY) == 1


@pytest.mark.parametrize("measure", NAMED)
def test_one_empty_map_scores_zero(measure):
    assert measure(FULL, EMPTY) == 0
    assert measure(EMPTY, FULL) == 0


@pytest.mark.parametrize("measure", NAMED)
def test_every_measure_of_the_truth_itself_is_one(measure):
    truth = np.array([[3, 3, 0, 9], [0, 0, 0, 9], [5, 5, 0, 0]], np.uint8)
    assert measure(truth, truth) == 1


def test_sixteen_bit_maps_of_many_nuclei():
    truth = np.arange(40_000, dtype=np.uint16).reshape(200, 200) % 900
    assert score(truth, truth) == Scores(1, 1, 1, pytest.approx(1))


def test_maps_of_different_size_are_refused():
    with pytest.raises(UserError, match="truth and prediction differ in size"):
        score(EMPTY, EMPTY.T)


def test_arguments_stay_as_they_were():
    truth, prediction = random_scene(3)
    before = truth.copy(), prediction.copy()
    for measure in [score, *NAMED]:
        measure(truth, prediction)
    assert (truth == before[0]).all() and (prediction == before[1]).all()


def test_random_scenes_equal_the_slow_twins():
    for seed in range(1_000):
        truth, prediction = random_scene(seed)
        twin = [getattr(slow, name)(truth, prediction) for name in MEASURES]
        assert astuple(score(truth, prediction)) == pytest.approx(twin, abs=1e-9), seed


@settings(max_examples=200, deadline=None)
@given(maps(0, 1, 2, 3, 9))
@example((EMPTY, EMPTY))
@example((EMPTY, FULL))
def test_nasty_maps_equal_the_slow_twins(pair):
    truth, prediction = pair
    for name in [*MEASURES, "aji_greedy", "aji_drfns"]:
        reading = {"aji_greedy": aji_greedy, "aji_drfns": aji_drfns}.get(name)
        fast = reading(truth, prediction) if reading else getattr(score(truth, prediction), name)
        assert fast == pytest.approx(getattr(slow, name)(truth, prediction), abs=1e-9), name


@settings(max_examples=100, deadline=None)
@given(maps(0, 1, 2, 9))
def test_aji_plus_is_that_of_a_best_pairing(pair):
    candidates = slow.aji_plus_all(*pair)
    assert any(aji_plus(*pair) == pytest.approx(value, abs=1e-9) for value in candidates)


@unhurried
@given(maps(0, 1, 2, 3, 9), st.permutations([11, 2, 50_000, 7]))
def test_numbers_of_nuclei_do_not_matter(pair, names):
    truth, prediction = pair
    table = np.zeros(10, np.uint16)
    table[[1, 2, 3, 9]] = names
    # the tie rule of AJI looks at labels of predictions: there only the order-free measures are equal
    assert aji(table[truth], prediction) == pytest.approx(aji(truth, prediction))
    for measure in (pixel_f1, object_f1, pq, aji_drfns):
        assert measure(table[truth], table[prediction]) == pytest.approx(measure(truth, prediction)), measure


def test_numbers_of_predictions_matter_to_aji_on_ties_alone():
    changed = 0
    for seed in range(200):
        truth, prediction = random_scene(seed)
        reverse = np.where(prediction == 0, 0, 60 - prediction)
        if aji(truth, prediction) != pytest.approx(aji(truth, reverse)):
            changed += 1
            true, predicted = slow.nuclei(truth).values(), slow.nuclei(prediction).values()
            tops = [sorted(slow.iou(t, p) for p in predicted)[-2:] for t in true]
            assert any(len(top) == 2 and 0 < top[0] == top[1] for top in tops), seed
    assert changed < 20


@unhurried
@given(maps(0, 1, 2, 3, 9))
def test_gaps_do_not_matter(pair):
    truth, prediction = pair
    spread = np.array([0, 4, 6, 60, 0, 0, 0, 0, 0, 30_000], np.uint16)
    for measure in NAMED:
        assert measure(spread[truth], spread[prediction]) == measure(truth, prediction), measure


@unhurried
@given(maps(0, 1, 2, 3))
def test_what_is_symmetric_and_what_is_bounded(pair):
    truth, prediction = pair
    for measure in (pixel_f1, object_f1, pq):
        assert measure(truth, prediction) == pytest.approx(measure(prediction, truth)), measure
    assert all(0 <= measure(truth, prediction) <= 1 for measure in NAMED)
    assert pq(truth, prediction) <= object_f1(truth, prediction) + 1e-12


@unhurried
@given(maps(0, 1, 2, 3))
def test_missing_one_nucleus_never_pays(pair):
    truth, _ = pair
    assume(truth.any())
    fewer = np.where(truth == truth.max(), 0, truth)
    assert all(value < 1 for value in astuple(score(truth, fewer)))
