"""The judge behind a server: what it prefers, what is noted, what its failures mean; nothing is asked twice."""

import dataclasses
import json
import math
import re

import jax
import numpy as np
import pytest
from made_examples import named
from made_models import ONE
from made_rollouts import permuted, rollouts
from made_runs import run_here, tiny_lm
from made_server import Asked, Given, Script, chat, error, in_turn, served, server_at

from jaxalign.contracts.oracle import problems
from jaxalign.contracts.scope import OpenableOracle, Site
from jaxalign.errors import ServerError
from jaxalign.mesh.sharding import MeshShape
from jaxalign.oracles.remote_judge import RemoteJudge
from jaxalign.oracles.rubric import EMPTY
from jaxalign.served.retries import Retries
from jaxalign.storage.record import read_metrics
from jaxalign.storage.rundir import read_run
from jaxalign.types import Preferences

SITE = Site(ONE, MeshShape().rules, None, 8)
KEY = jax.random.key(0)
THREE = rollouts([["one", "three", "seventeen"]])
AT_ONCE = Retries(attempts=2, first_seconds=0.0)


def shown(asked: Asked) -> tuple[str, str]:
    """The two answers that a request puts before the judge."""
    found = re.search(r"# Answer \(a\)\n(.*)\n\n# Answer \(b\)\n(.*)\n\n# Which", asked.text, re.DOTALL)
    return found[1], found[2]


def longer(asked: Asked) -> Given:
    """Prefers the longer answer, as one that is e times as likely for each character more; says so with log-probs."""
    first, second = map(len, shown(asked))
    label = "a" if first > second else "b"
    top = {"a": float(first), "b": float(second), "c": -9.0}
    return chat(f"Answer ({label})", [{}, {}, top, {}], ["Answer", " (", label, ")"])


def says(*labels: str) -> Script:
    return lambda asked: chat(f"Answer ({labels[asked.nth % len(labels)]})")


def judged(script: Script, answers, given=THREE, **changes) -> tuple[Preferences, list[Asked]]:
    with served(script) as made:
        judge = RemoteJudge(server_at(made, answers, retries=AT_ONCE), **changes)
        with judge.open(SITE) as opened:
            return opened(given, KEY), made.asked


def noted(found: Preferences) -> dict[str, list[float]]:
    return {name: counts.tolist() for name, counts in found.notes.items() if (abs(counts) > 1e-9).any()}


# ----------------------------------------------------------------------------------------------------------------------
# Preferences


def test_preferences_are_those_of_the_labels_log_probs(tmp_path):
    found, asked = judged(longer, tmp_path)
    lengths = np.array([3.0, 5.0, 9.0])
    np.testing.assert_allclose(found.prefer[0], 1 / (1 + np.exp(lengths - lengths[:, None])), atol=6e-8)
    assert noted(found) == {"comparisons": [3]}
    assert list(problems(found, THREE)) == []
    assert len(asked) == 6
    assert {shown(each) for each in asked} == {
        (one, other) for one in THREE.texts[0] for other in THREE.texts[0] if one != other
    }
    body = {name: value for name, value in asked[0].body.items() if name != "messages"}
    assert body == {"model": "judge", "max_tokens": 16, "temperature": 0.0, "logprobs": True, "top_logprobs": 20}


def test_a_judge_of_text_alone_is_certain_and_says_so(tmp_path):
    def certain(asked: Asked) -> Given:
        first, second = map(len, shown(asked))
        return chat("(a)" if first > second else "(b)")

    found, asked = judged(certain, tmp_path, top_logprobs=0)
    np.testing.assert_array_equal(found.prefer[0], [[0.5, 0, 0], [1, 0.5, 0], [1, 1, 0.5]])
    assert noted(found) == {"comparisons": [3], "text_only": [6]}
    assert "logprobs" not in asked[0].body


def test_a_judge_that_looks_at_the_place_alone_prefers_nothing_and_is_noted(tmp_path):
    found, _ = judged(says("a"), tmp_path)
    np.testing.assert_array_equal(found.prefer, np.full((1, 3, 3), 0.5))
    assert noted(found) == {"comparisons": [3], "orders_disagree": [3], "position_bias": [1.5], "text_only": [6]}


def test_what_cannot_be_read_is_noted_and_never_drawn(tmp_path):
    found, _ = judged(lambda asked: chat("As a language model, I like both."), tmp_path)
    np.testing.assert_array_equal(found.prefer, np.full((1, 3, 3), 0.5))
    assert noted(found) == {"comparisons": [3], "unparsed": [6]}


@pytest.mark.parametrize(
    ("top", "prefer", "notes"),
    [
        ({"a": math.nan, "b": -1.0}, 0.5, {"unparsed": [2]}),
        ({"a": None, "b": -1.0}, 0.5, {"unparsed": [2]}),
        ({"b": -1.0, "c": -2.0}, 0.5, {"one_label": [2], "orders_disagree": [1], "position_bias": [-0.5]}),
        ({"c": -1.0}, 0.5, {"text_only": [2], "orders_disagree": [1], "position_bias": [0.5]}),
        ({}, 0.5, {"text_only": [2], "orders_disagree": [1], "position_bias": [0.5]}),
    ],
)
def test_log_probs_that_are_missing_or_none_are_noted(tmp_path, top, prefer, notes):
    found, _ = judged(lambda asked: chat("a", [top]), tmp_path, rollouts([["x", "y"]]))
    assert found.prefer[0, 0, 1] == prefer
    assert noted(found) == {"comparisons": [1], **notes}


