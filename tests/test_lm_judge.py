"""A language model as a judge: its two labels' probabilities by hand, any mesh, flips, contexts that are too short."""

import dataclasses
import datetime
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_judges import SITE, site
from made_rollouts import permuted, rollouts
from safetensors.numpy import load_file, save_file

from jaxalign.contracts.scope import opened
from jaxalign.errors import BrokenContract, DataError, ModelError
from jaxalign.exchange.export import export
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.pretrained import Pretrained, SmolLM2
from jaxalign.models.random_llama import RandomLlama
from jaxalign.models.tabular import TabularPolicy
from jaxalign.oracles.lm_judge import LMJudge
from jaxalign.oracles.rubric import Rubric
from jaxalign.types import Preferences, Rollouts

SHORT = Rubric(template="{instruction}\n({a}) {first}\n({b}) {second}\nBetter?")
JUDGE = LMJudge(RandomLlama(tied=False, context=256), SHORT)
"""Untied: the random model has opinions."""
KEY = jax.random.key(0)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def said(judge: Any, given: Rollouts, where=SITE) -> Preferences:
    with opened(judge, where) as open_judge:
        return open_judge(given, KEY)


def asked() -> Rollouts:
    return rollouts(
        [["Because of air.", "It is not.", ""], ["No.", "Yes, as you said.", "No."]], ["Why is the sky blue?", "Is it?"]
    )


def first_by_hand(judge: LMJudge, question: str, first: str, second: str) -> tuple[float, float]:
    """P(the first answer is better) and the probability outside the labels, one row with a plain causal mask."""
    model = judge.model.open()
    text = judge.rubric.template.format(instruction=question, first=first, second=second, a="a", b="b")
    begun = model.chat.render([{"role": "user", "content": text}]) + "Answer ("
    ids = jnp.asarray(model.chat.tokenizer.encode(begun, add_special_tokens=False).ids, jnp.int32)[None]
    position, size = jnp.arange(ids.shape[1], dtype=jnp.int32)[None], ids.shape[1]
    params = model.load()
    hidden = model.hidden(params, ids, position, jnp.tril(jnp.ones((1, size, size), bool)))
    found = np.asarray(jax.nn.softmax(model.logits(params, hidden[0, -1])), np.float64)
    a, b = (found[model.chat.tokenizer.token_to_id(label)] for label in "ab")
    return a / (a + b), 1 - a - b


def test_a_preference_is_the_mean_of_both_orders_and_what_is_left_is_noted():
    found = said(JUDGE, asked())
    one, other = "Because of air.", "It is not."
    (straight, rest), (turned, more) = (
        first_by_hand(JUDGE, "Why is the sky blue?", *pair) for pair in ((one, other), (other, one))
    )
    np.testing.assert_allclose(found.prefer[0, 0, 1], (straight + 1 - turned) / 2, **CLOSE)
    only = said(JUDGE, rollouts([[one, other]], "Why is the sky blue?"))
    np.testing.assert_allclose(only.notes["outside_labels"], [(rest + more) / 2], **CLOSE)
    np.testing.assert_allclose(only.notes["position_bias"], [(straight + turned) / 2 - 0.5], **CLOSE)
    assert only.notes["orders_disagree"] == [float((straight > 0.5) == (turned > 0.5))]
    assert only.notes["comparisons"] == [1.0]
    assert only.notes["cut"] == only.notes["unparsed"] == [0.0]


def test_empty_and_identical_answers():
    """Of three answers to the first prompt one is empty; of the second's, two are the same and asked about once."""
    found = said(JUDGE, asked())
    assert found.notes["empty_answers"].tolist() == [1.0, 0.0]
    assert found.notes["comparisons"].tolist() == [3.0, 1.0]
    assert found.prefer[1, 0, 2] == found.prefer[1, 2, 0] == 0.5
    assert found.prefer[1, 0, 1] == found.prefer[1, 2, 1] != 0.5
    same = said(JUDGE, rollouts([["Yes.", "Yes."]]))
    np.testing.assert_array_equal(same.prefer, 0.5)
    assert same.notes["comparisons"] == [0.0]
    np.testing.assert_array_equal(said(JUDGE, permuted(asked(), [2, 0, 1])).prefer[0, 1, 2], found.prefer[0, 0, 1])


@pytest.mark.parametrize(
    "shape", [MeshShape(data=2, fsdp=2, tensor=2), MeshShape(fsdp=2, context=2)], ids=["2x2x2", "2x1x1x2"]
)
def test_eight_devices_say_what_one_says(shape):
    alone, together = said(JUDGE, asked()), said(JUDGE, asked(), site(shape))
    np.testing.assert_allclose(together.prefer, alone.prefer, **CLOSE)
    np.testing.assert_allclose(together.notes["outside_labels"], alone.notes["outside_labels"], **CLOSE)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_who_is_read_together_changes_nothing(rows):
    np.testing.assert_allclose(
        said(JUDGE, asked(), site(MeshShape(fsdp=1), rows)).prefer, said(JUDGE, asked()).prefer, **CLOSE
    )


