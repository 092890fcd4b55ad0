"""What the iterates of a run are worth: win rates between them, and every policy's evals.

Without --prompts and --pairs from what the run holds: its held-out answers, and what its policies made of held-out
pairs. With --prompts the policies answer the prompts of a JSONL file anew, with the run's own sampler. With --pairs
they are measured on other preference data (its shape is guessed as `jaxalign data` does), whatever they were trained
on: how often each ranks two answers as people do. With --k users of the run's oracle pick from k answers of each policy
and --against l of an opponent's: how often they pick ours, and at worst over a pool. Without --policies also of the
mixture that draws for each prompt one of the policies that the run holds before its last, the base included; where the
run holds fewer answers, or none of a policy, its policies answer the same prompts anew. A policy's pool are those
before it and `evaluation.others`; the mixture's the last policy, which is not among the mixed, and these. Two runs are
compared with --others: then the pool of every policy of any of the runs is the base and the last policy of each, whose
answers are drawn for it. Every field of the run's placement is an option: --mesh.fsdp 1.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, PRNGKeyArray

    from jaxalign.evals.context import HeldOut
    from jaxalign.experiment import Experiment
    from jaxalign.feedback.recorded import Recording
    from jaxalign.machine import Machine
    from jaxalign.reopen import Run
    from jaxalign.storage.rundir import PolicySlot
    from jaxalign.training.pair_scores import PairScores
    from jaxalign.training.views import View
    from jaxalign.types import Metrics, Preferences, Rollouts

MOST = 4096
"""Answers to a prompt that `--k` and `--against` may ask for."""
HELP = "win rates and held-out accuracy of the iterates of a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, which policies, which prompts; the run's placement comes as the rest."""
    parser.set_defaults(experiment_options=True, compiles=True)
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument(
        "--policies",
        metavar="N,N,…",
        help="policies, by number or base or last (default: all on disk that the run evaluates)",
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--prompts", metavar="FILE", help="JSONL file of prompts to answer instead of the held-out ones")
    other.add_argument("--pairs", metavar="FILE", help="preference data to measure the policies on, and nothing else")
    parser.add_argument(
        "--config", metavar="FILE", help="the config file of a run whose components it defines; it is executed"
    )
    parser.add_argument("--k", metavar="K,K,…", help="answers of a policy that a user picks from, and nothing else")
    parser.add_argument(
        "--against", default="1", metavar="L,L,…", help="answers of the opponent beside them (default 1)"
    )
    parser.add_argument(
        "--others",
        metavar="RUN,RUN,…",
        help="with --k: finished runs of the same model and held-out prompts, whose last policies are in one pool "
        "with this run's and the base",
    )
    parser.add_argument("--out", metavar="DIR", help="where a figure of --k goes (needs matplotlib)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Prints the matrix of win rates, where somebody judges answers, and every policy's evals."""
    from jaxalign.errors import ConfigError
    from jaxalign.evals.context import iterate_name
    from jaxalign.evals.intervals import told
    from jaxalign.evals.win_rate import format_matrix
    from jaxalign.reopen import reopen
    from jaxalign.rollouts.one_of_policies import MIXTURE, mixed

    run = reopen(args.run, args.config)
    there = run.directory.policies()
    evaluated = [each for each in there if each in run.experiment.evaluated]
    numbers = sorted({run.policy_number(text) for text in args.policies.split(",")}) if args.policies else evaluated
    matrix, mixture = None, ""
    if args.k is None and args.out is not None:
        raise ConfigError("--out is where a figure of --k goes: give --k too, or neither")
    if args.k is None and args.others is not None:
        raise ConfigError("--others are opponents of --k samples: give --k too, or neither")
    if args.k is not None:
        run.check_judges()
        evals = on_k_samples(run, numbers, [] if args.policies else there, args)
        mixture = ", ".join(map(iterate_name, mixed(there))) if MIXTURE in evals else ""
    elif args.pairs is not None:
        evals = on_other_pairs(run, run.machine(args.rest), numbers, args.pairs)
    elif run.experiment.evaluation.rollout is not None:
        run.check_judges()
        matrix, evals = on_answers(run, run.machine(args.rest), numbers, args.prompts)
    else:
        if args.prompts is not None:
            raise ConfigError(f"{args.run}: its policies answer no prompts; give pairs to measure them on (--pairs)")
        evals = on_pairs(run, run.machine(args.rest), numbers)
    if args.json:
        rates = {} if matrix is None else {"row_beats_column": matrix.tolist()}
        rates |= {"mixture_of": mixture.split(", ")} if mixture else {}
        print(json.dumps({"policies": list(evals), **rates, "evals": evals}, indent=2))
        return
    sections = [] if matrix is None else [f"Win rates (row against column):\n{format_matrix(list(evals), matrix)}"]
    names = {MIXTURE: f"{MIXTURE} of {mixture}"}
    sections += [f"{names.get(who, who)}:\n{told(metrics)}" for who, metrics in evals.items()]
    print("\n\n".join(sections))


def on_answers(
    run: "Run", machine: "Machine", numbers: list[int], prompts: str | None
) -> "tuple[Float[np.ndarray, 'k k'] | None, dict[str, Metrics]]":
    """The matrix of win rates, None where nobody judges, and what the run's evals say of every policy: of its held-out
    answers, or of new ones to the prompts of a file."""
    from jaxalign.answers import answered
    from jaxalign.evals.win_rate import win_rate_matrix
    from jaxalign.evaluate import context_of, measure
    from jaxalign.judging import judging

    responses, others = answered(run, machine, numbers, prompts)
    judge, trainer, block = run.experiment.judge, run.experiment.trainer, machine.placement.judge_block_size

    def by_trainer(rollouts: "Rollouts", key: "PRNGKeyArray") -> "Preferences":
        assert trainer is not None
        with judging(trainer, machine.site, block) as asked:
            return asked(rollouts, key)

    with contextlib.nullcontext() if judge is None else judging(judge, machine.site, block) as oracle:

        def context(names: "Sequence[str]") -> "HeldOut":
            some = {who: responses[who] for who in names}
            asked, rule = responses[names[0]].prompts, run.experiment.fit.scored
            made = context_of(machine, run.directory, oracle, asked, some, rule)
            return dataclasses.replace(made, trainer=by_trainer if trainer is not None else None, others=others)

        names = list(responses)
        matrix = None if oracle is None else win_rate_matrix(context(names))[1]
        evals = {}
        for index, (who, number) in enumerate(zip(names, numbers, strict=True)):
            seen = dataclasses.replace(context(names[: index + 1]), pairs=held_pairs(run, number))
            evals[who] = measure(run.experiment.evaluation.evals, seen)
    return matrix, evals


def on_k_samples(run: "Run", numbers: list[int], there: list[int], args: argparse.Namespace) -> "dict[str, Metrics]":
    """How often users pick one of k answers of every policy, and of the mixture of the policies that are `there`, where
    this is of several."""
    from jaxalign.answers import answered, answered_by_pool, pool_for
    from jaxalign.config.load import validate
    from jaxalign.errors import ConfigError
    from jaxalign.evals.context import iterate_name
    from jaxalign.evals.k_samples import KSampleWinRate
    from jaxalign.evaluate import context_of
    from jaxalign.feedback.certifiable import meets_policy
    from jaxalign.judging import judging
    from jaxalign.oracles.k_samples import users_of
    from jaxalign.reopen import reopen
    from jaxalign.report.k_samples import draw_k_samples
    from jaxalign.rollouts.one_of_policies import MIXTURE, mixed

    asked = KSampleWinRate(_numbers("--k", args.k), _numbers("--against", args.against))
    validate(asked)
    users = users_of(run.experiment.judge)
    if args.pairs is not None or run.experiment.evaluation.rollout is None or users is None or meets_policy(users):
        raise ConfigError(f"--k: {args.run} needs answers to held-out prompts and an oracle whose annotators are users")
    others = [] if args.others is None else [reopen(path, args.config) for path in args.others.split(",")]
    pool = pool_for(run, others, "--others", same_prompts=args.prompts is None) if others else {}
    mixture = mixed(there) if len(there) > 2 else []
    machine, unasked = run.machine(args.rest), [number for number in there if mixture and number not in numbers]
    least = max(*asked.ks, *asked.opponents)
    responses, opponents = answered(run, machine, numbers, args.prompts, least, unasked)
    if pool:
        prompts = next(iter(responses.values())).prompts
        opponents = answered_by_pool(run, machine, pool, prompts, max(asked.opponents))
    with judging(users, machine.site, machine.placement.judge_block_size) as oracle:

        def context(names: "Sequence[str]") -> "HeldOut":
            some = {who: responses[who] for who in names}
            prompts, rule = responses[names[0]].prompts, run.experiment.fit.scored
            made = context_of(machine, run.directory, oracle, prompts, some, rule)
            return dataclasses.replace(made, others=opponents)

        names = [iterate_name(number) for number in numbers]
        contexts = {who: context(names[: index + 1]) for index, who in enumerate(names)}
        evals = {who: asked.facing(each, tuple(pool)) if pool else asked(each) for who, each in contexts.items()}
        if mixture:
            last = iterate_name(there[-1])  # not a member: its answers are independent of each member's
            members = [context((last, iterate_name(number))) for number in mixture]
            evals[MIXTURE] = asked.of_mixture(members, tuple(pool) or (last, *opponents))
    if args.out is not None:
        draw_k_samples(evals, Path(args.out))
    return evals


def _numbers(option: str, text: str) -> tuple[int, ...]:
    from jaxalign.errors import ConfigError

    if not all(each.strip().isdecimal() and len(each.strip()) < 10 for each in text.split(",")):
        raise ConfigError(f"{option}: numbers with commas between them, got {text!r}")
    found = tuple(int(each) for each in text.split(","))
    if max(found) > MOST:
        raise ConfigError(f"{option}: at most {MOST:,} answers are drawn to a prompt, got {max(found):,}")
    return found


def held_pairs(run: "Run", number: int) -> "PairScores | None":
    """What policy `number` made of the held-out pairs; None where none were held out."""
    from jaxalign.errors import ConfigError
    from jaxalign.storage.rundir import home
    from jaxalign.training.pair_scores import PairScores

    if not run.experiment.feedback.holds_out:
        return None
    if not run.directory.has(home(number), "heldout_pairs"):
        raise ConfigError(
            f"{run.directory.path}: policy {number} has not been measured on the held-out pairs; let the run go on, "
            "or name other --policies"
        )
    return run.directory.load(home(number), "heldout_pairs", PairScores)


def on_pairs(run: "Run", machine: "Machine", numbers: list[int]) -> "dict[str, Metrics]":
    """What the evals of a run whose policies answer nothing say of its held-out pairs."""
    from jaxalign.errors import ConfigError
    from jaxalign.evals.context import iterate_name
    from jaxalign.evaluate import context_of, measure

    if not run.experiment.feedback.holds_out:
        raise ConfigError(
            f"{run.directory.path}: its policies answer no prompts, and no pairs were held out; give some with --pairs"
        )
    blank, evals = (
        context_of(machine, run.directory, None, (), {}, run.experiment.fit.scored),
        run.experiment.evaluation.evals,
    )
    seen = {number: dataclasses.replace(blank, pairs=held_pairs(run, number)) for number in numbers}
    return {iterate_name(number): measure(evals, context) for number, context in seen.items()}


def on_other_pairs(run: "Run", machine: "Machine", numbers: list[int], file: str) -> "dict[str, Metrics]":
    """What the policies make of preference data in a file, each against the anchor of its own fit."""
    from jaxalign.evals.context import iterate_name
    from jaxalign.evals.pairs import HeldOutPairs
    from jaxalign.evaluate import context_of, measure

    blank = context_of(machine, run.directory, None, (), {}, run.experiment.fit.scored)
    asking = {"pairs", "log_odds"}
    evals = [each for each in run.experiment.evaluation.evals if set(each.needs) and set(each.needs) <= asking]
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        scores = scores_of(run, machine, numbers, recording(run, machine, file, Path(cache)))
        for number, pairs in scores:
            found[iterate_name(number)] = measure(evals or [HeldOutPairs()], dataclasses.replace(blank, pairs=pairs))
    return found


def recording(run: "Run", machine: "Machine", file: str, cache: Path) -> "Recording":
    """The preference data of a file, tokenised for the run's model: with the lengths that recorded pairs of the run
    may have, and else half of the context for answers, whatever its policies may say."""
    from jaxalign.data.comparisons.guess import guessed
    from jaxalign.data.tables.file import File
    from jaxalign.data.tables.strict import Stop
    from jaxalign.feedback.recorded import Recorded

    source, feedback = guessed(File(file), None, None, Stop()), run.experiment.feedback
    print(f"read as {source}", file=sys.stderr, flush=True)
    if isinstance(feedback, Recorded):
        return dataclasses.replace(feedback, pairs=source, heldout=None).open(machine, cache, 1)
    return Recorded(source, max_tokens=machine.model.config.context // 2).open(machine, cache, 1)


def viewed(experiment: "Experiment", machine: "Machine", data: "Recording") -> "View[Any]":
    """How pairs are seen: by the experiment's loss, or by DPO's where that one reads what they do not have."""
    from jaxalign.contracts.extras import extras_of
    from jaxalign.contracts.traced import check_loss
    from jaxalign.errors import DataError
    from jaxalign.losses.dpo import DPO
    from jaxalign.training.views import view_of

    loss, responses, outputs = experiment.loss, data.spec.responses, len(machine.model.config.outputs)
    try:
        check_loss(loss, experiment.combiner, data.labels, data.roles, outputs, responses)
        if "anchor_tokens" in extras_of(loss):
            raise DataError(f"loss {type(loss).__name__}: reads the anchor token by token, and here are sums")
    except DataError as error:
        if outputs:
            raise
        print(f"{error}; the loss that is told is {DPO()}", file=sys.stderr, flush=True)
        return view_of(machine.model, DPO(), responses)
    return view_of(machine.model, loss, responses)


def scores_of(
    run: "Run", machine: "Machine", numbers: list[int], data: "Recording"
) -> "Iterator[tuple[int, PairScores]]":
    """What each policy makes of the data, under the run's loss. Where this reads what is known of sampled answers only
    it is DPO's: accuracy and margin are the same."""
    import numpy as np

    from jaxalign.data.strays import check_strays
    from jaxalign.data.trained import as_trained
    from jaxalign.errors import ConfigError
    from jaxalign.experiment import members_of, outside
    from jaxalign.models.low_rank import frozen, trained
    from jaxalign.programs import pair_scorer
    from jaxalign.progress import Progress
    from jaxalign.references.blended import blended

    experiment, view = run.experiment, viewed(run.experiment, machine, data)
    check_strays(view.loss, data.pairs, "--pairs")
    scorer, groups = pair_scorer(experiment, machine, view), as_trained(view.loss, data.pairs)
    anchors: dict[int, Float[np.ndarray, "g r"]] = {}

    def slot(number: int) -> "PolicySlot":
        return run.directory.policy(number) if number >= 0 else outside(experiment, number).slot()

    def scores(where: "PolicySlot", what: str, anchor: "Float[np.ndarray, 'g r'] | None") -> "PairScores":
        policy = machine.params(where)
        with Progress(what, len(groups), "pairs") as progress:
            return scorer(trained(policy), frozen(policy), groups, anchor, between=progress)

    def sums(where: "PolicySlot", what: str) -> "Float[np.ndarray, 'g r']":
        policy, found = machine.params(where), np.zeros((len(groups), groups.responses), np.float32)
        with Progress(what, len(groups), "pairs") as progress:
            done = 0
            for numbers, each in scorer.sums(trained(policy), frozen(policy), groups, {}):
                found[numbers], done = each, done + len(numbers)
                progress(done)
        return found

    def anchor(of: int, number: int) -> "Float[np.ndarray, 'g r']":
        if number not in anchors:
            if not slot(number).exists():
                raise ConfigError(f"{run.directory.path}: policy {number}, an anchor of policy {of}, is deleted")
            anchors[number] = sums(slot(number), f"log-probs of policy {number}")
        return anchors[number]

    for number in numbers:
        table = None
        if "anchor" in view.loss.needs:
            members = members_of(experiment, run.directory, max(number - 1, 0))
            table = blended(experiment.reference, members, partial(anchor, number), (len(groups), groups.responses))
        yield number, scores(slot(number), f"pairs under policy {number}", table)
