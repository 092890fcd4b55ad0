"""The doctor on memory: what training and sampling need, counted by hand."""

import dataclasses
import math

import jax
from made_feedback import fed
from made_openings import by_name, opened, tiny_lm

from jaxalign.doctor.checks.memory import activations, rollouts, row_sizes, training
from jaxalign.doctor.examine import examine
from jaxalign.doctor.opened import Opened
from jaxalign.losses.kto import KTO
from jaxalign.losses.self_play_gradient import SelfPlayGradient
from jaxalign.models.random_llama import RandomLlama
from jaxalign.models.remat import REMAT
from jaxalign.objectives.weighted_sum import WeightedSum
from jaxalign.pairings.every_answer import EveryAnswer
from jaxalign.references.live import Live
from jaxalign.rollouts.geometric_mixture import GeometricMixture
from jaxalign.step_rules.extragradient import Extragradient


def test_training_memory_is_counted_in_copies_of_the_parameters(tmp_path):
    there = opened(tmp_path, "--loss.tau", "0.05", reference=Live())
    parts = training(there)
    size = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(there.model.abstract()))
    assert (parts["policy"], parts["trained copy"], parts["gradients"]) == (size, size, size)
    assert parts["live references"] == size  # the anchor; `last` is the policy that the fit began with
    assert 2 * size <= parts["optimizer"] < 2 * size + 100
    apart = training(opened(tmp_path, combiner=WeightedSum((1.0, 1.0, 1.0))))
    assert apart["gradients"] == 4 * size  # each annotator's, and the one made of them
    split_up = training(opened(tmp_path, "--placement.mesh.fsdp", "8", "--model.layers", "2"))
    assert split_up["policy"] < size / 6


def test_a_step_that_looks_ahead_keeps_who_did(tmp_path):
    there = opened(tmp_path, step_rule=Extragradient())
    assert training(there)["look-ahead"] == training(there)["policy"]
    assert training(opened(tmp_path))["look-ahead"] == 0


def test_a_mixture_decodes_with_the_parameters_and_the_cache_of_two(tmp_path):
    def parts(rollout):
        return rollouts(Opened(fed(tiny_lm(), rollout=rollout), tmp_path, 8))

    sampled = tiny_lm().feedback.rollout
    alone, both = parts(sampled), parts(GeometricMixture(sampled, share=0.5))
    assert both["policy"] == both["anchor"] == alone["policy"]
    assert alone["anchor"] == 0
    for name in ("copy for decoding", "KV cache", "logits"):
        assert both[name] == 2 * alone[name] > 0


def test_rows_with_strays_are_as_long_as_they_are_trained(tmp_path):
    def length(loss):
        made = dataclasses.replace(fed(tiny_lm(), pairing=EveryAnswer()), loss=loss)
        return row_sizes(Opened(made, tmp_path, 8))[1:]

    assert length(KTO()) == row_sizes(opened(tmp_path))[1:], "two answers a row, as of pairs"
    assert length(KTO())[1] > length(SelfPlayGradient())[1]


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
    assert "placement.accumulate" in found["memory of a device"].fix
    assert found["sampling"].status == "skipped"
    assert "the parameters need" in found["sampling"].fix
