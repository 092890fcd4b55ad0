"""Run directories: what is committed comes back bit by bit, whatever else happens comes back as nothing or an error."""

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Shaped
from made_artifacts import CONFIG, Small, same, small
from made_checkpoints import abstract, tiny
from made_runs import write_config

from jaxalign.errors import CheckpointError, ConfigError
from jaxalign.storage import artifact, rundir, twice
from jaxalign.types import Labels, Prompt

DTYPES = list(artifact._DTYPES.values())


@dataclasses.dataclass(frozen=True)
class Inner:
    name: str
    array: Shaped[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True)
class Everything:
    prompts: tuple[Prompt, ...]
    texts: tuple[tuple[str, ...], ...]
    inners: tuple[Inner, ...]
    nested: Inner | None
    array: Shaped[np.ndarray, "..."]
    maybe: Shaped[np.ndarray, "..."] | None
    number: float
    count: int
    flag: bool
    by_name: dict[str, float]
    pair: tuple[int, str]


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Any bits in any dtype: NaN payloads and subnormals too."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3).map(tuple))
    size = int(np.prod(shape))
    if dtype.kind == "b":
        return np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool).reshape(shape)
    raw = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    return np.frombuffer(raw, dtype).reshape(shape)


numbers = st.floats() | st.sampled_from([float("nan"), float("inf"), -0.0, 5e-324])
texts = st.text() | st.just("\ud800 half a pair, \u2028 and \0")
prompts = st.tuples(texts, st.lists(st.dictionaries(texts, texts, max_size=2), max_size=2).map(tuple))
values = st.builds(
    Everything,
    prompts=st.just(()),
    texts=st.lists(st.lists(texts, max_size=2).map(tuple), max_size=2).map(tuple),
    inners=st.lists(st.builds(Inner, texts, arrays()), max_size=2).map(tuple),
    nested=st.none() | st.builds(Inner, texts, arrays()),
    array=arrays(),
    maybe=st.none() | arrays(),
    number=numbers,
    count=st.integers(),
    flag=st.booleans(),
    by_name=st.dictionaries(texts, numbers, max_size=3),
    pair=st.tuples(st.integers(), texts),
)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[rundir.RunDir]:
    with rundir.open_run(tmp_path / "run", CONFIG) as opened:
        yield opened


# --------------------------------------------------------------------------------------------------------------
# Artifacts


@settings(deadline=None, max_examples=60)
@given(values, st.lists(prompts, max_size=2))
def test_what_is_encoded_is_decoded(value: Everything, asked: list) -> None:
    # Prompts are made here because the run-time check of annotations draws random numbers, which strategies must not.
    value = dataclasses.replace(value, prompts=tuple(Prompt(*fields) for fields in asked))
    assert same(artifact.decode(artifact.encode(value), Everything), value)


@settings(deadline=None, max_examples=20)
@given(values)
def test_equal_values_give_equal_bytes(value: Everything) -> None:
    again = artifact.decode(artifact.encode(value), Everything)
    turned = dataclasses.replace(again, by_name=dict(reversed(again.by_name.items())))
    assert artifact.encode(turned) == artifact.encode(value)


@pytest.mark.parametrize("score", [None, np.float32([[1, 2], [3, 4]])])
def test_arrays_of_a_device_or_the_host_come_back_on_the_host(score: np.ndarray | None) -> None:
    half = np.full((2, 2), 0.5, np.float32)
    value = Labels(half[:, 0], win=None, score=score, votes=half, decided=half)
    assert same(artifact.decode(artifact.encode(value), Labels), value)


def test_strided_arrays_keep_their_order() -> None:
    value = dataclasses.replace(small(4), ids=np.arange(32, dtype=np.int32).reshape(4, 8)[::2, ::2].T)
    value = dataclasses.replace(value, x=value.x[:2])
    assert same(artifact.decode(artifact.encode(value), Small), value)


def test_a_phase_runs_once_and_returns_what_loading_gives(run: rundir.RunDir) -> None:
    made = []

    def make() -> Small:
        made.append(1)
        return small()

    assert not run.has(0, "groups")
    first, second = run.phase(0, "groups", make, Small), run.phase(0, "groups", make, Small)
    assert same(first, small())
    assert same(second, small())
    assert made == [1]
    assert run.has(0, "groups")
    assert not first.x.flags.writeable


