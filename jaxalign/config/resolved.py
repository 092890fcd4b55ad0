"""The resolved experiment as JSON-able data free of secrets, what differs between two of them, and the way back.

A component is {"type": "module:Class", fields …}; a tuple is a list, an enum its name, a path its text, infinity the
string "inf".
"""

import dataclasses
import enum
import importlib
import itertools
import json
import math
import re
import types
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from jaxalign.config.settings import is_component, short, show
from jaxalign.errors import ConfigError


def dump(experiment: Any) -> dict[str, Any]:
    """The tree as JSON-able data: {"type": "jaxalign.losses.inpo:INPO", fields …} for every component.

    The same experiment gives the same dump in any process. Classes defined in a config file carry its stem as
    their module. Infinity is the string "inf". Secrets are replaced by "[redacted]". Raises ConfigError for a
    setting that is no data.
    """
    made = plain("", experiment)
    assert isinstance(made, dict)
    return made


def dumps(experiment: Any) -> str:
    """`dump` as indented JSON, ASCII, ending in a newline."""
    return json.dumps(dump(experiment), indent=2, allow_nan=False) + "\n"


def plain(name: str, value: Any) -> Any:
    """`value` as JSON-able data, redacted where its field's or key's `name` or its own look betrays a secret."""
    if _secret(name, value):
        return _REDACTED
    if is_component(value):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return {"type": type_name(type(value))} | {name: plain(name, getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        made = {
            str(plain("", key)): plain(name if _secret(name, item) else str(key), item) for key, item in value.items()
        }
        if len(made) < len(value):
            raise ConfigError(f"two keys of {show(value)} are one in JSON")
        return dict(sorted(made.items()))
    if isinstance(value, tuple | list):
        return [plain(name, item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(name, item) for item in value), key=json.dumps)
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, PurePath):
        return _TOKEN.sub(_REDACTED, value.as_posix())
    if isinstance(value, str):
        return _TOKEN.sub(_REDACTED, str(value))
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType) and "<" not in value.__qualname__:
        return type_name(value)
    raise ConfigError(f"{show(value)} cannot be written to the run's config; use a frozen dataclass")


def type_name(item: Any) -> str:
    """module:name; the same in every run for what a config file defines."""
    module = re.sub(r"@\d+$", "", item.__module__)  # the loader's serial number
    return f"{module}:{item.__qualname__}"


_REDACTED = "[redacted]"
_SECRET = re.compile(
    r"(^|_)(secrets?|passwords?|passwd|authorization|credentials?|(api|access|private|signing)_?keys?)(_|$)"
)
_TOKENIZER = re.compile(r"(bos|eos|pad|unk|sep|cls|mask|stop|end|start|special|image|eot)_tokens?")
_POINTER = re.compile(r"_(env|file|path|name)$")
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[opsur]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|xox[a-z]-[\w-]{8,}|AKIA[0-9A-Z]{12,}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*)"
    r"|(?i:(?<=bearer )[\w.~+/=-]{6,})|(?:(?<=://)|(?<=:/))[^/@\s:]*:[^/@\s]+(?=@)"
)
"""Access tokens of the usual services, JSON web tokens, bearer tokens, and user:password in an address."""


def _secret(name: str, value: Any) -> bool:
    """Whether a field or key of this name holds a secret: not special tokens, counts, or where a secret lies."""
    word = re.sub(r"(?<=[a-z])(?=[A-Z])|[\s-]+", "_", name).lower()
    if value is None or isinstance(value, bool) or _POINTER.search(word) or _TOKENIZER.search(word):
        return False
    if _SECRET.search(word):
        return not is_component(value)
    return isinstance(value, str) and bool({"token", "tokens"} & set(word.split("_")))


def redacted(text: str) -> str:
    """The text without what looks like a secret, for people and for files."""
    return _TOKEN.sub(_REDACTED, text)


def public(path: str, value: Any) -> str:
    """The setting at dotted `path` as text for people, secrets redacted."""
    try:
        made = plain(path.rpartition(".")[2], value)
    except ConfigError:
        made = _REDACTED
    return show(made if _REDACTED in json.dumps(made) else value)


