"""Compiled text: loops, groups, collectives, FLOPs and bytes.

Small programs compiled here for eight fake CPU devices give the relations. The strings are what libtpu 0.0.42 printed
(jax 0.10.2, no TPU) for the programs that each names, compiled by `jax.jit(f).lower(*shapes).compile().as_text()` on a
topology's mesh; metadata, unused tuple entries and most of the backend's configuration were cut, some names shortened.
"""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxalign.plan.collectives import Traffic, collectives, groups_of, link_bytes, summary
from jaxalign.plan.hlo import Shape, TextError, parse, shapes_of
from jaxalign.plan.walk import walk
from jaxalign.plan.work import buffers, device_work

# v5e:2x2, `lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)`, w bf16[3,256,256] and x bf16[1024,256] split by rows
SCAN = """HloModule jit_scan, is_scheduled=true, num_partitions=4

%slice (p0: bf16[3,64,256], p1: s32[]) -> bf16[1,64,256] {
  %p0 = bf16[3,64,256]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %dynamic-slice.3 = bf16[1,64,256]{2,1,0:T(8,128)(2,1)S(1)} dynamic-slice(%p0, %p1, %zero, %zero), \
dynamic_slice_sizes={1,64,256}
}

%product (p2: bf16[256,256], p3: bf16[1,256,256]) -> bf16[256,256] {
  %p2 = bf16[256,256]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %p3 = bf16[1,256,256]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  %bitcast.8 = bf16[256,256]{1,0:T(8,128)(2,1)} bitcast(%p3)
  %convolution.5 = bf16[256,256]{1,0:T(8,128)(2,1)} convolution(%p2, %bitcast.8), dim_labels=bf_io->bf
  %convert = f32[256,256]{1,0:T(8,128)} convert(%convolution.5)
  %tanh.6 = f32[256,256]{1,0:T(8,128)} tanh(%convert)
  ROOT %convert.1 = bf16[256,256]{1,0:T(8,128)(2,1)S(1)} convert(%tanh.6)
}

%body (wide.param.2: (s32[], bf16[256,256], bf16[3,64,256])) -> (s32[], bf16[256,256], bf16[3,64,256]) {
  %one = s32[]{:T(128)} constant(1)
  %wide.param.2 = (s32[]{:T(128)}, bf16[256,256]{1,0:T(8,128)(2,1)S(1)}, /*index=2*/bf16[3,64,256]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%wide.param.2), index=0
  %w = bf16[3,64,256]{2,1,0:T(8,128)(2,1)} get-tuple-element(%wide.param.2), index=2
  %fusion.2 = bf16[1,64,256]{2,1,0:T(8,128)(2,1)S(1)} fusion(%w, %i), kind=kLoop, calls=%slice, \
backend_config={"window_config":{"estimated_cycles":"2027","cost_model_type":"COST_MODEL_TYPE_INVALID"}}
  %add.4 = s32[]{:T(128)} add(%i, %one)
  %x = bf16[256,256]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%wide.param.2), index=1
  %all-gather.9 = bf16[1,256,256]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%fusion.2), channel_id=3, \
replica_groups=mesh['axis_0'=4,'axis_1'=1] {'axis_0'}, dimensions={1}, use_global_device_ids=true
  %fusion.11 = bf16[256,256]{1,0:T(8,128)(2,1)S(1)} fusion(%x, %all-gather.9), kind=kOutput, calls=%product, \
backend_config={"window_config":{"estimated_cycles":"2845","cost_model_type":"COST_MODEL_TYPE_CLASSIC"}}
  ROOT %tuple.15 = (s32[]{:T(128)}, bf16[256,256]{1,0:S(1)}, bf16[3,64,256]{2,1,0}) tuple(%add.4, %fusion.11, %w)
}

%condition (wide.param.1: (s32[], bf16[256,256], bf16[3,64,256])) -> pred[] {
  %three = s32[]{:T(128)} constant(3)
  %wide.param.1 = (s32[]{:T(128)}, bf16[256,256]{1,0:T(8,128)(2,1)S(1)}, bf16[3,64,256]{2,1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%wide.param.1), index=0
  ROOT %lt.3 = pred[]{:T(512)} compare(%i.1, %three), direction=LT
}

ENTRY %main.3_spmd (param.3: bf16[3,64,256], param.2: bf16[256,256]) -> bf16[256,256] {
  %zero.1 = s32[]{:T(128)} constant(0)
  %param.3 = bf16[3,64,256]{2,1,0:T(8,128)(2,1)} parameter(0), sharding={devices=[1,4,1]<=[4]}
  %param.2 = bf16[256,256]{1,0:T(8,128)(2,1)} parameter(1), sharding={devices=[4,1]<=[4]}
  %copy-start.1 = (bf16[256,256]{1,0:S(1)}, bf16[256,256]{1,0}, u32[]{:S(2)}) copy-start(%param.2)
  %copy.9 = s32[]{:T(128)} copy(%zero.1)
  %copy-done.1 = bf16[256,256]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start.1)
  %tuple.17 = (s32[], bf16[256,256]{1,0:S(1)}, bf16[3,64,256]) tuple(%copy.9, %copy-done.1, %param.3)
  %while.9 = (s32[], bf16[256,256]{1,0:S(1)}, bf16[3,64,256]) while(%tuple.17), condition=%condition, body=%body
  %x.1 = bf16[256,256]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%while.9), index=1
  %copy-start = (bf16[256,256]{1,0}, bf16[256,256]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%x.1)
  ROOT %copy-done = bf16[256,256]{1,0:T(8,128)(2,1)} copy-done(%copy-start)
}
"""

