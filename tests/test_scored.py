"""Scoring goes in committed parts: nothing that is committed is scored again, and the bits are the same.

Of references, of held-out pairs under an anchor, and of the answers that certificates are about.
"""

import dataclasses
import pathlib
from functools import partial

import jax
import made_groups
import numpy as np
import pytest
from made_pairs import dpo
from made_runs import CONFIGS, policy, run_here

from jaxalign import certify
from jaxalign.config.load import load
from jaxalign.data.groups import PickedGroups, RolledGroups
from jaxalign.errors import Interrupted
from jaxalign.hosts.group import Hosts
from jaxalign.reopen import reopen
from jaxalign.session import Session
from jaxalign.storage.rundir import read_run
from jaxalign.training import scored
from jaxalign.training.logps import Scorer
from jaxalign.training.packed import Packed
from jaxalign.training.pair_scores import PairScorer
from jaxalign.training.scored import ReferenceLogps, Scored, Table
from jaxalign.types import Groups, Rollouts

SHORT = ("--placement.score_batch_size", "8", "--fit.evaluate_every", "none", "--fit.keep", "last")


@dataclasses.dataclass
class Batches:
    """The groups at which batches of a scorer began, all of them or until it breaks."""

    began: list[int] = dataclasses.field(default_factory=list)
    breaks_after: int | None = None

    def watch(self, patch: pytest.MonkeyPatch, kind: type = Scorer, name: str = "batches") -> None:
        whole = getattr(kind, name)

        def batches(scorer, *arguments):
            first = int(arguments[-1].sum()) if isinstance(arguments[-1], np.ndarray) else 0
            for number, found in enumerate(whole(scorer, *arguments)):
                if len(self.began) == self.breaks_after:
                    raise KeyboardInterrupt
                self.began.append(first + number * scorer.batch_size)
                yield found

        patch.setattr(kind, name, batches)


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
        with pytest.raises(Interrupted, match="stopped after 24 groups scored by policy 0"):
            run_here(dpo(*SHORT), tmp_path / "run", lambda: len(stopped.began) == 3)
    with monkeypatch.context() as patch:
        again.watch(patch)
        run_here(dpo(*SHORT), tmp_path / "run")
    assert (stopped.began, again.began) == ([0, 8, 16], [24, 32, 40, 48])
    np.testing.assert_array_equal(references(tmp_path / "run").sums, references(whole).sums)


def test_anchors_of_heldout_pairs_are_scored_once(tmp_path, monkeypatch, whole):
    """Fourteen pairs in two batches, a part each: killed in the second, the first is not scored again."""
    monkeypatch.setattr(scored, "BATCHES", 1)
    killed, again = Batches(breaks_after=1), Batches()
    with monkeypatch.context() as patch:
        killed.watch(patch, PairScorer, "sums")
        with pytest.raises(KeyboardInterrupt):
            run_here(dpo(*SHORT), tmp_path / "run")
    with monkeypatch.context() as patch:
        again.watch(patch, PairScorer, "sums")
        run_here(dpo(*SHORT), tmp_path / "run")
    assert (killed.began, again.began) == ([0], [8])
    anchors = [read_run(run).load("initial", "heldout_anchor", ReferenceLogps) for run in (tmp_path / "run", whole)]
    np.testing.assert_array_equal(anchors[0].sums, anchors[1].sums)
    assert anchors[0].sums.shape == (1, 14, 2)
    assert not list((tmp_path / "run" / "initial").glob("*.parts"))


def test_answers_that_are_certified_are_scored_once(tmp_path, monkeypatch):
    """Killed when all three answers of the second iteration have been scored under its anchor, the base policy."""
    game = dataclasses.replace(load(CONFIGS / "games" / "three_action.py"), iterations=3, swap_every=2)
    began, whole_metrics = list[int](), certify.inner_metrics
    batches = Scorer.batches

    def watched(scorer, params, groups, plan, known):
        began.extend([int(known.sum())] * (groups.responses == 3))
        return batches(scorer, params, groups, plan, known)

    def killed(games, *arguments):
        if len(began) == 1:
            raise KeyboardInterrupt
        return whole_metrics(games, *arguments)

    monkeypatch.setattr(Scorer, "batches", watched)
    with monkeypatch.context() as patch:
        patch.setattr(certify, "inner_metrics", killed)
        with pytest.raises(KeyboardInterrupt):
            run_here(game, tmp_path / "run")
    assert read_run(tmp_path / "run").has(1, "answers")
    run_here(game, tmp_path / "run")
    assert began == [0]
    run_here(game, tmp_path / "whole")
    found = [read_run(tmp_path / name).load(1, "certificates", dict[str, float]) for name in ("run", "whole")]
    assert found[0] == found[1]


def test_the_anchor_reads_each_answer_once(tmp_path, monkeypatch):
    """For certificates and for references, and what it makes of the groups is what it makes of them alone."""
    game = load(CONFIGS / "games" / "three_action.py")
    feedback = dataclasses.replace(game.feedback, prompts_per_iteration=2, unseen=1 / 2)
    game = dataclasses.replace(game, iterations=3, swap_every=2, feedback=feedback)
    asked, logps = list[tuple[object, str, int]](), Session.logps

    def watched(session, iteration, phase, number, params, groups):
        asked.append((iteration, phase, number))
        return logps(session, iteration, phase, number, params, groups)

    monkeypatch.setattr(Session, "logps", watched)
    run_here(game, tmp_path)
    assert [each for each in asked if each[0] == 1 and each[2] == 0] == [(1, "answers", 0)]
    opened = reopen(tmp_path)
    groups = RolledGroups(opened.directory.load(1, "rollouts", Rollouts), opened.directory.load(1, "groups", Groups))
    fitted = PickedGroups(groups, np.flatnonzero(groups.prompts == 0))
    alone = opened.machine().scorer.groups(policy(tmp_path, 0), fitted)
    stored = opened.directory.load(1, "references", ReferenceLogps).columns()["anchor"]
    np.testing.assert_allclose(stored, alone, rtol=1e-6, atol=1e-6)


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
    assert (first.known.sum(), second.known.sum()) == (4, 1)
    np.testing.assert_array_equal(first.sums[:, 0], [0, 1, 2, 3, 0])
    np.testing.assert_array_equal(second.sums[:, 1], [10, 0, 0, 0, 0])


def test_scoring_goes_on_with_other_batches():
    """Stopped with one row at a time and continued with four: `Packed` rows are other ones then, and still every group
    is scored."""
    parts = list[tuple[Scored, ...]]()

    class Kept:
        hosts = Hosts()

        def kept(self, kind):
            return list(parts)

        def put(self, k, value, kind):
            parts.append((value,))
            return parts[k]

    rng = np.random.default_rng(0)
    asked = rng.integers(0, 7, 40).tolist()
    groups = RolledGroups(made_groups.rollouts(7, 4), made_groups.groups(asked, [[k % 4, 3 - k % 4] for k in asked]))

    def batches(size, known):
        for rows, _ in Packed(40).passes(groups, size).batches(size, known):
            numbers = rows[rows >= 0]
            yield numbers, np.stack([numbers, numbers], 1).astype(np.float32)

    with pytest.raises(Interrupted):
        Table(0, groups, Kept()).fill(partial(batches, 1), lambda done: None, lambda: True)
    told = list[int]()
    found = Table(0, groups, Kept()).fill(partial(batches, 4), told.append, lambda: False)
    np.testing.assert_array_equal(found[:, 0], np.arange(40))
    assert told[-1] == 40
