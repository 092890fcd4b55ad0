"""How long prompts are in tokens, and which a run refuses: it is asked itself."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Outcome, judged
from jaxalign.errors import DataError
from jaxalign.models.model import Conversation
from jaxalign.rollouts.contract import Roller
from jaxalign.rollouts.lengths import encoded
from jaxalign.types import Prompt


@dataclass(frozen=True)
class Lengths:
    """A run refuses a prompt that is longer than its rollout allows; nothing is ever cut. All prompts are looked at
    that a run would look at before it begins."""

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        sampling, chat = opened.sampling, opened.model.chat
        yield measured("prompt lengths", chat, sampling.used, sampling.roller)
        if opened.heldout:
            yield measured("held-out prompt lengths", chat, opened.heldout, opened.heldout_roller)


def measured(name: str, chat: Conversation, prompts: Sequence[Prompt], roller: Roller) -> Outcome:
    """Tokens of the prompts as the policy reads them, and what the roller says to them."""
    lengths = np.array([len(encoded(chat, prompt)) for prompt in prompts])
    limit = roller.bounds.prompt
    found = {
        "tokens_min": int(lengths.min()),
        "tokens_median": float(np.median(lengths)),
        "tokens_max": int(lengths.max()),
        "limit": limit,
        "share_too_long": float((lengths > limit).mean()),
    }
    try:
        roller.check(prompts)
    except DataError as refusal:
        return judged(name, found, [str(refusal)])
    return judged(name, found, [])


CHECK = Lengths()
