"""Side-by-side benchmarks. `jaxalign bench NAME --help` for the options of one."""

import argparse
import importlib
import json
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxalign.errors import JaxalignError

HELP = "side-by-side benchmarks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A benchmark is a module of `jaxalign.bench` with `HELP`, `add_arguments(parser)` and `run(args)` → rows. Numbers
    are read by `config.numbers`; what they cannot be together `run` refuses before it computes."""
    import jaxalign.bench

    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for found in sorted(module.name for module in pkgutil.iter_modules(jaxalign.bench.__path__) if not module.ispkg):
        module = importlib.import_module(f"jaxalign.bench.{found}")
        one = names.add_parser(found, help=module.HELP, description=module.__doc__)
        one.add_argument("--json", action="store_true", help="print JSON")
        module.add_arguments(one)


def run(args: argparse.Namespace) -> None:
    """Runs one benchmark and prints its rows as a table or as JSON. JaxalignError, after that, where a side has failed:
    one that is not installed is left out and no failure."""
    rows = importlib.import_module(f"jaxalign.bench.{args.name}").run(args)
    _show(rows, args.json)
    if failed := [row for row in rows if row.get("failed")]:
        raise JaxalignError(f"not measured: {'; '.join(_failure(row) for row in failed)}")


def _failure(row: Mapping[str, Any]) -> str:
    return f"{row.get('implementation', 'a side')} {row.get('skipped', '')}".rstrip()


def _show(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        json.dump(rows, sys.stdout, indent=2)
        print()
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
