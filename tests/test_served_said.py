"""What servers say, in the shapes in which they say it."""

import math

import pytest

from jaxalign.served.said import Garbage, Said, Token, excerpt, said

OPENAI_CHAT = {
    "choices": [
        {
            "message": {"content": "(b)"},
            "finish_reason": "stop",
            "logprobs": {
                "content": [
                    {"token": "(", "logprob": -0.1, "top_logprobs": []},
                    {
                        "token": "b",
                        "logprob": -0.2,
                        "top_logprobs": [{"token": "b", "logprob": -0.2}, {"token": "a", "logprob": -1.8}],
                    },
                ]
            },
        }
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2},
}
VLLM_COMPLETION = {
    "choices": [
        {
            "text": " yes",
            "finish_reason": "stop",
            "token_ids": [11, 2],
            "prompt_token_ids": [1, 5],
            "logprobs": {
                "tokens": [" yes", "<|im_end|>"],
                "token_logprobs": [-0.5, None],
                "top_logprobs": [{" yes": -0.5}, None],
                "text_offset": [0, 4],
            },
        }
    ]
}
LLAMA_CPP_COMPLETION = {
    "choices": [
        {
            "text": "A",
            "finish_reason": "length",
            "logprobs": {"content": [{"id": 49, "token": "A", "bytes": [65], "logprob": -2.9, "top_logprobs": []}]},
        }
    ],
    "tokens": [49],
}


def test_a_chat_of_openai():
    tokens = (Token("(", -0.1), Token("b", -0.2, {"b": -0.2, "a": -1.8}))
    assert said(OPENAI_CHAT) == Said("(b)", "stop", tokens, prompt_tokens=7, answer_tokens=2)


def test_a_completion_of_vllm():
    found = said(VLLM_COMPLETION)
    assert (found.text, found.ids, found.prompt_ids) == (" yes", (11, 2), (1, 5))
    assert found.tokens[0] == Token(" yes", -0.5, {" yes": -0.5})
    assert math.isnan(found.tokens[1].logp)


def test_a_completion_of_llama_cpp():
    assert said(LLAMA_CPP_COMPLETION) == Said("A", "length", (Token("A", -2.9, id=49),), ids=(49,))


def test_a_chat_that_says_nothing_says_the_empty_text():
    assert said({"choices": [{"message": {"content": None}}]}) == Said("", "")


def test_tokens_of_the_same_text_add_up():
    listed = [{"token": "\ufffd", "logprob": math.log(p)} for p in (0.5, 0.25, 0.0625)]
    content = [{"token": "\ufffd", "logprob": -0.7, "top_logprobs": [*listed, {"token": "x", "logprob": -math.inf}]}]
    (token,) = said({"choices": [{"text": "\ufffd", "logprobs": {"content": content}}]}).tokens
    assert token.alternatives == {"\ufffd": pytest.approx(math.log(0.8125)), "x": -math.inf}


@pytest.mark.parametrize(
    ("logprobs", "sentence"),
    [
        ([1], "logprobs must be an object"),
        ({"tokens": ["a"]}, "logprobs must have tokens and as many token_logprobs"),
        ({"tokens": ["a"], "token_logprobs": [-1, -2]}, "logprobs must have tokens and as many token_logprobs"),
        ({"tokens": ["a"], "token_logprobs": [-1], "top_logprobs": [{}, {}]}, "as many top_logprobs as tokens"),
        ({"tokens": ["a"], "token_logprobs": [-1], "top_logprobs": [[1]]}, "objects of log-probs by token"),
        ({"tokens": ["a"], "token_logprobs": ["-1"]}, "log-probs must be numbers"),
        ({"tokens": ["a"], "token_logprobs": [True]}, "log-probs must be numbers"),
        ({"tokens": [3], "token_logprobs": [-1]}, "tokens must be texts"),
        ({"content": ["a"]}, "logprobs.content must be a list of objects"),
        ({"content": [{"token": "a", "top_logprobs": ["a"]}]}, "top_logprobs must be a list of objects"),
        ({"content": [{"token": None}]}, "tokens must be texts"),
    ],
)
def test_log_probs_that_are_none_are_named(logprobs, sentence):
    with pytest.raises(Garbage, match=sentence):
        said({"choices": [{"text": "a", "logprobs": logprobs}]})


def test_log_probs_that_are_not_numbers_stay_what_they_are():
    tokens = said({"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [math.nan]}}]}).tokens
    assert math.isnan(tokens[0].logp)


@pytest.mark.parametrize("logps", [[math.nan], [math.nan, -1.0], [-1.0, math.nan], [None, -1.0]])
def test_alternatives_that_are_no_numbers_stay_so_when_they_add_up(logps):
    listed = [{"token": "a", "logprob": logp} for logp in logps]
    content = [{"token": "a", "logprob": -1.0, "top_logprobs": listed}]
    (token,) = said({"choices": [{"text": "a", "logprobs": {"content": content}}]}).tokens
    assert math.isnan(token.alternatives["a"])


@pytest.mark.parametrize("ids", [[1, -2], [1.0], ["1"], [True]])
def test_ids_that_are_none_are_named(ids):
    with pytest.raises(Garbage, match="token_ids must be a list of ids"):
        said({"choices": [{"text": "a", "token_ids": ids}]})


@pytest.mark.parametrize("ids", [None, [], {}])
def test_ids_that_are_not_told_are_absent(ids):
    assert said({"choices": [{"text": "a", "token_ids": ids}]}).ids is None


def test_what_is_shown_of_a_server_is_one_line_without_control_characters():
    assert excerpt("a\x1b[2J\n\tb\x00\u202e c") == "a [2J b c"
    assert excerpt("x" * 300) == "x" * 199 + "…"
