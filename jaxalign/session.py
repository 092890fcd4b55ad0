"""A session: an experiment opened on this machine.

It holds what lives as long as the run (model, mesh, prompts, compiled programs, run directory, records), so that the
outer loop speaks of nothing else. Everything that can be wrong with the inputs is found here, before any compute.
"""

import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from types import GenericAlias
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from jaxalign.data.order import PromptStream
from jaxalign.errors import ConfigError, Interrupted
from jaxalign.experiment import Experiment
from jaxalign.judging import SharedOracle
from jaxalign.mesh.flags import options
from jaxalign.mesh.sharding import param_shardings, row_shards
from jaxalign.models.low_rank import frozen, is_adapted, join, trained
from jaxalign.models.model import Model
from jaxalign.programs import Training, check_batches, on, training
from jaxalign.progress import Progress, Unseen
from jaxalign.rollouts.sample import Enumerator, Roller, Share, covers
from jaxalign.storage import durable
from jaxalign.storage.record import Recorder, Silent
from jaxalign.storage.rundir import Iteration, RunDir
from jaxalign.training.logps import Scorer
from jaxalign.types import Groups, Oracle, Params, Prompt, Rollouts, StopRequested

T = TypeVar("T")


@dataclass(frozen=True)
class ReferenceLogps:
    """Stored log-prob sums (nats) of the iteration's groups, one table for each reference role."""

    roles: tuple[str, ...]
    sums: Float[np.ndarray, "k g r"]

    def columns(self) -> dict[str, Float[np.ndarray, "g r"]]:
        """Role → table."""
        return dict(zip(self.roles, self.sums, strict=True))


