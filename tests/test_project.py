"""What is tracked: small, of no one machine, without outputs, and in agreement with itself."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import pdamlib

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
MAX_BYTES = 5_000_000
# a quote, space, bracket or = and then a folder that exists on somebody's machine only
MACHINE_PATH = re.compile(r"""["' =(](/(work|farm|root|home|Users)/|[A-Z]:\\Users)""")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files that are tracked, or would be by `git add .`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout: nothing is tracked here")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    """Return a file's text, empty when it holds none."""
    content = path.read_bytes()
    return "" if b"\0" in content else content.decode(errors="replace")


@pytest.mark.parametrize("folder", ["/home", "/root", "/work", "/Users", "C:\\Users"])
@pytest.mark.parametrize("before", ["open('", 'data = "', "cd ", "DATA="])
def test_a_path_of_one_machine_is_recognised(before: str, folder: str):
    assert MACHINE_PATH.search(f"{before}{folder}/me")


@pytest.mark.parametrize("line", ["see homework/notes", "'/workdir/runs'", "https://x.org/home/page", "../shared/data"])
def test_other_paths_are_not(line: str):
    assert not MACHINE_PATH.search(line)


def test_no_file_names_a_path_of_one_machine(tracked: list[Path]):
    texts = {path: text_of(path) for path in tracked}
    assert not [f"{path}: {hit[0]}" for path, text in texts.items() if (hit := MACHINE_PATH.search(text))]


def test_no_file_is_large(tracked: list[Path]):
    assert not [path for path in tracked if path.stat().st_size > MAX_BYTES]


def test_notebooks_are_tracked_as_text_without_outputs(tracked: list[Path]):
    assert not [path for path in tracked if path.suffix == ".ipynb"]


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert pdamlib.__version__ == VERSION == citation["version"]
    assert f"## [{VERSION}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_names_the_paper_and_its_eight_authors():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    assert paper["year"] == 2020
    assert [author["family-names"] for author in paper["authors"]] == (
        ["Liu", "Zhang", "Song", "Zhang", "O'Donnell", "Huang", "Chen", "Cai"]
    )


def test_the_links_of_the_front_page_lead_somewhere():
    links = LINK.findall((ROOT / "README.md").read_text())
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_front_page_names_every_target_of_the_makefile():
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    front = (ROOT / "README.md").read_text()
    assert "book" in targets
    assert not [target for target in targets if f"make {target}" not in front]


def test_the_front_page_has_room_for_the_results_table():
    front = (ROOT / "README.md").read_text()
    assert 0 < front.find("<!-- table3:begin -->") < front.find("<!-- table3:end -->")
