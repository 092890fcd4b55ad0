"""Writes a policy of a run as a Hugging Face directory, which transformers loads with the same log-probs."""

import argparse

HELP = "a policy as a Hugging Face directory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, where to, which policy, in which dtype."""
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument("directory", metavar="DIR", help="new directory to write")
    parser.add_argument("--policy", default="last", metavar="N", help="number of a policy, or base, or last (default)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of the weights")


def run(args: argparse.Namespace) -> None:
    """Exports and says what it wrote."""
    from jaxalign.export import export
    from jaxalign.reopen import policy_number, reopen

    session = reopen(args.run)
    number = policy_number(session, args.policy)
    export(session.model, session.policy(number), args.directory, args.dtype)
    print(f"policy {number} of {session.run.path} is in {args.directory} ({args.dtype})")
