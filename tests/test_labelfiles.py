"""Label maps on disk: every bit depth, whole or not at all, and one clear line for every damage."""

import cv2
import numpy as np
import pytest
from PIL import Image

from pdamlib.errors import UserError
from pdamlib.labelfiles import read_label_map, write_label_map

IDS = np.array([[0, 1, 2], [0, 200, 255]])


def message(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tiff", "a.PNG"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32", "int64"])
def test_what_is_written_is_read(tmp_path, name, dtype):
    write_label_map(tmp_path / name, IDS.astype(dtype))
    found = read_label_map(tmp_path / name)
    assert found.dtype == np.int32
    assert found.tolist() == IDS.tolist()


def test_ids_at_the_edge_of_sixteen_bits(tmp_path):
    write_label_map(tmp_path / "a.png", IDS + 65_280)
    assert read_label_map(tmp_path / "a.png").max() == 65_535
    assert "id 65536 is over the 65535" in message(write_label_map, tmp_path / "b.png", IDS + 65_281)
    assert not (tmp_path / "b.png").exists()
    write_label_map(tmp_path / "b.tif", IDS + 2_000_000_000)
    assert read_label_map(tmp_path / "b.tif").tolist() == (IDS + 2_000_000_000).tolist()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_files_of_opencv(tmp_path, suffix, dtype):
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), IDS.astype(dtype))
    assert read_label_map(path).tolist() == IDS.tolist()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32"])
def test_files_of_tifffile(tmp_path, dtype, order):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", IDS.astype(dtype), byteorder=order)
    if (dtype, order) == ("uint32", ">"):  # the one layout Pillow does not know: a clear line instead
        assert "not a readable PNG or TIFF image" in message(read_label_map, tmp_path / "a.tif")
    else:
        assert read_label_map(tmp_path / "a.tif").tolist() == IDS.tolist()


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_compressed_tiff(tmp_path, compression):
    Image.fromarray(IDS.astype(np.uint16)).save(tmp_path / "a.tif", compression=compression)
    assert read_label_map(tmp_path / "a.tif").tolist() == IDS.tolist()


def test_a_palette_holds_ids_and_a_mask_one_nucleus(tmp_path):
    palette = Image.fromarray(IDS.astype(np.uint8))
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / "palette.png")
    assert read_label_map(tmp_path / "palette.png").tolist() == IDS.tolist()
    Image.fromarray(IDS > 1).save(tmp_path / "mask.png")
    assert read_label_map(tmp_path / "mask.png").tolist() == [[0, 0, 1], [0, 1, 1]]


@pytest.mark.parametrize(("shape", "channels"), [((4, 5, 3), 3), ((4, 5, 4), 4), ((4, 5, 2), 2)])
def test_colour_is_refused(tmp_path, shape, channels):
    Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "a.png")
    assert f"a.png: has {channels} channels, a colour image" in message(read_label_map, tmp_path / "a.png")


def test_float_pages_and_negative_ids_are_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "float.tif", IDS.astype(np.float32))
    tifffile.imwrite(tmp_path / "pages.tif", np.zeros((3, 4, 5), np.uint16), photometric="minisblack")
    tifffile.imwrite(tmp_path / "negative.tif", IDS.astype(np.int32) - 1)
    assert "float.tif: holds float32 values" in message(read_label_map, tmp_path / "float.tif")
    assert "pages.tif: holds 3 pages" in message(read_label_map, tmp_path / "pages.tif")
    assert "negative.tif: holds ids outside 0..2147483647" in message(read_label_map, tmp_path / "negative.tif")


def test_missing_file(tmp_path):
    assert message(read_label_map, tmp_path / "a.png") == f"{tmp_path / 'a.png'}: no such file; check the path"
    assert "no such file" in message(read_label_map, tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_file_cut_anywhere_is_refused_or_still_whole(tmp_path, name):
    label_map = np.random.default_rng(0).integers(0, 60_000, (12, 12))
    write_label_map(tmp_path / name, label_map)
    whole = (tmp_path / name).read_bytes()
    refused = 0
    for length in range(len(whole)):
        (tmp_path / name).write_bytes(whole[:length])
        try:
            assert read_label_map(tmp_path / name).tolist() == label_map.tolist()
        except UserError as problem:
            assert str(problem).startswith(f"{tmp_path / name}: not a readable PNG or TIFF image (")
            refused += 1
    assert refused > 0.9 * len(whole)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_damaged_byte_never_ends_in_another_exception(tmp_path, name):
    write_label_map(tmp_path / name, np.arange(144).reshape(12, 12))
    whole = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        (tmp_path / name).write_bytes(damaged)
        try:
            read_label_map(tmp_path / name)
        except UserError as problem:
            assert "\n" not in str(problem)


def test_a_jpeg_by_another_name_is_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png", format="JPEG")
    assert "of another kind or damaged" in message(read_label_map, tmp_path / "a.png")


def test_another_suffix_is_refused_for_writing(tmp_path):
    assert "a.npy: label maps are written as .png, .tif, .tiff" in message(write_label_map, tmp_path / "a.npy", IDS)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_label_map(tmp_path / "a.png", IDS)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pdamlib.labelfiles.os.replace", full_disk)
    assert "a.png: cannot be written (No space left on device)" in message(write_label_map, tmp_path / "a.png", IDS * 2)
    assert read_label_map(tmp_path / "a.png").tolist() == IDS.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_missing_folder_is_named_when_writing(tmp_path):
    assert "cannot be written (No such file" in message(write_label_map, tmp_path / "none" / "a.png", IDS)
