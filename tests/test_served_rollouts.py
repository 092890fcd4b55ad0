"""Samples from a server: the policy that is served is the one that is trained, or the run says so."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from made_models import ONE
from made_policy_server import PolicyServer
from made_rollouts import PROMPTS
from made_runs import run_here, tiny_lm
from made_server import Asked, Given, Made, asking, json_of, served, server_at

from jaxalign.errors import ConfigError, DataError, ServerError
from jaxalign.models.lora import LoRA
from jaxalign.models.random_llama import RandomLlama
from jaxalign.rollouts import seam
from jaxalign.rollouts.handover import Handover, LoadAdapter, RunCommand
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.samplers import Greedy, Temperature, TopK, TopP
from jaxalign.rollouts.served import Served, differences, fingerprint, sampling
from jaxalign.served.retries import Retries
from jaxalign.storage.record import read_metrics
from jaxalign.storage.rundir import read_run
from jaxalign.types import Rollouts

KEY = jax.random.key(7)
FLOAT = 1e-4
"""Nats: fp32 products in another order, many times over; another policy is further away."""


def reload(current: Path) -> RunCommand:
    """Writes where the policy lies to a file, which the server looks at."""
    script = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
    return RunCommand((sys.executable, "-c", script, str(current), "{directory}"))


def engine(made: Made, home: Path, **changes) -> Served:
    server = server_at(made, home / "answers", retries=Retries(attempts=1), concurrency=2, max_failures=1)
    given = {"handover": reload(home / "current"), "dtype": "float32", "most_difference": FLOAT}
    return Served(dataclasses.replace(server, model="base"), str(home / "exports"), **given | changes)


def sample(engine: Served, **changes) -> Sample:
    return dataclasses.replace(Sample(samples=2, max_tokens=6), engine=engine, **changes)


@pytest.fixture(scope="module")
def model():
    return RandomLlama(tied=False, context=64).open()


@pytest.fixture(scope="module")
def params(model):
    return model.load()


# ----------------------------------------------------------------------------------------------------------------------
# Answers


@pytest.mark.parametrize("shape", ["ids", "listed"])
def test_ids_come_back_and_log_probs_are_our_own_and_agree(tmp_path, model, params, shape):
    with served(PolicyServer(tmp_path / "current", shape)) as made:
        roller = sample(engine(made, tmp_path)).on(model, ONE, rows=4)
        shares = list(seam.checked(roller, params, PROMPTS, np.arange(len(PROMPTS)), KEY))
        found = seam.rolled(roller, params, PROMPTS, KEY)
    assert [share.numbers.tolist() for share in sorted(shares, key=lambda share: share.numbers[0])] == [
        [0, 1],
        [2, 3],
        [4],
    ]
    for share in shares:
        assert (share.notes["logp_difference_nats"] < FLOAT).all()
        assert not share.notes["retokenised"].any()
        assert not share.notes["unreported"].any()
    assert len({text for texts in found.texts for text in texts}) > 5
    completions = [asked for asked in made.asked if asked.path.endswith("/completions")]
    assert len(completions) == 10  # the second time all is read
    assert len({asked.body["seed"] for asked in completions}) == 10
    assert all(0 <= asked.body["seed"] < 2**31 for asked in completions)


def test_answers_are_those_of_the_seeds_whatever_is_asked_first(tmp_path, model, params):
    """Blocks, wanted prompts and concurrency change nothing."""
    with served(PolicyServer(tmp_path / "current")) as made:
        current = reload(tmp_path / "current")
        one, two = (sample(engine(made, tmp_path / name, handover=current)) for name in ("one", "two"))
        whole = seam.rolled(one.on(model, ONE, rows=20), params, PROMPTS, KEY)
        (part,) = two.on(model, ONE, rows=20)(params, PROMPTS, np.array([3]), KEY)
    assert part.rollouts.texts[0] == whole.texts[3]
    np.testing.assert_array_equal(part.rollouts.tokens[0], whole.tokens[3])
    np.testing.assert_allclose(part.rollouts.logps[0], whole.logps[3], atol=FLOAT)


def test_text_without_ids_is_tokenised_again_and_counted(tmp_path, model, params):
    with served(PolicyServer(tmp_path / "current", "text")) as made:
        roller = sample(engine(made, tmp_path)).on(model, ONE, rows=4)
        shares = list(seam.checked(roller, params, PROMPTS, np.arange(len(PROMPTS)), KEY))
    assert all(share.notes["retokenised"].all() for share in shares)
    for share in shares:
        compared = share.notes["unreported"] == 0
        assert (share.notes["logp_difference_nats"][compared] < FLOAT).all()


def gap(choice: dict) -> None:
    del choice["logprobs"]["content"][1]


def test_ids_with_gaps_are_not_taken_for_those_of_the_answer(tmp_path, model, params):
    """As llama.cpp's are where a token is half a character."""
    with served(PolicyServer(tmp_path / "current", "listed", spoiled=gap)) as made:
        roller = sample(engine(made, tmp_path)).on(model, ONE, rows=20)
        (share,) = seam.checked(roller, params, PROMPTS, np.arange(len(PROMPTS)), KEY)
    assert share.notes["retokenised"].all()


