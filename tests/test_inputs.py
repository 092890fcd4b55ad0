"""What a run reads from elsewhere: pinned when something is computed, held to from then on, refused by name."""

import dataclasses
import datetime
import itertools
import os
import pathlib
import random

import numpy as np
import pytest
from etils import epath
from made_hosts import together
from made_judges import judge_directory

from jaxalign.config.load import components
from jaxalign.errors import CheckpointError, ConfigError, DataError
from jaxalign.hosts.group import Hosts
from jaxalign.oracles.annotators import Brevity
from jaxalign.oracles.learned import PreferenceModel, RewardModel
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.storage import inputs, pinned, rundir, twice
from jaxalign.storage.inputs import Input
from jaxalign.storage.pinned import Pinned
from jaxalign.types import Prompt

DAY = datetime.date(2026, 11, 28)
PROMPTS = Input("prompts", "", "train.jsonl", "a" * 64)
STOPS = Input("model", "end-of-turn ids", "/m/base", "[2, 5]")
WEIGHTS = Input("model.weights", "model.safetensors", "/m/base/model.safetensors", "b" * 64, size=7, changed=8)
ALL = (PROMPTS, STOPS, WEIGHTS)


def launched(*found: Input) -> Pinned:
    return Pinned(DAY, found, pinned.versions())


def launch(root: pathlib.Path, now: Pinned, computes: bool = True, hosts: Hosts | None = None) -> Pinned | None:
    """What a launch finds pinned; it pins `now`, and then computes something."""
    with rundir.open_run(root, {"seed": 0}, *([hosts] if hosts else [])) as run:
        before = pinned.recall(run)
        pinned.pin(run, before, now)
        if computes and run.hosts.leader:
            (run.path / "initial").mkdir(exist_ok=True)
        return before


def old_file(path: pathlib.Path, content: str, second: int = 0) -> pathlib.Path:
    """A file that was changed long ago: in a given second of 2001."""
    path.write_text(content)
    os.utime(path, (1e9 + second, 1e9 + second))
    return path


# --------------------------------------------------------------------------------------------------------------
# What is pinned


def test_what_is_pinned_is_recalled_whatever_its_order(tmp_path):
    for order in itertools.permutations(ALL):
        root = tmp_path / "-".join(each.field for each in order)
        assert launch(root, launched(*order)) is None
        before = launch(root, launched(*reversed(order)))
        assert before is not None
        assert set(before.inputs) == set(ALL)
        assert (before.date, before.versions) == (DAY, pinned.versions())
    (content,) = {(path / pinned.FILE).read_bytes() for path in tmp_path.iterdir()}
    assert content.isascii()


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (
            (dataclasses.replace(PROMPTS, fingerprint="9" + 63 * "0"), STOPS, WEIGHTS),
            "prompts: train.jsonl: aaaaaaaaaaaa at the first launch, 900000000000 now",
        ),
        (
            (PROMPTS, dataclasses.replace(STOPS, fingerprint="[2]"), WEIGHTS),
            "model: /m/base (end-of-turn ids): [2, 5] at the first launch, [2] now",
        ),
        (
            (PROMPTS, STOPS),
            "model.weights: /m/base/model.safetensors: bbbbbbbbbbbb at the first launch, absent now",
        ),
        (
            (*ALL, dataclasses.replace(WEIGHTS, name="b", place="/m/base/b")),
            "model.weights: /m/base/b: absent at the first launch, bbbbbbbbbbbb now",
        ),
    ],
    ids=["other prompts", "another stop", "a file less", "a file more"],
)
def test_another_input_is_refused_by_name(tmp_path, now, line):
    launch(tmp_path, launched(*ALL))
    before = (tmp_path / pinned.FILE).read_bytes()
    with pytest.raises(ConfigError) as refused:
        launch(tmp_path, launched(*now))
    first, *lines = str(refused.value).splitlines()
    assert str(tmp_path) in first
    assert "2026-11-28" in first
    assert "put back what it was made from, or start another directory" in first
    assert lines == [f"  {line}"]
    assert (tmp_path / pinned.FILE).read_bytes() == before
    launch(tmp_path, launched(*ALL))  # the remedy


def test_long_lists_of_differences_are_counted(tmp_path):
    many = [dataclasses.replace(PROMPTS, name=str(index)) for index in range(30)]
    launch(tmp_path, launched(*many))
    with pytest.raises(ConfigError, match="and 10 more") as refused:
        launch(tmp_path, launched(*(dataclasses.replace(each, fingerprint="c" * 64) for each in many)))
    assert len(str(refused.value).splitlines()) == 22