# the loop of a windowed einsum on v5p:2x2x2: unrolled twice, its limit and step beside it in the tuple
WINDOWED = """HloModule jit_step, num_partitions=8

%body (p: (bf16[256,512], u32[], u32[])) -> (bf16[256,512], u32[], u32[]) {
  %two = u32[]{:T(128)} constant(2)
  %p = (bf16[256,512]{1,0:T(8,128)(2,1)}, u32[]{:T(128)}, u32[]{:T(128)}) parameter(0)
  %shard = bf16[256,512]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=0
  %limit.1 = u32[]{:T(128)} get-tuple-element(%p), index=2
  %collective-permute-start.15 = (bf16[256,512]{1,0}, bf16[256,512]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%shard), channel_id=3, source_target_pairs={{0,7},{1,0},{2,1},{3,2},{4,3},{5,4},{6,5},{7,6}}
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  %copy.50 = u32[]{:T(128)S(6)} copy(%i)
  %collective-permute-done.15 = bf16[256,512]{1,0:T(8,128)(2,1)} collective-permute-done(%collective-permute-start.15)
  %add.259 = u32[]{:T(128)} add(%copy.50, %two)
  ROOT %tuple = (bf16[256,512]{1,0}, u32[], u32[]) tuple(%collective-permute-done.15, %add.259, %limit.1)
}

%condition (p.1: (bf16[256,512], u32[], u32[])) -> pred[] {
  %p.1 = (bf16[256,512]{1,0:T(8,128)(2,1)}, u32[]{:T(128)}, u32[]{:T(128)}) parameter(0)
  %i.1 = u32[]{:T(128)} get-tuple-element(%p.1), index=1
  %limit = u32[]{:T(128)} get-tuple-element(%p.1), index=2
  ROOT %compare.17 = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (x: bf16[256,512]) -> bf16[256,512] {
  %x = bf16[256,512]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = u32[]{:T(128)} constant(0)
  %seven = u32[]{:T(128)} constant(7)
  %tuple.1 = (bf16[256,512]{1,0}, u32[], u32[]) tuple(%x, %zero, %seven)
  %while.49 = (bf16[256,512]{1,0}, u32[], u32[]) while(%tuple.1), condition=%condition, body=%body
  ROOT %y = bf16[256,512]{1,0:T(8,128)(2,1)} get-tuple-element(%while.49), index=0
}
"""

