"""Patches: robust normalisation, one warp for image and labels, right angles for the target."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.patches import symmetries, turn_then_crop, without_fragments
from pdamlib.data.patches import as_source, normalise, random_warp, source_patch, target_patch

seeds = st.integers(0, 10_000)
unhurried = settings(deadline=None, max_examples=50)  # a busy machine is no failure


def disc(shape: tuple[int, int], row: int, column: int, radius: int) -> np.ndarray:
    y, x = np.indices(shape)
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


def grey(plane: np.ndarray) -> np.ndarray:
    return np.repeat(plane.astype(np.uint8)[..., None], 3, axis=2)


def smooth_field(height: int = 150, width: int = 180) -> tuple[np.ndarray, np.ndarray]:
    """Return an image without hard edges and a label map of five discs, two of which touch."""
    y, x = np.indices((height, width))
    waves = [128 + 90 * np.sin(x / a + 1) * np.cos(y / b) for a, b in ((20, 17), (25, 21), (17, 31))]
    label_map = np.zeros((height, width), np.int32)
    for nucleus, place in enumerate(((30, 40, 14), (30, 66, 12), (90, 50, 17), (100, 120, 15), (40, 150, 11)), start=3):
        label_map[disc(label_map.shape, *place)] = nucleus
    return np.stack(waves, axis=2).astype(np.uint8), label_map


def test_normalise_literally():
    image = np.array([[100, 200], [340, 500]], np.uint16)
    # 100 -> 0 and 500 -> 255, so 200 is a quarter of the way (63.75) and 340 six tenths (153)
    assert normalise(image, (0, 100)).tolist() == [[0, 64], [153, 255]]


def test_normalise_clips_what_lies_beyond_the_percentiles():
    image = np.arange(101, dtype=np.uint16)[None]
    found = normalise(image, (10, 90))
    assert found.dtype == np.uint8
    assert (found[0, :11] == 0).all() and (found[0, 90:] == 255).all() and found[0, 42] == 102


def test_normalise_ignores_a_bright_speck():
    image = np.full((100, 100), 150, np.uint16)
    image[disc(image.shape, 50, 50, 20)] = 600
    image[3, 4:7] = 4095  # debris; by minimum and maximum the nucleus would be at 255 * 450 / 3945 = 29
    found = normalise(image, (1.0, 99.5))
    assert found[50, 50] == 255 and found[0, 0] == 0 and found[3, 5] == 255


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_normalise_takes_a_flat_image(value: int):
    assert not normalise(np.full((4, 5), value, np.uint16), (1.0, 99.5)).any()


def test_as_source_inverts_and_gives_three_equal_channels():
    image = np.array([[100, 500]], np.uint16)
    assert as_source(image, (0, 100), invert=True).tolist() == [[[255] * 3, [0] * 3]]
    assert as_source(image, (0, 100), invert=False).tolist() == [[[0] * 3, [255] * 3]]


@given(seeds)
@unhurried
def test_a_warp_turns_mirrors_and_magnifies_but_never_shears(seed: int):
    linear = random_warp(np.random.default_rng(seed), (500, 400), 64, (0.5, 2.0))[:, :2]
    squared = linear @ linear.T
    np.testing.assert_allclose(squared, squared[0, 0] * np.eye(2), atol=1e-12)
    assert 0.5 <= np.sqrt(squared[0, 0]) <= 2.0


@given(seeds)
@unhurried
def test_the_window_of_a_warp_lies_inside_a_field_that_is_large_enough(seed: int):
    matrix = random_warp(np.random.default_rng(seed), (200, 300), 64, (0.5, 1.0))
    corners = np.array([[-0.5, -0.5], [63.5, -0.5], [-0.5, 63.5], [63.5, 63.5]])
    x, y = np.linalg.solve(matrix[:, :2], (corners - matrix[:, 2]).T)
    assert x.min() >= -1e-9 and x.max() <= 299 + 1e-9 and y.min() >= -1e-9 and y.max() <= 199 + 1e-9


def test_warps_cover_what_they_promise():
    rng = np.random.default_rng(0)
    linear = np.array([random_warp(rng, (200, 200), 32, (0.25, 1.0))[:, :2] for _ in range(2000)])
    determinant = np.linalg.det(linear)
    assert 0.45 < (determinant < 0).mean() < 0.55  # mirrored
    assert np.median(np.sqrt(abs(determinant))) == pytest.approx(0.5, abs=0.03)  # log-uniform: the geometric mean
    angle = np.arctan2(linear[:, 1, 0], linear[:, 1, 1])
    assert np.histogram(angle, 8, (-np.pi, np.pi))[0].min() > 2000 / 8 * 0.75


@pytest.mark.parametrize("seed", range(12))
def test_one_warp_equals_turning_the_whole_field_and_cropping(seed: int):
    image, label_map = smooth_field()
    patch, labels = source_patch(np.random.default_rng(seed), image, label_map, 64, (0.5, 1.5), smallest=12)
    matrix = random_warp(np.random.default_rng(seed), label_map.shape, 64, (0.5, 1.5))
    slow_patch, slow_labels = turn_then_crop(image, label_map, matrix, 64, smallest=12)
    difference = abs(patch.astype(int) - slow_patch)
    assert difference.max() <= 4 and difference.mean() < 1  # OpenCV interpolates in fixed point
    assert labels.max() == slow_labels.max()
    assert (labels != slow_labels).mean() < 0.01  # nearest neighbours tie along outlines


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_a_bright_disc_stays_under_its_label(seed: int):
    mask = disc((120, 140), 55, 75, 25)
    patch, labels = source_patch(np.random.default_rng(seed), grey(255 * mask), mask.astype(np.int32), 80, (0.5, 1.5))
    bright, labelled = patch[..., 0] > 127, labels > 0
    outline = 2 * np.pi * 25 * 1.5
    assert (bright != labelled).sum() <= 0.2 * outline
    assert labelled.sum() > 300  # the window is large enough to hold a good part of it


@given(seeds, st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_labels_are_compact_and_no_fragment_is_small(seed: int, smallest: int):
    image, label_map = smooth_field()
    patch, labels = source_patch(np.random.default_rng(seed), image, label_map, 48, (0.5, 1.0), smallest)
    assert patch.shape == (48, 48, 3) and patch.dtype == np.uint8
    assert labels.shape == (48, 48) and labels.dtype == np.int32
    sizes = np.bincount(labels.ravel())[1:]
    assert (sizes >= smallest).all()  # and so none is empty: ids have no gaps
    everything = source_patch(np.random.default_rng(seed), image, label_map, 48, (0.5, 1.0), smallest=1)[1]
    np.testing.assert_array_equal(labels, without_fragments(everything, smallest))


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_no_id_is_invented_between_two_that_touch(seed: int):
    halves = np.ones((60, 60), np.int32)
    halves[:, 30:] = 3  # interpolation would put a nucleus 2 between 1 and 3
    _, labels = source_patch(np.random.default_rng(seed), grey(halves), halves, 32)
    assert labels.min() == 1 and labels.max() <= 2
    assert (labels.max() == 2) == (np.ptp(labels) > 0)


def test_huge_ids_that_differ_by_one_stay_apart():
    for high in (2**31 - 1, 2**24 + 1, 0x7F800002):  # beyond what a float32 counts; the bits of a not-a-number
        halves = np.full((64, 64), high - 1, np.int32)
        halves[:, 32:] = high
        found = {int(source_patch(np.random.default_rng(s), grey(halves > 0), halves, 48)[1].max()) for s in range(10)}
        assert found == {2}


def test_a_fragment_goes_and_a_nucleus_stays():
    label_map = np.zeros((160, 160), np.int32)
    label_map[60:80, 60:80] = 1
    label_map[90, 75:78] = 2

    def found(smallest: int) -> list[int]:
        rng = np.random.default_rng(0)  # every window of 100 px holds both, whole
        return [int(source_patch(rng, grey(label_map), label_map, 100, smallest=smallest)[1].max()) for _ in range(9)]

    assert found(smallest=1) == [2] * 9
    assert found(smallest=20) == [1] * 9


def test_beyond_the_border_the_field_is_mirrored():
    image, label_map = np.full((30, 30, 3), 200, np.uint8), np.ones((30, 30), np.int32)
    for seed in range(5):
        patch, labels = source_patch(np.random.default_rng(seed), image, label_map, 64)
        assert (patch == 200).all() and (labels == 1).all()


def test_equal_seeds_give_equal_patches_and_others_do_not():
    image, label_map = smooth_field()
    first, again, other = (source_patch(np.random.default_rng(s), image, label_map, 64) for s in (5, 5, 6))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()


def test_source_patch_leaves_its_input_as_it_is():
    image, label_map = smooth_field()
    image.flags.writeable = label_map.flags.writeable = False
    source_patch(np.random.default_rng(0), image, label_map.astype(np.uint16), 32)
    source_patch(np.random.default_rng(0), image, label_map, 32)


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_a_target_patch_is_a_crop_in_one_of_eight_positions(seed: int):
    image = np.arange(7 * 9 * 3, dtype=np.uint8).reshape(7, 9, 3)
    patch, labels = target_patch(np.random.default_rng(seed), image, 4)
    crops = [image[top : top + 4, left : left + 4] for top in range(4) for left in range(6)]
    assert labels is None and patch.dtype == np.uint8 and patch.flags.c_contiguous
    assert sum(np.array_equal(patch, way) for crop in crops for way in symmetries(crop)) == 1


def test_all_eight_positions_and_all_places_occur():
    image = np.arange(3 * 4 * 3, dtype=np.uint8).reshape(3, 4, 3)
    rng = np.random.default_rng(0)
    found = {target_patch(rng, image, 2)[0].tobytes() for _ in range(1000)}
    assert len(found) == 8 * 2 * 3


def test_a_target_patch_may_be_the_whole_image():
    image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    patch, _ = target_patch(np.random.default_rng(0), image, 3)
    assert sorted(patch.ravel()) == list(range(27))


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_labels_of_the_supervised_rows_are_cut_alike(seed: int):
    _, label_map = smooth_field()
    patch, labels = target_patch(np.random.default_rng(seed), grey(label_map * 20), 50, label_map)
    assert labels is not None and labels.dtype == np.int32
    np.testing.assert_array_equal(labels > 0, patch[..., 0] > 0)
    for nucleus in range(1, labels.max() + 1):
        assert len(np.unique(patch[labels == nucleus])) == 1
