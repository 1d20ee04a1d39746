"""Execute the notebooks and build the HTML book: `python book/build.py --profile quick`.

Each notebooks/NN_name.md is executed by papermill into book/executed/NN_name.ipynb, two at a time, and skipped when
nothing it rests on has changed. A notebook that fails leaves a page that says so, and the build exits with 1.
"""

import argparse
import ast
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

from pdamlib.errors import UserError
from pdamlib.runs import commit, write_json

ROOT = Path(__file__).resolve().parents[1]
SOURCES, EXECUTED = ROOT / "notebooks", ROOT / "book" / "executed"
STATUS = EXECUTED / "status.json"
HTML = ROOT / "_build" / "html" / "index.html"
TOGETHER = 2  # notebooks at a time: each takes one core and about 1 GB
PACKAGES = ("jupyter-book", "papermill", "torch", "torchvision", "numpy", "opencv-python", "scikit-image", "pandas")


def main(argv: Sequence[str] | None = None) -> int:
    """Build the book; return 0, 1 when a notebook or a page failed, 2 when the user can put something right."""
    arguments = parser().parse_args(argv)
    try:
        parameters = parameters_asked(arguments)
        return build(parameters, arguments.force)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(description="Execute the notebooks and build the HTML book.")
    made.add_argument("--profile", default="quick", help="quick, cpu or paper")
    made.add_argument("--data-root", help="folder of the real data sets; quick needs none")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--force", action="store_true", help="execute all notebooks, changed or not")
    made.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="another parameter"
    )
    return made


