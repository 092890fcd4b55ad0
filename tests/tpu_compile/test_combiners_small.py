"""Combiners solve in fp64, which TPUs have none of: that the compiler makes programs of them, loops and all."""

import pytest

pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install libtpu")

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from programs import TOPOLOGIES

from jaxalign.objectives.mgda import MGDA
from jaxalign.objectives.raco import RACO

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("combiner", [RACO((0.2, 0.8)), MGDA(3)], ids=["RACO of two", "MGDA of three"])
def test_solvers_compile(combiner: RACO | MGDA) -> None:
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES["v5e"]).devices
    place = NamedSharding(Mesh(np.array(devices), ("all",)), P())
    gram = jax.ShapeDtypeStruct((combiner.objectives, combiner.objectives), jnp.float32, sharding=place)
    made = jax.jit(combiner).lower(gram).compile()
    assert made.output_shardings.is_fully_replicated
    assert "f64" not in made.as_text(), "fp64 is emulated by pairs"
