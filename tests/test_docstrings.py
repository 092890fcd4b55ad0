"""What a public method does is said where it stands, or in the contract that its class keeps."""

import ast
from collections.abc import Iterator
from pathlib import Path

import jaxalign

ROOT = Path(jaxalign.__file__).parent
TREES = {file.relative_to(ROOT.parent): ast.parse(file.read_text()) for file in sorted(ROOT.rglob("*.py"))}


def classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]


def is_contract(node: ast.ClassDef) -> bool:
    return any("Protocol" in ast.unparse(base) for base in node.bases)


def members(node: ast.ClassDef) -> set[str]:
    """Methods and fields that a class declares itself, `__call__` included, other private ones not."""
    names = {child.name for child in node.body if isinstance(child, ast.FunctionDef)}
    for child in node.body:
        targets = child.targets if isinstance(child, ast.Assign) else ()
        targets = (child.target,) if isinstance(child, ast.AnnAssign) else targets
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_") or name == "__call__"}


CONTRACTS = [members(node) for tree in TREES.values() for node in classes(tree) if is_contract(node)]
"""By their members, whose meaning stands there: a class that has all of them need not repeat it."""

MEMBERS = {node.name: members(node) for tree in TREES.values() for node in classes(tree)}
"""Of every class of the package, by its name: what a subclass has of it is part of the contract that it keeps."""


def promised(node: ast.ClassDef) -> set[str]:
    """Members of the contracts that a class keeps, or of the one that it is."""
    own = members(node)
    if is_contract(node):
        return own
    inherited = set().union(*(MEMBERS.get(base.id, set()) for base in node.bases if isinstance(base, ast.Name)))
    return {name for contract in CONTRACTS if contract <= own | inherited for name in contract}


def undescribed(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of public methods without a docstring that no contract describes."""
    for node in classes(tree):
        known = promised(node)
        for child in node.body:
            public = isinstance(child, ast.FunctionDef) and not child.name.startswith("_") and child.name not in known
            if public and ast.get_docstring(child) is None:
                yield child.lineno, f"{node.name}.{child.name}"


def test_every_public_method_is_described() -> None:
    assert len(CONTRACTS) > 30
    found = [f"{file}:{line}: {name}" for file, tree in TREES.items() for line, name in undescribed(tree)]
    assert found == []


def test_a_method_without_a_contract_is_found() -> None:
    tree = ast.parse("class A:\n    def init(self): ...\n    def step(self): ...\nclass B:\n    def init(self): ...\n")
    assert list(undescribed(tree)) == [(5, "B.init")]
