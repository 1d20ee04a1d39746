"""The road from fields to inpainted patches, at its smallest: made once, made anew when something changed, resumed."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import study

from pdamlib import runs, steps
from pdamlib.data.store import Patches, open_patches
from pdamlib.errors import UserError
from pdamlib.runs import Run
from pdamlib.study import Study
from pdamlib.translate.cyclegan import CycleGAN

TARGET = "simulated_histology"
ROAD: dict[str, Callable[[Study], Run]] = {
    "simulate": steps.simulated_data,
    "source": steps.source_patches,
    "target": lambda study: steps.target_patches(study, TARGET),
    "translator": lambda study: steps.translator(study, TARGET),
    "translated": lambda study: steps.translated_patches(study, TARGET),
    "inpainted": lambda study: steps.inpainted_patches(study, TARGET),
}


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the runs of the whole road; tests that add to it work on a copy."""
    root = tmp_path_factory.mktemp("walked")
    made = study(root)
    made.make(ROAD["inpainted"](made))
    return root


@pytest.fixture
def copied(walked: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(walked, tmp_path / "runs"))


def folder(root: Path, name: str) -> Path:
    return root / ROAD[name](study(root)).folder_name


def patches(root: Path, name: str) -> Patches:
    return open_patches(folder(root, name))


def changed(made: Study, part: str, **settings: object) -> Study:
    """Return the study with other settings in one part of its profile."""
    return replace(made, profile=replace(made.profile, **{part: replace(getattr(made.profile, part), **settings)}))


def test_every_step_leaves_its_folder_and_nothing_else(walked: Path):
    made = study(walked)
    names = {ROAD[name](made).folder_name for name in ROAD}
    assert {path.name for path in walked.iterdir()} == names | {".work"}
    assert all((walked / name / runs.MANIFEST).exists() for name in names)
    assert not [path for path in (walked / ".work").iterdir() if path.is_dir()]


def test_source_patches_hold_dark_nuclei_with_labels(walked: Path):
    source = patches(walked, "source")
    assert source.images.shape == (8, 64, 64, 3) and source.labels.shape == (8, 64, 64)
    for image, label_map in zip(source.images, source.labels, strict=True):
        sizes = np.bincount(label_map.ravel())[1:]
        assert len(sizes) >= 3 and sizes.min() >= 10  # minimum_nuclei, smallest
        assert image[label_map > 0].mean() < image[label_map == 0].mean()
        assert (image == image[..., :1]).all()
    record = runs.manifest(folder(walked, "source"))
    assert record["patches"] == 8 and record["dropped"] >= 0 and record["config"]["split"] == "train"


def test_target_patches_are_crops_without_labels(walked: Path):
    target = patches(walked, "target")
    assert target.images.shape == (8, 64, 64, 3) and target.label_maps is None
    assert sorted(path.name for path in folder(walked, "target").iterdir()) == ["images.npy", "manifest.json"]


def test_the_translator_keeps_weights_and_log_alone(walked: Path):
    made = folder(walked, "translator")
    assert sorted(path.name for path in made.iterdir()) == ["log.csv", "manifest.json", "weights.pt"]
    record = runs.manifest(made)
    assert record["iterations"] == 3 and record["training_seconds"] > 0
    assert record["device"] == "cpu" and record["precision"] == "fp32" and record["config"]["translator"]["width"] == 4


def test_translation_changes_images_and_reuses_labels(walked: Path):
    source, translated = patches(walked, "source"), patches(walked, "translated")
    assert translated.images.shape == source.images.shape
    assert all((new != old).any() for new, old in zip(translated.images, source.images, strict=True))
    np.testing.assert_array_equal(translated.labels, source.labels)


def test_inpainting_changes_nothing_under_a_label(walked: Path):
    translated, inpainted = patches(walked, "translated"), patches(walked, "inpainted")
    np.testing.assert_array_equal(inpainted.labels, translated.labels)
    differs = (inpainted.images != translated.images).any(axis=3)
    assert differs.any() and not differs[translated.labels > 0].any()
    share = runs.manifest(folder(walked, "inpainted"))["inpainted_share"]
    assert differs.mean() - 1e-4 <= share < 0.5  # recorded to four places; a filled pixel may come out as it was


