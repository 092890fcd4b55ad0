"""What was damaged and deleted is made again by the command that made the run; and a run may go on for longer."""

import dataclasses
import pathlib
import shutil

import pytest
from made_runs import assert_same_run, run_here

from jaxalign.config.load import load, override
from jaxalign.experiment import Experiment
from jaxalign.storage.lost import spans

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
        ("0002/votes",),
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
    for name in ("win_rates", "votes"):
        shutil.rmtree(copied / "0002" / name)
    assert_same_run(tmp_path / "longer", copied)


def test_what_is_made_again_is_said_before_anything_is_computed(tmp_path, capsys):
    """The first evaluation of a run that keeps few policies: those that it has not kept are trained again."""
    kept, run = dataclasses.replace(game(4), keep_policies=1), tmp_path / "run"
    run_here(kept, run)
    assert "made again" not in capsys.readouterr().err
    shutil.copytree(run, tmp_path / "before")
    gone = [number for number in range(1, 5) if not (run / f"{number - 1:04d}" / "policy").is_dir()]
    assert 1 in gone
    assert 4 not in gone
    shutil.rmtree(run / "0000" / "evals")
    run_here(kept, run)
    said = capsys.readouterr().err.splitlines()[0]
    assert f"{run}: 0000/evals was there when its iteration was complete, and is gone: it is made again" in said
    assert f"the policies {spans(gone)} that keep_policies 1 has deleted" in said
    assert_same_run(tmp_path / "before", run)


def test_where_all_policies_are_kept_none_is_trained_again(copied, capsys):
    shutil.rmtree(copied / "0001" / "evals")
    run_here(game(3), copied)
    said = capsys.readouterr().err.splitlines()[0]
    assert said.endswith("0001/evals was there when its iteration was complete, and is gone: it is made again")
    assert [spans(each) for each in ([2], [1, 2, 3], [1, 2, 4, 6, 7])] == ["2", "1-3", "1-2, 4, 6-7"]


@pytest.mark.parametrize("kept", [0, 3])
def test_metrics_that_were_deleted_or_cut_with_their_copy_are_missed(whole, copied, capsys, kept):
    (copied / ".metrics.jsonl.copy").unlink()
    lines = (copied / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (copied / "metrics.jsonl").write_bytes(b"".join(lines[:kept]))
    capsys.readouterr()
    run_here(game(3), copied)
    assert "metrics.jsonl: says nothing of the iterations" in capsys.readouterr().err


def test_nothing_is_missed_of_a_whole_run(copied, capsys):
    run_here(game(3), copied)
    assert "says nothing" not in capsys.readouterr().err
