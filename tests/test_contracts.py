"""Components that break their contracts are refused by name, before anything is made of what they returned."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_broken import Optimizer, changed, put
from made_rollouts import preferences, random_prefer, rollouts

from jaxalign.contracts.combiner import check_coefficients
from jaxalign.contracts.evals import merged
from jaxalign.contracts.oracle import checked
from jaxalign.contracts.pairing import CheckedPairing
from jaxalign.contracts.traced import built, check_loss, check_sampler
from jaxalign.errors import BrokenContract, ConfigError, DataError
from jaxalign.losses.bmc import BMC
from jaxalign.losses.dpo import DPO
from jaxalign.losses.sppo import SPPO
from jaxalign.objectives.mixed import Mixed
from jaxalign.objectives.weighted_sum import WeightedSum
from jaxalign.pairs import AllPairs
from jaxalign.rollouts.samplers import Temperature
from jaxalign.types import Groups, Labels, Preferences

GIVEN = rollouts([list("abc"), list("ade")])
KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class Mine:
    """A user's component, whatever it is called with."""

    answer: Any

    def __call__(self, *args: Any) -> Any:
        return self.answer


# ----------------------------------------------------------------------------------------------------------------------
# Oracles


def judged() -> Preferences:
    return dataclasses.replace(
        preferences(random_prefer(np.random.default_rng(0), 2, 3)), scores=np.zeros((2, 1, 3), np.float32)
    )


BROKEN_ORACLES: dict[str, Callable[[Preferences], Any]] = {
    "must answer with Preferences, got float32 [2, 3, 3]": lambda found: found.prefer,
    "must answer with Preferences, got a tuple": lambda found: (found,),
    "prefer: P(0 ≻ 1) of the answers to prompt 'p1' is 1.7": lambda found: changed(
        found, prefer=put(found.prefer, (1, 0, 1), 1.7)
    ),
    "prefer[0, 2, 1] is nan": lambda found: changed(found, prefer=put(found.prefer, (0, 2, 1), np.nan)),
    "P(1 ≻ 1) of the answers to prompt 'p0' is 0.75: an answer against itself": lambda found: changed(
        found, prefer=put(found.prefer, (0, 1, 1), 0.75)
    ),
    "they must sum to 1": lambda found: changed(
        found, prefer=np.full((2, 3, 3), 0.7, np.float32) - 0.2 * np.eye(3, dtype=np.float32)
    ),
    "annotator 'one': P(0 ≻ 1)": lambda found: changed(found, by_annotator=put(found.by_annotator, (0, 0, 0, 1), 1.7)),
    "prefer must be floating [2, 3, 3], got float32 [1, 3, 3]": lambda found: changed(found, prefer=found.prefer[:1]),
    "prefer must be floating [2, 3, 3], got int64 [2, 3, 3]": lambda found: changed(
        found, prefer=np.ones((2, 3, 3), np.int64)
    ),
    "by_annotator must be floating [2, 1, 3, 3], got float32 [2, 3, 3]": lambda found: changed(
        found, by_annotator=found.prefer
    ),
    "scores must be floating [2, 1, 3], got float32 [2, 3]": lambda found: changed(found, scores=found.scores[:, 0]),
    "scores[1, 0, 2] is inf": lambda found: changed(found, scores=put(found.scores, (1, 0, 2), np.inf)),
    "prefer must be a NumPy array, got a list": lambda found: changed(found, prefer=found.prefer.tolist()),
    "there are 1 annotators and 2 weights": lambda found: changed(found, weights=(0.5, 0.5)),
    "weights must be at least 0 and sum to 1, got (2.0,)": lambda found: changed(found, weights=(2.0,)),
    "different names, one at least, got ()": lambda found: changed(found, annotators=(), weights=()),
    "annotators must be a tuple of different names, one at least, got 'one'": lambda found: changed(
        found, annotators="one", weights=(0.5, 0.25, 0.25)
    ),
    "one at least, got (1,)": lambda found: changed(found, annotators=(1,)),
    "notes must be a dict of arrays by name, got None": lambda found: changed(found, notes=None),
    "notes['unparsed'] must be float32 [2], got float32 [3]": lambda found: changed(
        found, notes={"unparsed": np.zeros(3, np.float32)}
    ),
    "notes['unparsed'][1] is nan": lambda found: changed(found, notes={"unparsed": np.array([0, np.nan], np.float32)}),
}


@pytest.mark.parametrize("sentence", BROKEN_ORACLES)
def test_an_oracle_that_answers_nonsense_is_refused_by_name(sentence):
    with pytest.raises(BrokenContract) as refused:
        checked(BROKEN_ORACLES[sentence](judged()), GIVEN, "Mine")
    assert str(refused.value).startswith("oracle Mine: ")
    assert sentence in str(refused.value)


def test_an_answer_within_rounding_passes_as_it_is():
    found = judged()
    noisy = dataclasses.replace(found, prefer=found.prefer + np.float32(2e-6) * (found.prefer < 0.9))
    for answer in (found, noisy, dataclasses.replace(found, scores=None)):
        assert checked(answer, GIVEN, "Mine") is answer


