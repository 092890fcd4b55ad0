"""An experiment: what a run computes, and where (its `placement`), as one tree of frozen dataclasses."""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from jaxalign.anchors.adaptive import NEXT, Adaptive
from jaxalign.config.load import exchanged
from jaxalign.config.ranges import ITERATIONS
from jaxalign.contracts.extras import extras_of
from jaxalign.contracts.pairing import third_of
from jaxalign.contracts.scope import OpenableOracle
from jaxalign.contracts.scores import Compares, ScoreLoss
from jaxalign.contracts.step_rule import StepRule
from jaxalign.contracts.tracking import Tracker
from jaxalign.data.prompts import PromptSource
from jaxalign.evals.context import Against, Eval, iterate_name, iterate_number
from jaxalign.feedback.certifiable import meets_policy, uncertified
from jaxalign.feedback.contract import Feedback
from jaxalign.feedback.heeding import heedless
from jaxalign.feedback.sampled import Sampled
from jaxalign.losses.mirror import Closing
from jaxalign.machine import Placement
from jaxalign.models.model import Source
from jaxalign.objectives.mixed import Mixed
from jaxalign.references.blended import Blended
from jaxalign.references.cached import Cached
from jaxalign.references.of_run import OfRun
from jaxalign.rollouts.beside_anchor import BesideAnchor
from jaxalign.rollouts.contract import AnchoredRollout, Rollout
from jaxalign.step_rules.forward import Forward
from jaxalign.storage.rundir import RunDir
from jaxalign.training.step import Fit
from jaxalign.types import Combiner, Dated, Loss, Optimizer, Oracle, Reference

SAMPLES_SHOWN = 3
"""Held-out prompts whose answers a person is shown at the end of a run, the first ones."""


@dataclass(frozen=True)
class Evaluation:
    """What is measured of the base policy and after every iteration, on prompts that are never trained on."""

    evals: tuple[Eval, ...]
    """each adds its metrics; they share one set of responses"""
    prompts: PromptSource | None = None
    """held-out prompts; None where nothing is sampled"""
    rollout: Rollout | None = None
    """how the policies answer the held-out prompts; None where nothing is sampled"""
    oracle: Oracle | OpenableOracle | None = None
    """who judges the answers; None: who judges in training"""
    others: tuple[OfRun, ...] = ()
    """policies of other runs of the same model, who answer the held-out prompts too: opponents for evals that have a
    pool of them"""
    every: int = 1
    """iterations between evaluations; the base and the last policy are evaluated always. The "previous" opponent is the
    one that was evaluated before"""
    shown: Rollout | None = None
    """how the base and the last policy answer the few prompts that a person is shown at the end, such as colder and
    longer than those that are judged; None: their first judged answers are shown"""

    def problems(self) -> Iterable[str]:
        if self.every < 1:
            yield f"every must be at least 1, got {self.every}"
        if self.others and self.prompts is None:
            yield "others are asked the held-out prompts, and there are none: give prompts and rollout"
        if (self.prompts is None) != (self.rollout is None):
            yield "prompts and rollout are asked of the policies together: give both, or neither"
        if self.shown is not None and self.prompts is None:
            yield "shown are answers to the held-out prompts, and there are none: give prompts and rollout"
        for name, rollout in (("rollout", self.rollout), ("shown", self.shown)):
            if isinstance(rollout, AnchoredRollout):
                kind = type(rollout).__name__
                yield f"{name} is a {kind}: policies are measured by what they say without their anchor"


