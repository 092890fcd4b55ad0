"""Rollout engines: what is drawn does not depend on the engine, one of a config file works, a broken one is refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from made_broken import changed
from made_examples import examples
from made_feedback import fed
from made_models import ONE, tiny
from made_rollouts import CLOSE, PROMPTS
from made_runs import CONFIGS, run_here

from jaxalign import rollouts as package
from jaxalign.config.load import load, override, validate
from jaxalign.errors import BrokenContract, ConfigError, Interrupted
from jaxalign.experiment import Experiment
from jaxalign.models.tabular import TabularPolicy
from jaxalign.rollouts import seam
from jaxalign.rollouts.contract import Bounds, Drawer, Drawn, Roller, Rollout, RolloutEngine
from jaxalign.rollouts.lockstep import Lockstep, LockstepDrawer
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.samplers import Greedy
from jaxalign.rollouts.shares import Share
from jaxalign.storage.rundir import read_run
from jaxalign.types import Rollouts

OWN = '''"""tiny_lm with a rollout of its own, and an engine of its own: prompt after prompt, the last one first."""

import dataclasses
from functools import partial

import jax
import numpy as np

from jaxalign.config.load import load
from jaxalign.rollouts.contract import Drawn
from jaxalign.rollouts.lockstep import generate
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.samplers import Greedy

tiny_lm = load({config!r})


@dataclasses.dataclass(frozen=True)
class OneByOne:
    """One prompt at a time."""

    def open(self, task, model, mesh, options, rows):
        return Opened(task, model)


class Opened:
    def __init__(self, task, model):
        self.generate = jax.jit(partial(generate, model, task.sampler, task.stop, task.samples, task.limit))

    def __call__(self, params, prompts, wanted, key):
        for number in reversed(wanted.tolist()):
            ids = np.array([prompts[number]], np.int32)
            keys = jax.vmap(partial(jax.random.fold_in, key))(np.array([number]))
            drawn = self.generate(params, ids, np.array([ids.shape[1]], np.int32), keys)
            yield Drawn(np.array([number]), *map(np.asarray, drawn))

    def programs(self, params, prompt):
        return ()

    def calls(self, prompts):
        return {{}}


@dataclasses.dataclass(frozen=True)
class Greedily:
    """The likeliest answer, of at most `tokens` tokens."""

    tokens: int

    def sample(self):
        return Sample(samples=1, max_tokens=self.tokens, sampler=Greedy(), engine=OneByOne())

    def bounds(self, model):
        return self.sample().bounds(model)

    def unpaired(self):
        yield "there is one likeliest answer"

    def on(self, model, mesh, options, rows):
        return self.sample().on(model, mesh, options, rows)


experiment = dataclasses.replace(
    tiny_lm,
    feedback=dataclasses.replace(
        tiny_lm.feedback, rollout=dataclasses.replace(tiny_lm.feedback.rollout, engine=OneByOne())
    ),
    evaluation=dataclasses.replace(tiny_lm.evaluation, rollout=Greedily(tokens=4)),
)
'''
FEW = (
    *(
        "--iterations",
        "1",
        "--swap_every",
        "none",
        "--feedback.prompts_per_iteration",
        "4",
        "--evaluation.prompts.limit",
        "2",
    ),
    *("--feedback.rollout.samples", "3", "--feedback.rollout.max_tokens", "4", "--fit.batch_size", "8"),
    *("--placement.rollout_rows", "12", "--placement.mesh.fsdp", "1"),
)


def few(*overrides: str, file: Path = CONFIGS / "tiny_lm.py") -> Experiment:
    """One iteration of four prompts with three samples each, and two held-out prompts, on one device."""
    return override(override(load(file), FEW), overrides)


ENGINES = examples(package, RolloutEngine, least=1)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A config file with an engine of its own."""
    file = tmp_path_factory.mktemp("own") / "own.py"
    file.write_text(OWN.format(config=str(CONFIGS / "tiny_lm.py")))
    return file


# ----------------------------------------------------------------------------------------------------------------------
# Every engine


def test_every_rollout_of_the_package_has_an_example_that_says_what_it_asks():
    for rollout in examples(package, Rollout, least=2).values():
        table = TabularPolicy((0.2, 0.5, 0.3)).open()
        bounds = rollout.bounds(table)
        assert bounds == rollout.on(table, ONE, None, 8).bounds
        assert (min(bounds.samples, bounds.response) >= 1, bounds.vocab) == (True, 3)
        assert list(rollout.unpaired()) == []


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def params(model):
    return model.load()


