"""The command line: `jaxalign VERB …`, the same program as `python -m jaxalign VERB …`.

Every module of `jaxalign.commands` is a verb, found by its name (less the underscore that Python wants behind its own
words: import_): `HELP` (one line), `add_arguments(parser)` and
`run(args)`. A verb that sets the default `experiment_options=True` finds the options it did not declare in
`args.rest`; elsewhere they are refused. One that sets `compiles=True` keeps what it compiles for later launches.
Modules are imported only when their verb is called, and import what is slow only when they run, so that a mistyped
option is answered at once.
"""

import argparse
import importlib
import io
import keyword
import os
import pkgutil
import sys
from typing import Any

import jaxalign.commands
from jaxalign import __version__
from jaxalign.errors import JaxalignError, first_line
from jaxalign.mesh.compiled import keep_compiled

COMPILED = (
    "folder that compiled programs are read from and kept in for later launches; off: none "
    "(default: $JAX_COMPILATION_CACHE_DIR, or one in your cache)"
)


def verbs() -> list[str]:
    """Names of all verbs."""
    return sorted(module.name.rstrip("_") for module in pkgutil.iter_modules(jaxalign.commands.__path__))


def command_of(verb: str) -> Any:
    """The module of a verb."""
    return importlib.import_module(f"jaxalign.commands.{verb}{'_' if keyword.iskeyword(verb) else ''}")


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0, or that of the JaxalignError that ended it."""
    arguments = sys.argv[1:] if argv is None else argv
    overview = argparse.ArgumentParser(
        prog="jaxalign", description="Aligns language models with general preferences.", add_help=False
    )
    overview.add_argument("-h", "--help", action="store_true")
    overview.add_argument("--version", action="version", version=f"jaxalign {__version__}")
    overview.add_argument("verb", nargs="?", choices=verbs(), metavar="VERB")
    known, _ = overview.parse_known_args(arguments[:1])
    if known.verb is None:
        print(_overview())
        return 0 if known.help else 2
    command = command_of(known.verb)
    parser = argparse.ArgumentParser(
        prog=f"jaxalign {known.verb}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        conflict_handler="resolve",
        allow_abbrev=False,
    )
    parser.set_defaults(experiment_options=False, compiles=False)
    command.add_arguments(parser)
    if parser.get_default("compiles"):
        parser.add_argument("--compiled", metavar="DIR", help=COMPILED)
    speak()
    try:
        args, rest = parser.parse_known_args(arguments[1:])
        args.rest = rest
        if args.rest and not args.experiment_options:
            parser.error(f"unrecognized arguments: {' '.join(args.rest)}")
        if args.compiles:
            keep_compiled(args.compiled)
        command.run(args)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        # what is left in the buffer would fail again at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return JaxalignError.exit_code  # whoever read has closed: there is nobody to tell
    except OSError as error:
        # what no verb expects of a disk or a network: place and reason say more than where in here it was met
        place = f"{error.filename}: " if error.filename is not None else ""
        print(f"jaxalign {known.verb}: {place}{error.strerror or first_line(error)}", file=sys.stderr)
        return JaxalignError.exit_code
    except JaxalignError as error:
        print(f"jaxalign {known.verb}: {error}", file=sys.stderr)
        return error.exit_code


def speak() -> None:
    """A terminal that cannot show a character gets its name: models say anything, and no run is to end of it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _overview() -> str:
    lines = (f"  {verb:<8} {command_of(verb).HELP}" for verb in verbs())
    return "\n".join(["usage: jaxalign VERB …      (jaxalign VERB --help for its options)", "", *lines])


def run_and_leave() -> None:
    """The console script: leaves without waiting for threads that a failed save may have left behind."""
    from jaxalign.hosts.stop import leave

    leave(main())


if __name__ == "__main__":
    run_and_leave()
