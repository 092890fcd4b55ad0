"""Copies a config that comes with jaxalign to where you change it, or lists those there are.

jaxalign init                       a line for each
jaxalign init quickstart            ./quickstart.py
jaxalign init games/three_action_inpo my    my/three_action_inpo.py, and my/three_action.py, which it imports

Nothing is overwritten.
"""

import argparse

HELP = "copy a config that comes with jaxalign, or list them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What, and where to."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a starter, as the list calls it; without: the list")
    parser.add_argument("folder", nargs="?", default=".", metavar="DIR", help="where to (default: here); is created")


def run(args: argparse.Namespace) -> None:
    """Prints the list; or copies, and prints the copies and the command that runs them."""
    import pathlib
    import shlex

    from jaxalign.config.starters import copy, starters, title
    from jaxalign.errors import ConfigError

    if args.name is None:
        known = starters()
        width = max(map(len, known), default=0)
        print("\n".join(f"{name:<{width}}  {title(file)}" for name, file in known.items()))
        return
    if not args.folder:
        raise ConfigError("DIR is empty")
    copies = copy(args.name, pathlib.Path(args.folder))
    config = copies[0]
    print(*copies, sep="\n")
    print(f"jaxalign train {shlex.quote(str(config))} --workdir {shlex.quote(f'runs/{config.stem}')}")
