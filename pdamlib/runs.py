"""Runs: what was computed from what, kept so that nothing is done twice and every number can be traced.

A run's folder is named by its id and a fingerprint of all it depends on, so a changed setting makes a new run beside
the old one and never overwrites it. The folder appears, whole, only when the run has succeeded.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from pdamlib.errors import UserError

MANIFEST = "manifest.json"
PACKAGES = ("torch", "torchvision", "numpy", "opencv-python", "scikit-image", "pdamlib")


@dataclass(frozen=True)
class Run:
    """One node of the road: `make(folder, inputs)` fills an empty or half-filled folder and returns facts to record.

    id: readable, e.g. train-kumar-cyc_pdam-s0. config: plain values that decide the outcome. inputs: runs it reads.
    data: content hashes of the files it reads from outside. record: facts that do not change the outcome (device).
    """

    id: str
    config: dict[str, Any]
    make: Callable[[Path, list[Path]], dict[str, Any] | None] = field(compare=False)
    inputs: tuple["Run", ...] = ()
    data: dict[str, str] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> str:
        """The fingerprint of config, inputs and data: 12 hexadecimal digits."""
        return fingerprint({"config": self.config, "inputs": [run.key for run in self.inputs], "data": self.data})

    @property
    def folder_name(self) -> str:
        """Id and key; an id that names a user's folder has characters that a file name cannot have."""
        return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', self.id)}-{self.key}"


def fingerprint(value: Any) -> str:
    """Return 12 hexadecimal digits that change with any part of a JSON-like value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def ensure(run: Run, root: Path, say: Callable[[str], object] = lambda line: None) -> Path:
    """Return the run's folder, making it and the runs it needs where they are missing.

    root: the folder of all runs. say: is told a line about each run that has to be made, with the reason.
    """
    folder = root / run.folder_name
    if (folder / MANIFEST).exists():
        return folder
    inputs = [ensure(needed, root, say) for needed in run.inputs]
    work = root / ".work" / run.folder_name
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work.with_name(f"{work.name}.lock")):
        if not (folder / MANIFEST).exists():  # another process may have made it while this one waited
            if folder.exists():
                raise UserError(f"{folder}: holds no {MANIFEST}, so it is no finished run; delete it and run again")
            say(f"{run.id}: {reason(run, root)}")
            if not (work / MANIFEST).exists():  # else a kill came between the record and the move
                _make(run, work, inputs)
            os.replace(work, folder)
    return folder


def _make(run: Run, work: Path, inputs: list[Path]) -> None:
    started, clock, origin = datetime.now(UTC), time.perf_counter(), provenance()
    facts = run.make(work, inputs) or {}
    manifest = {
        "id": run.id,
        "key": run.key,
        "config": run.config,
        "inputs": {needed.id: needed.key for needed in run.inputs},
        "data": run.data,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 1),
        **origin,
        **run.record,
        **facts,
    }
    write_json(work / MANIFEST, manifest)
    for checkpoint in work.glob("checkpoint*.pt"):  # the finished run keeps its weights, which are smaller
        checkpoint.unlink()


def provenance() -> dict[str, Any]:
    """Return commit, Python, platform and package versions of this process."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in PACKAGES},
    }


def commit() -> str:
    """Return the commit of the checkout, with + when files differ from it, or 'unknown' outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def manifest(folder: Path) -> dict[str, Any]:
    """Return what is recorded of a finished run. Raises UserError when the record is damaged."""
    path = folder / MANIFEST
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot read this run's record ({error}); delete {folder} and run again") from None


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, meets either the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def in_order(runs: list[Run]) -> list[Run]:
    """Return the runs and all they need, each once, needed ones first."""
    found: dict[str, Run] = {}

    def visit(run: Run) -> None:
        if run.folder_name not in found:
            for needed in run.inputs:
                visit(needed)
            found[run.folder_name] = run

    for run in runs:
        visit(run)
    return list(found.values())


def is_done(run: Run, root: Path) -> bool:
    """Return whether the run's folder is complete."""
    return (root / run.folder_name / MANIFEST).exists()


def reason(run: Run, root: Path) -> str:
    """Return in words why a run has to be made, or 'up to date'."""
    if is_done(run, root):
        return "up to date"
    if any((root / ".work" / run.folder_name).glob("checkpoint*.pt")):
        return "unfinished, resumes from its checkpoint"
    other_key = run.folder_name.removesuffix(run.key) + "[0-9a-f]" * len(run.key)
    earlier = sorted(root.glob(f"{other_key}/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    if not earlier:
        return "not made yet"
    return "changed: " + "; ".join(_differences(manifest(earlier[-1].parent), run))


def _differences(old: dict[str, Any], run: Run) -> Iterator[str]:
    """What differs between a recorded run and a wanted one of the same id."""
    new = {"config": run.config, "inputs": {needed.id: needed.key for needed in run.inputs}, "data": run.data}
    for part, values in new.items():
        before, after = dict(_flat(old[part])), dict(_flat(values))
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                change = "" if part == "inputs" else f" {before.get(name)} -> {after.get(name)}"
                yield f"{part[:-1] if part == 'inputs' else part} {name}{change}"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else key)
    else:
        yield name, json.loads(json.dumps(value))
