"""The programs of a pod, compiled by the TPU compiler at reduced depth and width: a part of the ordinary tests.

What breaks the pod breaks here: a buffer of full logits, a parameter that is whole on a device, a collective that the
compiler could not find, a flag that it does not know.
"""

import dataclasses
import json
import math
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install libtpu")

from jaxalign.config.load import load
from jaxalign.experiment import Experiment
from jaxalign.machine import Placement
from jaxalign.mesh import flags
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.releases import LLAMA3_8B
from jaxalign.ops.linear_logp import sharded
from jaxalign.plan.chips import chip, topology
from jaxalign.plan.compiled import Compiled, compile_program, torus_of
from jaxalign.plan.kept import Kept
from jaxalign.plan.lowered import programs
from jaxalign.plan.remarks import remarks
from jaxalign.plan.target import devices_of, machine_of, model_of, quiet, sizes_of
from jaxalign.plan.torus import Span
from jaxalign.programs import planned_step
from jaxalign.rollouts.sample import Sample
from jaxalign.training.step import Fit

pytestmark = pytest.mark.timeout(600)

CONFIGS = Path(__file__).parents[2] / "configs"

SHAPE = dataclasses.replace(
    LLAMA3_8B, layers=3, width=1024, mlp=3584, heads=8, kv_heads=4, head_dim=128, vocab=32064, context=4096
)
PROMPT, RESPONSE = 128, 224
"""Rows of 576 tokens: two blocks of attention, the second one not full. No size of the model is a number of tokens."""


def small(mesh: MeshShape, topology: str, shape: DecoderConfig = SHAPE, **changes) -> Experiment:
    """The recipe of the 8B run with fewer and smaller layers."""
    made = load(CONFIGS / "iter_ipo_llama3_8b_v5p_64.py")
    rows = mesh.sizes["data"] * mesh.sizes["fsdp"] * mesh.sizes["slice"] * mesh.sizes["expert"]
    return dataclasses.replace(
        made,
        model=Pretrained("nowhere", compute_dtype="bfloat16", shape=shape),
        feedback=dataclasses.replace(
            made.feedback, rollout=Sample(samples=2, max_tokens=RESPONSE, max_prompt_tokens=PROMPT)
        ),
        fit=Fit(batch_size=rows),
        placement=Placement(mesh, topology, remat="full", score_batch_size=rows, rollout_rows=2 * rows),
        **changes,
    )


@cache
def compiled(mesh: MeshShape, name: str, program: str, shape: DecoderConfig = SHAPE) -> Compiled:
    experiment, target = small(mesh, name, shape), topology(name, mesh.slices)
    machine = machine_of(experiment, target)
    sizes = sizes_of(experiment, machine.model)
    (found,) = (each for each in programs(experiment, machine, sizes) if each.name == program)
    made = compile_program(found, machine.model, target, chip(target.generation))
    assert isinstance(made, Compiled), made
    return made


def whole_parameters() -> dict[int, str]:
    """Elements of every matrix of the model, all layers of it together, by what it is."""
    model = model_of(Pretrained("nowhere", shape=SHAPE))
    paths = jax.tree_util.tree_flatten_with_path(model.abstract())[0]
    found = {leaf.size: jax.tree_util.keystr(path, simple=True, separator=".") for path, leaf in paths}
    return {size: name for size, name in found.items() if size > SHAPE.width * SHAPE.layers}


MESH = MeshShape(data=2, fsdp=4)


MIXED = MeshShape(fsdp=2, tensor=2, context=2)