def difference(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    ignore: Collection[str] = (),
    *,
    where: tuple[str, str] = ("in the run", "now"),
) -> list[str]:
    """Lines `loss.eta: 0.1 in the run, 0.2 now` for what differs between two dumps, in the order of `new`; `where` is
    what is said of each.

    Dotted paths in `ignore`, and all below them, are left out. Of a component of another type only the types are
    told; their settings have nothing to do with each other. A setting that an older version did not have is the same
    where it is at its default, which is what that version did.
    """
    return list(_differences("", old, new, frozenset(ignore), where))


def _differences(path: str, old: Any, new: Any, ignore: frozenset[str], where: tuple[str, str]) -> Iterator[str]:
    if path in ignore or _same(old, new):
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping) and _same(old.get("type"), new.get("type")):
        pairs = [(key, old.get(key, _ABSENT), new.get(key, _ABSENT)) for key in dict.fromkeys((*new, *old))]
    elif isinstance(old, list) and isinstance(new, list) and any(isinstance(item, Mapping) for item in old + new):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(itertools.zip_longest(old, new, fillvalue=_ABSENT))]
    else:
        yield f"{path or 'experiment'}: {_told(old)} {where[0]}, {_told(new)} {where[1]}"
        return
    for key, one, other in pairs:
        if one is _ABSENT and isinstance(new, Mapping) and "type" in new and _by_default(new["type"], key, other):
            continue
        yield from _differences(f"{path}.{key}" if path else key, one, other, ignore, where)


_ABSENT = object()


def _by_default(component: Any, name: str, value: Any) -> bool:
    """Whether the setting `name` of one of jaxalign's components is at its default."""
    try:
        fields = {field.name: field for field in dataclasses.fields(_component(component, "", {}))}
    except ConfigError:
        return False
    field = fields.get(name)
    if field is None or (field.default is field.default_factory is dataclasses.MISSING):
        return False
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return _same(plain(name, default), value)


def _same(old: Any, new: Any) -> bool:
    """Equality of JSON data in which true is not 1 (but 1 is 1.0)."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return old.keys() == new.keys() and all(_same(old[key], new[key]) for key in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same, old, new))
    return isinstance(old, bool) == isinstance(new, bool) and bool(old == new)


def _told(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = str(value["type"]) if isinstance(value, Mapping) and "type" in value else json.dumps(value)
    return short(text)


# --------------------------------------------------------------------------------------------------------------
# And back


def restore(
    resolved: Mapping[str, Any], where: str = "experiment", own: Mapping[str, type] = types.MappingProxyType({})
) -> Any:
    """The experiment that `dump` wrote, or the part of it at the dotted path `where`.

    A dump names code, and runs none: components are made of jaxalign's classes and of `own`, the classes of a config
    file by the names that `type_name` gives them. Raises ConfigError for a component of another config file, for one
    that no longer exists or has other fields.
    """
    return _restored(resolved, where, own)


def _restored(value: Any, where: str, own: Mapping[str, type]) -> Any:
    if isinstance(value, Mapping) and "type" in value:
        made = _component(value["type"], where, own)
        fields = {name: _restored(item, f"{where}.{name}", own) for name, item in value.items() if name != "type"}
        try:
            return made(**fields)
        except TypeError as error:
            raise ConfigError(f"{where}: {value['type']} has other fields in this version: {error}") from error
    if isinstance(value, Mapping):
        return {name: _restored(item, f"{where}.{name}", own) for name, item in value.items()}
    if isinstance(value, list):
        return tuple(_restored(item, f"{where}[{index}]", own) for index, item in enumerate(value))
    return float(value) if value in ("inf", "-inf") else value


def _component(name: Any, where: str, own: Mapping[str, type]) -> type:
    module, _, qualified = str(name).partition(":")
    if name in own:
        return own[name]
    if not module.startswith("jaxalign."):
        raise ConfigError(
            f"{where}: {name} is defined in a config file, which the run directory does not hold; say which one "
            "(--config FILE)"
        )
    try:
        found = getattr(importlib.import_module(module), qualified)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where}: this version has no {name}") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ConfigError(f"{where}: {name} is no component")
    return found