def test_texts_that_a_server_strips_are_found_among_its_tokens(tmp_path):
    top = {"a": -0.5, "b": -1.5}
    found, _ = judged(lambda asked: chat("a", [{}, top], [" ", "a"]), tmp_path, rollouts([["x", "y"]]))
    assert noted(found) == {
        "comparisons": [1],
        "orders_disagree": [1],
        "position_bias": [pytest.approx(0.231059, abs=1e-5)],
    }


def test_equal_answers_are_not_asked_about_and_empty_ones_are_named(tmp_path):
    found, asked = judged(longer, tmp_path, rollouts([["x", "x", ""], ["y", "y", "y"]]))
    assert len(asked) == 2
    assert all(EMPTY in each.text for each in asked)
    assert noted(found) == {"comparisons": [1, 0], "empty_answers": [1, 0]}
    np.testing.assert_array_equal(found.prefer[1], np.full((3, 3), 0.5))
    assert found.prefer[0, 0, 1] == 0.5


def test_the_order_of_responses_only_reorders_the_answer_and_is_not_asked_again(tmp_path):
    order = [2, 0, 1]
    straight, _ = judged(longer, tmp_path)
    turned, asked = judged(longer, tmp_path, permuted(THREE, order))
    np.testing.assert_array_equal(straight.prefer[:, order][:, :, order], turned.prefer)
    assert asked == []


# ----------------------------------------------------------------------------------------------------------------------
# Failures


def test_a_question_without_an_answer_stops_the_run_by_its_reason(tmp_path):
    script = in_turn(error(400, "maximum context length is 512 tokens"), then=longer)
    with pytest.raises(ServerError) as refused:
        judged(script, tmp_path)
    assert "1 of 6 questions of judge 'remote_judge' have no answer (1 too_long)" in str(refused.value)
    assert "maximum context length is 512 tokens" in str(refused.value)
    _, asked = judged(longer, tmp_path)  # mended
    assert len(asked) == 1


def test_a_judge_that_may_abstain_counts_as_a_half_and_is_noted(tmp_path):
    script = in_turn(error(400, "maximum context length is 512 tokens"), error(422, "no"), then=longer)
    found, _ = judged(script, tmp_path, on_failure="abstain", most_abstained=0.4)
    assert noted(found) == {"comparisons": [3], "failed": [2], "too_long": [1], "refused": [1]}
    assert found.prefer[0, 0, 2] == 0.5  # in the order of texts, "seventeen" is the second
    assert found.prefer[0, 0, 1] == pytest.approx(1 / (1 + math.exp(2)))


def test_a_judge_that_abstains_too_often_stops_the_run(tmp_path):
    script = in_turn(error(422, "no"), error(422, "no"), then=longer)
    with pytest.raises(ServerError, match="2 of 6 questions"):
        judged(script, tmp_path, on_failure="abstain", most_abstained=0.3)


def test_a_timed_out_question_is_noted_as_such(tmp_path):
    with served(lambda asked: Given(hang=True, cut=0)) as made:
        server = server_at(made, tmp_path, timeout_seconds=0.05, retries=AT_ONCE, concurrency=2)
        judge = RemoteJudge(server, on_failure="abstain", most_abstained=1.0)
        with judge.open(SITE) as opened:
            found = opened(rollouts([["x", "y"]]), KEY)
    assert noted(found) == {"comparisons": [1], "failed": [2], "timed_out": [2]}


# ----------------------------------------------------------------------------------------------------------------------
# A run


def test_a_run_whose_judge_dies_goes_on_and_asks_nothing_twice(tmp_path):
    """The uninterrupted run's preferences and metrics; every question was answered once."""
    limit = [7]

    def mortal(asked: Asked) -> Given:
        limit[0] -= 1
        return longer(asked) if limit[0] >= 0 else error(500, "out of memory")

    few = ("--iterations", "1", "--swap_every", "none", "--evaluation.prompts.limit", "2")
    few += ("--placement.judge_block_size", "2")
    with served(mortal) as made:

        def experiment(name: str):
            server = server_at(made, tmp_path / f"{name}-answers", retries=AT_ONCE, max_failures=2)
            tiny = tiny_lm(*few)
            feedback = dataclasses.replace(tiny.feedback, oracle=RemoteJudge(server))
            return dataclasses.replace(tiny, feedback=feedback)

        with pytest.raises(ServerError, match="out of memory"):
            run_here(experiment("broken"), tmp_path / "broken")
        limit[0] = 10**9
        answered, before = made.asked[:7], len(made.asked)
        run_here(experiment("broken"), tmp_path / "broken")
        bodies = [json.dumps(asked.body, sort_keys=True) for asked in [*answered, *made.asked[before:]]]
        assert len(bodies) == len(set(bodies))
        run_here(experiment("whole"), tmp_path / "whole")
    one, other = (read_run(tmp_path / name).load(0, "preferences", Preferences) for name in ("broken", "whole"))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert read_metrics(tmp_path / "broken") == read_metrics(tmp_path / "whole")
    (line,) = [line for line in read_metrics(tmp_path / "broken") if line["phase"] == "align"]
    assert line["judge/unparsed"] == 0
    assert "judge/orders_disagree" in line


def test_it_is_an_oracle_with_a_scope_and_an_equal_value():
    judge = RemoteJudge(dataclasses.replace(server_at_home(), model="x"))
    assert isinstance(judge, OpenableOracle)
    assert judge.names == ("remote_judge",)
    assert hash(judge) == hash(dataclasses.replace(judge))
    assert named(judge) == "RemoteJudge"


def server_at_home():
    with served(longer) as made:
        return server_at(made, "answers")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"most_abstained": 1.5}, "most_abstained must be a share"),
        ({"name": ""}, "name must not be empty"),
    ],
)
def test_settings_that_could_not_work_are_problems(changes, sentence):
    (problem,) = RemoteJudge(server_at_home(), **changes).problems()
    assert sentence in problem
