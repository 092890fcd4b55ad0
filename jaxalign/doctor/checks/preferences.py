"""What the oracle makes of sampled answers: are there pairs, how many ties, can the schedule contract?"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Measured, Outcome, judged
from jaxalign.evals.cycles import cycle_metrics
from jaxalign.games.certificates import FAINT, contraction, skew_spectrum, smallest_inner
from jaxalign.losses.mirror import mirror_step
from jaxalign.pairs import pairing_metrics


@dataclass(frozen=True)
class SampledPreferences:
    """On the few prompts that were answered. More than `ties` of all pairs undecided is a warning."""

    ties: float = 0.5

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        metrics = pairing_metrics(opened.rollouts, opened.preferences, opened.pairs)
        cycles = cycle_metrics(opened.preferences.prefer)
        yield self.pairs(metrics)
        yield self.undecided(metrics["pairs/ties"], cycles["cycles/ties"], cycles["cycles/cyclic_triples"])
        yield self.schedule(opened)

    def pairs(self, metrics: dict[str, float]) -> Outcome:
        """Whether the pairing makes groups of the sampled answers."""
        names = ("groups", "dropped_prompts", "duplicates")
        measured = {name: metrics[f"pairs/{name}"] for name in names}
        none = (
            "no prompt has two different answers: sample more, longer or hotter (rollout.samples, max_tokens, sampler)"
        )
        some = "some prompts give no pair; their answers are all alike" if metrics["pairs/dropped_prompts"] else ""
        return judged("pairs", measured, [] if metrics["pairs/groups"] else [none], some)

    def undecided(self, groups: float, pairs: float, cyclic: float) -> Outcome:
        """Whether too many groups are ties, which teach nothing."""
        measured = {"share_of_groups": groups, "share_of_pairs": pairs, "cyclic_triples": cyclic}
        note = "most pairs are ties and teach nothing: the oracle does not tell these answers apart"
        if groups == 1.0:
            return Outcome("ties", "finding", measured, f"every pair is a tie: {note.partition(': ')[2]}")
        return judged("ties", measured, [], note if groups > self.ties else "")

    def schedule(self, opened: Opened) -> Outcome:
        """A round of COMAL on the sampled matrices, linearised at the policy (`games.certificates`)."""
        game, inner = mirror_step(opened.experiment.loss), opened.experiment.swap_every or math.inf
        if game is None or not game.regularised:
            return Outcome("schedule contracts", "skipped", {}, "certificates are for INPO with tau above 0")
        prefer, weights = opened.preferences.prefer, opened.rollouts.weights
        factors = contraction(prefer, weights, game.step, game.tau, inner)
        measured: Measured = {
            "factor_mean": float(factors.mean()),
            "factor_max": float(factors.max()),
            "swap_every": str(inner),
        }
        if factors.mean() <= 1:  # exactly 1 where nothing cycles
            return Outcome("schedule contracts", "ok", measured)
        omega = np.unique(skew_spectrum(prefer, weights))
        needed = smallest_inner(omega[omega > FAINT * omega.max()], game.step, game.tau)
        more = f"swap_every of at least {needed}" if needed else "no swap_every at this step size"
        advice = f"a round multiplies the distance to the Nash policy by {factors.mean():.4g}; {more} would contract"
        return Outcome("schedule contracts", "warning", measured, f"{advice}, or a larger loss.eta or loss.tau")


CHECK = SampledPreferences()
