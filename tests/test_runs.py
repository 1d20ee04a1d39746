"""Runs: what names them, when they are made, what stays after a failure."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pdamlib import runs
from pdamlib.errors import UserError
from pdamlib.runs import MANIFEST, Run, ensure, fingerprint, in_order, is_done, manifest, reason

ROOT = Path(__file__).parents[1]


def nothing(folder: Path, inputs: list[Path]) -> None:
    """Leave the folder empty."""


def never(folder: Path, inputs: list[Path]) -> None:
    raise AssertionError("made again")


def counted(text: str = "done"):
    """Return a make that writes a file, and the list of folders it was called with."""
    calls: list[Path] = []

    def make(folder: Path, inputs: list[Path]) -> dict[str, object]:
        calls.append(folder)
        (folder / "result.txt").write_text(text)
        return {"inputs_seen": [path.name for path in inputs]}

    return make, calls


PATCHES = Run("patches", {"size": 64}, nothing, data={"images": "aaa"})
TRAIN = Run("train-s0", {"lr": 0.1, "levels": ("img", "ins")}, nothing, (PATCHES,), record={"device": "cpu"})


# what names a run


@pytest.mark.parametrize(
    "changed",
    [
        replace(TRAIN, config=TRAIN.config | {"lr": 0.2}),
        replace(TRAIN, config=TRAIN.config | {"momentum": 0.9}),
        replace(TRAIN, config={"lr": 0.1}),
        replace(TRAIN, inputs=()),
        replace(TRAIN, inputs=(PATCHES, PATCHES)),
        replace(TRAIN, inputs=(replace(PATCHES, config={"size": 65}),)),
        replace(TRAIN, inputs=(replace(PATCHES, data={"images": "aab"}),)),
        replace(TRAIN, data={"masks": "bbb"}),
    ],
)
def test_whatever_a_run_rests_on_changes_its_key(changed: Run):
    assert changed.key != TRAIN.key
    assert changed.folder_name != TRAIN.folder_name


@pytest.mark.parametrize(
    "same",
    [
        replace(TRAIN, record={"device": "cuda"}),
        replace(TRAIN, make=never),
        replace(TRAIN, config={"levels": ["img", "ins"], "lr": 0.1}),
        replace(TRAIN, inputs=(replace(PATCHES, record={"device": "cuda"}),)),
    ],
)
def test_what_does_not_decide_the_outcome_leaves_the_key_alone(same: Run):
    assert same.key == TRAIN.key


def test_the_order_of_inputs_counts():
    other = replace(PATCHES, id="other", config={"size": 32})
    assert replace(TRAIN, inputs=(PATCHES, other)).key != replace(TRAIN, inputs=(other, PATCHES)).key


def test_the_key_is_the_same_on_every_machine():
    assert fingerprint({"b": [1, 2.5], "a": None}) == "6b1d84977084"
    assert PATCHES.folder_name == f"patches-{PATCHES.key}"


# when it is made


def test_a_run_is_made_once_after_what_it_needs(tmp_path: Path):
    first, first_calls = counted("first")
    second, second_calls = counted("second")
    needed = Run("first", {}, first)
    run = Run("second", {}, second, (needed,))
    for _ in range(2):
        folder = ensure(run, tmp_path)
    assert folder == tmp_path / run.folder_name
    assert (folder / "result.txt").read_text() == "second"
    assert len(first_calls) == len(second_calls) == 1
    assert manifest(folder)["inputs_seen"] == [needed.folder_name]
    assert is_done(needed, tmp_path)


def test_a_second_ensure_neither_says_nor_does_anything(tmp_path: Path):
    ensure(TRAIN, tmp_path)
    said: list[str] = []
    ensure(replace(TRAIN, make=never), tmp_path, said.append)
    assert said == []


def test_a_finished_run_does_not_need_its_inputs_any_more(tmp_path: Path):
    ensure(TRAIN, tmp_path)
    (tmp_path / PATCHES.folder_name / MANIFEST).unlink()
    ensure(TRAIN, tmp_path)
    assert not is_done(PATCHES, tmp_path)


def test_the_folder_appears_only_when_finished(tmp_path: Path):
    seen: list[bool] = []
    run = Run("late", {}, lambda folder, _: seen.append((tmp_path / run.folder_name).exists()))
    ensure(run, tmp_path)
    assert seen == [False]
    assert is_done(run, tmp_path)


def test_a_failure_leaves_the_work_folder_and_nothing_else(tmp_path: Path):
    def fails(folder: Path, inputs: list[Path]) -> None:
        (folder / "checkpoint.pt").write_text("half")
        raise ValueError("power cut")

    run = Run("train", {"lr": 1}, fails)
    with pytest.raises(ValueError, match="power cut"):
        ensure(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".work"]
    work = tmp_path / ".work" / run.folder_name
    assert [path.name for path in work.iterdir()] == ["checkpoint.pt"]

    def resumes(folder: Path, inputs: list[Path]) -> None:
        assert (folder / "checkpoint.pt").read_text() == "half"

    folder = ensure(replace(run, make=resumes), tmp_path)
    # the checkpoint has served
    assert [path.name for path in folder.iterdir()] == [MANIFEST]
    assert not work.exists()


def test_a_kill_between_the_record_and_the_move_costs_nothing(tmp_path: Path):
    def unwanted(folder: Path, inputs: list[Path]) -> None:
        raise AssertionError("made twice")

    run = Run("train", {}, unwanted)
    work = tmp_path / ".work" / run.folder_name
    work.mkdir(parents=True)
    (work / MANIFEST).write_text("{}")
    assert ensure(run, tmp_path) == tmp_path / run.folder_name
    assert is_done(run, tmp_path) and not work.exists()


def test_an_id_may_name_a_folder_of_the_users(tmp_path: Path):
    run = Run("target-folder:../my images/a-s0", {}, nothing)
    assert ensure(run, tmp_path).parent == tmp_path
    assert is_done(run, tmp_path)
    assert reason(replace(run, config={"size": 1}), tmp_path) == "changed: config size None -> 1"


def test_two_processes_that_want_one_run_compute_it_once(tmp_path: Path):
    script = f"""
