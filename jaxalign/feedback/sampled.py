"""Groups of the policy's own answers: it answers prompts, an oracle judges the answers, a rule pairs them.

The loop of COMAL (Liu et al. 2024, arXiv 2410.23223) and its relatives. Each iteration draws other prompts, and three
phases keep what was made of them: rollouts, preferences, groups.
"""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Bool

from jaxalign.config.load import components
from jaxalign.contracts.oracle import LeastAnswers
from jaxalign.contracts.pairing import CheckedPairing, OfBoth, group_size, pairing_at
from jaxalign.contracts.scope import Named, OpenableOracle
from jaxalign.data.groups import RolledGroups
from jaxalign.data.order import PromptStream
from jaxalign.data.prompts import PromptSet, PromptSource, opened
from jaxalign.diagnosis import diagnose
from jaxalign.errors import ConfigError, DataError
from jaxalign.feedback.contract import Compared, Phases
from jaxalign.machine import Machine
from jaxalign.mesh.program import Program
from jaxalign.models.model import Model
from jaxalign.rollouts.beside_anchor import BesideAnchor
from jaxalign.rollouts.contract import AnchoredRoller, Roller, Rollout
from jaxalign.rollouts.enumerate import listed
from jaxalign.rollouts.shares import given
from jaxalign.storage.inputs import Input
from jaxalign.training.rows import Sizes
from jaxalign.types import Groups, Labels, Oracle, Pairing, Params, Preferences, Prompt, Rollouts


