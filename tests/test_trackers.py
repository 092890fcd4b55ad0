"""Trackers: shown each place once over all launches, never able to end a run, and a user's own as good as ours."""

import importlib
import json
import os
import pathlib
import pkgutil
import sys
import types
from collections.abc import Mapping
from typing import Any

import pytest

import jaxalign.trackers
from jaxalign.__main__ import main
from jaxalign.config.resolved import dump
from jaxalign.contracts.tracking import Line, Tracker
from jaxalign.errors import BrokenContract, ConfigError
from jaxalign.hosts.group import ALONE, Hosts
from jaxalign.storage.record import Recorder, Silent, open_recorder, read_metrics
from jaxalign.trackers.tensorboard import TensorBoard
from jaxalign.trackers.wandb import WandB

GAME = pathlib.Path(__file__).parents[1] / "configs" / "games"


class Watching:
    """Keeps what it is shown."""

    def __init__(self):
        self.lines: list[Line] = []
        self.closed = False

    def log(self, line: Line) -> None:
        self.lines.append(line)

    def close(self) -> None:
        self.closed = True


class Failing(Watching):
    """Cannot be told anything, or cannot be closed."""

    def __init__(self, at: str):
        super().__init__()
        self.at = at

    def log(self, line: Line) -> None:
        super().log(line)
        if self.at == "log":
            raise OSError("the service is down\nand more")

    def close(self) -> None:
        super().close()
        if self.at == "close":
            raise OSError("the service is down")


def places(watching: Watching) -> list[tuple[int | str, str, int, int]]:
    return [(line.iteration, line.phase, line.step, line.nth) for line in watching.lines]


# --------------------------------------------------------------------------------------------------------------
# What trackers are shown


def test_trackers_are_shown_the_lines_with_an_axis_over_all_iterations(tmp_path):
    watching = Watching()
    recorder = Recorder(tmp_path, {"one": watching})
    for iteration in (0, 1):
        for step in (0, 1):
            recorder.log(iteration, "fit", step, {"loss": float(step), "kl": float("inf")})
            recorder.perf(iteration, "fit", step, {"perf/step_seconds": 2.0})
    recorder.log(1, "evals", 0, {"win_rate": 0.5})
    recorder.close()
    assert watching.closed
    fit = [(0, "fit", 0, 1), (0, "fit", 1, 2), (1, "fit", 0, 3), (1, "fit", 1, 4)]
    assert places(watching) == [place for place in fit for _ in range(2)] + [(1, "evals", 0, 1)]
    assert [line.order for line in watching.lines] == list(range(9))
    assert watching.lines[0].metrics == {"loss": 0.0, "kl": float("inf")}


def test_a_resumed_run_shows_each_place_once_whatever_it_logs_again(tmp_path):
    """Killed behind step 3 and continued from step 2, with other rounding in step 3."""
    launches = []
    for first, last, noise in ((0, 4, 0.0), (2, 7, 1e-7)):
        launches.append(Watching())
        recorder = Recorder(tmp_path, {"one": launches[-1]})
        for step in range(first, last):
            recorder.log(0, "fit", step, {"loss": step + (noise if step == 3 else 0.0)})
            recorder.perf(0, "fit", step, {"perf/step_seconds": 2.0})
        recorder.close()
    shown = [(line.step, line.nth) for watching in launches for line in watching.lines]
    assert shown == [(step, step + 1) for step in range(7) for _ in range(2)]
    orders = [line.order for watching in launches for line in watching.lines]
    assert orders == list(range(14))
    assert [line["loss"] for line in read_metrics(tmp_path)] == [0, 1, 2, 3 + 1e-7, 4, 5, 6]
    assert len((tmp_path / "perf.jsonl").read_text().splitlines()) == 4 + 5


@pytest.mark.parametrize("at", ["log", "close"])
def test_a_tracker_that_raises_is_told_of_once_and_the_run_goes_on(tmp_path, capsys, at):
    failing, sound = Failing(at), Watching()
    recorder = Recorder(tmp_path, {"trackers.0 (Failing)": failing, "trackers.1 (Watching)": sound})
    for step in range(3):
        recorder.log(0, "fit", step, {"loss": 1.0})
    recorder.close()
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "trackers.0 (Failing): OSError: the service is down; switched off for this launch, metrics.jsonl has everything"
    ]
    assert len(failing.lines) == (1 if at == "log" else 3)
    assert len(sound.lines) == len(read_metrics(tmp_path)) == 3
    assert sound.closed


