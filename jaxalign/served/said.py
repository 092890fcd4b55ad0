"""What a server says, read from its JSON: a text, and of its tokens what the server tells.

Log-probs come in two shapes, and servers mix them: OpenAI's for completions (lists beside one another) and for chats
(a list of objects). Ids of tokens are no part of OpenAI's interface: vLLM and SGLang give `token_ids` with a choice,
llama.cpp `tokens` with the reply, and an `id` with each log-prob.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


class Garbage(Exception):
    """What came is no answer; the message says what of it is wrong."""


@dataclass(frozen=True)
class Token:
    """One token of an answer. `logp` (nats) is NaN where the server gives none; `alternatives` are the likeliest tokens
    in its place with theirs; `id` is None where the server does not tell."""

    text: str
    logp: float
    alternatives: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    id: int | None = None


@dataclass(frozen=True)
class Said:
    """An answer. `finish` is why it ends ("stop", "length", …), `tokens` those with log-probs, none where the server
    gives none; `ids` are the ids of all tokens, `prompt_ids` those of the prompt as the server read it and
    `prompt_tokens` how many they are, `answer_tokens` how many all tokens of the answer are: None where the server does
    not tell."""

    text: str
    finish: str
    tokens: tuple[Token, ...] = ()
    ids: tuple[int, ...] | None = None
    prompt_ids: tuple[int, ...] | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None


KEPT = ("choices", "usage", "tokens", "model")
"""Fields of a reply that answers are read from."""


def parsed(body: bytes) -> dict[str, Any]:
    """The JSON object of a reply. Raises Garbage."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Garbage(f"no JSON: {excerpt(body.decode(errors='replace'))!r}") from error
    if not isinstance(found, dict):
        raise Garbage(f"no JSON object but a {type(found).__name__}")
    return found


def said(reply: Mapping[str, Any]) -> Said:
    """The answer in a reply to a completion or a chat. Raises Garbage naming the field that is wrong."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Garbage("choices must be a list of one object")
    choice = choices[0]
    if "message" in choice:
        message = choice["message"]
        # a chat model that says nothing has no content rather than an empty one
        text = (message.get("content") or "") if isinstance(message, dict) else None
    else:
        text = choice.get("text")
    if not isinstance(text, str):
        raise Garbage("choices[0] has no text")
    usage = reply.get("usage") or {}
    counts = [usage.get(f"{what}_tokens") if isinstance(usage, dict) else None for what in ("prompt", "completion")]
    prompt, answer = (count if isinstance(count, int) else None for count in counts)
    return Said(
        text=text,
        finish=str(choice.get("finish_reason") or ""),
        tokens=_tokens(choice.get("logprobs")),
        ids=_ids("token_ids", choice.get("token_ids", reply.get("tokens"))),
        prompt_ids=_ids("prompt_token_ids", choice.get("prompt_token_ids")),
        prompt_tokens=prompt,
        answer_tokens=answer,
    )


def either(one: float, other: float) -> float:
    """log(exp(one) + exp(other)): NaN where one of them is, without a warning."""
    high, low = max(one, other), min(one, other)
    if math.isnan(one) or math.isnan(other):
        return math.nan
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def excerpt(text: str, most: int = 200) -> str:
    """The beginning of what a server sent, in one line without control characters: it goes to terminals and logs."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _tokens(found: Any) -> tuple[Token, ...]:
    if not found:
        return ()
    if not isinstance(found, dict):
        raise Garbage("logprobs must be an object")
    if isinstance(found.get("content"), list):
        return tuple(map(_chat_token, found["content"]))
    texts, logps = found.get("tokens"), found.get("token_logprobs")
    if not isinstance(texts, list) or not isinstance(logps, list) or len(texts) != len(logps):
        raise Garbage("logprobs must have tokens and as many token_logprobs")
    others = found.get("top_logprobs") or [None] * len(texts)
    if not isinstance(others, list) or len(others) != len(texts):
        raise Garbage("logprobs must have as many top_logprobs as tokens")
    each = zip(texts, logps, others, strict=True)
    return tuple(Token(_text(text), _logp(logp), _by_text(other or {})) for text, logp, other in each)


def _chat_token(found: Any) -> Token:
    if not isinstance(found, dict):
        raise Garbage("logprobs.content must be a list of objects")
    listed = found.get("top_logprobs") or []
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise Garbage("top_logprobs must be a list of objects")
    others = [(_text(each.get("token")), _logp(each.get("logprob"))) for each in listed]
    number = found.get("id")
    return Token(
        _text(found.get("token")), _logp(found.get("logprob")), _added(others), number if _is_id(number) else None
    )


def _by_text(found: Any) -> Mapping[str, float]:
    if not isinstance(found, dict):
        raise Garbage("top_logprobs must be objects of log-probs by token")
    return {text: _logp(logp) for text, logp in found.items()}


def _added(tokens: list[tuple[str, float]]) -> Mapping[str, float]:
    """By text: pieces of characters that different tokens are have the same one, and their probabilities add up."""
    found: dict[str, float] = {}
    for text, logp in tokens:
        found[text] = either(found.get(text, -math.inf), logp)
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Garbage("tokens must be texts")
    return value


def _logp(value: Any) -> float:
    """NaN for none: the standard library reads NaN and Infinity, which some servers write, as they are."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Garbage("log-probs must be numbers")
    return float(value)


def _ids(name: str, value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not value:
        return None
    if not all(map(_is_id, value)):
        raise Garbage(f"{name} must be a list of ids")
    return tuple(value)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
