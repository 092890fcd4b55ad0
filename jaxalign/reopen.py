"""A finished or running run, reopened to read from: its experiment, model and policies."""

import os

from jaxalign.config.resolved import restore
from jaxalign.errors import ConfigError
from jaxalign.session import Session
from jaxalign.storage.record import Recorder
from jaxalign.storage.rundir import read_run


def reopen(path: str | os.PathLike[str]) -> Session:
    """The run's session, without its lock and for reading only. ConfigError if the directory holds no run."""
    run = read_run(path)
    return Session(restore(run.config), run, Recorder(run.path))


def policy_number(session: Session, text: str) -> int:
    """The policy that a person means by `base`, `last` or a number. ConfigError names those that are on disk."""
    there = session.run.policies()
    words = {"base": 0, "last": max(there, default=0)}
    number = words.get(text, int(text) if text.isdecimal() else None)
    if number is None or number not in there:
        listed = ", ".join(map(str, there)) or "none yet"
        raise ConfigError(f"policy {text!r}: {session.run.path} holds {listed} (0 is the base, or say base or last)")
    return number
