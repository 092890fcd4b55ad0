"""What losses say of themselves: their modules' docstrings, read for the table, for one loss and for the page."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import jaxalign.losses
from jaxalign.config.load import docs_of
from jaxalign.config.starters import first_sentence
from jaxalign.contracts.extras import extras_of
from jaxalign.contracts.scores import ScoreLoss
from jaxalign.types import Loss

CAPITALS = re.compile(r"\b[\w-]*[A-Z]{2,}[\w-]*")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One loss, by its example: what it reads is that of the example, where it depends on the loss's parts."""

    example: Any

    @property
    def name(self) -> str:
        """That of its class, as configs import it."""
        return type(self.example).__name__

    @property
    def doc(self) -> str:
        """The module's docstring."""
        return inspect.getdoc(inspect.getmodule(type(self.example))) or ""

    @property
    def title(self) -> str:
        """The first sentence."""
        return first_sentence(self.doc.partition("\n\n")[0])

    @property
    def also(self) -> frozenset[str]:
        """Names that the field has for it: the capitals of the first paragraph, in small letters."""
        return frozenset(word.lower() for word in CAPITALS.findall(self.doc.partition("\n\n")[0]))

    @property
    def words(self) -> frozenset[str]:
        """All words of the docstring, in small letters."""
        return frozenset(re.findall(r"[\w-]+", self.doc.lower()))

    @property
    def line(self) -> str:
        """The first line of the formula, of its own where a module has several losses."""
        lines = [each.strip() for each in self.formula.splitlines() if each.strip()]
        own = (each.removeprefix(self.name).strip() for each in lines if each.split()[0] == self.name)
        return next(own, lines[0])

    @property
    def papers(self) -> tuple[str, ...]:
        """arXiv numbers, in their order."""
        return tuple(dict.fromkeys(re.findall(r"\b\d{4}\.\d{5}\b", self.doc)))

    @property
    def formula(self) -> str:
        """The indented lines: all of a module's, of several losses too."""
        blocks = [block for block in self.doc.split("\n\n") if block.startswith("    ")]
        return inspect.cleandoc("\n".join(blocks))

    @property
    def reads(self) -> tuple[str, ...]:
        """The references whose sums it reads, then whatever else it declares (`contracts.extras`)."""
        return (*self.example.needs, *extras_of(self.example))

    @property
    def of_scores(self) -> bool:
        """Whether it trains score models and no language models."""
        return isinstance(self.example, ScoreLoss)

    def settings(self) -> Iterator[tuple[str, str, str]]:
        """(name, default or "", what it is) of each field."""
        cls: type = type(self.example)
        said = docs_of(cls)[1]
        for field in dataclasses.fields(self.example):
            default = "" if field.default is dataclasses.MISSING else repr(field.default)
            yield field.name, default, said.get(field.name, "")


def entries() -> list[Entry]:
    """Every loss, by name."""
    found: dict[str, Entry] = {}
    for module in pkgutil.iter_modules(jaxalign.losses.__path__, "jaxalign.losses."):
        if module.ispkg:
            continue
        loaded = vars(importlib.import_module(module.name))
        given = loaded.get("EXAMPLES", (loaded["EXAMPLE"],) if "EXAMPLE" in loaded else ())
        found |= {type(each).__name__: Entry(each) for each in given if isinstance(each, Loss | ScoreLoss)}
    return [found[name] for name in sorted(found, key=str.lower)]
