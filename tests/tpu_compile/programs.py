"""`linear_logp` compiled for TPUs that are not here, one program a case, and what the tests read off it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from schedule import SCHEDULES, kernel_cycles, step_cycles

from jaxalign.ops.linear_logp import OnMesh, pallas_tpu
from jaxalign.ops.linear_logp.blocks import chip, fit
from jaxalign.ops.linear_logp.differentiable import HERE, stats
from jaxalign.ops.linear_logp.fused import Task
from jaxalign.ops.linear_logp.logits import Logits
from jaxalign.ops.linear_logp.reference import full_stats

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}

KERNELS = {"forward": ("forward",), "frozen head": ("forward_row",), "forward and backward": ("forward_row", "head")}
"""kernels of each pass; with a frozen head the gradient of the hidden states is all there is"""


@dataclass(frozen=True)
class Case:
    """One program: `n` tokens in bf16, the vocabulary over `shards` devices; `full` holds the logits, the yardstick."""

    generation: str
    passes: str
    n: int
    d: int
    v: int
    softcap: float | None = None
    shards: int = 1
    full: bool = False


@dataclass(frozen=True)
class Program:
    """Facts of a compiled program: shapes of all its buffers, bytes of workspace on a device, cycles by kernel."""

    shapes: frozenset[tuple[int, ...]]
    temporary: int
    cycles: dict[str, int]


@cache
def program(case: Case) -> Program:
    """Compiles `case`, once a session."""
    before = set(SCHEDULES.iterdir())
    made = _compiled(*_function(case))
    text = made.as_text()
    found = set(re.findall(r"logp_(forward_row|forward(?!_row)|head)", text))
    assert found == (set() if case.full else set(KERNELS[case.passes])), f"the program runs the kernels {found}"
    shapes = frozenset(tuple(map(int, dims.split(","))) for dims in set(re.findall(r"\[(\d+(?:,\d+)+)\]", text)))
    device, v = chip(case.generation), case.v // case.shards
    cycles = {}
    for kernel in found:
        blocks = fit(kernel, getattr(device, kernel), device.vmem, case.n, case.d, 2)
        cycles[kernel] = kernel_cycles(kernel, step_cycles(kernel, before), blocks, case.n, case.d, v)
    return Program(shapes, made.memory_analysis().temp_size_in_bytes, cycles)


def _compiled(function: Callable, arguments: list[jax.ShapeDtypeStruct]) -> Any:
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=("tpu",)).compile()


def _function(case: Case) -> tuple[Callable, list[jax.ShapeDtypeStruct]]:
    devices = list(topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[case.generation]).devices)
    mesh = Mesh([devices[: case.shards]], ("data", "tensor"))
    run = OnMesh(mesh, tokens=("data",)) if case.shards > 1 else HERE
    logits = Logits(softcap=case.softcap)
    task = Task(pallas_tpu.engine(case.generation), logits, ("logp",))

    def logp(h: jax.Array, w: jax.Array, y: jax.Array) -> Any:
        made = full_stats(h, w, None, y, logits, ("logp",)) if case.full else stats(run, task, h, w, None, y)
        return made.logp

    def loss(h: jax.Array, w: jax.Array, y: jax.Array, g: jax.Array) -> jax.Array:
        return (g * logp(h, w, y)).sum()

    shapes = (
        ((case.n, case.d), jnp.bfloat16, P()),
        ((case.v, case.d), jnp.bfloat16, P("tensor") if case.shards > 1 else P()),
        ((case.n,), jnp.int32, P()),
        ((case.n,), jnp.float32, P()),
    )
    arguments = [jax.ShapeDtypeStruct(s, dtype, sharding=NamedSharding(mesh, spec)) for s, dtype, spec in shapes]
    if case.passes == "forward":
        return logp, arguments[:3]
    return jax.value_and_grad(loss, 0 if case.passes == "frozen head" else (0, 1)), arguments
