"""Values and gradients of every implementation against fp64, and the rules of the op."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractDevice, AbstractMesh
from linear_logp_checks import Case, assert_true, outcome

from jaxalign.ops.linear_logp import (
    OUTPUTS,
    Logits,
    LogpOptions,
    OnMesh,
    linear_logp,
    linear_stats,
    pallas_gpu,
    pallas_tpu,
    portable,
    sharded,
)
from jaxalign.ops.linear_logp.blocks import Blocks, Chip, chip, fit, vmem_bytes
from jaxalign.ops.linear_logp.costs import kernel_cost
from jaxalign.ops.linear_logp.pallas_gpu import Tiles
from jaxalign.ops.linear_logp.problem import Engine, Shard
from jaxalign.ops.linear_logp.stats import Want
from jaxalign.ops.linear_logp.tuning import tuning

SMALL = Blocks(n=128, v=128, sub=128, columns=128)
"""blocks small enough that a few hundred tokens and rows make a grid"""


def kernels(interpret: object) -> Engine:
    """The TPU kernels, interpreted on the CPU."""
    device = Chip("test", 64 << 20, SMALL, SMALL, SMALL)
    return Engine(
        "pallas_tpu",
        partial(pallas_tpu.forward, device=device, interpret=interpret),
        partial(pallas_tpu.backward, device=device, interpret=interpret),
    )


def in_chunks(rows: int) -> LogpOptions:
    return LogpOptions(implementation="chunked", chunk=rows)


CHUNKED = portable.engine(32)
KERNELS = kernels(True)
# fp32 products of unit variance carry about 1e-6 of rounding, and every output is of the order of 10 nats
VALUE = 2e-5
GRADIENT = 2e-5
# bf16 keeps 8 bits: p and dz are rounded once by 2⁻⁹ before a product that is summed in fp32, gradients once more when
# they are returned; the statistics never leave fp32
BF16_GRADIENT = 1e-2

CASES = {
    "plain": Case(40, 16, 100),
    "one word": Case(5, 16, 1, ignored=False),
    "padded, capped, biased": Case(40, 16, 96, vocabulary=70, softcap=3.0, scale=0.7, temperature=1.3, bias=True),
    "certain": Case(40, 16, 100, peak=40.0),
    "bf16 certain": Case(40, 16, 100, dtype="bfloat16", peak=20.0),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_chunked_against_fp64(case: Case) -> None:
    assert_true(CHUNKED, case, VALUE, BF16_GRADIENT if case.dtype == "bfloat16" else GRADIENT)


@pytest.mark.parametrize("name", ["padded, capped, biased", "bf16 certain"])
@pytest.mark.parametrize("chunks", [1, 2, 9])
def test_chunks_that_keep_some_logits_or_all(name: str, chunks: int) -> None:
    case = CASES[name]
    engine = portable.engine(32, keep=chunks * 4 * case.n * 32)
    assert_true(engine, case, VALUE, BF16_GRADIENT if case.dtype == "bfloat16" else GRADIENT)


def test_the_last_whole_chunks_are_kept_as_far_as_the_bytes_go() -> None:
    hidden, head, _, targets = Case(40, 16, 100).arrays()
    shard, logits = Shard(hidden, head, None, targets, None), Logits()
    every = np.asarray(hidden) @ np.asarray(head).T
    for keep, chunks in ((2 * 4 * 40 * 32 - 1, 1), (2 * 4 * 40 * 32, 2), (10**6, 3)):
        made = portable.forward(shard, logits, Want(tiles=True), 32, keep).tiles
        assert made.shape == (chunks, 40, 32)
        kept = np.moveaxis(np.asarray(made), 0, 1).reshape(40, -1)
        # fp32 products of 16 terms
        np.testing.assert_allclose(kept, every[:, 96 - 32 * chunks : 96], atol=1e-5)
    assert portable.forward(shard, logits, Want(), 32, 10**6).tiles is None


KERNEL_CASES = {
    "ragged": Case(150, 192, 300, softcap=30.0),
    "capped, biased, padded": Case(128, 128, 256, softcap=3.0, bias=True, vocabulary=200),
    "bf16 certain": Case(130, 128, 256, dtype="bfloat16", peak=20.0),
}


@pytest.mark.parametrize("case", KERNEL_CASES.values(), ids=KERNEL_CASES.keys())
def test_kernels_against_fp64(case: Case) -> None:
    assert_true(KERNELS, case, VALUE, BF16_GRADIENT if case.dtype == "bfloat16" else GRADIENT)


TILES = Tiles(n=32, v=64, columns=32, warps=4, stages=2, programs=6)
HOPPER_CASES = {
    "ragged, certain": Case(70, 64, 300, dtype="bfloat16", peak=20.0, softcap=30.0),
    "capped, biased, padded": Case(64, 32, 256, dtype="bfloat16", softcap=3.0, bias=True, vocabulary=200),
}


@pytest.mark.parametrize("case", HOPPER_CASES.values(), ids=HOPPER_CASES.keys())
def test_the_kernel_for_hopper_against_fp64(case: Case) -> None:
    """Two groups of tokens or three, and parts of the vocabulary with one block or two."""
    forward = partial(pallas_gpu.forward, tiles=TILES, chunk=64, interpret=True)
    engine = Engine("pallas_gpu", forward, partial(portable.backward, chunk=64), keeps_row=False)
    assert_true(engine, case, VALUE, BF16_GRADIENT)


def test_the_tiles_for_hopper_fit_its_shared_memory() -> None:
    tiles = Tiles(**tuning()["pallas_gpu"])
    assert 2 * tiles.stages * (tiles.n + tiles.v) * tiles.columns <= 227 << 10
    # an fp32 logit is a register; half of a thread's 255 are for the rest
    assert tiles.n * tiles.v <= 128 * 32 * tiles.warps


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
def test_the_kernel_for_hopper_is_lowered_by_name() -> None:
    """For an H100 that is not here, as far as the call of the compiled kernel; no logits [256 600] anywhere."""
    h100 = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    op = jax.jit(partial(linear_logp, options=LogpOptions(Logits(softcap=30.0), implementation="pallas_gpu")))
    shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((256, 128), (600, 128))]
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=h100)):
        traced = op.trace(*shapes, jax.ShapeDtypeStruct((256,), jnp.int32))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "xla.gpu.triton" in text
    assert "256x600" not in text


def test_kernels_have_no_races() -> None:
    """The interpreter follows each access to shared memory and leaves what nobody wrote undefined."""
    interpret = pltpu.InterpretParams(detect_races=True, out_of_bounds_reads="uninitialized")
    assert_true(kernels(interpret), Case(256, 128, 300), VALUE, GRADIENT)
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    assert interpret_pallas_call.races is not None
    assert not interpret_pallas_call.races.races_found


@settings(max_examples=6, deadline=None)
@given(
    n=st.integers(1, 40),
    d=st.integers(1, 24),
    v=st.integers(1, 90),
    chunk=st.integers(1, 100),
    peak=st.floats(0, 60),
    bias=st.booleans(),
    softcap=st.sampled_from([None, 2.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_any_shape_any_chunk(
    n: int, d: int, v: int, chunk: int, peak: float, bias: bool, softcap: float | None, seed: int
) -> None:
    case = Case(n, d, v, bias=bias, softcap=softcap, peak=peak, seed=seed, ignored=n > 1)
    assert_true(portable.engine(chunk), case, VALUE, GRADIENT)


@pytest.mark.parametrize("columns", [(), ("fsdp",), ("data", "fsdp")])
@pytest.mark.parametrize("piece", [10_000, 1_000])
def test_sharded_vocabulary_against_fp64(columns: tuple[str, ...], piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 tokens over 4 devices, 100 rows (60 of them tokens, with padding) over 2; the 50 of a device at once, or in
    4 pieces of 13 that end with 2 rows of padding."""
    monkeypatch.setattr(sharded, "PIECE_BYTES", piece)
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    case = Case(64, 16, 100, bias=True, vocabulary=60)
    assert_true(CHUNKED, case, VALUE, GRADIENT, run=OnMesh(mesh, columns=columns))


