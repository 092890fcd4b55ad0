"""Answers rated by language models: log-probs of conversations read one by one, and their differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_judges import SITE, judge_directory, site
from made_rollouts import rollouts

from jaxalign.config.load import components
from jaxalign.contracts.scope import opened
from jaxalign.errors import DataError, ModelError
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.model import Source
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.random_llama import RandomLlama
from jaxalign.models.tabular import TabularPolicy
from jaxalign.oracles.log_prob import DensityRatio, LogProb
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.oracles.planned import Asked, Planned
from jaxalign.pairings.close_ratings import CloseRatings
from jaxalign.types import Dated, Prompt, Rollouts

KEY = jax.random.key(0)
STRONG, WEAK = RandomLlama(tied=False, context=256, seed=1), RandomLlama(tied=True, context=256, seed=2)
RATIO = DensityRatio(LogProb(STRONG, "strong"), LogProb(WEAK, "weak"))


def asked() -> Rollouts:
    texts = [["Because of air.", "It is not blue at all, as far as I can see.", ""], ["No.", "Yes.", "No."]]
    return rollouts(texts, ["Why is the sky as blue as it is when the sun is high?", "Is it?"])


def scores(annotator: object, given: Rollouts, where=SITE) -> np.ndarray:
    with opened(Panel((Weighted(annotator),)), where) as judge:
        return judge(given, KEY).scores[:, 0]


def alone(source: Source, prompt: Prompt, text: str) -> float:
    """Nats of one answer, its conversation read by itself with a plain causal mask."""
    model = source.open()
    params = model.load()
    begun = model.chat.encode_all([model.chat.render(prompt.messages)])[0]
    said = model.chat.encode_all([text])[0] if text else []
    ids = jnp.asarray([*begun, *said, model.chat.stop[0]], jnp.int32)[None]
    position, mask = jnp.arange(ids.shape[1], dtype=jnp.int32)[None], jnp.tril(jnp.ones((1, *2 * ids.shape[1:]), bool))
    logits = model.logits(params, model.hidden(params, ids, position, mask))
    logps = jnp.take_along_axis(jax.nn.log_softmax(logits[0, :-1]), ids[0, 1:, None], axis=1)[:, 0]
    return float(logps[len(begun) - 1 :].sum())


@pytest.mark.parametrize("source", [STRONG, WEAK], ids=["untied", "tied"])
def test_log_probs_are_those_of_answers_read_one_by_one(source) -> None:
    given = asked()
    wanted = [[alone(source, p, text) for text in said] for p, said in zip(given.prompts, given.texts, strict=True)]
    np.testing.assert_allclose(scores(LogProb(source), given), wanted, rtol=1e-5)


def test_a_ratio_is_the_difference_and_close_pairs_are_those_of_a_small_one() -> None:
    given = asked()
    found = scores(RATIO, given)
    np.testing.assert_allclose(found, scores(RATIO.strong, given) - scores(RATIO.weak, given), rtol=1e-5)
    with opened(Panel((Weighted(RATIO),)), SITE) as judge:
        groups = CloseRatings(pairs=1)(given, judge(given, KEY), KEY)
    apart = np.abs(found[0][:, None] - found[0])
    np.fill_diagonal(apart, np.inf)
    closest = np.unravel_index(apart.argmin(), apart.shape)
    assert {*groups.responses[0].tolist()} == {*map(int, closest)}


@pytest.mark.parametrize("shape", [MeshShape(data=2, fsdp=2, tensor=2), MeshShape(fsdp=8)], ids=["2x2x2", "8"])
def test_eight_devices_say_what_one_says(shape) -> None:
    np.testing.assert_allclose(scores(RATIO, asked(), site(shape, 16)), scores(RATIO, asked()), rtol=1e-5)


def test_weights_are_freed_with_the_scope() -> None:
    with LogProb(STRONG).open(SITE) as judge:
        leaves = jax.tree.leaves(judge._params)
        assert not any(leaf.is_deleted() for leaf in leaves)
    assert all(leaf.is_deleted() for leaf in leaves)


def test_what_cannot_be_read_is_refused_by_name(tmp_path) -> None:
    for source in (TabularPolicy((0.5, 0.5)), Pretrained(str(judge_directory(tmp_path / "scores", 1)))):
        with pytest.raises(ModelError, match="no language model that reads text"):
            scores(LogProb(source), asked())
    for context, why in ((64, "cannot be read by random llama.*a prompt of more than 64"), (90, "reads 90")):
        with pytest.raises(DataError, match=f"log_prob: the answer .* to prompt 'p0' .*{why}"):
            scores(LogProb(dataclasses.replace(STRONG, context=context)), asked())
    assert list(LogProb(STRONG, date="yesterday").problems()) == ["date 'yesterday' is no day such as 2026-11-28"]


def test_plans_and_pins_find_both_models_of_a_ratio() -> None:
    found = [each for each in components(Panel((Weighted(RATIO),))).values() if isinstance(each, Planned)]
    assert found == [RATIO.strong, RATIO.weak]
    assert all(isinstance(each, Dated) for each in found)


def test_the_planned_program_is_lowered_from_shapes_alone() -> None:
    planned = LogProb(STRONG).planned(site(MeshShape(fsdp=8), 16), Asked(6, 40, 24), lambda source: source.open())
    assert (planned.rows, planned.rows_a_prompt) == (16, 1)
    assert 16 * 6 * 24 <= planned.program.work.scored <= 16 * planned.program.work.row
    assert "f32[16,6]" in planned.program.lower().as_text(dialect="hlo")
