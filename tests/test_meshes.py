"""What a run computes does not depend on the mesh: each axis of eight devices alone, in pairs and triples, and in any
order."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from made_families import config_of
from made_groups import groups
from made_groups import rollouts as some_rollouts
from made_models import ONE, nudged

from jaxalign.config.load import load
from jaxalign.data.groups import RolledGroups, with_logps
from jaxalign.data.trained import as_trained
from jaxalign.experiment import Experiment
from jaxalign.losses.aot import AOTUnpaired
from jaxalign.losses.bmc import BMC
from jaxalign.losses.inpo import INPO
from jaxalign.losses.ld_dpo import LDDPO
from jaxalign.losses.relative_po import RelativePO
from jaxalign.losses.sum_of import SumOf
from jaxalign.losses.wpo import WPO
from jaxalign.machine import Machine, Placement
from jaxalign.mesh.sharding import MESH_AXES, RULES, MeshShape, param_shardings, row_sharding
from jaxalign.models.experts import Mixture
from jaxalign.models.lora import LoRA
from jaxalign.models.low_rank import frozen
from jaxalign.models.model import Model
from jaxalign.models.random_model import RandomModel
from jaxalign.objectives.mixed import Mixed
from jaxalign.objectives.raco import RACO
from jaxalign.ops.attention import dispatch
from jaxalign.ops.linear_logp import sharded
from jaxalign.ops.linear_logp.tuning import tuning
from jaxalign.programs import training
from jaxalign.references.live import Live
from jaxalign.rollouts.contract import Task
from jaxalign.rollouts.lockstep import generate
from jaxalign.rollouts.samplers import Temperature
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.rows import RowShape, pack, stack_microbatches
from jaxalign.training.step import Fit, TrainState
from jaxalign.types import Combiner, Loss, Params, Rollouts

FIELDS = {"slice": "slices"}
ALONE = [{axis: 8} for axis in MESH_AXES]
PAIRS = [{one: 2, other: 4} for one, other in itertools.combinations(MESH_AXES, 2)]
TRIPLES = [{"slice": 2, "data": 2, "context": 2}, {"fsdp": 2, "expert": 2, "tensor": 2}]
"""Every axis once, beside two others."""
SHAPES = [*TRIPLES, *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in (*ALONE, *PAIRS))]

ROWS, LENGTH, SCORED, RESPONSE = 16, 64, 32, 16


APART = RACO((0.3, 0.7), c=0.5)


def shape_of(sizes: dict[str, int]) -> MeshShape:
    return MeshShape(**{"fsdp": 1, **{FIELDS.get(axis, axis): size for axis, size in sizes.items()}})


def name_of(sizes: dict[str, int]) -> str:
    return "x".join(f"{axis}{size}" for axis, size in sizes.items())


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What long rows and real vocabularies go through: blocks of queries, chunks and pieces of the head."""
    monkeypatch.setattr(dispatch, "BLOCK", 16)
    monkeypatch.setitem(tuning()["chunk"], "cpu", 48)
    monkeypatch.setattr(sharded, "PIECE_BYTES", 4096)


@cache
def opened(kind: str) -> Model:
    """Capped scores, windows and a tied head, alone or under adapters; or experts, normalised heads and one apart. All
    in odd sizes."""
    shape = config_of({"dense": "gemma2", "adapted": "gemma2", "experts": "qwen3_moe"}[kind])
    mixture = Mixture(experts=8, chosen=3, mlp=24, normalised=True) if shape.mixture else None
    shape = dataclasses.replace(
        shape, width=32, mlp=40, heads=16, kv_heads=8, head_dim=6, query_scalar=None, mixture=mixture
    )
    return (LoRA(RandomModel(shape), rank=3) if kind == "adapted" else RandomModel(shape)).open()


EVERYTHING = SumOf((WPO(), LDDPO(), BMC(), AOTUnpaired(), RelativePO(own=0.5)), (1.0, 1.0, 1.0, 1.0, 1.0))
"""What no other loss reads: log Σ p², the anchor token by token, edits, the other groups."""


