"""The training loop: whatever happens on the way, the end is the same, and a good checkpoint is never lost."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import tiny
import torch
from torch import Tensor

from pdamlib.engine import fit as module
from pdamlib.engine.fit import CHECKPOINT, LOG, PREVIOUS, fit, load_checkpoint
from pdamlib.errors import UserError

ROOT = Path(__file__).parents[2]
ITERATIONS = 12


class PowerCut(Exception):
    """What stops a training from outside."""


class Walk:
    """A random walk: a step depends on the place, the momentum, the iteration and torch's random numbers."""

    def __init__(self, disturb: Callable[["Walk", int], object] = lambda walk, iteration: None) -> None:
        self.place, self.momentum, self.disturb, self.steps = torch.zeros(3), torch.zeros(3), disturb, 0

    def step(self, iteration: int) -> dict[str, Tensor]:
        self.steps += 1
        self.momentum = 0.9 * self.momentum + torch.randn(3)
        self.place = self.place + self.momentum
        self.disturb(self, iteration)
        return {"number": torch.tensor(float(iteration)), "length": self.place.norm()}

    def state(self) -> dict[str, object]:
        return {"place": self.place, "more": [{"momentum": self.momentum}]}

    def load(self, state: dict) -> None:
        self.place, self.momentum = state["place"], state["more"][0]["momentum"]


def run(
    task: module.Task, folder: Path, iterations: int = ITERATIONS, every: int = 4, log_every: int = 3, key: str = "k"
) -> float:
    return fit(task, iterations, folder, key=key, checkpoint_every=every, log_every=log_every)


def walked(folder: Path, disturb: Callable = lambda walk, iteration: None, **how: int) -> Walk:
    torch.manual_seed(0)
    task = Walk(disturb)
    run(task, folder, **how)
    return task


def at(iteration: int, act: Callable[[Walk], object]) -> Callable[[Walk, int], None]:
    """Return what disturbs a walk at one iteration alone."""
    return lambda walk, now: act(walk) if now == iteration else None


def cut(walk: Walk) -> None:
    raise PowerCut


def log_of(folder: Path) -> pd.DataFrame:
    """The log without the one column that is never the same twice."""
    return pd.read_csv(folder / LOG).drop(columns="seconds")


def lines_of(folder: Path) -> list[str]:
    """The log's lines as written, without the seconds."""
    rows = [line.split(",") for line in (folder / LOG).read_bytes().decode().split("\n")]
    return [",".join(row[:1] + row[2:]) for row in rows]