def test_a_second_call_does_nothing(copied: Path):
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()}
    lines: list[str] = []
    made = study(copied, lines.append)
    assert made.make(ROAD["inpainted"](made)) == folder(copied, "inpainted")
    assert lines == []
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("part", "settings", "expected"),
    [
        (
            "inpaint",
            {"channel": "grey"},
            ["inpainted: changed: config inpaint.channel hematoxylin -> grey"],
        ),
        (
            "translator",
            {"learning_rate": 1e-3},
            [
                "translator: changed: config translator.learning_rate 0.0005 -> 0.001",
                "translated: changed: input translator",
                "inpainted: changed: input translated",
            ],
        ),
        (
            "patches",
            {"minimum_nuclei": 2},
            [
                "source: changed: config minimum_nuclei 3 -> 2",
                "translator: changed: input source",
                "translated: changed: input source-train-s0; input translator",
                "inpainted: changed: input translated",
            ],
        ),
    ],
)
def test_a_changed_setting_makes_what_depends_on_it_and_says_why(
    copied: Path, part: str, settings: dict[str, object], expected: list[str]
):
    before = {path.name for path in copied.iterdir()}
    lines: list[str] = []
    made = changed(study(copied, lines.append), part, **settings)
    made.make(ROAD["inpainted"](made))
    found = [line.replace(f"-{TARGET}", "").replace("-train", "").replace("-s0", "") for line in lines]
    assert [line.replace("-train", "").replace("-s0", "") for line in expected] == found
    after = {path.name for path in copied.iterdir()}
    assert before < after and len(after - before) == len(expected)  # the old runs stay


def test_another_channel_inpaints_other_pixels(copied: Path):
    made = changed(study(copied), "inpaint", channel="grey")
    grey = open_patches(made.make(ROAD["inpainted"](made)))
    assert (grey.images != patches(copied, "inpainted").images).any()


def test_equal_seeds_give_equal_runs_and_others_do_not(walked: Path, tmp_path: Path):
    again = study(tmp_path)
    again.make(ROAD["inpainted"](again))
    for name in ("source", "target", "translated", "inpainted"):
        np.testing.assert_array_equal(patches(tmp_path, name).images, patches(walked, name).images)
    other = replace(again, seed=1)
    for step in ("source", "target"):
        images = open_patches(other.make(ROAD[step](other))).images
        assert (images != patches(walked, step).images).any()


def test_no_label_of_the_target_is_ever_opened(walked: Path, tmp_path: Path):
    made = study(tmp_path)
    data = made.make(steps.simulated_data(made)) / "simulated"
    shutil.rmtree(data / "histology" / "train" / "labels")
    for part in ("validation", "test"):
        for file in (data / "histology" / part / "labels").iterdir():
            file.unlink()
    with pytest.raises(UserError):
        made.dataset(TARGET, data.parent).label_map("train/000")
    made.make(ROAD["inpainted"](made))
    np.testing.assert_array_equal(patches(tmp_path, "target").images, patches(walked, "target").images)
    np.testing.assert_array_equal(patches(tmp_path, "inpainted").images, patches(walked, "inpainted").images)


def test_validation_patches_come_from_other_fields(copied: Path):
    made = study(copied)
    validation = open_patches(made.make(steps.source_patches(made, "validation")))
    assert len(validation) == 3
    assert not any((image == other).all() for image in validation.images for other in patches(copied, "source").images)
    inpainted = open_patches(made.make(steps.inpainted_patches(made, TARGET, "validation")))
    np.testing.assert_array_equal(inpainted.labels, validation.labels)


class Stopped(Exception):
    """Stands for a killed process."""


def test_a_translator_that_was_killed_goes_on_from_its_checkpoint(
    walked: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.rmtree(folder(copied, "translator"))
    step, done = CycleGAN.step, []

    def watched(gan: CycleGAN, iteration: int) -> dict[str, torch.Tensor]:
        if iteration == 2 and 2 not in done:  # checkpoint_every is 2
            done.append(iteration)
            raise Stopped
        done.append(iteration)
        return step(gan, iteration)

    monkeypatch.setattr(CycleGAN, "step", watched)
    lines: list[str] = []
    made = study(copied, lines.append)
    with pytest.raises(Stopped):
        made.make(ROAD["translator"](made))
    assert not folder(copied, "translator").exists()
    made.make(ROAD["translator"](made))
    assert done == [0, 1, 2, 2]
    name = f"translator-{TARGET}-s0"
    assert lines == [f"{name}: not made yet", f"{name}: unfinished, resumes from its checkpoint"]
    unbroken, resumed = (torch.load(folder(root, "translator") / "weights.pt") for root in (walked, copied))
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(resumed[key], weight) for key, weight in unbroken.items())


def test_too_few_nuclei_are_reported_with_the_setting(copied: Path):
    made = changed(study(copied), "patches", minimum_nuclei=1000)
    with pytest.raises(UserError, match="simulated_fluorescence: fewer than 1 in 100 patches hold minimum_nuclei"):
        made.make(steps.source_patches(made))
    assert folder(copied, "source").exists()


def test_a_field_smaller_than_a_patch_is_named(copied: Path):
    made = changed(study(copied), "patches", size=100)
    with pytest.raises(
        UserError, match=rf"{TARGET}: image train/000 of 96 x 96 px is smaller than a patch; .* than 100"
    ):
        made.make(steps.target_patches(made, TARGET))


def test_a_split_that_does_not_exist_is_named(copied: Path):
    made = study(copied)
    with pytest.raises(UserError, match="no split 'all'"):
        made.make(steps.source_patches(made, "all"))