def experiment_of(placement: Placement, combiner: Combiner, loss: Loss) -> Experiment:
    made = load(Path(__file__).parents[1] / "configs" / "tiny_lm.py")
    return dataclasses.replace(
        made,
        loss=loss,
        # a large eps: where a gradient is rounding and nothing else, the update stays in proportion to it
        optimizer=AdamW(WarmupLinear(0.01, warmup=0.0), eps=1e-3),
        fit=Fit(batch_size=ROWS, max_kl=math.inf),
        reference=Live(),
        combiner=combiner,
        placement=placement,
    )


@cache
def batch(accumulate: int, loss: Loss):
    data: Rollouts = some_rollouts()
    pairs = groups([0, 1, 2, 0] * 4, [[0, 1], [3, 1], [2, 0], [0, 2]] * 4)
    votes = np.stack([pairs.labels.prefer, np.tile(np.float32([0.1, 0.5, 1.0, 0.3]), 4)], axis=1)
    decided = (votes != 0.5).astype(np.float32)
    pairs = dataclasses.replace(pairs, labels=dataclasses.replace(pairs.labels, votes=votes, decided=decided))
    shape = RowShape(LENGTH, SCORED, RESPONSE)
    return stack_microbatches(
        [
            pack(as_trained(loss, with_logps(RolledGroups(data, pairs))), chosen, shape, {})
            for chosen in np.arange(ROWS).reshape(accumulate, -1)
        ]
    )


def two_steps(
    model: Model,
    placement: Placement,
    devices: Sequence[jax.Device] | None = None,
    combiner: Combiner = Mixed(),  # noqa: B008
    loss: Loss = INPO(eta=0.2, tau=0.05),  # noqa: B008
) -> tuple[TrainState, dict]:
    """State, moments included, and metrics after two steps from the same policy and references, wherever they lie."""
    machine = Machine(model, placement, 0, devices)
    made = training(experiment_of(placement, combiner, loss), machine, 2)
    params: Params = model.load()
    live = {"anchor": nudged(params, 0.05, 1), "last": nudged(params, 0.02, 2)}
    there = machine.shardings
    policy = jax.device_put(params, there)
    state = made.begin(policy, jax.device_put(live, dict.fromkeys(live, there)), np.int32(0))
    references = {role: made.reference(role, jax.device_put(live[role], there)) for role in made.references}
    rows = jax.device_put(batch(placement.accumulate, loss), row_sharding(machine.mesh, leading=1))
    for _ in range(2):
        state, metrics = made.step(state, frozen(policy), references, rows)
    jax.tree.map(assert_placed, state, made.abstract)  # a step leaves everything where the next one looks for it
    return state, metrics


def assert_placed(leaf: jax.Array, wanted: jax.ShapeDtypeStruct) -> None:
    assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim), f"{leaf.sharding} is not {wanted.sharding}"
    assert leaf.sharding.memory_kind == wanted.sharding.memory_kind


@cache
def on_one(kind: str) -> tuple[TrainState, dict]:
    return jax.tree.map(np.asarray, two_steps(opened(kind), Placement(MeshShape(fsdp=1))))


def assert_same(found, wanted) -> None:
    """fp32 sums in another order; two updates of 0.01 amplify what the first one rounds."""
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-5), jax.tree.map(np.asarray, found), wanted)


@pytest.mark.parametrize("sizes", SHAPES, ids=name_of)
def test_two_steps_on_any_mesh_are_those_of_one_device(sizes: dict[str, int]) -> None:
    kind = "experts" if "expert" in sizes else "dense"
    assert_same(two_steps(opened(kind), Placement(shape_of(sizes))), on_one(kind))


def test_the_order_of_devices_changes_nothing() -> None:
    sizes = {"fsdp": 2, "context": 2, "tensor": 2}
    order = np.random.default_rng(0).permutation(8)
    devices = [jax.devices()[index] for index in order]
    assert [device.id for device in shape_of(sizes).build(devices).devices.flat] == order.tolist()
    assert_same(two_steps(opened("dense"), Placement(shape_of(sizes)), devices), on_one("dense"))


@pytest.mark.parametrize(
    "saving",
    [
        {"accumulate": 2},
        {"optimizer_memory": "pinned_host"},
        pytest.param({"reference_memory": "pinned_host"}, marks=pytest.mark.slow),
        pytest.param({"remat": "full"}, marks=pytest.mark.slow),
    ],
    ids=["microbatches", "optimizer on the host", "references on the host", "layers computed again"],
)
def test_memory_is_saved_without_changing_the_step(saving: dict[str, Any]) -> None:
    placement = Placement(shape_of({"data": 2, "fsdp": 2, "tensor": 2}), **saving)
    state, metrics = two_steps(opened("dense"), placement)
    kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim}
    assert kinds == {placement.optimizer_memory}
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.params)} == {"device"}
    assert_same((state, metrics), on_one("dense"))


