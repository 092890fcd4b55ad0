"""The wheel, built and installed apart: it holds what the tree holds, and works where no checkout is."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from jaxalign.config.installed import installed as installed_here
from jaxalign.config.load import load
from jaxalign.config.resolved import dumps

ROOT = Path(__file__).parents[1]
BACKEND = 77
"""setuptools that knows licence expressions, as pyproject.toml asks for."""


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--no-deps", "--no-index", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from no more than is named here, with what is installed: nothing is fetched."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("no pip in this environment")
    backend = installed_here(("setuptools",)).get("setuptools", "0")
    if int(backend.partition(".")[0]) < BACKEND:
        pytest.skip(f"building without a network takes setuptools {BACKEND}: make install-test")
    home = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, home)
    for name in ("jaxalign", "configs"):
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "-q", "--no-build-isolation", "--no-cache-dir", "--wheel-dir", str(home / "dist"), str(home))
    (built,) = (home / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    target = wheel.parents[1] / "installed"
    pip("install", "-q", "--no-compile", "--target", str(target), str(wheel))
    return target


def outside(installed: Path, cwd: Path, *arguments: str) -> str:
    """What a Python says that sees the installed package and what it needs, and no checkout (-S: nor one that the
    environment leads to)."""
    path = os.pathsep.join([str(installed), *dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib")))])
    done = subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def held(folder: Path, prefix: str) -> set[str]:
    files = (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {f"{prefix}/{file.relative_to(folder).as_posix()}" for file in files}


def test_the_wheel_holds_the_package_and_the_configs_and_nothing_else(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert len(names) == len(set(names))
    assert set(names) == held(ROOT / "jaxalign", "jaxalign") | held(ROOT / "configs", "jaxalign/starters")


def test_the_wheel_says_what_it_is_and_carries_its_licence(wheel):
    (found,) = importlib.metadata.distributions(path=[str(wheel)])
    assert (found.metadata["Name"], found.metadata["License-Expression"]) == ("jaxalign", "Apache-2.0")
    assert found.metadata.get_all("License-File") == ["LICENSE"]
    licence = next(file for file in found.files or () if file.name == "LICENSE")
    assert zipfile.ZipFile(wheel).read(str(licence)) == (ROOT / "LICENSE").read_bytes()


def test_a_starter_is_the_same_experiment_where_no_checkout_is(installed, tmp_path):
    where = outside(installed, tmp_path, "-c", "import jaxalign; print(jaxalign.__file__)")
    assert Path(where.strip()) == installed / "jaxalign" / "__init__.py"
    listed = outside(installed, tmp_path, "-m", "jaxalign", "init")
    assert len(listed.splitlines()) == len(list((ROOT / "configs").rglob("*.py")))
    outside(installed, tmp_path, "-m", "jaxalign", "init", "tiny_lm")
    assert [file.name for file in tmp_path.iterdir()] == ["tiny_lm.py"]
    resolved = outside(installed, tmp_path, "-m", "jaxalign", "train", "tiny_lm.py", "--print-config")
    assert json.loads(resolved) == json.loads(dumps(load(ROOT / "configs" / "tiny_lm.py")))
