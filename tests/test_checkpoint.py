"""Orbax checkpoints: equal to the bit on any mesh, damage found, failures told, the last committed state intact."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxalign import checkpoint, rundir, store
from jaxalign.checksum import checksum
from jaxalign.errors import CheckpointError
from jaxalign.types import Params

# A read that Orbax abandoned, because another array could not be read, may end late and complain of its closed loop.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:Exception ignored in. {what}:pytest.PytestUnraisableExceptionWarning")
    for what in ("None", "<coroutine object")
]

DATA = {"next_index": 12, "nested": {"list": [1, 2.5, None]}}
META = {"iteration": 0, "anchor": 0}


def params(seed: int = 0) -> Params:
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "embed": jax.random.normal(keys[0], (64, 32)),
        "layers": {
            "query": jax.random.normal(keys[1], (2, 8, 16), jnp.bfloat16),
            "mask": jax.random.bernoulli(keys[2], 0.5, (8, 8)),
        },
        "step": jnp.int32(seed),
    }


def placed(tree: Params, shape: tuple[int, int], kind: AxisType = AxisType.Auto) -> Params:
    """The tree with its last two axes laid over a mesh of that shape."""
    mesh = jax.make_mesh(shape, ("x", "y"), axis_types=(kind, kind), devices=jax.devices()[: shape[0] * shape[1]])

    def place(leaf: jax.Array) -> jax.Array:
        axes = (*[None] * (leaf.ndim - 2), "x", "y") if leaf.ndim >= 2 else ()
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*axes)))

    return jax.tree.map(place, tree)


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def assert_same(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


# --------------------------------------------------------------------------------------------------------------
# Policies


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_policy_saved_on_one_mesh_loads_equal_on_others(tmp_path: Path, kind: AxisType) -> None:
    checkpoint.save_policy(tmp_path / "policy", placed(params(), (4, 2), kind), META)
    for shape in ((4, 2), (2, 4), (1, 1)):
        wanted = abstract(placed(params(), shape, kind))
        loaded, meta = checkpoint.load_policy(tmp_path / "policy", wanted)
        assert_same(loaded, params())
        assert meta == META
        assert [leaf.sharding for leaf in jax.tree.leaves(loaded)] == [
            leaf.sharding for leaf in jax.tree.leaves(wanted)
        ]


def test_checksums_do_not_see_the_mesh_but_see_values_places_and_signs() -> None:
    x = params()["embed"]
    whole = int(checksum(x))
    for shape in ((4, 2), (1, 8), (1, 1)):
        assert int(checksum(placed({"x": x}, shape)["x"])) == whole
    seen = {whole}
    for other in (x[::-1], x.T, x.at[3, 4].add(1e-6), x.at[0, 0].set(0.0), x.at[0, 0].set(-0.0), x[:, :31]):
        seen.add(int(checksum(other)))
    assert len(seen) == 7


@pytest.mark.parametrize(
    "dtype",
    [
        "bool",
        "int8",
        "uint8",
        "int16",
        "int32",
        "uint32",
        "float16",
        "bfloat16",
        "float32",
        "float8_e4m3fn",
        "complex64",
    ],
)
def test_every_dtype_comes_back(tmp_path: Path, dtype: str) -> None:
    raw = np.random.default_rng(0).integers(0, 2, 24).astype(np.uint8)
    x = jnp.asarray(raw.astype(jnp.dtype(dtype)).reshape(2, 3, 4))
    checkpoint.save_policy(tmp_path / "policy", {"x": x}, {})
    assert_same(checkpoint.load_policy(tmp_path / "policy", abstract({"x": x}))[0], {"x": x})


def cast(tree: Params) -> Params:
    return {**tree, "embed": tree["embed"].astype(jnp.bfloat16)}


def grow(tree: Params) -> Params:
    return {**tree, "embed": jnp.zeros((65, 32))}


def add(tree: Params) -> Params:
    return {**tree, "bias": jnp.zeros((1,))}


def drop(tree: Params) -> Params:
    return {name: leaf for name, leaf in tree.items() if name != "embed"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cast, r"array embed is float32\[64, 32\], not bfloat16\[64, 32\]"),
        (grow, r"array embed is float32\[64, 32\], not float32\[65, 32\]"),
        (add, "has no array bias"),
        (drop, "holds an array embed that this model does not have"),
    ],
)
def test_another_model_is_refused_by_array(tmp_path: Path, change: Callable[[Params], Params], words: str) -> None:
    checkpoint.save_policy(tmp_path / "policy", params(), {})
    with pytest.raises(CheckpointError, match=words):
        checkpoint.load_policy(tmp_path / "policy", abstract(change(params())))


def test_a_committed_policy_is_not_overwritten(tmp_path: Path) -> None:
    checkpoint.save_policy(tmp_path / "policy", params(0), {})
    with pytest.raises(CheckpointError, match="already committed"):
        checkpoint.save_policy(tmp_path / "policy", params(1), {})
    assert_same(checkpoint.load_policy(tmp_path / "policy", abstract(params()))[0], params(0))


def test_leftovers_of_a_killed_save_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "policy" / "state").mkdir(parents=True)
    (tmp_path / "policy.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    assert not store.exists(rundir.epath.Path(tmp_path / "policy"))
    with pytest.raises(CheckpointError, match="no policy is committed"):
        checkpoint.load_policy(tmp_path / "policy", abstract(params()))
    checkpoint.save_policy(tmp_path / "policy", params(), {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["policy"]


def test_meta_that_json_would_change_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="would not come back from JSON"):
        checkpoint.save_policy(tmp_path / "policy", params(), {"shape": (1, 2)})


def files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)


def flip(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(bytes(content))


def test_a_flipped_bit_anywhere_is_found_or_harmless(tmp_path: Path) -> None:
    original, copy = tmp_path / "policy", tmp_path / "copy"
    checkpoint.save_policy(original, params(), META)
    dice, found = random.Random(0), []
    data = [path.relative_to(original) for path in files_of(original) if path.parent.name == "d"]
    rest = [path.relative_to(original) for path in files_of(original) if path.parent.name != "d"]
    for name in [dice.choice(data) for _ in range(10)] + [dice.choice(rest) for _ in range(10)]:
        shutil.copytree(original, copy)
        flip(copy / name, dice)
        try:
            loaded, meta = checkpoint.load_policy(copy, abstract(params()))
        except CheckpointError as error:
            found.append(str(error))
        else:
            assert_same(loaded, params())
            assert meta == META
        shutil.rmtree(copy)
    assert len(found) >= 8
    assert sum("its checksum does not fit" in message for message in found) >= 3  # those that Orbax does not see


def test_a_changed_value_is_found_and_its_array_named(tmp_path: Path) -> None:
    """Two checkpoints that Orbax itself finds good: the arrays of one beside the integrity item of the other."""
    changed = params() | {"embed": params()["embed"].at[3, 4].multiply(-1.0)}
    checkpoint.save_policy(tmp_path / "good", params(), META)
    checkpoint.save_policy(tmp_path / "changed", changed, META)
    shutil.rmtree(tmp_path / "good" / "state")
    shutil.copytree(tmp_path / "changed" / "state", tmp_path / "good" / "state")
    with pytest.raises(CheckpointError, match="array embed is damaged"):
        checkpoint.load_policy(tmp_path / "good", abstract(params()))


# --------------------------------------------------------------------------------------------------------------
# Iterates of a run


@pytest.fixture
def run(tmp_path: Path) -> Iterator[rundir.RunDir]:
    with rundir.open_run(tmp_path / "run", {"seed": 0}) as opened:
        yield opened


def tiny(k: int) -> Params:
    return {"table": jnp.full((3, 1), float(k))}


def test_iterates_have_their_places(run: rundir.RunDir) -> None:
    for k in (0, 1, 3):
        run.policy(k).save(tiny(k), {})
    assert run.policies() == [0, 1, 3]
    assert (run.path / "initial" / "policy").is_dir()
    assert (run.path / "0002" / "policy").is_dir()
    assert_same(run.policy(3).load(abstract(tiny(0))), tiny(3))


def test_a_relative_path_is_fixed_when_the_run_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with rundir.open_run("run", {"seed": 0}) as run:
        monkeypatch.chdir("/")
        run.policy(0).save(tiny(0), {})
        assert_same(run.policy(0).load(abstract(tiny(0))), tiny(0))
    assert (tmp_path / "run" / "initial" / "policy").is_dir()


def test_a_policy_in_anothers_place_is_refused(run: rundir.RunDir) -> None:
    run.policy(1).save(tiny(1), {})
    (run.path / "0000").rename(run.path / "0001")
    with pytest.raises(CheckpointError, match="holds iterate 1, not 2"):
        run.policy(2).load(abstract(tiny(0)))


@pytest.mark.parametrize(
    ("keep", "protect", "left"),
    [(None, set(), [0, 1, 2, 3, 4]), (2, set(), [0, 3, 4]), (1, {2}, [0, 2, 4]), (9, {1}, [0, 1, 2, 3, 4])],
)
def test_pruning_spares_the_base_the_newest_and_the_anchor(
    run: rundir.RunDir, keep: int | None, protect: set[int], left: list[int]
) -> None:
    for k in range(5):
        run.policy(k).save(tiny(k), {})
    run.prune(keep, protect)
    assert run.policies() == left


def test_training_checkpoints_go_only_once_the_policy_is_there(run: rundir.RunDir) -> None:
    with checkpoint.FitCheckpoints(run.fit_path(0), every=1, keep=1) as fit:
        fit.save(1, tiny(1), DATA, META)
    with pytest.raises(CheckpointError, match="the policy is not committed"):
        run.clear_fit(0)
    run.policy(1).save(tiny(1), {})
    run.clear_fit(0)
    run.clear_fit(0)
    assert not run.fit_path(0).exists()


# --------------------------------------------------------------------------------------------------------------
# Training states


def filled(root: Path, steps: tuple[int, ...] = (2, 4, 6), keep: int = 3) -> checkpoint.FitCheckpoints:
    fit = checkpoint.FitCheckpoints(root, every=2, keep=keep)
    for step in steps:
        fit.save(step, params(step), {"next": step}, META)
    fit.close()
    return fit


def test_the_newest_training_state_comes_back(tmp_path: Path) -> None:
    assert checkpoint.FitCheckpoints(tmp_path / "fit", 2, 1).restore(abstract(params())) is None
    filled(tmp_path / "fit")
    restored = checkpoint.FitCheckpoints(tmp_path / "fit", 2, 1).restore(abstract(params()))
    assert restored is not None
    assert_same(restored.state, params(6))
    assert (restored.step, restored.data, restored.meta) == (6, {"next": 6}, META)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    fit = filled(tmp_path / "fit", (2, 4, 6, 8), keep=2)
    assert fit.steps() == [6, 8]
    assert [fit.due(step) for step in (7, 8)] == [False, True]
    assert sorted(entry.name for entry in (tmp_path / "fit").iterdir()) == ["00000006", "00000008"]


def test_a_committed_step_stays_as_it_is(tmp_path: Path) -> None:
    fit = filled(tmp_path / "fit")
    fit.save(6, params(7), {}, {})
    fit.close()
    restored = fit.restore(abstract(params()))
    assert restored is not None
    assert_same(restored.state, params(6))


def test_arrays_may_be_donated_while_they_are_saved(tmp_path: Path) -> None:
    state = {"x": jnp.arange(1 << 20, dtype=jnp.uint32), "y": jnp.ones((1 << 20,), jnp.uint32)}
    expected = jax.tree.map(np.array, state)
    wanted = abstract(state)
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x * jnp.uint32(3) + jnp.uint32(1), tree), donate_argnums=0)
    with checkpoint.FitCheckpoints(tmp_path / "fit", 1, 3) as fit:
        for step in range(1, 4):
            fit.save(step, state, {"step": step}, {})
            state = advance(advance(state))
            jax.block_until_ready(state)
    for step in range(1, 4):
        found, _ = store.load(rundir.epath.Path(tmp_path / "fit" / f"{step:08d}"), wanted, ("data", "meta"), step)
        assert_same(found, expected)
        expected = jax.tree.map(lambda x: x * np.uint32(9) + np.uint32(4), expected)


def damage_arrays(place: Path) -> None:
    for path in files_of(place / "state"):
        path.write_bytes(path.read_bytes()[:-7])


def damage_data(place: Path) -> None:
    document = json.loads((place / "data" / "data.json").read_text())
    (place / "data" / "data.json").write_text(json.dumps({**document, "next": 3}))


def swap(place: Path) -> None:
    older = place.with_name("00000002")
    shutil.rmtree(place)
    shutil.copytree(older, place)


def empty(place: Path) -> None:
    shutil.rmtree(place)
    place.mkdir()
    (place / "commit_success.txt").write_text("")


def lose_integrity(place: Path) -> None:
    shutil.rmtree(place / "integrity")


@pytest.mark.parametrize("damage", [damage_arrays, damage_data, swap, empty, lose_integrity])
def test_a_damaged_state_is_moved_aside_for_an_older_one(
    tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path / "fit")
    damage(tmp_path / "fit" / "00000006")
    fit = checkpoint.FitCheckpoints(tmp_path / "fit", 2, 3)
    restored = fit.restore(abstract(params()))
    assert restored is not None
    assert restored.step == 4
    assert_same(restored.state, params(4))
    assert "moved to damaged-6" in capsys.readouterr().err
    assert fit.steps() == [2, 4]
    with fit:
        fit.save(6, params(6), {"next": 6}, META)
    assert fit.steps() == [2, 4, 6]


def test_when_all_are_damaged_nothing_starts_afresh(tmp_path: Path) -> None:
    filled(tmp_path / "fit")
    for place in (tmp_path / "fit").iterdir():
        damage_arrays(place)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="every training checkpoint is damaged; delete"):
            checkpoint.FitCheckpoints(tmp_path / "fit", 2, 3).restore(abstract(params()))


def test_another_state_is_an_error_and_no_damage(tmp_path: Path) -> None:
    filled(tmp_path / "fit")
    fit = checkpoint.FitCheckpoints(tmp_path / "fit", 2, 3)
    with pytest.raises(CheckpointError, match="array embed is float32"):
        fit.restore(abstract(grow(params())))
    assert fit.steps() == [2, 4, 6]


def test_half_written_and_half_deleted_states_are_swept(tmp_path: Path) -> None:
    filled(tmp_path / "fit")
    (tmp_path / "fit" / "00000008.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "fit" / "00000006" / "commit_success.txt").unlink()
    fit = checkpoint.FitCheckpoints(tmp_path / "fit", 2, 3)
    assert sorted(entry.name for entry in (tmp_path / "fit").iterdir()) == ["00000002", "00000004"]
    assert fit.steps() == [2, 4]


# --------------------------------------------------------------------------------------------------------------
# Full disks, and death


def noise(seed: int) -> Params:
    """0.8 MB that no compression makes smaller."""
    bits = np.random.default_rng(seed).integers(0, 2**32, 200_000, np.uint32)
    return {"noise": jnp.asarray(bits)}


def test_a_full_disk_is_told_and_saving_goes_on_once_there_is_room(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filler = small_disk / "filler"
    fit = checkpoint.FitCheckpoints(small_disk / "fit", 1, 2)
    fit.save(1, noise(1), {"next": 1}, {})
    fit.close()
    filler.write_bytes(b"x" * 800_000)
    fit.save(2, noise(2), {"next": 2}, {})  # fails behind the training's back
    with pytest.raises(CheckpointError, match=r"no space left on the disk: 0\.8 MB needed, 0\.\d MB free"):
        fit.save(3, noise(3), {"next": 3}, {})
    assert "00000002: not saved: no space left" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="no space left"):
        checkpoint.save_policy(small_disk / "policy", noise(3), {})
    assert fit.steps() == [1]
    restored = fit.restore(abstract(noise(1)))
    assert restored is not None
    assert_same(restored.state, noise(1))
    filler.unlink()
    fit.save(4, noise(4), {"next": 4}, {})
    fit.close()
    restored = fit.restore(abstract(noise(1)))
    assert restored is not None
    assert_same(restored.state, noise(4))
    assert fit.steps() == [1, 4]


def test_a_failed_last_save_is_not_forgotten(small_disk: Path) -> None:
    fit = checkpoint.FitCheckpoints(small_disk / "fit", 1, 2)
    fit.save(1, noise(1), {}, {})
    (small_disk / "filler").write_bytes(b"x" * 800_000)
    fit.save(2, noise(2), {}, {})
    with pytest.raises(CheckpointError, match=r"the last training checkpoint is missing: .*no space left"):
        fit.close()
    assert fit.steps() == [1]


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "fit").write_text("a file in the way")
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoint.FitCheckpoints(tmp_path / "fit", 1, 2).save(1, tiny(1), {}, {})


KILL = """
import os, random, signal, sys, time
os.environ["JAX_PLATFORMS"] = "cpu"
import jax, jax.numpy as jnp
from jaxalign import checkpoint
from jaxalign.checksum import checksum

