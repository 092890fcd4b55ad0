"""Learned judges on the mesh: equal to conversations read one by one, any template, mesh and dtype; what is refused."""

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_judges import SITE, alone, judge_directory, site
from made_rollouts import permuted, rollouts
from safetensors.numpy import load_file, save_file

from jaxalign.contracts.scope import opened
from jaxalign.errors import BrokenContract, DataError, ModelError
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.heads import preference_margin
from jaxalign.oracles.among import among
from jaxalign.oracles.annotators import Brevity
from jaxalign.oracles.learned import PreferenceModel, RewardModel
from jaxalign.oracles.mixture import Member, Mixture
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.types import Preferences, Rollouts

KEY = jax.random.key(0)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}

TEMPLATES = {
    "its own": None,
    "the answer first": "{{ messages[-1]['content'] }}|{{ messages[0]['content'] }}",
    "the length in front": "{{ messages[-1].content | length }} {{ messages[0].content }}: {{ messages[-1].content }}",
    "the answer only": "{{ messages[-1]['content'] }}.",
}


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    home = tmp_path_factory.mktemp("judges")
    return {outputs: judge_directory(home / str(outputs), outputs) for outputs in (1, 4)}


def asked() -> Rollouts:
    texts = [["Because of air.", "It is not blue at all, as far as I can see.", ""], ["No.", "Yes.", "No."]]
    return rollouts(texts, ["Why is the sky as blue as it is when the sun is high?", "Is it?"])


def said(oracle: Any, given: Rollouts, where=SITE) -> Preferences:
    with opened(oracle, where) as judge:
        return judge(given, KEY)


def rewards(judge: RewardModel, given: Rollouts, where=SITE) -> np.ndarray:
    return said(Panel((Weighted(judge),)), given, where).scores[:, 0]


@pytest.mark.parametrize("template", TEMPLATES)
def test_rewards_are_those_of_conversations_read_one_by_one(template, tmp_path):
    """Templates in front of which answers differ share nothing: their conversations are whole rows."""
    home = judge_directory(tmp_path / "judge", 1)
    if TEMPLATES[template]:
        (home / "chat_template.jinja").write_text(TEMPLATES[template])
    given = asked()
    expected = [alone(home, prompt, texts)[:, 0] for prompt, texts in zip(given.prompts, given.texts, strict=True)]
    found = rewards(RewardModel(str(home)), given)
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert found[1, 0] == found[1, 2]  # identical answers are read once


def test_a_preference_model_compares_outputs_of_conversations_read_one_by_one(homes):
    given = asked()
    found = said(PreferenceModel(str(homes[4]), temperature=2.0), given)
    for number, (prompt, texts) in enumerate(zip(given.prompts, given.texts, strict=True)):
        each = alone(homes[4], prompt, texts)
        margin = np.asarray(preference_margin(*jnp.broadcast_arrays(each[:, None], each[None])))
        np.testing.assert_allclose(found.prefer[number], 1 / (1 + np.exp(-margin / 2.0)), **CLOSE)
    np.testing.assert_array_equal(found.prefer + found.prefer.swapaxes(1, 2), 1.0)
    assert found.prefer[1, 0, 2] == 0.5
    sharper = said(PreferenceModel(str(homes[4]), temperature=0.5), given)
    assert abs(sharper.prefer[0, 0, 1] - 0.5) > abs(found.prefer[0, 0, 1] - 0.5) > 0
    np.testing.assert_array_equal(said(PreferenceModel(str(homes[4])), permuted(given, [2, 0, 1])).notes["cut"], 0)


@pytest.mark.parametrize(
    "shape", [MeshShape(data=2, fsdp=2, tensor=2), MeshShape(fsdp=2, context=2)], ids=["2x2x2", "2x1x1x2"]
)
@pytest.mark.parametrize("rows", [1, 16])
def test_eight_devices_say_what_one_says(homes, shape, rows):
    for judge in (Panel((Weighted(RewardModel(str(homes[1]))),)), PreferenceModel(str(homes[4]))):
        np.testing.assert_allclose(said(judge, asked(), site(shape, rows)).prefer, said(judge, asked()).prefer, **CLOSE)


def test_bf16_says_about_the_same_from_half_of_the_bytes(homes):
    exact, rough = (RewardModel(str(homes[1]), compute_dtype=dtype) for dtype in ("float32", "bfloat16"))
    # outputs of size 6 (32 products of N(0, 1)), rounded to 8 bits a few times on the way
    np.testing.assert_allclose(rewards(rough, asked()), rewards(exact, asked()), atol=0.3)
    with rough.open(SITE) as judge:
        leaves = jax.tree.leaves(judge.reading.params)
        assert {str(leaf.dtype) for leaf in leaves if leaf.size > 100} == {"bfloat16"}


def test_weights_are_on_the_mesh_within_the_scope_and_nowhere_after(homes):
    before = {id(array) for array in jax.live_arrays()}
    where = site(MeshShape(fsdp=4))
    for _ in range(2):
        with RewardModel(str(homes[1])).open(where) as judge:
            embed = judge.reading.params["embed"]
            assert len(embed.sharding.device_set) == 4
            assert not embed.sharding.is_fully_replicated
            judge.block(asked())
        assert embed.is_deleted()
        del judge, embed
        assert {id(array) for array in jax.live_arrays()} <= before


