"""What SECURITY.md says holds, where no other test holds it; it names a test for every sentence."""

import ast
import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest
from etils import epath
from made_artifacts import Small, small
from made_runs import CONFIGS, run_here

from jaxalign.__main__ import main
from jaxalign.config.load import load, override
from jaxalign.config.resolved import dump, redacted, restore
from jaxalign.errors import CheckpointError, ConfigError
from jaxalign.experiment import Experiment
from jaxalign.reopen import Run
from jaxalign.rollouts.handover import NotRun, RunCommand
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.served import Served
from jaxalign.served.client import Client
from jaxalign.served.server import Server
from jaxalign.storage import artifact, canonical
from jaxalign.storage.rundir import RunDir

ROOT = pathlib.Path(__file__).parents[1]
TOKEN = "hf_abcdefghijklmnop1234"
RUNS_CODE = {
    "pickle": {"load", "loads", "Unpickler"},
    "cPickle": {"load", "loads"},
    "dill": {"load", "loads"},
    "joblib": {"load"},
    "torch": {"load"},
    "yaml": {"load", "unsafe_load", "full_load"},
    "marshal": {"load", "loads"},
    "shelve": {"open"},
    "os": {"system", "popen"},
}


def called(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def test_nothing_in_the_package_runs_what_it_reads():
    """No unpickling, no loader that runs code, no shell; `exec` is the config file's, which is a program."""
    found = []
    for file in sorted((ROOT / "jaxalign").rglob("*.py")):
        for node, name in called(ast.parse(file.read_text(encoding="utf-8"))):
            module, _, function = name.rpartition(".")
            said = {word.arg: ast.unparse(word.value) for word in node.keywords}
            wrong = function in RUNS_CODE.get(module, ()) or name in ("exec", "eval", "__import__")
            wrong |= said.get("allow_pickle") == "True" or said.get("shell") == "True"
            wrong |= said.get("trust_remote_code", "False") != "False"
            if wrong:
                found.append(f"{file.relative_to(ROOT)}: {name}")
    assert found == ["jaxalign/config/load.py: exec"]


def test_arrays_of_objects_are_not_read(tmp_path):
    """NumPy would unpickle them where it is allowed to, which is nowhere (see above) the default."""
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/file", "other.json"])
def test_an_artifact_names_no_file_but_its_own(tmp_path, name):
    """Also under a seal that fits: who may write to a run may write a seal."""
    directory = epath.Path(tmp_path / "groups")
    artifact.commit(directory, "0000/groups", small())
    marker = canonical.unsealed(json.loads((directory / artifact.MARKER).read_bytes()))
    (tmp_path / "secret").write_bytes(b"x")
    marker["files"][name] = {"sha256": canonical.sha256(b"x"), "bytes": 1}
    (directory / artifact.MARKER).write_bytes(canonical.to_json(canonical.sealed(marker)))
    with pytest.raises(CheckpointError, match="names files that no artifact has"):
        artifact.read(directory, "0000/groups", Small)


@pytest.mark.parametrize("name", ["..", "../up", "a/b", "/abs", "", "policy", "Fit"])
def test_a_phase_cannot_be_called_what_leads_elsewhere(tmp_path, name):
    run = RunDir(epath.Path(tmp_path), {}, None)
    with pytest.raises(ValueError, match="is no name for a phase"):
        run.has(0, name)


@pytest.mark.parametrize(
    "name", ["os:system", "subprocess:Popen", "builtins:eval", "jaxalign.__main__:main", "jaxalign.config.load:load"]
)
def test_a_config_that_was_written_names_components_alone(name):
    with pytest.raises(ConfigError):
        restore({"type": name, "x": 1})


# ----------------------------------------------------------------------------------------------------------------------
# Programs


def served(command: RunCommand) -> Experiment:
    game = load(CONFIGS / "tiny_lm.py")
    engine = Served(Server("http://127.0.0.1:9/v1", "m", "answers"), "exports", command)
    return dataclasses.replace(game, evaluation=dataclasses.replace(game.evaluation, rollout=Sample(engine=engine)))


def handover(run: Run) -> object:
    return run.experiment.evaluation.rollout.engine.handover


def test_a_program_that_only_a_run_directory_names_is_not_run(tmp_path):
    """With the config file that says the same it is; a stranger's `jaxalign eval RUN` would else run what it likes."""
    command, other = (RunCommand((word, "{directory}")) for word in ("touch", "mkdir"))
    directory = RunDir(epath.Path(tmp_path), json.loads(json.dumps(dump(served(command)))), None)
    found = handover(Run(directory, {}))
    assert found == NotRun(command)
    assert found.adapter == command.adapter
    with pytest.raises(ConfigError, match=r"touch \{directory\}.*--config FILE"):
        found(object.__new__(Client), tmp_path)  # asks nobody
    assert handover(Run(directory, {}, [other])) == NotRun(command)
    assert handover(Run(directory, {}, [command])) == command


# ----------------------------------------------------------------------------------------------------------------------
# Secrets


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        f"tail {TOKEN}",
        "sk-abcdefghijklmnop1234",
        "Bearer abcdef123456",
        "https://me:abcdef@host/x",
        "AKIAABCDEFGHIJKLMNOP",
    ],
)
def test_text_for_people_has_no_secret(text):
    assert "abcdef" not in redacted(text).lower()
    assert redacted("no secret: sk-1, hf_x, https://host/x") == "no secret: sk-1, hf_x, https://host/x"


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", str(CONFIGS / "tiny_lm.py"), f"--optimizer.eps={TOKEN}"),
        ("train", str(CONFIGS / "tiny_lm.py"), f"--nosuch={TOKEN}", TOKEN),
        ("train", f"{TOKEN}.py"),
        ("export", f"/nowhere/{TOKEN}", "out"),
        ("doctor", f"https://me:{TOKEN}@host/model"),
    ],
)
def test_no_error_tells_a_secret(capsys, arguments):
    assert main(list(arguments)) != 0
    said = capsys.readouterr()
    assert said.err
    assert "abcdefghijklmnop" not in said.err + said.out


