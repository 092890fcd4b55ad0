"""What to change when a training step does not fit, from what costs least time to what costs most.

keep less of each layer        dots → attention → full      up to a third more FLOPs
more microbatches              1 → 2 → 4 …                  smaller products, parameters gathered more often
live references on the host    a copy of them a step over PCIe
optimizer state on the host    two copies of it a step over PCIe

All of it is placement: a run that has begun may go on with any of them.
"""

import dataclasses
from collections.abc import Iterator

from jaxalign.experiment import Experiment
from jaxalign.models.remat import tighter
from jaxalign.types import Memory

HOST: Memory = "pinned_host"


def alternatives(experiment: Experiment, shards: int) -> Iterator[tuple[str, Experiment]]:
    """What was changed, as options of the command line, and the experiment; each keeps the changes before it. Rows are
    split over `shards` devices."""
    placement, kept = experiment.placement, ""

    def changed() -> tuple[str, Experiment]:
        return kept, dataclasses.replace(experiment, placement=placement)

    for remat in tighter(placement.remat):
        kept, placement = f"--placement.remat {remat}", dataclasses.replace(placement, remat=remat)
        yield changed()
    before = kept
    for parts in microbatches(experiment, shards):
        kept = f"{before} --placement.accumulate {parts}".strip()
        placement = dataclasses.replace(placement, accumulate=parts)
        yield changed()
    if experiment.reference.live(experiment.loss.needs) and placement.reference_memory != HOST:
        kept = f"{kept} --placement.reference_memory {HOST}".strip()
        placement = dataclasses.replace(placement, reference_memory=HOST)
        yield changed()
    if placement.optimizer_memory != HOST:
        kept = f"{kept} --placement.optimizer_memory {HOST}".strip()
        placement = dataclasses.replace(placement, optimizer_memory=HOST)
        yield changed()


def microbatches(experiment: Experiment, shards: int) -> Iterator[int]:
    """Twice as many parts, and again, as long as each part has rows for all devices."""
    parts = 2 * experiment.placement.accumulate
    while experiment.fit.batch_size % (parts * shards * experiment.fit.rows.groups) == 0:
        yield parts
        parts *= 2
