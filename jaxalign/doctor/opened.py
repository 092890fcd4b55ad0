"""An experiment opened for inspection: model, mesh, prompts, and, made when first asked for, weights and samples.

Unlike a session it has no run directory and refuses no data: what a session would refuse is what the doctor reports.
"""

import os
import pathlib
from functools import cached_property

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxalign.contracts.pairing import CheckedPairing
from jaxalign.data.edits import with_edits
from jaxalign.data.groups import PickedGroups, RolledGroups, TrainingGroups
from jaxalign.data.prompts import opened
from jaxalign.doctor.outcome import NotHere
from jaxalign.doctor.score import logps
from jaxalign.errors import ConfigError, DataError
from jaxalign.experiment import Experiment
from jaxalign.feedback.recorded import Recording
from jaxalign.feedback.sampled import Sampling
from jaxalign.judging import judging
from jaxalign.machine import Machine
from jaxalign.mesh.sharding import bytes_per_device, full_rows, row_sharding, row_shards
from jaxalign.models.model import Model
from jaxalign.progress import Progress
from jaxalign.rollouts.contract import Roller
from jaxalign.rollouts.lengths import encoded
from jaxalign.rollouts.seam import rolled
from jaxalign.text.chat import Chat
from jaxalign.training.row_rule import RowRule
from jaxalign.training.rows import pack
from jaxalign.types import Batch, Groups, Params, Preferences, Prompt, Rollouts

SAMPLED = 4
"""Prompts that are answered: enough for pairs and for every shape that is compiled."""


RECORDED = 16
"""Recorded pairs that are looked at token by token."""


class Opened:
    """`prompts` are the first of those that the run will train on, `heldout` the held-out ones.

    Raises the JaxalignErrors of a model, mesh or prompt source that cannot be opened at all. `cache` is a directory
    that converted prompts may be written to.
    """

    def __init__(self, experiment: Experiment, cache: pathlib.Path, prompts: int):
        self.experiment = experiment
        self.machine = Machine(experiment.model.open(), experiment.placement, experiment.seed)
        if outputs := self.model.config.outputs:
            raise ConfigError(
                f"the doctor looks at how policies answer and are scored, and {self.model.source} has a head of "
                f"{len(outputs)} outputs in place of the vocabulary's"
            )
        self.mesh = self.machine.mesh
        self.comparer = experiment.feedback.open(self.machine, cache, experiment.iterations)
        self.prompts = self.comparer.first(prompts)
        asked = experiment.evaluation.prompts
        held = opened(asked, cache) if asked is not None else None
        self.heldout: tuple[Prompt, ...] = tuple(held[index] for index in range(len(held))) if held else ()

    @property
    def model(self) -> Model:
        """The machine's: one is looked at, whatever the check."""
        return self.machine.model

    @property
    def sampling(self) -> Sampling:
        """Training prompts and how they are answered; NotHere where pairs are recorded."""
        if not isinstance(self.comparer, Sampling):
            raise NotHere("the pairs are recorded: nothing is sampled")
        return self.comparer

    @cached_property
    def heldout_roller(self) -> Roller:
        """Answers to held-out prompts; NotHere where none are asked for."""
        rollout = self.experiment.evaluation.rollout
        if rollout is None:
            raise NotHere("no answers to held-out prompts are asked for")
        return self.machine.roller(rollout)

    @property
    def chat(self) -> Chat:
        """Tokenizer and template; NotHere for a policy that reads no text."""
        if not isinstance(self.model.chat, Chat):
            raise NotHere("the policy is a table: it reads no text")
        return self.model.chat

    @property
    def memory(self) -> int:
        """Bytes that one device of the mesh has; devices of the CPU share the host's memory."""
        device = self.mesh.devices.flat[0]
        known = (device.memory_stats() or {}).get("bytes_limit")
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return int(known or host // len(jax.local_devices()))

    @cached_property
    def params(self) -> Params:
        """The base policy on the mesh; NotHere when it alone is larger than the memory."""
        needed = bytes_per_device(self.machine.abstract)
        if needed > self.memory:
            raise NotHere(f"the parameters need {needed / 2**30:.1f} GiB a device, there are {self.memory / 2**30:.1f}")
        with Progress("weights", 1, "models") as progress:
            params = self.machine.params(None)
            progress(1)
        return params

    @cached_property
    def rollouts(self) -> Rollouts:
        """The policy's answers to a few prompts that leave room for them, sampled as the run samples."""
        roller = self.sampling.roller
        roller.check(())
        room = roller.bounds.prompt
        fit = [prompt for prompt in self.prompts if len(encoded(self.model.chat, prompt)) <= room]
        if not fit:
            raise DataError(f"every prompt is longer than {room} tokens, and so none can be answered")
        chosen = tuple(fit[: max(SAMPLED, row_shards(self.mesh))])
        with Progress("answers", len(chosen), "prompts") as progress:
            rollouts = rolled(roller, self.params, chosen, self.machine.key("rollouts"))
            progress(len(chosen))
        return rollouts

    @cached_property
    def recomputed(self) -> Float[np.ndarray, "b m t"]:
        """Log-probs of the answers, teacher-forced: one forward pass over the finished rows."""
        return logps(self.model, self.params, self.mesh, self.rollouts)

    @cached_property
    def preferences(self) -> Preferences:
        """What the oracle says of the sampled answers, [b m m]."""
        block, objectives = self.experiment.placement.judge_block_size, self.experiment.combiner.objectives
        with judging(self.sampling.spec.oracle, self.machine.site, block, objectives=objectives) as judge:
            return judge(self.rollouts, self.machine.key("preferences"))

    @cached_property
    def pairs(self) -> Groups:
        """What the pairing makes of the answers and the preferences."""
        pairing = CheckedPairing(self.sampling.spec.pairing)
        return pairing(self.rollouts, self.preferences, self.machine.key("groups"))

    @cached_property
    def groups(self) -> TrainingGroups:
        """A few groups as the fit gets them, without strays."""
        groups: TrainingGroups
        if isinstance(self.comparer, Recording):
            recorded = self.comparer.pairs
            groups = PickedGroups(recorded, np.arange(min(RECORDED, len(recorded))))
        else:
            groups = RolledGroups(self.rollouts, self.pairs)
        return with_edits(self.experiment.loss, groups)

    @property
    def first_prompt(self) -> Prompt:
        """The prompt of the first of these groups."""
        if isinstance(self.comparer, Recording):
            return self.comparer.first(1)[0]
        return self.rollouts.prompts[self.pairs.prompt[0]]

    def batch(self, largest: int, rule: RowRule | None = None) -> tuple[Int[np.ndarray, " b"], Batch]:
        """Up to `largest` rows of a microbatch by `rule` (None: the fit's), on the mesh, that of the first group before
        the others; and the numbers of their groups, -1 in empty places.

        Raises NotHere when no prompt has two different answers.
        """
        if not len(self.groups):
            raise NotHere("no prompt has two different answers: there is nothing to train on")
        fit, accumulate = self.experiment.fit, self.machine.placement.accumulate
        plan = (rule or fit.rows).passes(self.groups, 1)
        there = fit.rows.rows_a_step(fit.batch_size) or len(plan.rows) * accumulate
        size = min(there // accumulate, len(plan.rows), largest)
        rows = np.full(full_rows(self.mesh, size), -1)
        rows[:size] = np.argsort(np.where(plan.rows >= 0, plan.rows, len(self.groups)).min(1))[:size]
        places, shape = plan.batch(rows)
        numbers = places.reshape(-1)
        return numbers, jax.device_put(pack(self.groups, numbers, shape, {}), row_sharding(self.mesh))
