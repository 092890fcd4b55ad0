"""What the oracle makes of sampled answers: are there pairs, how many ties, can the schedule contract?"""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxalign.config.settings import show
from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Outcome, judged
from jaxalign.evals.cycles import cycle_metrics
from jaxalign.feedback.certifiable import is_matrix, uncertified
from jaxalign.games.advice import advice
from jaxalign.games.sampled_games import SampledGames
from jaxalign.games.stability import Setting, stability
from jaxalign.losses.mirror import mirror_step
from jaxalign.pairs import pairing_metrics
from jaxalign.references.blended import Blended


@dataclass(frozen=True)
class SampledPreferences:
    """On the few prompts that were answered. More than `ties` of all pairs undecided is a warning."""

    ties: float = 0.5

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        metrics = pairing_metrics(opened.rollouts, opened.preferences, opened.pairs)
        cycles = cycle_metrics(opened.preferences.prefer)
        yield self.pairs(metrics)
        ties = cycles["cycles/ties"]  # of all pairs there are, where groups are lone answers
        yield self.undecided(metrics.get("pairs/ties", ties), ties, cycles["cycles/cyclic_triples"])
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
        """What exact steps do on the sampled games (`games.stability`); the base policy is the anchor."""
        experiment, name = opened.experiment, "schedule contracts"
        game, reason = mirror_step(experiment.loss), uncertified(experiment.loss, experiment.feedback)
        if not reason and not is_matrix(experiment.feedback):
            reason = "the oracle's answers depend on what else the policy says: its game is no matrix"
        if not reason and isinstance(experiment.reference, Blended):
            reason = f"the anchor of {type(experiment.reference).__name__} is blended of several policies"
        if not reason and experiment.step_rule.period > 1:
            reason = f"steps of {type(experiment.step_rule).__name__} look ahead, and the factor is that of plain ones"
        if game is None or reason:
            return Outcome(name, "skipped", {}, f"no certificates: {reason}")
        swap = experiment.swap_every
        setting = Setting(game.step, game.tau, swap if isinstance(swap, int) else None)
        games = SampledGames.of(opened.preferences.prefer, opened.rollouts.weights).thinned()
        found = stability(games, setting)
        measured = {name.removeprefix("align/"): value for name, value in found.metrics().items()}
        warning = f"{found.warning}; {advice(games, setting)}" if found.warning else ""
        return judged(name, {**measured, "swap_every": show(swap)}, [], warning)


CHECK = SampledPreferences()
