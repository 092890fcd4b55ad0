"""Judging: in blocks that are committed, by several processes, within the scope of judges that hold weights."""

import contextlib
import dataclasses
import zlib
from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
import made_rollouts
import numpy as np
import pytest
from made_hosts import together
from made_judges import SITE
from made_runs import run_here, tiny_lm

from jaxalign.contracts.scope import Site, opened
from jaxalign.errors import BrokenContract, ConfigError, Interrupted
from jaxalign.hosts.group import Hosts
from jaxalign.judging import judging, note_metrics
from jaxalign.mesh.sharding import replicated
from jaxalign.objectives.weighted_sum import WeightedSum
from jaxalign.oracles.annotators import Brevity, Coverage
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.oracles.population import RankingPopulation
from jaxalign.oracles.tabular import TabularGame
from jaxalign.storage import artifact, rundir
from jaxalign.storage.record import read_metrics
from jaxalign.types import Preferences, Rollouts

CONFIG = {"seed": 0}
KEY = jax.random.key(0)


def said() -> Rollouts:
    texts = [[f"{'word ' * (i + j)}of prompt {i}." for j in range(3)] for i in range(5)]
    return made_rollouts.rollouts(texts, asked=[f"What is prompt {i}?" for i in range(5)])


@dataclasses.dataclass(frozen=True)
class Drawing:
    """An oracle that draws, each prompt's with a key of its own, and notes how many numbers it drew."""

    asked: ClassVar[list[str]] = []

    def __call__(self, rollouts: Rollouts, key: jax.Array) -> Preferences:
        self.asked.extend(prompt.id for prompt in rollouts.prompts)
        samples = rollouts.lengths.shape[1]
        keys = [jax.random.fold_in(key, zlib.crc32(prompt.id.encode())) for prompt in rollouts.prompts]
        drawn = np.stack([np.asarray(jax.random.uniform(each, (samples, samples))) for each in keys])
        prefer = np.float32(0.5) + np.triu(drawn, 1) / 2
        prefer = np.where(np.tri(samples, k=-1, dtype=bool), 1 - prefer.swapaxes(1, 2), prefer)
        notes = {"drawn": np.full(len(keys), samples * samples, np.float32)}
        return Preferences(("luck",), (1.0,), prefer, prefer[:, None], scores=None, notes=notes)


ORACLES = {
    "panel": Panel((Weighted(Brevity()), Weighted(Coverage(), weight=2.0, temperature=0.5))),
    "game": TabularGame(),
    "population": RankingPopulation(rankings=((0, 1, 2), (2, 1, 0), (1, 2, 0)), weights=(0.5, 0.25, 0.25)),
    "drawing": Drawing(),
}


@pytest.mark.parametrize("oracle", ORACLES.values(), ids=list(ORACLES))
@pytest.mark.parametrize("block", [1, 2, 5, 64])
def test_blocks_of_any_size_are_the_judging_of_one_to_the_byte(oracle, block):
    with judging(oracle, SITE, block) as judge:
        assert artifact.encode(judge(said(), KEY)) == artifact.encode(oracle(said(), KEY))


@pytest.mark.parametrize("oracle", ORACLES.values(), ids=list(ORACLES))
@pytest.mark.parametrize(("count", "block"), [(2, 64), (7, 64), (2, 2)])
def test_shared_judging_is_the_judging_of_one_to_the_byte(oracle, count, block, tmp_path):
    """With seven hosts, two of the five prompts' judges have none."""
    alone = oracle(said(), KEY)

    def work(hosts: Hosts):
        with rundir.open_run(tmp_path, CONFIG, hosts) as run:
            with judging(oracle, SITE, block, run.parts(0, "preferences")) as judge:
                first, second = judge(said(), KEY), judge(said(), KEY)
            with judging(oracle, SITE, block, run.parts(0, "preferences")) as judge:
                return first, second, judge(said(), KEY)

    for found in together(count, work):
        for preferences in found:
            assert artifact.encode(preferences) == artifact.encode(alone)


