"""Evaluation inside a run: each iterate answers the held-out prompts once; evals and final tables share the answers."""

import dataclasses
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxalign.contracts.evals import merged
from jaxalign.contracts.scope import OpenableOracle
from jaxalign.evals.context import Eval, HeldOut, evenly, iterate_name, iterate_number, other_name
from jaxalign.evals.cycles import cycle_metrics
from jaxalign.evals.win_rate import among_all, matrix_of
from jaxalign.experiment import SAMPLES_SHOWN, Evaluation
from jaxalign.fits.check import fits_told
from jaxalign.machine import Machine
from jaxalign.models.low_rank import frozen, trained
from jaxalign.references.of_run import OfRun
from jaxalign.session import Session
from jaxalign.storage import pinned
from jaxalign.storage.record import compute_seconds, read_perf
from jaxalign.storage.rundir import Iteration, RunDir, home
from jaxalign.training.pair_scores import PairScores
from jaxalign.training.row_rule import RowRule
from jaxalign.types import Metrics, Oracle, Params, Preferences, Prompt, Rollouts

OF_GAMES = {"nash/gap": "duality_gap", "nash/kl": "kl_to_nash"}
"""What the summary of a run says of a game, by the names of the metrics."""

RATES = {
    "win_rate/vs_base": "win_rate_vs_base",
    "win_rate_length_controlled/vs_base": "win_rate_length_controlled_vs_base",
    "win_rate_finished/vs_base": "win_rate_finished_vs_base",
    "win_rate_equally_long/vs_base": "win_rate_equally_long_vs_base",
    "robust_win_rate/worst": "robust_win_rate",
    "robust_win_rate/mean": "robust_win_rate_mean",
}
"""What the summary of a run says of win rates, by the names of the metrics."""

ENDS = ("low", "high")

POLICIES_SHOWN = 8


def evaluate(session: Session, iterate: int, policy: Params) -> Metrics:
    """The held-out answers of policy `iterate` and what the experiment's evals say of them, both committed. Of a policy
    whose turn it is not only what others are measured against."""
    where, experiment = home(iterate), session.experiment
    if session.heldout_pairs is not None and session.anchor(iterate) == iterate and "anchor" in experiment.loss.needs:
        session.anchor_sums(iterate)  # the coming fits ask for them, with less memory to spare
    if iterate not in experiment.evaluated:
        return session.phase(where, "evals", dict[str, float], dict)
    if session.heldout:
        answer(session, iterate, policy)
    if session.heldout_pairs is not None:
        score_pairs(session, iterate, policy)
    metrics = session.phase(where, "evals", dict[str, float], lambda: judged_metrics(session, iterate))
    session.recorder.log(where, "evals", 0, metrics)
    return metrics


def answer(session: Session, iterate: int, policy: Params) -> None:
    """Commits the answers of policy `iterate` to the held-out prompts, and beside the base's those of other runs.

    Each policy draws with keys of its own: with those of another its answers would go along with the other's, and win
    rates would be of coupled answers, not of the product law that the game is defined by.
    """

    def commit(params: Callable[[], Params], where: Iteration, artifact: str, purpose: str, number: int) -> None:
        key = session.machine.key(purpose, number)
        session.phase(where, artifact, Rollouts, lambda: session.roll_heldout(params(), where, artifact, key))

    commit(lambda: policy, home(iterate), "heldout", "heldout", iterate)
    if iterate == 0:
        evaluation = session.experiment.evaluation
        for index, (other, artifact) in enumerate(zip(evaluation.others, others_of(evaluation), strict=True)):
            commit(partial(theirs, session.machine, other), "initial", artifact, "heldout_other", index)


def theirs(machine: Machine, other: OfRun) -> Params:
    """The parameters of another run's policy."""
    return machine.params(other.slot())


def judged_metrics(session: Session, iterate: int) -> Metrics:
    """What the experiment's evals measure of policy `iterate`, and what the oracle notes while they ask it."""
    evals, judge = session.experiment.evaluation.evals, session.experiment.judge
    if judge is None:
        return measure(evals, held_out(session, iterate, None))
    with session.judging(judge, home(iterate), "evals") as asked:
        context = held_out(session, iterate, asked)
        if session.experiment.trainer is not None:
            context = dataclasses.replace(context, trainer=partial(by_trainer, session, iterate))
        return measure(evals, context) | asked.metrics