@dataclass(frozen=True)
class Experiment:
    """COMAL and its relatives are one loop: compare, regress towards the winners, sometimes swap the anchor.

    The iterates are numbered: policy 0 is the base, iteration i turns policy i into policy i + 1. The anchor of
    iteration i is policy swap_every · floor(i / swap_every), policy 0 if `swap_every` is None, and if it is `Adaptive`
    the last policy with which a round was closed, because a test said that its inner problem was solved. INPO with a
    swapped anchor is COMAL; IPO, DPO and SPPO with swap_every = 1 are their iterative forms.
    """

    model: Source
    """the base policy: where its weights, tokenizer and chat template come from"""
    feedback: Feedback
    """where an iteration's pairs come from: sampled and judged, or recorded"""
    loss: Loss | ScoreLoss
    """the objective of one iteration's fit"""
    optimizer: Optimizer
    """how the objective is descended; `fit` says what of it goes on from iteration to iteration"""
    iterations: int
    """outer iterations"""
    swap_every: int | Adaptive | None
    """iterations between anchor swaps; Adaptive() swaps when the inner problem is solved; None keeps the base policy as
    the anchor"""
    evaluation: Evaluation
    """what is measured along the way"""
    step_rule: StepRule = Forward()
    """how iterations make steps: one each, or with a look-ahead (EGPO)"""
    combiner: Combiner = Mixed()
    """whether the oracle's annotators are one objective or each one of its own, and how these become one direction"""
    fit: Fit = Fit()
    """how the groups become optimizer steps"""
    reference: Reference = Cached()
    """how the policies that the loss compares with are kept"""
    placement: Placement = Placement()
    """where arrays lie and how programs are compiled; each launch of a run may have its own"""
    keep_policies: int | None = None
    """iterates kept on disk besides the base and the anchor; None keeps all"""
    seed: int = 0
    """of everything that is drawn"""
    trackers: tuple[Tracker, ...] = ()
    """who is shown the run beside metrics.jsonl; each launch may have its own"""

    def problems(self) -> Iterable[str]:
        if not 1 <= self.iterations <= ITERATIONS:
            yield f"iterations must be at least 1 and at most {ITERATIONS}, got {self.iterations}"
            return  # what else there is to say goes through all of them
        if self.keep_policies is not None and self.keep_policies < 1:
            yield f"keep_policies must be at least 1 or None, got {self.keep_policies}"
        yield from self._batch_problems()
        yield from self._fit_problems()
        yield from self._loss_problems()
        yield from self._blend_problems()
        yield from self._population_problems()
        yield from self._step_problems()
        yield from self._swap_problems()
        yield from self._eval_problems()

    def _fit_problems(self) -> Iterable[str]:
        fit, validates = self.fit, self.feedback.validates
        if fit.evaluate_every is not None and not validates:
            yield (
                "fit.evaluate_every is set, but the feedback holds no pairs out to evaluate on (heldout of recorded "
                "pairs, validation of sampled ones)"
            )
        if fit.evaluate_every is None and validates and not self.feedback.holds_out:
            yield "feedback.validation leaves prompts out to evaluate the fit on: set fit.evaluate_every"
        if fit.max_kl is not None and self.feedback.oracle is None:
            yield "fit.max_kl goes by log-probs that the policy logged while it sampled, and the pairs are recorded"
        elif fit.max_kl is not None and isinstance(self.feedback, Sampled):
            if isinstance(self.feedback.rollout, AnchoredRollout):
                kind = type(self.feedback.rollout).__name__
                yield f"fit.max_kl goes by log-probs of the policy, and those that a {kind} logs are not its alone"
            if self.step_rule.period > 1:
                name = type(self.step_rule).__name__
                yield f"fit.max_kl goes by log-probs of who sampled, and a step of {name} begins at another policy"

    def _batch_problems(self) -> Iterable[str]:
        size, each, accumulate = self.fit.batch_size, self.fit.rows.groups, self.placement.accumulate
        if min(size, each, accumulate) < 1:
            return  # said where these are set
        if size % accumulate:
            yield f"fit.batch_size {size} must be a multiple of placement.accumulate {accumulate}"
        elif self.fit.rows.rows_a_step(size) is None and size % each:
            yield f"fit.batch_size {size} must be a multiple of fit.rows.groups {each}"
        elif self.fit.rows.rows_a_step(size) is not None and size % (accumulate * each):
            micro = f"fit.batch_size {size} / placement.accumulate {accumulate}"
            yield f"{micro} must be a multiple of fit.rows.groups {each}"

    def _loss_problems(self) -> Iterable[str]:
        name, extras = type(self.loss).__name__, extras_of(self.loss)
        if reason := heedless(self.loss, self.feedback):
            yield f"feedback.pairing {reason}"
        third, made = third_of(self.loss), self.feedback.pairing if isinstance(self.feedback, Sampled) else None
        if third is not None and third_of(made) != third:
            take = {"anchor": "AgainstAnchor", "policy": "AnchorPairs"}[third]
            yield f"{name} reads the {third}'s own answer beside a pair, and the pairs have none: take {take}"
        if "anchor_tokens" in extras and "anchor" not in self.reference.live(self.loss.needs):
            yield (
                f"{name} reads the anchor's log-probs token by token, and {type(self.reference).__name__} keeps sums: "
                "take reference=Live()"
            )
        if "batch" in extras and self.combiner.objectives is not None:
            yield (
                f"{name} compares the groups of a batch with one another, and {type(self.combiner).__name__} keeps "
                "objectives apart; take combiner=Mixed()"
            )

    def _blend_problems(self) -> Iterable[str]:
        reference = self.reference
        if not isinstance(reference, Blended):
            return
        name = type(reference).__name__
        if "anchor" not in self.loss.needs:
            yield f"reference {name} makes an anchor, and {type(self.loss).__name__} reads none; take Cached()"
        elif isinstance(self.swap_every, Adaptive):
            yield f"swap_every is Adaptive, which goes by certificates, and there are none of the anchor of {name}"
        elif reference.scheduled and self.swap_every is None:
            yield f"reference {name} is made of the anchors that swaps bring, and swap_every is None"
        elif isinstance(self.feedback, Sampled) and isinstance(self.feedback.rollout, AnchoredRollout):
            yield f"feedback.rollout asks the anchor that swaps bring, and the loss reads that of {name}"
        elif not reference.scheduled and self.swap_every is not None:
            yield f"swap_every is set, and the anchor of reference {name} stays what it is; set it to None"

    def _population_problems(self) -> Iterable[str]:
        feedback = self.feedback
        if (
            isinstance(feedback, Sampled)
            and isinstance(feedback.rollout, BesideAnchor)
            and meets_policy(feedback.oracle)
        ):
            yield (
                "feedback.oracle says what answers win against the policy's own, and feedback.rollout has its anchor's "
                "beside them"
            )

    def _step_problems(self) -> Iterable[str]:
        period, name = self.step_rule.period, type(self.step_rule).__name__
        if self.iterations % period:
            yield f"{name} takes {period} iterations a step, and iterations {self.iterations} would end within one"
        if period > 1 and self.feedback.oracle is None:
            yield f"{name} asks what is said of a look-ahead's own answers, and the pairs are recorded"
        if period > 1 and isinstance(self.swap_every, Adaptive):
            yield f"swap_every is Adaptive, which goes by certificates, and there are none of steps of {name}"
        elif self.swap_every is not None and not isinstance(self.swap_every, Adaptive) and self.swap_every % period:
            yield f"{name} takes {period} iterations a step, and swap_every {self.swap_every} would swap within one"

    def _eval_problems(self) -> Iterable[str]:
        there = {
            "answers": self.evaluation.prompts is not None,
            "oracle": self.judge is not None,
            "users": self.judge is not None and not meets_policy(self.judge),
            "trainer": self.trainer is not None,
            "pairs": self.feedback.holds_out,
            "log_odds": isinstance(self.loss, Compares) or not isinstance(self.loss, ScoreLoss),
        }
        mended = {
            "answers": "give evaluation.prompts and evaluation.rollout",
            "oracle": "give evaluation.oracle",
            "users": "the oracle's answers depend on the policy; give the users themselves as evaluation.oracle",
            "trainer": "give evaluation.oracle, another than the feedback's",
            "pairs": "hold some out (feedback.heldout)",
            "log_odds": f"{type(self.loss).__name__} gives none",
        }
        for each in self.evaluation.evals:
            for name in each.needs:
                if name not in there:
                    yield f"evaluation.evals: {type(each).__name__} needs {name!r}; there are {', '.join(there)}"
                elif not there[name]:
                    yield f"evaluation.evals: {type(each).__name__} needs {name}, and there are none: {mended[name]}"
        yield from self._opponent_problems()

    def _opponent_problems(self) -> Iterable[str]:
        """A policy without answers can't be measured against, and would be left out as one that lies ahead is."""
        if self.evaluation.every < 1 or self.iterations < 1:
            return
        missing = {
            (type(each).__name__, role): None
            for each in self.evaluation.evals
            if isinstance(each, Against)
            for role in each.against
            if role != "previous" and iterate_number(role) not in (None, *self.evaluated)
        }
        for name, role in missing:
            there = ", ".join(map(iterate_name, self.evaluated))
            yield f"evaluation.evals: {name} measures against {role}, which is not evaluated; {there} are"

    def _swap_problems(self) -> Iterable[str]:
        if self.swap_every is None:
            return
        if isinstance(self.swap_every, Adaptive):
            if reason := uncertified(self.loss, self.feedback):
                yield f"swap_every is Adaptive, which goes by a certificate, and there is none: {reason}"
            elif not isinstance(self.loss, Closing):
                yield f"swap_every is Adaptive, and {type(self.loss).__name__} has no loss that closes a round"
            return
        if self.swap_every < 1:
            yield f"swap_every must be at least 1 or None, got {self.swap_every}"
        if "anchor" not in self.loss.needs:
            yield f"swap_every is set, but {type(self.loss).__name__} reads no anchor; set it to None"
        elif self.swap_every >= self.iterations > 1:
            yield (
                f"swap_every {self.swap_every} is not reached within {self.iterations} iterations: the anchor would "
                "stay the base policy; set it to None to mean that"
            )

    @property
    def judge(self) -> Oracle | OpenableOracle | None:
        """Who judges held-out answers; None where nobody does."""
        return self.evaluation.oracle or self.feedback.oracle

    @property
    def trainer(self) -> Oracle | OpenableOracle | None:
        """Who judges in training, where that is somebody else."""
        return self.feedback.oracle if self.feedback.oracle != self.judge else None

    @property
    def evaluated(self) -> tuple[int, ...]:
        """Numbers of the policies that are evaluated, the base's 0 first."""
        return tuple(sorted({*range(0, self.iterations, self.evaluation.every), self.iterations}))

    def scheduled_anchor(self, iteration: int) -> int:
        """Number of the policy that anchors `iteration`, where nothing but a schedule decides it."""
        assert not isinstance(self.swap_every, Adaptive), "an adaptive anchor is known to the run alone"
        return 0 if self.swap_every is None else iteration - iteration % self.swap_every