# a chain of fusions of the 8B step on v5e:4x4: one all-gather, named in each link; sizes reduced
CHAIN = """HloModule jit_step, num_partitions=16

%start (q0: bf16[1,16,128]) -> (bf16[1,16,128], bf16[1,256,128], u32[]) {
  %q0 = bf16[1,16,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.51 = bf16[1,256,128]{2,1,0:T(8,128)(2,1)} all-gather(%q0), channel_id=209, \
replica_groups=mesh['axis_0'=16,'axis_1'=1] {'axis_0'}, dimensions={1}, use_global_device_ids=true, \
backend_config={"async_collective_fusion_config":{"flag_start":"-1","flag_end":"-1"}}
  ROOT %custom-call.131 = (bf16[1,16,128]{2,1,0}, bf16[1,256,128]{2,1,0}, u32[]{:S(2)}) custom-call(%all-gather.51), \
custom_call_target="AsyncCollectiveStart"
}

%link (r0: bf16[64,64], r1: bf16[1,16,128], r2: bf16[1,256,128]) -> (bf16[64,64], bf16[1,16,128], bf16[1,256,128]) {
  %r0 = bf16[64,64]{1,0:T(8,128)(2,1)} parameter(0)
  %r1 = bf16[1,16,128]{2,1,0:T(8,128)(2,1)} parameter(1)
  %r2 = bf16[1,256,128]{2,1,0:T(8,128)(2,1)} parameter(2)
  %convolution.285 = bf16[64,64]{1,0:T(8,128)(2,1)} convolution(%r0, %r0), dim_labels=bf_io->bf
  %all-gather.53 = bf16[1,256,128]{2,1,0:T(8,128)(2,1)} all-gather(%r1), channel_id=209, \
replica_groups=mesh['axis_0'=16,'axis_1'=1] {'axis_0'}, dimensions={1}, use_global_device_ids=true, \
backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}
  ROOT %tuple.1049 = (bf16[64,64]{1,0}, bf16[1,16,128], bf16[1,256,128]) tuple(%convolution.285, %r1, %all-gather.53)
}

ENTRY %main (a: bf16[64,64], b: bf16[1,16,128]) -> bf16[64,64] {
  %a = bf16[64,64]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[1,16,128]{2,1,0:T(8,128)(2,1)} parameter(1)
  %fusion.1 = (bf16[1,16,128]{2,1,0}, bf16[1,256,128]{2,1,0}, u32[]{:S(2)}) fusion(%b), kind=kCustom, calls=%start
  %g1 = bf16[1,16,128]{2,1,0} get-tuple-element(%fusion.1), index=0
  %g2 = bf16[1,256,128]{2,1,0} get-tuple-element(%fusion.1), index=1
  %fusion.2 = (bf16[64,64]{1,0}, bf16[1,16,128], bf16[1,256,128]) fusion(%a, %g1, %g2), kind=kOutput, calls=%link
  ROOT %out = bf16[64,64]{1,0} get-tuple-element(%fusion.2), index=0
}
"""

