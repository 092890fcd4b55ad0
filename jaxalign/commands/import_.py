"""Writes a Hugging Face directory or a GGUF file as a model directory in jaxalign's own layout.

From there every process of a pod reads only what its devices keep. One tensor at a time is in memory. An import that
was interrupted goes on where it stopped when the same command is given again; one that is finished is recognised.
"""

import argparse
import itertools

HELP = "a Hugging Face directory or GGUF file as a native model directory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """From where, to where, in which dtype."""
    parser.add_argument("source", metavar="SRC", help="Hugging Face directory, or .gguf file")
    parser.add_argument("directory", metavar="DST", help="new directory to write, or one to go on with")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of the weights")


def run(args: argparse.Namespace) -> None:
    """Imports and says what it wrote."""
    import jax

    from jaxalign.errors import ConfigError
    from jaxalign.exchange.importing import import_model
    from jaxalign.models.pretrained import Pretrained
    from jaxalign.progress import Progress

    if not args.directory:
        raise ConfigError("DST is empty: name the directory to write")
    model = Pretrained(args.source).open()
    done = itertools.count(1)
    with Progress(f"import into {args.directory}", len(jax.tree.leaves(model.abstract())), "parameters") as progress:
        made = import_model(model, args.directory, args.dtype, lambda name: progress(next(done)))
    print(f"{args.source} is in {args.directory} ({args.dtype}){'' if made else '; it was there already'}")