# ----------------------------------------------------------------------------------------------------------------------
# Pairings


def grouped() -> Groups:
    return AllPairs()(GIVEN, judged(), KEY)


def with_labels(found: Groups, **changes: Any) -> Groups:
    return changed(found, labels=changed(found.labels, **changes))


BROKEN_PAIRINGS: dict[str, Callable[[Groups], Any]] = {
    "must make Groups, got a list": lambda found: [found],
    "responses must be [groups, 2], got int32 [6, 1]": lambda found: changed(found, responses=found.responses[:, :1]),
    "responses must be [groups, 2], got a list": lambda found: changed(found, responses=found.responses.tolist()),
    "labels must be Labels, got a NoneType": lambda found: changed(found, labels=None),
    "prompt must be a NumPy array, got a list": lambda found: changed(found, prompt=found.prompt.tolist()),
    "prompt must be integer [6], got float64 [6]": lambda found: changed(found, prompt=found.prompt * 1.0),
    "prompt[5] is 2, not within [0, 1]": lambda found: changed(found, prompt=put(found.prompt, (5,), 2)),
    "responses[1, 0] is -1, not within [0, 2]": lambda found: changed(
        found, responses=put(found.responses, (1, 0), -1)
    ),
    "weight must be float32 [6], got float32 [5]": lambda found: changed(found, weight=found.weight[1:]),
    "weight[3] is nan": lambda found: changed(found, weight=put(found.weight, (3,), np.nan)),
    "weight[3] is -1.0": lambda found: changed(found, weight=put(found.weight, (3,), -1)),
    "labels.prefer[0] is 1.5": lambda found: with_labels(found, prefer=put(found.labels.prefer, (0,), 1.5)),
    "labels.prefer must be float32 [6], got float64 [6]": lambda found: with_labels(
        found, prefer=found.labels.prefer.astype(np.float64)
    ),
    "labels.win[0, 1] is -0.5": lambda found: with_labels(found, win=put(found.labels.win, (0, 1), -0.5)),
    "labels.score[0, 1] is nan": lambda found: with_labels(found, score=put(found.labels.score, (0, 1), np.nan)),
    "labels.votes must be float32 [6, 1], got float32 [6, 2]": lambda found: with_labels(
        found, votes=np.tile(found.labels.votes, (1, 2))
    ),
    "labels.decided[2, 0] is 3.0": lambda found: with_labels(found, decided=put(found.labels.decided, (2, 0), 3)),
}


@pytest.mark.parametrize("sentence", BROKEN_PAIRINGS)
def test_a_pairing_of_what_is_not_there_is_refused_by_name(sentence):
    with pytest.raises(BrokenContract) as refused:
        CheckedPairing(Mine(BROKEN_PAIRINGS[sentence](grouped())))(GIVEN, judged(), KEY)
    assert str(refused.value).startswith("pairing Mine: ")
    assert sentence in str(refused.value)


def test_groups_that_keep_the_contract_pass_as_they_are_none_at_all_too():
    groups = grouped()
    for answer in (groups, jax.tree.map(lambda rows: rows[:0], groups), with_labels(groups, win=None, score=None)):
        assert CheckedPairing(Mine(answer))(GIVEN, judged(), KEY) is answer


# ----------------------------------------------------------------------------------------------------------------------
# Losses and samplers


@dataclasses.dataclass(frozen=True)
class Loss:
    change: Callable[[jax.Array], Any]

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def __call__(self, logps):
        return self.change(DPO()(logps))


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (jnp.mean, "float32 []"),
        (lambda values: values[:, None], "float32 [2, 1]"),
        (lambda values: values.astype(jnp.bfloat16), "bfloat16 [2]"),
        (lambda values: (values, {}), "a tuple"),
        (lambda values: 0.0, "a float"),
        (lambda values: np.zeros(2, np.float32), "a NumPy array"),
    ],
)
def test_a_loss_of_another_shape_is_refused_before_it_is_compiled(change, got):
    with pytest.raises(BrokenContract) as refused:
        check_loss(Loss(change), Mixed(), Labels.unsaid(2, 2))
    assert str(refused.value) == f"loss Loss: must return one value a group, float32 [2], got {got}"


def test_a_loss_that_needs_what_there_is_not_is_refused_by_name():
    misspelt = type("Misspelt", (Loss,), {"needs": ("lst", "anchor")})
    with pytest.raises(BrokenContract, match="loss Misspelt: needs lst; there are last, anchor"):
        check_loss(misspelt(jnp.abs), Mixed(), Labels.unsaid(2, 2))


def test_what_two_answers_differ_in_is_not_asked_of_one():
    with pytest.raises(DataError, match=r"BMC: reads what two answers differ in .* lone answers"):
        check_loss(BMC(), Mixed(), Labels.unsaid(2, 1), responses=1)


