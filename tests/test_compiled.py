"""Compiled programs that are kept: a second launch compiles none of them, and nothing that is wrong with the folder
stops one."""

import os
import pathlib
import subprocess
import sys

import pytest

from jaxalign.__main__ import main
from jaxalign.mesh.compiled import ENABLED, FOLDER, SECONDS, keep_compiled, trim, users_folder

LAUNCH = """
import sys
from jaxalign.mesh.compiled import keep_compiled
keep_compiled(sys.argv[1])
import jax
import jax.numpy as jnp
seen = []
jax.monitoring.register_event_listener(lambda name, **kwargs: seen.append(name))
print(float(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones(8))))
print(*(sum(name == "/jax/compilation_cache/" + each for name in seen) for each in ("cache_hits", "cache_misses")))
"""


@pytest.fixture
def environment(monkeypatch):
    """One in which nothing is said of compiled programs, afterwards as before."""
    for name in (FOLDER, ENABLED, SECONDS):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setitem(sys.modules, "jax", sys.modules["jax"])
    monkeypatch.delitem(sys.modules, "jax")  # settings are those that JAX would read, and this one stays as it is
    return os.environ


def launch(folder: pathlib.Path) -> tuple[str, int, int]:
    """What a process computes, and how many programs it read and compiled."""
    environment = {name: value for name, value in os.environ.items() if name != ENABLED}
    command = [sys.executable, "-c", LAUNCH, str(folder)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    value, counts = done.stdout.splitlines()
    hits, misses = map(int, counts.split())
    return value, hits, misses


def test_a_second_launch_compiles_nothing(tmp_path):
    (value, hits, misses), (again, read, compiled) = launch(tmp_path / "new"), launch(tmp_path / "new")
    assert value == again
    assert (hits, compiled) == (0, 0)
    assert read == misses > 0
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


def test_a_damaged_entry_is_compiled_anew(tmp_path):
    first = launch(tmp_path)
    for entry in tmp_path.iterdir():
        entry.write_bytes(entry.read_bytes()[:40])
    assert launch(tmp_path)[0] == first[0]


def test_a_folder_that_cannot_be_made_is_told_and_does_without(tmp_path, environment, capsys):
    (tmp_path / "file").write_text("")
    keep_compiled(str(tmp_path / "file" / "folder"))
    assert FOLDER not in environment
    assert "compiled programs are not kept" in capsys.readouterr().err


def test_where_they_are_kept(tmp_path, environment, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_compiled(None)
    assert pathlib.Path(environment[FOLDER]).parent == tmp_path / "jaxalign" / "compiled"
    assert pathlib.Path(environment[FOLDER]) == users_folder(environment)
    monkeypatch.setenv(FOLDER, "/elsewhere")
    monkeypatch.setenv(SECONDS, "")
    keep_compiled(None)
    assert (environment[FOLDER], environment[SECONDS]) == ("/elsewhere", "0"), "small programs are kept there too"
    keep_compiled(str(tmp_path / "mine"))
    assert environment[FOLDER] == str(tmp_path / "mine")
    keep_compiled("off")
    assert environment[ENABLED] == "false"


def test_what_was_used_last_stays(tmp_path):
    for age, name in enumerate(("new-cache", "older-cache", "oldest-cache", "pairs.jsonl")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    trim(tmp_path, 250)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["new-cache", "older-cache", "pairs.jsonl"]


def test_nothing_goes_but_what_jax_has_written(tmp_path):
    """A folder may be given that has other files in it."""
    (tmp_path / "pairs.jsonl").write_bytes(bytes(100))
    launch(tmp_path)
    trim(tmp_path, 0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_an_entry_that_another_launch_removes_meanwhile_is_gone(tmp_path, monkeypatch):
    (tmp_path / "stays-cache").write_bytes(bytes(100))
    there = [tmp_path / "gone-cache", tmp_path / "stays-cache"]
    monkeypatch.setattr(pathlib.Path, "glob", lambda folder, pattern: iter(there))
    trim(tmp_path, 50)
    assert list(os.scandir(tmp_path)) == []


@pytest.mark.parametrize("verb", ["train", "eval", "sample", "doctor"])
def test_verbs_that_compile_say_where(verb, capsys):
    try:  # argparse leaves by itself; `train`, which shows a config's options too, does not
        code = main([verb, "--help"])
    except SystemExit as left:
        code = left.code
    assert code == 0
    assert "--compiled DIR" in capsys.readouterr().out
