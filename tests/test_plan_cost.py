"""Chips, topologies and the estimate, against numbers worked out by hand."""

import dataclasses
import json
from functools import partial
from importlib.resources import files

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from jaxalign.errors import ConfigError
from jaxalign.ops.costs import KernelCost
from jaxalign.plan.chips import CUBES, SQUARES, chip, generations, sources, topology
from jaxalign.plan.collectives import Collective
from jaxalign.plan.cost import estimate, model_flops
from jaxalign.plan.hlo import parse
from jaxalign.plan.torus import NEXT, Span
from jaxalign.plan.walk import walk
from jaxalign.plan.work import DeviceWork, Kernel, Operation, buffers, device_work

SPAN = Span(links=2.0, hops=6, crossing=4.0)


def operation(flops=0, cycles=0, moved=0, times=1, asynchronous=False):
    return Operation("op", times, flops, cycles, moved, asynchronous)


def collective(sent, asynchronous=False, across=False, kind="all-gather", group=16, times=1, span=SPAN):
    return Collective("c", kind, "bf16", sent, group, sent, times, asynchronous, across, span)


def priced(operations=(), sent=(), kernels=(), name="v5e:4x4", costs=None, tokens=16, model=1.0, slices=1):
    done, target = DeviceWork(tuple(operations), tuple(kernels)), topology(name, slices)
    return estimate(done, sent, target, chip(target.generation), tokens, model, costs or {})


def flops_of(f, *arrays):
    module = parse(jax.jit(f).lower(*arrays).compile().as_text())
    return device_work(module, walk(module)).flops


def test_every_figure_has_a_source():
    table = json.loads((files("jaxalign.plan") / "chips.json").read_text("utf-8"))
    assert set(generations()) == {"v4", "v5e", "v5p", "v6e", "tpu7x", "h100", "h200"}
    for generation, fields in table.items():
        assert {source for source, _ in sources(generation).values()} <= {
            "published",
            "libtpu reports",
            "derived",
            "assumption",
        }
        assert all(entry["note"] for entry in fields.values())
        assert set(fields) == {field.name for field in dataclasses.fields(chip(generation))} - {"generation"}


@pytest.mark.parametrize(("generation", "per_cycle"), [("v4", 2**18), ("v5e", 2**17), ("v5p", 2**18), ("v6e", 2**19)])
def test_clock_times_flops_a_cycle_is_the_published_peak(generation, per_cycle):
    assert chip(generation).clock * per_cycle == pytest.approx(chip(generation).bf16_flops, rel=1e-12)
    assert 1e9 < chip(generation).clock < 2.5e9


def test_usable_memory_is_what_libtpu_reports():
    assert chip("v5e").device_hbm_usable == int(15.75 * 2**30)
    assert chip("tpu7x").device_hbm_usable == int(94.75 * 2**30)


@pytest.mark.parametrize(
    ("name", "chips", "devices", "hosts"),
    [
        ("v5p:4x4x8", 128, 128, 32),
        ("v4:2x2x1", 4, 4, 1),
        ("tpu7x:4x4x4", 64, 128, 16),
        ("v5e:16x16", 256, 256, 64),
        ("v6e:1x1", 1, 1, 1),
        ("h100:16", 16, 16, 2),
    ],
)
def test_topologies_count_chips_devices_and_hosts(name, chips, devices, hosts):
    found = topology(name)
    assert (found.chips, found.devices, found.hosts) == (chips, devices, hosts)
    twice = topology(name, slices=2)
    assert (twice.chips, twice.devices, twice.hosts) == (2 * chips, 2 * devices, 2 * hosts)


