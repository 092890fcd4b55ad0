"""Several processes of one run: agreement, shares of rows and prompts, the run directory, options, the watch."""

import jax
import made_rollouts
import numpy as np
import pytest
from made_hosts import together

from jaxalign.data.groups import RolledGroups
from jaxalign.errors import CheckpointError, ConfigError, Interrupted
from jaxalign.fit import make_batch
from jaxalign.hosts.group import ALONE, Hosts
from jaxalign.hosts.turns import in_turn
from jaxalign.mesh.rows import on_mesh, own_rows, rows_here, rows_on
from jaxalign.mesh.sharding import MeshShape, replicated, row_sharding
from jaxalign.pairs import RandomPair
from jaxalign.progress import Progress, Unseen
from jaxalign.storage import artifact, rundir, slot
from jaxalign.storage.record import Recorder, Silent, open_recorder
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.packed import Packed
from jaxalign.training.row_plan import row_tokens
from jaxalign.training.rows import row_shape
from jaxalign.training.scored import ReferenceLogps

CONFIG = {"seed": 0}
KEY = jax.random.key(0)


# --------------------------------------------------------------------------------------------------------------
# Agreement


def test_alone_nothing_is_waited_for():
    assert ALONE.leader
    ALONE.barrier("anything")
    assert (ALONE.any(True), ALONE.any(False), ALONE.all(False)) == (True, False, False)
    assert ALONE.told([1, "a"]) == [1, "a"]
    assert ALONE.each("a") == ["a"]
    assert ALONE.share(7) == slice(0, 7)


@pytest.mark.parametrize("count", [2, 4])
def test_all_hosts_get_the_same_answer(count):
    def ask(hosts: Hosts):
        return [
            hosts.any(False),
            hosts.any(hosts.index == count - 1),
            hosts.any(False),  # an answer does not linger
            hosts.all(True),
            hosts.all(hosts.index != 1),
            hosts.told({"from": hosts.index}),
            hosts.each(hosts.index * 2),
        ]

    twice = [2 * index for index in range(count)]
    assert together(count, ask) == [[False, True, False, True, False, {"from": 0}, twice]] * count


@pytest.mark.parametrize(("things", "count"), [(8, 2), (7, 3), (2, 4), (0, 2)])
def test_shares_are_blocks_that_make_the_whole(things, count):
    shares = [Hosts(index, count).share(things) for index in range(count)]
    assert [number for share in shares for number in range(things)[share]] == list(range(things))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("count", [1, 3])
def test_on_a_shared_disk_one_makes_what_the_others_find(count):
    order: list[int] = []

    def work(hosts: Hosts):
        def make():
            order.append(hosts.index)
            return hosts.index

        return in_turn(hosts, True, make), in_turn(hosts, False, lambda: hosts.index)

    assert together(count, work) == [(index, index) for index in range(count)]
    assert order[0] == 0
    assert sorted(order) == list(range(count))


@pytest.mark.parametrize(("shared", "asked", "makers"), [(True, 0, {0}), (True, 1, {0, 1}), (False, 1, {0, 1})])
def test_one_that_is_asked_to_stop_while_it_makes_stops_all(shared, asked, makers):
    made: set[int] = set()

    def work(hosts: Hosts):
        def make():
            made.add(hosts.index)
            if hosts.index == asked:
                raise Interrupted("stopped after 3 comparisons")

        with pytest.raises(Interrupted, match="3 comparisons" if hosts.index == asked else "with another process"):
            in_turn(hosts, shared, make)

    together(2, work)
    assert made == makers


# --------------------------------------------------------------------------------------------------------------
# Rows

MESHES = {
    "data": MeshShape(data=8, fsdp=1),
    "fsdp": MeshShape(data=1, fsdp=8),
    "both and tensor": MeshShape(data=2, fsdp=2, tensor=2),
    "tensor": MeshShape(data=1, fsdp=1, tensor=8),
}


def blocks(mesh: jax.sharding.Mesh, count: int) -> list[set[jax.Device]]:
    """The devices of `count` hosts, in JAX's order of devices."""
    devices = sorted(mesh.devices.flat, key=lambda device: device.id)
    return [set(block) for block in np.array_split(np.array(devices), count)]


