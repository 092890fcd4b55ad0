"""Compiling for GPUs that are not here: the description that the compiler gets, and what a plan says that it is not.

The parts that compile need XLA's CUDA plugin (`pip install 'jaxalign[plan-gpu]'`), no GPU and no library of NVIDIA's.
"""

import json
import os
import re
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxalign.errors import ConfigError
from jaxalign.mesh.program import Program, Work
from jaxalign.plan import collectives, gpu, hlo
from jaxalign.plan.chips import chip, generations, topology
from jaxalign.plan.compiled import TooLarge
from jaxalign.plan.plan import Plan
from jaxalign.plan.report import as_json, as_text
from jaxalign.plan.target import devices_of
from jaxalign.plan.walk import walk
from jaxalign.plan.work import device_work
from jaxalign.training.row_rule import Planned
from jaxalign.training.rows import Sizes

plugin = pytest.mark.skipif(
    not gpu.plugins(),
    reason="XLA's CUDA plugin is not installed: pip install 'jaxalign[plan-gpu]'",
)
GPUS = gpu.generations()


@pytest.mark.parametrize("generation", GPUS)
def test_a_target_is_well_formed_and_every_figure_has_a_source(generation):
    text = gpu.target_config(generation)
    fields = re.findall(r"^  (\w+): (.+)$", text, re.MULTILINE)
    assert len(dict(fields)) == len(fields)  # nothing is said twice
    assert text.count("{") == text.count("}") > 0
    assert all(source and note for source, note in gpu.sources(generation).values())
    assert set(gpu.sources(generation)) | {"core_count", "memory_bandwidth", "name"} == set(dict(fields))
    assert dict(fields)["core_count"] == "132"
    assert json.loads(dict(fields)["name"]) == chip(generation).device_kind


@pytest.mark.parametrize("generation", GPUS)
def test_what_a_plan_counts_on_is_less_than_what_the_device_has(generation):
    size = int(re.search(r"device_memory_size: (\d+)", gpu.target_config(generation))[1])
    assert chip(generation).hbm_usable < size


@pytest.mark.parametrize(
    ("name", "slices", "shape"),
    [("h100:8", 1, "1x1x8"), ("h100:1", 1, "1x1x1"), ("h200:16", 1, "1x2x8"), ("h200:8", 2, "2x1x8")],
)
def test_shapes(name, slices, shape):
    assert gpu.shape(topology(name, slices)) == shape


def test_hosts_are_whole():
    with pytest.raises(ConfigError, match="multiple of 8"):
        gpu.shape(topology("h100:12"))


def absent(**_):
    raise NotImplementedError("topology not implemented for cuda")


def test_without_the_plugin_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(topologies, "get_topology_desc", absent)
    monkeypatch.setattr(gpu, "plugins", lambda: [])
    monkeypatch.delenv(gpu.UNCHECKED, raising=False)
    with pytest.raises(ConfigError, match=rf"h100:8.*jaxalign\[plan-gpu\].*jax-cuda13-plugin=={jax.__version__}"):
        devices_of(topology("h100:8"))
    assert gpu.UNCHECKED not in os.environ


def test_a_plugin_that_refused_before_is_asked_again(monkeypatch):
    """JAX looks for plugins once; without NVIDIA's libraries this one then registers only when told not to check."""
    asked = []
    loaded = SimpleNamespace(initialize=lambda: asked.append(os.environ[gpu.UNCHECKED]))

    def described(**_):
        return SimpleNamespace(devices=jax.devices()) if asked else absent()

    monkeypatch.setattr(topologies, "get_topology_desc", described)
    monkeypatch.setattr(gpu, "plugins", lambda: ["made_plugin"])
    monkeypatch.setitem(sys.modules, "made_plugin", loaded)
    assert gpu.devices(topology("h100:8")) == jax.devices()
    assert asked == ["1"]


