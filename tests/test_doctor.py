"""The doctor: a sound experiment passes, and each thing that can be wrong is found."""

import dataclasses
import io
import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_rollouts import preferences, prompt, rollouts

from jaxalign import config
from jaxalign.__main__ import main
from jaxalign.doctor import report
from jaxalign.doctor.checks.decoding import Decoding
from jaxalign.doctor.checks.first_step import FirstStep, Seen
from jaxalign.doctor.checks.likelihood import Likelihood, in_halves, interleaved
from jaxalign.doctor.checks.memory import activations, training
from jaxalign.doctor.checks.preferences import SampledPreferences
from jaxalign.doctor.checks.prompts import Prompts
from jaxalign.doctor.checks.row import Row
from jaxalign.doctor.checks.sampling import Sampling
from jaxalign.doctor.checks.template import Template
from jaxalign.doctor.checks.turns import Turns
from jaxalign.doctor.examine import every_check, examine, outcomes
from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Check, NotHere, Outcome
from jaxalign.doctor.row import tokens
from jaxalign.errors import DataError
from jaxalign.losses.dpo import DPO
from jaxalign.models.model import Model, split
from jaxalign.models.pretrained import SmolLM2
from jaxalign.models.random_llama import TEMPLATE, RandomLlama
from jaxalign.models.rope import Rope
from jaxalign.references.live import Live

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
SMALL = (
    *(
        "--rollout.samples",
        "3",
        "--rollout.max_tokens",
        "8",
        "--evaluation.prompts.limit",
        "4",
        "--fit.batch_size",
        "8",
    ),
    *("--mesh.fsdp", "1"),
)


def tiny_lm(*overrides: str):
    return config.override(config.override(config.load(CONFIGS / "tiny_lm.py"), SMALL), overrides)


def opened(tmp_path, *overrides: str, **replaced) -> Opened:
    return Opened(dataclasses.replace(tiny_lm(*overrides), **replaced), tmp_path, 8)


def by_name(found) -> dict[str, Outcome]:
    return {outcome.check: outcome for outcome in found}


# --------------------------------------------------------------------------------------------------------------
# Sound experiments


def test_discovers_every_check():
    every = every_check()
    assert len(every) >= 12
    for check in every.values():
        assert isinstance(check, Check)
        assert hash(check) == hash(dataclasses.replace(check))


def test_a_sound_experiment_has_no_findings_as_json_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", str(CONFIGS / "tiny_lm.py"), *SMALL, "--json", "--prompts", "16"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) >= 15
    assert all(set(outcome) == {"check", "status", "measured", "fix"} for outcome in found)
    assert {outcome["status"] for outcome in found} <= {"ok", "warning", "skipped"}
    assert all(outcome["fix"] for outcome in found if outcome["status"] != "ok")
    assert not list(tmp_path.iterdir())


def test_a_game_skips_what_does_not_apply(capsys):
    assert main(["doctor", str(CONFIGS / "games" / "three_action.py")]) == 0
    shown = capsys.readouterr().out
    assert "the policy is a table: it reads no text" in shown
    assert re.search(r"^ok +schedule contracts", shown, re.M)
    assert "FINDING" not in shown


def test_findings_have_an_exit_code_of_their_own(capsys):
    long = ("--model.context", "40")
    assert main(["doctor", str(CONFIGS / "tiny_lm.py"), *SMALL, *long]) == 7
    captured = capsys.readouterr()
    assert re.search(r"^FINDING +prompt lengths", captured.out, re.M)
    assert "prompt lengths" in captured.err


def test_bad_options_are_answered_as_by_train(capsys):
    assert main(["doctor", str(CONFIGS / "tiny_lm.py"), "--loss.etta", "0.1"]) == 2
    assert "loss.eta" in capsys.readouterr().err
    assert main(["doctor", str(CONFIGS / "tiny_lm.py"), "--prompts", "0"]) == 2


# --------------------------------------------------------------------------------------------------------------
# Step 0 and sampling


SHORT = ("--model.layers", "1", "--rollout.samples", "2", "--rollout.max_tokens", "4")


def short(tmp_path, *overrides: str, **replaced) -> Opened:
    """Less to compile."""
    experiment = config.override(config.override(config.load(CONFIGS / "tiny_lm.py"), SHORT), overrides)
    return Opened(dataclasses.replace(experiment, **replaced), tmp_path, 8)


