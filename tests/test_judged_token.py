"""A classifier is trained at the token that it is judged by, whatever its template writes there and its files call
padding, and so is what is exported of it."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_groups import groups
from made_judges import SITE, judge_directory
from made_rollouts import rollouts

from jaxalign.contracts.scope import opened
from jaxalign.data.groups import RolledGroups
from jaxalign.exchange.export import export
from jaxalign.models.headed import Headed
from jaxalign.models.model import Model
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.random_llama import RandomLlama
from jaxalign.oracles.learned import RewardModel
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.rollouts.shares import given
from jaxalign.text.answers import located
from jaxalign.training.rows import pack, row_shape
from jaxalign.training.views import last_outputs
from jaxalign.types import Params, Prompt

ASKED = rollouts([["No.", "Yes!!"]], ["Why?"])
END = 2
"""The token that ends turns."""
PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)
BROKEN = PLAIN.replace("<|im_end|>", "<|im_end|>\n")
PADDED = PLAIN.replace("<|im_end|>", "<|im_end|><|pad|>")


def classifier(home: pathlib.Path, template: str, config_pad: int | None, tokenizer_pad: str) -> pathlib.Path:
    """A directory whose config.json and tokenizer call these padding."""
    judge_directory(home, 1)
    fields = json.loads((home / "config.json").read_text())
    fields = {name: value for name, value in fields.items() if name != "pad_token_id"}
    (home / "config.json").write_text(json.dumps(fields | ({} if config_pad is None else {"pad_token_id": config_pad})))
    names = json.loads((home / "tokenizer_config.json").read_text())
    (home / "tokenizer_config.json").write_text(json.dumps(names | {"pad_token": tokenizer_pad}))
    (home / "chat_template.jinja").write_text(template)
    return home


def judged(home: pathlib.Path) -> np.ndarray:
    """Rewards [m], as an oracle gives them."""
    with opened(Panel((Weighted(RewardModel(str(home))),)), SITE) as panel:
        return np.asarray(panel(ASKED, jax.random.key(0)).scores)[0, 0]


def trained(model: Model, params: Params) -> np.ndarray:
    """Outputs [m], as a training step computes them of the pair."""
    prompt: Prompt = ASKED.prompts[0]
    asked = np.asarray([model.chat.encode(prompt.messages)], np.int32)
    answers = [located(model.chat, prompt, text) for text in ASKED.texts[0]]
    tokens = np.zeros((1, 2, max(map(len, answers))), np.int32)
    for index, answer in enumerate(answers):
        tokens[0, index, : len(answer)] = answer
    lengths = np.asarray([asked.shape[1]], np.int32), np.asarray([[*map(len, answers)]], np.int32)
    pair = RolledGroups(given(asked, lengths[0], tokens, lengths[1]), groups([0], [[0, 1]]))
    rows = jax.tree.map(jnp.asarray, pack(pair, np.arange(1), row_shape(pair), {}).rows)
    return np.asarray(last_outputs(model, params, rows, 2))[0, :, 0]


@pytest.mark.parametrize(
    ("template", "config_pad", "tokenizer_pad", "last"),
    [
        (PLAIN, END, "<|im_end|>", [ord(".") + 3, ord("!") + 3]),
        (PLAIN, None, "<|im_end|>", [END, END]),
        (PLAIN, 0, "<|im_end|>", [END, END]),
        (PLAIN, END, "<|pad|>", [ord(".") + 3, ord("!") + 3]),
        (BROKEN, END, "<|im_end|>", [ord("\n") + 3] * 2),
        (PADDED, 0, "<|pad|>", [END, END]),
    ],
    ids=["both pad with the end", "tokenizer alone", "config otherwise", "config alone", "line break", "pad written"],
)
def test_it_is_trained_where_it_is_judged(template, config_pad, tokenizer_pad, last, tmp_path):
    home = classifier(tmp_path / "judge", template, config_pad, tokenizer_pad)
    model = Pretrained(str(home)).open()
    found = [located(model.chat, ASKED.prompts[0], text)[-1] for text in ASKED.texts[0]]
    assert found == last
    params = model.load()
    expected = judged(home)
    # fp32 sums of 32 terms of size 1, in rows of another length
    np.testing.assert_allclose(trained(model, params), expected, rtol=2e-5, atol=2e-5)
    export(model, params, tmp_path / "again")
    np.testing.assert_allclose(judged(tmp_path / "again"), expected, rtol=2e-5, atol=2e-5)
    again = Pretrained(str(tmp_path / "again")).open()
    assert again.chat.fingerprints == model.chat.fingerprints


def test_a_policy_learns_the_end_of_its_turn_whatever_pads(tmp_path):
    """Of a language model padding says nothing; the head that it is given is judged by the end of the turn."""
    policy = RandomLlama(tied=False).open()
    export(policy, policy.load(), tmp_path / "policy")
    fields = json.loads((tmp_path / "policy" / "config.json").read_text())
    (tmp_path / "policy" / "config.json").write_text(json.dumps(fields | {"pad_token_id": END}))
    source = Pretrained(str(tmp_path / "policy"))
    for model in (source.open(), Headed(source).open()):
        assert located(model.chat, ASKED.prompts[0], "No.")[-1] == END
