"""Everything that can be known of an experiment before a pod is spent on it.

CONFIG and overrides are those of `jaxalign train` (`--loss.eta 0.01`). Shows one training row token by token, then a
table of checks: step 0, sampling, data, template, memory, likelihood, preferences. Nothing is written but to a
temporary directory. The exit code is 7 when there is a finding, 0 when there are only warnings.
"""

import argparse
import sys

HELP = "check an experiment before it runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config and form; the experiment's own options come as the rest."""
    parser.set_defaults(experiment_options=True, compiles=True)
    parser.add_argument("config", metavar="CONFIG", help="config file")
    parser.add_argument("--json", action="store_true", help="print a list of {check, status, measured, fix}")
    parser.add_argument(
        "--prompts", type=int, default=256, metavar="N", help="training prompts to look at (default 256)"
    )


def run(args: argparse.Namespace) -> None:
    """Examines and prints. Raises Findings when something must be mended first."""
    import pathlib
    import tempfile

    from jaxalign.config.load import load, override, validate
    from jaxalign.doctor.examine import examine
    from jaxalign.doctor.opened import Opened
    from jaxalign.doctor.outcome import Findings
    from jaxalign.doctor.report import as_json, coloured, row_lines, table_lines
    from jaxalign.doctor.row import tokens
    from jaxalign.errors import ConfigError, JaxalignError

    if args.prompts < 1:
        raise ConfigError(f"--prompts must be at least 1, got {args.prompts}")
    experiment = override(load(args.config), args.rest)
    validate(experiment)
    with tempfile.TemporaryDirectory(prefix="jaxalign-doctor-") as cache:
        opened = Opened(experiment, pathlib.Path(cache), args.prompts)
        outcomes = examine(opened)
    if args.json:
        print(as_json(outcomes))
    else:
        colour = coloured(sys.stdout)
        try:
            print("\n".join(row_lines(tokens(opened), colour)), end="\n\n")
        except JaxalignError as error:  # the table says it too, with what to do
            print(f"no training row: {error}\n")
        print("\n".join(table_lines(outcomes, colour)))
    if found := [outcome.check for outcome in outcomes if outcome.status == "finding"]:
        raise Findings(f"{len(found)} of {len(outcomes)} checks found something: {', '.join(found)}")