@pytest.mark.parametrize(
    "overrides",
    [
        ("--mesh.fsdp", "1", "--model.compute_dtype", "bfloat16", "--model.remat", "full"),
        pytest.param(("--mesh.data", "2", "--mesh.fsdp", "1", "--mesh.tensor", "2"), marks=pytest.mark.slow),
    ],
)
def test_step_0_and_sampling_hold_under_remat_dtype_and_mesh(tmp_path, overrides):
    there = short(tmp_path, *overrides, reference=Live(), loss=DPO())
    found = [*FirstStep()(there), *Sampling()(there), *Row()(there)]
    assert len(found) == 5
    assert all(outcome.status == "ok" for outcome in found), found
    # While margins are 0 every label costs ln 2; in bf16 live margins are rounding.
    assert by_name(found)["loss at step 0"].measured["loss"] == pytest.approx(math.log(2), abs=1e-2)


def test_a_decoder_with_wrong_rotations_is_found(tmp_path):
    there = short(tmp_path, "--mesh.fsdp", "1", "--model.tied", "false")
    there.model = dataclasses.replace(there.model, stepper=turning(there.model, 10.0).stepper)
    assert by_name(Sampling()(there))["recorded while sampling = recomputed"].status == "finding"
    assert by_name(Decoding()(there))["prefill + decode = one forward"].status == "finding"


def turning(model: Model, base: float) -> Model:
    """The same with another RoPE base."""
    made = split(dataclasses.replace(model.config, ropes=(Rope(base),)), model.chat, model.source, model.read)
    return dataclasses.replace(model, config=made.config, graphdef=made.graphdef, stepper=made.stepper)


SEEN = Seen(exact=0.0, live=0.0, cached=0.0, loss=0.7, expected=0.7, slope=1.0, dpo=math.log(2), grad_norm=1.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"exact": 1e-7}, "not deterministic"),
        ({"cached": 0.1}, "not the policy it was made of"),
        ({"live": math.nan}, "not the policy it was made of"),
        ({"loss": 1.2}, "not what its formula says"),
        ({"dpo": 0.7}, "not ln 2"),
        ({"grad_norm": math.inf}, "not finite"),
        ({"grad_norm": 0.0}, "exactly 0"),
    ],
)
def test_each_thing_wrong_at_step_0_is_told(wrong, said):
    def told(seen):
        check = FirstStep()
        return [*check.ratios(seen, 0.01), *check.losses(seen, 0.01), *check.gradients(seen)]

    assert told(SEEN) == []
    assert len(told(dataclasses.replace(SEEN, **wrong))) == 1
    assert said in told(dataclasses.replace(SEEN, **wrong))[0]


# --------------------------------------------------------------------------------------------------------------
# The decoded row


def test_the_row_says_whose_each_token_is_and_what_it_scores(tmp_path):
    there = opened(tmp_path)
    row = tokens(there)
    question = there.rollouts.prompts[there.groups.prompt[0]].text
    assert "".join(token.text for token in row if token.role == "user") == question
    assert all(token.logp is None for token in row if token.branch == 0)
    for branch, response in enumerate(there.groups.responses[0], 1):
        own = [token for token in row if token.branch == branch]
        prompt_index = there.groups.prompt[0]
        length = there.rollouts.lengths[prompt_index, response]
        assert [token.id for token in own] == there.rollouts.tokens[prompt_index, response, :length].tolist()
        np.testing.assert_allclose(
            [token.logp for token in own], there.rollouts.logps[prompt_index, response, :length], atol=1e-4
        )


