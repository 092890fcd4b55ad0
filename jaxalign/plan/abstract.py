"""Shapes of what goes through a plan's programs."""

import jax

from jaxalign.machine import Machine
from jaxalign.mesh.sharding import row_sharding
from jaxalign.models.decoder import DecoderConfig
from jaxalign.training.rows import RowShape, Sizes, abstract_batch
from jaxalign.types import Batch


def featured(machine: Machine, sizes: Sizes, groups_a_row: int, groups: int, objectives: int = 1) -> Batch:
    """A batch of features that are known: a row is one token, which nothing reads."""
    config, shape = machine.model.config, RowShape.holding(1, 1, 1)
    assert isinstance(config, DecoderConfig), "a table has no trunk"
    shape = shape if groups_a_row == 1 else shape.shared(groups_a_row, groups_a_row * sizes.responses)
    return abstract_batch(shape, groups, (), objectives, sizes.responses, config.width)


def stacked(machine: Machine, batch: Batch, parts: int) -> Batch:
    """So many batches, one behind the other, on the machine's mesh."""
    place = row_sharding(machine.mesh, leading=1)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((parts, *leaf.shape), leaf.dtype, sharding=place), batch)
