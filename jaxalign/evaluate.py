"""Evaluation inside a run: each iterate answers the held-out prompts once; evals and final tables share the answers."""

import dataclasses
import resource
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxalign.contracts.evals import merged
from jaxalign.contracts.oracle import CheckedOracle
from jaxalign.evals.context import Eval, HeldOut, iterate_name, iterate_number
from jaxalign.evals.cycles import cycle_metrics
from jaxalign.evals.win_rate import format_matrix, win_rate_matrix
from jaxalign.machine import Machine
from jaxalign.session import Session
from jaxalign.storage.record import read_perf
from jaxalign.storage.rundir import Iteration, RunDir
from jaxalign.types import Metrics, Oracle, Params, Preferences, Prompt, Rollouts

SAMPLES_SHOWN = 3
POLICIES_SHOWN = 8


def home(iterate: int) -> Iteration:
    """Where the artifacts of a policy lie: with the iteration that made it."""
    return iterate - 1 if iterate else "initial"


def evaluate(session: Session, iterate: int, policy: Params) -> Metrics:
    """The held-out answers of policy `iterate` and what the experiment's evals say of them, both committed."""
    where = home(iterate)
    if session.heldout:
        session.phase(where, "heldout", Rollouts, lambda: session.roll_heldout(policy, where))
    evals = session.experiment.evaluation.evals
    metrics = session.phase(where, "evals", dict[str, float], lambda: measure(evals, held_out(session, iterate)))
    session.recorder.log(where, "evals", 0, metrics)
    return metrics


def measure(evals: Iterable[Eval], context: HeldOut) -> Metrics:
    """All metrics of `evals` for the last policy of `context`."""
    return merged((measurement, measurement(context)) for measurement in evals)


def held_out(session: Session, iterate: int) -> HeldOut:
    """What evals of policy `iterate` see: its answers to the held-out prompts and those of all policies before it."""
    answers = Answers(session.run, range(iterate + 1))
    judge = session.experiment.judge
    oracle = session.judging(judge, home(iterate), "evals") if judge is not None else None
    return context_of(session.machine, session.run, oracle, session.heldout, answers)


def context_of(
    machine: Machine, run: RunDir, oracle: Oracle | None, prompts: tuple[Prompt, ...], responses: Mapping[str, Rollouts]
) -> HeldOut:
    """The context of evals over `responses`, by policy name, to `prompts`, judged by `oracle`; None: nobody judges."""

    def logps(who: str, rollouts: Rollouts) -> Float[np.ndarray, "b m"]:
        number = iterate_number(who)
        assert number is not None, f"{who} names no iterate"
        return machine.scorer.rollouts(machine.params(run.policy(number)), rollouts)

    return HeldOut(prompts, responses, oracle, logps, machine.key("evals", 0))


class Answers(Mapping[str, Rollouts]):
    """Held-out answers by policy name, read from the run when they are asked for."""

    def __init__(self, run: RunDir, numbers: Iterable[int]):
        self._run, self._numbers = run, {iterate_name(number): number for number in numbers}

    def __getitem__(self, who: str) -> Rollouts:
        return self._run.load(home(self._numbers[who]), "heldout", Rollouts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def summarise(session: Session) -> dict[str, Any]:
    """What the run came to: printed and committed as summary.json by one process, and returned."""
    if session.hosts.leader:
        _summarise(session)
    session.hosts.barrier("summary")
    return session.run.summary()


def _summarise(session: Session) -> None:
    last = session.experiment.iterations
    metrics = session.run.load(home(last), "evals", dict[str, float])
    summary = {
        "seconds": _seconds(session),
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "evals": metrics,
    }
    sections: list[str] = []
    if session.heldout:
        told, sections = _of_answers(session, metrics)
        summary = {**told, **summary}
    session.run.write_summary(summary)
    print("\n\n".join([*sections, *_closing(session, metrics)]))


def _of_answers(session: Session, metrics: Metrics) -> tuple[dict[str, Any], list[str]]:
    """What the policies' answers to held-out prompts say, for the summary and for a person: samples, and the matrix of
    win rates where somebody judges."""
    last = session.experiment.iterations
    answers, judge = Answers(session.run, range(last + 1)), session.experiment.judge
    oracle = CheckedOracle(judge) if judge is not None else None
    context = context_of(session.machine, session.run, oracle, session.heldout, answers)
    samples = _samples(context)
    told: dict[str, Any] = {"kl_from_base_nats": metrics.get("drift/kl_from_base_nats"), "samples": samples}
    sections = ["What changed (held-out prompts):\n" + "\n".join(map(_shown_sample, samples))]
    if oracle is not None:
        names, matrix = win_rate_matrix(dataclasses.replace(context, responses=_shown(context)))
        told |= {
            "win_rate_vs_base": metrics.get("win_rate/vs_base"),
            "win_rate_ci95": [metrics.get(f"win_rate/vs_base_ci95_{end}") for end in ("low", "high")],
            "win_rates": {"policies": list(names), "row_beats_column": matrix.tolist()},
        }
        sections.append(f"Win rates (row against column):\n{format_matrix(names, matrix)}")
    if session.run.has(last - 1, "preferences"):
        preferences = session.run.load(last - 1, "preferences", Preferences)
        told["cyclic_triples"] = cycle_metrics(preferences.prefer)["cycles/cyclic_triples"]
    return told, sections


def _closing(session: Session, metrics: Metrics) -> list[str]:
    """The last policy's metrics, and where all lies."""
    path = session.run.path
    evals = "\n".join(f"  {name:<40} {value:.4g}" for name, value in sorted(metrics.items()))
    return [
        f"Last policy ({iterate_name(session.experiment.iterations)}):\n{evals}",
        f"Everything lies in {path}\n"
        f"  jaxalign eval {path}          win rates again, on other prompts if you like\n"
        f"  jaxalign sample {path}        talk to any iterate\n"
        f"  jaxalign export {path} DIR    the last policy as a Hugging Face directory",
    ]


def _shown_sample(sample: Mapping[str, str]) -> str:
    return f"> {sample['prompt']}\n  base: {_clip(sample['base'])}\n  last: {_clip(sample['last'])}"


def _seconds(session: Session) -> float:
    """Compute of all launches together, from the committed phases and steps."""
    records = read_perf(session.run.path)
    return sum(record.get("perf/seconds", 0.0) + record.get("perf/step_seconds", 0.0) for record in records)


def _shown(context: HeldOut) -> dict[str, Rollouts]:
    """Answers of the base, the last policy and others evenly between them, few enough for a table."""
    at = np.unique(np.linspace(0, len(context.names) - 1, POLICIES_SHOWN).round().astype(int))
    return {who: context.responses[who] for who in (context.names[index] for index in at)}


def _samples(context: HeldOut) -> list[dict[str, str]]:
    """The first held-out prompts with the answers of the base and of the last policy."""
    base, current = context.responses["base"], context.current
    return [
        {"prompt": prompt.text, "base": base.texts[index][0], "last": current.texts[index][0]}
        for index, prompt in enumerate(context.prompts[:SAMPLES_SHOWN])
    ]


def _clip(text: str, width: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
