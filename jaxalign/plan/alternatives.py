"""What to change when a training step does not fit, from what costs least time to what costs most.

keep less of each layer        dots → attention → full      up to a third more FLOPs
more microbatches              1 → 2 → 4 …                  smaller products, parameters gathered more often
live references on the host    a copy of them a step over PCIe
optimizer state on the host    two copies of it a step over PCIe
"""

import dataclasses
from collections.abc import Iterator

from jaxalign.experiment import Experiment
from jaxalign.models.decoder import REMAT, Remat
from jaxalign.models.lora import LoRA
from jaxalign.models.model import Source
from jaxalign.models.pretrained import Pretrained, SmolLM2
from jaxalign.models.random_llama import RandomLlama
from jaxalign.references.live import Live
from jaxalign.training.step import Fit
from jaxalign.types import Memory

HOST: Memory = "pinned_host"


def alternatives(experiment: Experiment, shards: int) -> Iterator[tuple[str, Experiment]]:
    """What was changed, as options of the command line, and the experiment; each keeps the changes before it."""
    kept = ""
    for option, model in remats(experiment.model):
        experiment, kept = dataclasses.replace(experiment, model=model), option
        yield kept, experiment
    before, kept = kept, ""
    for option, fit in microbatches(experiment.fit, shards):
        experiment, kept = dataclasses.replace(experiment, fit=fit), option
        yield f"{before} {kept}".strip(), experiment
    kept = f"{before} {kept}".strip()
    if isinstance(experiment.reference, Live) and experiment.reference.memory != HOST:
        experiment, kept = dataclasses.replace(experiment, reference=Live(HOST)), f"{kept} --reference.memory {HOST}"
        yield kept.strip(), experiment
    if experiment.fit.optimizer_memory != HOST:
        fit = dataclasses.replace(experiment.fit, optimizer_memory=HOST)
        yield f"{kept} --fit.optimizer_memory {HOST}".strip(), dataclasses.replace(experiment, fit=fit)


def remats(source: Source, path: str = "model") -> Iterator[tuple[str, Source]]:
    """The source with each policy that keeps less than its own."""
    if isinstance(source, LoRA):
        for option, base in remats(source.base, f"{path}.base"):
            yield option, dataclasses.replace(source, base=base)
    elif isinstance(source, (Pretrained, SmolLM2, RandomLlama)):
        policies: tuple[Remat, ...] = ("none", *REMAT)
        for policy in policies[policies.index(source.remat) + 1 :]:
            yield f"--{path}.remat {policy}", dataclasses.replace(source, remat=policy)


def microbatches(fit: Fit, shards: int) -> Iterator[tuple[str, Fit]]:
    """The fit in twice as many parts, and again, as long as each part has rows for all devices."""
    parts = 2 * fit.accumulate
    while fit.batch_size % (parts * shards) == 0:
        yield f"--fit.accumulate {parts}", dataclasses.replace(fit, accumulate=parts)
        parts *= 2
