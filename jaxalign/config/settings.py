"""Settings: what a value may be by the annotation of its field, and values as text that people write and read.

Settings are made of bool, int, float, str, None, paths, enums, `Literal`, and tuples, lists, sets or mappings of
them; anything else is a component. Only literals are read (`ast.literal_eval`): no text is ever executed.
"""

import ast
import collections.abc
import contextlib
import dataclasses
import enum
import math
import re
import types
import typing
import warnings
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

_INFINITE = "infinity is a setting"

Unbounded = Annotated[float, _INFINITE]
"""Annotation of a float field that may be infinite (no clipping, no limit). NaN is never a setting."""

_CONTAINERS: dict[Any, type] = {
    tuple: tuple,
    list: list,
    set: set,
    frozenset: frozenset,
    dict: dict,
    collections.abc.Sequence: tuple,
    collections.abc.Collection: tuple,
    collections.abc.Iterable: tuple,
    collections.abc.Mapping: dict,
}
"""Container annotations, and what an override of one is made into."""

_QUOTED = re.compile(r"""(['"])(?:(?!\1)[^\\]|\\.)*\1""", re.DOTALL)
_INTEGER = re.compile(r"[+-]?[0-9]+(_[0-9]+)*")


def is_component(value: Any) -> bool:
    """Whether `value` is an instance of a dataclass, that is, has settings of its own."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


# --------------------------------------------------------------------------------------------------------------
# Annotations


def _unbounded(kind: Any) -> bool:
    return get_origin(kind) is Annotated and any(mark is _INFINITE for mark in kind.__metadata__)


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, aliases and wrappers removed; a single member where it is no union."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return (annotation,) if _unbounded(annotation) else alternatives(annotation.__origin__)
    if origin in (Union, types.UnionType):
        return tuple(kind for member in get_args(annotation) for kind in alternatives(member))
    if annotation is None:
        return (types.NoneType,)
    return (Any,) if annotation is object or isinstance(annotation, TypeVar) else (annotation,)


def _container(kind: Any) -> Any:
    """`tuple` for `tuple[int, ...]` and so on; None for what holds no items."""
    origin = get_origin(kind) or kind
    return origin if isinstance(origin, type) and origin in _CONTAINERS else None


def element(annotation: Any, index: int) -> Any:
    """Annotation of item `index` of the container that `annotation` allows (of the values, for a mapping)."""
    for kind in filter(_container, alternatives(annotation)):
        args = get_args(kind)
        if _container(kind) is tuple and args[1:] != (...,):
            return args[index] if index < len(args) else Any
        return args[1 if issubclass(_container(kind), Mapping) else 0] if args else Any
    return Any


def _is_protocol(kind: Any) -> bool:
    return isinstance(kind, type) and typing.Protocol in kind.__bases__


def _lacks(value: Any, protocol: Any) -> list[str]:
    """Members that the protocol asks for and `value` has not."""
    declared = filter(_is_protocol, protocol.__mro__)
    names = {name for cls in declared for name in (*vars(cls), *vars(cls).get("__annotations__", {}))}
    asked = {name for name in names if name == "__call__" or not name.startswith("_")}
    return sorted(name for name in asked if not hasattr(value, name))


def name_of(annotation: Any) -> str:
    """The annotation in a reader's words: "float", "int or none", "one of none, full", "tuple[float, ...]"."""
    return " or ".join(dict.fromkeys(_name(kind) for kind in alternatives(annotation)))


def _name(kind: Any) -> str:
    for known, name in ((Any, "any value"), (..., "..."), (types.NoneType, "none"), (bool, "true or false")):
        if kind is known:
            return name
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "one of " + ", ".join(kind.__members__)
    if _unbounded(kind):
        return "float or inf"
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return "path"
    if args := get_args(kind):
        origin: Any = get_origin(kind)
        names = [f"[{', '.join(map(name_of, arg))}]" if isinstance(arg, list) else name_of(arg) for arg in args]
        return f"{origin.__name__}[{', '.join(names)}]"
    return kind.__name__ if isinstance(kind, type) else str(kind).removeprefix("typing.")


def expected(annotation: Any) -> str:
    """`name_of` with articles: "a float", "an int or none"."""
    return " or ".join(dict.fromkeys(_with_article(_name(kind)) for kind in alternatives(annotation)))


