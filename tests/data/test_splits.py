from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from pdamlib.data.readers import BBBC039, TNBC, ImageFolder, Kumar, Simulated
from pdamlib.data.splits import (
    KUMAR_ORGAN,
    TNBC_TEST_PATIENTS,
    admissible_tnbc_triples,
    bbbc039_lists,
    kumar_name,
    split,
    subset,
    tnbc_patient,
)
from pdamlib.errors import UserError

IMAGES_OF_PATIENT = dict(enumerate([7, 3, 5, 8, 4, 3, 3, 4, 6, 4, 3], start=1))


def pictures(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(folder / f"{name}.png")


@pytest.fixture
def kumar(tmp_path):
    pictures(tmp_path / "images", *KUMAR_ORGAN)
    return Kumar(tmp_path)


@pytest.fixture
def tnbc(tmp_path):
    for patient, images in IMAGES_OF_PATIENT.items():
        pictures(tmp_path / f"Slide_{patient:02}", *(f"{patient:02}_{k}" for k in range(1, images + 1)))
    return TNBC(tmp_path)


@pytest.fixture
def bbbc039(tmp_path):
    pictures(tmp_path / "images", "a", "b", "c", "d")
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "training.txt").write_text("d.png\na.png\n")
    (tmp_path / "metadata" / "validation.txt").write_text("b.png\n")
    (tmp_path / "metadata" / "test.txt").write_text("c.png\r\n\r\n")
    return BBBC039(tmp_path)


@pytest.mark.parametrize("kumar_list", ["kumar", "hovernet"])
def test_kumar_is_parted_into_16_8_and_6_without_overlap(kumar, kumar_list):
    train, seen, unseen, test = (split(kumar, w, kumar_list=kumar_list) for w in ("train", "seen", "unseen", "test"))
    assert [len(train), len(seen), len(unseen)] == [16, 8, 6]
    assert sorted(train + seen + unseen) == kumar.names()
    assert sorted(seen + unseen) == test
    seen_organs = {KUMAR_ORGAN[name] for name in train}
    assert seen_organs == {KUMAR_ORGAN[name] for name in seen} == {"breast", "kidney", "liver", "prostate"}
    assert {KUMAR_ORGAN[name] for name in unseen} == {"bladder", "colon", "stomach"}


def test_the_train_images_are_those_of_kumar_et_al(kumar):
    short = """A7-A13E A7-A13F AR-A1AK AR-A1AS B0-5711 HE-7128 HE-7129 HE-7130
               18-5592 38-6178 49-4488 50-5931 G9-6336 G9-6348 G9-6356 G9-6363"""
    assert split(kumar, "train") == sorted(map(kumar_name, short.split()))


def test_hovernets_list_swaps_three_pairs(kumar):
    theirs, ours = set(split(kumar, "train", kumar_list="hovernet")), set(split(kumar, "train"))
    assert ours - theirs == set(map(kumar_name, ["A7-A13F", "49-4488", "G9-6336"]))
    assert theirs - ours == set(map(kumar_name, ["E2-A14V", "21-5784", "G9-6362"]))


def test_subset_tells_test_images_by_their_organs_and_no_others(kumar):
    for name in kumar.names():
        expected = "seen" if name in split(kumar, "seen") else "unseen" if name in split(kumar, "unseen") else ""
        assert subset("kumar", name) == expected
    assert subset("kumar", kumar_name("A7-A13F"), kumar_list="hovernet") == "seen"
    assert subset("tnbc", "07_1") == subset("bbbc039", "a") == subset("folder", "anything") == ""


def test_a_short_name_is_that_of_one_image():
    assert kumar_name("A7-A13E") == kumar_name("TCGA-A7-A13E") == "TCGA-A7-A13E-01Z-00-DX1"
    with pytest.raises(UserError, match="'A7' names 2 of the 30"):
        kumar_name("A7")
    with pytest.raises(UserError, match="'ZZ-1' names 0"):
        kumar_name("ZZ-1")