def anchor_of(experiment: Experiment, run: RunDir, iteration: int) -> int:
    """Number of the policy that anchors `iteration` of a run; an adaptive anchor is what the certificates of the
    iteration before it say, and one of another run that is kept live is the same at all times (see `outside`)."""
    reference = experiment.reference
    if isinstance(reference, Blended) and reference.live(("anchor",)):
        return reference.members((0,))[0]
    if isinstance(experiment.swap_every, Adaptive):
        return int(run.load(iteration - 1, "certificates", dict[str, float])[NEXT]) if iteration else 0
    return experiment.scheduled_anchor(iteration)


def members_of(experiment: Experiment, run: RunDir, iteration: int) -> tuple[int, ...]:
    """Numbers of the policies that the anchor of `iteration` of a run is made of; see `outside` for those below 0."""
    anchors = [anchor_of(experiment, run, iteration)]
    if not isinstance(experiment.reference, Blended) or anchors[0] < 0:
        return (anchors[0],)
    while anchors[-1]:
        anchors.append(anchor_of(experiment, run, anchors[-1] - 1))
    return experiment.reference.members(anchors)


def needed(experiment: Experiment, run: RunDir, iteration: int) -> set[int]:
    """Numbers of the policies that `iteration` of a run reads beside its own."""
    return {*members_of(experiment, run, iteration), experiment.step_rule.origin(iteration)}


def outside(experiment: Experiment, number: int) -> OfRun:
    """The policy of another run that the reference has as number -1, -2, …"""
    assert isinstance(experiment.reference, Blended), "who blends nothing has no policies of other runs"
    return experiment.reference.outside[-1 - number]


def as_of(experiment: Experiment, date: datetime.date) -> Experiment:
    """The same experiment, for whose components it is always `date`."""
    return exchanged(experiment, lambda each: each.dated(date) if isinstance(each, Dated) else each)