def test_no_file_of_a_run_holds_a_planted_secret(tmp_path, capsys, monkeypatch):
    """By the name of its setting, by its look, and from the environment."""
    (tmp_path / "own.py").write_text(
        f"""
from dataclasses import dataclass, replace
from three_action import experiment as game

@dataclass(frozen=True)
class Kept:
    api_key: str = "plantedByName"
    note: str = "see {TOKEN}"

    def stored(self, needs):
        return tuple(needs)

    def live(self, needs):
        return ()

experiment = replace(game, reference=Kept())
"""
    )
    (tmp_path / "three_action.py").write_text((CONFIGS / "games" / "three_action.py").read_text())
    monkeypatch.setenv("OPENAI_API_KEY", "plantedInTheEnvironment")
    experiment = override(load(tmp_path / "own.py"), ["--iterations", "1", "--swap_every", "1", "--fit.epochs", "1"])
    run_here(experiment, tmp_path / "run")
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert len(files) > 20
    said = capsys.readouterr()
    texts = [*(file.read_bytes() for file in files), (said.out + said.err).encode()]
    for planted in (b"plantedByName", b"abcdefghijklmnop", b"plantedInTheEnvironment"):
        assert not any(planted in text for text in texts)
    assert any(b"[redacted]" in text for text in texts)


def test_every_sentence_on_what_holds_names_a_test():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    held = text.partition("## What holds for it")[2].partition("\n## ")[0]
    sentences = re.split(r"^- ", held, flags=re.M)[1:]
    assert len(sentences) >= 8
    for sentence in sentences:
        named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", sentence)
        assert named, sentence
        for file, test in named:
            assert not test or f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test