root, kills, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def train():
    advance = jax.jit(lambda s: {"x": s["x"] * 1.01 + 1e-3, "m": s["m"] * 0.9 + s["x"]}, donate_argnums=0)
    state = {"x": jnp.linspace(0, 1, 100_000), "m": jnp.zeros(100_000)}
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)
    fit = checkpoint.FitCheckpoints(root, 1, 2)
    restored = fit.restore(abstract)
    first = 0
    if restored is not None:
        first, state = restored.step, restored.state
        assert restored.data == {"next": first}
    print("from", first, flush=True)
    for step in range(first, steps):
        state = advance(state)
        fit.save(step + 1, state, {"next": step + 1}, {})
        os.write(said, b".")
    fit.close()
    print("sum", int(checksum(state["x"])), int(checksum(state["m"])), flush=True)

dice = random.Random(0)
for kill in range(kills + 1):
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(said)
    if kill < kills:
        for _ in range(dice.randrange(1, 5)):
            os.read(heard, 1)
        time.sleep(dice.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
    os.close(heard)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) in ((0, -9) if kill < kills else (0,)), status
"""


@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_sigkill_at_random_times_costs_at_most_the_step_under_way(tmp_path: Path, kills: int) -> None:
    """The run killed again and again ends with the bits of the run that was never killed."""
    said = []
    for times in (kills, 0):
        command = [sys.executable, "-W", "ignore", "-c", KILL, str(tmp_path / str(times)), str(times), str(3 * kills)]
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=280, env={**os.environ, "XLA_FLAGS": ""}
        )
        assert found.returncode == 0, found.stderr
        assert "damaged" not in found.stderr
        said.append(found.stdout.splitlines())
    starts = [int(line.split()[1]) for line in said[0] if line.startswith("from")]
    assert starts == sorted(starts)
    assert starts[-1] > 0
    assert said[0][-1] == said[1][-1]
    assert said[0][-1].startswith("sum")