# v5e:2x2, num_slices=4: psum, all_gather and ppermute between slices; the reduce-scatter of the 8B step on v5p:2x2x4
SLICES = """HloModule jit_f, num_partitions=4

%all-reduce-scatter (input: bf16[32,64]) -> bf16[8,64] {
  %input = bf16[32,64]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.49 = bf16[32,64]{1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=1, \
replica_groups={{0,1,2,3}}, use_global_device_ids=true, to_apply=%region_20.26
  %zero = u32[] constant(0)
  %partition-id.85 = u32[] partition-id()
  ROOT %dynamic-slice.601 = bf16[8,64]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.49, %partition-id.85, %zero), \
dynamic_slice_sizes={8,64}
}

%region_20.26 (u: bf16[], v: bf16[]) -> bf16[] {
  %u = bf16[] parameter(0)
  %v = bf16[] parameter(1)
  ROOT %sum = bf16[] add(%u, %v)
}, execution_thread="main"

ENTRY %main.5_spmd (param.1: f32[512,1024], param.2: bf16[32,64]) -> bf16[8,64] {
  %param.1 = f32[512,1024]{1,0:T(8,128)} parameter(0)
  %param.2 = bf16[32,64]{1,0:T(8,128)(2,1)} parameter(1), frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}
  %after-all = token[] after-all()
  %send = (f32[512,1024]{1,0:T(8,128)}, u32[], token[]) send(%param.1, %after-all), channel_id=2, \
is_host_transfer=true, frontend_attributes={\
_xla_megascale_target={{100000,200000},{100001,200001}},_xla_megascale_transfer_type="ALL_REDUCE"}
  %send.1 = (f32[512,1024]{1,0:T(8,128)}, u32[], token[]) send(%param.1, %after-all), channel_id=4, \
is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2,3,4}x{0:3}",\
_xla_megascale_transfer_type="ALL_GATHER"}
  %send.2 = (f32[512,1024]{1,0:T(8,128)}, u32[], token[]) send(%param.1, %after-all), channel_id=6, \
is_host_transfer=true, frontend_attributes={_xla_megascale_target={{100000->200000},{200000->100000}},\
_xla_megascale_transfer_type="ONE_TO_ONE"}
  ROOT %fusion.15 = bf16[8,64]{1,0:T(8,128)(2,1)} fusion(%param.2), kind=kCustom, calls=%all-reduce-scatter
}
"""

# an FSDP scan on v6e:4x4 with collectives offloaded (libtpu 0.0.52, jax 0.12); sizes reduced
OFFLOADED = """HloModule jit_step, num_partitions=16

%called_computation.6 (s: (bf16[1,8,64])) -> bf16[1,128,64] {
  %s = (bf16[1,8,64]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %get-tuple-element.331 = bf16[1,8,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%s), index=0
  ROOT %all-gather.31 = bf16[1,128,64]{2,1,0:T(8,128)(2,1)} all-gather(%get-tuple-element.331), channel_id=9, \
replica_groups=mesh['axis_0'=16] {'axis_0'}, dimensions={1}, use_global_device_ids=true
}, execution_thread="sparsecore"

ENTRY %main (a: bf16[1,8,64]) -> bf16[1,128,64] {
  %a = bf16[1,8,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %call-start = ((), (), (s32[8192]{0:T(1024)}, s32[51]{0:T(1)S(11)})) custom-call-start(), \
async_execution_thread="sparsecore", custom_call_target="x", called_computations={%called_computation.6}
  %call-update = ((bf16[1,8,64]{2,1,0}), bf16[1,128,64]{2,1,0}, (s32[8192]{0})) custom-call-update(%call-start, %a)
  ROOT %call-done = bf16[1,128,64]{2,1,0:T(8,128)(2,1)} custom-call-done(%call-update)
}
"""


@pytest.fixture
def mesh() -> Mesh:
    return jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def compiled(mesh, f, *arrays):
    """Compiled text of `f` for (dims, spec) fp32 arrays."""
    avals = [jax.ShapeDtypeStruct(dims, jnp.float32, sharding=NamedSharding(mesh, spec)) for dims, spec in arrays]
    return parse(jax.jit(f).lower(*avals).compile().as_text())


def layers(x, w):
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]


def times_of(module, opcode):
    return sorted(e.times for e in walk(module).executed if e.instruction.opcode == opcode)


def unhinted(module_text):
    """Without the trip counts that the CPU compiler leaves: as libtpu prints loops."""
    return re.sub(r'"known_trip_count":\{"n":"\d+"\}', '"nothing":""', module_text)


def test_shapes_lose_their_layout_and_keep_their_memory():
    text = "(bf16[2,3]{1,0:T(8,128)(2,1)S(1)SC(0:2)}, /*index=1*/u32[]{:S(2)}, s4[3]{0}, f8e4m3fn[7], (pred[<=5]))"
    assert shapes_of(text) == (
        Shape("bf16", (2, 3), 1),
        Shape("u32", (), 2),
        Shape("s4", (3,)),
        Shape("f8e4m3fn", (7,)),
        Shape("pred", (5,)),
    )
    assert [shape.bytes for shape in shapes_of(text)] == [12, 4, 2, 7, 5]


