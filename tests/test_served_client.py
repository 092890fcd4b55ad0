"""The client of servers: what is asked and kept, limits, stops, commands and keys."""

import dataclasses
import json
import os
import signal
import threading

import pytest
from made_server import Asked, Given, Waits, asked_of, asking, chat, echo, error, in_turn, question, served, server_at

from jaxalign.errors import ConfigError, Interrupted, ServerError
from jaxalign.hosts import stop
from jaxalign.served.attempts import Clock, Failure
from jaxalign.served.client import Client
from jaxalign.served.retries import Retries

# ----------------------------------------------------------------------------------------------------------------------
# Answers, and what is kept


def test_every_question_has_its_own_answer_and_equal_ones_are_sent_once(tmp_path):
    with asking(echo, tmp_path, concurrency=4) as (made, client):
        found = asked_of(client, "x", "y", "x", "z")
    assert [said.text for said in found] == ["re: x", "re: y", "re: x", "re: z"]
    assert (len(made.asked), client.sent, client.read) == (3, 3, 0)
    assert {asked.path for asked in made.asked} == {"/v1/chat/completions"}
    assert all(asked.headers["Content-Type"] == "application/json" for asked in made.asked)
    assert all("Authorization" not in asked.headers for asked in made.asked)


def test_nothing_is_asked_twice_wherever_the_server_is(tmp_path):
    with asking(echo, tmp_path) as (_, client):
        first = asked_of(client, "x", "y")
    with asking(echo, tmp_path) as (moved, client):
        again = asked_of(client, "x", "y", "z")
    assert again[:2] == first
    assert [asked.text for asked in moved.asked] == ["z"]
    assert (client.sent, client.read) == (1, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"about": "policy 1"},
        {"path": "/completions"},
        {"body": {"model": "other", "messages": [{"role": "user", "content": "x"}]}},
        {"body": {"model": "judge", "messages": [{"role": "user", "content": "x"}], "seed": 1}},
    ],
)
def test_what_decides_an_answer_is_part_of_the_question(tmp_path, change):
    with asking(lambda asked: chat(str(asked.nth)), tmp_path) as (_, client):
        (first,) = dict(client.ask([question("x")])).values()
        (second,) = dict(client.ask([dataclasses.replace(question("x"), **change)])).values()
    assert (first.text, second.text) == ("0", "1")


def test_a_server_that_ends_each_connection_is_heard_to_the_end(tmp_path):
    closing = dataclasses.replace(chat("re: x" * 10_000), headers={"Connection": "close"})
    with asking(lambda asked: closing, tmp_path) as (_, client):
        assert asked_of(client, "x")[0].text == "re: x" * 10_000


def test_failures_are_not_kept(tmp_path):
    with asking(in_turn(error(400, "no"), then=echo), tmp_path) as (_, client):
        assert asked_of(client, "x") == [Failure("refused", "it answered 400: no")]
        assert asked_of(client, "x")[0].text == "re: x"


# ----------------------------------------------------------------------------------------------------------------------
# Limits


def test_no_more_are_on_their_way_than_allowed(tmp_path):
    together = threading.Barrier(3)

    def meets(asked: Asked) -> Given:
        together.wait(60)  # passes only where three are here at once
        return echo(asked)

    with asking(meets, tmp_path, concurrency=3) as (made, client):
        asked_of(client, *map(str, range(12)))
    assert made.most == 3


def test_a_budget_of_requests_ends_a_launch_and_the_next_goes_on(tmp_path):
    texts = list(map(str, range(5)))
    with served(echo) as made:
        server = server_at(made, tmp_path, max_requests=3)
        with (
            Client(server, clock=Waits().clock) as client,
            pytest.raises(ServerError, match="all that max_requests allows a launch"),
        ):
            asked_of(client, *texts)
        assert len(made.asked) == 3
        with Client(server, clock=Waits().clock) as client:
            assert [said.text for said in asked_of(client, *texts)] == [f"re: {text}" for text in texts]
    assert sorted(asked.text for asked in made.asked) == texts


def test_a_server_that_dies_in_the_middle_ends_the_launch_and_nothing_is_asked_twice(tmp_path):
    texts = list(map(str, range(20)))
    alive = threading.Event()

    def mortal(asked: Asked) -> Given:
        return echo(asked) if alive.is_set() or asked.nth < 8 else error(500, "out of memory")

    with served(mortal) as made:
        server = server_at(made, tmp_path, concurrency=2, max_failures=3)
        with Client(server, clock=Waits().clock) as client, pytest.raises(ServerError) as refused:
            asked_of(client, *texts)
        assert "3 requests were given up, the last one because it answered 500: out of memory" in str(refused.value)
        assert str(tmp_path) in str(refused.value)
        alive.set()
        before = len(made.asked)
        with Client(server, clock=Waits().clock) as client:
            assert [said.text for said in asked_of(client, *texts)] == [f"re: {text}" for text in texts]
    answered = [asked.text for asked in [*made.asked[:8], *made.asked[before:]]]
    assert sorted(answered, key=int) == texts


