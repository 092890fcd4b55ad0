"""Traces of chosen steps: which steps they hold, what they are called, and that they change nothing."""

import gzip
import json
import pathlib
import types

import jax
import numpy as np
import pytest
from made_fits import STEPS, changed_step, train
from made_runs import policy

from jaxalign.errors import ConfigError
from jaxalign.training import profile
from jaxalign.training.profile import Window, window


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody traces."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert train(workdir) == 0
    return workdir


def traced(workdir: pathlib.Path) -> tuple[list[int], set[str], bytes]:
    """Steps in the one trace of a run, names of its events, and the file that xprof reads."""
    (events,) = workdir.glob("profile/plugins/profile/*/*.trace.json.gz")
    (planes,) = workdir.glob("profile/plugins/profile/*/*.xplane.pb")
    found = json.loads(gzip.decompress(events.read_bytes()))["traceEvents"]
    steps = [int(event["args"]["step_num"]) for event in found if event.get("name") == "fit"]
    return steps, {event["name"] for event in found if "name" in event}, planes.read_bytes()


@pytest.mark.parametrize(("text", "steps"), [("3:2", [3, 4]), ("0:1", [0]), ("0:6", list(range(STEPS)))])
def test_the_steps_that_were_asked_for_are_traced_and_nothing_changes(tmp_path, capsys, whole, text, steps):
    assert train(tmp_path, "--profile", text) == 0
    found, names, planes = traced(tmp_path)
    assert found == steps
    assert "read metrics" in names
    for scope in (b"jit(step)/jvp(policy)", b"jit(step)/optimizer"):  # of the program
        assert scope in planes
    assert f"profile: {len(steps)} of {len(steps)} steps traced in {tmp_path / 'profile'}\n" in capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    for a, b in zip(jax.tree.leaves(policy(whole, 1)), jax.tree.leaves(policy(tmp_path, 1)), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_fit_that_is_shorter_closes_its_trace_and_says_so(tmp_path, capsys):
    assert train(tmp_path, "--profile", "4:9") == 0
    assert traced(tmp_path)[0] == [4, 5]
    assert "profile: 2 of 9 steps traced" in (said := capsys.readouterr().err)
    assert "; the fit ended" in said


def test_steps_are_counted_over_the_fits_of_a_launch(tmp_path):
    assert train(tmp_path, "--profile", f"{STEPS + 1}:2", iterations=2) == 0
    assert traced(tmp_path)[0] == [1, 2]


def test_a_launch_that_ends_before_says_that_nothing_was_traced(tmp_path, capsys, whole):
    assert train(tmp_path, "--profile", "6:1") == 0
    said = capsys.readouterr().err
    assert "profile: nothing traced: this launch took 6 steps, and 6 were to come first" in said
    assert not (tmp_path / "profile").exists()
    assert train(tmp_path, "--profile", "0:1") == 0  # finished: takes none
    assert "this launch took 0 steps" in capsys.readouterr().err


def test_an_error_within_a_trace_closes_it(tmp_path, monkeypatch, capsys):
    def wrap(step):
        taken = iter(range(STEPS))

        def failing(*arguments):
            if next(taken) == 3:
                raise ZeroDivisionError
            return step(*arguments)

        return failing

    changed_step(monkeypatch, wrap)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "failed", "--profile", "2:3")
    assert "profile: 1 of 3 steps traced" in capsys.readouterr().err
    monkeypatch.undo()
    assert train(tmp_path / "again", "--profile", "2:1") == 0  # JAX allows one trace at a time
    assert traced(tmp_path / "again")[0] == [2]


def test_a_trace_for_a_bucket_is_written_here_and_sent_there(tmp_path, monkeypatch):
    drafts = tmp_path / "drafts"
    drafts.mkdir()
    monkeypatch.setattr(profile, "durable", types.SimpleNamespace(is_local=lambda path: False))
    monkeypatch.setattr("tempfile.tempdir", str(drafts))
    assert train(tmp_path / "run", "--profile", "1:2") == 0
    assert traced(tmp_path / "run")[0] == [1, 2]
    assert not list(drafts.iterdir())


def test_windows_are_read():
    assert window("3:2") == Window(3, 2)
    assert window("0:10") == Window(0, 10)


@pytest.mark.parametrize("text", ["3", "3:0", "-1:2", "3:2:1", ":2", "3:", "a:b", "3:-2", "1.5:2", "", "٣:٢", "3:2\n"])
def test_what_is_no_window_is_refused_by_name_before_anything_else(tmp_path, capsys, text):
    with pytest.raises(ConfigError, match="--profile"):
        window(text)
    assert train(tmp_path / "run", f"--profile={text}") == 2
    assert f"--profile {text}: expected START:COUNT" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