def test_text_without_an_entry_is_refused():
    with pytest.raises(TextError, match="ENTRY"):
        parse("HloModule empty\n")


def test_known_and_found_trip_counts_agree_on_nested_scans(mesh):
    def nested(x, w):
        return lax.scan(lambda x, _: (layers(x, w), None), x, None, length=7)[0]

    avals = [jax.ShapeDtypeStruct(dims, jnp.float32) for dims in ((16, 32), (5, 32, 32))]
    text = jax.jit(nested).lower(*avals).compile().as_text()
    assert times_of(parse(text), "dot") == [35]
    assert times_of(parse(unhinted(text)), "dot") == [35]
    assert walk(parse(unhinted(text))).unknown == ()


def test_a_scan_of_n_layers_is_n_times_one_layer(mesh):
    def flops(n):
        module = compiled(mesh, layers, ((16, 32), P(("data", "fsdp"))), ((n, 32, 32), P(None, "fsdp")))
        return device_work(module, walk(module)).flops

    assert flops(3) == 3 * 2 * 2 * 32 * 32  # 16 rows over 8 devices, every weight gathered
    assert flops(9) == 3 * flops(3)


def test_fsdp_gathers_every_layer_once(mesh):
    module = compiled(mesh, layers, ((16, 32), P(("data", "fsdp"))), ((6, 32, 32), P(None, "fsdp")))
    (gather,) = collectives(module, walk(module))
    assert (gather.kind, gather.group, gather.times, gather.payload_bytes) == ("all-gather", 4, 6, 8 * 32 * 4)
    assert gather.total_bytes == 6 * 3 * 8 * 32 * 4
    assert not gather.across_slices


def test_psum_over_an_axis_and_over_slices(mesh):
    def total(x):
        return jax.shard_map(lambda x: lax.psum(x, "data"), mesh=mesh, in_specs=P("data"), out_specs=P())(x)

    module = compiled(mesh, total, ((32, 8), P("data")))
    within = summary(collectives(module, walk(module)))
    assert within.by_kind == {"all-reduce": Traffic(1, 16 * 8 * 4)}  # 2 (g - 1) / g = 1 for two
    assert (within.ici_bytes, within.dcn_bytes) == (16 * 8 * 4, 0)
    crossing = summary(collectives(module, walk(module), slices=[0] * 4 + [1] * 4))
    assert (crossing.ici_bytes, crossing.dcn_bytes) == (0, 16 * 8 * 4)


def test_a_loop_that_may_stop_early_is_an_upper_bound():
    def decode(x):
        return lax.while_loop(lambda s: (s[0] < 24) & ~(s[1] > 1e9).all(), lambda s: (s[0] + 3, s[1] @ s[1]), (0, x))

    found = walk(parse(jax.jit(decode).lower(jnp.ones((8, 8))).compile().as_text()))
    assert [e.times for e in found.executed if e.instruction.opcode == "dot"] == [8]
    assert len(found.bounded) == 1
    assert found.unknown == ()


def test_a_loop_that_depends_on_data_is_unknown():
    def search(x):
        return lax.while_loop(lambda x: x.sum() < 100, lambda x: x @ x, x)

    found = walk(parse(jax.jit(search).lower(jnp.ones((8, 8))).compile().as_text()))
    assert [e.times for e in found.executed if e.instruction.opcode == "dot"] == [1]
    assert len(found.unknown) == 1


def test_the_heavier_branch_of_a_conditional_runs():
    def either(flag, x):
        return lax.cond(flag, lambda x: x @ x @ x, lambda x: x, x)

    module = parse(jax.jit(either).lower(jnp.array(True), jnp.ones((8, 8))).compile().as_text())
    assert device_work(module, walk(module)).flops == 2 * 2 * 8**3


