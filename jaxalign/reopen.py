"""A finished or running run, reopened to read from: its experiment, model and policies."""

import os

from jaxalign.config.resolved import restore
from jaxalign.errors import ConfigError
from jaxalign.models.model import Model, Source
from jaxalign.session import Session
from jaxalign.storage.record import Recorder
from jaxalign.storage.rundir import RunDir, read_run


def reopen(path: str | os.PathLike[str]) -> Session:
    """The run's session, without its lock and for reading only. ConfigError if the directory holds no run."""
    run = read_run(path)
    return Session(restore(run.config), run, Recorder(run.path))


def model_of(run: RunDir) -> Model:
    """The model of a run, opened from its source: config, tokenizer, headers. Nothing else of the experiment is.

    Raises ConfigError when the source cannot be restored, ModelError when it is no longer what it was.
    """
    source = restore(run.config.get("model", {}), "experiment.model")
    if not isinstance(source, Source):
        raise ConfigError(f"{run.path / 'config.json'}: names no model")
    return source.open()


def policy_number(run: RunDir, text: str) -> int:
    """The policy that a person means by `base`, `last` or a number. ConfigError names those that are on disk."""
    there = run.policies()
    words = {"base": 0, "last": max(there, default=0)}
    number = words.get(text, int(text) if text.isdecimal() else None)
    if number is None or number not in there:
        listed = ", ".join(map(str, there)) or "none yet"
        raise ConfigError(f"policy {text!r}: {run.path} holds {listed} (0 is the base, or say base or last)")
    return number