def test_a_server_without_log_probs_is_believed_and_counted(tmp_path, model, params):
    spoiled = PolicyServer(tmp_path / "current", spoiled=lambda choice: choice.update(logprobs=None))
    with served(spoiled) as made:
        roller = sample(engine(made, tmp_path)).on(model, ONE, rows=20)
        (share,) = seam.checked(roller, params, PROMPTS, np.arange(len(PROMPTS)), KEY)
    assert share.notes["unreported"].all()
    assert not share.notes["logp_difference_nats"].any()


def nan(choice: dict) -> None:
    choice["logprobs"]["token_logprobs"] = [math.nan] * len(choice["token_ids"])


def test_log_probs_that_are_no_numbers_are_counted_as_none(tmp_path, model, params):
    with served(PolicyServer(tmp_path / "current", spoiled=nan)) as made:
        roller = sample(engine(made, tmp_path)).on(model, ONE, rows=20)
        (share,) = seam.checked(roller, params, PROMPTS, np.arange(len(PROMPTS)), KEY)
    assert share.notes["unreported"].all()


def test_differences_by_hand():
    reported = np.array([[[-1.0, -2.0, np.nan, 9.0], [np.nan, np.nan, np.nan, np.nan]]], np.float32)
    ours = np.array([[[-1.5, -2.25, -3.0, 0.0], [-1.0, 0.0, 0.0, 0.0]]], np.float32)
    found = differences(reported, ours, np.array([[3, 1]], np.int32))
    np.testing.assert_allclose(found["logp_difference_nats"], [[0.375, 0.0]])
    np.testing.assert_array_equal(found["unreported"], [[0.0, 1.0]])


# ----------------------------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"finish_reason": "content_filter"}, ServerError, "ended with 'content_filter', not with stop or length"),
        ({"token_ids": [], "text": "", "finish_reason": "length", "logprobs": None}, ServerError, "of no tokens"),
        ({"prompt_token_ids": [1]}, DataError, "the server read a prompt of 1 other ids"),
    ],
)
def test_answers_that_are_none_are_refused(tmp_path, model, params, change, error, words):
    with served(PolicyServer(tmp_path / "current", spoiled=lambda choice: choice.update(change))) as made:
        roller = sample(engine(made, tmp_path)).on(model, ONE, rows=20)
        with pytest.raises(error, match=words):
            seam.rolled(roller, params, PROMPTS, KEY)