def test_tpu_scan():
    module = parse(SCAN)
    found = walk(module)
    assert module.partitions == 4
    (gather,) = collectives(module, found)
    assert (gather.kind, gather.dtype, gather.group, gather.times) == ("all-gather", "bf16", 4, 3)
    assert gather.link_bytes == 3 * 64 * 256 * 2
    done = device_work(module, found)
    assert done.flops == 3 * 2 * 256**3
    assert done.cycles == 3 * 2845  # the slice's cycles are no time
    # a layer's shard read three times, x prefetched, the result written; the rest stays in VMEM
    assert done.hbm_bytes == 3 * 64 * 256 * 2 + 2 * 256 * 256 * 2
    assert Shape("f32", (256, 256)) not in buffers(found)  # inside the fusion only


def test_tpu_windowed_loop_has_its_limit_in_the_tuple():
    module = parse(WINDOWED)
    found = walk(module)
    (permute,) = collectives(module, found)
    assert (permute.kind, permute.times, permute.asynchronous) == ("collective-permute", 4, True)  # 0, 2, 4, 6
    assert permute.total_bytes == 4 * 256 * 512 * 2
    assert (found.bounded, found.unknown) == ((), ())


def test_tpu_chain_of_fusions_is_one_collective():
    module = parse(CHAIN)
    found = walk(module)
    (gather,) = collectives(module, found)
    assert (gather.name, gather.asynchronous, gather.link_bytes) == ("all-gather.51", True, 15 * 16 * 128 * 2)
    done = device_work(module, found)
    assert done.flops == 2 * 64**3
    assert done.hbm_bytes == 2 * 64 * 64 * 2  # the product's; the gathered buffer is passed through


def test_tpu_sparse_core_offload_is_asynchronous():
    module = parse(OFFLOADED)
    (gather,) = collectives(module, walk(module))
    assert (gather.kind, gather.asynchronous, gather.link_bytes) == ("all-gather", True, 15 * 8 * 64 * 2)
    assert device_work(module, walk(module)).hbm_bytes == 0


def test_tpu_between_slices_and_reduce_scatter():
    module = parse(SLICES)
    sent = {c.name: c for c in collectives(module, walk(module))}
    payload = 512 * 1024 * 4
    across = [sent[name] for name in ("send", "send.1", "send.2")]
    assert [(c.kind, c.group) for c in across] == [("all-reduce", 2), ("all-gather", 4), ("collective-permute", 2)]
    assert [c.link_bytes for c in across] == [payload, 3 * payload, payload]
    assert all(c.across_slices and c.asynchronous for c in across)
    scatter = sent["all-reduce.49"]
    assert (scatter.kind, scatter.link_bytes, scatter.across_slices) == ("reduce-scatter", 3 * 32 * 64 * 2 // 4, False)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,2},{1,3}}", ((0, 2), (1, 3))),
        ("[2,2]<=[4]", ((0, 1), (2, 3))),
        ("[2,2]<=[2,2]T(1,0)", ((0, 2), (1, 3))),
        ("[2,4]<=[2,2,2]T(1,0,2)", ((0, 1, 4, 5), (2, 3, 6, 7))),
        ("mesh['a'=2,'b'=2] {'a'}", ((0, 2), (1, 3))),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", ((0, 1, 4, 5), (2, 3, 6, 7))),
        ("mesh['a'=2,'b'=4] {'b':(2)2}", ((0, 1), (2, 3), (4, 5), (6, 7))),
        ("mesh['a'=2,'b'=4] {'b':(1)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("mesh['a'=2,'b'=2], device_ids=(3,1,2,0) {'b'}", ((3, 1), (2, 0))),
        ("{}", ((0, 1, 2),)),
    ],
)
def test_replica_groups(text, groups):
    assert groups_of(f" channel_id=1, replica_groups={text}, dimensions={{0}}", 3) == groups


def test_unreadable_groups_are_refused():
    with pytest.raises(TextError, match="tree"):
        groups_of("replica_groups=tree(4), dimensions={0}", 4)


def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather():
    shard = 1 << 20
    for group in (1, 2, 8, 256):
        scattered = link_bytes("reduce-scatter", group * shard, group)
        assert link_bytes("all-reduce", group * shard, group) == scattered + link_bytes("all-gather", shard, group)
        assert link_bytes("collective-permute", shard, group) == (shard if group > 1 else 0)