class Session:
    """An experiment, opened: see the module's docstring. Raises JaxalignErrors for inputs that cannot be used.

    `stop_requested` is asked on this process; a run of several stops when any of them is asked to.
    """

    def __init__(
        self,
        experiment: Experiment,
        run: RunDir,
        recorder: Recorder | Silent,
        stop_requested: StopRequested = lambda: False,
    ):
        self.experiment, self.run, self.recorder, self.hosts = experiment, run, recorder, run.hosts
        self.stop_requested: StopRequested = lambda: self.hosts.any(stop_requested())
        self.mesh = experiment.mesh.build()
        self._check_mesh()
        check_batches(experiment.fit, row_shards(self.mesh))
        datasets = _datasets(run)
        self._stream = PromptStream(experiment.prompts.open(datasets), experiment.seed)
        heldout = experiment.evaluation.prompts.open(datasets)
        self.heldout: tuple[Prompt, ...] = tuple(heldout[index] for index in range(len(heldout)))
        self.model: Model = experiment.model.open().on(self.mesh, experiment.mesh.rules)
        flags = options(experiment.xla_flags, self.mesh)
        self._roller = experiment.rollout.on(self.model, self.mesh, flags)
        self._heldout_roller = experiment.evaluation.rollout.on(self.model, self.mesh, flags)
        self._check_prompts()
        self.scorer = Scorer(self.model, self.mesh, experiment.score_batch_size, flags)
        self.shardings = param_shardings(self.mesh, experiment.mesh.rules, self.model.abstract(), self.model.axes)
        self._training = cache(partial(training, experiment, self.model, self.mesh))

    def key(self, phase: str, iteration: int) -> PRNGKeyArray:
        """The seed folded with (phase, iteration): keys are derived, never stored."""
        number = zlib.crc32(phase.encode()) & 0x7FFFFFFF
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.experiment.seed), number), iteration)

    def prompts_of(self, iteration: int) -> tuple[Prompt, ...]:
        """The prompts to train on in `iteration`: a pure function of the seed and the prompt set."""
        count = self.experiment.prompts_per_iteration
        return self._stream.take(iteration * count, count)

    # ---------------------------------------------------------------------------------------------- phases

    def phase(self, iteration: Iteration, name: str, kind: type[T] | GenericAlias, make: Callable[[], T]) -> T:
        """The committed artifact of a phase, made and committed first if it is not there yet."""
        self.stop_here(f"before {name}")
        fresh = not self.run.has(iteration, name)
        began = time.perf_counter()
        value = self.run.phase(iteration, name, make, kind)
        if fresh:
            self.recorder.perf(iteration, name, 0, {"perf/seconds": time.perf_counter() - began})
        return value

    def finished(self) -> int:
        """Iterations that are complete, their evaluation included."""
        count = 0
        while count < self.experiment.iterations and self.run.has(count, "evals"):
            count += 1
        return count

    def stop_here(self, where: str) -> None:
        """Raises Interrupted if a stop was asked for; everything so far is committed."""
        if self.stop_requested():
            raise Interrupted(f"stopped {where}; the same command continues there")

    def oracle(self, iteration: Iteration, phase: str) -> Oracle:
        """The experiment's oracle for a phase's `make`: several processes share the judging."""
        oracle = self.experiment.oracle
        return oracle if self.hosts.count == 1 else SharedOracle(oracle, self.run.parts(iteration, phase))

    def roll(self, policy: Params, prompts: tuple[Prompt, ...], iteration: int) -> Rollouts:
        """Training rollouts."""
        return self._roll(self._roller, policy, prompts, iteration, "rollouts", self.key("rollouts", iteration))

    def roll_heldout(self, policy: Params, iteration: Iteration) -> Rollouts:
        """Answers to the held-out prompts; every iterate draws with the same keys."""
        return self._roll(self._heldout_roller, policy, self.heldout, iteration, "heldout", self.key("heldout", 0))

    def score(
        self, roles: Mapping[str, int], params: Callable[[int], Params], rollouts: Rollouts, groups: Groups
    ) -> ReferenceLogps:
        """Log-prob sums of the groups for every role that the experiment's reference strategy stores.

        `roles` are numbers of policies, `params` finds a policy by its number.
        """
        stored = self.experiment.reference.stored(self.experiment.loss.needs)
        tables: dict[int, np.ndarray] = {}
        for number in sorted({roles[role] for role in stored}):  # right after a swap the anchor is the last policy
            tables[number] = self._score_policy(roles["last"], number, params(number), rollouts, groups)
        shape = (len(stored), *groups.responses.shape)
        sums = np.array([tables[roles[role]] for role in stored], np.float32).reshape(shape)
        return ReferenceLogps(roles=stored, sums=sums)

    def _score_policy(
        self, iteration: int, number: int, params: Params, rollouts: Rollouts, groups: Groups
    ) -> Float[np.ndarray, "g r"]:
        with self.progress(iteration, f"log-probs of policy {number}", len(groups.prompt), "groups") as progress:

            def between(done: int) -> None:
                progress(done)
                self.stop_here(f"after {done} groups of the references")

            return self.scorer.groups(params, rollouts, groups, between)

    def _roll(
        self,
        roller: Roller | Enumerator,
        policy: Params,
        prompts: tuple[Prompt, ...],
        iteration: Iteration,
        phase: str,
        key: PRNGKeyArray,
    ) -> Rollouts:
        """Batch by batch; each is committed, every process's share of it, so that a stop loses at most one."""
        parts = self.run.parts(iteration, phase)
        done = 0
        with self.progress(iteration, phase, len(prompts), "prompts") as progress:

            def commit(part: int, numbers: Int[np.ndarray, " b"], make: Callable[[], Share]) -> tuple[Share, ...]:
                nonlocal done
                self.stop_here(f"after {done} prompts of {phase}")
                shares = parts.get(part, make, Share, lambda shares: covers(shares, numbers))
                done += len(numbers)
                progress(done)
                return shares

            return roller(policy, prompts, key, commit)

    # -------------------------------------------------------------------------------------------- policies

    def policy(self, index: int) -> Params:
        """Policy `index` on the mesh; policy 0 is loaded from its source and committed the first time."""
        slot = self.run.policy(index)
        if index == 0 and not slot.exists():
            self.commit_policy(0, self.model.load(self._place))
        return join(slot.load(trained(self._abstract())), self._frozen)

    def commit_policy(self, index: int, params: Params) -> None:
        """Commits what is trained of `params` as policy `index`."""
        self.run.policy(index).save(trained(params), {"model": self.model.source})

    @cached_property
    def _frozen(self) -> Params:
        """What no policy of the run changes, from its source: nothing unless the model is adapted."""
        return frozen(self.model.load(self._place)) if is_adapted(self.shardings) else {}

    def training(self, steps: int) -> Training:
        """The programs of a fit of `steps` steps, compiled once for all fits of that length."""
        return self._training(steps)

    def _abstract(self) -> Params:
        return jax.tree.map(on, self.model.abstract(), self.shardings)

    def _place(self, path: tuple[str, ...]) -> Any:
        """The sharding of the parameter at `path`; those of its parts where it has a low-rank difference."""
        sharding: Any = self.shardings
        for name in path:
            sharding = sharding[name]
        return sharding

    # ---------------------------------------------------------------------------------------------- checks

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

    def _check_mesh(self) -> None:
        reached = {device.process_index for device in self.mesh.devices.flat}
        if len(reached) < self.hosts.count:
            raise ConfigError(
                f"mesh: its {self.mesh.size} devices are those of {len(reached)} of {self.hosts.count} processes; make "
                f"it as large as all {jax.device_count()} devices (-1 for one axis takes what is there)"
            )

    def _check_prompts(self) -> None:
        used = min(self.experiment.iterations * self.experiment.prompts_per_iteration, len(self._stream))
        self._roller.check(self._stream.take(0, used))
        self._heldout_roller.check(self.heldout)


def _datasets(run: RunDir) -> Path:
    """Where prompts are converted to: beside the run, or on the host's own disk for a run in a bucket."""
    local = durable.is_local(run.path)
    return Path(run.path) / "datasets" if local else Path(tempfile.gettempdir()) / "jaxalign-datasets"
