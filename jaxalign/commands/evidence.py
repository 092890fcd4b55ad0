"""Compares what several experiments come to over seeds, with intervals, and against one of them.

SOURCE is a directory that holds the arms, directories that are runs or those of `jaxalign train --seeds`; or the
measured.json of another such directory, wherever its runs are now. All that is finished is compared and the rest is
named. The table goes to evidence.json and evidence.md of the first directory, and what its runs have measured, seed by
seed and prompt by prompt, to measured.json; there runs stay that are not in the directory any more. Of files alone the
table is printed.

  jaxalign evidence runs/evidence --against random
  jaxalign evidence runs/evidence yesterday/measured.json --against random

Values of held-out answers come with intervals that cover prompts and seeds, differences are paired by seed and prompt;
`jaxalign.report.evidence` says what else covers what. The runs' judges are asked again about the last answers, once:
what measured.json says of a run that has measured the same since is not asked anew. Without the file all are.
"""

import argparse

HELP = "a table of experiments over seeds: means, intervals, differences"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arms, which is the reference, and what is compared."""
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="directory of the arms, or a measured.json of one")
    parser.add_argument("--against", metavar="ARM", help="reference that differences are taken from (default: none)")
    parser.add_argument("--metrics", metavar="A,B,…", help="what is compared (default: win rates, drift, fits …)")
    parser.add_argument(
        "--config", metavar="FILE", help="the config file of runs whose components it defines; it is executed"
    )


def run(args: argparse.Namespace) -> None:
    """Writes the table and prints it."""
    from pathlib import Path

    from jaxalign.report.arms import arms_of
    from jaxalign.report.evidence import Measured, evidence, read
    from jaxalign.report.evidence_told import markdown, plain
    from jaxalign.report.kept import decoded, encoded, remembered, together
    from jaxalign.storage import canonical, durable

    for source in args.sources:
        durable.refuse_bucket(source)
    files = {source: decoded(Path(source)) for source in args.sources if Path(source).is_file()}
    directories = {}
    for source in args.sources:
        if source not in files:
            there, file = arms_of(Path(source)), Path(source) / "measured.json"
            before = decoded(file) if file.is_file() else {}
            now = {name: read(arm, args.config, before.get(name, Measured({}, {}))) for name, arm in there.items()}
            directories[source] = remembered(now, before)
    table = evidence(together(directories | files), args.against, args.metrics.split(",") if args.metrics else ())
    for source, arms in list(directories.items())[:1]:
        root = durable.absolute(source)
        written = {
            "measured.json": encoded(arms),
            "evidence.json": canonical.to_json(table),
            "evidence.md": markdown(table).encode(),
        }
        for name, content in written.items():
            with durable.storage_errors(root, len(content)):
                durable.write_file(root / name, content)
    print(plain(table))
