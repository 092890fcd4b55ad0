"""Two tiers of training checkpoints: each host's own between those of the run directory, and shards from elsewhere."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from made_checkpoints import META, abstract, assert_same, params, placed
from made_runs import run_here, tiny_lm

from jaxalign.errors import CheckpointError, ConfigError
from jaxalign.hosts.group import ALONE
from jaxalign.mesh.sharding import MeshShape
from jaxalign.storage import artifact, shards
from jaxalign.storage.checkpoint import FitCheckpoints
from jaxalign.storage.local import LocalTier
from jaxalign.storage.record import read_metrics
from jaxalign.storage.tiers import TieredCheckpoints

MESHES = [MeshShape(slices=2, fsdp=4), MeshShape(data=2, fsdp=2, tensor=2), MeshShape(data=8, fsdp=1)]


@contextlib.contextmanager
def both(root: Path, run: str = "run") -> Iterator[TieredCheckpoints]:
    """A fit's checkpoints: every sixth step in the run directory, every second one on the host."""
    tier = LocalTier(str(root / "host"), 2, epath.Path(root / run), ALONE)
    with TieredCheckpoints(FitCheckpoints(root / run / "fit", 6, 2), tier) as found:
        yield found


def fill(root: Path, *steps: int) -> None:
    with both(root) as found:
        for step in steps:
            assert found.due(step)
            found.save(step, placed(params(step), (2, 4)), {"next": step}, META)


def wanted() -> object:
    return abstract(placed(params(), (2, 4)))


def test_the_newest_of_either_tier_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for steps, newest in (((2, 4), 4), ((6,), 6), ((8, 10), 10), ((12,), 12)):
        fill(tmp_path, *steps)
        with both(tmp_path) as found:
            restored = found.restore(wanted())
        assert restored is not None
        assert (restored.step, restored.data, restored.meta) == (newest, {"next": newest}, META)
        assert_same(restored.state, placed(params(newest), (2, 4)))
        assert ("hosts' own checkpoints" in capsys.readouterr().err) == (newest % 6 > 0)
    assert sorted(entry.name for entry in (tmp_path / "run" / "fit").iterdir()) == ["00000006", "00000012", "name"]


def test_what_is_placed_as_the_state_is_goes_on_being_so(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    with both(tmp_path) as found:
        restored = found.restore(wanted())
    assert restored is not None
    for leaf, there in zip(jax.tree.leaves(wanted()), jax.tree.leaves(restored.state), strict=True):
        assert there.sharding == leaf.sharding


def test_the_last_before_a_stop_is_in_the_run_directory(tmp_path: Path) -> None:
    with both(tmp_path) as found:
        found.save(4, params(4), {"next": 4}, META, stopping=True)
    assert FitCheckpoints(tmp_path / "run" / "fit", 6, 2).steps() == [4]


def local(root: Path) -> Path:
    (home,) = (root / "host").iterdir()
    (fit,) = home.iterdir()
    return fit


def test_a_damaged_step_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, 6, 8, 10)
    for newest in (10, 8):
        arrays = local(tmp_path) / f"{newest:08d}" / artifact.ARRAYS
        arrays.write_bytes(arrays.read_bytes()[:-7])
    with both(tmp_path) as found:
        restored = found.restore(wanted())
        assert found.steps() == [6]
    assert restored is not None
    assert restored.step == 6
    assert capsys.readouterr().err.count("passed over") == 2


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    fill(tmp_path, 6, 8, 10)
    arrays = local(tmp_path) / "00000010" / artifact.ARRAYS
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 1
    arrays.write_bytes(content)
    with both(tmp_path) as found:
        restored = found.restore(wanted())
    assert restored is not None
    assert restored.step == 8


def test_another_mesh_goes_on_from_the_run_directory(tmp_path: Path) -> None:
    fill(tmp_path, 6, 8)
    with both(tmp_path) as found:
        restored = found.restore(abstract(placed(params(), (4, 2))))
    assert restored is not None
    assert restored.step == 6
    assert_same(restored.state, placed(params(6), (4, 2)))


def test_another_fit_of_the_same_directory_begins_without(tmp_path: Path) -> None:
    """As where somebody deletes a run and begins another one there."""
    fill(tmp_path, 2)
    shutil.rmtree(tmp_path / "run")
    with both(tmp_path) as found:
        assert found.restore(wanted()) is None
    assert not list((tmp_path / "host").glob("*/*/*2"))


