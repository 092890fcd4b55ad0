"""What rows of recorded pairs hold: padding, and tokens that are computed for each pair, by rules.

The pairs of a config, tokenised as its run would (or with other limits), laid into rows for a pass over all of them and
for the steps of an epoch. Nothing is computed on devices: a row is its length.
"""

import argparse
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jaxalign.config.numbers import Whole
from jaxalign.config.overrides import refuse

if TYPE_CHECKING:
    from jaxalign.data.groups import TrainingGroups
    from jaxalign.experiment import Experiment
    from jaxalign.training.row_rule import RowRule

HELP = "padding of rows of recorded pairs, by how they are laid"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which pairs, and how long rows are."""
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="configs on recorded pairs")
    parser.add_argument("--tokens", type=Whole(), default=4096, help="tokens of a packed row, at most (default 4096)")
    parser.add_argument("--groups", type=Whole(), default=1, help="pairs of a prompt drawn together (default 1)")
    parser.add_argument("--batch-size", type=Whole(), default=64, help="pairs of a step (default 64)")
    parser.add_argument("--rows", type=Whole(), default=8, help="rows scored together (default 8)")
    parser.add_argument("--shards", type=Whole(), default=1, help="what rows of a step are a multiple of (default 1)")
    parser.add_argument("--prompt-tokens", type=Whole(), help="longest prompt (default: the config's)")
    parser.add_argument("--answer-tokens", type=Whole(), help="longest answer (default: the config's)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows: pairs, how they are laid, rows and their tokens, padding, tokens a pair."""
    if args.batch_size % args.groups:
        refuse([f"--batch-size {args.batch_size}: must be a multiple of --groups {args.groups}"])
    experiments = {path: recorded_in(path, args.prompt_tokens, args.answer_tokens) for path in args.configs}
    with tempfile.TemporaryDirectory(prefix="jaxalign-bench-") as folder:
        return [
            {"config": pathlib.Path(path).stem, **row}
            for path, experiment in experiments.items()
            for row in laid(groups_of(experiment, pathlib.Path(folder)), args)
        ]


def recorded_in(path: str, prompt: int | None, answer: int | None) -> "Experiment":
    """The experiment of a config, without pairs that are held out, and with other limits where they are given. Raises
    ConfigError where it records none."""
    from jaxalign.config.load import load
    from jaxalign.errors import ConfigError
    from jaxalign.feedback.recorded import Recorded

    experiment = load(path)
    feedback = experiment.feedback
    if not isinstance(feedback, Recorded):
        raise ConfigError(f"{path}: its pairs are sampled; this is of recorded ones")
    prompt, answer = prompt or feedback.max_prompt_tokens, answer or feedback.max_tokens
    feedback = dataclasses.replace(feedback, heldout=None, max_prompt_tokens=prompt, max_tokens=answer)
    return dataclasses.replace(experiment, feedback=feedback)


def groups_of(experiment: "Experiment", folder: pathlib.Path) -> "TrainingGroups":
    """Its pairs, tokenised below `folder`."""
    from jaxalign.feedback.recorded import Recorded
    from jaxalign.machine import Machine

    assert isinstance(experiment.feedback, Recorded), "see recorded_in"
    machine = Machine(experiment.model.open(), experiment.placement, experiment.seed)
    return experiment.feedback.open(machine, folder, 1).pairs


def laid(groups: "TrainingGroups", args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for a pass and one for an epoch's steps, by each rule."""
    from jaxalign.data.order import GroupOrder
    from jaxalign.training.one_prompt import OnePrompt
    from jaxalign.training.packed import Packed
    from jaxalign.training.row_plan import costs_of, of_rows

    def told(kind: str, name: str, found: Iterator[Any]) -> dict[str, Any]:
        cells = tokens = count = rows = 0
        shapes = set()
        for numbers, shape in found:
            shapes.add((len(numbers), shape))
            rows += len(numbers)
            cells += len(numbers) * shape.row
            tokens += int(of_rows(groups, numbers).row.sum())
            count += int((numbers >= 0).sum())
        return {
            "pairs": count,
            "laid": name,
            "for": kind,
            "rows": rows,
            "row_tokens": max(shape.row for _, shape in shapes),
            "shapes": len(shapes),
            "padding": 1 - tokens / cells,
            "tokens_a_pair": cells / count,
        }

    rules: dict[str, RowRule] = {
        "one prompt a row": OnePrompt(args.groups),
        "one prompt a row, 4 shapes": OnePrompt(args.groups, shapes=4),
        "packed": Packed(args.tokens, args.groups),
        "packed, 4 shapes": Packed(args.tokens, args.groups, shapes=4),
    }
    for name, rule in rules.items():
        if "4 shapes" not in name or isinstance(rule, OnePrompt):
            yield told("pass", name, rule.passes(groups, args.rows).batches(args.rows))
        units = rule.units(groups)
        for batches in ("shuffled", "level"):
            costs = costs_of(groups, units.rows) if batches == "level" else None
            if costs is not None and isinstance(rule, OnePrompt):
                continue
            order = GroupOrder(len(units.rows), args.batch_size // args.groups, 1, 0, costs)
            steps = rule.steps(groups, units, order, args.shards)
            yield told(f"steps, {batches}", name, (steps[k] for k in range(len(order))))