# --------------------------------------------------------------------------------------------------------------
# Opening


class Opens:
    """A tracker that opens as it is told."""

    def __init__(self, found: Watching | Exception):
        self.found = found

    def open(self, run_dir: os.PathLike[str], config: Mapping[str, Any]) -> Watching:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def test_a_tracker_that_is_configured_wrongly_refuses_the_launch_and_closes_the_others(tmp_path):
    opened = Watching()
    with pytest.raises(ConfigError, match="no such project"):
        open_recorder(tmp_path, (Opens(opened), Opens(ConfigError("no such project"))), {}, ALONE)
    assert opened.closed


def test_a_tracker_that_opens_nothing_refuses_the_launch_and_closes_the_others(tmp_path):
    before = Watching()
    nothing = types.SimpleNamespace(open=lambda run_dir, config: None)
    with pytest.raises(BrokenContract, match=r"trackers.1 \(SimpleNamespace\): open must return .*, got a NoneType"):
        open_recorder(tmp_path, (Opens(before), nothing), {}, ALONE)
    assert before.closed


def test_a_service_that_does_not_answer_is_left_out(tmp_path, capsys):
    opened = Watching()
    recorder = open_recorder(tmp_path, (Opens(TimeoutError("no answer")), Opens(opened)), {}, ALONE)
    recorder.log(0, "fit", 0, {"loss": 1.0})
    assert "trackers.0 (Opens): TimeoutError: no answer; switched off" in capsys.readouterr().err
    assert len(opened.lines) == 1


def test_only_process_0_tracks(tmp_path):
    opened = Watching()
    assert isinstance(open_recorder(tmp_path, (Opens(opened),), {}, Hosts(1, 2)), Silent)


# --------------------------------------------------------------------------------------------------------------
# The trackers there are


def examples() -> dict[str, Any]:
    names = sorted(found.name for found in pkgutil.iter_modules(jaxalign.trackers.__path__))
    return {name: importlib.import_module(f"jaxalign.trackers.{name}").EXAMPLE for name in names}


def test_there_are_trackers():
    assert len(examples()) >= 2, examples()


@pytest.mark.parametrize("name", examples())
def test_every_tracker_keeps_the_contract(name, tmp_path, monkeypatch):
    """A frozen component with a dump, which names the package that it needs and how to install it."""
    tracker = examples()[name]
    assert isinstance(tracker, Tracker)
    assert dump(tracker)["type"].startswith(f"jaxalign.trackers.{name}:")
    package = {"tensorboard": "tensorboardX"}.get(name, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package}; pip install 'jaxalign\[{name}\]'"):
        tracker.open(tmp_path, {})


def test_tensorboard_writes_event_files(tmp_path):
    recorder = open_recorder(tmp_path, (TensorBoard(),), {}, ALONE)
    recorder.log(0, "fit", 0, {"loss": 1.0})
    recorder.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"fit/loss" in events.read_bytes()


class StandIn(types.SimpleNamespace):
    """What is used of the package wandb; keeps how it is called."""

    def __init__(self):
        super().__init__(inits=[], points=[], axes=[], ends=[], Settings=dict)

    def init(self, **settings: Any) -> "StandIn":
        self.inits.append(settings)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.axes.append((name, step_metric))

    def log(self, points: dict[str, float], step: int) -> None:
        self.points.append((step, points))

    def finish(self) -> None:
        self.ends.append("finish")

    def teardown(self) -> None:
        self.ends.append("teardown")


@pytest.fixture
def stand_in(monkeypatch):
    made = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", made)
    return made


