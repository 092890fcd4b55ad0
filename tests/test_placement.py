"""Placement is no part of a run's identity: each launch has its own, and the run stays the run."""

import dataclasses
import json

import pytest
from made_runs import Patience, run_here, tiny_lm

from jaxalign.__main__ import main
from jaxalign.errors import ConfigError, Interrupted
from jaxalign.machine import Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.reopen import here, reopen
from jaxalign.storage.record import read_metrics


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("placed") / "run"
    run_here(tiny_lm(), workdir)
    return workdir


@pytest.mark.slow
def test_a_run_goes_on_under_another_placement_and_stays_the_run(finished, tmp_path):
    """As after running out of memory: layers computed again, microbatches, other batches, other devices."""
    with pytest.raises(Interrupted):
        run_here(tiny_lm(), tmp_path, Patience(14))
    before = len(read_metrics(tmp_path))
    assert 0 < before < len(read_metrics(finished))
    saving = Placement(
        MeshShape(fsdp=2),
        xla_flags="plain",
        remat="full",
        accumulate=2,
        optimizer_memory="pinned_host",
        score_batch_size=4,
        rollout_rows=6,
    )
    run_here(dataclasses.replace(tiny_lm(), placement=saving), tmp_path)
    for ours, theirs in zip(read_metrics(finished), read_metrics(tmp_path), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            # fp32 sums in another order, then two fits; all that is sampled and judged is the same
            assert value == theirs[name] or value == pytest.approx(theirs[name], rel=2e-3, abs=2e-4), name


def test_what_is_computed_is_still_refused(finished):
    with pytest.raises(ConfigError, match=r"loss\.eta"):
        run_here(tiny_lm("--loss.eta", "0.3", "--placement.remat", "full"), finished)


def test_evals_on_other_devices_say_what_the_run_said(finished, capsys):
    def evals(*options: str):
        assert main(["eval", str(finished), "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)

    one, many = evals(), evals("--mesh.fsdp", "4", "--mesh.tensor", "2")
    assert one["row_beats_column"] == many["row_beats_column"]
    for name, metrics in one["evals"].items():
        assert metrics == pytest.approx(many["evals"][name], rel=1e-4, abs=1e-5)


def test_samples_are_the_same_on_other_devices(finished, capsys):
    def answers(*options: str) -> str:
        assert main(["sample", str(finished), "--prompt", "Hello", "--max-tokens", "6", *options]) == 0
        return capsys.readouterr().out

    assert answers() == answers("--mesh.fsdp", "8")


def test_a_misspelt_placement_is_named(finished, capsys):
    assert main(["eval", str(finished), "--mesh.fdsp", "1"]) == 2
    assert "--mesh.fsdp" in capsys.readouterr().err
    assert main(["sample", str(finished), "--rollout_rows", "0", "--prompt", "x"]) == 2
    assert "rollout_rows must be at least 1" in capsys.readouterr().err


def test_a_run_without_a_placement_is_of_another_version(finished, tmp_path):
    config = json.loads((finished / "config.json").read_text())
    del config["placement"], config["seal"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"config\.json: names no placement"):
        reopen(tmp_path).machine()


def test_a_mesh_that_cannot_be_built_here_gives_way(capsys):
    pod = Placement(MeshShape(data=4, fsdp=16), remat="full")
    found = here(pod)
    assert (found.mesh, found.remat) == (MeshShape(), "full")
    assert "64 devices" in capsys.readouterr().err
    fits = Placement(MeshShape(fsdp=8))
    assert here(fits) == fits


@pytest.mark.parametrize("options", [("--mesh.fsdp", "0"), ("--mesh.data", "-1"), ("--mesh.tensor", "-2")])
def test_a_mesh_of_no_devices_is_refused_where_runs_are_read(options):
    with pytest.raises(ConfigError, match=r"axis sizes must be positive or -1|only one axis may be -1"):
        here(Placement(), options)


@pytest.mark.parametrize("name", ["accumulate", "score_batch_size", "rollout_rows"])
def test_impossible_sizes_are_named(name):
    assert [line.split()[0] for line in Placement(**{name: 0}).problems()] == [name]
