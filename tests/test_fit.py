"""The fit: batches made behind its back, outcomes read late, and nothing kept before it is known to be finite."""

import json
import pathlib
import threading

import jax
import jax.numpy as jnp
import pytest
from made_fits import STEPS, changed_step, train

from jaxalign import fit
from jaxalign.mesh.sharding import MeshShape
from jaxalign.storage.record import read_metrics


def steps_of(workdir: pathlib.Path) -> list[int]:
    return [line["step"] for line in read_metrics(workdir) if line["phase"] == "fit"]


def checkpoints(workdir: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (workdir / "0000" / "fit").iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert train(workdir) == 0
    return workdir


def test_every_step_is_recorded_once_and_in_order(whole):
    perf = [json.loads(line) for line in (whole / "perf.jsonl").read_text().splitlines()]
    lines = [line for line in perf if line["phase"] == "fit"]
    assert steps_of(whole) == [line["step"] for line in lines] == list(range(STEPS))
    for line in lines:
        assert line["perf/step_seconds"] > 0
        assert line["perf/host_seconds"] >= 0
        assert 0 <= line["perf/padding_fraction"] < 1


@pytest.mark.parametrize("bad", range(STEPS))
@pytest.mark.parametrize("every", [1, 2, 4])
def test_a_state_whose_loss_is_not_finite_is_never_kept(tmp_path, monkeypatch, capsys, bad, every):
    """Its step is found one step late, or at once where a checkpoint or the end is due."""
    nan = jax.device_put(jnp.float32(jnp.nan))

    def wrap(step):
        taken = iter(range(STEPS))

        def poisoned(*arguments):
            state, metrics = step(*arguments)
            return state, metrics | ({"loss": nan} if next(taken) == bad else {})

        return poisoned

    changed_step(monkeypatch, wrap)
    assert train(tmp_path, "--fit.keep_checkpoints", "9", every=every) == 6
    assert f"loss is nan at step {bad}" in capsys.readouterr().err
    kept = [f"{step:08d}" for step in range(1, bad + 1) if step % every == 0]
    assert (checkpoints(tmp_path) if kept else []) == kept
    assert steps_of(tmp_path) == list(range(bad))
    assert not (tmp_path / "0000" / "policy").exists()


def test_an_error_while_a_batch_is_made_surfaces_as_itself_and_leaves_no_thread(tmp_path, monkeypatch, whole):
    error = ZeroDivisionError("of the batch")
    made, original = [], fit.make_batch

    def failing(*arguments):
        made.append(threading.current_thread().name)
        if len(made) == 4:
            raise error
        return original(*arguments)

    monkeypatch.setattr(fit, "make_batch", failing)
    with pytest.raises(ZeroDivisionError) as caught:
        train(tmp_path)
    assert caught.value is error
    assert set(made) == {"jaxalign-ahead_0"}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jaxalign-ahead")]
    assert checkpoints(tmp_path) == ["00000002"]
    monkeypatch.undo()
    assert train(tmp_path) == 0
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_transfer_that_nobody_asked_for_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "on_mesh", lambda batch, sharding: batch)  # the step would fetch it by itself
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(tmp_path)


def test_making_a_batch_transfers_nothing_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "on_mesh", lambda batch, sharding: jax.tree.map(jnp.asarray, batch))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(tmp_path)


def test_a_step_is_dispatched_before_the_one_before_it_is_read(tmp_path, monkeypatch):
    events, tell = [], fit._tell

    def wrap(step):
        taken = iter(range(STEPS))

        def noted(*arguments):
            events.append(f"step {next(taken)}")
            return step(*arguments)

        return noted

    def noting(session, iteration, progress, trial, step, *told):
        events.append(f"read {step}")
        tell(session, iteration, progress, trial, step, *told)

    changed_step(monkeypatch, wrap)
    monkeypatch.setattr(fit, "_tell", noting)
    assert train(tmp_path, every=4) == 0
    # Step 3 is read at once: a checkpoint is due behind it.
    expected = "step 0, step 1, read 0, step 2, read 1, step 3, read 2, read 3, step 4, step 5, read 4, read 5"
    assert ", ".join(events) == expected


def test_cpus_that_exchange_data_take_one_step_at_a_time():
    assert fit.one_at_a_time(MeshShape(fsdp=8).build())
    assert not fit.one_at_a_time(MeshShape(fsdp=1).build())
