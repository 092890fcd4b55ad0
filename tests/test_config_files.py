"""Config files: forks, neighbours, and errors that name file and line."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made_experiment import OWN, refusal

from jaxalign.config.load import flatten, help_text, load, override, validate
from jaxalign.config.overrides import Leaf
from jaxalign.config.resolved import difference, dump

LOOSE = "import dataclasses\n@dataclasses.dataclass\nclass Loose:\n    size: int = 3\nexperiment = Loose()"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def _write(name: str, source: str | bytes) -> Path:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_bytes(source.encode() if isinstance(source, str) else source)
        return file

    return _write


def test_a_file_defines_its_own_classes(write: Callable[..., Path]) -> None:
    experiment = load(write("own.py", OWN))
    validate(experiment)
    assert flatten(experiment)["part.size"] == Leaf(3, int, "how large")
    assert dump(experiment)["part"]["type"] == "own:Part"
    assert override(experiment, ["--part.size", "4"]).part.size == 4
    assert "An experiment of its own." in help_text(experiment, write("own.py", OWN))


def test_forks_import_their_neighbours(write: Callable[..., Path], tmp_path: Path) -> None:
    write("own.py", OWN)
    write(
        "fork.py",
        "import dataclasses\nfrom own import experiment as base\nexperiment = dataclasses.replace(base, name='f')",
    )
    fork = load(write("second.py", "from fork import experiment"))
    validate(fork)
    assert fork.name == "f"
    assert dump(fork)["type"] == "own:Whole"
    assert difference(dump(load(tmp_path / "own.py")), dump(fork)) == ['name: "own" in the run, "f" now']
    assert flatten(fork)["part.size"].doc == "how large"
    assert not {"own", "fork", "second"} & set(sys.modules)
    assert not list(tmp_path.rglob("__pycache__"))


def test_configs_of_one_name_stay_apart(write: Callable[..., Path]) -> None:
    loaded = []
    for folder, size in (("one", 1), ("two", 2), ("one", 3)):
        write(f"{folder}/own.py", OWN.replace("size: int = 3", f"size: int = {size}"))
        loaded.append(load(write(f"{folder}/fork.py", "from own import experiment")))
    assert [item.part.size for item in loaded] == [1, 2, 3]
    assert [flatten(item)["part.size"].annotation for item in loaded] == [int, int, int]


def test_neighbours_never_hide_the_standard_library(write: Callable[..., Path]) -> None:
    write("colorsys.py", "raise RuntimeError('wrong module')")
    assert load(write("own.py", f"import colorsys\n{OWN.replace('from __future__ import annotations', '')}"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = (1,\ny = 2", r"bad\.py:\d+: SyntaxError: "),
        ("\n\n1 / 0", r"bad\.py:3: ZeroDivisionError: division by zero$"),
        ("import nosuchmodule", r"bad\.py:1: ModuleNotFoundError: No module named 'nosuchmodule'$"),
        ("import json\n\njson.loads('{')", r"bad\.py:3: JSONDecodeError: "),
        ("raise SystemExit(3)", r"bad\.py:1: SystemExit: 3$"),
        ("from jaxalign.errors import ConfigError\nraise ConfigError('no model')", r"bad\.py:2: no model$"),
        ("from bad import experiment", r"bad\.py:1: ImportError: cannot import name 'experiment'"),
        ("\0", r"bad\.py"),
        (b"x = '\xff'", r"bad\.py.*utf-8"),
        ("", r"bad\.py: defines no `experiment`$"),
        (OWN.replace("experiment =", "exp ="), r"bad\.py: defines no `experiment`; rename `exp`\?$"),
        (f"{OWN}\nexperiment = Whole", r"must be an instance of a frozen dataclass, not the class Whole$"),
        ("experiment = {'a': 1}", r"must be an instance of a frozen dataclass, not {\"a\": 1}$"),
        (LOOSE, r"`experiment` is a bad:Loose, which is no frozen dataclass$"),
    ],
)
def test_broken_files_are_named_with_their_line(write: Callable[..., Path], source: str | bytes, message: str) -> None:
    before = set(sys.modules), list(sys.meta_path)
    (line, *_) = refusal(load, write("bad.py", source))
    assert re.search(message, line)
    assert not {name for name in set(sys.modules) - before[0] if name.startswith("bad")} or "experiment" in line
    assert sys.meta_path == before[1]


def test_an_error_in_a_neighbour_names_the_neighbour(write: Callable[..., Path]) -> None:
    write("base.py", "\n1 / 0")
    assert re.search(r"base\.py:2: ZeroDivisionError", refusal(load, write("fork.py", "import base"))[0])
    write("base.py", "\n1 +")
    assert re.search(r"base\.py:2: SyntaxError", refusal(load, write("fork.py", "import base"))[0])


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    assert refusal(load, tmp_path / "no.py") == [f"{tmp_path / 'no.py'}: no such config file"]
    assert refusal(load, tmp_path) == [f"{tmp_path}: is a folder, not a config file"]