def _with_article(name: str) -> str:
    if name in ("any value", "none", "true or false") or name.startswith("one of "):
        return name
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


# --------------------------------------------------------------------------------------------------------------
# Checking values


def mismatch(value: Any, annotation: Any) -> str | None:
    """None when `value` is what `annotation` allows, else "expected a float, got 'abc'".

    An int is a float; a bool is neither; floats are finite unless annotated `Unbounded`. A component fits a
    protocol whose members it has.
    """
    if _fits(value, annotation):
        return None
    wanted = expected(annotation)
    if isinstance(value, float) and not math.isfinite(value):
        wanted = wanted.replace("a float", "a finite float")
    kinds = alternatives(annotation)
    if is_component(value) and len(kinds) == 1 and _is_protocol(kinds[0]):
        return f"expected {wanted}, got {show(value)}, which lacks {', '.join(_lacks(value, kinds[0]))}"
    return f"expected {wanted}, got {short(show(value))}"


def holds(value: Any, annotation: Any) -> bool:
    """Whether `annotation` allows a container of this kind and length, whatever its items."""
    for kind in alternatives(annotation):
        origin, args = _container(kind), get_args(kind)
        fixed = origin is tuple and args and args[-1] is not ...
        if kind is Any or (origin and isinstance(value, origin) and not (fixed and len(args) != len(value))):
            return True
    return False


def _fits(value: Any, annotation: Any) -> bool:
    return any(_fits_kind(value, kind) for kind in alternatives(annotation))


def _fits_kind(value: Any, kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if kind is float or _unbounded(kind):
        return _is_number(value) and (math.isfinite(value) or (_unbounded(kind) and not math.isnan(value)))
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin is type:
        return isinstance(value, type) and (args[0] is Any or issubclass(value, args[0]))
    if origin is collections.abc.Callable or kind is collections.abc.Callable:
        return callable(value)
    if _container(kind):
        if isinstance(value, str | bytes) or not holds(value, kind):
            return False
        if isinstance(value, Mapping) and args and not all(_fits(key, args[0]) for key in value):
            return False
        items = value.values() if isinstance(value, Mapping) else value
        return all(_fits(item, element(kind, index)) for index, item in enumerate(items))
    if _is_protocol(origin or kind):
        return is_component(value) and not _lacks(value, origin or kind)
    return isinstance(origin or kind, type) and isinstance(value, origin or kind)


def _is_number(value: Any) -> bool:
    """A float, or an int that is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


# --------------------------------------------------------------------------------------------------------------
# Text ↔ value


def show(value: Any) -> str:
    """Text that `parse` reads back as `value`; the class name of a component, `repr` of what has no text."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, PurePath):
        text = str(value)
        return repr(text) if text.lower() == "none" or _QUOTED.fullmatch(text) else text
    if isinstance(value, enum.Enum):
        return value.name
    if is_component(value):
        return f"{type(value).__name__}(…)"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return _literal(value)


def _literal(value: Any) -> str:
    """Python literal of `value`; infinity is written 1e999, which is one."""
    if isinstance(value, float) and not isinstance(value, enum.Enum):
        return float.__repr__(value).replace("inf", "1e999")
    if isinstance(value, PurePath):
        return repr(str(value))
    if isinstance(value, enum.Enum):
        return repr(value.name)
    if isinstance(value, str):
        text = str.__repr__(value)
        return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text and "\\" not in text else text
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_literal(key)}: {_literal(item)}' for key, item in value.items())}}}"
    if isinstance(value, tuple | list):
        text = ", ".join(map(_literal, value))
        return f"[{text}]" if isinstance(value, list) else f"({text},)" if len(value) == 1 else f"({text})"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_literal, value)))}}}" if value else "set()"
    return f"{type(value).__name__}(…)" if is_component(value) else repr(value)


def short(text: str, width: int = 60) -> str:
    """The text on one line, cut to `width` characters with an ellipsis."""
    text = text.replace("\n", " ")
    return text if len(text) <= width else f"{text[: width - 1]}…"


