"""What every public class, function and method is, stands beside it, or in the contract that it keeps."""

import ast
from collections.abc import Iterator
from pathlib import Path

import jaxalign

ROOT = Path(jaxalign.__file__).parent
TREES = {file.relative_to(ROOT.parent): ast.parse(file.read_text()) for file in sorted(ROOT.rglob("*.py"))}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]


def is_contract(node: ast.ClassDef) -> bool:
    return any("Protocol" in ast.unparse(base) for base in node.bases)


def members(node: ast.ClassDef) -> set[str]:
    """Methods and fields that a class declares itself, `__call__` included, other private ones not."""
    names = {child.name for child in node.body if isinstance(child, Function)}
    for child in node.body:
        targets = (
            child.targets
            if isinstance(child, ast.Assign)
            else [child.target]
            if isinstance(child, ast.AnnAssign)
            else []
        )
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_") or name == "__call__"}


CONTRACTS = [members(node) for tree in TREES.values() for node in classes(tree) if is_contract(node)]
"""By their members; how a class keeps one is said there."""


def promised(node: ast.ClassDef) -> set[str]:
    """Members whose meaning is that of a contract which the class keeps."""
    own = members(node)
    return {name for contract in CONTRACTS if contract <= own for name in contract}


def undescribed() -> Iterator[str]:
    for file, tree in TREES.items():
        described = [(node, node.name) for node in tree.body if isinstance(node, Function | ast.ClassDef)]
        for node in classes(tree):
            exempt = members(node) if is_contract(node) else promised(node)
            described += [
                (child, child.name) for child in node.body if isinstance(child, Function) and child.name not in exempt
            ]
        for node, name in described:
            if not name.startswith("_") and ast.get_docstring(node) is None:
                yield f"{file}:{node.lineno}: {name}"


def test_every_public_name_is_described() -> None:
    assert len(CONTRACTS) > 30
    assert list(undescribed()) == []
