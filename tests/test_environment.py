"""One list of dependencies, pyproject.toml: the conda file and the lock agree with it, and so does every import."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
EVERYTHING = [
    *PROJECT["dependencies"],
    *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
]


def pins(lock: str) -> dict[str, list[Version]]:
    """Return {distribution: its pinned versions} of a lock file; markers may give one several."""
    found: dict[str, list[Version]] = {}
    for name, pinned in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock, re.MULTILINE):
        found.setdefault(canonicalize_name(name), []).append(Version(pinned))
    return found


def unmet(requirements: list[str], lock: str) -> list[str]:
    """Return the requirements that a lock file leaves open or pins outside their range."""
    locked = pins(lock)
    wanted = [Requirement(line) for line in requirements]
    return [
        str(need)
        for need in wanted
        if not (versions := locked.get(canonicalize_name(need.name)))
        or not all(need.specifier.contains(pinned) for pinned in versions)
    ]


def test_unmet_names_what_is_missing_or_out_of_range():
    lock = "numpy==2.4.6\n    # via scipy\ntorch==2.4 ; sys_platform == 'linux'\ntorch==2.6 ; sys_platform != 'linux'\n"
    assert unmet(["numpy>=2", "torch>=2.5", "scipy"], lock) == ["torch>=2.5", "scipy"]


def test_the_lock_pins_every_dependency_within_its_range():
    assert unmet(EVERYTHING, LOCK) == []


def test_the_lock_names_no_index():
    assert not re.findall(r"^--.*|https?://\S+", LOCK, re.MULTILINE)


def test_the_conda_file_lists_the_same_dependencies():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, _, pip = conda["dependencies"]
    assert python == f"python{PROJECT['requires-python']}"
    assert pip == {"pip": EVERYTHING}


@pytest.mark.parametrize("of", ["lock", "environment"])
def test_jupyter_book_stays_below_two(of: str):
    found = pins(LOCK)["jupyter-book"] if of == "lock" else [Version(version("jupyter-book"))]
    assert [book.major for book in found] == [1]


def imported(source: str) -> set[str]:
    """Return the top-level names that a module's source imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    named = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in plain | named}


def test_pdamlib_imports_only_what_it_declares():
    sources = [path.read_text() for path in (ROOT / "pdamlib").rglob("*.py")]
    outside = set().union(*map(imported, sources)) - sys.stdlib_module_names - {"pdamlib"}
    declared = {canonicalize_name(Requirement(line).name) for line in EVERYTHING}
    providers = packages_distributions()
    undeclared = {
        name: providers.get(name)
        for name in outside
        if not declared & {canonicalize_name(distribution) for distribution in providers.get(name, [])}
    }
    assert not undeclared
