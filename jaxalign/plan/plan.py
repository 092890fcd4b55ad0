"""A plan: every program of an experiment compiled for a topology, the verdict, and what else would fit."""

import dataclasses
import resource
from collections.abc import Callable, Collection, Mapping, Sequence

from jaxalign.errors import ConfigError
from jaxalign.experiment import Experiment
from jaxalign.machine import Machine
from jaxalign.mesh.program import Program
from jaxalign.mesh.sharding import row_shards
from jaxalign.plan.alternatives import alternatives
from jaxalign.plan.caveats import caveats
from jaxalign.plan.chips import Chip, Topology, chip
from jaxalign.plan.compiled import NOTHING, Compiled, TooLarge, compile_program
from jaxalign.plan.judges import EVALUATION
from jaxalign.plan.kept import Kept
from jaxalign.plan.lowered import programs
from jaxalign.plan.remarks import remarks
from jaxalign.plan.schedule import calls
from jaxalign.plan.target import machine_of, sizes_of
from jaxalign.programs import check_batches, planned_step
from jaxalign.training.row_rule import Planned
from jaxalign.training.rows import RowShape, Sizes

HEADROOM = 0.05
"""Share of the memory that must stay free: fragmentation, and what other programs leave behind."""

TRAIN = "train"
"""The training step's name among the programs."""

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A training step under other settings."""

    options: str
    """what was changed, as options of the command line"""
    train: Compiled | TooLarge


@dataclasses.dataclass(frozen=True)
class Plan:
    """An experiment on a topology. `attempts` are empty unless the training step does not fit or all were asked for."""

    topology: Topology
    chip: Chip
    mesh: dict[str, int]
    sizes: Sizes
    step: Planned
    """the rows of a step"""
    programs: tuple[Compiled | TooLarge, ...]
    calls: Mapping[str, int] | None
    """of each program, in the whole run; None where only data that are not here could tell"""
    attempts: tuple[Attempt, ...]
    host_peak_gib: float
    """of this machine while it compiled"""
    together: int = 1
    """groups of one prompt that are drawn together"""
    remarks: tuple[str, ...] = ()
    """what the mesh wastes"""

    @property
    def train(self) -> Compiled | TooLarge | None:
        """The training step; None where it was not asked for."""
        return next((program for program in self.programs if program.name == TRAIN), None)

    @property
    def rows(self) -> RowShape:
        """The rows that are trained on."""
        return self.step.shape

    @property
    def fits(self) -> bool:
        """Whether all programs leave the headroom."""
        return all(fits(program, self.chip) for program in self.programs)

    @property
    def remedy(self) -> str | None:
        """Options under which the training step fits; None where it does as it is, or with nothing that was tried."""
        if self.train is None or fits(self.train, self.chip):
            return None
        return next((attempt.options for attempt in self.attempts if fits(attempt.train, self.chip)), None)

    @property
    def caveats(self) -> tuple[str, ...]:
        """What is estimated rather than compiled, in sentences."""
        return self.remarks + caveats(self.topology, self.programs)

    @property
    def hours(self) -> tuple[float, float] | None:
        """Of the whole run, bound and expected; None where a program does not compile, or nobody knows how often it is
        called."""
        if self.calls is None or any(isinstance(each, TooLarge) for each in self.programs):
            return None
        known = {each.name: each.estimate.range for each in self.programs if isinstance(each, Compiled)}
        # What is smaller in evaluation than in training is not compiled, and priced as it is there.
        priced = {EVALUATION + name: seconds for name, seconds in known.items()} | known
        spent = [(times, priced.get(name, (0.0, 0.0))) for name, times in self.calls.items()]
        bound, expected = (sum(times * seconds[end] for times, seconds in spent) / 3600 for end in (0, 1))
        return bound, expected


def chosen(found: Sequence[Program], names: Collection[str]) -> list[Program]:
    """The programs of these names; none: all. Raises ConfigError for a name that none has."""
    there = [program.name for program in found]
    for name in names:
        if name not in there:
            raise ConfigError(f"plan: there is no program {name!r}; of this experiment there are {', '.join(there)}")
    return [program for program in found if not names or program.name in names]


def fits(program: Compiled | TooLarge, chip: Chip) -> bool:
    """Whether a program leaves the headroom."""
    return isinstance(program, Compiled) and program.memory.peak <= (1 - HEADROOM) * chip.device_hbm_usable


def make(
    experiment: Experiment,
    topology: Topology,
    explore: bool,
    say: Say,
    kept: Kept = NOTHING,
    only: Collection[str] = (),
) -> Plan:
    """Compiles everything that is not `kept`. `explore`: also the training step of all `alternatives`, fitting or not.
    `only`: programs of these names; none: all.

    Raises ConfigError for a name that none has and when the mesh does not fit the topology, ModelError when nothing is
    known of the model.
    """
    machine = machine_of(experiment, topology)
    check_batches(experiment, row_shards(machine.mesh))
    found, sizes = chip(topology.generation), sizes_of(experiment, machine.model)
    step = planned_step(experiment, machine, sizes)
    remarked = remarks(machine, topology, step)
    for remark in remarked:
        say(remark)

    def compiled(settings: Experiment, there: Machine, names: Collection[str]) -> list[Compiled | TooLarge]:
        made = []
        for program in chosen(programs(settings, there, sizes_of(settings, there.model)), names):
            say(f"compiling {program.name}")
            made.append(compile_program(program, program.model or there.model, topology, found, there.flags, kept))
        return made

    all_programs = tuple(compiled(experiment, machine, only))
    attempts: list[Attempt] = []
    step_fits = all(fits(program, found) for program in all_programs if program.name == TRAIN)
    if explore or not step_fits:
        for options, settings in alternatives(experiment, row_shards(machine.mesh)):
            say(f"trying {options}")
            attempts.append(Attempt(options, compiled(settings, machine_of(settings, topology), (TRAIN,))[0]))
            if not explore and fits(attempts[-1].train, found):
                break
    return Plan(
        topology=topology,
        chip=found,
        mesh={axis: size for axis, size in machine.mesh.shape.items() if size > 1},
        sizes=sizes,
        step=step,
        programs=all_programs,
        calls=None if only else calls(experiment, machine),
        attempts=tuple(attempts),
        host_peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        together=experiment.fit.rows.groups,
        remarks=remarked,
    )
