"""Run directories as far as an export looks at them: a model in the config, policies saved from a mesh."""

import pathlib

import jax
from made_models import mesh, nudged, shardings

from jaxalign.config.resolved import dump
from jaxalign.models.lora import LoRA
from jaxalign.models.low_rank import frozen, join, trained
from jaxalign.models.model import Model, Source
from jaxalign.models.random_llama import RandomLlama
from jaxalign.storage import inputs, pinned
from jaxalign.storage.rundir import RunDir, open_run
from jaxalign.types import Params

BASE = RandomLlama(tied=False, layers=3)
ADAPTED = LoRA(BASE, rank=4, alpha=8.0)


def begun(source: Source, workdir: pathlib.Path) -> RunDir:
    """A run of the source as far as an export looks at it: the model in its config, and what was read of it."""
    model = source.open()
    read = inputs.of_values("model", model.source, model.fingerprints)
    read += inputs.of_files("model.weights", model.files, ())
    run = open_run(workdir, {"model": dump(source)})
    pinned.pin(run, None, pinned.Pinned(pinned.today(run.hosts), tuple(read), pinned.versions()))
    return run


def run_of(source: Source, workdir: pathlib.Path, *policies: Params, on: str = "2x2x2") -> pathlib.Path:
    """Such a run with policies saved from a mesh of 8 devices."""
    placed = trained(shardings(source.open(), mesh(on)))
    with begun(source, workdir) as run:
        for number, params in enumerate(policies):
            run.policy(number).save(jax.device_put(trained(params), placed), {})
    return workdir


def files(directory: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def moved(model: Model) -> Params:
    """An adapted policy whose B is not zero any more, or another policy."""
    whole = model.load()
    return join(nudged(trained(whole), 0.1, 1), frozen(whole))