def test_requests_that_are_refused_do_not_make_a_server_dead(tmp_path):
    with asking(lambda asked: error(400, "no"), tmp_path, max_failures=1) as (_, client):
        assert len(asked_of(client, "x", "y", "z")) == 3


# ----------------------------------------------------------------------------------------------------------------------
# Stops


def test_a_stop_comes_between_two_answers_and_what_has_come_is_kept(tmp_path):
    with stop.stop_on_signal() as stop_requested, asking(echo, tmp_path, stop=stop.requested) as (made, client):
        arriving = client.ask([question(str(number)) for number in range(50)])
        next(arriving)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_requested()
        with pytest.raises(Interrupted, match="stopped after 1 of 50 answers"):
            next(arriving)
    kept = len(made.asked)
    assert kept < 50
    with asking(echo, tmp_path) as (made, client):
        asked_of(client, *map(str, range(50)))
    assert len(made.asked) == 50 - kept


def test_a_stop_ends_waiting_for_a_server_that_is_silent(tmp_path):
    here = threading.Event()

    def silent(asked: Asked) -> Given:
        here.set()
        return Given(hang=True, cut=0)

    told = pytest.raises(Interrupted, match="had not answered")
    with asking(silent, tmp_path, Clock(), here.is_set, timeout_seconds=1.0) as (_, client), told:
        asked_of(client, "x")


def test_a_stop_cuts_a_back_off_short(tmp_path):
    failed = threading.Event()

    def failing(asked: Asked) -> Given:
        failed.set()
        return error(500, "no")

    slow = Retries(first_seconds=1e6, longest_seconds=1e6)
    with asking(failing, tmp_path, Clock(), failed.is_set, retries=slow) as (made, client), pytest.raises(Interrupted):
        asked_of(client, "x")
    assert len(made.asked) == 1


# ----------------------------------------------------------------------------------------------------------------------
# Commands


def test_a_command_is_tried_again_and_not_kept(tmp_path):
    script = in_turn(error(500, "busy"), then=lambda asked: Given(200, b"Success"))
    with asking(script, tmp_path) as (made, client):
        assert client.command("POST", "/load", {"name": "x"}) == b"Success"
        assert client.command("GET", "/health", root=True) == b"Success"
    assert made.paths == ["/v1/load", "/v1/load", "/health"]
    assert made.asked[1].body == {"name": "x"}
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_fails_says_what_the_server_says(tmp_path):
    told = pytest.raises(ServerError, match="POST /load: it answered 400: no such adapter")
    with asking(lambda asked: error(400, "no such adapter"), tmp_path) as (_, client), told:
        client.command("POST", "/load", {})


# ----------------------------------------------------------------------------------------------------------------------
# Keys

KEY = "sk-Very/Secret+Key\\42"


def test_a_key_is_sent_and_never_shown_or_kept(tmp_path, monkeypatch):
    """The server writes it into its answers and its errors, as some do."""
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def indiscreet(asked: Asked) -> Given:
        assert asked.headers["Authorization"] == f"Bearer {KEY}"
        if asked.text == "bad":
            return error(400, f"you sent {KEY}")
        return Given(500, f"cannot {KEY}".encode()) if asked.text == "worse" else chat(f"your key is {KEY}")

    shown: list[str] = []
    with asking(indiscreet, tmp_path, key_variable="JUDGE_KEY", max_failures=1) as (_, client):
        shown += [repr(found) for found in asked_of(client, "good", "bad")]
        with pytest.raises(ServerError) as refused:
            asked_of(client, "worse")
        shown += [str(refused.value), repr(refused.value), repr(client.server), str(client.address)]
        shown += [repr(vars(client)), repr(client.address), repr(client.address.secret), str(client.address.secret)]
    shown += [file.read_text() for file in tmp_path.iterdir()]
    assert any("your key is [key]" in text for text in shown)
    assert any("you sent [key]" in text for text in shown)
    for text in shown:
        assert KEY not in text
        assert json.dumps(KEY)[1:-1] not in text


def test_a_key_that_is_not_the_one_wanted_is_named_by_its_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    stranger = error(403, f"{KEY} is unknown")
    told = pytest.raises(ServerError)
    with asking(lambda asked: stranger, tmp_path, key_variable="JUDGE_KEY") as (_, client), told as refused:
        asked_of(client, "x")
    assert "it answered 403: [key] is unknown; the key in JUDGE_KEY is not the one it wants" in str(refused.value)


@pytest.mark.parametrize(("value", "words"), [(None, "JUDGE_KEY is not set"), ("a b\n", "holds white space")])
def test_a_key_that_cannot_be_sent_is_refused_before_anything_is(tmp_path, monkeypatch, value, words):
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with served(echo) as made, pytest.raises(ConfigError, match=words) as refused:
        Client(server_at(made, tmp_path, key_variable="JUDGE_KEY"))
    assert str(value) not in str(refused.value)
    assert made.asked == []


def test_proxies_of_the_environment_are_not_asked(tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with asking(echo, tmp_path) as (_, client):
        assert asked_of(client, "x")[0].text == "re: x"
