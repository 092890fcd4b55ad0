"""Score models as sources: heads that are drawn, what of them is trained, trees of answers, files of other programs."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_classifier import open_classifier
from made_groups import groups, rollouts
from made_judges import SITE
from made_models import MESHES, mesh, nudged, place
from made_rollouts import rollouts as said
from safetensors.numpy import load_file

from jaxalign.contracts.scope import opened
from jaxalign.data.groups import RolledGroups
from jaxalign.errors import ConfigError, ModelError
from jaxalign.exchange.export import export
from jaxalign.losses.bradley_terry import BradleyTerry
from jaxalign.losses.dpo import DPO
from jaxalign.losses.general_preference import GeneralPreference
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.headed import Headed
from jaxalign.models.lora import LoRA
from jaxalign.models.low_rank import frozen, join, trained
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.random_llama import RandomLlama
from jaxalign.models.tabular import TabularPolicy
from jaxalign.objectives.weighted_sum import WeightedSum
from jaxalign.oracles.learned import PreferenceModel, RewardModel
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.rollouts.shares import given
from jaxalign.training.rows import pack, row_shape
from jaxalign.training.step import init_state, make_step
from jaxalign.training.views import group_scores, last_outputs, view_of
from jaxalign.types import Labels

BASE = RandomLlama(tied=False, context=64, layers=3)
KINDS = {
    "full": Headed(BASE, outputs=2, seed=3),
    "lora": LoRA(Headed(BASE, outputs=2, seed=3), rank=2),
    "frozen": Headed(BASE, outputs=2, seed=3, trunk="frozen"),
}
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
LOSS = GeneralPreference()


@pytest.fixture(scope="module")
def batch():
    """Three prompts, six pairs of their answers."""
    rolled, pairs = rollouts(), groups([0, 0, 1, 1, 2, 2], [[0, 1], [2, 3], [1, 0], [3, 1], [0, 2], [2, 1]])
    return jax.tree.map(
        jnp.asarray, pack(RolledGroups(rolled, pairs), np.arange(6), row_shape(RolledGroups(rolled, pairs)), {})
    )


def stepped(source, batch, on=None):
    """What one step of gradient descent makes of the source's model: trained parameters, metrics."""
    model = source.open()
    params = model.load()
    if on is not None:
        model, params = model.on(on, MeshShape().rules), place(model, params, on)
    optimizer = optax.sgd(0.1)
    step = jax.jit(make_step(view_of(model, LOSS), optimizer, optax.constant_schedule(0.1)))
    stacked = jax.tree.map(lambda leaf: leaf[None], batch)
    state, metrics = step(init_state(params, optimizer), frozen(params), {}, stacked)
    return state.params, metrics


def test_a_head_is_drawn_from_its_seed_and_the_trunk_is_the_base():
    model, base = KINDS["full"].open(), BASE.open()
    params, trunk = model.load(), base.load()
    assert params["score"].shape == (2, 32)
    assert "head" not in params
    np.testing.assert_array_equal(params["score"], KINDS["full"].open().load()["score"])
    assert not np.array_equal(params["score"], Headed(BASE, outputs=2, seed=4).open().load()["score"])
    assert np.std(Headed(BASE, outputs=64).open().load()["score"]) == pytest.approx(0.02, rel=0.05)
    del params["score"], trunk["head"]
    assert jax.tree.all(jax.tree.map(np.array_equal, params, trunk))


def test_a_shorter_trunk_has_the_first_layers():
    short = Headed(BASE, layers=2).open()
    whole = Headed(BASE).open().load()
    assert short.config.layers == 2
    assert jax.tree.all(
        jax.tree.map(lambda few, all_: np.array_equal(few, all_[:2]), short.load()["blocks"], whole["blocks"])
    )


def test_what_is_trained():
    assert set(trained(KINDS["full"].open().load())) == {"embed", "blocks", "norm", "score"}
    adapted = trained(KINDS["lora"].open().load())
    assert set(adapted) == {"blocks", "score"}
    assert set(adapted["score"]) == {"whole"}
    alone = KINDS["frozen"].open().load()
    assert jax.tree.map(jnp.shape, trained(alone)) == {"score": {"whole": (2, 32)}}
    together = join(trained(alone), frozen(alone))
    assert jax.tree.all(jax.tree.map(np.array_equal, together, alone))


@pytest.mark.parametrize("source", KINDS.values(), ids=KINDS)
def test_a_step_lowers_the_loss_and_moves_what_is_trained(source, batch):
    before = trained(source.open().load())
    after, metrics = stepped(source, batch)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert not np.array_equal(jax.tree.leaves(before["score"])[0], jax.tree.leaves(after["score"])[0])
    model = source.open()
    whole = model.load()
    # a group's weight is its share; the loss before is that of the metrics
    share = batch.weight / batch.weight.sum()
    lower = LOSS(group_scores(model, join(after, frozen(whole)), batch)) @ share
    assert lower < metrics["loss"]
    assert metrics["rewards/accuracies"].shape == metrics["rewards/margins"].shape == ()


@pytest.mark.parametrize("source", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", MESHES)
def test_eight_devices_train_as_one_does(source, name, batch):
    rows = {"8x1x1": 8, "2x2x2": 4}.get(name, 1)
    batch = jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.zeros_like(leaf)])[: -(-6 // rows) * rows], batch)
    alone, expected = stepped(source, batch)
    spread, metrics = stepped(source, batch, mesh(name))
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, **CLOSE), spread, alone)


