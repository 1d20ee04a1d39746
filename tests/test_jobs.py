"""Runs side by side: needed ones first, and a failure keeps what is done."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pdamlib import jobs
from pdamlib.errors import UserError
from pdamlib.runs import Run

RunAll = Callable[[list[Run], int], None]


@pytest.fixture
def begun() -> list[str]:
    """The ids of the runs begun, in order."""
    return []


@pytest.fixture
def run_all(begun: list[str]) -> RunAll:
    """The scheduler with workers that only note what they are given; a run named broken fails."""

    def make(run: str) -> None:
        begun.append(run)
        if run == "broken":
            raise UserError("loss 'det_box' became nan")

    def run_all(runs: list[Run], at_once: int) -> None:
        with ThreadPoolExecutor(at_once) as workers:
            jobs.run_all(runs, make, workers, at_once)

    return run_all


def node(name: str, *inputs: Run) -> Run:
    return Run(name, {"name": name}, lambda folder, paths: None, inputs)


def test_a_run_begins_after_all_it_needs(begun: list[str], run_all: RunAll):
    patches = node("patches")
    first, second = node("first", patches), node("second", patches)
    run_all([patches, first, second, node("table", first, second)], 4)
    assert begun[0] == "patches" and begun[-1] == "table"
    assert sorted(begun[1:3]) == ["first", "second"]


def test_what_is_made_already_is_not_waited_for(begun: list[str], run_all: RunAll):
    run_all([node("train", node("patches made before"))], 1)
    assert begun == ["train"]


def test_after_a_failure_no_other_run_begins_and_the_failed_one_is_named(begun: list[str], run_all: RunAll):
    broken = node("broken")
    with pytest.raises(UserError, match=r"broken failed \(loss 'det_box' became nan\).*finished runs are kept"):
        run_all([broken, node("needs it", broken)], 1)
    assert begun == ["broken"]
