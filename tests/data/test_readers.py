import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from pdamlib.data.readers import BBBC039, TNBC, ImageFolder, Kumar, Simulated, open_dataset, read
from pdamlib.errors import UserError

KUMAR_NAME, RESAVED_NAME = "TCGA-A7-A13E-01Z-00-DX1", "TCGA-B0-5710-01Z-00-DX1"
RGB = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
PLANE = np.arange(110, 130, dtype=np.uint16).reshape(4, 5)
LABELS = np.array([[0, 0, 7, 7, 0], [0, 0, 7, 0, 0], [3, 0, 0, 0, 9], [3, 3, 0, 0, 9]], np.uint16)
COMPACT = [[0, 0, 2, 2, 0], [0, 0, 2, 0, 0], [1, 0, 0, 0, 3], [1, 1, 0, 0, 3]]


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def kumar(tmp_path):
    save(tmp_path / "images" / f"{KUMAR_NAME}.png", RGB)
    save(tmp_path / "labels" / f"{KUMAR_NAME}.png", LABELS)
    return Kumar(tmp_path)


def official_kumar(root, name):
    save(root / "Tissue Images" / f"{name}.tif", RGB)
    corners = [(1.75, 1.75), (3.75, 1.75), (3.75, 3.75), (1.75, 3.75)]
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in corners)
    (root / "Annotations").mkdir()
    (root / "Annotations" / f"{name}.xml").write_text(f"<A><Region><Vertices>{vertices}</Vertices></Region></A>")


def test_kumar_reads_label_map_files_and_closes_the_gaps_in_their_ids(kumar):
    assert kumar.names() == [KUMAR_NAME]
    sample = read(kumar, KUMAR_NAME, with_labels=True)
    assert sample.name == KUMAR_NAME
    assert (sample.image.dtype, sample.label_map.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(sample.image, RGB)
    np.testing.assert_array_equal(sample.label_map, COMPACT)


@pytest.mark.parametrize("top", ["", "MoNuSeg 2018 Training Data"])
def test_kumar_reads_the_official_layout_also_below_the_archives_own_folder(tmp_path, top):
    official_kumar(tmp_path / top, KUMAR_NAME)
    sample = read(Kumar(tmp_path), KUMAR_NAME, with_labels=True)
    np.testing.assert_array_equal(sample.image, RGB)
    expected = np.zeros((4, 5), int)
    expected[1:3, 1:3] = 1  # 0.75 to 2.75 after the offset of -1
    np.testing.assert_array_equal(sample.label_map, expected)


def test_the_image_that_was_saved_again_upstream_has_an_offset_of_its_own(tmp_path):
    official_kumar(tmp_path, RESAVED_NAME)
    expected = np.zeros((4, 5), int)
    expected[2:4, 2:4] = 1  # 1.25 to 3.25 after the offset of -0.5
    np.testing.assert_array_equal(Kumar(tmp_path).label_map(RESAVED_NAME), expected)


def test_kumar_leaves_out_images_that_are_not_of_kumar_et_al(kumar):
    save(kumar.root / "images" / "TCGA-ZF-A9R5-01A-01-TS1.png", RGB)
    assert kumar.names() == [KUMAR_NAME]


def test_bbbc039_keeps_the_raw_plane_and_parts_touching_nuclei_by_their_colour(tmp_path):
    save(tmp_path / "images" / "a.tif", PLANE)
    red = np.array([[1, 1, 2, 2, 0], [0, 0, 2, 0, 1], [0, 0, 0, 1, 0], [3, 0, 0, 0, 0]], np.uint8)
    mask = np.stack([red, 0 * red, 0 * red, 0 * red + 255], axis=2)
    save(tmp_path / "masks" / "a.png", mask)
    sample = read(BBBC039(tmp_path), "a", with_labels=True)
    assert sample.image.dtype == np.uint16
    np.testing.assert_array_equal(sample.image, PLANE)
    np.testing.assert_array_equal(
        sample.label_map, [[1, 1, 2, 2, 0], [0, 0, 2, 0, 3], [0, 0, 0, 3, 0], [4, 0, 0, 0, 0]]
    )


def test_tnbc_drops_alpha_and_joins_pixels_that_meet_at_a_corner(tmp_path):
    rgba = np.dstack([RGB, np.full((4, 5), 255, np.uint8)])
    mask = np.zeros((4, 5), np.uint8)
    mask[0, 0] = mask[1, 1] = mask[3, 4] = 255
    for name, pixels in (("01_1", rgba), ("02_1", RGB)):
        save(tmp_path / f"TNBC_NucleiSegmentation/Slide_{name[:2]}/{name}.png", pixels)
        save(tmp_path / f"TNBC_NucleiSegmentation/GT_{name[:2]}/{name}.png", mask)
    dataset = TNBC(tmp_path)
    assert dataset.names() == ["01_1", "02_1"]
    sample = read(dataset, "01_1", with_labels=True)
    np.testing.assert_array_equal(sample.image, RGB)
    np.testing.assert_array_equal(
        sample.label_map, [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 2]]
    )


