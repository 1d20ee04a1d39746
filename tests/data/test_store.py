"""Patches on disk: mapped, read-only, and clear words when the files or the disk fail."""

from pathlib import Path

import numpy as np
import pytest

from pdamlib.data.store import IMAGES, LABELS, batches, open_patches, write_patches
from pdamlib.errors import UserError


def some(count: int = 5, size: int = 8) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        (rng.integers(0, 256, (size, size, 3), np.uint8), rng.integers(0, 9, (size, size)).astype(np.int32))
        for _ in range(count)
    ]


def test_what_is_written_is_read(tmp_path: Path):
    pairs = some()
    write_patches(tmp_path / "new" / "folder", iter(pairs), 5, 8, labelled=True)
    patches = open_patches(tmp_path / "new" / "folder")
    assert len(patches) == 5 and patches.size == 8
    assert patches.images.dtype == np.uint8 and patches.labels.dtype == np.uint16
    np.testing.assert_array_equal(patches.images, [image for image, _ in pairs])
    np.testing.assert_array_equal(patches.labels, [label_map for _, label_map in pairs])
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "folder" / LABELS), patches.labels)


def test_patches_are_mapped_not_loaded_and_cannot_be_changed(tmp_path: Path):
    write_patches(tmp_path, some(), 5, 8, labelled=True)
    patches = open_patches(tmp_path)
    for array in (patches.images, patches.labels):
        assert isinstance(array, np.memmap) and array.mode == "r" and not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_turned_views_are_written_in_reading_order(tmp_path: Path):
    pairs = [(image[::-1, ::-1], np.asfortranarray(label_map)) for image, label_map in some()]
    write_patches(tmp_path, pairs, 5, 8, labelled=True)
    patches = open_patches(tmp_path)
    np.testing.assert_array_equal(patches.images[2], pairs[2][0])
    np.testing.assert_array_equal(patches.labels[2], pairs[2][1])


def test_unlabelled_patches_have_no_label_file(tmp_path: Path):
    write_patches(tmp_path, [(image, None) for image, _ in some()], 5, 8, labelled=False)
    patches = open_patches(tmp_path)
    assert not (tmp_path / LABELS).exists() and patches.label_maps is None
    with pytest.raises(UserError, match="no labels"):
        patches.labels  # noqa: B018


def test_a_half_written_folder_is_written_anew(tmp_path: Path):
    (tmp_path / IMAGES).write_bytes(b"x" * 100_000)
    write_patches(tmp_path, some(), 5, 8, labelled=True)
    assert len(open_patches(tmp_path)) == 5


def test_missing_patches_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=rf"{IMAGES}: cannot read these patches .*No such file.*; delete the folder"):
        open_patches(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "truncated", "foreign"])
@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_damaged_patches_are_named(tmp_path: Path, name: str, damage: str):
    write_patches(tmp_path, some(), 5, 8, labelled=True)
    path = tmp_path / name
    path.write_bytes({"empty": b"", "truncated": path.read_bytes()[:-1], "foreign": b"not an array"}[damage])
    with pytest.raises(UserError, match=rf"{name}: cannot read these patches .*; delete the folder") as caught:
        open_patches(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_a_full_disk_is_said_so(tmp_path: Path, name: str):
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write patches .*No space left.*; free some disk space"):
        write_patches(tmp_path, some(), 5, 8, labelled=True)


def test_batches_cover_all_patches_in_order(tmp_path: Path):
    write_patches(tmp_path, some(7), 7, 8, labelled=True)
    patches = open_patches(tmp_path)
    parts = list(batches(patches, 3))
    assert [(start, len(images)) for start, images in parts] == [(0, 3), (3, 3), (6, 1)]
    np.testing.assert_array_equal(np.concatenate([images for _, images in parts]), patches.images)
    assert all(isinstance(images, np.memmap) for _, images in parts)
