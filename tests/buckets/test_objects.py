"""Artifacts, policies and records in a bucket: commits, listings that come behind, and one write a second."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from made_artifacts import Small, same, small
from made_bucket import NAME, Bucket

from jaxalign.errors import CheckpointError
from jaxalign.hosts.group import ALONE
from jaxalign.storage import artifact, checkpoint, pytree, rundir
from jaxalign.storage.local import LocalTier
from jaxalign.storage.record import Recorder, read_metrics
from jaxalign.storage.slot import PolicySlot
from jaxalign.storage.tiers import TieredCheckpoints

CONFIG = {"seed": 0}
TREE = {"w": jnp.arange(12.0).reshape(3, 4), "b": jnp.ones(3, jnp.bfloat16)}


def abstract(tree):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)


def equal(one, other) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, other))


@pytest.fixture
def run(root):
    with rundir.open_run(root, CONFIG) as opened:
        yield opened


def test_an_artifact_is_what_was_committed(run):
    assert same(run.phase(0, "groups", small, Small), small())
    assert same(rundir.read_run(run.path).load(0, "groups", Small), small())


def test_an_artifact_is_not_there_until_its_last_object_is(root):
    """A kill between any two writes leaves nothing, and what is made again is whole."""
    rundir.open_run(root, CONFIG).close()
    files = artifact.encode(small())
    for count in range(len(files) + 1):
        directory = epath.Path(root) / "0000" / f"groups{count}"
        for file, content in itertools.islice(files.items(), count):
            (directory / file).write_bytes(content)
        assert not artifact.committed(directory)
        artifact.commit(directory, "0000/groups", small())
        assert same(artifact.read(directory, "0000/groups", Small), small())


def test_a_damaged_object_is_found(run):
    run.phase(0, "groups", small, Small)
    for name in (artifact.CONTENT, artifact.MARKER, artifact.ARRAYS):
        file = run.path / "0000" / "groups" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        with pytest.raises(CheckpointError):
            run.load(0, "groups", Small)
        file.write_bytes(whole)
    assert same(run.load(0, "groups", Small), small())


def test_a_policy_is_saved_read_streamed_and_deleted(run):
    slot = run.policy(0)
    slot.save(TREE, {})
    assert slot.exists()
    assert equal(slot.load(abstract(TREE)), TREE)
    streamed = slot.stream(abstract(TREE)).tree(abstract(TREE))
    assert equal(jax.tree.map(np.asarray, TREE), streamed)
    with pytest.raises(CheckpointError, match="already committed"):
        slot.save(TREE, {})
    pytree.delete(slot.path)
    assert not slot.exists()
    slot.save(TREE, {})
    assert run.policies() == [0]


def test_a_policy_whose_last_object_is_missing_is_none_and_is_made_again(run):
    slot = run.policy(1)
    slot.save(TREE, {})
    (slot.path / "commit_success.txt").unlink()
    assert not slot.exists()
    assert run.policies() == []
    slot.save(TREE, {})
    assert equal(slot.load(abstract(TREE)), TREE)


def test_checkpoints_of_a_fit_fall_back_to_an_older_one(run):
    with checkpoint.FitCheckpoints(run.fit_path(0), every=1, keep=2) as fit:
        for step in (1, 2, 3):
            fit.save(step, {"w": TREE["w"] * step}, {"at": step}, {})
    assert fit.steps() == [2, 3]
    data = max((run.fit_path(0) / "00000003" / "state" / "d").iterdir(), key=lambda file: file.stat().length)
    data.write_bytes(b"\x00" * data.stat().length)
    again = checkpoint.FitCheckpoints(run.fit_path(0), every=1, keep=2)
    found = again.restore(abstract({"w": TREE["w"]}))
    assert found.step == 2
    assert equal(found.state["w"], TREE["w"] * 2)
    assert {"damaged-3", "00000002"} <= {entry.name for entry in run.fit_path(0).iterdir()}


def test_listings_that_come_behind_hide_no_policy(run, bucket: Bucket):
    for number in range(3):
        PolicySlot(run.policy(number).path, number).save(TREE, {})
    bucket.lag = 3600.0
    assert rundir.durable.names(run.path) == []
    assert run.policies() == [0, 1, 2]
    assert run.begun()
    run.close()
    with pytest.raises(rundir.ConfigError, match="a run of another config"):
        rundir.open_run(run.path, {"seed": 1})
    with rundir.open_run(run.path, CONFIG) as again:
        again.phase(0, "groups", small, Small)
        assert again.has(0, "groups")


def test_what_grows_is_written_once_a_moment_and_whole_before_a_commit(root, bucket: Bucket):
    rundir.open_run(root, CONFIG).close()
    recorder = Recorder(root)
    for step in range(50):
        recorder.log(0, "fit", step, {"loss": float(step)})
    name = root.removeprefix(f"gs://{NAME}/") + "/metrics.jsonl"
    assert bucket.counts[name] < 5
    recorder.flush()
    assert [line["step"] for line in read_metrics(root)] == list(range(50))
    before = bucket.counts[name]
    recorder.flush()
    assert bucket.counts[name] == before
    recorder.log(0, "fit", 50, {"loss": 0.0})
    recorder.close()
    assert len(read_metrics(root)) == 51


def test_an_object_that_is_written_too_often_is_written_later(root, bucket: Bucket):
    """429 is waited for: no write is lost and nothing raises."""
    bucket.every = 1.0
    file = epath.Path(root) / "summary.json"
    for number in range(3):
        rundir.durable.write_file(file, json.dumps(number).encode())
    assert json.loads(file.read_bytes()) == 2
    assert bucket.refused[root.removeprefix(f"gs://{NAME}/") + "/summary.json"] >= 2


def test_a_fit_goes_on_from_what_its_host_keeps_beside_the_bucket(run, tmp_path):
    def tiers() -> TieredCheckpoints:
        lasting = checkpoint.FitCheckpoints(run.fit_path(0), every=4, keep=2)
        return TieredCheckpoints(lasting, LocalTier(str(tmp_path), 1, run.path, ALONE))

    with tiers() as fit:
        for step in (4, 5):
            fit.save(step, jax.tree.map(lambda leaf, step=step: leaf * step, TREE), {"next": step}, {})
    with tiers() as again:
        found = again.restore(abstract(TREE))
        assert again.steps() == [4, 5]
    assert (found.step, found.data) == (5, {"next": 5})
    assert equal(found.state, jax.tree.map(lambda leaf: leaf * 5, TREE))
