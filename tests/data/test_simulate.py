"""The procedural microscope: exact labels, honest knobs, files that are whole or absent."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pdamlib.data.scenes import grow_nuclei
from pdamlib.data.shapes import depth, draw, fill, outline, place, smooth_noise
from pdamlib.data.simulate import Microscope, fluorescence, histology, simulate
from pdamlib.data.tissue import chromatin
from pdamlib.errors import UserError

SIZE = (128, 160)
TAKES = (fluorescence, histology)
BARE = Microscope(fat=0, red_cells=0, distractors=0, debris=0)  # nuclei in tissue and nothing else


def square(left: float, top: float, right: float, bottom: float) -> NDArray[np.float64]:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)


def fields(take: Callable, scope: Microscope, count: int = 6) -> list:
    return [take(np.random.default_rng(seed), SIZE, scope) for seed in range(count)]


@pytest.mark.parametrize("take", TAKES)
def test_equal_seeds_give_equal_fields_and_others_do_not(take):
    first, again, other = (take(np.random.default_rng(seed), SIZE) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[1], other[1])


def test_shapes_types_and_ranges():
    plane, plane_labels = fluorescence(np.random.default_rng(0), SIZE)
    assert plane.dtype == np.uint16 and plane.shape == SIZE
    assert 110 <= plane.min() < 160 and 400 < plane.max() <= 4095
    colour, colour_labels = histology(np.random.default_rng(0), SIZE)
    assert colour.dtype == np.uint8 and colour.shape == (*SIZE, 3)
    for label_map in (plane_labels, colour_labels):
        assert label_map.dtype == np.int32 and label_map.shape == SIZE and label_map.max() > 3


def test_nuclei_are_of_like_size_in_both_domains():
    for take in TAKES:
        areas = np.concatenate([np.bincount(label_map.ravel())[1:] for _, label_map in fields(take, Microscope())])
        assert 9 < np.sqrt(np.median(areas) / np.pi) < 14


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(TAKES), st.integers(0, 2**32), st.floats(0, 15), st.floats(0, 1), st.floats(0, 1), st.floats(4, 20)
)
def test_every_label_is_one_solid_nucleus_and_ids_have_no_gaps(take, seed, density, touching, gap, radius):
    scope = Microscope(density=density, touching=touching, gap=gap, radius=radius, radius_spread=radius / 6)
    _, label_map = take(np.random.default_rng(seed), (64, 80), scope)
    ids = np.unique(label_map)
    assert np.array_equal(ids[ids > 0], np.arange(1, label_map.max() + 1))
    for nucleus in ids[ids > 0]:
        inside = (label_map == nucleus).astype(np.uint8)
        assert inside.sum() >= 30
        assert cv2.connectedComponents(inside, connectivity=4)[0] == 2


def test_hematoxylin_of_nuclei_ends_where_their_labels_do():
    rng = np.random.default_rng(3)
    nuclei = grow_nuclei(rng, SIZE, Microscope(), np.zeros(SIZE, bool), np.full(SIZE, 0.5, np.float32))
    assert len(nuclei.outlines) == nuclei.label_map.max() == len(nuclei.spindle) == len(nuclei.lymphocyte) > 3
    assert np.array_equal(chromatin(rng, nuclei, Microscope()) > 0, nuclei.label_map > 0)
    for label, contour in enumerate(nuclei.outlines, start=1):
        window, inside = fill(contour, SIZE)
        assert set(np.flatnonzero(nuclei.label_map == label)) <= set(
            np.arange(SIZE[0] * SIZE[1]).reshape(SIZE)[window][inside]
        )


@pytest.mark.parametrize("take", TAKES)
def test_labels_lie_on_what_is_seen(take):
    scope = replace(BARE, gap=0, blur=0, noise=0, uneven_light=0)
    image, label_map = take(np.random.default_rng(4), SIZE, scope)
    grey = image.mean(axis=2) if image.ndim == 3 else -image.astype(float)
    ground = np.median(grey[label_map == 0])
    seen = grey < ground - 0.5 * (ground - np.percentile(grey[label_map > 0], 90))  # half of a faint nucleus
    assert (seen & (label_map > 0)).sum() / (seen | (label_map > 0)).sum() > 0.9


def test_a_later_nucleus_gets_what_an_earlier_one_left():
    label_map, kept = draw([square(1, 1, 10, 10), square(6, 1, 18, 10)], (12, 20))
    assert kept.tolist() == [0, 1]
    assert label_map[5].tolist() == [0] + [1] * 10 + [2] * 8 + [0]


def test_slivers_and_nuclei_outside_get_no_label():
    hidden, outside, whole = square(1, 1, 11, 10), square(30, 1, 40, 10), square(1, 12, 10, 18)
    label_map, kept = draw([square(1, 1, 10, 10), hidden, outside, whole], (20, 20))
    assert kept.tolist() == [0, 3]
    assert np.unique(label_map).tolist() == [0, 1, 2]
    assert fill(outside, (20, 20))[1].size == 0


def test_a_nucleus_cut_in_two_keeps_the_larger_piece():
    label_map, _ = draw([square(8, 0, 10, 19), square(0, 5, 19, 10)], (20, 20))
    assert label_map[7].tolist() == [0] * 8 + [1] * 3 + [2] * 9


def test_no_nuclei_draw_an_empty_map():
    label_map, kept = draw([], (4, 5))
    assert label_map.shape == (4, 5) and not label_map.any() and kept.tolist() == []


def test_depth_counts_from_the_edge_of_the_own_nucleus():
    label_map = np.array([[0, 0, 0, 0, 0, 0, 0], [0, 1, 1, 2, 2, 2, 0], [0, 1, 1, 2, 2, 2, 0], [0, 1, 1, 2, 2, 2, 0]])
    found = np.round(depth(label_map.astype(np.int32)), 1)
    assert found[2].tolist() == [0, 1, 1, 1, 2, 1, 0]


def test_lonely_nuclei_keep_apart_and_leaning_ones_touch():
    rng, radii, taken = np.random.default_rng(0), np.full(12, 10.0), np.zeros((200, 200), bool)
    taken[:, :100] = True
    for touching, nearest in ((0.0, lambda gaps: (gaps > 25).all()), (1.0, lambda gaps: (gaps <= 20).all())):
        centres = place(rng, (200, 200), radii, touching, taken)
        centres = centres[~np.isnan(centres[:, 0])]
        assert len(centres) > 3 and (centres[:, 0] >= 100).all()
        between = np.linalg.norm(centres[:, None] - centres, axis=2) + 1e3 * np.eye(len(centres))
        assert nearest(between.min(axis=1)[1:])


def test_an_outline_without_wobble_is_an_ellipse_of_the_radius():
    contour = outline(np.random.default_rng(0), np.array([50.0, 40.0]), 10, 4.0, np.pi / 2, 0)
    assert np.allclose(contour.max(axis=0) - contour.min(axis=0), (10, 40), atol=0.1)
    assert contour.mean(axis=0) == pytest.approx((50, 40))


@pytest.mark.parametrize("scale", [1, 7, 300])
def test_smooth_noise_is_finite_and_smoother_on_larger_scales(scale):
    field = smooth_noise(np.random.default_rng(0), (90, 70), scale)
    assert field.shape == (90, 70) and np.isfinite(field).all()
    assert np.abs(np.diff(field)).mean() < np.abs(np.diff(smooth_noise(np.random.default_rng(0), (90, 70), 0.5))).mean()


def purple(image: NDArray) -> float:
    """The share of pixels that are dark and bluish, as hematoxylin is and eosin never."""
    red, blue = (image[..., channel].astype(float) for channel in (0, 2))
    return float(((red < 125) & (blue > red + 10)).mean())


def test_distractors_are_purple_and_have_no_labels():
    for count, least, most in ((0.0, 0.0, 1e-3), (8.0, 0.01, 1.0)):
        scope = replace(BARE, density=0, distractors=count)
        found = fields(histology, scope)
        assert not any(label_map.any() for _, label_map in found)
        assert least <= np.mean([purple(image) for image, _ in found]) <= most


def test_debris_has_no_labels():
    found = fields(fluorescence, Microscope(density=0, debris=4))
    assert not any(label_map.any() for _, label_map in found)
    assert all(image.max() > 500 for image, _ in found)


def test_the_gap_leads_from_inverted_fluorescence_to_histology():
    colourful, bright, textured = [], [], []
    for gap in (0, 0.5, 1):
        found = fields(histology, replace(BARE, gap=gap))
        image = np.stack([image for image, _ in found]).astype(float)
        ground = np.stack([label_map for _, label_map in found]) == 0
        colourful.append(np.ptp(image, axis=3).mean())
        bright.append(image[ground].mean())
        textured.append(image[ground].std())
    assert colourful[0] < 6 and np.all(np.diff(colourful) > 10)
    assert bright[0] > 215 and np.all(np.diff(bright) < -10)
    assert np.all(np.diff(textured) > 5)


def nuclei_count(image, label_map):
    return label_map.max()


def mean_area(image, label_map):
    return np.bincount(label_map.ravel())[1:].mean()


def contacts(image, label_map):
    a, b = label_map[:, 1:], label_map[:, :-1]
    return ((a != b) & (a > 0) & (b > 0)).sum() / max(label_map.max(), 1)


def sharpness(image, label_map):
    return np.abs(np.diff(image.astype(float), axis=1)).mean()


def graininess(image, label_map):
    return np.abs(np.diff(image.astype(float), 2, axis=1)).mean()


def raggedness(image, label_map):
    """Length of the edges over that of discs of the same areas."""
    edges = (label_map[1:] != label_map[:-1]).sum() + (label_map[:, 1:] != label_map[:, :-1]).sum()
    return edges / np.sqrt(np.bincount(label_map.ravel())[1:]).sum()


def shading(image, label_map):
    corners = np.array([image[:16, :16], image[:16, -16:], image[-16:, :16], image[-16:, -16:]], float)
    return np.ptp(np.median(corners, axis=(1, 2)))


def spots_of_light(image, label_map):
    return ((image > 700) & (label_map == 0)).mean()


def variety(image, label_map):
    return np.std([image[label_map == nucleus].mean() for nucleus in range(1, label_map.max() + 1)])


def area_variety(image, label_map):
    return np.std(np.sqrt(np.bincount(label_map.ravel())[1:]))


def pinkness(image, label_map):
    return (image[..., 0].astype(float) - image[..., 1])[label_map == 0].mean()


def strands(image, label_map):
    return image[..., 1][label_map == 0].std()


def whiteness(image, label_map):
    return (image.min(axis=2) > 215).mean()


def redness(image, label_map):
    return ((image[..., 0] > 180) & (image[..., 2] < 130)).mean()


@pytest.mark.parametrize(
    ("take", "knob", "low", "high", "measure"),
    [
        (fluorescence, "density", 1, 6, nuclei_count),
        (histology, "density", 1, 6, nuclei_count),
        (fluorescence, "radius", 7, 12, mean_area),
        (histology, "radius", 7, 12, mean_area),
        (fluorescence, "radius_spread", 0, 4, area_variety),
        (fluorescence, "touching", 0, 1, contacts),
        (histology, "touching", 0, 1, contacts),
        (fluorescence, "wobble", 0, 0.4, raggedness),
        (fluorescence, "blur", 4, 0.5, sharpness),
        (histology, "blur", 4, 0.5, sharpness),
        (fluorescence, "noise", 0, 3, graininess),
        (histology, "noise", 0, 3, graininess),
        (fluorescence, "uneven_light", 0, 0.9, shading),
        (histology, "uneven_light", 0, 1, shading),
        (fluorescence, "debris", 0, 6, spots_of_light),
        (histology, "darkness_spread", 0, 0.8, variety),
        (histology, "stroma", 0.3, 1, pinkness),
        (histology, "fibres", 0, 1.5, strands),
        (histology, "fat", 0, 2, whiteness),
        (histology, "red_cells", 0, 2, redness),
    ],
)
def test_a_knob_does_what_it_says(take, knob, low, high, measure):
    base = replace(BARE, gap=0, density=0) if measure is shading else BARE
    values = [
        np.mean([measure(*field) for field in fields(take, replace(base, **{knob: value}))]) for value in (low, high)
    ]
    assert values[1] > 1.05 * values[0] + 1e-3


def test_stains_differ_between_images_as_much_as_asked():
    spreads = []
    for spread in (0.0, 0.3):
        scope = replace(BARE, density=0, stain_spread=spread, fibres=0)
        spreads.append(np.std([np.mean(image, axis=(0, 1)) for image, _ in fields(histology, scope)], axis=0).mean())
    assert spreads[1] > 1.5 * spreads[0]


def test_stain_colours_are_knobs():
    green = replace(BARE, density=0, eosin=(0.7, 0.1, 0.7), stain_spread=0)
    image, _ = histology(np.random.default_rng(0), SIZE, green)
    assert image[..., 1].mean() > image[..., 0].mean() + 20


@pytest.mark.parametrize(
    ("knob", "value"), [("gap", 1.5), ("touching", -0.1), ("noise", float("nan")), ("radius", 1), ("fat", float("inf"))]
)
def test_a_knob_out_of_range_is_named(knob, value):
    with pytest.raises(UserError, match=rf"setting {knob} is {value}: give") as caught:
        Microscope(**{knob: value})
    assert "\n" not in str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_simulate_writes_both_domains_with_labels_and_a_manifest(tmp_path):
    folder = simulate(tmp_path, 7, counts=(2, 1, 1), size=(64, 96), scope=Microscope(gap=0.5))
    assert folder == tmp_path / "simulated"
    assert [p.name for p in tmp_path.iterdir()] == ["simulated"]
    names = ["train/{}/000.png", "train/{}/001.png", "validation/{}/000.png", "test/{}/000.png"]
    expected = [
        f"{d}/{n.format(k)}" for d in ("fluorescence", "histology") for n in names for k in ("images", "labels")
    ]
    assert sorted(contents(folder)) == sorted([*expected, "manifest.json"])
    plane = cv2.imread(str(folder / "fluorescence/train/images/001.png"), cv2.IMREAD_UNCHANGED)
    assert plane.dtype == np.uint16 and plane.shape == (64, 96) and plane.min() >= 110 and plane.max() <= 4095
    colour = cv2.imread(str(folder / "histology/train/images/001.png"), cv2.IMREAD_UNCHANGED)
    assert colour.dtype == np.uint8 and colour.shape == (64, 96, 3)
    ids = cv2.imread(str(folder / "histology/train/labels/001.png"), cv2.IMREAD_UNCHANGED)
    image, label_map = histology(np.random.default_rng((7, 1, 0, 1)), (64, 96), Microscope(gap=0.5))
    assert ids.dtype == np.uint16 and np.array_equal(ids, label_map) and np.array_equal(colour[..., ::-1], image)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["seed"] == 7 and manifest["counts"] == [2, 1, 1] and manifest["microscope"]["gap"] == 0.5


def test_equal_arguments_give_equal_bytes_and_counts_leave_fields_alone(tmp_path):
    one, two, more = (
        contents(simulate(tmp_path / name, 1, counts, (48, 48)))
        for name, counts in (("one", (1, 1, 1)), ("two", (1, 1, 1)), ("more", (2, 1, 1)))
    )
    assert one == two
    assert all(more[name] == data for name, data in one.items() if name != "manifest.json")


def test_what_is_there_is_kept_and_other_settings_replace_it(tmp_path):
    folder = simulate(tmp_path, 1, (1, 0, 0), (48, 48))
    image = folder / "histology/train/images/000.png"
    before = image.read_bytes()
    image.write_bytes(b"touched")
    simulate(tmp_path, 1, (1, 0, 0), (48, 48))
    assert image.read_bytes() == b"touched"
    simulate(tmp_path, 2, (1, 0, 0), (48, 48))
    assert image.read_bytes() not in (b"touched", before)
    simulate(tmp_path, 1, (1, 0, 0), (48, 48))
    assert image.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["simulated"]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    before = contents(simulate(tmp_path, 1, (1, 0, 0), (48, 48)))

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"simulated: cannot write it \(No space left on device\); free space"):
        simulate(tmp_path, 2, (1, 0, 0), (48, 48))
    assert [p.name for p in tmp_path.iterdir()] == ["simulated"]
    assert contents(tmp_path / "simulated") == before


def test_a_foreign_folder_is_not_replaced(tmp_path):
    (tmp_path / "simulated").mkdir()
    (tmp_path / "simulated/thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="simulated: exists without a record of being simulated; move it"):
        simulate(tmp_path, 1, (1, 0, 0), (48, 48))
    assert (tmp_path / "simulated/thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("wrong", [{"counts": (-1, 0, 0)}, {"size": (16, 64)}, {"seed": -1}])
def test_counts_size_and_seed_are_checked(tmp_path, wrong):
    arguments = {"seed": 0, "counts": (1, 0, 0), "size": (48, 48)} | wrong
    with pytest.raises(UserError, match="simulation with counts"):
        simulate(tmp_path, **arguments)
    assert not any(tmp_path.iterdir())
