"""Experiments as trees of frozen dataclasses: load a config file, override, check, dump and explain it.

A config file is Python and ends with `experiment = …`; it imports what it uses, so the import is the registry.
Fields that hold dataclasses (alone, or in a tuple, list or mapping) are components, all other fields are settings:
leaves, addressed by dotted path (`optim.learning_rate`, `evals.0.resamples`). Which component a field holds is
read from the instance, what a setting may be from the annotation of its field. A field is described by the string
literal right below it. A component may have a method `problems() -> Iterable[str]`: sentences on what is wrong
with its own settings (the root's may look across the tree).
"""

import ast
import dataclasses
import functools
import importlib.machinery
import importlib.util
import inspect
import itertools
import re
import sys
import textwrap
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxalign.config.overrides import Leaf, read, refuse
from jaxalign.config.ranges import range_problems
from jaxalign.config.resolved import plain, public, type_name
from jaxalign.config.settings import element, expected, holds, is_component, mismatch, name_of, short, show
from jaxalign.errors import ConfigError

T = TypeVar("T")

_WIDTH = 100
_serial = itertools.count()


@runtime_checkable
class Checked(Protocol):
    """A component that knows more about its settings than their types: one sentence for each thing wrong."""

    def problems(self) -> Iterable[str]: ...


# --------------------------------------------------------------------------------------------------------------
# Loading


class _Source(importlib.machinery.SourceFileLoader):
    """Compiles the file as it is now: no bytecode is read or left beside config files."""

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


class _Neighbours:
    """Finds the Python files beside a config, so that one config can fork another: `from tiny_lm import experiment`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: list[str] = []

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        file = neighbour(self.folder, name) if path is None else None
        if file is None:
            return None
        self.found.append(name)
        return importlib.util.spec_from_file_location(name, file, loader=_Source(name, str(file)))


def neighbour(folder: Path, name: str) -> Path | None:
    """The file that a config in `folder` gets by `import name`, if it is one beside it."""
    file = folder / f"{name}.py"
    return file if name not in sys.stdlib_module_names and file.is_file() else None


def load(path: str | Path) -> Any:
    """The `experiment` that the config file defines: an instance of a frozen dataclass.

    The file runs as a module of its own, as do the neighbours it imports: two configs of one name never meet.
    Raises ConfigError, naming file and line, for a file that cannot be read, compiled or run, or defines none.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{file}: {'is a folder, not a config file' if file.is_dir() else 'no such config file'}")
    neighbours = _Neighbours(file.parent)
    name = f"{file.stem}@{next(_serial)}"
    sys.meta_path.insert(0, neighbours)
    try:
        module = _execute(name, file)
    finally:
        sys.meta_path.remove(neighbours)
        _set_apart(neighbours.found)
    return _experiment(module, file)


