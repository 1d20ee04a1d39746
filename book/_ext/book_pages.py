"""What the prose pages take from computed files: the profile banner, the notebooks' status, Table 3, single numbers."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from pdamlib.report.tables import table3

ROOT = Path(__file__).parents[2]
STATUS = ROOT / "book" / "executed" / "status.json"
RESULTS = ROOT / "results"
PROFILE_WORDS = {
    "quick": "simulated microscopy: the numbers show the mechanism on a toy domain, not the paper's result",
    "cpu": "real images and a small network: close to the paper's data, far from its scale",
    "paper": "real images at the paper's own scale",
}
MEASURE_NAMES = {"aji": "AJI", "pixel_f1": "pixel-F1", "object_f1": "object-F1", "pq": "PQ"}
METHOD_NAMES = {"no_adaptation": "no adaptation", "cyc_pdam": "CyC-PDAM (proposed)"}


def status() -> dict[str, Any]:
    """Return what book/build.py wrote about the notebooks it executed."""
    return json.loads(STATUS.read_text()) if STATUS.exists() else {"profile": "quick", "seed": 0, "notebooks": []}


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


class FromFile(SphinxDirective):
    """A directive whose Markdown is made from files; the page is built again when one of them changes."""

    reads: tuple[Path, ...] = ()

    def markdown(self) -> str:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        for path in self.reads:
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(self.markdown())


class ProfileBanner(FromFile):
    """Says which profile, seed and device this book was made with."""

    reads = (STATUS,)

    def markdown(self) -> str:
        made = status()
        devices = ", ".join(sorted({str(row["device"]) for row in made["notebooks"]})) or "no device yet"
        failed = [row["name"] for row in made["notebooks"] if row["state"] == "failed"]
        text = (
            f"This copy was made with the profile **{made['profile']}** ({PROFILE_WORDS.get(made['profile'], '')}), "
            f"seed {made['seed']}, on {devices}."
        )
        if failed:
            text += f" **Incomplete:** {', '.join(failed)} did not run to the end; see {{doc}}`/book/status`."
        return f":::{{note}}\n:class: profile-banner\n{text}\n:::"


class NotebookStatus(FromFile):
    """One row a notebook: what papermill recorded of its execution."""

    reads = (STATUS,)

    def markdown(self) -> str:
        made = status()
        rows = [
            (
                f"{{doc}}`/book/executed/{row['name']}`",
                row["state"] if row["state"] == "done" else f"**{row['state']}**: `{row['exception']}`",
                f"{row['seconds']:.0f} s",
                row["device"],
                row["started"],
                ", ".join(f"{name} = {value!r}" for name, value in row["parameters"].items()),
            )
            for row in made["notebooks"]
        ]
        table = markdown_table(("notebook", "state", "time", "device", "started (UTC)", "parameters"), rows)
        versions = ", ".join(f"{name} {value}" for name, value in made.get("versions", {}).items())
        return (
            f"{table}\n\nVersions: Python {made.get('python', '?')}, {versions}. Commit: {made.get('commit', '?')}.\n"
        )


class Table3(FromFile):
    """Table 3 of one profile, ours beside the paper's; `not run` where nothing is recorded."""

    required_arguments = 1
    option_spec: ClassVar = {"measures": directives.unchanged}

    def markdown(self) -> str:
        profile = self.arguments[0]
        self.env.note_dependency(str(RESULTS / profile / "scores.csv"))
        wanted = self.options.get("measures", "aji pixel_f1 object_f1").split()
        table = table3(profile, RESULTS)
        methods = [name for name in METHOD_NAMES if name in set(table["method"])]
        chosen = table[table["measure"].isin(wanted) & table["method"].isin(methods)]
        return markdown_table(
            ("target", "method", "measure", "ours", "images", "paper", "difference"), map(_cells, _records(chosen))
        )


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _cells(row: dict[str, Any]) -> list[str]:
    ran = not pd.isna(row["ours"]) and row["ours"] != "not run"
    return [
        str(row["target"]),
        METHOD_NAMES.get(row["method"], row["method"]),
        MEASURE_NAMES.get(row["measure"], row["measure"]),
        _value(row["ours"], row["ours_sd"]) if ran else "not run",
        str(int(row["n"])) if ran else "",
        _value(row["paper"], row["paper_sd"]),
        f"{row['difference']:+.3f}" if isinstance(row["difference"], float) and not pd.isna(row["difference"]) else "",
    ]


def _value(mean: Any, deviation: Any) -> str:
    return "" if pd.isna(mean) else f"{mean:.3f} ± {deviation:.3f}"


class Result(SphinxRole):
    """A mean out of results/: {result}`cpu/tnbc/cyc_pdam/aji`, with its run on hover; `not run` when there is none."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        profile, target, method, measure = self.text.split("/")
        path = RESULTS / profile / "scores.csv"
        self.env.note_dependency(str(path))
        scores = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["target", "method", "seed", measure])
        there = scores[(scores["target"] == target) & (scores["method"] == method)]
        if there.empty:
            return [nodes.emphasis(text="not run")], []
        seeds = ", ".join(map(str, sorted(there["seed"].unique())))
        about = f"{len(there)} images, seed {seeds}, profile {profile}, {method} on {target}"
        return [nodes.raw("", f'<abbr title="{about}">{there[measure].mean():.3f}</abbr>', format="html")], []


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("profile-banner", ProfileBanner)
    app.add_directive("notebook-status", NotebookStatus)
    app.add_directive("table3", Table3)
    app.add_role("result", Result())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