def test_arguments_for_the_compiler():
    assert topology("v5p:4x4x4").arguments == {}
    assert topology("v5e:4x4", slices=2).arguments == {"num_slices": 2}
    assert topology("v4:2x2x1").arguments == {"chip_config_name": "megacore"}
    assert topology("v6e:1x1").arguments == {"chips_per_host_bounds": [1, 1, 1]}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5p-128", r"64 chips of two cores: use v5p:4x4x4$"),
        ("v5p-256", r"use v5p:4x4x8$"),
        ("v4-8", r"use v4:2x2x1$"),
        ("v6e-64", r"64 chips: use v6e:8x8$"),
        ("v5litepod-16", r"use v5e:4x4$"),
        ("v6e-48", r"use v6e: and the slice's sides"),
        ("v8:4x4x4", r"unknown topology 'v8:4x4x4': write a generation \(v4, v5e"),
        ("v5p", "unknown topology"),
        ("v5p:4x4", "3 axes, as in v5p:4x4x4"),
        ("v5e:2x2x1", "2 axes, as in v5e:4x4"),
        ("v5e:3x3", "must be even"),
        ("v5p:2x1x1", "must be even"),
        ("v6e:16x32", "16x16 chips: take more slices"),
        ("v6e:0x4", "2 axes"),
        ("v5p:16x16x32", "8,192 chips; the largest slice of v5p has 6,144"),
        ("trillium:4x4", "trillium is v6e here: use v6e:4x4$"),
        ("ironwood:2x2x1", "ironwood is tpu7x here: use tpu7x:2x2x1$"),
    ],
)
def test_other_names_are_refused_with_the_name_to_use(name, said):
    with pytest.raises(ConfigError, match=said):
        topology(name)


@pytest.mark.parametrize("shapes", [("v5p", CUBES), ("v6e", SQUARES)])
def test_usual_shapes_hold_their_chips(shapes):
    generation, table = shapes
    for chips, shape in table.items():
        assert topology(f"{generation}:{shape}").chips == chips


def test_slices_are_at_least_one():
    with pytest.raises(ConfigError, match="at least one"):
        topology("v5e:4x4", slices=0)


def test_an_operation_takes_the_longest_of_cycles_flops_and_bytes():
    v5e = chip("v5e")
    cycles = priced([operation(flops=197, cycles=3000, moved=819)])
    assert cycles.step_seconds == pytest.approx(3000 / v5e.clock)
    flops = priced([operation(flops=197 * 10**12, cycles=3000, times=2)])
    assert flops.scheduled_seconds == pytest.approx(2.0)
    memory = priced([operation(flops=197, moved=819 * 10**9)])
    assert memory.step_seconds == pytest.approx(1.0)
    assert memory.memory_seconds == pytest.approx(1.0)


