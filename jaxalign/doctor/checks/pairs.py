"""Recorded pairs: how many there are, how many are left out, and whether those held out are trained on."""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Measured, NotHere, Outcome, judged
from jaxalign.errors import DataError
from jaxalign.feedback.recorded import Recording


@dataclass(frozen=True)
class RecordedPairs:
    """More than `left_out` of all comparisons left out is a warning, a held-out prompt that is trained on a finding."""

    left_out: float = 0.1

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        data = opened.comparer
        if not isinstance(data, Recording):
            raise NotHere("the policy answers prompts: no pairs are recorded")
        count, out = len(data.pairs), sum(data.pairs.left_out.values())
        share = out / (count + out)
        measured: Measured = {
            "pairs": count,
            "prompts": data.size,
            "heldout_pairs": 0 if data.heldout is None else len(data.heldout),
            "prompt_tokens_max": int(data.pairs.prompt_lengths.max()),
            "answer_tokens_max": int(data.pairs.lengths.max()),
            "left_out": out,
        }
        why = ", ".join(f"{number} with {reason}" for reason, number in data.pairs.left_out.items())
        note = f"{share:.0%} of the comparisons are left out: {why}" if share > self.left_out else ""
        try:
            data.check()
        except DataError as refusal:
            yield judged("recorded pairs", measured, [str(refusal)], note)
        else:
            yield judged("recorded pairs", measured, [], note)


CHECK = RecordedPairs()
