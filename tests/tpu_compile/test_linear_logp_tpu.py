"""The kernels of `linear_logp` compiled by the TPU compiler for devices that are not here."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from schedule import MULTIPLY_ADDS, cycles, sweep_cycles

from jaxalign.ops.linear_logp import OnMesh, pallas_tpu
from jaxalign.ops.linear_logp.blocks import chip, fit
from jaxalign.ops.linear_logp.differentiable import HERE, stats
from jaxalign.ops.linear_logp.fused import Task
from jaxalign.ops.linear_logp.logits import Logits
from jaxalign.ops.linear_logp.problem import Pull, Shard, Wants
from jaxalign.ops.linear_logp.stats import Want

# a busy machine compiles a kernel in minutes
pytestmark = [pytest.mark.tpu_compile, pytest.mark.timeout(1200)]
pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install libtpu")

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
N, D, V = 8192, 4096, 128_256
MODELS = {"llama 3": (4096, 128_256, None), "qwen 2.5": (3584, 152_064, None), "gemma 2": (3584, 262_144, 30.0)}

SHARE = {
    "v5e": {"forward": 0.97, "forward_row": 0.97, "head": 0.97},
    "v5p": {"forward": 0.97, "forward_row": 0.95, "head": 0.95},
    "v6e": {"forward": 0.92, "forward_row": 0.915, "head": 0.905},
}
"""Least share of the matrix units' peak, a point below what was counted"""


def devices(generation: str) -> list:
    return list(topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[generation]).devices)


def avals(mesh: Mesh, *shapes: tuple) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec)) for shape, dtype, spec in shapes]


def compiled(function, arguments):  # type: ignore[no-untyped-def]
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=("tpu",)).compile()


@pytest.mark.parametrize("kernel", ["forward", "forward_row", "head"])
@pytest.mark.parametrize("generation", list(TOPOLOGIES))
def test_share_of_the_matrix_units_peak(generation: str, kernel: str, schedules: Path) -> None:
    """A grid step at full width and full blocks; two blocks of tokens and two of rows are enough to count it."""
    device = chip(generation)
    blocks = fit(kernel, getattr(device, kernel), device.vmem, N, D, 2)
    n, v = 2 * blocks.n, 2 * blocks.v
    mesh = Mesh(devices(generation)[:1], "x")
    token, vector = ((n,), jnp.int32, P()), ((n,), jnp.float32, P())
    hidden, head, y, f = avals(mesh, ((n, D), jnp.bfloat16, P()), ((v, D), jnp.bfloat16, P()), token, vector)
    before = set(schedules.glob("*"))
    if kernel == "head":
        pull = partial(pallas_tpu.backward, device=device)
        wants = Wants(hidden=False, head=True, bias=False)
        compiled(
            lambda h, w, y, f: pull(Shard(h, w, None, y, None), Logits(), Pull(f, f, f), wants), (hidden, head, y, f)
        )
    else:
        push = partial(pallas_tpu.forward, device=device)
        want = Want(row=kernel == "forward_row")
        compiled(lambda h, w, y: push(Shard(h, w, None, y, None), Logits(), want), (hidden, head, y))
    products, swept, steps = {
        "forward": (1, 0, 1),
        "forward_row": (2, blocks.n * D, V // blocks.v),
        "head": (2, blocks.v * D, N // blocks.n),
    }[kernel]
    step = cycles(schedules, f"logp_{kernel}.", before) + sweep_cycles(swept) / steps
    share = products * blocks.n * blocks.v * D / MULTIPLY_ADDS[generation] / step
    print(f"{generation} {kernel} {blocks}: {step:.0f} cycles a step, {100 * share:.1f} % of peak")
    assert share >= SHARE[generation][kernel]


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("model", list(MODELS))
def test_no_logits_anywhere(model: str, shards: int) -> None:
    """Value and gradients at n 8192: no buffer of the logits, and a tenth of their fp32 size as workspace at most."""
    d, v, softcap = MODELS[model]
    generation = "v6e"
    mesh = Mesh([devices(generation)[:shards]], ("data", "tensor"))
    run = OnMesh(mesh, tokens=("data",)) if shards > 1 else HERE
    task = Task(pallas_tpu.engine(generation), Logits(softcap=softcap), ("logp",))
    rows = P("tensor") if shards > 1 else P()
    arguments = avals(
        mesh,
        ((N, d), jnp.bfloat16, P()),
        ((v, d), jnp.bfloat16, rows),
        ((N,), jnp.int32, P()),
        ((N,), jnp.float32, P()),
    )

    def logp(h: jax.Array, w: jax.Array, y: jax.Array) -> jax.Array:
        return stats(run, task, h, w, None, y).logp

    def loss(h: jax.Array, w: jax.Array, y: jax.Array, g: jax.Array) -> jax.Array:
        return (g * logp(h, w, y)).sum()

    # sharding the vocabulary leaves the workspace of the hidden states [n d] as it is, so one device's logits would be
    # no measure: they are always those of the whole vocabulary
    full = 4 * N * v
    for function, given, share in (
        (logp, arguments[:3], 0.01),
        (jax.value_and_grad(loss, (0, 1)), arguments, 0.10),
    ):
        program = compiled(function, given)
        text = program.as_text()
        assert "logp_forward" in text
        sizes = [tuple(map(int, dims.split(","))) for dims in set(re.findall(r"\[(\d+(?:,\d+)+)\]", text))]
        assert not [size for size in sizes if set(size) >= {N, v // shards}]
        temporary = program.memory_analysis().temp_size_in_bytes
        print(f"{model}, {shards} shards: {temporary / 2**20:.0f} MiB, {100 * temporary / full:.2f} % of the logits")
        assert temporary <= share * full