def test_asynchronous_copies_count_as_memory_alone():
    hidden = priced([operation(flops=197 * 10**12), operation(moved=819 * 10**9 // 2, asynchronous=True)])
    assert hidden.scheduled_seconds == pytest.approx(1.0)
    shown = priced([operation(flops=197 * 10**12), operation(moved=819 * 10**9 * 2, asynchronous=True)])
    assert shown.scheduled_seconds == pytest.approx(2.0)


def test_synchronous_collectives_add_and_asynchronous_ones_hide():
    busy = [operation(flops=197 * 10**12)]  # one second
    half = 45 * 10**9  # of a second over two links that reach 45 GB/s

    def scheduled(*sent, slices=1):
        return priced(busy, sent, slices=slices).scheduled_seconds

    assert scheduled(collective(half)) == pytest.approx(1.5)
    assert scheduled(collective(half, times=3)) == pytest.approx(2.5)
    assert scheduled(collective(half, asynchronous=True)) == pytest.approx(1.0)
    assert scheduled(collective(half, asynchronous=True, times=4)) == pytest.approx(2.0)
    across = collective(3_125_000_000, asynchronous=True, across=True)  # one second of 25 Gb/s
    both = priced(busy, [across, across, collective(half)], slices=2)
    assert (both.dcn_hidden_seconds, both.scheduled_seconds) == (pytest.approx(2.0), pytest.approx(2.5))


def test_a_small_collective_takes_its_hops():
    """Six hops of 1 us at the best, of 2.7 as measured; an all-reduce goes around twice."""
    busy = [operation(flops=197 * 10**12)]
    small = priced(busy, [collective(1000, times=1000)])
    assert small.scheduled_seconds == pytest.approx(1 + 1000 * 6 * 2.7e-6)
    assert small.bound_seconds == pytest.approx(1 + 1000 * 6 * 1e-6)
    assert small.ici_hop_seconds == pytest.approx(1000 * (6 * 2.7e-6 - 1000 / 90e9))
    summed = priced(busy, [collective(1000, times=1000, kind="all-reduce")])
    assert summed.scheduled_seconds == pytest.approx(1 + 1000 * 12 * 2.7e-6)
    assert priced(busy, [collective(45 * 10**9)]).ici_hop_seconds == 0


def test_an_all_to_all_loads_the_link_in_the_middle():
    sent = priced([operation(flops=1)], [collective(45 * 10**9, kind="all-to-all", span=Span(2.0, 8, 2.0))])
    assert sent.ici_seconds == pytest.approx(2.0)  # twice its operand, over one link of 45 GB/s
    permuted = priced([operation(flops=1)], [collective(45 * 10**9, kind="collective-permute", span=Span(1.0, 1, 0.5))])
    assert permuted.ici_seconds == pytest.approx(0.5)  # in pairs, one in each direction


def test_gpus_of_several_hosts_send_over_the_network():
    one = priced([operation(flops=1)], [collective(370 * 10**9, group=8, span=NEXT)], name="h100:16")
    assert (one.ici_seconds, one.dcn_seconds) == (pytest.approx(1.0), 0)
    all_of_them = priced([operation(flops=1)], [collective(50 * 10**9, span=NEXT)], name="h100:16")
    assert (all_of_them.ici_seconds, all_of_them.dcn_seconds) == (0, pytest.approx(1.0))


def test_two_devices_of_a_chip_share_its_links():
    sent = [collective(90 * 10**9, span=Span(6.0, 6, 0.5))]
    assert priced([operation(flops=1)], sent, name="tpu7x:4x4x4").ici_seconds == pytest.approx(2 / 6)
    assert priced([operation(flops=1)], sent, name="v5p:4x4x4").ici_seconds == pytest.approx(1 / 6)


def test_a_range_ends_where_published_steps_are():
    """A product at full speed for a second: others reach 60.5 % of the peak on v5e."""
    found = priced([operation(flops=197 * 10**12)])
    assert found.range == (pytest.approx(1.0), pytest.approx(1 / 0.605))
    assert found.hfu == pytest.approx(0.605)
    # what the compiler schedules worse than that is expected as it is scheduled
    slow = priced([operation(flops=197 * 10**12, cycles=int(2 * chip("v5e").clock))])
    assert slow.range == (pytest.approx(1.0), pytest.approx(2.0))


def test_kernels_are_priced_by_their_ops():
    kernel = Kernel("logp_fwd", 2, 819 * 10**8)
    named = priced(kernels=[kernel], costs={"logp_fwd": KernelCost(flops=197e12, share=0.5)})
    assert named.kernel_seconds == pytest.approx(2 / 0.5)
    # v5e has 197 TFLOP/s: at half of it the step is the two kernels, and all of their FLOPs are counted
    assert named.hfu == pytest.approx(0.5)
    assert named.bound_seconds == pytest.approx(2.0)
    assert named.unpriced_kernels == ()
    bare = priced(kernels=[kernel])
    assert bare.kernel_seconds == pytest.approx(0.2)
    assert bare.unpriced_kernels == ("logp_fwd",)


def test_shares_of_the_peak():
    found = priced([operation(flops=197 * 10**12, times=2)], tokens=64, model=16 * 197e12)
    assert found.step_seconds == pytest.approx(2 / 0.605)
    assert (found.hfu, found.mfu) == (pytest.approx(0.605), pytest.approx(0.605 / 2))
    assert found.tokens_per_s_per_chip == pytest.approx(64 * 0.605 / 2 / 16)


def test_senseless_inputs_are_refused():
    with pytest.raises(ValueError, match="tokens"):
        estimate(DeviceWork((), ()), (), topology("v5e:4x4"), chip("v5e"), 0, 1.0, {})
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match="share"):
            KernelCost(1.0, share)


@given(st.integers(0, 10**15), st.integers(0, 10**13), st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_step_is_at_least_each_of_its_parts_and_at_most_their_sum(flops, moved, sent, hidden):
    links = [collective(sent), collective(hidden, asynchronous=True)]
    found = priced([operation(flops=flops, moved=moved), operation(flops=1)], links)
    parts = (found.compute_seconds, found.ici_seconds, found.ici_hidden_seconds)
    assert max(parts) <= found.scheduled_seconds <= sum(parts) * (1 + 1e-12)
    assert found.bound_seconds <= found.scheduled_seconds * (1 + 1e-12)
    assert found.scheduled_seconds <= found.step_seconds
    assert found.hfu <= chip("v5e").reached + 1e-12


def test_model_flops_are_those_of_palm():
    n, layers, heads, size, length, tokens = 540e9, 118, 48, 256, 2048, 1000
    found = model_flops(int(n), tokens, layers, heads, size, length, 3.0, causal=False)
    assert found == pytest.approx(tokens * (6 * n + 12 * layers * heads * size * length))  # appendix B
    causal = model_flops(int(n), tokens, layers, heads, size, length, 3.0, causal=True)
    assert causal == pytest.approx(tokens * (6 * n + 6 * layers * heads * size * length))


def test_model_flops_are_what_a_plain_forward_compiles_to():
    """Whole scores are computed under a mask, so the program has the FLOPs of attention that is not causal."""
    d, f, v, heads, size, length, layers = 32, 64, 96, 2, 16, 24, 3

    def layer(x, w):
        q, k, values = (jnp.einsum("td,dnh->nth", x, w[name]) for name in "qkv")
        scores = jnp.where(jnp.tri(length, dtype=bool)[None], jnp.einsum("nth,nsh->nts", q, k), -1e9)
        x = x + jnp.einsum("nts,nsh,nhd->td", jax.nn.softmax(scores), values, w["o"])
        return x + jax.nn.silu(x @ w["up"]) @ w["down"], None

    def forward(w, head, x):
        return lax.scan(layer, x, w)[0] @ head.T

    dims = {**dict.fromkeys("qkv", (d, heads, size)), "o": (heads, size, d), "up": (d, f), "down": (f, d)}
    w = {name: jax.ShapeDtypeStruct((layers, *shape), jnp.float32) for name, shape in dims.items()}
    n = sum(leaf.size for leaf in jax.tree.leaves(w)) + v * d
    head, x = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((v, d), (length, d)))
    asked = model_flops(n, length, layers, heads, size, length, 1.0, causal=False)
    assert flops_of(forward, w, head, x) == asked


def test_buffers_tell_whether_logits_are_held():
    def sizes(chunks):
        def loss(x, head):
            return lax.map(lambda x: jnp.sort(x @ head.T)[:, 0], x.reshape(chunks, -1, 16)).sum()

        text = jax.jit(loss).lower(jnp.ones((64, 16)), jnp.ones((96, 16))).compile().as_text()
        return {shape.elements for shape in buffers(walk(parse(text)))}

    assert 64 * 96 in sizes(1)
    assert 8 * 96 in sizes(8)
    assert max(sizes(8)) < 64 * 96


def test_recomputation_is_in_the_compiled_flops():
    def loss(keep, w, x):
        body = jax.checkpoint(lambda x, w: (jnp.tanh(jnp.tanh(x @ w) @ w), None), prevent_cse=False, policy=keep)
        return lax.scan(body, x, w)[0].sum()

    w, x = jnp.ones((4, 32, 32)), jnp.ones((8, 32))
    product = 2 * 8 * 32 * 32
    kept = flops_of(jax.grad(partial(loss, jax.checkpoint_policies.everything_saveable)), w, x)
    again = flops_of(jax.grad(partial(loss, jax.checkpoint_policies.nothing_saveable)), w, x)
    assert again > kept
    assert (again - kept) % (4 * product) == 0  # whole products, once a layer


@pytest.mark.parametrize(
    ("strides", "padding", "dilate", "positions"),
    [(1, (0, 0), 1, 6 * 3), (2, (1, 1), 1, 11), (1, (2, 2), 1, 24), (1, (0, 0), 2, 20)],
)
def test_convolutions_count_positions_that_meet_data(strides, padding, dilate, positions):
    """Eight data, a window of three. Stride 2, padding 1: outputs at -1, 1, 3, 5 meet 2, 3, 3, 3 of them.

    Spread by two: the seven even outputs meet two, the six odd ones one.
    """

    def convolve(x, w):
        return lax.conv_general_dilated(
            x, w, (strides,), [padding], lhs_dilation=(dilate,), dimension_numbers=("NCH", "OIH", "NCH")
        )

    x, w = jnp.ones((2, 5, 8)), jnp.ones((7, 5, 3))
    assert flops_of(convolve, x, w) == 2 * 2 * 5 * 7 * positions