def plan_on(name):
    target = topology(name)
    refused = TooLarge("train", None, "Used 99.00G of 80.00G", 0.0)
    return Plan(
        target,
        chip(target.generation),
        {"fsdp": 8},
        Sizes(8, 8),
        Planned(1, Sizes(8, 8).rows),
        (refused,),
        dict.fromkeys(("train", "logp", "rollout"), 1),
        (),
        0.0,
    )


@pytest.mark.parametrize("generation", generations())
def test_a_plan_says_what_it_does_not_know(generation):
    plan = plan_on(f"{generation}:" + {1: "8", 2: "2x4", 3: "2x2x2"}[chip(generation).torus_dims])
    assert any("Times are estimates" in sentence for sentence in plan.caveats)
    assert any("autotuned" in sentence for sentence in plan.caveats) == (generation in GPUS)
    assert as_json(plan)["caveats"] == list(plan.caveats)
    assert all(sentence in as_text(plan) for sentence in plan.caveats)


GATHER = """HloModule jit_f, is_scheduled=true, num_partitions=8

ENTRY %main (p: bf16[32,256]) -> bf16[256,256] {
  %p = bf16[32,256]{1,0} parameter(0)
  %start = (bf16[32,256]{1,0}, bf16[256,256]{1,0}) all-gather-start(%p), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, backend_config={"collective_backend_config":{"is_sync":SYNC,"is_pipelined":false}}
  ROOT %done = bf16[256,256]{1,0} all-gather-done(%start)
}
"""  # noqa: E501, as XLA prints it


@pytest.mark.parametrize(("sync", "hidden"), [("true", 0), ("false", 7 * 2 * 32 * 256)])
def test_only_collectives_that_do_not_wait_are_hidden(sync, hidden):
    """Printed as a start and a done they are either way."""
    module = hlo.parse(GATHER.replace("SYNC", sync))
    sent = collectives.summary(collectives.collectives(module, walk(module)))
    assert sent.ici_bytes == 7 * 2 * 32 * 256
    assert sent.ici_asynchronous_bytes == hidden


@pytest.fixture(scope="module")
def compiled():
    """Three layers x · w over eight GPUs, rows of both split: each w [256, 256] travels to everyone."""
    target = topology("h100:8")
    devices = devices_of(target)
    mesh = Mesh(np.array(devices), ("fsdp",), axis_types=(AxisType.Auto,))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("fsdp",), ()))

    def loop(x, w):
        def layer(x, w):
            w = jax.lax.with_sharding_constraint(w, whole)
            x = jax.lax.with_sharding_constraint(x, split)
            return jnp.tanh(x @ w), None

        return jax.lax.scan(layer, x, w)[0]

    x = jax.ShapeDtypeStruct((512, 256), jnp.bfloat16, sharding=split)
    w = jax.ShapeDtypeStruct((3, 256, 256), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(None, "fsdp")))
    program = Program("train", jax.jit(loop, out_shardings=split), (x, w), Work(512, 512, 0, 1, ("forward",)))
    return program.lower().compile()


@plugin
def test_devices_are_those_of_the_topology():
    devices = devices_of(topology("h200:16"))
    assert len(devices) == 16
    assert {device.device_kind for device in devices} == {"NVIDIA H200"}
    assert {device.platform for device in devices} == {"gpu"}


@plugin
def test_memory_is_of_one_device(compiled):
    assert compiled.memory_analysis().argument_size_in_bytes == 2 * (512 * 256 + 3 * 256 * 256) // 8


@plugin
def test_a_loop_over_layers_is_counted_as_often_as_it_runs(compiled):
    module = hlo.parse(compiled.as_text())
    walked = walk(module)
    assert module.partitions == 8
    assert not walked.unknown
    done = device_work(module, walked)
    assert done.flops == 3 * 2 * (512 // 8) * 256 * 256


@plugin
def test_parameters_travel_once_a_layer(compiled):
    module = hlo.parse(compiled.as_text())
    sent = collectives.summary(collectives.collectives(module, walk(module)))
    assert set(sent.by_kind) == {"all-gather"}
    assert sent.ici_bytes == 3 * 7 * 2 * 256 * 256 // 8  # a device sends its eighth to seven others
    assert sent.dcn_bytes == 0
