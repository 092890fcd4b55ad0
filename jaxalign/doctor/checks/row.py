"""Whether a training row scores what it should: every response token once, the prompt never."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Outcome, judged
from jaxalign.doctor.row import responses, tokens


@dataclass(frozen=True)
class Row:
    """The row that the report shows."""

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        row, (lengths, lasts) = tokens(opened), responses(opened)
        scored = [token for token in row if token.logp is not None]
        ends = sum(token.role == "end of turn" for token in scored)
        expected = int(lengths.sum())
        finished = int(np.isin(lasts, opened.model.chat.stop).sum())
        problems = []
        if len(scored) != expected or any(token.branch == 0 for token in scored):
            problems.append(f"{len(scored)} tokens are scored, the responses have {expected}: packing is wrong")
        if ends != finished:
            problems.append(f"{finished} responses are finished, {ends} end-of-turn tokens are scored")
        measured = {
            "tokens": len(row),
            "scored": len(scored),
            "end_of_turn_scored": ends,
            "nats_per_token": -sum(token.logp for token in scored if token.logp is not None) / max(len(scored), 1),
        }
        yield judged("training row", measured, problems)


CHECK = Row()
