"""The rooms of the house keep to themselves: each one's reason, and what it must therefore not import."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
    for path in sorted((ROOT / "pdamlib").rglob("*.py"))
}

FORBIDDEN = {
    "labels": ["torch"],  # one representation of instances: the label map
    "data": ["pdamlib.models", "pdamlib.methods"],  # files in, samples and patches out
    "translate": ["pdamlib.models", "pdamlib.methods"],  # patches in, patches out, labels untouched
    "models": ["pdamlib.data", "pdamlib.adapt", "pdamlib.config"],  # modules without an opinion on training
    "adapt": ["pdamlib.models", "pdamlib.data"],  # the equations as pure functions
    "methods": [],  # where data, model and losses meet: see the test of its own below
    "engine": ["pdamlib.report"],  # a loop, a predictor, post-processing
    "metrics": ["torch"],  # numbers from two label maps
    "report": ["pdamlib.engine", "pdamlib.methods"],  # scores in, tables and figures out
    "steps": ["pdamlib.cli"],  # config in, run folder out
}
NAMELESS = {"utils", "util", "helpers", "helper", "base", "common", "misc"}


def imports(module: str, source: str, is_package: bool = False) -> set[str]:
    """Return the dotted names that a module imports, anywhere in it; relative ones are resolved.

    `from a import b` gives both a and a.b, for b may be a module.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            found |= {origin} | {f"{origin}.{name.name}" for name in node.names}
    return found


def within(name: str, package: str) -> bool:
    """Return whether a dotted name is a package or lies in it."""
    return f"{name}.".startswith(f"{package}.")


def imports_of(module: str) -> set[str]:
    return imports(module, SOURCES[module], is_package=any(name.startswith(f"{module}.") for name in SOURCES))


def room(name: str) -> list[str]:
    return [module for module in SOURCES if within(module, f"pdamlib.{name}")]


def reached(module: str) -> set[str]:
    """Return all that importing a module imports, through other modules of pdamlib too."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        new = imports_of(todo.pop()) - seen
        seen |= new
        todo += [name for name in new if name in SOURCES]
    return seen


def test_imports_finds_every_form():
    source = "import a.b\nfrom c import d\ndef f():\n    from . import e\n    from ..g import h\n"
    assert imports("pdamlib.x.y", source) == {"a.b", "c", "c.d", "pdamlib.x", "pdamlib.x.e", "pdamlib.g", "pdamlib.g.h"}
    assert imports("pdamlib.x", "from .y import z", is_package=True) == {"pdamlib.x.y", "pdamlib.x.y.z"}


def test_within_compares_whole_names():
    assert within("torch.nn", "torch") and within("torch", "torch") and not within("torchvision", "torch")


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_room_imports_nothing_forbidden(name: str):
    assert room(name), f"pdamlib.{name} is gone: change the table"
    trespasses = [
        f"{module} imports {other}"
        for module in room(name)
        for other in imports_of(module)
        for forbidden in FORBIDDEN[name]
        if within(other, forbidden)
    ]
    assert not trespasses


@pytest.mark.parametrize("name", ["labels", "metrics"])
def test_label_maps_and_scores_do_not_reach_torch_through_others_either(name: str):
    everything = set().union(*(reached(module) for module in room(name)))
    assert not [other for other in everything if within(other, "torch") or within(other, "torchvision")]


def test_a_method_does_not_import_another():
    methods = [name for name in room("methods") if name != "pdamlib.methods"]
    assert not [
        f"{module} imports {name}"
        for module in methods
        for name in imports_of(module)
        if any(within(name, other) for other in methods if other != module)
    ]


def test_the_command_is_imported_by_nobody():
    assert not [module for module in SOURCES if any(within(name, "pdamlib.cli") for name in imports_of(module))]


def test_every_module_has_a_telling_name():
    assert not [module for module in SOURCES if NAMELESS & set(module.split("."))]