def test_bf16_says_about_the_same():
    """A logit of size 4 is rounded by 2^-7 of it, and so is what adds up to it; probabilities move by a quarter."""
    rough = dataclasses.replace(JUDGE, model=dataclasses.replace(JUDGE.model, compute_dtype="bfloat16"))
    np.testing.assert_allclose(said(rough, asked()).prefer, said(JUDGE, asked()).prefer, atol=0.05)


# ----------------------------------------------------------------------------------------------------------------------
# A context that is too short


LONG = "What is it? " * 30 + "Tell me the colour of the sky."


def test_questions_that_are_too_long_are_refused_before_anything_is_computed():
    with pytest.raises(DataError, match=r"lm_judge: prompt 'p1' with its longest answer has \d+ tokens, it reads 256"):
        said(JUDGE, rollouts([["Yes.", "No."], ["Blue.", "Red, I think."]], ["Is it?", LONG]))


def test_the_start_of_a_prompt_is_cut_for_all_its_answers_alike_and_noted():
    cutting = dataclasses.replace(JUDGE, too_long="cut")
    given = rollouts([["Yes.", "No."], ["Blue.", "Red, I think."]], ["Is it?", LONG])
    found = said(cutting, given)
    assert found.notes["cut"].tolist() == [0.0, 1.0]
    # bytes are tokens here: what is kept of the prompt fills the context exactly
    template = len(SHORT.template.format(instruction="", first="Blue.", second="Red, I think.", a="a", b="b"))
    around = len("user\n" + "\n" + "assistant\nAnswer (a") + 3
    kept = LONG[-(256 - template - around) :]
    expected = said(JUDGE, rollouts([["Blue.", "Red, I think."]], kept))
    assert expected.notes["cut"] == [0.0]
    np.testing.assert_allclose(found.prefer[1], expected.prefer[0], **CLOSE)
    with pytest.raises(DataError, match="it reads 256"):
        said(JUDGE, rollouts([["Blue.", "Red, I think."]], LONG[-(257 - template - around) :]))


def test_answers_that_are_too_long_by_themselves_are_refused_by_either_policy():
    cutting = dataclasses.replace(JUDGE, too_long="cut")
    with pytest.raises(DataError, match=r"prompt 'p0' .* and too many also without the prompt"):
        said(cutting, rollouts([["word " * 60, "No."]]))


# ----------------------------------------------------------------------------------------------------------------------
# What is no judge


def exported(home) -> Pretrained:
    model = JUDGE.model.open()
    export(model, model.load(), home)
    return Pretrained(str(home))


def test_a_directory_judges_as_the_model_that_was_written_there(tmp_path):
    judge = dataclasses.replace(JUDGE, model=exported(tmp_path / "judge"))
    np.testing.assert_allclose(said(judge, asked()).prefer, said(JUDGE, asked()).prefer, **CLOSE)
    assert [name.endswith("model.safetensors") for name in judge.files()] == [True]
    assert JUDGE.files() == {}


def test_what_is_not_a_number_is_refused_by_prompt_and_answers(tmp_path):
    """Weights so large that the hidden state overflows."""
    judge = dataclasses.replace(JUDGE, model=exported(tmp_path / "judge"))
    tensors = load_file(tmp_path / "judge" / "model.safetensors")
    tensors["model.norm.weight"] = np.full_like(tensors["model.norm.weight"], 3e38)
    save_file(tensors, tmp_path / "judge" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BrokenContract, match=r"judge 'lm_judge': .* responses 1 and 0 of prompt 'p0' is not a number"):
        said(judge, rollouts([["Yes.", "No."]]))


def test_models_that_cannot_judge_are_refused():
    with pytest.raises(ModelError, match="a judge must read text"):
        said(LMJudge(TabularPolicy((0.5, 0.5))), asked())
    alike = dataclasses.replace(JUDGE, rubric=dataclasses.replace(SHORT, labels=("a", "ab")))
    with pytest.raises(ModelError, match="both labels begin with the same token"):
        said(alike, asked())


def test_a_day_that_is_none_is_refused_before_anything_is_opened():
    assert list(LMJudge(RandomLlama(), date="yesterday").problems()) == [
        "date 'yesterday' is no day such as 2026-11-28"
    ]


def test_a_judge_is_asked_as_on_its_day():
    dated = JUDGE.dated(datetime.date(2024, 5, 1))
    assert dated.date == "2024-05-01"
    assert dated.dated(datetime.date(2025, 5, 1)) == dated


@pytest.mark.slow
def test_a_small_model_prefers_answers_that_answer():
    """SmolLM2-135M tells an answer from noise in both orders together, if hardly in each: its bias is noted."""
    given = rollouts(
        [["The capital of France is Paris.", "xq zzv plk 77 qq"], ["Two plus two is four.", "asdf jkl asdf jkl"]],
        ["What is the capital of France?", "What is two plus two?"],
    )
    found = said(LMJudge(SmolLM2()), given)
    print(found.prefer[:, 0, 1], found.notes)
    assert (found.prefer[:, 0, 1] > 0.5).all()