@dataclasses.dataclass(frozen=True)
class Sampler:
    change: Callable[[jax.Array], Any]

    def __call__(self, logits, keys):
        return self.change(Temperature()(logits, keys))


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda tokens: tokens[0], "int32 []"),
        (lambda tokens: tokens[:, None], "int32 [2, 1]"),
        (lambda tokens: tokens.astype(jnp.float32), "float32 [2]"),
        (lambda tokens: None, "a NoneType"),
    ],
)
def test_a_sampler_of_another_shape_is_refused_before_it_is_compiled(change, got):
    with pytest.raises(BrokenContract) as refused:
        check_sampler(Sampler(change), 5)
    assert str(refused.value) == f"sampler Sampler: must return a token a row, int32 [2], got {got}"


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (optax.sgd(0.1), "a GradientTransformationExtraArgs"),
        (None, "a NoneType"),
        ((0.1, optax.sgd(0.1)), "(a float, a GradientTransformationExtraArgs)"),
        ((optax.sgd(0.1), 0.1), "(a GradientTransformationExtraArgs, a float)"),
    ],
)
def test_an_optimizer_without_its_schedule_is_refused(returned, got):
    with pytest.raises(BrokenContract) as refused:
        built(Optimizer(returned), 10)
    sentence = "optimizer Optimizer: build must return (GradientTransformation, schedule), got "
    assert str(refused.value) == sentence + got


@dataclasses.dataclass(frozen=True)
class Combiner:
    change: Callable[[jax.Array], Any]
    objectives: int = 2

    def __call__(self, gram):
        return self.change(jnp.diagonal(gram))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (jnp.sum, "must return one coefficient an objective, float32 [2], got float32 []"),
        (lambda a: a[:1], "got float32 [1]"),
        (lambda a: a.astype(jnp.int32), "got int32 [2]"),
        (lambda a: [0.5, 0.5], "got a list"),
    ],
)
def test_a_combiner_of_another_shape_is_refused_before_it_is_compiled(change, sentence):
    with pytest.raises(BrokenContract) as refused:
        check_loss(DPO(), Combiner(change), Labels.unsaid(2, 2))
    assert str(refused.value).startswith("combiner Combiner: ")
    assert sentence in str(refused.value)


def test_objectives_are_counted_and_losses_read_what_one_annotator_says():
    with pytest.raises(BrokenContract, match="objectives must be at least 1 or None, got 0"):
        check_loss(DPO(), Combiner(jnp.abs, objectives=0), Labels.unsaid(2, 2))
    with pytest.raises(DataError, match=r"the loss reads win rates and there are none: .* one annotator alone"):
        check_loss(SPPO(), Combiner(jnp.abs), Labels.unsaid(2, 2))
    with pytest.raises(ConfigError, match="has 2 objectives, and oracle Mine 1 annotators: one"):
        checked(judged(), GIVEN, "Mine", objectives=2)


def test_coefficients_that_are_not_finite_are_the_combiners_doing_if_its_gradients_are():
    seen = {"loss": 0.5, "grad_norm/objective_0": 1.0, "coefficients/objective_0": float("nan")}
    with pytest.raises(BrokenContract, match="combiner Combiner: coefficients/objective_0 is nan at step 7"):
        check_coefficients(Combiner(jnp.abs), 7, seen)
    check_coefficients(Combiner(jnp.abs), 7, seen | {"grad_norm/objective_0": float("inf")})
    check_coefficients(Mixed(), 7, {"loss": float("nan")})


def test_what_keeps_the_contract_is_not_refused():
    assert built(Optimizer((optax.sgd(0.1), optax.constant_schedule(0.1))), 10)
    check_loss(DPO(), Mixed(), Labels.unsaid(2, 2))
    check_loss(DPO(), WeightedSum((1.0, 2.0)), Labels.unsaid(2, 2))
    check_sampler(Temperature(), 5)


# ----------------------------------------------------------------------------------------------------------------------
# Evals


@pytest.mark.parametrize(
    ("measured", "sentence"),
    [
        ({"mine/gap": float("nan")}, "eval Mine: mine/gap must be a finite float, got nan"),
        ({"mine/gap": float("inf")}, "eval Mine: mine/gap must be a finite float, got inf"),
        ({"mine/gap": 3}, "eval Mine: mine/gap must be a finite float, got 3"),
        ({"mine/gap": True}, "eval Mine: mine/gap must be a finite float, got True"),
        ({"mine/gap": np.float32(0.5)}, "eval Mine: mine/gap must be a finite float, got np.float32(0.5)"),
        ({3: 0.5}, "eval Mine: 3 must be a finite float"),
        ([0.5], "eval Mine: must return a dict of floats by name, got a list"),
        ({"other/gap": 0.5}, "evals Temperature and Mine both measure other/gap"),
    ],
)
def test_an_eval_that_measures_nonsense_is_refused_by_name(measured, sentence):
    with pytest.raises(BrokenContract) as refused:
        merged([(Temperature(), {"other/gap": 1.0}), (Mine(None), measured)])
    assert sentence in str(refused.value)


def test_metrics_of_all_evals_are_one_table():
    found = merged([(Temperature(), {"a": 1.0}), (Mine(None), {}), (Mine(None), {"b": np.float64(0.5)})])
    assert found == {"a": 1.0, "b": 0.5}
