"""A model on a mesh: what is compiled, placed and drawn with, and how a launch chooses that (`Placement`).

Everything that computes opens one (a session, the doctor, a plan, whoever reads a run), so that they agree on where
arrays lie, what programs are compiled with and which keys are drawn. It knows no run directory and no data.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from jaxalign.contracts.scope import Site
from jaxalign.errors import ConfigError
from jaxalign.mesh.flags import FlagSet, options
from jaxalign.mesh.sharding import MeshShape, on, param_shardings
from jaxalign.models.low_rank import frozen, is_adapted, join, trained
from jaxalign.models.model import Model
from jaxalign.models.remat import Remat
from jaxalign.rollouts.contract import Roller, Rollout
from jaxalign.storage.rundir import PolicySlot
from jaxalign.training.features import FeatureReader
from jaxalign.training.logps import Scorer
from jaxalign.types import Memory, Params


@dataclass(frozen=True)
class Placement:
    """Where a run's arrays lie and how its programs are compiled. Nothing here says what is computed, so each launch of
    a run may have its own: results differ by the rounding of sums that are taken in another order."""

    mesh: MeshShape = MeshShape()
    """how arrays are split over devices"""
    topology: str = ""
    """the machine it is meant for, as `jaxalign plan` names it: v5p:4x4x4, v6e:8x8, h100:8"""
    xla_flags: FlagSet = "overlap"
    """options that programs are compiled with: the table of the platform, or XLA's defaults"""
    remat: Remat = "none"
    """what the backward pass keeps of a layer: all, its matrix products, what attention found, nothing. The default is
    the same on every device, however large: `jaxalign plan` says before a run what does not fit, and what would"""
    accumulate: int = 1
    """microbatches a step; the loss and the gradient are those of the whole batch"""
    optimizer_memory: Memory = "device"
    """where the optimizer's state is kept between steps"""
    reference_memory: Memory = "device"
    """where the parameters of live references are kept between steps"""
    score_batch_size: int = 16
    """rows scored together when reference log-probs are computed, over all devices"""
    rollout_rows: int = 64
    """responses decoded together, over all devices; all of a prompt are, however many they are"""
    judge_block_size: int = 64
    """prompts judged between two commits of what was said, over all processes"""
    judge_batch_size: int = 16
    """rows that a judge with weights of its own reads together, over all devices: a prompt with its answers each"""
    local_checkpoints: str = ""
    """where each host keeps training checkpoints of its own devices' shards, between those in the run directory: in its
    memory (/dev/shm/jaxalign) or on its own disk; `{process}` is the number of the process. Empty: nowhere"""
    local_checkpoint_every: int = 10
    """steps between them"""

    def problems(self) -> Iterable[str]:
        for name, value in (
            ("accumulate", self.accumulate),
            ("score_batch_size", self.score_batch_size),
            ("rollout_rows", self.rollout_rows),
            ("judge_block_size", self.judge_block_size),
            ("judge_batch_size", self.judge_batch_size),
            ("local_checkpoint_every", self.local_checkpoint_every),
        ):
            if value < 1:
                yield f"{name} must be at least 1, got {value}"


class Machine:
    """A model on the mesh of a placement; see the module's docstring.

    `devices` default to those of this process's JAX. Raises ConfigError for a mesh that they do not make, ModelError
    for a model that cannot be computed as the placement says.
    """

    def __init__(self, model: Model, placement: Placement, seed: int, devices: Sequence[jax.Device] | None = None):
        self.placement = placement
        self.mesh = placement.mesh.build(devices)
        self.model = model.on(self.mesh, placement.mesh.rules, placement.remat)
        self.flags = options(placement.xla_flags, self.mesh)
        self.shardings = param_shardings(self.mesh, placement.mesh.rules, self.model.abstract(), self.model.axes)
        self.seed = seed

    def key(self, purpose: str, *numbers: int) -> PRNGKeyArray:
        """The seed folded with what the key is for, and with each number: keys are derived, never stored."""
        key = jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(purpose.encode()) & 0x7FFFFFFF)
        for number in numbers:
            key = jax.random.fold_in(key, number)
        return key

    # ------------------------------------------------------------------------------------------ parameters

    @property
    def abstract(self) -> Params:
        """Shapes, dtypes and places of a policy's parameters."""
        return jax.tree.map(on, self.model.abstract(), self.shardings)

    def place(self, path: tuple[str, ...]) -> Any:
        """The sharding of the parameter at `path`; those of its parts where it has a low-rank difference."""
        sharding: Any = self.shardings
        for name in path:
            sharding = sharding[name]
        return sharding

    def params(self, slot: PolicySlot | None) -> Params:
        """The policy that is committed in `slot`, or the one that the model's source holds, on the mesh."""
        if slot is None:
            return self.model.load(self.place)
        return join(slot.load(trained(self.abstract)), self._frozen)

    @cached_property
    def _frozen(self) -> Params:
        """What no policy of a run changes, from the source: nothing unless the model is adapted."""
        return frozen(self.params(None)) if is_adapted(self.shardings) else {}

    # -------------------------------------------------------------------------------------------- programs

    @cached_property
    def scorer(self) -> Scorer:
        """Log-prob sums of whole sets of responses."""
        return Scorer(self.model, self.mesh, self.placement.score_batch_size, self.flags)

    @cached_property
    def site(self) -> Site:
        """Where judges are opened, anew for each judging."""
        return Site(self.mesh, self.placement.mesh.rules, self.flags, self.placement.judge_batch_size)

    @cached_property
    def features(self) -> FeatureReader:
        """What a frozen trunk makes of answers."""
        return FeatureReader(self.model, self.mesh, self.placement.score_batch_size, self.flags)

    def roller(self, rollout: Rollout) -> Roller:
        """Answers as `rollout` says. ConfigError for a model that gives none."""
        if outputs := self.model.config.outputs:
            raise ConfigError(
                f"{self.model.source} has a head of {len(outputs)} outputs in place of the vocabulary's and answers no "
                "prompts; it is trained on recorded pairs, and evaluated without prompts"
            )
        return rollout.on(self.model, self.mesh, self.flags, self.placement.rollout_rows)
