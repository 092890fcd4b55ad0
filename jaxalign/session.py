"""A session: a machine, a run directory, its records and its stop, joined to train an experiment.

It holds what lives as long as the run, so that the outer loop speaks of nothing else. Everything that can be wrong with
the inputs is found here, before any compute. Whoever only reads a run opens it with `reopen`, and no session.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache, cached_property, partial
from types import GenericAlias
from typing import TypeVar

import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxalign.anchors.adaptive import Adaptive
from jaxalign.config import own_code
from jaxalign.config.load import components, own_classes
from jaxalign.config.resolved import dump, redacted
from jaxalign.contracts.extras import extras_of
from jaxalign.contracts.scope import OpenableOracle, check_annotators
from jaxalign.contracts.traced import check_loss
from jaxalign.data.groups import TrainingGroups, with_logps
from jaxalign.data.prompts import opened
from jaxalign.data.strays import check_strays
from jaxalign.data.trained import as_trained
from jaxalign.errors import ConfigError, Interrupted, NotCommitted
from jaxalign.experiment import SAMPLES_SHOWN, Experiment, anchor_of, as_of, members_of, outside
from jaxalign.feedback.contract import Compared
from jaxalign.feedback.rowed import check_rows
from jaxalign.hosts.turns import in_turn
from jaxalign.judging import Judging, judging
from jaxalign.losses.mirror import Closing
from jaxalign.machine import Machine
from jaxalign.mesh.sharding import row_shards
from jaxalign.models.low_rank import frozen, head_alone, join, trained
from jaxalign.models.model import Model
from jaxalign.programs import Training, check_batches, check_mesh, check_steps, pair_scorer, training
from jaxalign.progress import Progress, Unseen
from jaxalign.references import of_run
from jaxalign.references.blended import blended, check_blend
from jaxalign.rollouts.contract import Roller
from jaxalign.rollouts.seam import checked, refuse_gaps
from jaxalign.rollouts.shares import Share, in_order, note_metrics, remaining
from jaxalign.storage import durable, inputs, pinned
from jaxalign.storage.alike import check_alike
from jaxalign.storage.inputs import Input
from jaxalign.storage.local import LocalTier
from jaxalign.storage.pinned import Pinned
from jaxalign.storage.recalled import Recalled, afresh
from jaxalign.storage.record import Recorder, Silent
from jaxalign.storage.rundir import Iteration, RunDir, home
from jaxalign.training.features import Answers, Featured, LastStates, table_of
from jaxalign.training.pair_scores import PairScorer, PairScores
from jaxalign.training.profile import UNPROFILED, Profiler, Unprofiled
from jaxalign.training.scored import Batches, ReferenceLogps, Table
from jaxalign.training.views import view_of
from jaxalign.types import Oracle, Params, Preferences, Prompt, Rollouts, StopRequested

T = TypeVar("T")


class Session:
    """An experiment, opened: see the module's docstring. Raises JaxalignErrors for inputs that cannot be used.

    `stop_requested` is asked on this process; a run of several stops when any of them is asked to. What runs that are
    given one `recalled` have in common is computed once.
    """

    def __init__(
        self,
        experiment: Experiment,
        run: RunDir,
        recorder: Recorder | Silent,
        stop_requested: StopRequested = lambda: False,
        profiler: Profiler | Unprofiled = UNPROFILED,
        recalled: Recalled | None = None,
    ):
        self.run, self.recorder, self.hosts, self.profiler = run, recorder, run.hosts, profiler
        self.stop_requested: StopRequested = lambda: self.hosts.any(stop_requested())
        check_alike(run.hosts, experiment.placement)
        before = pinned.recall(run)
        date = before.date if before else pinned.today(run.hosts)
        self.experiment = as_of(experiment, date)
        self.machine = Machine(experiment.model.open().dated(date), experiment.placement, experiment.seed)
        check_mesh(self.machine.mesh, self.hosts.count)
        near, every = experiment.placement.local_checkpoints, experiment.placement.local_checkpoint_every
        self.local_tier = LocalTier(near, every, run.path, self.hosts) if near else None
        check_batches(experiment, row_shards(self.machine.mesh))
        check_steps(experiment, self.machine.model)
        datasets, responses = durable.beside(run.path, "datasets"), experiment.feedback.responses
        outputs = view_of(self.machine.model, experiment.loss, responses).model.config.outputs
        open_feedback = partial(self.experiment.feedback.open, self.machine, datasets, experiment.iterations)
        self._comparer = in_turn(run.hosts, durable.is_local(run.path), open_feedback)
        said, roles = self._comparer.labels, self._comparer.roles
        check_loss(experiment.loss, experiment.combiner, said, roles, len(outputs), responses)
        self._check_votes()
        check_blend(experiment.reference, experiment.loss, said, responses)
        of_run.check_all(components(experiment), run)
        if experiment.feedback.oracle is not None:
            check_annotators(experiment.feedback.oracle, experiment.combiner)
        asked = experiment.evaluation.prompts
        prompts = opened(asked, datasets) if asked is not None else None
        self.heldout: tuple[Prompt, ...] = tuple(prompts[index] for index in range(len(prompts))) if prompts else ()
        held = [Input("evaluation.prompts", "", prompts.source, prompts.fingerprint)] if prompts else []
        known = before.inputs if before else ()
        read = inputs_of(experiment, self.machine.model, [*self._comparer.inputs, *held], known)
        self._check_prompts()
        # Last: a run that is refused for its prompts begins with others.
        now = Pinned(date, tuple(read), pinned.versions())
        pinned.pin(run, before, now)
        alike = recalled if experiment.feedback.oracle is None else None
        self._begun = alike.of(dump(experiment), now) if alike else afresh
        self._training = cache(lambda steps, closing: training(self.fitted(closing), self.machine, steps))
        self._pair_scorers = cache(lambda closing: pair_scorer(self.fitted(closing), self.machine))
        self._heldout_featured: Featured | None = None

    # ---------------------------------------------------------------------------------------------- phases

    def phase(self, iteration: Iteration, name: str, kind: type[T] | GenericAlias, make: Callable[[], T]) -> T:
        """The committed artifact of a phase, made and committed first if it is not there yet."""
        self.stop_here(f"before {name}")
        fresh = not self.run.has(iteration, name)
        began = time.perf_counter()

        def made() -> T:
            value: T = self._begun(iteration, name, make)
            self.recorder.flush()  # what was logged on the way is not logged again once this is committed
            return value

        self.recorder.flush()
        value = self.run.phase(iteration, name, made, kind)
        if fresh:
            self.recorder.perf(iteration, name, 0, {"perf/seconds": time.perf_counter() - began})
        return value

    def stop_here(self, where: str) -> None:
        """Raises Interrupted if a stop was asked for; everything so far is committed."""
        if self.stop_requested():
            raise Interrupted(f"stopped {where}; the same command continues there")

    def judge(self, oracle: Oracle | OpenableOracle, rollouts: Rollouts, iteration: int) -> Preferences:
        """What `oracle` says of an iteration's rollouts."""
        with self.judging(oracle, iteration, "preferences") as judge:
            return judge(rollouts, self.machine.key("preferences", iteration))

    def judging(
        self, oracle: Oracle | OpenableOracle, iteration: Iteration, phase: str
    ) -> AbstractContextManager[Judging]:
        """`oracle`, opened for a phase's `make`: its answers are checked, and its blocks are parts of that phase."""
        # Who judges in evaluation alone may have annotators of its own: they are no objectives.
        trains = oracle == self.experiment.feedback.oracle
        return judging(
            oracle,
            self.machine.site,
            self.machine.placement.judge_block_size,
            self.run.parts(iteration, phase),
            self.experiment.combiner.objectives if trains else None,
            lambda total, start: self.progress(iteration, f"judging of {phase}", total, "prompts", start),
            lambda done: self.stop_here(f"after {done} prompts of {phase}"),
        )

    def compared(self, iteration: int, policy: Params) -> Compared:
        """What iteration `iteration`, which begins with `policy`, trains on."""
        found, logged = self._comparer(self, iteration, policy), self.experiment.fit.max_kl is not None
        found = replace(found, groups=with_logps(found.groups)) if logged else found
        if not head_alone(self.machine.model.abstract()):
            return found.fitted_by(self.experiment.loss).within(self.experiment.fit.rows)
        began = time.perf_counter()
        featured = self.featured(iteration, "features", policy, found.groups)
        self.recorder.perf(iteration, "features", 0, {"perf/seconds": time.perf_counter() - began})
        return replace(found, groups=featured)

    def featured(self, iteration: Iteration, phase: str, policy: Params, groups: TrainingGroups) -> Featured:
        """The groups with what the frozen trunk makes of their answers, committed in parts as rollouts are."""
        answers, reader = Answers(groups), self.machine.features
        parts = self.run.parts(iteration, phase)
        with self.progress(iteration, phase, len(answers), "rows") as progress:

            def make(number: int, block: np.ndarray) -> np.ndarray:
                own = self.hosts.share(len(block))
                found = parts.get(number, lambda: LastStates(reader(policy, answers, block)[own]), LastStates)
                progress(min((number + 1) * reader.batch_size, len(answers)))
                self.stop_here(f"after {number + 1} parts of {phase}")
                return np.concatenate([part.states for part in found])

            table = table_of(answers, reader.batch_size, make)
        return Featured(groups, table, answers.index)

    def roll_heldout(self, policy: Params, iteration: Iteration, phase: str, key: PRNGKeyArray) -> Rollouts:
        """Answers to the held-out prompts."""
        return self.roll(self._heldout_roller, policy, self.heldout, iteration, phase, key)

    @property
    def heldout_pairs(self) -> TrainingGroups | None:
        """The feedback's pairs that are never trained on; None where it has none."""
        return self._comparer.heldout

    def pair_scores(
        self, iteration: Iteration, params: Params, base: Params, fit: int, what: str, moved: Mapping[str, Params]
    ) -> PairScores:
        """What the policy of trained parameters `params` and frozen ones `base` makes of the held-out pairs, against
        the anchor of iteration `fit`, or where that has `moved` since it began, against trained parameters by role."""
        pairs, needs = self.heldout_pairs, self.experiment.loss.needs
        assert pairs is not None, "no pairs are held out"
        table = self.anchor_sums(fit) if "anchor" in needs else None
        with self.progress(iteration, what, len(pairs), "pairs") as progress:

            def between(done: int) -> None:
                progress(done)
                self.stop_here(f"after {done} held-out pairs")

            known, live = self._heldout_rows(params, base), dict(moved)
            if not live and "anchor_tokens" in extras_of(self.experiment.loss):
                live = {"anchor": trained(self.policy(self.anchor(fit)))}
            found = self.pair_scorer()(params, base, known, table, between=between, live=live)
            return replace(found, lengths=pairs.lengths)

    def anchor_sums(self, iteration: int) -> Float[np.ndarray, "g r"]:
        """Log-probs of the held-out pairs under the anchor of an iteration."""
        pairs = self.heldout_pairs
        assert pairs is not None, "no pairs are held out"
        shape = (len(pairs), as_trained(self.experiment.loss, pairs).responses)
        return blended(self.experiment.reference, self.members(iteration), self._policy_sums, shape)

    def _policy_sums(self, number: int) -> Float[np.ndarray, "g r"]:
        """Those under a policy that anchors; scored when they are first asked for."""
        where, name = (home(number), "heldout_anchor") if number >= 0 else ("initial", f"heldout_outside_{-number}")

        def make() -> ReferenceLogps:
            policy = self.policy(number)
            params, base = trained(policy), frozen(policy)
            live = {"anchor": params} if "anchor_tokens" in extras_of(self.experiment.loss) else {}
            known = self._heldout_rows(params, base)
            batches = partial(self.pair_scorer().sums, params, base, known, live)
            return ReferenceLogps(("anchor",), self._in_parts(where, name, number, known, batches)[None])

        return self.phase(where, name, ReferenceLogps, make).sums[0]

    def pair_scorer(self, closing: bool = False) -> PairScorer:
        """What scores pairs by the loss of a fit, of one that is `closing` where it is; compiled once."""
        return self._pair_scorers(closing)

    def _heldout_rows(self, params: Params, base: Params) -> TrainingGroups:
        """The held-out pairs as a fit would have them, with their features where a trunk is frozen: those of every
        policy, whose trunk is it."""
        assert self.heldout_pairs is not None, "no pairs are held out"
        if not head_alone(self.machine.model.abstract()):
            return as_trained(self.experiment.loss, self.heldout_pairs)
        if self._heldout_featured is None:
            policy = join(params, base)
            self._heldout_featured = self.featured("initial", "heldout_features", policy, self.heldout_pairs)
        return self._heldout_featured

    def logps(
        self, iteration: Iteration, phase: str, number: int, params: Params, groups: TrainingGroups
    ) -> Float[np.ndarray, "g r"]:
        """Log-prob sums of the groups under policy `number`, committed as parts of a phase."""
        scorer = self.machine.scorer
        plan = self.experiment.fit.scored.passes(groups, scorer.batch_size)
        batches = partial(scorer.batches, params, groups, plan)
        return self._in_parts(iteration, phase, number, groups, batches)

    def _in_parts(
        self, iteration: Iteration, phase: str, number: int, groups: TrainingGroups, batches: Batches
    ) -> Float[np.ndarray, "g r"]:
        table = Table(number, groups, self.run.parts(iteration, phase))
        what = f"{phase}: log-probs of policy {number}"
        with self.progress(iteration, what, len(groups), "groups", int(table.known.sum())) as progress:
            return table.fill(batches, progress, self.stop_requested)

    def roll(
        self,
        roller: Roller,
        policy: Params,
        prompts: tuple[Prompt, ...],
        iteration: Iteration,
        phase: str,
        key: PRNGKeyArray,
    ) -> Rollouts:
        """Piece by piece; each is committed, every process's share of it, so that a stop loses at most one.

        What is committed already is not rolled out again, whatever mesh or engine it comes from.
        """
        parts = self.run.parts(iteration, phase)
        kept = parts.kept(Share)
        shares = [share for every in kept for share in every]
        wanted = remaining(shares, len(prompts))
        with self.progress(iteration, phase, len(prompts), "prompts", len(prompts) - len(wanted)) as progress:
            for number, own in enumerate(checked(roller, policy, prompts, wanted, key), len(kept)):
                shares += parts.put(number, own, Share)
                done = len(prompts) - len(remaining(shares, len(prompts)))
                progress(done)
                self.stop_here(f"after {done} prompts of {phase}")
        refuse_gaps(roller, shares, len(prompts))
        if notes := note_metrics(shares):
            self.recorder.log(iteration, phase, 0, notes)
        return in_order(shares)

    # -------------------------------------------------------------------------------------------- policies

    def policy(self, index: int) -> Params:
        """Policy `index` on the mesh; policy 0 is loaded from its source and committed the first time. Those below are
        of other runs, as the reference numbers them."""
        slot = self.run.policy(index) if index >= 0 else outside(self.experiment, index).slot()
        if index == 0 and not slot.exists():
            self.commit_policy(0, self.machine.params(None))
        if index > 0 and not slot.exists():
            raise NotCommitted(f"{slot.path}: no policy is committed here", index - 1)
        return self.machine.params(slot)

    def commit_policy(self, index: int, params: Params) -> None:
        """Commits what is trained of `params` as policy `index`."""
        self.run.must_write()
        self.recorder.flush()
        self.run.policy(index).save(trained(params), {"model": redacted(self.machine.model.source)})

    def anchor(self, iteration: int) -> int:
        """Number of the policy that anchors `iteration`."""
        return anchor_of(self.experiment, self.run, iteration)

    def anchor_policy(self, iteration: int, policy: Params) -> Params:
        """The policy that anchors an iteration which begins with `policy`."""
        return policy if self.anchor(iteration) == iteration else self.policy(self.anchor(iteration))

    def members(self, iteration: int) -> tuple[int, ...]:
        """Numbers of the policies that the anchor of `iteration` is made of: itself, unless the reference blends."""
        return members_of(self.experiment, self.run, iteration)

    def closing(self, iteration: int) -> bool:
        """Whether the committed certificates of `iteration` say that its fit closes a round of an adaptive anchor: with
        the whole step to the best response, which is the next anchor."""
        return isinstance(self.experiment.swap_every, Adaptive) and self.anchor(iteration + 1) == iteration + 1

    def training(self, steps: int, closing: bool = False) -> Training:
        """The programs of a fit of `steps` steps, compiled once for all fits of that length; of one whose loss is
        `closing`, where it is."""
        return self._training(steps, closing)

    # ---------------------------------------------------------------------------------------------- checks

    def fitted(self, closing: bool) -> Experiment:
        """The experiment, with the loss of a fit that is closing where it is."""
        if not closing:
            return self.experiment
        assert isinstance(self.experiment.loss, Closing)
        return replace(self.experiment, loss=self.experiment.loss.closing)

    def progress(self, iteration: Iteration, what: str, total: int, unit: str, start: int = 0) -> Progress | Unseen:
        """What a person sees of a long loop, on the process that speaks."""
        if not self.hosts.leader:
            return Unseen()
        return Progress(f"{self.title(iteration)} {what}", total, unit, start=start)

    def title(self, iteration: Iteration) -> str:
        """How progress lines name an iteration."""
        if isinstance(iteration, str):
            return "[base policy]"
        return f"[iteration {iteration + 1}/{self.experiment.iterations}]"

    def _check_votes(self) -> None:
        """Recorded pairs have their annotators' votes; an oracle is asked for its own annotators."""
        objectives, votes = self.experiment.combiner.objectives, self._comparer.labels.votes.shape[-1]
        if self.experiment.feedback.oracle is None and objectives not in (None, votes):
            raise ConfigError(f"combiner: has {objectives} objectives, and the pairs have votes of {votes} annotators")

    def _check_prompts(self) -> None:
        experiment = self.experiment
        self._comparer.check()
        if not head_alone(self.machine.model.abstract()):  # whose rows are of features
            check_rows(experiment.fit.rows, experiment.loss, self._comparer, self.machine.model, experiment.iterations)
        if self.heldout_pairs is not None:
            check_strays(self.experiment.loss, self.heldout_pairs, "feedback.heldout")
        if self.heldout:
            self._heldout_roller.check(self.heldout)
        if (shown := self.experiment.evaluation.shown) is not None:
            self.machine.roller(shown).check(self.heldout[:SAMPLES_SHOWN])

    @cached_property
    def _heldout_roller(self) -> Roller:
        rollout = self.experiment.evaluation.rollout
        assert rollout is not None, "there are held-out prompts, and nobody to answer them"
        return self.machine.roller(rollout)


def inputs_of(experiment: Experiment, model: Model, data: Sequence[Input], known: Sequence[Input]) -> list[Input]:
    """Everything that a run of the experiment reads from elsewhere, `data` among it; files that are among the `known`
    are not hashed.

    DataError naming a file that cannot be read.
    """
    return [
        *data,
        *inputs.of_values("model", model.source, model.fingerprints),
        *inputs.of_files("model.weights", model.files, known),
        *inputs.of_components(components(experiment), known),
        *inputs.of_code(own_classes(replace(experiment, trackers=())), own_code.fingerprint),
    ]