def test_head_that_does_not_divide_over_the_mesh_is_padded() -> None:
    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    hidden, head, bias, targets = Case(8, 16, 101, bias=True).arrays()
    layout = OnMesh(mesh, tokens=("data",))
    here = jax.jit(partial(linear_logp, options=LogpOptions(implementation="full")))(hidden, head, targets, bias=bias)
    options = LogpOptions(layout=layout)
    there = jax.jit(lambda *a: linear_logp(a[0], a[1], targets, options, bias=a[2]))(hidden, head, bias)
    np.testing.assert_allclose(np.asarray(there), np.asarray(here), atol=VALUE, rtol=0)


def test_the_full_path_agrees() -> None:
    case = Case(40, 16, 100, bias=True, softcap=5.0, vocabulary=90)
    hidden, head, bias, targets = case.arrays()
    options = LogpOptions(Logits(softcap=5.0), vocabulary=90, implementation="full")
    got = jax.jit(partial(linear_stats, options=options))(hidden, head, targets, bias=bias)
    wanted, _ = outcome(CHUNKED, case)
    for name in OUTPUTS:
        np.testing.assert_allclose(
            np.asarray(getattr(got, name), np.float32), np.asarray(getattr(wanted, name), np.float32), atol=VALUE
        )


def test_entropy_and_square_sum_have_gradients() -> None:
    hidden, head, bias, targets = Case(20, 8, 50, bias=True).arrays()

    def loss(implementation: str, hidden: jax.Array, head: jax.Array, bias: jax.Array) -> jax.Array:
        options = LogpOptions(implementation=implementation, chunk=16)
        made = linear_stats(hidden, head, targets, options, bias=bias)
        weights = jnp.arange(20, dtype=jnp.float32)
        return (weights * (made.logp - 2.0 * made.entropy + 0.5 * made.log_sum_p2 * made.lse)).sum()

    one, two = (jax.jit(jax.grad(partial(loss, name), (0, 1, 2)))(hidden, head, bias) for name in ("full", "chunked"))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=2e-5 * np.abs(np.asarray(a)).max(), rtol=0)