SPEC = Sample(samples=2, max_tokens=4)
KEY = jax.random.key(7)


@pytest.fixture(scope="module", params=["own", *ENGINES])
def roller(request, model, own) -> Roller:
    """Of two prompts together, by an engine."""
    engine = ENGINES.get(request.param) or load(own).feedback.rollout.engine
    return dataclasses.replace(SPEC, engine=engine).on(model, ONE, rows=4)


def test_engines_keep_the_contract_and_draw_the_same(roller, model, params):
    assert isinstance(roller, Roller)
    truth = seam.rolled(SPEC.on(model, ONE, rows=10), params, PROMPTS, KEY)
    found = seam.rolled(roller, params, PROMPTS, KEY)
    for field in dataclasses.fields(Rollouts):
        if field.name == "logps":
            np.testing.assert_allclose(found.logps, truth.logps, **CLOSE)
        else:
            np.testing.assert_array_equal(getattr(found, field.name), getattr(truth, field.name), err_msg=field.name)


def test_engines_leave_out_what_is_not_wanted_and_do_not_look_ahead(roller, params):
    stream = roller(params, PROMPTS, np.array([4, 1]), KEY)
    found = [number for share in stream for number in share.numbers.tolist()]
    assert sorted(found) == [1, 4]
    assert list(roller({}, PROMPTS, np.zeros(0, np.int64), KEY)) == []


def test_engines_count_calls_of_the_programs_they_name(roller, params, model):
    place = jax.sharding.NamedSharding(ONE, jax.sharding.PartitionSpec())
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), model.abstract())
    names = [program.name for program in roller.programs(abstract, 20)]
    assert sorted(names) == sorted(roller.calls(5))
    assert all(count >= 1 for count in roller.calls(5).values())


# ----------------------------------------------------------------------------------------------------------------------
# An engine of a config file, through a run


def test_a_run_by_an_engine_and_a_rollout_of_the_config_file_answers_as_those_of_the_package(own, tmp_path):
    packaged = few()
    heldout = dataclasses.replace(packaged.evaluation, rollout=Sample(1, 4, Greedy()))
    run_here(dataclasses.replace(packaged, evaluation=heldout), tmp_path / "packaged")
    run_here(few(file=own), tmp_path / "own")
    for place, phase in (("initial", "heldout"), (0, "rollouts")):
        ours, theirs = (read_run(tmp_path / name).load(place, phase, Rollouts) for name in ("own", "packaged"))
        assert ours.texts == theirs.texts
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)
        np.testing.assert_allclose(ours.logps, theirs.logps, **CLOSE)
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    assert config["feedback"]["rollout"]["engine"] == {"type": "own:OneByOne"}
    assert config["evaluation"]["rollout"] == {"type": "own:Greedily", "tokens": 4}


def test_a_rollout_that_gives_no_pairs_is_refused_where_pairs_are_trained_on(own):
    experiment = load(own)
    validate(experiment)
    with pytest.raises(ConfigError, match=r"rollout\.there is one likeliest answer"):
        validate(fed(experiment, rollout=experiment.evaluation.rollout))


def test_a_run_stopped_between_pieces_goes_on_under_another_mesh_with_what_is_left(tmp_path, monkeypatch):
    """Four prompts, three samples each, two prompts a piece. Then on two devices all four would be one piece."""
    pieces = []
    draw = LockstepDrawer._draw

    def counted(self, params, prompts, numbers, wanted, *rest):
        if len(prompts) == 4:  # those of the iteration, not the held-out ones
            pieces.append((numbers.tolist(), wanted.tolist()))
        return draw(self, params, prompts, numbers, wanted, *rest)

    monkeypatch.setattr(LockstepDrawer, "_draw", counted)
    first = tmp_path / "stopped" / "0000" / "rollouts.parts" / "00000"
    with pytest.raises(Interrupted, match="after 2 prompts of rollouts"):
        run_here(few("--placement.rollout_rows", "6"), tmp_path / "stopped", lambda: first.exists())
    ((shortest, every),) = pieces
    assert sorted(every) == [0, 1, 2, 3]
    run_here(few("--placement.mesh.fsdp", "2"), tmp_path / "stopped")
    assert len(pieces) == 2
    assert sorted(pieces[1][0]) == [0, 1, 2, 3]
    assert sorted(pieces[1][1]) == sorted({0, 1, 2, 3} - set(shortest))
    monkeypatch.undo()
    run_here(few(), tmp_path / "whole")
    ours, theirs = (read_run(tmp_path / name).load(0, "rollouts", Rollouts) for name in ("stopped", "whole"))
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    np.testing.assert_allclose(ours.logps, theirs.logps, **CLOSE)