def test_judges_of_every_kind_mix_and_note_by_name(homes):
    reward = RewardModel(str(homes[1]), name="rm")
    panel = Panel((Weighted(Brevity(), temperature=0.1), Weighted(reward)))
    mixture = Mixture((Member(panel, name="panel"), Member(PreferenceModel(str(homes[4])), 2.0, "gpm")))
    found = said(mixture, asked())
    assert sorted(found.notes) == ["gpm/cut", "panel/rm/cut"]
    expected = (said(panel, asked()).prefer + 2 * said(PreferenceModel(str(homes[4])), asked()).prefer) / 3
    np.testing.assert_allclose(found.prefer, expected, atol=1e-6)
    with opened(mixture, SITE) as judge:
        own = among(judge, asked(), np.array([1]), KEY)
    np.testing.assert_array_equal(own.prefer, found.prefer[1:])


# ----------------------------------------------------------------------------------------------------------------------
# Judges under fire


LONG = "What is it? " * 60 + "Tell me the colour of the sky."


def test_conversations_that_are_too_long_are_refused_or_cut_and_noted(homes):
    given = rollouts([["Yes.", "No."], ["Blue.", "Red, I think."]], ["Is it?", LONG])
    judge = RewardModel(str(homes[1]))
    with pytest.raises(
        DataError, match=r"judges.*/1: prompt 'p1' with its longest answer has \d+ tokens, it reads 512"
    ):
        rewards(judge, given)
    found = said(Panel((Weighted(dataclasses.replace(judge, too_long="cut")),)), given)
    assert found.notes["reward_model/cut"].tolist() == [0.0, 1.0]
    # bytes are tokens here, but for the marks of turns; both answers are read behind the same end of the prompt
    kept = LONG[-(512 - len("user\n\nassistant\nRed, I think.\n") - 4) :]
    for text, score in zip(given.texts[1], found.scores[1, 0], strict=True):
        np.testing.assert_allclose(score, alone(homes[1], rollouts([["x"]], kept).prompts[0], [text])[0, 0], **CLOSE)
    with pytest.raises(DataError, match="and too many also without the prompt"):
        rewards(dataclasses.replace(judge, too_long="cut"), rollouts([["word " * 120, "No."]]))


def overflowing(home: Path) -> str:
    """The directory, with a last norm whose results are no numbers."""
    tensors = load_file(home / "model.safetensors")
    tensors["model.norm.weight"] = np.full_like(tensors["model.norm.weight"], 3e38)
    save_file(tensors, home / "model.safetensors", metadata={"format": "pt"})
    return str(home)


def test_scores_that_are_not_numbers_are_refused_by_prompt_and_answer(tmp_path):
    scoring = RewardModel(overflowing(judge_directory(tmp_path / "judge", 1)))
    with pytest.raises(BrokenContract, match=r"annotator 'reward_model' scored response 0 of prompt 'p0' (nan|-?inf)"):
        rewards(scoring, asked())
    comparing = PreferenceModel(overflowing(judge_directory(tmp_path / "general", 2)))
    with pytest.raises(BrokenContract, match=r"general: what it says of response 0 of prompt 'p0' is \[.*(nan|inf)"):
        said(comparing, asked())


def test_a_template_that_says_nothing_is_refused(tmp_path):
    home = judge_directory(tmp_path / "judge", 1)
    (home / "chat_template.jinja").write_text("{{ '' }}")
    with pytest.raises(DataError, match="its template makes no tokens of an answer to prompt 'p0'"):
        rewards(RewardModel(str(home)), asked())


def test_what_is_no_judge_is_refused_by_name(homes, tmp_path):
    with pytest.raises(ModelError, match="4 outputs; this judge needs one output"):
        rewards(RewardModel(str(homes[4])), asked())
    with pytest.raises(ModelError, match="1 outputs; this judge needs an even number"):
        said(PreferenceModel(str(homes[1])), asked())
    assert list(PreferenceModel(str(tmp_path / "nowhere"), temperature=0.0).problems())[1].endswith("no directory")
    with pytest.raises(TypeError, match="'reward_model' scores inside a scope only"):
        Panel((Weighted(RewardModel(str(homes[1]))),))(asked(), KEY)


def test_a_judge_answers_as_on_its_day(tmp_path):
    """Its template writes the date, so that the answers of two days differ, unless it is told which day it is."""
    home = judge_directory(tmp_path / "dated", 1)
    (home / "chat_template.jinja").write_text("{{ strftime_now('%d %b') }}{{ messages[-1]['content'] }}")
    days = [datetime.date(2024, month, 1) for month in (1, 2)]
    first, second = (rewards(RewardModel(str(home)).dated(day), asked()).tolist() for day in days)
    assert first != second
    assert rewards(RewardModel(str(home), date="2024-01-01").dated(days[1]), asked()).tolist() == first
    skew = PreferenceModel(str(home)).dated(days[0])
    assert skew.date == "2024-01-01"
    (sentence,) = PreferenceModel(str(home), date="yesterday").problems()
    assert "'yesterday' is no day" in sentence


def test_what_config_calls_padding_is_not_scored_at_the_end_of_a_conversation(tmp_path):
    """Transformers scores the last token that is none; where it ends the turn, that is the answer's last token."""
    template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"
    bare = template.replace("<|im_end|>", "{{ '' if loop.last else '<|im_end|>' }}")
    found = []
    for pad, written in ((2, template), (0, template), (0, bare)):
        home = judge_directory(tmp_path / str(len(found)), 1)
        config = json.loads((home / "config.json").read_text())
        (home / "config.json").write_text(json.dumps({**config, "pad_token_id": pad}))
        (home / "chat_template.jinja").write_text(written)
        found.append(rewards(RewardModel(str(home)), asked()))
    ending, padded_by_another, without = found
    assert not np.allclose(ending, padded_by_another)
    np.testing.assert_allclose(ending, without, **CLOSE)