@pytest.mark.parametrize(
    ("mesh", "name", "program"),
    [
        (MESH, "v5p:2x2x2", "train"),
        (MIXED, "v5e:2x4", "logp"),
        pytest.param(MESH, "v5p:2x2x2", "logp", marks=pytest.mark.tpu_compile),
        pytest.param(MIXED, "v5e:2x4", "train", marks=pytest.mark.tpu_compile),
    ],
)
def test_no_full_logits_and_no_whole_parameter(
    mesh: MeshShape, name: str, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a head that a real one is to its pieces
    monkeypatch.setattr(sharded, "PIECE_BYTES", 8 << 20)
    made = compiled(mesh, name, program)
    scored = 2 * RESPONSE // mesh.context
    vocabulary = SHAPE.vocab // mesh.tensor
    buffers = [shape for shape in made.shapes if shape.elements > 1]
    logits = [shape for shape in buffers if vocabulary in shape.dims and shape.elements % (scored * vocabulary) == 0]
    whole = [shape for shape in buffers if shape.elements in whole_parameters()]
    # the stack of a parameter that is not split by width on the device that holds all of it would be one of these
    largest = max(whole_parameters())
    assert not logits
    assert not whole, {shape: whole_parameters()[shape.elements] for shape in whole}
    assert max(shape.elements for shape in buffers) < largest


def test_partitions_run_where_their_devices_are() -> None:
    """Of a mesh of 4 x 2 on 2x2x2 chips the pairs of its last axis are neighbours, and all are three axes without a
    ring."""
    experiment, target = small(MeshShape(fsdp=4, tensor=2), "v5p:2x2x2"), topology("v5p:2x2x2")
    machine = machine_of(experiment, target)
    found = programs(experiment, machine, sizes_of(experiment, machine.model))[0]
    torus = torus_of(found, target)
    assert torus is not None
    assert len(set(torus.places)) == 8
    assert [torus.apart(n, n + 1) for n in range(0, 8, 2)] == [1] * 4
    assert torus.span(range(8)) == Span(links=3.0, hops=3, crossing=0.5)


def test_weights_are_gathered_beside_products_and_gradients_scattered() -> None:
    traffic = compiled(MESH, "v5p:2x2x2", "train").traffic
    # pieces of the head, half of this small model, are gathered in a loop of their own and wait
    assert traffic.ici_asynchronous_bytes > 0.25 * traffic.ici_bytes
    assert traffic.by_kind["reduce-scatter"].bytes > 0
    # of all weights: gathered for the reference, forward and backward, small ones also otherwise; scattered once
    model = model_of(Pretrained("nowhere", shape=SHAPE))
    weights = 2 * sum(leaf.size for leaf in jax.tree.leaves(model.abstract()))
    share = (MESH.fsdp - 1) / MESH.fsdp
    assert 1.8 * share * weights < traffic.by_kind["all-gather"].bytes < 4.5 * share * weights
    assert traffic.by_kind["reduce-scatter"].bytes < 1.5 * share * weights


@pytest.mark.tpu_compile
def test_a_token_is_decoded_by_the_devices_that_have_its_rows_and_heads() -> None:
    """However many answers of a prompt share its keys: of heads that are split over devices none are moved."""
    mesh, name = MeshShape(data=2, fsdp=2, tensor=4), "v5p:2x2x4"
    traffic = compiled(mesh, name, "rollout", dataclasses.replace(SHAPE, heads=32, kv_heads=8)).traffic
    # embeddings of the prompts; a token's argmax over the vocabulary and sums of projections, two a layer, are others
    assert traffic.by_kind["all-to-all"].count < 0.1 * RESPONSE
    assert "collective-permute" not in traffic.by_kind


def test_flops_as_compiled_are_those_of_the_model_and_what_is_computed_again() -> None:
    made = compiled(MESH, "v5p:2x2x2", "train")
    per_device = made.model_flops / MESH.data / MESH.fsdp
    # a reference (1), forward and backward (3) and a second forward pass (1) of which the model asks for the first two
    assert 1.1 < made.flops / per_device < 1.5


def test_the_state_is_donated() -> None:
    """Parameters and moments take one place, the results of the step none."""
    memory = compiled(MESH, "v5p:2x2x2", "train").memory
    model = model_of(Pretrained("nowhere", shape=SHAPE))
    state = 12 * sum(leaf.size for leaf in jax.tree.leaves(model.abstract())) / MESH.fsdp
    assert memory.arguments > state
    assert memory.outputs < 0.01 * state


def test_every_flag_is_known_to_the_compiler() -> None:
    mesh = MeshShape().build(devices_of(topology("v5e:2x2")))
    lowered = (
        jax.jit(lambda x: x + 1)
        .trace(jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P())))
        .lower(lowering_platforms=("tpu",))
    )
    with quiet():
        assert flags.options("plain", mesh) is None
        for flag, entry in flags.table()["tpu"].items():
            lowered.compile(compiler_options={flag: entry["value"]})
        with pytest.raises(Exception, match="No such compile option"):
            lowered.compile(compiler_options={"xla_tpu_make_it_fast": True})
    assert all(entry["why"] for flags in flags.table().values() for entry in flags.values())