def test_evals_are_plain_dicts(run: rundir.RunDir) -> None:
    loaded = run.phase("initial", "evals", lambda: {"win_rate": 0.5, "kl": float("inf")}, dict[str, float])
    assert loaded == {"win_rate": 0.5, "kl": float("inf")}


def test_an_unknown_kind_of_field_is_refused_by_name(run: rundir.RunDir) -> None:
    with pytest.raises(TypeError, match="why: set cannot be stored"):
        run.phase(0, "evals", lambda: {"why": {1}}, dict[str, set])
    with pytest.raises(TypeError, match="array: arrays of <U1 cannot be stored"):
        run.phase(0, "evals", lambda: Inner("a", np.array(["a"])), Inner)
    assert not run.has(0, "evals")


@pytest.mark.parametrize("name", ["", "..", "a/b", "policy", "fit", "Ünique", "x.parts"])
def test_names_of_phases_cannot_leave_their_place(run: rundir.RunDir, name: str) -> None:
    with pytest.raises(ValueError, match="no name for a phase"):
        run.phase(0, name, small, Small)


def test_an_absent_or_torn_marker_means_nothing_is_there(run: rundir.RunDir) -> None:
    run.phase(0, "groups", small, Small)
    marker = run.path / "0000" / "groups" / artifact.MARKER
    whole = marker.read_bytes()
    for length in range(0, len(whole) - 1, 37):
        marker.write_bytes(whole[:length])
        assert not run.has(0, "groups")
        with pytest.raises(CheckpointError, match="nothing is committed"):
            run.load(0, "groups", Small)
    assert same(run.phase(0, "groups", lambda: small(5), Small), small(5))
    marker.unlink()
    assert not run.has(0, "groups")


def test_every_flipped_byte_is_found(run: rundir.RunDir) -> None:
    run.phase(0, "groups", small, Small)
    dice = random.Random(0)
    for path in sorted((run.path / "0000" / "groups").iterdir()):
        whole = path.read_bytes()
        for place in dice.sample(range(len(whole)), 25):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << dice.randrange(8)
            path.write_bytes(bytes(damaged))
            if bytes(damaged) != whole and (path.name != artifact.MARKER or run.has(0, "groups")):
                with pytest.raises(CheckpointError, match=r"damaged|belongs|cannot be read"):
                    run.load(0, "groups", Small)
        path.write_bytes(whole)
    assert same(run.load(0, "groups", Small), small())


def test_an_artifact_in_anothers_place_is_refused(run: rundir.RunDir) -> None:
    run.phase(0, "groups", small, Small)
    (run.path / "0000").rename(run.path / "0001")
    with pytest.raises(CheckpointError, match="belongs to 0000/groups, not to 0001/groups"):
        run.load(1, "groups", Small)


def test_an_artifact_of_another_kind_is_refused(run: rundir.RunDir) -> None:
    run.phase(0, "groups", small, Small)
    with pytest.raises(CheckpointError, match="holds Small, not Inner"):
        run.load(0, "groups", Inner)


def test_parts_are_reused_and_leave_with_the_phase(run: rundir.RunDir) -> None:
    made: list[int] = []

    def part(k: int) -> Small:
        made.append(k)
        if len(made) == 3:
            raise KeyboardInterrupt
        return small(k + 1)

    def whole() -> Small:
        parts = run.parts(0, "rollouts")
        found = [parts.get(k, lambda k=k: part(k), Small)[0].x for k in range(4)]
        return Small(np.concatenate(found), small(10).ids, "")

    with pytest.raises(KeyboardInterrupt):
        run.phase(0, "rollouts", whole, Small)
    assert not run.has(0, "rollouts")
    loaded = run.phase(0, "rollouts", whole, Small)
    assert made == [0, 1, 2, 2, 3]
    assert loaded.x.size == 10
    assert not (run.path / "0000" / "rollouts.parts").exists()


# --------------------------------------------------------------------------------------------------------------
# Whose directory?


