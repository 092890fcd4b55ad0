"""Keys of prompts: by number in a run, by what they say where a list may be in another order tomorrow."""

import dataclasses

import jax
import numpy as np
import pytest
from made_models import ONE
from made_rollouts import PROMPTS, prompt

from jaxalign.rollouts import seam
from jaxalign.rollouts.keys import by_content, folded, of_prompts
from jaxalign.rollouts.lockstep import Lockstep
from jaxalign.rollouts.one_of_policies import drawn
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.slots import Slots

KEY = jax.random.key(7)


def bits(keys):
    return np.asarray(jax.random.key_data(keys))


def test_one_key_is_folded_with_numbers_and_keys_of_their_own_are_taken():
    numbers = np.array([[2, 0], [1, 2]])
    one = of_prompts(KEY, numbers)
    assert one.shape == (2, 2)
    np.testing.assert_array_equal(bits(one[1, 0]), bits(jax.random.fold_in(KEY, 1)))
    own = jax.random.split(KEY, 3)
    np.testing.assert_array_equal(bits(of_prompts(own, numbers)), bits(own)[numbers])


def test_folding_each_is_folding_one():
    own = jax.random.split(KEY, 3)
    np.testing.assert_array_equal(bits(folded(own, 5)[2]), bits(folded(own[2], 5)))
    np.testing.assert_array_equal(bits(folded(KEY, 5)), bits(jax.random.fold_in(KEY, 5)))


def test_a_prompts_key_is_of_what_it_says_and_not_of_its_place_or_name():
    a, b, c = prompt("Why?", "a"), prompt("How?", "b"), prompt("Why?", "another name")
    ab, ba = by_content(KEY, [a, b]), by_content(KEY, [b, a])
    np.testing.assert_array_equal(bits(ab), bits(ba)[::-1])
    np.testing.assert_array_equal(bits(by_content(KEY, [c])[0]), bits(ab[0]))
    assert (bits(ab[0]) != bits(ab[1])).any()
    with_tools = dataclasses.replace(a, tools='[{"name": "f"}]')
    assert (bits(by_content(KEY, [with_tools])[0]) != bits(ab[0])).any()
    # asked twice, it is answered twice
    twice = bits(by_content(KEY, [a, b, a]))
    assert (twice[0] != twice[2]).any()
    np.testing.assert_array_equal(twice[:2], bits(ab))


def test_nobody_asked_needs_no_key():
    assert by_content(KEY, []).shape == (0,)


@pytest.mark.parametrize("engine", [Lockstep(), Slots()])
def test_answers_are_the_same_in_any_order(model, params, engine):
    roller = Sample(samples=2, max_tokens=4, engine=engine).on(model, ONE, rows=4)
    turned = PROMPTS[::-1]
    found, other = (seam.rolled(roller, params, asked, by_content(KEY, asked)) for asked in (PROMPTS, turned))
    assert other.texts == found.texts[::-1]
    fewer = seam.rolled(roller, params, turned[:2], by_content(KEY, turned[:2]))
    assert fewer.texts == other.texts[:2]


def test_who_answers_a_prompt_does_not_depend_on_the_others():
    numbers = range(100)
    one, other = (by_content(KEY, [prompt(str(at), str(at)) for at in order]) for order in (numbers, numbers[::-1]))
    found = drawn([1, 2, 5], one)
    np.testing.assert_array_equal(drawn([1, 2, 5], other), found[::-1])
    assert set(found.tolist()) == {1, 2, 5}
