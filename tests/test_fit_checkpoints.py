"""Checkpoints inside a fit: written behind its back, damaged ones set aside, full disks and death survived."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_checkpoints import META, abstract, assert_same, files_of, grow, params, tiny

from jaxalign.errors import CheckpointError
from jaxalign.storage import checkpoint, pytree, rundir
from jaxalign.types import Params

# A read that Orbax abandoned, because another array could not be read, may end late and complain of its closed loop.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:Exception ignored in. {what}:pytest.PytestUnraisableExceptionWarning")
    for what in ("None", "<coroutine object")
]


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
        found, _ = pytree.load(rundir.epath.Path(tmp_path / "fit" / f"{step:08d}"), wanted, ("data", "meta"), step)
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
from jaxalign.storage import checkpoint
from jaxalign.storage.checksum import checksum

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