@dataclass(frozen=True)
class Sampled:
    """The policy answers prompts, an oracle judges the answers, a rule pairs them."""

    prompts: PromptSource
    """prompts to train on"""
    rollout: Rollout
    """how the policy answers them"""
    oracle: Oracle | OpenableOracle
    """who prefers what"""
    pairing: Pairing
    """which answers are compared in training"""
    prompts_per_iteration: int
    """prompts drawn each iteration, in a seeded order that visits every prompt before any again"""
    unseen: float = 0.0
    """share of these whose pairs are left out of the fit, in [0, 1), to measure before and after whether it lowers its
    objective (`fit/heldout_loss`); at least one prompt above 0"""
    validation: float = 0.0
    """share of others left out, in [0, 1), to evaluate the fit on inside (`fit.evaluate_every`): they choose the step
    that is kept, the one before the first included, so that `unseen` ones are needed to tell how good it is"""

    holds_out: ClassVar[bool] = False

    @property
    def responses(self) -> int:
        """Those of the pairing's groups."""
        return group_size(self.pairing)

    def problems(self) -> Iterable[str]:
        if self.prompts_per_iteration < 1:
            yield f"prompts_per_iteration must be at least 1, got {self.prompts_per_iteration}"
        for name, share in (("unseen", self.unseen), ("validation", self.validation)):
            if not 0 <= share < 1:
                yield f"{name} must lie in [0, 1), got {share}"
        if self.left_out and sum(self.left_out.values()) >= self.prompts_per_iteration:
            named = " and ".join(reversed(self.left_out))
            there = f"prompts_per_iteration is {self.prompts_per_iteration}"
            yield f"{named} leave prompts out of the fit, and {there}: nothing would be trained on"
        for reason in self.rollout.unpaired():
            yield f"rollout.{reason}"
        if isinstance(self.pairing, OfBoth) and not isinstance(self.rollout, BesideAnchor):
            name = type(self.pairing).__name__
            yield f"{name} pairs the policy's answers with the anchor's, which a rollout of BesideAnchor gives"

    @property
    def validates(self) -> bool:
        """Whether a share of the prompts is left out for it."""
        return self.validation > 0

    def sizes(self, model: Model) -> Sizes:
        """What the rollout allows."""
        bounds = self.rollout.bounds(model)
        return Sizes(bounds.prompt, bounds.response, self.responses, bounds.samples)

    def count(self, machine: Machine, together: int = 1) -> int:
        """Every prompt that is not left out is taken to have all its pairs."""
        return (self.prompts_per_iteration - sum(self.left_out.values())) * self._units_a_prompt(machine, together)

    def apart(self, machine: Machine, together: int = 1) -> Mapping[str, int]:
        """Those of the prompts that are left out."""
        each = self._units_a_prompt(machine, together)
        return {name: prompts * each for name, prompts in self.left_out.items()}

    def _units_a_prompt(self, machine: Machine, together: int) -> int:
        return -(-pairs_of_a_prompt(self.pairing, self.rollout.bounds(machine.model).samples) // together)

    @property
    def left_out(self) -> dict[str, int]:
        """Prompts of an iteration that are left out of the fit, by what for: at least one where a share is above 0."""
        shares = {"validation": self.validation, "unseen": self.unseen}
        return {name: math.ceil(share * self.prompts_per_iteration) for name, share in shares.items() if share}

    def programs(self, machine: Machine) -> tuple[Program, ...]:
        """The rollout's."""
        return machine.roller(self.rollout).programs(machine.abstract, self.sizes(machine.model).prompt)

    def calls(self, machine: Machine) -> Mapping[str, int]:
        """The rollout's."""
        return machine.roller(self.rollout).calls(self.prompts_per_iteration)

    def open(self, machine: Machine, cache: pathlib.Path, iterations: int) -> "Sampling":
        """The prompts, opened."""
        return Sampling(self, machine, opened(self.prompts, cache), iterations)


class Sampling:
    """Prompts that the policy answers, iteration after iteration."""

    roles = ("last", "anchor")
    heldout = None

    def __init__(self, spec: Sampled, machine: Machine, prompts: PromptSet, iterations: int):
        self.spec, self.size = spec, len(prompts)
        annotators = len(spec.oracle.names) if isinstance(spec.oracle, Named) else 1
        self.labels = Labels.unsaid(2, spec.responses, annotators)
        self._machine, self._prompts, self._iterations = machine, prompts, iterations
        self._stream = PromptStream(prompts, machine.seed)

    @cached_property
    def roller(self) -> Roller:
        """Answers to the prompts."""
        return self._machine.roller(self.spec.rollout)

    @property
    def inputs(self) -> Sequence[Input]:
        """The prompts: ids and messages, whatever the bytes of their file."""
        return [Input("feedback.prompts", "", self._prompts.source, self._prompts.fingerprint)]

    @property
    def used(self) -> tuple[Prompt, ...]:
        """Every prompt that the run trains on, once."""
        return self.first(self._iterations * self.spec.prompts_per_iteration)

    def first(self, count: int) -> tuple[Prompt, ...]:
        """The first prompts that are trained on, none twice."""
        return self._stream.once(count)

    def check(self) -> None:
        """DataError naming every prompt that cannot be answered, ConfigError for fewer answers than oracles want."""
        samples = self.roller.bounds.samples
        for place, part in components(self.spec.oracle).items():
            if isinstance(part, LeastAnswers) and part.least_answers > samples and not listed(self.spec.rollout):
                where = ".".join(("feedback.oracle", place) if place else ("feedback.oracle",))
                raise ConfigError(
                    f"{where}: {type(part).__name__} wants {part.least_answers} answers to a prompt, and there are "
                    f"{samples}: sample more (feedback.rollout.samples)"
                )
        self.roller.check(self.used)

    def prompts_of(self, iteration: int) -> tuple[Prompt, ...]:
        """A pure function of the seed and the prompt set."""
        count = self.spec.prompts_per_iteration
        return self._stream.take(iteration * count, count)

    def __call__(self, phases: Phases, iteration: int, policy: Params) -> Compared:
        """What the policy says, who prefers what of it, and the pairs made of that."""
        key, prompts = phases.machine.key, self.prompts_of(iteration)

        def roll() -> Rollouts:
            roller = self.roller
            if isinstance(roller, AnchoredRoller):
                roller = roller.beside(phases.anchor_policy(iteration, policy))
            return phases.roll(roller, policy, prompts, iteration, "rollouts", key("rollouts", iteration))

        rollouts = phases.phase(iteration, "rollouts", Rollouts, roll)
        preferences = phases.phase(
            iteration, "preferences", Preferences, lambda: phases.judge(self.spec.oracle, rollouts, iteration)
        )
        pairing = CheckedPairing(pairing_at(self.spec.pairing, iteration))
        groups = phases.phase(
            iteration, "groups", Groups, lambda: pairing(rollouts, preferences, key("groups", iteration))
        )
        trained, validation, unseen = self._parted(groups)
        if not len(trained.prompt):
            raise DataError(
                f"iteration {iteration}: no prompt has two different responses to compare; sample more, longer or "
                "hotter (feedback.rollout.samples, feedback.rollout.max_tokens, feedback.rollout.sampler)"
            )
        metrics = diagnose(rollouts, preferences, groups)
        apart = (RolledGroups(rollouts, each) if len(each.prompt) else None for each in (unseen, validation))
        return Compared(RolledGroups(rollouts, trained), rollouts, preferences, metrics, *apart)

    def _parted(self, groups: Groups) -> tuple[Groups, Groups, Groups]:
        """Those that are trained on, and those of the last prompts, which are not: that evaluate the fit inside, and
        that check it. The order of the prompts is drawn already."""
        count, left_out = self.spec.prompts_per_iteration, self.spec.left_out
        second = count - left_out.get("unseen", 0)
        first = second - left_out.get("validation", 0)
        parts = (0, first), (first, second), (second, count)
        trained, validation, unseen = (
            _those(groups, (begin <= groups.prompt) & (groups.prompt < end)) for begin, end in parts
        )
        return trained, validation, unseen


def _those(groups: Groups, which: Bool[np.ndarray, " g"]) -> Groups:
    found: Groups = jax.tree.map(lambda column: column[which], groups)
    return found


def pairs_of_a_prompt(pairing: Pairing, m: int) -> int:
    """Groups that `pairing` makes of one prompt with m different responses: asked of the pairing, for responses that
    an oracle ranks for certain, so that win rates are as far apart as they can be."""
    return len(pairing(*certain(m), jax.random.key(0)).prompt)


def certain(m: int, count: int = 1) -> tuple[Rollouts, Preferences]:
    """m different answers to each of `count` prompts, evenly weighted, and an oracle for whom each is better than all
    behind it, for certain."""
    one, each = np.ones((count, 1), np.int32), np.ones((count, m), np.int32)
    tokens = np.tile(np.arange(m, dtype=np.int32)[None, :, None], (count, 1, 1))
    rollouts = replace(given(one, one[:, 0], tokens, each), texts=(tuple(map(str, range(m))),) * count)
    prefer = np.triu(np.ones((m, m), np.float32), 1) + 0.5 * np.eye(m, dtype=np.float32)
    prefer = np.tile(prefer[None], (count, 1, 1))
    falling = np.tile(-np.arange(m, dtype=np.float32), (count, 1, 1))
    return rollouts, Preferences(("one",), (1.0,), prefer, prefer[:, None], scores=falling)