def test_a_server_that_serves_an_older_policy_is_refused_by_name(tmp_path, model, params):
    newer = jax.tree.map(lambda leaf: leaf * 1.01, params)
    with served(PolicyServer(tmp_path / "current")) as made:
        right = engine(made, tmp_path)
        seam.rolled(sample(right).on(model, ONE, rows=20), params, PROMPTS, KEY)
        deaf = RunCommand((sys.executable, "-c", "", "{directory}"))
        roller = sample(dataclasses.replace(right, handover=deaf)).on(model, ONE, rows=20)
        with pytest.raises(ServerError, match=f"serves another policy than policy-{fingerprint(newer)[:16]}"):
            seam.rolled(roller, newer, PROMPTS, KEY)


def test_samplers_are_told_whole_and_others_are_refused():
    assert sampling(Temperature(0.7))["temperature"] == 0.7
    assert sampling(Greedy())["temperature"] == 0
    assert (sampling(TopK(k=5))["top_k"], sampling(TopK(k=5))["top_p"]) == (5, 1.0)
    assert (sampling(TopP(p=0.9))["top_k"], sampling(TopP(p=0.9))["top_p"]) == (-1, 0.9)
    with pytest.raises(ConfigError, match="a server cannot be told of function"):
        sampling(lambda logits, keys: None)


def test_settings_that_could_not_work_are_problems():
    with served(lambda asked: json_of({})) as made:
        server = server_at(made, "answers")
    assert list(Served(server, "exports").problems()) == []
    (problem,) = Served(server, "").problems()
    assert problem == "exports must not be empty"
    (problem,) = Served(server, "x", most_difference=0.0).problems()
    assert "most_difference must be positive" in problem
    (problem,) = RunCommand(("reload.sh",)).problems()
    assert "{directory}" in problem
    with pytest.raises(ConfigError, match="LoadAdapter hands over adapters, and the model is not adapted"):
        sample(Served(server, "exports")).on(RandomLlama().open(), ONE, rows=4)


# ----------------------------------------------------------------------------------------------------------------------
# Handing over


def test_handovers_keep_the_contract():
    assert isinstance(LoadAdapter(), Handover)
    assert isinstance(RunCommand(("x", "{directory}")), Handover)


def test_an_adapter_is_loaded_once_and_the_one_before_is_let_go(tmp_path):
    loaded = ["base", "policy-old", "mine"]

    def adapters(asked: Asked) -> Given:
        if asked.path == "/v1/models":
            return json_of({"data": [{"id": name} for name in loaded]})
        name = asked.body["lora_name"]
        if asked.path == "/v1/load_lora_adapter":
            assert asked.body["lora_path"] == str(tmp_path / "policy-new")
            loaded.append(name)
        else:
            assert asked.path == "/v1/unload_lora_adapter"
            loaded.remove(name)
        return Given(200, f"Success: {name}".encode())

    with asking(adapters, tmp_path / "answers") as (made, client):
        assert LoadAdapter()(client, tmp_path / "policy-new") == "policy-new"
        assert LoadAdapter()(client, tmp_path / "policy-new") == "policy-new"
    assert loaded == ["base", "mine", "policy-new"]
    assert made.paths.count("/v1/load_lora_adapter") == 1


def test_a_lora_policy_is_exported_as_its_adapter_and_asked_for_by_its_name(tmp_path):
    model = LoRA(RandomLlama(tied=False, context=64), rank=2).open()
    params, seen = model.load(), []

    def adapters(asked: Asked) -> Given:
        if asked.path == "/v1/models":
            return json_of({"data": [{"id": "base"}]})
        if asked.path == "/v1/load_lora_adapter":
            seen.append(json.loads((Path(asked.body["lora_path"]) / "adapter_config.json").read_text()))
            assert (Path(asked.body["lora_path"]) / "adapter_model.safetensors").is_file()
            return Given(200, b"Success")
        seen.append(asked.body["model"])
        return json_of({"choices": [{"text": "x", "token_ids": [5], "finish_reason": "length"}]})

    with served(adapters) as made:
        roller = sample(engine(made, tmp_path, handover=LoadAdapter())).on(model, ONE, rows=20)
        seam.rolled(roller, params, PROMPTS, KEY)
    assert (seen[0]["peft_type"], seen[0]["r"], seen[0]["base_model_name_or_path"]) == ("LORA", 2, "base")
    assert set(seen[1:]) == {f"policy-{fingerprint(params)[:16]}"}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("/nowhere/reload", "{directory}"), "handover command /nowhere/reload: FileNotFoundError"),
        (
            (sys.executable, "-c", "import sys; sys.exit('no memory left')", "{directory}"),
            "ended with 1: no memory left",
        ),
    ],
)
def test_a_command_that_fails_is_named(tmp_path, command, words):
    with asking(lambda asked: json_of({"data": []}), tmp_path) as (_, client), pytest.raises(ServerError, match=words):
        RunCommand(command)(client, tmp_path)


