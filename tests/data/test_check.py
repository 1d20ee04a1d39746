import numpy as np
import pytest
from PIL import Image

from pdamlib.data import check as module
from pdamlib.data.check import check

EXPECTED = {
    "bbbc039": {"all": (3, 6), "train": (1, 2), "validation": (1, 2), "test": (1, 2)},
    "kumar": {"all": (0, 0)},
    "tnbc": {"all": (3, 6), "train": (1, 2), "test": (2, 4)},
}
MASK = np.array([[1, 0, 1], [1, 0, 0]], np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root of two nuclei an image, with BBBC039 and TNBC whole and Kumar absent."""
    monkeypatch.setattr(module, "EXPECTED", EXPECTED)
    monkeypatch.setattr(module, "SPLITS", {**module.SPLITS, "kumar": ()})
    for name, file in (("a", "training"), ("b", "validation"), ("c", "test")):
        save(tmp_path / "bbbc039" / "images" / f"{name}.tif", MASK.astype(np.uint16))
        save(tmp_path / "bbbc039" / "masks" / f"{name}.png", MASK)
        (tmp_path / "bbbc039" / "metadata").mkdir(exist_ok=True)
        (tmp_path / "bbbc039" / "metadata" / f"{file}.txt").write_text(f"{name}.png\n")
    for patient in ("01", "07", "10", "11"):
        save(tmp_path / "tnbc" / f"Slide_{patient}" / f"{patient}_1.png", MASK)
        save(tmp_path / "tnbc" / f"GT_{patient}" / f"{patient}_1.png", 255 * MASK)
    return tmp_path


def row(table, dataset, which="all"):
    (found,) = table[(table.dataset == dataset) & (table.split == which)].to_dict("records")
    return found


def test_a_whole_dataset_is_ok_in_every_row(root):
    table = check(root)
    assert list(table.columns) == [
        *("dataset", "split", "images", "nuclei", "expected_images", "expected_nuclei", "ok", "problems")
    ]
    rows = table[table.dataset == "bbbc039"]
    assert rows.ok.all()
    assert rows.images.tolist() == [3, 1, 1, 1]
    assert rows.nuclei.tolist() == [6, 2, 2, 2]


def test_counts_that_differ_are_not_ok_and_stand_beside_what_was_expected(root):
    found = row(check(root), "tnbc")
    assert (found["images"], found["nuclei"]) == (4, 8)
    assert (found["expected_images"], found["expected_nuclei"]) == (3, 6)
    assert not found["ok"]
    assert row(check(root), "tnbc", "train")["ok"]
    assert not row(check(root), "tnbc", "test")["ok"]


def test_an_absent_dataset_is_one_row_that_is_not_ok(root):
    found = row(check(root), "kumar")
    assert (found["images"], found["ok"]) == (0, False)
    assert "kumar: no such folder" in found["problems"]


def test_every_label_map_of_another_size_is_reported_even_when_the_counts_are_right(root):
    for name in ("a", "b"):
        save(root / "bbbc039" / "masks" / f"{name}.png", np.pad(MASK, ((0, 1), (0, 0))))
    found = row(check(root), "bbbc039")
    assert not found["ok"]
    assert "a.png: 3 x 3 px, but its image a.tif has 3 x 2" in found["problems"]
    assert "b.png: 3 x 3 px" in found["problems"]


def test_a_damaged_image_and_a_missing_mask_are_reported_and_the_rest_is_counted(root):
    (root / "bbbc039" / "images" / "a.tif").write_bytes(b"II*\0")
    (root / "bbbc039" / "masks" / "b.png").unlink()
    found = row(check(root), "bbbc039")
    assert (found["images"], found["nuclei"], found["ok"]) == (3, 2, False)
    assert "a.tif: not a whole image" in found["problems"]
    assert "masks/b.*: missing" in found["problems"]


def test_a_missing_list_fails_the_splits_and_leaves_the_images(root):
    (root / "bbbc039" / "metadata" / "test.txt").unlink()
    table = check(root)
    assert row(table, "bbbc039")["ok"]
    assert not row(table, "bbbc039", "train")["ok"]
    assert "test.txt: missing" in row(table, "bbbc039", "train")["problems"]


def test_progress_is_shown_when_asked_for(root, capsys):
    check(root)
    assert capsys.readouterr() == ("", "")
    check(root, progress=True)
    assert "bbbc039" in capsys.readouterr().err


@pytest.mark.slow
def test_the_published_datasets_are_whole(data_root):
    table = check(data_root)
    assert table.ok.all(), table[~table.ok].to_string()
    assert table[table.split == "all"].nuclei.tolist() == [23615, 16958, 4028]
