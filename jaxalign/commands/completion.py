"""Prints a script that completes jaxalign's verbs, options and files in a shell, made from the options themselves.

bash    jaxalign completion bash > ~/.local/share/bash-completion/completions/jaxalign
zsh     jaxalign completion zsh > DIR/_jaxalign        DIR is in $fpath, before compinit

Make it anew with a new version. The options that a config has (--loss.beta) are not in it: `jaxalign train CONFIG
--help` lists them.
"""

import argparse

HELP = "a script for bash or zsh that completes verbs, options, files"

FILES = ("CONFIG", "FILE", "PLACE", "SOURCE", "SRC")
DIRECTORIES = ("DIR", "DST", "RUN")
"""What options of these metavars take."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell that is to read it")


def run(args: argparse.Namespace) -> None:
    """Prints the script. Imports the benchmarks, which know their own options, and so JAX."""
    import shtab

    print(shtab.complete(everything(), shell=args.shell))


def everything() -> argparse.ArgumentParser:
    """All verbs in one parser, as scripts of completion want them."""
    from jaxalign.commands import command_of, declare, look, verbs
    from jaxalign.config.starters import starters

    parser = argparse.ArgumentParser(prog="jaxalign")
    parser.add_argument("--version", action="store_true", help="what is installed")
    found = parser.add_subparsers(dest="verb", metavar="VERB")
    for verb in verbs():
        command = command_of(verb)
        one = found.add_parser(verb, help=command.HELP, **look(command))
        declare(one, command)
        take_places(one)
        if verb == "init":
            next(action for action in one._actions if action.dest == "name").choices = list(starters())
    return parser


def take_places(parser: argparse.ArgumentParser) -> None:
    """Marks which options take files and which take directories, also those of a verb's own verbs."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for other in action.choices.values():
                take_places(other)
        elif action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in DIRECTORIES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
