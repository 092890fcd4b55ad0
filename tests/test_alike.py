"""Processes of one run that would not run the same program are refused before anything is computed, by what differs."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from made_hosts import together

from jaxalign.errors import ConfigError
from jaxalign.hosts.group import ALONE
from jaxalign.machine import Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.storage import alike
from jaxalign.storage.alike import check_alike, digest

PLACEMENT = Placement(MeshShape(fsdp=4))


def test_alike_and_alone(monkeypatch):
    assert together(3, lambda hosts: check_alike(hosts, PLACEMENT)) == [None] * 3
    monkeypatch.setattr(alike, "digest", lambda: pytest.fail("nobody asks one process"))
    check_alike(ALONE, PLACEMENT)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            dataclasses.replace(PLACEMENT, mesh=MeshShape(fsdp=2)),
            r"placement.mesh.fsdp: 4 on .* \(process 0\), 2 on .* \(process 1\)",
        ),
        (dataclasses.replace(PLACEMENT, accumulate=2), "placement.accumulate: 1 on .*, 2 on"),
    ],
)
def test_other_placements_are_told(other, said):
    with pytest.raises(ConfigError, match=f"do not run the same program; start all of them alike\n  {said}"):
        together(2, lambda hosts: check_alike(hosts, other if hosts.index else PLACEMENT))


@pytest.mark.parametrize(("name", "one", "other"), [("jaxlib", "0.10.2", "0.11.0"), ("libtpu", "0.0.42", None)])
def test_other_versions_are_told(name, one, other, monkeypatch):
    """Those that only one of them has, too. Threads take turns at what is installed."""
    versions = iter([{name: one}, {} if other is None else {name: other}])
    monkeypatch.setattr(alike, "installed", lambda names: next(versions))
    with pytest.raises(ConfigError, match=rf"versions\.{name}: "):
        together(2, lambda hosts: check_alike(hosts, PLACEMENT))


def test_other_files_of_the_package_are_told(monkeypatch):
    digests = iter(["abc", "def"])
    monkeypatch.setattr(alike, "digest", lambda: next(digests))
    with pytest.raises(ConfigError, match=r"jaxalign's files: .(abc|def)"):
        together(2, lambda hosts: check_alike(hosts, PLACEMENT))


def test_a_digest_is_of_names_and_bytes_and_of_nothing_that_python_has_made(tmp_path):
    root = tmp_path / "package"
    (root / "inner").mkdir(parents=True)
    (root / "inner" / "code.py").write_text("x = 1\n")
    (root / "table.json").write_text("{}")
    before = digest(root)
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "code.pyc").write_bytes(b"made")
    assert digest(root) == digest(Path(shutil.copytree(root, tmp_path / "elsewhere"))) == before
    (root / "inner" / "code.py").write_text("x = 2\n")
    changed = digest(root)
    (root / "inner" / "code.py").rename(root / "inner" / "other.py")
    assert len({before, changed, digest(root)}) == 3