def test_a_command_does_not_see_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", "sk-very-secret")
    script = "import os, pathlib, sys; pathlib.Path(sys.argv[1], 'seen').write_text(repr(dict(os.environ)))"
    command = RunCommand((sys.executable, "-c", script, "{directory}"))
    with asking(lambda asked: json_of({"data": []}), tmp_path / "a", key_variable="SERVER_KEY") as (_, client):
        command(client, tmp_path)
    assert "sk-very-secret" not in (tmp_path / "seen").read_text()


def test_a_server_that_does_not_list_its_models_is_refused(tmp_path):
    with asking(lambda asked: json_of([1]), tmp_path) as (_, client), pytest.raises(ServerError, match="GET /models"):
        LoadAdapter()(client, tmp_path / "policy-new")


# ----------------------------------------------------------------------------------------------------------------------
# A run


@pytest.mark.slow
def test_a_run_whose_server_dies_goes_on_asks_nothing_twice_and_ends_as_if_it_had_not(tmp_path):
    few = ("--iterations", "2", "--swap_every", "1", "--evaluation.prompts.limit", "4")
    few += ("--placement.rollout_rows", "12", "--feedback.rollout.max_tokens", "6")
    current = tmp_path / "current"
    server = PolicyServer(current)
    with served(server) as made:

        def experiment(name: str):
            tiny = tiny_lm(*few)
            asked = engine(made, tmp_path / name, handover=reload(current))
            rollout = dataclasses.replace(tiny.feedback.rollout, engine=asked)
            heldout = dataclasses.replace(tiny.evaluation.rollout, engine=asked)
            evaluation = dataclasses.replace(tiny.evaluation, rollout=heldout)
            return dataclasses.replace(
                tiny, feedback=dataclasses.replace(tiny.feedback, rollout=rollout), evaluation=evaluation
            )

        server.limit = 4 + 15  # the base's held-out answers, then one block of rollouts and a part of the next
        with pytest.raises(ServerError, match="out of memory"):
            run_here(experiment("broken"), tmp_path / "broken" / "run")
        parts = list((tmp_path / "broken" / "run" / "0000" / "rollouts.parts").iterdir())
        assert len(parts) == 1
        server.limit = math.inf
        run_here(experiment("broken"), tmp_path / "broken" / "run")
        total = server.answered
        server.answered = 0
        run_here(experiment("whole"), tmp_path / "whole" / "run")
        assert total == server.answered == 4 * 3 + 2 * 8 * 3
    broken, whole = (read_run(tmp_path / name / "run") for name in ("broken", "whole"))
    for iteration in (0, 1):
        one, other = (run.load(iteration, "rollouts", Rollouts) for run in (broken, whole))
        assert one.texts == other.texts
        np.testing.assert_array_equal(one.logps, other.logps)
    lines = read_metrics(tmp_path / "broken" / "run")
    assert lines == read_metrics(tmp_path / "whole" / "run")
    noted = [line for line in lines if line["phase"] in ("rollouts", "heldout")]
    assert len(noted) == 5
    assert all(0 < line["rollouts/logp_difference_nats"] < FLOAT for line in noted)
    assert len(list((tmp_path / "whole" / "exports").iterdir())) == 3  # the base and two policies
