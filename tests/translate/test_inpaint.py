"""Nuclei inpainting: Eq. 1 as sets of pixels, Eq. 2 as what changes and what must not."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.filters import threshold_otsu

from oracles import inpaint as slow
from pdamlib.data.simulate import histology
from pdamlib.errors import UserError
from pdamlib.translate.inpaint import CHANNELS, auxiliary_mask, darkness, hematoxylin, inpaint_nuclei, otsu

unhurried = settings(deadline=None, max_examples=60)  # a busy machine is no failure
images = arrays(np.uint8, st.tuples(st.integers(2, 9), st.integers(2, 9), st.just(3)))
few_colours = arrays(
    np.uint8, st.tuples(st.integers(2, 9), st.integers(2, 9), st.just(3)), elements=st.sampled_from([0, 1, 127, 255])
)
channels = pytest.mark.parametrize("channel", CHANNELS)


def grey(rows: list[list[int]]) -> np.ndarray:
    return np.array(rows, np.uint8)[..., None].repeat(3, axis=2)


def stained(hematoxylin_amount: float, eosin_amount: float) -> list[int]:
    """Return the colour of a pixel by the law of Beer and Lambert, with the stain vectors of Ruifrok and Johnston."""
    density = hematoxylin_amount * np.array([0.65, 0.70, 0.29]) + eosin_amount * np.array([0.07, 0.99, 0.11])
    return np.rint(255 * np.exp(-density)).astype(int).tolist()


@channels
def test_equation_1_literally(channel: str):
    image = grey([[10, 10, 240], [240, 10, 240]])
    label_map = np.array([[1, 0, 0], [0, 0, 2]], np.int32)
    # otsu = 110 / 010 and M = 100 / 001; together 110 / 011; minus M leaves the two dark pixels without a label
    assert otsu(image, channel).tolist() == [[True, True, False], [False, True, False]]
    assert auxiliary_mask(image, label_map, channel).tolist() == [[False, True, False], [False, True, False]]


def test_hematoxylin_tells_the_stains_apart_and_grey_does_not():
    image = np.array([[stained(1.5, 0), stained(0, 2.0), stained(0, 0.1), stained(0.05, 0)]], np.uint8)
    nothing = np.zeros((1, 4), np.int32)
    assert auxiliary_mask(image, nothing).tolist() == [[True, False, False, False]]
    assert auxiliary_mask(image, nothing, "grey").tolist() == [[True, True, False, False]]


def test_hematoxylin_recovers_the_amount():
    amounts = [0.0, 0.4, 0.8, 1.2]
    found = hematoxylin(np.array([[stained(amount, 0.3) for amount in amounts]], np.uint8))[0]
    assert found.dtype == np.float32
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0], rtol=0.05)  # equal steps of stain, but for rounded colours
    assert steps[0] > 0


def test_amounts_below_zero_are_kept():
    assert hematoxylin(np.array([[stained(0, 2.0), [255, 0, 0]]], np.uint8)).min() < -0.01


@given(st.one_of(images, few_colours))
@unhurried
def test_hematoxylin_equals_its_slow_twin(image: np.ndarray):
    np.testing.assert_allclose(hematoxylin(image), slow.hematoxylin(image), atol=1e-6)


@given(st.one_of(images, few_colours))
@unhurried
def test_darkness_equals_its_slow_twin(image: np.ndarray):
    twin = slow.stretched(slow.hematoxylin(image).astype(np.float32))
    assert abs(darkness(image).astype(int) - twin).max() <= 1  # a value on the edge between two may fall either way
    brightness = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(int)
    assert abs(darkness(image, "grey").astype(int) - slow.stretched(-brightness)).max() <= 1


@given(st.one_of(images, few_colours), st.sampled_from(CHANNELS))
@unhurried
def test_the_threshold_is_as_good_as_that_of_scikit_image(image: np.ndarray, channel: str):
    plane = darkness(image, channel)
    theirs = slow.between_class_variance(plane, plane > threshold_otsu(plane))
    ours = slow.between_class_variance(plane, otsu(image, channel))
    assert ours == pytest.approx(theirs, rel=1e-6)  # two thresholds may be equally good


@given(st.one_of(images, few_colours), st.sampled_from(CHANNELS), st.integers(0, 1000))
@unhurried
def test_the_auxiliary_mask_is_otsu_without_the_labelled(image: np.ndarray, channel: str, seed: int):
    label_map = np.random.default_rng(seed).integers(0, 3, image.shape[:2]).astype(np.uint16)
    mask = auxiliary_mask(image, label_map, channel)
    assert mask.dtype == bool and mask.shape == label_map.shape
    assert not (mask & (label_map > 0)).any()
    np.testing.assert_array_equal(mask, otsu(image, channel) & (label_map == 0))


@pytest.mark.parametrize("seed", range(5))
def test_the_auxiliary_mask_equals_its_slow_twin_on_tissue(seed: int):
    image, label_map = histology(np.random.default_rng(seed), (96, 96))
    mask = auxiliary_mask(image, label_map)
    twin = slow.auxiliary_mask(image, label_map)
    assert (mask != twin).mean() < 0.002  # rounding at the threshold
    assert 0 < mask.sum() < mask.size / 2


@channels
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 120, 180)])
def test_a_flat_image_holds_no_nuclei(channel: str, colour: tuple[int, int, int]):
    image = np.full((12, 10, 3), colour, np.uint8)
    assert not otsu(image, channel).any()
    assert not auxiliary_mask(image, np.zeros((12, 10), np.int32), channel).any()


def test_an_unknown_channel_is_refused():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(UserError, match="unknown inpainting channel 'eosin'; choose one of hematoxylin, grey"):
        auxiliary_mask(image, np.zeros((4, 4), np.int32), "eosin")


@pytest.mark.parametrize("seed", range(3))
def test_only_unlabelled_nuclei_change(seed: int):
    image, label_map = histology(np.random.default_rng(seed), (96, 96))
    original = image.copy()
    mask = auxiliary_mask(image, label_map)
    found = inpaint_nuclei(image, mask)
    assert found.shape == image.shape and found.dtype == np.uint8
    np.testing.assert_array_equal(image, original)
    np.testing.assert_array_equal(found[~mask], image[~mask])
    np.testing.assert_array_equal(found[label_map > 0], image[label_map > 0])
    assert (found[mask] != image[mask]).any(axis=1).mean() > 0.9
    assert darkness(np.concatenate([image, found]))[96:][mask].mean() < darkness(image)[mask].mean()


def test_a_nucleus_without_a_label_takes_the_colour_around_it():
    image = np.full((40, 40, 3), (230, 180, 210), np.uint8)
    label_map = np.zeros((40, 40), np.int32)
    label_map[5:12, 5:12] = 1
    image[5:12, 5:12] = image[25:33, 20:28] = (90, 60, 140)
    found = inpaint_nuclei(image, auxiliary_mask(image, label_map))
    expected = np.full((40, 40, 3), (230, 180, 210), np.uint8)
    expected[5:12, 5:12] = (90, 60, 140)
    np.testing.assert_allclose(found.astype(int), expected, atol=2)  # fast marching weighs in single precision


def test_nothing_to_inpaint_gives_an_equal_image():
    image, _ = histology(np.random.default_rng(0), (64, 64))
    found = inpaint_nuclei(image, np.zeros((64, 64), bool))
    np.testing.assert_array_equal(found, image)
    assert not np.shares_memory(found, image)


def test_a_wider_radius_is_used():
    image, label_map = histology(np.random.default_rng(1), (96, 96))
    mask = auxiliary_mask(image, label_map)
    assert (inpaint_nuclei(image, mask, 3) != inpaint_nuclei(image, mask, 9)).any()


def test_read_only_patches_can_be_inpainted():
    image, label_map = histology(np.random.default_rng(2), (64, 64))
    image.flags.writeable = label_map.flags.writeable = False
    inpaint_nuclei(image, auxiliary_mask(image, label_map))
