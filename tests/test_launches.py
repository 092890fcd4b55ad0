"""Launches of one run on other days and other files: what it read first is what it reads, or it is refused by name."""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from made_feedback import fed
from made_judges import judge_directory
from made_runs import run_here, tiny_lm
from safetensors.numpy import load_file, save_file

from jaxalign.__main__ import main
from jaxalign.config.resolved import dump
from jaxalign.data.prompts import JsonlPrompts
from jaxalign.errors import ConfigError, DataError, Interrupted
from jaxalign.exchange.export import export
from jaxalign.experiment import Experiment
from jaxalign.models.lora import LoRA
from jaxalign.models.model import Source
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.random_llama import RandomLlama
from jaxalign.oracles.annotators import Brevity
from jaxalign.oracles.learned import RewardModel
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.reopen import reopen
from jaxalign.session import Session
from jaxalign.storage import pinned
from jaxalign.storage.record import Silent
from jaxalign.storage.rundir import open_run

FIRST, LATER = datetime.date(2024, 2, 29), datetime.date(2024, 3, 1)
ASKED = [{"role": "user", "content": "Why?"}]


def rows(name: str, count: int = 8) -> str:
    return "".join(json.dumps({"id": f"q{i}", "prompt": f"{name} number {i}?"}) + "\n" for i in range(count))


@pytest.fixture
def home(tmp_path) -> pathlib.Path:
    """Prompts, a model with a dated template, and a judge."""
    (tmp_path / "train.jsonl").write_text(rows("Question"))
    (tmp_path / "held.jsonl").write_text(rows("Held-out question"))
    model = RandomLlama(tied=False).open()
    export(model, model.load(), tmp_path / "base")
    config = tmp_path / "base" / "tokenizer_config.json"
    fields = json.loads(config.read_text())
    fields["chat_template"] = "{{ strftime_now('%d %b') }}" + fields["chat_template"]
    config.write_text(json.dumps(fields))
    judge_directory(tmp_path / "judge", 1)
    return tmp_path


def experiment_in(home: pathlib.Path, model: Callable[[Source], Source] = lambda source: source) -> Experiment:
    """One that reads them all."""
    made = tiny_lm()
    return dataclasses.replace(
        made,
        model=model(Pretrained(str(home / "base"))),
        feedback=dataclasses.replace(
            made.feedback,
            prompts=JsonlPrompts(str(home / "train.jsonl")),
            oracle=Panel((Weighted(Brevity()), Weighted(RewardModel(str(home / "judge"))))),
        ),
        evaluation=dataclasses.replace(made.evaluation, prompts=JsonlPrompts(str(home / "held.jsonl"))),
    )


def launch(experiment: Experiment, workdir: pathlib.Path, computes: bool = True) -> Session:
    """A session that is opened, and computes something or not."""
    with open_run(workdir, dump(experiment)) as run:
        session = Session(experiment, run, Silent())
        if computes:
            (run.path / "initial").mkdir(exist_ok=True)
        return session


@pytest.fixture
def day(monkeypatch) -> Callable[[datetime.date], None]:
    """Sets the clock of launches."""

    def turn(to: datetime.date) -> None:
        monkeypatch.setattr(pinned, "today", lambda hosts: to)

    turn(FIRST)
    return turn


# --------------------------------------------------------------------------------------------------------------
# Another input


def edited(file: pathlib.Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def reversed_rows(file: pathlib.Path) -> None:
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))


def other_weights(file: pathlib.Path) -> None:
    """The same names, shapes and size."""
    tensors = load_file(file)
    save_file({name: array + np.float32(1e-3) for name, array in tensors.items()}, file, metadata={"format": "pt"})


CHANGES = {
    "a letter of a prompt": (
        "train.jsonl",
        lambda file: edited(file, "Question", "question"),
        "feedback.prompts: {file}: ",
    ),
    "a row more": ("train.jsonl", lambda file: file.write_text(rows("Question", 9)), "feedback.prompts: {file}: "),
    "the order of rows": ("train.jsonl", reversed_rows, "feedback.prompts: {file}: "),
    "an id": ("held.jsonl", lambda file: edited(file, '"q3"', '"q33"'), "evaluation.prompts: {file}: "),
    "the template": (
        "base/tokenizer_config.json",
        lambda file: edited(file, "%d %b", "%b %d"),
        "model: {parent} (chat template): ",
    ),
    "a stop": (
        "base/generation_config.json",
        lambda file: file.write_text('{"eos_token_id": [1, 2]}'),
        "model: {parent} (end-of-turn ids): [2] at the first launch, [1, 2] now",
    ),
    "a role's token": (
        "base/tokenizer_config.json",
        lambda file: edited(file, '"bos_token": "<|im_start|>"', '"bos_token": "<|pad|>"'),
        "model: {parent} (special tokens): ",
    ),
    "the tokenizer": (
        "base/tokenizer.json",
        lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), "normalizer": {"type": "NFC"}})),
        "model: {parent} (tokenizer): ",
    ),
    "a number of config.json": (
        "base/config.json",
        lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), "rms_norm_eps": 1e-3})),
        "model: {parent} (rms_norm_eps): 1e-05 at the first launch, 0.001 now",
    ),
    "the weights": ("base/model.safetensors", other_weights, "model.weights: {file}: "),
    "a judge": ("judge/model.safetensors", other_weights, "feedback.oracle.annotators.1.annotator: {file}: "),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_input_is_refused_by_name_until_it_is_put_back(home, change):
    name, make, named = CHANGES[change]
    file = home / name
    launch(experiment_in(home), home / "run")
    launch(experiment_in(home), home / "run")
    before = file.read_bytes()
    make(file)
    with pytest.raises(ConfigError) as refused:
        launch(experiment_in(home), home / "run")
    head, line = str(refused.value).splitlines()
    assert str(home / "run") in head
    assert line.strip().startswith(named.format(file=file, parent=file.parent))
    file.write_bytes(before)
    launch(experiment_in(home), home / "run")


