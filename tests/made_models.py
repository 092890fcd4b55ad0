"""A tiny language model for tests of what is built on models, and its placement on meshes of eight fake devices."""

import jax
import numpy as np

from jaxalign.mesh.sharding import MeshShape, param_shardings
from jaxalign.models.model import Model
from jaxalign.models.random_llama import RandomLlama
from jaxalign.types import Params

ONE = MeshShape(data=1, fsdp=1, tensor=1).build(jax.devices()[:1])
MESHES = {"8x1x1": (8, 1, 1), "2x2x2": (2, 2, 2), "1x8x1": (1, 8, 1), "1x1x8": (1, 1, 8)}
"""data x fsdp x tensor. Heads and vocabulary of the tiny model do not divide by 8, its vocabulary not by 2 either."""


def tiny(**options) -> Model:
    """Untied: the scores have deviation 1, so that no two tokens are about equally likely."""
    return RandomLlama(tied=False, context=64, **options).open()


def mesh(name: str) -> jax.sharding.Mesh:
    return MeshShape(*MESHES[name]).build()


def shardings(model: Model, on: jax.sharding.Mesh):
    return param_shardings(on, MeshShape().rules, model.abstract(), model.axes)


def place(model: Model, params: Params, on: jax.sharding.Mesh) -> Params:
    return jax.device_put(params, shardings(model, on))


def nudged(params: Params, by: float, seed: int) -> Params:
    """Another policy near `params`: every number moved by N(0, by²)."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + by * rng.standard_normal(leaf.shape, np.float32), params)
