"""The client of servers, against one that does its worst: what is tried again, what is given up, and when."""

import dataclasses
import http.client
import itertools
import socket
import time

import pytest
from made_server import Given, Waits, asked_of, asking, chat, echo, error, in_turn, json_of

from jaxalign.errors import ServerError
from jaxalign.served import transport
from jaxalign.served.attempts import Failure
from jaxalign.served.retries import Retries, retry_after

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
