"""The client of servers, against one that does its worst: what is tried again, what is given up, what is kept."""

import dataclasses
import http.client
import itertools
import json
import os
import signal
import socket
import threading
import time

import pytest
from made_server import Asked, Given, Waits, asking, chat, error, in_turn, json_of, served, server_at

from jaxalign.errors import ConfigError, Interrupted, ServerError
from jaxalign.hosts import stop
from jaxalign.served import transport
from jaxalign.served.attempts import Clock, Failure
from jaxalign.served.client import Client, Request
from jaxalign.served.retries import Retries, retry_after
from jaxalign.served.said import Said


def question(text: str) -> Request:
    return Request("/chat/completions", {"model": "judge", "messages": [{"role": "user", "content": text}]})


def echo(asked: Asked) -> Given:
    return chat(f"re: {asked.text}")


def asked_of(client: Client, *texts: str) -> list[Said | Failure]:
    """What came of the questions, in their order."""
    found = dict(client.ask([question(text) for text in texts]))
    assert sorted(found) == list(range(len(texts)))
    return [found[number] for number in range(len(texts))]


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
# What is tried again

PASSING = {
    "500": error(500, "worker died"),
    "503": error(503, "busy"),
    "429": error(429, "slow down"),
    "no JSON": Given(200, b"<html>gateway</html>"),
    "bytes": Given(200, b"\xff\xfe\x00{"),
    "nothing": Given(200, b""),
    "other JSON": json_of([1, 2]),
    "deep JSON": Given(200, b"[" * 100_000),
    "no choices": json_of({"object": "chat.completion"}),
    "empty choices": json_of({"choices": []}),
    "choice without text": json_of({"choices": [{"index": 0}]}),
    "text that is none": json_of({"choices": [{"text": 3}]}),
    "half an answer": dataclasses.replace(chat("re: x"), cut=20),
    "half a chunk": Given(200, b'40\r\n{"choi', {"Transfer-Encoding": "chunked"}),
    "a chunk that is none": Given(200, b"zz\r\n{}", {"Transfer-Encoding": "chunked"}),
    "broken logprobs": json_of({"choices": [{"text": "x", "logprobs": {"tokens": ["x"], "token_logprobs": []}}]}),
}


@pytest.mark.parametrize("given", PASSING.values(), ids=PASSING)
def test_what_may_pass_is_tried_again(tmp_path, given):
    waits = Waits()
    with asking(in_turn(given, given, then=echo), tmp_path, waits.clock) as (made, client):
        assert asked_of(client, "x")[0].text == "re: x"
    assert (len(made.asked), client.sent) == (3, 3)
    assert waits.seconds == [0.5, 1.0]  # half of 1 s, half of 2 s


@pytest.mark.parametrize(
    ("given", "kind", "sentence"),
    [
        (PASSING["500"], "server_error", "it answered 500: worker died"),
        (PASSING["429"], "rate_limited", "it answered 429: slow down"),
        (PASSING["no JSON"], "garbage", "its answer is none: no JSON: '<html>gateway</html>'"),
        (PASSING["empty choices"], "garbage", "its answer is none: choices must be a list of one object"),
        (PASSING["half an answer"], "unreachable", "the connection ended after 20 bytes of an answer"),
    ],
)
def test_what_does_not_pass_is_given_up_and_named(tmp_path, given, kind, sentence):
    with asking(lambda asked: given, tmp_path) as (made, client):
        assert asked_of(client, "x") == [Failure(kind, sentence)]
    assert len(made.asked) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("header", ["7", "Sun, 09 Sep 2001 01:46:47 GMT"])
def test_a_server_that_says_when_to_come_back_is_heard(tmp_path, header):
    waits = Waits(date=1_000_000_000.0)  # 01:46:40 of that day
    limited = error(429, "slow down", Retry_After=header)
    with asking(in_turn(limited, then=echo), tmp_path, waits.clock) as (_, client):
        assert asked_of(client, "x")[0].text == "re: x"
    assert waits.seconds == [7.5]


def test_a_server_that_asks_for_too_much_patience_is_given_up_at_once(tmp_path):
    waits, limited = Waits(), error(429, "quota", Retry_After="86400")
    with asking(lambda asked: limited, tmp_path, waits.clock) as (made, client):
        (failure,) = asked_of(client, "x")
    assert failure.sentence == (
        "it answered 429: quota, and to come back in 86400 s, which is longer than patience_seconds"
    )
    assert (len(made.asked), waits.seconds) == (1, [])


