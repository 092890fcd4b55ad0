"""Win rates between the iterates of a run.

Without --prompts from the held-out answers that the run holds; with it, the policies answer the prompts of a JSONL
file anew, with the run's own sampler.
"""

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxalign.session import Session
    from jaxalign.types import Prompt, Rollouts

HELP = "win rates between the iterates of a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, which policies, which prompts."""
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument(
        "--policies", metavar="N,N,…", help="policies, by number or base or last (default: all on disk)"
    )
    parser.add_argument(
        "--prompts", metavar="FILE", help="JSONL file of prompts to answer instead of the held-out ones"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Prints the matrix of win rates and every policy's evals."""
    from jaxalign.data.prompts import JsonlPrompts
    from jaxalign.evals.win_rate import format_matrix, win_rate_matrix
    from jaxalign.evaluate import Answers, context_of, measure, name
    from jaxalign.reopen import policy_number, reopen

    session = reopen(args.run)
    wanted = args.policies.split(",") if args.policies else map(str, session.run.policies())
    numbers = sorted({policy_number(session.run, text) for text in wanted})
    prompts = JsonlPrompts(args.prompts).read() if args.prompts else session.heldout
    held: Mapping[str, Rollouts] = Answers(session, {name(number): number for number in numbers})
    responses = _answer(session, numbers, prompts) if args.prompts else held
    names, matrix = win_rate_matrix(context_of(session, prompts, responses))
    evals = {
        who: measure(session, context_of(session, prompts, {other: responses[other] for other in names[: index + 1]}))
        for index, who in enumerate(names)
    }
    if args.json:
        print(json.dumps({"policies": names, "row_beats_column": matrix.tolist(), "evals": evals}, indent=2))
        return
    print(f"Win rates (row against column):\n{format_matrix(names, matrix)}")
    for who, metrics in evals.items():
        lines = "\n".join(f"  {metric:<40} {value:.4g}" for metric, value in sorted(metrics.items()))
        print(f"\n{who}:\n{lines}")


def _answer(session: "Session", numbers: list[int], prompts: "tuple[Prompt, ...]") -> "Mapping[str, Rollouts]":
    from jaxalign.evaluate import name

    roller = session.experiment.evaluation.rollout.on(session.model, session.mesh)
    roller.check(prompts)
    key = session.key("eval", 0)
    return {name(number): roller(session.policy(number), prompts, key) for number in numbers}