def test_the_version_that_read_otherwise_is_told_with_what_differs(tmp_path):
    elder = dataclasses.replace(launched(*ALL), versions={**pinned.versions(), "tokenizers": "0.1"})
    launch(tmp_path, elder)
    launch(tmp_path, launched(*ALL))  # another version alone is no other input
    with pytest.raises(ConfigError, match=r"tokenizers: version 0\.1 at the first launch"):
        launch(tmp_path, launched(STOPS, WEIGHTS, dataclasses.replace(PROMPTS, fingerprint="c" * 64)))


def test_a_reader_is_held_to_the_fields_that_it_reads(tmp_path):
    launch(tmp_path, launched(*ALL))
    before = pinned.recall(rundir.read_run(tmp_path))
    assert before is not None
    before.check([STOPS], epath.Path(tmp_path), {"model"})
    for now, what in ((dataclasses.replace(STOPS, fingerprint="[2]"),), r"\[2\] now"), ((), "absent now"):
        with pytest.raises(ConfigError, match=f"end-of-turn.*{what}"):
            before.check(now, epath.Path(tmp_path), {"model"})


# --------------------------------------------------------------------------------------------------------------
# When


def test_a_launch_that_computed_nothing_leaves_no_claim(tmp_path):
    """Killed before or after it pinned, or refused for what it read: the next launch pins what there is then."""
    rundir.open_run(tmp_path, {"seed": 0}).close()
    other = launched(dataclasses.replace(PROMPTS, fingerprint="c" * 64))
    assert launch(tmp_path, other, computes=False) is None
    assert launch(tmp_path, launched(*ALL)) is None
    before = launch(tmp_path, launched(*ALL))
    assert before is not None
    assert set(before.inputs) == set(ALL)


def test_what_has_not_changed_is_not_written_again(tmp_path, monkeypatch):
    launch(tmp_path, launched(*ALL))
    monkeypatch.setattr(pinned, "write", None)
    launch(tmp_path, launched(*reversed(ALL)))


@pytest.mark.parametrize("made", ["initial/heldout.parts", "0000/rollouts.parts", "initial/policy", "12345/groups"])
def test_whatever_is_computed_needs_its_inputs(tmp_path, made):
    rundir.open_run(tmp_path, {"seed": 0}).close()
    (tmp_path / made).mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"inputs\.json: is missing.*another directory"):
        launch(tmp_path, launched(*ALL))
    with pytest.raises(CheckpointError, match="is missing"):
        pinned.recall(rundir.read_run(tmp_path))


def test_datasets_and_logs_are_not_computed(tmp_path):
    rundir.open_run(tmp_path, {"seed": 0}).close()
    (tmp_path / "datasets").mkdir()
    (tmp_path / "metrics.jsonl").touch()
    assert pinned.recall(rundir.read_run(tmp_path)) is None


def test_every_flipped_bit_is_found(tmp_path):
    launch(tmp_path, launched(*ALL))
    file = tmp_path / pinned.FILE
    whole = file.read_bytes()
    twice.copy_of(twice.epath.Path(file)).unlink()  # which would be read in its place
    dice = random.Random(0)
    said = [place for place, byte in enumerate(whole) if chr(byte) not in " \n"]  # spaces say nothing
    for place in dice.sample(said, 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << dice.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"inputs\.json: damaged"):
            launch(tmp_path, launched(*ALL))
    file.write_bytes(b"[]")
    with pytest.raises(CheckpointError, match="damaged"):
        launch(tmp_path, launched(*ALL))


