"""The doctor on memory: what training and sampling need, counted by hand."""

import dataclasses
import math
from functools import partial

import jax
from made_feedback import fed
from made_openings import by_name, opened, tiny_lm
from made_pairs import dpo, inline

from jaxalign.doctor.checks.memory import (
    activations,
    decoding,
    longest,
    rollouts,
    row_sizes,
    scoring,
    training,
)
from jaxalign.doctor.examine import examine
from jaxalign.doctor.opened import Opened
from jaxalign.losses.kto import KTO
from jaxalign.losses.self_play_gradient import SelfPlayGradient
from jaxalign.models.random_llama import RandomLlama
from jaxalign.models.remat import REMAT
from jaxalign.objectives.weighted_sum import WeightedSum
from jaxalign.pairings.every_answer import EveryAnswer
from jaxalign.references.cached import Cached
from jaxalign.references.live import Live
from jaxalign.rollouts.geometric_mixture import GeometricMixture
from jaxalign.rollouts.lockstep import read_prompts
from jaxalign.step_rules.extragradient import Extragradient
from jaxalign.training.one_prompt import OnePrompt


def test_training_memory_is_counted_in_copies_of_the_parameters(tmp_path):
    there = opened(tmp_path, "--loss.tau", "0.05", reference=Live())
    parts = training(there)
    size = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(there.model.abstract()))
    assert (parts["policy"], parts["trained copy"], parts["gradients"]) == (size, size, size)
    assert parts["live references"] == size  # the anchor; `last` is the policy that the fit began with
    assert 2 * size <= parts["optimizer"] < 2 * size + 100
    apart = training(opened(tmp_path, combiner=WeightedSum((1.0, 1.0, 1.0))))
    assert apart["gradients"] == 4 * size  # each annotator's, and the one made of them
    summed = training(opened(tmp_path, "--placement.accumulate", "2", combiner=WeightedSum((1.0, 1.0, 1.0))))
    assert summed["gradients"] == 7 * size  # and the sums of those of each annotator
    assert training(opened(tmp_path, "--placement.accumulate", "2"))["gradients"] == 2 * size
    split_up = training(opened(tmp_path, "--placement.mesh.fsdp", "8", "--model.layers", "2"))
    assert split_up["policy"] < size / 6


def test_a_step_that_looks_ahead_keeps_who_did(tmp_path):
    there = opened(tmp_path, step_rule=Extragradient())
    assert training(there)["look-ahead"] == training(there)["policy"]
    assert training(opened(tmp_path))["look-ahead"] == 0


def test_a_mixture_decodes_with_the_parameters_and_the_cache_of_two(tmp_path):
    def parts(rollout):
        there = Opened(fed(tiny_lm(), rollout=rollout), tmp_path, 8)
        (program,) = there.comparer.roller.programs(there.machine.abstract, longest(there, there.prompts))
        return rollouts(there), decoding(there, program, rollout != sampled)

    sampled = tiny_lm().feedback.rollout
    (_, alone), (phase, both) = parts(sampled), parts(GeometricMixture(sampled, share=0.5))
    assert phase["policy"] == phase["anchor"] == both["anchor"]
    assert alone["anchor"] == 0
    for name in ("copy for decoding", "KV cache", "logits"):
        assert both[name] == 2 * alone[name] > 0


def test_the_cache_is_what_decoding_keeps(tmp_path):
    """A prompt's keys and values once, and room behind it for each of its samples."""
    there = opened(tmp_path, "--feedback.rollout.samples", "5")
    (program,) = there.comparer.roller.programs(there.machine.abstract, longest(there, there.prompts))
    (params, prompts, lengths, _), limit = program.arguments, there.experiment.feedback.rollout.max_tokens
    count = 5 * len(prompts)
    read = partial(read_prompts, there.model, rows=count, room=limit)
    _, cache = jax.eval_shape(lambda *inputs: read(*inputs), params, prompts, lengths)
    leaves = jax.tree.leaves((cache.prompts, cache.own))
    found = decoding(there, program, anchored=False)
    assert found["KV cache"] == sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    assert found["logits"] == 4 * count * there.model.config.vocab