def test_what_is_no_engine_is_refused(capsys):
    with pytest.raises(ConfigError, match=r"rollout\.engine: expected a RolloutEngine"):
        validate(fed(few(), rollout=dataclasses.replace(SPEC, engine=TabularPolicy)))


# ----------------------------------------------------------------------------------------------------------------------
# What is broken is refused by name, before it is committed


def drawn() -> Drawn:
    """Good answers to prompts 0 and 2: two each, of at most four tokens, of 259."""
    lengths = np.array([[4, 2], [1, 3]], np.int32)
    real = np.arange(4) < lengths[..., None]
    return Drawn(
        np.array([0, 2]),
        np.where(real, 7, 0).astype(np.int32),
        lengths,
        np.ones((2, 2), bool),
        np.where(real, -1, 0).astype(np.float32),
    )


def put(array: np.ndarray, place: tuple[int, ...], value: Any) -> np.ndarray:
    array = array.copy()
    array[place] = value
    return array


BROKEN: dict[str, Callable[[Drawn], Any]] = {
    "must yield Drawn, got a tuple": lambda good: (good.numbers, good.tokens),
    "prompt 3 is not wanted": lambda good: changed(good, numbers=np.array([0, 3])),
    "prompt -1 is not wanted": lambda good: changed(good, numbers=np.array([0, -1])),
    "the same prompt twice": lambda good: changed(good, numbers=np.array([2, 2])),
    "numbers must be a NumPy array, got a list": lambda good: changed(good, numbers=[0, 2]),
    "tokens must be integer [2, 2, 4], got int32 [2, 2, 5]": lambda good: changed(
        good, tokens=np.ones((2, 2, 5), np.int32)
    ),
    "tokens must be integer [2, 2, 4], got float32": lambda good: changed(good, tokens=good.tokens.astype(np.float32)),
    "tokens must be integer [2, 2, 4], got int32 [1, 2, 4]": lambda good: changed(good, tokens=good.tokens[:1]),
    "tokens[1, 0, 0] is 259, not within [0, 258]": lambda good: changed(good, tokens=put(good.tokens, (1, 0, 0), 259)),
    "tokens[0, 1, 1] is -1": lambda good: changed(good, tokens=put(good.tokens, (0, 1, 1), -1)),
    "lengths[0, 0] is 5, not within [1, 4]": lambda good: changed(good, lengths=put(good.lengths, (0, 0), 5)),
    "lengths[0, 1] is 0": lambda good: changed(good, lengths=put(good.lengths, (0, 1), 0)),
    "finished must be bool [2, 2], got int32": lambda good: changed(good, finished=good.lengths),
    "logps[0, 0, 0] is nan": lambda good: changed(good, logps=put(good.logps, (0, 0, 0), np.nan)),
    "must be 0 behind the end": lambda good: changed(good, tokens=put(good.tokens, (1, 0, 3), 5)),
}


@dataclasses.dataclass(frozen=True)
class Says:
    """An engine that yields what it is given, whatever is wanted."""

    pieces: tuple[Any, ...]

    def open(self, *_: Any) -> Drawer:
        return self

    def __call__(self, *_: Any) -> Any:
        yield from self.pieces

    def programs(self, *_: Any) -> tuple[()]:
        return ()

    def calls(self, *_: Any) -> dict[str, int]:
        return {}


def says(*pieces: Any) -> Roller:
    return dataclasses.replace(SPEC, engine=Says(pieces)).on(tiny(), ONE, rows=4)


@pytest.mark.parametrize("sentence", BROKEN)
def test_draws_that_were_not_asked_for_are_refused_by_the_engines_name(sentence):
    with pytest.raises(BrokenContract) as refused:
        list(seam.checked(says(BROKEN[sentence](drawn())), {}, PROMPTS, np.array([0, 2]), KEY))
    assert str(refused.value).startswith("rollout engine Says: ")
    assert sentence in str(refused.value)


def test_good_draws_pass_and_become_texts():
    (share,) = seam.checked(says(drawn()), {}, PROMPTS, np.array([0, 2]), KEY)
    assert share.rollouts.prompts == (PROMPTS[0], PROMPTS[2])
    assert len(share.rollouts.texts[0]) == 2