def test_another_config_is_refused_with_what_differs(tmp_path: Path) -> None:
    rundir.open_run(tmp_path, CONFIG).close()
    (tmp_path / "initial").mkdir()  # something was computed
    before = (tmp_path / "config.json").read_bytes()
    rundir.open_run(tmp_path, CONFIG).close()
    other = {"seed": 0, "loss": {"eta": 0.2}, "hosts": ["a", "b"], "new": True}
    with pytest.raises(ConfigError) as refused:
        rundir.open_run(tmp_path, other)
    assert "loss.eta: 0.1 in the run, 0.2 now" in str(refused.value)
    assert "new" in str(refused.value)
    assert "seed" not in str(refused.value)
    assert (tmp_path / "config.json").read_bytes() == before
    rundir.open_run(tmp_path, CONFIG).close()  # the refusal let go of the lock


def test_another_placement_is_no_other_run(tmp_path: Path) -> None:
    rundir.open_run(tmp_path, {"seed": 0, "placement": {"remat": "none"}}).close()
    rundir.open_run(tmp_path, {"seed": 0, "placement": {"remat": "full"}}).close()
    (tmp_path / "initial").mkdir()
    with pytest.raises(ConfigError, match=r"seed: 0 in the run, 1 now"):
        rundir.open_run(tmp_path, {"seed": 1, "placement": {"remat": "full"}})


def test_a_config_of_which_nothing_was_computed_gives_way(tmp_path: Path) -> None:
    """A launch that was refused (prompts too long, a model that is not there) leaves its config; the corrected command
    is no other run."""
    rundir.open_run(tmp_path, {"seed": 0}).close()
    (tmp_path / "datasets").mkdir()
    rundir.open_run(tmp_path, {"seed": 1}).close()
    assert rundir.read_run(tmp_path).config == {"seed": 1}
    (tmp_path / "notes.txt").write_text("somebody else's")
    with pytest.raises(ConfigError, match="seed: 1 in the run, 2 now"):
        rundir.open_run(tmp_path, {"seed": 2})


@pytest.mark.parametrize("name", ["br[ack]et", "back\\slash", "half]"])
def test_names_that_lose_policies_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="may hold none of"):
        rundir.open_run(tmp_path / name, CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_no_shell_wrote_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="stands for itself"):
        rundir.open_run("~/run", CONFIG)


def test_a_model_directory_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for opening in (lambda: rundir.read_run(tmp_path), lambda: rundir.open_run(tmp_path, CONFIG)):
        with pytest.raises(ConfigError, match="is a model directory"):
            opening()
    assert (tmp_path / "config.json").read_text() == '{"model_type": "llama"}'
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match="damaged"):
        rundir.read_run(tmp_path)


FIT = {"schedule": "fit", "moments": "fresh", "checkpoint_every": 2, "keep_checkpoints": 2}
RUN = {"iterations": 4, "keep_policies": None, "fit": FIT, "evaluation": {"every": 1}}


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"iterations": 6}, None),
        ({"keep_policies": 1}, None),
        ({"fit": {**FIT, "checkpoint_every": 5, "keep_checkpoints": 3}}, None),
        ({"iterations": 3}, "iterations"),
        ({"iterations": 6, "fit": {**FIT, "schedule": "run"}}, "fit.schedule"),
        ({"iterations": 6, "evaluation": {"every": 2}}, "evaluation.every"),
    ],
)
def test_what_a_later_launch_may_say_otherwise(tmp_path: Path, changes: dict, refused: str | None) -> None:
    """How much is kept, and that the run goes on for longer: what is there was made as it would be made then."""
    rundir.open_run(tmp_path, RUN).close()
    (tmp_path / "initial").mkdir()
    if refused is None:
        rundir.open_run(tmp_path, {**RUN, **changes}).close()
        assert rundir.read_run(tmp_path).config == {**RUN, **changes}
    else:
        with pytest.raises(ConfigError, match=refused):
            rundir.open_run(tmp_path, {**RUN, **changes})


def test_policies_that_are_deleted_cannot_be_kept(tmp_path: Path) -> None:
    rundir.open_run(tmp_path, {**RUN, "keep_policies": 1}).close()
    (tmp_path / "initial").mkdir()
    rundir.open_run(tmp_path, {**RUN, "keep_policies": 3}).close()
    with pytest.raises(ConfigError, match="keep_policies"):
        rundir.open_run(tmp_path, RUN)


