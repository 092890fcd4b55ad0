"""Compares what several experiments come to over seeds, with intervals, and against one of them.

DIR holds the arms: directories that are runs, or those of `jaxalign train --seeds`. All that is finished is compared
and the rest is named. The table goes to DIR/evidence.json and DIR/evidence.md too.

  jaxalign evidence runs/evidence --against random

Values of held-out answers come with intervals that cover prompts and seeds, differences are paired by seed and prompt;
`jaxalign.report.evidence` says what else covers what. The runs' judges are asked again about the last answers.
"""

import argparse

HELP = "a table of experiments over seeds: means, intervals, differences"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arms, which is the reference, and what is compared."""
    parser.add_argument("root", metavar="DIR", help="directory of the arms")
    parser.add_argument("--against", metavar="ARM", help="reference that differences are taken from (default: none)")
    parser.add_argument("--metrics", metavar="A,B,…", help="what is compared (default: win rates, drift, fits …)")
    parser.add_argument(
        "--config", metavar="FILE", help="the config file of runs whose components it defines; it is executed"
    )


def run(args: argparse.Namespace) -> None:
    """Writes the table and prints it."""
    from pathlib import Path

    from jaxalign.report.arms import arms_of
    from jaxalign.report.evidence import evidence, read
    from jaxalign.report.evidence_told import markdown, plain
    from jaxalign.storage import canonical, durable

    root = durable.absolute(args.root)
    arms = {name: read(arm, args.config) for name, arm in arms_of(Path(args.root)).items()}
    table = evidence(arms, args.against, args.metrics.split(",") if args.metrics else ())
    for name, content in (("evidence.json", canonical.to_json(table)), ("evidence.md", markdown(table).encode())):
        with durable.storage_errors(root, len(content)):
            durable.write_file(root / name, content)
    print(plain(table))