def test_the_simulated_folders_read_by_split(tmp_path):
    for kind, pixels in (("fluorescence", RGB[:, :, 0]), ("histology", RGB)):
        for part in ("test", "train"):
            save(tmp_path / "simulated" / kind / part / "images" / "000.png", pixels)
            save(tmp_path / "simulated" / kind / part / "labels" / "000.png", LABELS)
    source, target = open_dataset("simulated_fluorescence", tmp_path), open_dataset("simulated_histology", tmp_path)
    assert source.names() == target.names() == ["train/000", "test/000"]
    np.testing.assert_array_equal(source.image("train/000"), RGB[:, :, 0])
    np.testing.assert_array_equal(target.image("test/000"), RGB)
    np.testing.assert_array_equal(target.label_map("test/000"), COMPACT)


@pytest.mark.parametrize("extension", ["png", "tif", "TIF", "jpg", "jpeg"])
def test_a_users_own_pictures_read_in_any_common_format(tmp_path, extension):
    save(tmp_path / "images" / f"mine.{extension}", np.full((8, 8, 3), 120, np.uint8))
    dataset = open_dataset(f"folder:{tmp_path}", tmp_path / "elsewhere")
    assert dataset.names() == ["mine"]
    np.testing.assert_array_equal(dataset.image("mine"), np.full((8, 8, 3), 120))