def test_what_says_the_same_in_other_bytes_is_the_same(home):
    launch(experiment_in(home), home / "run")
    file = home / "train.jsonl"
    file.write_text(
        "".join(json.dumps(json.loads(line), indent=None) + " \n" for line in file.read_text().split("\n")[:-1])
    )
    config = home / "base" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"transformers_version": "9.9"}))
    launch(experiment_in(home), home / "run")


def test_a_launch_that_was_refused_early_may_be_corrected(home):
    """Nothing was computed: what is in the files now counts."""
    (home / "train.jsonl").write_text(rows("Question " + "long " * 200))
    with pytest.raises(DataError, match="longer than"):
        launch(experiment_in(home), home / "run")
    (home / "train.jsonl").write_text(rows("Question"))
    launch(experiment_in(home), home / "run")


def test_a_run_that_computes_is_refused_and_then_ends_as_it_would_have(home, capsys):
    """Held-out answers of the base are there when the prompts change; with the old files back, the run ends."""
    made = experiment_in(home)
    made = dataclasses.replace(made, iterations=1, swap_every=None)
    made = fed(made, oracle=Panel((Weighted(Brevity()),)))
    with pytest.raises(Interrupted):
        run_here(made, home / "run", lambda: (home / "run" / "initial" / "evals").exists())
    (home / "held.jsonl").write_text(rows("Another question"))
    with pytest.raises(ConfigError, match=r"evaluation\.prompts: .*held\.jsonl: "):
        run_here(made, home / "run")
    (home / "held.jsonl").write_text(rows("Held-out question"))
    (home / "train.jsonl").unlink()
    with pytest.raises(DataError, match=r"train\.jsonl: no such file"):
        run_here(made, home / "run")
    (home / "train.jsonl").write_text(rows("Question"))
    summary = run_here(made, home / "run")
    assert 0 <= summary["win_rate_vs_base"] <= 1

    # To read a run its prompts need not be here, and its weights only where policies are differences from them.
    (home / "train.jsonl").unlink()
    (home / "held.jsonl").unlink()
    other_weights(home / "base" / "model.safetensors")
    assert main(["sample", str(home / "run"), "--prompt", "Hi", "--max-tokens", "2"]) == 0
    edited(home / "base" / "tokenizer_config.json", "%d %b", "%b %d")
    capsys.readouterr()
    for verb in (["sample", "--prompt", "Hi"], ["eval"], ["export", str(home / "out")]):
        assert main([verb[0], str(home / "run"), *verb[1:]]) == 2
        assert "(chat template): " in capsys.readouterr().err


def test_differences_need_the_base_that_they_are_of(home):
    for name, model in {"full": lambda source: source, "lora": LoRA}.items():
        launch(experiment_in(home, model), home / name)
    other_weights(home / "base" / "model.safetensors")
    _ = reopen(home / "full").model
    with pytest.raises(ConfigError, match=r"model\.weights: .*base/model\.safetensors: "):
        _ = reopen(home / "lora").model


def test_readers_who_judge_need_the_judge_that_judged(home):
    launch(experiment_in(home), home / "run")
    reopen(home / "run").check_judges()
    other_weights(home / "judge" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"oracle\.annotators\.1\.annotator: .*judge/model\.safetensors: "):
        reopen(home / "run").check_judges()


# --------------------------------------------------------------------------------------------------------------
# Another day


def judge_of(experiment: Experiment) -> RewardModel:
    assert isinstance(experiment.feedback.oracle, Panel)
    judge = experiment.feedback.oracle.annotators[1].annotator
    assert isinstance(judge, RewardModel)
    return judge


def test_every_launch_has_the_day_of_the_first(home, day):
    first = launch(experiment_in(home), home / "run")
    day(LATER)
    later, other = (launch(experiment_in(home), home / name) for name in ("run", "another"))
    asked = [session.machine.model.chat.encode(ASKED) for session in (first, later, other)]
    assert asked[0] == asked[1] != asked[2]
    run = reopen(home / "run")
    assert run.model.chat.encode(ASKED) == asked[0]
    judges = [judge_of(each) for each in (first.experiment, later.experiment, run.experiment, other.experiment)]
    assert [judge.date for judge in judges] == [FIRST.isoformat()] * 3 + [LATER.isoformat()]


def test_a_launch_that_computes_nothing_is_not_the_first(home, day):
    launch(experiment_in(home), home / "run", computes=False)
    day(LATER)
    assert judge_of(launch(experiment_in(home), home / "run").experiment).date == LATER.isoformat()


def test_a_judge_may_have_a_date_of_its_own(home, day):
    made = experiment_in(home)
    judge = dataclasses.replace(judge_of(made), date="2020-01-01")
    made = fed(made, oracle=Panel((Weighted(Brevity()), Weighted(judge))))
    assert judge_of(launch(made, home / "run").experiment) == judge