def by_trainer(session: Session, iterate: int, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
    """What the judge of training says of policy `iterate` and the base: an artifact of its own, asked for by evals."""
    trainer, where = session.experiment.trainer, home(iterate)
    assert trainer is not None

    def judge() -> Preferences:
        with session.judging(trainer, where, "evals_by_trainer") as asked:
            return asked(rollouts, key)

    return session.phase(where, "evals_by_trainer", Preferences, judge)


def measure(evals: Iterable[Eval], context: HeldOut) -> Metrics:
    """All metrics of `evals` for the last policy of `context`."""
    return merged((measurement, measurement(context)) for measurement in evals)


def score_pairs(session: Session, iterate: int, policy: Params) -> None:
    """Commits what policy `iterate` makes of the held-out pairs, against the anchor of its own fit."""
    params, base, made_by = trained(policy), frozen(policy), max(iterate - 1, 0)
    make = partial(session.pair_scores, home(iterate), params, base, made_by, "held-out pairs", {})
    session.phase(home(iterate), "heldout_pairs", PairScores, make)


def held_out(session: Session, iterate: int, judge: Oracle | None) -> HeldOut:
    """What evals of policy `iterate` see: its answers to the held-out prompts and those of all that were evaluated
    before it, and what it makes of held-out pairs."""
    until = [number for number in session.experiment.evaluated if number <= iterate]
    answers = answers_of(session.run, until if session.heldout else ())
    rule = session.experiment.fit.scored
    context = context_of(session.machine, session.run, judge, session.heldout, answers, rule)
    context = dataclasses.replace(context, others=answers_of_others(session.run, session.experiment.evaluation))
    if session.heldout_pairs is None:
        return context
    return dataclasses.replace(context, pairs=session.run.load(home(iterate), "heldout_pairs", PairScores))


def context_of(
    machine: Machine,
    run: RunDir,
    oracle: Oracle | None,
    prompts: tuple[Prompt, ...],
    responses: Mapping[str, Rollouts],
    rule: RowRule,
) -> HeldOut:
    """The context of evals over `responses`, by policy name, to `prompts`, judged by `oracle`; None: nobody judges.
    Answers are scored in rows by `rule`."""

    def score(who: str, rollouts: Rollouts) -> Float[np.ndarray, "b m"]:
        number = iterate_number(who)
        assert number is not None, f"{who} names no iterate"
        return machine.scorer.rollouts(machine.params(run.policy(number)), rollouts, rule)

    return HeldOut(prompts, responses, oracle, score, machine.key("evals", 0))


class Answers(Mapping[str, Rollouts]):
    """Held-out answers by policy name, read from the run when they are asked for: `where` names their artifacts."""

    def __init__(self, run: RunDir, where: Mapping[str, tuple[Iteration, str]]):
        self._run, self._where = run, where

    def __getitem__(self, who: str) -> Rollouts:
        return self._run.load(*self._where[who], Rollouts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def answers_of(run: RunDir, numbers: Iterable[int]) -> Answers:
    """Those of the run's policies with these numbers."""
    return Answers(run, {iterate_name(number): (home(number), "heldout") for number in numbers})


def answers_of_others(run: RunDir, evaluation: Evaluation) -> Answers:
    """Those of policies of other runs."""
    artifacts = enumerate(others_of(evaluation))
    return Answers(run, {other_name(index): ("initial", artifact) for index, artifact in artifacts})


def others_of(evaluation: Evaluation) -> tuple[str, ...]:
    """Names of the artifacts that hold answers of policies of other runs."""
    return tuple(f"heldout_other_{index + 1}" for index in range(len(evaluation.others)))


def summarise(session: Session) -> dict[str, Any]:
    """What the run came to: committed as summary.json by one process, and returned."""
    last, judge = home(session.experiment.iterations), session.experiment.judge
    rates = None
    if session.heldout and judge is not None:
        if not session.run.has(last, "votes"):  # lost since: the same questions make both
            session.run.drop(last, "win_rates")
        rates = session.phase(last, "win_rates", WinRates, lambda: win_rates(session, judge))
    found = {
        "fits": fits_told(session.run, session.experiment.iterations),
        "versions": pinned.changed(session.run),
    }
    samples = shown(session) if session.heldout else []
    if session.hosts.leader:
        said = {name: value for name, value in found.items() if value}
        session.run.write_summary(_summary(session, rates, samples) | said)
    session.hosts.barrier("summary")
    return session.run.summary()


def shown(session: Session) -> list[Rollouts]:
    """What the base and the last policy answer to the held-out prompts that a person is shown, committed."""
    rollout, numbers = session.experiment.evaluation.shown, (0, session.experiment.iterations)
    if rollout is None:
        return [session.run.load(home(number), "heldout", Rollouts) for number in numbers]
    roller, prompts, key = session.machine.roller(rollout), session.heldout[:SAMPLES_SHOWN], session.machine.key

    def make(number: int) -> Rollouts:
        return session.roll(roller, session.policy(number), prompts, home(number), "shown", key("shown", number))

    return [session.phase(home(number), "shown", Rollouts, partial(make, number)) for number in numbers]


@dataclasses.dataclass(frozen=True)
class WinRates:
    """Row policy against column policy, for policies that are evenly chosen of all."""

    policies: tuple[str, ...]
    row_beats_column: Float[np.ndarray, "k k"]


@dataclasses.dataclass(frozen=True)
class Votes:
    """What the judge says of held-out answers: P(answer i of the last policy beats answer j of the base), by all of its
    annotators together and by each alone."""

    annotators: tuple[str, ...]
    prefer: Float[np.ndarray, "b m m"]
    by_annotator: Float[np.ndarray, "b o m m"]


def win_rates(session: Session, judge: Oracle | OpenableOracle) -> WinRates:
    """Of the base, the last policy and some between them, on the held-out prompts. What the judge said of the base and
    the last is committed too: nobody needs to ask it again."""
    last = session.experiment.iterations
    with session.judging(judge, home(last), "win_rates") as asked:
        context = held_out(session, last, asked)
        context = dataclasses.replace(context, responses=_shown(context.responses))
        preferences = among_all(context)
    session.run.phase(home(last), "votes", lambda: votes_of(preferences, context.current.lengths.shape[1]), Votes)
    return WinRates(context.names, matrix_of(context, preferences))


def votes_of(preferences: Preferences, samples: int) -> Votes:
    """Those of the last policy's answers against the base's: the last and the first `samples` along m."""
    prefer, by_annotator = (table[..., -samples:, :samples] for table in (preferences.prefer, preferences.by_annotator))
    return Votes(preferences.annotators, np.asarray(prefer), np.asarray(by_annotator))


def _summary(session: Session, rates: WinRates | None, samples: Sequence[Rollouts]) -> dict[str, Any]:
    """What summary.json says of costs, the last policy's metrics, its answers and its pairs, where it has some."""
    metrics = session.run.load(home(session.experiment.iterations), "evals", dict[str, float])
    answers = _of_answers(session, metrics, rates, samples) if session.heldout else {}
    pairs = _of_pairs(metrics) if session.heldout_pairs is not None else {}
    return {
        **pairs,
        **answers,
        "seconds": compute_seconds(read_perf(session.run.path)),
        "device_kind": jax.devices()[0].device_kind,
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "evals": metrics,
    }


def _of_answers(
    session: Session, metrics: Metrics, rates: WinRates | None, answers: Sequence[Rollouts]
) -> dict[str, Any]:
    """What the policies' answers to held-out prompts say: samples of the base's and the last policy's `answers`, and
    the matrix of win rates where somebody judges."""
    told: dict[str, Any] = {name: metrics[metric] for metric, name in OF_GAMES.items() if metric in metrics}
    told |= {
        "kl_from_base_nats": metrics.get("drift/kl_from_base_nats"),
        "samples": _samples(session.heldout, *answers),
    }
    if rates is not None:
        told |= _of_rates(metrics)
        told |= {
            "win_rates": {"policies": list(rates.policies), "row_beats_column": rates.row_beats_column.tolist()},
        }
    if session.experiment.feedback.oracle is not None:
        preferences = session.run.load(session.experiment.iterations - 1, "preferences", Preferences)
        told["cyclic_triples"] = cycle_metrics(preferences.prefer)["cycles/cyclic_triples"]
    return told


def _of_rates(metrics: Metrics) -> dict[str, Any]:
    """The last policy's win rates against the base by their kinds, and against the worst of a pool, each with its
    interval; those that were measured, and the raw one always."""
    told: dict[str, Any] = {}
    for metric, name in RATES.items():
        if metric in metrics or metric == "win_rate/vs_base":
            told[name] = metrics.get(metric)
            told[f"{name.removesuffix('_vs_base')}_ci95"] = [metrics.get(f"{metric}_ci95_{end}") for end in ENDS]
    return told


def _of_pairs(metrics: Metrics) -> dict[str, Any]:
    """What the held-out pairs say of the last policy, with intervals where an eval gives them."""
    told: dict[str, Any] = {}
    for name in ("loss", "accuracy", "margin_nats"):
        told[f"heldout_{name}"] = metrics.get(f"heldout/{name}")
        told[f"heldout_{name}_ci95"] = [metrics.get(f"heldout/{name}_ci95_{end}") for end in ENDS]
    return told


def _shown(responses: Mapping[str, Rollouts]) -> dict[str, Rollouts]:
    """Answers of the base, the last policy and others evenly between them, few enough for a table."""
    return {name: responses[name] for name in evenly(tuple(responses), POLICIES_SHOWN)}


def _samples(prompts: tuple[Prompt, ...], base: Rollouts, last: Rollouts) -> list[dict[str, str]]:
    """The first held-out prompts with the answers of the base and of the last policy."""
    return [
        {"prompt": prompt.text, "base": base.texts[index][0], "last": last.texts[index][0]}
        for index, prompt in enumerate(prompts[:SAMPLES_SHOWN])
    ]
