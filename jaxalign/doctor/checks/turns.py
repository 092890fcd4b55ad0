"""Does the model know its chat template? How likely short right answers are with and without it, and their end.

A model that was tuned with the template ends its turn behind a complete answer, and gives the answer at least the
likelihood that it has behind the bare question.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jaxalign.doctor.checks.likelihood import refuse_random
from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Outcome, Status
from jaxalign.doctor.score import Pair, continuations

QUESTIONS = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("How many days are there in a week?", "There are seven days in a week."),
    ("What color is the sky on a clear day?", "The sky is blue on a clear day."),
)


@dataclass(frozen=True)
class Turns:
    """`ends`: least mean probability of a stop token behind the answers; `loss`: nats a token that the template may
    cost (SmolLM2-135M: -0.40 with its own, 0.41 with another's). One of the two is a warning (a base model has no
    template of its own), both are a finding."""

    ends: float = 0.1
    loss: float = 0.2

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        chat = opened.chat
        refuse_random(opened)
        bare: list[Pair] = []
        told: list[Pair] = []
        for question, answer in QUESTIONS:
            ids = chat.tokenizer.encode(answer, add_special_tokens=False).ids
            context = chat.tokenizer.encode(f"{question}\n", add_special_tokens=False).ids
            prompt = chat.encode([{"role": "user", "content": question}])
            bare.append((context, ids))
            told.extend((prompt, [*ids, stop]) for stop in chat.stop)
        found = continuations(opened.model, opened.params, opened.mesh, bare + told)
        without = float(-np.concatenate(found[: len(bare)]).mean())
        within = float(-np.concatenate([each[:-1] for each in found[len(bare) :]]).mean())
        last = np.array([math.exp(each[-1]) for each in found[len(bare) :]]).reshape(len(QUESTIONS), -1)
        ends = float(last.sum(-1).mean())
        yield self.judge(within, without, ends)

    def judge(self, within: float, without: float, ends: float) -> Outcome:
        """The verdict, from nats a token of right answers with and without the template, and P(turn ends behind)."""
        problems = []
        if ends < self.ends:
            problems.append(f"the model ends its turn behind a complete answer with probability {ends:.2g}")
        if within > without + self.loss:
            problems.append(f"the template makes right answers less likely, by {within - without:.2g} nats a token")
        measured = {"nats_with_template": within, "nats_without": without, "end_of_turn": ends}
        if not problems:
            return Outcome("chat template fits the model", "ok", measured)
        advice = "use the chat template and stop tokens that the model was tuned with, or tune it with these first"
        status: Status = "finding" if len(problems) > 1 else "warning"
        return Outcome("chat template fits the model", status, measured, f"{' and '.join(problems)}: {advice}")


CHECK = Turns()
