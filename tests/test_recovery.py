"""What was damaged and deleted is made again by the command that made the run; and a run may go on for longer."""

import pathlib
import shutil

import pytest
from made_runs import assert_same_run, run_here

from jaxalign.config.load import load, override
from jaxalign.experiment import Experiment

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "games" / "three_action.py"


def game(iterations: int, *options: str) -> Experiment:
    """The exact game, with all policies kept."""
    short = ("--iterations", str(iterations), "--swap_every", "2", "--keep_policies", "none", "--fit.epochs", "2")
    return override(load(CONFIG), (*short, *options))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("whole") / "run"
    run_here(game(3), workdir)
    return workdir


@pytest.fixture
def copied(whole, tmp_path) -> pathlib.Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "lost",
    [
        ("initial/heldout",),
        ("initial/policy",),
        ("0000/rollouts",),
        ("0000/preferences",),
        ("0000/policy",),
        ("0000/heldout", "0001/policy"),
        ("0001/certificates", "0001/references"),
        ("0002/policy",),
        ("0002/evals", "initial/evals"),
        ("0000/policy", "0001/policy", "0002/policy", "0002/heldout"),
    ],
    ids=lambda lost: "+".join(lost),
)
def test_what_was_deleted_is_made_again(whole, copied, lost):
    for name in lost:
        assert (copied / name).is_dir()
        shutil.rmtree(copied / name)
    run_here(game(3), copied)
    assert_same_run(whole, copied)


def test_a_run_may_go_on_for_longer(copied, tmp_path):
    run_here(game(4), tmp_path / "longer")
    run_here(game(4), copied)
    # but for what the shorter one had at its end
    shutil.rmtree(copied / "0002" / "win_rates")
    assert_same_run(tmp_path / "longer", copied)
