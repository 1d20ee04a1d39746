"""Train, predict and score: what each step reads, what it leaves, and that labels of the target reach scoring alone."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny

from pdamlib.config import PredictConfig, method
from pdamlib.data.store import Patches
from pdamlib.engine.infer import Detections
from pdamlib.errors import UserError
from pdamlib.labelfiles import read_label_map
from pdamlib.runs import is_done, manifest
from pdamlib.steps import detection as module
from pdamlib.steps.detection import SCORES, choose_score, detector, prediction, scores
from pdamlib.steps.pixels import inpainted_patches, simulated_data, source_patches
from pdamlib.study import Study

TARGET = "simulated_histology"
PLAIN, PDAM = method("no_adaptation"), method("cyc_pdam")


def unlabelled(study: Study) -> Path:
    """Take all labels of the target away; return where they lie now."""
    histology = study.make(simulated_data(study)) / "simulated" / "histology"
    away = study.runs_root / "away"
    for labels in histology.glob("*/labels"):
        shutil.move(labels, away / labels.parent.name / "labels")
    assert not list(histology.rglob("labels"))
    return away


def given_back(study: Study, away: Path) -> None:
    histology = study.make(simulated_data(study)) / "simulated" / "histology"
    for labels in away.glob("*/labels"):
        shutil.move(labels, histology / labels.parent.name / "labels")


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Study, dict[str, object]]]:
    """A study that went all the way while the target had no labels, and what happened on the way."""
    study = tiny.study(tmp_path_factory.mktemp("runs"))
    seen: dict[str, object] = {}
    away = unlabelled(study)
    study.make(prediction(study, PLAIN, TARGET))
    seen["runs of no_adaptation"] = sorted(path.name for path in study.runs_root.iterdir())
    study.make(prediction(study, PDAM, TARGET))
    for row in (PLAIN, PDAM):
        with pytest.raises(UserError) as caught:
            study.make(scores(study, row, TARGET))
        seen[row.id] = str(caught.value)
    given_back(study, away)
    for row in (PLAIN, PDAM):
        study.make(scores(study, row, TARGET))
    yield study, seen


# what reads labels of the target


def test_training_and_prediction_need_no_label_of_the_target(road: tuple[Study, dict]):
    study, _ = road
    for row in (PLAIN, PDAM):
        for step in (detector, prediction, scores):
            assert is_done(step(study, row, TARGET), study.runs_root)


@pytest.mark.parametrize("row", ["no_adaptation", "cyc_pdam"])
def test_scoring_without_labels_names_what_is_missing(road: tuple[Study, dict], row: str):
    text = road[1][row]
    assert "\n" not in text
    assert "histology" in text
    assert "labels" in text


def test_without_adaptation_no_patch_of_the_target_is_ever_cut(road: tuple[Study, dict]):
    made = road[1]["runs of no_adaptation"]
    assert any(name.startswith("train-no_adaptation-s0-") for name in made)
    assert not [name for name in made if name.startswith(("target", "translat", "inpainted"))]


# what is left


@pytest.mark.parametrize("row", ["no_adaptation", "cyc_pdam"])
def test_there_is_one_row_of_scores_an_image(road: tuple[Study, dict], row: str):
    study, _ = road
    frame = pd.read_csv(study.make(scores(study, method(row), TARGET)) / SCORES, keep_default_na=False)
    columns = ["target", "method", "seed", "image", "subset", "aji", "pixel_f1", "object_f1", "pq"]
    assert list(frame.columns) == columns
    assert frame["image"].tolist() == ["test/000", "test/001"]
    assert frame[columns[:3]].drop_duplicates().to_numpy().tolist() == [[TARGET, row, 0]]
    assert frame["subset"].tolist() == ["", ""]
    assert frame[columns[5:]].to_numpy().min() >= 0
    assert frame[columns[5:]].to_numpy().max() <= 1


def test_the_scores_are_those_of_the_label_maps_that_were_predicted(road: tuple[Study, dict]):
    from pdamlib.metrics.scores import aji

    study, _ = road
    folder = study.make(prediction(study, PDAM, TARGET)) / "label_maps"
    assert sorted(path.name for path in folder.iterdir()) == ["test_000.png", "test_001.png"]
    dataset = study.dataset(TARGET, study.make(simulated_data(study)))
    frame = pd.read_csv(study.make(scores(study, PDAM, TARGET)) / SCORES)
    for name, value in zip(frame["image"], frame["aji"], strict=True):
        predicted = read_label_map(folder / f"{name.replace('/', '_')}.png")
        assert predicted.shape == (96, 96)
        assert value == pytest.approx(aji(dataset.label_map(name), predicted), abs=1e-6)


def test_the_record_tells_how_the_numbers_came_about(road: tuple[Study, dict]):
    study, _ = road
    found = manifest(study.make(scores(study, PDAM, TARGET)))
    assert found["mean"].keys() == {"aji", "pixel_f1", "object_f1", "pq"}
    assert found["score_threshold"] in study.profile.predict.scores
    assert list(found["validation_aji"]) == ["0.3", "0.6"]
    assert (found["seed"], found["device"], found["profile"]) == (0, "cpu", "quick")
    assert manifest(study.make(detector(study, PDAM, TARGET)))["iterations"] == 3


def test_of_a_training_weights_and_log_stay(road: tuple[Study, dict]):
    study, _ = road
    folder = study.make(detector(study, PDAM, TARGET))
    assert sorted(path.name for path in folder.iterdir()) == ["log.csv", "manifest.json", "weights.pt"]
    assert pd.read_csv(folder / "log.csv")["iteration"].tolist() == [2, 3]


def test_nothing_is_done_twice(road: tuple[Study, dict]):
    study, _ = road
    said: list[str] = []
    for row in (PLAIN, PDAM):
        replace(study, say=said.append).make(scores(study, row, TARGET))
    assert said == []


# what rests on what


def test_each_row_learns_and_is_tuned_on_patches_as_far_down_the_road_as_it_goes(tmp_path: Path):
    study = tiny.study(tmp_path)
    for row, patches in ((PLAIN, source_patches), (PDAM, lambda *at: inpainted_patches(at[0], TARGET, *at[1:]))):
        train, predict = detector(study, row, TARGET), prediction(study, row, TARGET)
        assert train.inputs[0].folder_name == patches(study).folder_name
        assert predict.inputs[0].folder_name == train.folder_name
        assert predict.inputs[1].folder_name == patches(study, "validation").folder_name


def test_without_adaptation_one_detector_serves_all_targets(tmp_path: Path):
    study = tiny.study(tmp_path)
    names = {row.id: {detector(study, row, at).folder_name for at in ("one", "two")} for row in (PLAIN, PDAM)}
    assert len(names["no_adaptation"]) == 1
    assert len(names["cyc_pdam"]) == 2


def test_settings_reach_the_keys_of_the_steps_they_decide(tmp_path: Path):
    study = tiny.study(tmp_path)

    def keys(other: Study) -> list[str]:
        return [step(other, PDAM, TARGET).key for step in (detector, prediction, scores)]

    def changed(other: Study) -> list[bool]:
        return [new != old for new, old in zip(keys(other), keys(study), strict=True)]

    profile = study.profile
    assert changed(replace(study, seed=1)) == [True, True, True]
    assert changed(replace(study, profile=replace(profile, train=tiny.training(4)))) == [True, True, True]
    assert changed(replace(study, profile=replace(profile, predict=PredictConfig()))) == [False, True, True]
    assert changed(replace(study, runs_root=tmp_path / "elsewhere")) == [False, False, False]
    same = [step(study, PDAM, TARGET, profile.train).key for step in (detector, prediction, scores)]
    assert same == keys(study)
    assert detector(study, PDAM, TARGET, replace(profile.train, cap=1.0)).key != keys(study)[0]


# the score threshold


def test_the_threshold_is_chosen_by_the_mean_aji_of_labelled_patches():
    """One true nucleus of score 0.8 and two false ones of scores 0.5 and 0.2, in each of two patches."""
    labels = np.zeros((2, 8, 24), np.uint16)
    labels[:, :, :8] = 1
    patches = Patches(np.zeros((2, 8, 24, 3), np.uint8), labels)
    boxes = np.array([[0, 0, 8, 8], [8, 0, 16, 8], [16, 0, 24, 8]], np.float32)
    found = Detections(boxes, np.array([0.8, 0.5, 0.2], np.float32), np.ones((3, 4, 4), np.float32), (8, 24))
    settings = PredictConfig(scores=(0.1, 0.3, 0.6, 0.9))
    values = choose_score(lambda image: found, patches, settings)
    assert values == pytest.approx({0.1: 1 / 3, 0.3: 1 / 2, 0.6: 1, 0.9: 0})


def test_the_threshold_with_the_best_aji_is_taken(road: tuple[Study, dict], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "choose_score", lambda *_: {0.3: 0.1, 0.5: 0.4, 0.6: 0.4, 0.9: 0.2})
    study, _ = road
    profile = study.profile
    other = replace(study, profile=replace(profile, predict=replace(profile.predict, detections=11)))
    assert manifest(other.make(prediction(other, PLAIN, TARGET)))["score_threshold"] == 0.5