def test_launches_continue_one_wandb_run(tmp_path, stand_in, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    tracker = WandB("project", entity="team", name="a run")
    for launch in range(2):
        recorder = open_recorder(tmp_path, (tracker,), {"seed": 3}, ALONE)
        recorder.log(launch, "fit", 0, {"loss": 0.5 + launch})
        recorder.perf(launch, "fit", 0, {"perf/host_seconds": 0.1})
        recorder.close()
    first, second = stand_in.inits
    assert first == second
    assert first["id"] == (tmp_path / "wandb" / "run_id").read_text()
    chosen = ("project", "entity", "name", "mode", "resume", "config", "dir")
    assert [first[name] for name in chosen] == [
        *("project", "team", "a run", "online", "allow"),
        *({"seed": 3}, str(tmp_path)),
    ]
    assert stand_in.points == [
        (0, {"fit/loss": 0.5, "fit/nth": 1}),
        (1, {"fit/perf/host_seconds": 0.1, "fit/nth": 1}),
        (2, {"fit/loss": 1.5, "fit/nth": 2}),
        (3, {"fit/perf/host_seconds": 0.1, "fit/nth": 2}),
    ]
    assert stand_in.axes == [("fit/*", "fit/nth")] * 2  # once a launch
    assert stand_in.ends == ["finish", "teardown"] * 2


def test_going_online_without_a_key_is_refused(tmp_path, stand_in, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="WANDB_API_KEY is not set; set it, or mode='offline'"):
        WandB("project").open(tmp_path, {})
    WandB("project", mode="offline").open(tmp_path, {})
    assert stand_in.inits[0]["resume"] is None


def test_wandb_offline_keeps_every_point_and_no_key(tmp_path, monkeypatch):
    """The package itself: two launches, one id, and `wandb sync` has all there is to send."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "5ec2e7" * 7)
    for launch in range(2):
        recorder = open_recorder(tmp_path, (WandB("project", mode="offline"),), {"seed": 3}, ALONE)
        recorder.log(launch, "fit", 0, {"loss": 0.125 + launch})
        recorder.close()
    name = (tmp_path / "wandb" / "run_id").read_text()
    logs = sorted((tmp_path / "wandb").glob(f"offline-run-*-{name}*/run-{name}.wandb"))
    assert len(logs) == 2
    for launch, log in enumerate(logs):
        content = log.read_bytes()
        assert b"fit/loss" in content
        assert str(0.125 + launch).encode() in content
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"5ec2e7" * 7 not in path.read_bytes(), path


# --------------------------------------------------------------------------------------------------------------
# A user's own


OWN = '''
import dataclasses, json, pathlib, sys
sys.path.insert(0, {folder!r})
from three_action import experiment as game


class Notes:
    def __init__(self, path):
        self.file = open(path, "a")

    def log(self, line):
        print(json.dumps([line.iteration, line.phase, line.step, line.nth, line.metrics]), file=self.file, flush=True)

    def close(self):
        self.file.close()


@dataclasses.dataclass(frozen=True)
class Notebook:
    """A tracker that this package does not know."""

    file: str = "notes.jsonl"

    def open(self, run_dir, config):
        assert config["loss"]["type"].endswith("INPO")
        return Notes(pathlib.Path(run_dir) / self.file)


experiment = dataclasses.replace(game, iterations=1, swap_every=None, trackers=(Notebook(),))
'''


def test_a_tracker_of_a_users_own_config_works_and_is_no_part_of_the_run(tmp_path, capsys):
    config, run = tmp_path / "mine.py", tmp_path / "run"
    config.write_text(OWN.format(folder=str(GAME)))
    assert main(["train", str(config), "--workdir", str(run), "--fit.epochs", "2"]) == 0
    notes = [json.loads(line) for line in (run / "notes.jsonl").read_text().splitlines()]
    recorded = [(line["iteration"], line["phase"], line["step"]) for line in read_metrics(run)]
    phases = {phase for _, phase, _ in recorded}
    assert {"align", "fit", "evals"} <= phases
    shown = [tuple(note[:3]) for note in notes if not any(name.startswith("perf/") for name in note[4])]
    assert shown == recorded
    # The same run under another tracker, and read by whoever has not this one.
    config.write_text(OWN.format(folder=str(GAME)).replace('"notes.jsonl"', '"more.jsonl"'))
    assert main(["train", str(config), "--workdir", str(run), "--fit.epochs", "2"]) == 0
    assert (run / "more.jsonl").read_text() == ""
    capsys.readouterr()
    assert main(["eval", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["policies"] == ["base", "iterate-1"]
