"""All four scores of one image against stardist's `matching`, which gives F1 and PQ alone, in the same process.

Both see a 1000 x 1000 image with about 700 nuclei. Prints one line; exits 1 when ours takes over a third of its time.
"""

import argparse
import sys
from collections.abc import Callable
from time import perf_counter

import numpy as np
from scenes import truth_and_prediction
from stardist.matching import matching

from pdamlib.labels import count, overlap_table
from pdamlib.metrics.scores import score

TARGET = 1 / 3


def fastest(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return the shortest time of each call in seconds; they take turns, so that load falls on all of them."""
    for call in calls:
        call()
    times = np.empty((repeats, len(calls)))
    for turn in times:
        for place, call in enumerate(calls):
            start = perf_counter()
            call()
            turn[place] = perf_counter() - start
    return [float(time) for time in times.min(axis=0)]


def check_equal(truth: np.ndarray, prediction: np.ndarray) -> None:
    """Raise AssertionError unless F1 and PQ agree with stardist's, which only holds without an IoU of exactly 0.5."""
    table = overlap_table(truth, prediction)
    union = table.sum(axis=1, keepdims=True) + table.sum(axis=0) - table
    if (2 * table == union)[1:, 1:].any():
        raise AssertionError("an IoU of exactly 0.5, which stardist counts and we do not: change the seed")
    ours, theirs = score(truth, prediction), matching(truth, prediction, thresh=0.5)
    # stardist keeps IoU in 32 bits
    np.testing.assert_allclose([ours.object_f1, ours.pq], [theirs.f1, theirs.panoptic_quality], rtol=1e-6)


def main() -> int:
    """Return the exit code: 0 within the target, 1 over it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    repeats = 5 if parser.parse_args().quick else 30
    truth, prediction = truth_and_prediction(seed=0)
    check_equal(truth, prediction)
    ours, theirs = fastest([lambda: score(truth, prediction), lambda: matching(truth, prediction, thresh=0.5)], repeats)
    ratio = ours / theirs
    print(
        f"metrics: ratio {ratio:.2f} (target <= {TARGET:.2f}) "
        f"ours {1e3 * ours:.1f} ms, stardist {1e3 * theirs:.1f} ms, {count(truth)} true, {count(prediction)} predicted"
    )
    return int(ratio > TARGET)


if __name__ == "__main__":
    sys.exit(main())
