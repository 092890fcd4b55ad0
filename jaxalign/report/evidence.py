"""One table over the arms of a comparison: what each comes to over seeds, and by how much it differs from a reference.

Each value comes with its interval and with what that covers:

prompts and seeds   win rates and other means over answers to held-out prompts that all seeds share: `report.crossed`
prompts             the same of a single seed
seeds               other metrics: Student's interval over seeds, whose held-out prompts are taken as given
seeds, own prompts  changes of a fit's loss on pairs that it has not seen: the same interval; each seed draws prompts of
                    its own for them, so that it covers these too

A difference from the reference is paired: of the same seed, which draws the same prompts, and the same base's answers,
for both arms, and where values are known by prompt of the same held-out prompt. Losses of fits are not compared between
arms, which minimise different ones. Each interval is at 95 % by itself; of twenty such, one misses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxalign.errors import ConfigError
from jaxalign.evals.intervals import BESIDE, Estimate, beside
from jaxalign.reopen import reopen
from jaxalign.report.arms import FIT, OF_FITS, Arm, measured_in
from jaxalign.report.by_prompt import Answered, answered
from jaxalign.report.crossed import crossed, over_seeds
from jaxalign.types import Metrics

SHOWN = (
    "win_rate/vs_base",
    "win_rate_length_controlled/vs_base",
    "win_rate_finished/vs_base",
    "win_rate_equally_long/vs_base",
    "robust_win_rate/worst",
    "drift/kl_from_base_nats",
    "text/finished",
    "text/tokens",
    "nash/gap",
    "nash/kl",
    "fits/heldout_change_mean",
    "fits/lowered",
)
"""Metrics that are compared where nobody names others, as far as an arm measures them; changes of each fit beside."""


@dataclass(frozen=True)
class Crossing:
    """A metric by seed and prompt, and how many prompts that count alike have a mean that varies as little, of the seed
    that has the fewest."""

    table: Float[np.ndarray, "s b"]
    effective: float


@dataclass(frozen=True)
class Measured:
    """What the finished runs of an arm have measured, by seed; `answered` where it is known by prompt."""

    metrics: Mapping[int, Metrics]
    answered: Mapping[int, Answered]
    unfinished: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Metrics that all seeds have, errors and ends of intervals left out."""
        first, *others = self.metrics.values()
        return tuple(name for name in first if all(name in each for each in others) and not beside(name, first))

    def by_prompt(self, name: str, seeds: Sequence[int]) -> Crossing | None:
        """A metric by seed and prompt; None where that is not known, seeds were asked different prompts, or a
        single one."""
        there = [self.answered[seed] for seed in seeds if seed in self.answered]
        alike = all(name in each.values and each.prompts == there[0].prompts for each in there)
        if len(there) < len(seeds) or not alike or len(there[0].prompts) < 2:
            return None
        found = [each.values[name] for each in there]
        return Crossing(np.stack([each.values for each in found]), min(each.effective for each in found))

    def prompts_of(self, seed: int) -> tuple[str, ...] | None:
        """What a seed's policy was asked."""
        return self.answered[seed].prompts if seed in self.answered else None


def read(arm: Arm, config: str | None = None, before: Measured = Measured({}, {})) -> Measured:
    """An arm from its files; its judges are asked again, but for what they said `before` of a run that has measured the
    same since, to the last digit. `config` as for `reopen`."""
    metrics = {seed: measured_in(path) for seed, path in arm.runs.items()}
    same = {seed: before.answered.get(seed) for seed, each in metrics.items() if before.metrics.get(seed) == each}
    found = {seed: same.get(seed) or answered(reopen(path, config), metrics[seed]) for seed, path in arm.runs.items()}
    known = {seed: each for seed, each in found.items() if each is not None}
    return Measured(metrics, known, arm.unfinished)


