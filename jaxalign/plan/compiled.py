"""A program, compiled for devices that are not here, and what it takes of each of them: memory, traffic, time."""

import math
import re
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxalign.mesh.flags import Options
from jaxalign.mesh.program import Program
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.low_rank import head_alone, is_adapted, is_whole
from jaxalign.models.model import Model
from jaxalign.ops.attention import costs as attention
from jaxalign.ops.costs import KernelCost
from jaxalign.ops.linear_logp import costs as linear_logp
from jaxalign.ops.linear_logp import on_layout
from jaxalign.plan import collectives, cost, hlo
from jaxalign.plan.chips import Chip, Topology
from jaxalign.plan.kept import PACKAGES, Analysis, Kept, Returned, name_of
from jaxalign.plan.target import quiet, version_of
from jaxalign.plan.torus import Torus
from jaxalign.plan.walk import walk
from jaxalign.plan.work import DeviceWork, buffers, device_work

NOTHING = Kept()


@dataclass(frozen=True)
class Memory:
    """Bytes of one device. What a program needs is its arguments and temporaries; results that fit take the place of
    donated arguments."""

    arguments: int
    temporaries: int
    outputs: int
    """results that have no argument's place to go to"""
    code: int
    resident: int
    """what a run keeps beside the program"""
    host: int
    """pinned memory of the host, for one device"""

    @property
    def peak(self) -> int:
        """All of the device's memory that is ever taken, as the runtime allocates it."""
        return self.arguments + self.temporaries + self.outputs + self.code + self.resident


@dataclass(frozen=True)
class Compiled:
    """A program that compiles."""

    name: str
    memory: Memory
    traffic: collectives.Summary
    flops: float
    """of one device as compiled, kernels and recomputation included"""
    model_flops: float
    """of all devices, what the model asks for"""
    tokens: int
    estimate: cost.Estimate
    compile_seconds: float
    shapes: frozenset[hlo.Shape]
    """of every buffer"""
    bounded: tuple[str, ...]
    """loops that may end earlier than they were counted"""


@dataclass(frozen=True)
class TooLarge:
    """A program that the compiler refuses for want of memory."""

    name: str
    needed: int | None
    """bytes of one device, as the compiler says"""
    reason: str
    compile_seconds: float


def compile_program(
    program: Program,
    model: Model,
    topology: Topology,
    chip: Chip,
    options: Options | None = None,
    kept: Kept = NOTHING,
) -> Compiled | TooLarge:
    """Compiles, or finds among what is `kept`, and reads the result. Errors other than exhausted memory are the
    compiler's own and pass through.

    options: what the program is compiled with; it knows them, and they name what is kept.
    """
    returned = ask(program, topology, options, kept)
    if returned.memory is None:
        needed = re.search(r"Used ([\d.]+)([GM]) of", returned.text)
        size = float(needed[1]) * {"G": 2**30, "M": 2**20}[needed[2]] if needed else None
        lines = returned.text.splitlines()
        reason = next((line for line in lines if "Used" in line), lines[0])
        return TooLarge(program.name, None if size is None else int(size), reason.strip()[:300], returned.seconds)
    module = hlo.parse(returned.text)
    walked = walk(module)
    sent = collectives.collectives(module, walked, torus=torus_of(program, topology))
    done = device_work(module, walked)
    kernels = kernel_costs(done, program, model, topology.generation)
    asked = model_flops(program, model)
    found = cost.estimate(done, sent, topology, chip, program.work.tokens, asked, kernels)
    return Compiled(
        name=program.name,
        memory=memory_of(returned.memory, program),
        traffic=collectives.summary(sent),
        flops=cost.compiled_flops(done, kernels),
        model_flops=asked,
        tokens=program.work.tokens,
        estimate=found,
        compile_seconds=returned.seconds,
        shapes=buffers(walked),
        bounded=walked.bounded,
    )


def ask(program: Program, topology: Topology, options: Options | None, kept: Kept) -> Returned:
    """What the compiler returns for a program, or returned for the same one before."""
    with quiet():
        lowered = program.lower()
        devices = [device.id for device in devices_of_program(program)]
        versions = {package: version_of(package) for package in PACKAGES}
        target = f"{topology.name} {topology.arguments}"
        name = name_of(lowered.as_text(), options, devices, target, versions)
        if (found := kept.get(name)) is not None:
            return found
        began = time.perf_counter()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            returned = Returned(str(error), None, time.perf_counter() - began)
        else:
            seconds = time.perf_counter() - began
            returned = Returned(compiled.as_text(), Analysis.of(compiled.memory_analysis()), seconds)
    kept.put(name, returned)
    return returned


def devices_of_program(program: Program) -> list[jax.Device]:
    """In the order of its partitions."""
    return list(jax.tree.leaves(program.arguments)[0].sharding.mesh.devices.flat)


def torus_of(program: Program, topology: Topology) -> Torus | None:
    """Where the program's partitions run, those of several slices as in the first; None for GPUs, which have
    switches."""
    if len(topology.dims) == 1:
        return None
    places = tuple(tuple(device.coords[: len(topology.dims)]) for device in devices_of_program(program))
    return Torus(places, topology.dims, topology.rings)


def memory_of(analysis: Analysis, program: Program) -> Memory:
    """What the compiler's analysis says, for one device."""
    return Memory(
        arguments=analysis.argument_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        outputs=max(0, analysis.output_size_in_bytes - analysis.alias_size_in_bytes),
        code=analysis.generated_code_size_in_bytes,
        resident=program.resident,
        host=analysis.host_argument_size_in_bytes + analysis.host_temp_size_in_bytes,
    )


def kernel_costs(done: DeviceWork, program: Program, model: Model, generation: str) -> dict[str, KernelCost]:
    """What the ops say of their kernels in the program, by the kernels' names."""
    shape, itemsize = model.abstract()[model.config.output].shape, jnp.dtype(model.config.compute_dtype).itemsize
    place = None if model.layout is None else on_layout(model.layout, shape)
    scored = program.work.scored / program.work.microbatches
    found = {
        kernel.name: linear_logp.kernel_cost(kernel.name, scored, shape, itemsize, place)
        or attention.kernel_cost(kernel.name, generation, itemsize)
        for kernel in done.kernels
    }
    return {name: priced for name, priced in found.items() if priced is not None}


def model_flops(program: Program, model: Model) -> float:
    """FLOPs that the model asks of one run of the program, of all devices: 6 N a token that is trained on, 4 N where
    differences of low rank are, whose bases have no gradients of their own."""
    config = model.config
    if not isinstance(config, DecoderConfig):
        return 0.0
    work = program.work
    body = sum(leaf.size for leaf in jax.tree.leaves(model.abstract()["blocks"]))
    if config.mixture:
        experts = 3 * config.layers * config.mixture.experts * config.width * config.mixture.mlp
        body -= experts - experts * config.mixture.chosen // config.mixture.experts
    output = model.abstract()[config.output]
    head, adapted = math.prod(output.shape), is_adapted(model.abstract()) and not head_alone(model.abstract())

    def flops(kind: str) -> float:
        """The body sees all tokens, the head those that are scored."""
        passes = {"train": 3.0, "backward": 2.0, "forward": 1.0}[kind]
        of_matrices = passes - 1 if adapted and kind != "forward" else passes
        of_head = passes if is_whole(output) else of_matrices
        attention = cost.model_flops(
            0, work.rows_tokens, config.layers, config.heads, config.head_dim, work.row, passes, causal=True
        )
        return attention + 2.0 * (of_matrices * body * work.rows_tokens + of_head * head * work.scored)

    return sum(map(flops, work.passes))
