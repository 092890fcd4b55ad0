"""Held-out answers of the base and of the last policy side by side, with what the judge said of them: from artifacts.

The first prompts, as at the end of a run, and of each policy its first answer; where answers are listed in place of
drawn, the likeliest one. Votes are kept from the run's end on;
answers that were drawn only to be shown (`Evaluation.shown`) were judged by nobody.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxalign.evals.context import iterate_name
from jaxalign.evaluate import Votes
from jaxalign.experiment import SAMPLES_SHOWN
from jaxalign.rollouts.enumerate import enumerated
from jaxalign.storage.rundir import RunDir, home
from jaxalign.types import Rollouts

TOGETHER = "all together"


@dataclass(frozen=True)
class Side:
    """Two answers to one prompt, of the base and of policy `last`. `votes`: who says with what probability that the
    last one's is better, () where nobody was asked or nobody has written it down."""

    heading: str
    last: str
    base_text: str
    last_text: str
    votes: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Sample:
    """A held-out prompt, how many messages came before it, and answers to it."""

    prompt: str
    earlier: int
    sides: tuple[Side, ...]


def last_answered(run: RunDir) -> int:
    """The number of the last policy that has answered the held-out prompts; 0 where that is the base, or nobody."""
    return max((each for each in range(1, run.finished() + 1) if run.has(home(each), "heldout")), default=0)


def votes_in(run: RunDir) -> Votes | None:
    """What the judge said of the last policy's answers; None where nobody has written it down. Raises CheckpointError
    where that is damaged."""
    where = home(last_answered(run))
    return run.load(where, "votes", Votes) if run.has(where, "votes") else None


def samples_of(run: RunDir, votes: Votes | None) -> tuple[Sample, ...]:
    """Those of a run, or () where its policies have answered no prompts but the base's. Raises CheckpointError for a
    damaged artifact."""
    number = last_answered(run)
    if number == 0 or not run.has("initial", "heldout"):
        return ()
    last = iterate_name(number)
    base_answers, last_answers = (run.load(home(each), "heldout", Rollouts) for each in (0, number))
    listed = all(enumerated(each).all() for each in (base_answers, last_answers))
    drawn = tuple(run.load(home(each), "shown", Rollouts) for each in (0, number) if run.has(home(each), "shown"))

    def sides(index: int) -> Iterator[Side]:
        if len(drawn) == 2:
            base_shown, last_shown = (each.texts[index][0] for each in drawn)
            yield Side("Drawn to be shown; nobody judged them", last, base_shown, last_shown)
        places = tuple(int(each.weights[index].argmax()) if listed else 0 for each in (base_answers, last_answers))
        base_text, last_text = base_answers.texts[index][places[0]], last_answers.texts[index][places[1]]
        what = "Likeliest answers" if listed else "First judged answers" if votes else "First answers"
        yield Side(what, last, base_text, last_text, said(votes, index, *places))

    return tuple(
        Sample(prompt.text, len(prompt.messages) - 1, tuple(sides(index)))
        for index, prompt in enumerate(base_answers.prompts[:SAMPLES_SHOWN])
    )


def said(votes: Votes | None, index: int, base: int, last: int) -> tuple[tuple[str, float], ...]:
    """P(the last policy's answer number `last` beats the base's number `base`) to a prompt, by all annotators together
    and by each."""
    if votes is None:
        return ()
    each = zip(votes.annotators, votes.by_annotator[index, :, last, base], strict=True)
    alone = tuple((name, float(vote)) for name, vote in each)
    return ((TOGETHER, float(votes.prefer[index, last, base])), *(alone if len(alone) > 1 else ()))
