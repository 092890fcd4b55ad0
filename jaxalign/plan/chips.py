"""Chips that a plan can be for, and the names of their topologies.

The figures stand in `chips.json`, each with its source: "published" (the vendor's documentation), "libtpu reports"
(0.0.42 and 0.0.52, compiling without a chip), "derived" from both, or "assumption". What stands there twice is
published twice: the vendor's figure, which nothing exceeds, and what others have seen reached. Kernels' block sizes and
VMEM budgets are not here: they are in `ops/*/tuning.json`, under the same generation names.

Links and rings: Google Cloud's pages of v4, v5e, v5p, v6e and TPU7x (bidirectional ICI bandwidth of a chip, over its
links, in one direction; "all 4x4x4 and larger slices have full 3D torus"); what a link and a hop take in use: Austin et
al. 2025, How to Scale Your Model, parts 2 and 3 (https://jax-ml.github.io/scaling-book).
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import prod
from typing import Any

from jaxalign.errors import ConfigError

CUBES = {  # chips → the usual slice shape (Google Cloud documentation of v4, v5p and TPU7x)
    4: "2x2x1",
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
    1024: "8x8x16",
    2048: "8x16x16",
    4096: "16x16x16",
    6144: "16x16x24",
}
SQUARES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
LARGEST = {"v4": 4096, "v5p": 6144, "v5e": 256, "v6e": 256, "tpu7x": 9216}
"""Chips of the largest slice (Google Cloud documentation; of v5p the largest job, of the others a pod)."""
NICKNAMES = {"trillium": "v6e", "ironwood": "tpu7x", "v7x": "tpu7x", "v7": "tpu7x", "v4p": "v4"}
_CLOUD = {"v4": ("v4", 2), "v5p": ("v5p", 2), "v5litepod": ("v5e", 1), "v5e": ("v5e", 1), "v6e": ("v6e", 1)}


@dataclass(frozen=True)
class Chip:
    """One chip. Bytes and FLOPs are of the chip; a chip may be several devices."""

    generation: str
    device_kind: str
    torus_dims: int
    """axes of the interconnect"""
    bf16_flops: float
    """peak FLOP/s in bf16, dense"""
    reached: float
    """share of it that training steps which others have published reach, by the FLOPs that their models ask for: the
    median"""
    hbm_capacity: int
    """bytes, as published"""
    hbm_usable: int
    """bytes that a program may use, as the compiler sees it"""
    hbm_bandwidth: float
    """bytes/s"""
    link_bandwidth: float
    """bytes/s of one link in one direction, as published"""
    link_reached: float
    """bytes/s of it that collectives reach"""
    hop_seconds: float
    """overhead of one hop, whatever is sent"""
    hop_reached: float
    """seconds of a hop as measured in a small collective"""
    links: int
    """links to other chips of the slice"""
    dcn_bandwidth: float
    """bytes/s between slices in one direction, a chip's share of its host's"""
    cores: int
    """TensorCores, or streaming multiprocessors"""
    devices: int
    """JAX devices a chip"""
    chips_per_host: int
    clock: float
    """cycles/s, those of the compiler's estimates"""
    wraps_at: int
    """an axis closes to a ring where its length is a multiple of this"""
    wraps_together: bool
    """all axes close, or none does"""

    @property
    def device_flops(self) -> float:
        """Peak FLOP/s of one JAX device, bf16."""
        return self.bf16_flops / self.devices

    @property
    def device_hbm_bandwidth(self) -> float:
        """Bytes/s between a JAX device and its HBM."""
        return self.hbm_bandwidth / self.devices

    @property
    def device_hbm_usable(self) -> int:
        """Bytes that a program may use on one JAX device."""
        return self.hbm_usable // self.devices

    @property
    def device_dcn_bandwidth(self) -> float:
        """Bytes/s between slices in one direction."""
        return self.dcn_bandwidth / self.devices


