"""What runs of one launch have in common: computed once, and committed by each as if it had computed it."""

import dataclasses
import datetime
from pathlib import Path

import pytest

from jaxalign.__main__ import main
from jaxalign.storage.inputs import Input
from jaxalign.storage.pinned import Pinned
from jaxalign.storage.recalled import OF_THE_BASE, Recalled, afresh
from jaxalign.training.pair_scores import PairScorer

CONFIG = Path(__file__).parents[1] / "configs" / "raco" / "raco_tiny.py"
SMALL = ("--placement.mesh.fsdp", "1", "--fit.epochs", "1")
RUN = {"model": "a", "combiner": "raco", "optimizer": "fast", "loss": "dpo"}
PINNED = Pinned(datetime.date(2026, 1, 2), (Input("model", "weights", "here", "abc"),), {})


def counted(recalled: Recalled, resolved: dict[str, str], pinned: Pinned = PINNED, at=OF_THE_BASE[0]) -> bool:
    """Whether a run had to compute a phase."""
    made = []
    recalled.of(resolved, pinned)(*at, lambda: made.append(1))
    return bool(made)


def test_runs_that_read_the_same_share_what_the_base_says():
    recalled = Recalled()
    assert counted(recalled, RUN)
    assert not counted(recalled, RUN | {"combiner": "mgda", "optimizer": "slow"})
    for changed in ({"model": "b"}, {"loss": "ipo"}, {"seed": "1"}):
        assert counted(recalled, RUN | changed), changed
    assert counted(recalled, RUN, dataclasses.replace(PINNED, date=datetime.date(2026, 1, 3)))
    other = Input("model", "weights", "here", "abd")
    assert counted(recalled, RUN, dataclasses.replace(PINNED, inputs=(other,)))
    assert counted(recalled, RUN, at=(0, "references"))
    assert counted(Recalled(), RUN), "of another launch"


@pytest.mark.parametrize("at", [(1, "references"), (0, "heldout_pairs"), (0, "preferences"), (0, "unseen")])
def test_what_a_trained_policy_says_is_each_runs_own(at):
    recalled = Recalled()
    assert counted(recalled, RUN, at=at)
    assert counted(recalled, RUN, at=at)


def test_a_run_that_shares_nothing_computes_all():
    made = []
    for _ in range(2):
        afresh("initial", "heldout_pairs", lambda: made.append(1))
    assert len(made) == 2


def files(run: Path) -> dict[str, bytes]:
    """What the config determines of a run: its metrics, its artifacts but for their times."""
    shards = set(run.glob("*/*/arrays.safetensors")) | {run / "metrics.jsonl"}
    return {str(path.relative_to(run)): path.read_bytes() for path in shards}


def test_cells_of_a_sweep_are_the_runs_that_they_would_be_alone(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    path, passes = str(CONFIG), []
    whole = PairScorer.batches
    monkeypatch.setattr(PairScorer, "batches", lambda *args, **kwargs: passes.append(1) or whole(*args, **kwargs))
    weights = ("0.9,0.1", "0.1,0.9")
    swept = [word for each in weights for word in ("--combiner.weights", each)]
    assert main(["sweep", path, "--workdir", str(tmp_path / "swept"), "--seeds", "1", *SMALL, *swept]) == 0
    assert len(passes) == 4, "the base as anchor, the base, and the policy of each cell"
    for each in weights:
        alone = tmp_path / each
        assert main(["train", path, "--workdir", str(alone), *SMALL, "--combiner.weights", each]) == 0
        cell = files(tmp_path / "swept" / f"raco_tiny@weights={each}" / "seed-0")
        assert len(cell) > 3
        assert cell == files(alone)
    assert len(passes) == 10
