"""What compilers returned is kept between plans: a second one compiles nothing, and what cannot be read is compiled
anew."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxalign.__main__ import main
from jaxalign.errors import ConfigError
from jaxalign.mesh.compiled import ENTRY
from jaxalign.mesh.program import Program, Work
from jaxalign.plan import compiled
from jaxalign.plan.chips import topology
from jaxalign.plan.kept import Analysis, Kept, Returned, kept_in, name_of

HERE = topology("v5e:2x2")


def program(scale: float = 2.0) -> Program:
    """Of this machine's devices."""
    place = NamedSharding(Mesh(jax.devices()[:4], ("rows",)), PartitionSpec("rows"))
    x = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=place)
    return Program("small", jax.jit(lambda x: jnp.sin(x) @ x.T * scale), (x,), Work(8, 8, 8, 8, ("forward",)))


class Watched:
    """A lowered program that counts how often it is compiled."""

    def __init__(self, lowered: Any, refusal: Exception | None = None) -> None:
        self.lowered, self.refusal, self.compiled = lowered, refusal, 0

    def as_text(self) -> str:
        return self.lowered.as_text()

    def compile(self) -> Any:
        self.compiled += 1
        if self.refusal is not None:
            raise self.refusal
        return self.lowered.compile()


@pytest.fixture
def watched(monkeypatch):
    made = Watched(program().lower())
    monkeypatch.setattr(Program, "lower", lambda _: made)
    return made


def test_a_second_plan_compiles_nothing(watched, tmp_path):
    kept = Kept(tmp_path / "plans")
    first, second = (compiled.ask(program(), HERE, None, kept) for _ in range(2))
    assert watched.compiled == 1
    assert first == second
    assert first.text == watched.lowered.compile().as_text()
    assert first.memory == Analysis.of(watched.lowered.compile().memory_analysis())
    assert (tmp_path / "plans").stat().st_mode & 0o077 == 0
    assert [path.name.endswith(ENTRY) for path in (tmp_path / "plans").iterdir()] == [True]


def test_a_refusal_is_kept_too(watched, tmp_path):
    watched.refusal = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 18.24G of 15.75G hbm.")
    for _ in range(2):
        found = compiled.ask(program(), HERE, None, Kept(tmp_path))
        assert (found.memory, "Used 18.24G" in found.text) == (None, True)
    assert watched.compiled == 1
    watched.refusal = jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID"):
        compiled.ask(program(), HERE, {"xla_flag": True}, Kept(tmp_path))


def test_other_options_another_topology_and_another_compiler_are_other_entries(watched, tmp_path, monkeypatch):
    kept = Kept(tmp_path)
    for options, target in ((None, HERE), ({"a": True}, HERE), ({"a": False}, HERE), (None, topology("v6e:2x2"))):
        compiled.ask(program(), target, options, kept)
    assert watched.compiled == 4
    monkeypatch.setattr(compiled, "version_of", lambda package: "9.9")
    compiled.ask(program(), HERE, None, kept)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--something")
    compiled.ask(program(), HERE, None, kept)
    assert watched.compiled == 6
    assert len(list(tmp_path.iterdir())) == 6


def test_other_programs_and_orders_of_devices_have_other_names():
    lowered = program().lower().as_text()
    assert lowered == program().lower().as_text()
    assert lowered != program(scale=3.0).lower().as_text()
    names = {
        name_of(text, None, devices, "v5e:2x2", {})
        for text in (lowered, "another")
        for devices in ([0, 1, 2, 3], [0, 2, 1, 3])
    }
    assert len(names) == 4


@pytest.mark.parametrize("damage", [lambda whole: whole[:40], lambda whole: b"", lambda whole: whole[::-1]])
def test_a_damaged_entry_is_compiled_anew(watched, tmp_path, damage):
    kept = Kept(tmp_path)
    first = compiled.ask(program(), HERE, None, kept)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert dataclasses.replace(compiled.ask(program(), HERE, None, kept), seconds=0.0) == dataclasses.replace(
        first, seconds=0.0
    )
    assert watched.compiled == 2


def test_a_folder_that_cannot_be_written_stops_no_plan(watched, tmp_path):
    (tmp_path / "file").write_text("")
    for kept in (Kept(tmp_path / "file" / "plans"), Kept()):
        compiled.ask(program(), HERE, None, kept)
    assert watched.compiled == 2


def test_what_was_used_longest_ago_goes(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxalign.plan.kept.MOST_BYTES", 200)
    kept = Kept(tmp_path)
    for name in ("old", "new"):
        kept.put(name, Returned(os.urandom(60).hex(), None, 1.0))
        os.utime(tmp_path / f"{name}{ENTRY}", (1, 1 if name == "old" else 2))
    kept.put("newest", Returned(os.urandom(60).hex(), None, 1.0))
    assert kept.get("old") is None
    assert kept.get("newest") is not None


def test_where_results_are_kept(tmp_path):
    assert kept_in("off", {}) == Kept()
    assert kept_in(str(tmp_path), {}) == Kept(tmp_path)
    assert kept_in(None, {"XDG_CACHE_HOME": str(tmp_path)}) == Kept(tmp_path / "jaxalign" / "plans")


def test_the_programs_that_are_named_are_planned_alone(monkeypatch):
    asked = []

    def enough(*given):
        asked.append(given[-1])
        raise ConfigError("enough")

    monkeypatch.setattr("jaxalign.plan.plan.make", enough)
    config = str(Path(__file__).parents[1] / "configs" / "iter_ipo_llama3_8b_v5p_64.py")
    assert main(["plan", config, "--only", "train,logp"]) == 2
    assert main(["plan", config]) == 2
    assert asked == [["train", "logp"], []]
