"""What preference data says, whatever shape it comes in: answers to one prompt, and who prefers which."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jaxalign.types import Prompt

Message = Mapping[str, str]


@dataclass(frozen=True)
class Comparison:
    """Answers to one prompt, and what was said of them: a pair, or one answer alone where rows are unpaired."""

    prompt: Prompt
    """`id` is the row's place, or the key that it was joined by"""
    answers: tuple[str, ...]
    """one or two; the first is chosen where somebody chose; an answer may say nothing"""
    prefer: float
    """P(answer 0 ≻ answer 1) in [0, 1]; 1/2 is a tie. Of one answer alone: P(desirable)"""
    votes: tuple[float | None, ...]
    """the same as each annotator, or each objective, has it; None where that one said nothing"""
    place: str
    """FILE:LINE"""
    scores: tuple[float, ...] | None = None
    """ratings of the answers, in the file's unit, higher is better; None where there are none"""
    margin: float | None = None
    """how much better answer 0 is, in the file's unit; at least 0; None where nobody says it"""
    weight: float = 1.0
    """share in the loss before normalisation"""
    swapped: bool | None = None
    """whether answer 0 stood second in the file; None where the file's order is itself the label"""


def chosen_first(comparison: Comparison) -> Comparison:
    """The same with the preferred answer of a pair in front; ties stay as they are."""
    if len(comparison.answers) < 2 or comparison.prefer >= 0.5:
        return comparison
    return replace(
        comparison,
        answers=comparison.answers[::-1],
        prefer=1 - comparison.prefer,
        votes=tuple(None if vote is None else 1 - vote for vote in comparison.votes),
        scores=None if comparison.scores is None else comparison.scores[::-1],
        swapped=None if comparison.swapped is None else not comparison.swapped,
    )