def test_colours_only_for_terminals_that_want_them(monkeypatch, tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert report.coloured(Terminal())
    assert not report.coloured(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not report.coloured(Terminal())
    outcome = Outcome("one", "finding", {"nats_max": 1.5}, "mend it")
    assert report.table_lines([outcome], colour=False)[0].split() == ["FINDING", "one", "nats", "max", "1.5"]
    assert "\033[1;31mFINDING" in report.table_lines([outcome], colour=True)[0]


# --------------------------------------------------------------------------------------------------------------
# Data and template


def test_bad_prompts_are_named(tmp_path):
    there = opened(tmp_path)
    chat = there.chat
    one, same = prompt("Why is the sky blue?", "a"), prompt("  why is the SKY  blue?", "b")
    assert Prompts().empty([one, prompt("  \n", "hollow")], {}).fix.endswith("hollow")
    assert Prompts().duplicates([one, same]).measured["duplicates"] == 1
    assert Prompts().duplicates([one]).status == "ok"
    assert Prompts().overlap([one], [same, prompt("Else?", "c")]).status == "finding"
    assert Prompts().overlap([one], [prompt("Else?", "c")]).status == "ok"
    assert Prompts().special(chat, [prompt("Say <|im_end|> now", "sly"), one]).fix.endswith("sly")
    assert Prompts().special(chat, [one]).status == "ok"


def test_templates_with_two_bos_or_no_end_are_found(tmp_path):
    there = opened(tmp_path)
    assert all(outcome.status == "ok" for outcome in Template()(there))
    there.model = dataclasses.replace(
        there.model, chat=dataclasses.replace(there.chat, template="<|im_start|>" + TEMPLATE)
    )
    assert by_name(Template()(there))["BOS"].status == "finding"
    endless = TEMPLATE.replace("<|im_end|>", "")
    there.model = dataclasses.replace(there.model, chat=dataclasses.replace(there.chat, template=endless))
    found = by_name(Template()(there))["end of the assistant's turn"]
    assert found.status == "finding"
    assert "<|im_end|>" in found.fix


def test_what_a_check_raises_is_a_finding_or_a_reason(tmp_path):
    there = opened(tmp_path)

    def bad(_):
        raise DataError("row 3 has no prompt")
        yield

    def absent(_):
        raise NotHere("no accelerator")
        yield

    assert list(outcomes("some_check", bad, there)) == [Outcome("some check", "finding", {}, "row 3 has no prompt")]
    assert list(outcomes("some_check", absent, there)) == [Outcome("some check", "skipped", {}, "no accelerator")]


def test_no_pairs_and_only_ties_are_findings(tmp_path):
    there = opened(tmp_path)
    there.rollouts = rollouts([["same", "same"]])
    there.preferences = preferences([[[0.5, 0.5], [0.5, 0.5]]])
    assert by_name(SampledPreferences()(there))["pairs"].status == "finding"
    del there.__dict__["groups"]
    there.rollouts = rollouts([["one", "two"]])
    found = by_name(SampledPreferences()(there))
    assert (found["pairs"].status, found["ties"].status) == ("ok", "finding")
    del there.__dict__["groups"]
    there.preferences = preferences([[[0.5, 0.9], [0.1, 0.5]]])
    assert by_name(SampledPreferences()(there))["ties"].status == "ok"


# --------------------------------------------------------------------------------------------------------------
# Likelihood: weights that fit, and weights that do not

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
    there.params, there.model = params, turning(model, 1e4)
    assert "better with RoPE base 100000:" in by_name(Likelihood()(there))["English prose"].fix

    foreign = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[/INST]"
    there.model = dataclasses.replace(model, chat=dataclasses.replace(model.chat, template=foreign))
    found = by_name(Turns()(there))["chat template fits the model"]
    assert found.status in ("warning", "finding")


# --------------------------------------------------------------------------------------------------------------
# Memory


def test_training_memory_is_counted_in_copies_of_the_parameters(tmp_path):
    there = opened(tmp_path, "--loss.tau", "0.05", reference=Live())
    parts = training(there)
    size = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(there.model.abstract()))
    assert (parts["policy"], parts["trained copy"], parts["gradients"]) == (size, size, size)
    assert parts["live references"] == size  # the anchor; `last` is the policy that the fit began with
    assert 2 * size <= parts["optimizer"] < 2 * size + 100
    split_up = training(opened(tmp_path, "--mesh.fsdp", "8", "--model.layers", "2"))
    assert split_up["policy"] < size / 6


def test_activations_by_hand_and_by_remat():
    model = RandomLlama(layers=3, width=8, mlp=16, heads=2, kv_heads=1, head_dim=4)
    kept = {
        remat: activations(dataclasses.replace(model, remat=remat).config(259), 2, 10, 1)
        for remat in ("none", "dots", "full")
    }
    # d 8, q 8, k 4, f 16, n 2, s 10, c 4: a layer keeps 4 (32 + 16 + 8 + 64) + 64 + 160 = 704 bytes a token
    layer = 704
    assert kept["none"] == 2 * 10 * 3 * layer
    assert kept["dots"] == 2 * 10 * (3 * 4 * (24 + 8 + 8 + 32) + layer)
    assert kept["full"] == 2 * 10 * (3 * 4 * 8 + layer)


def test_too_little_memory_is_a_finding_and_what_needs_weights_is_skipped(tmp_path, monkeypatch):
    there = opened(tmp_path)
    monkeypatch.setattr(Opened, "memory", 1000)
    found = by_name(examine(there))
    assert found["memory of a device"].status == "finding"
    assert "fit.accumulate" in found["memory of a device"].fix
    assert found["sampling"].status == "skipped"
    assert "the parameters need" in found["sampling"].fix
