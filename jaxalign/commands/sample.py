"""Answers from any iterate of a run: to prompts given here or in a file, or in a conversation.

Without --prompt and --prompts it is a conversation: one line a turn, an empty line or Ctrl-D ends it. With --policy
mixture each prompt is answered by one of the policies that the run holds before its last, the base included, drawn for
it, and a conversation by one that is drawn once; stderr says which they are. That is how self-play without regret
answers, whose guarantee is of exact multiplicative weights and not of policies that are fitted to samples. Every field
of the run's placement is an option: --mesh.tensor 2, --rollout_rows 8.
"""

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import PRNGKeyArray

    from jaxalign.reopen import Run
    from jaxalign.rollouts.contract import Roller
    from jaxalign.rollouts.sample import Sample
    from jaxalign.types import Params

HELP = "talk to any iterate of a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, the policy, the prompts, the sampler; the run's placement comes as the rest."""
    parser.set_defaults(experiment_options=True, compiles=True)
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument(
        "--policy", default="last", metavar="N", help="number of a policy, or base, last (default) or mixture"
    )
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="a prompt; may be repeated")
    parser.add_argument("--prompts", metavar="FILE", help="JSONL file of prompts")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="answers a prompt (default 1)")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="longest answer (default 128)")
    parser.add_argument("--temperature", type=float, default=0.7, metavar="T", help="0 is greedy (default 0.7)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="nucleus mass (default 1: all)")
    parser.add_argument(
        "--config", metavar="FILE", help="the config file of a run whose components it defines; it is executed"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of all that is drawn (default 0); what else is asked changes no answer",
    )


def run(args: argparse.Namespace) -> None:
    """Prints answers, or converses."""
    import jax

    from jaxalign.config.overrides import refuse
    from jaxalign.config.ranges import seed_problems
    from jaxalign.data.comparisons.prompts import prompts_in
    from jaxalign.reopen import reopen
    from jaxalign.rollouts.keys import by_content
    from jaxalign.rollouts.one_of_policies import drawn, rolled_from
    from jaxalign.text.added_tokens import encodable
    from jaxalign.types import Prompt

    undecoded = (f"--prompt {text!r}: is not UTF-8 as it was typed" for text in args.prompt if not encodable(text))
    refuse([*seed_problems(args.seed, "--seed"), *undecoded])
    spec = _spec(args)
    run = reopen(args.run, args.config)
    numbers, machine = _policies(run, args.policy), run.machine(args.rest)
    roller, key = machine.roller(spec), jax.random.key(args.seed)

    def params(number: int) -> "Params":
        return machine.params(run.directory.policy(number))

    prompts = [Prompt(str(number), ({"role": "user", "content": text},)) for number, text in enumerate(args.prompt)]
    prompts += prompts_in(args.prompts) if args.prompts else []
    if not prompts:
        _converse(roller, params(int(drawn(numbers, key[None])[0])), key)
        return
    roller.check(prompts)
    keys = by_content(key, prompts)
    rollouts = rolled_from(roller, params, drawn(numbers, keys), prompts, keys)
    for prompt, texts in zip(rollouts.prompts, rollouts.texts, strict=True):
        print(f"> {prompt.text}")
        for text in texts:
            print(f"{text}\n")


def _policies(run: "Run", text: str) -> list[int]:
    """The policy that is meant, or all of the mixture, which stderr is told."""
    from jaxalign.errors import ConfigError
    from jaxalign.evals.context import iterate_name
    from jaxalign.rollouts.one_of_policies import MIXTURE, mixed

    if text != MIXTURE:
        return [run.policy_number(text)]
    found = mixed(run.directory.policies())
    if not found:
        raise ConfigError(f"--policy {MIXTURE}: {run.directory.path} holds no policy before its last one")
    print(f"{MIXTURE} of {', '.join(map(iterate_name, found))}", file=sys.stderr, flush=True)
    return found


def _spec(args: argparse.Namespace) -> "Sample":
    from jaxalign.config.load import validate
    from jaxalign.rollouts.sample import Sample
    from jaxalign.rollouts.samplers import Greedy, TopP

    sampler = TopP(args.top_p, args.temperature) if args.temperature else Greedy()
    spec = Sample(samples=args.samples, max_tokens=args.max_tokens, sampler=sampler)
    validate(spec)
    return spec


def _converse(roller: "Roller", policy: "Params", key: "PRNGKeyArray") -> None:
    import jax

    from jaxalign.rollouts.seam import rolled
    from jaxalign.types import Prompt

    history: list[dict[str, str]] = []
    while text := _ask():
        history.append({"role": "user", "content": text})
        prompt = Prompt(str(len(history)), tuple(history))
        roller.check([prompt])
        answer = rolled(roller, policy, [prompt], jax.random.fold_in(key, len(history))).texts[0][0]
        history.append({"role": "assistant", "content": answer})
        print(answer, flush=True)


def _ask() -> str:
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
