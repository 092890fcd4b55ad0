"""Writes a policy of a run as a Hugging Face directory, which transformers loads with the same log-probs.

The run may have been trained anywhere, by any number of processes: neither its devices nor its prompts are needed, and
one tensor at a time is in memory. Instead of a run, RUN may be a model: a native directory that `jaxalign import` made,
or a .gguf file.
"""

import argparse
from pathlib import Path

HELP = "a policy as a Hugging Face directory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, where to, which policy, in which dtype."""
    parser.add_argument("run", metavar="RUN", help="run directory, native model directory or .gguf file")
    parser.add_argument("directory", metavar="DIR", help="new directory to write")
    parser.add_argument("--policy", default="last", metavar="N", help="number of a policy, or base, or last (default)")
    parser.add_argument(
        "--config", metavar="FILE", help="the config file of a run whose components it defines; it is executed"
    )
    parser.add_argument(
        "--mean-with",
        action="append",
        default=[],
        metavar="RUN",
        help="average the weights with the last policy of RUN",
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of the weights")
    parser.add_argument("--adapter", action="store_true", help="of a LoRA run: the differences alone, as PEFT has them")
    parser.add_argument(
        "--base-name", metavar="NAME", help="what the adapter calls its base (default: where it was read)"
    )


def run(args: argparse.Namespace) -> None:
    """Exports and says what it wrote."""
    import jax

    from jaxalign.errors import ConfigError
    from jaxalign.exchange import committed, export
    from jaxalign.formats import native
    from jaxalign.models.pretrained import Pretrained
    from jaxalign.reopen import reopen
    from jaxalign.storage import durable

    # Before anything asks for a device: the run may be training on those of this machine.
    jax.config.update("jax_platforms", "cpu")
    if args.base_name and not args.adapter:
        raise ConfigError("--base-name says what an adapter calls its base: give --adapter too, or neither")
    if args.run.endswith(".gguf") or native.is_native(durable.absolute(args.run)):
        if args.policy not in ("last", "base"):
            raise ConfigError(f"policy {args.policy!r}: {args.run} is a model, not a run; it has no numbered policies")
        if args.adapter:
            raise ConfigError(f"--adapter: {args.run} is a model, not a LoRA run; it has no adapter")
        export.convert(Pretrained(args.run).open(), args.directory, args.dtype)
        print(f"{args.run} is in {args.directory} ({args.dtype})")
        return
    run = reopen(args.run, args.config)
    if Path(args.directory).resolve().is_relative_to(run.directory.path):
        raise ConfigError(f"{args.directory}: is in the run's own directory, whose folders are its state; name another")
    number = run.policy_number(args.policy)
    model, slot = run.model, run.directory.policy(number)
    others = [reopen(path, args.config) for path in args.mean_with]
    each = [(model, slot), *((other.model, other.directory.policy(other.policy_number("last"))) for other in others)]
    for index, (_, policy) in enumerate(each):
        if any(policy.path == earlier.path for _, earlier in each[:index]):
            raise ConfigError(f"--mean-with {args.mean_with[index - 1]}: {policy.path} is in the mean already")
    if args.adapter and others:
        raise ConfigError("--mean-with averages whole weights, and an adapter is a product of two: leave one out")
    if others:
        committed.export_mean(each, args.directory, args.dtype)
        print(
            f"the mean of policy {number} of {run.directory.path} and of {len(others)} more runs is in {args.directory}"
        )
        return
    if args.adapter:
        committed.export_adapter(model, slot, args.directory, args.base_name or model.source, args.dtype)
    else:
        committed.export_policy(model, slot, args.directory, args.dtype)
    what = f"{'the adapter of ' if args.adapter else ''}policy {number}"
    print(f"{what} of {run.directory.path} is in {args.directory} ({args.dtype})")