def parameters_asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters for all notebooks. Raises UserError for an unknown profile, parameter or data folder."""
    from pdamlib.study import open_study  # imports torch, which the help text can do without

    root = arguments.data_root or os.environ.get("PDAM_DATA") or ""
    study = open_study(arguments.profile, root or None, arguments.seed)
    if not study.is_simulated:
        for name in (study.profile.source, *study.profile.targets):
            study.dataset(name).names()  # a wrong folder is better told now than in eight tracebacks
    # relative, so that no page shows where this machine keeps its data
    data = "" if study.is_simulated else os.path.relpath(root, ROOT)
    asked = {"profile": arguments.profile, "seed": arguments.seed, "data_root": data, **dict(arguments.parameter)}
    for source in sources():
        check_parameters(source.stem, jupytext.read(source), asked)
    return asked


def sources() -> list[Path]:
    """Return the tracked notebooks in the order of the book."""
    return sorted(SOURCES.glob("[0-9][0-9]_*.md"))


def accepted_parameters(notebook: NotebookNode) -> list[str]:
    """Return the names that a notebook's `parameters` cell sets, in its order."""
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    statements = [statement for cell in tagged for statement in ast.parse(cell.source).body]
    targets = [t for s in statements if isinstance(s, ast.Assign) for t in s.targets]
    targets += [s.target for s in statements if isinstance(s, ast.AnnAssign)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def check_parameters(name: str, notebook: NotebookNode, asked: dict[str, Any]) -> None:
    """Raise UserError for a parameter that a notebook does not take; papermill alone would only warn."""
    known = accepted_parameters(notebook)
    for parameter in asked:
        if parameter not in known:
            raise UserError(f"notebook {name} has no parameter '{parameter}'; it takes {', '.join(known)}")


def build(parameters: dict[str, Any], force: bool) -> int:
    """Execute what has changed, write the status, build the pages."""
    EXECUTED.mkdir(parents=True, exist_ok=True)
    for stale in {*EXECUTED.glob("*.ipynb")} - {EXECUTED / f"{source.stem}.ipynb" for source in sources()}:
        stale.unlink()
    rows = execute_all(parameters, _device(), force)
    write_json(
        STATUS,
        {
            "profile": parameters["profile"],
            "seed": parameters["seed"],
            "commit": commit(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in PACKAGES},
            "notebooks": rows,
        },
    )
    failed = [row["name"] for row in rows if row["state"] == "failed"]
    for row in rows:
        if row["state"] == "failed":
            print(f"{row['name']} failed: {row['exception']}", file=sys.stderr)
    pages = render()
    if pages:
        print("the pages have warnings or errors, listed above", file=sys.stderr)
    print(f"open {os.path.relpath(HTML)} in a browser" + (" (it has pages that say what failed)" if failed else ""))
    return 1 if failed or pages else 0


def execute_all(parameters: dict[str, Any], device: str, force: bool) -> list[dict[str, Any]]:
    """Return one status row a notebook, in the order of the book; those that changed are executed first."""
    wanted = {source: fingerprint(source, parameters) for source in sources()}
    rows = {source: kept(source.stem, key) for source, key in wanted.items() if not force}
    rows = {source: row for source, row in rows.items() if row}
    todo = [source for source in wanted if source not in rows]
    print(f"{len(todo)} of {len(wanted)} notebooks to execute, {len(rows)} are up to date", flush=True)
    began = time.monotonic()
    with ProcessPoolExecutor(TOGETHER, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(execute, source, parameters, device): source for source in todo}
        for done, future in enumerate(as_completed(futures), start=1):
            source, row = futures[future], future.result()
            rows[source] = row
            # taken anew: the notebook of the results records the runs it had to make, and shows them
            write_json(EXECUTED / f"{source.stem}.json", {"fingerprint": fingerprint(source, parameters), **row})
            times = f"in {row['seconds']:.0f} s, at {time.monotonic() - began:.0f} s"
            print(f"[{done}/{len(todo)}] {source.stem} {row['state']} {times}", flush=True)
    return [rows[source] for source in wanted]


def kept(name: str, key: str) -> dict[str, Any] | None:
    """Return the status row of an earlier execution when it was of the same things and succeeded."""
    try:
        row: dict[str, Any] = json.loads((EXECUTED / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    if row.pop("fingerprint", None) != key or row["state"] != "done" or not (EXECUTED / f"{name}.ipynb").exists():
        return None
    return row


def fingerprint(source: Path, parameters: dict[str, Any]) -> str:
    """Return a hash of all that a notebook's outputs rest on: its text, parameters, the library, data and results."""
    total = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    results = sorted((ROOT / "results").rglob("*.csv")) if '"results"' in source.read_text() else []
    for path in [source, ROOT / "requirements.lock", *sorted((ROOT / "pdamlib").rglob("*.py")), *results]:
        total.update(path.relative_to(ROOT).as_posix().encode())
        total.update(path.read_bytes() if path.exists() else b"")
    for line in _listing(parameters["data_root"]):
        total.update(line.encode())
    return total.hexdigest()


def _listing(data_root: str) -> Iterator[str]:
    """Name, size and time of each data file: reading half a gigabyte anew would cost more than it protects from."""
    folder = ROOT / data_root
    for path in sorted(folder.rglob("*")) if data_root else ():
        if path.is_file():
            about = path.stat()
            yield f"{path.relative_to(folder).as_posix()} {about.st_size} {about.st_mtime_ns}"


def execute(source: Path, parameters: dict[str, Any], device: str) -> dict[str, Any]:
    """Execute one notebook into book/executed; return its status row. It never raises: a failure becomes a page."""
    import papermill

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    # the kernel's own remarks, such as that it talks to us over TCP, go to a file and not between our lines
    with (EXECUTED / f"{source.stem}.log").open("w") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    began, started = time.monotonic(), datetime.now(UTC)
    notebook = jupytext.read(source)
    exception = None
    with tempfile.TemporaryDirectory() as work:
        made = Path(work) / f"{source.stem}.ipynb"
        nbformat.write(notebook, made)
        try:
            papermill.execute_notebook(
                made, made, parameters, kernel_name="python3", cwd=str(ROOT), progress_bar=False, log_output=False
            )
        except Exception as error:  # whatever stops a notebook, its reader must be told on its page
            exception = error
        notebook = nbformat.read(made, as_version=4)
    if exception is not None:
        notebook = with_notice(notebook, _summary(exception))
    nbformat.write(without_machine(notebook), EXECUTED / f"{source.stem}.ipynb")
    return {
        "name": source.stem,
        "state": "done" if exception is None else "failed",
        "exception": None if exception is None else _summary(exception),
        "seconds": round(time.monotonic() - began, 1),
        "started": started.strftime("%Y-%m-%d %H:%M"),
        "parameters": parameters,
        "device": device,
    }


def with_notice(notebook: NotebookNode, summary: str) -> NotebookNode:
    """Return a failed notebook with a notice under its title in place of papermill's own marks."""
    cells = [cell for cell in notebook.cells if not {"papermill-error-cell-tag"} & set(cell.metadata.get("tags", []))]
    text = f"This page is incomplete: its notebook stopped at the cell that shows\n`{summary}`"
    notice = f"\n\n:::{{error}}\n{text}\n:::\n"
    for cell in cells:
        if cell.cell_type == "markdown" and (lines := cell.source.split("\n", 1))[0].startswith("# "):
            cell.source = lines[0] + notice + "".join(lines[1:])
            break
    notebook.cells = cells
    return notebook


def without_machine(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook without the paths and times of its execution, so that equal outputs are equal files."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
    return notebook


def _summary(error: BaseException) -> str:
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    first = next(iter(str(value).strip().splitlines()), "")
    return f"{name}: {first}".replace("`", "'")


def _device() -> str:
    from pdamlib.engine.runtime import choose_runtime

    return choose_runtime().device


def render() -> int:
    """Build the HTML pages; return 0 when there was neither warning nor error."""
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "-W", "-n", "--keep-going", "-q"]
    return subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main())
