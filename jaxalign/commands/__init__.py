"""The verbs of the command line, one a module.

A verb is a module here, called by its name (with the underscore that Python wants behind its own words: import_):
`HELP` (one line), `add_arguments(parser)` and `run(args)`. One that sets the default `experiment_options=True` finds
the options it did not declare in `args.rest`; elsewhere they are refused. One that sets `compiles=True` keeps what it
compiles for later launches. Modules are imported only when their verb is called, and import what is slow only when they
run, so that a mistyped option is answered at once.
"""

import argparse
import importlib
import keyword
import pkgutil
from typing import Any

COMPILED = (
    "folder that compiled programs are read from and kept in for later launches; off: none "
    "(default: $JAX_COMPILATION_CACHE_DIR, or one in your cache)"
)


def verbs() -> list[str]:
    """Names of all verbs."""
    return sorted(module.name.rstrip("_") for module in pkgutil.iter_modules(__path__))


def command_of(verb: str) -> Any:
    """The module of a verb."""
    return importlib.import_module(f"{__name__}.{verb}{'_' if keyword.iskeyword(verb) else ''}")


def look(command: Any) -> dict[str, Any]:
    """What a verb's parser is made with, beside its name."""
    return {
        "description": command.__doc__,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "conflict_handler": "resolve",
        "allow_abbrev": False,
    }


def declare(parser: argparse.ArgumentParser, command: Any) -> None:
    """Gives a parser the options of a verb."""
    parser.set_defaults(experiment_options=False, compiles=False)
    command.add_arguments(parser)
    if parser.get_default("compiles"):
        parser.add_argument("--compiled", metavar="DIR", help=COMPILED)