@pytest.mark.parametrize("shape", MESHES.values(), ids=list(MESHES))
def test_each_row_is_read_once_though_tensor_replicates_it(shape):
    mesh = shape.build()
    rows = np.arange(48).reshape(16, 3)
    numbers, (values, again) = own_rows(tuple(on_mesh((rows, rows + 1), row_sharding(mesh))))
    np.testing.assert_array_equal(numbers, np.arange(16))
    np.testing.assert_array_equal(values, rows)
    np.testing.assert_array_equal(again, rows + 1)


def test_a_replicated_table_is_read_once():
    numbers, (values,) = own_rows((on_mesh(np.arange(5.0), replicated(MESHES["fsdp"].build())),))
    np.testing.assert_array_equal(numbers, np.arange(5))
    np.testing.assert_array_equal(values, np.arange(5.0))


@pytest.mark.parametrize("shape", MESHES.values(), ids=list(MESHES))
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_hosts_devices_hold_all_rows(shape, count):
    mesh = shape.build()
    held = np.array([rows_on(block, row_sharding(mesh), 16) for block in blocks(mesh, count)])
    assert held.any(0).all()
    tensor = mesh.shape["tensor"]
    assert (held.sum(0) <= max(1, tensor * count // 8)).all()  # more only where the tensor axis crosses hosts
    assert rows_here(row_sharding(mesh), 16).all()


def rolled_pairs():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 7, (6, 3)).astype(np.int32)
    tokens = np.where(np.arange(7) < lengths[..., None], rng.integers(3, 200, (6, 3, 7)), 0).astype(np.int32)
    texts = [[f"text {i} {j}" for j in range(3)] for i in range(6)]
    made = made_rollouts.rollouts(texts, tokens=tokens, lengths=lengths)
    preferences = made_rollouts.preferences(made_rollouts.random_prefer(rng, 6, 3))
    return RolledGroups(made, RandomPair(pairs_per_prompt=2)(made, preferences, KEY))


@pytest.mark.parametrize("shape", MESHES.values(), ids=list(MESHES))
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("rule", [OnePrompt(), OnePrompt(2), Packed(24)], ids=["group", "prompt", "packed"])
def test_what_the_hosts_pack_is_the_batch_that_one_packs(shape, count, rule):
    """Each host packs the rows of its own devices; what those devices then hold is what one host would give them."""
    groups = rolled_pairs()
    assert len(groups) == 12
    references = ReferenceLogps(("last",), np.random.default_rng(1).standard_normal((1, 12, 2)).astype(np.float32))
    plan = rule.passes(groups, 8)
    real = len(plan.rows)
    chosen, shapes = plan.batch(np.array([*np.random.default_rng(2).permutation(real), *[-1] * (16 - real)]))
    sharding = row_sharding(shape.build())
    whole = make_batch(groups, references, chosen, shapes, 2, np.ones(8, bool))
    seen = np.zeros(8, bool)
    for block in blocks(shape.build(), count):
        here = rows_on(block, sharding, 8)
        own = make_batch(groups, references, chosen, shapes, 2, here)
        for ours, theirs in zip(jax.tree.leaves(own), jax.tree.leaves(whole), strict=True):
            held = np.repeat(here, ours.shape[1] // len(here))  # the groups of a row stand where it does
            np.testing.assert_array_equal(ours[:, held], theirs[:, held])
        assert (own.rows.group[:, ~here] == -1).all()
        seen |= here
    assert seen.all()


def test_a_host_reads_the_groups_of_its_own_rows_and_no_others(monkeypatch):
    groups, take, read = rolled_pairs(), RolledGroups.take, list[list[int]]()

    def counted(self: RolledGroups, numbers: np.ndarray):
        read[-1] += numbers.tolist()
        return take(self, numbers)

    monkeypatch.setattr(RolledGroups, "take", counted)
    mesh, chosen = MeshShape(data=2, fsdp=4).build(), np.array([*range(12), -1, -1, -1, -1])[:, None]
    for block in blocks(mesh, 2):
        read.append([])
        here = rows_on(block, row_sharding(mesh), 8)
        make_batch(groups, ReferenceLogps((), np.zeros((0, 12, 2), np.float32)), chosen, row_shape(groups), 2, here)
    assert sorted(map(sorted, read)) == [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7]]


def test_tokens_of_groups_are_those_of_their_rows():
    groups = rolled_pairs()
    chosen = np.array([3, 0, 11, -1])[:, None]
    references = ReferenceLogps((), np.zeros((0, 12, 2), np.float32))
    batch = make_batch(groups, references, chosen, row_shape(groups), 1, np.ones(4, bool))
    assert row_tokens(groups, chosen) == (batch.rows.group >= 0).sum()


# --------------------------------------------------------------------------------------------------------------
# The run directory


def evals(number: float) -> dict[str, float]:
    return {"number": number}


def test_a_phase_is_made_by_all_and_committed_once_by_the_first(tmp_path):
    made = []

    def work(hosts: Hosts):
        with rundir.open_run(tmp_path, CONFIG, hosts) as run:

            def make():
                made.append(hosts.index)
                return evals(float(hosts.index))

            first = run.phase(0, "evals", make, dict[str, float])
            return first, run.phase(0, "evals", make, dict[str, float]), run.has(0, "evals"), run.has(1, "evals")

    assert together(3, work) == [(evals(0.0), evals(0.0), True, False)] * 3
    assert sorted(made) == [0, 1, 2]


def test_parts_of_all_hosts_come_in_their_order_and_are_made_again_when_one_is_missing(tmp_path):
    made = []

    def work(hosts: Hosts):
        with rundir.open_run(tmp_path, CONFIG, hosts) as run:
            parts = run.parts(0, "evals")

            def make():
                made.append(hosts.index)
                return evals(float(hosts.index))

            return parts.get(5, make, dict[str, float]), parts.get(5, make, dict[str, float])

    both = (evals(0.0), evals(1.0))
    assert together(2, work) == [(both, both)] * 2
    assert sorted(made) == [0, 1]
    artifact.clear(rundir.durable.absolute(tmp_path) / "0000" / "evals.parts" / "00005-00001-of-00002")
    assert together(2, work) == [(both, both)] * 2
    assert sorted(made) == [0, 0, 1, 1]  # a program of both devices cannot be run by one
    assert together(1, work) == [((evals(0.0),), (evals(0.0),))]
    assert len(made) == 5  # what two processes left is not one's


def test_parts_are_kept_as_far_as_all_hosts_have_them(tmp_path):
    def work(hosts: Hosts):
        with rundir.open_run(tmp_path, CONFIG, hosts) as run:
            parts = run.parts(0, "evals")
            kept = parts.kept(dict[str, float])
            for number in range(len(kept), 3):
                parts.put(number, evals(float(10 * number + hosts.index)), dict[str, float])
            return len(kept), parts.kept(dict[str, float])

    whole = [tuple(evals(float(10 * number + index)) for index in range(2)) for number in range(3)]
    assert together(2, work) == [(0, whole)] * 2
    artifact.clear(rundir.durable.absolute(tmp_path) / "0000" / "evals.parts" / "00002-00000-of-00002")
    assert together(2, work) == [(2, whole)] * 2  # the other host's share of the third is replaced
    assert together(1, work) == [(0, [(evals(0.0),), (evals(10.0),), (evals(20.0),)])]


def test_hosts_of_another_config_or_another_disk_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(slot, "_SECONDS_TO_SEE", 0.1)

    def other_config(hosts: Hosts):
        rundir.open_run(tmp_path / "a", {"seed": hosts.index}, hosts).close()

    with pytest.raises(ConfigError, match="seed: 0 in the run, 1 now"):
        together(2, other_config)

    def other_disk(hosts: Hosts):
        rundir.open_run(tmp_path / f"host{hosts.index}", CONFIG, hosts).close()

    with pytest.raises(ConfigError, match="storage that all hosts share"):
        together(2, other_disk)


def test_the_first_process_holds_the_lock_for_all(tmp_path):
    def work(hosts: Hosts):
        with rundir.open_run(tmp_path, CONFIG, hosts) as run:
            if hosts.leader:
                with pytest.raises(CheckpointError, match="in use"):
                    rundir.open_run(tmp_path, CONFIG)
            hosts.barrier("refused")
            run.prune(1, set())  # may write

    together(2, work)
    rundir.open_run(tmp_path, CONFIG).close()


def test_only_the_first_process_records_and_shows(tmp_path, capsys):
    first, second = (open_recorder(tmp_path, (), {}, Hosts(index, 2)) for index in (0, 1))
    assert (type(first), type(second)) == (Recorder, Silent)
    for recorder in (first, second):
        recorder.log(0, "fit", 0, {"loss": 1.0})
        recorder.perf(0, "fit", 0, {"perf/seconds": 1.0})
        recorder.close()
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1
    with Unseen() as progress:
        progress(3)
    assert capsys.readouterr().err == ""
    with Progress("fit", 4) as progress:
        progress(4)
    assert "fit" in capsys.readouterr().err