def message(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# the log


def test_a_log_row_is_the_mean_of_the_losses_since_the_row_before(tmp_path: Path):
    walked(tmp_path, iterations=8, every=4, log_every=3)
    log = pd.read_csv(tmp_path / LOG)
    assert list(log.columns) == ["iteration", "seconds", "number", "length"]
    assert log["iteration"].tolist() == [3, 4, 6, 8]  # every third, and where a checkpoint or the end is
    assert log["number"].tolist() == [1, 3, 4.5, 6.5]
    assert (log["seconds"].diff().dropna() >= 0).all()


def test_the_bar_and_the_log_agree_with_the_seconds_returned(tmp_path: Path):
    torch.manual_seed(0)
    first = run(Walk(), tmp_path, iterations=4)
    assert first >= load_checkpoint(tmp_path / CHECKPOINT)["seconds"] > 0
    assert run(Walk(), tmp_path, iterations=8) > load_checkpoint(tmp_path / PREVIOUS)["seconds"]


# resuming


@pytest.mark.parametrize("stop", range(1, ITERATIONS))
def test_a_stopped_training_ends_like_an_unbroken_one(tmp_path: Path, stop: int):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    unbroken = walked(whole)
    with pytest.raises(PowerCut):
        walked(parts, at(stop, cut))
    torch.manual_seed(99 if stop >= 4 else 0)  # the checkpoint brings its own random state
    resumed = Walk()
    run(resumed, parts)
    assert torch.equal(resumed.place, unbroken.place)
    assert torch.equal(resumed.momentum, unbroken.momentum)
    assert resumed.steps == ITERATIONS - stop // 4 * 4
    assert lines_of(parts) == lines_of(whole)


def test_several_stops_are_no_worse_than_one(tmp_path: Path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    unbroken = walked(whole, every=2)
    torch.manual_seed(0)
    for stop in (3, 5, 5, 10):
        with pytest.raises(PowerCut):
            run(Walk(at(stop, cut)), parts, every=2)
    resumed = Walk()
    run(resumed, parts, every=2)
    assert torch.equal(resumed.place, unbroken.place)
    assert lines_of(parts) == lines_of(whole)
    assert log_of(parts)["iteration"].is_monotonic_increasing
    assert log_of(parts)["iteration"].is_unique


def test_a_finished_training_is_not_trained_again(tmp_path: Path):
    finished = walked(tmp_path)
    before = (tmp_path / LOG).read_bytes()
    again = Walk()
    run(again, tmp_path)
    assert again.steps == 0
    assert torch.equal(again.place, finished.place)
    assert (tmp_path / LOG).read_bytes() == before


def test_the_checkpoint_before_is_kept_and_used(tmp_path: Path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    unbroken = walked(whole)
    walked(parts)
    assert load_checkpoint(parts / PREVIOUS)["iteration"] == 8
    (parts / CHECKPOINT).unlink()
    resumed = Walk()
    run(resumed, parts)
    assert resumed.steps == 4
    assert torch.equal(resumed.place, unbroken.place)
    assert lines_of(parts) == lines_of(whole)


@pytest.mark.parametrize("left", ["", "iteration,sec", "iteration,seconds,number,length\n", "iteration,seconds\n3,0"])
def test_a_log_cut_short_before_the_first_checkpoint_is_begun_anew(tmp_path: Path, left: str):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    walked(whole)
    parts.mkdir()
    (parts / LOG).write_text(left)
    walked(parts)
    assert lines_of(parts) == lines_of(whole)


@pytest.mark.parametrize("left", ["9", "9,0.01,7", "9,0.01,7.0,5.5\n", "9,0.01,7.0,5.5\n12,0.0"])
def test_rows_after_the_checkpoint_are_written_again(tmp_path: Path, left: str):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    walked(whole)
    with pytest.raises(PowerCut):
        walked(parts, at(8, cut))
    with (parts / LOG).open("a") as file:
        file.write(left)
    run(Walk(), parts)
    assert lines_of(parts) == lines_of(whole)


# the detector itself


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums of several threads come out in different orders."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same_state(first: object, second: object) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_state(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same_state, first, second))
    return first == second


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("method_id", ["cyc_pdam", "no_adaptation"])
def test_the_detector_resumes_bit_for_bit(tmp_path: Path, method_id: str):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = tiny.training(6)
    run(tiny.task(method_id, settings), whole, 6, every=3, log_every=2)

    first = tiny.task(method_id, settings)
    with pytest.raises(PowerCut):
        run(Until(first, 5), parts, 6, every=3, log_every=2)
    torch.manual_seed(99)
    run(tiny.task(method_id, settings), parts, 6, every=3, log_every=2)

    one, two = (load_checkpoint(folder / CHECKPOINT) for folder in (whole, parts))
    assert same_state(one["task"], two["task"])
    assert same_state(one["random"], two["random"])
    assert lines_of(whole) == lines_of(parts)


class Until:
    """A task that is cut off at an iteration."""

    def __init__(self, task: module.Task, stop: int) -> None:
        self.task, self.stop, self.state, self.load = task, stop, task.state, task.load

    def step(self, iteration: int) -> dict[str, Tensor]:
        if iteration == self.stop:
            raise PowerCut
        return self.task.step(iteration)


KILLED = """
import sys, time
from pathlib import Path
import torch
import tiny
from pdamlib.engine.fit import fit

torch.set_num_threads(1)
folder, moment = Path(sys.argv[1]), sys.argv[2]
task = tiny.task()
step, save = task.step, torch.save

def wait():
    print("now", flush=True)
    time.sleep(600)

def stepping(iteration):
    losses = step(iteration)
    if moment == "step" and iteration == 5:
        wait()
    return losses

def saving(state, path):
    if moment == "checkpoint" and state["iteration"] == 6:
        Path(path).write_bytes(b"half a checkpoint")
        wait()
    save(state, path)

task.step, torch.save = stepping, saving
fit(task, 8, folder, key="k", checkpoint_every=2, log_every=1)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("moment", ["step", "checkpoint"])
def test_a_killed_training_ends_like_an_unbroken_one(tmp_path: Path, moment: str):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    python_path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(parts), moment],
        env=os.environ | {"PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout.readline() == "now\n"
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert load_checkpoint(parts / CHECKPOINT)["iteration"] == 4

    for folder in (whole, parts):
        run(tiny.task(), folder, 8, every=2, log_every=1)
    one, two = (load_checkpoint(folder / CHECKPOINT) for folder in (whole, parts))
    assert same_state(one["task"], two["task"])
    assert lines_of(whole) == lines_of(parts)
    assert sorted(path.name for path in parts.iterdir()) == [PREVIOUS, CHECKPOINT, LOG]


# what goes wrong


def poison(value: float, name: str = "place") -> Callable[[Walk], None]:
    def act(walk: Walk) -> None:
        setattr(walk, name, torch.tensor([0.0, value, 0.0]))

    return act


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_its_name_and_the_good_checkpoint(tmp_path: Path, value: float):
    text = message(lambda: walked(tmp_path, at(6, poison(value))))
    assert f"loss 'length' became {value} at iteration 7" in text
    assert str(tmp_path / CHECKPOINT) in text
    assert "lower the learning rate" in text
    kept = load_checkpoint(tmp_path / CHECKPOINT, "k")
    assert kept["iteration"] == 4
    assert torch.isfinite(kept["task"]["place"]).all()


def test_a_loss_that_is_not_finite_before_any_checkpoint_says_so(tmp_path: Path):
    assert "no checkpoint was written yet" in message(lambda: walked(tmp_path, at(1, poison(float("nan")))))
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_weight_that_is_not_finite_is_not_saved(tmp_path: Path):
    walked(tmp_path, iterations=4)
    before = (tmp_path / CHECKPOINT).read_bytes()
    spoil = at(7, poison(float("inf"), "momentum"))
    text = message(lambda: run(Walk(spoil), tmp_path, iterations=12))
    assert "weight 'more.0.momentum' is not finite at iteration 8; lower the learning rate" in text
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, LOG]


def damaged(content: bytes) -> list[bytes]:
    return [b"", b"not a checkpoint", content[:100], content[: len(content) // 2], content[:-10]]


@pytest.mark.parametrize("kind", range(5))
def test_a_damaged_checkpoint_is_named_with_the_cure_which_works(tmp_path: Path, kind: int):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    unbroken = walked(whole)
    walked(parts)
    path = parts / CHECKPOINT
    path.write_bytes(damaged(path.read_bytes())[kind])
    text = message(lambda: run(Walk(), parts))
    assert text.startswith(f"{path}: damaged checkpoint (")
    assert f"delete it to go on from {PREVIOUS} or from the start" in text

    path.unlink()
    resumed = Walk()
    run(resumed, parts)
    assert torch.equal(resumed.place, unbroken.place)


def test_a_file_of_something_else_is_no_checkpoint(tmp_path: Path):
    for something in (torch.zeros(3), {"conv.weight": torch.zeros(3)}):
        torch.save(something, tmp_path / CHECKPOINT)
        assert "checkpoint of another configuration" in message(lambda: run(Walk(), tmp_path))


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path):
    walked(tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    text = message(lambda: run(Walk(), tmp_path, key="other"))
    assert text.startswith(f"{tmp_path / CHECKPOINT}: checkpoint of another configuration; ")
    assert (tmp_path / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("No space left: file write failed")]
)
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    unbroken = walked(whole)
    save = torch.save

    def full(state: dict, path: Path) -> None:
        if state["iteration"] < 8:
            return save(state, path)
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", full)
    text = message(lambda: walked(parts))
    assert f"{parts / CHECKPOINT}.partial: cannot write the checkpoint" in text
    assert "No space left" in text
    assert "free some disk space and run again" in text
    assert sorted(path.name for path in parts.iterdir()) == [CHECKPOINT, LOG]
    assert load_checkpoint(parts / CHECKPOINT)["iteration"] == 4

    monkeypatch.setattr(torch, "save", save)
    resumed = Walk()
    run(resumed, parts)
    assert torch.equal(resumed.place, unbroken.place)
    assert lines_of(parts) == lines_of(whole)


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")


@needs_full
def test_a_disk_that_is_really_full_is_reported_for_the_checkpoint(tmp_path: Path):
    (tmp_path / f"{CHECKPOINT}.partial").symlink_to("/dev/full")
    assert "cannot write the checkpoint" in message(lambda: walked(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [LOG]


@needs_full
def test_a_disk_that_is_really_full_is_reported_for_the_log(tmp_path: Path):
    def fill(walk: Walk) -> None:
        (tmp_path / LOG).unlink()
        (tmp_path / LOG).symlink_to("/dev/full")

    text = message(lambda: walked(tmp_path, at(5, fill)))
    assert text.startswith(f"{tmp_path / LOG}: cannot write the log (")
    assert "free some disk space and run again" in text
