"""Orbax checkpoints: equal to the bit on any mesh, damage found, failures told, the last committed state intact."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from made_checkpoints import DATA, META, abstract, assert_same, files_of, grow, params, placed, tiny

from jaxalign.errors import CheckpointError
from jaxalign.storage import checkpoint, pytree, rundir
from jaxalign.storage.checksum import checksum
from jaxalign.types import Params

# A read that Orbax abandoned, because another array could not be read, may end late and complain of its closed loop.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:Exception ignored in. {what}:pytest.PytestUnraisableExceptionWarning")
    for what in ("None", "<coroutine object")
]


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
    assert not pytree.exists(rundir.epath.Path(tmp_path / "policy"))
    with pytest.raises(CheckpointError, match="no policy is committed"):
        checkpoint.load_policy(tmp_path / "policy", abstract(params()))
    checkpoint.save_policy(tmp_path / "policy", params(), {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["policy"]


def test_meta_that_json_would_change_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="would not come back from JSON"):
        checkpoint.save_policy(tmp_path / "policy", params(), {"shape": (1, 2)})


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


def test_a_reason_of_several_lines_is_told_in_one(run, monkeypatch):
    def unreadable(*_):
        raise ValueError("Unexpected fields:\n  'a'\n\n  'b'")

    run.policy(1).save(tiny(1), {})
    monkeypatch.setattr("jaxalign.storage.pytree.ocp.load_checkpointables", unreadable)
    with pytest.raises(CheckpointError, match=r"cannot be read \(ValueError: Unexpected fields: 'a' 'b'\)") as refused:
        run.policy(1).load(abstract(tiny(0)))
    assert "\n" not in str(refused.value)
