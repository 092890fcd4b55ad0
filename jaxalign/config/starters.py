"""Starters: the configs that come with the package, listed and copied to where they are to be changed.

A starter is called by its place among them, without .py: `tiny_lm`, `games/three_action`. In a wheel they lie in
`jaxalign/starters`, where setup.py puts them; the checkout has them once, in `configs`.
"""

import ast
import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from jaxalign.config.load import neighbour
from jaxalign.errors import ConfigError

PACKAGE = Path(__file__).parents[1]


def root() -> Path:
    """The folder of all starters. Raises ConfigError where there is none."""
    for folder in (PACKAGE / "starters", PACKAGE.parent / "configs"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"{PACKAGE / 'starters'}: not there; this package was installed without its configs")


def starters() -> dict[str, Path]:
    """File by name: those of no folder first, the others by folder."""
    files = {file.relative_to(root()).with_suffix(""): file for file in root().rglob("*.py")}
    return {name.as_posix(): files[name] for name in sorted(files, key=lambda name: (name.parent.parts, name.name))}


def title(file: Path) -> str:
    """The first sentence of a config's docstring, in one line."""
    said = (ast.get_docstring(ast.parse(file.read_bytes())) or "").partition("\n\n")[0]
    return first_sentence(said)


def first_sentence(paragraph: str) -> str:
    """Without its full stop; that of "et al." ends none."""
    return re.split(r"(?<!\bet al)\.(?:\s|$)", " ".join(paragraph.split()), maxsplit=1)[0]


def chosen(name: str) -> Path:
    """The file of a starter. Raises ConfigError, naming what is near."""
    known = starters()
    if name in known:
        return known[name]
    same = [each for each in known if each.rpartition("/")[2] == Path(name).stem]
    near = same or difflib.get_close_matches(name, known, 3)
    raise ConfigError(
        f"no starter is called {name!r}; " + (f"nearest: {', '.join(near)}" if near else "`jaxalign init` lists them")
    )


def with_neighbours(file: Path) -> list[Path]:
    """The config, then the files beside it that it imports, and those that they import."""
    found = [file]
    for each in found:  # grows as it is walked
        found += [other for other in dict.fromkeys(_imported(each)) if other not in found]
    return found


def _imported(file: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(file.read_bytes())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
        yield from (beside for name in names if (beside := neighbour(file.parent, name)) is not None)


def copy(name: str, folder: Path) -> list[Path]:
    """Copies a starter and what it imports into `folder`, which is created; the copies, the starter's first.

    What lies there already with the same bytes stays. Raises ConfigError, before anything is written, where a file
    would be overwritten.
    """
    copies = {folder / file.name: file.read_bytes() for file in with_neighbours(chosen(name))}
    missing = [target for target in copies if not os.path.lexists(target)]
    others = [str(target) for target in copies if target not in missing and not _holds(target, copies[target])]
    if others:
        raise ConfigError(f"{', '.join(others)}: already there, and not what would be copied; nothing was written")
    folder.mkdir(parents=True, exist_ok=True)
    for target in missing:
        with open(target, "xb") as file:  # nor what has come since
            file.write(copies[target])
    return list(copies)


def _holds(target: Path, content: bytes) -> bool:
    return target.is_file() and target.read_bytes() == content
