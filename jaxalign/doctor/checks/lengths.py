"""How long prompts are in tokens, and which leave no room for an answer in the model's context."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxalign.doctor.checks.prompts import listed
from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import NotHere, Outcome, judged
from jaxalign.rollouts.sample import Enumerate, Sample
from jaxalign.text.chat import Chat
from jaxalign.types import Prompt


@dataclass(frozen=True)
class Lengths:
    """A run refuses a prompt that is longer than the context less the longest answer; nothing is ever cut."""

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        experiment, context = opened.experiment, opened.model.config.context
        for name, prompts, spec in (
            ("prompt lengths", opened.prompts, experiment.rollout),
            ("held-out prompt lengths", opened.heldout, experiment.evaluation.rollout),
        ):
            try:
                yield measured(name, opened.chat, prompts, spec, context)
            except NotHere as error:
                yield Outcome(name, "skipped", {}, str(error))


def measured(name: str, chat: Chat, prompts: Sequence[Prompt], spec: Sample | Enumerate, context: int) -> Outcome:
    """Tokens of the rendered prompts, generation prompt included."""
    if not isinstance(spec, Sample):
        raise NotHere("answers are enumerated, not sampled")
    limit = context - spec.max_tokens
    lengths = np.array([len(chat.encode(prompt.messages)) for prompt in prompts])
    long = [prompt.id for prompt, length in zip(prompts, lengths, strict=True) if length > limit]
    fix = f"shorten or remove the prompts longer than {limit} tokens, or lower max_tokens: {listed(long)}"
    found = {
        "tokens_min": int(lengths.min()),
        "tokens_median": float(np.median(lengths)),
        "tokens_max": int(lengths.max()),
        "limit": limit,
        "share_too_long": len(long) / len(prompts),
    }
    return judged(name, found, [fix] if long else [])


CHECK = Lengths()
