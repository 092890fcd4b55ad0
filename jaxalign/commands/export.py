"""Writes a policy of a run as a Hugging Face directory, which transformers loads with the same log-probs.

Instead of a run, RUN may be a model: a native directory that `jaxalign import` made, or a .gguf file.
"""

import argparse

HELP = "a policy as a Hugging Face directory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, where to, which policy, in which dtype."""
    parser.add_argument("run", metavar="RUN", help="run directory, native model directory or .gguf file")
    parser.add_argument("directory", metavar="DIR", help="new directory to write")
    parser.add_argument("--policy", default="last", metavar="N", help="number of a policy, or base, or last (default)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of the weights")
    parser.add_argument("--adapter", action="store_true", help="of a LoRA run: the differences alone, as PEFT has them")
    parser.add_argument(
        "--base-name", metavar="NAME", help="what the adapter calls its base (default: where it was read)"
    )


def run(args: argparse.Namespace) -> None:
    """Exports and says what it wrote."""
    from jaxalign.errors import ConfigError
    from jaxalign.exchange import export, peft
    from jaxalign.formats import native
    from jaxalign.models.pretrained import Pretrained
    from jaxalign.reopen import experiment_of, machine_of, policy_number
    from jaxalign.storage import durable
    from jaxalign.storage.rundir import read_run

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
    run = read_run(args.run)
    number = policy_number(run, args.policy)
    machine = machine_of(run, experiment_of(run))
    model, params = machine.model, machine.params(run.policy(number))
    if args.adapter:
        peft.export_policy(model, params, args.directory, args.base_name or model.source, args.dtype)
        print(f"the adapter of policy {number} of {run.path} is in {args.directory} ({args.dtype})")
        return
    export.export(model, params, args.directory, args.dtype)
    print(f"policy {number} of {run.path} is in {args.directory} ({args.dtype})")