# --------------------------------------------------------------------------------------------------------------
# Files


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Names of the files that were hashed, as they are."""
    names: list[str] = []
    digest = inputs.digest

    def counted(path):
        names.append(path.name)
        return digest(path)

    monkeypatch.setattr(inputs, "digest", counted)
    return names


def test_a_file_is_hashed_again_only_when_it_may_have_changed(tmp_path, hashed):
    file = old_file(tmp_path / "w", "abc")
    first = inputs.of_files("model.weights", {"w": file})
    assert first[0].fingerprint == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of FIPS 180-2
    assert inputs.of_files("model.weights", {"w": str(file)}, first) == first
    assert hashed == ["w"]

    touched = inputs.of_files("model.weights", {"w": old_file(file, "abc", second=1)}, first)
    assert hashed == ["w"] * 2
    assert not inputs.differences(first, touched, "then", "now")
    (other,) = inputs.of_files("model.weights", {"w": old_file(file, "abd", second=2)}, first)
    assert other.fingerprint != first[0].fingerprint
    (longer,) = inputs.of_files("model.weights", {"w": old_file(file, "abcd")}, first)
    assert longer.fingerprint != first[0].fingerprint


def test_a_file_elsewhere_is_another_file(tmp_path, hashed):
    first = inputs.of_files("model", {"w": old_file(tmp_path / "a", "abc")})
    (other,) = inputs.of_files("model", {"w": old_file(tmp_path / "b", "abd")}, first)
    assert hashed == ["a", "b"]
    assert other.fingerprint != first[0].fingerprint


def test_new_times_of_change_are_kept_with_the_first_date(tmp_path, hashed):
    file, later = tmp_path / "w", dataclasses.replace(launched(), date=DAY + datetime.timedelta(days=1))
    for second in (0, 1):
        found = inputs.of_files("model", {"w": old_file(file, "abc", second)})
        launch(tmp_path / "run", dataclasses.replace(later if second else launched(), inputs=tuple(found)))
    before = pinned.recall(rundir.read_run(tmp_path / "run"))
    assert before is not None
    assert before.date == DAY
    hashed.clear()
    inputs.of_files("model", {"w": file}, before.inputs)
    assert hashed == []


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(DataError, match=r"oracle: .*/gone: cannot be read: No such file"):
        inputs.of_files("oracle", {"words": tmp_path / "gone"})


@dataclasses.dataclass(frozen=True)
class Drawer:
    """A component with a setting of that name, which reads nothing."""

    files: tuple[str, ...] = ("a", "b")


@dataclasses.dataclass(frozen=True)
class Words:
    """An annotator that reads a file."""

    path: str
    name: str = "words"

    def files(self) -> dict[str, str]:
        return {"words": self.path}

    def __call__(self, prompt: Prompt, texts: tuple[str, ...]) -> np.ndarray:
        return np.zeros(len(texts))


def test_files_that_components_read_are_found_wherever_they_are(tmp_path):
    judge, words = judge_directory(tmp_path / "judge", 1), old_file(tmp_path / "words.txt", "yes no")
    panel = Panel((Weighted(Brevity()), Weighted(RewardModel(str(judge))), Weighted(Words(str(words)))))
    found = inputs.of_components(components(panel))
    assert [(each.field, each.name) for each in found if each.field == "annotators.2.annotator"] == [
        ("annotators.2.annotator", "words")
    ]
    names = {each.name for each in found if each.field == "annotators.1.annotator"}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} | {
        "tokenizer_config.json"
    }
    assert {each.field for each in found} == {"annotators.1.annotator", "annotators.2.annotator"}
    assert {each.fingerprint for each in found if each.name == "words"} == {inputs.digest(epath.Path(words))}
    assert inputs.of_components(components(Drawer())) == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_another_file_of_a_judge_is_noticed(tmp_path, name):
    judge = judge_directory(tmp_path / "judge", 4)
    parts = components(PreferenceModel(str(judge)))
    before = inputs.of_components(parts)
    content = (judge / name).read_bytes()
    (judge / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (line,) = inputs.differences(before, inputs.of_components(parts, before), "then", "now")
    assert f"{judge / name}: " in line


# --------------------------------------------------------------------------------------------------------------
# Hosts


@pytest.mark.parametrize("count", [2, 3])
def test_hosts_that_read_the_same_pin_it_once(tmp_path, count):
    def run(hosts: Hosts) -> Pinned | None:
        elsewhere = dataclasses.replace(PROMPTS, place=f"/host{hosts.index}/train.jsonl")
        return launch(tmp_path, launched(elsewhere, STOPS), hosts=hosts)

    assert together(count, run) == [None] * count
    first, *others = together(count, run)
    assert first == launched(STOPS, dataclasses.replace(PROMPTS, place="/host0/train.jsonl"))
    assert others == [first] * (count - 1)


def test_hosts_that_read_different_inputs_are_named_before_anything_is_pinned(tmp_path):
    def run(hosts: Hosts) -> str:
        other = dataclasses.replace(PROMPTS, fingerprint=("c" if hosts.index == 1 else "a") * 64)
        with pytest.raises(ConfigError) as refused:
            launch(tmp_path, launched(other, STOPS), hosts=hosts)
        return str(refused.value)

    messages = together(3, run)
    assert len(set(messages)) == 1
    assert "give all of them the same" in messages[0]
    assert "prompts: train.jsonl: aaaaaaaaaaaa on " in messages[0]
    assert "(process 0), cccccccccccc on " in messages[0]
    assert "(process 1)" in messages[0]
    assert "(process 2)" not in messages[0]
    assert not (tmp_path / pinned.FILE).exists()


def test_every_host_gets_the_date_of_the_first():
    first, *others = together(3, pinned.today)
    assert others == [first] * 2


@pytest.mark.parametrize("damage", ["{}", None])
def test_every_host_hears_that_what_was_pinned_is_damaged(tmp_path, damage):
    """Process 0 reads it, and nobody waits for what it cannot tell."""
    launch(tmp_path, launched(*ALL))
    file = tmp_path / pinned.FILE
    twice.delete(twice.epath.Path(file))
    if damage:
        file.write_text(damage)

    def run(hosts: Hosts) -> str:
        with pytest.raises(CheckpointError) as refused:
            launch(tmp_path, launched(*ALL), hosts=hosts)
        return str(refused.value)

    first, *others = together(3, run)
    assert str(file) in first
    assert others == [first] * 2
