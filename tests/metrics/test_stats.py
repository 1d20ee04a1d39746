"""Statistics over images, against numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from pdamlib.errors import UserError
from pdamlib.metrics.stats import bootstrap_interval, paired_t_test, summary

SCORES = pd.DataFrame(
    {
        "name": ["a", "b", "c", "d"],
        "seed": [1, 1, 1, 1],
        "aji": [0.2, 0.4, 0.4, 0.6],
        "pixel_f1": [1.0, 1.0, 1.0, 1.0],
        "object_f1": [0.0, 1.0, 0.0, 1.0],
        "pq": [0.1, 0.1, 0.3, 0.3],
    }
)


def test_summary_is_a_row_a_measure_with_the_population_deviation():
    found = summary(SCORES)
    assert list(found.index) == ["aji", "pixel_f1", "object_f1", "pq"]
    assert found["mean"].tolist() == pytest.approx([0.4, 1.0, 0.5, 0.2])
    assert found["std"].tolist() == pytest.approx([math.sqrt(0.02), 0.0, 0.5, 0.1])


def test_summary_of_the_sample_deviation():
    assert summary(SCORES, ddof=1).loc["object_f1", "std"] == pytest.approx(math.sqrt(1 / 3))


def test_summary_of_one_image_has_no_deviation():
    assert summary(SCORES.head(1)).loc["aji"].tolist() == [0.2, 0.0]


def test_paired_t_test_by_hand():
    # gains 1, 2, 3: mean 2, sample deviation 1, t = 2 sqrt(3) on 2 degrees: p = (1 - t / sqrt(2 + t^2)) / 2
    t = 2 * math.sqrt(3)
    p = (1 - t / math.sqrt(2 + t * t)) / 2
    assert paired_t_test([2, 4, 6], [1, 2, 3]) == pytest.approx(p)
    assert paired_t_test([1, 2, 3], [2, 4, 6]) == pytest.approx(1 - p)


def test_paired_t_test_looks_at_pairs_not_at_means():
    better, worse = [0.1, 0.5, 0.91], [0.0, 0.4, 0.8]
    assert paired_t_test(better, worse) < 0.01
    assert paired_t_test(sorted(better, reverse=True), worse) > 0.2


@pytest.mark.parametrize(("better", "p"), [([2.0, 3.0], 0.0), ([1.0, 2.0], 0.5), ([0.0, 1.0], 1.0)])
def test_paired_t_test_of_a_constant_gain(better, p):
    assert paired_t_test(better, [1.0, 2.0]) == p


def test_paired_t_test_of_unequal_or_single_scores():
    with pytest.raises(UserError, match="3 scores against 2"):
        paired_t_test([1, 2, 3], [1, 2])
    with pytest.raises(UserError, match="needs two images at least, got 1"):
        paired_t_test([1], [0])


def test_bootstrap_interval_of_equal_values_is_a_point():
    assert bootstrap_interval([0.25] * 5, np.random.default_rng(0)) == (0.25, 0.25)


def test_bootstrap_interval_of_two_values():
    # the mean of two draws from {0, 1} is 0, 1/2, 1 with chances 1/4, 1/2, 1/4
    assert bootstrap_interval([0, 1], np.random.default_rng(0), level=0.95) == (0, 1)
    assert bootstrap_interval([0, 1], np.random.default_rng(0), level=0.4) == (0.5, 0.5)


def test_bootstrap_interval_is_close_to_the_normal_one_for_many_values():
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    lower, upper = bootstrap_interval(values, np.random.default_rng(2))
    half = 1.96 * values.std() / 20
    assert (lower, upper) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.001)


def test_bootstrap_interval_follows_its_generator():
    values = [0.1, 0.4, 0.7, 0.75]
    first, again, other = (bootstrap_interval(values, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != bootstrap_interval(values, np.random.default_rng(3), level=0.5)
    assert other == pytest.approx(first, abs=0.05)