def test_prompts_answered_twice_or_never_are_refused():
    with pytest.raises(BrokenContract, match="prompt 0 is not wanted, or was answered before"):
        list(seam.checked(says(drawn(), drawn()), {}, PROMPTS, np.array([0, 2]), KEY))
    with pytest.raises(BrokenContract, match="prompt 1 is answered 0 times"):
        seam.rolled(says(drawn()), {}, PROMPTS[:3], KEY)
    share = next(seam.checked(says(drawn()), {}, PROMPTS, np.array([0, 2]), KEY))
    with pytest.raises(BrokenContract, match="prompt 2 is answered 2 times"):
        seam.refuse_gaps(says(), [share, Share(np.array([1, 2]), share.rollouts)], 3)


BROKEN_SHARES: dict[str, Callable[[Share], Any]] = {
    "must yield Shares, got a Rollouts": lambda good: good.rollouts,
    "prompts are not those of their numbers": lambda good: changed(good, numbers=np.array([2, 0])),
    "texts must be [2, 2]": lambda good: changed(
        good, rollouts=dataclasses.replace(good.rollouts, texts=(("a",), ("b",)))
    ),
    "weights of a prompt's answers must be at least 0 and sum to 1": lambda good: changed(
        good, rollouts=dataclasses.replace(good.rollouts, weights=np.ones((2, 2), np.float32))
    ),
    "tokens[0, 0, 0] is 300": lambda good: changed(
        good, rollouts=dataclasses.replace(good.rollouts, tokens=put(good.rollouts.tokens, (0, 0, 0), 300))
    ),
    "lengths must be integer [2, 2], got int32 [2, 1]": lambda good: changed(
        good, rollouts=changed(good.rollouts, lengths=good.rollouts.lengths[:, :1])
    ),
}


@dataclasses.dataclass(frozen=True)
class Tells:
    """A rollout that yields what it is given."""

    share: Any
    bounds: Bounds

    def check(self, prompts: Any) -> None: ...

    def __call__(self, *_: Any) -> Any:
        yield self.share

    def programs(self, *_: Any) -> tuple[()]:
        return ()

    def calls(self, *_: Any) -> dict[str, int]:
        return {}


@pytest.mark.parametrize("sentence", BROKEN_SHARES)
def test_shares_that_were_not_asked_for_are_refused_by_the_rollouts_name(sentence):
    good = next(seam.checked(says(drawn()), {}, PROMPTS, np.array([0, 2]), KEY))
    broken = Tells(BROKEN_SHARES[sentence](good), says().bounds)
    with pytest.raises(BrokenContract) as refused:
        seam.rolled(broken, {}, PROMPTS, KEY)
    assert str(refused.value).startswith("rollout Tells: ")
    assert sentence in str(refused.value)


@dataclasses.dataclass(frozen=True)
class Beyond:
    """Lockstep, whose tokens are none of the vocabulary."""

    def open(self, *given: Any) -> Any:
        draw = Lockstep().open(*given)
        return lambda *asked: (changed(drawn, tokens=drawn.tokens + 1000) for drawn in draw(*asked))


def test_nothing_of_a_broken_engine_is_committed(tmp_path):
    experiment = few()
    broken = fed(experiment, rollout=dataclasses.replace(experiment.feedback.rollout, engine=Beyond()))
    with pytest.raises(BrokenContract, match=r"rollout engine Beyond: tokens\[0, 0, 0\] is 1\d\d\d, not within"):
        run_here(broken, tmp_path)
    assert (tmp_path / "initial" / "heldout").exists()
    assert not list((tmp_path / "0000").glob("rollouts*"))


@dataclasses.dataclass(frozen=True)
class Astray:
    """A sampler whose tokens are none of the vocabulary."""

    shift: int

    def __call__(self, logits: Any, keys: Any) -> Any:
        return Greedy()(logits, keys) + self.shift


@pytest.mark.parametrize("shift", [1000, -1000])
def test_a_sampler_that_leaves_the_vocabulary_is_blamed_itself(tmp_path, shift):
    experiment = few()
    astray = fed(experiment, rollout=dataclasses.replace(experiment.feedback.rollout, sampler=Astray(shift)))
    with pytest.raises(BrokenContract, match=r"^sampler Astray: drew tokens that are none of the vocabulary's \d+$"):
        run_here(astray, tmp_path)
    assert not list((tmp_path / "0000").glob("rollouts*"))
