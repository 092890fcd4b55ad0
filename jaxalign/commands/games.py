"""Every learner on one preference game, from one start: gaps, distances and policies at chosen steps, in fp64.

Without --game the three-action game of COMAL's synthetic experiment (arXiv 2410.23223), where the Nash policy is
(4, 3, 4) / 11. `gap` is the duality gap, both players counted: 2 max_y (P(y beats policy) - 1/2). `kl_to_nash` is
KL(Nash ‖ policy) in nats. Here eta is the step size and tau multiplies the KL to the anchor. Where COMAL cannot
contract with the given settings, standard error says so, and why, before anything runs.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from jaxalign.config.numbers import Whole
from jaxalign.config.ranges import LARGEST

HELP = "every learner on a preference game"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The game, the start, the hyper-parameters."""
    parser.add_argument("--game", metavar="FILE", help="CSV, text or .npy matrix of P(row beats column)")
    parser.add_argument("--start", metavar="P,P,…", help="start policy (default .2,.5,.3, or uniform with --game)")
    parser.add_argument("--eta", type=float, default=0.3, help="step size (default 0.3)")
    parser.add_argument("--tau", type=float, default=0.1, help="pull to the anchor (default 0.1)")
    parser.add_argument("--inner", type=Whole(), default=100, help="steps between anchor swaps (default 100)")
    parser.add_argument("--steps", metavar="N,N,…", default="1,10,100,1000,5000", help="steps to report (ascending)")
    parser.add_argument("--learners", metavar="A,B,…", default="", help="only these (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON: one object a learner")


def run(args: argparse.Namespace) -> None:
    """Prints the table, or JSON: for each learner an object whose `gap`, `kl_to_nash`, `policy`, … list one value for
    each of its `step`."""
    import jax
    import numpy as np

    from jaxalign.games.certificates import diagnose
    from jaxalign.games.compare import compare, every_learner
    from jaxalign.games.families import three_action
    from jaxalign.games.files import read_matrix
    from jaxalign.games.solve import nash

    prefer = three_action() if args.game is None else read_matrix(args.game)
    start = _start(args, len(prefer))
    steps = _steps(args.steps)
    only = _chosen(args.learners, sorted(every_learner()))
    _check(args)
    verdict = diagnose(prefer, nash(prefer), args.eta, args.tau, args.inner)
    print(f"COMAL at eta {args.eta:g}, tau {args.tau:g}, K {args.inner}: {verdict.reason}", file=sys.stderr)
    with jax.enable_x64(True):
        table = compare(prefer, np.asarray(start), steps, args.eta, args.tau, args.inner, only)
    if args.json:
        print(json.dumps({name: _columns(rows) for name, rows in table.items()}, indent=2))
        return
    print(f"{'learner':<14}{'step':>8}{'gap':>13}{'KL to Nash':>13}{'average gap':>13}  policy")
    for name, rows in table.items():
        for row in rows:
            shown = " ".join(f"{each:.4f}" for each in row.policy[:6]) + (" …" if len(row.policy) > 6 else "")
            print(f"{name:<14}{row.step:>8}{row.gap:>13.4g}{row.kl_to_nash:>13.4g}{row.average_gap:>13.4g}  {shown}")


def _columns(rows: Sequence[Any]) -> dict[str, list[Any]]:
    return {field.name: [getattr(row, field.name) for row in rows] for field in dataclasses.fields(rows[0])}


def _start(args: argparse.Namespace, size: int) -> list[float]:
    """The start policy; ConfigError unless it is a distribution over the game's actions, all of them possible."""
    from jaxalign.errors import ConfigError

    if args.start is None:
        return [1.0 / size] * size if args.game else [0.2, 0.5, 0.3]
    try:
        start = [float(each) for each in args.start.split(",")]
    except ValueError:
        raise ConfigError(f"--start {args.start}: probabilities separated by commas are expected") from None
    if len(start) != size:
        raise ConfigError(f"--start has {len(start)} probabilities, the game {size} actions")
    if not min(start) > 0.0 or not abs(sum(start) - 1.0) < 1e-6:
        raise ConfigError(f"--start {args.start}: must be positive and sum to 1 (here {sum(start):.8g})")
    return [each / sum(start) for each in start]


def _steps(text: str) -> list[int]:
    from jaxalign.errors import ConfigError

    try:
        steps = [int(each) for each in text.split(",")]
    except ValueError:
        raise ConfigError(f"--steps {text}: whole numbers separated by commas are expected") from None
    if steps != sorted(set(steps)) or steps[0] < 1 or steps[-1] > LARGEST:
        raise ConfigError(f"--steps {text}: must ascend, start at 1 or later and end at 2^53 at most")
    return steps


def _chosen(text: str, names: list[str]) -> list[str]:
    from difflib import get_close_matches

    from jaxalign.errors import ConfigError

    chosen = [each for each in text.split(",") if each]
    for each in chosen:
        if each not in names:
            near = get_close_matches(each, names, 1, 0.3)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"--learners: there is no {each}{hint} (there are {', '.join(names)})")
    return chosen


def _check(args: argparse.Namespace) -> None:
    from jaxalign.errors import ConfigError

    if not args.eta > 0 or not args.tau > 0:
        raise ConfigError(f"--eta and --tau must be positive, got {args.eta:g} and {args.tau:g}")
    if args.eta * args.tau > 1:
        raise ConfigError(f"eta tau = {args.eta * args.tau:g} exceeds 1: the anchor's share of a step overshoots")