@cache
def apart_on_one(kind: str) -> tuple[TrainState, dict]:
    found = two_steps(opened(kind), Placement(MeshShape(fsdp=1)), combiner=APART)
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("kind", ["dense", "adapted"])
@pytest.mark.parametrize(
    ("sizes", "accumulate"),
    [
        ({"data": 2, "fsdp": 2, "tensor": 2}, 2),
        pytest.param({"fsdp": 8}, 2, marks=pytest.mark.slow),
        pytest.param({"fsdp": 2, "context": 4}, 1, marks=pytest.mark.slow),
    ],
    ids=["data2xfsdp2xtensor2 in microbatches", "fsdp8 in microbatches", "fsdp2xcontext4"],
)
def test_objectives_apart_are_combined_alike_on_any_mesh(sizes: dict[str, int], accumulate: int, kind: str) -> None:
    """Coefficients come of inner products of whole gradients: those of a device's own piece would be others. Under
    adapters they are of what is trained alone."""
    placement = Placement(shape_of(sizes), accumulate=accumulate)
    state, metrics = two_steps(opened(kind), placement, combiner=APART)
    added = metrics["coefficients/objective_0"] + metrics["coefficients/objective_1"] - 1
    assert added > 0.05  # c ‖g_0‖ / ‖G_q‖ of it, which no device knows alone
    assert_same((state, metrics), apart_on_one(kind))


@cache
def everything_on_one() -> tuple[TrainState, dict]:
    found = two_steps(opened("dense"), Placement(MeshShape(fsdp=1)), loss=EVERYTHING)
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize(
    ("sizes", "accumulate"),
    [
        ({"data": 2, "fsdp": 2, "tensor": 2}, 2),
        pytest.param({"fsdp": 8}, 2, marks=pytest.mark.slow),
        pytest.param({"fsdp": 2, "context": 4}, 2, marks=pytest.mark.slow),
    ],
    ids=["data2xfsdp2xtensor2 in microbatches", "fsdp8 in microbatches", "fsdp2xcontext4 in microbatches"],
)
def test_what_few_losses_read_is_the_same_on_any_mesh(sizes: dict[str, int], accumulate: int) -> None:
    """Groups are ordered and compared over the whole batch, wherever they lie and however they are split."""
    placement = Placement(shape_of(sizes), accumulate=accumulate)
    assert_same(two_steps(opened("dense"), placement, loss=EVERYTHING), everything_on_one())


def sampled(kind: str, mesh: jax.sharding.Mesh):
    model = opened(kind)
    params = jax.device_put(model.load(), param_shardings(mesh, RULES, model.abstract(), model.axes))
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 12, 8).astype(np.int32)
    prompts = rng.integers(0, 200, (8, 12)).astype(np.int32) * (np.arange(12) >= 12 - lengths[:, None])
    inputs = jax.device_put((prompts.astype(np.int32), lengths), row_sharding(mesh))
    keys = jax.device_put(jax.random.split(jax.random.key(0), 8), row_sharding(mesh))
    run = jax.jit(partial(generate, model.on(mesh, RULES), Task(2, 8, Temperature(1.0), (5,))))
    return jax.tree.map(np.asarray, run(params, *inputs, keys))


@cache
def sampled_on_one(kind: str):
    return sampled(kind, ONE)


@pytest.mark.parametrize("sizes", SHAPES, ids=name_of)
def test_the_same_tokens_are_sampled_on_any_mesh(sizes: dict[str, int]) -> None:
    kind = "experts" if "expert" in sizes else "dense"
    tokens, lengths, finished, logps = sampled(kind, shape_of(sizes).build())
    wanted = sampled_on_one(kind)
    np.testing.assert_array_equal(tokens, wanted[0])
    np.testing.assert_array_equal(lengths, wanted[1])
    np.testing.assert_array_equal(finished, wanted[2])
    np.testing.assert_allclose(logps, wanted[3], rtol=1e-4, atol=1e-5)
