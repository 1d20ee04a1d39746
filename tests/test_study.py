"""A study: where settings, data and runs come from, and what of the data a run rests on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pdamlib.config import cpu, paper, quick
from pdamlib.engine.runtime import Runtime
from pdamlib.errors import UserError
from pdamlib.runs import MANIFEST, Run
from pdamlib.study import Study, open_study

PATIENTS = (1, 7, 10, 11)  # 7, 10 and 11 test


@pytest.fixture
def tnbc(tmp_path: Path) -> Path:
    """A data root with one 8 x 8 image of each of four TNBC patients."""
    root = tmp_path / "data"
    for patient in PATIENTS:
        rng = np.random.default_rng(patient)
        write(root, f"Slide_{patient:02d}", patient, rng.integers(256, size=(8, 8, 3), dtype=np.uint8))
        write(root, f"GT_{patient:02d}", patient, (rng.random((8, 8)) > 0.5).astype(np.uint8) * 255)
    return root


def write(root: Path, folder: str, patient: int, pixels: np.ndarray, suffix: str = "png") -> Path:
    path = root / "tnbc" / folder / f"{patient:02d}_1.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def real(data_root: Path | None) -> Study:
    return Study(cpu(), data_root, Path("runs"))


def copy(root: Path, name: str) -> Path:
    """A data set is read once a process, so a changed one lives in another folder."""
    return Path(shutil.copytree(root, root.parent / name))


# opening


def test_everything_has_a_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PDAM_DATA", raising=False)
    monkeypatch.delenv("PDAM_RUNS", raising=False)
    study = open_study("quick", runtime=Runtime())
    assert study == Study(quick(), None, Path("runs/quick"), 0, Runtime(), study.say)


def test_the_environment_names_the_folders_and_an_argument_goes_before_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PDAM_DATA", "images")
    monkeypatch.setenv("PDAM_RUNS", "kept")
    study = open_study("cpu", runtime=Runtime())
    assert (study.data_root, study.runs_root) == (Path("images"), Path("kept/cpu"))
    study = open_study("cpu", "mine", 3, runs_root="here", runtime=Runtime())
    assert (study.data_root, study.runs_root, study.seed) == (Path("mine"), Path("here/cpu"), 3)


def test_profiles_keep_their_runs_apart():
    roots = {open_study(name, runtime=Runtime()).runs_root for name in ("quick", "cpu", "paper")}
    assert len(roots) == 3


def test_an_unknown_profile_is_refused():
    with pytest.raises(UserError, match="unknown profile 'gpu'; choose one of quick, cpu, paper"):
        open_study("gpu")


def test_a_study_makes_a_run_in_its_folder_and_says_why(tmp_path: Path):
    said: list[str] = []
    study = Study(quick(), None, tmp_path, say=said.append)
    folder = study.make(Run("step", {}, lambda folder, inputs: None))
    assert folder.parent == tmp_path
    assert (folder / MANIFEST).exists()
    assert said == ["step: not made yet"]


def test_the_record_says_where_it_ran():
    runtime = Runtime("cuda", "bf16", 4)
    assert Study(paper(), None, Path("runs"), 2, runtime).record() == {
        "profile": "paper",
        "seed": 2,
        "device": "cuda",
        "precision": "bf16",
        "threads": 4,
    }


# data


def test_a_simulated_profile_reads_the_folder_that_was_simulated(tmp_path: Path):
    study = Study(quick(), None, tmp_path)
    assert study.is_simulated
    assert study.dataset("simulated_histology", tmp_path).root == tmp_path / "simulated" / "histology"


def test_a_real_profile_reads_the_data_root(tnbc: Path):
    assert not real(tnbc).is_simulated
    assert real(tnbc).dataset("tnbc").names() == ["01_1", "07_1", "10_1", "11_1"]


def test_a_real_profile_without_data_says_how_to_get_them():
    with pytest.raises(UserError, match=r"'cpu' reads real images.*--data-root.*pdam data download"):
        real(None).dataset("tnbc")


def test_the_hash_names_what_was_read(tnbc: Path):
    assert list(real(tnbc).data_hash("tnbc", "train", labels=False)) == ["tnbc train images"]
    assert list(real(tnbc).data_hash("tnbc", "test", labels=True)) == ["tnbc test images and labels"]


def test_the_hash_follows_the_images_of_its_own_split(tnbc: Path):
    other = copy(tnbc, "other")
    write(other, "Slide_07", 7, np.zeros((8, 8, 3), np.uint8))
    for labels in (False, True):
        assert real(tnbc).data_hash("tnbc", "test", labels) != real(other).data_hash("tnbc", "test", labels)
        assert real(tnbc).data_hash("tnbc", "train", labels) == real(other).data_hash("tnbc", "train", labels)


def test_the_hash_follows_labels_only_when_they_are_asked_for(tnbc: Path):
    other = copy(tnbc, "other")
    write(other, "GT_07", 7, np.eye(8, dtype=np.uint8) * 255)
    assert real(tnbc).data_hash("tnbc", "test", True) != real(other).data_hash("tnbc", "test", True)
    assert real(tnbc).data_hash("tnbc", "test", False) == real(other).data_hash("tnbc", "test", False)


def test_labels_that_are_not_asked_for_may_be_absent(tnbc: Path):
    other = copy(tnbc, "other")
    for patient in PATIENTS:
        shutil.rmtree(other / "tnbc" / f"GT_{patient:02d}")
    assert real(tnbc).data_hash("tnbc", "test", False) == real(other).data_hash("tnbc", "test", False)
    with pytest.raises(UserError, match="GT_07"):
        real(other).data_hash("tnbc", "test", True)


def test_a_lossless_copy_in_another_format_is_the_same_data(tnbc: Path):
    other = copy(tnbc, "other")
    png = other / "tnbc" / "Slide_07" / "07_1.png"
    write(other, "Slide_07", 7, np.asarray(Image.open(png)), suffix="tif")
    png.unlink()
    assert real(tnbc).data_hash("tnbc", "test", True) == real(other).data_hash("tnbc", "test", True)
