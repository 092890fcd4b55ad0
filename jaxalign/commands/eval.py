"""Win rates between the iterates of a run.

Without --prompts from the held-out answers that the run holds; with it, the policies answer the prompts of a JSONL
file anew, with the run's own sampler. Every field of the run's placement is an option: --mesh.fsdp 1.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import PRNGKeyArray

    from jaxalign.evals.context import HeldOut
    from jaxalign.machine import Machine
    from jaxalign.rollouts.contract import Rollout
    from jaxalign.storage.rundir import RunDir
    from jaxalign.types import Preferences, Prompt, Rollouts

HELP = "win rates between the iterates of a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, which policies, which prompts; the run's placement comes as the rest."""
    parser.set_defaults(experiment_options=True)
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument(
        "--policies", metavar="N,N,…", help="policies, by number or base or last (default: all on disk)"
    )
    parser.add_argument(
        "--prompts", metavar="FILE", help="JSONL file of prompts to answer instead of the held-out ones"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="the config file of a run whose components it defines; it is executed"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Prints the matrix of win rates and every policy's evals."""
    from jaxalign.data.prompts import JsonlPrompts
    from jaxalign.errors import ConfigError
    from jaxalign.evals.win_rate import format_matrix, win_rate_matrix
    from jaxalign.evaluate import context_of, measure
    from jaxalign.judging import judging
    from jaxalign.reopen import reopen

    run = reopen(args.run, args.config)
    wanted = args.policies.split(",") if args.policies else map(str, run.directory.policies())
    numbers = sorted({run.policy_number(text) for text in wanted})
    run.check_judges()
    judge, evaluation = run.experiment.judge, run.experiment.evaluation
    if judge is None or evaluation.rollout is None:
        raise ConfigError(f"{args.run}: its policies answer nothing that somebody judges, so there are no win rates")
    machine = run.machine(args.rest)
    prompts = JsonlPrompts(args.prompts).read() if args.prompts else None
    responses = answered(run.directory, machine, evaluation.rollout, numbers, prompts)

    trainer, block = run.experiment.trainer, machine.placement.judge_block_size

    def by_trainer(rollouts: "Rollouts", key: "PRNGKeyArray") -> "Preferences":
        assert trainer is not None
        with judging(trainer, machine.site, block) as asked:
            return asked(rollouts, key)

    with judging(judge, machine.site, block) as oracle:

        def context(names: "Sequence[str]") -> "HeldOut":
            some = {who: responses[who] for who in names}
            made = context_of(machine, run.directory, oracle, responses[names[0]].prompts, some)
            return dataclasses.replace(made, trainer=by_trainer if trainer is not None else None)

        names, matrix = win_rate_matrix(context(list(responses)))
        evals = {who: measure(evaluation.evals, context(names[: index + 1])) for index, who in enumerate(names)}
    if args.json:
        print(json.dumps({"policies": names, "row_beats_column": matrix.tolist(), "evals": evals}, indent=2))
        return
    print(f"Win rates (row against column):\n{format_matrix(names, matrix)}")
    for who, metrics in evals.items():
        lines = "\n".join(f"  {metric:<40} {value:.4g}" for metric, value in sorted(metrics.items()))
        print(f"\n{who}:\n{lines}")


def answered(
    run: "RunDir",
    machine: "Machine",
    rollout: "Rollout",
    numbers: list[int],
    prompts: "tuple[Prompt, ...] | None",
) -> "Mapping[str, Rollouts]":
    """Answers by policy name: new ones to `prompts`, or those to the held-out prompts that the run holds."""
    from jaxalign.evals.context import iterate_name
    from jaxalign.evaluate import Answers
    from jaxalign.rollouts.seam import rolled

    if prompts is None:
        return Answers(run, numbers)
    roller = machine.roller(rollout)
    roller.check(prompts)
    key = machine.key("eval", 0)
    policies = {iterate_name(number): run.policy(number) for number in numbers}
    return {who: rolled(roller, machine.params(slot), prompts, key) for who, slot in policies.items()}