# ----------------------------------------------------------------------------------------------------------------------
# Stopped and continued


def stop_after(count: int):
    """Raises Interrupted after block number `count`."""
    blocks = []

    def between(done: int) -> None:
        blocks.append(done)
        if len(blocks) == count:
            raise Interrupted(f"stopped after {done}")

    return between


@pytest.mark.parametrize("blocks", [(2, 2), (2, 1), (1, 64)])
def test_stopped_judging_goes_on_where_it_stopped_and_asks_nothing_twice(blocks, tmp_path):
    """Blocks may have another size after the stop; of two calls in a phase the second is stopped."""
    Drawing.asked.clear()
    other = dataclasses.replace(said(), texts=said().texts[::-1])
    with rundir.open_run(tmp_path, CONFIG) as run:
        parts = run.parts(0, "evals")
        first = -(-5 // blocks[0])
        with judging(Drawing(), SITE, blocks[0], parts, between=stop_after(first + 1)) as judge:
            judge(said(), KEY)
            with pytest.raises(Interrupted):
                judge(other, KEY)
        assert len(Drawing.asked) == 5 + blocks[0]
        with judging(Drawing(), SITE, blocks[1], parts) as judge:
            found = judge(said(), KEY), judge(other, KEY)
    assert sorted(Drawing.asked) == sorted(2 * [f"p{number}" for number in range(5)])
    for preferences, rollouts in zip(found, (said(), other), strict=True):
        assert artifact.encode(preferences) == artifact.encode(Drawing()(rollouts, KEY))


def test_progress_counts_what_was_judged_before(tmp_path):
    shown = []

    @contextlib.contextmanager
    def progress(total: int, start: int):
        shown.append((total, start))
        yield shown.append

    with rundir.open_run(tmp_path, CONFIG) as run:
        for between in (stop_after(1), lambda done: None):
            with (
                contextlib.suppress(Interrupted),
                judging(
                    TabularGame(), SITE, 2, run.parts(0, "preferences"), progress=progress, between=between
                ) as judge,
            ):
                judge(said(), KEY)
    assert shown == [(5, 0), 2, (5, 2), 4, 5]


def test_a_run_stopped_within_its_judging_ends_with_the_same_bits(tmp_path):
    whole = tiny_lm("--placement.judge_block_size", "2")
    summary = run_here(whole, tmp_path / "whole")
    places = ("initial/evals.parts/00001", "0000/preferences.parts/00002", "0001/win_rates.parts/00000")
    for place in places:
        with pytest.raises(Interrupted, match=r"stopped after [24681] prompts of"):
            run_here(whole, tmp_path / "stopped", lambda place=place: (tmp_path / "stopped" / place).exists())
    again = run_here(whole, tmp_path / "stopped")
    for name in ("seconds", "peak_memory_gib"):
        del summary[name], again[name]
    assert summary == again
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "stopped")


# ----------------------------------------------------------------------------------------------------------------------
# Scopes


@dataclasses.dataclass(frozen=True)
class Heavy:
    """An oracle with a weight that is on the mesh within its scope; says how many of these there are."""

    names: ClassVar[tuple[str, ...]] = ("heavy",)
    open_now: ClassVar[list[jax.Array]] = []

    @contextlib.contextmanager
    def open(self, site: Site) -> Iterator["Opened"]:
        weight = jax.device_put(jnp.ones(7), replicated(site.mesh))
        self.open_now.append(weight)
        try:
            yield Opened()
        finally:
            self.open_now.remove(weight)
            weight.delete()


@dataclasses.dataclass(frozen=True)
class Opened:
    def __call__(self, rollouts: Rollouts, key: jax.Array) -> Preferences:
        assert len(Heavy.open_now) == 1
        found = TabularGame()(dataclasses.replace(rollouts, tokens=rollouts.tokens % 3), key)
        counted = np.ones(len(rollouts.prompts), np.float32)
        return dataclasses.replace(found, annotators=Heavy.names, notes={"asked": 3 * counted, "lost": counted})


