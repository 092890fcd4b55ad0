"""Meshes that do not divide what they split, told before anything is compiled."""

import dataclasses

import pytest
from made_runs import tiny_lm

from jaxalign.config.load import override
from jaxalign.machine import Machine, Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.experts import Mixture
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.releases import QWEN2_1P5B
from jaxalign.plan.chips import listed, topology
from jaxalign.plan.remarks import remarks
from jaxalign.plan.target import model_of
from jaxalign.training.row_rule import Planned
from jaxalign.training.rows import RowShape

SHAPE = dataclasses.replace(
    QWEN2_1P5B, layers=1, width=64, mlp=96, heads=8, kv_heads=4, head_dim=16, vocab=320, context=256
)
ROWS = RowShape(row=256, scored=128, response=64)


def step(rows: RowShape = ROWS) -> Planned:
    return Planned(24, rows)


def told(rows: RowShape = ROWS, name: str = "v5p:2x2x2", mixture: Mixture | None = None, **mesh: int) -> str:
    shape = dataclasses.replace(SHAPE, mixture=mixture)
    machine = Machine(
        model_of(Pretrained("nowhere", compute_dtype="bfloat16", shape=shape)), Placement(MeshShape(**mesh)), 0
    )
    return " ".join(remarks(machine, topology(name), step(rows)))


def test_a_mesh_that_divides_everything_is_no_remark():
    assert told(fsdp=2, tensor=4) == ""
    assert told(fsdp=2, context=2, tensor=2) == ""
    assert told(expert=2, fsdp=4, mixture=Mixture(8, 2, 96, True)) == ""


def test_more_tensor_than_kv_heads():
    """Eight devices share out four KV heads' keys and values, and two queries each go to two devices at most."""
    said = told(tensor=8, fsdp=1)
    assert "tensor 8 does not divide the model's 4 KV heads" in said
    assert "keys, values and all of attention's scores are computed again" in said
    assert "the most that repeats nothing is 4." in said


def test_queries_of_a_kv_head_that_can_be_split():
    many = dataclasses.replace(SHAPE, heads=16, kv_heads=2)
    machine = Machine(
        model_of(Pretrained("nowhere", compute_dtype="bfloat16", shape=many)), Placement(MeshShape(tensor=8, fsdp=1)), 0
    )
    (said,) = remarks(machine, topology("v5p:2x2x2"), step())
    assert "KV heads: keys and values are computed again" in said


def test_heads_feed_forward_and_vocabulary_that_do_not_divide():
    said = told(tensor=3, fsdp=2)
    assert "tensor 3 does not divide the model's 8 query heads" in said
    assert "the model's vocabulary of 320" in said
    assert "feed-forward" not in said


def test_rows_that_cannot_be_cut():
    said = told(rows=dataclasses.replace(ROWS, row=258), context=4, fsdp=2)
    assert "context 4 does not divide rows of 258 tokens" in said


def test_rows_that_kernels_of_attention_refuse():
    """Gradients of 32,768 keys of heads of 128 and their sums are 64 MiB; v5p has 60 for a kernel, v6e 100."""
    long = dataclasses.replace(ROWS, row=32_768)
    said = told(rows=long, fsdp=8)
    assert "Kernels of attention refuse rows of 32768 tokens (32768 keys of heads of 128 do not fit 60 MiB" in said
    assert "They take them in 2 pieces (placement.mesh.context)." in said
    assert told(rows=long, context=2, fsdp=4) == ""
    assert told(rows=long, name="v6e:2x4", fsdp=8) == ""
    assert told(rows=dataclasses.replace(ROWS, row=16_384), fsdp=8) == ""
    assert told(name="v5e:2x4", fsdp=8) == (
        "There are no kernels of attention for v5e: its scores go through memory, in blocks of XLA."
    )


def test_widths_that_cannot_be_stored_split():
    assert "width of 64 does not divide over fsdp = 3" in told(fsdp=3)


def test_experts_of_a_model_that_has_none_and_that_do_not_divide():
    assert "expert 4, but the model has no experts" in told(expert=4, fsdp=2)
    assert "expert 4 does not divide the model's 6 experts" in told(expert=4, fsdp=2, mixture=Mixture(6, 2, 96, True))


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("v5p:2x2x4", True),
        ("v5p:4x4x12", True),
        ("v5p:4x2x2", True),
        ("v5p:2x2x8", False),
        ("v5e:2x4", True),
        ("v5e:2x16", False),
        ("h100:24", True),
    ],
)
def test_shapes_that_are_listed(name, known):
    found = topology(name)
    assert listed(found.generation, found.dims) is known
    if found.generation == "v5p" and not known:
        assert f"{name} is no shape that Google Cloud lists" in told(name=name)


def test_remarks_are_of_what_is_planned():
    experiment = override(tiny_lm(), ["--placement.mesh.fsdp", "3"])
    machine = Machine(experiment.model.open(), experiment.placement, 0)
    assert "does not divide over fsdp = 3" in " ".join(remarks(machine, topology("v5e:2x2"), step()))
