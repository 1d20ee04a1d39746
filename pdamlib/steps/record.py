"""What the tables cite: every run of a study, and its scores and provenance as small text under results/<profile>/."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pdamlib.config import METHODS
from pdamlib.engine.fit import LOG
from pdamlib.runs import Run, in_order, is_done, manifest, reason, write_text
from pdamlib.steps.detection import SCORES, scores
from pdamlib.study import Study

SCORES_FILE, RUNS_FILE, CURVES = "scores.csv", "runs.csv", "curves"
SCORE_KEYS, RUN_KEYS = ["target", "method", "seed", "image"], ["target", "method", "seed"]
CURVE_ROWS = 100  # a curve is thinned to about so many rows


def wanted(study: Study) -> list[Run]:
    """Return the score run of every method on every target of the profile: what the tables need."""
    return [scores(study, method, target) for target in study.profile.targets for method in METHODS.values()]


def recorded_keys(results: Path) -> set[str]:
    """Return the fingerprints of the score runs recorded in a results folder, empty when there is none."""
    path = results / RUNS_FILE
    return set(pd.read_csv(path, dtype={"key": str})["key"]) if path.exists() else set()


def plan(study: Study, results: Path) -> list[tuple[Run, str]]:
    """Return all runs the study still has to make, needed ones first, and the score runs, each with the reason.

    A score run that is recorded in `results` is up to date, and nothing that only it needs is made again.
    """
    recorded = recorded_keys(results)
    finals = wanted(study)
    open_finals = [run for run in finals if run.key not in recorded]
    pending = [
        (run, reason(run, study.runs_root)) for run in _needed(open_finals, study.runs_root) if run not in finals
    ]
    return pending + [
        (run, "up to date (recorded)" if run.key in recorded else reason(run, study.runs_root)) for run in finals
    ]


def _needed(finals: list[Run], root: Path) -> list[Run]:
    """The runs to be made: those not done, without what only done ones rest on."""
    found: dict[str, Run] = {}

    def visit(run: Run) -> None:
        if not is_done(run, root) and run.folder_name not in found:
            found[run.folder_name] = run
            for needed in run.inputs:
                visit(needed)

    for run in finals:
        visit(run)
    return [run for run in in_order(finals) if run.folder_name in found]


def record(study: Study, results: Path) -> list[str]:
    """Add the study's finished score runs to scores.csv, runs.csv and curves/ of a results folder; return their ids.

    Rows of the same target, method and seed are replaced; all others stay.
    """
    done = [run for run in wanted(study) if is_done(run, study.runs_root)]
    if not done:
        return []
    folders = [study.runs_root / run.folder_name for run in done]
    _update(results / SCORES_FILE, pd.concat([pd.read_csv(folder / SCORES) for folder in folders]), SCORE_KEYS)
    _update(results / RUNS_FILE, pd.DataFrame([_run_row(run, study) for run in done]), RUN_KEYS)
    for run in done:
        for trained, log in _logs(run, study.runs_root):
            frame = pd.read_csv(log)
            thin = frame.iloc[:: max(1, len(frame) // CURVE_ROWS)]
            write_text(results / CURVES / f"{trained.id}.csv", thin.to_csv(index=False))
    return [run.id for run in done]


def _update(path: Path, rows: pd.DataFrame, keys: list[str]) -> None:
    """Replace the rows of a table that share `target, method, seed` with the new ones, and write it atomically."""
    if path.exists():
        old = pd.read_csv(path, keep_default_na=False, dtype=str)
        fresh = set(map(tuple, rows[RUN_KEYS].astype(str).to_numpy()))
        stays = [tuple(row) not in fresh for row in old[RUN_KEYS].to_numpy()]
        rows = pd.concat([old[stays], rows.astype(object)])
    ordered = rows.sort_values(keys, key=lambda column: column.astype(str), kind="stable")
    write_text(path, ordered.to_csv(index=False))


def _run_row(run: Run, study: Study) -> dict[str, Any]:
    """Where the scores of one method on one target come from."""
    predicted = run.inputs[0]
    trained = manifest(study.runs_root / predicted.inputs[0].folder_name)
    scored = manifest(study.runs_root / run.folder_name)
    _, target, method, seed = _parts(run)
    data = {what: value for each in in_order([run]) for what, value in each.data.items()}
    return {
        "target": target,
        "method": method,
        "seed": seed,
        "profile": study.profile.name,
        "key": run.key,
        "config_hash": trained["key"],
        "data_hash": " ".join(f"{what.replace(' ', '_')}={value}" for what, value in sorted(data.items()))
        or "simulated",
        "commit": trained["commit"],
        "device": trained["device"],
        "precision": trained["precision"],
        "threads": trained["threads"],
        "python": trained["python"],
        "torch": trained["versions"]["torch"],
        "torchvision": trained["versions"]["torchvision"],
        "iterations": trained["iterations"],
        "training_seconds": trained["training_seconds"],
        "started": trained["started"],
        "score_threshold": scored["score_threshold"],
    }


def _parts(run: Run) -> tuple[str, str, str, int]:
    kind, target, method, seed = run.id.split("-")
    return kind, target, method, int(seed.removeprefix("s"))


def _logs(run: Run, root: Path) -> Iterator[tuple[Run, Path]]:
    for each in in_order([run]):
        log = root / each.folder_name / LOG
        if log.exists():
            yield each, log