def test_what_an_oracle_holds_it_holds_within_its_scope():
    before = len(jax.live_arrays())
    with opened(Heavy(), SITE) as judge:
        assert len(jax.live_arrays()) == before + 1
        judge(said(), KEY)
    assert len(jax.live_arrays()) == before
    with pytest.raises(RuntimeError, match="on purpose"), opened(Heavy(), SITE):
        raise RuntimeError("on purpose")
    assert len(jax.live_arrays()) == before
    game = TabularGame()
    with opened(game, SITE) as judge:
        assert judge is game


def test_a_run_opens_its_oracle_to_judge_and_logs_what_it_notes(tmp_path):
    experiment = tiny_lm("--iterations", "1", "--swap_every", "none")
    experiment = dataclasses.replace(experiment, feedback=dataclasses.replace(experiment.feedback, oracle=Heavy()))
    run_here(experiment, tmp_path)
    assert Heavy.open_now == []
    lines = {(line["iteration"], line["phase"]): line for line in read_metrics(tmp_path)}
    for place in ((0, "align"), ("initial", "evals"), (0, "evals")):
        assert lines[place]["judge/asked"] == 3.0
        assert lines[place]["judge/lost"] == 1.0


def test_objectives_are_counted_before_anything_is_computed(tmp_path):
    experiment = dataclasses.replace(tiny_lm(), combiner=WeightedSum((1.0,) * 9))
    with pytest.raises(ConfigError, match=r"combiner: has 9 objectives, and oracle Panel \d annotators: "):
        run_here(experiment, tmp_path)
    assert not (tmp_path / "initial").exists()


# ----------------------------------------------------------------------------------------------------------------------
# Notes


def noted(**notes: float) -> Preferences:
    found = TabularGame()(made_rollouts.rollouts([list("abc")]), KEY)
    return dataclasses.replace(found, notes={name: np.float32([count]) for name, count in notes.items()})


def test_notes_are_told_by_comparison_where_these_are_counted_and_else_by_prompt():
    both = [noted(comparisons=3, unparsed=1, **{"rm/truncated": 1}), noted(comparisons=1, unparsed=1)]
    assert note_metrics(both) == {"judge/comparisons": 2.0, "judge/unparsed": 0.5, "judge/rm/truncated": 0.5}
    own = {"llm/comparisons": 4.0, "llm/unparsed": 3.0}
    assert note_metrics([noted(**own)]) == {"judge/llm/comparisons": 4.0, "judge/llm/unparsed": 0.75}
    assert note_metrics([noted(comparisons=0, unparsed=0)]) == {"judge/comparisons": 0.0, "judge/unparsed": 0.0}
    assert note_metrics([noted()]) == {}


@dataclasses.dataclass(frozen=True)
class Changing:
    """An oracle that notes what is special of prompt p0, and calls itself what `who` says."""

    who: str

    def __call__(self, rollouts: Rollouts, key: jax.Array) -> Preferences:
        found = TabularGame()(rollouts, key)
        names = [prompt.id for prompt in rollouts.prompts]
        special = {"special": np.float32([name == "p0" for name in names])} if "p0" in names else {}
        return dataclasses.replace(found, annotators=(self.who.format(names[0]),), notes=special)


def test_a_note_that_a_block_lacks_is_none_there_and_annotators_stay_who_they_are():
    with judging(Changing("me"), SITE, 2) as judge:
        np.testing.assert_array_equal(judge(said(), KEY).notes["special"], [1, 0, 0, 0, 0])
    with (
        judging(Changing("{}"), SITE, 2) as judge,
        pytest.raises(BrokenContract, match=r"oracle Changing: answers must be of one kind .*'p0'.* and .*'p2'"),
    ):
        judge(said(), KEY)
