"""The examples that component files name, found folder by folder: what contract tests run on."""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any


def examples(where: ModuleType, contract: type, least: int) -> dict[str, Any]:
    """The examples of components that keep `contract`, by class, from the modules of a folder, or from one module.

    A module names one as `EXAMPLE` or several as `EXAMPLES`. At least `least` must be found, and every class that keeps
    the contract must have one, unless it reads files (its `path`) or asks a `server`: those are tested with theirs.
    """
    found: dict[str, Any] = {}
    for module in modules(where):
        given = getattr(module, "EXAMPLES", (module.EXAMPLE,) if hasattr(module, "EXAMPLE") else ())
        kept = [example for example in given if keeps(type(example), contract)]
        for cls in (cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__):
            if keeps(cls, contract) and not names_of(cls) & {"path", "server"}:
                assert any(type(example) is cls for example in kept), f"{module.__name__}: no EXAMPLE of {cls.__name__}"
        found |= {type(example).__name__: example for example in kept}
    print(f"{contract.__name__}: {', '.join(found)}")
    assert len(found) >= least, f"{contract.__name__}: only {list(found)}"
    return found


def modules(where: ModuleType) -> Iterator[ModuleType]:
    if not hasattr(where, "__path__"):
        yield where
        return
    for module in pkgutil.iter_modules(where.__path__, f"{where.__name__}."):
        yield importlib.import_module(module.name)


def keeps(cls: type, contract: type) -> bool:
    """Whether a component of this class has all that the contract asks for, with parameters of the same names."""
    asked = [name for name in names_of(contract) if name == "__call__" or not name.startswith("_")]
    return dataclasses.is_dataclass(cls) and all(alike(cls, contract, name) for name in asked)


def alike(cls: type, contract: type, name: str) -> bool:
    if name not in names_of(cls):
        return False
    asked, own = getattr(contract, name, None), getattr(cls, name, None)
    return not inspect.isfunction(asked) or (
        inspect.isfunction(own) and list(inspect.signature(asked).parameters) == list(inspect.signature(own).parameters)
    )


def names_of(cls: type) -> set[str]:
    """Methods, properties and fields of a class, those of what it derives from included."""
    return {name for base in cls.__mro__[:-1] for name in (*vars(base), *vars(base).get("__annotations__", {}))}


def named(example: Any) -> str:
    """How parametrised tests call an example."""
    return type(example).__name__
