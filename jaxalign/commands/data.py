"""What a person wants to know of preference data before training on it: counts, lengths, labels, biases, repetitions.

FILE is JSON Lines, a JSON array, CSV or TSV (also .gz, .zst), Parquet, or a directory of TFDS or ArrayRecord files; a
pattern in quotes names several. The shape is guessed from the names of its columns, unless --shape says it, and every
setting of the guess is an option: --answers output_a,output_b --prompt.field question. What was taken is shown as a
config has it.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxalign.data.comparisons.source import Comparisons
    from jaxalign.data.comparisons.summary import Measure

HELP = "what preference data holds, before training on it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, the shape, and how strict; settings of the source come as the rest."""
    parser.set_defaults(experiment_options=True)
    parser.add_argument("file", metavar="FILE", help="preference data, in a file, a pattern or a directory")
    parser.add_argument(
        "--shape", metavar="SHAPE", help="pairs, transcripts, votes, ranked, unpaired or rated; else guessed"
    )
    parser.add_argument("--prompts", metavar="FILE", help="the file that holds the prompts, where rows only name them")
    parser.add_argument(
        "--heldout", metavar="FILE", help="data to be evaluated on: what of it occurs in FILE is counted"
    )
    parser.add_argument("--split", default="train", metavar="SPLIT", help="of a TFDS directory (default train)")
    parser.add_argument("--limit", type=int, metavar="N", help="read the first rows only")
    parser.add_argument(
        "--skip", type=float, default=0.01, metavar="SHARE", help="bad rows to skip, as a share (default 0.01; 0: none)"
    )
    parser.add_argument(
        "--tokenizer", metavar="PLACE", help="count lengths in tokens of this Hugging Face directory or GGUF file"
    )
    parser.add_argument(
        "--signal",
        action="store_true",
        help="fit a bag of words to tell the preferred answer, on five folds of prompts",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Reads everything once and prints the summary."""
    from jaxalign.config.resolved import dump
    from jaxalign.data.comparisons.asked import Joined
    from jaxalign.data.comparisons.guess import KEYS
    from jaxalign.data.comparisons.summary import summarise
    from jaxalign.errors import ConfigError

    source = _source(args, args.file)
    heldout = None if args.heldout is None else _source(args, args.heldout)
    if args.prompts is not None and not any(
        isinstance(getattr(each, "prompt", None), Joined) for each in (source, heldout)
    ):
        raise ConfigError(
            f"--prompts {args.prompts}: no row of {args.file} names a prompt that would be looked up there (by a "
            f"column {', '.join(KEYS[:-1])} or {KEYS[-1]})"
        )
    summary = {"source": dump(source), "unit": "tokens" if args.tokenizer else "characters"}
    summary |= summarise(source, _measure(args.tokenizer), heldout, args.signal)
    if args.json:
        json.dump(summary, sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        from jaxalign.data.comparisons.shown import lines

        print("\n".join([f"read as {source}\n", *lines(summary)]))


def _source(args: argparse.Namespace, file: str) -> "Comparisons":
    from jaxalign.config.load import override, validate
    from jaxalign.data.comparisons.guess import SHAPES, guessed
    from jaxalign.data.tables.file import File, is_tfds
    from jaxalign.data.tables.strict import Skip, Stop
    from jaxalign.errors import ConfigError

    if args.shape not in (None, *SHAPES):
        raise ConfigError(f"--shape must be one of {', '.join(SHAPES)}, got {args.shape}")
    table = File(file, args.split, limit=args.limit)
    if longest := [each for each in _values(args.rest, "--table.max_line_bytes") if each.isdecimal()]:
        table = dataclasses.replace(table, max_line_bytes=int(longest[-1][:18]))  # what is guessed by is read, too
    on_bad_row = Skip(args.skip) if args.skip else Stop()
    validate(table)
    if args.split != "train" and not is_tfds(pathlib.Path(file)):
        raise ConfigError(f"--split {args.split}: {file} is no TFDS directory, and has no splits")
    validate(on_bad_row)
    source = guessed(table, args.shape, None if args.prompts is None else File(args.prompts), on_bad_row)
    source = override(source, args.rest)
    validate(source)
    return source


def _values(options: Sequence[str], name: str) -> list[str]:
    """What stands behind an option of that name, apart from it or with a `=`."""
    apart = [value for option, value in itertools.pairwise(options) if option == name]
    return apart + [option.partition("=")[2] for option in options if option.startswith(f"{name}=")]


def _measure(place: str | None) -> "Measure":
    if place is None:
        return lambda texts: list(map(len, texts))
    from jaxalign.formats.gguf import GgufFile
    from jaxalign.formats.huggingface import folder
    from jaxalign.text import added_tokens, gguf_tokenizer

    # a template is not asked for: base models have tokenizers too
    gguf = place.endswith(".gguf")
    found = (
        gguf_tokenizer.read(GgufFile(pathlib.Path(place))).tokenizer
        if gguf
        else added_tokens.read(folder(place)).tokenizer
    )
    return lambda texts: [len(ids) for ids in found.encode_batch_fast(texts, add_special_tokens=False)]
