"""The notebooks as text: they parse, hold no outputs, take the same parameters, and run in the quick profile."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jupytext
import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pdamlib.errors import UserError

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("*.md"))
PARAMETERS = {"profile": "quick", "seed": 0, "data_root": ""}
EQUATIONS = {"32": ("eq-1", "eq-2"), "34": ("eq-3",), "35": ("eq-4", "eq-5")}


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """book/build.py, which is a script and not a module of the library."""
    spec = importlib.util.spec_from_file_location("book_build", ROOT / "book" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def source(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(source: Path) -> NotebookNode:
    return jupytext.read(source)


def code_of(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_a_notebook_for_each_section():
    assert [path.stem.partition("_")[0] for path in SOURCES] == ["31", "32", "33", "34", "35", "41", "42", "43"]


def test_every_code_cell_parses(notebook: NotebookNode):
    for cell in code_of(notebook):
        ast.parse(cell.source)


def test_no_outputs_are_tracked(notebook: NotebookNode):
    assert not [cell for cell in code_of(notebook) if cell.outputs or cell.execution_count]


def test_the_one_parameters_cell_has_the_names_and_defaults_of_all(notebook: NotebookNode, build: ModuleType):
    tagged = [cell for cell in code_of(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    values: dict = {}
    exec(tagged[0].source, values)
    assert {name: values[name] for name in build.accepted_parameters(notebook)} == PARAMETERS


def test_jupytext_gives_the_same_text_back(source: Path, notebook: NotebookNode):
    again = jupytext.writes(notebook, fmt="md:myst")
    kept = [line for line in again.splitlines() if not line.strip().startswith("jupytext_version:")]
    assert kept == source.read_text().splitlines()


def test_every_figure_is_described(notebook: NotebookNode):
    made = [cell for cell in code_of(notebook) if "figure" in cell.metadata.get("mystnb", {})]
    assert made
    for cell in made:
        about = cell.metadata["mystnb"]
        assert about["figure"]["name"] and len(about["figure"]["caption"]) > 20 and len(about["image"]["alt"]) > 20


def test_every_cell_that_draws_is_a_figure_with_caption_and_alternative_text(notebook: NotebookNode):
    for cell in code_of(notebook):
        last = ast.parse(cell.source).body[-1]
        drawn = isinstance(last, ast.Expr) and ast.unparse(last.value).startswith(("figure", "figures."))
        assert drawn == ("figure" in cell.metadata.get("mystnb", {})), cell.source


@pytest.mark.parametrize(("section", "labels"), EQUATIONS.items())
def test_equations_stand_in_their_section_beside_the_source_of_their_function(section: str, labels: tuple[str, ...]):
    text = next(path for path in SOURCES if path.stem.startswith(section)).read_text()
    for label in labels:
        assert f"$$ ({label})" in text
        assert "getsource(" in text.partition(f"$$ ({label})")[2]


def test_the_equations_are_labelled_in_the_papers_order_and_no_other_equation_is():
    labels = [word for path in SOURCES for word in path.read_text().split() if word.startswith("(eq-")]
    assert labels == ["(eq-1)", "(eq-2)", "(eq-3)", "(eq-4)", "(eq-5)"]


def test_an_unknown_parameter_is_refused_by_name(notebook: NotebookNode, build: ModuleType):
    build.check_parameters("32_nuclei_inpainting", notebook, PARAMETERS)
    with pytest.raises(UserError, match=r"no parameter 'sead'; it takes profile, seed, data_root"):
        build.check_parameters("32_nuclei_inpainting", notebook, {"sead": 1})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--profile", "huge"], "unknown profile 'huge'"),
        (["-p", "sead", "1"], "no parameter 'sead'"),
        (["--profile", "cpu", "--data-root", "nowhere"], "nowhere"),
    ],
)
def test_the_build_refuses_in_one_line_before_anything_is_executed(
    words: list[str], message: str, build: ModuleType, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("PDAM_DATA", raising=False)
    monkeypatch.setattr(build, "build", lambda *_: pytest.fail("it went on"))
    assert build.main(words) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and errors.startswith("error: ") and message in errors


def test_the_fingerprint_changes_with_text_parameters_and_data_and_with_nothing_else(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    (tmp_path / "pdamlib").mkdir()
    (tmp_path / "data").mkdir()
    source, module = tmp_path / "10_toy.md", tmp_path / "pdamlib" / "labels.py"
    source.write_text("# Toy\n")
    module.write_text("x = 1\n")

    def now(**changed: object) -> str:
        return build.fingerprint(source, PARAMETERS | {"data_root": "data"} | changed)

    first = now()
    (tmp_path / "unrelated.txt").write_text("")
    assert now() == first and now(seed=1) != first
    module.write_text("x = 2\n")
    second = now()
    assert second != first
    (tmp_path / "data" / "image.tif").write_bytes(b"1")
    assert now() != second


def test_an_execution_is_kept_only_when_it_succeeded_and_is_of_the_same_things(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(build, "EXECUTED", tmp_path)
    assert build.kept("10_toy", "abc") is None
    (tmp_path / "10_toy.ipynb").write_text("{}")
    for state, key, expected in (("done", "abc", True), ("done", "other", False), ("failed", "abc", False)):
        (tmp_path / "10_toy.json").write_text(json.dumps({"fingerprint": key, "state": state, "seconds": 1.0}))
        assert bool(build.kept("10_toy", "abc")) == expected
    (tmp_path / "10_toy.json").write_text("{ damaged")
    assert build.kept("10_toy", "abc") is None


def test_a_failed_notebook_says_so_under_its_title_and_loses_papermills_marks(build: ModuleType):
    mark = new_markdown_cell(
        "<span>An Exception was encountered</span>", metadata={"tags": ["papermill-error-cell-tag"]}
    )
    failed = new_notebook(cells=[mark, new_markdown_cell("# Title\n\nText."), new_code_cell("1 / 0")])
    noticed = build.with_notice(failed, "ZeroDivisionError: division by zero")
    assert len(noticed.cells) == 2
    title, _, rest = noticed.cells[0].source.partition("\n")
    assert title == "# Title" and ":::{error}" in rest and "`ZeroDivisionError: division by zero`" in rest
    assert rest.endswith("\nText.")


@pytest.mark.slow
def test_a_notebook_that_fails_leaves_a_page_and_a_row_with_its_traceback(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(build, "EXECUTED", tmp_path)
    monkeypatch.setattr(build.os, "dup2", lambda *_: None)  # it runs in this process, which keeps its stderr
    head = '# Toy\n\n```{code-cell} ipython3\n:tags: [parameters]\n\nprofile: str = "quick"\n```\n\n'
    cell = "```{code-cell} ipython3\nfrom pdamlib.study import open_study\n\nopen_study(profile)\n```\n"
    source = tmp_path / "10_toy.md"
    source.write_text(
        "---\nkernelspec:\n  name: python3\n  display_name: Python 3\n  language: python\n---\n\n" + head + cell
    )
    row = build.execute(source, {"profile": "huge"}, "cpu")
    assert row["state"] == "failed"
    assert row["exception"] == "UserError: unknown profile 'huge'; choose one of quick, cpu, paper"
    page = nbformat.read(tmp_path / "10_toy.ipynb", as_version=4)
    assert "unknown profile 'huge'" in page.cells[0].source
    assert page.cells[-1].outputs[0].output_type == "error"
    assert "papermill" not in page.metadata


@pytest.mark.slow
@pytest.mark.timeout(3600)  # the first time, the whole quick profile runs
def test_all_notebooks_run_in_quick_and_the_book_builds_without_a_warning():
    done = subprocess.run(
        [sys.executable, "book/build.py", "--profile", "quick"], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads((ROOT / "book" / "executed" / "status.json").read_text())
    assert [row["name"] for row in status["notebooks"]] == [path.stem for path in SOURCES]
    assert {row["state"] for row in status["notebooks"]} == {"done"}
