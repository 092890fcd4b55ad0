"""A language model behind an OpenAI-style server as the judge of pairs: asked by the rubric, in both orders.

    RemoteJudge(Server("http://localhost:8000/v1", "judge-8b", answers="runs/answers"))
    RemoteJudge(
        Server("https://api.example.com/v1", "large", answers="runs/answers", key_variable="EXAMPLE_KEY"),
        on_failure="abstain",
        most_abstained=0.02,
    )

Where the server gives log-probs of the likeliest tokens, P(shown first is better) comes from those of the two labels in
the label's place; elsewhere it is 1 or 0, as the text says. Notes say what could not be read (`rubric.compared`) and

    text_only          replies without log-probs of a label, read as text
    one_label          replies with log-probs of one label alone: the other counts as impossible, as in COMAL's code
    failed, timed_out, too_long, …    questions that were never answered, all and by `Failure.kind`
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxalign.contracts.scope import Site
from jaxalign.errors import ServerError
from jaxalign.hosts import stop
from jaxalign.oracles.rubric import Question, Rubric, compared, first_is_better, questions
from jaxalign.served.attempts import Failure
from jaxalign.served.client import Client, Request
from jaxalign.served.said import Said
from jaxalign.served.server import Server
from jaxalign.types import Preferences, Rollouts


@dataclass(frozen=True)
class RemoteJudge:
    """Oracle, inside its scope: the server's preference for each pair of a prompt's answers. Needs no key."""

    server: Server
    """where the judge is"""
    rubric: Rubric = Rubric()
    """what it is asked"""
    name: str = "remote_judge"
    """how metrics call it"""
    top_logprobs: int = 20
    """log-probs asked for in each token's place, the likeliest ones; 0: none, and replies are read as text"""
    max_tokens: int = 16
    """longest reply, tokens"""
    on_failure: Literal["stop", "abstain"] = "stop"
    """what a question means that is given up: the run stops, or that order counts as 1/2 and is noted"""
    most_abstained: float = 0.01
    """share of a block's questions that may be given up before the run stops all the same"""

    def problems(self) -> Iterable[str]:
        if self.top_logprobs < 0 or self.max_tokens < 1:
            yield f"top_logprobs must be at least 0 and max_tokens 1, got {self.top_logprobs} and {self.max_tokens}"
        if not 0 <= self.most_abstained <= 1:
            yield f"most_abstained must be a share, in [0, 1], got {self.most_abstained}"
        if not self.name:
            yield "name must not be empty"

    @property
    def names(self) -> tuple[str, ...]:
        """One annotator."""
        return (self.name,)

    @contextmanager
    def open(self, site: Site) -> Iterator["Asking"]:
        """The judge, with its answers so far. Raises ConfigError for a key that is not set."""
        del site  # nothing of it is computed here
        # one of several processes must not leave the others: they stop together, between two blocks
        alone = jax.process_count() == 1
        with Client(self.server, stop.requested if alone else lambda: False) as client:
            yield Asking(self, client)

    def request(self, rollouts: Rollouts, question: Question, turned: bool) -> Request:
        """What is asked about a pair in one order."""
        messages = self.rubric.messages(rollouts.prompts[question.prompt], *question.shown(turned))
        asked = {"logprobs": True, "top_logprobs": self.top_logprobs} if self.top_logprobs else {}
        body = {"model": self.server.model, "messages": [dict(message) for message in messages], **asked}
        return Request("/chat/completions", {**body, "max_tokens": self.max_tokens, "temperature": 0.0})


class Asking:
    """The judge in its scope."""

    def __init__(self, judge: RemoteJudge, client: Client):
        self._judge, self._client = judge, client

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        """Preferences among each prompt's responses. Raises ServerError when the server or the policy ends it."""
        del key  # replies are greedy
        asked = questions(rollouts)
        orders = [(question, turned) for question in asked for turned in (False, True)]
        said = dict(self._client.ask([self._judge.request(rollouts, *order) for order in orders]))
        found = [said[number] for number in range(len(orders))]
        self._refuse_failures([outcome for outcome in found if isinstance(outcome, Failure)], len(found))
        each = [(math.nan, outcome.kind) if isinstance(outcome, Failure) else self._read(outcome) for outcome in found]
        first = np.array([share for share, _ in each]).reshape(-1, 2)
        prefer, notes = compared(rollouts, asked, first[:, 0], first[:, 1])
        notes |= self._noted([question.prompt for question, _ in orders], found, [note for _, note in each], rollouts)
        notes["unparsed"] -= notes["failed"]
        return Preferences(self._judge.names, (1.0,), prefer, prefer[:, None], scores=None, notes=notes)

    def _refuse_failures(self, failures: Sequence[Failure], count: int) -> None:
        judge = self._judge
        allowed = judge.most_abstained * count if judge.on_failure == "abstain" else 0
        if len(failures) > allowed:
            kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(Counter(f.kind for f in failures).items()))
            raise ServerError(
                f"{self._client.address}: {len(failures)} of {count} questions of judge {judge.name!r} have no answer "
                f"({kinds}), one of them because {failures[0].sentence}. The others are kept and are not asked again: "
                "mend the server and run the same command, or let the judge abstain from more (on_failure, "
                "most_abstained)"
            )

    def _read(self, reply: Said) -> tuple[float, str]:
        """P(shown first is better), NaN where the reply does not say, and what is to be noted of it."""
        named = self._judge.rubric.named(reply.text)
        if named is None:
            return math.nan, ""
        which, place = named
        logps = self._label_logps(reply, place)
        if logps is None:
            return float(which == 0), "text_only"
        return float(first_is_better(logps[None])[0]), "one_label" if np.isneginf(logps).any() else ""

    def _label_logps(self, reply: Said, place: int) -> Float[np.ndarray, " 2"] | None:
        """Log-probs of the labels in place of the token at that character; None where the server gives none."""
        spelled = "".join(token.text for token in reply.tokens)
        start = spelled.find(reply.text)  # some servers strip texts
        if start < 0:
            return None
        end = 0
        for token in reply.tokens:
            end += len(token.text)
            if end > start + place:
                logps = self._judge.rubric.label_logps(token.alternatives)
                return None if np.isneginf(logps).all() else logps
        return None

    def _noted(
        self, prompts: Sequence[int], found: Sequence[Said | Failure], notes: Sequence[str], rollouts: Rollouts
    ) -> dict[str, Float[np.ndarray, " b"]]:
        kinds = {"text_only", "one_label", *notes} - {""}
        flags = {kind: [note == kind for note in notes] for kind in kinds}
        flags["failed"] = [isinstance(outcome, Failure) for outcome in found]
        count, where = len(rollouts.prompts), np.array(prompts, np.int64)
        return {kind: np.bincount(where, flag, count).astype(np.float32) for kind, flag in flags.items()}