def test_tnbc_is_parted_by_patients_into_40_and_10(tnbc):
    train, test = split(tnbc, "train"), split(tnbc, "test")
    assert [len(train), len(test)] == [40, 10]
    assert sorted(train + test) == tnbc.names()
    assert {tnbc_patient(name) for name in test} == set(TNBC_TEST_PATIENTS)
    assert not {tnbc_patient(name) for name in train} & set(TNBC_TEST_PATIENTS)


def test_eighteen_triples_of_patients_have_ten_images_and_ours_is_the_last():
    triples = admissible_tnbc_triples(IMAGES_OF_PATIENT)
    # ten is only 3 + 3 + 4 here: two of four patients with three images, one of three with four
    assert len(triples) == 6 * 3
    assert all(a < b for a, b in pairwise(triples))
    assert triples[-1] == TNBC_TEST_PATIENTS
    assert (9, 10, 11) not in triples


def test_tnbc_test_patients_are_a_setting(tnbc):
    assert {tnbc_patient(name) for name in split(tnbc, "test", tnbc_test=(2, 5, 6))} == {2, 5, 6}
    with pytest.raises(UserError, match="no image of test patient 12"):
        split(tnbc, "test", tnbc_test=(2, 5, 12))


def test_bbbc039_follows_its_own_lists(bbbc039):
    assert split(bbbc039, "train") == ["a", "d"]
    assert split(bbbc039, "validation") == ["b"]
    assert split(bbbc039, "test") == ["c"]


def test_bbbc039_lists_are_found_below_an_archives_own_folder(bbbc039):
    (bbbc039.root / "metadata").rename(bbbc039.root / "moved")
    (bbbc039.root / "top").mkdir()
    (bbbc039.root / "moved").rename(bbbc039.root / "top" / "metadata")
    assert bbbc039_lists(bbbc039.root)["train"] == ["d", "a"]


@pytest.mark.parametrize("damage", ["missing", "empty", "binary"])
def test_a_bbbc039_list_that_cannot_serve_is_named(bbbc039, damage):
    path = bbbc039.root / "metadata" / "test.txt"
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"" if damage == "empty" else b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"metadata/test\.txt: missing or empty; unpack metadata\.zip"):
        split(bbbc039, "train")


def test_a_listed_image_that_is_missing_is_named(bbbc039, kumar):
    (bbbc039.root / "images" / "d.png").unlink()
    with pytest.raises(UserError, match=r"no image d of the bbbc039 split 'train' \(1 missing"):
        split(bbbc039, "train")
    (kumar.root / "images" / f"{kumar_name('KB-A93J')}.png").unlink()
    with pytest.raises(UserError, match="no image TCGA-KB-A93J-01A-01-TS1 of the kumar split 'unseen'"):
        split(kumar, "unseen")


def test_simulated_images_are_parted_by_their_folders(tmp_path):
    for part in ("train", "validation", "test"):
        pictures(tmp_path / part / "images", "000", "001")
    dataset = Simulated(tmp_path, "simulated_histology")
    assert split(dataset, "validation") == ["validation/000", "validation/001"]


def test_all_pictures_of_a_users_folder_train_and_test(tmp_path):
    pictures(tmp_path / "images", "a", "b")
    assert split(ImageFolder(tmp_path), "train") == split(ImageFolder(tmp_path), "test") == ["a", "b"]


def test_an_unknown_split_or_list_is_named_with_the_known_ones(kumar, tnbc):
    with pytest.raises(UserError, match="tnbc has no split 'validation'; choose one of train, test"):
        split(tnbc, "validation")
    with pytest.raises(UserError, match="no Kumar split list 'naylor'; choose one of kumar, hovernet"):
        split(kumar, "train", kumar_list="naylor")


def test_the_published_folders_have_the_published_splits(data_root):
    sizes = {"train": 100, "validation": 50, "test": 50}
    assert {w: len(split(BBBC039(data_root / "bbbc039"), w)) for w in sizes} == sizes
    assert Kumar(data_root / "kumar").names() == sorted(KUMAR_ORGAN)
    names = TNBC(data_root / "tnbc").names()
    patients = [tnbc_patient(name) for name in names]
    assert {p: patients.count(p) for p in set(patients)} == IMAGES_OF_PATIENT