def test_a_host_that_cannot_write_costs_its_own_tier_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def full(directory: epath.Path, *others: object) -> None:
        tried.append(directory)
        raise CheckpointError(f"{directory}: no space left on the disk")

    fill(tmp_path, 2)
    monkeypatch.setattr(artifact, "commit", full)
    with both(tmp_path) as found:
        for step in (4, 6, 8, 10):
            found.save(step, placed(params(step), (2, 4)), {"next": step}, META)
        assert len(tried) == 1, "and then no more"
        found.close()  # a checkpoint of the run directory is on its way until then
        assert found.steps() == [2, 6], "what is there may be gone on from, and what it needs stays"
    said = capsys.readouterr().err
    assert "no space left on the disk" in said
    assert "those in the run directory go on" in said
    with both(tmp_path) as found:
        restored = found.restore(wanted())
    assert restored is not None
    assert restored.step == 6


def test_directories_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bucket"):
        LocalTier("gs://somewhere/near", 2, epath.Path(tmp_path), ALONE)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"placement\.local_checkpoints: on process 0: .*cannot be written"):
        LocalTier(str(tmp_path / "file" / "below"), 2, epath.Path(tmp_path), ALONE)


# --------------------------------------------------------------------------------------------------------------
# Shards from other devices


def odd_values(dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Every kind of bits: NaNs with payloads, -0.0, denormals."""
    size = int(np.prod(shape)) * dtype.itemsize
    bits = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    return (bits & 1).astype(bool).reshape(shape) if dtype == np.dtype(bool) else bits.view(dtype).reshape(shape)


@pytest.mark.parametrize("mesh", MESHES, ids=lambda mesh: "x".join(map(str, mesh.sizes.values())))
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, bool], ids=str)
@pytest.mark.parametrize("spec", [(), ("fsdp",), ("tensor", "fsdp"), (None, ("fsdp", "tensor"))], ids=str)
def test_parts_reach_all_copies_bit_for_bit(
    mesh: MeshShape, dtype: jnp.dtype, spec: tuple[str | tuple[str, ...] | None, ...]
) -> None:
    """Of each part one device has it, never the first where there are two."""
    devices = mesh.build()
    value = odd_values(np.dtype(dtype), (8, 16))
    leaf = jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=NamedSharding(devices, PartitionSpec(*spec)))
    given = {}
    for index, holders in shards.holders_of(leaf).items():
        part = value[tuple(slice(*bounds) for bounds in index)]
        given[holders[-1]] = jax.device_put(part, holders[-1])
    found = shards.spread(leaf, given)
    assert found.sharding == leaf.sharding
    for shard in found.addressable_shards:
        assert np.asarray(shard.data).tobytes() == value[shard.index].tobytes()


def test_scalars_reach_all_copies() -> None:
    mesh = MeshShape(slices=2, fsdp=4).build()
    leaf = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec()))
    assert int(shards.spread(leaf, {jax.devices()[5]: jnp.int32(-7)})) == -7


def test_what_has_no_copy_is_not_whole() -> None:
    """All devices are this process's: what it lacks nobody has."""
    leaf = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=NamedSharding(MESHES[0].build(), PartitionSpec("fsdp")))
    assert shards.whole({"x": leaf}, {0})
    assert not shards.whole({"x": leaf}, {1})


# --------------------------------------------------------------------------------------------------------------
# A run


def pulled_behind(near: Path, step: int) -> bool:
    """No stop is asked for; the plug is pulled once the hosts' own checkpoint of a step is there."""
    if list(near.glob(f"*/*/{step:08d}/commit.json")):
        raise RuntimeError("pulled")
    return False


def test_a_run_goes_on_from_the_hosts_own_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--iterations", "1", "--swap_every", "none", "--fit.checkpoint_every", "100", "--fit.epochs", "3")
    near = ("--placement.local_checkpoints", str(tmp_path / "near"), "--placement.local_checkpoint_every", "2")
    run_here(tiny_lm(*options), tmp_path / "plain")
    fits = [line for line in read_metrics(tmp_path / "plain") if line["phase"] == "fit"]
    assert len(fits) > 4
    cut = tmp_path / "cut"
    with pytest.raises(RuntimeError, match="pulled"):
        run_here(tiny_lm(*options, *near), cut, lambda: pulled_behind(tmp_path / "near", 4))
    assert not [path for path in (cut / "0000" / "fit").iterdir() if path.name.isdecimal()]
    run_here(tiny_lm(*options, *near), cut)
    assert "goes on from the hosts' own checkpoints after step 4" in capsys.readouterr().err
    assert read_metrics(cut) == read_metrics(tmp_path / "plain")
    assert not list((tmp_path / "near").iterdir()), "the policy is committed"
