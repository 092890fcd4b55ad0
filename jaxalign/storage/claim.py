"""Whose a run directory is: who may open it with which config, and what a later launch may say otherwise.

A directory in which nothing was computed belongs to nobody: a launch that was refused leaves its config, and the
corrected command is to begin there. Where something was, the config is the run's but for the placement, for how much is
kept, and for more iterations where those that are there were made as they would be in the longer run.
"""

import json
import os
import re
import sys
from collections.abc import Collection
from typing import Any

from etils import epath

from jaxalign.config.resolved import difference
from jaxalign.errors import CheckpointError, ConfigError
from jaxalign.storage import bucket, canonical, durable, pytree, twice
from jaxalign.storage.lease import Lease
from jaxalign.storage.lock import RunLock

_PLACEMENT = ("placement", "trackers")
"""What of a config says where arrays lie and who watches, not what is computed: each launch may have its own."""


def claimed(path: str | os.PathLike[str], root: epath.Path, resolved: dict[str, Any]) -> RunLock | Lease:
    """The lock of the run of a config at `root`, which is made if it is not there. Raises as `rundir.open_run`."""
    # Orbax finds parts by patterns, and TensorStore takes \\ for /: policies would be lost, or lie elsewhere
    if durable.is_local(root) and any(sign in os.fspath(root) for sign in "[]\\"):
        raise ConfigError(f"{root}: a run directory's path may hold none of [ ] \\")
    if os.fspath(path).startswith("~"):
        raise ConfigError(f"{path}: `~` stands for itself here; write the path in full")
    if not durable.is_local(root):
        bucket.check(root)
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root}: is a file, not a run directory")
    _refuse_foreign(root)
    with durable.storage_errors(root, 0):
        durable.make_directory(root)
        lock = RunLock(root / "lock") if durable.is_local(root) else Lease(root / "lock")
    try:
        before = _before(root, resolved) if twice.there(root / "config.json") else None
        unused = _unused(durable.names(root)) and not computed(root)
        if before is not None and not unused:
            refuse_other(root, before, resolved)
        if unused and durable.is_local(root):  # copies that somebody left who emptied the directory are another run's
            for name in ("metrics.jsonl", "inputs.json", "summary.json"):
                twice.delete(root / name)
        if before is None or _without_placement(before) != _without_placement(resolved):
            _write(root, resolved)
    except BaseException:
        lock.release()
        raise
    return lock


def _refuse_foreign(root: epath.Path) -> None:
    if not root.exists() or twice.there(root / "config.json"):
        return
    names = sorted(name for name in durable.names(root) if not name.startswith(".") and name != "lock")
    if names:
        raise ConfigError(f"{root}: not empty and no run directory (it holds {', '.join(names[:5])}); choose another")


def read_config(root: epath.Path, mend: bool = False) -> dict[str, Any]:
    """What config.json says, its seal left out; see `twice.read`. CheckpointError where it is damaged or was edited,
    ConfigError where it is a model's. One that another version wrote, without a seal, is taken as it is."""
    remedy = "the command that made the run writes it again as it was, or put it back"
    try:
        config = json.loads(twice.read(root / "config.json", mend, _sealed))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{root / 'config.json'}: damaged ({error}); {remedy}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{root / 'config.json'}: damaged (no JSON object); {remedy}")
    if "model_type" in config and "type" not in config:
        raise ConfigError(f"{root}: is a model directory (model_type {config['model_type']!r:.80}), not a run")
    if "seal" not in config:
        return config
    try:
        return canonical.unsealed(config)
    except ValueError as error:
        raise CheckpointError(f"{root / 'config.json'}: damaged or edited ({error}); {remedy}") from error


def _sealed(content: bytes) -> None:
    """Raises ValueError for a config that does not fit its seal."""
    config = json.loads(content)
    if "seal" in config:
        canonical.unsealed(config)


def _before(root: epath.Path, resolved: dict[str, Any]) -> dict[str, Any]:
    """The run's config. One that is damaged is `resolved` where its seal is that of `resolved`: the seal tells
    what was written from anything else."""
    try:
        return read_config(root, mend=True)
    except CheckpointError:
        try:
            content = (root / "config.json").read_bytes()
        except OSError:
            content = b""
        seal = canonical.sealed(resolved)["seal"].encode()
        if seal[:32] not in content and seal[32:] not in content:  # half of one is enough, where that is what broke
            raise
        print(f"{root / 'config.json'}: was damaged; it is written again as it was", file=sys.stderr, flush=True)
        _write(root, resolved)
        return resolved


def _write(root: epath.Path, resolved: dict[str, Any]) -> None:
    sealed = canonical.to_json(canonical.sealed(resolved))
    with durable.storage_errors(root, len(sealed)):
        twice.write(root / "config.json", sealed)
        durable.sync_directory(root)


def begun(names: Collection[str]) -> bool:
    """Whether one of the names in a run directory is that of something computed."""
    return any(name == "initial" or re.fullmatch(r"\d{4,}", name) for name in names)


def computed(root: epath.Path) -> bool:
    """Whether the base policy is there, asked for by its name: the listing of a bucket may come behind."""
    return pytree.exists(root / "initial" / "policy")


def _unused(names: Collection[str]) -> bool:
    """Whether a directory holds what launches leave that were refused before they computed anything, and no more."""
    return all(name in _LAUNCHED or name.startswith(".") for name in names)


def _grown(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The config `before` with what a later launch may say otherwise: how much is kept, and more iterations where those
    that are there were made as they would be made in the longer run."""
    fit = {**before.get("fit", {}), **{name: now["fit"][name] for name in _KEPT if name in now.get("fit", {})}}
    found = {**before, **({"fit": fit} if "fit" in before else {})}
    # all cannot be kept any more: some are deleted already
    if isinstance(before.get("keep_policies", 0), int | None) and now.get("keep_policies", 0) not in (None, 0):
        found["keep_policies"] = now["keep_policies"]
    alike = fit.get("schedule") == "fit" and fit.get("moments") == "fresh" and _every(before) == _every(now) == 1
    had, wanted = before.get("iterations"), now.get("iterations")
    if alike and isinstance(had, int) and isinstance(wanted, int) and had < wanted:
        found["iterations"] = wanted
    return found


def _every(config: dict[str, Any]) -> Any:
    """Iterations between evaluations."""
    return config.get("evaluation", {}).get("every")


_LAUNCHED = (
    *("config.json", "inputs.json", "lock", "datasets", "metrics.jsonl", "perf.jsonl", "profile"),
    *("tensorboard", "wandb"),
)
"""What a launch and its trackers write before anything is computed."""
_KEPT = ("checkpoint_every", "keep_checkpoints")
"""Of a fit: how much is kept of it while it lasts."""


def _without_placement(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in _PLACEMENT}


def refuse_other(root: epath.Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises ConfigError with what differs where a config is not the run's."""
    lines = difference(_without_placement(_grown(before, now)), _without_placement(now))
    if lines:
        more = [f"and {len(lines) - 20} more"] if len(lines) > 20 else []
        shown = "".join(f"\n  {line}" for line in lines[:20] + more)
        raise ConfigError(f"{root}: this directory holds a run of another config; choose another directory{shown}")