@dataclass(frozen=True)
class Topology:
    """Slices of one shape: `v5p:4x4x8` is a slice of 128 chips. Made by `topology`."""

    name: str
    generation: str
    dims: tuple[int, ...]
    slices: int

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return prod(self.dims) * self.slices

    @property
    def devices(self) -> int:
        """JAX devices of all slices."""
        return self.chips * chip(self.generation).devices

    @property
    def hosts(self) -> int:
        """Machines of all slices."""
        return self.slices * -(-prod(self.dims) // chip(self.generation).chips_per_host)

    @property
    def arguments(self) -> dict[str, Any]:
        """What `jax.experimental.topologies.get_topology_desc` needs beside the platform and the name.

        v4 needs the megacore configuration (one device a chip), a single chip its own host bounds.
        """
        found: dict[str, Any] = {"num_slices": self.slices} if self.slices > 1 else {}
        if self.generation == "v4":
            found["chip_config_name"] = "megacore"
        if prod(self.dims) == 1:
            found["chips_per_host_bounds"] = [1, 1, 1]
        return found

    @property
    def rings(self) -> tuple[bool, ...]:
        """Which of the slice's axes close to a ring. Cubes of optical switches close all axes, if each is a multiple of
        a cube's; pods of v5e and v6e those that are as long as the pod."""
        known = chip(self.generation)
        closing = tuple(size % known.wraps_at == 0 for size in self.dims)
        return (all(closing),) * len(closing) if known.wraps_together else closing


@cache
def _table() -> dict[str, dict[str, dict[str, Any]]]:
    table: dict[str, dict[str, dict[str, Any]]] = json.loads((files("jaxalign.plan") / "chips.json").read_text("utf-8"))
    return table


def generations() -> tuple[str, ...]:
    """Names of the chips of `chips.json`."""
    return tuple(_table())


def chip(generation: str) -> Chip:
    """The chip of a generation. Raises ConfigError for an unknown one."""
    if generation not in _table():
        raise ConfigError(f"no chip {generation!r} in jaxalign/plan/chips.json: it has {', '.join(generations())}")
    return Chip(generation, **{field: entry["value"] for field, entry in _table()[generation].items()})


def sources(generation: str) -> dict[str, tuple[str, str]]:
    """Field of a chip → (source, note)."""
    return {field: (entry["source"], entry["note"]) for field, entry in _table()[generation].items()}


def topology(name: str, slices: int = 1) -> Topology:
    """Reads `v5p:4x4x8`, `v5e:4x4`, `h100:8`.

    Raises ConfigError, with the name to use where there is one, for unknown generations, cloud accelerator types, and
    shapes that libtpu refuses: hosts are 2x2x1 chips, pods of v5e and v6e 16x16.
    """
    matched = re.fullmatch(r"([a-z]+\d*[a-z]*):(\d+(?:x\d+)*)", name)
    if matched is None or matched[1] not in _table():
        raise ConfigError(_unknown(name))
    if slices < 1:
        raise ConfigError(f"{name}: {slices} slices; there is at least one")
    found = chip(matched[1])
    dims = tuple(int(size) for size in matched[2].split("x"))
    problem = _problem(found, dims)
    if problem:
        raise ConfigError(f"{name}: {problem}")
    return Topology(name, found.generation, dims, slices)


def listed(generation: str, dims: tuple[int, ...]) -> bool:
    """Whether Google Cloud lists slices of this shape, in any order of its sides; of 4x4x4 and more, all that are made
    of such cubes. GPUs come in any number."""
    shapes = {1: (), 2: SQUARES.values(), 3: CUBES.values()}[chip(generation).torus_dims]
    known = {tuple(sorted(map(int, shape.split("x")))) for shape in shapes}
    return not known or tuple(sorted(dims)) in known or (len(dims) == 3 and not any(size % 4 for size in dims))


def _problem(chip: Chip, dims: tuple[int, ...]) -> str:
    if len(dims) != chip.torus_dims or not all(dims):
        example = {1: "8", 2: "4x4", 3: "4x4x4"}[chip.torus_dims]
        return f"{chip.generation} has {chip.torus_dims} axes, as in {chip.generation}:{example}"
    if chip.torus_dims > 1 and prod(dims) > 1 and any(size % 2 for size in dims[:2]):
        shapes = SQUARES if chip.torus_dims == 2 else CUBES
        return f"the first two sides must be even (hosts of 2x2 chips); usual shapes: {', '.join(shapes.values())}"
    if prod(dims) > LARGEST.get(chip.generation, prod(dims)):
        if chip.torus_dims == 3:
            return f"{prod(dims):,} chips; the largest slice of {chip.generation} has {LARGEST[chip.generation]:,}"
        return f"a {chip.generation} pod has 16x16 chips: take more slices"
    if chip.torus_dims == 2 and max(dims) > 16:
        return f"a {chip.generation} pod has 16x16 chips: take more slices"
    return ""


def _unknown(name: str) -> str:
    cloud = re.fullmatch(r"(v4|v5p|v5litepod|v5e|v6e)-(\d+)", name)
    if cloud:
        generation, cores = _CLOUD[cloud[1]]
        chips = int(cloud[2]) // cores
        shape = (CUBES if chip(generation).torus_dims == 3 else SQUARES).get(chips)
        counted = f"{chips} chips" + (" of two cores" if cores == 2 else "")
        use = f"use {generation}:{shape}" if shape else f"use {generation}: and the slice's sides"
        return f"{name} is the cloud's name for {counted}: {use}"
    named = name.partition(":")
    if named[0] in NICKNAMES:
        return f"{name}: {named[0]} is {NICKNAMES[named[0]]} here: use {NICKNAMES[named[0]]}:{named[2]}"
    known = ", ".join(generations())
    return f"unknown topology {name!r}: write a generation ({known}), a colon and the slice's sides, as in v5p:4x4x8"
