"""What names a version, a file or an author outside the package agrees with it."""

import datetime
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from jaxalign import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEADING = re.compile(r"^## (\d+\.\d+\.\d+) \((\d{4}-\d{2}-\d{2})\)$")


def released() -> list[tuple[tuple[int, ...], datetime.date]]:
    """Version and date of each heading of CHANGELOG.md below "Unreleased", which is the first."""
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[0] == "## Unreleased"
    found = [HEADING.match(heading) for heading in headings[1:]]
    assert all(found), headings
    return [
        (tuple(map(int, each[1].split("."))), datetime.date.fromisoformat(each[2]))
        for each in found
        if each is not None
    ]


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_releases_go_down_and_the_newest_is_this_version():
    versions = released()
    assert versions == sorted(versions, reverse=True)
    assert len({version for version, _ in versions}) == len(versions)
    assert ".".join(map(str, versions[0][0])) == __version__


def test_the_citation_is_of_the_newest_release(citation):
    """The required keys of the Citation File Format 1.2, and those that could disagree with the package."""
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"]
    assert citation["title"].startswith(PROJECT["name"])
    assert citation["authors"] == PROJECT["authors"]
    assert citation["license"] == PROJECT["license"]
    assert (citation["version"], citation["date-released"]) == (__version__, released()[0][1])


def test_papers_are_cited_by_numbers_that_the_readme_names(citation):
    numbers = [each["value"] for paper in citation["references"] for each in paper["identifiers"]]
    assert len(numbers) == len(citation["references"]) == 3
    for number, paper in zip(numbers, citation["references"], strict=True):
        assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", number)
        assert number.removeprefix("arXiv:") in (ROOT / "README.md").read_text()
        assert paper["title"]
        assert all(author["family-names"] and author["given-names"] for author in paper["authors"])


def test_the_image_is_made_of_what_is_here():
    """Files that are copied exist and are let through, extras are declared, and the Python is one that is pinned."""
    text = (ROOT / "Dockerfile").read_text()
    (python,) = re.findall(r"^ARG PYTHON=([\d.]+)$", text, re.MULTILINE)
    lines = text.replace("${PYTHON}", python).splitlines()
    copied = [
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    ]
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert len(copied) == 8
    for name in copied:
        assert (ROOT / name).exists()
        assert name.split("/")[0] in let_through
    (default,) = (line.removeprefix("ARG FOR=") for line in lines if line.startswith("ARG FOR="))
    named = set(re.findall(r"FOR=(\w+)", "\n".join(lines)))
    assert named == {default, "gpu"}
    assert named <= PROJECT["optional-dependencies"].keys()
    pythons = {line.split()[1] for line in lines if line.startswith("FROM ")}
    assert pythons == {f"python:{python}-slim"}
    assert f"constraints/python{python}.txt" in copied
    assert all(f"constraints/python{other}.txt" in text for other in re.findall(r"PYTHON=([\d.]+)", text))
    # Behind a FROM only what is declared again is known.
    assert text.rpartition("\nFROM ")[2].splitlines()[1] == "ARG PYTHON"


def test_hosts_run_the_versions_that_plans_were_made_with():
    """Those that the docstrings of configs name are the pins of the Python of the image and of the legacy road."""
    (python,) = re.findall(r"^ARG PYTHON=([\d.]+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert f"--python {python} " in (ROOT / "tpu/legacy/host.sh").read_text()
    assert f"constraints/python{python}.txt" in (ROOT / "tpu/legacy/host.sh").read_text()
    pins = dict(
        line.split("==") for line in (ROOT / f"constraints/python{python}.txt").read_text().splitlines() if "==" in line
    )
    planned = [
        found
        for file in (ROOT / "configs").rglob("*.py")
        for found in re.findall(
            r"What `jaxalign plan` prints[^(]*\([^,]*, jax ([\d.]+), libtpu ([\d.]+)\)", file.read_text()
        )
    ]
    assert len(planned) >= 6
    assert set(planned) == {(pins["jax"], pins["libtpu"])}


def test_a_python_without_pins_is_told_in_one_line_before_anything_is_made(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("needs make")
    (tmp_path / "python").write_text("#!/bin/sh\necho python3.99.txt\n")
    (tmp_path / "python").chmod(0o755)
    words = ["make", "--no-print-directory", "install", f"PYTHON={tmp_path / 'python'}", f"VENV={tmp_path / 'made'}"]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode
    said, _ = ended.stderr.splitlines()  # the other is make's own
    assert said.startswith("no constraints/python3.99.txt: ")
    for file in (ROOT / "constraints").glob("*.txt"):
        assert file.stem.removeprefix("python") in said
    assert not (tmp_path / "made").exists()


def test_every_pin_is_in_both_constraints():
    """Of what the project itself asks for, so that one Python is not tested with less than the other; and of what hosts
    of accelerators need, which is not installed here."""
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    names = [re.split(r"[\[>=<; ]", each)[0].lower().replace("_", "-") for each in wanted]
    names += ["libtpu", "gcsfs", "jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cudnn-cu13", "atheris"]
    for file in sorted((ROOT / "constraints").glob("*.txt")):
        pinned = {line.split("==")[0].lower().replace("_", "-") for line in file.read_text().splitlines()}
        assert [name for name in names if name not in pinned] == [], file.name