def _execute(name: str, file: Path) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__file__ = str(file.resolve())
    sys.modules[name] = module  # dataclasses and type hints look their module up
    try:
        exec(_Source(name, str(file)).get_code(name), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(f"{_place(error, file)}: {_cause(error)}") from error
    return module


def _place(error: BaseException, file: Path) -> str:
    """file:line of the innermost frame in the config's folder, or of the syntax error."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        return f"{error.filename}:{error.lineno}"
    folder = file.resolve().parent
    frames = traceback.extract_tb(error.__traceback__)
    files = [(Path(frame.filename), frame.lineno) for frame in frames]
    inside = [f"{path}:{line}" for path, line in files if path.is_file() and path.resolve().parent == folder]
    return inside[-1] if inside else str(file)


def _cause(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    kind = "" if isinstance(error, ConfigError) else type(error).__name__
    return ": ".join(part for part in (kind, text) if part)


def _set_apart(names: Iterable[str]) -> None:
    """Rename the neighbours' modules, so that the next config's neighbours of these names are its own."""
    for name in names:
        module = sys.modules.pop(name, None)
        if module is None:
            continue
        apart = f"{name}@{next(_serial)}"
        sys.modules[apart] = module
        for item in list(vars(module).values()):
            if isinstance(item, type | types.FunctionType) and item.__module__ == name:
                item.__module__ = apart


def _experiment(module: types.ModuleType, file: Path) -> Any:
    if "experiment" not in vars(module):
        others = [name for name, item in vars(module).items() if is_component(item)]
        hint = f"; rename `{others[0]}`?" if len(others) == 1 else ""
        raise ConfigError(f"{file}: defines no `experiment`{hint}")
    experiment = vars(module)["experiment"]
    if not is_component(experiment):
        what = f"the class {experiment.__name__}" if isinstance(experiment, type) else show(experiment)
        raise ConfigError(f"{file}: `experiment` must be an instance of a frozen dataclass, not {what}")
    if not _frozen(experiment):
        raise ConfigError(f"{file}: `experiment` is a {type_name(type(experiment))}, which is no frozen dataclass")
    return experiment


def _frozen(component: Any) -> bool:
    return bool(type(component).__dataclass_params__.frozen)


# --------------------------------------------------------------------------------------------------------------
# The tree


@dataclasses.dataclass(frozen=True)
class _Node:
    """The experiment, a field, or an item: a branch (component, or container of components) or a leaf.

    `owner` is the path of the component whose field it is or lies in; `children` go by field name, index or key.
    """

    path: str
    value: Any
    annotation: Any
    doc: str
    owner: str
    branch: bool
    children: dict[Any, "_Node"]


def _tree(value: Any, annotation: Any = Any, path: str = "", doc: str = "", owner: str = "") -> _Node:
    """The node of `value` with all below it. Fields that a class's `__init__` does not take are no settings."""
    prefix = f"{path}." if path else ""
    children: dict[Any, _Node] = {}
    branch = _is_branch(value)
    if is_component(value):
        cls: Any = type(value)
        hints, docs = _hints(cls), docs_of(cls)[1]
        for name in (field.name for field in dataclasses.fields(value) if field.init):
            children[name] = _tree(getattr(value, name), hints[name], f"{prefix}{name}", docs.get(name, ""), path)
    elif branch:
        for index, (key, item) in enumerate(value.items() if isinstance(value, dict) else enumerate(value)):
            children[key] = _tree(item, element(annotation, index), f"{prefix}{key}", "", owner)
    return _Node(path, value, annotation, doc, owner, branch, children)


def _is_branch(value: Any) -> bool:
    if type(value) in (tuple, list, dict):
        return any(map(_is_branch, value.values() if isinstance(value, dict) else value))
    return is_component(value)


def _walk(node: _Node) -> Iterator[_Node]:
    yield node
    for child in node.children.values():
        yield from _walk(child)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Annotations of the fields, resolved where their class was written."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise ConfigError(f"{cls.__module__}:{cls.__qualname__}: an annotation cannot be resolved: {error}") from error


@functools.cache
def docs_of(cls: type) -> tuple[str, dict[str, str]]:
    """Docstring of the class, and of its fields: the string literal right below each, or below a base's field of
    that name. Empty where there is no source."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return "", {}
    if not isinstance(body, ast.ClassDef):
        return "", {}
    docs = {name: doc for base in reversed(cls.__bases__) for name, doc in docs_of(base)[1].items()}
    for pair in itertools.pairwise(body.body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = " ".join(text.split())
    return ast.get_docstring(body) or "", docs


def flatten(experiment: Any) -> dict[str, Leaf]:
    """Every setting by dotted path, in the order of the fields. Raises ConfigError if two paths are the same."""
    return _leaves(_nodes(experiment))


def _nodes(experiment: Any) -> dict[str, _Node]:
    nodes: dict[str, _Node] = {}
    for node in _walk(_tree(experiment)):
        if nodes.setdefault(node.path, node) is not node:
            raise ConfigError(f"{node.path}: two settings have this path; keys of a mapping must hold no dots")
    return nodes


def _leaves(nodes: Mapping[str, _Node]) -> dict[str, Leaf]:
    return {path: Leaf(node.value, node.annotation, node.doc) for path, node in nodes.items() if not node.branch}


def own_classes(experiment: Any) -> dict[str, type]:
    """The classes of the experiment's components that are not jaxalign's, by the names that dumps give them."""
    classes = {type(component) for component in components(experiment).values()}
    return {name: cls for cls in classes if not (name := type_name(cls)).startswith("jaxalign.")}


def components(experiment: Any) -> dict[str, Any]:
    """Every component by dotted path, the experiment itself first, under "". ConfigError as `flatten`."""
    return {path: node.value for path, node in _nodes(experiment).items() if is_component(node.value)}


def exchanged(experiment: T, change: Callable[[Any], Any]) -> T:
    """The experiment with `change` of every component in its place, inner ones first."""
    return typing.cast(T, _exchanged(_tree(experiment), change))


def _exchanged(node: _Node, change: Callable[[Any], Any]) -> Any:
    value = _with(node, {name: _exchanged(child, change) for name, child in node.children.items()})
    return change(value) if is_component(value) else value


def override(experiment: T, args: Sequence[str]) -> T:
    """The experiment with the settings of `--a.b value …` in place; raises ConfigError with all that is wrong: where
    options cannot be read, with what `validate` says of the others too."""
    nodes = _nodes(experiment)
    components = {path: node.value for path, node in nodes.items() if node.branch and path}
    changes, unread = read(args, _leaves(nodes), components)
    changed = _rebuild(nodes[""], changes, problems := [line for _, line in unread])
    if unread:
        names = {
            path.rpartition(".")[2] for path, _ in unread
        }  # what is said of these is of values that nobody asked for
        problems += [line for line in _problems(changed) if names.isdisjoint(re.findall(r"\w+", line))]
    refuse(problems)
    return typing.cast(T, changed)


def _rebuild(node: _Node, changes: Mapping[str, Any], problems: list[str]) -> Any:
    """The node's value with the changes below it; the same object where there are none."""
    if not node.branch:
        return changes.get(node.path, node.value)
    new = {name: _rebuild(child, changes, problems) for name, child in node.children.items()}
    try:
        return _with(node, new)
    except Exception as error:  # a constructor's own checks
        problems.append(_at(node.path, _cause(error)))
        return node.value


def _with(node: _Node, new: dict[Any, Any]) -> Any:
    """The node's value with `new` children; the same object where they are the same."""
    if all(new[name] is child.value for name, child in node.children.items()):
        return node.value
    if not is_component(node.value):
        return new if isinstance(node.value, dict) else type(node.value)(new.values())
    return dataclasses.replace(node.value, **new)


def _at(path: str, sentence: str) -> str:
    return f"{path}: {sentence}" if path else sentence


# --------------------------------------------------------------------------------------------------------------
# Checking


def validate(experiment: Any) -> None:
    """Raises one ConfigError with a line for everything that is wrong with the experiment.

    That is: settings that their annotation does not allow or that are no data, components that do not fit their field
    or are not frozen, and what the components' `problems` say, asked where all types below are right.
    """
    refuse(_problems(experiment))


def _problems(experiment: Any) -> list[str]:
    nodes = _nodes(experiment).values()
    faults = {node.path: found for node in nodes if (found := list(_faults(node)))}
    wrong = [node for node in nodes if node.path in faults]
    mistyped = [node.path for node in wrong if node.branch or mismatch(node.value, node.annotation)]
    lines: list[str] = []
    for node in nodes:
        lines += [_at(node.path, fault) for fault in faults.get(node.path, ())]
        typed = not any(f"{path}.".startswith(f"{node.path}." if node.path else "") for path in mistyped)
        if typed and is_component(node.value) and isinstance(node.value, Checked):
            lines += [_at(node.path, sentence) for sentence in node.value.problems()]
    return lines


def _faults(node: _Node) -> Iterator[str]:
    """What is wrong with the node itself, leaving its children aside."""
    if node.branch and not is_component(node.value):
        if not holds(node.value, node.annotation):
            yield f"expected {expected(node.annotation)}, got a {type(node.value).__name__} of {len(node.value)}"
        return
    if fault := mismatch(node.value, node.annotation):
        yield fault
    elif not node.branch:
        yield from range_problems(node.path.rpartition(".")[2], node.value)
        try:
            plain("", node.value)
        except ConfigError as error:
            yield str(error)
    elif not _frozen(node.value):
        yield f"{type_name(type(node.value))} is no frozen dataclass"
    elif "type" in node.children:
        yield "no setting can be called `type`: the word names the component in the run's config"


# --------------------------------------------------------------------------------------------------------------
# Help


def help_text(experiment: Any, path: str | Path) -> str:
    """Usage, the config file's docstring, and every setting with type, value and description, by component.

    At most 100 columns wide.
    """
    nodes = _nodes(experiment).values()
    lines = [*_paragraph(f"usage: jaxalign train {path} [--name value | --name=value …] --workdir DIR"), ""]
    lines += _file_doc(Path(path))
    lines += ["Options, with the values of this config (true/false, none, 1e-5, tuples as 1,2,3):"]
    for owner in (node for node in nodes if is_component(node.value)):
        leaves = [node for node in nodes if node.owner == owner.path and node.path and not node.branch]
        cls: Any = type(owner.value)
        lines += ["", *_paragraph(f"{owner.path or 'experiment'} ({type_name(cls)})")]
        lines += _paragraph(docs_of(cls)[0].partition("\n\n")[0], "  ")
        for leaf in leaves:
            option = f"--{leaf.path} {name_of(leaf.annotation)} = {short(public(leaf.path, leaf.value))}"
            lines += textwrap.wrap(option, _WIDTH, initial_indent="  ", subsequent_indent="      ")
            lines += _paragraph(leaf.doc, "      ")
    return "\n".join(lines) + "\n"


def _file_doc(path: Path) -> list[str]:
    """The docstring of the config file and an empty line, as written where it fits; nothing without one."""
    try:
        text = ast.get_docstring(ast.parse(path.read_bytes()))
    except (OSError, SyntaxError, ValueError):
        return []
    lines: list[str] = []
    for flush, block in itertools.groupby((text or "").splitlines(), key=lambda line: line[:1].strip() != ""):
        written = list(block)
        parts = [" ".join(written)] if flush else written  # what is indented stays as it is laid out
        lines += [row for part in parts for row in _paragraph(part, part[: len(part) - len(part.lstrip())]) or [""]]
    return [*lines, ""] if lines else []


def _paragraph(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent=indent, subsequent_indent=indent)
