"""The command line: `jaxalign VERB …`, the same program as `python -m jaxalign VERB …`.

What a verb is: `jaxalign.commands`. Here one is found, its options are read, it runs, and whatever ends it becomes a
line and an exit code.
"""

import argparse
import io
import os
import sys

from jaxalign.commands import command_of, declare, look, verbs
from jaxalign.config.resolved import redacted
from jaxalign.errors import BUCKET_LIBRARIES, JaxalignError, first_line
from jaxalign.mesh.compiled import keep_compiled


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0, or that of the JaxalignError that ended it."""
    arguments = sys.argv[1:] if argv is None else argv
    overview = argparse.ArgumentParser(
        prog="jaxalign", description="Aligns language models with general preferences.", add_help=False
    )
    overview.add_argument("-h", "--help", action="store_true")
    overview.add_argument("--version", action="store_true")
    overview.add_argument("verb", nargs="?", choices=verbs(), metavar="VERB")
    known, _ = overview.parse_known_args(arguments[:1])
    verb = "version" if known.version else known.verb
    if verb is None:
        print(_overview())
        return 0 if known.help else 2
    command = command_of(verb)
    parser = argparse.ArgumentParser(prog=f"jaxalign {verb}", **look(command))
    declare(parser, command)
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
        _tell(verb, f"{place}{error.strerror or first_line(error)}")
        return JaxalignError.exit_code
    except JaxalignError as error:
        _tell(verb, str(error))
        return error.exit_code
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in BUCKET_LIBRARIES:
            raise
        _tell(verb, f"the bucket: {type(error).__name__}: {first_line(error)}")
        return JaxalignError.exit_code


def _tell(verb: str, what: str) -> None:
    """On standard error, without what looks like a secret: errors say what was typed, and what servers answered."""
    print(f"jaxalign {verb}: {redacted(what)}", file=sys.stderr)


def speak() -> None:
    """A terminal that cannot show a character gets its name: models say anything, and no run is to end of it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _overview() -> str:
    lines = (f"  {verb:<10} {command_of(verb).HELP}" for verb in verbs())
    return "\n".join(
        ["usage: jaxalign VERB …      (jaxalign VERB --help for its options; jaxalign --version)", "", *lines]
    )


def run_and_leave() -> None:
    """The console script: leaves without waiting for threads that a failed save may have left behind."""
    from jaxalign.hosts.stop import leave

    leave(main())


if __name__ == "__main__":
    run_and_leave()
