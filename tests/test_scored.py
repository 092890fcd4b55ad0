"""Reference scoring goes in committed parts: nothing that is committed is scored again, and the bits are the same."""

import dataclasses
import pathlib

import jax
import made_groups
import numpy as np
import pytest
from made_pairs import dpo
from made_runs import policy, run_here

from jaxalign.data.groups import RolledGroups
from jaxalign.errors import Interrupted
from jaxalign.hosts.group import Hosts
from jaxalign.session import ReferenceLogps
from jaxalign.storage.rundir import read_run
from jaxalign.training import scored
from jaxalign.training.logps import Scorer
from jaxalign.training.scored import Scored, Table

SHORT = ("--placement.score_batch_size", "8", "--fit.evaluate_every", "none", "--fit.keep", "last")


@dataclasses.dataclass
class Batches:
    """The groups at which batches of a scorer began, all of them or until it breaks."""

    began: list[int] = dataclasses.field(default_factory=list)
    breaks_after: int | None = None

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        whole = Scorer.batches

        def batches(scorer, params, groups, plan, first=0):
            for number, found in enumerate(whole(scorer, params, groups, plan, first)):
                if len(self.began) == self.breaks_after:
                    raise KeyboardInterrupt
                self.began.append(first + number * scorer.batch_size)
                yield found

        patch.setattr(Scorer, "batches", batches)


def references(run: pathlib.Path) -> ReferenceLogps:
    return read_run(run).load(0, "references", ReferenceLogps)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> pathlib.Path:
    """Fifty pairs in seven batches, never interrupted."""
    home = tmp_path_factory.mktemp("whole") / "run"
    run_here(dpo(*SHORT), home)
    return home


def test_a_run_that_is_killed_goes_on_behind_its_last_part(tmp_path, monkeypatch, whole):
    """Parts of two batches, killed in the fourth batch: the first two are not scored again."""
    monkeypatch.setattr(scored, "BATCHES", 2)
    killed, again = Batches(breaks_after=3), Batches()
    with monkeypatch.context() as patch:
        killed.watch(patch)
        with pytest.raises(KeyboardInterrupt):
            run_here(dpo(*SHORT), tmp_path / "run")
    with monkeypatch.context() as patch:
        again.watch(patch)
        run_here(dpo(*SHORT), tmp_path / "run")
    assert (killed.began, again.began) == ([0, 8, 16], [16, 24, 32, 40, 48])
    np.testing.assert_array_equal(references(tmp_path / "run").sums, references(whole).sums)
    jax.tree.map(np.testing.assert_array_equal, policy(tmp_path / "run", 1), policy(whole, 1))
    assert not list((tmp_path / "run" / "0000").glob("*.parts"))


def test_a_run_that_is_stopped_keeps_what_it_has(tmp_path, monkeypatch, whole):
    """An ordered stop commits the part that it comes into."""
    stopped, again = Batches(), Batches()
    with monkeypatch.context() as patch:
        stopped.watch(patch)
        with pytest.raises(Interrupted, match="stopped after 24 groups of the references"):
            run_here(dpo(*SHORT), tmp_path / "run", lambda: len(stopped.began) == 3)
    with monkeypatch.context() as patch:
        again.watch(patch)
        run_here(dpo(*SHORT), tmp_path / "run")
    assert (stopped.began, again.began) == ([0, 8, 16], [24, 32, 40, 48])
    np.testing.assert_array_equal(references(tmp_path / "run").sums, references(whole).sums)


def test_parts_of_another_policy_are_counted_and_not_taken():
    """Parts of two processes, for two policies: each finds its own groups, and where the next part belongs."""

    def share(who: int, number: int) -> Scored:
        return Scored(who, np.array([number]), np.full((1, 2), 10.0 * who + number, np.float32))

    class Kept:
        hosts = Hosts()

        def kept(self, kind):
            return [(share(0, 0), share(0, 1)), (share(0, 2), share(0, 3)), (share(1, 0),)]

        def put(self, k, value, kind):
            raise AssertionError

    groups = RolledGroups(made_groups.rollouts(), made_groups.groups([0, 0, 1, 2, 1], [[0, 1]] * 5))
    first, second = (Table(who, groups, Kept()) for who in (0, 1))
    assert (first.done, second.done) == (4, 1)
    np.testing.assert_array_equal(first.sums[:, 0], [0, 1, 2, 3, 0])
    np.testing.assert_array_equal(second.sums[:, 1], [10, 0, 0, 0, 0])
