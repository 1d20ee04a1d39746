"""Recorded results: rows are replaced run by run, and a recorded run is not made again."""

from pathlib import Path

import pandas as pd

from pdamlib.runs import write_json
from pdamlib.steps import plan, wanted
from pdamlib.steps.record import RUN_KEYS, SCORE_KEYS, _update
from pdamlib.study import open_study


def rows(*entries: tuple[str, int, str, float]) -> pd.DataFrame:
    return pd.DataFrame([("kumar", *entry) for entry in entries], columns=["target", "method", "seed", "image", "aji"])


def test_new_rows_replace_those_of_the_same_run_and_leave_the_others(tmp_path: Path):
    path = tmp_path / "scores.csv"
    _update(path, rows(("a", 0, "x", 0.1), ("a", 0, "y", 0.2), ("b", 0, "x", 0.3)), SCORE_KEYS)
    _update(path, rows(("a", 0, "x", 0.9), ("a", 1, "x", 0.8)), SCORE_KEYS)
    table = pd.read_csv(path)
    assert table[["method", "seed", "image", "aji"]].to_numpy().tolist() == [
        ["a", 0, "x", 0.9],
        ["a", 1, "x", 0.8],
        ["b", 0, "x", 0.3],
    ]


def test_a_recorded_score_needs_nothing_made_again(tmp_path: Path):
    study = open_study("quick", runs_root=tmp_path / "runs")
    finals = wanted(study)
    first = finals[0]
    runs = pd.DataFrame([{"target": "simulated_histology", "method": "m", "seed": 0, "key": first.key}])
    _update(tmp_path / "runs.csv", runs, RUN_KEYS)
    planned = dict((run.id, why) for run, why in plan(study, tmp_path))
    assert planned[first.id] == "up to date (recorded)"
    assert "predict-simulated_histology-no_adaptation-s0" not in planned
    assert planned["score-simulated_histology-cyc_pdam-s0"] == "not made yet"


def test_what_only_finished_runs_rest_on_is_not_made_again(tmp_path: Path):
    study = open_study("quick", runs_root=tmp_path / "runs")
    trained = next(run for run in wanted(study) if "cyc_pdam" in run.id).inputs[0].inputs[0]
    write_json(study.runs_root / trained.folder_name / "manifest.json", {})
    planned = [run.id for run, _ in plan(study, tmp_path)]
    assert trained.id not in planned and "inpainted-simulated_histology-train-s0" not in planned
    assert "inpainted-simulated_histology-validation-s0" in planned