def evidence(arms: Mapping[str, Measured], against: str | None, names: Sequence[str] = ()) -> dict[str, Any]:
    """The table, for evidence.json: arm → metric → mean, interval, what it covers, each seed's value with its interval
    over prompts, and the difference from the arm `against`.

    `names` are the metrics wanted, empty for those of `SHOWN`. ConfigError for a reference or a metric that is not
    there.
    """
    finished = {name: each for name, each in arms.items() if each.metrics}
    if against is not None and against not in finished:
        raise ConfigError(f"against {against!r}: no such arm is finished; there are {', '.join(finished) or 'none'}")
    there = {name: None for each in finished.values() for name in each.names}
    if missing := [name for name in names if name not in there]:
        raise ConfigError(f"no arm measures {', '.join(missing)}; there are {', '.join(sorted(there))}")
    fits = sorted((name for name in there if name.startswith(FIT)), key=lambda name: int(name.removeprefix(FIT)))
    wanted = names or [*(name for name in SHOWN if name in there), *fits]
    reference = finished[against] if against is not None else None
    return {
        "against": against,
        "metrics": list(wanted),
        "unfinished": {name: list(each.unfinished) for name, each in arms.items() if each.unfinished},
        "arms": {
            name: {
                "seeds": list(arm.metrics),
                "metrics": {
                    metric: _cell(arm, metric, reference if arm is not reference else None)
                    for metric in wanted
                    if metric in arm.names
                },
            }
            for name, arm in finished.items()
        },
    }


def _cell(arm: Measured, metric: str, reference: Measured | None) -> dict[str, Any]:
    seeds = tuple(arm.metrics)
    cell = _told(*_mean(arm, metric, seeds), [arm.metrics[seed][metric] for seed in seeds])
    cell["seeds"] = [_of_seed(arm.metrics[seed], metric, seed) for seed in seeds]
    if reference is not None and metric in reference.names and not metric.startswith((FIT, OF_FITS)):
        common = tuple(seed for seed in seeds if seed in reference.metrics)
        if common:
            values = [arm.metrics[seed][metric] - reference.metrics[seed][metric] for seed in common]
            cell["difference"] = _told(*_difference(arm, reference, metric, common, values), values)
            cell["difference"]["seeds"] = list(common)
    return cell


def _mean(arm: Measured, metric: str, seeds: Sequence[int]) -> tuple[Estimate | None, str]:
    """What an arm comes to, and what its interval covers."""
    if metric.startswith((FIT, OF_FITS)):
        return over_seeds([arm.metrics[seed][metric] for seed in seeds]), "seeds, own prompts"
    found = arm.by_prompt(metric, seeds)
    if found is None:
        return over_seeds([arm.metrics[seed][metric] for seed in seeds]), "seeds"
    return crossed(found.table, effective=found.effective), "prompts and seeds" if len(seeds) > 1 else "prompts"


def _difference(
    arm: Measured, reference: Measured, metric: str, seeds: Sequence[int], values: Sequence[float]
) -> tuple[Estimate | None, str]:
    """By how much an arm is above the reference, and what the interval covers: paired by seed, and by prompt where both
    answered the same ones."""
    one, other = (each.by_prompt(metric, seeds) for each in (arm, reference))
    if one is None or other is None or arm.prompts_of(seeds[0]) != reference.prompts_of(seeds[0]):
        return over_seeds(values), "seeds"
    count = min(one.effective, other.effective)
    if count < 2:  # of less than two prompts nothing is known of how prompts vary
        return over_seeds(values), "seeds"
    found = crossed(one.table - other.table, bounds=None, effective=count)
    return found, "prompts and seeds" if len(seeds) > 1 else "prompts"


def _told(found: Estimate | None, covers: str, values: Sequence[float]) -> dict[str, Any]:
    """An estimate in JSON; where there is none, the value without an interval."""
    if found is None:
        return {"mean": float(np.mean(values)), "stderr": None, "ci95": None, "covers": None}
    return {"mean": found.value, "stderr": found.stderr, "ci95": [found.low, found.high], "covers": covers}


def _of_seed(metrics: Metrics, metric: str, seed: int) -> dict[str, Any]:
    """A seed's own value, with what it knows of its error over prompts."""
    error, *ends = (metrics.get(f"{metric}{end}") for end in BESIDE)
    interval = None if None in ends else ends
    return {"seed": seed, "value": metrics[metric], "stderr": error, "ci95": interval}
