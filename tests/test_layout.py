"""The house: which rooms there are, on which floor each stands, and that no import runs upwards or in a circle."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import jaxalign

ROOT = Path(jaxalign.__file__).parent

FLOORS = (
    {"errors", "progress"},
    {"types"},
    {"config", "hosts", "mesh"},
    {"contracts"},
    {"storage", "data", "ops"},
    {"formats", "trackers", "served"},
    {"text"},
    {"models"},
    {"objectives", "exchange"},
    {"training"},
    {"rollouts", "games", "references", "losses", "pairs", "anchors", "step_rules"},
    {"oracles", "pairings"},
    {"judging"},
    {"evals"},
    {"machine", "diagnosis"},
    {"feedback"},
    {"experiment"},
    {"programs"},
    {"session"},
    {"fits"},
    {"fit", "certify", "evaluate", "reopen"},
    {"align", "answers"},
    {"plan", "doctor", "report"},
    {"bench"},
    {"commands"},
    {"__init__", "__main__"},
)
"""Rooms (modules and folders of the package) from the ground up. A room imports from lower floors only."""

TOP_LEVEL_MODULES = 18
"""The top of the package is the algorithm; everything else is a wing."""


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT.parent).with_suffix("").parts)


def imports() -> dict[str, set[str]]:
    """Module → the modules of the package that it imports, inside functions and for type checkers too."""
    files = {module_name(file): file for file in ROOT.rglob("*.py")}
    return {name: set(imported(file, files)) - {name} for name, file in files.items()}


def imported(file: Path, files: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [name for alias in node.names for name in (f"{node.module}.{alias.name}", node.module)]
        else:
            continue
        yield from (name for name in names if name in files)


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_its_floor() -> None:
    rooms = {room(module) for module in imports()}
    known = [name for floor in FLOORS for name in floor]
    assert len(known) == len(set(known))
    assert rooms == set(known)


def test_no_import_runs_upwards() -> None:
    height = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    found = [(one, other) for one, others in imports().items() for other in others if room(one) != room(other)]
    assert len(found) > 300
    assert not [(one, other) for one, other in found if height[room(other)] >= height[room(one)]]


def test_no_modules_import_one_another_in_a_circle() -> None:
    assert len(list(TopologicalSorter(imports()).static_order())) == len(imports())


def test_the_map_for_newcomers_shows_the_floors() -> None:
    map_ = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text().partition("## The map")[2].split("```")[1]
    assert [line.split() for line in map_.split("\n") if line] == [sorted(floor) for floor in reversed(FLOORS)]


def test_the_top_is_the_algorithm() -> None:
    modules = sorted(file.name for file in ROOT.glob("*.py"))
    assert len(modules) <= TOP_LEVEL_MODULES, modules


def test_the_registries_of_components_are_empty_folders() -> None:
    for folder in (
        "losses",
        "references",
        "anchors",
        "step_rules",
        "objectives",
        "oracles",
        "pairings",
        "evals",
        "fits",
        "trackers",
        "data/comparisons",
        "data/tables",
        "models/families",
        "doctor/checks",
    ):
        assert (ROOT / folder / "__init__.py").read_text() == "", folder


def test_no_test_imports_another() -> None:
    """What tests share is made in `made_*.py`."""
    found = [
        (file.name, line)
        for file in Path(__file__).parent.rglob("*.py")
        for line in file.read_text().splitlines()
        if line.startswith(("from test_", "import test_"))
    ]
    assert found == []