@pytest.mark.parametrize("header", ["", "soon", "nan", "inf", "-3", "Sun, 99 Sep 2001", "1e999"])
def test_times_that_are_none_are_not_waited_for(header):
    assert retry_after(header, 0.0) == 0


def test_waits_double_up_to_the_longest_and_end():
    retries = Retries(attempts=8, first_seconds=2.0, longest_seconds=20.0)
    assert [retries.wait(failed, 0.0, 1.0) for failed in range(1, 9)] == [2, 4, 8, 16, 20, 20, 20, None]
    assert retries.wait(1, 3.0, 0.25) == 3.5
    assert retries.wait(10**6, 0.0, 1.0) is None
    assert dataclasses.replace(retries, attempts=10**7).wait(10**6, 0.0, 1.0) == 20


# ----------------------------------------------------------------------------------------------------------------------
# Time


def test_a_server_that_does_not_answer_is_timed_out(tmp_path):
    waits = Waits(now=time.monotonic)
    silent = Given(hang=True, cut=0)
    with asking(lambda asked: silent, tmp_path, waits.clock, timeout_seconds=0.05) as (made, client):
        assert asked_of(client, "x") == [Failure("timed_out", "no whole answer within 0.05 s")]
    assert (len(made.asked), len(waits.seconds)) == (3, 2)


class Drips(socket.socket):
    """One on which bytes come one at a time."""

    def __init__(self, content: bytes):
        super().__init__()
        self.left, self.timeouts = content, []

    def settimeout(self, seconds: float) -> None:
        self.timeouts.append(seconds)

    def recv_into(self, buffer: memoryview) -> int:
        buffer[:1], self.left = self.left[:1], self.left[1:]
        return 1


def test_bytes_that_come_one_by_one_do_not_extend_the_deadline():
    ticks = itertools.count()
    until = transport.Until(4.0, lambda: float(next(ticks)))  # each look at the clock takes a second
    with Drips(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as slow, pytest.raises(TimeoutError):
        http.client.HTTPResponse(transport.Incoming(until, slow)).begin()
    assert slow.timeouts == [4.0, 3.0, 2.0, 1.0]


def test_an_answer_that_stays_away_in_the_middle_is_timed_out(tmp_path):
    waits = Waits(now=time.monotonic)
    half = dataclasses.replace(chat("re: x"), hang=True, cut=10)
    with asking(lambda asked: half, tmp_path, waits.clock, timeout_seconds=0.05) as (_, client):
        assert asked_of(client, "x") == [Failure("timed_out", "no whole answer within 0.05 s")]


def test_a_server_that_is_not_there_is_unreachable(tmp_path):
    with asking(echo, tmp_path) as (made, client):
        made.shutdown()
        made.server_close()
        (failure,) = asked_of(client, "x")
    assert failure.kind == "unreachable"
    assert "ConnectionRefusedError" in failure.sentence


def test_an_endless_answer_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(transport, "LARGEST", 1000)
    with asking(lambda asked: chat("x" * 10_000), tmp_path) as (_, client):
        (failure,) = asked_of(client, "x")
    assert "an answer of more than 1000 bytes" in failure.sentence


# ----------------------------------------------------------------------------------------------------------------------
# What is not tried again


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("This model's maximum context length is 4096 tokens", "too_long"),
        ("the request exceeds the available context size", "too_long"),
        ("temperature must be a number", "refused"),
    ],
)
def test_a_request_that_is_refused_is_not_sent_again(tmp_path, message, kind):
    with asking(lambda asked: error(400, message), tmp_path) as (made, client):
        assert asked_of(client, "x", "y") == [Failure(kind, f"it answered 400: {message}")] * 2
    assert len(made.asked) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (error(401, "who are you?"), "it answered 401: who are you?; it wants a key: set key_variable"),
        (error(404, "no such model"), "is url right up to /v1, and is 'judge' a model that it serves?"),
        (
            Given(302, b"", {"Location": "http://elsewhere/"}),
            "it redirects to http://elsewhere/, which is not followed",
        ),
        (Given(405, b"\x1b[31mno\x00 way"), "it answered 405: [31mno way"),
    ],
)
def test_what_every_request_would_meet_ends_the_launch_at_once(tmp_path, given, words):
    with asking(lambda asked: given, tmp_path) as (made, client), pytest.raises(ServerError) as refused:
        asked_of(client, "x", "y", "z")
    assert words in str(refused.value)
    assert len(made.asked) <= 2


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