import sys, time
from pathlib import Path
from pdamlib.runs import Run, ensure
root = Path({str(tmp_path)!r})

def make(folder, inputs):
    with (root / "made.txt").open("a") as file:
        file.write("x")
    time.sleep(0.5)

(root / f"ready-{{sys.argv[1]}}").touch()
while len(list(root.glob("ready-*"))) < 2:
    time.sleep(0.01)
print(ensure(Run("shared", {{}}, make, (Run("needed", {{}}, make),)), root).name)
"""
    command = [sys.executable, "-c", script]
    both = [subprocess.Popen([*command, name], cwd=ROOT, stdout=subprocess.PIPE, text=True) for name in "ab"]
    names = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert names[0] == names[1] != ""
    assert (tmp_path / "made.txt").read_text() == "xx"  # the run and the one it needs, once each


def test_in_order_gives_each_once_and_needed_ones_first():
    left, right = replace(TRAIN, id="left"), replace(TRAIN, id="right", config={"lr": 9})
    top = Run("top", {}, nothing, (left, right))
    assert [run.id for run in in_order([top, right])] == ["patches", "left", "right", "top"]


# why it is made


def test_reasons(tmp_path: Path):
    assert reason(PATCHES, tmp_path) == "not made yet"
    ensure(PATCHES, tmp_path)
    assert reason(PATCHES, tmp_path) == "up to date"


def test_the_reason_is_said_before_the_work(tmp_path: Path):
    said: list[str] = []
    ensure(TRAIN, tmp_path, said.append)
    assert said == ["patches: not made yet", "train-s0: not made yet"]


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.previous.pt"])
def test_an_unfinished_run_resumes(tmp_path: Path, name: str):
    work = tmp_path / ".work" / TRAIN.folder_name
    work.mkdir(parents=True)
    assert reason(TRAIN, tmp_path) == "not made yet"
    (work / name).touch()
    assert reason(TRAIN, tmp_path) == "unfinished, resumes from its checkpoint"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"config": {"lr": 0.2, "levels": ("img", "ins")}}, "changed: config lr 0.1 -> 0.2"),
        ({"config": {"lr": 0.1, "levels": ("img",)}}, "changed: config levels ['img', 'ins'] -> ['img']"),
        ({"config": {"lr": 0.1, "levels": ("img", "ins"), "net": {"cap": 2}}}, "changed: config net.cap None -> 2"),
        ({"config": {"levels": ("img", "ins")}}, "changed: config lr 0.1 -> None"),
        ({"data": {"masks": "ccc"}}, "changed: data masks None -> ccc"),
        ({"inputs": (replace(PATCHES, config={"size": 65}),)}, "changed: input patches"),
        (
            {"config": {"lr": 0.2, "levels": []}, "inputs": ()},
            "changed: config levels ['img', 'ins'] -> []; config lr 0.1 -> 0.2; input patches",
        ),
    ],
)
def test_a_changed_run_says_what_changed(tmp_path: Path, change: dict, expected: str):
    ensure(TRAIN, tmp_path)
    assert reason(replace(TRAIN, **change), tmp_path) == expected


def test_the_latest_run_is_the_one_compared_with(tmp_path: Path):
    older = ensure(replace(TRAIN, config={"lr": 1}), tmp_path)
    newer = ensure(replace(TRAIN, config={"lr": 2}), tmp_path)
    for age, folder in enumerate((newer, older)):
        os.utime(folder / MANIFEST, (1e9 - age, 1e9 - age))
    assert reason(replace(TRAIN, config={"lr": 3}), tmp_path) == "changed: config lr 2 -> 3"


def test_runs_of_a_longer_id_are_not_taken_for_earlier_ones(tmp_path: Path):
    ensure(Run("train-s0-more", {}, nothing), tmp_path)
    assert reason(Run("train-s0", {}, nothing), tmp_path) == "not made yet"


# what is recorded


def test_the_manifest_holds_what_the_run_rests_on(tmp_path: Path):
    run = replace(TRAIN, make=lambda folder, inputs: {"score_threshold": 0.5}, data={"masks": "m1"})
    found = json.loads((ensure(run, tmp_path) / MANIFEST).read_text())
    assert (found["id"], found["key"]) == ("train-s0", run.key)
    assert found["config"] == {"lr": 0.1, "levels": ["img", "ins"]}
    assert found["inputs"] == {"patches": PATCHES.key}
    assert found["data"] == {"masks": "m1"}
    assert (found["device"], found["score_threshold"]) == ("cpu", 0.5)
    assert found["seconds"] >= 0
    assert {"commit", "python", "platform", "started"} <= found.keys()
    assert {"torch", "torchvision", "numpy", "pdamlib"} <= found["versions"].keys()


@pytest.mark.parametrize("damage", ["", "{", '{"id": "train'])
def test_a_damaged_manifest_is_named_with_the_cure(tmp_path: Path, damage: str):
    folder = ensure(PATCHES, tmp_path)
    (folder / MANIFEST).write_text(damage)
    with pytest.raises(UserError) as caught:
        manifest(folder)
    assert str(folder / MANIFEST) in str(caught.value)
    assert f"delete {folder} and run again" in str(caught.value)
    with pytest.raises(UserError, match="cannot read this run's record"):
        reason(replace(PATCHES, config={"size": 65}), tmp_path)


def test_a_folder_that_lost_its_manifest_is_refused_before_any_work(tmp_path: Path):
    folder = ensure(TRAIN, tmp_path)
    (folder / MANIFEST).unlink()
    (folder / "weights.pt").touch()
    with pytest.raises(UserError, match=rf"{folder}: holds no manifest.json.*delete it and run again"):
        ensure(replace(TRAIN, make=never), tmp_path)


def test_the_commit_is_unknown_without_git(monkeypatch: pytest.MonkeyPatch):
    def absent(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    assert runs.commit() == "unknown"


# writing


def test_a_text_is_written_with_the_folders_it_needs(tmp_path: Path):
    path = tmp_path / "a" / "b.txt"
    runs.write_text(path, "one")
    runs.write_text(path, "two")
    assert path.read_text() == "two"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("failing", ["write_text", "replace"])
def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def half(self: Path, text: str) -> int:
        with self.open("w") as file:
            file.write(text[:1])
        raise OSError(28, "No space left on device")

    def no_replace(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((Path, "write_text", half) if failing == "write_text" else (os, "replace", no_replace)))
    with pytest.raises(OSError, match="No space left"):
        runs.write_text(path, "new")
    assert path.read_bytes() == b"old"


def test_json_is_written_so_that_it_reads_back(tmp_path: Path):
    runs.write_json(tmp_path / "x.json", {"a": [1, None], "b": "ä"})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1, None], "b": "ä"}