def test_composes_with_vmap_scan_and_remat() -> None:
    hidden, head, _, targets = Case(12, 8, 50).arrays()
    op = partial(linear_logp, targets=targets, options=in_chunks(16))
    heads = jnp.stack([head, 2.0 * head])

    def scanned(head: jax.Array) -> jax.Array:
        step = jax.checkpoint(lambda total, h: (total + op(h, head).sum(), None))
        return jax.lax.scan(step, jnp.float32(0), jnp.stack([hidden, hidden]))[0]

    once = jax.jit(jax.value_and_grad(lambda w: op(hidden, w).sum()))
    of_heads = jax.jit(jax.vmap(jax.value_and_grad(lambda w: op(hidden, w).sum())))(heads)
    for i in range(2):
        for stacked, alone in zip(of_heads, once(heads[i]), strict=True):
            np.testing.assert_allclose(np.asarray(stacked[i]), np.asarray(alone), atol=1e-5)
    twice = jax.jit(jax.grad(scanned))(head)
    np.testing.assert_allclose(np.asarray(twice), 2 * np.asarray(once(head)[1]), atol=1e-5)


def test_same_bits_with_and_without_gradient() -> None:
    """A reference scored without gradients and the policy it equals have log-ratio 0."""
    hidden, head, _, targets = Case(40, 16, 100).arrays()
    op = partial(linear_logp, targets=targets, options=in_chunks(32))
    plain = jax.jit(op)(hidden, head)
    kept = jax.jit(lambda h, w: jax.vjp(op, h, w)[0])(hidden, head)
    np.testing.assert_array_equal(np.asarray(plain), np.asarray(kept))


def test_ignored_and_impossible_targets() -> None:
    hidden, head, _, _ = Case(4, 8, 50).arrays()
    targets = jnp.asarray([-1, -100, 3, 50], jnp.int32)
    for implementation in ("full", "chunked"):
        got = np.asarray(
            jax.jit(partial(linear_logp, options=LogpOptions(implementation=implementation)))(hidden, head, targets)
        )
        assert got[0] == got[1] == 0
        assert np.isfinite(got[2])
        assert np.isnan(got[3])