def test_what_trackers_leave_is_nothing_computed(tmp_path: Path) -> None:
    rundir.open_run(tmp_path, RUN).close()
    for name in ("tensorboard", "wandb"):
        (tmp_path / name).mkdir()
    rundir.open_run(tmp_path, {**RUN, "iterations": 3}).close()
    assert rundir.read_run(tmp_path).config["iterations"] == 3


@pytest.mark.parametrize("fit", [{**FIT, "schedule": "run"}, {**FIT, "moments": "kept"}])
def test_a_schedule_over_the_run_is_as_long_as_the_run(tmp_path: Path, fit: dict) -> None:
    rundir.open_run(tmp_path, {**RUN, "fit": fit}).close()
    (tmp_path / "initial").mkdir()
    with pytest.raises(ConfigError, match="iterations: 4 in the run, 6 now"):
        rundir.open_run(tmp_path, {**RUN, "fit": fit, "iterations": 6})


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=r"no run directory.*thesis"):
        rundir.open_run(tmp_path, CONFIG)
    with pytest.raises(ConfigError, match="is a file"):
        rundir.open_run(tmp_path / "thesis.tex", CONFIG)
    with pytest.raises(ConfigError, match="no run directory"):
        rundir.read_run(tmp_path)


def test_a_config_that_is_damaged_and_has_no_copy_is_refused(tmp_path: Path) -> None:
    rundir.open_run(tmp_path, CONFIG).close()
    write_config(tmp_path, '{"seed": 0,')
    with pytest.raises(CheckpointError, match=r"config\.json: damaged .*put it back: .*--print-config"):
        rundir.open_run(tmp_path, CONFIG)


@pytest.mark.parametrize("name", ["config.json", "summary.json", "0000/complete.json"])
def test_a_flipped_bit_of_what_is_kept_twice_changes_nothing(
    run: rundir.RunDir, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a document and of its copy; the next launch has both as they were, and says which was damaged."""
    run.phase(0, "evals", small, Small)
    run.phase("initial", "evals", small, Small)
    run.complete(0)
    run.write_summary({"evals": {"x": 1}})
    run.close()
    file, dice = run.path / name, random.Random(0)
    both = [file, twice.copy_of(file)]
    whole = [each.read_bytes() for each in both]
    for damaged, content in zip(both * 5, whole * 5, strict=True):
        flipped = bytearray(content)
        flipped[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        damaged.write_bytes(bytes(flipped))
        assert rundir.read_run(run.path).config == CONFIG
        assert rundir.read_run(run.path).summary() == {"evals": {"x": 1}}
        with rundir.open_run(run.path, CONFIG) as again:
            assert again.finished() == 1
            again.write_summary({"evals": {"x": 1}})
        assert [each.read_bytes() for each in both] == whole
        assert (f"{file}: damaged" in capsys.readouterr().err) == (damaged == file)


def test_what_to_do_is_said_of_a_damaged_policy(run: rundir.RunDir) -> None:
    """Of one that was trained, of the best state inside a fit, of moments that the next fit begins with."""
    slots = {"make": run.policy(1), "begins this fit again": run.best(1, 3), "all policies": run.moments(1)}
    for words, slot in slots.items():
        slot.save(tiny(1), {})
        (slot.path / "integrity" / "data.json").write_text("{}")
        for read in (slot.load, slot.stream):
            with pytest.raises(CheckpointError, match=rf"^{slot.path}: damaged .*; delete .*{words}"):
                read(abstract(tiny(0)))


def test_a_run_that_is_only_read_is_not_written(run: rundir.RunDir) -> None:
    run.phase(0, "groups", small, Small)
    reader = rundir.read_run(run.path)
    assert reader.config == CONFIG
    assert same(reader.phase(0, "groups", small, Small), small())
    for write in (lambda: reader.phase(1, "groups", small, Small), lambda: reader.write_summary({})):
        with pytest.raises(CheckpointError, match="reading only"):
            write()


def test_the_summary_is_json(run: rundir.RunDir) -> None:
    run.write_summary({"win_rate_vs_base": 0.6})
    assert json.loads((run.path / "summary.json").read_bytes()) == {"win_rate_vs_base": 0.6}