def test_rows_with_strays_are_as_long_as_they_are_trained(tmp_path):
    def length(loss):
        made = dataclasses.replace(fed(tiny_lm(), pairing=EveryAnswer()), loss=loss)
        return row_sizes(Opened(made, tmp_path, 8))[1:]

    assert length(KTO()) == row_sizes(opened(tmp_path))[1:], "two answers a row, as of pairs"
    assert length(KTO())[1] > length(SelfPlayGradient())[1]


def test_rows_that_are_only_scored_are_counted_as_they_are_packed(tmp_path):
    """Three answers have three pairs: a row for each in training, one for all of them where they are scored."""
    long = ("--placement.score_batch_size", "64", "--feedback.rollout.max_tokens", "40")
    scored = dataclasses.replace(tiny_lm().fit, scored_rows=OnePrompt(3))
    there, single = opened(tmp_path, *long, fit=scored), opened(tmp_path, *long)
    found, before = scoring(there)["references"], scoring(single)["references"]
    assert before["activations"] > 0
    assert found["logits"] == before["logits"] * 128 / 96, "three answers of 40 tokens, and two, in multiples of 32"
    assert found["activations"] > before["activations"]
    assert found["policy"] == found["policies beside"] == training(there)["policy"]
    assert scoring(opened(tmp_path, reference=Live())) == {}


def test_what_no_fit_trains_on_is_scored_beside_its_state(tmp_path):
    fit = dataclasses.replace(tiny_lm().fit, scored_rows=OnePrompt(3), evaluate_every=2)
    there = opened(tmp_path, "--feedback.validation", "0.25", fit=fit)
    kept, found = training(there), scoring(there)["left_out"]
    for name in ("policy", "trained copy", "optimizer", "live references"):
        assert found[name] == kept[name], name
    assert found["activations"] < kept["activations"], "those of a layer"
    assert "gradients" not in found
    behind = scoring(opened(tmp_path, "--feedback.unseen", "0.25"))["left_out"]
    assert "optimizer" not in behind


def test_held_out_pairs_that_are_longer_than_those_trained_on_can_be_what_does_not_fit(tmp_path, monkeypatch):
    """At the same settings: pairs of a few words to train on, and of thousands to measure by."""
    long = ("Moin, I am Zoe.", "Hello Zoe! " * 100, "Zoe who? " * 100)
    made = dataclasses.replace(dpo("--model.context", "4096"), reference=Cached())
    there = Opened(fed(made, heldout=inline(long), max_tokens=1500, long_answers="keep_start"), tmp_path, 8)
    sizes = {name: sum(parts.values()) for name, parts in scoring(there).items()}
    assert sizes["left_out"] > max(sizes["references"], sum(training(there).values()))
    monkeypatch.setattr(Opened, "memory", sizes["left_out"] - 1)
    found = by_name(examine(there))["memory of a device"]
    assert found.status == "finding"
    assert found.fix.startswith("left_out needs")
    assert "fit.scored_rows" in found.fix


def test_activations_by_hand_and_by_remat():
    model = RandomLlama(layers=3, width=8, mlp=16, heads=2, kv_heads=1, head_dim=4)
    kept = {remat: activations(model.config(259).keeping(remat), 2, 10, 1) for remat in REMAT}
    # d 8, q 8, k 4, f 16, n 2, s 10, c 4: a layer keeps 4 (32 + 16 + 8 + 64) + 64 + 160 = 704 bytes a token
    layer = 704
    assert kept["none"] == 2 * 10 * 3 * layer
    assert kept["dots"] == 2 * 10 * (3 * 4 * (24 + 16 + 8 + 32) + layer)
    assert kept["attention"] == 2 * 10 * (3 * 4 * (8 + 8) + layer)
    assert kept["full"] == 2 * 10 * (3 * 4 * 8 + layer)


def test_too_little_memory_is_a_finding_and_what_needs_weights_is_skipped(tmp_path, monkeypatch):
    there = opened(tmp_path)
    monkeypatch.setattr(Opened, "memory", 1000)
    found = by_name(examine(there))
    assert found["memory of a device"].status == "finding"
    assert "placement.score_batch_size" in found["memory of a device"].fix
    assert found["sampling"].status == "skipped"
    assert "the parameters need" in found["sampling"].fix
