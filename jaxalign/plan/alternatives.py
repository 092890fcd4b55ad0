"""What to change when a training step does not fit, from what costs least time to what costs most.

keep less of each layer        dots → attention → full      up to a third more FLOPs
more microbatches              1 → 2 → 4 …                  smaller products, parameters gathered more often
live references on the host    a copy of them a step over PCIe
optimizer state on the host    two copies of it a step over PCIe
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from jaxalign.experiment import Experiment
from jaxalign.models.decoder import REMAT
from jaxalign.models.lora import LoRA
from jaxalign.references.live import Live


def alternatives(experiment: Experiment, shards: int) -> Iterator[tuple[str, Experiment]]:
    """What was changed, as options of the command line, and the experiment; each keeps the changes before it."""
    options: list[str] = []

    def changed(option: str, **fields: Any) -> tuple[str, Experiment]:
        nonlocal experiment
        options.append(option)
        experiment = dataclasses.replace(experiment, **fields)
        return " ".join(options), experiment

    path, source = (
        ("model.base", experiment.model.base) if isinstance(experiment.model, LoRA) else ("model", experiment.model)
    )
    fields: Any = source
    if hasattr(source, "remat"):
        policies = ["none", *REMAT]
        for policy in policies[policies.index(fields.remat) + 1 :]:
            new: Any = dataclasses.replace(fields, remat=policy)
            model = dataclasses.replace(experiment.model, base=new) if isinstance(experiment.model, LoRA) else new
            options = [option for option in options if ".remat" not in option]
            yield changed(f"--{path}.remat {policy}", model=model)
    fit = experiment.fit
    parts = fit.accumulate * 2
    while fit.batch_size % parts == 0 and fit.batch_size // parts % shards == 0:
        fit = dataclasses.replace(fit, accumulate=parts)
        options = [option for option in options if ".accumulate" not in option]
        yield changed(f"--fit.accumulate {parts}", fit=fit)
        parts *= 2
    if isinstance(experiment.reference, Live) and experiment.reference.memory == "device":
        yield changed("--reference.memory pinned_host", reference=Live(memory="pinned_host"))
    if fit.optimizer_memory == "device":
        moved = dataclasses.replace(fit, optimizer_memory="pinned_host")
        yield changed("--fit.optimizer_memory pinned_host", fit=moved)
