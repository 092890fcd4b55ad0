"""Training on recorded pairs by two real processes: as by one, and continued by any number of them."""

import pathlib

import pytest
from made_processes import MESH, assert_same_trajectory, finish, stopped
from made_runs import CONFIGS

from jaxalign.storage.record import read_metrics, read_perf

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(900)]

POLICY, SCORES = (CONFIGS / "preference" / f"{name}.py" for name in ("dpo_tiny", "bt_tiny"))
OPTIONS = (*("--fit.epochs", "2", "--fit.checkpoint_every", "2", "--fit.evaluate_every", "4"), *MESH)
STEPS = 14


@pytest.fixture(scope="module", params=[POLICY, SCORES], ids=["a policy", "a head on a frozen trunk"])
def both(request, tmp_path_factory, cache):
    """The config, a run of it by one process and one by two, and what the latter said."""
    home = tmp_path_factory.mktemp("both")
    finish(request.param, home / "one", cache, 1, *OPTIONS)
    return request.param, home / "one", home / "two", finish(request.param, home / "two", cache, 2, *OPTIONS)


def padding(workdir: pathlib.Path) -> dict[int, float]:
    """Of each step's batch: whose groups these are, as told by their lengths."""
    return {line["step"]: line["perf/padding_fraction"] for line in read_perf(workdir) if line["phase"] == "fit"}


def test_two_processes_train_on_recorded_pairs_as_one(both):
    _, one, two, launch = both
    assert_same_trajectory(one, two)
    assert [line["step"] for line in read_metrics(two) if line["phase"] == "fit"] == list(range(STEPS))
    assert padding(one) == padding(two)
    assert {line["phase"] for line in read_metrics(two)} >= {"heldout", "kept", "evals"}
    assert "feedback.pairs: tokenising" in launch.said(0)
    assert "tokenising" not in launch.said(1)
    assert len(list((two / "datasets").glob("*/store.json"))) == 2  # made once each, of training and held-out pairs


def test_any_number_of_processes_goes_on_where_the_last_ones_stopped(both, cache, tmp_path):
    config, one, two, _ = both
    workdir = tmp_path / "run"
    stopped(config, workdir, cache, 2, *OPTIONS, at="0000/fit/00000002*")
    before = (workdir / "metrics.jsonl").read_bytes()
    assert (two / "metrics.jsonl").read_bytes().startswith(before)
    stopped(config, workdir, cache, 1, *OPTIONS, at="0000/fit/00000006*")
    assert len((workdir / "metrics.jsonl").read_bytes()) > len(before)
    finish(config, workdir, cache, 2, *OPTIONS)
    assert_same_trajectory(two, workdir)
    assert_same_trajectory(one, workdir)
    assert padding(workdir) == padding(one)