def parse(text: str, annotation: Any) -> Any:
    """The value `text` stands for under `annotation`.

    none, true/false, ints, floats (1e-5), enum and `Literal` names as they are; strings and paths as they are or
    as quoted Python literals; tuples as 1,2,3 or as a Python literal; other containers as a Python literal. Of a
    union the narrowest member that fits. Raises ValueError 'expected a float, got "abc"'.
    """
    kinds = sorted(alternatives(annotation), key=_narrowness)
    if str in kinds and _QUOTED.fullmatch(text):
        return _unquoted(text)
    for kind in kinds:
        with contextlib.suppress(ValueError):
            value = _parse_kind(text, kind)
            if _fits_kind(value, kind):
                return value
    wanted = expected(annotation)
    with contextlib.suppress(ValueError):
        wanted = wanted if math.isfinite(float(text)) else wanted.replace("a float", "a finite float")
    raise ValueError(f'expected {wanted}, got "{short(text)}"')


def _narrowness(kind: Any) -> int:
    order = (types.NoneType, bool, int, float)
    later = {PurePath: 7, Any: 8, str: 9}
    for rank, known in enumerate(order):
        if kind is known:
            return rank
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return later[PurePath]
    return next((rank for known, rank in later.items() if kind is known), len(order))


def _parse_kind(text: str, kind: Any) -> Any:
    if kind in (types.NoneType, Any) and text in ("none", "None"):
        return None
    if kind in (bool, Any) and text in ("true", "True", "false", "False"):
        return text in ("true", "True")
    if kind is int and _INTEGER.fullmatch(text):
        return int(text)
    if kind is float or _unbounded(kind):
        return float(text)
    if kind is Any:
        with contextlib.suppress(ValueError):
            return _evaluate(text)
        return text
    if container := _container(kind):
        return _parse_container(text, kind, _CONTAINERS[container])
    if kind is str or get_origin(kind) is Literal or isinstance(kind, type):
        return _named(_unquoted(text), kind, text)
    raise ValueError(text)


def _parse_container(text: str, kind: Any, made: Any) -> Any:
    if text[:1] in tuple("([{\"'") or text == "set()":
        with contextlib.suppress(ValueError):
            value = _evaluate(text)
            return _convert(value if isinstance(value, tuple | list | set | dict) else (value,), kind)
    nested = any(map(_container, alternatives(element(kind, 0))))
    if nested or issubclass(made, Mapping) or text[:1] in tuple("([{") or not text:
        raise ValueError(text)
    parts = text.removesuffix(",").split(",")
    return made(parse(part.strip(), element(kind, index)) for index, part in enumerate(parts))


def _convert(value: Any, annotation: Any) -> Any:
    """A literal as `annotation` has it: 1 → 1.0, [1, 2] → (1, 2), "runs" → Path("runs")."""
    for kind in sorted(alternatives(annotation), key=_narrowness):
        with contextlib.suppress(ValueError, OverflowError):
            converted = _convert_kind(value, kind)
            if _fits_kind(converted, kind):
                return converted
    raise ValueError(show(value))


def _convert_kind(value: Any, kind: Any) -> Any:
    container = _container(kind)
    if container and isinstance(value, dict) and issubclass(container, Mapping):
        keys: Any = (get_args(kind) or (Any,))[0]
        return {_convert(key, keys): _convert(item, element(kind, 0)) for key, item in value.items()}
    if container and isinstance(value, tuple | list | set) and not issubclass(container, Mapping):
        made: Any = _CONTAINERS[container]
        return made(_convert(item, element(kind, index)) for index, item in enumerate(value))
    if isinstance(value, str) and isinstance(kind, type) and issubclass(kind, PurePath | enum.Enum):
        return _named(value, kind)
    if (kind is float or _unbounded(kind)) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _evaluate(text: str) -> Any:
    """The Python literal `text`; ValueError where it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unknown escapes
            return ast.literal_eval(text)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(text) from error


def _unquoted(text: str) -> str:
    """A quoted Python string without its quotes; any other text as it is."""
    if _QUOTED.fullmatch(text):
        with contextlib.suppress(ValueError):
            return str(_evaluate(text))
    return text


def _named(word: str, kind: Any, text: str | None = None) -> Any:
    """The string, path, enum member or `Literal` choice that `word` names (`text`: as typed, quotes included)."""
    if get_origin(kind) is Literal:
        for choice in get_args(kind):
            if word == choice or (not isinstance(choice, str) and text in (show(choice), str(choice))):
                return choice
    elif kind is str:
        return word
    elif issubclass(kind, PurePath):
        return kind(word)
    elif issubclass(kind, enum.Enum):
        for member in kind.__members__:
            if word == member:
                return kind[member]
    raise ValueError(word)
