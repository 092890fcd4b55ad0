"""The command line's options `--a.b value` → values by dotted path, each read as its field's annotation says."""

import dataclasses
import difflib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxalign.config.settings import expected, parse, show
from jaxalign.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One setting: its value, the annotation of the field that holds it, the field's description (or "")."""

    value: Any
    annotation: Any
    doc: str = ""


def read(
    args: Sequence[str], leaves: Mapping[str, Leaf], components: Mapping[str, Any]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """(values by dotted path, problems) from `--a.b value` and `--a.b=value`.

    A value may start with a minus; one that starts with two needs the form with `=`. A problem is the path and a line
    on an unknown, repeated, misplaced, missing or ill-typed option; of words that belong to none the path is "".
    """
    values: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    seen = set[str]()
    for path, text in _options(args):
        try:
            if path in seen:
                raise ValueError("given twice")
            values[path] = _read_one(path, text, leaves, components)
        except ValueError as error:
            problems.append((path, f"{path}: {error}" if path else str(error)))
        seen |= {path} if path else set()
    return values, problems


def combinations(args: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """What a sweep is of: for each combination of options that are given more than once a name, such as
    "weights=0.1,0.9", and all options with one value each. Raises ConfigError for a value that is given twice, and for
    two settings of one name."""
    given: dict[str, list[str | None]] = {}
    for path, text in _options(args):
        given.setdefault(path, []).append(text)
    for path, texts in given.items():
        if len(set(texts)) < len(texts):
            raise ConfigError(f"{path}: a value is given twice")
    names = set[str]()
    for chosen in itertools.product(*given.values()):
        each = dict(zip(given, chosen, strict=True))
        swept = {path: text for path, text in each.items() if len(given[path]) > 1}
        name = "+".join(f"{path.rpartition('.')[2]}={text}" for path, text in swept.items()).replace("/", "_")
        if name in names:
            raise ConfigError(f"two settings would be called {name}")
        names.add(name)
        yield name, [_written(path, text) for path, text in each.items()]


def taken(args: Sequence[str], leaves: Sequence[Collection[str]]) -> list[list[str]]:
    """The options of each of several experiments, by the paths of its `leaves`: all of `args` but those that are given
    more than once and that another one has in its place. Such as nobody has are left to whoever reads them."""
    options = list(_options(args))
    paths = [path for path, _ in options]
    there = {path for each in leaves for path in each}
    elsewhere = [{path for path in paths if paths.count(path) > 1 and path in there - set(own)} for own in leaves]
    return [[_written(path, text) for path, text in options if path not in others] for others in elsewhere]


def _written(path: str, text: str | None) -> str:
    """The word that `_options` reads so."""
    if not path:
        return str(text)
    return f"--{path}" if text is None else f"--{path}={text}"


def refuse(problems: Iterable[str]) -> None:
    """Raises ConfigError with all of the problems, where there are any."""
    found = list(problems)
    if len(found) == 1:
        raise ConfigError(found[0])
    if found:
        raise ConfigError("\n  ".join([f"{len(found)} problems", *found]))


def _options(args: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(path, text) of each option; text None where it is missing, path "" where there is no option."""
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            yield "", word
            continue
        path, equals, text = word.removeprefix("--").partition("=")
        follows = bool(rest) and not rest[0].startswith("--")
        yield path or word, text if equals else rest.pop(0) if follows else None


def _read_one(path: str, text: str | None, leaves: Mapping[str, Leaf], components: Mapping[str, Any]) -> Any:
    if not path:
        raise ValueError(f'"{text}" belongs to no option; an option is written --name value')
    if path in components:
        inside = [f"--{name}" for name in leaves if name.startswith(f"{path}.")]
        some = f" (its options: {', '.join(inside[:4])}{', …' if inside[4:] else ''})" if inside else ""
        raise ValueError(
            f"{show(components[path])} is a component, not a value{some}; "
            "to choose another component, edit or fork the config file"
        )
    if path not in leaves:
        near = nearest(path, leaves)
        told = [*([f"nearest: {', '.join(near)}"] if near else []), *moved(path, leaves, components)]
        raise ValueError("unknown option; " + ("; ".join(told) or "--help lists all"))
    annotation = leaves[path].annotation
    if text is None:
        raise ValueError(f"value missing; {expected(annotation)} must follow")
    return parse(text, annotation)


def moved(path: str, leaves: Collection[str], components: Collection[str]) -> Iterator[str]:
    """Where the component lies that `path` begins with, if it lies deeper."""
    name, dot, _ = path.partition(".")
    if not dot or name in components:
        return
    for place in (found for found in components if found.endswith(f".{name}")):
        inside = [f"--{leaf}" for leaf in leaves if leaf.startswith(f"{place}.")]
        yield f"{name} is {place} ({', '.join(inside[:4])}{', …' if inside[4:] else ''})"


def nearest(path: str, paths: Collection[str]) -> list[str]:
    """At most three of `paths` that `path` may have meant, as options; those with the same last name go first."""
    word = path.rpartition(".")[2]
    same = [name for name in paths if name.rpartition(".")[2] == word]
    alike = [name for name in paths if difflib.get_close_matches(word, [name.rpartition(".")[2]], 1, 0.75)]
    near = difflib.get_close_matches(path, same, 3, 0.0) or difflib.get_close_matches(path, paths, 3) or alike
    return [f"--{name}" for name in near[:3]]
