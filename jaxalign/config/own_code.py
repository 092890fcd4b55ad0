"""What the code of components of one's own says: a run that goes on is to go on with the code that it began with.

A class is told from another version of itself by the statements of its file that it reaches: its own, those of what it
names there, and so on, also in files beside it that it imports. Comments, docstrings, the layout and whatever else the
file defines (`experiment` above all) are no part of it; what is imported from installed packages is not either.
"""

import ast
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxalign.config.load import neighbour

_SAYS_NOTHING = ("ctx", "kind", "type_comment")


def fingerprint(cls: type) -> tuple[str, str]:
    """(file, SHA-256) of a class; empty texts where its code is in no file."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None or not Path(file).is_file():
        return "", ""
    total = hashlib.sha256()
    for said in sorted(_reached(Path(file), cls.__qualname__.partition(".")[0])):
        total.update(said.encode())
    return file, total.hexdigest()


def _reached(file: Path, name: str) -> set[str]:
    """What each of the statements says that decide what `name` is in a file."""
    found, ways, seen = set[str](), [(file, name)], set[tuple[Path, str]]()
    read: dict[Path, list[ast.stmt]] = {}
    while ways:
        at, wanted = ways.pop()
        if (at, wanted) in seen:
            continue
        seen.add((at, wanted))
        if at not in read:
            read[at] = ast.parse(at.read_bytes()).body
        for statement in read[at]:
            for other, its in _bound(statement, at):
                if wanted == its or wanted == "*":
                    found.add(f"{at.name}: {_said(statement)}")
                    ways.extend([other] if other is not None else [(at, each) for each in _named(statement)])
                elif its == "*" and other is not None:  # `from beside import *` may be where it comes from
                    ways.append((other[0], wanted))
    return found


def _bound(statement: ast.stmt, file: Path) -> Iterator[tuple[tuple[Path, str] | None, str]]:
    """(where it comes from, name) of the names that a statement gives: None where it makes them itself."""
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield None, node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield None, node.id
        elif isinstance(node, ast.ImportFrom):
            beside = neighbour(file.parent, node.module) if node.module and node.level < 2 else None
            for alias in node.names:
                yield (beside, alias.name) if beside else None, alias.asname or alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                beside = neighbour(file.parent, alias.name)
                yield (beside, "*") if beside else None, alias.asname or alias.name.partition(".")[0]


def _named(statement: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def _said(node: Any) -> str:
    """A syntax tree as text that is the same in every version of Python, what is only said to people left out."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if name not in _SAYS_NOTHING]
        parts = [f"{name}={_said(value)}" for name, value in fields if value is not None and value != []]
        return f"{type(node).__name__}({', '.join(parts)})"
    if isinstance(node, list):
        return f"[{', '.join(_said(item) for item in node if not _is_docstring(item))}]"
    return repr(node)


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