def test_a_users_grey_picture_becomes_three_equal_channels(tmp_path):
    save(tmp_path / "images" / "mine.png", RGB[:, :, 0])
    np.testing.assert_array_equal(ImageFolder(tmp_path).image("mine"), np.repeat(RGB[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_a_users_label_maps_read_from_png_and_tiff(tmp_path, extension):
    save(tmp_path / "images" / "mine.png", RGB)
    save(tmp_path / "labels" / f"mine.{extension}", LABELS)
    np.testing.assert_array_equal(ImageFolder(tmp_path).label_map("mine"), COMPACT)


def test_a_colour_picture_in_place_of_a_label_map_is_refused(kumar):
    save(kumar.root / "labels" / f"{KUMAR_NAME}.png", RGB)
    with pytest.raises(UserError, match=rf"labels/{KUMAR_NAME}\.png: .*channel"):
        kumar.label_map(KUMAR_NAME)


def test_a_truncated_label_map_is_named(kumar):
    path = kumar.root / "labels" / f"{KUMAR_NAME}.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=rf"labels/{KUMAR_NAME}\.png"):
        kumar.label_map(KUMAR_NAME)


def test_every_image_reads_when_all_labels_are_gone(tmp_path):
    datasets = {}
    for name in (KUMAR_NAME, RESAVED_NAME):
        save(tmp_path / "kumar" / "images" / f"{name}.png", RGB)
    save(tmp_path / "tnbc" / "Slide_01" / "01_1.png", RGB)
    save(tmp_path / "bbbc039" / "images" / "a.tif", PLANE)
    save(tmp_path / "own" / "images" / "a.png", RGB)
    save(tmp_path / "simulated" / "histology" / "train" / "images" / "000.png", RGB)
    for key in ("kumar", "tnbc", "bbbc039", f"folder:{tmp_path / 'own'}", "simulated_histology"):
        datasets[key] = open_dataset(key, tmp_path)
    for dataset in datasets.values():
        for name in dataset.names():
            assert read(dataset, name, with_labels=False).label_map is None
            with pytest.raises(UserError):
                dataset.label_map(name)


def test_reading_an_image_opens_no_other_file(kumar, monkeypatch):
    (kumar.root / "labels" / f"{KUMAR_NAME}.png").write_bytes(b"not to be read")
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda path, *a, **k: opened.append(path) or original(path, *a, **k))
    read(kumar, KUMAR_NAME, with_labels=False)
    assert opened == [kumar.root / "images" / f"{KUMAR_NAME}.png"]


def test_an_image_without_nuclei_has_an_empty_label_map(kumar):
    save(kumar.root / "labels" / f"{KUMAR_NAME}.png", 0 * LABELS)
    assert not kumar.label_map(KUMAR_NAME).any()


def test_an_unknown_dataset_is_named_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="'monuseg'; choose bbbc039, kumar, tnbc"):
        open_dataset("monuseg", tmp_path)


@pytest.mark.parametrize("key", ["bbbc039", "kumar", "tnbc", "folder"])
def test_a_wrong_or_empty_folder_is_named_with_its_cure(tmp_path, key):
    name = f"folder:{tmp_path / 'folder'}" if key == "folder" else key
    with pytest.raises(UserError, match=f"{key}: no such folder; run"):
        open_dataset(name, tmp_path).names()
    (tmp_path / key).mkdir()
    with pytest.raises(UserError, match=f"{key}: no folder .* in it; unpack"):
        open_dataset(name, tmp_path).names()
    (tmp_path / key / ("Slide_01" if key == "tnbc" else "images")).mkdir()
    with pytest.raises(UserError, match="no PNG, TIFF or JPEG in it; unpack"):
        open_dataset(name, tmp_path).names()


def test_a_kumar_folder_of_other_images_is_refused(tmp_path):
    save(tmp_path / "images" / "holiday.png", RGB)
    with pytest.raises(UserError, match="none of the 30 TCGA images"):
        Kumar(tmp_path).names()


def test_simulated_data_not_made_yet_say_how_to_make_them(tmp_path):
    with pytest.raises(UserError, match="run `pdam data simulate` first"):
        Simulated(tmp_path, "simulated_histology").names()


def test_two_images_of_one_name_are_refused(tmp_path):
    save(tmp_path / "images" / "a.png", RGB)
    save(tmp_path / "images" / "a.tif", RGB)
    with pytest.raises(UserError, match="two images are named a; keep one"):
        ImageFolder(tmp_path).names()


def test_a_missing_counterpart_is_named(kumar):
    (kumar.root / "labels" / f"{KUMAR_NAME}.png").unlink()
    with pytest.raises(UserError, match=rf"labels/{KUMAR_NAME}\.\*: missing"):
        kumar.label_map(KUMAR_NAME)
    shutil.rmtree(kumar.root / "images")
    (kumar.root / "images").mkdir()
    with pytest.raises(UserError, match=rf"images/{KUMAR_NAME}\.\*: missing"):
        kumar.image(KUMAR_NAME)


def test_a_label_map_of_another_size_is_named_with_both_sizes(kumar):
    save(kumar.root / "labels" / f"{KUMAR_NAME}.png", LABELS[:3])
    with pytest.raises(UserError, match=rf"labels/{KUMAR_NAME}\.png: 5 x 3 px, but its image .* has 5 x 4"):
        kumar.label_map(KUMAR_NAME)


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
FORMATS = [
    ("png", {}),
    ("jpg", {}),
    ("tif", {}),
    ("tif", {"compression": "tiff_deflate"}),
    ("tif", {"compression": "tiff_lzw"}),
]


@pytest.mark.parametrize(("extension", "options"), FORMATS)
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_picture_is_named_in_one_line(tmp_path, extension, options, kept):
    path = save(tmp_path / "images" / f"a.{extension}", NOISE, **options)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=rf"a\.{extension}: not a whole image .*again") as caught:
            ImageFolder(tmp_path).image("a")
    assert "\n" not in str(caught.value)


def test_a_truncated_fluorescence_plane_is_named(tmp_path):
    path = save(tmp_path / "images" / "a.tif", NOISE[:, :, 0].astype(np.uint16) * 16)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"a\.tif: not a whole image"):
        BBBC039(tmp_path).image("a")


@pytest.mark.parametrize("extension", ["png", "tif", "jpg"])
def test_a_file_that_is_no_picture_is_named(tmp_path, extension):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / f"a.{extension}").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=rf"a\.{extension}: not a whole image"):
        ImageFolder(tmp_path).image("a")


def test_a_picture_of_16_bits_is_refused_where_8_are_due(tmp_path):
    save(tmp_path / "images" / "a.tif", PLANE)
    with pytest.raises(UserError, match="save it as an 8-bit RGB image"):
        ImageFolder(tmp_path).image("a")


def test_a_coloured_picture_is_refused_where_a_plane_is_due(tmp_path):
    save(tmp_path / "images" / "a.tif", RGB)
    with pytest.raises(UserError, match="not a grey 8- or 16-bit image"):
        BBBC039(tmp_path).image("a")


def test_the_published_images_have_their_published_shapes(data_root):
    for key, shape, dtype in (
        ("bbbc039", (520, 696), np.uint16),
        ("kumar", (1000, 1000, 3), np.uint8),
        ("tnbc", (512, 512, 3), np.uint8),
    ):
        dataset = open_dataset(key, data_root)
        for name in dataset.names()[::25]:
            sample = read(dataset, name, with_labels=True)
            assert (sample.image.shape, sample.image.dtype) == (shape, dtype)
            assert (sample.label_map.shape, sample.label_map.dtype) == (shape[:2], np.int32)
