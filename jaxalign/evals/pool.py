"""One pool of opponents for several runs: the base that they share, and the last policy of each.

What a policy wins at worst depends on who is in the pool. Each run's own earlier iterates are another one, by which two
runs cannot be compared; this pool is the same whichever of the runs is evaluated. The evaluated policy is in it too
where it is the last of its run, with answers that are independent of those that are evaluated.
"""

from collections.abc import Sequence
from itertools import count

from jaxalign.config.resolved import difference
from jaxalign.errors import ConfigError
from jaxalign.evals.context import iterate_name
from jaxalign.references.of_run import OfRun
from jaxalign.storage.rundir import RunDir, home
from jaxalign.types import Prompt, Rollouts


def pool_of(runs: Sequence[RunDir]) -> dict[str, OfRun]:
    """The opponents by name, in an order that does not depend on that of the runs: `base`, which is one policy since
    the runs' models are (`check_pool`), and `last-of-<run>`, by the ends of the directories in which they differ."""
    paths = sorted({str(run.path): run for run in runs}.items())
    base = {iterate_name(0): OfRun(paths[0][0], 0)}
    names = _ends([run.path.parts for _, run in paths])
    last = {f"last-of-{name}": OfRun(path, _iterations(run)) for name, (path, run) in zip(names, paths, strict=True)}
    return base | last


def check_pool(own: RunDir, others: Sequence[RunDir], option: str, same_prompts: bool) -> None:
    """Raises ConfigError, naming the `option` that asks for the pool, unless all the runs are finished, have their base
    and last policy, and theirs are policies of the model of `own` who answer alike; where `same_prompts`, the same
    held-out prompts."""
    for run in (own, *others):
        done, wanted = run.finished(), _iterations(run)
        if done < wanted:
            raise ConfigError(
                f"{option}: {run.path} has finished {done} of {wanted} iterations; let it go on to its end"
            )
        for number in (0, wanted):
            OfRun(str(run.path), number).check(own, option)
    for run in others:
        ways = [each.config["evaluation"]["rollout"] for each in (run, own)]
        if lines := difference({"rollout": ways[0]}, {"rollout": ways[1]}):
            shown = "".join(f"\n  evaluation.{line}" for line in lines)
            raise ConfigError(f"{option}: the policies of {run.path} answer held-out prompts otherwise{shown}")
        if same_prompts and _prompts(run) != _prompts(own):
            raise ConfigError(
                f"{option}: {run.path} has other held-out prompts than {own.path}; give some with --prompts"
            )


def _prompts(run: RunDir) -> tuple[Prompt, ...]:
    return run.load(home(0), "heldout", Rollouts).prompts


def _iterations(run: RunDir) -> int:
    return int(run.config["iterations"])


def _ends(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """The last parts of each path, as few as tell all apart."""
    least = next(length for length in count(1) if len({path[-length:] for path in paths}) == len(paths))
    return [".".join(part.strip("/") for part in path[-least:]) for path in paths]
