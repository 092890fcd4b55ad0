"""Code of components of one's own: another one is another input of a run, whatever is only said to people is not."""

from pathlib import Path

import pytest
from made_runs import CONFIGS, run_here

from jaxalign.config.load import load, own_classes
from jaxalign.config.own_code import fingerprint
from jaxalign.errors import ConfigError

BESIDE = """
FACTOR = 2.0
UNUSED = 1

def doubled(value):
    return FACTOR * value
"""
OWN = '''"""A reference of one's own."""
from dataclasses import dataclass

from tools import doubled
from three_action import experiment as game

LIMIT = 3

def limited(value):
    return min(value, LIMIT)

@dataclass(frozen=True)
class Kept:
    """Everything is stored."""

    def stored(self, needs):
        limited(doubled(1.0))
        return tuple(needs)

    def live(self, needs):
        return ()

from dataclasses import replace
experiment = replace(game, reference=Kept(), iterations=1)
'''


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "tools.py").write_text(BESIDE)
    (tmp_path / "three_action.py").write_text((CONFIGS / "games" / "three_action.py").read_text())
    return tmp_path


def told(folder: Path) -> str:
    (cls,) = own_classes(load(folder / "own.py")).values()
    file, digest = fingerprint(cls)
    assert Path(file) == folder / "own.py"
    return digest


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("own.py", "return tuple(needs)", "return tuple(needs)[:1]"),
        ("own.py", "LIMIT = 3", "LIMIT = 4"),
        ("own.py", "min(value, LIMIT)", "max(value, LIMIT)"),
        ("tools.py", "FACTOR = 2.0", "FACTOR = 3.0"),
        ("tools.py", "FACTOR * value", "FACTOR + value"),
    ],
)
def test_what_a_class_reaches_is_its_code(folder, file, old, new):
    before = told(folder)
    change(folder / file, old, new)
    assert told(folder) != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("own.py", "Everything is stored.", "All is."),
        ("own.py", "LIMIT = 3", "# three\nLIMIT  =  3"),
        ("own.py", "iterations=1", "iterations=2"),
        ("tools.py", "UNUSED = 1", "UNUSED = 2"),
    ],
)
def test_the_rest_is_not(folder, file, old, new):
    before = told(folder)
    change(folder / file, old, new)
    assert told(folder) == before


def test_what_a_star_imports_is_followed(folder):
    change(folder / "own.py", "from tools import doubled", "from tools import *")
    before = told(folder)
    change(folder / "tools.py", "UNUSED = 1", "UNUSED = 2")
    assert told(folder) == before
    change(folder / "tools.py", "FACTOR = 2.0", "FACTOR = 3.0")
    assert told(folder) != before


def test_what_is_in_no_file_has_none():
    assert fingerprint(type("Made", (), {"__module__": "nowhere"})) == ("", "")


def test_a_run_does_not_go_on_with_other_code(folder, tmp_path):
    workdir = tmp_path / "run"
    run_here(load(folder / "own.py"), workdir)
    change(folder / "own.py", "Everything is stored.", "All is.")
    run_here(load(folder / "own.py"), workdir)
    change(folder / "tools.py", "FACTOR = 2.0", "FACTOR = 3.0")
    with pytest.raises(ConfigError, match=r"code: .*own\.py \(own:Kept\): \w+ at the first launch, \w+ now"):
        run_here(load(folder / "own.py"), workdir)
