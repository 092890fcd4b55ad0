"""Rollout engines: what is drawn does not depend on the engine, and one of a config file works in a run."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from made_engines import KEY, SPEC, few
from made_examples import examples
from made_feedback import fed
from made_models import ONE, tiny
from made_rollouts import CLOSE, PROMPTS, assert_same_answers
from made_runs import CONFIGS, run_here

from jaxalign import rollouts as package
from jaxalign.config.load import load, validate
from jaxalign.errors import ConfigError, Interrupted
from jaxalign.models.tabular import TabularPolicy
from jaxalign.rollouts import seam
from jaxalign.rollouts.contract import Roller, Rollout, RolloutEngine
from jaxalign.rollouts.lockstep import LockstepDrawer
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.samplers import Greedy
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
        self.generate = jax.jit(partial(generate, model, task))

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


@pytest.fixture(scope="module", params=["own", *ENGINES])
def roller(request, model, own) -> Roller:
    """Of two prompts together, by an engine."""
    engine = ENGINES.get(request.param) or load(own).feedback.rollout.engine
    return dataclasses.replace(SPEC, engine=engine).on(model, ONE, rows=4)


def test_engines_keep_the_contract_and_draw_the_same(roller, model, params):
    assert isinstance(roller, Roller)
    truth = seam.rolled(SPEC.on(model, ONE, rows=10), params, PROMPTS, KEY)
    found = seam.rolled(roller, params, PROMPTS, KEY)
    assert_same_answers(found, truth)


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


@pytest.mark.slow
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