@pytest.mark.tpu_compile
def test_plan_prints_its_verdict_as_json_and_compiles_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jaxalign.__main__ import main

    options = {
        "model.shape.layers": 1,
        "model.shape.width": 512,
        "model.shape.mlp": 1024,
        "model.shape.heads": 4,
        "model.shape.kv_heads": 4,
        "model.shape.vocab": 4096,
        "placement.mesh.data": 2,
        "placement.mesh.fsdp": 2,
        "feedback.rollout.max_tokens": 64,
        "feedback.rollout.max_prompt_tokens": 64,
        "placement.rollout_rows": 40,
        "fit.batch_size": 8,
        "placement.score_batch_size": 8,
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    config_file = str(CONFIGS / "iter_ipo_llama3_8b_v5p_64.py")
    arguments = ["plan", config_file, "--topology", "v5e:2x2", "--json", "--kept", str(tmp_path), *arguments]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is True
    assert found["chips"] == 4
    assert {"train", "rollout", "logp", "evaluation/rollout"} == found["peak_gib"].keys()
    assert 15 < found["hbm_capacity_gib"] < 16
    for name in ("collective_bytes", "flops", "step_seconds_estimate", "tokens_per_s_per_chip_estimate"):
        assert found[name] > 0, name
    bound, expected = found["step_seconds_range"]
    assert 0 < bound < expected == found["step_seconds_estimate"]
    assert math.isclose(found["compile_seconds"], sum(p["compile_seconds"] for p in found["programs"].values()))
    with monkeypatch.context() as refusing:
        refusing.setattr(Kept, "put", lambda *_: pytest.fail("compiled again"))
        assert main([*arguments, "--only", "train,logp"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["programs"]["train"] == found["programs"]["train"]
    assert (again["programs"].keys(), again["hours_range"]) == ({"train", "logp"}, None)


@pytest.mark.parametrize(
    ("mesh", "name", "said"),
    [
        (MeshShape(tensor=16, fsdp=1), "v5p:2x2x4", "tensor 16 does not divide the model's 8 KV heads: keys, values"),
        (MeshShape(fsdp=16), "v5p:2x2x4", "They take them in 2 pieces (placement.mesh.context)"),
        (MeshShape(expert=4, fsdp=4), "v5p:2x2x4", "expert 4, but the model has no experts"),
    ],
)
def test_meshes_that_nobody_ships_are_told_of_before_anything_is_compiled(
    mesh: MeshShape, name: str, said: str
) -> None:
    shape = dataclasses.replace(LLAMA3_8B, context=32_768)
    experiment = dataclasses.replace(
        small(mesh, name), model=Pretrained("nowhere", compute_dtype="bfloat16", shape=shape), fit=Fit(batch_size=16)
    )
    longest = Sample(samples=2, max_tokens=16_000, max_prompt_tokens=768)
    experiment = dataclasses.replace(experiment, feedback=dataclasses.replace(experiment.feedback, rollout=longest))
    machine = machine_of(experiment, topology(name))
    step = planned_step(experiment, machine, sizes_of(experiment, machine.model))
    assert said in " ".join(remarks(machine, topology(name), step))