def test_annotators_may_be_objectives_of_their_own(batch):
    """Two of them with weights make the gradient of their mixture: outputs are linear in no label, but losses are."""
    votes = np.random.default_rng(0).uniform(0, 1, (6, 2)).astype(np.float32)
    labels = Labels(votes.mean(1), None, None, votes, np.ones_like(votes))
    model = KINDS["full"].open()
    params, optimizer = model.load(), optax.sgd(0.1)
    stacked = jax.tree.map(lambda leaf: leaf[None], dataclasses.replace(batch, labels=labels))
    found = []
    for more in ((), (WeightedSum((0.5, 0.5)),)):
        step = jax.jit(make_step(view_of(model, LOSS), optimizer, optax.constant_schedule(0.1), *more))
        found.append(step(init_state(params, optimizer), {}, {}, stacked)[0].params)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, **CLOSE), *found)


def test_answers_that_share_their_prompt_score_as_each_conversation_alone(tmp_path):
    """What the tree of rows says is what readers of the exported directory say of whole conversations."""
    model = Headed(RandomLlama(tied=False), outputs=2).open()
    params = nudged(model.load(), 0.1, seed=1)
    export(model, params, tmp_path / "judge")
    judge = open_classifier(str(tmp_path / "judge"))
    talks = [[{"role": "user", "content": "Why?"}, {"role": "assistant", "content": text}] for text in ("No.", "Yes!!")]
    trunk = model.chat.encode(talks[0][:1])
    rows = [judge.ids(talk) for talk in talks]
    assert all(row[: len(trunk)] == trunk for row in rows)
    answers = [row[len(trunk) :] for row in rows]
    tokens = np.zeros((1, 2, max(map(len, answers))), np.int32)
    for index, answer in enumerate(answers):
        tokens[0, index, : len(answer)] = answer
    rolled = given(
        np.asarray([trunk], np.int32),
        np.asarray([len(trunk)], np.int32),
        tokens,
        np.asarray([[*map(len, answers)]], np.int32),
    )
    pairs = groups([0], [[0, 1]])
    packed = jax.tree.map(
        jnp.asarray, pack(RolledGroups(rolled, pairs), np.arange(1), row_shape(RolledGroups(rolled, pairs)), {})
    )
    np.testing.assert_allclose(last_outputs(model, params, packed.rows, 2)[0], judge(rows), **CLOSE)


@pytest.mark.parametrize("source", KINDS.values(), ids=KINDS)
def test_an_exported_score_model_is_read_as_it_was(source, tmp_path):
    model = source.open()
    whole = model.load()
    params = join(nudged(trained(whole), 0.1, seed=2), frozen(whole))
    export(model, params, tmp_path / "judge")
    fields = json.loads((tmp_path / "judge" / "config.json").read_text())
    assert fields["architectures"] == ["LlamaForSequenceClassification"]
    assert fields["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
    tensors = load_file(tmp_path / "judge" / "model.safetensors")
    assert "lm_head.weight" not in tensors
    np.testing.assert_array_equal(tensors["score.weight"], params["score"][...])
    again = Pretrained(str(tmp_path / "judge")).open()
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, 259, (2, 9)), jnp.int32)
    position = jnp.tile(jnp.arange(9, dtype=jnp.int32)[None], (2, 1))
    mask = jnp.tile(jnp.tril(jnp.ones((9, 9), bool))[None], (2, 1, 1))

    def says(model, params):
        return model.logits(params, model.hidden(params, tokens, position, mask)[:, -1])

    np.testing.assert_allclose(says(again, again.load()), says(model, params), **CLOSE)


def test_judges_open_what_was_exported(tmp_path, key):
    for outputs in (1, 4):
        model = Headed(RandomLlama(), outputs=outputs, names=tuple("abcd"[:outputs])).open()
        export(model, model.load(), tmp_path / str(outputs))
    for oracle in (Panel((Weighted(RewardModel(str(tmp_path / "1"))),)), PreferenceModel(str(tmp_path / "4"))):
        with opened(oracle, SITE) as judge:
            assert judge(said([["one", "two"]]), key).prefer.shape == (1, 2, 2)
    assert Pretrained(str(tmp_path / "4")).open().config.outputs == ("a", "b", "c", "d")


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    for source, says in (
        (Headed(BASE, outputs=0), "outputs must be at least 1"),
        (Headed(BASE, outputs=2, names=("one",)), "2 different ones"),
        (Headed(BASE, layers=4), "4 layers are to be kept, but random llama, seed 0 has 3"),
        (Headed(LoRA(BASE)), r"LoRA goes around: LoRA\(Headed"),
        (Headed(KINDS["full"]), "has a head of 2 outputs already"),
        (Headed(TabularPolicy((0.5, 0.5))), "needs a plain decoder"),
        (LoRA(KINDS["frozen"]), "is adapted already"),
    ):
        with pytest.raises(ModelError, match=says):
            source.open()
    with pytest.raises(ConfigError, match="DPO reads log-probs, and random llama, seed 0 has a head of 2 outputs"):
        view_of(KINDS["full"].open(), DPO())
    with pytest.raises(
        ConfigError, match="BradleyTerry reads outputs of a head, and random llama, seed 0 scores its voc"
    ):
        view_of(BASE.open(), BradleyTerry())
    with pytest.raises(ConfigError, match="BradleyTerry reads one output, a reward, and there are 2"):
        view_of(KINDS["full"].open(), BradleyTerry())
