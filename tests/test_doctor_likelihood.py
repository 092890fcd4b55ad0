"""The doctor on likelihood: weights that fit, and weights that do not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_openings import by_name, opened, turning

from jaxalign.doctor.checks.likelihood import Likelihood, in_halves, interleaved
from jaxalign.doctor.checks.turns import Turns
from jaxalign.doctor.outcome import NotHere, Outcome
from jaxalign.models.model import Model
from jaxalign.models.pretrained import SmolLM2
from jaxalign.models.random_llama import RandomLlama

SAYING = "the cat sat on a mat, a dog ran to the barn and ten hens hid; then it rained on all of them until noon."


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """Source of a model that is not random."""

    model: Model

    def open(self) -> Model:
        return self.model


@pytest.fixture(scope="module")
def learnt():
    """A small model that knows one saying by heart."""
    model = RandomLlama(tied=False).open()
    ids = jnp.asarray([model.chat.tokenizer.encode(SAYING).ids])
    position = jnp.arange(ids.shape[1])[None]
    mask = position[:, :, None] >= position[:, None, :]

    def surprise(params):
        scores = model.logits(params, model.hidden(params, ids, position, mask))[:, :-1]
        return optax.softmax_cross_entropy_with_integer_labels(scores, ids[:, 1:]).mean()

    optimizer = optax.adam(1e-2)

    @jax.jit
    def train(params):
        def step(state, _):
            params, moments = state
            value, grads = jax.value_and_grad(surprise)(params)
            with jax.numpy_dtype_promotion("standard"):  # Adam's bias correction mixes counts and rates
                updates, moments = optimizer.update(grads, moments)
            return (optax.apply_updates(params, updates), moments), value

        (params, _), values = jax.lax.scan(step, (params, optimizer.init(params)), length=200)
        return params, values[-1]

    params, surprise_left = train(model.load())
    assert surprise_left < 0.3
    return model, params


def judged_prose(tmp_path, model, params) -> Outcome:
    there = opened(tmp_path, model=Known(model))
    there.params = params
    return by_name(Likelihood(SAYING)(there))["English prose"]


def test_a_model_whose_weights_fit_is_let_pass(tmp_path, learnt):
    found = judged_prose(tmp_path, *learnt)
    assert found.status == "ok", found
    assert found.measured["nats_per_token"] < 0.5


def test_a_wrong_rope_base_is_found_and_the_right_one_named(tmp_path, learnt):
    model, params = learnt
    found = judged_prose(tmp_path, turning(model, 10 * model.config.rope_base), params)
    assert found.status == "finding"
    assert "better with RoPE base 10000:" in found.fix


def with_heads(params, turn):
    attention = params["blocks"]["attention"]
    moved = {**attention, "q": turn(attention["q"]), "k": turn(attention["k"])}
    return {**params, "blocks": {**params["blocks"], "attention": moved}}


def test_permuted_queries_and_keys_are_found_and_the_layout_named(tmp_path, learnt):
    model, params = learnt
    found = judged_prose(tmp_path, model, with_heads(params, interleaved))
    assert found.status == "finding"
    assert "q, k rows in halves" in found.fix
    np.testing.assert_array_equal(in_halves(interleaved(jnp.arange(8.0)[None])), jnp.arange(8.0)[None])


def test_random_weights_are_not_asked_what_they_think(tmp_path):
    with pytest.raises(NotHere, match="random"):
        list(Likelihood()(opened(tmp_path)))


def test_only_both_signs_of_a_foreign_template_are_a_finding():
    judge = Turns().judge
    assert judge(within=1.0, without=1.4, ends=0.4).status == "ok"
    assert judge(within=1.0, without=1.4, ends=0.01).status == "warning"
    assert judge(within=2.4, without=1.4, ends=0.4).status == "warning"
    assert judge(within=2.4, without=1.4, ends=0.01).status == "finding"


@pytest.mark.slow
def test_smollm2_passes_and_its_damaged_forms_do_not(tmp_path):
    model = SmolLM2().open()
    there = opened(tmp_path, model=Known(model))
    assert by_name(Likelihood()(there))["English prose"].status == "ok"
    assert by_name(Turns()(there))["chat template fits the model"].status == "ok"

    params = there.params
    there.params = with_heads(params, interleaved)
    found = by_name(Likelihood()(there))["English prose"]
    assert "q, k rows in halves" in found.fix
    assert "do not fit" in found.fix
    there.params, there.machine.model = params, turning(model, 1e4)
    assert "better with RoPE base 100000:" in by_name(Likelihood()(there))["English prose"].fix

    foreign = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[/INST]"
    there.machine.model = dataclasses.replace(model, chat=dataclasses.replace(model.chat, template=foreign))
    found = by_name(Turns()(there))["chat template fits the model"]
    assert found.status in ("warning", "finding")
