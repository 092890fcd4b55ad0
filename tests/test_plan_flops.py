"""What a model asks of a step, by hand: tokens through matrices and attention, in as many passes as there are."""

import dataclasses
from pathlib import Path

import pytest

from jaxalign.config.load import load
from jaxalign.machine import Machine, Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.lora import LoRA
from jaxalign.objectives.weighted_sum import WeightedSum
from jaxalign.plan.compiled import model_flops
from jaxalign.plan.lowered import programs
from jaxalign.plan.plan import chosen
from jaxalign.references.cached import Cached
from jaxalign.training.rows import Sizes

TINY = load(Path(__file__).parents[1] / "configs" / "tiny_lm.py")


def test_model_flops_are_those_of_every_product():
    """By hand for one layer: products of the tokens with the matrices, scored tokens with the head, and attention."""
    placement = Placement(MeshShape(fsdp=1))
    experiment = dataclasses.replace(TINY, placement=placement, reference=Cached())
    model = experiment.model.open()
    shape = model.config
    train = programs(experiment, Machine(model, placement, 0), Sizes(32, 24))[0]
    tokens, scored, row = 8 * 96, 8 * 64, 96
    matrices = shape.width * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads) + 3 * shape.width * shape.mlp
    norms = 2 * shape.width
    attention = 4 * shape.heads * shape.head_dim * row / 2
    body = shape.layers * (2 * (matrices + norms) + attention)
    expected = 3 * (tokens * body + scored * 2 * shape.vocab * shape.width)
    assert model_flops(train, model) == pytest.approx(expected, rel=1e-9)


def test_adapters_ask_for_no_gradients_of_what_is_frozen():
    """Two passes through the matrices in place of three; attention, which has no weights, has three."""
    placement = Placement(MeshShape(fsdp=1))
    experiment = dataclasses.replace(TINY, placement=placement, reference=Cached())
    adapted = dataclasses.replace(experiment, model=LoRA(experiment.model, rank=1))
    asked = []
    for each in (experiment, adapted):
        machine = Machine(each.model.open(), placement, 0)
        (train,) = chosen(programs(each, machine, Sizes(32, 24)), ("train",))
        scored = dataclasses.replace(train, work=dataclasses.replace(train.work, passes=("forward",)))
        asked.append((model_flops(train, machine.model), model_flops(scored, machine.model), machine.model))
    (whole, forward, model), (low, alike, _) = asked
    shape = model.config
    attention = 8 * 96 * shape.layers * 4 * shape.heads * shape.head_dim * 96 / 2
    assert whole == pytest.approx(3 * forward)
    assert low == pytest.approx(2 * alike + attention)


def test_objectives_kept_apart_have_a_backward_pass_each():
    experiment = dataclasses.replace(TINY, placement=Placement(MeshShape(fsdp=1)), reference=Cached())
    machine = Machine(experiment.model.open(), experiment.placement, 0)
    together = programs(experiment, machine, Sizes(32, 24))[0]
    apart = programs(dataclasses.replace(experiment, combiner=WeightedSum((0.5, 0.3, 0.2))), machine, Sizes(32, 24))[0]
    assert apart.arguments[-1].labels.votes.shape[-1] == 3
    assert model_flops(apart, machine.model) == pytest.approx(7 / 3 * model_flops(together, machine.model))