def test_a_frozen_head_costs_two_products() -> None:
    """4·n·d·v in all, against 2 for the log-probs alone and 8 with the head's gradient; a loop's body counts once."""
    hidden, head, _, targets = Case(64, 64, 1024).arrays()

    def logp(hidden: jax.Array, head: jax.Array) -> jax.Array:
        return linear_logp(hidden, head, targets, in_chunks(256)).sum()

    def operations(function: Callable) -> float:
        return jax.jit(function).lower(hidden, head).compile().cost_analysis()["flops"]

    alone = operations(logp)
    # what is not a product, a dozen operations a logit, is a tenth of one at this width
    assert 1.8 < operations(jax.grad(logp)) / alone < 2.2
    assert 3.6 < operations(jax.grad(logp, (0, 1))) / alone < 4.4


def test_no_buffer_of_all_logits() -> None:
    n, d, v = 256, 64, 4096
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((n, d), (v, d))]
    targets = jnp.zeros(n, jnp.int32)

    def loss(hidden: jax.Array, head: jax.Array) -> jax.Array:
        return linear_logp(hidden, head, targets, in_chunks(128)).sum()

    chunked = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*shapes).compile()
    assert f"[{n},{v}]" not in chunked.as_text()
    assert f"[{v},{n}]" not in chunked.as_text()
    assert chunked.memory_analysis().temp_size_in_bytes < 0.25 * 4 * n * v


@pytest.mark.parametrize("generation", ["v5e", "v5p", "v6e"])
def test_blocks_fit_their_vmem(generation: str) -> None:
    device = chip(generation)
    for kernel in ("forward", "forward_row", "head"):
        for d, size in ((576, 4), (4096, 2), (8192, 2), (8192, 4)):
            blocks = fit(kernel, getattr(device, kernel), device.vmem, 8192, d, size)
            assert vmem_bytes(kernel, blocks, d, size) <= device.vmem
            assert blocks.n % blocks.sub == 0
            assert blocks.v % 128 == blocks.sub % 128 == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head": jnp.zeros((9, 4), jnp.bfloat16)}, "cast one of them"),
        ({"head": jnp.zeros((9, 5))}, "last dimension"),
        ({"bias": jnp.zeros(8)}, "one entry for each"),
        ({"options": LogpOptions(vocabulary=10)}, "vocabulary 10"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, said: str) -> None:
    given = {"hidden": jnp.zeros((3, 4)), "head": jnp.zeros((9, 4)), "targets": jnp.zeros(3, jnp.int32)} | change
    # jaxtyping's hook sees unequal shapes before the op does
    with pytest.raises((ValueError, TypeError)) as refused:
        linear_logp(**given)
    assert isinstance(refused.value, TypeError) or said in str(refused.value)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: LogpOptions(implementation="fast"), "unknown implementation 'fast'"),
        (lambda: LogpOptions(chunk=0), "chunk must be at least 1"),
        (lambda: Logits(softcap=0.0), "softcap must be positive"),
        (lambda: Logits(temperature=0.0), "temperature must be positive"),
    ],
)
def test_senseless_options_are_refused(made: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made()


def test_the_cost_of_a_kernel_is_that_of_its_products_on_one_device() -> None:
    """128 tokens over 4 devices, and 100 rows over 2, of width 16: those of a device at once, or in pieces."""
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    cost = partial(kernel_cost, tokens=128, head=(100, 16), itemsize=2)
    assert cost("jvp_logp_forward_row_", layout=OnMesh(mesh)).flops == 4 * 32 * 16 * 50
    assert cost("logp_forward", layout=None).flops == 2 * 128 * 16 * 100
    assert cost("transpose_jvp_logp_head__", layout=None).flops == 4 * 128 * 16 * 100
    assert cost("another_kernel", layout=None) is None
    wide = kernel_cost("logp_forward", 128, (100, 16), 4, None)
    assert wide is not None
    assert wide.share == pytest.approx(0.9 / 6)


def test_the_cost_of_a_kernel_is_that_of_a_piece_of_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded, "PIECE_BYTES", 401)
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    # a device's 50 rows of 32 bytes in 4 pieces of 13 rows
    found = kernel_cost("logp_head", 128, (100, 16), 2, OnMesh(mesh, columns=("fsdp",)))
    assert found is not None
    assert found.flops == 4 * 32 * 16 * 13
